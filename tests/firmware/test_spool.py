"""The spool on the real MicroPython: in a folder, and on LittleFS with the power cut at every write to its flash."""

import pytest

from tests.firmware.script import run

START = """
    import os
    from firmware.spool import Full, Spool
"""


def test_keeps_order_and_knows_who_owes(tmp_path):
    told = run(
        tmp_path,
        START
        + """
    spool = Spool("s", 1 << 20, ("mqtt", "post"))
    tell([spool.put([b"one"]), spool.put([b"two"], ("post",)), spool.put([b"three"], ["mqtt"])])
    tell(sorted(os.listdir("s")))
    tell([spool.owed("mqtt"), spool.owed("post"), spool.owed("nobody"), len(spool), spool.news.is_set()])
    tell([str(spool.peek("mqtt")), str(spool.peek("mqtt", 1)), str(spool.peek("post")), str(spool.peek("nobody"))])
    spool.done("mqtt", 1)
    spool.done("mqtt", 1)
    spool.done("mqtt", 2)
    spool.done("nobody", 1)
    tell(sorted(os.listdir("s")))
    again = Spool("s", 1 << 20, ("post", "mqtt"))
    tell([str(again.peek("mqtt")), str(again.peek("post")), again.used, spool.used, again.put([b"four"])])
    for target, number in (("post", 1), ("post", 2), ("mqtt", 3), ("post", 4), ("mqtt", 4)):
        again.done(target, number)
    tell([os.listdir("s"), again.used, len(again), str(again.peek("post"))])
    """,
    )
    assert told == [
        [1, 2, 3],
        ["00000001.mqtt.post", "00000002.post", "00000003.mqtt"],
        [2, 2, 0, 3, True],
        ["(1, b'one')", "(3, b'three')", "(1, b'one')", "None"],
        ["00000001.post", "00000002.post", "00000003.mqtt"],
        ["(3, b'three')", "(1, b'one')", 12288, 12288, 4],
        [[], 0, 0, "None"],
    ]


def test_what_a_power_cut_leaves_is_no_event(tmp_path):
    spool = tmp_path / "s"
    spool.mkdir()
    (spool / "new").write_bytes(b'{"v":1,"id":"01')  # written in part, not renamed
    (spool / "00000007.mqtt").write_bytes(b"seven")
    (spool / "00000009.mqtt.serial").write_bytes(b"nine")
    (spool / "00000008.serial").write_bytes(b"eight")  # nobody has a serial line any more
    (spool / "0000000x.mqtt").write_bytes(b"")
    (spool / "something else").write_bytes(b"")
    for number in range(20, 60):  # more than are mended in one go
        (spool / f"{number:08d}.serial.mqtt").write_bytes(b"x")
    told = run(
        tmp_path,
        START
        + """
    spool = Spool("s", 1 << 20, ("mqtt",))
    tell([str(spool.peek("mqtt")), str(spool.peek("mqtt", 7)), str(spool.peek("mqtt", 9)), len(spool)])
    tell(spool.put([b"next"]))
    """,
    )
    assert told == [["(7, b'seven')", "(9, b'nine')", "(20, b'x')", 42], 60]
    assert sorted(path.name for path in spool.iterdir())[:3] == ["00000007.mqtt", "00000009.mqtt", "00000020.mqtt"]


def test_is_bounded(tmp_path):
    told = run(
        tmp_path,
        START
        + """
    spool = Spool("s", 3 * 4096, ("mqtt",))
    kept = 0
    try:
        while True:
            spool.put([b"x" * 100])
            kept += 1
    except Full as error:
        tell([kept, str(error), spool.has_room()])
    spool.done("mqtt", 1)
    tell([spool.has_room(), spool.has_room(4097), spool.put([b"y"])])
    try:
        spool.put([b"z"], ("nobody",))
    except ValueError as error:
        tell(str(error))
    try:
        Spool("t", 4096, list("abcdefghi"))
    except ValueError as error:
        tell(str(error))
    """,
    )
    assert told == [
        [3, "the spool is full", False],
        [True, False, 4],
        "an event is owed to somebody",
        "9 targets: a spool knows 8 at most",
    ]


