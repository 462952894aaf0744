"""Update the firmware of a board over MQTT: offer it, send what the board asks for, and wait for how it ends.

The board checks the signature and every hash, starts the new version on trial, and goes back to the old one if that
does not report in. Until then the offer stays with the broker, for a board that is asleep or restarts; when this
command ends it takes the offer back, since nobody would send the files any more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gateway.cli import common, show

if TYPE_CHECKING:
    from gateway.flash.offer import Bundle
    from gateway.integrations.mqtt import Config
    from gateway.integrations.mqtt.client import Connection, Message
    from gateway.wire.topics import Topics

KEY = "MAILWIRE_UPDATE_KEY"
_BACK = 30.0  # seconds between two tries to reach the broker, at most


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("board", metavar="BOARD", help="the board's name or id, as its topics have it")
    parser.add_argument(
        "--broker", metavar="URL", help="mqtt://user:password@host:1883 (default: that of the configuration)"
    )
    parser.add_argument("--base", metavar="TOPIC", help="the board's base topic (default: that of the configuration)")
    parser.add_argument(
        "--wait", type=float, default=15.0, metavar="MINUTES", help="for the board to be done (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="the board's own reports, one JSON object a line")
    parser.epilog = (
        f"The key that the board knows us by was kept in the data folder when it was flashed; {KEY} names another one."
    )


def run(args: argparse.Namespace) -> int:
    from gateway.flash import FlashError, application, key
    from gateway.flash.offer import Bundle
    from gateway.wire.event import slug
    from gateway.wire.topics import Topics

    board = slug(args.board)
    config = _broker(args)
    try:
        secret = os.environ.get(KEY) or key.kept(common.data_folder(args), board)
        if not secret:
            show.fail(
                f"There is no key for the board '{board}' here. The one that it was flashed with is in the data folder "
                f"of the gateway that flashed it, boards/{board}.key; run this there, or set {KEY} to it."
            )
        files = application.files()
    except FlashError as error:
        show.fail(str(error))
    bundle = Bundle(board, _version(), files, secret)
    talk = _Talk(board, bundle, Topics(args.base or config.base_topic), args.json)
    return asyncio.run(talk.run(config, args.wait * 60))


def _version() -> str:
    from gateway import __version__

    return __version__


def _broker(args: argparse.Namespace) -> Config:
    """What is known of the broker; ends the command if that is nothing."""
    from gateway.integrations.mqtt import Config

    if args.broker:
        try:
            return Config.of(args.broker)
        except ValueError as error:
            show.fail(f"--broker: {error}.", 2)
    if common.config_path(args) is None:
        return Config()
    for integration in common.settings(args).settings.integrations.values():
        if isinstance(integration.config, Config):
            return integration.config
    return Config()


class _Talk:
    """With one board, about one offer."""

    def __init__(self, board: str, bundle: Bundle, topics: Topics, as_json: bool) -> None:
        self._board = board
        self._bundle = bundle
        self._topics = topics
        self._as_json = as_json
        self._connection: Connection | None = None
        self._sending: set[asyncio.Future[None]] = set()
        self._outcome: asyncio.Future[dict[str, Any]] | None = None
        self._heard = False
        self._line = ""  # the progress that stands on the terminal
        self._terminal = sys.stderr.isatty() and not as_json

    async def run(self, config: Config, patience: float) -> int:
        """Exit code 0 when the new version has reported in."""
        from gateway.wire import update as wire

        self._outcome = asyncio.get_running_loop().create_future()
        self._say(f"Offering version {self._bundle.version} to {self._board}; waiting for it to ask.")
        link = asyncio.create_task(self._keep_connected(config))
        try:
            async with asyncio.timeout(patience):
                either: set[asyncio.Future[Any]] = {link, self._outcome}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        link.cancel()
        (failure,) = await asyncio.gather(link, return_exceptions=True)
        if isinstance(failure, Exception) and not self._outcome.done():
            show.fail(str(failure))
        if not self._outcome.done():
            show.fail(
                f"{self._board} did not finish within {patience / 60:g} minutes. The offer is taken back; what has "
                "arrived stays on the board, and the next try goes on from there."
                if self._heard
                else f"{self._board} did not answer within {patience / 60:g} minutes: is it on, and at this broker?"
            )
        report = self._outcome.result()
        self._end_line()
        words = {
            wire.REFUSED: "refused the update",
            wire.FAILED: "could not take the update",
            wire.WENT_BACK: f"went back to version {report.get('installed_version')}",
        }
        if report["state"] != wire.CONFIRMED:
            show.fail(f"{self._board} {words[report['state']]}: {report.get('reason')}.")
        self._say(f"{self._board} runs version {report.get('installed_version')} and has reported in.")
        return 0

    async def _keep_connected(self, config: Config) -> None:
        """Offer, and serve, over as many connections as it takes. Raises Refusal: a person must act."""
        from gateway.integrations.mqtt import client

        wait = 0.5
        while True:
            try:
                await self._connected(config)
                wait = 0.5
            except client.Lost as error:
                self._end_line()
                self._say(f"{error}; trying again")
            await asyncio.sleep(wait)
            wait = min(2 * wait, _BACK)

    async def _connected(self, config: Config) -> None:
        from gateway.integrations.mqtt import client

        address = config.named_address() or config.address("127.0.0.1", 1883)
        name = f"mailwire-update-{secrets.token_hex(4)}"
        # Its last will takes the offer back: a broker publishes it when this command is killed.
        will = client.Will(self._topics.update(self._board), b"")
        # No session that outlives it: nobody comes back under this name.
        self._connection = await client.connect(address, name, will, config.keepalive, self._received, session=0)
        try:
            for part in ("state", "request"):
                await self._connection.subscribe(self._topics.update(self._board, part))
            await self._connection.publish(self._topics.update(self._board), self._bundle.offer, retain=True)
            assert self._outcome
            either: set[asyncio.Future[Any]] = {self._connection.ended, self._outcome}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not self._outcome.done():
                raise client.Lost(f"the connection to the broker was lost: {self._connection.ended.result()}")
        finally:
            connection, self._connection = self._connection, None
            with suppress(client.Lost, client.Refusal):
                await connection.publish(self._topics.update(self._board), b"", retain=True)
            await connection.close()

    def _received(self, message: Message) -> None:
        message.acknowledge()  # the board asks again for what is lost
        payload = message.payload
        if message.topic == self._topics.update(self._board, "request"):
            answer = self._bundle.answer(payload)
            if answer is not None and self._connection:
                sent = self._connection.publish(self._topics.update(self._board, "data"), answer)
                self._sending.add(sent)
                sent.add_done_callback(self._sent)
            return
        try:
            report = json.loads(payload)
            if report["offer"] != self._bundle.made:
                return
            self._report(report)
        except (ValueError, KeyError, TypeError):
            return  # the board's report on something else, or of another firmware

    def _sent(self, sent: asyncio.Future[None]) -> None:
        self._sending.discard(sent)
        if not sent.cancelled():
            sent.exception()  # the board asks again for what was lost

    def _report(self, report: dict[str, Any]) -> None:
        from gateway.wire import update as wire

        self._heard = True
        if self._as_json:
            print(json.dumps(report), flush=True)
        state = report["state"]
        if state == wire.DOWNLOADING:
            self._progress(f"{self._board}: {report.get('update_percentage') or 0:3d} %")
        elif state in (wire.RESTARTING, wire.ON_TRIAL, wire.WAITING):
            self._end_line()
            words = {
                wire.RESTARTING: "has all files and restarts",
                wire.ON_TRIAL: "runs the new version on trial",
                wire.WAITING: f"waits: {report.get('reason')}",
            }
            self._say(f"{self._board} {words[state]}")
        elif state in wire.OUTCOMES and self._outcome and not self._outcome.done():
            self._outcome.set_result(report)

    def _progress(self, line: str) -> None:
        """On a terminal, one line that changes; nothing elsewhere."""
        if self._terminal:
            self._line = show.plain(line)
            print(f"\r{self._line}", end="", file=sys.stderr, flush=True)

    def _end_line(self) -> None:
        if self._line:
            print(file=sys.stderr)
            self._line = ""

    def _say(self, line: str) -> None:
        if not self._as_json:
            print(show.plain(line), file=sys.stderr, flush=True)
