"""What a publish root can tell: reads only, committed state only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

from integrator import leases, ledger, storage
from integrator.database import LEASES, PROJECT, TRANSACTIONS
from integrator.documents import find_subset
from integrator.errors import Conflict, UnknownTransaction, UsageError
from integrator.layout import STAGING_MARK
from integrator.model import Document, Owner, Place
from integrator.root import Root

#: Fields of a transaction that a list shows.
_SHORT: Final = (
    "state", "publish_id", "purpose", "project", "created", "ended", "expires", "owner", "progress", "stuck", "error", "left",
)  # fmt: skip


def status(root: Root) -> Document:
    """What is unfinished or reserved, which soft locks are held, and which leftovers nobody owns."""
    documents = [*ledger.unsettled(root.engine.database), *ledger.reservations(root.engine.database)]
    unfinished = [_transaction(document) for document in documents]
    return {"unfinished": unfinished, "leases": lease_list(root), "orphans": list(_orphans(root, unfinished))}


def _transaction(document: Document) -> Document:
    short = {name: document.get(name) for name in _SHORT}
    owner = document.get("owner")
    alive = not leases.known_dead(Owner(**owner)) if owner else None
    versions = [
        {"path": entry["final"], "staging": entry["staging"], "lease": entry["lease"]} for entry in document["directories"]
    ]
    return {"transaction": document["_id"], **short, "owner_alive": alive, "directories": versions}


def _orphans(root: Root, unfinished: list[Document]) -> Iterator[Document]:
    """Journals that belong to no unfinished transaction. (Staging directories are looked for by `check` and `sweep`.)"""
    known = {entry["transaction"] for entry in unfinished}
    for transaction in root.engine.journals.unfinished():
        if transaction not in known:
            yield {"kind": "journal", "transaction": transaction, "path": root.engine.journals.location(transaction)}


def lease_list(root: Root) -> list[Document]:
    """Every soft lock that is held, with its holder."""
    database = root.engine.database
    held = []
    for row in database.find(LEASES):
        if row.get("transaction"):
            holder = database.read(TRANSACTIONS, row["transaction"]) or {}
            held.append({
                "key": row["_id"], "token": row["token"], "transaction": row["transaction"], "renewed": row["renewed"],
                "expires": row["expires"], "broken": row.get("broken"), "owner": holder.get("owner"),
                "state": holder.get("state"), "progress": holder.get("progress"),
            })  # fmt: skip
    return held


def lease_break(root: Root, key: str, reason: str) -> None:
    """Make the holder of a soft lock lose at its verdict, and let anybody take its transaction over. Raises `UsageError`."""
    row = root.engine.database.read(LEASES, key)
    if row is None or not row.get("transaction"):
        raise UsageError(f"nobody holds a soft lock on {key}", next="integrator lease list")
    try:
        leases.break_lease(root.engine.database, key, reason, root.engine.owner)
    except Conflict as error:
        raise UsageError(f"the soft lock on {key} changed meanwhile", next="integrator lease list") from error


def show(root: Root, transaction: str) -> Document:
    """One transaction: its document, and the records of its journal if it is unfinished. Raises `UnknownTransaction`."""
    document = root.engine.database.read(TRANSACTIONS, transaction)
    if document is None:
        raise UnknownTransaction(f"no transaction has the id {transaction}", next="integrator history")
    stuck = document.get("stuck")
    return {**document, "next": f"integrator recover {transaction}" if stuck else ""}


def history(root: Root, limit: int = 20) -> list[Document]:
    """The latest transactions, the newest first."""
    found = root.engine.database.find(TRANSACTIONS, newest="_id", limit=limit)
    return [_transaction(document) for document in found]


def versions(root: Root, project: str, asset: str = "", subset: str = "", *, latest: bool = False) -> list[Document]:
    """Published versions of a project, an asset or a subset, by asset, subset and number."""
    found = [
        _version(root, parent, child, document)
        for parent, child in _subsets(root, project, asset, subset)
        for document in _numbers(root, project, child, latest)
    ]
    return sorted(found, key=lambda entry: (entry["asset"], entry["subset"], entry["version"]))


def _subsets(root: Root, project: str, asset: str, subset: str) -> Iterator[tuple[Document, Document]]:
    database = root.engine.database
    where: dict[str, Any] = {"type": "asset", **({"name": asset} if asset else {})}
    for parent in database.find(PROJECT + project, where):
        if subset:
            found = find_subset(database, project, parent["_id"], subset)
            children = [found] if found and found["name"] == subset else []
        else:
            children = database.find(PROJECT + project, {"type": "subset", "parent": parent["_id"]})
        for child in children:
            yield parent, child


def _numbers(root: Root, project: str, subset: Document, latest: bool) -> list[Document]:
    where = {"type": "version", "parent": subset["_id"]}
    return root.engine.database.find(PROJECT + project, where, newest="name", limit=1 if latest else 0)


def _version(root: Root, asset: Document, subset: Document, document: Document) -> Document:
    contents = document.get("data") or {}
    ours = contents.get("integrator") or {}
    return {
        "asset": asset["name"],
        "subset": subset["name"],
        "family": (subset.get("data") or {}).get("family", ""),
        "version": document["name"],
        "path": rooted(root, ours.get("folder", "")),
        "author": contents.get("author", ""),
        "comment": contents.get("comment", ""),
        "time": contents.get("time", ""),
        "transaction": ours.get("transaction"),
    }


def rooted(root: Root, path: str) -> str:
    """The absolute path of a rootless one (``{root[work]}/...``)."""
    for name, place in root.engine.roots.items():
        path = path.replace(f"{{root[{name}]}}", place)
    return path


def staging_directories(root: Root) -> Iterator[tuple[Place, str]]:
    """Every staging directory below the roots, with the transaction id in its name.

    Walks the folders that hold published versions; those have no version directories inside them.
    """
    return ((place, transaction) for place, transaction in _version_places(root) if transaction)


def version_directories(root: Root) -> Iterator[Place]:
    """Every directory below the roots that has the name of a version, whoever made it."""
    return (place for place, transaction in _version_places(root) if not transaction)


def _version_places(root: Root) -> Iterator[tuple[Place, str]]:
    for name in root.engine.roots:
        with root.engine.root(name) as fd:
            for path, transaction in _walk(root, fd, ""):
                yield Place(root=name, path=path), transaction


def _walk(root: Root, fd: int, prefix: str) -> Iterator[tuple[str, str]]:
    with os.scandir(fd) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in folders:
        version, mark, transaction = name.partition(STAGING_MARK)
        if mark and root.is_version(version):
            yield prefix + name, transaction.partition(".")[0]
        elif root.is_version(name):
            yield prefix + name, ""
        elif not name.startswith("."):
            with storage.folder(name, fd) as inner:
                yield from _walk(root, inner, f"{prefix}{name}/")
