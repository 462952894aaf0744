"""How the board is: one dict for its state in MQTT, for the console and for `hello`."""

import gc

from firmware import board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from firmware.app import App


def health(app: "App") -> "dict[str, Any]":
    """Numbers and words that change; what does not exist here is None, so that Home Assistant shows it as unknown."""
    gc.collect()
    net, mqtt = app.parts.get("net"), app.parts.get("mqtt")
    targets = [one for one in ("mqtt", "serial", "post") if app.is_target(one)]
    return {
        "uptime": board.uptime() // 1000,
        "heap": gc.mem_free(),
        "owed": max([app.spool.owed(one) for one in targets] or [0]),
        "restart": board.reset_cause(),
        "signal": net.signal() if net else None,
        "network": net.trouble or net.address if net else None,
        "mqtt": (mqtt.trouble or "connected") if mqtt else None,
        "settings": app.mistakes,
    }
