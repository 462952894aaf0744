"""The address of a server in one line, taken apart: `mqtts://user:password@[fd00::20]:8883`."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MQTT = {"mqtt": 1883, "mqtts": 8883}
POST = {"smtp": 587, "smtps": 465}


def split(address: str, ports: "dict[str, int]") -> "tuple[str, str, int, str, str]":
    """(scheme, host, port, user, password). `ports`: scheme -> its usual port.

    Raises ValueError(message, hint), both without a dot at the end.
    """
    if "://" not in address:
        raise ValueError(f"write it with its scheme: {min(ports)}://" + address.rsplit("@", 1)[-1], "")
    scheme, rest = address.split("://", 1)
    if scheme not in ports:
        known = " or ".join([one + "://" for one in sorted(ports)])
        raise ValueError(f"{scheme}:// is not spoken here", "Write " + known)
    if rest.endswith("/"):
        rest = rest[:-1]
    user = password = tail = ""
    if "@" in rest:
        user, rest = rest.rsplit("@", 1)
        user, _, password = user.partition(":")
    if rest.startswith("["):
        host, _, tail = rest[1:].partition("]")
        if tail.startswith(":"):
            tail = tail[1:]
    else:
        host, _, tail = rest.partition(":")
    try:
        port = int(tail) if tail else ports[scheme]
    except ValueError:
        port = 0
    if not host or "/" in host or " " in host or not 0 < port < 65536:
        raise ValueError("there is no host or no port in it", f"It looks like {scheme}://192.168.1.2:{ports[scheme]}")
    return scheme, host, port, _unquoted(user), _unquoted(password)


def broker(own: "dict[str, Any]") -> "tuple[str, str, int, str, str]":
    """As `split`, of the settings of MQTT: a user in the URL, or beside it."""
    scheme, host, port, user, password = split(own["url"], MQTT)
    return scheme, host, port, user or own["user"], password or own["password"]


def _unquoted(given: str) -> str:
    """With each %41 as the letter that it stands for."""
    parts = given.split("%")
    out = parts[0].encode()
    for part in parts[1:]:
        try:
            out += bytes((int(part[:2], 16),)) + part[2:].encode()
        except ValueError:
            out += b"%" + part.encode()
    try:
        return out.decode()
    except UnicodeError:
        return given
