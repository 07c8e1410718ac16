"""``integrator reserve``: promise a version number, final paths and a staging directory to a publish id."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from integrator.cli.arguments import Once, age
from integrator.cli.console import shown
from integrator.cli.publish import read_request

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A request, the id that it is for, and how long."""
    parser.epilog = (
        "The request is that of the later publish; its files need not exist yet. Files that are rendered into the staging "
        "directory, under the names that are printed, are written {staging}/name in its files, and are not copied again."
    )
    parser.add_argument("request", metavar="REQUEST.json", help="the request ('-': standard input)")
    parser.add_argument("--publish-id", action=Once, metavar="ID", help="the publish that it is for (default: as in the request)")
    parser.add_argument("--for", action=Once, dest="duration", metavar="AGE", type=age, default=7 * 86400.0,
                        help="how long it is kept, as 7d or 12h (default: 7d)")  # fmt: skip


def run(call: Call) -> int:
    """Reserve, and say what is promised."""
    import attrs

    from integrator.request import parse_request
    from integrator.reservation import reserve
    from integrator.root import open_root

    with open_root(call.root(), application="integrator reserve") as root:
        request = parse_request(read_request(call.arguments.request, call.console), root.policy)
        if call.arguments.publish_id is not None:
            request = parse_request(attrs.evolve(request, publish_id=call.arguments.publish_id), root.policy)
        reservation = reserve(request, root, seconds=call.arguments.duration)
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(reservation.expires))
    for version in reservation.versions:
        asset = f"{shown(version.project)} / {shown(version.asset)}"
        name = f"{shown(version.subset)} v{version.version:03d} ({shown(version.family)})"
        call.console.print(f"reserved until {until}: {name} of {asset}")
        call.console.print(f"  {shown(version.path)}")
        call.console.print(f"  render into  {shown(version.staging)}")
        for entry in version.representations:
            call.console.print(f"  {shown(entry['name']):<8} {shown(entry['staged'][0].rpartition('/')[2])}")
    call.console.print(f"publish id {shown(reservation.publish_id)}; transaction {reservation.transaction}")
    call.console.answer(reservation.document())
    return 0
