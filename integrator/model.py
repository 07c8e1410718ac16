"""The vocabulary of the engine: states and values, without any input or output."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from integrator.errors import UsageError

#: Documents inside the engine are plain JSON values; ids and dates are written as MongoDB extended JSON
#: (``{"$oid": hex}``, ``{"$date": iso}``), so that they mean the same in a journal, in SQLite and in MongoDB.
Document = dict[str, Any]


class State(enum.Enum):
    """Where a transaction stands. The value is what the database stores."""

    #: A version number and a staging directory are promised to a publish id; nobody owns them yet.
    RESERVED = "reserved"
    #: An owner works; everything it made can still simply be removed.
    OPEN = "open"
    #: The verdict is in; what is left can only be redone.
    COMMITTED = "committed"
    #: Everything the verdict decided is done.
    FINISHED = "finished"
    #: Somebody won the right to undo it.
    ROLLING_BACK = "rolling_back"
    #: Everything is undone, and claim and leases are free again.
    ROLLED_BACK = "rolled_back"


#: The states that each state may turn into. Nothing else is legal.
TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.RESERVED: frozenset({State.OPEN, State.ROLLING_BACK}),
        State.OPEN: frozenset({State.COMMITTED, State.ROLLING_BACK}),
        State.COMMITTED: frozenset({State.FINISHED}),
        State.FINISHED: frozenset(),
        State.ROLLING_BACK: frozenset({State.ROLLED_BACK}),
        State.ROLLED_BACK: frozenset(),
    }
)

#: States in which nobody has anything left to do.
ENDED = frozenset({State.FINISHED, State.ROLLED_BACK})

#: States that recovery looks at.
UNSETTLED = frozenset({State.OPEN, State.COMMITTED, State.ROLLING_BACK})


def check_transition(old: State, new: State) -> None:
    """Raise `ValueError` unless a transaction may go from `old` to `new`."""
    if new not in TRANSITIONS[old]:
        raise ValueError(f"a transaction that is {old.value} cannot become {new.value}")


@attrs.frozen(kw_only=True)
class Place:
    """A path below a named root."""

    #: Name of the root (``work`` by default).
    root: str
    #: POSIX path relative to it, without a leading slash.
    path: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> str:
        return self.path.rpartition("/")[0]


@attrs.frozen(kw_only=True)
class Directory:
    """A directory that a transaction stages beside its final name."""

    #: Name of the root.
    root: str
    #: Final path, relative to the root.
    final: str
    #: Staging path, relative to the root; same parent as `final`.
    staging: str
    #: Folder for private names, relative to the root; same file system as `final`.
    private: str
    #: Key of the lease that guards it.
    lease: str
    #: Key of the claim that reserves the number, or "" for a directory without one.
    claim: str
    #: Staging path that was promised when the version was reserved, and that its files are taken from; "" if none was.
    reserved: str = ""
    #: Whether it takes the place of what has its final name (hero, amended version): by an exchange, after the verdict.
    exchanged: bool = False

    @property
    def parent(self) -> str:
        return self.final.rpartition("/")[0]


@attrs.frozen(kw_only=True)
class Identity:
    """What tells one file or directory from all others, as far as a file system can.

    Inode numbers are reused at once on ext4 and device numbers change over a remount, so the birth time
    (nanoseconds since the epoch, 0 where the file system keeps none) and the size go with the inode number.
    """

    inode: int
    born: int
    #: Size in bytes of a file; -1 for a directory.
    size: int = -1


@attrs.frozen(kw_only=True)
class Owner:
    """The process that holds a transaction, as precisely as a machine can name one."""

    user: str
    host: str
    #: Boot id of the kernel, "" where there is none.
    boot: str
    #: Inode number of the pid namespace, 0 where there is none.
    namespace: int
    pid: int
    #: Start time of the process in clock ticks since boot, 0 where unknown.
    started: int
    application: str

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (process {self.pid})"


def from_here(path: str) -> str:
    """A path as an absolute one, not normalised: a/../b is not b when a is a symbolic link.

    The working directory is asked for only if the path is relative. Raises `UsageError` where it is gone.
    """
    if path.startswith("/"):
        return path
    try:
        return os.path.join(os.getcwd(), path)
    except FileNotFoundError as error:
        raise UsageError(
            "the working directory was removed, so a relative path means nothing here, and no publish root can be looked for"
            " above it. Nothing was touched",
            next="change to a directory that is there, or name the root (--root) and all files by absolute paths",
        ) from error


def new_id() -> str:
    """A new transaction id: 24 hex digits that sort by the time they were made (to about 15 microseconds)."""
    import time

    return f"{int(time.time() * 65536):012x}{os.urandom(6).hex()}"


def object_id() -> Document:
    """A new ObjectId in extended JSON."""
    return {"$oid": new_id()}
