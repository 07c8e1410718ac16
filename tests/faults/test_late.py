"""An actor that sleeps at any call, is overtaken by others, and wakes up later hurts nobody.

Asleep is a process under SIGSTOP. While it sleeps its transaction is taken over by a second process, and a third one publishes
the same version number to the end; then it is woken. A process that sleeps inside a commit of SQLite holds the write lock:
nobody can overtake it there, and everybody else must be told that the database is busy.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from faults.harness import (
    ASSEMBLE,
    EXCHANGE,
    FULL,
    IMPATIENT,
    PUBLISH,
    REFUSED,
    Call,
    Ending,
    Job,
    Run,
    Studio,
    Subject,
    Tree,
    Work,
    assert_settled,
    find,
    points,
    quiet,
    sample,
    told,
)

#: A lease that has expired as soon as anybody looks.
TAKEOVER = 0.05
ASLEEP = Ending(stopped=True)
#: Folder of the versions of the second publish instance.
CAMERA = "demo/shots/sq01/sh010/publish/camera/camera"
pytestmark = pytest.mark.timeout(3000)


def sleeper(studio: Studio, work: Work) -> Subject:
    """Work whose leases expire at once."""
    return Subject(studio.with_leases_of(TAKEOVER), work)


def settled_by_another(run: Run, broken: bool) -> list[dict[str, Any]] | None:
    """What a second process settled; None if the sleeper has the database locked, or cannot be taken over yet."""
    if broken:
        ending, answer = run.finish("break_leases", patience=IMPATIENT)
        if ending.code != 0:
            return _locked(answer)
    else:
        time.sleep(TAKEOVER + 0.01)
    ending, answer = run.finish("recover", patience=IMPATIENT)
    if ending.code != 0:
        return _locked(answer)
    outcomes = {settled["outcome"] for settled in answer}
    if outcomes == {"in_doubt"}:
        return _locked(answer[0])
    if broken and outcomes == {"alive"}:
        return None  # it held no lease that could be broken
    assert outcomes <= {"rolled_back", "finished"}, answer
    return list(answer)


def _locked(answer: dict[str, Any]) -> None:
    # "Locking protocol" is what SQLite says, after ten seconds, of a process that sleeps while it opens the database.
    assert re.search("locked|locking protocol", answer["message"]), answer


def publish_third(run: Run, work: Work) -> bool:
    """Somebody publishes to the same subset, under the number that was given back; False if the sleeper has the lock."""
    arguments = work.arguments(run, "other")
    if "replace" in arguments:
        arguments |= {"own": "", "refused": False, "replace": {"demo/edit.json": "third"}}
    ending, answer = run.finish(work.job, patience=IMPATIENT, **arguments)
    if ending.code != 0:
        _locked(answer)
    return ending.code == 0


class Seen:
    """What others published while somebody slept; the sleeper's own staging directories are not part of it."""

    def __init__(self, run: Run) -> None:
        self.documents = run.documents()
        self.tree = _published(run.tree())

    def assert_unharmed(self, run: Run) -> None:
        """Exactly the same is there now."""
        assert run.documents() == self.documents
        tree = _published(run.tree())
        assert tree == self.tree, sorted(set(tree.items()) ^ set(self.tree.items()))[:8]

    def assert_contained(self, run: Run) -> None:
        """All of it is still there; the woken one has published its own beside it."""
        assert {document for document in self.documents if not _is_replaced(document)} <= set(run.documents())
        assert self.tree.items() <= {**_published(run.tree()), **_replaced(self.tree)}.items()


def _published(tree: Tree) -> Tree:
    # The source of a move is its owner's, who may remove it when it wakes.
    return {name: entry for name, entry in tree.items() if ".tmp." not in name and not name.startswith("own/")}


def _replaced(tree: Tree) -> Tree:
    """Files that every publish of this work replaces."""
    edited = {name: entry for name, entry in tree.items() if name.startswith("show/demo/") and name.endswith(".json")}
    return edited | {name: entry for name, entry in tree.items() if _is_replaced(f"{name}/")}


def _is_replaced(text: str) -> bool:
    """Whether a path, or a document as text, is of a hero version or of the version that is amended."""
    return any(mark in text for mark in ("/hero/", "/look/", "hero_version"))


def overtake(subject: Subject, call: Call, when: str, *, broken: bool = False, third: bool = True) -> str:
    """One owner asleep at one call; returns what became of its transaction. `third` says whether somebody publishes meanwhile."""
    run, work = subject.fresh(), subject.work
    owner = work.start(run, f"stop-{when}:{call.number}")
    assert owner.wait() == ASLEEP
    if settled_by_another(run, broken) is None or (third and not publish_third(run, work)):
        owner.wake()
        _assert_undisturbed(run, owner, work, broken)
        outcome = "locked"
    else:
        outcome = _wake_after_others(run, owner, work)
    run.recover()
    assert_settled(run)
    run.remove()
    return outcome


def _assert_undisturbed(run: Run, owner: Job, work: Work, broken: bool) -> None:
    ending = owner.wait()
    assert ending.code == work.code or (broken and ending.code == 5), owner.answer()


