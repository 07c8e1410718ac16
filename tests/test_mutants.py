"""With any one rule of the protocol removed, a test fails: each mutant takes one away, and the test that must notice is run.

A mutant that survives means that a guarantee rests on something that no test can see.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import test_exchanges as exchanges
import test_protocol as protocol
import test_reservation as reservation
import test_resume as resume
from studio import Studio
from test_crash import prepare_exchange
from test_resume import show

from integrator import amend, harvest, leases, ledger, operations, pointers, recovery, staging, transfer
from integrator.errors import Conflict
from integrator.journal import Journal
from integrator.model import Identity, State
from integrator.storage import Storage
from integrator.testing import CrashingStorage
from integrator.transaction import Transaction

__all__ = ["show"]

Patch = Callable[[pytest.MonkeyPatch], None]
Mutant = tuple[Patch, Callable[..., None]]


def no_confirm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger, "confirm", lambda database, document: None)


def no_capture(patch: pytest.MonkeyPatch) -> None:
    """Delete the contents of a staging directory in place; its name stays until it is empty."""
    plain = operations.rename_away

    def delete_in_place(engine: Any, name: str, at: int, private_name: str, private: int) -> bool:
        if ".tmp." not in name:
            return plain(engine, name, at, private_name, private)
        if operations.storage.exists(name, at):
            with operations.storage.folder(name, at) as fd:
                for inner in os.listdir(fd):
                    engine.storage.remove_tree(inner, fd)
        return False

    patch.setattr(operations, "rename_away", delete_in_place)


def no_compare_and_swap_at_the_owners_rollback(patch: pytest.MonkeyPatch) -> None:
    def claim_it(database: Any, document: Any, error: str, **_: Any) -> None:
        document.update(state=State.ROLLING_BACK.value, undoers=[*document["undoers"], document["actor"]])

    def undo(engine: Any, document: Any, evidence: Any, **named: Any) -> None:
        try:
            plain(engine, document, evidence, **named)
        except Conflict:
            document["state"] = State.ROLLED_BACK.value

    plain = recovery.undo
    patch.setattr(ledger, "start_rollback", claim_it)
    patch.setattr(recovery, "undo", undo)
    # ... and believe that what has the final name is what was revealed.
    patch.setattr(operations, "_holds_our_files", lambda *_: True)
    patch.setattr(operations.storage, "identity", _anything)


def _anything(name: str, at: int) -> Any:
    return Identity(inode=1, born=1) if not name or operations.storage.exists(name, at) else None


def no_burn(patch: pytest.MonkeyPatch) -> None:
    plain = ledger.rolled_back
    patch.setattr(
        ledger, "rolled_back", lambda database, document, *, burn, **named: plain(database, document, burn=False, **named)
    )


def no_lease_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases, "fences", lambda tokens, transaction: [])
    patch.setattr(leases, "releases", lambda tokens, transaction, *, unbroken=False: [])


def no_second_look(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Transaction, "_look_again", lambda self, planner: None)


def a_plain_rename(patch: pytest.MonkeyPatch) -> None:
    def replace(self: Storage, old: str, old_at: int, new: str, new_at: int) -> None:
        os.rename(old, new, src_dir_fd=old_at, dst_dir_fd=new_at)

    patch.setattr(Storage, "rename", replace)


def an_open_that_is_believed(patch: pytest.MonkeyPatch) -> None:
    """After a lost reply: read the document, and if it says `open`, roll back without winning it."""
    plain = ledger.start_rollback

    def believe(database: Any, document: Any, error: str, **_: Any) -> None:
        if "Unanswered" not in error:
            return plain(database, document, error)
        found = database.read("transactions", document["_id"])
        if found["state"] != State.OPEN.value:
            raise Conflict("transactions", document["_id"], found["state"])
        document.update(state=State.ROLLING_BACK.value, undoers=[1])
        return None

    patch.setattr(ledger, "start_rollback", believe)
    patch.setattr(ledger, "rolled_back", lambda database, document, **_: document.update(state=State.ROLLED_BACK.value))


def no_root_check(patch: pytest.MonkeyPatch) -> None:
    from integrator.engine import Engine

    patch.setattr(Engine, "_check_marker", lambda self, name, path, fd: None)


def anything_at_a_final_path_is_ours(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operations, "_withdraw", _withdraw_anything)


def _withdraw_anything(engine: Any, directory: Any, proof: Any, parent: int, private: int, mine: str) -> bool:
    return bool(operations.rename_away(engine, directory.final.rpartition("/")[2], parent, mine, private))


def a_withdrawal_that_deletes_all(patch: pytest.MonkeyPatch) -> None:
    plain = operations._delete
    patch.setattr(
        operations, "_delete", lambda engine, mine, proof, directory, private: plain(engine, mine, None, directory, private)
    )


def _without_sync(*where: str) -> Patch:
    """No fsync in functions of these names."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        plain = CrashingStorage.sync  # type: ignore[attr-defined]

        def sync(self: Any, fd: int) -> None:
            if inspect.stack()[1].function not in where:
                plain(self, fd)

        patch.setattr(CrashingStorage, "sync", sync)

    return apply


