"""Thousands of file names as a few lines: names that differ in one number are one sequence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import attrs

from integrator.frames import format_spans, runs

#: The last number of a name, its extension aside; a sign counts if nothing could be joined by it.
_LAST: Final = re.compile(r"(.*?)((?:(?<![A-Za-z0-9])-)?[0-9]+)([^0-9]*)\Z", re.DOTALL)
#: Digits of a longer number are no frame.
_DIGITS: Final = 9
#: Unbroken ranges of a sequence that are listed.
_SPANS: Final = 8


@attrs.frozen(kw_only=True)
class FileGroup:
    """A file, or a sequence of files."""

    #: Its name; with ``[1001-1048]`` where the number of a sequence stands.
    name: str
    #: Where its files stand in the list.
    places: tuple[int, ...]


def collapse(names: Sequence[str]) -> list[FileGroup]:
    """Names as groups, in the order of the first of each."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for place, name in enumerate(names):
        stem, dot, extension = name.rpartition(".")
        if not stem:
            stem, dot, extension = name, "", ""
        match = _LAST.match(stem)
        if match is None or len(match[2]) > _DIGITS:
            found.setdefault((name, ""), []).append((0, place))
        else:
            found.setdefault((match[1], match[3] + dot + extension), []).append((int(match[2]), place))
    return [_group(names, *parts, numbered) for parts, numbered in found.items()]


def _group(names: Sequence[str], before: str, after: str, numbered: list[tuple[int, int]]) -> FileGroup:
    places = tuple(place for _, place in numbered)
    if len(places) == 1:
        return FileGroup(name=names[places[0]], places=places)
    spans = format_spans(runs(sorted({number for number, _ in numbered})), most=_SPANS)
    return FileGroup(name=f"{before}[{spans}]{after}", places=places)
