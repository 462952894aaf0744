"""The scenarios: each spoils one thing, again and again, while numbered mails come in; then all must be there."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import powercut
from law import Account, kept, settle
from load import HOST, Load
from powercut import Findings
from shim import Unavailable
from world import Failed, World

HOUR = 3600.0
RECORDING = 0.35  # of the time of the power cuts
CUTS_A_SECOND = 8  # what checking takes, about
RECOVERY = 30.0  # seconds within which every sender hears 250 again, once a fault is over
DRAIN = 90.0  # seconds within which all that was acknowledged is delivered, once everything is well


@dataclass(slots=True)
class Play:
    """What a scenario has to work with. `spent` is true when its time is over."""

    account: Account
    world: World
    load: Load
    chance: random.Random
    until: float
    say: Callable[[str], None] = field(default=lambda _: None)

    def spent(self) -> bool:
        return time.monotonic() >= self.until

    def fault(self) -> None:
        self.account.faults += 1
        self.say(f"{self.account.scenario}: {self.account.faults} faults, {len(self.load.mails)} mails")

    def wait(self, least: float, most: float) -> None:
        """A while by chance; a gateway that ended by itself meanwhile is started again."""
        end = min(time.monotonic() + self.chance.uniform(least, most), self.until)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
            self.world.keep_alive()


def kill(play: Play) -> None:
    """kill -9 at the gateway, its interpreter, the broker and the subscriber in turn, also while they start."""
    world, chance = play.world, play.chance
    while not play.spent():
        victim = chance.choices((world.gateway, None, world.broker, world.subscriber), (6, 2, 2, 2))[0]
        if victim is None:
            world.kill_interpreter()
            play.fault()
            time.sleep(chance.expovariate(4))
            continue
        victim.kill()
        play.fault()
        if chance.random() < 0.3:
            time.sleep(chance.uniform(0, 0.5))
        victim.start()
        if victim is world.gateway and chance.random() < 0.8:
            world.wait_for_gateway()
        time.sleep(chance.expovariate(4))


def frozen_broker(play: Play) -> None:
    """SIGSTOP at the broker, which keeps its connections and says nothing."""
    while not play.spent():
        play.world.broker.signal(SIGSTOP)
        play.fault()
        play.wait(0.2, 8)
        play.world.broker.signal(SIGCONT)
        play.wait(0.2, 2)


def disk_full(play: Play) -> None:
    """A ballast that takes all the room; in one of four times, the gateway is killed and started on the full disk."""
    world, chance = play.world, play.chance
    ballast = world.data.parent / "ballast"
    while not play.spent():
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:  # until there is no room
                file.write(bytes(64 * 1024))
        if chance.random() < 0.5:
            os.truncate(ballast, max(0, ballast.stat().st_size - chance.randrange(1, 64) * 4096))
        play.fault()
        if chance.random() < 0.25:
            world.gateway.kill()
            world.gateway.start()
        play.wait(0.5, 2.5)
        ballast.unlink()
        _well_again(play)


def disk_failing(play: Play) -> None:
    """Read-only (as after a file system error), input/output errors, no room: every change of a file fails."""
    shim = _shim(play)
    while not play.spent():
        shim.fail(play.chance.choice((errno.EROFS, errno.EIO, errno.ENOSPC)))
        play.fault()
        if play.chance.random() < 0.2:
            play.world.gateway.kill()
            play.world.gateway.start()
        play.wait(0.3, 2.5)
        shim.fail(0)
        _well_again(play)


def disk_slow(play: Play) -> None:
    """An fsync that takes up to a second."""
    shim = _shim(play)
    while not play.spent():
        shim.slow(play.chance.choice((0.005, 0.03, 0.03, 0.2, 1.0)))
        play.fault()
        play.wait(1, 3)
    shim.slow(0)


def clock(play: Play) -> None:
    """The clock jumps by an hour, both ways, also while the gateway is down.

    But not while a mail is between its dot and its 250: the same bytes are one mail within a minute of that clock.
    """
    shim, now = _shim(play), 0.0
    while not play.spent():
        play.wait(0.5, 1.5)
        now = play.chance.choice([jump for jump in (-HOUR, 0.0, HOUR) if jump != now])
        if play.chance.random() < 0.3:
            play.load.pause()
            play.world.gateway.kill()
            shim.clock(now)
            play.world.start_gateway()
            play.load.go_on()
        else:
            shim.clock(now)
        play.fault()


def files(play: Play) -> None:
    """No more file descriptors than are open already, and peers that ask for some."""
    world = play.world
    while not play.spent():
        with contextlib.ExitStack() as crowd:
            limit = world.open_files() + play.chance.randrange(4)
            crowd.enter_context(world.limited(resource.RLIMIT_NOFILE, limit))
            for _ in range(40):
                with contextlib.suppress(OSError):
                    crowd.enter_context(socket.create_connection((HOST, world.port), timeout=1))
            play.fault()
            play.wait(0.5, 3)
        _well_again(play)


def memory(play: Play) -> None:
    """Next to no more memory than is in use already."""
    world = play.world
    while not play.spent():
        with contextlib.suppress(FileNotFoundError):
            limit = world.address_space() + play.chance.choice((0, 0, 1, 4)) * 1024 * 1024
            with world.limited(resource.RLIMIT_AS, limit):
                play.fault()
                play.wait(0.5, 3)
        _well_again(play)


def damage(play: Play) -> None:
    """The first page of the database is overwritten while the gateway is down: what it owes must go out all the same.

    After a kill -9 the page may be in the log as well, and then nothing is wrong.
    """
    world, chance = play.world, play.chance
    sure = 0
    while not play.spent():
        play.wait(0.5, 2)
        if frozen := chance.random() < 0.5:  # so that much is owed
            world.broker.signal(SIGSTOP)
            play.wait(0.5, 1)
        play.load.pause()
        if stopped := chance.random() < 0.7:
            world.gateway.stop()
        else:
            world.gateway.kill()
        world.copies.append(world.folder / f"before damage {len(world.copies) + 1}")
        shutil.copytree(world.data, world.copies[-1], ignore=shutil.ignore_patterns("damaged-*"))
        with (world.data / "mailwire.db").open("r+b") as file:
            file.write(bytes(chance.choice((100, 8192))))
        sure += stopped
        if frozen:
            world.broker.signal(SIGCONT)
        world.start_gateway()
        play.load.go_on()
        play.fault()
    if len(aside := list(world.data.glob("damaged-*"))) < sure:
        play.account.trouble.append(f"{sure} databases were damaged, and {len(aside)} set aside")


def power(play: Play) -> None:
    """What is recorded is spoiled afterwards, by `_cut`; starts and ends of the gateway are part of it."""
    until = time.monotonic() + (play.until - time.monotonic()) * RECORDING
    while time.monotonic() < until:
        time.sleep(min(play.chance.uniform(0.5, 2), max(0, until - time.monotonic())))
        if play.chance.random() < 0.3:
            (play.world.gateway.kill if play.chance.random() < 0.5 else play.world.gateway.stop)()
            play.world.start_gateway()


def _cut(account: Account, world: World, load: Load, seed: int, seconds: float, say: Callable[[str], None]) -> None:
    """Cut the power at moments of what was recorded; and show, with disks that lie, that this would find a loss."""
    numbers = {mail_id: number for number, mail in load.mails.items() for mail_id in mail.ids}
    root, place, keep = world.data.parent, world.folder / "cut", world.folder / "broken disk"

    def replay(cuts: int, **how: Any) -> Findings:
        return powercut.replay(world.record, root, cuts, seed, place, numbers=numbers, say=say, **how)

    found = replay(max(20, int(seconds * (1 - RECORDING) * CUTS_A_SECOND)), keep=keep)
    account.faults = found.cuts
    account.lost += [numbers.get(one, 0) for lost in found.lost.values() for one in lost]
    account.trouble += found.broken
    account.notes.append(
        f"{found.cuts} cuts at {found.fsyncs} recorded fsyncs, {found.checked} times a mail with a 250 was looked for"
    )
    for what, ending in (("the database's log", "-wal"), ("the spool's folder", "/mails")):
        liar = replay(20, believe=lambda path, ending=ending: not path.endswith(ending), modes=["nothing"])
        account.notes.append(
            f"on a disk that ignores the fsync of {what}, mails are missing after {len(liar.lost)} of {liar.cuts} cuts"
        )
        if not liar.lost:
            account.trouble.append(f"a disk that ignores the fsync of {what} was not found out")


def _well_again(play: Play) -> None:
    """The fault is over: within a while each sender must hear 250 again, with no help but an init system's."""
    end = time.monotonic() + RECOVERY
    while time.monotonic() < end:
        play.world.keep_alive()
        if play.load.is_taken_again(2):
            return
    raise Failed(f"{RECOVERY:.0f} s after fault {play.account.faults} was over, mails are still not taken")


