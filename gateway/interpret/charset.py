"""Bytes to text, whatever the mail says or doesn't say about its charset.

A declaration counts as long as the bytes agree with it. Single-byte charsets agree with anything, so text that is
valid UTF-8 is UTF-8 even where Latin-1 was declared. Undeclared bytes are decoded by evidence: each candidate that
decodes them without error is scored by how many of its letters are everyday letters of its language. Without
evidence it is Windows-1252, the superset of Latin-1; bytes that no charset explains become U+FFFD.

Names of charsets come from the mail, so they are looked up in our own table and never in Python's codec registry:
that would import modules by name, remember every miss, and offer codecs that are not charsets.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_NAMES = {
    "utf-8": "utf8 unicode11utf8 xunicode20utf8 utf8sig utf8mb4 utf8bom",
    "utf-16": "utf16 unicode ucs2 iso10646ucs2",
    "utf-16-le": "utf16le",
    "utf-16-be": "utf16be",
    "utf-32": "utf32",
    "utf-32-le": "utf32le",
    "utf-32-be": "utf32be",
    "cp1252": "latin1 l1 iso88591 88591 iso885911987 isolatin1 xcp1252 ansi western cp819 ibm819 xansi",
    "iso8859-15": "latin9 latin0 l9",
    "iso8859-2": "latin2 l2",
    "iso8859-3": "latin3 l3",
    "iso8859-4": "latin4 l4",
    "iso8859-5": "cyrillic",
    "iso8859-6": "arabic",
    "iso8859-7": "greek greek8",
    "iso8859-8": "hebrew iso88598i iso88598e",
    "iso8859-9": "latin5 l5",
    "iso8859-10": "latin6 l6",
    "iso8859-16": "latin10 l10",
    "cp874": "tis620 windows874 cp874",
    "gb18030": "gb18030 gb2312 gbk xgbk gb231280 csgb2312 chinese euccn xeuccn cp936 windows936 ms936 csiso58gb231280",
    "big5hkscs": "big5 big5hkscs xbig5 cnbig5 big5tw cp950 windows950 csbig5",
    "cp932": "cp932 shiftjis sjis xsjis xshiftjis mskanji windows31j csshiftjis windows932 ms932",
    "euc_jp": "eucjp xeucjp xeuc ujis eucjpwin eucjpms cp51932",
    "iso2022_jp_2": "iso2022jp cp50220 cp50221 iso2022jp1 iso2022jp2 csiso2022jp jis",
    "cp949": "cp949 euckr xeuckr ksc56011987 ksc5601 ksc56011989 korean uhc windows949 ms949 isoir149",
    "iso2022_kr": "iso2022kr",
    "johab": "johab",
    "hz": "hz hzgb2312",
    "koi8_r": "koi8r koi8 xkoi8r cskoi8r",
    "koi8_u": "koi8u koi8ru",
    "mac_roman": "macintosh macroman xmacroman mac",
    "mac_cyrillic": "xmaccyrillic maccyrillic",
}
_CODECS = {name: codec for codec, names in _NAMES.items() for name in names.split()}
_CODECS |= {f"iso8859{part}": f"iso8859-{part}" for part in (*range(2, 12), *range(13, 17))}
_CODECS |= {
    f"{prefix}{page}": f"cp{page}"
    for prefix in ("cp", "windows", "xcp", "ibm", "dos", "win")
    for page in (437, 737, 775, 850, 852, 855, 857, 858, *range(860, 867), 869, *range(1250, 1259))
}

_NOT_IN_A_NAME = re.compile(r"[^a-z0-9]+")
_WIDE = ("utf-16", "utf-32")
_SEVEN_BIT = ("iso2022", "hz")
_MULTIBYTE = ("gb18030", "big5hkscs", "cp932", "euc_jp", "cp949", "johab", *_SEVEN_BIT, *_WIDE)
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)

SAMPLE = 16 * 1024  # bytes that are scored: evidence grows no better after that


def guessed(data: bytes) -> str:
    """A name for the charset of bytes of which nobody says it, "" if that is UTF-8 or ASCII: for a hint to others."""
    data = data[:SAMPLE]
    if data.isascii() or _strict(data, "utf-8", True) is not None:
        return ""
    return _guess(data, True)


def codec_for(name: str) -> str:
    """Python's codec for a charset's name, "" if we know none (also for ASCII and the many names of "unknown")."""
    return _CODECS.get(_NOT_IN_A_NAME.sub("", name[:64].lower()), "")


def decode(data: bytes, declared: str = "", hint: str = "", cut: bool = False) -> tuple[str, str]:
    """The text, and in words how it was read ("" for plain ASCII).

    `declared` is the mail's own word for these bytes; `hint` is its word for other bytes, believed before guessing.
    `cut`: the bytes were cut off, so the last character may be incomplete and is then left away.
    """
    codec = codec_for(declared) if declared else ""
    if data.isascii() and not codec.startswith((*_SEVEN_BIT, *_WIDE)):
        if b"\x1b$" not in data:
            return data.decode("ascii"), ""
        codec = "iso2022_jp_2"  # nothing else has this escape sequence, declared or not
    for mark, marked in _BOMS:
        if data.startswith(mark):
            text = _strict(data, marked, cut)
            if text is not None:
                return text.removeprefix("\ufeff"), _words(marked, declared, codec)
    if codec.startswith(_WIDE):
        codec = _wide(codec, data)
    multibyte = codec == "utf-8" or codec.startswith(_MULTIBYTE)
    if not multibyte and (text := _strict(data, "utf-8", cut)) is not None:
        return text, _words("utf-8", declared, codec)
    for trusted in (codec, codec_for(hint)):
        if trusted and (text := _strict(data, trusted, cut)) is not None:
            return text, _words(trusted, declared, codec)
    if multibyte:
        # Right but damaged, or simply wrong: the declaration stands if it explains twice what it leaves open.
        text = data.decode(codec, "replace")
        if 3 * text.count("\ufffd") <= sum(letter > "\x7f" for letter in text):
            return text, f"{codec}, damaged"
    guess = _guess(data[:SAMPLE], cut or len(data) > SAMPLE)
    return data.decode(guess, "replace"), _words(guess, declared, codec)


def _words(used: str, declared: str, codec: str) -> str:
    if used == codec:
        return used
    said = "".join(filter(str.isprintable, declared[:40]))
    return f"{used}, though {said} was declared" if said else f"{used}, guessed"


def _wide(codec: str, data: bytes) -> str:
    """With its byte order, where neither the name nor a mark tells it; "" if it can't be this at all."""
    if b"\0" not in data:
        return ""  # two bytes a letter always leave some zeros
    if codec in _WIDE:
        # The zeros of Latin letters stand first in big endian, which it is in doubt (RFC 2781 §4.3).
        unit = 2 if codec == "utf-16" else 4
        first, last = data[:SAMPLE:unit].count(0), data[unit - 1 : SAMPLE : unit].count(0)
        codec += "-le" if last > first else "-be"
    return codec


