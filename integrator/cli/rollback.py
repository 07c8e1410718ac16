"""``integrator rollback``: rolls back one transaction whose owner is gone, even if its journal is damaged."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from integrator.cli.plugins import add_plugin_path, know_effects
from integrator.cli.recover import answer
from integrator.errors import UsageError

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The transaction."""
    parser.epilog = (
        "For a transaction that `integrator recover` calls stuck because its journal is damaged: then only its staging\n"
        "directories are removed, and what stands at a final path stays."
    )
    parser.add_argument("transaction", metavar="TXID")
    add_plugin_path(parser)


def run(call: Call) -> int:
    """Roll one transaction back."""
    from integrator import queries, recovery
    from integrator.model import State
    from integrator.recovery import Settled
    from integrator.root import open_root

    transaction = call.arguments.transaction
    with open_root(call.root(), application="integrator rollback") as root:
        know_effects(call, root)
        state = State(queries.show(root, transaction)["state"])
        if state in (State.COMMITTED, State.FINISHED):
            following = f"integrator recover {transaction}" if state is State.COMMITTED else f"integrator show {transaction}"
            raise UsageError(f"{transaction} is published, and that is never rolled back. Nothing was touched", next=following)
        if state is State.ROLLED_BACK:
            settled = Settled(transaction=transaction, outcome="rolled_back")
        else:
            settled = recovery.roll_back(root.engine, transaction)
    return answer(call.console, [settled], named=True)
