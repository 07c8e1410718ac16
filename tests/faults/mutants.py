"""Small changes of the engine, each of which removes one rule. Applied in the process under test; see `test_mutants`."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from typing import Any

from integrator import leases, ledger, operations, recovery, storage
from integrator.database import TRANSACTIONS, Update
from integrator.engine import Engine
from integrator.errors import Conflict
from integrator.journal import Journal
from integrator.model import State
from integrator.storage import Storage
from integrator.transaction import Transaction


def no_confirm_before_the_reveal() -> None:
    ledger.confirm = lambda database, document: None


def deletion_in_place() -> None:
    """Delete what is in a staging directory where it is, instead of capturing it first."""
    plain = operations.rename_away

    def rename_away(engine: Any, name: str, at: int, private_name: str, private: int) -> bool:
        if ".tmp." not in name:
            return plain(engine, name, at, private_name, private)
        if storage.exists(name, at):
            engine.storage.remove_tree(name, at)
        return False

    operations.rename_away = rename_away


def no_compare_and_swap_at_the_owners_rollback() -> None:
    def start_rollback(database: Any, document: Any, error: str) -> None:
        undoers = [*document["undoers"], document["actor"]]
        changed = {"state": State.ROLLING_BACK.value, "actor": document["actor"], "undoers": undoers, "error": error}
        database.commit([Update(collection=TRANSACTIONS, id=document["_id"], expect={}, set=changed)])
        document.update(changed)

    ledger.start_rollback = start_rollback


def no_burnt_numbers() -> None:
    plain = ledger.rolled_back
    ledger.rolled_back = lambda database, document, *, burn, left: plain(database, document, burn=False, left=left)


def plain_rename() -> None:
    def rename(self: Storage, old: str, old_at: int, new: str, new_at: int) -> None:
        os.rename(old, new, src_dir_fd=old_at, dst_dir_fd=new_at)

    Storage.rename = rename  # type: ignore[method-assign]


def _without_sync(wanted: Callable[[str, int], bool]) -> None:
    """No sync where `wanted(name of the calling function, mode of what is synced)`."""
    plain = Storage.sync

    def sync(self: Storage, fd: int) -> None:
        if not wanted(sys._getframe(1).f_code.co_name, os.fstat(fd).st_mode):
            plain(self, fd)

    Storage.sync = sync  # type: ignore[method-assign]


def no_sync_of_staged_files() -> None:
    _without_sync(lambda caller, mode: caller == "sync_files" and stat.S_ISREG(mode))


def no_sync_of_staged_folders() -> None:
    _without_sync(lambda caller, mode: caller == "sync_files" and stat.S_ISDIR(mode))


def no_sync_of_folders_made_above() -> None:
    _without_sync(lambda caller, mode: caller in ("_prepare", "make_durable"))


def no_sync_of_the_file_system() -> None:
    Storage.sync_filesystem = lambda self, fd: None  # type: ignore[method-assign]


def no_sync_of_the_journal() -> None:
    Journal.sync = Journal.flush  # type: ignore[method-assign]


def no_sync_of_parents_after_the_reveal() -> None:
    _without_sync(lambda caller, mode: caller == "_reveal")


def no_sync_of_a_withdrawal() -> None:
    _without_sync(lambda caller, mode: caller == "_withdraw")


def no_sync_of_an_exchange() -> None:
    _without_sync(lambda caller, mode: caller in ("finish_exchange", "_to_trash"))


def no_lease_fence_in_the_verdict() -> None:
    plain = leases.releases
    leases.fences = lambda tokens, transaction: []
    leases.releases = lambda tokens, transaction, *, unbroken=False: plain(tokens, transaction)


def no_second_look_after_the_claim() -> None:
    Transaction._look_again = lambda self, planner: None  # type: ignore[method-assign]


def release_before_the_withdrawal() -> None:
    release, undo = ledger.rolled_back, recovery.undo

    def released_first(engine: Any, document: Any, evidence: Any) -> None:
        release(engine.database, document, burn=evidence.revealed and len(document["undoers"]) > 1, left=())
        undo(engine, document, evidence)

    recovery.undo = released_first
    ledger.rolled_back = lambda database, document, *, burn, left: None


def an_open_that_is_an_answer() -> None:
    """After an error at the commit: read the document, and if it says `open`, roll back without having won that."""
    plain, release = ledger.start_rollback, ledger.rolled_back

    def start_rollback(database: Any, document: Any, error: str) -> None:
        if "Unanswered" not in error:
            return plain(database, document, error)
        found = database.read(TRANSACTIONS, document["_id"])
        if found["state"] != State.OPEN.value:
            raise Conflict(TRANSACTIONS, document["_id"], found["state"])
        document.update(state=State.ROLLING_BACK.value, undoers=[1], believed=True)
        return None

    def rolled_back(database: Any, document: Any, *, burn: bool, left: Any) -> None:
        if document.pop("believed", False):
            document["state"] = State.ROLLED_BACK.value
        else:
            release(database, document, burn=burn, left=left)

    ledger.start_rollback, ledger.rolled_back = start_rollback, rolled_back


def no_look_at_the_marker_of_a_root() -> None:
    Engine._check_marker = lambda self, name, path, fd: None  # type: ignore[method-assign]


def anything_at_a_final_path_is_ours() -> None:
    def withdraw(engine: Any, directory: Any, proof: Any, parent: int, private: int, mine: str) -> bool:
        return bool(operations.rename_away(engine, directory.final.rpartition("/")[2], parent, mine, private))

    operations._withdraw = withdraw


def no_acknowledged_commit() -> None:
    """SQLite in its fast mode: a commit returns before it is durable."""
    from integrator.database.sqlite import SQLiteDatabase

    plain = SQLiteDatabase._set_up

    def set_up(self: Any) -> None:
        plain(self)
        self._connection.execute("PRAGMA synchronous=NORMAL")

    SQLiteDatabase._set_up = set_up  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        no_confirm_before_the_reveal, deletion_in_place, no_compare_and_swap_at_the_owners_rollback, no_burnt_numbers,
        plain_rename,
        no_sync_of_staged_files, no_sync_of_staged_folders, no_sync_of_folders_made_above, no_sync_of_the_file_system,
        no_sync_of_the_journal, no_sync_of_parents_after_the_reveal, no_sync_of_a_withdrawal, no_sync_of_an_exchange,
        no_lease_fence_in_the_verdict, no_second_look_after_the_claim, release_before_the_withdrawal, an_open_that_is_an_answer,
        no_look_at_the_marker_of_a_root, anything_at_a_final_path_is_ours, no_acknowledged_commit,
    )
}  # fmt: skip


def apply(name: str) -> None:
    """Remove the rule of this name; "" leaves the engine as it is."""
    if name:
        MUTANTS[name]()
