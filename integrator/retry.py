"""What a publish id that was seen before means for whoever comes with it again."""

from __future__ import annotations

import time
from typing import Final

from integrator import recovery
from integrator.database import LEASES, TRANSACTIONS
from integrator.errors import DifferentContent, Unsettled
from integrator.leases import Held, busy
from integrator.model import Document, State
from integrator.results import PublishResult, of_transaction
from integrator.root import Root

#: Seconds between two looks at an attempt that is still running.
_PAUSE: Final = 0.5


def earlier_answer(root: Root, publish_id: str, fingerprint: str, *, wait: float) -> PublishResult | None:
    """The answer of an earlier run with this publish id, or None if it is free and this run may publish.

    A finished run is answered from; a committed one whose owner is gone is finished first; an open one whose owner is gone is
    settled; one that still runs is waited for up to `wait` seconds. Raises `DifferentContent`, `Busy`, `Unsettled`.
    """
    end = time.monotonic() + wait
    while True:
        document = find(root, publish_id)
        if document is None:
            return None
        if document.get("fingerprint") != fingerprint:
            raise DifferentContent(
                f"the publish id {publish_id} was used for something else ({document['_id']}). Nothing was touched",
                next=f"integrator show {document['_id']}, or use another publish id",
            )
        if document["state"] == State.FINISHED.value:
            return of_transaction(root, document, "already_published")
        settled = recovery.settle(root.engine, document["_id"], same_publish=True)
        if settled.outcome in ("stuck", "in_doubt"):
            unsettled = Unsettled(f"an earlier run of {publish_id} is not settled: {settled.message}", next=settled.next)
            unsettled.transaction = document["_id"]
            raise unsettled
        if settled.outcome == "alive":
            if time.monotonic() >= end:
                raise busy(_held(root, document))
            time.sleep(_PAUSE)


def finished_answer(root: Root, publish_id: str) -> PublishResult | None:
    """The answer of an earlier run that is finished; settles nothing."""
    document = find(root, publish_id)
    if document is None or document["state"] != State.FINISHED.value:
        return None
    return of_transaction(root, document, "already_published")


def find(root: Root, publish_id: str) -> Document | None:
    """The transaction that has this publish id now."""
    return next(iter(root.engine.database.find(TRANSACTIONS, {"publish_id": publish_id}, limit=1)), None)


def _held(root: Root, document: Document) -> Held:
    database = root.engine.database
    rows = database.find(LEASES, {"transaction": document["_id"]}, limit=1)
    return Held(rows[0] if rows else {"_id": document["publish_id"], "transaction": document["_id"]}, document, database.now())
