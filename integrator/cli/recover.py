"""``integrator recover``: settles what crashed or was killed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from integrator.cli.console import Console, shown
from integrator.cli.plugins import add_plugin_path, know_effects

if TYPE_CHECKING:
    from integrator.cli import Call
    from integrator.recovery import Settled

_WORDS: Final = {
    "rolled_back": "rolled back: everything is as before it began",
    "finished": "finished: it is published completely",
    "in_doubt": "in doubt: how it ended cannot be found out now; nothing was removed",
    "stuck": "stuck: it needs help; nothing that may be wanted was removed",
    "alive": "left alone",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One transaction, or all."""
    parser.epilog = (
        "Safe at any time: what still runs is left alone. Exit 6 if something is in doubt or stuck, 4 if TXID still runs."
    )
    parser.add_argument("transaction", nargs="?", metavar="TXID", help="default: everything whose owner is gone")
    add_plugin_path(parser)


def run(call: Call) -> int:
    """Settle one transaction, or all whose owner is gone."""
    from integrator import queries, recovery
    from integrator.root import open_root

    transaction = call.arguments.transaction
    with open_root(call.root(), application="integrator recover") as root:
        know_effects(call, root)
        if transaction:
            queries.show(root, transaction)  # refused if nobody knows it
            settled = [recovery.settle(root.engine, transaction)]
        else:
            settled = recovery.recover(root.engine)
    return answer(call.console, settled, named=bool(transaction))


def answer(console: Console, settled: Sequence[Settled], *, named: bool) -> int:
    """Give the answer; returns the exit code."""
    console.answer({"settled": [{"transaction": entry.transaction, "outcome": entry.outcome} for entry in settled]})
    if not settled:
        console.print("nothing to recover")
    for entry in settled:
        console.print(f"{entry.transaction}  {_WORDS[entry.outcome]}")
        if entry.message:
            console.say(f"  {shown(entry.message)}")
        if entry.next:
            console.say(f"  next: {shown(console.command_line(entry.next))}")
    outcomes = {entry.outcome for entry in settled}
    if outcomes & {"in_doubt", "stuck"}:
        return 6
    return 4 if named and "alive" in outcomes else 0
