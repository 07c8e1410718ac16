"""``integrator resume``: go on with a publish that failed or was killed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from integrator.cli.arguments import Once, count
from integrator.cli.plugins import add_plugin_path
from integrator.cli.publish import add_retry_options, carry_out, opened
from integrator.cli.reports import add_report_option
from integrator.errors import UsageError

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The transaction, and how long to wait."""
    parser.epilog = (
        "Settles what the attempt left, then publishes its request again under the same publish id. Files that it had copied "
        "completely are taken over instead of being copied again."
    )
    parser.add_argument("transaction", metavar="TXID", help="the attempt (integrator status, or integrator history)")
    add_retry_options(parser.add_argument_group("waiting and trying"))
    add_plugin_path(parser)
    add_report_option(parser)
    parser.add_argument("--workers", action=Once, metavar="N", type=count, help="threads that copy")


def run(call: Call) -> int:
    """Publish the request of an earlier attempt again."""
    from integrator.queries import show
    from integrator.request import parse_request

    call.arguments.dry_run = False
    with opened(call) as root:
        document = show(root, call.arguments.transaction)
        if not document.get("request"):
            if document["state"] == "reserved":
                raise UsageError("it is only reserved: publish its request under its publish id", next="integrator status")
            raise UsageError(
                "its request was not kept: it was put together by a program, or lists too many files",
                next="run that program, or publish the request, again under the same publish id; what was left is taken over",
            )
        publish_id = document.get("amends") or document.get("publish_id") or document.get("former_publish_id")
        if document.get("amends"):  # what was published under that id; the attempt had an id of its own
            call.arguments.on_changed = "amend"
        request = parse_request({**document["request"], "publish_id": publish_id}, root.policy)
        return carry_out(call, root, request, on_farm=False)
