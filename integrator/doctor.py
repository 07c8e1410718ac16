"""Looks whether the surroundings let the engine keep its promise: rights, mounts, file systems, clock, database, leftovers.

It writes only into a probe folder of its own in each trash folder, named like any private name, so that `sweep` takes what a
killed one leaves; and, if it is told to fix, into the folders of the engine. What it cannot or must not mend it names with the
command that does.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from integrator import mounts, probe, queries, storage
from integrator.database import TRANSACTIONS, Examinable
from integrator.errors import DatabaseFailed, IntegratorError
from integrator.layout import STAGING_MARK
from integrator.model import ENDED, State, new_id
from integrator.mounts import Mount
from integrator.root import Root, open_root, read_settings
from integrator.settings import Settings
from integrator.state_folder import FOLDERS, STATE, group_number, state_path
from integrator.storage import Storage

#: Seconds that the clocks of this machine and of the database may differ.
_SAME_TIME: Final = 2.0
#: Below so many bytes, or this share, free space is worth a word.
_LITTLE: Final = 1 << 30
_SMALL_SHARE: Final = 0.02
#: Options of mounts that take something of the promise away: name, value or None for any, severity, what it means.
_OPTIONS: Final = (
    ("ro", None, "error", "is mounted read-only, so nothing can be published or recovered there"),
    ("nobarrier", None, "warning", "is mounted without barriers: a power cut can lose what was acknowledged"),
    ("barrier", "0", "warning", "is mounted without barriers: a power cut can lose what was acknowledged"),
    ("data", "writeback", "warning", "is mounted with data=writeback: after a power cut files can hold old blocks of the disk"),
    ("soft", None, "warning", "is a soft mount: calls that take long fail, although they may still be carried out"),
    ("softerr", None, "warning", "is a soft mount: calls that take long fail, although they may still be carried out"),
)


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that was looked at and is not as it could be."""

    #: root, permissions, umask, links, mount, features, clock, database, staging or space.
    kind: str
    #: error: it does not work, or not safely. warning: it will not work for somebody, or not for long. note: good to know.
    severity: str
    path: str
    message: str
    #: The command that mends it, "" if there is none.
    next: str = ""
    fixed: bool = False


def examine(path: str, *, fix: bool = False) -> list[Finding]:
    """Everything that does not fit about the root at `path`; with `fix`, what is safe to mend in the engine's folders is mended.

    Raises `NotARoot`, `RootRefused`, `SettingsRefused`, `UsageError` where not even its settings can be read.
    """
    path = os.path.abspath(path)
    state, settings = state_path(path), read_settings(path).settings()
    look = _Look(writer=Storage(), fix=fix, path=path, state=state, settings=settings)
    found = [*look.rights(), *look.process()]
    try:
        with open_root(path, application="integrator doctor") as root:
            found += [*_places(root, look.writer), *_database(root), *_staging(root)]
    except (IntegratorError, OSError) as error:
        following = getattr(error, "next", "")
        found.append(Finding(kind="root", severity="error", path=path, message=str(error), next=following))
    return found


