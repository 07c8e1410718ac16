"""Pointers to a version: the hero version, and the link `latest`.

The folder of the hero version is made of links to the files of the version, under names without a number, beside the old one; the
two are exchanged after the verdict, and the old one is kept in the trash. What somebody else put into the old one stays.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from integrator.amend import contents, keep_folders, link, refuse_changed, staged_contents
from integrator.database import PROJECT
from integrator.documents import Stamp
from integrator.encoding import Packed
from integrator.errors import Problem, ValidationRefused
from integrator.layout import STAGING_MARK, collision_key
from integrator.ledger import Plan
from integrator.model import Directory, Document, Place, object_id
from integrator.pointers import by_name, numbers, renamed, replacement
from integrator.preflight import InstancePlan, trash_folder
from integrator.representations import extension
from integrator.root import Root
from integrator.staging import StagingDirectory
from integrator.transaction import Transaction
from integrator.versions import Version, missing_folders

#: Name of the link beside the version directories.
LATEST: Final = "latest"


def follow(root: Root, transaction: Transaction, version: Version) -> None:
    """Let the hero version and the link follow a version that is complete, where they are wanted.

    Raises `ValidationRefused` for names that cannot be, `StorageFailed`.
    """
    if version.hero:
        stage_hero(root, transaction, version)
    if version.latest:
        _link_latest(root, transaction, version)


def stage_hero(root: Root, transaction: Transaction, version: Version) -> None:
    """Stage the hero version that a version becomes, under the lease of the version; the verdict carries it."""
    instance, stamp = version.instance, version.stamp
    collection, subset = PROJECT + instance.publish.project, instance.parents.subset
    values = {name: value for name, value in instance.values(root, version.number).items() if name != "version"}
    place = root.layout.hero_folder(values)
    before, old = _present(root, instance)
    [staging] = transaction.extend(lambda name: _plan(root, instance, place, name))
    rootless = f"{{root[{place.root}]}}/{place.path}"
    document = _document(before, version, subset, stamp.document(f"hero_version/{subset['_id']['$oid']}"), rootless)
    names, new = _representations(root, version, document, by_name(old), staging.final_path, stamp)
    if resources := _resources(version, rootless):
        document["data"]["integrator"]["resources"] = resources
        names.update((name, name) for name in (_inside(entry["path"], rootless) for entry in resources))
    ours = {_inside(file["path"], rootless) for entry in old for file in entry["files"]}
    ours |= {_inside(entry["path"], rootless) for entry in _stored(before).get("resources") or ()}
    _stage_files(root, transaction, version, staging, names, ours)
    changes, pointers = replacement(collection, old, new, {f"{rootless}/{name}" for name in staging.names()})
    fields = [("version_id",), ("data", "integrator")]
    transaction.change(*changes)
    transaction.point(*pointers, {"collection": collection, "id": document["_id"], "document": document, "set": fields})


def _present(root: Root, instance: InstancePlan) -> tuple[Document | None, list[Document]]:
    """The hero version that a subset has, and its representations."""
    project = instance.publish.project
    found = root.documents(project, {"type": "hero_version", "parent": instance.parents.subset["_id"]}, limit=1)
    if not found:
        return None, []
    return found[0], root.documents(project, {"type": "representation", "parent": found[0]["_id"]})


def _stage_files(
    root: Root,
    transaction: Transaction,
    version: Version,
    staging: StagingDirectory,
    names: Mapping[str, str],
    ours: Collection[str],
) -> None:
    """Link the files of the version (`names`: its paths to those in the hero), and what lies beside the old ones (`ours`)."""
    _refuse_repeated(names.values())
    place = Place(root=staging.directory.root, path=staging.directory.final)
    found = contents(root, place)
    transaction.expect(functools.partial(refuse_changed, root, place, found))
    taken = {collision_key(name) for name in names.values()}
    kept = {name: target for name, (target, _) in found.items() if name not in ours and collision_key(name) not in taken}
    link(root, staging, version.staging.path, version.final_path(), _sources(version, names))
    files = [(name, name, target) for name, target in kept.items() if not name.endswith("/")]
    link(root, staging, staging.final_path, staging.final_path, files)
    keep_folders(staging, staging.final_path, found, kept)


def _plan(root: Root, instance: InstancePlan, place: Place, transaction: str) -> Plan:
    directory = Directory(
        root=place.root,
        final=place.path,
        staging=f"{place.path}{STAGING_MARK}{transaction}",
        private=trash_folder(root, instance),
        lease=instance.lease,
        claim="",
        exchanged=True,
    )
    root.refuse_other_mount(place.root, place.parent, directory.private)
    return Plan(directories=(directory,), folders=tuple(missing_folders(root, directory)))


def _stored(document: Document | None) -> Document:
    return ((document or {}).get("data") or {}).get("integrator") or {}


def _document(before: Document | None, version: Version, subset: Document, stamp: Document, folder: str) -> Document:
    return {
        "_id": before["_id"] if before else object_id(),
        "type": "hero_version",
        "schema": "openpype:hero_version-1.0",
        "version_id": version.document["_id"],
        "parent": subset["_id"],
        "data": {**((before or {}).get("data") or {}), "integrator": {**stamp, "folder": folder}},
    }


def _inside(path: str, folder: str) -> str:
    return path.removeprefix(f"{folder}/")


def _representations(
    root: Root, version: Version, hero: Document, old: Mapping[str, Document], folder: str, stamp: Stamp
) -> tuple[dict[str, str], list[Document]]:
    """Paths in the hero folder by paths in the version directory, and the documents that name them."""
    names: dict[str, str] = {}
    documents: list[Document] = []
    rootless = hero["data"]["integrator"]["folder"]
    for entry in version.final_representations():
        files = list(entry["files"])
        inside = [_inside(file["path"], version.rootless) for file in files]
        template, values = root.layout.hero_path_template(), {k: v for k, v in entry["context"].items() if k != "version"}
        if "{" in entry["data"]["template"].rpartition("/")[2]:
            there = _names(root, entry, values, inside)
        else:
            there = inside  # a name that somebody gave it, and that no template makes
            template = f"{template.rpartition('/')[0]}/{inside[0]}"
        names.update(zip(inside, there))
        found = old.get(collision_key(entry["name"]))
        key = f"representation/{hero['_id']['$oid']}/{collision_key(entry['name'])}"
        others = found["data"] if found else {}
        data = {
            **others,
            **entry["data"],
            "path": os.path.join(folder, there[0]),
            "template": template,
            "integrator": stamp.document(key),
        }
        documents.append(
            {
                **(found or {}),
                **entry,
                "_id": found["_id"] if found else object_id(),
                "parent": hero["_id"],
                "context": values,
                "files": Packed.of(renamed(files, there, rootless)),
                "data": data,
            }
        )
    return names, documents


def _names(root: Root, entry: Document, values: Document, inside: Sequence[str]) -> list[str]:
    tiles, frames = values.get("udim"), numbers(entry)
    if isinstance(tiles, list):
        return root.layout.hero_file_names(values, None, list(map(int, tiles)))
    if frames is not None:
        return root.layout.hero_file_names(values, list(map(int, frames)), None)
    return [root.layout.hero_file_name({**values, "ext": extension(name)}) for name in inside]


def _resources(version: Version, folder: str) -> list[Document]:
    found = version.final_resources()
    return [{**entry, "path": f"{folder}/{_inside(entry['path'], version.rootless)}"} for entry in found]


def _refuse_repeated(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if collision_key(name) in seen:
            raise ValidationRefused(
                [Problem(name, "would be the name of two files of the hero version: the template hero_file must tell them apart")]
            )
        seen.add(collision_key(name))


def _sources(version: Version, names: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(path in the version, path in the hero folder, target of a symbolic link or "") of every file."""
    staged = staged_contents(version.staging)
    return [(inside, name, staged[inside][0]) for inside, name in names.items()]


def _link_latest(root: Root, transaction: Transaction, version: Version) -> None:
    """Let `latest` lead to a version, unless a higher one is published. Raises `ValidationRefused` if it is no link."""
    place, instance = Place(root=version.staging.directory.root, path=version.staging.directory.final), version.instance
    where = {"type": "version", "parent": instance.parents.subset["_id"]}
    newest = root.documents(instance.publish.project, where, newest="name", limit=1, only=("name",))
    if newest and newest[0]["name"] > version.number:
        return
    latest = Place(root=place.root, path=f"{place.parent}/{LATEST}")
    path = root.absolute(latest)
    if os.path.lexists(path) and not os.path.islink(path):
        raise ValidationRefused([Problem(path, f"is no symbolic link, so it cannot become the link to {place.name}")])
    transaction.link(latest, version.staging.directory.private, place.name)
