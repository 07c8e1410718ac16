"""``integrator show``: one transaction in full."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from integrator.cli.console import Console, shown, when
from integrator.cli.status import owner

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The transaction."""
    parser.add_argument("transaction", metavar="TXID")


def run(call: Call) -> int:
    """Print one transaction."""
    from integrator.queries import show
    from integrator.root import open_reader

    with open_reader(call.root()) as root:
        found = show(root, call.arguments.transaction)
    call.console.answer(found)
    if not call.console.json:
        _print(call.console, found)
    return 0


def _print(console: Console, found: Mapping[str, Any]) -> None:
    lines = {
        "transaction": found["_id"],
        "state": found["state"],
        "publish id": found.get("publish_id") or found.get("former_publish_id"),
        "project": found.get("project"),
        "begun": f"{when(found.get('created'))} by {owner(found.get('owner'))}",
        "ended": when(found.get("ended")),
        "error": found.get("error"),
        "stuck": (found.get("stuck") or {}).get("reason"),
    }
    for name, value in lines.items():
        if value and value != "-":
            console.print(f"{name:<13}{shown(value)}")
    for directory in found.get("directories") or ():
        console.print(f"{'directory':<13}{shown(directory['final'])}")
    for version in (found.get("summary") or {}).get("versions", ()):
        console.print(f"{'version':<13}{shown(version['asset'])} {shown(version['subset'])} v{version['version']:03d}")
    for left in found.get("left") or ():
        console.print(f"{'left':<13}{shown(left)}")
    if found.get("next"):
        console.print(f"{'next':<13}{shown(console.command_line(found['next']))}")
