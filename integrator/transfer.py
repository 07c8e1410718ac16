"""Brings files into a staging directory, and verifies them there.

Work is cut into chunks that run on any `concurrent.futures.Executor`; a chunk names its folder by path and identity, so that it
can run in another process and still cannot be led elsewhere by a symbolic link. A chunk stops at the next file, or
within a large file at the next block, when it is told to.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import operator
import os
import re
import signal
import stat
from array import array
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import attrs

from integrator.errors import SourceChanged, StagingChanged, StorageFailed
from integrator.storage import BLOCK, KERNEL_BLOCK, Storage

#: Files in one chunk: enough to make the cost of a task vanish, few enough for progress and a quick stop.
CHUNK: Final = 256

#: The mark of a staging directory in a path; see `layout.STAGING_MARK`.
_STAGING: Final = re.compile(rb"\.tmp\.[0-9a-f]{24}")
#: Bytes of a file that tell whether it is text.
_SNIFFED: Final = 4096

_OPEN_SOURCE: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_NO_LINK: Final = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.ENOSYS})
_NO_CLONE: Final = frozenset({errno.EXDEV, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY})


class Stop(Protocol):
    """Something that says when to stop, such as `threading.Event`."""

    def is_set(self) -> bool: ...


class Stopped(Exception):
    """A chunk was told to stop."""


@attrs.frozen(kw_only=True)
class Policy:
    """How files are brought in."""

    #: copy, hardlink, reflink, symlink or move.
    transfer: str
    #: none, copied or all.
    checksum: str
    #: refuse or copy: what becomes of a link or reflink that the file system refuses.
    fallback: str
    #: Mode of files that are copied or written.
    mode: int
    #: Whether a copy keeps the modification time of its source.
    keep_times: bool


@attrs.frozen(kw_only=True)
class Chunk:
    """Some files for one folder; `sources` and `names` are parallel."""

    #: Absolute path of the folder, and (device, inode) that it must turn out to be.
    folder: str
    identity: tuple[int, int]
    sources: Sequence[str]
    names: Sequence[str]
    policy: Policy
    #: What a look at the sources of hard links found before; verified, like everything, when the transaction prepares.
    known: Facts | None = None


@attrs.define
class Facts:
    """What is known of files after they were staged; parallel, and compact for 100,000 of them."""

    sizes: array[int] = attrs.field(factory=lambda: array("Q"))
    inodes: array[int] = attrs.field(factory=lambda: array("Q"))
    #: Modification times of the sources in ns.
    source_times: array[int] = attrs.field(factory=lambda: array("q"))
    #: Inodes of the sources; 0 where the staged file is the source itself (a hard link).
    source_inodes: array[int] = attrs.field(factory=lambda: array("Q"))
    #: xxh3-128 as 32 hex digits, "" where none was taken.
    checksums: list[str] = attrs.field(factory=list)

    def add(self, size: int, inode: int, source: os.stat_result, checksum: str, *, linked: bool = False) -> None:
        self.sizes.append(size)
        self.inodes.append(inode)
        self.source_times.append(source.st_mtime_ns)
        self.source_inodes.append(0 if linked else source.st_ino)
        self.checksums.append(checksum)

    def part(self, start: int, end: int) -> Facts:
        """The facts of some of the files."""
        return Facts(*(getattr(self, field.name)[start:end] for field in attrs.fields(Facts)))

    def extend(self, other: Facts) -> None:
        """Add the facts of further files."""
        for field in attrs.fields(Facts):
            getattr(self, field.name).extend(getattr(other, field.name))


def open_staging(path: str, identity: tuple[int, int]) -> int:
    """A descriptor of a folder of a staging directory. Raises `StagingChanged` if it is not that folder any more."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise StagingChanged(f"the staging directory {path} is gone ({error.strerror})") from error
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != identity:
        os.close(fd)
        raise StagingChanged(f"{path} is not the staging directory of this publish any more")
    return fd


