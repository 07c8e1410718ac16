"""Drives the controller of pyblish-lite, in a real event loop of Qt without a screen.

``python lite.py FOLDER ACTION...``: FOLDER is that of a studio; an ACTION is ``reset``, ``publish``, ``validate`` or
``publish-until:PLUGIN``, which stops as the Stop button does. Prints one JSON document: what `integrator` answered last, and the
errors that the user was shown.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from typing import Any

os.environ["QT_QPA_PLATFORM"] = "offscreen"

# The package itself loads its window, whose fonts do not fit Python 3.10; controller and event loop are what is wanted.
_found = importlib.util.find_spec("pyblish_lite")
assert _found is not None
assert _found.submodule_search_locations is not None
_package = types.ModuleType("pyblish_lite")
_package.__path__ = list(_found.submodule_search_locations)
sys.modules["pyblish_lite"] = _package

import pyblish.api  # noqa: E402
from loops import register, three_instances  # noqa: E402
from pyblish_lite import util as lite_util  # noqa: E402
from pyblish_lite.control import Controller  # noqa: E402
from pyblish_lite.vendor.Qt import QtCore  # noqa: E402
from studio import Studio  # noqa: E402

# Qt wants whole milliseconds here; and nobody looks at the animation.
lite_util.defer = lambda delay, function: QtCore.QTimer.singleShot(int(delay / 10), function)


class Failing(pyblish.api.InstancePlugin):
    """Fails for the second instance if the environment says so."""

    order = float(os.environ.get("LITE_FAILS_AT", "3.499"))
    families = ["camera"] if "LITE_FAILS_AT" in os.environ else ["nobody"]

    def process(self, instance: Any) -> None:
        raise RuntimeError("certificate has expired")


class Collect(pyblish.api.ContextPlugin):
    """What a host has in its scene."""

    order = -0.4

    def process(self, context: Any) -> None:
        context.data.update(publishRoot=studio.path, publishRequest=three_instances(studio, os.environ["LITE_PUBLISH_ID"]))


def act(controller: Any, action: str) -> None:
    """Do what a button does, and let the event loop run until it is done."""
    name, _, until = action.partition(":")
    loop = QtCore.QEventLoop()
    controller.was_finished.connect(loop.quit)

    def stop(result: Any) -> None:
        if result["plugin"].__name__ == until:
            controller.is_running = False

    if until:
        controller.was_processed.connect(stop)
    getattr(controller, name.partition("-")[0])()
    loop.exec_()
    controller.was_finished.disconnect(loop.quit)
    if until:
        controller.was_processed.disconnect(stop)


if __name__ == "__main__":
    studio = object.__new__(Studio)
    studio.__dict__.update(json.loads(sys.argv[1]))
    application = QtCore.QCoreApplication([])
    register(Collect, Failing)
    controller = Controller()
    errors: list[str] = []
    controller.was_processed.connect(lambda result: errors.append(str(result["error"])) if result["error"] else None)
    for action in sys.argv[2:]:
        act(controller, action)
    print(json.dumps({"answer": controller.context.data.get("publishResult"), "errors": errors}))
