"""The state folder of a publish root: settings, journals, history and the embedded database.

It is ``<root>/.integrator``, or lies elsewhere (on a local disk, for a root on a network file system): then that folder has only
the id of the root and a file `state` with the path. Both folders have the id, and are believed only if it is the same. The last
step of making one is the step that makes it a root, so that an `init` that was killed can be run again.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from integrator import settings as settings_module
from integrator import storage
from integrator.database import make_database, refuse_place
from integrator.errors import NotARoot, RootRefused, UsageError
from integrator.layout import MARKER
from integrator.model import new_id
from integrator.settings import Settings, Source
from integrator.storage import Storage
from integrator.trust import check_trust

#: Folder of the engine in a root.
STATE: Final = ".integrator"
CONFIG: Final = "config.toml"
#: File in it with the absolute path of a state folder that is elsewhere.
_ELSEWHERE: Final = "state"
#: The configuration until everything else is there.
_NEXT_CONFIG: Final = "config.toml.next"
_ID: Final = MARKER.rpartition("/")[2]
_DATABASE: Final = "publish.sqlite3"
FOLDERS: Final = ("journal", "history")
#: Settings that only one project has, a file for each.
PROJECTS: Final = "projects"
#: What else nobody but trusted people may own or write, where it is there.
_GUARDED: Final = (CONFIG, _DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm", PROJECTS)


def is_root(path: str) -> bool:
    """Whether a folder looks like a publish root."""
    return any(os.path.exists(os.path.join(path, STATE, name)) for name in (CONFIG, _ELSEWHERE))


def database_url(settings: Settings, state: str) -> str:
    """URL of the database: that of the settings, else the embedded one."""
    return settings.database or "sqlite://" + os.path.join(state, _DATABASE)


def group_number(group: str) -> int:
    """The number of a group that is given by name or number. Raises `UsageError`."""
    try:
        return int(group) if group.isascii() and group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"there is no group {group!r} on this machine; name one, or give its number") from None


# --- reading --------------------------------------------------------------------------------------------------------


def open_state(path: str) -> tuple[str, Source]:
    """The state folder of the root at `path` and its configuration, once both are seen to be trustworthy and to belong together.

    Raises `NotARoot`, `RootRefused`, `UsageError`.
    """
    state, config = read_state(path)
    inside = os.path.join(path, STATE)
    with contextlib.ExitStack() as stack:
        try:
            fd = _opened(stack, inside)
            if state != inside:
                check_trust(path, inside, fd, folders=(), files=(_ID, _ELSEWHERE))
                state_fd = _opened(stack, state)
                check_trust(path, state, state_fd, folders=FOLDERS, files=_GUARDED)
                _check_ids(path, fd, state, state_fd, settings_module.survey([config]).value("root_id"))
            else:
                check_trust(path, state, fd, folders=FOLDERS, files=_GUARDED)
        except OSError as error:
            raise NotARoot(f"{path} is not a publish root ({error.filename or state}: {error.strerror})") from error
    return state, config


def state_path(path: str) -> str:
    """Where the state folder of the root at `path` is, or would be."""
    inside = os.path.join(path, STATE)
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        return _elsewhere(_opened(stack, inside)) or inside
    return inside


def read_state(path: str) -> tuple[str, Source]:
    """The state folder of the root at `path` and its configuration, whoever can write there; only for a look.

    Raises `NotARoot`, `RootRefused`.
    """
    inside = os.path.join(path, STATE)
    with contextlib.ExitStack() as stack:
        try:
            inside_fd = _opened(stack, inside)
            state = _elsewhere(inside_fd) or inside
            text = storage.read_file(CONFIG, inside_fd, 1 << 20) if state == inside else b""
        except OSError as error:
            _refuse_lost_config(inside)
            raise NotARoot(
                f"{path} is not a publish root ({inside}: {error.strerror})",
                next=f"mount it if it should be there; to make one: integrator init {path}",
            ) from error
        if state != inside:
            try:
                text = storage.read_file(CONFIG, _opened(stack, state), 1 << 20)
            except OSError as error:
                _refuse_lost_config(state)
                raise RootRefused(
                    f"the state folder of {path} is {state}, which is not there ({error.strerror}). Nothing was touched",
                    next="work on the machine that has it, or mount it",
                ) from error
    return state, Source(settings_module.ROOT, os.path.join(state, CONFIG), text)


def _opened(stack: contextlib.ExitStack, path: str) -> int:
    fd = storage.open_root(path)
    stack.callback(os.close, fd)
    return fd


def _elsewhere(fd: int) -> str:
    """Where the state folder is if it is not this one. Raises `OSError`."""
    try:
        return os.fsdecode(storage.read_file(_ELSEWHERE, fd, 8192)).rstrip("\n")
    except FileNotFoundError:
        return ""


def _check_ids(path: str, inside_fd: int, state: str, state_fd: int, root_id: str) -> None:
    for folder, fd in ((os.path.join(path, STATE), inside_fd), (state, state_fd)):
        found = _id(fd)
        if found != root_id:
            raise RootRefused(
                f"the state folder {state} is that of publish root {root_id}, but {folder} says {found or 'nothing'}."
                " Nothing was touched",
                next=f"look which one belongs there; {os.path.join(path, STATE, _ELSEWHERE)} names the state folder",
            )


def _id(fd: int) -> str:
    """The id in an open folder of the engine, "" if there is none."""
    try:
        return storage.read_file(_ID, fd, 200).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""


def _refuse_lost_config(state: str) -> None:
    """Raise `RootRefused` for a state folder in use that has lost its configuration, or that was never completed."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        fd = _opened(stack, state)
        root_id = _id(fd)
        if not storage.exists(CONFIG, fd) and not storage.exists(_NEXT_CONFIG, fd) and root_id and _is_used(fd):
            config = os.path.join(state, CONFIG)
            raise RootRefused(
                f"{config} is missing, but {state} is the state folder of publish root {root_id}, and in use. Nothing was"
                " touched, and what is published is not concerned",
                next=f"put {config} back from a copy; without one, write it anew with the lines format = 1 and"
                f' root_id = "{root_id}", and with the group, the modes, the templates, the roots and the database that it had;'
                " then: integrator doctor, then: integrator check",
            )


