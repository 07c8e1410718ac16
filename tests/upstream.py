"""Runs a nose suite in the working directory; with ``ours`` as the first argument our plugins are registered before it."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    ours = sys.argv.pop(1) == "ours"
    sys.path.insert(0, os.getcwd())
    if ours:
        import integrator_plugins
        import pyblish.api

        pyblish.api.register_plugin_path(os.path.dirname(integrator_plugins.__file__))
        assert "IntegrateCommit" in [plugin.__name__ for plugin in pyblish.api.discover()]
    import nose

    nose.main()
