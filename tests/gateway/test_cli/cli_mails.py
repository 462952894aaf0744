"""Three mails, each with its envelope, and two targets in trouble, for the tests of the command line."""

import itertools

from gateway.api import Envelope, NotReady, Refused, Target
from gateway.cli.send import picture


class Refusing(Target):
    async def deliver(self, event):
        raise Refused("no such siren")


class Away(Target):
    async def deliver(self, event):
        raise NotReady("the broker is away")


MOTION = (
    Envelope("lan-mail", "192.168.1.20", "cam-20", "cam@lan", ["motion@gw"], {"tls": "TLSv1.3", "user": "cam"}),
    b"From: Front door <cam@lan>\r\nTo: motion@gw\r\nSubject: Motion detected\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\n\r\nA1 saw something.\r\n--x\r\n'
    b'Content-Type: image/png; name="ch01.png"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n'
    + picture()
    + b"\r\n--x--\r\n",
)
NASTY = (
    Envelope("lan-mail", "192.168.1.21", "\x1b]0;owned\x07nas9\u202e", "nas@lan", ["a@gw", "b@gw"]),
    b"From: nas@lan\r\nSubject: =?utf-8?B?" + b"ChtbMkpib29tCmZha2UgbGluZQ==" + b"?=\r\n\r\nDisk 2 failed\r\n",
)
CHINESE = (
    Envelope("lan-mail", "192.168.1.22", "dvr-22x", "dvr7@lan", ["motion@gw"]),
    "From: dvr7@lan\r\nSubject: 移动侦测报警\r\nContent-Type: text/plain; charset=gb2312\r\n\r\n报警通道 2\r\n".encode(
        "gb18030"
    ),
)


_NUMBERS = itertools.count()


def again(mail):
    """The same once more, but with other bytes: equal ones are a repetition, which makes no second event."""
    return mail[0], b"X-Number: %d\r\n" % next(_NUMBERS) + mail[1]
