"""Bytes to text, by the charsets that a board has the means for: UTF-8, Latin-1 and its relatives Windows-1252 and
Latin-9, UTF-16. Bytes of another are U+FFFD, and it is said which that was. MicroPython-safe.
"""

_CP1252 = "€\ufffd‚ƒ„…†‡ˆ‰Š‹Œ\ufffdŽ\ufffd\ufffd‘’“”•–—˜™š›œ\ufffdžŸ"  # 0x80 to 0x9F  # noqa: RUF001
_LATIN9 = "€\xa5Š\xa7š\xa9ª«¬\xad®¯°±²³Žµ¶·ž¹º»ŒœŸ"  # 0xA4 to 0xBE
# Names without their punctuation; one text for each, for a list would take ten times the memory.
_KNOWN = (
    ("utf8", " utf8 utf8mb4 unicode11utf8 "),
    ("latin1", " latin1 l1 iso88591 88591 isolatin1 windows1252 cp1252 ansi western "),
    ("latin9", " latin9 iso885915 "),
    ("utf16", " utf16 unicode ucs2 "),
    ("utf16le", " utf16le "),
    ("utf16be", " utf16be "),
)
_NO_TABLE = (
    "gb big5 cnbig5 shiftjis sjis xsjis euc iso2022 iso8859 koi8 windows cp ks korean chinese hz tis620 mac johab utf7 "
    "utf32 ms9 uhc jis latin cyrillic greek hebrew arabic"
)  # beginnings


def decode(data: bytes, declared: str = "", hint: str = "", cut: bool = False) -> "tuple[str, str]":
    """The text, and in words what of it could not be read ("" if nothing).

    A declaration counts as long as the bytes agree with it. Text that is UTF-8 is, whatever was declared; `hint` is
    the mail's word for other bytes; without any word it is Windows-1252 if it can be. `cut`: the last character may be
    incomplete.
    """
    charset = _charset(declared)
    wide = charset[:5] == "utf16"
    if not wide and (not data or max(data) < 128):
        return (_without_escapes(data), _NO_KANJI) if b"\x1b$" in data else (data.decode(), "")
    if data[:3] == b"\xef\xbb\xbf":
        data = data[3:]
        charset = "utf8"
    elif data[:2] in (b"\xff\xfe", b"\xfe\xff") and (wide or b"\0" in data):
        return _from_utf16(data[2:], data[:1] == b"\xfe", cut), ""
    if wide and b"\0" in data:
        big = charset == "utf16be" or (charset == "utf16" and _count(data, 0) >= _count(data, 1))
        return _from_utf16(data, big, cut), ""
    if charset == "?":
        return unreadable(data), f"{printable(declared)} is a charset that only the gateway reads"
    text, damage = _from_utf8(data, cut)
    if not damage:
        return text, ""
    if charset == "utf8" and 3 * damage <= len([letter for letter in text if letter > "\x7f"]):
        return text, "damaged UTF-8"
    if charset in ("", "utf8"):
        charset = _charset(hint)
        if charset == "?":
            return unreadable(data), f"{printable(hint)} is a charset that only the gateway reads"
    if not charset and _is_foreign(data):
        return unreadable(data), "its charset, which it does not name, is one that only the gateway reads"
    table = _CP1252
    if charset == "latin9":
        table += "\xa0¡¢£" + _LATIN9
    return "".join([table[byte - 128] if 128 <= byte < 128 + len(table) else chr(byte) for byte in data]), ""


_NO_KANJI = "iso-2022-jp is a charset that only the gateway reads"


def _without_escapes(data: bytes) -> str:
    """ISO 2022: what stands between the escape sequence to two-byte letters and the one back is one U+FFFD."""
    pieces = data.split(b"\x1b$")
    out = pieces[0]
    for piece in pieces[1:]:
        back = piece.find(b"\x1b(")
        out += b"\xef\xbf\xbd" + (piece[back + 3 :] if back >= 0 else b"")
    return out.decode()


def _charset(name: str) -> str:
    """Ours for a charset's name: "" for none, or a name that says nothing; "?" for one that a board has no table of."""
    plain = "".join([letter for letter in name[:40].lower() if "a" <= letter <= "z" or "0" <= letter <= "9"])
    for charset, names in _KNOWN:
        if f" {plain} " in names:
            return charset
    for start in _NO_TABLE.split():
        if plain.startswith(start):
            return "?"
    return ""


def _is_foreign(data: bytes) -> bool:
    """Whether most letters beyond ASCII stand four in a row and more: in Latin script they are accents, and alone."""
    run = alone = together = 0
    for byte in data:
        if byte >= 128:
            run += 1
            continue
        if run >= 4:
            together += run
        else:
            alone += run
        run = 0
    return together + (run if run >= 4 else 0) > alone + (run if run < 4 else 0)


def unreadable(data: bytes) -> str:
    """ASCII, and U+FFFD for what is none."""
    return "".join([chr(byte) if byte < 128 else "\ufffd" for byte in data])


def _count(data: bytes, at: int) -> int:
    """How many of every second octet are zero."""
    count = 0
    for index in range(at, len(data), 2):
        count += not data[index]
    return count


def _from_utf16(data: bytes, big: bool, cut: bool) -> str:
    out = []
    high = 0
    for at in range(0, len(data) - 1, 2):
        unit = data[at] << 8 | data[at + 1] if big else data[at + 1] << 8 | data[at]
        if high and 0xDC00 <= unit < 0xE000:
            out.append(chr(0x10000 + ((high - 0xD800) << 10) + unit - 0xDC00))
            high = 0
            continue
        if high:
            out.append("\ufffd")
        high = unit if 0xD800 <= unit < 0xDC00 else 0
        if not high:
            out.append("\ufffd" if 0xDC00 <= unit < 0xE000 else chr(unit))
    if (high or len(data) % 2) and not cut:
        out.append("\ufffd")
    return "".join(out)


def _from_utf8(data: bytes, cut: bool) -> "tuple[str, int]":
    """The text, and how many places in it are no UTF-8. MicroPython itself takes surrogates and detours for UTF-8."""
    odd = False
    for byte in data:
        if byte >= 0xF0 or byte == 0xED or byte == 0xE0 or 0xC0 <= byte <= 0xC1:
            odd = True
            break
    if not odd:
        try:
            return data.decode(), 0
        except UnicodeError:
            pass
    out = []
    damage = at = start = 0
    size = len(data)
    while at < size:
        lead = data[at]
        if lead < 0x80:
            at += 1
            continue
        more = 1 if 0xC2 <= lead < 0xE0 else 2 if 0xE0 <= lead < 0xF0 else 3 if 0xF0 <= lead < 0xF5 else 0
        low = 0xA0 if lead == 0xE0 else 0x90 if lead == 0xF0 else 0x80
        high = 0x9F if lead == 0xED else 0x8F if lead == 0xF4 else 0xBF
        end = at + 1
        while end < size and end <= at + more and low <= data[end] <= high:
            low, high = 0x80, 0xBF
            end += 1
        if end == at + more + 1 and more:
            at = end
            continue
        out.append(data[start:at].decode())
        start = at = end
        if not (cut and end == size and more):
            out.append("\ufffd")
            damage += 1
    out.append(data[start:].decode())
    return "".join(out), damage


def printable(text: str) -> str:
    """Its first letters of ASCII, to be shown."""
    return "".join([letter for letter in text[:40] if " " <= letter < "\x7f"])
