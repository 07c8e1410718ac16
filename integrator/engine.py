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
from integrator.layout import MARKER
from integrator.leases import Watcher
from integrator.model import Owner, new_id
from integrator.renewal import Renewal
from integrator.settings import Settings
from integrator.storage import Storage

#: Folder in each root with a file for each project that is a mount of its own.
MOUNTED: Final = ".integrator/mounted"


@attrs.frozen(kw_only=True)
class Effect:
    """A change in an outside system.

    `call(arguments, key)` makes it and returns a JSON value; it is called at least once, always with the same key, and must
    look up by that key before it creates. With a `compensate(arguments, key, result)` the effect happens *before* the
    verdict and can veto the publish; compensation gets the result, or None if it is not known whether the call arrived, and
    must be repeatable. A call that raises `errors.EffectNotMade` is not compensated.
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

    def mark_mount(self, private: str, root_fd: int) -> None:
        """Note that the project of a folder for private names is a mount of its own, if it is: it is missed from now on.

        The project is marked first: what is missed must be findable. Raises `OSError`.
        """
        project = _project(private)
        if not project:
            return
        with storage.folder(project, root_fd) as at:
            if os.fstat(at).st_dev == os.fstat(root_fd).st_dev:
                return
            self._mark(MARKER, at)
        self._mark(f"{MOUNTED}/{project}", root_fd)

    def _mark(self, path: str, at: int) -> None:
        folder, _, name = path.rpartition("/")
        fd = self.storage.make_folders(folder, self.settings.folder_mode, at)
        try:
            if not storage.exists(name, fd):
                part = f"{new_id()}.part"  # never there cut short
                self.storage.write_file(part, self.root_id.encode() + b"\n", self.settings.file_mode, fd)
                self.storage.replace(part, fd, name, fd)
                self.storage.sync(fd)
        finally:
            os.close(fd)

    def see_mount(self, name: str, private: str, root_fd: int) -> None:
        """Raise `RootMissing` if the project of a folder for private names was a mount of its own, and is not there now."""
        project, path = _project(private), self.roots[name]
        with contextlib.suppress(FileNotFoundError), storage.folder(MOUNTED, root_fd) as at:
            if project and storage.exists(project, at):
                where = os.path.join(path, project)
                try:
                    with storage.folder(project, root_fd) as inside:
                        self._check_marker(name, where, inside)
                except (OSError, RootMissing) as error:
                    raise RootMissing(
                        f"the project {project} was a mount of its own, and is not mounted at {where}. Nothing there was settled"
                        " or touched",
                        next=f"mount it, then: integrator recover (if it is none any more: remove {path}/{MOUNTED}/{project})",
                    ) from error

    def _check_marker(self, name: str, path: str, fd: int) -> None:
        folder, _, file = MARKER.rpartition("/")
        try:
            with storage.folder(folder, fd) as at:
                found = storage.read_file(file, at, 200).decode("ascii", "replace").strip()
        except OSError as error:
            raise _missing(name, path, f"{MARKER}: {error.strerror}") from error
        if found != self.root_id:
            raise _missing(name, path, f"it belongs to publish root {found}, not {self.root_id}")


def _project(private: str) -> str:
    """The project that a folder for private names belongs to, "" if to the root."""
    return private.rpartition(".integrator")[0].rstrip("/")


def _missing(name: str, path: str, reason: str) -> RootMissing:
    return RootMissing(
        f"the root {name!r} is not at {path} ({reason}). Nothing there was settled or touched; is it mounted?",
        next="mount it, then: integrator recover (a root that was just added to the settings: integrator init)",
    )
