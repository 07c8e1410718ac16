"""Whatever call fails, with whatever error, a publish is rolled back or says that it cannot know; nothing is half.

Every changing call of a publish fails once with each error, and once as a call that took effect and reported an error (a lost
reply). The answer must be exit 5 with everything as before, or exit 6 and settled by the next recovery.
"""

from __future__ import annotations

import errno
from collections import Counter
from fnmatch import fnmatch

import pytest
from studio import Studio
from test_crash import WORKS, Subject, Work, fail, publish

from integrator import leases, ledger
from integrator.errors import IntegratorError
from integrator.root import Root
from integrator.testing import Fate

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE, errno.ESTALE)

#: Calls whose failure is harmless, and why: the publish is acknowledged all the same.
HARMLESS = {
    "rename('*.journal', '*.journal')": "the document has ended; the next recovery archives its journal",
    "mkdir('*-*')": "the month's folder of the history; the next recovery archives the journal",
    "set_mode(*-*)": "the mode of the month's folder of the history, as above",
    "write(*.journal, * bytes)": "the record `committed` is for people; the database has decided",
}


def _attempt(studio: Studio, work: Work, fate: Fate) -> int:
    """Exit code of the work under this fate."""
    root: Root = studio.open(fate, owner=studio.dead)
    try:
        work(studio, root)
    except IntegratorError as error:
        return error.exit_code
    except (RuntimeError, OSError):  # of the work itself, after a complete rollback
        return 5
    finally:
        root.close()
    return 0


def _is_harmless(call: str) -> bool:
    return any(fnmatch(call, pattern.replace("[", "[[]")) for pattern in HARMLESS)


def _assert_old_or_settled(subject: Subject, run: Studio, code: int, call: str) -> None:
    if code == 5:
        assert (run.tree(), run.documents()) == subject.old, call
    elif code == 0:
        assert _is_harmless(call) or subject.outcome(run) == "new", call
    else:
        assert code == 6, (code, call)
        # This process is alive, so recovery must be told that its transaction is not its own any more.
        with run.open() as root:
            for document in ledger.unsettled(root.engine.database):
                for key in document["leases"]:
                    leases.break_lease(root.engine.database, key, "the test's process is alive", root.engine.owner)
    run.recover()
    subject.outcome(run)
    assert run.leftovers() == [], call


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: errno.errorcode[error])
def test_any_call_of_a_publish_may_fail(studio: Studio, error: int) -> None:
    subject = Subject(studio, publish)
    codes: Counter[int] = Counter()
    for number, call in enumerate(subject.calls, 1):
        run = subject.studio.fresh("fail")
        code = _attempt(run, publish, Fate(fail_at=number, error=error))
        if code == 0:
            assert _is_harmless(call), f"the failure of {call} was swallowed"
        codes[code] += 1
        _assert_old_or_settled(subject, run, code, call)
        run.remove()
    print(f"\n{errno.errorcode[error]} at each of {len(subject.calls)} calls: exit codes {dict(codes)}")
    assert codes[5] > len(subject.calls) / 2


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("when", ["after", "lost", "persistent"])
def test_any_reply_may_be_lost(studio: Studio, work: Work, when: str) -> None:
    subject = Subject(studio, work)
    codes: Counter[int] = Counter()
    for number, call in enumerate(subject.calls, 1):
        if when == "lost" and not call.startswith("commit"):
            continue
        run = subject.studio.fresh("lost")
        if when == "persistent":
            fate = Fate(fail_at=number, error=errno.EIO, persistent=True)
        else:
            fate = Fate(fail_at=number, error=errno.EIO, when=when)  # type: ignore[arg-type]
        code = _attempt(run, work, fate)
        codes[code] += 1
        _assert_old_or_settled(subject, run, code, call)
        run.remove()
    print(f"\n{work.__name__}, {when}: exit codes {dict(codes)}")


def test_the_first_error_is_reported_and_the_rest_of_the_rollback_still_done(studio: Studio) -> None:
    """A rollback that meets an error itself names both, and everything else is undone."""
    subject = Subject(studio, fail)
    [first] = [number for number, call in enumerate(subject.calls, 1) if "state=rolling_back" in call]
    removals = [number for number in range(first, len(subject.calls)) if subject.calls[number - 1].startswith("unlink")]
    run = subject.studio.fresh("twice")
    root = run.open(Fate(fail_at=removals[0], error=errno.EIO), owner=run.dead)
    with pytest.raises(IntegratorError) as caught:
        fail(run, root)
    root.close()
    assert caught.value.exit_code == 6
    assert "a later plugin fails" in caught.value.message
    assert "Input/output error" in caught.value.message
    run.recover()
    assert (run.tree(), run.documents()) == subject.old