def no_sync_of_the_file_system(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CrashingStorage, "sync_filesystem", lambda self, fd: None)


def no_sync_of_the_journal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "sync", Journal.flush)


def reveal_before_prepare(patch: pytest.MonkeyPatch) -> None:
    prepare, reveal = Transaction._prepare, Transaction._reveal

    def both(self: Transaction) -> None:
        self._identities = [found.identity() if found else None for found in self.staging]
        reveal(self)
        prepare(self)

    patch.setattr(Transaction, "_prepare", both)
    patch.setattr(Transaction, "_reveal", lambda self: None)
    patch.setattr(staging.StagingDirectory, "verify", lambda self: None)


def no_capture_of_what_was_promised(patch: pytest.MonkeyPatch) -> None:
    """Take the frames out of the promised directory while its path still leads to it."""

    def by_path(engine: Any, actor: Any, index: int, directory: Any, root_fd: int) -> int:
        return operations.storage.open_folder(directory.reserved, root_fd)

    patch.setattr(operations, "capture_promised", by_path)


def no_reservation_that_goes_on(patch: pytest.MonkeyPatch) -> None:
    plain = ledger.rolled_back
    patch.setattr(
        ledger, "rolled_back", lambda database, document, *, goes_on, **named: plain(database, document, goes_on=False, **named)
    )


def frames_that_are_thrown_away(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(recovery, "_keep", lambda engine, document, same_publish: operations.Keep.NOTHING)


def nobody_writes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transfer, "is_written", lambda fd: False)


def a_scene_that_is_not_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(transfer, "_STAGING", re.compile(b"never found"))


def rendered_frames_that_are_not_looked_at_again(patch: pytest.MonkeyPatch) -> None:
    plain = staging.StagingDirectory.take

    def take(self: Any, names: Any, known: Any, **named: Any) -> Any:
        found = [os.stat(name, dir_fd=self._promised) for name in names]
        known.sizes[:] = type(known.sizes)("Q", [status.st_size for status in found])
        known.source_times[:] = type(known.source_times)("q", [status.st_mtime_ns for status in found])
        return plain(self, names, known, **named)

    patch.setattr(staging.StagingDirectory, "take", take)


