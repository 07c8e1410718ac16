"""``integrator versions``: what is published."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from integrator.cli.console import shown

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which ones."""
    parser.add_argument("project", metavar="PROJECT")
    parser.add_argument("asset", nargs="?", default="", metavar="ASSET")
    parser.add_argument("subset", nargs="?", default="", metavar="SUBSET")
    parser.add_argument("--latest", action="store_true", help="only the highest version of each subset")


def run(call: Call) -> int:
    """Print the published versions."""
    from integrator.queries import versions
    from integrator.root import open_root

    arguments = call.arguments
    with open_root(call.root()) as root:
        found = versions(root, arguments.project, arguments.asset, arguments.subset, latest=arguments.latest)
    call.console.answer({"versions": found})
    if not found:
        call.console.print(f"nothing is published there in project {shown(arguments.project)}")
    else:
        rows = [(e["asset"], e["subset"], f"v{e['version']:03d}", e["author"], e["time"], e["comment"], e["path"]) for e in found]
        call.console.table(("ASSET", "SUBSET", "VERSION", "AUTHOR", "TIME", "COMMENT", "PATH"), rows)
    return 0
