"""Faults that the engine does not survive as it should yet, each as small as it can be shown.

A test that begins to pass here fails: take its mark away, and the tolerance of the same fault in the other tests.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from faults.harness import ASSEMBLE, FULL, LIMIT, PUBLISH, Disk, Driver, Ending, Studio, Subject, assert_settled, find

pytestmark = pytest.mark.timeout(300)


def test_a_source_whose_owner_died_while_removing_it_is_not_left_hidden(studio: Studio) -> None:
    """The owner of a move captures the source, then deletes it. Dead between the two, the source stays hidden for ever."""
    subject = Subject(studio, ASSEMBLE)
    capture = find(subject.calls, r"rename\w*", r"/own/moved\.ma -> ")
    run = subject.fresh()
    ASSEMBLE.start(run, f"kill-after:{capture.number}").wait()
    run.recover()
    assert [name for name in os.listdir(os.path.dirname(run.own)) if name.startswith(".")] == []


def test_what_an_artist_saved_meanwhile_survives_the_death_of_the_owner_of_a_move(studio: Studio) -> None:
    """A file saved over the source just before the capture is not what was published; nobody puts it back or says where it is."""
    subject = Subject(studio, ASSEMBLE)
    capture = find(subject.calls, r"rename\w*", r"/own/moved\.ma -> ")
    run = subject.fresh()
    owner = ASSEMBLE.start(run, f"stop-before:{capture.number},kill-after:{capture.number}")
    assert owner.wait().stopped
    Path(run.own).unlink()
    Path(run.own).write_bytes(b"an hour of work")
    owner.wake()
    owner.wait()
    run.recover()
    assert Path(run.own).exists()


def test_a_source_that_cannot_be_deleted_is_put_back(studio: Studio) -> None:
    """The owner of a move has captured the source, and the deletion fails."""
    subject = Subject(studio, ASSEMBLE)
    deletion = find(subject.calls, "unlinkat", r"/own/\.moved\.ma")
    run = subject.fresh()
    assert ASSEMBLE.start(run, f"error:{deletion.number}:{errno.EIO}").wait().code == 0
    assert os.listdir(os.path.dirname(run.own)) == ["moved.ma"]


@pytest.mark.xfail(strict=True, reason="SQLite does not look at the answer when it syncs the folder of its log")
def test_a_sync_of_the_databases_folder_that_fails_is_noticed(studio: Studio) -> None:
    """The name of the log is then not durable, and an acknowledged commit that is only there is lost with it."""
    subject = Subject(studio, PUBLISH)
    sync = find(subject.calls, "fdatasync", r"/show/\.integrator$")
    run = subject.fresh()
    ending = PUBLISH.start(run, f"error:{sync.number}:{errno.EIO}").wait()
    assert ending.code in (5, 6)


def test_a_folder_whose_mkdir_lost_its_reply_has_its_mode(studio: Studio) -> None:
    """A repeated mkdir of a network file system reports EEXIST for the folder that the first one made."""
    subject = Subject(studio, PUBLISH)
    made = find(subject.calls, "mkdirat", r"\.tmp\.[^/]*/resources$")
    run = subject.fresh()
    assert PUBLISH.start(run, f"error-after:{made.number}:{errno.EEXIST}").wait().code == 0
    assert subject.outcome(run) == "new"


def test_a_first_commit_that_is_in_doubt_is_not_reported_as_rolled_back(studio: Studio) -> None:
    """Nothing was staged, but the log that stays behind holds the transaction, its leases and its claims."""
    subject = Subject(studio, PUBLISH)
    commit = find(subject.calls, "fdatasync", r"sqlite3-wal$", 1)  # the first one syncs the header of the log
    run = subject.fresh()
    ending = PUBLISH.start(run, f"errors-from:{commit.number}:{errno.EIO}").wait()
    assert ending.code == 6 or run.leftovers() == []


def replace_with_a_lost_reply(studio: Studio, name: str) -> tuple[bytes, Ending, object]:
    """Content of a replaced file, and the answer, when the call that puts it in place is made and reports ENOENT."""
    subject = Subject(studio, ASSEMBLE)
    put = find(subject.calls, r"rename\w*", rf"/trash/.* -> .*/demo/{name}$")
    run = subject.fresh()
    job = ASSEMBLE.start(run, f"error-after:{put.number}:{errno.ENOENT}")
    ending = job.wait(2 * LIMIT)
    run.recover()
    return Path(run.show, "demo", name).read_bytes(), ending, job.answer()


def test_an_exchange_whose_reply_is_lost_is_made_once(studio: Studio) -> None:
    content, ending, _ = replace_with_a_lost_reply(studio, "edit.json")
    assert (content, ending.code) == (b"new", 0)


@pytest.mark.skipif(not FULL, reason="waits for a minute; FAULTS=full")
def test_a_new_file_whose_rename_lost_its_reply_is_there_at_once(studio: Studio) -> None:
    content, ending, _ = replace_with_a_lost_reply(studio, "cut.json")
    assert (content, ending.code) == (b"made", 0)


@pytest.fixture
def studio_on_disk(disk: Disk, driver: Driver) -> Studio:
    return Studio(os.path.join(disk.path, "studio"), driver)


@pytest.mark.root
def test_new_content_of_a_replaced_file_is_removed_after_a_power_cut(studio_on_disk: Studio, disk: Disk) -> None:
    """It lies under a private name in the trash, of which the journal has lost the record."""
    subject = Subject(studio_on_disk, ASSEMBLE)
    reveal = find(subject.calls, r"rename\w*", r"\.tmp\..* -> ")
    synced = [call for call in subject.calls if re.fullmatch(r".*/trash", call.path) and call.number < reveal.number][-1]
    run = subject.fresh()
    os.sync()
    job = ASSEMBLE.start(run, f"stop-after:{synced.number}")
    job.wait()
    disk.cut_power()
    job.kill()
    disk.unmount()
    disk.mount()
    run.recover()
    assert_settled(run)
