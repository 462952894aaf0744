"""A real gateway in a process of its own, for tests: start it, talk to it, kill it, ask its command line."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 60.0  # seconds that anything may take before a test gives up

DEFAULT = """
integrations:
  lan-mail: {type: smtp_server, listen: ["127.0.0.1:0"]}
"""


def until(condition, what="it"):
    """Poll until the condition gives something true, and return that."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.01)
    return value


def children(parent, word):
    """The ids of the processes that it has started, and that have this word on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            its_parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if its_parent == parent and word in path.joinpath("cmdline").read_bytes():
                found.append(int(path.name))
    return found


class Gateway:
    """`mailwire run` with a configuration and a data folder below `folder`."""

    def __init__(self, folder: Path, config: str = DEFAULT) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "mailwire.yaml"
        self.log = folder / "gateway.log"
        self.process: subprocess.Popen | None = None
        self.greeting = ""
        self.log_format = "text"  # in a file, `auto` would be JSON
        folder.mkdir(exist_ok=True, parents=True)
        self.config.write_text(config)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.terminate()

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("run"),
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
            )
        self.greeting = self._read_greeting()
        return self

    def command(self, *args):
        verb, *rest = args
        if verb == "run":
            rest = ["--log-format", self.log_format, *rest]
        return [sys.executable, "-m", "gateway", verb, "--config", str(self.config), "--data", str(self.data), *rest]

    def environment(self):
        return os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error::ResourceWarning"}

    def _read_greeting(self):
        text, descriptor = b"", self.process.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        while b"\n  data " not in text:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(descriptor, 65536) if ready else b""
            assert piece, f"the gateway did not start: {text.decode()}\n{self.log.read_text()[-3000:]}"
            text += piece
        return text.decode()

    @property
    def port(self):
        """The port of the first SMTP listener."""
        return int(re.search(r"127\.0\.0\.1:(\d+)", self.greeting)[1])

    @property
    def pid(self):
        return self.process.pid

    @property
    def interpreter(self):
        """The id of the process that interprets its mails."""
        return until(lambda: next(iter(children(self.pid, b"gateway.interpret.worker")), None), "the interpreter")

    def kill(self):
        """As a power cut would, for this process: SIGKILL."""
        self.process.kill()
        self._gone()

    def terminate(self):
        """As an init system would: SIGTERM, and wait. Returns the exit code."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
        return self._gone()

    def hang_up(self):
        self.process.send_signal(signal.SIGHUP)

    def _gone(self):
        if self.process is None:
            return None
        try:
            return self.process.wait(PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.stdout.close()
            self.process.wait()

    def cli(self, *args, check=True, input=None):  # noqa: A002  # as subprocess.run calls it
        done = subprocess.run(
            self.command(*args), capture_output=True, input=input, env=self.environment(), timeout=PATIENCE, check=False
        )
        assert not check or done.returncode == 0, done.stderr.decode()
        return done

    def json(self, *args):
        """A list command's rows. (`queue` exits with 1 while something has failed, and lists it all the same.)"""
        done = self.cli(*args, "--json", check=args[0] != "queue")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def mails(self):
        return self.json("mails", "--limit", "100000")

    def events(self):
        return self.json("events", "--limit", "100000")

    def settled(self, count):
        """Wait until all of `count` mails are through interpretation; return their events."""

        def through():
            mails = self.mails()
            return len(mails) == count and not any(mail["state"] in ("received", "replay") for mail in mails)

        until(through, f"interpreting {count} mails")
        return self.events()

    def logged(self, pattern):
        return until(lambda: re.search(pattern, self.log.read_text()), f"a log line like {pattern!r}")
