"""The draft of a profile from sample mails: what is the same in all of them, what varies, and what that may be.

A draft is a beginning: it passes the check and knows its samples, and its comments say what was guessed. A person
reads the mails' documentation, names the fields, and takes out what is only of these samples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from gateway import interpret
from gateway.interpret import values
from gateway.interpret.families import ENOUGH, Said, spaced, words_of
from gateway.interpret.meaning import lines_of
from gateway.interpret.meaning import profile as generic
from gateway.registry import ENDS_BY_ITSELF
from gateway.samples import Greeting

_MOST_KEYS = 4  # that speak for the family
_ALIKE = 0.6  # of two subjects' words, that they are of one kind of mail
_SHOWN = 4  # values in a comment


@dataclass
class _Mail:
    name: str
    reading: interpret.Reading
    meaning: interpret.Meaning
    lines: dict[str, str]
    subject: tuple[str, ...] = field(default=())


def draft(mails: Sequence[tuple[str, bytes]]) -> str:
    """A profile's text from (name, mail). Raises ValueError if the mails have nothing in common."""
    read = [_read(name, raw) for name, raw in mails]
    clues = _clues(read)
    total = sum(points for _, _, points in clues)
    if not clues:
        raise ValueError(
            "these mails have nothing in common that says whom they are from: no name, no words of the subject, "
            "no line. Give mails of one device only"
        )
    if total < ENOUGH:
        zone, words, points = clues[0]
        clues[0] = zone, words, points + ENOUGH - total
    groups = _groups(read)
    makers = {mail.meaning.manufacturer for mail in read}
    out = [
        f"# Drafted from {_listing([mail.name for mail in read])}. Read it, and name what was guessed.",
        "",
        'title = "What it is, for people"',
        'group = "plant"  # or cameras, nas, ups, printers, servers, hosts, monitoring, network',
    ]
    if len(makers) == 1 and (maker := makers.pop()):
        out.append(f"manufacturer = {_text(maker)}")
    out += ['sources = ["where the wording is written down: a URL, or a manual and its page"]', ""]
    for zone, words, points in clues:
        out += ["[[clue]]", f'in = "{zone}"', f"words = {_text(words)}", f"points = {points}", ""]
    out += ["[fields]", *_fields(read), ""]
    names: set[str] = set()
    for group in groups:
        out += [*_mail(group, names), ""]
    return "\n".join(out)


def _read(name: str, raw: bytes) -> _Mail:
    reading = interpret.read(raw)
    said = Greeting("")
    lines = lines_of(reading.text)
    meaning = interpret.meaning(reading, said, family="generic")
    return _Mail(name, reading, meaning, lines, words_of(Said(reading, said).zones["subject"]))


def _clues(mails: Sequence[_Mail]) -> list[tuple[str, str, int]]:
    """(zone, words, points) of what all of them have."""
    clues: list[tuple[str, str, int]] = []
    for zone, texts, points in (
        ("x-mailer", [mail.reading.headers.get("x-mailer", "") for mail in mails], 5),
        ("from_name", [mail.reading.sender_name for mail in mails], 3),
        ("from", [mail.reading.sender.partition("@")[0] for mail in mails], 3),
    ):
        common = _common([words_of(text) for text in texts])
        if common:
            clues.append((zone, " ".join(common), points))
    if common := _common([mail.subject for mail in mails]):
        clues.append(("subject", " ".join(common), 3 if len(common) < 3 else 6))
    said = Said(mails[0].reading, Greeting(""))
    keys = [key for key in mails[0].lines if all(key in mail.lines for mail in mails)]
    keys = [key for key in keys if said.has("text", spaced(key.replace("_", " ")))]
    clues += [("text", key.replace("_", " "), 3) for key in keys[:_MOST_KEYS]]
    if not keys and (common := _common([words_of(mail.reading.text[:2000]) for mail in mails])[:8]):
        clues.append(("text", " ".join(common), 4))
    return clues


