"""Removes what is abandoned, by age: staging directories and private names of unknown and ended transactions, the trash, burnt
numbers, journals without a document. Never anything of an unfinished or reserved transaction, and nothing at all while the
database cannot be asked. Journals in the history are compressed.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Iterator

import attrs

from integrator import queries, storage
from integrator.check import is_abandoned, is_kept, trash_names
from integrator.database import CLAIMS, TRANSACTIONS, Delete
from integrator.errors import Conflict
from integrator.root import Root


@attrs.frozen(kw_only=True)
class Swept:
    """One thing that was (or in a dry run: would be) removed."""

    #: staging, trash, kept (of a failed publish, for its next attempt), claim or journal.
    kind: str
    #: Absolute path, or the key of a claim.
    path: str
    #: Seconds.
    age: float
    #: What of it could not be removed, and is tried again by a later sweep; "" if all is gone.
    left: str = ""


def sweep(root: Root, *, older_than: float | None = None, dry_run: bool = False) -> list[Swept]:
    """Remove abandoned things that are older than so many seconds (default: `keep` of the settings); returns them.

    The age must exceed any pause that a process can survive: a publisher that wakes up later may still look for its own names.
    """
    keep = root.settings.keep if older_than is None else older_than
    now = root.engine.database.now()  # before anything else: without the database nothing is swept
    kept = root.settings.keep_failed if older_than is None else older_than
    found = [
        entry
        for entry in [*_paths(root, now), *_claims(root, now)]
        if entry.age >= (min(keep, kept) if entry.kind == "kept" else keep)
    ]
    if not dry_run:
        found = [attrs.evolve(entry, left=_remove(root, entry)) for entry in found]
        _compress(root, now - keep)
    return found


def _paths(root: Root, now: float) -> Iterator[Swept]:
    for place, transaction in queries.staging_directories(root):
        if is_abandoned(root, transaction):
            yield _aged("staging", root.absolute(place), now)
    for path in trash_names(root):
        if is_abandoned(root, os.path.basename(path).partition(".")[0]):
            document = root.engine.database.read(TRANSACTIONS, os.path.basename(path).partition(".")[0])
            yield _aged("kept" if is_kept(root, document, path) else "trash", path, now)
    for transaction in root.engine.journals.unfinished():
        if root.engine.database.read(TRANSACTIONS, transaction) is None:
            yield _aged("journal", root.engine.journals.location(transaction), now)


def _aged(kind: str, path: str, now: float) -> Swept:
    # By the change time, which nobody can set: publishing keeps modification times of sources.
    try:
        age = now - os.lstat(path).st_ctime
    except FileNotFoundError:
        age = -1.0  # somebody else removed it just now
    return Swept(kind=kind, path=path, age=age)


def _claims(root: Root, now: float) -> Iterator[Swept]:
    for claim in root.engine.database.find(CLAIMS):
        if claim.get("burnt"):
            yield Swept(kind="claim", path=claim["_id"], age=now - claim["burnt"])


def _remove(root: Root, entry: Swept) -> str:
    if entry.kind == "claim":
        claim = root.engine.database.read(CLAIMS, entry.path)
        if claim and claim.get("burnt"):
            unchanged = {"burnt": claim["burnt"], "transaction": claim["transaction"]}
            try:
                root.engine.database.commit([Delete(collection=CLAIMS, id=entry.path, expect=unchanged)])
            except Conflict:
                return "claimed again meanwhile"
        return ""
    for place in root.engine.roots.values():
        if entry.path.startswith(place.rstrip("/") + "/"):
            inside, _, name = entry.path[len(place.rstrip("/")) + 1 :].rpartition("/")
            fd = storage.open_root(place)
            try:
                with contextlib.suppress(FileNotFoundError), storage.folder(inside, fd) as at:
                    return ", ".join(root.engine.storage.remove_tree(name, at))
            except PermissionError as error:  # one that is stubborn must not keep the others
                return f"{name} ({error.strerror})"
            finally:
                os.close(fd)
    return ""


def _compress(root: Root, before: float) -> None:
    """Compress journals of the history that are older; the compressed file is complete before the other one goes."""
    history = os.path.join(root.engine.journals.path, "history")
    for month in sorted(os.listdir(history)):
        fd = storage.open_root(os.path.join(history, month))
        try:
            for name in sorted(os.listdir(fd)):
                if name.endswith(".journal") and os.stat(name, dir_fd=fd).st_ctime < before:
                    with contextlib.suppress(PermissionError):  # somebody else's, and not the group's: `doctor` says so
                        content = gzip.compress(storage.read_file(name, fd), 6)
                        root.engine.storage.remove_tree(name + ".gz", fd)
                        root.engine.storage.write_file(name + ".gz", content, root.settings.file_mode, fd)
                        root.engine.storage.unlink(name, fd)
        finally:
            os.close(fd)
