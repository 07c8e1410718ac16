"""The document of a transaction, and every change of its state.

Each function is one commit, conditional on the state and the actor that it expects: nobody undoes or finishes anything before
winning such a compare-and-swap. A lost one raises `errors.Conflict`.

The document: ``{"_id", "schema", "state", "actor", "actors", "undoers", "publish_id", "fingerprint", "owner", "began", "purpose",
"root_id", "created", "directories", "folders", "leases": {key: token}, "claims": {key: [lease, number]}, "summary", "finish",
"stuck", "error", "left", "kept", "attempts", "progress"}``. `actor` is the number of the present actor; `actors` are all there
were, ascending; `undoers` those of them that were to roll back; `began` is its first owner, `attempts` what was tried before it.
One that amends what a publish id published, because that changed, has an id of its own, and that id in `amends`.

A reserved one has `expires`, `reservation` (a digest of what it is for) and `successor`: the id under which it goes on if the
publish that adopts it is rolled back, None once it was given back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from integrator import leases
from integrator.database import CLAIMS, LEASES, POINTERS, TRANSACTIONS, Change, Database, Delete, Insert, Now, Replace, Update
from integrator.encoding import Packed
from integrator.errors import Conflict, LeaseLost
from integrator.layout import STAGING_MARK
from integrator.model import UNSETTLED, Directory, Document, Owner, State, check_transition, new_id
from integrator.settings import LeaseTimes

SCHEMA: Final = "integrator:transaction-1.0"


@attrs.frozen(kw_only=True)
class Plan:
    """What a transaction asks for when it begins, or adds to itself later."""

    #: Directories to stage, in order.
    directories: tuple[Directory, ...] = ()
    #: Claim key to (lease key, number).
    claims: Mapping[str, tuple[str, int]] = attrs.field(factory=dict)
    #: (root, path) of folders that did not exist when the plan was made, outermost first.
    folders: tuple[tuple[str, str], ...] = ()
    #: Keys of leases beside those of the directories.
    keys: frozenset[str] = frozenset()

    @property
    def leases(self) -> set[str]:
        return {directory.lease for directory in self.directories} | self.keys


def begin(
    database: Database, transaction: str, plan: Plan, owner: Owner, times: LeaseTimes, facts: Mapping[str, Any]
) -> Document:
    """Grant the leases, claim the numbers and write the document, `open`. Raises `leases.Held`, `errors.Conflict`."""
    granted, tokens = leases.grants(database, plan.leases, transaction, times)
    document: Document = {
        "_id": transaction,
        "schema": SCHEMA,
        "state": State.OPEN.value,
        "actor": 1,
        "actors": [1],
        "undoers": [],
        "owner": attrs.asdict(owner),
        "began": attrs.asdict(owner),
        "created": Now(),
        "directories": [attrs.asdict(directory) for directory in plan.directories],
        "folders": [list(folder) for folder in plan.folders],
        "leases": tokens,
        "claims": {key: list(claim) for key, claim in plan.claims.items()},
        **facts,
    }
    database.commit([Insert(collection=TRANSACTIONS, document=document), *granted, *leases.claims(plan.claims, transaction)])
    return document


def reserve(database: Database, transaction: str, plan: Plan, owner: Owner, seconds: float, facts: Mapping[str, Any]) -> Document:
    """Claim the numbers of a plan for a publish that comes later, without owner and lease. Raises `errors.Conflict`."""
    document: Document = {
        "_id": transaction,
        "schema": SCHEMA,
        "state": State.RESERVED.value,
        "actor": 1,
        "actors": [1],
        "undoers": [],
        "owner": None,
        "reserved_by": attrs.asdict(owner),
        "created": Now(),
        "expires": Now(seconds),
        "successor": new_id(),
        "directories": [attrs.asdict(directory) for directory in plan.directories],
        "folders": [list(folder) for folder in plan.folders],
        "leases": {},
        "claims": {key: list(claim) for key, claim in plan.claims.items()},
        **facts,
    }
    database.commit([Insert(collection=TRANSACTIONS, document=document), *leases.claims(plan.claims, transaction)])
    return document


def adopt(database: Database, document: Document, owner: Owner, times: LeaseTimes, facts: Mapping[str, Any]) -> Document:
    """Open a reserved transaction as its owner; returns the document as it is now.

    Its files will be taken out of the directories that were promised, into staging directories of this actor's own: whoever
    still writes by the promised path does not reach them. Raises `leases.Held`, `errors.Conflict`.
    """
    check_transition(State.RESERVED, State.OPEN)
    transaction, actor = document["_id"], document["actor"] + 1
    granted, tokens = leases.grants(database, {entry["lease"] for entry in document["directories"]}, transaction, times)
    directories = [
        {**entry, "reserved": entry["staging"], "staging": f"{entry['staging']}.{actor}"} for entry in document["directories"]
    ]
    changed = {
        "state": State.OPEN.value,
        "actor": actor,
        "actors": [*document["actors"], actor],
        "owner": attrs.asdict(owner),
        "adopted": Now(),
        "began": attrs.asdict(owner),
        "leases": tokens,
        "directories": directories,
        **facts,
    }
    held = [_claim_kept(key, transaction) for key in document["claims"]]
    database.commit([_owned(document, State.RESERVED, changed), *granted, *held])
    return document | changed


def fence_adoption(database: Database, document: Document) -> None:
    """Make sure that an adoption without an answer can not arrive any more; the reservation stays. Raises `errors.Conflict`."""
    actor = document["actor"] + 1
    database.commit([_owned(document, State.RESERVED, {"actor": actor, "actors": [*document["actors"], actor]})])


def give_back(database: Database, document: Document, owner: Owner, reason: str) -> Document:
    """Win the right to undo a reservation that is not wanted any more; returns the document as it is now.

    Raises `errors.Conflict` if it was adopted or given back meanwhile.
    """
    check_transition(State.RESERVED, State.ROLLING_BACK)
    actor = document["actor"] + 1
    changed = {
        "state": State.ROLLING_BACK.value,
        "actor": actor,
        "actors": [*document["actors"], actor],
        "undoers": [actor],
        "owner": attrs.asdict(owner),
        "successor": None,
        "error": reason,
        "interrupted": True,  # it is no attempt that failed
    }
    database.commit([_owned(document, State.RESERVED, changed)])
    return document | changed


def reservations(database: Database) -> list[Document]:
    """Every reservation that nobody has adopted or given back, in the order they were made."""
    return database.find(TRANSACTIONS, {"state": State.RESERVED.value})


def prolong(database: Database, document: Document, seconds: float) -> Document:
    """Let a reservation last so long from now. Raises `errors.Conflict` if it was adopted or given back meanwhile."""
    database.commit([_owned(document, State.RESERVED, {"expires": Now(seconds)})])
    return database.read(TRANSACTIONS, document["_id"]) or document


def successors(database: Database) -> set[str]:
    """Ids under which reservations may go on, and which directories may have before a document does."""
    return {str(document["successor"]) for document in unsettled(database) if document.get("successor")}


def extend(database: Database, document: Document, plan: Plan, times: LeaseTimes) -> None:
    """Add directories, with their leases and claims, to an open transaction; changes `document` too."""
    transaction = document["_id"]
    granted, tokens = leases.grants(database, plan.leases - set(document["leases"]), transaction, times)
    added = {
        "directories": document["directories"] + [attrs.asdict(directory) for directory in plan.directories],
        "folders": document["folders"] + [list(folder) for folder in plan.folders],
        "leases": document["leases"] | tokens,
        "claims": document["claims"] | {key: list(claim) for key, claim in plan.claims.items()},
    }
    database.commit([_owned(document, State.OPEN, added), *granted, *leases.claims(plan.claims, transaction)])
    document.update(added)


def move_claims(database: Database, document: Document, plan: Plan) -> None:
    """Give up the numbers of a transaction that has staged nothing, and claim those of `plan` instead."""
    changed: Document = {
        "directories": [attrs.asdict(directory) for directory in plan.directories],
        "folders": [list(folder) for folder in plan.folders],
        "claims": {key: list(claim) for key, claim in plan.claims.items()},
    }
    given_up = {key: claim for key, claim in document["claims"].items() if key not in plan.claims}
    taken = {key: claim for key, claim in plan.claims.items() if key not in document["claims"]}
    transaction = document["_id"]
    database.commit(
        [
            _owned(document, State(document["state"]), changed),
            *_released_claims(given_up, transaction),
            *leases.claims(taken, transaction),
        ]
    )
    document.update(changed)


def confirm(database: Database, document: Document) -> None:
    """Raise `errors.LeaseLost` unless the transaction is still open and its actor still the one in `document`."""
    found = database.read(TRANSACTIONS, document["_id"]) or {}
    if (found.get("state"), found.get("actor")) != (State.OPEN.value, document["actor"]):
        raise lease_lost(found)


def lease_lost(found: Mapping[str, Any]) -> LeaseLost:
    """The error for an owner that was overtaken; `found` is the document as it is now."""
    owner = found.get("owner") or {}
    return LeaseLost(
        f"this publish was taken over by {owner.get('user', 'somebody')} on {owner.get('host', 'another machine')}"
        f" (it is {found.get('state', 'gone')} now). What this run staged was removed; nothing else was touched",
        next="run the same command again",
    )


def verdict(
    database: Database,
    document: Document,
    changes: Sequence[Change],
    finish: Sequence[Document],
    summary: Document,
    pointers: Sequence[Document] = (),
) -> None:
    """The commit point. The document turns to `committed` in the same commit as `changes`; `finished` if nothing is left to do.

    Every lease row and claim is written, on the condition that it is ours. `pointers` (see `work.Work.point`) are kept until the
    transaction is finished.
    """
    transaction, tokens, claims = document["_id"], document["leases"], document["claims"]
    check_transition(State.OPEN, State.COMMITTED)
    decided: dict[str, Any] = {"summary": summary, "finish": list(finish), "committed": Now()}
    if finish:
        held = [_claim_kept(key, transaction) for key in claims]
        ours = [
            _owned(document, State.OPEN, decided | {"state": State.COMMITTED.value}),
            *leases.fences(tokens, transaction),
            *held,
            *(Insert(collection=POINTERS, document=row) for row in _pointer_rows(transaction, pointers)),
        ]
    else:
        check_transition(State.COMMITTED, State.FINISHED)
        ended = decided | {"state": State.FINISHED.value, "ended": Now(), "progress": None}
        unbroken = leases.releases(tokens, transaction, unbroken=True)
        ours = [_owned(document, State.OPEN, ended), *unbroken, *_released_claims(claims, transaction)]
    database.commit([*ours, *changes])
    document.update(decided, state=State.COMMITTED.value if finish else State.FINISHED.value)


def _pointer_rows(transaction: str, pointers: Sequence[Document]) -> Iterator[Document]:
    """One row for each pointer; a long array of its document stays one, outside of it."""
    for n, pointer in enumerate(pointers):
        made = pointer["document"] or {}
        long = {name: value for name, value in made.items() if isinstance(value, Packed)}
        row = {**pointer, "_id": f"{transaction}/{n:04d}", "transaction": transaction, "long": list(long)}
        if long:
            row["document"] = {name: value for name, value in made.items() if name not in long}
        yield {**long, **row}


def pointer_changes(database: Database, document: Document) -> list[Change]:
    """The changes that make the pointer documents of a committed transaction complete, as these are now, and drop their rows."""
    changes: list[Change] = []
    for row in database.find(POINTERS, {"transaction": document["_id"]}):
        collection, id = row["collection"], row["id"]
        found = database.read(collection, id)
        if row["document"] is not None:
            made = row["document"] | {name: row[name] for name in row["long"]}
            if found is None:
                changes.append(Insert(collection=collection, document=made))
            else:
                whole = _with_fields(found, made, row["set"])
                changes.append(Replace(collection=collection, id=id, expect=found, document=whole))
        elif found is not None:
            changes.append(Delete(collection=collection, id=id, expect={}))
        changes.append(Delete(collection=POINTERS, id=row["_id"], expect={}))
    return changes


def _with_fields(found: Document, made: Document, fields: Sequence[Sequence[str]]) -> Document:
    """`found` with these fields (each a path) as `made` has them; everything else stays as it is."""
    whole = dict(found)
    for *outer, last in fields:
        table, source = whole, made
        for part in outer:
            inner = table.get(part)
            table[part] = dict(inner) if isinstance(inner, Mapping) else {}
            table, source = table[part], source[part]
        table[last] = source[last]
    return whole


def finished(database: Database, document: Document, pointers: Sequence[Change], left: Sequence[str]) -> None:
    """Everything is done: pointer documents complete, claims and leases released, `committed` to `finished`."""
    check_transition(State.COMMITTED, State.FINISHED)
    ended = {"state": State.FINISHED.value, "ended": Now(), "left": list(left) or None, "stuck": None, "progress": None}
    released = leases.releases(document["leases"], document["_id"])
    database.commit([_owned(document, State.COMMITTED, ended), *pointers, *released, *_let_go(document, burn=False)])
    document.update(state=State.FINISHED.value, left=list(left))


def start_rollback(database: Database, document: Document, error: str, *, interrupted: bool = False) -> None:
    """The owner wins the right to undo its own open transaction."""
    check_transition(State.OPEN, State.ROLLING_BACK)
    undoers = [*document["undoers"], document["actor"]]
    changed: Document = {"state": State.ROLLING_BACK.value, "undoers": undoers, "error": error}
    if interrupted:
        changed["interrupted"] = True
    database.commit([_owned(document, State.OPEN, changed)])
    document.update(changed)


def take_over(database: Database, document: Document, rows: Sequence[Document], owner: Owner, times: LeaseTimes) -> Document:
    """Become the actor of an unsettled transaction, if nothing of it changed since `document` and `rows` were read.

    An open one turns to `rolling_back`; the others keep their state. Leases that a stuck transaction let go of are granted anew.
    Returns the document as it is now. Raises `errors.Conflict`, `leases.Held`.
    """
    state = State(document["state"])
    if state not in UNSETTLED:
        raise Conflict(TRANSACTIONS, document["_id"], f"is {state.value}")
    transaction = document["_id"]
    held = [row for row in rows if row.get("transaction") == transaction]
    regranted, tokens = leases.regrants(held, transaction, times)
    anew = set(document["leases"]) - {row["_id"] for row in held}
    granted, more = leases.grants(database, anew, transaction, times)
    actor = document["actor"] + 1
    target = State.COMMITTED if state is State.COMMITTED else State.ROLLING_BACK
    changed = {
        "state": target.value,
        "actor": actor,
        "actors": [*document["actors"], actor],
        "undoers": document["undoers"] + ([actor] if target is State.ROLLING_BACK else []),
        "owner": attrs.asdict(owner),
        "leases": tokens | more,
        "stuck": None,
        "given_up": None,
    }
    mine = _owned(document, state, changed)
    mine = attrs.evolve(mine, expect={**mine.expect, "renewed": document.get("renewed")})  # for one that holds no lease
    database.commit([mine, *regranted, *granted])
    return document | changed


def rolled_back(
    database: Database,
    document: Document,
    *,
    burn: bool,
    left: Sequence[str],
    kept: Sequence[Document] = (),
    goes_on: bool = False,
) -> None:
    """Everything is undone: leases and (unless burnt) claims released, the publish id moved aside.

    `kept` are directories ({"directory", "root", "path"}) whose files may be wanted by the next attempt. With `goes_on` the
    reservation behind this attempt goes on under the id of its successor, in the same write: its number is never free.
    """
    check_transition(State.ROLLING_BACK, State.ROLLED_BACK)
    ended = {
        "state": State.ROLLED_BACK.value,
        "ended": Now(),
        "publish_id": None,
        "former_publish_id": document.get("publish_id"),
        "left": list(left) or None,
        "kept": list(kept) or None,
        "burnt": burn or None,
        "stuck": None,
        "progress": None,
    }
    claims = _handed_on(document) if goes_on else _let_go(document, burn=burn)
    released = leases.releases(document["leases"], document["_id"])
    database.commit([_owned(document, State.ROLLING_BACK, ended), *released, *claims])
    document.update(ended)


def mark_stuck(database: Database, document: Document, reason: str) -> None:
    """Say why a transaction cannot go on; it keeps its claims, and lets go of its leases if it is to be rolled back.

    A committed one keeps them, too: what is published next must not come before what this one has yet to put in place.
    """
    mark = {"reason": reason, "at": Now()}
    committed = document["state"] == State.COMMITTED.value
    released = [] if committed else leases.releases(document["leases"], document["_id"])
    database.commit([_owned(document, State(document["state"]), {"stuck": mark}), *released])


def give_up(database: Database, document: Document) -> None:
    """Its owner cannot go on: anybody may take the transaction over at once, without waiting for the lease."""
    database.commit([_owned(document, State(document["state"]), {"given_up": Now()})])


def unsettled(database: Database) -> list[Document]:
    """Every transaction that is not settled, in order of its start."""
    return database.find(TRANSACTIONS, {"state": tuple(sorted(state.value for state in UNSETTLED))})


def lease_rows(database: Database, document: Document) -> list[Document]:
    """The lease rows that a transaction holds."""
    return database.find(LEASES, {"transaction": document["_id"]})


def directories(document: Document) -> list[Directory]:
    """The directories of a transaction."""
    return [Directory(**directory) for directory in document["directories"]]


def _owned(document: Document, state: State, changed: Mapping[str, Any]) -> Update:
    expect = {"state": state.value, "actor": document["actor"]}
    return Update(collection=TRANSACTIONS, id=document["_id"], expect=expect, set=changed)


def _claim_kept(key: str, transaction: str) -> Update:
    return Update(collection=CLAIMS, id=key, expect={"transaction": transaction}, set={"touched": Now()})


def _released_claims(claims: Mapping[str, Any], transaction: str) -> list[Change]:
    return [Delete(collection=CLAIMS, id=key, expect={"transaction": transaction}) for key in sorted(claims)]


def attempts(document: Document) -> list[Document]:
    """Every attempt at a publish so far, up to the rolled back one of `document`.

    ``{"transaction", "host", "started", "ended", "error", "counts"}`` each; interrupted ones do not count, killed ones do.
    """
    attempt = {
        "transaction": document["_id"],
        "host": (document.get("began") or {}).get("host", ""),
        "started": document.get("adopted") or document["created"],
        "ended": document.get("ended") or Now(),
        "error": document.get("error") or "",
        "counts": not document.get("interrupted"),
    }
    return [*(document.get("attempts") or []), attempt]


def _let_go(document: Document, *, burn: bool) -> list[Change]:
    transaction = document["_id"]
    if not burn:
        return _released_claims(document["claims"], transaction)
    return _claims_changed(document, {"burnt": Now()})


def _handed_on(document: Document) -> list[Change]:
    """The changes that let a reservation go on under the id of its successor."""
    successor = document["successor"]
    directories = [
        {**entry, "staging": f"{entry['final']}{STAGING_MARK}{successor}", "reserved": ""}
        for entry in document["directories"]
        if not entry.get("exchanged")
    ]
    kept = ("schema", "reserved_by", "expires", "reservation", "publish_id", "purpose", "project", "root_id", "folders", "claims")
    reservation = {
        **{name: document[name] for name in kept},
        "_id": successor,
        "state": State.RESERVED.value,
        "actor": 1,
        "actors": [1],
        "undoers": [],
        "owner": None,
        "created": Now(),
        "successor": new_id(),
        "attempts": attempts(document),
        "directories": directories,
        "leases": {},
    }
    return [Insert(collection=TRANSACTIONS, document=reservation), *_claims_changed(document, {"transaction": successor})]


def _claims_changed(document: Document, changed: Mapping[str, Any]) -> list[Change]:
    expect = {"transaction": document["_id"]}
    return [Update(collection=CLAIMS, id=key, expect=expect, set=changed) for key in sorted(document["claims"])]
