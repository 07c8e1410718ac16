"""Killed at any instant, a publish is complete or absent after recovery.

The process dies before and after every call that changes the file system or the database: `integrator.testing.Fate` numbers the
calls, raises at one of them, and lets nothing take effect from then on.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studio import Studio, Tree

import integrator
from integrator import ledger
from integrator.errors import IntegratorError
from integrator.root import Root
from integrator.testing import Fate, Killed

Work = Callable[[Studio, Root], None]


def publish(studio: Studio, root: Root) -> None:
    integrator.publish(studio.request("job"), root)


def assemble(studio: Studio, root: Root) -> None:
    """Everything that has something to finish after the verdict."""
    own = Path(studio.folder, "moved.ma")
    if not own.exists():
        shutil.copy(f"{studio.sources}/cam.abc", own)
    with root.begin(project="demo", publish_id="job", author="anna") as assembly:
        version = assembly.new_version(asset="sh010", hierarchy="shots/sq01", subset="model", family="model")
        version.copy(f"{studio.sources}/cam.abc")
        Path(version.path, "sim.vdb").write_bytes(b"voxels")
        version.adopt("sim.vdb")
        version.move(str(own))
        assembly.insert("demo", {"type": "note", "text": "new"})
        assembly.replace_file(f"{root.path}/demo/edit.json", b"new")
        assembly.replace_file(f"{root.path}/demo/cut.json", b"made")


def fail(studio: Studio, root: Root) -> None:
    """A publish that is rolled back by its owner at the last moment."""
    with root.begin(project="demo", publish_id="job") as assembly:
        version = assembly.new_version(asset="sh020", subset="model", family="model")
        version.copy(f"{studio.sources}/cam.abc")
        assembly.replace_file(f"{root.path}/demo/edit.json", b"new")
        version.staging.write("unknown.txt", b"x")
        assembly.transaction._prepare()
        ledger.confirm(root.engine.database, assembly.transaction.document)
        assembly.transaction._reveal()
        raise RuntimeError("a later plugin fails")


def exchange(studio: Studio, root: Root) -> None:
    """Amends a version (one set of files grows, one shrinks, one is another), makes a new one; heroes and links follow both."""
    integrator.publish(exchange_request(studio, "job"), root)


def exchange_request(studio: Studio, publish_id: str, *, old: bool = False) -> dict[str, Any]:
    """What `exchange` publishes, or what it replaces."""
    shot = {"asset": "sh010", "hierarchy": "shots/sq01", "hero": True}
    wide, first = [f"{studio.sources}/{name}" for name in ("wide.obj", "cam.abc")]
    frames = f"{studio.sources}/beauty.%04d.exr"
    look = [
        {"name": "grows", "files": [frames], "frames": "1001-1003" if old else "1003-1005"},
        {"name": "shrinks", "files": [wide, first] if old else [first], "output": "set"},
        {"name": "differs", "files": [first if old else wide], "output": "other"},
        *([{"name": "stays", "files": [first], "output": "stays"}] if old else []),
    ]
    cache = [{"name": "exr", "files": [frames], "frames": "1001-1003" if old else "1006-1008"}]
    new = {"version": None} if old else {"amend": 1}
    instances = [
        {**shot, **new, "subset": "look", "family": "look", "representations": look},
        {**shot, "subset": "cache", "family": "cache", "representations": cache,
         "resources": [{"files": [first], "folder": "deep/er"}]},
    ]  # fmt: skip
    request = studio.request(publish_id)
    return {**request, "instances": instances, "comment": "again"}


def reveal_early(studio: Studio, root: Root) -> None:
    """A version gets its final name early; then more is added, something else is taken back, and it is published."""
    with root.begin(project="demo", publish_id="job", author="anna") as assembly:
        first = assembly.new_version(asset="sh010", hierarchy="shots/sq01", subset="model", family="model", hero=True)
        first.copy(f"{studio.sources}/cam.abc")
        assembly.reveal()
        assert Path(first.path, "demo_sh010_model_v001.abc").exists()
        point = assembly.savepoint()
        assembly.insert("demo", {"type": "note", "text": "taken back"})
        assembly.roll_back_to(point)
        second = assembly.new_version(asset="sh010", hierarchy="shots/sq01", subset="rig", family="rig")
        second.write("rig.ma", b"bones")
        assembly.insert("demo", {"type": "note", "text": "new"})
        assembly.replace_file(f"{root.path}/demo/edit.json", b"new")


def fail_after_an_early_reveal(studio: Studio, root: Root) -> None:
    """Somebody fails while the version is there already."""
    with root.begin(project="demo", publish_id="job") as assembly:
        version = assembly.new_version(asset="sh020", subset="model", family="model")
        version.copy(f"{studio.sources}/cam.abc")
        assembly.reveal()
        raise RuntimeError("a later plugin fails")


WORKS: list[Work] = [publish, assemble, exchange, reveal_early, fail_after_an_early_reveal, fail]


def prepare_files(studio: Studio) -> None:
    Path(studio.path, "demo/edit.json").write_bytes(b"old")


def prepare_exchange(studio: Studio) -> None:
    """Two subsets with their hero versions, and somebody's own file beside each."""
    Path(studio.sources, "wide.obj").write_bytes(b"v 0 0 0" * 50)
    with open(f"{studio.path}/.integrator/config.toml", "a") as config:
        config.write("latest_link = true\n")
    with studio.open() as root:
        integrator.publish(exchange_request(studio, "before", old=True), root)
    for hero in Path(studio.path).rglob("hero"):
        Path(hero, "notes.txt").write_text("somebody's own")