def stage(storage: Storage, chunk: Chunk, stop: Stop | None = None) -> Facts:
    """Bring the files of a chunk in; returns their facts, in order.

    Raises `StorageFailed`, `SourceChanged`, `StagingChanged`, `Stopped`.
    """
    if chunk.known is not None:
        return _link_known(storage, chunk, chunk.known, stop)
    put = {"copy": _copy, "hardlink": _link, "move": _move, "reflink": _reflink, "symlink": _symlink}[chunk.policy.transfer]
    facts = Facts()
    at = open_staging(chunk.folder, chunk.identity)
    hand = _Hand(storage, at, chunk.policy, memoryview(bytearray(BLOCK)), stop)
    try:
        for source, name in zip(chunk.sources, chunk.names):
            if stop is not None and stop.is_set():
                raise Stopped
            try:
                put(hand, source, name, facts)
            except OSError as error:
                raise StorageFailed(f"{chunk.policy.transfer} {source} to", name, error) from error
    finally:
        os.close(at)
    return facts


def _link_known(storage: Storage, chunk: Chunk, known: Facts, stop: Stop | None) -> Facts:
    """Hard links to sources that were looked at already: one call for each file."""
    at = open_staging(chunk.folder, chunk.identity)
    try:
        for n, (source, name) in enumerate(zip(chunk.sources, chunk.names)):
            if stop is not None and stop.is_set():
                raise Stopped
            try:
                storage.link(source, name, at)
            except OSError as error:
                if error.errno not in _NO_LINK or chunk.policy.fallback == "refuse":
                    raise StorageFailed(f"hardlink {source} to", name, error) from error
                facts = known.part(0, n)
                copied = attrs.evolve(chunk, sources=chunk.sources[n:], names=chunk.names[n:], known=None)
                facts.extend(stage(storage, copied, stop))
                return facts
    finally:
        os.close(at)
    return known


class _Hand:
    """What the functions below need beside the file."""

    __slots__ = ("at", "buffer", "policy", "stop", "storage")

    def __init__(self, storage: Storage, at: int, policy: Policy, buffer: memoryview, stop: Stop | None) -> None:
        self.storage = storage
        self.at = at
        self.policy = policy
        self.buffer = buffer
        self.stop = stop


def _copy(hand: _Hand, source: str, name: str, facts: Facts) -> None:
    from_fd, before = open_source(source)
    try:
        _copy_open(hand, from_fd, before, source, name, facts, clone=False)
    finally:
        os.close(from_fd)


def _reflink(hand: _Hand, source: str, name: str, facts: Facts) -> None:
    from_fd, before = open_source(source)
    try:
        _copy_open(hand, from_fd, before, source, name, facts, clone=True)
    finally:
        os.close(from_fd)


def _copy_open(hand: _Hand, from_fd: int, before: os.stat_result, source: str, name: str, facts: Facts, *, clone: bool) -> None:
    storage, policy = hand.storage, hand.policy
    to_fd = storage.create(name, policy.mode, hand.at)
    try:
        if clone and _cloned(hand, from_fd, to_fd):
            checksum = checksum_of(from_fd, hand.buffer, hand.stop) if policy.checksum == "all" else ""
        elif policy.checksum == "none":
            _copy_in_kernel(hand, from_fd, to_fd)
            checksum = ""
        else:
            checksum = _copy_and_hash(hand, from_fd, to_fd, before.st_size)
        made = os.fstat(to_fd)
        # That the source is still what was read is seen when the transaction prepares; here only what would be lost work.
        if made.st_size != before.st_size:
            raise SourceChanged(f"{source} changed while it was copied: {made.st_size} of {before.st_size} bytes arrived")
        if stat.S_IMODE(made.st_mode) != policy.mode:
            storage.set_mode(to_fd, policy.mode)
        if policy.keep_times:
            storage.set_times(to_fd, before.st_mtime_ns)
    finally:
        storage.close(to_fd)
    facts.add(made.st_size, made.st_ino, before, checksum)


def _cloned(hand: _Hand, from_fd: int, to_fd: int) -> bool:
    try:
        hand.storage.clone(from_fd, to_fd)
    except OSError as error:
        if error.errno not in _NO_CLONE or hand.policy.fallback == "refuse":
            raise
        return False
    return True


def _copy_in_kernel(hand: _Hand, from_fd: int, to_fd: int) -> None:
    try:
        while hand.storage.copy_range(from_fd, to_fd, KERNEL_BLOCK):
            if hand.stop is not None and hand.stop.is_set():
                raise Stopped
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
            raise
        while count := os.readv(from_fd, [hand.buffer]):
            hand.storage.write_all(to_fd, hand.buffer[:count])


