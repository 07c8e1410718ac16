"""``integrator doctor``: looks whether the surroundings fit, and mends what is safe to mend."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from integrator.cli.console import plural, shown

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether to mend."""
    parser.epilog = "Exit 0 if nothing is wrong (notes do not count) or all of it was mended, else 3."
    parser.add_argument("--fix", action="store_true", help="mend modes, groups and missing folders of the engine")


def run(call: Call) -> int:
    """Print everything that does not fit."""
    import attrs

    from integrator.doctor import examine

    console = call.console
    found = examine(call.root(), fix=call.arguments.fix)
    wrong = [finding for finding in found if finding.severity != "note" and not finding.fixed]
    findings = [{**attrs.asdict(finding), "next": console.command_line(finding.next)} for finding in found]
    console.answer({"ok": not wrong, "findings": findings})
    for finding in found:
        console.print(f"{'fixed' if finding.fixed else finding.severity}: {shown(finding.message)}")
        if finding.next and not finding.fixed:
            console.print(f"  next: {shown(console.command_line(finding.next))}")
    console.print(f"{plural(len(wrong), 'problem')}" if wrong else "all is well")
    return 3 if wrong else 0
