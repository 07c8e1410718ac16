"""``integrator history``: the latest transactions."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from integrator.cli.arguments import Once, count
from integrator.cli.console import when

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many."""
    parser.add_argument("--limit", action=Once, type=count, default=20, metavar="N", help="at most so many (default: 20)")


def run(call: Call) -> int:
    """Print the latest transactions, the newest first."""
    from integrator.queries import history
    from integrator.root import open_reader

    with open_reader(call.root()) as root:
        found = history(root, call.arguments.limit)
    call.console.answer({"transactions": found})
    if not found:
        call.console.print("there were no transactions yet")
    else:
        call.console.table(("TRANSACTION", "BEGUN", "STATE", "PROJECT", "BY", "WHAT"), map(_row, found))
    return 0


def _row(entry: Mapping[str, Any]) -> tuple[object, ...]:
    user = (entry.get("owner") or {}).get("user", "")
    what = ", ".join(directory["path"] for directory in entry["directories"])
    return entry["transaction"], when(entry["created"]), entry["state"], entry["project"], user, what