def _wake_after_others(run: Run, owner: Job, work: Work) -> str:
    seen = Seen(run)
    document = run.transaction_of("job")
    state = document["state"] if document else "none"
    owner.wake()
    ending = owner.wait()
    if state == "rolled_back":
        assert ending.code in (5, 6), (ending, owner.answer())
    else:
        assert ending.code == work.code, (ending, owner.answer())
    if state == "none" and work.code == 0:
        seen.assert_contained(run)
    else:
        seen.assert_unharmed(run)
    return str(state)


def chosen(calls: list[Call], count: int) -> list[tuple[Call, str]]:
    """Points of a sample lie outside the pages of the database's log, where all are alike."""
    return points(calls if FULL else quiet(calls), count)


@pytest.mark.parametrize("meanwhile", ["expired, published by another", "expired", "broken, published by another"])
@pytest.mark.parametrize("work", [PUBLISH, ASSEMBLE, EXCHANGE, REFUSED], ids=lambda work: work.name)
def test_an_owner_that_is_overtaken_at_any_call_hurts_nobody(studio: Studio, work: Work, meanwhile: str) -> None:
    subject = sleeper(studio, work)
    outcomes: Counter[str] = Counter()
    tried = chosen(subject.calls, 12)
    for call, when in tried:
        try:
            outcomes[overtake(subject, call, when, broken="broken" in meanwhile, third="by another" in meanwhile)] += 1
        except AssertionError as error:
            raise AssertionError(f"asleep {when} {call}: {error}") from error
    told(f"{work.name}, {meanwhile}: owner asleep at {len(tried)} points of {len(subject.calls)} calls: {dict(outcomes)}")
    assert outcomes["rolled_back"] > 0


@pytest.mark.parametrize("work", [PUBLISH, ASSEMBLE, EXCHANGE], ids=lambda work: work.name)
def test_so_it_is_where_renames_can_neither_refuse_nor_exchange(studio: Studio, work: Work) -> None:
    """As on NFS: the renames, and what follows them, of an owner that was overtaken."""
    subject = sleeper(studio.lacking("exchange,noreplace"), work)
    renames = {call.number for call in subject.calls if call.name.startswith("rename")}
    near = [call for call in subject.calls if {call.number, call.number - 1} & renames]
    tried = points(near, 12)
    outcomes: Counter[str] = Counter()
    for call, when in tried:
        try:
            outcomes[overtake(subject, call, when)] += 1
        except AssertionError as error:
            raise AssertionError(f"asleep {when} {call}: {error}") from error
    told(f"{work.name}, like NFS: owner asleep at {len(tried)} points: {dict(outcomes)}")


@pytest.mark.parametrize("work", [PUBLISH, ASSEMBLE, EXCHANGE, REFUSED], ids=lambda work: work.name)
def test_a_recoverer_that_is_overtaken_at_any_call_hurts_nobody(studio: Studio, work: Work) -> None:
    """Owner killed; first recoverer asleep; a second one settles; a third publishes; the first one wakes."""
    subject = sleeper(studio, work)
    outcomes: Counter[str] = Counter()
    for killed in sample([call for call in subject.calls if "sqlite3" not in call.path], 6, most=10):
        run = _dead(subject, killed)
        recovery = run.start("recover")
        recovery.wait()
        calls = recovery.calls()
        run.remove()
        for call, when in points(quiet(calls), 5, pages=False):
            try:
                outcomes[overtake_recoverer(subject, killed, call, when)] += 1
            except AssertionError as error:
                raise AssertionError(f"owner killed at {killed}, recoverer asleep {when} {call}: {error}") from error
    told(f"{work.name}: recoverer asleep at {outcomes.total()} points: {dict(outcomes)}")
    assert outcomes["overtaken"] > 0


def _dead(subject: Subject, killed: Call) -> Run:
    run = subject.fresh()
    subject.work.start(run, f"kill-after:{killed.number}").wait()
    return run


def overtake_recoverer(subject: Subject, killed: Call, call: Call, when: str) -> str:
    """One recoverer asleep at one call; returns "overtaken", or "locked" if it had the database locked."""
    run = _dead(subject, killed)
    first = run.start("recover", f"stop-{when}:{call.number}")
    assert first.wait() == ASLEEP
    overtaken = settled_by_another(run, broken=False) is not None and publish_third(run, subject.work)
    seen = Seen(run) if overtaken else None
    first.wake()
    ending = first.wait()
    assert ending.code == 0, first.answer()
    if seen is not None:
        seen.assert_unharmed(run)
    run.recover()
    assert_settled(run)
    run.remove()
    return "locked" if seen is None else "overtaken"


def duel(subject: Subject, owner_at: Call, recoverer_at: Call) -> None:
    """Owner asleep; its recoverer asleep; the owner wakes and ends, then the recoverer does: everything is as before."""
    run = subject.fresh()
    owner = subject.work.start(run, f"stop-before:{owner_at.number}")
    assert owner.wait() == ASLEEP
    time.sleep(TAKEOVER + 0.01)
    recoverer = run.start("recover", f"stop-before:{recoverer_at.number}")
    assert recoverer.wait() == ASLEEP
    owner.wake()
    assert owner.wait().code in (5, 6), owner.answer()
    recoverer.wake()
    assert recoverer.wait().code == 0, recoverer.answer()
    run.recover()
    assert subject.outcome(run) == "old"
    assert_settled(run)
    run.remove()


