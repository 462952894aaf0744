"""Every dialog without TLS at aiosmtpd, too: where the two servers differ is listed with the reason."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.aiosmtpd_server import Keeper, server
from tests.dialog import FOLDER, TLS, Dialog, Mismatch, TcpLine, check, load_all, play

PATIENCE = 5.0  # seconds for a reply; some dialogs wait for one that never comes
LIST = FOLDER / "aiosmtpd-differences.txt"


class Aiosmtpd:
    """aiosmtpd in a thread of its own, set up as its Controller does."""

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._cancel(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _cancel(self):
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def listen(self, dialog: Dialog, keeper: Keeper) -> asyncio.Server:
        """A listener that comes as near to the dialog's as aiosmtpd can."""

        def session():
            return server(keeper, dialog.session_options, self.loop)

        return asyncio.run_coroutine_threadsafe(self.loop.create_server(session, "127.0.0.1", 0), self.loop).result()

    def fails(self, dialog: Dialog) -> str:
        """Why it does not do as the dialog says; empty if it does."""
        keeper = Keeper()
        listener = self.listen(dialog, keeper)
        line = TcpLine("127.0.0.1", listener.sockets[0].getsockname()[1], patience=PATIENCE)
        try:
            play(dialog, line)
            check(dialog, keeper.wait_for(dialog.mails[0], PATIENCE))
        except Mismatch as mismatch:
            return str(mismatch)
        finally:
            self.loop.call_soon_threadsafe(listener.close)
        return ""


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_differences_are_as_listed():
    dialogs = [dialog for dialog in load_all() if dialog.listener not in TLS]
    with Aiosmtpd() as peer, ThreadPoolExecutor(24) as pool:
        results = zip((dialog.name for dialog in dialogs), pool.map(peer.fails, dialogs), strict=True)
        found = {name: why for name, why in results if why}
    listed = dict(line.split(": ", 1) for line in LIST.read_text().splitlines())
    unlisted = "\n".join(why for name, why in found.items() if name not in listed)
    assert not unlisted, f"aiosmtpd differs here, and {LIST.name} does not say so:\n{unlisted}"
    assert not listed.keys() - found.keys(), f"{LIST.name} names dialogs that aiosmtpd plays as we do"
    assert list(listed) == sorted(listed)
