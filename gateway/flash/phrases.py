"""What words in a mail mean, for a board: the generic profile as lines that `firmware/meaning.py` reads one by one.

A board can't hold some seven hundred phrases in memory, and need not: it reads this file from its flash for each mail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.interpret.families import UNSPACED
from gateway.interpret.meaning import listed, profile
from gateway.letters import unaccented

_AT_ONCE = 10  # phrases in a line: a long one needs a gap in the heap that there may not be


def table() -> bytes:
    """UTF-8, fields divided by tabs. First `=WORD` and the words that stand for it (a state, a severity; of `=dull` and
    `=boilerplate` they are phrases). Then lines for each rule and scope, in the order of the rules: kind, state,
    severity, `e` if words of ending and beginning decide its state, `v` if it is vague, the scope's first letter, and
    the phrases as words between single blanks.

    A board takes no accents away, so what has some is there with and without, but for boilerplate, where the gateway
    takes none away either. What the profile calls `more`, phrases whose words are apart, and scripts that put no blanks
    between words are the gateway's alone.
    """
    source = profile().source
    lines = [["=dull", *said] for said in _in_lines(sorted(_spelled(source["dull"])))]
    lines += [["=boilerplate", *said] for said in _in_lines(_spaced(source["boilerplate"]))]
    for words_for in ("states", "severities"):
        lines += [[f"={meaning}", *_spelled(words)] for meaning, words in source[words_for].items()]
    for rule in source["rule"]:
        flags = "e" * rule.get("ends", False) + "v" * rule.get("vague", False)
        for scope in ("anywhere", "title", "short"):
            facts = [rule["kind"], rule.get("state", ""), rule.get("severity", ""), flags, scope[0]]
            lines += [[*facts, *some] for some in _in_lines(_spelled(rule.get(scope, "")))]
    return "".join("\t".join(line) + "\n" for line in lines).encode()


def _spaced(phrases: str) -> list[str]:
    return [phrase for phrase in listed(phrases) if not UNSPACED.search(phrase)]


def _spelled(phrases: str) -> list[str]:
    return list(dict.fromkeys(one for phrase in _spaced(phrases) for one in (phrase, unaccented(phrase))))


def _in_lines(phrases: Sequence[str]) -> Iterator[Sequence[str]]:
    return (phrases[at : at + _AT_ONCE] for at in range(0, len(phrases), _AT_ONCE))
