"""Every call that changes the file system, in one place.

All names are relative to an open directory descriptor, and no symbolic link below a root is ever followed. The methods of
`Storage` up to `close` are single system calls, so that a test can fail or kill at each of them; everything else here is
built from them. They raise plain `OSError`: what it means for a publish is decided above.

Sources: renameat2(2), statx(2), syncfs(2), openat(2), ioctl_ficlone(2) of the Linux manual pages.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from typing import Any

from integrator.model import Identity

#: Bytes read and written at once while a file is copied.
BLOCK = 256 * 1024
#: Bytes handed to the kernel at once where it copies by itself; small enough to stop within a second.
KERNEL_BLOCK = 8 * 1024 * 1024

_NOREPLACE, _EXCHANGE = 1, 2
_FICLONE = 0x40049409
_READ_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})
_AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = 0x100, 0x1000
_STATX_WANTED = 0x1 | 0x100 | 0x200 | 0x800  # type, inode number, size, birth time
_ATTR_MOUNT_ROOT = 0x2000
_UNKNOWN_BIRTH = 0

_libc: Any = ctypes.CDLL(None, use_errno=True)


def _check(result: int, *names: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), *names[:1], None, *names[1:2])


def _bytes(name: str) -> bytes:
    """A name for a call that Python does not wrap. Raises `ValueError` for NUL, where C would end the name."""
    if "\0" in name:
        raise ValueError("a file name holds no NUL")
    return os.fsencode(name)


class Storage:
    """The file system. Holds nothing but its features, so that it can be sent to another process."""

    #: Names of the methods that are one changing system call each.
    CALLS = (
        "mkdir", "create", "write", "copy_range", "clone", "link", "symlink", "rename", "exchange", "replace", "unlink", "rmdir",
        "set_mode", "set_group", "set_times", "sync", "sync_filesystem", "close",
    )  # fmt: skip

    # --- single calls ---------------------------------------------------------------------------------------------

    def mkdir(self, name: str, mode: int, at: int) -> None:
        os.mkdir(name, mode, dir_fd=at)

    def create(self, name: str, mode: int, at: int) -> int:
        """Create a file that does not exist yet; returns its descriptor, open for writing."""
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=at)

    def write(self, fd: int, content: bytes | memoryview) -> int:
        return os.write(fd, content)

    def copy_range(self, source: int, target: int, count: int) -> int:
        """Let the kernel copy up to `count` bytes between the current offsets; 0 at the end of the source."""
        return os.copy_file_range(source, target, count)

    def clone(self, source: int, target: int) -> None:
        """Make `target` share the blocks of `source` (reflink)."""
        import fcntl

        fcntl.ioctl(target, _FICLONE, source)

    def link(self, source: str, name: str, at: int, source_at: int | None = None) -> None:
        """Hard link; the last component of `source` is followed if it is a symbolic link."""
        os.link(source, name, src_dir_fd=source_at, dst_dir_fd=at, follow_symlinks=True)

    def symlink(self, target: str, name: str, at: int) -> None:
        os.symlink(target, name, dir_fd=at)

    def rename(self, old: str, old_at: int, new: str, new_at: int) -> None:
        """Rename, but never onto anything: raises `FileExistsError` if `new` is there."""
        result = _libc.renameat2(old_at, _bytes(old), new_at, _bytes(new), _NOREPLACE)
        if result != 0 and ctypes.get_errno() in NOT_SUPPORTED:
            # NFS and FUSE lack NOREPLACE. Lease and claim keep other publishers away from the name; this check keeps us
            # from silently replacing an empty directory or a file that somebody put there before.
            if exists(new, new_at):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), old, None, new)
            os.rename(old, new, src_dir_fd=old_at, dst_dir_fd=new_at)
            return
        _check(result, old, new)

    def exchange(self, one: str, one_at: int, other: str, other_at: int) -> None:
        """Swap two names in one instant. Raises `OSError` (EINVAL, ENOSYS, ENOTSUP) where that is not possible."""
        _check(_libc.renameat2(one_at, _bytes(one), other_at, _bytes(other), _EXCHANGE), one, other)

    def replace(self, old: str, old_at: int, new: str, new_at: int) -> None:
        """Rename a file over another one."""
        os.rename(old, new, src_dir_fd=old_at, dst_dir_fd=new_at)

    def unlink(self, name: str, at: int) -> None:
        os.unlink(name, dir_fd=at)

    def rmdir(self, name: str, at: int) -> None:
        os.rmdir(name, dir_fd=at)

    def set_mode(self, fd: int, mode: int) -> None:
        os.fchmod(fd, mode)

    def set_group(self, fd: int, group: int) -> None:
        """Give a file or folder to a group; who is not root must be in it."""
        os.fchown(fd, -1, group)

    def set_times(self, fd: int, nanoseconds: int) -> None:
        """Set access and modification time (ns since the epoch)."""
        os.utime(fd, ns=(nanoseconds, nanoseconds))

    def sync(self, fd: int) -> None:
        """Make one file or directory durable. After an error the file must never be trusted again."""
        os.fsync(fd)

    def sync_filesystem(self, fd: int) -> None:
        """Make everything on the file system of `fd` durable.

        Write-back errors since `fd` was opened are reported (Linux 5.8 on), so open it before the first write.
        """
        _check(_libc.syncfs(fd))

    def close(self, fd: int) -> None:
        """Close a file that was written; NFS reports a full disk here."""
        os.close(fd)

    # --- built from them ------------------------------------------------------------------------------------------

    def write_all(self, fd: int, content: bytes | memoryview) -> None:
        view = memoryview(content)
        while view:
            view = view[self.write(fd, view) :]

    def write_file(self, name: str, content: bytes, mode: int, at: int) -> None:
        """Create a file with this content and mode, durable, its folder entry not yet."""
        fd = self.create(name, mode, at)
        try:
            self.write_all(fd, content)
            self.set_mode(fd, mode)
            self.sync(fd)
        finally:
            self.close(fd)

    def share(self, fd: int, mode: int, group: int | None) -> None:
        """Give a file or folder this mode and, unless it is None, this group; what is so already is not touched."""
        found = os.fstat(fd)
        if group is not None and found.st_gid != group:
            self.set_group(fd, group)  # first: it may take a set-group bit away
            found = os.fstat(fd)
        if stat.S_IMODE(found.st_mode) != mode:
            self.set_mode(fd, mode)

    def make_folder(self, name: str, mode: int, at: int) -> None:
        """`mkdir` with this exact mode, whatever the umask."""
        self.mkdir(name, mode & 0o777, at)
        fd = os.open(name, _READ_FOLDER, dir_fd=at)
        try:
            if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
                self.set_mode(fd, mode)
        finally:
            os.close(fd)

    def make_folders(self, path: str, mode: int, at: int) -> int:
        """Make what is missing of a relative path; returns a descriptor of the last folder.

        A folder that somebody else removes meanwhile (another transaction that rolls back) is made again.
        """
        if ".." in path.split("/"):
            raise PermissionError(errno.EPERM, "a path may not climb", path)
        for _ in range(100):
            with contextlib.suppress(FileNotFoundError):
                return self._make_folders(path, mode, at)
        raise FileNotFoundError(errno.ENOENT, "folders vanish as fast as they are made", path)

    def _make_folders(self, path: str, mode: int, at: int) -> int:
        fd = os.dup(at)
        try:
            for part in filter(None, path.split("/")):
                try:
                    inner = os.open(part, _READ_FOLDER, dir_fd=fd)
                except FileNotFoundError:
                    with contextlib.suppress(FileExistsError):
                        self.make_folder(part, mode, fd)
                    inner = os.open(part, _READ_FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
            return fd
        except BaseException:
            os.close(fd)
            raise

    def remove_tree(self, name: str, at: int) -> list[str]:
        """Delete `name` and what it holds; links are removed, never followed.

        Returns what could not be removed (a mount point, an NFS ``.nfs*`` file, what is inside and may not be touched), as paths
        relative to `at`. Raises `OSError`, `ValueError` for what is no plain name.
        """
        if name in ("", ".", "..") or "/" in name:
            raise ValueError(f"{name!r} is not the name of something in a folder")
        try:
            self.unlink(name, at)
            return []
        except FileNotFoundError:
            return []
        except (IsADirectoryError, PermissionError):  # Linux says EISDIR, POSIX says EPERM for a directory
            if not stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return [name]
        left: list[str] = []
        fd = os.open(name, _READ_FOLDER, dir_fd=at)
        try:
            if is_mount(fd):
                return [name]  # what is mounted here is not ours
            with os.scandir(fd) as entries:
                names = [entry.name for entry in entries]
            for inner in names:
                try:
                    left += [f"{name}/{path}" for path in self.remove_tree(inner, fd)]
                except PermissionError:  # immutable, or in a folder of somebody else's: the rest can go all the same
                    left.append(f"{name}/{inner}")
        finally:
            os.close(fd)
        try:
            self.rmdir(name, at)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EBUSY, errno.EEXIST, errno.EPERM if left else 0):
                raise
            left.append(name)
        return left

    def remove_empty(self, path: str, at: int) -> bool:
        """Remove an empty folder; False if it is not there, not empty, or no folder."""
        parent, _, name = path.rpartition("/")
        try:
            fd = open_folder(parent, at)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            self.rmdir(name, fd)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EBUSY):
                return False
            raise
        finally:
            os.close(fd)
        return True


# --- reading --------------------------------------------------------------------------------------------------------


def open_root(path: str) -> int:
    """A descriptor of a folder named from outside: here, and only here, symbolic links are followed."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_folder(path: str, at: int) -> int:
    """A descriptor of a folder below `at`; raises `OSError` if any component is missing or a symbolic link."""
    fd = os.dup(at)
    for part in filter(None, path.split("/")):
        if part == "..":
            os.close(fd)
            raise PermissionError(errno.EPERM, "a path may not climb", path)
        try:
            inner = os.open(part, _READ_FOLDER, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


@contextlib.contextmanager
def folder(path: str, at: int) -> Iterator[int]:
    """`open_folder` that closes itself."""
    fd = open_folder(path, at)
    try:
        yield fd
    finally:
        os.close(fd)


def exists(name: str, at: int) -> bool:
    """Whether anything has this name, a dangling link included."""
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def renames_exclusively(one: str, other: str, at: int) -> bool:
    """Whether a rename can refuse a name that exists; asked with two names that exist, so that nothing changes."""
    _libc.renameat2(at, _bytes(one), at, _bytes(other), _NOREPLACE)
    return ctypes.get_errno() == errno.EEXIST


def missing_folders(path: str, at: int) -> list[str]:
    """The ancestors-and-self of a relative path that do not exist, outermost first."""
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts)):
        try:
            os.close(open_folder("/".join(parts[: depth + 1]), at))
        except FileNotFoundError:
            return ["/".join(parts[: n + 1]) for n in range(depth, len(parts))]
    return []


