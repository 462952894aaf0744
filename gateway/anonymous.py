"""A mail that its owner can show: who, where and which unit it was are replaced, what it is made of is kept.

Addresses, names, IP and MAC addresses, host names, serial numbers and dates become others that look alike, each the
same wherever it stands; attachments become placeholders of their type. Header, structure, charsets and transfer
encodings stay, and so do the words that profiles know mails by: a profile must find the same kind in it as before.

What a program takes for private it finds by its form, or by the line it stands in. A person reads the result before
they give it away.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

from gateway import interpret
from gateway.interpret import charset, fields, mime, transfer
from gateway.interpret.families import Family, words_of
from gateway.interpret.meaning import lines_of
from gateway.interpret.meaning import profile as generic
from gateway.letters import unaccented
from gateway.registry import GENERIC_NAMES

_PICTURES = {
    "image/jpeg": "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP////////////////////////////////////////////////////////////////"
    "//////////////////////wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxA=",
    "image/png": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    "image/gif": "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7",
}
_NAMES = (
    "alder", "birch", "cedar", "elm", "fir", "hazel", "holly", "larch", "linden", "maple", "myrtle", "oak", "olive",
    "pine", "poplar", "rowan", "sorrel", "spruce", "willow", "yew",
)  # fmt: skip
_WEEKS = 260  # that dates go back by, at most
_PRIVATE = re.compile(  # slugs of lines that say who, where or which unit
    r"(?:^|_)(?:name|user|username|contact|location|host|hostname|owner|serial|s_n|sn|uuid|guid|wwn|id|ssid|node|account"
    r"|service_tag|standort|benutzer|seriennummer|geraetename|job|share|folder|site|customer|company|camera|sender)(?:_|$)"
)
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_MONTH = f"(?:{'|'.join(_MONTHS)})"
_FILE = (
    "jpe?g|png|gif|bmp|pdf|txt|log|csv|zip|mp4|avi|tiff?|xps|html?|php|cgi|eml|xml|json|conf|cfg|sh|py|exe|dll|service"
)
_FORMS = re.compile(
    r"(?P<address>[\w.+=-]+@[\w-]*\w(?:\.[\w-]*\w)*)"
    r"|(?P<mac>(?<![\w:])(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}(?![\w:]))"
    r"|(?P<ip6>(?<![\w:])(?:[0-9a-f]{1,4}:){2,7}(?::?[0-9a-f]{1,4})(?=::|[0-9a-f:]*[a-f]|:)[0-9a-f:]*(?![\w:])"
    r"|(?<![\w:])(?:[0-9a-f]{1,4}:){1,6}:[0-9a-f:]{1,39}(?![\w:]))"
    r"|(?P<serial>(?<!\w)(?:s/n|serial(?: (?:number|num|no\.?))?|wwn|uuid) ?[:#=] ?[\w-]{4,})"
    r"|(?P<ip4>(?<![\w.])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w.]*\d))"
    r"|(?P<date>(?<!\d)(?:19|20)\d\d(?P<first>[-/.])(?:0?\d|1[0-2])(?P=first)(?:[0-2]?\d|3[01])(?!\d)"
    r"|(?<!\w)[0-3]?\d(?P<second>[-/.])[0-3]?\d(?P=second)(?:19|20)\d\d(?!\d)"
    rf"|(?<!\w)(?:[0-3]?\d)[ -]{_MONTH}[a-z]{{0,6}}[ -](?:19|20)\d\d(?!\d)"
    rf"|(?<!\w){_MONTH}[a-z]{{0,6}} {{1,2}}[0-3]?\d,? (?:19|20)\d\d(?!\d)"
    r"|(?<!\d)20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?=\d{6}(?!\d)|(?!\d)))"
    rf"|(?P<host>(?<![\w.])(?!\w+\.(?:{_FILE})\b)(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{{2,12}}(?![\w.]))"
    r"|(?P<token>(?<!\w)(?=\w*\d)(?!0x)[a-z0-9]{8,}(?!\w))",
    re.IGNORECASE,
)
_KINDS = ("address", "mac", "ip6", "ip4", "date", "host", "serial", "token")
_ENCODED = re.compile(r"=\?([^?\s]{1,60})\?([bBqQ])\?([^?]*)\?=(?:\s+=\?\1\?\2\?[^?]*\?=)*")
_NO_WORDS = re.compile(r"\\.|\(\?P<\w+>|\{[\d,]*\}|\[[^\]]*\]")  # of an expression
_PAYLOAD = re.compile(r"=\?[^?\s]{1,60}\?[bBqQ]\?([^?]*)\?=")
_WORD = re.compile(r"[^\W_]+")
_IP4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_HEX = re.compile("[0-9a-f]+", re.IGNORECASE)
_LONGEST_LINE = 76
_SMALL = 4096  # bytes of a picture


def anonymous(raw: bytes, family: Family | None, secret: bytes) -> bytes:
    """The mail's bytes. `family`: the one that it is from, whose words are kept.

    `secret`: what replacements are made with, so that nobody can try what they were; the same one, the same result.
    """
    reading = interpret.read(raw)
    mail = mime.split(raw)
    replacer = _Replacer(_kept(family), _boundaries(mail, raw), secret)
    meaning = interpret.meaning(reading, _Nobody())
    lines = lines_of(reading.text)
    replacer.name(reading.sender_name, each_word=True)
    for name in (meaning.device_name, meaning.serial):
        replacer.name(name or "")
    for key, value in lines.items():
        if _PRIVATE.search(key):
            replacer.name(value)
    out, at = [], 0
    for part in sorted(mail.parts, key=lambda one: one.start):
        if part.start < at:
            continue
        out += [replacer.header(raw[at : part.start]), _body(raw, part, replacer)]
        at = part.end
    out.append(replacer.header(raw[at:]))
    return b"".join(out)


class _Nobody:
    helo = ""


class _Replacer:
    """What becomes of what: the same every time, and made with a secret."""

    def __init__(self, kept: frozenset[str], boundaries: frozenset[str], secret: bytes) -> None:
        self._kept = kept
        self._boundaries = boundaries
        self._secret = secret
        self._names: dict[str, str] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._back = timedelta(days=7 * (1 + int.from_bytes(self._digest("date")[:2]) % _WEEKS))

    def name(self, text: str, *, each_word: bool = False) -> None:
        """Take note of a name; it is replaced wherever it stands, but for the words of profiles in it.

        `each_word`: so is each word of it, as a person's first name is.
        """
        if len(text) > 1 and not _FORMS.fullmatch(text):
            changed = self._words(text)
            if changed != text:
                self._names[text] = changed
                for word in _WORD.findall(text) if each_word else ():
                    other = self._words(word)
                    if len(word) > 2 and other != word:
                        self._names.setdefault(word, other)

    def text(self, text: str) -> str:
        text = _FORMS.sub(self._form, text)
        for name, other in sorted(self._names.items(), key=lambda item: -len(item[0])):
            whole = rf"(?<![^\W_]){re.escape(name)}(?=s?(?![^\W_]))"
            text = re.sub(whole, other.replace("\\", ""), text, flags=re.IGNORECASE)
        return text

    def header(self, data: bytes) -> bytes:
        """Of header fields and what stands between parts; encoded words (RFC 2047) are undone and made again."""
        return _through(data, "utf-8", self._header)

    def _header(self, text: str) -> str:
        done, end = "", 0
        for found in _ENCODED.finditer(text):
            done += self.text(text[end : found.start()]) + self._encoded(found)
            end = found.end()
        return done + self.text(text[end:])

    def _encoded(self, found: re.Match[str]) -> str:
        name, encoding = found[1], found[2].lower()
        payloads = ["".join(one.split()).encode("latin-1", "ignore") for one in _PAYLOAD.findall(found[0])]
        if encoding == "b":
            data = b"".join(transfer.base64(one) for one in payloads)
        else:
            data = binascii.a2b_qp(b"".join(payloads), header=True)
        changed = _through(data, charset.codec_for(name) or "latin-1", self.text)
        if changed == data:
            return found[0]
        if encoding == "b":
            return f"=?{name}?{found[2]}?{base64.b64encode(changed).decode()}?="
        return f"=?{name}?{found[2]}?{binascii.b2a_qp(changed, header=True).decode().replace('?', '=3F')}?="

    def _form(self, found: re.Match[str]) -> str:
        text = found[0]
        if any(text in boundary for boundary in self._boundaries) or unaccented(text.lower()) in self._kept:
            return text
        match next((kind for kind in _KINDS if found[kind]), ""):
            case "address":
                local, _, domain = text.partition("@")
                where = self._ip4(domain) if _IP4.fullmatch(domain) else self._host(domain)
                return f"{self._words(local, scrambled=True)}@{where}"
            case "mac":
                separator = text[2]
                return separator.join(
                    ["02", "00", "00", "00", "00", f"{self._number('mac', text.replace(separator, '')) % 256:02x}"]
                )
            case "ip6":
                return f"2001:db8::{self._number('ip6', text):x}"  # RFC 3849
            case "ip4":
                return self._ip4(text)
            case "date":
                return self._date(text)
            case "host":
                return self._host(text)
            case "serial":
                at = 1 + max(text.rfind(one) for one in ":#=")
                return text[:at] + self._words(text[at:], scrambled=True)
        return self._scrambled(text)

    def _ip4(self, text: str) -> str:
        if any(int(part) > 255 for part in text.split(".")):
            return self._scrambled(text)
        return f"192.0.2.{1 + (self._number('ip4', text) - 1) % 254}"  # RFC 5737

    def _host(self, text: str) -> str:
        labels = text.split(".")
        if words_of(text) and all(word in self._kept for word in words_of(labels[0])) and len(labels) < 3:
            return text
        return f"host{self._number('host', text.lower())}.example"

    def _words(self, text: str, *, scrambled: bool = False) -> str:
        """Word by word: those that profiles know stay."""

        def change(found: re.Match[str]) -> str:
            word = found[0]
            if unaccented(word.lower()) in self._kept or word.lower() in GENERIC_NAMES or len(word) < 2:
                return word
            if scrambled or not word.isalpha() or not word.isascii():
                return self._scrambled(word)
            other = _NAMES[(self._number("name", word.lower()) - 1) % len(_NAMES)]
            return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

        return _WORD.sub(change, text)

    def _scrambled(self, text: str) -> str:
        """A digit for each digit, a letter for each letter, as big as it was; a maker's name within it stays."""
        digest = b"".join(self._digest(f"{part} {text.lower()}") for part in range(1 + len(text) // 32))
        letters = 6 if _HEX.fullmatch(text) else 26
        out = ""
        for piece in re.findall(r"[^\W\d_]+|\d+|[\W_]+", text):
            if len(piece) > 3 and piece.lower() in self._kept:
                out += piece
            else:
                out += "".join(_other(*pair, letters) for pair in zip(piece, digest[len(out) :], strict=False))
        return out

    def _number(self, kind: str, text: str) -> int:
        """From 1, in the order of coming."""
        key = kind, text.lower()
        count = sum(one == kind for one, _ in self._numbers)
        return self._numbers.setdefault(key, count + 1)

    def _digest(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._secret[:64], digest_size=32).digest()

    def _date(self, text: str) -> str:
        """So many weeks before, in the same form; what is no date stays."""
        pieces = re.findall(r"\d+|[^\W\d]+|[\W_]+", text)
        if text.isdigit():
            pieces = [text[:4], text[4:6], text[6:8]]
        numbers = [place for place, piece in enumerate(pieces) if piece[0].isdigit()]
        named = [place for place, piece in enumerate(pieces) if piece[:3].title() in _MONTHS]
        year = next((place for place in numbers if len(pieces[place]) == 4), None)
        rest = [place for place in numbers if place != year]
        if year is None or len(rest) + len(named) != 2:
            return text
        if named:
            month, day = named[0], rest[0]
            number = _MONTHS.index(pieces[month][:3].title()) + 1
        else:
            month, day = rest if year < rest[0] else (rest[1], rest[0])
            if int(pieces[month]) > 12:
                month, day = day, month
            number = int(pieces[month])
        try:
            when = date(int(pieces[year]), number, int(pieces[day])) - self._back
        except ValueError:
            return text
        pieces[year] = str(when.year)
        pieces[day] = f"{when.day:0{len(pieces[day])}d}"
        pieces[month] = _MONTHS[when.month - 1] if named else f"{when.month:0{len(pieces[month])}d}"
        return "".join(pieces)


def _other(letter: str, number: int, letters: int) -> str:
    if letter.isdigit():
        return str(number % 10)
    if letter.isalpha() and letter.isascii():  # the others tell the charset
        other = chr(97 + number % letters)
        return other.upper() if letter.isupper() else other
    return letter


def _through(data: bytes, codec: str, change: Callable[[str], str]) -> bytes:
    """Changed as text, in the same bytes but for what was changed."""
    for one in (codec, "utf-8", "latin-1"):
        try:
            text = data.decode(one)
            if text.encode(one) == data:
                return change(text).encode(one)
        except (UnicodeError, LookupError):
            continue
    return data


def _body(raw: bytes, part: mime.Part, replacer: _Replacer) -> bytes:
    data = b"".join(transfer.decoded(raw, part.start, part.end, part.encoding, []))
    if part.attached:
        changed = _placeholder(part.type, data)
    else:
        declared = fields.parameter(part.parameters, b"charset") if part.parameters else ""
        changed = _through(data, charset.codec_for(declared) or "utf-8", replacer.text)
    if changed == data:
        return raw[part.start : part.end]
    end = b"\r\n" if b"\r\n" in raw[:2000] else b"\n"
    tail = raw[part.start : part.end].endswith(b"\n")
    if part.encoding == "base64":
        text = base64.b64encode(changed)
        lines = [text[at : at + _LONGEST_LINE] for at in range(0, len(text), _LONGEST_LINE)]
        return end.join(lines) + (end if tail else b"")
    if part.encoding in transfer.UUENCODED:
        lines = [binascii.b2a_uu(changed[at : at + 45]).rstrip(b"\n") for at in range(0, len(changed), 45)]
        return end.join(lines) + (end if tail else b"")
    if part.encoding == "quoted-printable":
        return binascii.b2a_qp(changed.replace(b"\r\n", b"\n")).replace(b"\n", end)
    return changed


def _placeholder(kind: str, data: bytes) -> bytes:
    """As much smaller as the others become, so that the biggest stays the biggest."""
    for form, picture in _PICTURES.items():
        made = base64.b64decode(picture)
        if kind in (form, form.replace("jpeg", "jpg")) or data[:3] == made[:3]:
            return made + bytes(min(len(data), _SMALL) + len(data) // 10)
    return b"%PDF-1.4\n%%EOF\n" if data[:5] == b"%PDF-" else b"removed\r\n"


def _boundaries(mail: mime.Mail, raw: bytes) -> frozenset[str]:
    """Of the multiparts, which must go on dividing them."""
    found = re.findall(rb'boundary\s*=\s*"?([^"\r\n;]+)', raw, re.IGNORECASE)
    return frozenset(one.decode("latin-1").strip() for one in found)


def _kept(family: Family | None) -> frozenset[str]:
    """The words that profiles look for: the family's, and those of the generic profile."""
    rules = generic()
    found: set[str] = {*rules.states, *rules.severities, *re.findall("[a-z]{2,}", _PRIVATE.pattern)}
    for branches in rules.phrases.values():
        for phrases in branches.values():
            for phrase in phrases:
                found.update(phrase.words, phrase.then)
    for subject in rules.dull:
        found.update(words_of(subject))
    if family:
        for text in _texts(family.source()):
            found.update(words_of(text))
    return frozenset(found)


def _texts(value: Any) -> Iterator[str]:
    """What mails are known by, and where fields are found."""
    yield value.get("manufacturer", "")
    for clue in value["clue"]:
        yield from [clue["words"]] if isinstance(clue["words"], str) else clue["words"]
        yield _NO_WORDS.sub(" ", clue.get("regex", ""))
    for pattern in value.get("pattern", ()):
        yield _NO_WORDS.sub(" ", pattern["regex"])
    for mail in value["mail"]:
        for one in mail["when"]:
            for phrases in one.values():
                yield from [phrases] if isinstance(phrases, str) else phrases
        for pattern in mail.get("pattern", ()):
            yield _NO_WORDS.sub(" ", pattern["regex"])
