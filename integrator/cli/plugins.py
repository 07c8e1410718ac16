"""``--plugin-path``: plugins of a studio on the command line, and what is said of them."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from integrator.cli.console import Console, shown
from integrator.errors import text_of
from integrator.wording import logged

if TYPE_CHECKING:
    from integrator.cli import Call
    from integrator.plugin.runner import Pipeline
    from integrator.root import Root


def add_plugin_path(group: argparse._ActionsContainer) -> None:
    """Folders of plugins; ``PYBLISHPLUGINPATH`` names more."""
    group.add_argument(
        "--plugin-path",
        action="append",
        metavar="DIR",
        help="a folder of pyblish plugins; may be given several times, PYBLISHPLUGINPATH names more",
    )


def load(call: Call, root: Root) -> Pipeline:
    """The plugins of a publish. Raises `UsageError` for what cannot be loaded."""
    from integrator.plugin import runner

    _keep_quiet()
    try:
        pipeline = runner.load(call.arguments.plugin_path or (), root.settings.after_commit)
    finally:
        call.interruptions.check()  # pyblish takes whatever is raised while a file is loaded for a fault of that file
    for plugin in (*pipeline.before, *pipeline.after):
        call.console.detail(f"plugin {plugin.order:g} {plugin.__name__} ({plugin.__module__})")
    return pipeline


def know_effects(call: Call, root: Root) -> None:
    """Make the effects of plugins known to recovery. Without plugins nothing is loaded. Raises `UsageError`."""
    named = call.arguments.plugin_path
    if named or os.environ.get("PYBLISHPLUGINPATH"):
        from integrator.plugin import runner

        _keep_quiet()
        try:
            with call.console.aside():
                root.engine.effects.update(runner.load_effects(named or ()))
        finally:
            call.interruptions.check()


def _keep_quiet() -> None:
    """What plugins log is told here; without any handler Python would print it, too, and pyblish logs every traceback."""
    logging.getLogger().addHandler(logging.NullHandler())


def tell(console: Console, result: Mapping[str, Any]) -> None:
    """Say what a plugin logged: warnings and errors always, the rest with ``-v``."""
    name = shown(result["plugin"].__name__)
    for record in result["records"]:
        message = f"{name}: {shown(logged(record))}"
        # An error that ends the publish is its answer; pyblish logs it, too.
        if record.levelno >= logging.WARNING and record.name != "pyblish.plugin":
            console.say(f"  {message}")
        else:
            console.detail(message)


def tell_late(console: Console, result: Mapping[str, Any]) -> None:
    """Warn of a plugin that failed after the commit."""
    if result["error"] is not None:
        error = shown(text_of(result["error"]) or type(result["error"]).__name__)
        console.say(
            f"integrator: it is published, but {shown(result['plugin'].__name__)}, which comes after that, failed: {error}"
        )
