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

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: Files that are taken over before the journal hears of it.
BATCH: Final = 64


@attrs.frozen
class Copied:
    """A file that an earlier attempt had copied, as its journal recorded it."""

    #: Path relative to its staging directory.
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
    #: Copies by their source, only those that have a checksum; a source may have been copied more than once.
    copied: Mapping[str, Sequence[Copied]]
    #: Files that an extractor had produced and handed over.
    adopted: frozenset[str]
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
    copied, adopted = _recorded(engine, former["_id"], entry["directory"])
    undone_by_itself = former["undoers"] == [former["actor"]] and len(former["actors"]) == 1
    return Leftover(
        root=entry["root"],
        path=entry["path"],
        lease=Directory(**former["directories"][entry["directory"]]).lease,
        copied=copied,
        adopted=adopted,
        ended=undone_by_itself or bool(began and known_dead(Owner(**began))),
        produced=former.get("purpose") == "assembly" or bool(former.get("expires")),
    )


def _recorded(engine: Engine, transaction: str, index: int) -> tuple[dict[str, list[Copied]], frozenset[str]]:
    """By the journal of the attempt; nothing if that is gone or damaged: then everything is made again."""
    copied: dict[str, list[Copied]] = {}
    adopted: set[str] = set()
    try:
        records = engine.journals.read_ended(transaction).records
    except (Stuck, OSError):
        return copied, frozenset()
    staged = [record for record in records if isinstance(record, Staged) and record.directory == index]
    taken_back = {
        name for record in records if isinstance(record, Unstaged) and record.directory == index for name in record.names
    }
    for record in staged:
        if record.transfer in ("copy", "reflink", "move"):
            columns = zip(record.sources, record.names, record.sizes, record.inodes, record.source_times, record.checksums)
            for source, *facts in columns:
                if facts[-1] and facts[0] not in taken_back:
                    copied.setdefault(source, []).append(Copied(*facts))
        elif record.transfer == "adopt":
            adopted.update(record.names)
    return copied, frozenset(adopted - taken_back)


class Harvest:
    """Takes files out of leftovers into staging directories of the transaction that goes on."""

    def __init__(self, engine: Engine, document: Document, left: Sequence[Leftover]) -> None:
        self._engine = engine
        self._actor = Actor.of(document)
        self._left = list(left)

    def __bool__(self) -> bool:
        return bool(self._left)

    def copies(
        self, sources: Sequence[str], names: Sequence[str], policy: Policy, folder: str, at: int, promised: int | None = None
    ) -> dict[int, Facts]:
        """Take those copies that are good into `at`, the `folder` of a staging directory, under `names`.

        Returns their facts by index. A directory that was `promised` to a renderer may hold some, too.
        """
        taken: dict[int, Facts] = {}
        for leftover in self._left:
            with contextlib.suppress(OSError), self._open(leftover) as fd:
                recorded = {copied.name for all_copied in leftover.copied.values() for copied in all_copied}
                for n, (source, name) in enumerate(zip(sources, names)):
                    path = f"{folder}/{name}" if folder else name
                    for copied in leftover.copied.get(source, ()) if n not in taken else ():
                        if (facts := self._take_copy(copied, source, fd, name, policy, at)) is not None:
                            taken[n] = facts
                            break
                    if n not in taken and path not in recorded and leftover.ended and not leftover.produced:
                        self._add(taken, n, self._take_unrecorded(source, path, fd, name, policy, at))
        for n, (source, name) in enumerate(zip(sources, names)):
            if promised is not None and n not in taken:
                path = f"{folder}/{name}" if folder else name
                self._add(taken, n, self._take_unrecorded(source, path, promised, name, policy, at))
        return taken

    @staticmethod
    def _add(taken: dict[int, Facts], n: int, facts: Facts | None) -> None:
        if facts is not None:
            taken[n] = facts

    def _take_copy(self, copied: Copied, source: str, fd: int, name: str, policy: Policy, at: int) -> Facts | None:
        status = os.stat(source)
        if (status.st_size, status.st_mtime_ns) != (copied.size, copied.source_time):
            return None
        with self._opened(copied.name, fd) as (file, inner, base):
            if file is None:
                return None
            # After a power cut a file may have its size, and zeros for content.
            found = os.fstat(file)
            if (found.st_size, found.st_ino, found.st_nlink) != (copied.size, copied.inode, 1):
                return None
            if transfer.checksum_of(file) != copied.checksum or not self._completed(file, found, policy, status.st_mtime_ns):
                return None
            if not rename_away(self._engine, base, inner, name, at):
                return None
        facts = Facts()
        facts.add(copied.size, copied.inode, status, copied.checksum)
        return facts

    def _take_unrecorded(self, source: str, path: str, fd: int, name: str, policy: Policy, at: int) -> Facts | None:
        """A copy that was killed before it was recorded is as good if its content is that of its source."""
        with self._opened(path, fd) as (file, inner, base):
            if file is None:
                return None
            original, before = transfer.open_source(source)
            try:
                found = os.fstat(file)
                plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and not transfer.is_written(file)
                if not plain or found.st_size != before.st_size:
                    return None
                checksum = transfer.checksum_of(original)
                if transfer.checksum_of(file) != checksum or not self._completed(file, found, policy, before.st_mtime_ns):
                    return None
                if not rename_away(self._engine, base, inner, name, at):
                    return None
            finally:
                os.close(original)
        facts = Facts()
        facts.add(found.st_size, found.st_ino, before, checksum)
        return facts

    def _completed(self, file: int, found: os.stat_result, policy: Policy, time: int) -> bool:
        """Give a file its mode and time where it has not got them yet; False where another user would have to."""
        try:
            if stat.S_IMODE(found.st_mode) != policy.mode:
                self._engine.storage.set_mode(file, policy.mode)
            if policy.keep_times and found.st_mtime_ns != time:
                self._engine.storage.set_times(file, time)
        except OSError:
            return False
        return True

    @staticmethod
    @contextlib.contextmanager
    def _opened(path: str, fd: int) -> Iterator[tuple[int | None, int, str]]:
        """A descriptor of a file below `fd` (None if there is none), that of its folder, and its name there."""
        folder, _, base = path.rpartition("/")
        with contextlib.ExitStack() as stack:
            file = None
            inner = fd
            with contextlib.suppress(OSError):
                inner = stack.enter_context(storage.folder(folder, fd))
                file = os.open(base, _READ, dir_fd=inner)
                stack.callback(os.close, file)
            yield file, inner, base

    def produced(self, path: str, lease: str, at: int) -> bool:
        """Take a file that an extractor of an earlier attempt produced into the folder `at`; False if there is none.

        It must have been handed over then, or its process must be known to have ended.
        """
        folder, _, name = path.rpartition("/")
        for leftover in self._left:
            if leftover.produced and (leftover.ended or path in leftover.adopted) and leftover.lease == lease:
                with contextlib.suppress(OSError), self._open(leftover) as fd, storage.folder(folder, fd) as inner:
                    if rename_away(self._engine, name, inner, name, at):
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
