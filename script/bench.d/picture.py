"""The main rows as a picture (SVG): a bar for each server, and a line at what the gateway must reach."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import report
from goals import Results
from servers import OURS, STORES
from ways import GOAL_OF_THE_WAY, OBVIOUS

_STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
  .page { fill: #ffffff; }
  .value { stroke: #ffffff; stroke-width: 4; paint-order: stroke; }
  .title { font-size: 18px; font-weight: 600; }
  .row { font-size: 14px; font-weight: 600; }
  .small { font-size: 12px; fill: #59636e; }
  .ours { fill: #1a7f37; }
  .stores { fill: #57606a; }
  .keeps-nothing { fill: #c8ced5; }
  .goal { stroke: #cf222e; stroke-width: 2; }
  .goal-text { font-size: 12px; fill: #cf222e; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .page { fill: #0d1117; }
    .value { stroke: #0d1117; }
    .small { fill: #9198a1; }
    .ours { fill: #3fb950; }
    .stores { fill: #8b949e; }
    .keeps-nothing { fill: #3d444d; }
    .goal { stroke: #ff7b72; }
    .goal-text { fill: #ff7b72; }
  }
"""
_WIDTH, _LEFT, _BAR, _LINE = 860, 250, 420, 22  # of the page, where bars begin, the longest bar, from bar to bar


@dataclass(frozen=True, slots=True)
class _Panel:
    row: str
    title: str
    against: str
    goal: float | None  # times `against`


_PANELS = (
    _Panel("receive-1k-10-kept", "Receive 1 KiB, 10 connections kept", "smtp-sink", 0.40),
    _Panel("receive-1k-10-each", "Receive 1 KiB, one mail a connection", "smtp-sink", 0.50),
    _Panel("receive-8k-10-kept", "Receive 8 KB of HTML, 10 connections kept", "smtp-sink", None),
    _Panel("receive-200k-10-kept", "Receive 200 KiB from a camera, 10 connections kept", "smtp-sink", 0.70),
    _Panel("way-1k", "The whole way: stored, understood, at a QoS 1 subscriber", OBVIOUS, GOAL_OF_THE_WAY),
)


def draw(results: Results, machine: dict[str, Any]) -> str:
    """The whole SVG document; rows that were not measured are left out."""
    parts: list[str] = []
    y = 76
    for panel in _PANELS:
        if servers := results.get(panel.row, {}).get("servers"):
            parts += _panel(panel, servers, y)
            y += 26 + len(servers) * _LINE + 26
    height = y + 30
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        'role="img" aria-labelledby="title">',
        '<title id="title">Mailwire beside its peers: mails per second</title>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}" rx="8"/>',
        _text(20, 32, "Mails per second, medians of interleaved runs on one machine", "title"),
        *_legend(54),
    ]
    return "\n".join([*head, *parts, _text(20, height - 14, report.machine(machine), "small"), "</svg>"]) + "\n"


def _legend(y: int) -> Iterator[str]:
    x = 20
    for kind, words, wide in (
        ("ours", "Mailwire, fsync before the 250", 210),
        ("stores", "fsync before the 250", 150),
        ("keeps-nothing", "keeps nothing", 105),
    ):
        yield f'<rect class="{kind}" x="{x}" y="{y - 10}" width="12" height="12" rx="2"/>'
        yield _text(x + 18, y, words, "small")
        x += wide
    yield f'<line class="goal" x1="{x + 6}" x2="{x + 6}" y1="{y - 11}" y2="{y + 3}"/>'
    yield _text(x + 14, y, "what Mailwire must reach", "small")


def _panel(panel: _Panel, servers: dict[str, Any], y: int) -> Iterator[str]:
    base = servers.get(panel.against, {}).get("rate")
    goal = panel.goal * base if panel.goal and base else 0
    longest = max([goal, *(figures["rate"] for figures in servers.values())])
    yield _text(20, y + 12, panel.title, "row")
    top = y + 26
    words: list[str] = []  # drawn last, over the line
    for i, (name, figures) in enumerate(servers.items()):
        line = top + i * _LINE
        wide = max(2, round(_BAR * figures["rate"] / longest))
        kind = "ours" if name == OURS else "stores" if name in STORES else "keeps-nothing"
        yield f'<rect class="{kind}" x="{_LEFT}" y="{line}" width="{wide}" height="16" rx="2"/>'
        ratio = figures.get("to_sink", figures.get("ratio"))
        times = "" if ratio is None or name == panel.against else f"  ({ratio:.2f} x)"
        words.append(_text(_LEFT - 10, line + 12, name, anchor="end"))
        words.append(_text(_LEFT + wide + 8, line + 12, f"{figures['rate']:,.0f}{times}", "value"))
    if goal:
        x = _LEFT + round(_BAR * goal / longest)
        bottom = top + len(servers) * _LINE - 2
        yield f'<line class="goal" x1="{x}" x2="{x}" y1="{top - 4}" y2="{bottom}"/>'
        yield _text(x, bottom + 13, f"{panel.goal:g} x {panel.against}", "goal-text", anchor="middle")
    yield from words


def _text(x: int, y: int, words: str, kind: str = "", anchor: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    anchored = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x}" y="{y}"{of_kind}{anchored}>{escape(words)}</text>'
