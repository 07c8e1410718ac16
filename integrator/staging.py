"""A staging directory: where the files of one directory wait, out of everybody's sight, for the reveal.

It is made by one exclusive `mkdir`, never repeated, and everything in it is relative to its descriptor: whoever renames the
directory away takes the writer along, and the writer can never reach what has the name next.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from threading import Event
from typing import Final

import attrs

from integrator import storage, transfer
from integrator.engine import Engine
from integrator.errors import SourceChanged, StagingChanged, StorageFailed, UsageError
from integrator.harvest import BATCH, Harvest
from integrator.journal import Journal
from integrator.journal.format import Staged, Unstaged
from integrator.model import Directory, Identity
from integrator.storage import Storage
from integrator.transfer import Check, Chunk, Facts, Policy

#: Fewer files than this are made durable one by one, more of them by one `syncfs`.
FEW: Final = 8
#: Seconds to wait for a chunk whose future an interrupt has cost us; it stops at its next file or block.
_LOST: Final = 2.0

#: Called with the number of files and bytes that were staged since the last call.
Progress = Callable[[int, int], None]


@attrs.define
class _Group:
    """Files of one folder that were staged in one way; parallel lists."""

    folder: str
    transfer: str
    names: list[str]
    sources: list[str]
    facts: Facts


class StagingDirectory:
    """One directory of an open transaction. Made by `Transaction`, never alone."""

    def __init__(
        self, engine: Engine, directory: Directory, index: int, journal: Journal, root_fd: int, promised: int | None = None
    ) -> None:
        #: Descriptor of the directory that was promised to a renderer, and captured; closed with this one.
        self._promised = promised
        self._engine = engine
        self._journal = journal
        self._process = os.getpid()
        self.directory = directory
        self.index = index
        #: Whether it has its final name.
        self.revealed = False
        #: Whether it was part of an early reveal: nothing can be added then, also to what gets its final name later.
        self.sealed = False
        self._groups: list[_Group] = []
        self._folders: dict[str, tuple[int, int]] = {}
        self.stop = Event()
        mode = engine.settings.folder_mode
        #: Descriptor of the parent, open since before the first write: `syncfs` on it reports every write-back error since.
        self.parent_fd = -1
        name = directory.staging.rpartition("/")[2]
        for attempt in range(100):
            self.parent_fd = engine.storage.make_folders(directory.parent, mode, root_fd)
            try:
                os.close(engine.storage.make_folders(directory.private, mode, root_fd))
                engine.mark_mount(directory.private, root_fd)
                engine.storage.make_folder(name, mode, self.parent_fd)
                self.fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.parent_fd)
                break
            except BaseException as error:
                # Another transaction that rolls back may remove the parent, while it is empty, between our two calls.
                vanished = isinstance(error, FileNotFoundError) and os.fstat(self.parent_fd).st_nlink == 0
                os.close(self.parent_fd)
                if not vanished or attempt == 99:
                    raise
        self._folders[""] = _device_and_inode(self.fd)

    @property
    def path(self) -> str:
        """Absolute path of the staging directory, for extractors that write straight into it; once revealed, its final path."""
        if self.revealed:
            return self.final_path
        return os.path.join(self._engine.roots[self.directory.root], self.directory.staging)

    @property
    def final_path(self) -> str:
        """Absolute path that the directory will have."""
        return os.path.join(self._engine.roots[self.directory.root], self.directory.final)

    @property
    def count(self) -> int:
        """Number of staged files."""
        return sum(len(group.names) for group in self._groups)

    def names(self) -> Iterator[str]:
        """Paths of all staged files, relative to the directory."""
        for group in self._groups:
            yield from (f"{group.folder}/{name}" for name in group.names) if group.folder else group.names

    def files(self) -> dict[str, tuple[int, int]]:
        """(size, inode) of all staged files by their paths, relative to the directory."""
        facts = (pair for group in self._groups for pair in zip(group.facts.sizes, group.facts.inodes))
        return dict(zip(self.names(), facts))

    # --- bringing files in ----------------------------------------------------------------------------------------

    def transfer(
        self,
        sources: Sequence[str],
        names: Sequence[str],
        policy: Policy,
        *,
        folder: str = "",
        known: Facts | None = None,
        harvest: Harvest | None = None,
        progress: Progress | None = None,
    ) -> Facts:
        """Stage `sources` (absolute paths) as `names` in a folder of this directory; returns their facts in order.

        `known` is what a look at the sources of hard links found; it saves another one. `harvest` has the copies that an earlier
        attempt left.

        Raises `StorageFailed`, `SourceChanged`, `StagingChanged`. Nothing is half recorded: a chunk is, or is not.
        """
        self.check_open()
        for name in names:
            _refuse_outside(*_parts(folder), name)
        self._folder(folder)
        found = self._harvested(sources, names, policy, folder, harvest)
        rest = [n for n in range(len(names)) if n not in found]
        chunks = [
            Chunk(
                folder=self._folder_path(folder),
                identity=self._folders[folder],
                sources=[sources[n] for n in rest[start:end]] if found else sources[start:end],
                names=[names[n] for n in rest[start:end]] if found else names[start:end],
                policy=policy,
                known=known.part(start, end) if known is not None else None,
            )
            for start, end in _cuts(len(rest), _chunk_size(len(rest)))
        ]
        group = _Group(folder, policy.transfer, list(names), list(sources), Facts())
        results: dict[int, Facts] = {}
        for number, facts in self._run(chunks):
            results[number] = facts
            self._record(folder, chunks[number].names, chunks[number].sources, policy.transfer, facts)
            if policy.transfer != "hardlink":
                self._journal.flush()  # should we be killed, the next attempt need not copy these again
            if progress is not None:
                progress(len(facts.sizes), sum(facts.sizes))
        for number in range(len(chunks)):
            group.facts.extend(results[number])
        if found:
            if progress is not None:
                progress(len(found), 0)
            group.facts = _merged(len(names), found, rest, group.facts)
        self._groups.append(group)
        return group.facts

    def _harvested(
        self, sources: Sequence[str], names: Sequence[str], policy: Policy, folder: str, harvest: Harvest | None
    ) -> dict[int, Facts]:
        """Facts, by index, of copies that an earlier attempt left and that are good."""
        if (
            harvest is None
            or not (harvest or self._promised is not None)
            or policy.checksum == "none"
            or policy.transfer not in ("copy", "reflink", "move")
        ):
            return {}
        found: dict[int, Facts] = {}
        at = self._open(folder)
        try:
            for start, end in _cuts(len(names), BATCH):
                some = harvest.copies(sources[start:end], names[start:end], policy, folder, at, self._promised)
                for n, facts in some.items():
                    self._record(folder, [names[start + n]], [sources[start + n]], policy.transfer, facts)
                    found[start + n] = facts
                if some:
                    self._journal.flush()  # should we be killed, the next attempt takes them from here
        finally:
            os.close(at)
        return found

    def write(self, name: str, content: bytes, *, checksum: bool = True, folder: str = "") -> Facts:
        """Stage a file with this content."""
        self.check_open()
        _refuse_outside(*_parts(folder), name)
        at = self._open(folder)
        try:
            fd = self._engine.storage.create(name, self._engine.settings.file_mode, at)
            try:
                self._engine.storage.write_all(fd, content)
                self._engine.storage.set_mode(fd, self._engine.settings.file_mode)
                made = os.fstat(fd)
            finally:
                self._engine.storage.close(fd)
        except OSError as error:
            raise StorageFailed("write", name, error) from error
        finally:
            os.close(at)
        import xxhash

        facts = Facts()
        facts.add(made.st_size, made.st_ino, made, xxhash.xxh3_128_hexdigest(content) if checksum else "")
        return self._made(folder, "write", name, facts)

    def adopt(self, name: str, *, checksum: bool = False, harvest: Harvest | None = None) -> Facts:
        """Take up a file that somebody wrote straight into this directory (`name` may have folders).

        One that is not here is taken from what an earlier attempt left (`harvest`). Raises `StagingChanged` if it is not there,
        empty, or no regular file.
        """
        self.check_open()
        folder, _, base = name.rpartition("/")
        _refuse_outside(*name.split("/"))
        try:
            if folder and harvest is None:
                os.close(storage.open_folder(folder, self.fd))  # it must be there already
            self._folder(folder)
            self._share(folder)
            at = storage.open_folder(folder, self.fd)
            try:
                if harvest is not None and not storage.exists(base, at):
                    harvest.produced(name, self.directory.lease, at)
                status = os.stat(base, dir_fd=at, follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
                    raise StagingChanged(f"{name} in {self.path} is empty or not a regular file")
                self._set_mode(base, status, at)
                digest = self._checksum(base, at) if checksum else ""
            finally:
                os.close(at)
        except OSError as error:
            raise StagingChanged(f"{name} was not written into {self.path} ({error.strerror})") from error
        facts = Facts()
        facts.add(status.st_size, status.st_ino, status, digest)
        return self._made(folder, "adopt", base, facts)

    def take(self, names: Sequence[str], known: Facts, *, checksum: bool = False) -> Facts:
        """Take files that a renderer wrote into the promised directory, by renaming them; no byte is copied.

        `known` is what a look at them found before they were captured. Raises `SourceChanged` if one changed since.
        """
        self.check_open()
        facts = Facts()
        if self._promised is None:
            raise SourceChanged(f"the directory that was promised for {self.final_path} is gone")
        for n, name in enumerate(names):
            _refuse_outside(name)
            try:
                self._engine.storage.rename(name, self._promised, name, self.fd)
                status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            except OSError as error:
                raise SourceChanged(f"{name} went away while it was published ({error.strerror})") from error
            found = (status.st_size, status.st_ino, status.st_mtime_ns)
            if not stat.S_ISREG(status.st_mode) or found != (known.sizes[n], known.inodes[n], known.source_times[n]):
                raise SourceChanged(f"{name} changed while it was published: whoever renders it has not stopped")
            self._set_mode(name, status, self.fd)
            facts.add(status.st_size, status.st_ino, status, self._checksum(name, self.fd) if checksum else "", linked=True)
        self._groups.append(_Group("", "adopt", list(names), [], facts))
        self._record("", names, [], "adopt", facts)
        return facts

    def _set_mode(self, name: str, status: os.stat_result, at: int) -> None:
        """Give a produced file the mode of published files, if it is ours to change: renderers have umasks of their own."""
        mode = self._engine.settings.file_mode
        # A file with a second name is somebody's source, too.
        if stat.S_IMODE(status.st_mode) != mode and os.geteuid() in (0, status.st_uid) and status.st_nlink == 1:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            try:
                self._engine.storage.set_mode(fd, mode)
            except OSError as error:
                raise StorageFailed("set the mode of", name, error) from error
            finally:
                os.close(fd)

    @staticmethod
    def _checksum(name: str, at: int) -> str:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        try:
            return transfer.checksum_of(fd)
        finally:
            os.close(fd)

    def made(self) -> Iterator[str]:
        """Paths of the files that the engine brought in, relative to the directory; an extractor or renderer made the others."""
        for group in self._groups:
            if group.transfer != "adopt":
                yield from (f"{group.folder}/{name}" for name in group.names) if group.folder else group.names

    def _share(self, folder: str) -> None:
        """Give folders that an extractor made the mode of the settings: others of the group recover what it leaves."""
        parts = folder.split("/") if folder else []
        for path in ("/".join(parts[: n + 1]) for n in range(len(parts))):
            with storage.folder(path, self.fd) as at:
                status = os.fstat(at)
                if stat.S_IMODE(status.st_mode) != self._engine.settings.folder_mode and os.geteuid() in (0, status.st_uid):
                    self._engine.storage.set_mode(at, self._engine.settings.folder_mode)

    def _made(self, folder: str, way: str, name: str, facts: Facts) -> Facts:
        self._groups.append(_Group(folder, way, [name], [], facts))
        self._record(folder, [name], [], way, facts)
        self._journal.flush()  # it was produced, perhaps for hours: the next attempt must know that it is complete
        return facts

    def _record(self, folder: str, names: Sequence[str], sources: Sequence[str], way: str, facts: Facts) -> None:
        self._journal.write(
            Staged(
                directory=self.index,
                names=[f"{folder}/{name}" for name in names] if folder else list(names),
                sizes=facts.sizes.tolist(),
                inodes=facts.inodes.tolist(),
                transfer=way,
                sources=list(sources),
                source_times=facts.source_times.tolist() if sources else [],
                checksums=facts.checksums,
            )
        )

    def _folder(self, folder: str) -> None:
        """Make a folder inside the staging directory if it is not there."""
        if folder not in self._folders:
            try:
                fd = self._engine.storage.make_folders(folder, self._engine.settings.folder_mode, self.fd)
            except OSError as error:
                raise StorageFailed("make the folder", folder, error) from error
            os.close(fd)
            # Every folder on the way is ours to make durable, not only the last one.
            parts = folder.split("/")
            for path in ("/".join(parts[: n + 1]) for n in range(len(parts))):
                with storage.folder(path, self.fd) as at:
                    if stat.S_IMODE(os.fstat(at).st_mode) != self._engine.settings.folder_mode:
                        self._engine.storage.set_mode(at, self._engine.settings.folder_mode)  # the reply of `mkdir` was lost
                    self._folders[path] = _device_and_inode(at)

    def keep_folder(self, folder: str, source: str) -> None:
        """Make a folder as the one at `source` (an absolute path) is, after everything in it. Raises `StorageFailed`.

        That of another user gets the mode of the settings: the new one is ours, and must not keep its user out.
        """
        self.check_open()
        _refuse_outside(*_parts(folder))
        self._folder(folder)
        try:
            status = os.stat(source, follow_symlinks=False)
            if status.st_uid == os.geteuid():
                with storage.folder(folder, self.fd) as at:
                    self._engine.storage.set_mode(at, stat.S_IMODE(status.st_mode))
        except OSError as error:
            raise StorageFailed("make the folder", folder, error) from error

    def _open(self, folder: str) -> int:
        self._folder(folder)
        return storage.open_folder(folder, self.fd)

    def _folder_path(self, folder: str) -> str:
        return os.path.join(self.path, folder) if folder else self.path

    def _run(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, Facts]]:
        """Stage chunks on the executor, as they end; on any error none goes on when this returns."""
        executor = self._engine.executor
        threads = isinstance(executor, ThreadPoolExecutor)
        # Calls as short as linking gain nothing from a second thread: handing the interpreter over costs as much.
        if executor is None or len(chunks) < 2 or (threads and chunks[0].known is not None):
            for number, chunk in enumerate(chunks):
                yield number, transfer.stage(self._engine.storage, chunk, self.stop)
            return
        calls = [(transfer.stage, (self._engine.storage, chunk)) for chunk in chunks]
        yield from _run_on(executor, calls, self.stop if threads else None, self.stop)

    # --- taking back ----------------------------------------------------------------------------------------------

    def position(self) -> int:
        """A savepoint: the number of groups staged so far."""
        return len(self._groups)

    def take_back(self, position: int) -> None:
        """Remove what was staged since `position`. Safe when overtaken: all names are below our own descriptor."""
        if self.sealed:
            return  # nothing was: no savepoint from before an early reveal is rolled back to
        for group in self._groups[position:]:
            at = storage.open_folder(group.folder, self.fd)
            try:
                for name in group.names:
                    self._engine.storage.remove_tree(name, at)
            finally:
                os.close(at)
            names = [f"{group.folder}/{name}" if group.folder else name for name in group.names]
            self._journal.write(Unstaged(directory=self.index, names=names))
        del self._groups[position:]
        self._remove_strangers(self.fd, "")
        kept = {group.folder for group in self._groups}
        used = {"/".join(folder.split("/")[: n + 1]) for folder in kept for n in range(folder.count("/") + 1)} | {""}
        self._folders = {folder: facts for folder, facts in self._folders.items() if folder in used}

    def _remove_strangers(self, fd: int, prefix: str) -> None:
        """Remove what no kept group knows: halves of a transfer that failed, files that an extractor left, their folders."""
        known = set(self.names())
        with os.scandir(fd) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_folder in found:
            path = prefix + name
            if is_folder and any(kept.startswith(path + "/") for kept in known):
                with storage.folder(name, fd) as inner:
                    self._remove_strangers(inner, path + "/")
            elif path not in known:
                self._engine.storage.remove_tree(name, fd)

    # --- prepare --------------------------------------------------------------------------------------------------

    def verify(self) -> None:
        """Everything that was staged is there as recorded, nothing else is, and the sources are as they were read.

        What was produced here is complete, too: nobody has it open for writing, and no text in it names a staging directory.
        """
        timed = self._engine.settings.keep_times
        for group in self._groups:
            for start, end in _cuts(len(group.names), 2048):
                transfer.verify(
                    Check(
                        folder=self._folder_path(group.folder),
                        identity=self._folders[group.folder],
                        names=group.names[start:end],
                        sizes=group.facts.sizes[start:end],
                        inodes=group.facts.inodes[start:end],
                        sources=group.sources[start:end],
                        source_times=group.facts.source_times[start:end],
                        source_inodes=group.facts.source_inodes[start:end],
                        produced=group.transfer == "adopt",
                        checksums=group.facts.checksums[start:end] if timed and group.transfer != "symlink" else [],
                    )
                )
        for folder in self._folders:
            self._refuse_strangers(folder)

    def _refuse_strangers(self, folder: str) -> None:
        """Nothing may be published that nobody registered. Raises `StagingChanged`."""
        known = {name for group in self._groups if group.folder == folder for name in group.names}
        known |= {path.rpartition("/")[2] for path in self._folders if path and path.rpartition("/")[0] == folder}
        with storage.folder(folder, self.fd) as at:
            extra = set(os.listdir(at)) - known
        if extra:
            shown = ", ".join(sorted(extra)[:5])
            raise StagingChanged(f"{self._folder_path(folder)} holds files that nobody registered: {shown}")

    def sync_files(self) -> None:
        """Make files and folders durable one by one; for few of them that is cheaper than `syncfs`."""
        for group in self._groups:
            at = storage.open_folder(group.folder, self.fd)
            try:
                for name in group.names:
                    if group.transfer != "symlink":
                        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                        try:
                            self._engine.storage.sync(fd)
                        finally:
                            os.close(fd)
            finally:
                os.close(at)
        for folder in sorted(self._folders, reverse=True):
            with storage.folder(folder, self.fd) as at:
                self._engine.storage.sync(at)

    def identity(self) -> Identity:
        """What tells this directory from all others."""
        found = storage.identity("", self.fd)
        assert found is not None
        return found

    def moved_sources(self) -> Iterator[tuple[str, int, int, int]]:
        """(path, size, time in ns, inode or 0) of every source that is to be removed after the verdict."""
        for group in self._groups:
            if group.transfer == "move":
                facts = group.facts
                inodes = (own or linked for own, linked in zip(facts.source_inodes, facts.inodes))
                yield from zip(group.sources, facts.sizes, facts.source_times, inodes)

    def check_open(self) -> None:
        """Raise `UsageError` once this is closed, when its descriptors may be those of other files, and in a forked process."""
        if self._process != os.getpid():
            raise UsageError(f"{self.final_path} is published by the process that this one was forked from. Nothing was written")
        if self.fd < 0:
            raise UsageError(f"{self.final_path} is no part of an open transaction any more. Nothing was written")
        if self.sealed:
            raise UsageError(f"{self.final_path} was revealed early: nothing can be added to it any more. Nothing was written")

    def close(self) -> None:
        """Close the descriptors, once."""
        descriptors = [self.fd, self.parent_fd, -1 if self._promised is None else self._promised]
        self.fd = self.parent_fd = -1
        self._promised = None
        for fd in descriptors:
            if fd >= 0:
                os.close(fd)


def make_durable(storage: Storage, directories: Sequence[StagingDirectory]) -> bool:
    """Make staging directories durable: one barrier for each file system, or one for each file where they are few.

    Returns whether the folders above some of them must still be made durable: `syncfs` covers them, single files do not.
    """
    by_device: dict[int, list[StagingDirectory]] = {}
    for directory in directories:
        by_device.setdefault(os.fstat(directory.fd).st_dev, []).append(directory)
    one_by_one = False
    for group in by_device.values():
        if sum(directory.count for directory in group) >= FEW:
            storage.sync_filesystem(group[0].parent_fd)
            continue
        one_by_one = True
        for directory in group:
            directory.sync_files()
            storage.sync(directory.parent_fd)
    return one_by_one


def _run_on(
    executor: Executor, calls: Sequence[tuple[Callable[..., Facts], tuple[object, ...]]], shared: Event | None, stop: Event
) -> Iterator[tuple[int, Facts]]:
    futures: dict[Future[Facts], int] = {}
    begun: list[Event] = []
    try:
        for number, (function, arguments) in enumerate(calls):
            if shared is not None:
                begun.append(Event())
                futures[executor.submit(_signalling, begun[-1], function, *arguments, shared)] = number
            else:
                futures[executor.submit(function, *arguments, None)] = number
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        # Nobody may still write when the directory is taken away.
        stop.set()
        for future in futures:
            future.cancel()
        for future in futures:
            if not future.cancelled():
                future.exception()
        if len(begun) > len(futures):  # an interrupt inside `submit`: that call may run, without a future to wait for
            begun[-1].wait(_LOST)
        raise


def _signalling(ended: Event, function: Callable[..., Facts], *arguments: object) -> Facts:
    try:
        return function(*arguments)
    finally:
        ended.set()


def _merged(count: int, found: Mapping[int, Facts], rest: Sequence[int], staged: Facts) -> Facts:
    """Facts of all files in order, from those that were found and those of the rest."""
    positions = {n: position for position, n in enumerate(rest)}
    merged = Facts()
    for n in range(count):
        merged.extend(found[n] if n in found else staged.part(positions[n], positions[n] + 1))
    return merged


def _chunk_size(count: int) -> int:
    """Files in one chunk: few enough that even a short sequence of large files keeps several workers busy and shows progress."""
    return max(1, min(transfer.CHUNK, count // 8))


def _cuts(count: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, size):
        yield start, min(start + size, count)


def _parts(folder: str) -> list[str]:
    return folder.split("/") if folder else []


def _refuse_outside(*parts: str) -> None:
    """Refuse what could lead out of a staging directory, whoever asks for it. Raises `UsageError`."""
    if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
        path = "/".join(parts)
        raise UsageError(
            f"{path!r} is not the name of a file inside a version (no '..', no empty part). Nothing was written for it"
        )


def _device_and_inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def policy(engine: Engine, way: str, checksum: str) -> Policy:
    """The policy of a root for one way of bringing files in. Raises `UsageError` for an unknown way."""
    if way not in ("copy", "hardlink", "reflink", "symlink", "move"):
        raise UsageError(f"there is no transfer called {way!r}")
    settings = engine.settings
    return Policy(
        transfer=way,
        checksum=checksum,
        fallback=settings.link_fallback,
        mode=settings.file_mode,
        keep_times=settings.keep_times,
    )