def recovery_calls(subject: Subject, owner_at: Call) -> list[Call]:
    """The calls of a recovery whose owner sleeps before a call."""
    run = subject.fresh()
    owner = subject.work.start(run, f"stop-before:{owner_at.number}")
    assert owner.wait() == ASLEEP
    time.sleep(TAKEOVER + 0.01)
    recovery = run.start("recover")
    recovery.wait()
    calls = recovery.calls()
    run.remove()
    return calls


def test_an_owner_that_reveals_while_it_is_undone_reveals_nothing(studio: Studio) -> None:
    """The recoverer sleeps in the middle of a deletion when the owner wakes up just before its rename."""
    subject = sleeper(studio, PUBLISH)
    tried = 0
    for which in (0, 1):
        reveal = find(subject.calls, r"rename\w*", r" -> .*/v002$", which)
        calls = recovery_calls(subject, reveal)
        for deletion in sample([call for call in calls if call.name == "unlinkat"], 3):
            duel(subject, reveal, deletion)
            tried += 1
    told(f"owner and recoverer asleep at once at {tried} points")


def test_a_broken_lease_loses_at_the_verdict_though_nobody_took_over(studio: Studio) -> None:
    for work in (PUBLISH, ASSEMBLE):
        subject = Subject(studio, work)
        reveal = find(subject.calls, r"rename\w*", r" -> .*/v00[12]$")
        run = subject.fresh()
        owner = work.start(run, f"stop-before:{reveal.number}")
        assert owner.wait() == ASLEEP
        assert run.finish("break_leases")[0].code == 0
        owner.wake()
        assert owner.wait().code == 5, owner.answer()
        assert subject.outcome(run) == "old"
        assert_settled(run)
        run.remove()


def test_a_folder_that_appears_before_the_claim_is_seen_after_it(studio: Studio) -> None:
    """Somebody makes v002 by hand between the look at the disk and the claim: the publish takes the next number."""
    subject = Subject(studio, PUBLISH)
    run = subject.fresh()
    owner = PUBLISH.start(run, f"stop-before:{find(subject.calls, 'pwrite64', 'sqlite3-wal').number}")
    assert owner.wait() == ASLEEP
    foreign = Path(run.show, CAMERA, "v002")
    foreign.mkdir()
    owner.wake()
    assert owner.wait().code == 0, owner.answer()
    assert run.versions("camera") == [1, 3]
    assert list(foreign.iterdir()) == []
    assert_settled(run)
    run.remove()


def test_a_folder_that_appears_before_the_reveal_is_never_replaced(studio: Studio) -> None:
    """An empty one, which a plain rename would replace in silence."""
    subject = Subject(studio, PUBLISH)
    reveal = find(subject.calls, r"rename\w*", r" -> .*/camera/v002$")
    run = subject.fresh()
    owner = PUBLISH.start(run, f"stop-before:{reveal.number}")
    assert owner.wait() == ASLEEP
    foreign = Path(run.show, CAMERA, "v002")
    foreign.mkdir()
    inode = foreign.stat().st_ino
    owner.wake()
    assert owner.wait().code == 5, owner.answer()
    assert foreign.stat().st_ino == inode
    foreign.rmdir()
    assert subject.outcome(run) == "old"
    assert_settled(run)
    run.remove()


def test_an_owner_that_sleeps_before_it_stages_reveals_nothing_later(studio: Studio) -> None:
    """It makes its staging directory after the take-over, so nobody took that away: the confirmation must notice."""
    subject = sleeper(studio, PUBLISH)
    staging = find(subject.calls, "mkdirat", r"\.tmp\.[^/]*$")
    assert overtake(subject, staging, "before", third=False) == "rolled_back"


def test_an_owner_must_win_the_right_to_roll_back(studio: Studio) -> None:
    """Asleep between reveal and verdict, rolled back by another, the number published by a third."""
    subject = sleeper(studio, REFUSED)
    reveal = find(subject.calls, r"rename\w*", r"\.tmp\..* -> .*/v00\d$", -1)
    assert overtake(subject, reveal, "after") == "rolled_back"


def test_a_number_is_burnt_rather_than_raced_for(studio: Studio) -> None:
    """A recoverer sleeps between its look at a revealed directory and its rename; a second withdraws; a third publishes."""
    subject = sleeper(studio, PUBLISH)
    reveal = find(subject.calls, r"rename\w*", r"\.tmp\..* -> .*/v00\d$", -1)
    run = _dead(subject, reveal)
    recovery = run.start("recover")
    recovery.wait()
    calls = recovery.calls()
    run.remove()
    withdrawals = [call for call in calls if call.name == "renameat2" and "/v002 -> " in call.path]
    assert len(withdrawals) == 2
    for withdrawal in withdrawals:
        assert overtake_recoverer(subject, reveal, withdrawal, "before") == "overtaken"
