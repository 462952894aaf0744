"""Who hears of an event.

Routes are asked in order; all that match add their targets, `stop: true` ends the list. Without any routes, every
target that is an event bus (mqtt, serial) gets everything. An event that no route wants goes nowhere, and `explain`
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

from gateway.api import Event

DEFAULT_EXPIRY = 24 * 3600.0  # seconds; an outage must not end in a flood of stale alarms


class Condition(Protocol):
    """What a route asks of an event (`gateway.config.Condition`); an empty list asks nothing."""

    @property
    def template(self) -> str | None: ...

    def patterns(self) -> Mapping[str, Sequence[str]]:
        """device, kind, severity, source, to, from, subject: the globs that were given, lower case."""


class Route(Protocol):
    """`gateway.config.RouteSetting`."""

    @property
    def name(self) -> str | None: ...
    @property
    def condition(self) -> Condition | None: ...
    @property
    def to(self) -> Sequence[str]: ...
    @property
    def stop(self) -> bool: ...
    @property
    def expire(self) -> float | None: ...


@dataclass(slots=True)
class Verdict:
    """Where an event goes: target -> seconds after which it is too old to be told; and the reasons, in words."""

    targets: dict[str, float]
    reasons: list[str]


class Router:
    """The routes of one configuration. `compile_template` turns a template condition into a test of an event."""

    def __init__(
        self,
        routes: Sequence[Route],
        event_buses: Iterable[str],
        compile_template: Callable[[str], Callable[[Event], bool]],
    ) -> None:
        self._buses = dict.fromkeys(event_buses, DEFAULT_EXPIRY)
        self._routes = [
            (
                number,
                route,
                route.condition.patterns() if route.condition else {},
                compile_template(route.condition.template) if route.condition and route.condition.template else None,
            )
            for number, route in enumerate(routes)
        ]

    def targets(self, event: Event) -> Verdict:
        if not self._routes:
            return Verdict(self._buses, ["no routes are configured: every event bus gets everything"])
        verdict = Verdict({}, [])
        values: dict[str, list[str]] | None = None
        for number, route, patterns, template in self._routes:
            label = f"routes[{number}]" + (f" ({route.name})" if route.name else "")
            if patterns and values is None:
                values = _values(event)
            missed = next((key for key, globs in patterns.items() if not _any(values or {}, key, globs)), None)
            if missed is not None:
                verdict.reasons.append(f"{label}: no, its {missed} does not match")
                continue
            if template and not template(event):
                verdict.reasons.append(f"{label}: no, its template says false")
                continue
            expiry = DEFAULT_EXPIRY if route.expire is None else route.expire
            for target in route.to:
                verdict.targets[target] = max(expiry, verdict.targets.get(target, 0))
            verdict.reasons.append(
                f"{label}: yes, to {', '.join(route.to) or 'nobody'}" + (", stop" if route.stop else "")
            )
            if route.stop:
                break
        return verdict


def _values(event: Event) -> dict[str, list[str]]:
    mail: Mapping[str, Any] = event["mail"] or {}
    device = event["device"]
    return {
        "device": [device["id"], device["name"].lower()],
        "kind": [event["kind"]],
        "severity": [event["severity"]],
        "source": [event["source"].lower()],
        "to": [address.lower() for address in mail.get("to", ())],
        "from": [str(mail.get("from", "")).lower()],
        "subject": [str(mail.get("subject") or event["title"]).lower()],
    }


def _any(values: Mapping[str, list[str]], key: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(value, glob) for value in values[key] for glob in globs)
