"""``integrator release``: give a reservation back."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from integrator.cli.recover import answer

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The publish id."""
    parser.epilog = "Its number is free again. What was rendered into its staging directory is kept for a while (keep_failed)."
    parser.add_argument("publish_id", metavar="ID", help="the publish id that something is reserved for")


def run(call: Call) -> int:
    """Release a reservation."""
    from integrator.reservation import release
    from integrator.root import open_root

    with open_root(call.root(), application="integrator release") as root:
        settled = release(call.arguments.publish_id, root)
    return answer(call.console, [settled], named=True)
