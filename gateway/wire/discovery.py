"""What Home Assistant is told about a device that sends events: the entities that the gateway and a board share.

An event entity lets a payload's `event_types`, `device_class` or `icon` replace the real ones, so nothing that a mail
says may become the name of an attribute: each template picks its keys itself. Pure data; MicroPython-safe.
"""

from gateway.wire.event import kinds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gateway.wire.topics import Topics

_EVENT = (
    "{{ {'event_type': value_json.kind, 'title': value_json.title,"
    " 'severity': value_json.severity, 'state': value_json.state,"
    " 'text': value_json.text[:1000], 'data': value_json.data, 'time': value_json.time,"
    " 'id': value_json.id} | tojson }}"
)  # as much of the text as is worth keeping with each change of the entity
_LAST_TITLE = "{{ value_json.last.title[:255] if value_json.last else '' }}"  # a longer state becomes "unknown"
_LAST_FACTS = "{{ (value_json.last or {}) | tojson }}"


def event_entity(topics: "Topics", own: str, device: str) -> "dict[str, Any]":
    """The events of a device; `own` begins its unique ids. All kinds are declared: one that is not would be dropped."""
    return {
        "platform": "event",
        "unique_id": own + "_event",
        "name": "Event",
        "icon": "mdi:email-alert",
        "event_types": kinds(),
        "state_topic": topics.event(device),
        "value_template": _EVENT,
        "qos": 1,
    }


def last_entity(topics: "Topics", own: str, device: str) -> "dict[str, Any]":
    """The title of its newest event, with the rest of that as attributes."""
    return {
        "platform": "sensor",
        "unique_id": own + "_last",
        "name": "Last message",
        "icon": "mdi:email-outline",
        "entity_category": "diagnostic",
        "state_topic": topics.state(device),
        "value_template": _LAST_TITLE,
        "json_attributes_topic": topics.state(device),
        "json_attributes_template": _LAST_FACTS,
        "qos": 1,
    }
