"""A plugin that raises anything anywhere, in every loop: everything is as before, and the error that is seen is the first one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyblish.api
import pytest
from loops import LOOPS, gui, kept, ours, register, three_instances, util
from studio import Studio

from integrator.errors import IntegratorError
from integrator.plugin import TransactionalContextPlugin, TransactionalPlugin

#: Before, between, at and after each of our own plugins.
ORDERS = (-0.4, 0.0, 0.3, 0.9, 1.0, 1.03, 1.4, 1.6, 2.0, 2.9, 3.0, 3.005, 3.1, 3.499, 3.5, 3.9)
RAISED = (RuntimeError, KeyboardInterrupt, SystemExit)


class Raised(Exception):
    """What the plugins of this module raise."""


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    kept.clear()
    register()
    pyblish.api.deregister_all_paths()


def state(studio: Studio) -> tuple[object, object, object]:
    return studio.tree(), studio.documents(), studio.leftovers()


def failing(order: float, kind: Any, base: Any = pyblish.api.ContextPlugin, nth: int = 0) -> Any:
    """A plugin that raises when it is run for the n-th time."""
    runs: list[Any] = []

    class Fail(base):  # type: ignore[misc]
        def run(self, subject: Any) -> None:
            runs.append(subject)
            if len(runs) == nth + 1:
                raise kind("the first error")

        if issubclass(base, (TransactionalPlugin, TransactionalContextPlugin)):

            def integrate(self, subject: Any, transaction: Any) -> None:
                self.run(subject)

        elif issubclass(base, pyblish.api.InstancePlugin):

            def process(self, instance: Any) -> None:
                self.run(instance)

        else:

            def process(self, context: Any) -> None:
                self.run(context)

    Fail.order = order
    return Fail


class Louder(pyblish.api.ContextPlugin):
    """Comes after the one that failed, and fails because of it."""

    order = 3.95

    def process(self, context: Any) -> None:
        raise RuntimeError("a later error")


def outcome(loop: Any, studio: Studio, request: Any, *plugins: Any) -> BaseException:
    try:
        loop(studio, request, *plugins)
    except BaseException as error:
        return error
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", RAISED)
def test_whatever_a_plugin_raises_wherever_it_stands_everything_is_as_before(studio: Studio, loop: Any, kind: Any) -> None:
    before = state(studio)
    for order in ORDERS:
        error = outcome(loop, studio, three_instances(studio, f"job-{order}"), failing(order, kind), Louder)
        assert "the first error" in str(error) or isinstance(error, KeyboardInterrupt), order
        assert "a later error" not in str(error), order
        assert state(studio) == before, order


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize("base", [pyblish.api.InstancePlugin, TransactionalPlugin, TransactionalContextPlugin])
def test_the_same_for_each_of_three_instances_and_for_plugins_of_the_transaction(
    studio: Studio, loop: Any, kind: Any, base: Any
) -> None:
    before = state(studio)
    for order in (1.6, 3.0, 3.2, 3.9):
        for nth in range(1 if base is TransactionalContextPlugin else 3):
            error = outcome(loop, studio, three_instances(studio, f"job-{order}-{nth}"), failing(order, kind, base, nth), Louder)
            assert "the first error" in str(error) or isinstance(error, KeyboardInterrupt), (order, nth)
            assert state(studio) == before, (order, nth)


class Mute(Exception):
    """Fails while it says what it is."""

    def __str__(self) -> str:
        raise RuntimeError("the first error has no text")


@pytest.mark.parametrize("loop", LOOPS)
def test_an_error_that_cannot_be_told_rolls_back_as_any_other(studio: Studio, loop: Any) -> None:
    before = state(studio)
    for number, base in enumerate((pyblish.api.ContextPlugin, TransactionalPlugin)):
        outcome(loop, studio, three_instances(studio, f"job-{number}"), failing(3.2, lambda _: Mute(), base), Louder)
        assert state(studio) == before


@pytest.mark.parametrize("loop", LOOPS)
def test_after_any_failure_the_same_publish_id_publishes_the_next_number_once(studio: Studio, loop: Any) -> None:
    """Plugins at 3.499 and 3.5 that fail at the last moment, five times, then work."""
    for order, subset in ((3.499, "trackedEarly"), (3.5, "trackedLate")):
        request = studio.request(f"tracker-{order}")
        request["instances"] = [{**request["instances"][1], "subset": subset}]
        for _ in range(5):
            outcome(loop, studio, request, failing(order, RuntimeError))
            assert studio.versions(subset) == []
        loop(studio, request)
        assert studio.versions(subset) == [1]
        loop(studio, request)
        assert studio.versions(subset) == [1]
    assert studio.leftovers() == []


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", RAISED)
def test_a_plugin_after_the_commit_undoes_nothing(studio: Studio, loop: Any, kind: Any) -> None:
    request = three_instances(studio, f"late-{loop.__name__}-{kind.__name__}")
    late = failing(4.2, kind)
    if loop is ours:
        loop(studio, request, late)
    else:
        assert "the first error" in str(outcome(loop, studio, request, late))
    assert studio.versions("modelMain") == [1]
    assert studio.leftovers() == []


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", RAISED)
def test_a_plugin_that_is_given_nothing_of_the_context_is_guarded_too(studio: Studio, loop: Any, kind: Any) -> None:
    class Fail(pyblish.api.Plugin):  # type: ignore[misc]
        order = 3.2

        def process(self, user: str) -> None:
            raise kind("the first error")

    before = state(studio)
    error = outcome(loop, studio, three_instances(studio, "job"), Fail)
    assert "the first error" in str(error) or isinstance(error, KeyboardInterrupt)
    assert state(studio) == before


def test_the_matrix_would_see_a_plugin_that_nobody_guards(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail: without the guard around plugins of others, a lease and staging directories stay."""
    monkeypatch.setattr("integrator.plugin.discovery._guarded", lambda plugin: plugin)
    with pytest.raises(KeyboardInterrupt) as caught:
        util(studio, three_instances(studio, "job"), failing(3.2, KeyboardInterrupt))
    assert studio.leftovers() != []
    del caught


def test_files_of_all_three_are_published_in_every_loop(studio: Studio) -> None:
    for number, loop in enumerate(LOOPS, 1):
        loop(studio, three_instances(studio, f"job-{number}"))
        assert studio.versions("modelMain") == list(range(1, number + 1))
        assert studio.leftovers() == []


def test_the_folder_of_plugins_is_the_one_that_is_installed() -> None:
    import integrator_plugins
    from loops import PLUGINS

    assert os.path.samefile(os.path.dirname(integrator_plugins.__file__), PLUGINS)
    assert isinstance(PLUGINS, Path)


__all__ = ["IntegratorError", "gui"]