FLASH = """
    import os, vfs

    class Flash:
        # Blocks in memory that outlive a mount; after `left` more writes and erasures the power is gone.
        def __init__(self, blocks):
            self.data = bytearray(b"\\xff" * (4096 * blocks))
            self.left = 1 << 29

        def readblocks(self, number, buffer, offset=0):
            at = number * 4096 + offset
            buffer[:] = self.data[at : at + len(buffer)]

        def writeblocks(self, number, buffer, offset=0):
            self.spend()
            at = number * 4096 + offset
            self.data[at : at + len(buffer)] = buffer

        def spend(self):
            if not self.left:
                raise OSError(5)
            self.left -= 1

        def ioctl(self, what, argument):
            if what == 4:
                return len(self.data) // 4096
            if what == 5:
                return 4096
            if what == 6:
                self.spend()
                self.data[argument * 4096 : argument * 4096 + 4096] = b"\\xff" * 4096
                return 0
            return 0
"""


def test_power_cut_at_every_write(tmp_path):
    """What was put and not delivered is there after each cut, in order and whole, and nothing that was never put."""
    told = run(
        tmp_path,
        FLASH
        + START
        + """
    def work(spool, put, done):
        for number in range(1, 9):
            spool.put([b"event %d " % number + b"x" * (200 * number)])
            put.append(number)
            if number % 2 == 0:
                oldest = spool.peek("mqtt")[0]
                spool.done("mqtt", oldest)
                done.append(("mqtt", oldest))
                if number % 4 == 0:
                    spool.done("post", oldest - 1)
                    done.append(("post", oldest - 1))

    cut = faults = 0
    while True:
        flash = Flash(32)
        vfs.VfsLfs2.mkfs(flash)
        vfs.mount(flash, "/f")
        spool = Spool("/f/spool", 1 << 20, ("mqtt", "post"))
        flash.left = cut
        put, done, through = [], [], False
        try:
            work(spool, put, done)
            through = True
        except OSError:
            pass
        flash.left = 1 << 29
        vfs.umount("/f")
        vfs.mount(flash, "/f")
        spool = Spool("/f/spool", 1 << 20, ("mqtt", "post"))
        for target in ("mqtt", "post"):
            wanted = [number for number in put if (target, number) not in done]
            found = []
            after = 0
            while True:
                entry = spool.peek(target, after)
                if entry is None:
                    break
                after, event = entry
                found.append(after)
                if event != b"event %d " % after + b"x" * (200 * after):
                    faults += 1
            # The one that was under way may be there or not, and so may what was being delivered
            sure = [number for number in found if number <= len(put)]
            missing = [number for number in wanted if number not in sure]
            if sorted(found) != found or len(missing) > (0 if through else 1) or [n for n in found if n > len(put) + 1]:
                faults += 1
            if missing and missing[0] != 1 + len([1 for one, number in done if one == target]) and target == "mqtt":
                faults += 1
        if [name for name in os.listdir("/f/spool") if not name.startswith("0")]:
            faults += 1
        vfs.umount("/f")
        if through:
            break
        cut += 1
    tell([cut > 50, faults])
    """,
        heap="4M",
        silent=False,  # files that the cut left open are closed where nothing may be allocated
    )
    assert told == [[True, 0]]


@pytest.mark.parametrize("build", ["x86_64", "i386"])
def test_time_that_was_not_known(tmp_path, build):
    """An event that was kept before the clock was set gets the moment it was kept; in another run, that of delivery."""
    told = run(
        tmp_path,
        START
        + """
    from firmware import board, events
    clock = [None, 0]
    board.now = lambda: clock[0]
    board.uptime = lambda: clock[1]
    spool = Spool("s", 1 << 20, ("mqtt",))
    clock[1] = 5000
    identifier, event = events.complete({"title": "early"}, "test", {"id": "me"})
    spool.put(event)
    tell([identifier[:10], json.loads(b"".join(event))["time"], events.lacks_time(event[0])])
    tell(json.loads(spool.peek("mqtt")[1])["time"])
    clock[:] = [1780000000123, 65000]
    tell(json.loads(spool.peek("mqtt")[1])["time"])
    again = Spool("s", 1 << 20, ("mqtt",))
    tell(json.loads(again.peek("mqtt")[1])["time"])
    again.put(events.complete({"title": "late"}, "test", {"id": "me"})[1])
    tell(json.loads(again.peek("mqtt", 1)[1])["time"])
    """,
        build=build,
    )
    assert told == [
        ["0000000000", None, True],
        None,
        "2026-05-28T20:25:40.123Z",
        "2026-05-28T20:26:40.123Z",
        "2026-05-28T20:26:40.123Z",
    ]