def obstacle(path: str, at: int) -> str:
    """The first component of a relative path that is there and no folder: a symbolic link, a file. "" if there is none."""
    parts = [part for part in path.split("/") if part]
    for depth in range(len(parts)):
        above = "/".join(parts[: depth + 1])
        try:
            status = os.stat(above, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            return ""
        if not stat.S_ISDIR(status.st_mode):
            return above
    return ""


def read_file(name: str, at: int, limit: int = 1 << 30) -> bytes:
    """The content of a regular file; never blocks on a FIFO. Raises `OSError`."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=at)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(fd)


class _Statx(ctypes.Structure):
    """``struct statx`` of statx(2), as far as the birth time; 256 bytes in all."""

    _fields_ = (
        ("mask", ctypes.c_uint32), ("blksize", ctypes.c_uint32), ("attributes", ctypes.c_uint64),
        ("nlink", ctypes.c_uint32), ("uid", ctypes.c_uint32), ("gid", ctypes.c_uint32), ("mode", ctypes.c_uint16),
        ("spare", ctypes.c_uint16), ("ino", ctypes.c_uint64), ("size", ctypes.c_uint64), ("blocks", ctypes.c_uint64),
        ("attributes_mask", ctypes.c_uint64), ("atime", ctypes.c_int64 * 2), ("btime_sec", ctypes.c_int64),
        ("btime_nsec", ctypes.c_uint32), ("rest", ctypes.c_byte * 164),
    )  # fmt: skip


def is_mount(fd: int) -> bool:
    """Whether an open folder is where something is mounted, bind mounts of the same file system included."""
    buffer = _Statx()
    _check(_libc.statx(fd, b"", _AT_EMPTY_PATH, 0, ctypes.byref(buffer)))
    return bool(buffer.attributes & _ATTR_MOUNT_ROOT)


def identity(name: str, at: int) -> Identity | None:
    """What `name` is, or None if nothing has that name. An empty name means `at` itself."""
    buffer = _Statx()
    flags = _AT_SYMLINK_NOFOLLOW | (0 if name else _AT_EMPTY_PATH)
    if _libc.statx(at, _bytes(name), flags, _STATX_WANTED, ctypes.byref(buffer)) != 0:
        code = ctypes.get_errno()
        if code == errno.ENOENT:
            return None
        raise OSError(code, os.strerror(code), name)
    born = buffer.btime_sec * 1_000_000_000 + buffer.btime_nsec if buffer.mask & 0x0800 else _UNKNOWN_BIRTH
    return Identity(inode=buffer.ino, born=born, size=-1 if stat.S_ISDIR(buffer.mode) else buffer.size)