# --- rights ---------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Look:
    """What can be looked at without opening the root."""

    writer: Storage
    fix: bool
    path: str
    state: str
    settings: Settings

    @property
    def group(self) -> int | None:
        return group_number(self.settings.group) if self.settings.group else None

    def rights(self) -> Iterator[Finding]:
        """Folders and files of the engine; in a shared root also the folders that are published into."""
        for name in FOLDERS:
            if not os.path.isdir(os.path.join(self.state, name)):
                yield self._make(name)
        for folder in sorted(self._engine_folders()):
            yield from self._right(folder, self.settings.folder_mode)
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_file(follow_symlinks=False):
                        yield from self._right(entry.path, self.settings.file_mode)
        if self.group is not None:
            for place in filter(os.path.isdir, (self.path, *self.settings.roots.values())):
                yield from self._right(place, self.settings.folder_mode)
            yield from self._published_folders()

    def _engine_folders(self) -> Iterator[str]:
        """Every folder of the engine; what is in a trash was published, and has the mode that it had."""
        tops = {self.state}
        for place in (self.path, *self.settings.roots.values()):
            tops.add(os.path.join(place, STATE))
            with contextlib.suppress(OSError), os.scandir(place) as entries:
                tops |= {os.path.join(entry.path, STATE) for entry in entries if entry.is_dir(follow_symlinks=False)}
        for top in filter(os.path.isdir, tops):
            for here, folders, _ in os.walk(top):
                yield here
                if os.path.basename(here) == "trash":
                    folders.clear()

    def _make(self, name: str) -> Finding:
        path = os.path.join(self.state, name)
        if self.fix:
            with contextlib.closing(_Folder(self.state)) as at:
                os.close(self.writer.make_folders(name, self.settings.folder_mode, at.fd))
                self.writer.sync(at.fd)
        message = f"{path} is missing; its journals, if it had any, are lost"
        return Finding(kind="permissions", severity="error", path=path, message=message, next=_FIX, fixed=self.fix)

    def _right(self, path: str, mode: int) -> Iterator[Finding]:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # a log of the database that went meanwhile
        except OSError as error:
            message = f"{path} cannot be opened ({error.strerror}), so this user can recover nothing that needs it"
            yield Finding(kind="permissions", severity="error", path=path, message=message, next=f"as its owner or root: {_FIX}")
            return
        try:
            wrong = self._wrong(os.fstat(fd), mode)
            if wrong:
                fixed = self.fix and self._mended(fd, mode)
                severity = "error" if "anybody" in wrong else "warning"
                following = _FIX if not self.fix or fixed else f"as its owner or root: {_FIX}"
                yield Finding(
                    kind="permissions", severity=severity, path=path, message=f"{path} {wrong}", next=following, fixed=fixed
                )
        finally:
            os.close(fd)

    def _wrong(self, status: os.stat_result, mode: int) -> str:
        found = stat.S_IMODE(status.st_mode)
        if found & stat.S_IWOTH & ~mode:
            return "can be written by anybody, so nothing in it can be trusted"
        if self.group is not None and status.st_gid != self.group:
            return f"belongs to group {status.st_gid}, not to {self.settings.group}: others of the group cannot go on from it"
        if mode & ~found:
            return f"has mode {found:o}, without all of {mode:o}: others cannot go on from it"
        return ""

    def _mended(self, fd: int, mode: int) -> bool:
        try:
            self.writer.share(fd, mode, self.group)
        except PermissionError:
            return False
        return True

    def _published_folders(self) -> Iterator[Finding]:
        """Folders that are published into and that the group cannot use: one finding for each project."""
        for place in (self.path, *self.settings.roots.values()):
            with contextlib.suppress(FileNotFoundError), os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_dir(follow_symlinks=False) and entry.name != STATE:
                        wrong = [folder for folder in _folders(entry.path) if self._wrong(os.lstat(folder), 0o2070)]
                        if wrong:
                            message = f"{len(wrong)} folders in {entry.path} are not the group's to publish into ({wrong[0]})"
                            group, where = self.settings.group, entry.path
                            command = f"chgrp -R {group} {where} && find {where} -type d -exec chmod 2775 {{}} +"
                            yield Finding(kind="permissions", severity="warning", path=wrong[0], message=message, next=command)

    def process(self) -> Iterator[Finding]:
        """The umask, and what this system says to links."""
        umask = _umask()
        if self.group is not None and umask & 0o070:
            message = (
                f"the umask is {umask:03o}. The command line copes; a host that is killed in the one moment between making a"
            )
            message += " folder and giving it its mode leaves one that only its owner can recover"
            yield Finding(kind="umask", severity="note", path="", message=message, next="umask 002")
        protected = _read("/proc/sys/fs/protected_hardlinks") not in ("", "0")
        if (
            protected
            and self.settings.link_fallback == "refuse"
            and (self.group is not None or self.settings.transfer == "hardlink")
        ):
            message = "fs.protected_hardlinks is on: files of other users can be hard-linked only by who may write them"
            yield Finding(kind="links", severity="note", path="", message=message)


