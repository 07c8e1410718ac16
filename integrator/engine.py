"""What every transaction of a publish root works with: storage, database, journals, roots, settings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import Any, Final

import attrs

from integrator import storage
from integrator.database import Database
from integrator.errors import RootMissing, UsageError
from integrator.journal import Journals
from integrator.leases import Watcher
from integrator.model import Owner
from integrator.renewal import Renewal
from integrator.settings import Settings
from integrator.storage import Storage

#: File in each root that says which publish root it belongs to.
MARKER: Final = ".integrator/id"


@attrs.frozen(kw_only=True)
class Effect:
    """A change in an outside system.

    `call(arguments, key)` makes it and returns a JSON value; it is called at least once, always with the same key, and must
    look up by that key before it creates. With a `compensate(arguments, key, result)` the effect happens *before* the
    verdict and can veto the publish; compensation gets the result, or None if it is not known whether the call arrived, and
    must be repeatable.
    """

    call: Callable[[Mapping[str, Any], str], Any]
    compensate: Callable[[Mapping[str, Any], str, Any], None] | None = None


@attrs.define(kw_only=True)
class Engine:
    """One publish root, open. Closed by whoever opened it."""

    storage: Storage
    database: Database
    journals: Journals
    #: Name to absolute path.
    roots: Mapping[str, str]
    root_id: str
    settings: Settings
    renewal: Renewal
    owner: Owner
    watcher: Watcher
    #: Where chunks run.
    executor: Executor | None = None
    effects: dict[str, Effect] = attrs.field(factory=dict)

    @contextlib.contextmanager
    def root(self, name: str) -> Iterator[int]:
        """A descriptor of a root that was seen to be the right one. Raises `RootMissing`, `UsageError`."""
        if name not in self.roots:
            raise UsageError(f"there is no root called {name!r}: add it under [roots] in the configuration")
        path = self.roots[name]
        try:
            fd = storage.open_root(path)
        except OSError as error:
            raise _missing(name, path, error.strerror or "") from error
        try:
            self._check_marker(name, path, fd)
            yield fd
        finally:
            os.close(fd)

    def _check_marker(self, name: str, path: str, fd: int) -> None:
        folder, _, file = MARKER.rpartition("/")
        try:
            with storage.folder(folder, fd) as at:
                found = storage.read_file(file, at, 200).decode("ascii", "replace").strip()
        except OSError as error:
            raise _missing(name, path, f"{MARKER}: {error.strerror}") from error
        if found != self.root_id:
            raise _missing(name, path, f"it belongs to publish root {found}, not {self.root_id}")


def _missing(name: str, path: str, reason: str) -> RootMissing:
    return RootMissing(
        f"the root {name!r} is not at {path} ({reason}). Nothing there was settled or touched; is it mounted?",
        next="mount it, then: integrator recover (a root that was just added to the settings: integrator init)",
    )
