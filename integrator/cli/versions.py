"""``integrator versions``: what is published."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from integrator.cli.arguments import Once
from integrator.cli.console import shown

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which ones."""
    parser.add_argument("project", metavar="PROJECT")
    parser.add_argument("asset", nargs="?", default="", metavar="ASSET")
    parser.add_argument("subset", nargs="?", default="", metavar="SUBSET")
    parser.add_argument("--latest", action="store_true", help="only the highest published version of each subset")
    parser.add_argument("--hierarchy", action=Once, metavar="H", help="only assets below these folders, such as shots/sq01")


def run(call: Call) -> int:
    """Print the published versions, and the foreign ones among them."""
    from integrator.queries import versions
    from integrator.root import open_reader

    asked = call.arguments
    with open_reader(call.root()) as root:
        found = versions(root, asked.project, asked.asset, asked.subset, latest=asked.latest, hierarchy=asked.hierarchy)
    call.console.answer({"versions": found})
    if not found:
        call.console.print(f"nothing is published there in project {shown(asked.project)}")
    else:
        rows = ((e["asset"], e["subset"], f"v{e['version']:03d}", e["author"], e["time"], _remark(e), e["path"]) for e in found)
        call.console.table(("ASSET", "SUBSET", "VERSION", "AUTHOR", "TIME", "COMMENT", "PATH"), rows)
    return 0


def _remark(entry: dict[str, object]) -> object:
    return "(foreign: no publish made it)" if entry.get("foreign") else entry["comment"]