def _shim(play: Play) -> object:
    assert play.world.shim
    return play.world.shim


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system in memory of its own. Raises Unavailable where root is needed and is not there."""
    place = folder / "small disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m,mode=700", "tmpfs", str(place)]
    if os.getuid() != 0 or not shutil.which("mount"):
        raise Unavailable("a small disk can only be mounted by root (disk-failing plays ENOSPC without)")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"a small disk can't be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`share` of the time; `pause` between two mails of a sender."""

    play: Callable[[Play], None]
    share: float = 1.0
    pause: float = 0.012
    needs_shim: bool = True
    small_disk: bool = False
    kills_broker: bool = False
    record: bool = False


SCENARIOS = {
    "kill": Scenario(kill, share=4, needs_shim=False, kills_broker=True),
    "frozen-broker": Scenario(frozen_broker, share=1.5, needs_shim=False),
    "disk-full": Scenario(disk_full, pause=0.05, needs_shim=False, small_disk=True),
    "disk-failing": Scenario(disk_failing),
    "disk-slow": Scenario(disk_slow),
    "clock": Scenario(clock),
    "files": Scenario(files, needs_shim=False),
    "memory": Scenario(memory, needs_shim=False),
    "damage": Scenario(damage, needs_shim=False),
    "power-cut": Scenario(power, share=3, record=True),
}


