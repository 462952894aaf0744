"""HTML to text, roughly and while it comes: tags become line ends or nothing, and what nobody sees goes.

For charsets that hold ASCII. Memory is bounded by a tag's first octets. MicroPython-safe.
"""

from gateway.wire.charset import unreadable

# Each with blanks around it; one text for all, for a list would take ten times the memory.
_HIDDEN = b" script style title template "
_LINES = b" br div tr li dt dd section article header footer address center "
_PARAGRAPHS = b" p h1 h2 h3 h4 h5 h6 table ul ol dl pre blockquote hr "
_CELL = "\x01"  # the end of a cell
_EDGE = "\x02"  # an end of a line, of which two are one
_ENTITIES = (
    " amp& lt< gt> quot\" apos' aumlä oumlö uumlü AumlÄ OumlÖ UumlÜ szligß eacuteé egraveè agraveà "
    "ccedilç deg° euro€ copy© reg® mdash— ndash– hellip… middot· rsquo’ lsquo‘ "
    "rdquo” ldquo“ bull• "
)  # the letter stands behind its name
_TAG = 256  # octets of a tag that are looked at


class Page:
    """`feed` returns the text of what came; `finished` makes it what a person sees. `charset`: what a <meta> names."""

    def __init__(self) -> None:
        self._kept = b""
        self._until = b""  # what ends that which is being skipped
        self.charset = ""

    def feed(self, data: bytes) -> bytes:
        data = self._kept + data.replace(b"\r", b" ").replace(b"\n", b" ").replace(b"\x01", b"").replace(b"\x02", b"")
        out = []
        at = 0
        while at < len(data):
            if self._until:
                end = data.lower().find(self._until, at) if self._until[:2] == b"</" else data.find(self._until, at)
                if end < 0:
                    at = max(at, len(data) - len(self._until) + 1)
                    break
                at = end if self._until[:2] == b"</" else end + len(self._until)
                self._until = b""
                continue
            sign = data.find(b"<", at)
            if sign < 0:
                out.append(data[at:])
                at = len(data)
                break
            out.append(data[at:sign])
            at = sign
            if len(data) - at < 4 and b">" not in data[at:]:
                break
            second = data[at + 1]
            if data[at : at + 4] == b"<!--":
                self._until = b"-->"
                at += 4
            elif second in b"!?":
                self._until = b">"
            elif second == 47 or 65 <= second & 0xDF <= 90:
                end = data.find(b">", at)
                if end < 0:
                    if len(data) - at < _TAG:
                        break
                    self._until = b">"
                    out.append(self._tag(data[at + 1 : at + _TAG]))
                else:
                    out.append(self._tag(data[at + 1 : end]))
                    at = end + 1
            else:
                out.append(b"<")
                at += 1
        self._kept = data[at:]
        return b"".join(out)

    def rest(self) -> bytes:
        """What is left of the text when no more comes: a `<` that begins nothing."""
        begun = self._kept[1:2].isalpha() or self._kept[1:2] in (b"/", b"!", b"?")
        return b"" if self._until or begun else self._kept

    def _tag(self, tag: bytes) -> bytes:
        tag = tag.lower()
        closing = tag[:1] == b"/"
        name = tag.strip(b"/ ").split(b" ")[0].rstrip(b"/")
        word = b" " + name + b" "
        if word in _HIDDEN and not closing:
            self._until = b"</" + name
        elif name == b"meta" and not self.charset:
            at = tag.find(b"charset=")
            if at >= 0:
                self.charset = unreadable(tag[at + 8 :].strip(b"\"' ").split(b'"')[0].split(b"'")[0].split(b" ")[0])
        elif word in _PARAGRAPHS:
            return b"\n\n"
        elif word in _LINES:
            return b"\n" if name == b"br" else b"\x02- " if name == b"li" and not closing else b"\x02"
        elif name in (b"td", b"th") and closing:
            return b"\x01"
        return b""

    def finished(self, text: str) -> str:
        """The text with its entities and blanks as a person sees them."""
        text = _with_entities(text)
        text = "\n".join([piece for piece in text.split(_EDGE) if piece.strip(" ")])
        lines: list[str] = []
        for line in text.split("\n"):
            line = "\t".join([" ".join(cell.split()) for cell in line.split(_CELL)]).strip()
            if line or (lines and lines[-1]):
                lines.append(line)
        return "\n".join(lines).strip("\n")


def _with_entities(text: str) -> str:
    pieces = text.split("&")
    out = [pieces[0]]
    for piece in pieces[1:]:
        end = piece.find(";", 0, 10)
        name = piece[:end] if end > 0 else ""
        letter = " " if name == "nbsp" else ""
        at = _ENTITIES.find(" " + name) if name.isalpha() else -1
        if at >= 0 and _ENTITIES[at + len(name) + 2 : at + len(name) + 3] == " ":
            letter = _ENTITIES[at + len(name) + 1]
        if name[:1] == "#":
            digits, base = (name[2:], 16) if name[1:2] in ("x", "X") else (name[1:], 10)
            if digits and not digits.lower().strip("0123456789abcdef" if base == 16 else "0123456789"):
                code = int(digits, base)
                printable = 32 <= code < 127 or 0xA0 <= code < 0xD800 or 0xE000 <= code < 0x110000
                letter = chr(code) if printable else " " if code in (9, 10, 13) else "\ufffd"
        if letter:
            out.append(letter)
            out.append(piece[end + 1 :])
        else:
            out.append("&")
            out.append(piece)
    return "".join(out)
