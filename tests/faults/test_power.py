"""The power is cut after a call: what was not made durable is lost, and still a publish is complete or absent.

On an ext4 file system of one's own, the process sleeps after a call, the file system is told to forget everything that did not
reach its disk (the shutdown call of ext4, without flushing its log), the process is killed, and the disk is mounted again.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from faults.harness import (
    ASSEMBLE,
    EXCHANGE,
    PUBLISH,
    REFUSED,
    Call,
    Disk,
    Driver,
    Ending,
    Run,
    Studio,
    Subject,
    Work,
    assert_settled,
    find,
    points,
    told,
)

pytestmark = [pytest.mark.timeout(3000), pytest.mark.root]


@pytest.fixture
def studio_on_disk(disk: Disk, driver: Driver) -> Studio:
    """A studio, its sources included, on a disk whose power can be cut."""
    return Studio(os.path.join(disk.path, "studio"), driver)


def cut(subject: Subject, disk: Disk, call: Call | None) -> tuple[str, Ending]:
    """Cut the power after a call, or after the end (None); returns what is there in the end."""
    run = subject.fresh()
    os.sync()
    job = subject.work.start(run, f"stop-after:{call.number}" if call else "record")
    ending = job.wait()
    disk.cut_power()
    job.kill()
    disk.unmount()
    disk.mount()
    outcome = _after(subject, run)
    run.remove()
    return outcome, ending


def _after(subject: Subject, run: Run) -> str:
    run.recover()
    outcome = subject.outcome(run)
    assert_settled(run)
    return outcome


@pytest.mark.parametrize("work", [PUBLISH, ASSEMBLE, EXCHANGE, REFUSED], ids=lambda work: work.name)
def test_the_power_may_be_cut_after_any_call(studio_on_disk: Studio, disk: Disk, work: Work) -> None:
    subject = Subject(studio_on_disk, work)
    outcomes: Counter[str] = Counter()
    tried = [call for call, when in points(subject.calls, 24, pages=False) if when == "after"]
    for call in tried:
        try:
            outcomes[cut(subject, disk, call)[0]] += 1
        except AssertionError as error:
            raise AssertionError(f"power cut after {call}: {error}") from error
    told(f"{work.name}: power cut after {len(tried)} of {len(subject.calls)} calls: {dict(outcomes)}")
    assert outcomes["old"] > 0


def test_what_was_acknowledged_survives_a_power_cut(studio_on_disk: Studio, disk: Disk) -> None:
    for work in (PUBLISH, ASSEMBLE):
        subject = Subject(studio_on_disk, work)
        archive = find(subject.calls, r"rename\w*", r"/journal/.* -> .*/history/")
        # The last call before the answer; what a process does when it closes the database comes later and saves more.
        assert cut(subject, disk, archive)[0] == "new"
        outcome, ending = cut(subject, disk, None)
        assert ending.code == 0
        assert outcome == "new"
