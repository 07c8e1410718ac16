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
    parser.epilog = "Exit 0 if all is well, 3 if there are problems. A version of another tool is a note and no problem."
    parser.add_argument("--checksums", action="store_true", help="read every published file again")


def run(call: Call) -> int:
    """Print everything that is wrong."""
    from integrator.check import check
    from integrator.root import open_root

    console = call.console
    with open_root(call.root()) as root:
        found = check(root, checksums=call.arguments.checksums)
    problems = [finding for finding in found if finding.wrong]
    notes = [finding for finding in found if not finding.wrong]
    answer: dict[str, Any] = {"ok": not problems, "problems": [_described(finding, console) for finding in problems]}
    if notes:
        answer["notes"] = [_described(finding, console) for finding in notes]
    console.answer(answer)
    for finding in [*notes, *problems]:
        console.print(f"{'' if finding.wrong else 'note, '}{finding.kind}: {shown(finding.message)}")
        console.print(f"  next: {shown(console.command_line(finding.next))}")
    console.print(plural(len(problems), "problem") if problems else "all is well")
    return 3 if problems else 0


def _described(finding: Finding, console: Console) -> dict[str, Any]:
    places = {name: value for name, value in (("path", finding.path), ("document", finding.document)) if value}
    return {"kind": finding.kind, **places, "message": finding.message, "next": console.command_line(finding.next)}
