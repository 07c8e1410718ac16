"""A publish request out of command-line arguments."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from typing import Any

from integrator.cli.arguments import Arguments, pairs
from integrator.errors import UsageError
from integrator.model import from_here

_PATTERN = re.compile(r"%0?[0-9]*d|%\(UDIM\)d|<UDIM>|#", re.IGNORECASE)


def from_arguments(arguments: Arguments) -> dict[str, Any]:
    """The request that the arguments of the command-line form mean, as the schema has it. Raises `UsageError`."""
    missing = [f"--{name}" for name in ("project", "asset", "subset", "family") if not getattr(arguments, name)]
    if missing:
        what = "a request or " if not arguments.patterns else ""
        raise UsageError(f"{what}{', '.join(missing)} is missing", next="integrator publish --help")
    user = _user()
    instance: dict[str, Any] = {
        "asset": arguments.asset,
        "hierarchy": arguments.hierarchy or "",
        "subset": arguments.subset,
        "family": arguments.family,
        "task": {"name": arguments.task} if arguments.task else None,
        "version": arguments.version,
        "amend": arguments.amend,
        "hero": bool(arguments.hero),
        "representations": _representations(arguments),
        "data": _data(arguments),
    }
    return {
        "schema": "integrator:publish-request-1.0",
        "project": arguments.project,
        "author": arguments.author or user,
        "comment": _text(arguments.comment or ""),
        "checksum": arguments.checksum,
        "machine": socket.gethostname(),
        "user": user,
        "instances": [instance],
    }


def _representations(arguments: Arguments) -> list[dict[str, Any]]:
    named = pairs("--representation", arguments.representation or ())
    found = {name: [_absolute(pattern)] for name, pattern in named.items()}
    for name, files in _by_extension(arguments.patterns).items():
        if name in found:
            raise UsageError(f"{files[0]} and --representation {name} would have the same name")
        found[name] = files
    if not found:
        raise UsageError("there is nothing to publish: name a PATTERN or --representation NAME=PATTERN",
                         next="integrator publish --help")  # fmt: skip
    # Frames are for sequences. Where there is none, they go with everything, and the answer says why that is wrong.
    sequences = {name for name, files in found.items() if len(files) > 1 or _PATTERN.search(os.path.basename(files[0]))}
    with_frames = sequences or set(found)
    return [
        {
            "name": name,
            "files": files,
            "frames": arguments.frames if name in with_frames else None,
            "transfer": arguments.transfer,
        }
        for name, files in found.items()
    ]


def _by_extension(patterns: list[str]) -> dict[str, list[str]]:
    """Absolute patterns by extension; several only where a shell made them out of one, as frames of one sequence."""
    from integrator.representations import extension, split_clique

    found: dict[str, list[str]] = {}
    for pattern in patterns:
        name = extension(split_clique(pattern)[0])
        if " [" in name:
            raise UsageError(f"{pattern}: frames in brackets go with %04d, as in 'beauty.%04d.exr [1001-1010]'; or use --frames")
        if not name:
            raise UsageError(f"{pattern} has no extension to be named after; write --representation NAME={pattern}")
        others = found.setdefault(name, [])
        path = _absolute(pattern)
        if others and (_PATTERN.search(path) or _shape(others[0]) != _shape(path) or path in others):
            raise UsageError(
                f"{pattern} would be the representation {name}, and so would another pattern;"
                f" write --representation NAME={pattern}"
            )
        others.append(path)
    return found


def _shape(path: str) -> str:
    """A path with its last number, extension aside, left out: the same for frames of one sequence."""
    stem, dot, extension = path.rpartition(".")
    head, _, name = stem.rpartition("/")
    return f"{head}/{re.sub(r'[0-9]+(?=[^0-9]*$)', '#', name)}{dot}{extension}"


def _absolute(pattern: str) -> str:
    # Without normalising: a/../b is not b when a is a symbolic link. `{root[work]}/...` starts at a root.
    return pattern if pattern.startswith("{root[") else from_here(pattern)


def _text(word: str) -> str:
    """An argument that is a text for people: it is UTF-8, whatever the locale takes it for. (Names of files are bytes.)"""
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeError:
        return word


def _data(arguments: Arguments) -> dict[str, Any]:
    data: dict[str, Any] = {key: _value(text) for key, text in pairs("--data", arguments.data or ()).items()}
    if arguments.fps is not None:
        if "fps" in data:
            raise UsageError("--fps and --data fps=... say the same; give one of them")
        data["fps"] = arguments.fps
    return data


def _value(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _distinct(members: list[tuple[str, Any]]) -> Mapping[str, Any]:
    if len(dict(members)) < len(members):
        raise ValueError("a key is there twice")
    return dict(members)


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
