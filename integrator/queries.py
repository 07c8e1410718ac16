"""What a publish root can tell: reads only, committed state only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import attrs

from integrator import storage
from integrator.database import LEASES, TRANSACTIONS
from integrator.errors import Ambiguous, Conflict, NotPublished, UnknownTransaction, UsageError
from integrator.model import UNSETTLED, Document, Owner, Place, State
from integrator.root import Reader, Root

# What only some calls need is loaded by them: a command that reads has to answer at once.

#: Fields of a transaction that a list shows.
_SHORT: Final = (
    "state", "publish_id", "purpose", "project", "created", "ended", "expires", "owner", "progress", "stuck", "error", "left",
)  # fmt: skip


#: Subsets up to which they are named in the question for their versions; above that, reading more than was asked for is faster.
_NAMED: Final = 500
#: Fields of a version that a list shows, or needs.
_LISTED: Final = (
    "_id", "name", "parent", "data.author", "data.comment", "data.time", "data.integrator.folder", "data.integrator.transaction",
)  # fmt: skip

# --- transactions ---------------------------------------------------------------------------------------------------


def status(root: Reader) -> Document:
    """What is unfinished or reserved, which soft locks are held, and which leftovers nobody owns."""
    reserved = root.database.find(TRANSACTIONS, {"state": State.RESERVED.value})
    unfinished = [_transaction(document) for document in (*unsettled(root), *reserved)]
    return {"unfinished": unfinished, "leases": lease_list(root), "orphans": list(_orphans(root, unfinished))}


def unsettled(root: Reader) -> list[Document]:
    """Every transaction that is not settled, in order of its start. (`ledger` has the same, and loads half of the engine.)"""
    return root.database.find(TRANSACTIONS, {"state": tuple(sorted(state.value for state in UNSETTLED))})


def _transaction(document: Document) -> Document:
    short = {name: document.get(name) for name in _SHORT}
    owner = document.get("owner")
    alive = None
    if owner:
        from integrator.leases import known_dead

        alive = not known_dead(Owner(**owner))
    versions = [
        {"path": entry["final"], "staging": entry["staging"], "lease": entry["lease"]} for entry in document["directories"]
    ]
    return {"transaction": document["_id"], **short, "owner_alive": alive, "directories": versions}


def _orphans(root: Reader, unfinished: list[Document]) -> Iterator[Document]:
    """Journals that belong to no unfinished transaction. (Staging directories are looked for by `check` and `sweep`.)"""
    known = {entry["transaction"] for entry in unfinished}
    for transaction, path in root.unfinished_journals():
        if transaction not in known:
            yield {"kind": "journal", "transaction": transaction, "path": path}


def lease_list(root: Reader) -> list[Document]:
    """Every soft lock that is held, with its holder, which is an unsettled transaction."""
    holders = {document["_id"]: document for document in unsettled(root)}
    held = []
    for row in root.database.find(LEASES, {"transaction": tuple(holders)}):
        holder = holders[row["transaction"]]
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
    from integrator import leases

    try:
        leases.break_lease(root.engine.database, key, reason, root.engine.owner)
    except Conflict as error:
        raise UsageError(f"the soft lock on {key} changed meanwhile", next="integrator lease list") from error


def show(root: Reader, transaction: str) -> Document:
    """One transaction: its document, and the records of its journal if it is unfinished. Raises `UnknownTransaction`."""
    document = root.database.read(TRANSACTIONS, transaction)
    if document is None:
        raise UnknownTransaction(f"no transaction has the id {transaction}", next="integrator history")
    stuck = document.get("stuck")
    return {**document, "next": f"integrator recover {transaction}" if stuck else ""}


def history(root: Reader, limit: int = 20) -> list[Document]:
    """The latest transactions, the newest first."""
    found = root.database.find(TRANSACTIONS, newest="_id", limit=limit)
    return [_transaction(document) for document in found]


# --- published versions ---------------------------------------------------------------------------------------------


def versions(
    root: Reader, project: str, asset: str = "", subset: str = "", *, latest: bool = False, hierarchy: str | None = None
) -> list[Document]:
    """Published versions of a project, an asset or a subset, by asset, subset and number; with `latest` the highest of each.

    Without it, foreign versions that lie among them are listed, too, and marked ``"foreign": True``. `hierarchy` takes the assets
    of one folder only. The number of questions to the database does not depend on the number of versions.
    """
    subsets = _subsets(root, project, asset, subset, hierarchy)
    few = latest and len(subsets) == 1
    documents = _versions_of(root, project, subsets, newest="name" if few else "", limit=int(few))
    if latest:
        highest: dict[str, Document] = {}
        for document in documents:
            best = highest.setdefault(document["parent"]["$oid"], document)
            if document["name"] > best["name"]:
                highest[document["parent"]["$oid"]] = document
        documents = list(highest.values())
    found = [_version(root, subsets[document["parent"]["$oid"]], document) for document in documents]
    if not latest:
        found += _foreign(root, project, subsets, documents)
    return sorted(found, key=lambda entry: (entry["asset"], entry["subset"], entry["version"]))


#: A subset with its asset, by the id of the subset.
_Subsets = Mapping[str, tuple[Document, Document]]


def _subsets(root: Reader, project: str, asset: str, subset: str, hierarchy: str | None) -> _Subsets:
    assets = {found["_id"]["$oid"]: found for found in _assets(root, project, asset, hierarchy)}
    where: dict[str, Any] = {"type": "subset", **({"name": subset} if subset else {})}
    if len(assets) <= _NAMED:
        where["parent"] = tuple(found["_id"] for found in assets.values())
    subsets = root.documents(project, where, only=("_id", "name", "parent", "data.family"))
    return {s["_id"]["$oid"]: (assets[s["parent"]["$oid"]], s) for s in subsets if s["parent"]["$oid"] in assets}


def _assets(root: Reader, project: str, asset: str, hierarchy: str | None) -> list[Document]:
    where = {"type": "asset", **({"name": asset} if asset else {})}
    return [found for found in root.documents(project, where) if hierarchy is None or hierarchy_of(found) == hierarchy.strip("/")]


def hierarchy_of(asset: Document) -> str:
    """The folders above an asset, joined by slashes."""
    return "/".join((asset.get("data") or {}).get("parents") or ())


def _versions_of(root: Reader, project: str, subsets: _Subsets, **options: Any) -> list[Document]:
    where: dict[str, Any] = {"type": "version", **options.pop("where", {})}
    if len(subsets) <= _NAMED:
        where["parent"] = tuple(subset["_id"] for _, subset in subsets.values())
    found = root.documents(project, where, only=_LISTED, **options)
    return [document for document in found if document["parent"]["$oid"] in subsets]


def _version(root: Reader, parents: tuple[Document, Document], document: Document) -> Document:
    asset, subset = parents
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


def rooted(root: Reader, path: str) -> str:
    """The absolute path of a rootless one (``{root[work]}/...``)."""
    mark, _, rest = path.partition("]}")
    place = root.roots.get(mark.removeprefix("{root["))
    return path if place is None else place + rest


def folder_of(document: Document) -> str:
    """The rootless path of the directory of a version; "" if another program published it."""
    return str(((document.get("data") or {}).get("integrator") or {}).get("folder", ""))


def _foreign(root: Reader, project: str, subsets: _Subsets, documents: Iterable[Document]) -> Iterator[Document]:
    """Directories that are called like versions, beside the published ones, which no document names."""
    known: dict[str, set[str]] = {}
    owners: dict[str, str] = {}
    for document in documents:
        folder, _, name = folder_of(document).rpartition("/")
        known.setdefault(folder, set()).add(name)
        owners[folder] = document["parent"]["$oid"]
    known.pop("", None)
    others = [(folder, name) for folder, names in known.items() for name in _names_in(rooted(root, folder)).difference(names)]
    layout = root.of_project(project).layout
    numbered = ((folder, name, layout.version_number(name)) for folder, name in others)
    strange = [(folder, name, number) for folder, name, number in numbered if number is not None]
    if not strange:
        return
    # What was revealed while this looked is not foreign: it is unsettled, or settled by now; in that order, and look again.
    revealed = {
        f"{{root[{entry['root']}]}}/{entry['final']}" for document in unsettled(root) for entry in document["directories"]
    }
    numbers = tuple({number for _, _, number in strange})
    where = {"name": numbers} if len(numbers) <= _NAMED else {}
    published = set(map(folder_of, _versions_of(root, project, subsets, where=where)))
    for folder, name, number in strange:
        path = f"{folder}/{name}"
        if path not in revealed and path not in published and os.path.isdir(rooted(root, path)):
            asset, subset = subsets[owners[folder]]
            family = (subset.get("data") or {}).get("family", "")
            yield {
                "asset": asset["name"], "subset": subset["name"], "family": family, "version": number,
                "path": rooted(root, path), "author": "", "comment": "", "time": "", "transaction": None, "foreign": True,
            }  # fmt: skip


def _names_in(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:  # not there, not mounted, or not for this user: then nothing can be said of it
        return set()


# --- one version ----------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class StoredRepresentation:
    """One representation of a published version."""

    name: str
    #: Absolute paths, in the order of frames.
    files: Sequence[str]


@attrs.frozen(kw_only=True)
class StoredVersion:
    """A published version, as its documents have it."""

    project: str
    #: Folders above the asset, "" for none.
    hierarchy: str
    asset: str
    subset: str
    family: str
    version: int
    #: Absolute path of the version directory, or of the folder of the hero version.
    path: str
    representations: Sequence[StoredRepresentation]
    author: str
    comment: str
    #: Local time of the publisher, ``%Y%m%dT%H%M%SZ``.
    time: str
    #: None if another program published it.
    transaction: str | None

    def document(self) -> Document:
        """The JSON answer."""
        return attrs.asdict(self)


def resolve(root: Reader, project: str, asset: str, subset: str, version: int | str, hierarchy: str | None) -> StoredVersion:
    """See `Reader.resolve`."""
    number = _number(version)
    parent = _asset(root, project, asset, hierarchy)
    found = root.documents(project, {"type": "subset", "parent": parent["_id"], "name": subset}, limit=1)
    if not found:
        _unknown(f"{asset} in project {project} has no subset {subset}", f"integrator versions {project} {asset}")
    child = found[0]
    where: dict[str, Any] = {"type": "version", "parent": child["_id"]}
    if isinstance(number, int):
        where["name"] = number
    hero = _hero(root, project, child, asset) if number == "hero" else None
    if hero is not None:
        where["_id"] = hero["version_id"]
    documents = root.documents(project, where, newest="name", limit=1)
    if not documents:
        what = f"v{number:03d}" if isinstance(number, int) else "version"
        _unknown(f"{asset} {subset} in project {project} has no {what}", f"integrator versions {project} {asset} {subset}")
    holder = hero or documents[0]
    representations = _representations(root, project, holder)
    facts = _version(root, (parent, child), documents[0])
    if hero is not None:
        first = next((entry.files[0] for entry in representations if entry.files), "")
        facts["path"] = rooted(root, folder_of(hero)) or os.path.dirname(first)
    return StoredVersion(project=project, hierarchy=hierarchy_of(parent), representations=representations, **facts)


def _number(version: int | str) -> int | str:
    """A number, "latest" or "hero". Raises `UsageError`."""
    if isinstance(version, int) or version in ("latest", "hero"):
        return version
    digits = version.removeprefix("v")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise UsageError(f"{version!r} is no version: give a number, latest or hero")
    return int(digits)


def _asset(root: Reader, project: str, asset: str, hierarchy: str | None) -> Document:
    found = _assets(root, project, asset, hierarchy)
    if not found:
        where = f" below {hierarchy}" if hierarchy else ""
        _unknown(f"project {project} has no asset {asset}{where}", f"integrator versions {project}")
    if len(found) > 1:
        paths = sorted("/".join(filter(None, (hierarchy_of(entry), asset))) for entry in found)
        above = [path.rpartition("/")[0] or "''" for path in paths]
        raise Ambiguous(
            f"project {project} has {len(found)} assets called {asset}: {', '.join(paths)}",
            paths,
            next=f"the same with --hierarchy and one of: {', '.join(above)}",
        )
    return found[0]


def _hero(root: Reader, project: str, subset: Document, asset: str) -> Document:
    found = root.documents(project, {"type": "hero_version", "parent": subset["_id"]}, limit=1)
    if not found:
        _unknown(
            f"{asset} {subset['name']} in project {project} has no hero version",
            f"integrator path {project} {asset} {subset['name']} latest",
        )
    return found[0]


def _representations(root: Reader, project: str, version: Document) -> tuple[StoredRepresentation, ...]:
    found = root.documents(project, {"type": "representation", "parent": version["_id"]})
    return tuple(
        StoredRepresentation(name=entry["name"], files=tuple(rooted(root, file["path"]) for file in entry["files"]))
        for entry in sorted(found, key=lambda entry: str(entry["name"]))
    )


def _unknown(message: str, next: str) -> NoReturn:
    raise NotPublished(message, next=next)


# --- the file system ------------------------------------------------------------------------------------------------


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
    from integrator.layout import STAGING_MARK

    with os.scandir(fd) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in folders:
        version, mark, transaction = name.partition(STAGING_MARK)
        hero = any(layout.is_hero_folder(prefix + name) for layout in root.layouts)
        if mark and (hero or root.is_version(version)):
            yield prefix + name, transaction.partition(".")[0]
        elif root.is_version(name):
            yield prefix + name, ""
        elif hero:
            continue  # what looks like a version in there is none
        elif not name.startswith("."):
            with storage.folder(name, fd) as inner:
                yield from _walk(root, inner, f"{prefix}{name}/")
