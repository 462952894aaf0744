"""MQTT topics, in one place (the table in the README): who builds a topic by hand elsewhere builds it wrong.

A device id is `event.slug` of something, so no mail can ever choose a `/ + # $` or a control character.
MicroPython-safe.
"""

from gateway.wire.event import slug

# No device may have these ids: two are topic levels of the gateway's own, one stands for all that is not learned.
RESERVED_IDS = ("bridge", "notify", "unknown")


class Topics:
    """The topics below one base (default `mailwire`)."""

    def __init__(self, base: str = "mailwire", discovery: str = "homeassistant") -> None:
        self.base = base
        self.discovery = discovery
        self.node = slug(base)  # our id in Home Assistant; two gateways at one broker have two base topics
        self.notify = base + "/notify"
        self.status = discovery + "/status"

    # The gateway's own: functions, for a board leaves out those that it does not call (gateway/flash/application.py).

    @property
    def bridge_state(self) -> str:
        return self.base + "/bridge/state"

    @property
    def bridge_info(self) -> str:
        return self.base + "/bridge/info"

    @property
    def bridge_devices(self) -> str:
        return self.base + "/bridge/devices"

    @property
    def bridge_health(self) -> str:
        return self.base + "/bridge/health"

    @property
    def request_filter(self) -> str:
        return self.base + "/bridge/request/+"

    @property
    def command_filter(self) -> str:
        return self.base + "/+/+/set"

    def request_verb(self, topic: str) -> "str | None":
        """The verb of `<base>/bridge/request/<verb>`, or None for any other topic."""
        start = self.base + "/bridge/request/"
        return topic[len(start) :] if topic.startswith(start) else None

    def request(self, verb: str) -> str:
        return self.base + "/bridge/request/" + verb

    def response(self, verb: str) -> str:
        return self.base + "/bridge/response/" + verb

    def event(self, device: str) -> str:
        return self.base + "/" + device + "/event"

    def state(self, device: str) -> str:
        return self.base + "/" + device + "/state"

    def image(self, device: str) -> str:
        return self.base + "/" + device + "/image"

    def command(self, device: str, control: str) -> str:
        """What a control of a device, a button or a switch, is told."""
        return self.base + "/" + device + "/" + control + "/set"

    def commanded(self, topic: str) -> "tuple[str, str] | None":
        """(device, control) of such a topic, or None for any other."""
        levels = topic[len(self.base) + 1 :].split("/")
        if topic.startswith(self.base + "/") and len(levels) == 3 and levels[2] == "set":
            return levels[0], levels[1]
        return None

    def availability(self, device: str) -> str:
        """`online` or `offline`, of a device that reports on a schedule."""
        return self.base + "/" + device + "/availability"

    def update(self, board: str, part: str = "") -> str:
        """Of an update over the air: the offer, or its `request`, `data` or `state` (gateway/wire/update.py)."""
        return self.base + "/" + board + "/update" + ("/" + part if part else "")

    def config(self, device: str) -> str:
        """Home Assistant's device-based discovery topic; `bridge` names the gateway itself."""
        return self.discovery + "/device/" + self.node + "_" + device + "/config"
