"""Run by MicroPython in a board's flash: MQTT alone, for what it takes of the heap. Arguments: port, `idle` or `drain`.

With `idle` everything is loaded but MQTT; the difference to `drain` is what MQTT adds.
"""

import asyncio
import gc
import sys

sys.path.insert(0, "a")

from firmware import board, events, health, log, slots  # noqa: F401  # the App of a board has them
from firmware.spool import Spool


class App:
    """As much of one as a target needs."""

    id = name = "attic"

    def __init__(self):
        self.mistakes, self.parts = [], {}
        own = {"url": "mqtt://127.0.0.1:" + sys.argv[1], "user": "", "password": "", "base": "mailwire"}
        own.update({"discovery": "homeassistant", "keepalive": 30, "ca": "", "verify": True})
        self.settings = {"mqtt": own, "wifi": None}
        self.spool = Spool("spool", 10000000, ["mqtt"])

    def is_target(self, section):
        return section == "mqtt"

    def own(self):
        return {"id": "attic", "name": "attic", "manufacturer": None, "model": board.NAME, "profile": None}


async def main():
    app = App()
    asyncio.Event()
    if sys.argv[2] == "drain":
        from firmware import mqtt

        task = asyncio.create_task(mqtt.make(app).run())
        while app.spool.owed("mqtt"):
            await asyncio.sleep_ms(20)
        await asyncio.sleep_ms(500)
        task.cancel()
    gc.collect()
    sys.stdout.write(f"in use: {gc.mem_alloc()}\n")


asyncio.run(main())