def run(
    name: str, seconds: float, seed: int, folder: Path, library: Path | None, say: Callable[[str], None]
) -> Account:
    """Play one scenario for that long, let everything recover, and count. Raises Unavailable."""
    scenario = SCENARIOS[name]
    account = Account(name)
    if scenario.needs_shim and not library:
        raise Unavailable("there is no C compiler for the shim: apt-get install gcc libc6-dev")
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(small_disk(folder)) / "data" if scenario.small_disk else None
        world = World(folder, library if scenario.needs_shim else None, data=data, record=scenario.record)
        stack.callback(world.close)
        world.start()
        load = Load(world.port, seed, pause=scenario.pause)
        play = Play(account, world, load, random.Random(f"{seed} {name}"), time.monotonic() + seconds, say)
        load.start()
        try:
            scenario.play(play)
            if world.shim:
                world.shim.heal()
            world.keep_alive()
            _well_again(play)
        except Failed as trouble:
            account.trouble.append(str(trouble))
        if world.shim:
            world.shim.heal()
        say(f"{name}: everything is well, waiting until all is delivered")
        load.stop()
        _drain(world, load, scenario)
        account.deaths = world.deaths
        try:
            world.gateway.stop()
        except Failed as trouble:
            account.trouble.append(str(trouble))
        settle(
            account,
            load.mails,
            load.refusals,
            kept(world.data, *world.copies),
            acknowledged_by_broker=dict(world.tap.acknowledged),
            heard=world.heard(),
            must_hear=not scenario.kills_broker,
        )
        if scenario.record:
            _cut(account, world, load, seed, seconds, say)
        if data and _broken(account):
            shutil.copytree(data, folder / "data")  # its disk goes away
    return account


def _broken(account: Account) -> bool:
    try:
        account.check()
    except AssertionError:
        return True
    return False


def _drain(world: World, load: Load, scenario: Scenario) -> None:
    """Wait until nothing is owed and all that was acknowledged has been heard; what is missing then is lost."""
    acked = {number for number, mail in load.mails.items() if mail.ids}
    end = time.monotonic() + DRAIN
    while time.monotonic() < end:
        world.keep_alive()
        reached = {number for _, number in world.heard()}
        if scenario.kills_broker:
            reached |= set(dict(world.tap.acknowledged).values())
        if acked <= reached and world.owed() == 0:
            return
        time.sleep(0.1)
