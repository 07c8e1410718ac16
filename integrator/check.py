"""Finds inconsistencies between documents, files and the engine's own records; writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import attrs

from integrator import ledger, queries, storage, transfer
from integrator.database import CLAIMS, LEASES, PROJECT, TRANSACTIONS
from integrator.journal import JournalDamaged
from integrator.leases import known_dead
from integrator.model import ENDED, Document, Owner, Place, State
from integrator.root import Root
from integrator.storage import BLOCK

_SWEEP: Final = "integrator sweep"


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    #: missing_file, changed_file, missing_folder, unfinished, staging, journal, lease, claim, database.
    kind: str
    message: str
    #: The command that settles it, "" if a person must look.
    next: str
    #: Absolute path, "" if it concerns a document.
    path: str = ""
    document: str = ""


def check(root: Root, *, checksums: bool = False) -> list[Finding]:
    """Everything that is wrong in a publish root; with `checksums` every published file that has one is read.

    A transaction whose owner is at work is no finding. Raises `RootMissing` if a root is not mounted.
    """
    return [*_transactions(root), *_rows(root), *_published(root, checksums), *_leftovers(root)]


def _transactions(root: Root) -> Iterator[Finding]:
    for document in ledger.unsettled(root.engine.database):
        stuck, transaction = document.get("stuck"), document["_id"]
        if stuck:
            message = f"transaction {transaction} is stuck: {stuck['reason']}"
        elif known_dead(Owner(**document["owner"])):
            message = f"transaction {transaction} was left unfinished ({document['state']}) by {Owner(**document['owner'])}"
        else:
            continue
        yield Finding(kind="unfinished", message=message, next=f"integrator recover {transaction}", document=transaction)
    for transaction in root.engine.journals.unfinished():
        try:
            root.engine.journals.read(transaction)
        except JournalDamaged as error:
            yield Finding(kind="journal", message=str(error), next=f"integrator show {transaction}", document=transaction)


def _rows(root: Root) -> Iterator[Finding]:
    """Leases and claims of transactions that have ended."""
    database = root.engine.database
    for collection, kind in ((LEASES, "lease"), (CLAIMS, "claim")):
        for row in database.find(collection):
            if row.get("transaction") and not row.get("burnt") and _ended(root, row["transaction"]):
                message = f"{row['_id']} belongs to transaction {row['transaction']}, which has ended"
                yield Finding(kind=kind, message=message, next="integrator recover", document=row["_id"])


def _ended(root: Root, transaction: str) -> bool:
    document = root.engine.database.read(TRANSACTIONS, transaction)
    return document is None or State(document["state"]) in ENDED


def _published(root: Root, checksums: bool) -> Iterator[Finding]:
    database = root.engine.database
    for project in database.projects():
        versions = {document["_id"]["$oid"] for document in database.find(PROJECT + project, {"type": "version"})}
        for entry in database.find(PROJECT + project, {"type": "representation"}, without="files"):
            if entry["parent"]["$oid"] not in versions:
                message = f"representation {entry['name']} belongs to no version"
                yield Finding(kind="database", message=message, next="", document=entry["_id"]["$oid"])
            whole = database.read(PROJECT + project, entry["_id"]) or {"files": []}
            yield from _files(root, whole, checksums)


def _files(root: Root, document: Document, checksums: bool) -> Iterator[Finding]:
    buffer = memoryview(bytearray(BLOCK))
    for file in document["files"]:
        path = queries.rooted(root, file["path"])
        try:
            status = os.stat(path, follow_symlinks=False)
        except OSError as error:
            message = f"a document names {path}, which is not there ({error.strerror})"
            yield Finding(kind="missing_file", path=path, message=message, next="", document=document["_id"]["$oid"])
            continue
        wrong = ""
        if status.st_size != file["size"]:
            wrong = f"{path} has {status.st_size} bytes, {file['size']} were published"
        elif checksums and file.get("checksum") and _checksum(path, buffer) != file["checksum"]:
            wrong = f"{path} has another content than was published"
        if wrong:
            yield Finding(kind="changed_file", path=path, message=wrong, next="", document=document["_id"]["$oid"])


def _checksum(path: str, buffer: memoryview) -> str:
    fd, _ = transfer.open_source(path)
    try:
        return transfer.checksum_of(fd, buffer)
    finally:
        os.close(fd)


def _leftovers(root: Root) -> Iterator[Finding]:
    for place, transaction in queries.staging_directories(root):
        document = root.engine.database.read(TRANSACTIONS, transaction)
        if document is None or State(document["state"]) in ENDED:
            message = f"staging directory {root.absolute(place)} belongs to no unfinished transaction"
            yield Finding(kind="staging", path=root.absolute(place), message=message, next=_SWEEP)
    for path in trash_names(root):
        transaction = os.path.basename(path).partition(".")[0]
        document = root.engine.database.read(TRANSACTIONS, transaction)
        private = os.path.basename(path) != transaction
        if private and (document is None or State(document["state"]) in ENDED) and not is_kept(root, document, path):
            yield Finding(kind="staging", path=path, message=f"{path} was left by a transaction that has ended", next=_SWEEP)


def is_kept(root: Root, document: Document | None, path: str) -> bool:
    """Whether a failed publish left this on purpose: its next attempt may go on from it."""
    kept = (document or {}).get("kept") or ()
    return any(root.absolute(Place(root=entry["root"], path=entry["path"])) == path for entry in kept)


def trash_names(root: Root) -> Iterator[str]:
    """Absolute paths of everything in the trash folders."""
    for name, path in root.engine.roots.items():
        with root.engine.root(name) as fd, os.scandir(fd) as entries:
            places = ["", *sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))]
            for place in places:
                inside = f"{place}/.integrator/trash".lstrip("/")
                try:
                    with storage.folder(inside, fd) as trash, os.scandir(trash) as left:
                        names = sorted(entry.name for entry in left)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                yield from (os.path.join(path, inside, leftover) for leftover in names)
