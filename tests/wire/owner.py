"""The smallest owner of an SMTP session: it keeps mails in memory and knows one user.

It runs on CPython and on MicroPython, so that both play the same dialogs and must come to the same end.
"""

from binascii import crc32

from gateway.wire import smtp

USERS = {"cam": "secret"}


class Owner:
    """A session and its answers.

    `log` is all that happened but the bytes: events, and for each mail its envelope, size and CRC-32. Contents are
    kept only if `keep`, for a board has no room for them.
    """

    def __init__(self, keep, **options):
        self.session = smtp.Session("gw.example", **options)
        self.keep = keep
        self.log = []
        self.contents = []
        self.ended = ""  # the reason of CLOSE
        self._content = []
        self._size = self._crc = 0

    def feed(self, data):
        """Give bytes to the session; return its replies."""
        if not self.ended:
            self._handle(self.session.receive(data))
        output = self.session.output()
        while self.session.more:
            self._handle(self.session.go_on())
            output += self.session.output()
        return output

    def _handle(self, events):
        session = self.session
        for event in events:
            kind = event[0]
            if kind == smtp.BODY:
                self._size += len(event[1])
                self._crc = crc32(event[1], self._crc)
                if self.keep:
                    self._content.append(event[1])
                continue
            self.log.append(list(event))
            if kind in (smtp.BEGIN, smtp.ABORT):
                self._content, self._size, self._crc = [], 0, 0
            elif kind == smtp.MAIL:
                envelope = (session.helo, session.user, session.mail_from, session.recipients)
                self.log.append(["mail", envelope, self._size, self._crc])
                self.contents.append(b"".join(self._content))
                self._handle(session.mail_done("mail-" + str(len(self.contents))))
            elif kind == smtp.AUTH:
                self._handle(session.auth_done(USERS.get(event[2]) == event[3]))
            elif kind == smtp.CLOSE:
                self.ended = event[1]
