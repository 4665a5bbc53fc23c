"""What people see as one character: extended grapheme clusters, by the rules of Unicode (UAX #29, 3.1.1).

The classes are told from the general categories that Python knows, and a few ranges, instead of a table of all code
points; where that differs from the standard (some vowel signs of Myanmar and Tai Tham, symbols joined to emoji), more
is kept together.
"""

from __future__ import annotations

import functools
import unicodedata

ZWJ, VIRAMAS = "\u200d", "\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d"  # those that join two consonants
_INDIC = {ord(mark) >> 7 for mark in VIRAMAS}
_EXTEND, _CONTROL, _PREPEND, _REGIONAL, _OTHER = "extend", "control", "prepend", "regional", "other"
_L, _V, _T, _LV, _LVT = "L", "V", "T", "LV", "LVT"
_RANGES = {
    _L: ((0x1100, 0x115F), (0xA960, 0xA97C)),
    _V: ((0x1160, 0x11A7), (0xD7B0, 0xD7C6)),
    _T: ((0x11A8, 0x11FF), (0xD7CB, 0xD7FB)),
    _REGIONAL: ((0x1F1E6, 0x1F1FF),),
    # ZWNJ and ZWJ, Thai and Lao am, halfwidth voiced marks, skin tones, the tags of flags
    _EXTEND: (
        (0x200C, 0x200D), (0xE33, 0xE33), (0xEB3, 0xEB3), (0xFF9E, 0xFF9F), (0x1F3FB, 0x1F3FF), (0xE0020, 0xE007F),
    ),
    _PREPEND: (
        (0x600, 0x605), (0x6DD, 0x6DD), (0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2), (0xD4E, 0xD4E),
        (0x110BD, 0x110BD), (0x110CD, 0x110CD), (0x111C2, 0x111C3), (0x113D1, 0x113D1), (0x1193F, 0x1193F),
        (0x11941, 0x11941), (0x11A3A, 0x11A3A), (0x11A84, 0x11A89), (0x11D46, 0x11D46), (0x11F02, 0x11F02),
    ),
}  # fmt: skip
# What a syllable of Hangul goes on with (GB6 to GB8).
_SYLLABLES = {_L: (_L, _V, _LV, _LVT), _LV: (_V, _T), _V: (_V, _T), _LVT: (_T,), _T: (_T,)}


def clusters(text: str) -> list[str]:
    """Divide a text into its grapheme clusters; joined, they are the text."""
    if text.isascii() and "\r" not in text:
        return list(text)
    starts = [place for place in range(len(text)) if _breaks(text, place)]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def _breaks(text: str, place: int) -> bool:
    """Tell whether a cluster begins at a place."""
    if place == 0:
        return True
    one, other = _kind(text[place - 1]), _kind(text[place])
    if _CONTROL in (one, other):
        return text[place - 1 : place + 1] != "\r\n"
    if other == _EXTEND or one == _PREPEND or other in _SYLLABLES.get(one, ()):
        return False
    if one == other == _REGIONAL:  # flags are pairs, counted from the first letter of their row
        return not _count_back(text, place, _REGIONAL) % 2
    return not (_joins_consonants(text, place) or _joins_pictures(text, place))


def _joins_consonants(text: str, place: int) -> bool:
    """Tell whether a conjunct goes on: a consonant, marks with a virama among them, a consonant (GB9c)."""
    if not _is_consonant(text[place]):
        return False
    start = place - 1
    while start >= 0 and _is_joiner(text[start]):
        start -= 1
    return start >= 0 and _is_consonant(text[start]) and any(mark in VIRAMAS for mark in text[start + 1 : place])


def _is_joiner(character: str) -> bool:
    """Tell whether a mark may stand between the consonants of a conjunct: one that combines, or ZWJ."""
    return character == ZWJ or unicodedata.category(character) == "Mn" or character in VIRAMAS


def _is_consonant(character: str) -> bool:
    # The scripts that have VIRAMAS have their letters at the same places of their blocks: vowels come first.
    place = ord(character) & 0x7F
    letter = ord(character) >> 7 in _INDIC and unicodedata.category(character) == "Lo"
    return letter and (0x15 <= place <= 0x39 or 0x58 <= place <= 0x5F or 0x70 <= place <= 0x7F)


def _joins_pictures(text: str, place: int) -> bool:
    """Tell whether an emoji goes on: a pictograph, marks, ZWJ, a pictograph (GB11)."""
    if text[place - 1] != ZWJ or not _is_picture(text[place]):
        return False
    start = place - 2
    while start >= 0 and _kind(text[start]) == _EXTEND and text[start] != ZWJ:
        start -= 1
    return start >= 0 and _is_picture(text[start])


def _is_picture(character: str) -> bool:
    code, block = ord(character), (0x2194, 0x21AA, 0x2300, 0x2BFF, 0x1F000, 0x1FFFD)
    inside = any(first <= code <= last for first, last in zip(block[::2], block[1::2], strict=True))
    symbol = inside and unicodedata.category(character) in ("So", "Sm", "Cn") and _kind(character) == _OTHER
    return symbol or character in "\u00a9\u00ae\u203c\u2049\u2122\u2139\u3030\u303d\u3297\u3299"


def _count_back(text: str, place: int, kind: str) -> int:
    start = place
    while start > 0 and _kind(text[start - 1]) == kind:
        start -= 1
    return place - start


@functools.lru_cache(4096)
def _kind(character: str) -> str:
    """Give the class that the rules know a character by."""
    code = ord(character)
    if 0xAC00 <= code <= 0xD7A3:
        return _LVT if (code - 0xAC00) % 28 else _LV
    for kind, ranges in _RANGES.items():
        if any(first <= code <= last for first, last in ranges):
            return kind
    category = unicodedata.category(character)
    if category in ("Mn", "Mc", "Me"):
        return _EXTEND
    unseen = category == "Cn" and (0xE0000 <= code <= 0xE0FFF or 0xFFF0 <= code <= 0xFFF8 or code == 0x2065)
    return _CONTROL if unseen or category in ("Cc", "Cf", "Zl", "Zp", "Cs") else _OTHER
