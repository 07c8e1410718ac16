"""Three ways to run a pyblish pipeline: `integrator publish`, `pyblish.util.publish`, and a GUI that runs plugin after plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyblish.api
import pyblish.logic
import pyblish.plugin
import pyblish.util
from studio import Studio

from integrator.attempt import Terms
from integrator.plugin import runner
from integrator.request import parse_request

PLUGINS = Path(__file__).parent.parent / "plugins"


def three_instances(studio: Studio, publish_id: str) -> dict[str, Any]:
    """A request with three publish instances."""
    request = studio.request(publish_id)
    camera = request["instances"][1]
    model = [{"name": "abc", "files": [f"{studio.sources}/cam.abc"], "transfer": "hardlink"}]
    request["instances"].append({**camera, "subset": "modelMain", "family": "model", "representations": model, "resources": []})
    return request


def register(*plugins: Any) -> None:
    """Only our plugins, and these."""
    pyblish.api.deregister_all_paths()
    pyblish.api.deregister_all_plugins()
    pyblish.api.register_plugin_path(str(PLUGINS))
    for plugin in plugins:
        pyblish.api.register_plugin(plugin)


def context_of(studio: Studio, request: dict[str, Any]) -> Any:
    context = pyblish.api.Context()
    context.data.update(publishRoot=studio.path, publishRequest=request)
    return context


def ours(studio: Studio, request: dict[str, Any], *plugins: Any) -> None:
    """The loop of `integrator publish`; raises what its user sees."""
    register(*plugins)
    with studio.open() as root:
        runner.run(parse_request(request, root.policy), root, runner.load([]), Terms())


def util(studio: Studio, request: dict[str, Any], *plugins: Any) -> None:
    """`pyblish.util.publish` with a context that its caller keeps; raises the first error that it shows."""
    register(*plugins)
    context = context_of(studio, request)
    kept.append(context)
    pyblish.util.publish(context)
    raise_first(context)


def gui(studio: Studio, request: dict[str, Any], *plugins: Any) -> None:
    """As pyblish-lite: it keeps state and context, fetches a pair, and runs one plugin for each turn of its event loop."""
    register(*plugins)
    window = Gui(context_of(studio, request))
    kept.append(window)
    for _ in window.turns():
        pass
    raise_first(window.context)


#: What callers keep; nothing may wait for it to be collected.
kept: list[Any] = []


class Gui:
    """The part of a GUI that drives plugins."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.plugins = pyblish.api.discover()
        self.processing: dict[str, Any] = {"nextOrder": None, "ordersWithError": set()}

    def turns(self) -> Iterator[str]:
        """Name of each plugin, after it was run."""
        test = pyblish.logic.registered_test()
        for plugin, instance in pyblish.logic.Iterator(self.plugins, self.context):
            self.processing["nextOrder"] = plugin.order
            if test(**self.processing):
                return
            result = pyblish.plugin.process(plugin, self.context, instance)
            if result["error"] is not None:
                self.processing["ordersWithError"].add(plugin.order)
            yield plugin.__name__


def raise_first(context: Any) -> None:
    for result in context.data["results"]:
        if result["error"] is not None:
            raise result["error"]


LOOPS = (ours, util, gui)