def _copy_and_hash(hand: _Hand, from_fd: int, to_fd: int, size: int) -> str:
    """Read, hash and write in one pass, up to the size that the source had."""
    import xxhash

    buffer, storage, stop = hand.buffer, hand.storage, hand.stop
    if 0 < size <= len(buffer):
        count = os.readv(from_fd, [buffer])
        if count == size:  # the usual frame: one read, one write
            storage.write_all(to_fd, buffer[:count])
            return str(xxhash.xxh3_128_hexdigest(buffer[:count]))
        os.lseek(from_fd, 0, os.SEEK_SET)
    digest = xxhash.xxh3_128()
    while count := os.readv(from_fd, [buffer]):
        if stop is not None and stop.is_set():
            raise Stopped
        digest.update(buffer[:count])
        storage.write_all(to_fd, buffer[:count])
    return str(digest.hexdigest())


def _link(hand: _Hand, source: str, name: str, facts: Facts) -> None:
    try:
        hand.storage.link(source, name, hand.at)
    except OSError as error:
        if error.errno not in _NO_LINK or hand.policy.fallback == "refuse":
            raise
        _copy(hand, source, name, facts)
        return
    status = os.stat(name, dir_fd=hand.at, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise SourceChanged(f"{source} is not a regular file any more")
    checksum = ""
    if hand.policy.checksum == "all":
        fd, _ = open_source(source)
        try:
            checksum = checksum_of(fd, hand.buffer, hand.stop)
        finally:
            os.close(fd)
    facts.add(status.st_size, status.st_ino, status, checksum, linked=True)


def _move(hand: _Hand, source: str, name: str, facts: Facts) -> None:
    # The source stays until the verdict; a link costs no byte where a link can be made, else the bytes are copied.
    moved = attrs.evolve(hand.policy, fallback="copy")
    _link(_Hand(hand.storage, hand.at, moved, hand.buffer, hand.stop), source, name, facts)


def _symlink(hand: _Hand, source: str, name: str, facts: Facts) -> None:
    """`source` is the target as it is to be written; relative ones are relative to the *final* place."""
    hand.storage.symlink(source, name, hand.at)
    status = os.stat(name, dir_fd=hand.at, follow_symlinks=False)
    facts.add(status.st_size, status.st_ino, status, "", linked=True)


def open_source(path: str) -> tuple[int, os.stat_result]:
    """Open a regular file for reading, without ever blocking on a FIFO. Raises `OSError`."""
    fd = os.open(path, _OPEN_SOURCE)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return fd, status


def checksum_of(fd: int, buffer: memoryview | None = None, stop: Stop | None = None) -> str:
    """xxh3-128 of an open file from its start, as 32 hex digits."""
    import xxhash

    buffer = memoryview(bytearray(BLOCK)) if buffer is None else buffer
    digest, offset = xxhash.xxh3_128(), 0
    while count := os.preadv(fd, [buffer], offset):
        if stop is not None and stop.is_set():
            raise Stopped
        digest.update(buffer[:count])
        offset += count
    return str(digest.hexdigest())


#: Nanoseconds by which a file system may round a time (two seconds on FAT).
_COARSE: Final = 2_000_000_000


@attrs.frozen(kw_only=True)
class Check:
    """Staged files of one folder that are to be verified; parallel sequences, [] for sources where there are none."""

    folder: str
    identity: tuple[int, int]
    names: Sequence[str]
    sizes: Sequence[int]
    inodes: Sequence[int]
    sources: Sequence[str]
    source_times: Sequence[int]
    source_inodes: Sequence[int]
    #: Whether an extractor or renderer produced them.
    produced: bool = False
    #: Checksums of copies that have the times of their sources; [] for files with times of their own.
    checksums: Sequence[str] = ()


def verify(check: Check) -> None:
    """Raise `StagingChanged` or `SourceChanged` unless every file is as it was recorded, and its source as it was read."""
    at = open_staging(check.folder, check.identity)
    try:
        for name in check.names if check.produced else ():
            _refuse_unfinished(name, at)
        staged = _statuses(check, at)  # after that: whoever wrote until then has left another size or time
        _refuse_rewritten(check, staged, at)
    finally:
        os.close(at)
    n = _first_difference(staged, check.sizes, check.inodes, None)
    if n is not None:
        raise StagingChanged(
            f"the staged file {check.names[n]} changed: {staged[n].st_size} bytes instead of {check.sizes[n]}, or another file"
        )
    if not check.sources:
        if check.produced and (n := _first_difference(staged, check.sizes, check.inodes, check.source_times)) is not None:
            raise StagingChanged(f"{check.names[n]} changed while it was published: whoever produces it has not stopped")
        return
    linked = not any(check.source_inodes)
    sources = staged if linked else [_source_status(check, n, staged) for n in range(len(staged))]
    inodes = check.inodes if linked else array("Q", map(operator.or_, check.source_inodes, _where_linked(check)))
    n = _first_difference(sources, check.sizes, inodes, check.source_times)
    if n is not None:
        raise SourceChanged(f"{check.sources[n]} changed while it was published")


def _refuse_unfinished(name: str, at: int) -> None:
    """Refuse a file that somebody has open for writing, and a text file that names a staging directory."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        if is_written(fd):
            raise StagingChanged(f"{name} is still open for writing: whoever produces it has not stopped")
        start = os.pread(fd, _SNIFFED, 0)
        if b"\0" in start or not start:
            return  # no text; a path inside would not be found by its bytes
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as text:
            found = _STAGING.search(text)
            mark = found[0].decode() if found is not None else ""
    finally:
        os.close(fd)
    if mark:
        raise StagingChanged(
            f"{name} names a staging directory (...{mark}), which is gone once this is published: "
            "write the final path into it (final_path)"
        )


def is_written(fd: int) -> bool:
    """Whether anybody on this machine has the file open for writing, as far as this process may ask.

    A read lease is refused while a writer has the file open (fcntl(2), F_SETLEASE); only its owner and root may ask for one.
    """
    try:
        # Should somebody open it just now, the kernel tells us by this signal, which nobody notices, instead of a deadly one.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EBUSY)
    except AttributeError:  # no such call on this platform
        return False
    return False


def _refuse_rewritten(check: Check, staged: Sequence[os.stat_result], at: int) -> None:
    """Refuse a copy with another time than its source and another content than was hashed.

    The time alone proves nothing: some file systems keep it coarsely, or not at all.
    """
    for n, (expected, status) in enumerate(zip(check.checksums, staged)):
        is_copy = expected and check.source_inodes[n]
        if is_copy and abs(status.st_mtime_ns - check.source_times[n]) > _COARSE and stat.S_ISREG(status.st_mode):
            fd = os.open(check.names[n], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            try:
                if checksum_of(fd) != expected:
                    raise StagingChanged(f"the staged file {check.names[n]} changed after it was copied: it has another content")
            finally:
                os.close(fd)


def _first_difference(
    found: Sequence[os.stat_result], sizes: Sequence[int], inodes: Sequence[int], times: Sequence[int] | None
) -> int | None:
    """Index of the first file that differs; whole columns are compared at once, which is several times faster."""
    columns = [
        (array("Q", [status.st_size for status in found]), sizes),
        (array("Q", [status.st_ino for status in found]), inodes),
    ]
    if times is not None:
        columns.append((array("q", [status.st_mtime_ns for status in found]), times))
    if all(seen == expected for seen, expected in columns):
        return None
    return next(n for n in range(len(found)) if any(seen[n] != expected[n] for seen, expected in columns))


def _where_linked(check: Check) -> Iterator[int]:
    return (0 if source else staged for source, staged in zip(check.source_inodes, check.inodes))


def _source_status(check: Check, n: int, staged: Sequence[os.stat_result]) -> os.stat_result:
    if not check.source_inodes[n]:
        return staged[n]  # a hard link: what was staged is the source
    try:
        return os.stat(check.sources[n])
    except OSError as error:
        raise SourceChanged(f"{check.sources[n]} went away while it was published ({error.strerror})") from error


def _statuses(check: Check, at: int) -> list[os.stat_result]:
    try:
        return [os.stat(name, dir_fd=at, follow_symlinks=False) for name in check.names]
    except OSError as error:
        raise StagingChanged(f"the staged file {error.filename} is not there any more ({error.strerror})") from error
