"""Who hears of an event.

Routes are asked in order; all that match add their targets, `stop: true` ends the list. Without any routes, every
target that is an event bus (mqtt, serial) gets everything. An event that no route wants goes nowhere, and `explain`
says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Any, NamedTuple, Protocol

from gateway.api import Event, Target
from gateway.care import Rule

DEFAULT_EXPIRY = Target.patience


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
    @property
    def rule(self) -> Rule | None: ...


class Plan(NamedTuple):
    """Where an event goes: target -> seconds after which it is too old to be told.

    `cares`: target -> (the route's name, what care it takes), without those that another route sends to as it is.
    """

    targets: dict[str, float]
    cares: dict[str, tuple[str, Rule]]


class Verdict(NamedTuple):
    """A plan, and its reasons in words."""

    plan: Plan
    reasons: list[str]

    @property
    def targets(self) -> dict[str, float]:
        return self.plan.targets


class Router:
    """The routes of one configuration. `compile_template` turns a template condition into a test of an event.

    `patience`: target -> seconds that an event may wait for it, where its route does not say and it is not the default.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        event_buses: Iterable[str],
        compile_template: Callable[[str], Callable[[Event], bool]],
        patience: Mapping[str, float] | None = None,
    ) -> None:
        self._patience = patience or {}
        self._buses = Plan({bus: self._patience.get(bus, DEFAULT_EXPIRY) for bus in event_buses}, {})
        self._routes = [
            (
                f"routes[{number}]" + (f" ({route.name})" if route.name else ""),
                route,
                [(key, _test(globs)) for key, globs in (route.condition.patterns() if route.condition else {}).items()],
                compile_template(route.condition.template) if route.condition and route.condition.template else None,
            )
            for number, route in enumerate(routes)
        ]

    def plan(self, event: Event) -> Plan:
        """Where it goes, without the words."""
        return self._walk(event, None)

    def plan_for(self, targets: Iterable[str]) -> Plan:
        """For an event that says itself where it goes."""
        return Plan({target: self._patience.get(target, DEFAULT_EXPIRY) for target in targets}, {})

    def verdict(self, event: Event) -> Verdict:
        """Where it goes, and why."""
        reasons: list[str] = []
        return Verdict(self._walk(event, reasons), reasons)

    def _walk(self, event: Event, reasons: list[str] | None) -> Plan:
        if not self._routes:
            if reasons is not None:
                reasons.append("no routes are configured: every event bus gets everything")
            return self._buses
        targets: dict[str, float] = {}
        cares: dict[str, tuple[str, Rule]] = {}
        plain: set[str] = set()
        values = _values(event)
        for label, route, tests, template in self._routes:
            missed = next((key for key, test in tests if not any(map(test, values[key]))), None)
            if missed is not None or (template and not template(event)):
                if reasons is not None:
                    why = f"its {missed} does not match" if missed is not None else "its template says false"
                    reasons.append(f"{label}: no, {why}")
                continue
            for target in route.to:
                expiry = self._patience.get(target, DEFAULT_EXPIRY) if route.expire is None else route.expire
                targets[target] = max(expiry, targets.get(target, 0))
                if route.rule is None:
                    plain.add(target)
                    cares.pop(target, None)
                elif target not in plain:
                    cares.setdefault(target, (label, route.rule))
            if reasons is not None:
                stop = ", stop" if route.stop else ""
                reasons.append(f"{label}: yes, to {', '.join(route.to) or 'nobody'}{stop}")
            if route.stop:
                break
        return Plan(targets, cares)


def _test(globs: Sequence[str]) -> Callable[[str], bool]:
    """Whether a value matches one of the globs; made once, for there may be hundreds of routes."""
    if not any(set("*?[") & set(glob) for glob in globs):
        return frozenset(globs).__contains__
    match = re.compile("|".join(map(translate, globs)), re.DOTALL).match
    return lambda value: match(value) is not None


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
