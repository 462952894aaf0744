"""What a mail means, by its words: kind, state, severity and title, as the gateway's generic profile has them.

The rules are a file beside this one (`phrases.txt`, made of the profile by `gateway/flash/phrases.py`, which tells its
form), read line by line for each mail and for each question, so they take no memory. What a board leaves to the
gateway: keys and values of the text, device profiles, patterns, a "no" before a phrase, words that stand apart, most of
what is not English or German.
"""

from gateway.wire.event import SEVERITIES, STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Rule = tuple[str, str, str, str, str]  # kind, state, severity, flags, the phrase

_SEARCHED = 1024  # characters of the text
_TITLE = 200
_SHORT = 4  # words


def meaning(subject: str, text: str, attachment: str = "") -> "tuple[str, str | None, str, str]":
    """(kind, state, severity, title); `attachment` is the name of the first, for a mail that says nothing else."""
    text = text[:_SEARCHED]
    zones = (_words(subject), _words(text))
    dull = False
    found: list[Rule | None] = [None, None]  # in the subject, in the text
    with _phrases() as file:
        for line in file:
            if not line.startswith("="):
                _look(line, zones, found)
                if found[0] and not dull and "v" not in found[0][3]:
                    break
            elif line.startswith("=dull\t"):
                dull = dull or f"\t{zones[0][1:-1]}\t" in line or line.endswith(f"\t{zones[0][1:-1]}\n")
    zone, rule = _decide(found, dull)
    line = subject
    kind, state = "other", None
    severity = "info" if rule else _stands_for(SEVERITIES, zones[0]) or "info"
    if rule:
        kind, state = rule[0], rule[1] or None
        line = _line_with(rule[4], text) if zone else subject
        words = _words(line)
        if "e" in rule[3]:
            state = _stands_for(STATES, words) or state
        severity = "info" if state == "off" else rule[2] or _stands_for(SEVERITIES, words) or "info"
    severity = _stands_for(SEVERITIES, _words(_bracketed(subject))) or severity
    said = "" if dull else subject
    said = said or (line if zone else "") or _first_line(text) or subject
    said = said or attachment or "Mail without text"
    return kind, state, severity, said if len(said) <= _TITLE else said[: _TITLE - 1] + "…"


def _phrases() -> "Any":
    return open(__file__.rsplit("/", 1)[0] + "/phrases.txt", encoding="utf-8")


def _look(line: str, zones: "tuple[str, str]", found: "list[Rule | None]") -> None:
    """Note the first rule that each zone matches; one that is vague gives way to a later one that is not."""
    begin = 0
    for _ in range(5):
        begin = line.find("\t", begin) + 1
    kind, state, severity, flags, scope, _ = line[:begin].split("\t")
    for zone in (0, 1):
        words, before = zones[zone], found[zone]
        if before and ("v" not in before[3] or "v" in flags):
            continue
        if scope != "a" and (zone or (scope == "s" and words.count(" ") > _SHORT + 1)):
            continue
        at = begin
        while at < len(line):  # a phrase at a time: a list of all would take a board's memory
            end = line.find("\t", at)
            end = len(line) - 1 if end < 0 else end
            phrase = line[at:end]
            if f" {phrase} " in words:
                found[zone] = (kind, state, severity, flags, phrase)
                break
            at = end + 1


def _decide(found: "list[Rule | None]", dull: bool) -> "tuple[int, Rule | None]":
    """The zone that decides and its rule: the subject unless it is dull, and a vague one only if nothing is better."""
    for vague in (False, True):
        for zone in (1, 0) if dull else (0, 1):
            rule = found[zone]
            if rule and (vague or "v" not in rule[3]):
                return zone, rule
    return 0, None


def _words(text: str) -> str:
    """Its words in lower case, with single blanks between and around them."""
    octets = bytearray(text.lower().encode())
    for at, octet in enumerate(octets):  # not letters: MicroPython keeps each that it is asked for
        if octet == 0xC2:  # the signs of Latin-1
            octets[at] = octets[at + 1] = 32
        elif octet == 0xC3 and octets[at + 1] in b"\x84\x96\x9c":  # Ä, Ö, Ü
            octets[at + 1] += 32
        elif octet < 128 and not (97 <= octet <= 122 or 48 <= octet <= 57 or octet == 95):
            octets[at] = 32
    return " " + " ".join(bytes(octets).decode().split()) + " "


def _stands_for(meanings: "tuple[str, ...]", words: str) -> "str | None":
    """What a word stands for: the first meaning in the order of the file, which has the worst severity first."""
    with _phrases() as file:
        for line in file:
            if not line.startswith("="):
                break
            name = line[1 : line.find("\t")]
            if name in meanings:
                line = line.replace("\t", " ")
                for word in words.split():
                    if f" {word} " in line or line.endswith(f" {word}\n"):
                        return str(name)
    return None


def _line_with(phrase: str, text: str) -> str:
    for line in text.split("\n"):
        if f" {phrase} " in _words(line):
            return line.strip().lstrip("-* ")
    return phrase  # broken over two lines


def _bracketed(subject: str) -> str:
    """The words that stand in [brackets]."""
    return " ".join([piece.split("]")[0] for piece in subject.split("[")[1:] if "]" in piece])


def _first_line(text: str) -> str:
    for line in text.split("\n"):
        line = line.strip()
        if line and not _is_boilerplate(line.lower()):
            return line
    return ""


def _is_boilerplate(said: str) -> bool:
    with _phrases() as file:
        for line in file:
            if line.startswith("=boilerplate\t") and [1 for words in line[13:-1].split("\t") if said.startswith(words)]:
                return True
            if not line.startswith("="):
                break
    return False
