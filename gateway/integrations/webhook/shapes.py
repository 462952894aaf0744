"""What well-known programs post, told apart by its keys alone, and the drafts of the events that become of it.

Alertmanager's webhook (version 4, https://prometheus.io/docs/alerting/latest/configuration/#webhook_config) and
Grafana's, which is the same with `orgId`, `title` and `message` (https://grafana.com/docs/grafana/latest/alerting/): an
event for each alert. Uptime Kuma's `monitor` and `heartbeat` (server/notification-providers/webhook.js). Anything else,
Home Assistant's REST notification among it, is a notification (`gateway.notification`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.api import notification

_CRITICAL = ("critical", "page", "error", "emergency", "disaster", "high", "p1", "fatal")
_INFO = ("info", "informational", "none", "low", "debug", "p4", "p5")
_NAMES = ("instance", "host", "hostname", "node", "device", "pod", "job")  # labels that say which device it is
_STATUS = {"0": "is down", "1": "is up"}  # a heartbeat's; 2 is pending, 3 is maintenance


def drafts(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events of one request. Raises ValueError with what is wrong with it."""
    if isinstance(said.get("alerts"), list) and "status" in said:
        return [_alert(one) for one in said["alerts"] if isinstance(one, Mapping)]
    if "heartbeat" in said and "monitor" in said:
        return [_heartbeat(said)]
    return [notification.of_object(said)]


def _alert(alert: Mapping[str, Any]) -> dict[str, Any]:
    labels, notes = (_texts(alert.get(key)) for key in ("labels", "annotations"))
    level = labels.get("severity", labels.get("priority", "")).lower()
    title = notes.get("summary") or notes.get("title") or labels.get("alertname") or "Alert"
    return {
        "device": next((labels[name] for name in _NAMES if labels.get(name)), "alerts"),
        "kind": "other",
        "state": "off" if alert.get("status") == "resolved" else "on",
        "severity": "critical" if level in _CRITICAL else "info" if level in _INFO else "warning",
        "title": title,
        "text": notes.get("description") or notes.get("message") or title,
        "data": labels,
    }


def _heartbeat(said: Mapping[str, Any]) -> dict[str, Any]:
    """Both are null in the message that its test button sends."""
    beat, monitor = (one if isinstance(one, Mapping) else {} for one in (said["heartbeat"], said["monitor"]))
    name, status = str(monitor.get("name") or "Uptime Kuma"), beat.get("status")
    words = _STATUS.get(str(status))
    message = str(said.get("msg") or beat.get("msg") or "")
    return {
        "device": name,
        "kind": "network" if words else "test" if not beat else "other",
        "state": {"0": "on", "1": "off"}.get(str(status)),
        "severity": "critical" if status == 0 else "info",
        "title": f"{name} {words}" if words else message.partition("\n")[0] or name,
        "text": message,
        "data": _texts({key: monitor.get(key) for key in ("url", "hostname", "type")}),
    }


def _texts(value: Any) -> dict[str, str]:
    """Those of an object's values that are text or numbers."""
    found = value.items() if isinstance(value, Mapping) else ()
    return {str(key): str(item) for key, item in found if isinstance(item, str | int | float)}
