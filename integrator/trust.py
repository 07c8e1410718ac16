"""Whom the folders and files of the engine in a publish root belong to, and who can write to them.

Trusted are root, whoever runs this, the owner of the publish root, and its group: a root that several people share is normal.
Whoever else can write there could make the engine publish, move or remove what they like.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Sequence

from integrator.errors import RootRefused


def check_trust(path: str, state: str, state_fd: int, *, folders: Sequence[str], files: Sequence[str]) -> None:
    """Refuse a publish root whose engine's folder, open as `state_fd`, or something in it is in the hands of strangers.

    `folders` must be there, `files` may be. Raises `RootRefused`, `OSError`.
    """
    root, own = os.stat(path), os.path.join(path, state)
    _check(own, os.fstat(state_fd), path, root)
    for name in folders:
        where = os.path.join(own, name)
        try:
            status = os.stat(name, dir_fd=state_fd, follow_symlinks=False)
        except FileNotFoundError as error:
            raise _missing(where, os.fstat(state_fd)) from error
        if not stat.S_ISDIR(status.st_mode):
            raise RootRefused(
                f"{where} is no folder. Nothing was touched, and what is published is not concerned",
                next=f"look at what it is, move it away, then: {_make(where, os.fstat(state_fd))}",
            )
        _check(where, status, path, root)
    for name in files:
        try:
            status = os.stat(name, dir_fd=state_fd)  # a database may be a link to another disk: its file is what counts
        except FileNotFoundError:
            continue
        _check(os.path.join(own, name), status, path, root)


def _missing(where: str, state: os.stat_result) -> RootRefused:
    return RootRefused(
        f"the folder {where} is missing: somebody removed it, or not everything of this root was restored. Nothing was touched,"
        " and what is published is not concerned; recovery of an unfinished publish goes by the database alone and leaves in"
        " place what it cannot prove to be its own",
        next=f"put it back, or make it anew: {_make(where, state)}; then: integrator recover",
    )


def _make(where: str, state: os.stat_result) -> str:
    return f"mkdir -m {stat.S_IMODE(state.st_mode):o} {shlex.quote(where)}"


def _check(where: str, status: os.stat_result, path: str, root: os.stat_result) -> None:
    """Refuse one folder or file that strangers own or can write. Raises `RootRefused`."""
    quoted, reference = shlex.quote(where), shlex.quote(path)
    if status.st_mode & stat.S_IWOTH:
        raise _distrusted(f"anybody can write to {where}", f"chmod o-w {quoted}")
    if status.st_uid not in (0, os.geteuid(), root.st_uid) and status.st_gid != root.st_gid:
        raise _distrusted(f"{where} belongs to a stranger (user {status.st_uid})", f"chown --reference={reference} {quoted}")
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (0, root.st_gid) and not _is_private(status):
        raise _distrusted(
            f"{where} can be written by a group (group {status.st_gid}) that is not the group of {path} (group {root.st_gid})",
            f"chgrp --reference={reference} {quoted}",
        )


def _is_private(status: os.stat_result) -> bool:
    """Whether the group of a file is that of its owner alone: it has the owner's name, as most systems make one for each user."""
    import grp
    import pwd

    try:
        return grp.getgrgid(status.st_gid).gr_name == pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        return False


def _distrusted(what: str, mend: str) -> RootRefused:
    return RootRefused(
        f"{what}, so nothing in it can be trusted. Nothing was touched", next=f"look at what is in it, then: {mend}"
    )
