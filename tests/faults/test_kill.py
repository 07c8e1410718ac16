"""Killed before and after any changing call, file system and database alike, a publish is complete or absent after recovery."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from faults.harness import (
    ASSEMBLE,
    EXCHANGE,
    PUBLISH,
    REFUSED,
    SOURCE_CHANGES,
    Ending,
    Run,
    Studio,
    Subject,
    Work,
    assert_settled,
    find,
    points,
    sample,
    timeless,
    told,
)
from integrator.database import CLAIMS, Insert

KILLED = Ending(signal=signal.SIGKILL)
pytestmark = pytest.mark.timeout(3000)


def kill(subject: Subject, number: int, when: str) -> tuple[Run, Ending]:
    """A run whose work was killed at a call."""
    run = subject.fresh()
    job = subject.work.start(run, f"kill-{when}:{number}")
    return run, job.wait()


def kill_at_each(subject: Subject, count: int) -> Counter[str]:
    """Kill at every point, or a sample; the outcomes."""
    outcomes: Counter[str] = Counter()
    for call, when in subject.points(count):
        run, ending = kill(subject, call.number, when)
        assert ending == KILLED, f"{when} {call}"
        run.recover()
        try:
            outcome = subject.outcome(run)
            assert_settled(run)
        except AssertionError as error:
            raise AssertionError(f"killed {when} {call}: {error}") from error
        outcomes[outcome] += 1
        run.remove()
    told(f"{subject.work.name}: killed at {outcomes.total()} points of {len(subject.calls)} calls: {dict(outcomes)}")
    return outcomes


@pytest.mark.parametrize("work", [PUBLISH, ASSEMBLE, EXCHANGE, SOURCE_CHANGES, REFUSED], ids=lambda work: work.name)
def test_killed_at_any_call_it_is_complete_or_absent(studio: Studio, work: Work) -> None:
    outcomes = kill_at_each(Subject(studio, work), 40)
    assert outcomes["old"] > 0
    assert outcomes["new"] > 0 or work.code != 0


@pytest.mark.parametrize("work", [PUBLISH, ASSEMBLE, EXCHANGE, REFUSED], ids=lambda work: work.name)
def test_so_it_is_where_renames_can_neither_refuse_nor_exchange(studio: Studio, work: Work) -> None:
    """As on NFS, where a plain rename replaces what is there."""
    outcomes = kill_at_each(Subject(studio.lacking("exchange,noreplace"), work), 14)
    assert outcomes["old"] > 0


@pytest.mark.parametrize("work", [PUBLISH, ASSEMBLE, EXCHANGE, REFUSED], ids=lambda work: work.name)
def test_a_recovery_that_is_killed_at_any_call_is_completed_by_the_next(studio: Studio, work: Work) -> None:
    """Depth two: a kill of the owner, and kills of whoever recovers after it."""
    subject = Subject(studio, work)
    tried = 0
    interesting = [call for call in subject.calls if "sqlite3" not in call.path]
    for call in sample(interesting, 6, most=10):
        run, _ = kill(subject, call.number, "after")
        recovery = run.start("recover")
        recovery.wait()
        calls = recovery.calls()
        run.remove()
        for inner, when in points(calls, 5, pages=False):
            run, _ = kill(subject, call.number, "after")
            ending = run.start("recover", f"kill-{when}:{inner.number}").wait()
            if inner.number <= calls[-1].number - 4:  # SQLite writes a page more or less, so the last calls may not be reached
                assert ending == KILLED, f"{call}, then {when} {inner}"
            assert ending in (KILLED, Ending(code=0)), f"{call}, then {when} {inner}"
            run.recover()
            try:
                subject.outcome(run)
                assert_settled(run)
            except AssertionError as error:
                raise AssertionError(f"killed after {call}, its recovery {when} {inner}: {error}") from error
            run.remove()
            tried += 1
    told(f"{work.name}: recovery killed at {tried} points")
    assert tried > 10


def dirty(studio: Studio) -> Run:
    """A root with something of each kind to sweep: trash, an orphaned staging directory, a burnt number, an old journal."""
    run = studio.fresh()
    ASSEMBLE.start(run, None).wait()
    orphan = Path(run.show, "demo/shots/sq01/sh010/publish/render/renderBeauty", f"v007.tmp.{'a' * 24}")
    (orphan / "deep").mkdir(parents=True)
    (orphan / "deep/frame.exr").write_bytes(b"half")
    with run.open() as root:
        claim = {"_id": "demo/x/v001", "transaction": "b" * 24, "lease": "demo/x", "number": 1, "burnt": 1.0}
        root.engine.database.commit([Insert(collection=CLAIMS, document=claim)])
    return run


def test_a_sweep_that_is_killed_at_any_call_is_completed_by_the_next(studio: Studio) -> None:
    run = dirty(studio)
    published = run.documents()
    sweeping = run.start("sweep")
    assert sweeping.wait().code == 0
    assert run.leftovers() == []
    calls, swept = sweeping.calls(), timeless(run.tree())
    assert run.claims() == []
    run.remove()
    tried = points(calls, 25)
    for call, when in tried:
        run = dirty(studio)
        assert run.start("sweep", f"kill-{when}:{call.number}").wait() == KILLED, f"{when} {call}"
        assert run.finish("sweep")[0].code == 0
        assert timeless(run.tree()) == swept, f"{when} {call}"
        assert len(run.documents()) == len(published)
        assert run.leftovers() == [], f"{when} {call}"
        assert run.claims() == []
        run.remove()
    told(f"sweep: killed at {len(tried)} points of {len(calls)} calls")
    assert len(tried) > 10


def test_a_number_is_released_only_when_the_withdrawal_is_done(studio: Studio) -> None:
    """Owner dead after the reveal, its recovery dead just before it takes the directory back: the next one still does."""
    subject = Subject(studio, PUBLISH)
    reveal = find(subject.calls, r"rename\w*", r"\.tmp\..* -> .*/v00\d$", -1)
    run, _ = kill(subject, reveal.number, "after")
    recovery = run.start("recover")
    recovery.wait()
    withdrawal = find(recovery.calls(), r"rename\w*", r"/v002 -> ")
    run.remove()
    run, _ = kill(subject, reveal.number, "after")
    assert run.start("recover", f"kill-before:{withdrawal.number}").wait() == KILLED
    run.recover()
    assert subject.outcome(run) == "old"
    assert_settled(run)
    run.remove()


def test_a_folder_that_somebody_made_meanwhile_is_left_by_recovery(studio: Studio) -> None:
    """Owner dead before it staged anything; what then stands under the final name is somebody else's."""
    subject = Subject(studio, PUBLISH)
    run, _ = kill(subject, find(subject.calls, "mkdirat", r"\.tmp\.[^/]*$").number, "before")
    foreign = Path(run.show, "demo/shots/sq01/sh010/publish/camera/camera/v002")
    foreign.mkdir()
    (foreign / "drawing.png").write_bytes(b"mine")
    run.recover()
    assert [(path.name, path.read_bytes()) for path in foreign.glob("*")] == [("drawing.png", b"mine")]
    shutil.rmtree(foreign)
    assert subject.outcome(run) == "old"
    assert_settled(run)
    run.remove()
