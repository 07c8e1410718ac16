"""``integrator blame``: which publish a file or directory comes from."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from integrator.cli.console import Console, shown, when

if TYPE_CHECKING:
    from integrator.cli import Call

_SAID: Final = {
    "foreign": "foreign: no publish made it",
    "unfinished": "a version of a transaction that is not settled",
    "staging": "staging: it belongs to a publish that has not ended, or was left by one",
    "trash": "trash: a transaction put it away",
    "engine": "a folder of integrator itself",
    "folder": "a folder above version directories; no single publish made it",
    "outside": "outside: it is in no root of this publish root",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to look at."""
    parser.add_argument("path", metavar="PATH", help="a file or directory; symbolic links are followed")


def run(call: Call) -> int:
    """Print which publish made what is there."""
    from integrator.blame import blame
    from integrator.root import open_reader

    path = call.arguments.path
    with open_reader(call.root(near=path)) as root:
        found = blame(root, path)
    call.console.answer(found)
    if not call.console.json:
        _print(call.console, found)
    return 0


def _print(console: Console, found: Mapping[str, Any]) -> None:
    console.print(shown(found["path"]))
    if found["kind"] == "published":
        where = "/".join(filter(None, (found["project"], found["hierarchy"], found["asset"])))
        representation = f", {found['representation']}" if found["representation"] else ""
        hero = "hero version of " if found.get("hero") else ""
        console.print(shown(f"  published: {hero}{where} {found['subset']} v{found['version']:03d}{representation}"))
    else:
        inside = f" (inside {found['version_directory']}, which is published)" if "version_directory" in found else ""
        console.print(f"  {_SAID[found['kind']]}{inside}")
    by = f"{found['user']} on {found['host']}, {found['application']}" if found.get("user") else None
    begun = when(found["begun"]) if found.get("begun") else None
    lines = {"by": by, "begun": begun, **{name: found.get(name) for name in _LINES}}
    for name, value in lines.items():
        if value:
            console.print(f"  {name.replace('_', ' '):<12}{shown(value)}")


_LINES: Final = ("author", "time", "comment", "source", "publish_id", "transaction", "state")
