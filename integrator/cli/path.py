"""``integrator path``: where a published version is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from integrator.cli.arguments import Once
from integrator.cli.console import shown

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which version, and which part of it."""
    parser.add_argument("project", metavar="PROJECT")
    parser.add_argument("asset", metavar="ASSET")
    parser.add_argument("subset", metavar="SUBSET")
    parser.add_argument("version", nargs="?", default="latest", metavar="N|latest|hero", help="default: latest")
    parser.add_argument("--hierarchy", action=Once, metavar="H", help="folders above the asset, such as shots/sq01")
    parser.add_argument("--representation", action=Once, metavar="NAME", help="print the files of this representation")


def run(call: Call) -> int:
    """Print the absolute path of the version directory, or those of the files of a representation."""
    from integrator.errors import NotPublished
    from integrator.root import open_reader

    asked = call.arguments
    with open_reader(call.root()) as root:
        found = root.resolve(asked.project, asked.asset, asked.subset, asked.version, hierarchy=asked.hierarchy)
    answer = found.document()
    if asked.representation is None:
        lines = [found.path]
    else:
        chosen = [entry for entry in found.representations if entry.name == asked.representation]
        if not chosen:
            there = ", ".join(entry.name for entry in found.representations) or "none"
            raise NotPublished(f"v{found.version:03d} has no representation {asked.representation}; it has: {there}")
        lines = list(chosen[0].files)
        answer["representations"] = [entry for entry in answer["representations"] if entry["name"] == asked.representation]
    call.console.answer(answer)
    call.console.print("\n".join(map(shown, lines)))
    return 0
