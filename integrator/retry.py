"""What a publish id that was seen before means for whoever comes with it again."""

from __future__ import annotations

import time
from typing import Final

import attrs

from integrator import ledger, recovery
from integrator.database import LEASES, TRANSACTIONS
from integrator.errors import BudgetUsedUp, DifferentContent, Unsettled, VersionTaken
from integrator.leases import Held, busy
from integrator.model import Document, Place, State
from integrator.preflight import lease_key, present_sources
from integrator.request import PublishRequest
from integrator.results import PublishResult, of_transaction
from integrator.root import Root

#: Seconds between two looks at an attempt that is still running.
_PAUSE: Final = 0.5
#: Attempts whose leftovers are looked at; older ones were harvested by those.
_FORMERS: Final = 10


@attrs.frozen(kw_only=True)
class Budget:
    """How often a publish may be tried; 0 is as often as it takes."""

    attempts: int = 0
    per_host: int = 0


@attrs.frozen(kw_only=True)
class Earlier:
    """What there is of a publish id that may be published now."""

    #: The answer of a run that is finished; then nothing is left to do.
    answer: PublishResult | None = None
    #: The reservation that this run adopts.
    reservation: Document | None = None
    #: The attempts before this one, as `ledger.attempts` tells them.
    attempts: list[Document] = attrs.field(factory=list)
    #: The rolled back attempts, the newest first; some left files to go on from.
    formers: list[Document] = attrs.field(factory=list)
    #: Version numbers, by publish instance, that were published under this id and are to be amended now.
    amends: tuple[int, ...] = ()
    #: The id of this run, where it is not that of the request.
    publish_id: str = ""


def look(root: Root, publish_id: str, request: PublishRequest, *, wait: float, amend: bool = False) -> Earlier:
    """What an earlier run with this publish id left, settled.

    A finished run is answered from; a committed one whose owner is gone is finished first; an open one whose owner is gone is
    settled; one that still runs is waited for up to `wait` seconds. With `amend`, what was published under this id with another
    content is to be amended. Raises `DifferentContent`, `Busy`, `Unsettled`.
    """
    first = find(root, publish_id)
    if first is None or first["state"] != State.FINISHED.value:
        earlier = _look(root, publish_id, request, wait)
        first = find(root, publish_id)
        if earlier.answer is None or first is None:
            return earlier
    while True:
        newest, following = _amended(root, first, publish_id)
        changed = _changed(root, newest, request)
        if not changed:
            return Earlier(answer=of_transaction(root, newest, "already_published"))
        if not amend:
            raise _different(first, publish_id, "used", changed)
        numbers = _published_numbers(first, publish_id, request)
        earlier = _look(root, following, request, wait)
        if earlier.answer is None:
            return attrs.evolve(earlier, publish_id=following, amends=numbers)
        # It ended just now, and may have read the sources before they changed.


def _amended(root: Root, first: Document, publish_id: str) -> tuple[Document, str]:
    """The last finished transaction of a publish id, and the id under which it is amended next.

    Each time that it was amended is a transaction with an id of its own.
    """
    newest, number = first, 1
    while (later := find(root, f"{publish_id}+amend{number}")) is not None and later["state"] == State.FINISHED.value:
        # An id like this may be somebody's own.
        newest, number = later if later.get("amends") == publish_id else newest, number + 1
    return newest, f"{publish_id}+amend{number}"


def _changed(root: Root, document: Document, request: PublishRequest) -> str:
    """What differs from what a finished transaction published, "" if nothing does."""
    if document.get("fingerprint") != request.fingerprint():
        return "the request is another one"
    sources = document.get("sources") and present_sources(root, request)
    return "its sources changed since" if sources and sources != document["sources"] else ""


def _published_numbers(document: Document, publish_id: str, request: PublishRequest) -> tuple[int, ...]:
    versions = (document.get("summary") or {}).get("versions") or ()
    published = [(entry["project"], entry["asset"], entry["subset"], entry["family"]) for entry in versions]
    wanted = [(request.project, instance.asset, instance.subset, instance.family) for instance in request.instances]
    # Two sequences may both have a shot of one name: the soft locks tell them apart.
    if published != wanted or not {lease_key(request, instance) for instance in request.instances} <= set(document["leases"]):
        raise _different(document, publish_id, "used", "it was for other subsets, so there is nothing to amend")
    return tuple(entry["version"] for entry in versions)


def _look(root: Root, publish_id: str, request: PublishRequest, wait: float) -> Earlier:
    end = time.monotonic() + wait
    while True:
        document = find(root, publish_id)
        if document is None:
            return former_runs(root, publish_id)
        _check_content(document, publish_id, request)
        if document["state"] == State.RESERVED.value:
            return Earlier(reservation=document, attempts=document.get("attempts") or [])
        if document["state"] == State.FINISHED.value:
            return Earlier(answer=of_transaction(root, document, "already_published"))
        settled = recovery.settle(root.engine, document["_id"], same_publish=True)
        if settled.outcome in ("stuck", "in_doubt"):
            unsettled = Unsettled(f"an earlier run of {publish_id} is not settled: {settled.message}", next=settled.next)
            unsettled.transaction = document["_id"]
            raise unsettled
        if settled.outcome == "alive":
            if time.monotonic() >= end:
                raise busy(_held(root, document))
            time.sleep(_PAUSE)