class Subject:
    """One kind of work, its old and its new state, and the calls that it makes."""

    def __init__(self, studio: Studio, work: Work) -> None:
        self.studio = studio.fresh("subject")
        self.work = work
        prepare_files(self.studio)
        if work is exchange:
            prepare_exchange(self.studio)
        self.old = (self.studio.tree(), self.studio.documents())
        done = self.studio.fresh("done")
        fate = Fate()
        with done.open(fate) as root, contextlib.suppress(RuntimeError):
            work(done, root)
        self.calls = list(fate.calls)
        self.new_tree = done.tree()
        self.new_count = len(done.documents())
        assert done.leftovers() == []

    def kill(self, number: int, when: str) -> tuple[Studio, bool]:
        """A studio in which the work was killed at a call, and whether it was acknowledged before."""
        run = self.studio.fresh("kill")
        acknowledged = False
        root = run.open(Fate(kill_at=number, when=when), owner=run.dead)  # type: ignore[arg-type]
        try:
            self.work(run, root)
            acknowledged = True
        except (Killed, RuntimeError, IntegratorError):
            pass
        finally:
            root.close()
        return run, acknowledged

    def outcome(self, run: Studio) -> str:
        """old or new; anything else is a failure that says what differs."""
        tree, documents = run.tree(), run.documents()
        if (tree, documents) == self.old:
            return "old"
        # What is written rather than copied gets the time of its run.
        assert _timeless(tree) == _timeless(self.new_tree), _difference(tree, self.old[0], self.new_tree)
        assert len(documents) == self.new_count
        return "new"


def _timeless(tree: Tree) -> Tree:
    return {name: (*entry[:3], *entry[4:]) for name, entry in tree.items()}


def _difference(tree: object, *others: object) -> str:
    assert isinstance(tree, dict)
    shown = []
    for other in others:
        assert isinstance(other, dict)
        shown.append(sorted(set(tree.items()) ^ set(other.items()))[:6])
    return f"neither old nor new: {shown}"


def _assert_settled(run: Studio) -> None:
    assert run.leftovers() == []
    again = Fate()
    run.recover(again)
    assert again.calls == [], "a second recovery must change nothing"


@pytest.mark.parametrize("work", WORKS)
def test_killed_before_or_after_any_call_it_is_complete_or_absent(studio: Studio, work: Work) -> None:
    subject = Subject(studio, work)
    outcomes = {"old": 0, "new": 0}
    for number in range(1, len(subject.calls) + 1):
        for when in ("before", "after"):
            run, acknowledged = subject.kill(number, when)
            run.recover()
            outcome = subject.outcome(run)
            outcomes[outcome] += 1
            assert outcome == "new" or not acknowledged
            _assert_settled(run)
            run.remove()
    print(f"\n{work.__name__}: killed at {2 * len(subject.calls)} points of {len(subject.calls)} calls: {outcomes}")
    assert outcomes["old"] > 0


def test_killed_before_the_verdict_it_is_absent_and_after_it_complete(studio: Studio) -> None:
    subject = Subject(studio, publish)
    [verdict] = [number for number, text in enumerate(subject.calls, 1) if "state=finished" in text]
    for number, when, expected in ((verdict, "before", "old"), (verdict, "after", "new"), (verdict + 1, "before", "new")):
        run, _ = subject.kill(number, when)
        run.recover()
        assert subject.outcome(run) == expected


@pytest.mark.parametrize("work", [publish, assemble, exchange])
def test_recovery_killed_anywhere_converges_in_the_next_run(studio: Studio, work: Work) -> None:
    """Depth two: a sample of kills of the work, and every kill of the recovery after each."""
    subject = Subject(studio, work)
    points = 0
    for number in range(2, len(subject.calls) + 1, 23 if work is exchange else 9):
        whole = Fate()
        subject.kill(number, "before")[0].recover(whole)
        for call in range(1, len(whole.calls) + 1):
            for when in ("before", "after"):
                run, _ = subject.kill(number, "before")
                with pytest.raises(Killed):
                    run.recover(Fate(kill_at=call, when=when), owner=run.dead)  # type: ignore[arg-type]
                run.recover()
                subject.outcome(run)
                _assert_settled(run)
                run.remove()
                points += 1
    print(f"\n{work.__name__}: recovery killed at {points} points")
    assert points > 50


def test_a_retry_after_any_kill_gets_the_same_number(studio: Studio) -> None:
    subject = Subject(studio, publish)
    for number in range(1, len(subject.calls) + 1, 3):
        run, _ = subject.kill(number, "after")
        with run.open() as root:
            result = integrator.publish(run.request("job"), root)
        assert [version.version for version in result.versions] == [2, 2]
        assert subject.outcome(run) == "new"
        run.recover()  # a journal whose transaction had ended before the kill is archived by recovery, not by a retry
        _assert_settled(run)
        run.remove()
