"""A stand-in for MicroPython's `network`, which the unix port lacks: no radio, no cable, and it says so.

Statuses are numbered as on ESP32. `AIR` is what is on the air: name -> password. What was asked for is in `calls`.
"""

STA_IF = 0
STAT_IDLE, STAT_CONNECTING, STAT_GOT_IP = 1000, 1001, 1010
STAT_NO_AP_FOUND, STAT_WRONG_PASSWORD, STAT_BEACON_TIMEOUT = 201, 202, 200
PHY_LAN8720 = 1

AIR = {"home": "right", "lobby": ""}
DHCP = ["10.0.2.15", "255.255.255.0", "0.0.0.0", "0.0.0.0"]
calls = []


def hostname(name):
    calls.append(("hostname", name))


def country(code):
    calls.append(("country", code))


class _Interface:
    up = False
    lease = None

    def active(self, on=None):
        calls.append((type(self).__name__, "active", on))

    def isconnected(self):
        return self.up

    def ifconfig(self):
        return tuple(self.lease or ["0.0.0.0"] * 4)


class WLAN(_Interface):
    PM_NONE = 0
    one = None

    def __new__(cls, _=STA_IF):
        if cls.one is None:
            cls.one = object.__new__(cls)
            cls.one.code = STAT_IDLE
        return cls.one

    def __init__(self, _=STA_IF):
        pass

    def config(self, **what):
        calls.append(("config", what))

    def disconnect(self):
        self.up = False

    def connect(self, ssid, *key):
        calls.append(("connect", ssid) + key)  # noqa: RUF005  # no `*key` in MicroPython
        password = key[0] if key else ""
        if ssid not in AIR:
            self.code = STAT_NO_AP_FOUND
        elif AIR[ssid] != password:
            self.code = STAT_WRONG_PASSWORD
        else:
            self.code, self.up, self.lease = STAT_GOT_IP, True, DHCP

    def status(self, what=None):
        return -61 if what == "rssi" else self.code

    def scan(self):
        return [(name.encode(), b"", 1, -60, 3, False) for name in AIR]


class LAN(_Interface):
    def __init__(self, **arguments):
        calls.append(("LAN", arguments))
        self.up, self.lease = True, ["192.168.1.9", "255.255.255.0", "192.168.1.1", "192.168.1.1"]
