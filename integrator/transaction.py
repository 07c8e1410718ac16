"""A transaction: begin, stage, prepare, confirm, reveal, verdict, finish; or roll back.

The owner's side of the protocol. `commit` reads in the order in which things become durable; undoing and finishing are shared
with recovery. A failed write, fsync or close is fatal: what it concerned is never trusted again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from integrator import __version__, ledger, operations, recovery, storage
from integrator.database import CLAIMS, LEASES, TRANSACTIONS, Change, Delete, Insert, Now, Replace
from integrator.engine import Engine
from integrator.errors import (
    Conflict,
    DatabaseFailed,
    ExpectationFailed,
    Failed,
    InDoubt,
    IntegratorError,
    Interrupted,
    LeaseLost,
    StorageFailed,
    Stuck,
    Unanswered,
    Unsettled,
    text_of,
)  # fmt: skip
from integrator.journal.format import FORMAT, Began, Committed, Prepared, Revealed
from integrator.leases import Held, busy
from integrator.ledger import Plan
from integrator.model import Document, Owner, State, new_id
from integrator.operations import Actor, Overtaken
from integrator.staging import StagingDirectory, make_durable
from integrator.work import Savepoint, Work, write_down

#: Given a transaction id, says what to claim and stage; asked again after the claim, and after a lost race.
Planner = Callable[[str], Plan]

#: Seconds between two looks at a busy lease, and at a finish that somebody else carries out.
_PAUSE: Final = 0.2
#: Times in a row that somebody else may be faster; more of them are nobody's progress.
_RACES: Final = 30
#: Seconds that an owner waits for whoever took its finish over.
_PATIENCE: Final = 60.0
_INTERRUPTIONS: Final = (KeyboardInterrupt, SystemExit, Interrupted)


class Transaction(Work):
    """One transaction and its owner. Leaving a `with` block by an exception rolls back; `commit` is called inside it."""

    # --- begin ----------------------------------------------------------------------------------------------------

    @classmethod
    def begin(cls, engine: Engine, planner: Planner, facts: Mapping[str, Any], *, wait: float = 0.0) -> Transaction:
        """Take leases and claims, settling first what dead owners of them left; waits up to `wait` seconds for live ones.

        `facts` go to the document: publish_id, fingerprint, purpose. Raises `Busy`, `Conflict` on the publish id, `Failed`.
        """
        transaction, facts = new_id(), {"root_id": engine.root_id, **facts}
        try:
            document = _when_free(
                engine, wait, lambda: ledger.begin(
                    engine.database, transaction, planner(transaction), engine.owner, engine.settings.lease, facts)
            )  # fmt: skip
        except (*_INTERRUPTIONS, Unanswered) as error:  # perhaps the commit was made all the same
            cls._take_back_begin(engine, transaction, error)
            if not isinstance(error, Unanswered):
                raise
            raise Failed(f"the database failed before anything was staged: {error}", next="run it again") from error
        opened = cls(engine, document)
        with opened._rolling_back():
            opened._look_again(planner)
            opened._start(facts)
        return opened

    @classmethod
    def adopt(cls, engine: Engine, reservation: Document, facts: Mapping[str, Any], *, wait: float = 0.0) -> Transaction:
        """Go on with a reservation, as its owner: its numbers, and the files that were rendered into its directories.

        Raises `Busy`, `Conflict` if somebody else adopted or released it, `Failed`.
        """
        try:
            document = _when_free(engine, wait, lambda: _adopt(engine, reservation, facts))
        except (*_INTERRUPTIONS, Unanswered) as error:  # perhaps the commit was made all the same
            cls._take_back_adoption(engine, reservation, error)
            if not isinstance(error, Unanswered):
                raise
            raise Failed(f"the database failed before anything was staged: {error}", next="run it again") from error
        opened = cls(engine, document)
        with opened._rolling_back():
            opened._start(facts)
        return opened

    def _start(self, facts: Mapping[str, Any]) -> None:
        """The steps of a begin that follow its commit."""
        engine = self._engine
        engine.renewal.hold(self.id, self.document["actor"], self.document["leases"])
        began = Began(
            format=FORMAT, transaction=self.id, root_id=engine.root_id, engine=__version__, plugins=list(facts.get("plugins", ()))
        )
        self._journal = engine.journals.create(self.id, began, engine.settings.file_mode)
        self._stage_from(0)

    @classmethod
    def _take_back_adoption(cls, engine: Engine, reservation: Document, error: BaseException) -> None:
        """Make sure that an adoption without an answer is not in and cannot arrive any more; the reservation stays."""
        try:
            ledger.fence_adoption(engine.database, reservation)
        except Conflict:
            found = engine.database.read(TRANSACTIONS, reservation["_id"])
            if found and found["state"] == State.OPEN.value and Owner(**found["owner"]) == engine.owner:
                cls(engine, found).roll_back(error)
        except IntegratorError as second:
            message = f"the database failed when this publish began ({second}). Nothing was staged, and nothing is published"
            raise Unsettled(message, next="integrator recover") from error

    @classmethod
    def _take_back_begin(cls, engine: Engine, transaction: str, error: BaseException) -> None:
        """Make sure that a begin without an answer is not in and cannot arrive any more: something ended takes its id."""
        ended = {"_id": transaction, "state": State.ROLLED_BACK.value, "created": Now(), "directories": [], "purpose": "begin"}
        try:
            engine.database.commit([Insert(collection=TRANSACTIONS, document=ended)])
        except Conflict:
            if found := engine.database.read(TRANSACTIONS, transaction):
                cls(engine, found).roll_back(error)
        except IntegratorError as second:
            message = f"the database failed when this publish began ({second}). Nothing was staged, and nothing is published"
            raise Unsettled(message, next="integrator recover") from error

    def extend(self, planner: Planner, *, wait: float = 0.0) -> list[StagingDirectory]:
        """Add directories to the transaction; returns their staging directories. Raises as `begin` does."""
        first, engine = len(self.staging), self._engine
        self._open_journal()
        try:
            _when_free(
                engine,
                wait,
                lambda: ledger.extend(engine.database, self.document, planner(self.id), engine.settings.lease),
            )
        except (Unanswered, Conflict) as error:  # what the database holds of it is not known here, or is not ours any more
            self.roll_back(error)
            raise
        with self._rolling_back():
            engine.renewal.hold(self.id, self.document["actor"], self.document["leases"])
            self._stage_from(first)
        return [staging for staging in self.staging[first:] if staging is not None]

    def _look_again(self, planner: Planner) -> None:
        """Only under lease and claim is it certain that a number is free; somebody outside may have taken it just before."""
        for _ in range(100):
            plan = planner(self.id)
            if set(plan.claims) == set(self.document["claims"]):
                return
            with contextlib.suppress(Conflict):
                ledger.move_claims(self._engine.database, self.document, plan)
        raise Failed("version numbers are taken as fast as they are claimed", next="run it again")

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.roll_back(error)

    # --- commit ---------------------------------------------------------------------------------------------------

    def commit(self, summary: Document) -> Document:
        """Make it so: prepare, confirm, reveal, verdict, finish. Returns the document, `finished`.

        Raises `Failed` after a complete rollback, `Unsettled` when the outcome is not known or something is left to do.
        """
        self._open_journal()
        with self._rolling_back():
            self._show()
            for holds in self._expectations:
                holds()
            finishing = self._finishing()
        # 6: the one write that decides.
        self._verdict(summary, finishing)
        # 7, 8: what the verdict decided is carried out; only then is it acknowledged.
        self._finish()
        return self.document

    def reveal(self) -> None:
        """Give everything that is staged its final name now, minutes before the verdict perhaps.

        Nothing can be added to those directories afterwards; a failure still withdraws them. Raises as `commit`.
        """
        self.refuse_doomed()
        with self._rolling_back():
            self._show()
        self._revealed_after = self._savepoints
        for _, staging in self._live():
            staging.sealed = True

    def _show(self) -> None:
        # 4: everything is there, unchanged and durable before anybody can see it.
        self._prepare()
        # 4b: whoever took over before this takes the staging names away, so that the rename below cannot happen.
        ledger.confirm(self._engine.database, self.document)
        # 5: every directory gets its final name in one rename, durable before a document can name it.
        self._reveal()

    def _prepare(self) -> None:
        journal = self._open_journal()
        for index, staging in self._live():
            staging.verify()
            if staging.directory.reserved and not staging.revealed:
                root_fd = self.root(staging.directory.root)
                actor = Actor.of(self.document)
                operations.drop_promised(self._engine, actor, index, staging.directory, root_fd)
        for change in self._changes[self._documented :]:
            write_down(journal, change)
        self._documented = len(self._changes)
        for pointer in self._pointers:
            write_down(journal, _as_change(pointer))
        hidden = [staging for _, staging in self._live() if not staging.revealed]
        if make_durable(self._engine.storage, hidden):
            # A new folder is durable when its parent is; a few calls at most, and none where all folders existed.
            for root, path in sorted({(root, path.rpartition("/")[0]) for root, path in self.document["folders"]}):
                with storage.folder(path, self.root(root)) as at:
                    self._engine.storage.sync(at)
        for plan in self._exchanges:
            parent, _, name = plan["path"].rpartition("/")
            with storage.folder(parent, self.root(plan["root"])) as at:
                plan["replaces"] = operations.identity_list(name, at)
        self._identities = [staging.identity() if staging else None for staging in self.staging]
        identities = [[found.inode, found.born] if found else [] for found in self._identities]
        journal.write(Prepared(directories=identities, exchanges=[plan["identity"] for plan in self._exchanges]))
        journal.sync()

    def _reveal(self) -> None:
        revealed = [(index, staging) for index, staging in self._live() if not staging.directory.exchanged]
        for index, staging in revealed:
            if staging.revealed:
                continue
            old, new = (path.rpartition("/")[2] for path in (staging.directory.staging, staging.directory.final))
            try:
                self._engine.storage.rename(old, staging.parent_fd, new, staging.parent_fd)
            except OSError as error:
                # After a lost reply the errno lies; what has the name now does not.
                if storage.identity(new, staging.parent_fd) != self._identities[index]:
                    raise StorageFailed("give its final name to", staging.directory.final, error) from error
            staging.revealed = True
            self._open_journal().write(Revealed(directory=index))
        parents = {(staging.directory.root, staging.directory.parent): staging.parent_fd for _, staging in revealed}
        for fd in parents.values():
            self._engine.storage.sync(fd)

    def _finishing(self) -> list[Document]:
        """What is left to do after the verdict, in its order."""
        finishing = [*self._directory_exchanges(), *self._exchanges, *self._deferred]
        moved = sum(1 for _, staging in self._live() for _ in staging.moved_sources())
        if moved:
            finishing.append({"kind": "move", "count": moved, "owner": self.document["actor"]})
        return finishing

    def _verdict(self, summary: Document, finishing: Sequence[Document]) -> None:
        try:
            ledger.verdict(self._engine.database, self.document, self._changes, finishing, summary, self._pointers)
        except BaseException as error:
            self._settle_verdict(error)

    def _directory_exchanges(self) -> Iterator[Document]:
        """What is left to do for hero and amended versions, in the order they were staged: the files before the links to them."""
        for index, staging in self._live():
            if staging.directory.exchanged:
                self._number += 1
                directory, found = staging.directory, self._identities[index]
                assert found is not None, "prepared"
                name = directory.final.rpartition("/")[2]
                yield {
                    "kind": "exchange", "number": self._number, "index": index, "root": directory.root, "path": directory.final,
                    "private": directory.private, "staged": directory.staging, "identity": [found.inode, found.born, found.size],
                    "replaces": operations.identity_list(name, staging.parent_fd),
                }  # fmt: skip

    def _settle_verdict(self, error: BaseException) -> None:
        """After an error at the verdict: roll back if that can still be won, go on if it is in, else leave all in place.

        A read that says `open` would prove nothing: the write may still be on its way. Winning the compare-and-swap does.
        """
        try:
            self.roll_back(error)
        except _Decided as decided:
            self.document.update(decided.document)
            return
        except LeaseLost:
            raise
        except Unsettled as unsettled:
            raise self._in_doubt() if isinstance(error, Unanswered) else unsettled from error
        if isinstance(error, Conflict):
            raise _refused(error) from error
        if isinstance(error, Unanswered):
            raise Failed(f"the database did not answer ({error}); everything is as before", next="run it again") from error
        raise error

    def _in_doubt(self) -> InDoubt:
        message = "the database gave no answer to the commit, so it is not known whether this is published. Nothing was undone"
        error = InDoubt(message, next=f"integrator recover {self.id}")
        error.transaction = self.id
        return error

    def _finish(self) -> None:
        try:
            if self._journal is not None:
                with contextlib.suppress(StorageFailed):  # the database has decided; this record is for people
                    self._journal.write(Committed())
                    self._journal.flush()
            if self.state is State.COMMITTED:
                recovery.finish(self._engine, self.document, self._remove_sources())
            else:
                recovery.archive(self._engine, self.id)
        except _INTERRUPTIONS:
            return self._finish()  # it is published: the run may end when that is complete
        except (Conflict, Overtaken):
            self._wait_for_finish()
        except (IntegratorError, OSError) as error:
            message = f"it is published, but not everything that belongs to it is done yet: {error}"
            unfinished = Unsettled(message, next=f"integrator recover {self.id}")
            unfinished.transaction = self.id
            self._give_up()
            raise unfinished from error
        self.close()

    def _give_up(self) -> None:
        with contextlib.suppress(IntegratorError):
            ledger.give_up(self._engine.database, self.document)
        self.close()

    def _remove_sources(self) -> list[str]:
        actor = Actor.of(self.document)
        moved = (source for _, staging in self._live() for source in staging.moved_sources())
        left = [operations.remove_source(self._engine, actor, *source) for source in moved]
        return [reason for reason in left if reason]

    def _wait_for_finish(self) -> None:
        """Somebody took the finish over: never answer from memory, wait until the document says `finished`."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if recovery.settle(self._engine, self.id).outcome == "finished":
                self.document.update(self._engine.database.read(TRANSACTIONS, self.id) or {}, state=State.FINISHED.value)
                return
            time.sleep(_PAUSE)
        raise Unsettled("it is published, and another process is finishing it", next=f"integrator recover {self.id}")

    # --- roll back ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _rolling_back(self) -> Iterator[None]:
        """Whatever goes wrong inside rolls the transaction back before it is raised."""
        try:
            yield
        except BaseException as error:
            failed = StorageFailed("publish", error.filename or "", error) if isinstance(error, OSError) else error
            self.roll_back(failed)
            if failed is error:
                raise
            raise failed from error

    def roll_back(self, cause: BaseException | None = None) -> None:
        """Undo everything; does nothing once the transaction has ended.

        Raises `Unsettled` if that cannot be done now, `LeaseLost` if somebody else decides; the error that led here is the cause.
        """
        if self.state is not State.OPEN or self._over or not self.is_ours:
            return
        self._over = True
        if isinstance(cause, IntegratorError):
            cause.transaction = cause.transaction or self.id
            if self.document.get("successor") and not cause.next:
                cause.next = "integrator status"  # the reservation goes on, and its staging directory has another name
        try:
            reason = f"{type(cause).__name__}: {text_of(cause)}" if cause is not None else ""
            interrupted = isinstance(cause, _INTERRUPTIONS)
            ledger.start_rollback(self._engine.database, self.document, reason, interrupted=interrupted)
            if self._journal is not None:
                with contextlib.suppress(StorageFailed):  # how far it came, for people; what is undone is known without it
                    self._journal.flush()
            # The reply to an extension may have been lost: what the database holds now is what must be released.
            self.document.update(self._engine.database.read(TRANSACTIONS, self.id) or {})
            recovery.undo(self._engine, self.document, self.evidence())
            if isinstance(cause, IntegratorError):
                cause.left = self.document["left"] or ()
        except Conflict:
            try:
                self._step_aside(cause)
            except DatabaseFailed as error:
                raise self._not_rolled_back(error, cause) from cause
        except Stuck as stuck:
            with contextlib.suppress(IntegratorError):
                ledger.mark_stuck(self._engine.database, self.document, str(stuck))
            raise self._not_rolled_back(stuck, cause) from cause
        except (IntegratorError, OSError) as error:
            raise self._not_rolled_back(error, cause) from cause
        finally:
            self.close()

    def _step_aside(self, cause: BaseException | None) -> None:
        """Somebody else decides now: only what we made ourselves, under the names we gave it, is ours to remove."""
        found = self._engine.database.read(TRANSACTIONS, self.id) or {}
        if found.get("state") in (State.COMMITTED.value, State.FINISHED.value):
            raise _Decided(found)
        actor = Actor.of(self.document)
        for index, staging in self._live():
            with contextlib.suppress(OSError, IntegratorError):
                operations.capture_own(self._engine, actor, index, staging.directory, self.root(staging.directory.root))
        for plan in self._exchanges:
            with contextlib.suppress(OSError, IntegratorError):
                operations.undo_exchange(self._engine, actor, plan, self.root(plan["root"]))
        with contextlib.suppress(OSError, IntegratorError):
            folders = [(root, path) for root, path in self.document["folders"]]
            operations.remove_folders(self._engine, folders, {root: self.root(root) for root, _ in folders})
        self.document["state"] = State.ROLLED_BACK.value
        if not isinstance(cause, LeaseLost):
            raise ledger.lease_lost(found) from cause

    def _not_rolled_back(self, error: Exception, cause: BaseException | None) -> Unsettled:
        if self.state is State.ROLLING_BACK:
            self._give_up()
        first = f"{text_of(cause)}. Then the rollback failed too: " if cause is not None else "The rollback failed: "
        unsettled = Unsettled(f"{first}{error}. Nothing that is published was touched", next=f"integrator recover {self.id}")
        unsettled.transaction = self.id
        return unsettled

    def close(self) -> None:
        """Let go of descriptors and of the renewal. The transaction itself is settled by commit, rollback or recovery."""
        self._engine.renewal.drop(self.id)
        if self._journal is not None:
            self._journal.close()
        self._stack.close()
        self._roots.clear()