def _is_used(fd: int) -> bool:
    """Whether a state folder has, or once had, more than what a killed `init` leaves without a configuration."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(_DATABASE, dir_fd=fd).st_size:
            return True
    for name in FOLDERS:
        with contextlib.suppress(FileNotFoundError), storage.folder(name, fd) as at:
            if os.listdir(at):
                return True
    return False


# --- making ---------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Wish:
    """What a new root is to be like."""

    #: Database URL, "" for the embedded one.
    database: str = ""
    templates: Mapping[str, str] = attrs.field(factory=dict)
    #: Group that shares the root, "" if it is not shared.
    group: str = ""
    #: Absolute path of the state folder, "" for the one inside the root.
    state: str = ""


def make_state(path: str, wish: Wish, read: Callable[[Source], Settings]) -> None:
    """Make the folder at `path` a publish root; an earlier attempt that was killed is gone on with.

    `read` makes settings of a configuration, and raises for those that cannot be, before anything is made. Raises `UsageError`,
    `SettingsRefused`, `RootRefused`, `OSError`.
    """
    inside = os.path.join(path, STATE)
    state = wish.state or inside
    _refuse_lost_config(state)
    text = _begun(inside, state) or _config(_own_id(state) or new_id(), wish)
    settings = read(Source(settings_module.ROOT, os.path.join(state, CONFIG), text))
    group = group_number(wish.group) if wish.group else None
    refuse_place(database_url(settings, state))
    with contextlib.ExitStack() as stack:
        writer = Storage()
        root_fd = _made(stack, writer, path, settings, group)
        os.close(writer.make_folders(STATE, settings.folder_mode, root_fd))
        inside_fd = _opened(stack, inside)
        # Elsewhere, too, what is made belongs to the group of the root, or nobody would trust it.
        state_fd = _made(stack, writer, state, settings, os.fstat(root_fd).st_gid) if wish.state else inside_fd
        for name in FOLDERS:
            os.close(writer.make_folders(name, settings.folder_mode, state_fd))
        if not storage.exists(CONFIG, state_fd):
            _put(writer, _NEXT_CONFIG, text, settings, state_fd)
            writer.sync(state_fd)
        for fd in {inside_fd, state_fd}:
            _mark(writer, path, settings, fd)
            writer.sync(fd)
        _make_database(writer, database_url(settings, state), settings, group)
        if not storage.exists(CONFIG, state_fd):
            writer.rename(_NEXT_CONFIG, state_fd, CONFIG, state_fd)
            writer.sync(state_fd)
        if wish.state:
            _put(writer, _ELSEWHERE, os.fsencode(state) + b"\n", settings, inside_fd)
            writer.sync(inside_fd)
        writer.sync(root_fd)


def mark(writer: Storage, path: str, settings: Settings) -> None:
    """Give the named root at `path` the id of its publish root. Raises `UsageError`, `OSError`."""
    with contextlib.ExitStack() as stack:
        fd = _opened(stack, path)
        os.close(writer.make_folders(STATE, settings.folder_mode, fd))
        inside_fd = stack.enter_context(storage.folder(STATE, fd))
        _mark(writer, path, settings, inside_fd)
        writer.sync(inside_fd)
        writer.sync(fd)


def _begun(inside: str, state: str) -> bytes:
    """The configuration that a killed `init` left, b"" if there is none. Raises `UsageError` for that of another root."""
    with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
        fd = _opened(stack, state)
        if storage.exists(CONFIG, fd):  # only where the state folder is elsewhere: inside, it would be a root already
            text = storage.read_file(CONFIG, fd, 1 << 20)
            own = settings_module.survey([Source(settings_module.ROOT, state, text)]).value("root_id")
            with contextlib.suppress(FileNotFoundError):
                if _id(_opened(stack, inside)) == own:
                    return text
            raise UsageError(f"{state} is the state folder of another publish root ({own})", next="name another --state DIR")
        return storage.read_file(_NEXT_CONFIG, fd, 1 << 20)
    return b""


def _own_id(state: str) -> str:
    """The id that a state folder without any configuration has, "" if there is none. The marker of a named root is no such."""
    with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
        fd = _opened(stack, state)
        found = _id(fd)
        if re.fullmatch("[0-9a-f]{24}", found) and all(storage.exists(name, fd) for name in FOLDERS):
            return found
    return ""


def _made(stack: contextlib.ExitStack, writer: Storage, path: str, settings: Settings, group: int | None) -> int:
    """A descriptor of a folder outside of any root, made if it is not there; shared before anything is made inside it."""
    parents, above = [], path
    while not os.path.lexists(above):
        above = os.path.dirname(above)
        parents.append(above)
    os.makedirs(path, exist_ok=True)
    for parent in parents:  # what is published in a folder lasts no longer than the folder's own name
        writer.sync(_opened(stack, parent))
    fd = _opened(stack, path)
    if group is not None:
        try:
            writer.share(fd, settings.folder_mode, group)
        except PermissionError as error:
            raise UsageError(
                f"{path} cannot be given to group {settings.group or group}: only root can, or an owner who must be in the group",
                next="the same as root, or as its owner",
            ) from error
    return fd


def _put(writer: Storage, name: str, content: bytes, settings: Settings, at: int) -> None:
    """Write a file so that it is never there cut short, whatever a killed attempt left."""
    if storage.exists(name, at):
        return
    writer.remove_tree(name + ".part", at)
    writer.write_file(name + ".part", content, settings.file_mode, at)
    writer.rename(name + ".part", at, name, at)


def _mark(writer: Storage, path: str, settings: Settings, fd: int) -> None:
    found = _id(fd)
    if found == settings.root_id:
        return
    if found:
        raise UsageError(f"{path} belongs to publish root {found} already", next="make a root of another folder")
    if storage.exists(_ID, fd):  # empty: whoever made it was killed
        writer.unlink(_ID, fd)
    _put(writer, _ID, settings.root_id.encode() + b"\n", settings, fd)


def _make_database(writer: Storage, url: str, settings: Settings, group: int | None) -> None:
    """Make the database. SQLite would leave the mode of its file to the umask; log and index get that of the file."""
    folder, name = os.path.split(url.removeprefix("sqlite://"))
    with contextlib.suppress(FileNotFoundError, FileExistsError):  # whatever is wrong with the place, `make_database` says it
        at = storage.open_root(folder)
        try:
            fd = writer.create(name, settings.file_mode, at)
            try:
                writer.share(fd, settings.file_mode, group)
            finally:
                writer.close(fd)
        finally:
            os.close(at)
    make_database(url, settings.root_id)


def _config(root_id: str, wish: Wish) -> bytes:
    # A JSON string is a TOML string, as long as it has no lone surrogates.
    lines = ["# Settings of this publish root. Credentials never belong here.", "format = 1", f'root_id = "{root_id}"']
    if wish.database:
        lines.append(f"database = {json.dumps(wish.database)}")
    if wish.group:
        lines += [f"group = {json.dumps(wish.group)}", "file_mode = 0o664", "folder_mode = 0o2775"]
    if wish.templates:
        lines += ["", "[templates]", *(f"{json.dumps(name)} = {json.dumps(text)}" for name, text in wish.templates.items())]
    return ("\n".join(lines) + "\n").encode()
