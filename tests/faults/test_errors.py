"""Whatever call of the C library fails, with whatever error, the answer is honest and nothing is half.

Every changing call of a publish fails once with each error; renames, links and folders also as a lost reply (made, and reported
as failed); and from some call on everything fails. Exit 5 means that everything is as before, exit 6 that the next recovery
settles it, and exit 0 that it is published: then the call that failed is on the list of those whose failure is harmless.
"""

from __future__ import annotations

import errno
import re
from collections import Counter

import pytest

from faults.harness import (
    ASSEMBLE,
    ERRORS,
    EXCHANGE,
    FULL,
    PUBLISH,
    REFUSED,
    SOURCE_CHANGES,
    Call,
    Ending,
    Run,
    Studio,
    Subject,
    Work,
    assert_settled,
    sample,
    told,
)

pytestmark = pytest.mark.timeout(3000)

#: Calls that may fail without making the publish fail: a pattern of "name path", and why.
HARMLESS = {
    r"close /(publish\.sqlite3|journal/|history/).*": "it was synced, or its end is not needed; a staged file is not among these",
    r"(mkdirat|fchmod) /history/.*": "the month's folder of the history: the next recovery archives the journal",
    r"renameat2 /journal/.* -> /history/.*": "the archive of an ended transaction: the next recovery makes it",
    r"write /journal/.*": "the record `committed` is for people, and the document has decided",
    r"(pwrite64|ftruncate64|fdatasync|fsync|unlink) /publish\.sqlite3(-wal|-shm)?": "the checkpoint, and the removal of"
    " the log by the last connection: what was committed stays in the log",
    r"(open64|fchown|fchmod|ftruncate64|pwrite64|fallocate|posix_fallocate) /publish\.sqlite3-shm": "SQLite goes on with an"
    " index of its log in memory, or makes it again",
    r"(fchown|fchmod) /publish\.sqlite3-wal": "owner and mode of the log are only a wish of SQLite; where they are not those of"
    " the database, another user of the root gets an error until the log is made anew, and nothing is lost",
    r"mkdirat /show/(?!.*\.tmp\.ID$).*": "a folder that is there after all is used; the staging directory itself never is",
    r"fdatasync ": "SQLite syncs the folder of its log and does not look at the answer; see `test_known_faults`",
    r"(renameat2|unlinkat) /own/.*": "the source of a move: it is left where it is, and the answer says so",
}
#: Calls whose *reply* may be lost, beside those: what is there afterwards says that they happened.
HARMLESS_IF_MADE = {
    r"renameat2 .*\.tmp\.ID -> .*/v\d+": "the reveal: the final name has the identity of what was prepared",
    r"renameat2 .*/trash/.*": "a capture or an exchange: identities say that it is done",
    r"renameat2 .*/own/.*": "the capture of a moved source: its private name is there",
}

#: What a network file system reports for a call that it repeats after the reply was lost.
LOST = {
    "renameat2": errno.ENOENT, "unlinkat": errno.ENOENT, "rmdir": errno.ENOENT,
    "linkat": errno.EEXIST, "symlinkat": errno.EEXIST,
    "mkdirat": 0,  # EEXIST: see `test_known_faults`
}  # fmt: skip


def _shown(call: Call, run: Run) -> str:
    """Name and path of a call, below the engine's folder or the run."""
    path = call.path.replace(f"{run.show}/.integrator", "").replace(run.area, "")
    return f"{call.name} {re.sub(r'[0-9a-f]{24}', 'ID', path)}"


def is_harmless(shown: str, mode: str) -> bool:
    allowed = [*HARMLESS, *(HARMLESS_IF_MADE if mode.startswith("error-after") else ())]
    return any(re.fullmatch(pattern, shown) for pattern in allowed)


