"""Settling a transaction: undo before the verdict, redo after it.

`undo` and `finish` are run by the owner as well as by whoever takes a transaction over; both can be killed anywhere and
repeated. Nothing here decides by a local clock or by the absence of a file alone: the database is asked first, and absence is
believed only below a root that was seen to be the right one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from integrator import ledger, operations
from integrator.database import PROJECT, TRANSACTIONS
from integrator.engine import Engine
from integrator.errors import Conflict, DatabaseDamaged, DatabaseFailed, IntegratorError, RootMissing, Stuck, Unsettled
from integrator.evidence import Evidence, evidence_of, moved_sources, no_evidence
from integrator.journal import JournalDamaged
from integrator.layout import STAGING_MARK
from integrator.leases import Held
from integrator.model import ENDED, Document, Owner, State
from integrator.operations import Actor, Keep

#: Times in a row that another program may change a document that is to be written.
_RACES: Final = 10


@attrs.frozen(kw_only=True)
class Settled:
    """How one transaction stands after recovery looked at it."""

    transaction: str
    #: rolled_back, finished, in_doubt, stuck or alive.
    outcome: str
    #: What a person should know, "" if nothing.
    message: str = ""
    next: str = ""


# --- undo -----------------------------------------------------------------------------------------------------------


def undo(engine: Engine, document: Document, evidence: Evidence, *, same_publish: bool = False) -> None:
    """Undo a transaction whose rollback this actor has won, and release what it held.

    What an extractor or renderer produced is kept for the next attempt; with `same_publish`, which says that this is the next
    attempt, what was copied is, too. A reservation goes on. Every step is tried even if another one fails. Raises `Stuck` or
    `Unsettled` with all errors if something is left to undo.
    """
    keep = _keep(engine, document, same_publish)
    actor, errors, left = Actor.of(document), list[Exception](), list[str]()
    with contextlib.ExitStack() as stack:
        roots = {name: stack.enter_context(engine.root(name)) for name in _roots(document, evidence)}
        for number, name, arguments, result in reversed(evidence.effects):
            with _collecting(errors):
                operations.compensate_effect(engine, actor, number, name, arguments, result)
        for index, directory in reversed(list(enumerate(ledger.directories(document)))):
            with _collecting(errors):
                proof = evidence.proofs[index]
                operations.remove_discarded(engine, actor.transaction, directory, roots[directory.root])
                kept_here = Keep.NOTHING if directory.exchanged and document.get("successor") else keep
                left += operations.undo_directory(engine, actor, index, directory, proof, roots[directory.root], kept_here)
        for plan in evidence.exchanges:
            with _collecting(errors):
                operations.undo_exchange(engine, actor, plan, roots[plan["root"]])
        with _collecting(errors):
            folders = [(root, path) for root, path in document["folders"]]
            operations.remove_folders(engine, [*folders, *evidence.folders], roots)
        foreign = any(reason.endswith(operations.FOREIGN) for reason in left)
        # Without a journal to go by, what stands at the final path may be what was promised.
        doubtful = bool(document.get("successor")) and not evidence.believed
        burn = foreign or doubtful or (evidence.revealed and len(document["undoers"]) > 1)
        goes_on = bool(document.get("successor")) and not burn
        kept: list[Document] = []
        for index, directory in enumerate(ledger.directories(document)) if not errors else ():
            if directory.exchanged and document.get("successor"):
                continue  # a reservation promises no hero version
            root_fd, promised = roots[directory.root], f"{directory.final}{STAGING_MARK}{document.get('successor')}"
            with _collecting(errors):
                if goes_on:
                    operations.put_back(engine, actor, index, directory, promised, root_fd)
                    continue
                if document.get("successor"):
                    operations.capture_successor(engine, actor, index, directory, promised, root_fd)
                paths = operations.kept_files(actor, index, directory, root_fd) if keep is not Keep.NOTHING else []
                kept += [{"directory": index, "root": directory.root, "path": path} for path in paths]
    for error in errors:
        if isinstance(error, operations.Overtaken):
            raise error
    if errors:
        raise _cannot_undo(document, errors)
    ledger.rolled_back(engine.database, document, burn=burn, left=left, kept=kept, goes_on=goes_on)
    archive(engine, document["_id"])


def _keep(engine: Engine, document: Document, same_publish: bool) -> Keep:
    # Only these have files that somebody else produced; a publish of a request can make all of its files again.
    if document.get("successor"):
        return Keep.EVERYTHING if same_publish else Keep.PRODUCED
    if document.get("expires") or document.get("purpose") == "assembly":
        return Keep.PRODUCED if engine.settings.keep_failed > 0 else Keep.NOTHING
    return Keep.EVERYTHING if same_publish else Keep.NOTHING


@contextlib.contextmanager
def _collecting(errors: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        errors.append(error)


def _cannot_undo(document: Document, errors: Sequence[Exception]) -> Unsettled:
    kind = Stuck if any(isinstance(error, Stuck) for error in errors) else Unsettled
    reasons = "; ".join(map(_reason, errors))
    said = (error.next for error in errors if isinstance(error, Stuck) and error.next)
    error = kind(f"the rollback is not complete: {reasons}", next=next(said, f"integrator recover {document['_id']}"))
    error.__cause__ = errors[0]
    error.transaction = document["_id"]
    return error


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{error} (whoever owns it, or root, can mend that: integrator doctor --fix)"
    return str(error)


def _roots(document: Document, evidence: Evidence) -> set[str]:
    return {entry["root"] for entry in [*document["directories"], *evidence.exchanges]} | {
        root for root, _ in [*document["folders"], *evidence.folders]
    }


# --- finish ---------------------------------------------------------------------------------------------------------


def finish(engine: Engine, document: Document, left: Sequence[str] = ()) -> None:
    """Carry out what the verdict decided, as its present actor; whatever is done already stays done.

    Raises `errors.Conflict` or `operations.Overtaken` if another actor took over, `Stuck`, `OSError`.
    """
    actor = Actor.of(document)
    reports = list(left)
    with contextlib.ExitStack() as stack:
        roots = {plan["root"]: stack.enter_context(engine.root(plan["root"])) for plan in _exchanges(document)}
        for plan in document["finish"]:
            if plan["kind"] == "exchange":
                operations.finish_exchange(engine, actor, plan, roots[plan["root"]])
            elif plan["kind"] == "effect":
                operations.call_effect(engine, actor, plan["number"], plan["name"], plan["arguments"])
            elif plan["kind"] == "move" and actor.number != plan["owner"]:
                reports.append(f"sources of {plan['count']} moved files were left where they are: only their owner removes them")
                reports += filter(
                    None, (operations.put_back_source(engine, actor, path) for path in moved_sources(engine, document))
                )
    _write_finished(engine, document, reports)
    archive(engine, document["_id"])


def _write_finished(engine: Engine, document: Document, reports: Sequence[str]) -> None:
    """Complete the pointer documents and end the transaction, in one commit.

    Nobody of ours changes those documents before that; another program may, between the read and the commit. Raises `Conflict`
    if another actor took over, `Stuck`.
    """
    for _ in range(_RACES):
        try:
            return ledger.finished(engine.database, document, ledger.pointer_changes(engine.database, document), reports)
        except Conflict as error:
            if not error.collection.startswith(PROJECT):
                raise
            reason = error
    raise Stuck(
        f"the files are in place, but another program keeps their documents from being written ({reason})",
        next=f"integrator recover {document['_id']}",
    )


def _exchanges(document: Document) -> list[Document]:
    return list({plan["root"]: plan for plan in document["finish"] if plan["kind"] == "exchange"}.values())


def archive(engine: Engine, transaction: str) -> None:
    # The document has ended: a journal that stays behind is archived by the next recovery.
    with contextlib.suppress(OSError):
        engine.journals.archive(transaction)


# --- settling what somebody left ------------------------------------------------------------------------------------


def settle(engine: Engine, transaction: str, *, same_publish: bool = False, journal: bool = True) -> Settled:
    """Settle one transaction if its owner is gone; every error becomes the outcome.

    `same_publish` says that the caller retries the same publish id, whose scheduler knows the first attempt to be over. Without
    `journal` its journal is not believed: only what the document names is undone.
    """
    document = engine.database.read(TRANSACTIONS, transaction)
    if document is None or State(document["state"]) in ENDED:
        archive(engine, transaction)
        outcome = "finished" if document and document["state"] == State.FINISHED.value else "rolled_back"
        return Settled(transaction=transaction, outcome=outcome)
    if document["state"] == State.RESERVED.value:
        if engine.database.now() < document["expires"]:
            return Settled(transaction=transaction, outcome="alive", message=f"it is reserved for {document['publish_id']}")
        return give_back(engine, document, "expired")
    rows = ledger.lease_rows(engine.database, document)
    owner = None if document.get("stuck") or document.get("given_up") else Owner(**document["owner"])
    if not rows:  # one that has locked nothing yet is renewed in its document
        seen = document.get("renewed") or document["created"]
        sign = {"_id": transaction, "token": 0, "counter": seen, "renewed": seen, "expires": seen}
    if not engine.watcher.gone(rows or [sign], owner, engine.database.now(), same_publish=same_publish):
        return Settled(transaction=transaction, outcome="alive", message=f"{owner} is at work on it")
    return _answered(transaction, lambda: _settle_dead(engine, document, rows, journal, same_publish))


def give_back(engine: Engine, document: Document, reason: str) -> Settled:
    """Undo a reservation that is not wanted any more; what was rendered into its staging directory is kept for a while."""

    def given_back() -> Settled:
        _see_roots(engine, document)
        return _carry_out(engine, ledger.give_back(engine.database, document, engine.owner, reason), journal=True)

    return _answered(document["_id"], given_back)


def _answered(transaction: str, settling: Callable[[], Settled]) -> Settled:
    try:
        return settling()
    except (Conflict, Held, operations.Overtaken):
        return Settled(transaction=transaction, outcome="alive", message="somebody else is settling it")
    except Stuck as error:
        return _stuck(transaction, error)
    except (IntegratorError, OSError) as error:
        outcome = "in_doubt" if isinstance(error, (RootMissing, DatabaseFailed, DatabaseDamaged)) else "stuck"
        following = getattr(error, "next", "") or f"integrator recover {transaction}"
        return Settled(transaction=transaction, outcome=outcome, message=str(error), next=following)


def _settle_dead(engine: Engine, document: Document, rows: Sequence[Document], journal: bool, same_publish: bool) -> Settled:
    _see_roots(engine, document)
    document = ledger.take_over(engine.database, document, rows, engine.owner, engine.settings.lease)
    return _carry_out(engine, document, journal=journal, same_publish=same_publish)


def _see_roots(engine: Engine, document: Document) -> None:
    """A root that is not mounted settles nothing, not even a take-over. Raises `RootMissing`."""
    with contextlib.ExitStack() as stack:
        roots = {name: stack.enter_context(engine.root(name)) for name in {entry["root"] for entry in document["directories"]}}
        for name, private in {(entry["root"], entry["private"]) for entry in document["directories"]}:
            engine.see_mount(name, private, roots[name])


def _carry_out(engine: Engine, document: Document, *, journal: bool, same_publish: bool = False) -> Settled:
    """Undo or finish a transaction that this actor has won."""
    engine.renewal.hold(document["_id"], document["actor"], document["leases"])
    try:
        if document["state"] == State.COMMITTED.value:
            finish(engine, document)
            return Settled(transaction=document["_id"], outcome="finished", message=_left(engine, document["_id"]))
        evidence = evidence_of(engine, document) if journal else no_evidence(document)
        undo(engine, document, evidence, same_publish=same_publish)
        return Settled(transaction=document["_id"], outcome="rolled_back", message=_left(engine, document["_id"]))
    except Stuck as error:
        with contextlib.suppress(IntegratorError):  # only as long as we are its actor
            ledger.mark_stuck(engine.database, document, str(error))
        raise
    except (IntegratorError, OSError):
        with contextlib.suppress(IntegratorError):  # this process may live for days, and nobody waits for it
            ledger.give_up(engine.database, document)
        raise
    finally:
        engine.renewal.drop(document["_id"])


def _left(engine: Engine, transaction: str) -> str:
    """What had to be left, and what was kept for another attempt, for people."""
    document = engine.database.read(TRANSACTIONS, transaction) or {}
    paths = [os.path.join(engine.roots[entry["root"]], entry["path"]) for entry in document.get("kept") or ()]
    kept = [f"kept until it is swept: {path}" for path in paths]
    return "; ".join([*(document.get("left") or ()), *kept])


def _stuck(transaction: str, error: Stuck) -> Settled:
    following = error.next or f"integrator show {transaction}"
    return Settled(transaction=transaction, outcome="stuck", message=str(error), next=following)


def roll_back(engine: Engine, transaction: str) -> Settled:
    """Roll back an open or stuck transaction whose owner is gone, on the word of the database alone if its journal is damaged.

    Then only its staging directories are removed; what stands at a final path stays.
    """
    document = engine.database.read(TRANSACTIONS, transaction)
    if document is None or document["state"] not in (State.OPEN.value, State.ROLLING_BACK.value):
        state = document["state"] if document else "unknown"
        return Settled(transaction=transaction, outcome="alive", message=f"it is {state}; only an open one can be rolled back")
    try:
        evidence_of(engine, document)
    except JournalDamaged:
        return settle(engine, transaction, journal=False)
    return settle(engine, transaction)


def recover(engine: Engine) -> list[Settled]:
    """Settle everything whose owner is gone, and archive the journals of what has ended."""
    settled = []
    for document in ledger.unsettled(engine.database):
        stuck = document.get("stuck")
        if stuck:  # it will not go on by itself; `recover TXID` tries it again
            following = f"integrator recover {document['_id']}"
            settled.append(Settled(transaction=document["_id"], outcome="stuck", message=stuck["reason"], next=following))
        else:
            settled.append(settle(engine, document["_id"]))
    now = engine.database.now()
    settled += [settle(engine, entry["_id"]) for entry in ledger.reservations(engine.database) if entry["expires"] <= now]
    for transaction in engine.journals.unfinished():
        known = engine.database.read(TRANSACTIONS, transaction)
        if known is not None and State(known["state"]) in ENDED:
            archive(engine, transaction)
    return settled
