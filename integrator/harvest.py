"""What an attempt that was rolled back left for the next one of the same publish.

Nothing goes on in another attempt's directory: that one may only be asleep, and its open descriptors follow the directory
through every rename. So its files are renamed, one by one, into the new staging directory: those that the engine copied, recorded
and closed, if their content still has the recorded checksum and their source is unchanged; and those that an extractor produced,
if its process is known to have ended.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import attrs

from integrator import storage, transfer
from integrator.engine import Engine
from integrator.errors import Stuck
from integrator.journal.format import Staged, Unstaged
from integrator.leases import known_dead
from integrator.model import Directory, Document, Owner
from integrator.operations import Actor, rename_away
from integrator.transfer import Facts, Policy

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.frozen
class Copied:
    """A file that an earlier attempt had copied, as its journal recorded it."""

    name: str
    size: int
    inode: int
    #: Modification time of its source in ns.
    source_time: int
    checksum: str


@attrs.frozen(kw_only=True)
class Leftover:
    """A directory that an earlier attempt left."""

    #: Name of the root, and the path below it.
    root: str
    path: str
    #: The lease of what it was for.
    lease: str
    #: Copies by their source, only those that have a checksum.
    copied: Mapping[str, Copied]
    #: Whether an extractor's files in it are complete for certain.
    ended: bool
    #: Whether there are files of extractors or renderers in it.
    produced: bool


def leftovers(engine: Engine, formers: Sequence[Document]) -> list[Leftover]:
    """What the rolled back attempts of a publish left, the newest first."""
    return [
        _leftover(engine, former, entry)
        for former in formers
        for entry in former.get("kept") or ()
        if entry["root"] in engine.roots and entry["directory"] < len(former["directories"])
    ]


def _leftover(engine: Engine, former: Document, entry: Document) -> Leftover:
    began = former.get("began")
    undone_by_itself = former["undoers"] == [former["actor"]] and len(former["actors"]) == 1
    return Leftover(
        root=entry["root"],
        path=entry["path"],
        lease=Directory(**former["directories"][entry["directory"]]).lease,
        copied=_copied(engine, former["_id"], entry["directory"]),
        ended=undone_by_itself or bool(began and known_dead(Owner(**began))),
        produced=former.get("purpose") == "assembly" or bool(former.get("expires")),
    )


def _copied(engine: Engine, transaction: str, index: int) -> dict[str, Copied]:
    """By the journal of the attempt; nothing if that is gone or damaged: then everything is copied again."""
    found: dict[str, Copied] = {}
    try:
        records = engine.journals.read_ended(transaction).records
    except (Stuck, OSError):
        return found
    for record in records:
        if isinstance(record, Staged) and record.directory == index and record.transfer in ("copy", "reflink", "move"):
            columns = zip(record.sources, record.names, record.sizes, record.inodes, record.source_times, record.checksums)
            found.update((source, Copied(*facts)) for source, *facts in columns if facts[-1] and "/" not in facts[0])
        elif isinstance(record, Unstaged) and record.directory == index:
            found = {source: copied for source, copied in found.items() if copied.name not in record.names}
    return found


class Harvest:
    """Takes files out of leftovers into staging directories of the transaction that goes on."""

    def __init__(self, engine: Engine, document: Document, left: Sequence[Leftover]) -> None:
        self._engine = engine
        self._actor = Actor.of(document)
        self._left = list(left)

    def copies(self, sources: Sequence[str], names: Sequence[str], policy: Policy, at: int) -> dict[int, Facts]:
        """Take those copies that are good into the folder `at`, under `names`; returns their facts by index."""
        taken: dict[int, Facts] = {}
        for leftover in self._left:
            with contextlib.suppress(OSError), self._open(leftover) as fd:
                there = set(os.listdir(fd)) - {copied.name for copied in leftover.copied.values()}
                for n, (source, name) in enumerate(zip(sources, names)):
                    facts = None
                    if n not in taken and source in leftover.copied:
                        facts = self._take_copy(leftover.copied[source], source, fd, name, at)
                    elif n not in taken and name in there and leftover.ended and not leftover.produced:
                        facts = self._take_unrecorded(source, fd, name, policy, at)
                    if facts is not None:
                        taken[n] = facts
        return taken

    def _take_unrecorded(self, source: str, fd: int, name: str, policy: Policy, at: int) -> Facts | None:
        """A copy that was killed before it was recorded is as good if its content is that of its source."""
        original, before = transfer.open_source(source)
        try:
            file = os.open(name, _READ, dir_fd=fd)
            try:
                found = os.fstat(file)
                if found.st_size != before.st_size or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                    return None
                checksum = transfer.checksum_of(original)
                if transfer.checksum_of(file) != checksum or not rename_away(self._engine, name, fd, name, at):
                    return None
                self._engine.storage.set_mode(file, policy.mode)
                if policy.keep_times:
                    self._engine.storage.set_times(file, before.st_mtime_ns)
            finally:
                os.close(file)
        finally:
            os.close(original)
        facts = Facts()
        facts.add(found.st_size, found.st_ino, before, checksum)
        return facts

    def _take_copy(self, copied: Copied, source: str, fd: int, name: str, at: int) -> Facts | None:
        status = os.stat(source)
        if (status.st_size, status.st_mtime_ns) != (copied.size, copied.source_time):
            return None
        try:
            file = os.open(copied.name, _READ, dir_fd=fd)
        except OSError:
            return None
        try:
            # After a power cut a file may have its size, and zeros for content.
            found = os.fstat(file)
            if (found.st_size, found.st_ino) != (copied.size, copied.inode) or transfer.checksum_of(file) != copied.checksum:
                return None
        finally:
            os.close(file)
        if not rename_away(self._engine, copied.name, fd, name, at):
            return None
        facts = Facts()
        facts.add(copied.size, copied.inode, status, copied.checksum)
        return facts

    def produced(self, name: str, lease: str, at: int) -> bool:
        """Take a file that an extractor of an earlier attempt produced into the folder `at`; False if there is none."""
        for leftover in self._left:
            if leftover.produced and leftover.ended and leftover.lease == lease:
                with contextlib.suppress(OSError), self._open(leftover) as fd:
                    if rename_away(self._engine, name, fd, name, at):
                        return True
        return False

    def discard(self) -> None:
        """Remove what is left of copies. What extractors produced stays until it is swept."""
        for n, leftover in enumerate(self._left):
            folder, _, name = leftover.path.rpartition("/")
            if leftover.produced:
                continue
            with (
                contextlib.suppress(FileNotFoundError),
                self._engine.root(leftover.root) as root,
                storage.folder(folder, root) as private,
            ):
                mine = self._actor.private(f"k{n}")
                if rename_away(self._engine, name, private, mine, private):
                    self._engine.storage.remove_tree(mine, private)

    @contextlib.contextmanager
    def _open(self, leftover: Leftover) -> Iterator[int]:
        with self._engine.root(leftover.root) as root, storage.folder(leftover.path, root) as fd:
            yield fd