def attempt(subject: Subject, call: Call, mode: str) -> tuple[str, int]:
    """One run with one fault; returns what failed, and the exit code."""
    run, work = subject.fresh(), subject.work
    job = work.start(run, mode)
    ending = job.wait()
    hit = next((made for made in job.calls() if made.number == call.number), call)
    shown = _shown(hit, run)
    assert ending.code in (0, 5, 6), (shown, ending, job.answer())
    _assert_honest(subject, run, shown, mode, ending, job.answer())
    run.recover()
    subject.outcome(run)
    assert_settled(run)
    run.remove()
    return shown, ending.code


def _assert_honest(subject: Subject, run: Run, shown: str, mode: str, ending: Ending, answer: object) -> None:
    if ending.code == 0:
        assert is_harmless(shown, mode), f"the failure of {shown} was swallowed"
        assert subject.outcome(run) == "new", answer
    elif ending.code == 5:
        assert subject.outcome(run) == "old", answer
        # What others need before they can go on was released, too: only an archive may be left to make.
        assert [left for left in run.leftovers() if not left.startswith("journal")] == [], answer


def _try_all(subject: Subject, kinds: list[tuple[Call, str]], what: str) -> Counter[int]:
    codes: Counter[int] = Counter()
    harmless: Counter[str] = Counter()
    for call, mode in kinds:
        try:
            shown, code = attempt(subject, call, mode)
        except AssertionError as error:
            raise AssertionError(f"{mode} at {call}: {error}") from error
        codes[code] += 1
        harmless[shown] += code == 0
    told(f"{subject.work.name}, {what}: {len(kinds)} runs, exit codes {dict(codes)}")
    for shown in sorted(+harmless):
        print(f"    harmless: {shown}")
    return codes


def each(calls: list[Call], count: int) -> list[Call]:
    """Every call, or a sample of those that differ."""
    seen: dict[str, Call] = {}
    for call in calls:
        seen.setdefault(call.kind, call)
    return calls if FULL else sample(list(seen.values()), count)


@pytest.mark.parametrize("error", ERRORS)
def test_any_call_of_a_publish_may_fail_once(studio: Studio, error: str) -> None:
    subject = Subject(studio, PUBLISH)
    number = getattr(errno, error)
    calls = each(subject.calls, 200) if FULL else each(subject.calls, 200)[ERRORS.index(error) :: len(ERRORS)][:14]
    codes = _try_all(subject, [(call, f"error:{call.number}:{number}") for call in calls], error)
    assert codes[5] > 0


@pytest.mark.parametrize("work", [ASSEMBLE, REFUSED, SOURCE_CHANGES], ids=lambda work: work.name)
def test_any_call_of_a_finish_or_rollback_may_fail_once(studio: Studio, work: Work) -> None:
    subject = Subject(studio, work)
    number = errno.EIO
    # A captured source that cannot be deleted: see `test_known_faults`.
    calls = [call for call in each(subject.calls, 14) if not (call.name == "unlinkat" and "/own/." in call.path)]
    _try_all(subject, [(call, f"error:{call.number}:{number}") for call in calls], "EIO")


@pytest.mark.parametrize("work", [PUBLISH, ASSEMBLE, EXCHANGE, REFUSED], ids=lambda work: work.name)
def test_any_reply_may_be_lost(studio: Studio, work: Work) -> None:
    """The call is made and reported as failed, as a network file system may do."""
    subject = Subject(studio, work)
    calls = [call for call in subject.calls if call.name in LOST]
    numbers = [(call, number) for call in each(calls, 8) for number in (errno.EIO, LOST[call.name]) if number]
    _try_all(subject, [(call, f"error-after:{call.number}:{number}") for call, number in numbers], "lost replies")


@pytest.mark.parametrize("error", ["ENOSPC", "EROFS", "EIO"])
def test_from_any_call_on_everything_may_fail(studio: Studio, error: str) -> None:
    """A disk that is full or read-only from now on: neither the publish nor its rollback can go on; the next recovery can."""
    subject = Subject(studio, PUBLISH)
    number = getattr(errno, error)
    _try_all(subject, [(call, f"errors-from:{call.number}:{number}") for call in each(subject.calls, 8)], f"{error} from then on")
