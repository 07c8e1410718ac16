"""Finds inconsistencies between documents, files and the engine's own records; writes nothing."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from integrator import ledger, queries, storage, transfer
from integrator.database import CLAIMS, LEASES, PROJECT, TRANSACTIONS
from integrator.journal import JournalDamaged
from integrator.leases import known_dead
from integrator.model import ENDED, Document, Owner, Place, State
from integrator.root import Root
from integrator.storage import BLOCK

#: Private name of a directory that was promised to a renderer.
_PROMISED: Final = re.compile(r"[0-9a-f]{24}\.r[0-9]+\.[0-9]+")
_SWEEP: Final = "integrator sweep"


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    #: missing_folder, missing_file, changed_file, unreadable_file, dangling_link, undocumented_version, unfinished, staging,
    #: journal, lease, claim, database.
    kind: str
    message: str
    #: The command that settles it, or what a person can do.
    next: str
    #: Absolute path, "" if it concerns a document.
    path: str = ""
    document: str = ""
    #: False for what is only worth knowing: versions of another tool may stand beside ours.
    wrong: bool = True


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
    # Looked at before the documents, so that what is published meanwhile is not taken for undocumented.
    on_disk = [root.absolute(place) for place in queries.version_directories(root)]
    documented: set[str] = set()
    for project in root.engine.database.projects():
        yield from _project(root, PROJECT + project, documented, checksums)
    yield from _undocumented(root, [path for path in on_disk if path not in documented])


def _project(root: Root, collection: str, documented: set[str], checksums: bool) -> Iterator[Finding]:
    """What the documents of one project name; adds the version directories that they name to `documented`."""
    database, reader = root.engine.database, _Reader(root, checksums)
    # Before the versions: what is published meanwhile has its version among them.
    representations = database.find(collection, {"type": "representation"}, without="files")
    versions: set[str] = set()
    missing: set[str] = set()
    for document in database.find(collection, {"type": ("version", "hero_version")}):
        versions.add(document["_id"]["$oid"])
        folder = queries.rooted(root, _ours(document).get("folder", ""))
        documented.add(folder)
        if folder and not os.path.isdir(folder):
            missing.add(document["_id"]["$oid"])
            message = f"a document names the version directory {folder}, which is not there"
            yield _finding("missing_folder", message, document, folder)
        else:
            yield from reader.findings(document, _ours(document).get("resources") or ())
    for entry in representations:
        parent = entry["parent"]["$oid"]
        if parent not in versions:
            yield _finding("database", f"representation {entry['name']} belongs to no version", entry)
        whole = database.read(collection, entry["_id"]) or {"files": []}
        if (first := next(iter(whole["files"]), None)) is not None:  # documents of other tools name their folder only so
            documented.add(os.path.dirname(queries.rooted(root, first["path"])))
        if parent not in missing:
            yield from reader.findings(entry, whole["files"])


def _ours(document: Document) -> Document:
    """What the engine wrote down in a document; nothing in those of other tools."""
    return (document.get("data") or {}).get("integrator") or {}


def _finding(kind: str, message: str, document: Document, path: str = "") -> Finding:
    transaction = _ours(document).get("transaction")
    told = f"; integrator show {transaction} tells who published it" if transaction else ""
    subject = "the version document" if kind == "database" else "what was published"
    following = f"put {subject} back if there is a copy of it, or publish again as a new version{told}"
    return Finding(kind=kind, message=message, next=following, path=path, document=document["_id"]["$oid"])


class _Reader:
    """Compares files with what a document says of them."""

    def __init__(self, root: Root, checksums: bool) -> None:
        self._root = root
        self._checksums = checksums
        self._buffer = memoryview(bytearray(BLOCK))

    def findings(self, document: Document, files: Iterable[Document]) -> Iterator[Finding]:
        for file in files:
            path = queries.rooted(self._root, file["path"])
            try:
                kind, wrong = self._compare(path, file)
            except FileNotFoundError as error:
                kind, wrong = "missing_file", f"a document names {path}, which is not there ({error.strerror})"
            except OSError as error:
                kind, wrong = "unreadable_file", f"{path} cannot be read ({error.strerror})"
            if wrong:
                yield _finding(kind, wrong, document, path)

    def _compare(self, path: str, file: Document) -> tuple[str, str]:
        """Kind and message of what is wrong with a file that is there; an empty message if nothing is."""
        status = os.stat(path, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode) and not os.path.exists(path):
            return "dangling_link", f"{path} is a symbolic link to {os.readlink(path)}, which is not there"
        if status.st_size != file["size"]:
            return "changed_file", f"{path} has {status.st_size} bytes, {file['size']} were published"
        if self._checksums and file.get("checksum") and _checksum(path, self._buffer) != file["checksum"]:
            return "changed_file", f"{path} has another content than was published"
        return "", ""


def _undocumented(root: Root, paths: list[str]) -> Iterator[Finding]:
    """Version directories that no document names: foreign, unless a transaction of ours published them."""
    states: dict[str, dict[str, str]] = {path: {} for path in paths}
    for transaction in root.engine.database.find(TRANSACTIONS) if paths else ():
        for directory in ledger.directories(transaction):
            path = root.absolute(Place(root=directory.root, path=directory.final))
            if path in states:
                states[path][transaction["state"]] = transaction["_id"]
    for path, found in states.items():
        if not os.path.isdir(path) or any(State(state) not in ENDED for state in found):
            continue  # withdrawn meanwhile, or not decided yet
        if publisher := found.get(State.FINISHED.value):
            message = f"{path} was published by transaction {publisher}, and no document names it any more"
            following = f"put its documents back if there is a copy of them, or move the folder away; integrator show {publisher}"
            yield Finding(kind="undocumented_version", message=message, next=following, path=path)
        else:
            message = f"no document names {path}: another tool or a person made it"
            following = "nothing, if it belongs there: its number counts as taken, and it is never touched"
            yield Finding(kind="undocumented_version", message=message, next=following, path=path, wrong=False)


def _checksum(path: str, buffer: memoryview) -> str:
    fd, _ = transfer.open_source(path)
    try:
        return transfer.checksum_of(fd, buffer)
    finally:
        os.close(fd)


def _leftovers(root: Root) -> Iterator[Finding]:
    for place, transaction in queries.staging_directories(root):
        if is_abandoned(root, transaction):
            message = f"staging directory {root.absolute(place)} belongs to no unfinished transaction"
            yield Finding(kind="staging", path=root.absolute(place), message=message, next=_SWEEP)
    for path in trash_names(root):
        transaction = os.path.basename(path).partition(".")[0]
        document = root.engine.database.read(TRANSACTIONS, transaction)
        private = os.path.basename(path) != transaction
        if private and (document is None or State(document["state"]) in ENDED) and not is_kept(root, document, path):
            yield Finding(kind="staging", path=path, message=f"{path} was left by a transaction that has ended", next=_SWEEP)


def is_abandoned(root: Root, transaction: str) -> bool:
    """Whether nobody can want anything of this transaction any more: it has ended, or was never there, nor ever will be."""
    database = root.engine.database
    document = database.read(TRANSACTIONS, transaction)
    if document is None:
        if transaction in ledger.successors(database):
            return False  # a reservation is about to go on under this id
        document = database.read(TRANSACTIONS, transaction)
    return document is None or State(document["state"]) in ENDED


def is_kept(root: Root, document: Document | None, path: str) -> bool:
    """Whether a failed publish left this on purpose: its next attempt may go on from it."""
    kept = (document or {}).get("kept") or ()
    if _PROMISED.fullmatch(os.path.basename(path)) and (document or {}).get("adopted"):
        return True  # what was rendered into a reserved directory, and was not asked for
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
