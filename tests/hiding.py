"""A file system that shows files late: a folder seen through FUSE, some of whose files are missing or short for a while.

    python hiding.py FOLDER MOUNT SECONDS MISSING SHORT

For that many seconds after the mount, the file MISSING is neither listed nor found, and SHORT has half its size and content.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import Any

import fuse


class Hiding(fuse.Operations):  # type: ignore[misc]
    """Reads only."""

    def __init__(self, folder: str, seconds: float, missing: str, short: str) -> None:
        self._folder = folder
        self._until = time.monotonic() + seconds
        self._missing = missing
        self._short = short

    def _hides(self, path: str) -> bool:
        return time.monotonic() < self._until and os.path.basename(path) == self._missing

    def _size(self, path: str, size: int) -> int:
        return size // 2 if time.monotonic() < self._until and os.path.basename(path) == self._short else size

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        if self._hides(path):
            raise fuse.FuseOSError(errno.ENOENT)
        status = os.lstat(self._folder + path)
        kept = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_atime", "st_mtime", "st_ctime")
        return {**{name: getattr(status, name) for name in kept}, "st_size": self._size(path, status.st_size)}

    def readdir(self, path: str, fh: Any) -> list[str]:
        return [name for name in [".", "..", *os.listdir(self._folder + path)] if not self._hides(name)]

    def open(self, path: str, flags: int) -> int:
        return os.open(self._folder + path, flags & ~os.O_NOFOLLOW)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        end = self._size(path, os.fstat(fh).st_size)
        return os.pread(fh, max(0, min(size, end - offset)), offset)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)


if __name__ == "__main__":
    folder, mount, seconds, missing, short = sys.argv[1:]
    hiding = Hiding(folder, float(seconds), missing, short)
    fuse.FUSE(hiding, mount, foreground=True, ro=True, attr_timeout=0, entry_timeout=0, direct_io=True)