def _common(texts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The longest run of words without digits that all of them have."""
    run = texts[0]
    for text in texts[1:]:
        found = SequenceMatcher(None, run, text, autojunk=False).find_longest_match()
        run = run[found.a : found.a + found.size]
    best: tuple[str, ...] = ()
    part: tuple[str, ...] = ()
    for word in (*run, "0"):
        if any(letter.isdigit() for letter in word):
            best, part = max(best, part, key=len), ()
        else:
            part = (*part, word)
    return best if sum(map(len, best)) > 2 else ()


def _groups(mails: Sequence[_Mail]) -> list[list[_Mail]]:
    """Mails of one kind: they mean the same by the generic words, and name the same event, or have alike subjects."""
    groups: list[list[_Mail]] = []
    for mail in mails:
        for group in groups:
            first = group[0]
            event = _event(mail)
            alike = SequenceMatcher(None, first.subject, mail.subject, autojunk=False).ratio() >= _ALIKE
            same = (first.meaning.kind, first.meaning.state) == (mail.meaning.kind, mail.meaning.state)
            if same and event == _event(first) and (event or alike):
                group.append(mail)
                break
        else:
            groups.append([mail])
    return groups


def _event(mail: _Mail) -> tuple[str, str] | None:
    """The line that says what happened: (slug of its key, its text)."""
    return next(((key, mail.lines[key]) for key in generic().keys["event"] if key in mail.lines), None)


def _fields(mails: Sequence[_Mail]) -> list[str]:
    """Of each line with a key: what type it may be, and what it said."""
    keys = list(dict.fromkeys(key for mail in mails for key in mail.lines))
    if not keys:
        return ["# no lines of the form KEY: value; see [[mail]] pattern"]
    out = []
    for key in keys:
        said = list(dict.fromkeys(mail.lines[key] for mail in mails if key in mail.lines))
        name = (
            key
            if re.fullmatch("[a-z][a-z0-9_]{0,34}", key) and not key.endswith("_unit")
            else f"field_{key}"[:35].rstrip("_")
        )
        out.append(f"{name} = {{ key = {_text(key)}{_type(said)} }}  # {_note(said, len(mails))}")
    return out


def _type(said: Sequence[str]) -> str:
    measured = [values.of_stranger(text) for text in said]
    if all(measured):
        units = {amount[1] for amount in measured if amount}
        if units <= {"s", "min", "h", "d"}:
            return f', type = "duration", unit = "{units.pop() if len(units) == 1 else "min"}"'
        return f', type = "number", unit = "{units.pop()}"' if len(units) == 1 else ', type = "number"'
    if all(values.date(text) for text in said):
        return ', type = "time"'
    return ""


def _note(said: Sequence[str], count: int) -> str:
    shown = _listing([_text(text[:40]) for text in said[:_SHOWN]]) + (" ..." if len(said) > _SHOWN else "")
    if count == 1:
        return f"said {shown}"
    return f"varies: {shown}" if len(said) > 1 else f"the same in all: {shown}"


def _mail(group: Sequence[_Mail], names: set[str]) -> list[str]:
    meaning = group[0].meaning
    name = base = f"{meaning.kind.replace('_', ' ')}{f' {meaning.state}' if meaning.state else ''}"
    for number in range(2, 100):
        if name not in names:
            break
        name = f"{base} {number}"
    names.add(name)
    when = []
    if event := _event(group[0]):
        when.append(f"{{ text = {_text(f'{event[0]} {event[1]}'.replace('_', ' ').lower())} }}")
    if common := _common([mail.subject for mail in group]):
        when.append(f"{{ subject = {_text(' '.join(common))} }}")
    if not when:
        words = _common([words_of(mail.reading.text[:500]) for mail in group])[:8] or ("mail",)
        when.append(f"{{ text = {_text(' '.join(words))} }}")
    subjects = list(dict.fromkeys(mail.reading.subject or "" for mail in group))
    out = [
        "[[mail]]",
        f"# {_listing([mail.name for mail in group])}; subjects: {_listing([_text(one[:80]) for one in subjects])}",
        f"name = {_text(name)}",
        f"when = [{', '.join(when)}]",
        f'kind = "{meaning.kind}"',
    ]
    if meaning.state:
        out.append(f'state = "{meaning.state}"')
    out.append(f'severity = "{meaning.severity}"')
    if meaning.state == "on":
        seconds = ENDS_BY_ITSELF.get(meaning.kind, 0.0)
        out.append(f"off_after = {seconds:.0f}  # seconds; 0: it stays on until a mail of this kind says off")
    if pattern := _pattern(subjects):
        out += ["# what varies in the subject; give the groups their names", f"pattern = [{pattern}]"]
    return out


def _pattern(subjects: Sequence[str]) -> str:
    """An expression for what varies between the subjects, or "": they are all the same, or too different."""
    if len(subjects) < 2:
        return ""
    first, second = (re.findall(r"\w+|\s+|[^\w\s]", subject) for subject in subjects[:2])
    expression, count = "^", 0
    for tag, start, end, _, other_end in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if tag == "equal":
            expression += re.escape("".join(first[start:end])).replace("\\ ", " ")
        else:
            count += 1
            last = end == len(first) and other_end == len(second)
            expression += f"(?P<value_{count}>.{{1,60}}{'' if last else '?'})"
    expression += "$"
    fits = all(re.match(expression, subject, re.IGNORECASE) for subject in subjects)
    if not fits or not 0 < count <= 2 or "'" in expression:
        return ""
    return f"{{ in = \"subject\", regex = '{expression}' }}"


def _text(text: Any) -> str:
    """As TOML has it, in quotes; JSON's escapes are TOML's."""
    return json.dumps(str(text), ensure_ascii=not str(text).isprintable())


def _listing(texts: Iterable[str]) -> str:
    return ", ".join(texts)
