"""Frame ranges as text: ``1001-1048``, ``1001-1100x2``, ``1001,1003,1010-1020``, ``-10--5``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

#: More frames than this in one range are taken for a mistake.
MOST_FRAMES = 1_000_000

# Nine digits keep a number within 32 bits, and a hostile text within linear time.
_SPAN = re.compile(r"\s*(-?[0-9]{1,9})(?:-(-?[0-9]{1,9})(?:x([0-9]{1,9}))?)?\s*")


def frame_spans(text: str) -> list[range]:
    """The ranges that `text` lists, in its order, without expanding them.

    Raises `ValueError` on wrong syntax, a range that runs backwards, a step of 0, or more than `MOST_FRAMES` frames.
    """
    if text.count(",") >= MOST_FRAMES:
        raise ValueError(f"lists more than {MOST_FRAMES} frames")
    spans: list[range] = []
    total = 0
    for part in text.split(","):
        span = _span(part)
        total += len(span)
        if total > MOST_FRAMES:
            raise ValueError(f"lists more than {MOST_FRAMES} frames")
        spans.append(span)
    return spans


def _span(part: str) -> range:
    match = _SPAN.fullmatch(part)
    if match is None:
        raise ValueError(f"{part.strip()[:40]!r} is not a frame or a range like 1001-1048 or 1001-1100x2")
    first, last, step = match.groups()
    start, end, stride = int(first), int(last or first), int(step or 1)
    if end < start:
        raise ValueError(f"{part.strip()!r} runs backwards")
    if stride == 0:
        raise ValueError(f"{part.strip()!r} has a step of 0")
    return range(start, end + 1, stride)


def parse_frames(text: str) -> list[int]:
    """The frames that `text` lists: ascending, each once. Raises `ValueError` as `frame_spans` does."""
    spans = frame_spans(text)
    if len(spans) == 1:
        return list(spans[0])
    return sorted({frame for span in spans for frame in span})


def format_spans(spans: Iterable[tuple[int, int]], most: int = 20) -> str:
    """Pairs of first and last frame as ``1003, 1010-1012``, cut after `most` pairs."""
    pairs = list(spans)
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in pairs[:most]]
    if len(pairs) > most:
        shown.append(f"and {len(pairs) - most} more ranges")
    return ", ".join(shown)


def runs(frames: Iterable[int]) -> list[tuple[int, int]]:
    """The unbroken runs, as (first, last), of ascending `frames`."""
    found: list[tuple[int, int]] = []
    first = last = None
    for frame in frames:
        if first is None or last is None or frame != last + 1:
            if first is not None and last is not None:
                found.append((first, last))
            first = frame
        last = frame
    if first is not None and last is not None:
        found.append((first, last))
    return found


def holes(frames: Sequence[int]) -> list[tuple[int, int]]:
    """The gaps, as (first, last) frame missing, between ascending `frames`."""
    return [(before + 1, after - 1) for before, after in itertools.pairwise(frames) if after > before + 1]