class _Alike(str):
    """Equal to every checksum."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def a_copy_that_is_believed(patch: pytest.MonkeyPatch) -> None:
    """Take what a killed attempt had copied without reading it again."""
    patch.setattr(transfer, "checksum_of", lambda fd, *_: _Alike("0" * 32))
    patch.setattr(harvest.Harvest, "_take_unrecorded", lambda *_: None)


def an_extractor_that_is_believed_to_have_ended(patch: pytest.MonkeyPatch) -> None:
    plain = harvest._leftover
    patch.setattr(harvest, "_leftover", lambda *given: attrs.evolve(plain(*given), ended=True))


#: Rules of reservations and of resuming, each with the test that must notice; those bring their own roots.
LATER: list[Mutant] = [
    (no_capture_of_what_was_promised, reservation.test_a_renderer_that_goes_on_by_path_does_not_reach_the_published_version),
    (no_reservation_that_goes_on, reservation.test_a_publish_that_fails_leaves_the_promise_and_the_frames),
    (frames_that_are_thrown_away, reservation.test_a_publish_that_fails_leaves_the_promise_and_the_frames),
    (_without_sync("put_back"), reservation.test_a_promise_is_durable_before_it_is_given),
    (_without_sync("_make_directories"), reservation.test_a_promise_is_durable_before_it_is_given),
    (nobody_writes, reservation.test_a_writer_that_has_not_stopped_is_found),
    (a_scene_that_is_not_read, reservation.test_a_scene_that_names_the_staging_directory_is_refused),
    (rendered_frames_that_are_not_looked_at_again, reservation.test_a_frame_that_changes_before_the_adoption_is_noticed),
]


def documents_that_are_complete_at_the_verdict(patch: pytest.MonkeyPatch) -> None:
    plain = ledger.verdict

    def complete(database: Any, document: Any, *given: Any) -> None:
        plain(database, document, *given)
        database.commit(ledger.pointer_changes(database, document))

    patch.setattr(ledger, "verdict", complete)


def documents_that_do_not_shrink(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pointers, "reduced", lambda representation, kept: {})


def an_exchange_that_is_made_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operations, "_exchanged", lambda *_: False)


def no_capture_before_an_exchange(patch: pytest.MonkeyPatch) -> None:
    """Every actor exchanges from one and the same name."""
    plain = operations.Actor.private
    patch.setattr(operations.Actor, "private", lambda self, thing, number=None: plain(self, thing, 0))


def no_fence_where_nothing_can_be_exchanged(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    patch.setattr(Storage, "exchange", refuse)
    patch.setattr(operations, "_fence", lambda *_: None)


def an_exchange_by_another_that_is_believed_to_be_durable(patch: pytest.MonkeyPatch) -> None:
    plain = operations.finish_exchange

    def believe(engine: Any, actor: Any, plan: Any, root_fd: int) -> None:
        thing = str(plan["index"]) if "staged" in plan else f"x{plan['number']}"
        with operations.storage.folder(plan["private"], root_fd) as private:
            names = os.listdir(private)
        staged = operations.storage.exists(plan["staged"], root_fd) if "staged" in plan else False
        if staged or any(name.startswith(f"{actor.transaction}.{thing}") for name in names):
            plain(engine, actor, plan, root_fd)

    patch.setattr(operations, "finish_exchange", believe)


def an_amended_version_that_nobody_guards(patch: pytest.MonkeyPatch) -> None:
    plain = amend.Amendment.changes
    patch.setattr(
        amend.Amendment,
        "changes",
        lambda self: [change for change in plain(self) if "data.integrator.amending" not in getattr(change, "set", {})],
    )


#: Rules of what takes the place of something else; their studio has a hero version already.
EXCHANGES: list[Mutant] = [
    (documents_that_are_complete_at_the_verdict, exchanges.test_at_no_call_does_a_document_name_a_file_that_is_not_there),
    (documents_that_do_not_shrink, exchanges.test_at_no_call_does_a_document_name_a_file_that_is_not_there),
    (an_exchange_that_is_made_again, exchanges.test_hero_and_trash_are_as_the_last_commit_left_them_wherever_it_was_killed),
    (
        no_capture_before_an_exchange,
        exchanges.test_an_owner_that_wakes_up_in_the_middle_of_what_a_killed_recoverer_did_swaps_nothing_back,
    ),
    (no_fence_where_nothing_can_be_exchanged, exchanges.test_whoever_wakes_up_late_exchanges_nothing_again),
    (
        an_exchange_by_another_that_is_believed_to_be_durable,
        exchanges.test_an_exchange_that_somebody_else_made_is_durable_before_it_is_called_finished,
    ),
    (an_amended_version_that_nobody_guards, exchanges.test_a_version_that_another_program_changes_meanwhile_is_not_amended),
]

MUTANTS: list[Mutant] = [
    *LATER,
    (no_confirm, protocol.test_confirm_keeps_a_late_owner_from_revealing_what_was_rolled_back),
    (no_capture, protocol.test_capture_keeps_a_late_owner_from_filling_what_is_being_deleted),
    (no_compare_and_swap_at_the_owners_rollback, protocol.test_an_owner_must_win_the_right_to_roll_back),
    (no_burn, protocol.test_a_number_is_burnt_rather_than_raced_for),
    (no_lease_fence, protocol.test_a_broken_lease_loses_at_the_verdict_even_if_nobody_took_over),
    (no_second_look, protocol.test_a_folder_that_appears_before_the_claim_is_seen_after_it),
    (a_plain_rename, protocol.test_a_folder_that_appears_before_the_reveal_is_never_replaced),
    (an_open_that_is_believed, protocol.test_a_verdict_that_arrives_after_the_rollback_changes_nothing),
    (no_root_check, protocol.test_a_root_that_is_not_mounted_settles_nothing),
    (anything_at_a_final_path_is_ours, protocol.test_foreign_content_at_a_final_path_survives_recovery),
    (a_withdrawal_that_deletes_all, protocol.test_what_somebody_put_into_a_revealed_version_survives_its_withdrawal),
    (no_sync_of_the_file_system, protocol.test_everything_is_durable_before_anybody_can_see_it),
    (no_sync_of_the_journal, protocol.test_everything_is_durable_before_anybody_can_see_it),
    (_without_sync("_reveal"), protocol.test_everything_is_durable_before_anybody_can_see_it),
    (reveal_before_prepare, protocol.test_everything_is_durable_before_anybody_can_see_it),
    (_without_sync("sync_files"), protocol.test_a_few_files_are_made_durable_one_by_one_with_all_their_folders),
    (_without_sync("make_durable", "_prepare"), protocol.test_a_few_files_are_made_durable_one_by_one_with_all_their_folders),
    (_without_sync("_withdraw"), protocol.test_a_withdrawal_is_durable_before_anything_of_it_is_deleted_or_released),
    (_without_sync("_delete"), protocol.test_a_withdrawal_is_durable_before_anything_of_it_is_deleted_or_released),
    (
        _without_sync("finish_exchange", "_to_trash"),
        protocol.test_the_old_content_is_in_the_trash_durably_before_the_transaction_ends,
    ),
]


def _name(mutant: Mutant) -> str:
    cells = inspect.getclosurevars(mutant[0]).nonlocals
    return f"no_sync_in_{'_and_'.join(cells['where'])}" if "where" in cells else mutant[0].__name__


@pytest.mark.parametrize("mutant", MUTANTS, ids=_name)
def test_a_removed_rule_is_noticed(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, mutant: tuple[Patch, Callable[..., None]]
) -> None:
    patch, check = mutant
    check(studio.fresh("sane"))
    with monkeypatch.context() as context:
        patch(context)
        with pytest.raises(BaseException) as caught:  # any way to fail will do, but for a mutant that does not fit the code
            check(studio.fresh("mutant"))
    assert not isinstance(caught.value, (TypeError, AttributeError, NameError)), caught.value


@pytest.mark.parametrize("mutant", EXCHANGES, ids=_name)
def test_a_removed_rule_of_exchanges_is_noticed(studio: Studio, monkeypatch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    patch, check = mutant
    run = studio.fresh("mutant")
    prepare_exchange(run)
    patch(monkeypatch)
    with pytest.raises(BaseException) as caught:
        check(run)
    assert not isinstance(caught.value, (TypeError, AttributeError, NameError)), caught.value


@pytest.mark.parametrize(
    ("mutant", "check"),
    [
        (nobody_writes, resume.test_a_copy_that_somebody_still_has_open_for_writing_is_made_again),
        (a_copy_that_is_believed, resume.test_a_power_cut_that_left_zeros_is_noticed),
        (an_extractor_that_is_believed_to_have_ended, resume.test_files_of_an_extractor_that_may_still_run_are_not_taken_over),
    ],
)
def test_a_removed_rule_of_resuming_is_noticed(
    show: Path, monkeypatch: pytest.MonkeyPatch, mutant: Patch, check: Callable[[Path], None]
) -> None:
    mutant(monkeypatch)
    with pytest.raises(BaseException) as caught:
        check(show)
    assert not isinstance(caught.value, (TypeError, AttributeError, NameError)), caught.value