def _check_content(document: Document, publish_id: str, request: PublishRequest) -> None:
    reserved = not document.get("fingerprint") and bool(document.get("reservation"))  # or is just being given back
    if reserved and document["reservation"] == request.destination():
        return
    if not reserved and document.get("fingerprint") == request.fingerprint():
        return
    raise _different(document, publish_id, "reserved" if reserved else "used", "the request is another one")


def _different(document: Document, publish_id: str, done: str, reason: str) -> DifferentContent:
    amended = "; to replace what was published: --on-changed amend" if document["state"] == State.FINISHED.value else ""
    return DifferentContent(
        f"the publish id {publish_id} was {done} for something else ({document['_id']}): {reason}. Nothing was touched",
        next=f"integrator show {document['_id']}{amended}",
    )


def former_runs(root: Root, publish_id: str) -> Earlier:
    """What is known of the runs with a publish id that nobody has now. Raises `VersionTaken` if its reservation is burnt."""
    formers = former_attempts(root, publish_id)
    if not formers:
        return Earlier()
    former = formers[0]
    if former.get("burnt") and former.get("expires"):
        raise VersionTaken(
            f"the version that was reserved for {publish_id} is burnt: its publish failed after it could be seen, and was taken "
            f"over while that was undone. Nothing was touched{_where_kept(root, former)}",
            next="publish the next version, under another publish id",
        )
    return Earlier(attempts=ledger.attempts(former), formers=formers)


def _where_kept(root: Root, former: Document) -> str:
    paths = [root.absolute(Place(root=entry["root"], path=entry["path"])) for entry in former.get("kept") or ()]
    return f"; what was rendered is in {', '.join(paths)} until it is swept" if paths else ""


def check_budget(attempts: list[Document], budget: Budget, host: str) -> None:
    """Raise `BudgetUsedUp` if a publish was tried often enough. Busy and interrupted attempts do not count."""
    counted = [attempt for attempt in attempts if attempt["counts"]]
    here = [attempt for attempt in counted if attempt["host"] == host]
    if budget.attempts and len(counted) >= budget.attempts:
        where, most = "", budget.attempts
    elif budget.per_host and len(here) >= budget.per_host:
        where, most = f" on {host}", budget.per_host
    else:
        return
    last = (here if where else counted)[-1]
    error = BudgetUsedUp(
        f"it was tried {most} times{where}, and failed: {last['error'] or 'it was killed'}. Nothing was touched",
        next="mend the cause, then run it with a larger --attempts, or with --again",
    )
    error.transaction = last["transaction"]
    raise error


def glance(root: Root, publish_id: str, request: PublishRequest, *, amend: bool = False) -> Earlier:
    """What `look` would say of an earlier run that is finished, or a reservation; settles nothing. Raises `DifferentContent`."""
    first = find(root, publish_id)
    if first is not None and first["state"] == State.RESERVED.value:
        _check_content(first, publish_id, request)
        return Earlier(reservation=first)
    if first is None or first["state"] != State.FINISHED.value:
        return Earlier()
    newest, following = _amended(root, first, publish_id)
    if not (changed := _changed(root, newest, request)):
        return Earlier(answer=of_transaction(root, newest, "already_published"))
    if not amend:
        raise _different(first, publish_id, "used", changed)
    return Earlier(publish_id=following, amends=_published_numbers(first, publish_id, request))


def promised(root: Root, reservation: Document | None) -> list[str]:
    """Absolute paths of the staging directories of a reservation."""
    if reservation is None:
        return []
    places = (Place(root=entry["root"], path=entry["staging"]) for entry in reservation["directories"])
    return [root.absolute(place) for place in places]


def find(root: Root, publish_id: str) -> Document | None:
    """The transaction that has this publish id now."""
    return next(iter(root.engine.database.find(TRANSACTIONS, {"publish_id": publish_id}, limit=1)), None)


def last(root: Root, publish_id: str) -> Document | None:
    """As `find`; of what was published and is being amended, or was, under this id, the last transaction."""
    found = find(root, publish_id)
    if found is None or found["state"] != State.FINISHED.value:
        return found
    newest, following = _amended(root, found, publish_id)
    return find(root, following) or newest


def former_attempts(root: Root, publish_id: str) -> list[Document]:
    """The last attempts with this publish id that were rolled back, the newest first."""
    where = {"state": State.ROLLED_BACK.value, "former_publish_id": publish_id}
    return root.engine.database.find(TRANSACTIONS, where, newest="_id", limit=_FORMERS)


def _held(root: Root, document: Document) -> Held:
    database = root.engine.database
    rows = database.find(LEASES, {"transaction": document["_id"]}, limit=1)
    return Held(rows[0] if rows else {"_id": document["publish_id"], "transaction": document["_id"]}, document, database.now())
