"""``integrator sweep``: removes abandoned leftovers by age."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from integrator.cli.arguments import Once, age
from integrator.cli.console import duration, plural, shown

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How old, and whether at all."""
    parser.epilog = "Nothing of an unfinished transaction is ever removed; recover settles those."
    parser.add_argument("--older-than", action=Once, type=age, metavar="AGE", help="7d, 12h, 30m or seconds (default: settings)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def run(call: Call) -> int:
    """Remove leftovers, or say which ones."""
    from integrator.root import open_root
    from integrator.sweep import sweep

    dry_run = call.arguments.dry_run
    with open_root(call.root(), application="integrator sweep") as root:
        swept = sweep(root, older_than=call.arguments.older_than, dry_run=dry_run)
    entries = [{"kind": entry.kind, "path": entry.path, "age": round(entry.age, 3), "left": entry.left} for entry in swept]
    call.console.answer({"swept": entries, "dry_run": dry_run})
    for entry in swept:
        call.console.print(f"{entry.kind:<8} {duration(entry.age):>8}  {shown(entry.path)}")
        if entry.left:
            call.console.print(f"  cannot be removed yet: {shown(entry.left)}")
    said = "would be removed" if dry_run else "removed"
    call.console.print(f"{plural(len(swept), 'leftover')} {said}" if swept else "nothing to sweep")
    return 0
