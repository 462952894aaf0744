"""What a mail means, by its words: kind, state, severity and title, by the rules that the gateway's generic profile has.

The rules are a file beside this one (`phrases.txt`, made of the profile by `gateway/flash/phrases.py`, which tells its
form), read line by line for each mail, so they take no memory. What a board leaves to the gateway: keys and values
of the text, device profiles, patterns.
"""

_SEARCHED = 1024  # characters of the text
_TITLE = 200
_SHORT = 4  # words


def meaning(subject: str, text: str, attachment: str = "") -> "tuple[str, str | None, str, str]":
    """(kind, state, severity, title); `attachment` is the name of the first, for a mail that says nothing else."""
    text = text[:_SEARCHED]
    title, body = _words(subject), _words(text)
    dull = False
    boilerplate: "tuple[str, ...]" = ()
    states: "list[tuple[str, str]]" = []  # (what it stands for, words)
    severities: "list[tuple[str, str]]" = []
    found: "list[tuple[str, ...] | None]" = [None, None]  # (kind, state, severity, flags, phrase): in the subject, the text
    with open(__file__.rsplit("/", 1)[0] + "/phrases.txt", encoding="utf-8") as file:
        for line in file:
            fields = line.rstrip("\n").split("\t")
            head = fields[0]
            if head == "=dull":
                dull = title.strip() in fields[1:]
            elif head == "=boilerplate":
                boilerplate = tuple(fields[1:])
            elif head[:1] == "=":
                words = (head[1:], " " + " ".join(fields[1:]) + " ")
                (states if head in ("=on", "=off") else severities).append(words)
            else:
                _look(fields, title, body, found)
                if found[0] and not dull and "v" not in found[0][3]:
                    break
    zone, rule = _decide(found, dull)
    line = subject
    kind, state = "other", None
    severity = _stands_for(severities, title) or "info"
    if rule:
        kind, state = rule[0], rule[1] or None
        line = _line_with(rule[4], text) if zone else subject
        words = _words(line)
        if "e" in rule[3]:
            state = _stands_for(states, words) or state
        severity = "info" if state == "off" else rule[2] or _stands_for(severities, words) or "info"
    severity = _stands_for(severities, _words(_bracketed(subject))) or severity
    said = "" if dull else subject
    said = said or (line if zone else "") or _first_line(text, boilerplate) or subject or attachment or "Mail without text"
    return kind, state, severity, said if len(said) <= _TITLE else said[: _TITLE - 1] + "…"


def _look(fields: "list[str]", title: str, body: str, found: "list[tuple[str, ...] | None]") -> None:
    """Note the first rule that each zone matches; one that is vague gives way to a later one that is not."""
    scope = fields[4]
    for zone, words in enumerate((title, body)):
        before = found[zone]
        if before and ("v" not in before[3] or "v" in fields[3]):
            continue
        if scope != "a" and (zone or (scope == "s" and words.count(" ") > _SHORT + 1)):
            continue
        for phrase in fields[5:]:
            if f" {phrase} " in words:
                found[zone] = (fields[0], fields[1], fields[2], fields[3], phrase)
                break


def _decide(found: "list[tuple[str, ...] | None]", dull: bool) -> "tuple[int, tuple[str, ...] | None]":
    """The zone that decides and its rule: the subject unless it is dull, and a vague one only if nothing is better."""
    order = (1, 0) if dull else (0, 1)
    for vague in (False, True):
        for zone in order:
            rule = found[zone]
            if rule and (vague or "v" not in rule[3]):
                return zone, rule
    return 0, None


def _words(text: str) -> str:
    """Its words in lower case, with single blanks between and around them."""
    out = []
    for letter in text.lower():
        plain = "a" <= letter <= "z" or "0" <= letter <= "9" or letter == "_"
        out.append(letter if plain or letter > "\xbf" else " ")
    return " " + " ".join("".join(out).replace("Ä", "ä").replace("Ö", "ö").replace("Ü", "ü").split()) + " "


def _stands_for(meanings: "list[tuple[str, str]]", words: str) -> "str | None":
    """What a word stands for: the first meaning in the order of the file, which has the worst severity first."""
    for meaning, said in meanings:
        for word in words.split():
            if f" {word} " in said:
                return meaning
    return None


def _line_with(phrase: str, text: str) -> str:
    for line in text.split("\n"):
        if f" {phrase} " in _words(line):
            return line.strip().lstrip("-* ")
    return phrase  # broken over two lines


def _bracketed(subject: str) -> str:
    """The words that stand in [brackets]."""
    return " ".join([piece.split("]")[0] for piece in subject.split("[")[1:] if "]" in piece])


def _first_line(text: str, boilerplate: "tuple[str, ...]") -> str:
    for line in text.split("\n"):
        line = line.strip()
        if line:
            for words in boilerplate:
                if line.lower().startswith(words):
                    break
            else:
                return line
    return ""
