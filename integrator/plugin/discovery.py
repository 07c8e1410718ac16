"""Plugins in the order of a publish: what may fail, the commit, and what comes after it."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
import os
from collections.abc import Collection
from typing import Any, Final

import pyblish.api
import pyblish.logic

from integrator.errors import IntegratorError
from integrator.plugin.bases import IntegrateCommit, TransactionalContextPlugin, TransactionalPlugin
from integrator.plugin.publication import find_publication, open_publication, remember_effects, remember_plugins, see_loop
from integrator.root import find_root, read_settings

#: From this order on a plugin runs after the commit, unless it says otherwise.
AFTER_COMMIT: Final = pyblish.api.IntegratorOrder + 1
_BASES: Final[dict[str, Any]] = {
    "TransactionalPlugin": TransactionalPlugin,
    "TransactionalContextPlugin": TransactionalContextPlugin,
}


def watch_loops() -> None:
    """Arrange plugins whenever pyblish discovers some, and know when a loop goes away; once is enough, twice does no harm."""
    if arrange not in pyblish.api.registered_discovery_filters():
        pyblish.api.register_discovery_filter(arrange)


def arrange(plugins: list[Any], late: Collection[str] | None = None) -> None:
    """Put discovered plugins into the order of a publish, in place; plugins without any of ours stay as they are.

    Base classes are left out. The commit comes just above every plugin that can still fail; `late` are the names of those that
    run after it, by default what the settings say. A plugin that raises anything rolls back what is open.
    """
    plugins[:] = [plugin for plugin in plugins if not _is_base(plugin)]
    # Files of a folder have no order of their own; what others build on comes first.
    plugins.sort(key=lambda plugin: (plugin.order, not is_shipped(plugin), plugin.__name__))
    ours = [
        plugin for plugin in plugins if issubclass(plugin, (TransactionalPlugin, TransactionalContextPlugin, IntegrateCommit))
    ]
    if not ours:
        return
    _watch_tests()
    for plugin in ours:
        remember_effects(getattr(plugin, "effects", {}))
    late = _late() if late is None else late
    commit = next((plugin for plugin in ours if issubclass(plugin, IntegrateCommit)), IntegrateCommit)
    others = [plugin for plugin in plugins if not issubclass(plugin, IntegrateCommit)]
    before = [_guarded(plugin) for plugin in others if not runs_after_commit(plugin, late)]
    order = math.nextafter(max(plugin.order for plugin in before), math.inf)
    after: list[Any] = []
    for plugin in others:
        if runs_after_commit(plugin, late):
            above = order if not after else after[-1].order
            after.append(plugin if plugin.order > above else _copied(plugin, order=math.nextafter(above, math.inf)))
    plugins[:] = [*before, _copied(commit, order=order), *after]
    remember_plugins(plugins)


@functools.cache
def shipped_folder() -> str:
    """Folder of the plugins that come with this program; none of them is imported by its name."""
    found = importlib.util.find_spec("integrator_plugins")
    assert found is not None, "this program is not installed"
    assert found.origin is not None
    return os.path.realpath(os.path.dirname(found.origin))


def is_shipped(plugin: Any) -> bool:
    """Whether a plugin is one of ours."""
    name = str(plugin.__module__)
    return name.startswith("integrator.plugin") or os.path.realpath(os.path.dirname(name)) == shipped_folder()


def runs_after_commit(plugin: Any, late: Collection[str]) -> bool:
    """Whether a plugin runs after the commit, where its failure changes nothing any more."""
    said = getattr(plugin, "after_commit", None)
    if said is None:
        return plugin.__name__ in late or plugin.order >= AFTER_COMMIT
    return bool(said)


def _is_base(plugin: Any) -> bool:
    base = _BASES.get(plugin.__name__)
    return base is not None and plugin.process is base.process and plugin.integrate is base.integrate


def _late() -> Collection[str]:
    try:
        return tuple(read_settings(find_root()).settings().after_commit)
    except IntegratorError:
        return ()


def _copied(plugin: Any, **changes: Any) -> Any:
    """A subclass that differs only in `changes`; pyblish hands out such copies, too."""
    facts = {"__module__": plugin.__module__, "__doc__": plugin.__doc__, "__qualname__": plugin.__qualname__}
    copy = type(plugin)(plugin.__name__, (plugin,), {**facts, **changes})
    copy._id = plugin._id
    copy.__pre11__ = plugin.__pre11__
    return copy


def _guarded(plugin: Any) -> Any:
    """A copy that rolls back what is open when it fails, also by something that pyblish does not catch."""
    process = plugin.process
    if issubclass(plugin, (TransactionalPlugin, TransactionalContextPlugin)) or not inspect.isfunction(process):
        return plugin

    def guarded(self: Any, *arguments: Any, **services: Any) -> Any:
        given = [*arguments, *services.values()]
        context = next((entry for entry in given if isinstance(entry, pyblish.api.Context)), None)
        instance = next((entry for entry in given if isinstance(entry, pyblish.api.Instance)), None)
        if context is None and instance is not None and instance.parent is not None:
            context = instance.context
        # Its services may be all that a plugin is given.
        publication = find_publication(context) if context is not None else open_publication()
        if publication is None:
            return process(self, *arguments, **services)
        with publication.guarding(plugin.__name__, instance.name if instance is not None else ""):
            return process(self, *arguments, **services)

    guarded.__signature__ = inspect.signature(process)  # type: ignore[attr-defined]
    guarded.__doc__ = process.__doc__
    return _copied(plugin, process=guarded)


# --- loops ------------------------------------------------------------------------------------------------------------


def _watch_tests() -> None:
    """Every loop of pyblish asks the registered test before each plugin, with a set that is its own: so it is known."""
    test = pyblish.logic.registered_test()
    if getattr(test, "sees_loops", False):
        return

    def seeing(**state: Any) -> Any:
        see_loop(state.get("ordersWithError"))
        return test(**state)

    seeing.sees_loops = True  # type: ignore[attr-defined]
    pyblish.logic.register_test(seeing)


__all__ = ["AFTER_COMMIT", "arrange", "runs_after_commit", "watch_loops"]
