"""``integrator lease``: lists and breaks soft locks."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from integrator.cli.arguments import Once
from integrator.cli.console import duration, shown
from integrator.cli.status import owner
from integrator.errors import UsageError

if TYPE_CHECKING:
    from integrator.cli import Call
    from integrator.root import Reader, Root


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and to which one."""
    parser.usage = "integrator lease list\n       integrator lease break KEY --reason TEXT"
    parser.epilog = "A broken soft lock makes its holder lose when it wants to commit; nothing of it is published then."
    parser.add_argument("action", choices=("list", "break"))
    parser.add_argument("key", nargs="?", default="", metavar="KEY")
    parser.add_argument("--reason", action=Once, default="", metavar="TEXT", help="is recorded")


def run(call: Call) -> int:
    """List soft locks, or break one."""
    from integrator.root import open_reader, open_root

    arguments = call.arguments
    if arguments.action == "break" and not (arguments.key and arguments.reason.strip()):
        raise UsageError("a soft lock is broken by its key and with a reason", next="integrator lease break KEY --reason TEXT")
    if arguments.action == "list" and (arguments.key or arguments.reason):
        raise UsageError("lease list takes no key and no reason", next="integrator lease --help")
    if arguments.action == "list":
        with open_reader(call.root()) as reader:
            return _list(call, reader)
    with open_root(call.root(), application="integrator lease") as root:
        return _break(call, root)


def _list(call: Call, root: Reader) -> int:
    from integrator.queries import lease_list

    held = lease_list(root)
    call.console.answer({"leases": held})
    if not held:
        call.console.print("nobody holds a soft lock")
    else:
        rows = [
            (lease["key"], "broken" if lease["broken"] else lease["state"], f"{duration(time.time() - lease['renewed'])} ago",
             lease["transaction"], owner(lease["owner"]))
            for lease in held
        ]  # fmt: skip
        call.console.table(("SOFT LOCK", "STATE", "RENEWED", "TRANSACTION", "HOLDER"), rows)
    return 0


def _break(call: Call, root: Root) -> int:
    from integrator.queries import lease_break

    key, reason = call.arguments.key, call.arguments.reason
    lease_break(root, key, reason)
    call.console.answer({"broken": {"key": key, "reason": reason}})
    call.console.print(f"the soft lock on {shown(key)} is broken; its holder cannot publish any more")
    call.console.print(call.console.command_line("next: integrator recover, or publish again"))
    return 0
