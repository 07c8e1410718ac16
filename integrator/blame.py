"""Says which publish a file or directory comes from, by the documents; nothing is written.

The answer has a `kind`:

* `published`: the directory of a published version, or a file that its documents name; the same of a hero version, with `hero`;
* `foreign`: inside a root, and no publish made it: a version directory without a document, or a file beside the published ones;
* `unfinished`: a version directory of a transaction that is not settled; `staging`: a staging directory, or inside one;
* `trash`: what a publish replaced, or what a rollback took away; `engine`: another folder of the engine;
* `folder`: above version directories; `outside`: in no root of this publish root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from integrator.database import PROJECT, TRANSACTIONS
from integrator.errors import UsageError
from integrator.layout import STAGING_MARK
from integrator.model import Document, from_here
from integrator.queries import folder_of, hierarchy_of, unsettled
from integrator.root import Reader
from integrator.state_folder import STATE

#: Symbolic links that are followed, one after the other, before it is taken for a circle.
_LINKS: Final = 40


def blame(root: Reader, path: str) -> Document:
    """Which publish made what is at `path`, or why none did. Raises `UsageError` if there is nothing and never was.

    A symbolic link that no publish made is followed.
    """
    place = here = _without_links_above(path)
    for _ in range(_LINKS):
        found = _at(root, here)
        if found["kind"] not in ("foreign", "outside") or not os.path.islink(here):
            break
        here = _without_links_above(os.path.join(os.path.dirname(here), os.readlink(here)))
    if found["kind"] in ("foreign", "outside") and not os.path.lexists(here):
        raise UsageError(f"there is nothing at {here}, and no version names it", next="integrator versions PROJECT")
    return {"path": here, **({"link": place} if here != place else {}), **found}


def _without_links_above(path: str) -> str:
    """The absolute path, with no symbolic link in it but perhaps the last component."""
    whole = from_here(path).rstrip("/") or "/"
    folder, name = os.path.split(whole)
    return os.path.realpath(whole) if name in ("", ".", "..") else os.path.join(os.path.realpath(folder), name)


def _at(root: Reader, path: str) -> Document:
    name, inside = _below(root, path)
    if not name:
        return {"kind": "outside"}
    parts = inside.split("/") if inside else []
    nameless = ""  # a folder that is called like a version, and that no document names
    if STATE in parts:
        return _engine(root, parts[parts.index(STATE) + 1 :])
    for depth, part in enumerate(parts, 1):
        version, mark, transaction = part.partition(STAGING_MARK)
        numbers = {layout.version_number(version) for layout in root.layouts} - {None}
        is_hero = any(layout.is_hero_folder("/".join(parts[:depth])) for layout in root.layouts)
        if not numbers and not is_hero:
            continue
        if mark:
            return {"kind": "staging", **_transaction(root, transaction.partition(".")[0])}
        folder = f"{{root[{name}]}}/{'/'.join(parts[:depth])}"
        if is_hero:
            for project in _projects(root, parts):
                for document in root.documents(project, {"type": "hero_version"}):
                    if folder_of(document) == folder:
                        return _hero(root, project, document, part, "/".join(parts[depth:]))
            continue
        for project in _projects(root, parts):
            for document in root.documents(project, {"type": "version", "name": tuple(numbers)}):
                if folder_of(document) == folder:
                    return _published(root, project, document, "/".join(parts[depth:]))
        nameless = nameless or "/".join(parts[:depth])
    if nameless:
        return _without_document(root, name, nameless)
    return {"kind": "folder" if os.path.isdir(path) and not os.path.islink(path) else "foreign"}


def _below(root: Reader, path: str) -> tuple[str, str]:
    """Name of the root that a path lies in, the innermost of several, and the path relative to it; "" if there is none."""
    places = sorted(((os.path.realpath(place), name) for name, place in root.roots.items()), key=lambda pair: -len(pair[0]))
    for place, name in places:
        if path == place or path.startswith(place.rstrip("/") + "/"):
            return name, path[len(place) :].strip("/")
    return "", ""


def _projects(root: Reader, parts: list[str]) -> Iterator[str]:
    """All projects, those that are named in the path first."""
    projects = root.database.projects()
    yield from (project for project in parts if project in projects)
    yield from (project for project in projects if project not in parts)


def _published(root: Reader, project: str, document: Document, inside: str) -> Document:
    contents = document.get("data") or {}
    ours = contents.get("integrator") or {}
    representation = _representation(root, project, document, inside) if inside else ""
    if representation is None:
        return {"kind": "foreign", "version_directory": f"v{document['name']:03d}"}
    subset = root.database.read(PROJECT + project, document["parent"]) or {}
    asset = root.database.read(PROJECT + project, subset["parent"]) or {} if subset else {}
    return {
        "kind": "published",
        "project": project,
        "hierarchy": hierarchy_of(asset),
        "asset": asset.get("name", ""),
        "subset": subset.get("name", ""),
        "version": document["name"],
        "representation": representation,
        "author": contents.get("author", ""),
        "comment": contents.get("comment", ""),
        "time": contents.get("time", ""),
        "source": contents.get("source", ""),
        **_transaction(root, str(ours.get("transaction") or "")),
        "publish_id": ours.get("publish_id"),
    }


def _hero(root: Reader, project: str, hero: Document, name: str, inside: str) -> Document:
    """The same of a hero version: of which version, and by whom it was put there."""
    representation = _representation(root, project, hero, inside) if inside else ""
    version = root.database.read(PROJECT + project, hero["version_id"])
    if representation is None or version is None:
        return {"kind": "foreign", "version_directory": name}
    ours = (hero.get("data") or {}).get("integrator") or {}
    by = {**_transaction(root, str(ours.get("transaction") or "")), "publish_id": ours.get("publish_id")}
    return {**_published(root, project, version, ""), "hero": True, "representation": representation, **by}


def _representation(root: Reader, project: str, version: Document, inside: str) -> str | None:
    """What of a version names a path inside it: a representation, "resources", "" for a folder on the way; None if nothing."""
    ours = (version.get("data") or {}).get("integrator") or {}
    path = f"{ours.get('folder', '')}/{inside}"
    where = {"type": "representation", "parent": version["_id"]}
    named = [(str(entry["name"]), entry["files"]) for entry in root.documents(project, where)]
    folder = False
    for name, files in [*named, ("resources", ours.get("resources") or ())]:
        for file in files:
            if file["path"] == path:
                return name
            folder = folder or file["path"].startswith(path + "/")
    return "" if folder else None


def _without_document(root: Reader, name: str, path: str) -> Document:
    for document in unsettled(root):
        if any((entry["root"], entry["final"]) == (name, path) for entry in document["directories"]):
            return {"kind": "unfinished", **_transaction(root, document["_id"])}
    return {"kind": "foreign"}


def _engine(root: Reader, parts: list[str]) -> Document:
    if len(parts) > 1 and parts[0] == "trash":
        return {"kind": "trash", **_transaction(root, parts[1].partition(".")[0])}
    return {"kind": "engine"}


def _transaction(root: Reader, transaction: str) -> Document:
    """What the document of a transaction says; None where it is gone or another program published."""
    document = root.database.read(TRANSACTIONS, transaction) or {}
    owner = document.get("owner") or {}
    return {
        "transaction": transaction or None,
        "state": document.get("state"),
        "publish_id": document.get("publish_id") or document.get("former_publish_id"),
        "user": owner.get("user"),
        "host": owner.get("host"),
        "application": owner.get("application"),
        "begun": document.get("created"),
    }
