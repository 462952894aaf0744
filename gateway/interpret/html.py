"""HTML to text that a person can read and rules can match: lines as a browser would break them, cells set apart.

A tokenizer of our own: `html.parser` of Python 3.11 takes half a minute for 60 KB of `<a <a <a`. Here every step
moves forward, so time grows with the length alone, whatever is nested in whatever.
"""

from __future__ import annotations

import re

_NAME = r"<(/?)([a-zA-Z][a-zA-Z0-9:_-]*+)"
_TAG = re.compile(_NAME + r"""(?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')|=)*+>""")
_BARE_TAG = re.compile(_NAME + "[^>]*+>")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31})(?:;|\b)")
_HIDDEN = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style", "title", "template")}
# How many line ends an element needs before and after it: 2 leave an empty line.
_LINE = "div tr li dt dd form section article header footer address center fieldset caption main nav"
_PARAGRAPH = "p h1 h2 h3 h4 h5 h6 table ul ol dl pre blockquote hr"
_BREAKS = {name: breaks for breaks, names in ((1, _LINE), (2, _PARAGRAPH)) for name in names.split()}


def to_text(html: str, limit: int) -> str:
    """The text without markup, scripts, styles and comments; one longer than `limit` ends somewhere behind it."""
    page = _Page()
    at, tags = 0, _TAG
    while page.size <= limit:
        sign = html.find("<", at)
        if sign != at:
            page.write(html[at:] if sign < 0 else html[at:sign])
        if sign < 0:
            break
        tag = tags.match(html, sign)
        if tag is None and tags is _TAG:
            # A ">" in a quoted attribute ends nothing. The first quote without a partner switches that care off, so
            # that not every later tag searches for one in vain.
            tag = _BARE_TAG.match(html, sign)
            if tag is not None:
                tags = _BARE_TAG
        if tag is not None:
            at = tag.end()
            name = tag[2].lower()
            if name in _HIDDEN and not tag[1]:
                hidden = _HIDDEN[name].search(html, at)
                if hidden is None:
                    break
                at = hidden.start()
            else:
                page.tag(name, tag[1] == "/")
        elif html.startswith(("<!", "<?", "</"), sign):
            comment = html.startswith("<!--", sign)
            end = html.find("-->", sign + 4) if comment else html.find(">", sign)
            if end < 0:
                break
            at = end + (3 if comment else 1)
        elif html[sign + 1 : sign + 2].isalpha() and html[sign + 1].isascii():
            break  # a tag that never ends
        else:
            page.write("<")
            at = sign + 1
    return page.text()


class _Page:
    """The text so far, and what must come before the next piece of it."""

    def __init__(self) -> None:
        self.size = 0
        self._out: list[str] = []
        self._breaks = 0
        self._gap = ""
        self._cells = False  # this row has a cell already
        self._preformatted = 0

    def write(self, text: str) -> None:
        if "&" in text:
            text = _ENTITY.sub(_entity, text)
        if self._preformatted:
            self._put(text.strip("\n") if self._breaks else text)
            return
        body = " ".join(text.split())
        if not body:
            self._gap = self._gap or " "
            return
        if not self._gap and text[0] != body[0]:
            self._gap = " "
        self._put(body)
        if text[-1] != body[-1]:
            self._gap = " "

    def _put(self, body: str) -> None:
        before = ("\n" * self._breaks or self._gap) if self._out else ""
        self._breaks, self._gap = 0, ""
        self._out += (before, body)
        self.size += len(before) + len(body)

    def tag(self, name: str, closing: bool) -> None:
        breaks = _BREAKS.get(name)
        if breaks is not None:
            if name in ("tr", "table"):
                self._cells = False
            elif name == "pre":
                self._preformatted = max(0, self._preformatted + (-1 if closing else 1))
            if breaks > self._breaks and self._gap != "\t":
                self._breaks = breaks
            if name == "li" and not closing:
                self._put("-")
                self._gap = " "
        elif name in ("td", "th"):
            if self._cells and not closing:
                self._breaks, self._gap = 0, "\t"
            self._cells = True
        elif name == "br":
            self._breaks = min(self._breaks + 1, 3)

    def text(self) -> str:
        return "".join(self._out)


def _entity(found: re.Match[str]) -> str:
    from html import unescape  # its table of 2,231 names is only needed here

    return unescape(found[0]).replace("\xa0", " ").replace("\r", " ")
