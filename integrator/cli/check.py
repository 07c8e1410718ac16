"""``integrator check``: looks for inconsistencies and writes nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from integrator.cli.console import Console, plural, shown

if TYPE_CHECKING:
    from integrator.check import Finding
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How thorough."""
    parser.epilog = "Exit 0 if all is well, 3 if there are problems."
    parser.add_argument("--checksums", action="store_true", help="read every published file again")


def run(call: Call) -> int:
    """Print everything that is wrong."""
    from integrator.check import check
    from integrator.root import open_root

    console = call.console
    with open_root(call.root()) as root:
        found = check(root, checksums=call.arguments.checksums)
    console.answer({"ok": not found, "problems": [_problem(finding, console) for finding in found]})
    for finding in found:
        console.print(f"{finding.kind}: {shown(finding.message)}")
        if finding.next:
            console.print(f"  next: {shown(console.command_line(finding.next))}")
    console.print(f"{plural(len(found), 'problem')}" if found else "all is well")
    return 3 if found else 0


def _problem(finding: Finding, console: Console) -> dict[str, Any]:
    places = {name: value for name, value in (("path", finding.path), ("document", finding.document)) if value}
    return {"kind": finding.kind, **places, "message": finding.message, "next": console.command_line(finding.next)}
