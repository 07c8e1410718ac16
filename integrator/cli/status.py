"""``integrator status``: what is unfinished, who holds a soft lock, what was left behind."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from integrator.cli.console import Console, duration, shown, when

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


def run(call: Call) -> int:
    """Print the status; nothing is written."""
    from integrator.queries import status
    from integrator.root import open_reader

    with open_reader(call.root()) as root:
        found = status(root)
    call.console.answer(found)
    if not call.console.json:
        _print(call.console, found)
    return 0


def _print(console: Console, found: dict[str, Any]) -> None:
    if not any(found.values()):
        console.print("nothing is unfinished, nobody holds a soft lock, nothing was left behind")
    for entry in found["unfinished"]:
        _print_unfinished(console, entry)
    leases = [lease for lease in found["leases"] if lease["transaction"] not in {e["transaction"] for e in found["unfinished"]}]
    for lease in leases:
        console.print(f"soft lock on {shown(lease['key'])}, held by {owner(lease['owner'])}")
    for orphan in found["orphans"]:
        console.print(f"left behind: {shown(orphan['path'])}")
    if found["orphans"]:
        console.print(console.command_line("  next: integrator check, then integrator sweep"))


def _print_unfinished(console: Console, entry: dict[str, Any]) -> None:
    if entry["state"] == "reserved":
        console.print(f"reserved: transaction {entry['transaction']} for the publish id {shown(entry['publish_id'])}")
        console.print(f"  until {when(entry['expires'])}")
        for directory in entry["directories"]:
            console.print(f"  version directory {shown(directory['path'])}")
            console.print(f"  render into       {shown(directory['staging'])}")
        return
    gone = entry["owner_alive"] is False
    share = f", {entry['progress']:.0%}" if entry.get("progress") else ""
    console.print(
        f"unfinished: transaction {entry['transaction']} ({entry['state']}{share}) of project {shown(entry['project'])}"
    )
    console.print(f"  begun {when(entry['created'])}, {duration(time.time() - entry['created'])} ago, by {owner(entry['owner'])}")
    for directory in entry["directories"]:
        console.print(f"  version directory {shown(directory['path'])}")
        console.print(f"  staged in         {shown(directory['staging'])}")
    if entry["stuck"]:
        console.print(f"  stuck: {shown(entry['stuck']['reason'])}")
    if gone:
        console.print("  that process is gone")
    if gone or entry["stuck"]:
        console.print("  " + console.command_line(f"next: integrator recover {entry['transaction']}"))


def owner(found: dict[str, Any] | None) -> str:
    """Who it is, for people."""
    if not found:
        return "nobody"
    return shown(f"{found['user']} on {found['host']} (process {found['pid']}, {found['application']})")
