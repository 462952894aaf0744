"""What words in a mail mean, for a board: the generic profile as lines that `firmware/meaning.py` reads one by one.

A board can't hold some six hundred phrases in memory, and need not: it reads this file from its flash for each mail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.interpret.meaning import profile

_AT_ONCE = 10  # phrases in a line: a long one needs a gap in the heap that there may not be


def table() -> bytes:
    """UTF-8, fields divided by tabs. First `=WORD` and the words that stand for it (a state, a severity; of `=dull` and
    `=boilerplate` they are phrases). Then lines for each rule and scope, in the order of the rules: kind, state,
    severity, `e` if words of ending and beginning decide its state, `v` if it is vague, the scope's first letter, and
    the phrases as words between single blanks.
    """
    rules = profile()
    lines = [["=dull", *said] for said in _in_lines(sorted(rules.dull))]
    lines += [["=boilerplate", *said] for said in _in_lines(rules.boilerplate)]
    for words in (rules.states, rules.severities):
        meanings = dict.fromkeys(words.values())
        lines += [[f"={meaning}", *(word for word in words if words[word] == meaning)] for meaning in meanings]
    phrases = [phrase for branch in rules.phrases.values() for group in branch.values() for phrase in group]
    for rank, rule in enumerate(rules.rules):
        flags = "e" * rule.ends + "v" * rule.vague
        for scope in ("anywhere", "title", "short"):
            said = [" ".join(phrase.words) for phrase in phrases if (phrase.rank, phrase.scope) == (rank, scope)]
            facts = [rule.kind, rule.state or "", rule.severity or "", flags, scope[0]]
            lines += [[*facts, *some] for some in _in_lines(said)]
    return "".join("\t".join(line) + "\n" for line in lines).encode()


def _in_lines(phrases: Sequence[str]) -> Iterator[Sequence[str]]:
    return (phrases[at : at + _AT_ONCE] for at in range(0, len(phrases), _AT_ONCE))
