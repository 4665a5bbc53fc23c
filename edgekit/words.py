"""Numbers in sentences, and text that a terminal can show."""

from __future__ import annotations


def counted(number: int, noun: str, one: str = "", many: str = "") -> str:
    """Count things: `1 picture`, `2,000 pictures`; of what follows, `one` or `many` is said too."""
    rest = one if number == 1 else many
    return f"{number:,} {noun}{'' if number == 1 else 's'}{f' {rest}' if rest else ''}"


def printable(text: str) -> str:
    """Replace what cannot be shown or written: undecodable bytes of a path, control characters other than newlines."""
    safe = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c == "\n" or c.isprintable() else f"\\x{ord(c):02x}" for c in safe)
