"""Routes: conditions, order, stop, expiry, and the reasons that explain shows."""

import dataclasses

from gateway.care import Rule
from gateway.route import DEFAULT_EXPIRY, Router

EVENT = {
    "source": "lan-mail",
    "device": {"id": "front_door", "name": "Front door"},
    "kind": "motion",
    "severity": "warning",
    "title": "Motion on A1",
    "mail": {"from": "Cam@LAN", "to": ["motion@gw"], "subject": "Embedded Net DVR: Motion Detected"},
}


@dataclasses.dataclass
class Condition:
    globs: dict
    template: str | None = None

    def patterns(self):
        return self.globs


@dataclasses.dataclass
class Route:
    to: list
    condition: Condition | None = None
    stop: bool = False
    expire: float | None = None
    name: str | None = None
    rule: object = None


def router(*routes, template=lambda text: lambda event: text == "true"):
    return Router(routes, ["broker"], template)


def test_without_routes_every_event_bus_gets_everything():
    verdict = router().verdict(EVENT)
    assert verdict.targets == {"broker": DEFAULT_EXPIRY}
    assert verdict.reasons == ["no routes are configured: every event bus gets everything"]


def test_all_that_match_add_up_in_order_until_stop():
    verdict = router(
        Route(["a"]),
        Route(["b"], Condition({"kind": ["disk"]})),
        Route(["c", "a"], Condition({"kind": ["disk", "motion"]}), stop=True, expire=5, name="cameras"),
        Route(["d"]),
    ).verdict(EVENT)
    assert verdict.targets == {"a": DEFAULT_EXPIRY, "c": 5}
    assert verdict.reasons == [
        "routes[0]: yes, to a",
        "routes[1]: no, its kind does not match",
        "routes[2] (cameras): yes, to c, a, stop",
    ]


def test_every_key_of_a_condition():
    for globs in (
        {"device": ["front_door"]},
        {"device": ["front d*"]},
        {"kind": ["motion"]},
        {"severity": ["critical", "warning"]},
        {"source": ["lan-*"]},
        {"to": ["motion@*"]},
        {"from": ["cam@lan"]},
        {"subject": ["*motion detected*"]},
    ):
        assert router(Route(["a"], Condition(globs))).plan(EVENT).targets, globs
        wrong = {key: ["no such thing"] for key in globs}
        assert not router(Route(["a"], Condition(wrong))).plan(EVENT).targets, globs


def test_a_template_is_asked_last():
    assert router(Route(["a"], Condition({}, "true"))).plan(EVENT).targets
    verdict = router(Route(["a"], Condition({"kind": ["motion"]}, "false"))).verdict(EVENT)
    assert verdict.targets == {}
    assert verdict.reasons == ["routes[0]: no, its template says false"]


def test_nobody_may_be_a_target():
    verdict = router(Route([], stop=True), Route(["a"])).verdict(EVENT)
    assert verdict.targets == {}
    assert verdict.reasons == ["routes[0]: yes, to nobody, stop"]


def test_an_event_without_a_mail():
    assert not router(Route(["a"], Condition({"from": ["cam@*"]}))).plan(EVENT | {"mail": None}).targets
    assert router(Route(["a"], Condition({"subject": ["motion on*"]}))).plan(EVENT | {"mail": None}).targets


def test_care_is_taken_unless_another_route_sends_without():
    rule, other = Rule(repeat=60), Rule(repeat=5)
    plan = router(Route(["a", "b"], rule=rule, name="slow"), Route(["b"]), Route(["a", "c"], rule=other)).plan(EVENT)
    assert list(plan.targets) == ["a", "b", "c"]
    assert plan.cares == {"a": ("routes[0] (slow)", rule), "c": ("routes[2]", other)}


def test_a_target_may_have_more_patience_than_others():
    def expiries(route):
        return Router([route], ["broker"], None, {"post": 5}).plan(EVENT).targets

    assert expiries(Route(["post", "broker"])) == {"post": 5, "broker": DEFAULT_EXPIRY}
    assert expiries(Route(["post", "broker"], expire=60)) == {"post": 60, "broker": 60}
