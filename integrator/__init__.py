"""integrator: publishes of visual effects and animation that are complete or absent."""

from __future__ import annotations

import sys

# No module that takes long, not even `typing`: until `integrator.__main__` has taken signals over, each ends in a traceback.
TYPE_CHECKING = False

__version__ = "0.1.0"
__all__ = ["PublishRequest", "__version__", "create_root", "open_reader", "open_root", "publish"]

if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from integrator.publish import publish
    from integrator.request import PublishRequest
    from integrator.root import create_root, open_reader, open_root
else:
    ModuleType = type(sys)

_HOMES = {
    "publish": "integrator.publish",
    "PublishRequest": "integrator.request",
    "create_root": "integrator.root",
    "open_reader": "integrator.root",
    "open_root": "integrator.root",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: `integrator --help` and readers must not pay for what only a publish needs.
    if name not in _HOMES:
        raise AttributeError(f"module 'integrator' has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the module `integrator.publish` must not hide the function of that name.
        if name != "publish" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
