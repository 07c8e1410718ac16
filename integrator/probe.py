"""What a file system can do, found by trying it in an empty folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from integrator import storage
from integrator.storage import Storage

_Try = Callable[[Storage, int], bool]


@attrs.frozen(kw_only=True)
class Feature:
    """One thing that a file system may lack."""

    #: Whether a folder with the files `one` and `two` shows that it is there. Raises `OSError` if it is not.
    is_there: _Try
    #: What it means to be without it.
    without: str
    #: The transfer that needs it, if any.
    transfer: str = ""
    #: Whether the engine is worse off without it, rather than slower.
    needed: bool = False


def missing(writer: Storage, at: int) -> Iterator[Feature]:
    """The features that the file system of an empty folder lacks."""
    for name in ("one", "two"):
        writer.write_file(name, name.encode(), 0o600, at)
    for feature in FEATURES:
        try:
            found = feature.is_there(writer, at)
        except OSError:
            found = False
        if not found:
            yield feature


def _renames_exclusively(_: Storage, at: int) -> bool:
    return storage.renames_exclusively("one", "two", at)


def _exchanges(writer: Storage, at: int) -> bool:
    writer.exchange("one", at, "two", at)
    return True


def _links(writer: Storage, at: int) -> bool:
    writer.link("one", "link", at, at)
    return True


def _clones(writer: Storage, at: int) -> bool:
    source = os.open("one", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        target = writer.create("clone", 0o600, at)
        try:
            writer.clone(source, target)
        finally:
            writer.close(target)
    finally:
        os.close(source)
    return True


def _syncs(writer: Storage, at: int) -> bool:
    writer.sync_filesystem(at)
    return True


def _keeps_birth_times(_: Storage, at: int) -> bool:
    found = storage.identity("one", at)
    return found is not None and found.born != 0


def _lists_kinds(writer: Storage, at: int) -> bool:
    writer.write_file("gone", b"", 0o600, at)
    with os.scandir(at) as entries:
        [entry] = [entry for entry in entries if entry.name == "gone"]
    writer.unlink("gone", at)
    return entry.is_file(follow_symlinks=False)  # without a kind in the listing it would look, and find nothing


def _tells_case(writer: Storage, at: int) -> bool:
    writer.write_file("Name", b"", 0o600, at)
    return not storage.exists("name", at)


def _tells_forms(writer: Storage, at: int) -> bool:
    writer.write_file("\u00e9", b"", 0o600, at)
    return not storage.exists("e\u0301", at)


FEATURES: Final = (
    Feature(is_there=_renames_exclusively, without="cannot refuse to rename onto a name that is taken; lease and claim do that"),
    Feature(is_there=_exchanges, without="cannot exchange two names, so a file is replaced by one rename"),
    Feature(is_there=_links, without="makes no hard links", transfer="hardlink"),
    Feature(is_there=_clones, without="makes no reflinks", transfer="reflink"),
    Feature(is_there=_syncs, without="cannot be made durable as a whole", needed=True),
    Feature(is_there=_keeps_birth_times, without="keeps no birth times, so a directory is told by all of its files"),
    Feature(is_there=_lists_kinds, without="does not list the kinds of files, so looking for leftovers is slower"),
    Feature(is_there=_tells_case, without="does not tell names by case"),
    Feature(is_there=_tells_forms, without="does not tell the Unicode forms of a name"),
)
