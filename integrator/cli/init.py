"""``integrator init``: makes a publish root."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from integrator.cli.arguments import Once, pairs
from integrator.cli.console import shown
from integrator.errors import UsageError
from integrator.model import from_here

if TYPE_CHECKING:
    from integrator.cli import Call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """ROOT and what its configuration starts with."""
    parser.epilog = "Run again on a publish root, it completes what a killed one left and changes nothing else."
    parser.add_argument("path", nargs="?", metavar="ROOT", help="folder that holds, or will hold, the projects")
    parser.add_argument("--database", action=Once, default="", metavar="URL", help="default: an embedded one in the root")
    parser.add_argument("--state", action=Once, default="", metavar="DIR", help="settings, journals, database there, not in ROOT")
    parser.add_argument("--shared", action="store_true", help="everybody in a group publishes, recovers and sweeps here")
    parser.add_argument("--group", action=Once, default="", metavar="GROUP", help="the group that shares the root")
    parser.add_argument("--template", action="append", default=[], metavar="NAME=VALUE", help="folder, file, or a link of theirs")


def run(call: Call) -> int:
    """Make the root, or open it if it is one already."""
    from integrator.root import create_root
    from integrator.state_folder import is_root

    arguments = call.arguments
    if bool(arguments.path) == bool(arguments.root):
        raise UsageError("name one folder to make a publish root of", next="integrator init ROOT")
    path = os.path.abspath(from_here(arguments.path or arguments.root))
    existed = is_root(path)
    templates = pairs("--template", arguments.template)
    try:
        with create_root(
            path,
            database=arguments.database,
            templates=templates,
            shared=arguments.shared,
            group=arguments.group,
            state=arguments.state,
        ) as root:
            settings = os.path.join(root.state, "config.toml")
    except OSError as error:
        raise UsageError(
            f"{path} cannot become a publish root: {error.strerror}", next="name a folder that can be made or written"
        ) from error
    call.console.print(f"{shown(path)} {'is a publish root already' if existed else 'is a publish root now'}")
    if not existed:
        call.console.print(f"settings: {shown(settings)}")
    call.console.answer({"root": path, "created": not existed})
    return 0