def _strict(data: bytes, codec: str, cut: bool) -> str | None:
    try:
        return data.decode(codec)
    except UnicodeDecodeError as error:
        if cut and error.start >= len(data) - 4:
            return _strict(data[: error.start], codec, False)
        return None


def _guess(data: bytes, cut: bool) -> str:
    best, chosen = 0.35, "cp1252"  # an all-capitals Latin-1 word can reach 0.25 as Chinese
    for codec, everyday in _everyday():
        text = _strict(data, codec, cut)
        if text is None:
            continue
        foreign = [letter for letter in text if letter > "\x7f"]
        if len(foreign) < (4 if codec in _CYRILLIC else 2):
            continue
        score = sum(letter in everyday for letter in foreign) / len(foreign)
        if codec == "gb18030":
            # Level 1 of GB 2312 holds the 3755 common hanzi; half the battle even if not among our few hundred.
            level_1 = sum("\u4e00" <= letter <= "\u9fff" and _level_1(letter) for letter in set(foreign))
            score += 0.25 * level_1 / len(set(foreign)) * (1 - score)
        elif codec in _CYRILLIC:
            # Single bytes always decode. Cyrillic words are runs of it; accents in Latin words stand alone.
            score *= sum(map(len, _CYRILLIC_RUN.findall(text))) / len(foreign)
        if score > best:
            best, chosen = score, codec
    if chosen == "cp1252":
        return next((codec for codec, signs in _SIGNS if signs.search(data)), chosen)
    return chosen


# What would be a sign within a word in Windows-1252: letters of DOS's code page, and of those of Central Europe.
_SIGNS = (
    ("cp850", re.compile(rb"[A-Za-z][\x81\x82\x84\x94][a-z]")),
    ("iso8859-2", re.compile(rb"[A-Za-z][\xb3\xbf]?[\xb1\xb6\xbc][a-z]")),
    ("cp1250", re.compile(rb"[A-Za-z][\xb3\xb9\xbf][a-z]")),
)


def _level_1(letter: str) -> bool:
    encoded = letter.encode("gb18030")
    return len(encoded) == 2 and 0xB0 <= encoded[0] <= 0xD7 and encoded[1] >= 0xA1


_CYRILLIC = ("cp1251", "koi8_r", "cp866")
_CYRILLIC_RUN = re.compile("[\u0400-\u045f]{3,}")


@cache
def _everyday() -> list[tuple[str, frozenset[str]]]:
    """Each candidate and the letters that speak for it, in order of preference; read when first needed."""
    import tomllib

    source = tomllib.loads(Path(__file__).with_name("letters.toml").read_text("utf-8"))
    return [(codec, frozenset(one["letters"])) for one in source["language"] for codec in one["codecs"]]
