"""Facts as text for people: times, sizes, numbers, and names with nothing in them that a terminal or a page could obey."""

from __future__ import annotations

import logging
import time


def shown(text: object) -> str:
    """Text with everything escaped that is not printable: control characters, line ends, bytes of names that are not UTF-8."""
    plain = str(text)
    return plain if plain.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in plain)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that `surrogateescape` kept
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def logged(record: logging.LogRecord) -> str:
    """What a record says; as it is written where its arguments do not fit, since nobody wants to lose a publish over that."""
    try:
        return record.getMessage()
    except Exception:
        return f"{record.msg!r} (its arguments do not fit)"


def when(moment: float | None) -> str:
    """Unix time as local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else "-"


def duration(length: float) -> str:
    """Seconds for people."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if length >= 2 * unit:
            return f"{length / unit:.0f} {name}"
    return f"{length:.1f} s"


def size(count: float) -> str:
    """Bytes for people."""
    for name in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {name}" if name == "B" else f"{count:.1f} {name}"
        count /= 1000
    return f"{count:.1f} TB"


def plural(count: int, word: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
