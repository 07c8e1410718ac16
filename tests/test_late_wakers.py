"""An actor that sleeps at any instant, is overtaken, and wakes up later hurts nobody.

At one of its calls the actor is stopped: a hook runs, within the same call, what the others do meanwhile, from taking the
transaction over to publishing the same version number again; then the actor goes on as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from studio import Studio
from test_crash import WORKS, Subject, Work, assemble, exchange, exchange_request, publish, reveal_early

import integrator
from integrator.errors import IntegratorError
from integrator.recovery import recover
from integrator.root import Root
from integrator.testing import Fate, Killed

#: Seconds that an actor sleeps: longer than any lease.
LONG = 10_000.0


def hours_later(run: Studio, number: int = 1) -> Root:
    """The root as somebody opens it after the sleeper's lease has expired."""
    root = run.open()
    root.engine.database._clock = lambda: time.time() + number * LONG  # type: ignore[attr-defined]
    return root


def settle(run: Studio, number: int = 1) -> None:
    """Somebody takes over whatever is unfinished, and ends it."""
    with hours_later(run, number) as root:
        assert all(settled.outcome in ("rolled_back", "finished") for settled in recover(root.engine))


def publish_next(run: Studio, work: Work, publish_id: str) -> None:
    """The next publisher publishes to the end, usually under the number that was given back."""
    with run.open() as root:
        if work is publish:
            integrator.publish(run.request(publish_id), root)
            return
        if work is exchange:
            integrator.publish(exchange_request(run, publish_id), root)
            return
        asset = "sh010" if work in (assemble, reveal_early) else "sh020"
        with root.begin(project="demo", publish_id=publish_id) as assembly:
            place = {"hierarchy": "shots/sq01"} if work in (assemble, reveal_early) else {}
            version = assembly.new_version(asset=asset, subset="model", family="model", **place)
            version.write("next.ma", b"the next publisher's")
            assembly.replace_file(f"{root.path}/demo/edit.json", b"the next publisher's")


class Overtaking:
    """A hook that lets others act once, at call `number`, and remembers what they left."""

    def __init__(self, run: Studio, number: int, others: Callable[[], None]) -> None:
        self._run = run
        self._number = number
        self._others = others
        self.seen: tuple[object, object] | None = None

    def __call__(self, number: int, call: str) -> None:
        if number == self._number:
            self._others()
            self.seen = (self._run.tree(), self._run.documents())


def _end(root: Root, run: Studio, work: Work) -> None:
    """The sleeper goes on to its end, whatever that is."""
    try:
        with contextlib.suppress(IntegratorError, RuntimeError, OSError):
            work(run, root)
    finally:
        root.close()


def _assert_unharmed(run: Studio, overtaking: Overtaking, call: str) -> None:
    assert overtaking.seen is not None, call
    tree, documents = overtaking.seen
    run.recover()
    assert run.documents() == documents, call
    now = run.tree()
    assert isinstance(tree, dict)
    sleeping = {name for name in tree if ".tmp." in name}
    assert now == {name: entry for name, entry in tree.items() if name not in sleeping}, call
    assert run.leftovers() == [], call


@pytest.mark.parametrize("next_publisher", [True, False])
@pytest.mark.parametrize("work", WORKS)
def test_an_owner_that_is_overtaken_at_any_call_hurts_nobody(studio: Studio, work: Work, next_publisher: bool) -> None:
    """Owner asleep; somebody settles; perhaps the next publisher publishes to the end; the owner wakes."""
    subject = Subject(studio, work)
    for number, call in enumerate(subject.calls, 1):
        if number == 1:
            continue  # nothing was begun yet
        run = subject.studio.fresh("late")

        def others(run: Studio = run) -> None:
            settle(run)
            if next_publisher:
                publish_next(run, work, "other")

        overtaking = Overtaking(run, number, others)
        root = run.open(Fate(hook=overtaking))
        _end(root, run, work)
        _assert_unharmed(run, overtaking, call)
        run.remove()
    print(f"\n{work.__name__}: owner overtaken at {len(subject.calls) - 1} calls")


