"""Run inside a network namespace of its own, where public addresses are on this machine; prints what it saw as JSON.

`python outside.py FOLDER`. See test_outside.
"""

import contextlib
import json
import re
import smtplib
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.live import PATIENCE, Gateway, until
from tests.mosquitto import Listener, Mosquitto

ADDRESSES = ("198.51.100.1/32", "192.168.77.1/24", "2001:db8::1/128", "fd00::1/64", "169.254.7.7/16")
CONFIG = """
integrations:
  lan: {type: smtp_server, listen: ["0.0.0.0:2525", "[::]:2525", "127.0.0.1:24"]}
  both: {type: smtp_server, listen: ["[::]:2526"]}
  strict: {type: smtp_server, listen: ["192.168.77.1:2527"], users: {cam: sesame}, bans: {after: 2}, tls: none}
  broker: {type: mqtt, url: "mqtt://127.0.0.1:%d"}
routes: [{to: [], stop: true}]
duplicates: 0
"""
MAIL_PORTS = (25, 465, 587)
# What an open relay would send on. RFC 5321 §3.3, §3.6.1, appendix C (source routes), and the older ways around.
RECIPIENTS = (
    "victim@outside.example",
    "victim%outside.example@gw",
    "victim%outside.example",
    "outside.example!victim",
    "outside.example!victim@gw",
    "@gw,@hop.example:victim@outside.example",
    "@gw:victim@outside.example",
    '"victim@outside.example"',
    '"victim@outside.example"@gw',
    '"victim%outside.example"@gw',
    "victim@outside.example@gw",
    "victim@[198.51.100.1]",
    "victim@[IPv6:2001:db8::1]",
    "victim@outside.example.",
    "victim@198.51.100.1",
    "smtp:victim@outside.example",
    "postmaster",
)


RIGHTS = "-all,+net_bind_service"


class Activated(Gateway):
    """Port 2526 is opened as `ListenStream=2526` does it: one socket for IPv4 and IPv6. Port 24 it opens itself, with
    the one right that the service has beyond a common user's.
    """

    def command(self, *args):
        words = super().command(*args)
        if args[0] != "run":
            return words
        rights = ["setpriv", "--no-new-privs", f"--inh-caps={RIGHTS}", f"--bounding-set={RIGHTS}"]
        return [*rights, "systemd-socket-activate", "--listen=2526", *words]

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("run"), stdout=subprocess.PIPE, stderr=log, env=self.environment()
            )
        while True:  # it is started by the first connection
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", 2526)).close()
                break
        self.greeting = self._read_greeting()
        return self


def first_words(source, target, port):
    """What a peer hears, and whether it is hung up on."""
    with socket.create_connection((target, port), PATIENCE, (source, 0)) as peer:
        heard = peer.recv(512).decode().strip()
        if heard.startswith("220"):
            return heard[:3], False
        return heard, peer.recv(512) == b""


def relay(address):
    """Whether a mail for it is taken."""
    with smtplib.SMTP("127.0.0.1", 2525, timeout=PATIENCE) as client:
        client.ehlo("a")
        client.mail("device@lan")
        code, _ = client.docmd(f"RCPT TO:<{address}>")
        if code == 250:
            client.data(f"Subject: {len(address)}\r\n\r\n{address}\r\n".encode())
        return code


def guess():
    """Two wrong logins of a device in the house: smtplib tries PLAIN, and then LOGIN."""
    source = ("192.168.77.1", 0)
    with (
        contextlib.suppress(smtplib.SMTPAuthenticationError),
        smtplib.SMTP("192.168.77.1", 2527, timeout=PATIENCE, source_address=source) as client,
    ):
        client.login("cam", "wrong")


def ban(gateway, listener):
    """What is seen of a ban where, and after it was lifted."""

    def told(wanted):
        def look():
            for topic, payload, _ in reversed(list(listener.messages)):
                if topic == "mailwire/bridge/health":
                    found = json.loads(payload)["integrations"]["strict"]["bans"]
                    return (found or [None]) if bool(found) == wanted else None
            return None

        return until(look, "health")

    def doctor():
        return [one["text"] for one in gateway.json("doctor") if one["check"] == "ban"]

    guess()
    seen = {
        "refused": first_words("192.168.77.1", "192.168.77.1", 2527),
        "elsewhere": first_words("192.168.77.1", "192.168.77.1", 2525),
        "listed": gateway.json("bans"),
        "health": told(True),
        "doctor": doctor(),
    }
    seen["lifted"] = gateway.cli("bans", "lift", "192.168.77.1").stdout.decode()
    gateway.logged("192.168.77.1 is let in again")
    seen |= {"let_in": first_words("192.168.77.1", "192.168.77.1", 2527), "listed_then": gateway.json("bans")}
    seen |= {"health_then": told(False), "doctor_then": doctor()}
    return seen


def connections():
    """(own port, other port) of all TCP connections in this namespace but loopback's own, also those just closed."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, here, there, state, *_ = line.split()
            inside = here.startswith("0100007F:") and there.startswith("0100007F:")  # paho wakes itself up so
            if state != "0A" and not inside:  # listening
                found.add((int(here[-4:], 16), int(there[-4:], 16)))
    return sorted(found)


def main(folder):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in ADDRESSES:
        subprocess.run(["ip", "address", "add", address, "dev", "lo", "nodad"], check=True)
    with contextlib.ExitStack() as stack:
        exchangers = [stack.enter_context(socket.create_server(("", port))) for port in MAIL_PORTS]
        broker = Mosquitto(folder / "broker").start()
        stack.callback(broker.stop)
        gateway = stack.enter_context(Activated(folder, CONFIG % broker.port))
        listener = stack.enter_context(Listener(broker.port, "mailwire/bridge/health"))
        peers = {}
        for source, target in (
            ("127.0.0.1", "127.0.0.1"),
            ("192.168.77.1", "192.168.77.1"),
            ("169.254.7.7", "192.168.77.1"),
            ("198.51.100.1", "192.168.77.1"),
            ("::1", "::1"),
            ("fd00::1", "fd00::1"),
            ("2001:db8::1", "fd00::1"),
        ):
            for port in (2525, 2526):
                peers[f"{source} {port}"] = first_words(source, target, port)
        peers["127.0.0.1 24"] = first_words("127.0.0.1", "127.0.0.1", 24)
        rights = re.findall(r"Cap(?:Prm|Eff|Bnd):\s+(\w+)", Path(f"/proc/{gateway.pid}/status").read_text())
        codes = {address: relay(address) for address in RECIPIENTS}
        events = gateway.settled(sum(code == 250 for code in codes.values()))
        owed = gateway.json("queue")
        banned = ban(gateway, listener)
        gateway.process.terminate()  # what it wanted to send it would send now
        gateway.process.wait(PATIENCE)
        visited = []
        for exchanger in exchangers:
            exchanger.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                exchanger.accept()
                visited.append(exchanger.getsockname()[1])
        seen = {
            "peers": peers,
            "codes": codes,
            "to": [event["mail"]["to"] for event in events],
            "owed": owed,
            "rights": rights,
            "ban": banned,
            "visited": visited,
            "connections": connections(),
            "log": gateway.log.read_text(),
        }
        json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
