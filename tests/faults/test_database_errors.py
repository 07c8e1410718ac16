"""An error of SQLite at the sync of a commit is no answer: the pages may come back when the database is opened again.

At each sync of a commit the kernel reports EIO once; the process goes on to its end or is killed at a later call; another
process opens the database. Whatever it then holds, files and documents agree, and a publish that was acknowledged is there.
"""

from __future__ import annotations

import errno
from collections import Counter

import pytest

from faults.harness import (
    ASSEMBLE,
    FULL,
    PUBLISH,
    REFUSED,
    Call,
    Studio,
    Subject,
    Work,
    assert_settled,
    find,
    quiet,
    sample,
    told,
)

pytestmark = pytest.mark.timeout(3000)


def commits(calls: list[Call]) -> list[Call]:
    """The syncs of the database's log."""
    return [call for call in calls if call.name in ("fsync", "fdatasync") and call.path.endswith("sqlite3-wal")]


def fail_and_kill(subject: Subject, failing: Call, killed: int) -> str:
    """One run whose commit fails, and that is killed before a later call (0: not at all); returns what is there in the end."""
    run = subject.fresh()
    kill = f",kill-before:{killed}" if killed else ""
    job = subject.work.start(run, f"error:{failing.number}:{errno.EIO}{kill}")
    ending = job.wait()
    assert ending.signal or ending.code in (0, 5, 6), job.answer()
    run.recover()
    outcome = subject.outcome(run)
    assert outcome == "new" or ending.code != 0, "acknowledged, and gone"
    assert outcome == "old" or ending.code != 5, "reported as rolled back, and there"
    assert_settled(run)
    run.remove()
    return outcome


def later(subject: Subject, failing: Call) -> list[int]:
    """Numbers of the calls that the process makes after this commit failed."""
    run = subject.fresh()
    job = subject.work.start(run, f"error:{failing.number}:{errno.EIO}")
    job.wait()
    numbers = [call.number for call in (job.calls() if FULL else quiet(job.calls())) if call.number > failing.number]
    run.remove()
    return numbers


@pytest.mark.parametrize("work", [PUBLISH, ASSEMBLE, REFUSED], ids=lambda work: work.name)
def test_a_commit_that_fails_is_settled_by_asking_again(studio: Studio, work: Work) -> None:
    subject = Subject(studio, work)
    outcomes: Counter[str] = Counter()
    for failing in commits(subject.calls):
        for killed in [0, *sample(later(subject, failing), 6)]:
            try:
                outcomes[fail_and_kill(subject, failing, killed)] += 1
            except AssertionError as error:
                raise AssertionError(f"EIO at {failing}, killed before {killed or 'nothing'}: {error}") from error
    told(f"{work.name}: EIO at {len(commits(subject.calls))} commits, {outcomes.total()} runs: {dict(outcomes)}")
    assert outcomes["old"] > 0


def test_a_verdict_that_comes_back_finds_its_files(studio: Studio) -> None:
    """The sync of the verdict fails, the process dies, and the database is opened with the verdict in it: nothing was undone.

    It comes back until the dying process has closed the database, which removes the log.
    """
    subject = Subject(studio, PUBLISH)
    reveal = find(subject.calls, r"rename\w*", r"\.tmp\..* -> .*/v00\d$", -1)
    verdict = next(call for call in commits(subject.calls) if call.number > reveal.number)
    outcomes = {fail_and_kill(subject, verdict, number) for number in sample(later(subject, verdict), 4)}
    assert "new" in outcomes
