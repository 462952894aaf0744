"""Two links and a bad line between them, on a clock that only the test moves."""

from gateway.wire import link
from gateway.wire.link import ACKED, MESSAGE, REFUSED, Link

DELAY = 20  # milliseconds that a line takes


class Side:
    """A link and its application, which is given what `wanted` holds, one after the other, and `got` in the end."""

    def __init__(self, chance, boot, wanted, now=0, **options):
        self.chance = chance
        self.link = Link(boot, {"firmware": "test"}, now, **options)
        self.wanted = list(wanted)
        self.got = []
        self.kept = []
        self.refused = []
        self.events = []

    def work(self, now):
        """Send what there is room for, answer what was handed over: perhaps later, perhaps that it is busy."""
        while self.wanted and self.link.room:
            kind, body = self.wanted.pop(0)
            self.link.send(kind, body)
        waiting, self.events = self.events, []
        for event in waiting:
            if event[0] == MESSAGE:
                _, boot, n, kind, body = event
                luck = self.chance.random()
                if luck < 0.2:
                    self.events.append(event)  # later
                elif luck < 0.3:
                    self.events += self.link.refuse(boot, n, self.chance.choice([link.BUSY, link.FULL]), "not now")
                elif luck < 0.4 and body.get("bad"):
                    self.events += self.link.refuse(boot, n, link.BAD, "never")
                else:
                    self.got.append((kind, body))
                    self.events += self.link.accept(boot, n)
            elif event[0] == ACKED:
                self.kept.append(event[1])
            elif event[0] == REFUSED:
                self.refused.append(event[1])

    @property
    def idle(self):
        return not self.wanted and not self.link.unanswered and not self.events


def corrupt(chance, line):
    """What becomes of a line: perhaps several, perhaps none."""
    line = bytearray(line)
    place = chance.randrange(len(line))
    match chance.randrange(7):
        case 0:
            for _ in range(chance.randint(1, 4)):
                line[chance.randrange(len(line))] ^= 1 << chance.randrange(8)
        case 1:
            del line[place : place + chance.randint(1, len(line))]
        case 2:
            line[place:place] = line[place : place + chance.randint(1, 5)]  # doubled
        case 3:
            return []
        case 4:
            return [bytes(line), bytes(line)]
        case 5:
            line[place:place] = chance.randbytes(chance.randint(1, 40))
        case 6:
            return [bytes(line[:place]), b"\r\nets Jul 29 2019 12:21:46\r\n", bytes(line[place:])]
    return [bytes(line)]


class BadLine:
    """Carries lines both ways. Of each so many, `rate` are spoilt; some change places with the one before them."""

    def __init__(self, chance, left, right, rate, start=0):
        self.chance = chance
        self.sides = (left, right)
        self.rate = rate
        self.now = start
        self.spoilt = 0
        self._under_way = ([], [])

    def run(self, done, patience=10_000_000):
        """Until `done()`; the clock goes on to whatever comes next."""
        end = self.now + patience
        while not done():
            assert self.now < end, "it takes for ever"
            waits = []
            for side, there, back in zip(self.sides, self._under_way, self._under_way[::-1], strict=True):
                now = self.now % (1 << 30)
                arrived = b"".join(data for at, data in back if at <= self.now)
                back[:] = [(at, data) for at, data in back if at > self.now]
                for piece in self._pieces(arrived):
                    side.events += side.link.feed(piece, now)
                side.work(now)
                while line := side.link.take(now):
                    self._carry(line, there)
                waits += [side.link.wait(now), *(at - self.now for at, _ in back), *(at - self.now for at, _ in there)]
                if side.events:
                    waits.append(DELAY)
            self.now += max(1, min(waits))

    def _pieces(self, data):
        while data:
            size = self.chance.randint(1, 400)
            yield data[:size]
            data = data[size:]

    def _carry(self, line, there):
        pieces = [line]
        if self.chance.random() < self.rate:
            self.spoilt += 1
            if there and self.chance.random() < 0.15:
                there.insert(-1, (there[-1][0], line))  # it changes places with the one before
                return
            pieces = corrupt(self.chance, line)
        there += [(self.now + DELAY, piece) for piece in pieces]