@pytest.mark.parametrize("work", WORKS)
def test_a_recoverer_that_is_overtaken_at_any_call_hurts_nobody(studio: Studio, work: Work) -> None:
    """Owner killed; first recoverer asleep; a second one settles; the next publisher publishes; the first one wakes."""
    subject = Subject(studio, work)
    points = 0
    for killed in range(3, len(subject.calls) + 1, 17 if work is exchange else 6):
        whole = Fate()
        subject.kill(killed, "before")[0].recover(whole)
        for number in range(2, len(whole.calls) + 1):
            run, _ = subject.kill(killed, "before")

            def others(run: Studio = run) -> None:
                settle(run)
                publish_next(run, work, "other")

            overtaking = Overtaking(run, number, others)
            run.recover(Fate(hook=overtaking))
            _assert_unharmed(run, overtaking, f"killed at {subject.calls[killed - 1]}, asleep at {whole.calls[number - 1]}")
            run.remove()
            points += 1
    print(f"\n{work.__name__}: recoverer overtaken at {points} points")
    assert points > 20


@pytest.mark.parametrize("work", [publish, assemble, exchange])
def test_three_actors_asleep_at_once_hurt_nobody(studio: Studio, work: Work) -> None:
    """Owner asleep, a recoverer of it killed, a second recoverer asleep, a third one settles; all wake in turn."""
    subject = Subject(studio, work)
    points = 0
    for number in range(4, len(subject.calls) + 1, 7):
        for depth in range(2, 14, 3):
            run = subject.studio.fresh("three")
            inner: list[Overtaking] = []

            def others(run: Studio = run, depth: int = depth, inner: list[Overtaking] = inner) -> None:
                with contextlib.suppress(Killed), _later(run, Fate(kill_at=depth, when="after"), 1, run.dead) as root:
                    recover(root.engine)

                def third() -> None:
                    settle(run, 3)
                    publish_next(run, work, "other")

                inner.append(Overtaking(run, depth, third))
                with _later(run, Fate(hook=inner[0]), 2, None) as root:
                    recover(root.engine)
                if inner[0].seen is None:
                    settle(run, 3)
                    publish_next(run, work, "other")

            overtaking = Overtaking(run, number, others)
            root = run.open(Fate(hook=overtaking))
            _end(root, run, work)
            _assert_unharmed(run, overtaking, f"{subject.calls[number - 1]}, {depth}")
            run.remove()
            points += 1
    print(f"\n{work.__name__}: three actors asleep at {points} points")


@contextlib.contextmanager
def _later(run: Studio, fate: Fate, number: int, owner: object):  # type: ignore[no-untyped-def]
    root = run.open(fate, owner=owner)  # type: ignore[arg-type]
    root.engine.database.database._clock = lambda: time.time() + number * LONG  # type: ignore[attr-defined]
    try:
        yield root
    finally:
        root.close()


def test_an_owner_that_was_overtaken_says_so_and_keeps_to_its_own(studio: Studio) -> None:
    """The loser's answer is exit 5, and names who took over."""
    fate = Fate()
    with studio.fresh("count").open(fate) as root:
        integrator.publish(studio.request("job"), root)
    reveal = next(number for number, call in enumerate(fate.calls, 1) if call.startswith("rename") and call.endswith("'v002')"))
    overtaking = Overtaking(studio, reveal, lambda: settle(studio))
    root = studio.open(Fate(hook=overtaking))
    with pytest.raises(IntegratorError) as caught:
        integrator.publish(studio.request("job"), root)
    root.close()
    assert caught.value.exit_code == 5
    assert "taken over" in caught.value.message
    assert studio.leftovers() == []


def test_a_lease_that_expired_but_was_taken_by_nobody_is_still_its_holders(studio: Studio) -> None:
    """The verdict asks for the token, not for the time."""
    root = studio.open()
    times = iter(range(1, 1000))
    root.engine.database._clock = lambda: time.time() + next(times) * LONG  # type: ignore[attr-defined]
    assert integrator.publish(studio.request("job"), root).outcome == "published"
    root.close()
    assert Path(studio.path, "demo/shots/sq01/sh010/publish/render/renderBeauty/v002").is_dir()