_FIX: Final = "integrator doctor --fix"


class _Folder:
    def __init__(self, path: str) -> None:
        self.fd = storage.open_root(path)

    def close(self) -> None:
        os.close(self.fd)


def _folders(path: str) -> Iterator[str]:
    """A folder and those below it, but for what is in version directories and folders of the engine."""
    yield path
    with os.scandir(path) as entries:
        inner = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    for folder in inner:
        name = os.path.basename(folder)
        if name != STATE and STAGING_MARK not in name and not (name[:1] == "v" and name[1:].isdigit()):
            yield from _folders(folder)


def _umask() -> int:
    for line in _read("/proc/self/status").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


# --- places ---------------------------------------------------------------------------------------------------------


def _places(root: Root, writer: Storage) -> Iterator[Finding]:
    """Mounts, file systems and space of every root and of every project that is a mount of its own."""
    table = mounts.read_mounts()
    seen: dict[int, str] = {}
    for name, top in root.engine.roots.items():
        try:
            with root.engine.root(name) as fd:
                projects = _projects(root, fd)
        except IntegratorError as error:
            yield Finding(kind="root", severity="error", path=top, message=str(error), next=error.next)
            continue
        for project in ("", *projects):
            path = os.path.join(top, project) if project else top
            id = mounts.mount_id(path)
            if id not in seen:
                seen[id] = path
                yield from _mount(path, table.get(id))
                yield from _space(path)
                yield from _features(root, path, writer)
        yield from _inner_mounts(top, projects, table)
    for path in {root.state, os.path.dirname(getattr(root.engine.database, "path", "")) or root.state}:
        id = mounts.mount_id(path)
        if id not in seen:
            seen[id] = path
            yield from _mount(path, table.get(id))
            yield from _space(path)
    if len(seen) > 1:
        message = f"there is more than one file system ({', '.join(seen.values())}): no hard link reaches from one to another"
        yield Finding(kind="links", severity="note", path=next(iter(seen.values())), message=message)


def _projects(root: Root, fd: int) -> list[str]:
    """Top folders of a root that hold projects."""
    known = set(root.engine.database.projects())
    with os.scandir(fd) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and entry.name != STATE]
    return sorted(name for name in names if name in known or storage.missing_folders(f"{name}/{STATE}", fd) == [])


def _mount(path: str, mount: Mount | None) -> Iterator[Finding]:
    if mount is None:
        return
    for name, value, severity, meaning in _OPTIONS:
        found = mount.option(name)
        if found is not None and value in (None, found):
            command = f"mount -o remount,rw {mount.path}" if name == "ro" else f"mount {mount.path} without {name}"
            yield Finding(
                kind="mount", severity=severity, path=path, message=f"{mount.path} ({mount.kind}) {meaning}", next=command
            )


def _inner_mounts(top: str, projects: list[str], table: dict[int, Mount]) -> Iterator[Finding]:
    """What is mounted inside a project: a rename to the project's trash would fail there."""
    for project in projects:
        inside = os.path.realpath(os.path.join(top, project)) + "/"
        for mount in table.values():
            if mount.path.startswith(inside):
                message = f"{mount.path} is mounted inside a project, so nothing there can be renamed into the project's trash:"
                message += " publishes into it are refused"
                command = f"mount the whole project, {inside[:-1]}, instead"
                yield Finding(kind="mount", severity="warning", path=mount.path, message=message, next=command)


