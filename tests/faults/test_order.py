"""What is durable when: the order of changing and syncing calls, judged by the strictest file system that POSIX allows.

On such a file system the content of a file is durable only after a sync of that file, and a name only after a sync of its folder
(or both after one of the whole file system). `Platter` follows the calls of a real process and knows at each of them
what a power cut would lose; real file systems lose less, so nothing else shows a sync that is missing there.
"""

from __future__ import annotations

import os
import re

from faults.harness import ASSEMBLE, PUBLISH, REFUSED, SOURCE_CHANGES, Call, Studio, Subject, Work, find


class Platter:
    """What would be lost now: paths of files with unsynced content, and of names that are made, moved or removed."""

    def __init__(self) -> None:
        self.contents: set[str] = set()
        self.names: set[str] = set()

    def follow(self, call: Call) -> None:
        if call.name in ("write", "pwrite64", "copy_file_range", "ftruncate64", "fchmod", "futimens"):
            self.contents.add(call.path)
        elif call.name in ("openat", "openat64", "open", "open64", "mkdirat", "mkdir", "linkat", "symlinkat"):
            self.names.add(call.path)
        elif call.name in ("unlink", "unlinkat", "rmdir"):
            self.names.add(call.path)
            self.contents.discard(call.path)
        elif call.name in ("renameat2", "rename", "renameat"):
            self._rename(*call.path.split(" -> "))
        elif call.name in ("fsync", "fdatasync"):
            self.contents.discard(call.path)
            self.names = {name for name in self.names if os.path.dirname(name) != call.path}
        elif call.name == "syncfs":
            self.contents.clear()
            self.names.clear()

    def _rename(self, old: str, new: str) -> None:
        def moved(path: str) -> str:
            return new + path[len(old) :] if path == old or path.startswith(old + "/") else path

        self.contents = {moved(path) for path in self.contents}
        self.names = {moved(path) for path in self.names} | {old, new}

    def lost(self, pattern: str) -> list[str]:
        """What a power cut would lose of the paths that match."""
        return sorted(path for path in self.contents | self.names if re.search(pattern, path))


def lost_before(calls: list[Call], last: Call, pattern: str) -> list[str]:
    """What of these paths a power cut just before `last` would lose."""
    platter = Platter()
    for call in calls[: last.number - 1]:
        platter.follow(call)
    return platter.lost(pattern)


def commit_after(calls: list[Call], earlier: Call, which: int = 0) -> Call:
    """The sync of the first (or last, ...) commit after a call."""
    return find(calls[earlier.number :], "fdatasync", r"sqlite3-wal$", which)


def commit_of_rollback(calls: list[Call]) -> Call:
    """The commit that releases the number: the last one before the journal is archived."""
    archive = find(calls, r"rename\w*", r"/journal/.* -> .*/history/")
    return [call for call in calls[: archive.number] if call.name == "fdatasync" and call.path.endswith("-wal")][-1]


def assert_durable_before_the_reveal(studio: Studio, work: Work) -> None:
    calls = Subject(studio, work).calls
    reveal = find(calls, r"rename\w*", r"\.tmp\..* -> .*/v00\d$")
    assert lost_before(calls, reveal, r"\.tmp\.|/journal/|/publish/|/sh010$") == []


def assert_revealed_before_the_verdict(studio: Studio, work: Work) -> None:
    calls = Subject(studio, work).calls
    reveal = find(calls, r"rename\w*", r"\.tmp\..* -> .*/v00\d$", -1)
    verdict = commit_after(calls, reveal)
    # The journal's record of the reveal is for people, and for nobody once the verdict is in.
    assert [path for path in lost_before(calls, verdict, r"show/demo/") if not path.endswith("/trash")] == []


def assert_withdrawn_before_anything_is_deleted(calls: list[Call]) -> None:
    """Calls of a rollback, or of a recovery, that withdraws a revealed version."""
    withdrawals = [call for call in calls if call.name.startswith("rename") and re.search(r"/v00\d -> .*/trash/", call.path)]
    assert withdrawals
    for withdrawal in withdrawals:
        deletion = find(calls[withdrawal.number :], "unlinkat", r"/trash/.*")
        old, new = withdrawal.path.split(" -> ")
        assert lost_before(calls, deletion, f"^({re.escape(old)}|{re.escape(new)})$") == []
    withdrawn = "|".join(re.escape(path) for call in withdrawals for path in call.path.split(" -> "))
    assert lost_before(calls, commit_of_rollback(calls), f"^({withdrawn})$") == []


def assert_exchanged_before_the_end(studio: Studio) -> None:
    calls = Subject(studio, ASSEMBLE).calls
    last = commit_of_rollback(calls)  # here, of the finish
    assert lost_before(calls, last, r"show/demo/(edit|cut)\.json|/trash/") == []


def recovery_of(studio: Studio, work: Work) -> list[Call]:
    """The calls of a recovery after a death just after the reveal."""
    subject = Subject(studio, work)
    reveal = find(subject.calls, r"rename\w*", r"\.tmp\..* -> .*/v00\d$", -1)
    run = subject.fresh()
    work.start(run, f"kill-after:{reveal.number}").wait()
    recovery = run.start("recover")
    assert recovery.wait().code == 0
    calls = recovery.calls()
    run.remove()
    return calls


def test_everything_staged_is_durable_before_anybody_can_see_it(studio: Studio) -> None:
    assert_durable_before_the_reveal(studio, PUBLISH)  # one sync of the file system
    assert_durable_before_the_reveal(studio, ASSEMBLE)  # file by file


def test_a_final_name_is_durable_before_a_document_says_so(studio: Studio) -> None:
    assert_revealed_before_the_verdict(studio, PUBLISH)
    assert_revealed_before_the_verdict(studio, ASSEMBLE)


def test_a_withdrawal_is_durable_before_anything_of_it_is_deleted_or_released(studio: Studio) -> None:
    assert_withdrawn_before_anything_is_deleted(Subject(studio, REFUSED).calls)
    assert_withdrawn_before_anything_is_deleted(recovery_of(studio, PUBLISH))


def test_an_exchange_is_durable_before_the_transaction_ends(studio: Studio) -> None:
    assert_exchanged_before_the_end(studio)


def test_a_rollback_before_the_reveal_needs_no_withdrawal(studio: Studio) -> None:
    calls = Subject(studio, SOURCE_CHANGES).calls
    assert not [call for call in calls if re.search(r"/v002 -> ", call.path)]


def test_a_commit_is_durable_before_it_is_acknowledged(studio: Studio) -> None:
    for work in (PUBLISH, ASSEMBLE):
        calls = Subject(studio, work).calls
        archive = find(calls, r"rename\w*", r"/journal/.* -> .*/history/")
        assert lost_before(calls, archive, r"sqlite3-wal$") == []