def _as_change(pointer: Document) -> Change:
    place = {"collection": pointer["collection"], "id": pointer["id"], "expect": {}}
    return Delete(**place) if pointer["document"] is None else Replace(**place, document=pointer["document"])


class _Decided(Exception):
    """The verdict turned out to be in; the document as it is."""

    def __init__(self, document: Document) -> None:
        super().__init__(document["_id"])
        self.document = document


def _when_free(engine: Engine, wait: float, attempt: Callable[[], Any]) -> Any:
    """Try until the leases are free: settle what dead owners left, wait for live ones."""
    end, settled, lost = time.monotonic() + wait, set[str](), 0
    while True:
        try:
            return attempt()
        except Held as held:
            lost = 0
            holder = held.lease["transaction"]
            found = recovery.settle(engine, holder)
            if found.outcome != "alive" and holder not in settled:
                settled.add(holder)  # a stuck one may have let go of its lease; its number stays taken
                continue
            if found.outcome in ("in_doubt", "stuck"):
                raise Unsettled(f"an earlier publish is not settled: {found.message}", next=found.next) from None
            if time.monotonic() >= end:
                raise busy(held) from None
            time.sleep(_PAUSE)
        except Conflict as error:
            if error.collection == TRANSACTIONS:
                raise  # the publish id is in use, or the transaction was taken over
            # Somebody else got the lease or the number first: look again.
            lost += 1
            if lost >= _RACES:
                message = (
                    f"a soft lock or a version number could not be had in {lost} attempts ({error}). Nothing was touched by them"
                )
                raise Failed(message, next="run it again") from error
            time.sleep(_PAUSE / 10)


def _adopt(engine: Engine, reservation: Document, facts: Mapping[str, Any]) -> Document:
    try:
        return ledger.adopt(engine.database, reservation, engine.owner, engine.settings.lease, facts)
    except Conflict as error:
        if error.collection != CLAIMS:
            raise
        lost = f"the number that was reserved is not claimed any more ({error}). Nothing was touched"
        raise Failed(lost, next=f"integrator show {reservation['_id']}") from error


def _refused(error: Conflict) -> Failed:
    if error.collection in (LEASES, CLAIMS, TRANSACTIONS):
        return LeaseLost("the soft lock was lost or broken before the verdict. Everything is as before", next="run it again")
    message = f"a document is not what this publish expects to find ({error}). Everything is as before"
    return ExpectationFailed(message, next="run it again")


__all__ = ["Planner", "Savepoint", "Transaction"]