def _space(path: str) -> Iterator[Finding]:
    space = os.statvfs(path)
    free, all_of_it = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    if (free < _LITTLE and free < all_of_it * 0.1) or free < all_of_it * _SMALL_SHARE:
        message = f"{path} has {free >> 20} MiB free"
        yield Finding(kind="space", severity="warning", path=path, message=message, next="integrator sweep")
    if space.f_files and space.f_favail < space.f_files * _SMALL_SHARE:
        message = f"{path} has room for {space.f_favail} more files"
        yield Finding(kind="space", severity="warning", path=path, message=message, next="integrator sweep")


# --- features of a file system --------------------------------------------------------------------------------------


def _features(root: Root, path: str, writer: Storage) -> Iterator[Finding]:
    """Try in a probe folder what the engine would like to do."""
    trash = f"{STATE}/trash"
    with contextlib.closing(_Folder(path)) as top:
        made = storage.missing_folders(trash, top.fd)
        try:
            at = writer.make_folders(trash, root.settings.folder_mode, top.fd)
        except OSError as error:
            message = f"{os.path.join(path, trash)} cannot be made ({error.strerror}), so nothing can be recovered there"
            yield Finding(kind="permissions", severity="error", path=path, message=message)
            return
        name = f"{new_id()}.doctor"
        try:
            yield from _probe(root, path, writer, name, at)
        except OSError as error:
            message = f"a folder in {os.path.join(path, trash)} cannot be made and used ({error.strerror})"
            yield Finding(kind="permissions", severity="error", path=path, message=message)
        finally:
            writer.remove_tree(name, at)
            os.close(at)
            for folder in reversed(made):
                writer.remove_empty(folder, top.fd)


def _probe(root: Root, path: str, writer: Storage, name: str, at: int) -> Iterator[Finding]:
    settings = root.settings
    writer.make_folder(name, settings.folder_mode, at)
    with storage.folder(name, at) as fd:
        status = os.fstat(fd)
        if stat.S_IMODE(status.st_mode) != settings.folder_mode:
            message = f"{path}: its file system does not keep modes, so others of a group cannot be let in"
            yield Finding(kind="features", severity="warning", path=path, message=message)
        if settings.group and status.st_gid != group_number(settings.group):
            message = f"{path}: what is made there does not inherit the group {settings.group}"
            command = f"chgrp {settings.group} {path} && chmod 2775 {path}"
            yield Finding(kind="permissions", severity="warning", path=path, message=message, next=command)
        for feature in probe.missing(writer, fd):
            needed = feature.transfer == settings.transfer and settings.link_fallback == "refuse"
            severity = "warning" if needed or feature.needed else "note"
            message = f"{path}: its file system {feature.without}"
            yield Finding(kind="features", severity=severity, path=path, message=message)


# --- database and leftovers -----------------------------------------------------------------------------------------


def _database(root: Root) -> Iterator[Finding]:
    database = root.engine.database
    path = getattr(database, "path", "")
    before = time.time()
    apart = database.now() - before
    if not -_SAME_TIME < apart < _SAME_TIME + (time.time() - before):
        message = f"the clock of the database is {apart:+.1f} s off this machine's; soft locks go by the database's"
        yield Finding(kind="clock", severity="warning", path=path, message=message, next="timedatectl set-ntp true")
    try:
        wrong = database.problems() if isinstance(database, Examinable) else []
    except DatabaseFailed as error:
        wrong = [error.message]
    for message in wrong:
        command = f"sqlite3 {path} .recover" if "quick_check" in message or "malformed" in message else ""
        yield Finding(kind="database", severity="error", path=path, message=message, next=command)


def _staging(root: Root) -> Iterator[Finding]:
    for place, transaction in queries.staging_directories(root):
        document = root.engine.database.read(TRANSACTIONS, transaction)
        if document is None or State(document["state"]) in ENDED:
            path = root.absolute(place)
            message = f"staging directory {path} belongs to no unfinished transaction"
            yield Finding(kind="staging", severity="warning", path=path, message=message, next="integrator sweep")
