"""Journals: one append-only file for each unfinished transaction, and the history of the ended ones.

Records are buffered; `flush` hands them to the kernel (they survive the death of the process), `sync` makes them durable (they
survive a power cut). The names of unfinished journals are what recovery lists, so ended ones move to `history`.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import Final

import attrs

from integrator import storage
from integrator.errors import StorageFailed
from integrator.journal.format import Began, JournalDamaged, Record, encode_record, read_timed
from integrator.storage import Storage

_SUFFIX: Final = ".journal"
_ID: Final = re.compile(r"[0-9a-f]{24}\Z")
#: Bytes of records that are kept before they are handed to the kernel.
_BUFFER: Final = 256 * 1024
#: Bytes of the longest journal that is read; it is read at once.
_LONGEST: Final = 1 << 30

__all__ = ["Content", "Journal", "JournalDamaged", "Journals"]


class Journal:
    """The journal of a running transaction. Not safe for several threads at once."""

    def __init__(self, storage: Storage, fd: int, began: Began) -> None:
        self._storage = storage
        self._fd = fd
        self._sequence = 0
        self._buffer: list[bytes] = []
        self._waiting = 0
        self.write(began)
        self.flush()

    def write(self, record: Record) -> None:
        """Add a record; it is in memory until the next `flush`, or until enough of them wait."""
        line = encode_record(record, self._sequence, round(max(0.0, time.time()), 3))
        self._sequence += 1
        self._buffer.append(line)
        self._waiting += len(line)
        if self._waiting > _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Hand all records to the kernel. Raises `StorageFailed`: then this journal is not to be written any more."""
        content, self._buffer, self._waiting = b"".join(self._buffer), [], 0
        try:
            if content:
                self._storage.write_all(self._fd, content)
        except OSError as error:
            raise StorageFailed("write", "the journal", error) from error

    def sync(self) -> None:
        """Make all records durable. Raises `StorageFailed`."""
        self.flush()
        try:
            self._storage.sync(self._fd)
        except OSError as error:
            raise StorageFailed("make durable", "the journal", error) from error

    def close(self) -> None:
        """Close the file. What still waits in memory is dropped: only a transaction that ended otherwise closes early."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)


@attrs.frozen(kw_only=True)
class Content:
    """What could be read of a journal."""

    records: tuple[Record, ...]
    #: Whether its end is cut short, or nothing of it is there.
    torn: bool
    #: When each record was written, by the clock of its writer (Unix time); None where that was not kept.
    times: tuple[float | None, ...] = ()


class Journals:
    """The folders ``journal/`` and ``history/`` of a publish root."""

    def __init__(self, storage: Storage, state_folder: str) -> None:
        self._storage = storage
        self.path = state_folder

    def create(self, transaction: str, began: Began, mode: int) -> Journal:
        """A new journal, its name durable. Raises `OSError`, `FileExistsError` if the transaction has one."""
        with self._folder("journal") as at:
            fd = self._storage.create(transaction + _SUFFIX, mode, at)
            try:
                self._storage.set_mode(fd, mode)
                journal = Journal(self._storage, fd, began)
                self._storage.sync(at)
                return journal
            except BaseException:
                os.close(fd)
                raise

    def read(self, transaction: str) -> Content:
        """The records of an unfinished transaction, none if it has no journal or an empty one.

        Raises `JournalDamaged` for a journal whose middle is damaged, that belongs to another transaction, is no plain file, or
        is too long to be read.
        """
        with self._folder("journal") as at:
            try:
                content = storage.read_file(transaction + _SUFFIX, at, limit=_LONGEST + 1)
            except FileNotFoundError:
                return Content(records=(), torn=True)
            except OSError as error:
                mend = " (whoever owns it, or root, can mend that: integrator doctor --fix)"
                hint = mend if isinstance(error, PermissionError) else ""
                raise JournalDamaged(f"the journal of {transaction} cannot be read: {error.strerror}{hint}") from error
        if len(content) > _LONGEST:  # not to be taken for a torn one: what is missing is there
            raise JournalDamaged(f"the journal of {transaction} is longer than {_LONGEST} bytes, which is more than can be read")
        try:
            records, times, torn = read_timed(content)
        except JournalDamaged as error:
            raise JournalDamaged(f"the journal of {transaction} is damaged: {error}") from error
        if records and isinstance(records[0], Began) and records[0].transaction != transaction:
            raise JournalDamaged(f"the journal of {transaction} belongs to {records[0].transaction}")
        return Content(records=tuple(records), torn=torn or not records, times=tuple(times))

    def read_ended(self, transaction: str) -> Content:
        """The records of an ended transaction, from the history. Raises `JournalDamaged`, `OSError` if it is not there."""
        import gzip

        with self._folder("history") as history, storage.folder(_month(transaction), history) as at:
            try:
                content = storage.read_file(transaction + _SUFFIX, at)
            except FileNotFoundError:
                content = gzip.decompress(storage.read_file(f"{transaction}{_SUFFIX}.gz", at))
        records, times, torn = read_timed(content)
        return Content(records=tuple(records), torn=torn, times=tuple(times))

    def unfinished(self) -> list[str]:
        """Ids of the transactions that have a journal here, in order of their start."""
        with self._folder("journal") as at, os.scandir(at) as entries:
            names = [entry.name.removesuffix(_SUFFIX) for entry in entries if entry.name.endswith(_SUFFIX)]
        return sorted(name for name in names if _ID.match(name))

    def location(self, transaction: str) -> str:
        """Absolute path that the journal of an unfinished transaction has."""
        return os.path.join(self.path, "journal", transaction + _SUFFIX)

    def archive(self, transaction: str) -> bool:
        """Move the journal of an ended transaction to the history; False if there was none. Raises `OSError`."""
        with self._folder("journal") as at:
            if not storage.exists(transaction + _SUFFIX, at):
                return False
            with self._folder("history") as history:
                target = self._storage.make_folders(_month(transaction), 0o2775, history)
                try:
                    self._storage.rename(transaction + _SUFFIX, at, transaction + _SUFFIX, target)
                except FileNotFoundError:
                    return False  # another actor was faster
                finally:
                    os.close(target)
        return True

    @contextlib.contextmanager
    def _folder(self, name: str) -> Iterator[int]:
        fd = storage.open_root(os.path.join(self.path, name))
        try:
            yield fd
        finally:
            os.close(fd)


def _month(transaction: str) -> str:
    """The folder of the history for a transaction, by the time in its id."""
    return time.strftime("%Y-%m", time.gmtime(int(transaction[:8], 16)))
