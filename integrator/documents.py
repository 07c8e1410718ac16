"""The documents of a publish, as OpenPype's schemas have them, so that existing tools read them.

Facts of the schemas: `_id`, `parent` and `version_id` are ObjectIds; `name` of a version is a whole number; `data.time` is
*local* time as ``%Y%m%dT%H%M%SZ`` (loaders parse exactly that); `files[].path` is rootless. Everything of ours is under
`data.integrator`: true UTC, transaction, publish id, and `key`, the lower-cased unique key.

Source: OpenPype 3, ``openpype/client/operations.py`` and ``openpype/plugins/publish/integrate.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final

import attrs

from integrator.database import PROJECT, Change, Database, Ensure, Insert
from integrator.encoding import PIECE, Packed, encode
from integrator.errors import Problem
from integrator.layout import collision_key
from integrator.model import Document, object_id
from integrator.request import InstanceRequest, PublishRequest
from integrator.transfer import Facts

_SITE: Final = "studio"


@attrs.frozen(kw_only=True)
class Parents:
    """The documents above a version, found or to be made."""

    project: Document
    asset: Document
    subset: Document
    #: Those of them that the verdict makes if nobody else did.
    made: tuple[Change, ...]

    @property
    def code(self) -> str:
        return str(self.project.get("data", {}).get("code") or self.project["name"])


def find_parents(database: Database, request: PublishRequest, instance: InstanceRequest, *, create: bool) -> Parents | Problem:
    """The project, asset and subset of a publish instance; a problem if one is unknown and may not be made here."""
    collection = PROJECT + request.project
    made: list[Change] = []
    project = next(iter(database.find(collection, {"type": "project"}, limit=1)), None)
    if project is None:
        if not create:
            return Problem(request.project, "there is no such project in the database", "names")
        project = _project(request.project)
        made.append(Ensure(collection=collection, document=project))
    parts = [part for part in instance.hierarchy.split("/") if part]
    named = database.find(collection, {"type": "asset", "name": instance.asset})
    asset = next((found for found in named if (found.get("data") or {}).get("parents", []) == parts), None)
    if asset is None:
        if not create:
            return Problem("/".join([*parts, instance.asset]), f"there is no such asset in project {request.project}", "names")
        asset = _asset(request.project, project, parts, instance.asset)
        made.append(Ensure(collection=collection, document=asset))
    subset = find_subset(database, request.project, asset["_id"], instance.subset)
    if subset is None:
        subset = _subset(asset, instance)
        made.append(Insert(collection=collection, document=subset))
    elif subset["name"] != instance.subset:
        return Problem(instance.subset, f"the subset {subset['name']} differs from it only in case or Unicode form", "names")
    return Parents(project=project, asset=asset, subset=subset, made=tuple(made))


def find_subset(database: Database, project: str, asset_id: Document, name: str) -> Document | None:
    """The subset document of this name, or of one that differs only in case."""
    collection = PROJECT + project
    exact = database.find(collection, {"type": "subset", "parent": asset_id, "name": name}, limit=1)
    keyed = exact or database.find(collection, {"data.integrator.key": subset_key(asset_id, name)}, limit=1)
    return keyed[0] if keyed else None


def subset_key(asset_id: Document, name: str) -> str:
    return f"subset/{asset_id['$oid']}/{collision_key(name)}"


def version_key(subset_id: Document, number: int) -> str:
    return f"version/{subset_id['$oid']}/{number}"


def _stable_id(*parts: str) -> Document:
    # Two publishers that both find an asset missing must make the same document.
    return {"$oid": hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()}


def _project(name: str) -> Document:
    return {
        "_id": _stable_id("project", name),
        "type": "project",
        "schema": "openpype:project-3.0",
        "name": name,
        "data": {"code": name},
        "config": {},
    }


def _asset(project_name: str, project: Document, parents: Sequence[str], name: str) -> Document:
    return {
        "_id": _stable_id("asset", project_name, *parents, name),
        "type": "asset",
        "schema": "openpype:asset-3.0",
        "name": name,
        "parent": project["_id"],
        "data": {"parents": list(parents), "visualParent": None, "tasks": {}},
    }


def _subset(asset: Document, instance: InstanceRequest) -> Document:
    families = [instance.family, *(family for family in instance.families if family != instance.family)]
    return {
        "_id": object_id(),
        "type": "subset",
        "schema": "openpype:subset-3.0",
        "name": instance.subset,
        "parent": asset["_id"],
        "data": {
            "family": instance.family,
            "families": families,
            "integrator": {"key": subset_key(asset["_id"], instance.subset)},
        },
    }


@attrs.frozen(kw_only=True)
class Stamp:
    """Which transaction a document comes from, and when."""

    transaction: str
    publish_id: str
    moment: datetime

    @classmethod
    def now(cls, transaction: str, publish_id: str) -> Stamp:
        return cls(transaction=transaction, publish_id=publish_id, moment=datetime.now(timezone.utc))

    def document(self, key: str) -> Document:
        time_utc = self.moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"transaction": self.transaction, "publish_id": self.publish_id, "time": time_utc, "key": key}

    @property
    def local(self) -> str:
        return time.strftime("%Y%m%dT%H%M%SZ", time.localtime(self.moment.timestamp()))

    @property
    def date(self) -> Document:
        return {"$date": self.moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")}


def version_document(
    request: PublishRequest, instance: InstanceRequest, parents: Parents, number: int, folder: str, stamp: Stamp
) -> Document:
    """A version; `folder` is the rootless path of its directory."""
    data: Document = {
        **instance.data,
        "families": [instance.family, *(family for family in instance.families if family != instance.family)],
        "author": request.author,
        "source": request.source,
        "comment": request.comment,
        "machine": request.machine,
        "intent": request.intent,
        "time": stamp.local,
        "inputLinks": [{"id": {"$oid": id}, "type": "generative"} for id in instance.inputs if _is_id(id)],
        "integrator": {
            **stamp.document(version_key(parents.subset["_id"], number)),
            "folder": folder,
            "inputs": list(instance.inputs),
        },
    }
    return {
        "_id": object_id(),
        "type": "version",
        "schema": "openpype:version-3.0",
        "name": number,
        "parent": parents.subset["_id"],
        "data": data,
    }


def _is_id(text: str) -> bool:
    return len(text) == 24 and all(c in "0123456789abcdef" for c in text)


def context(
    request: PublishRequest, instance: InstanceRequest, parents: Parents, number: int, roots: Mapping[str, str]
) -> Document:
    """The values that fill in the templates of one publish instance, as they are stored with each representation."""
    task = instance.task
    return {
        "root": dict(roots),
        "project": {"name": request.project, "code": parents.code},
        "hierarchy": instance.hierarchy,
        "asset": instance.asset,
        "task": {"name": task.name, "type": task.type, "short": task.short} if task else {},
        "family": instance.family,
        "subset": instance.subset,
        "version": number,
        "user": request.user,
        "username": request.user,
    }


def representation_document(
    version: Document, name: str, template: str, values: Document, paths: tuple[str, str, Sequence[str]], facts: Facts,
    extra: Mapping[str, Any], stamp: Stamp,
) -> Document:  # fmt: skip
    """A representation. `paths` is (absolute folder, rootless folder, file names)."""
    absolute, rootless, names = paths
    key = f"representation/{version['_id']['$oid']}/{collision_key(name)}"
    return {
        "_id": object_id(),
        "type": "representation",
        "schema": "openpype:representation-2.0",
        "name": name,
        "parent": version["_id"],
        "files": _files(rootless, names, facts, stamp.date),
        "context": values,
        "data": {**extra, "path": os.path.join(absolute, names[0]), "template": template, "integrator": stamp.document(key)},
    }


def thumbnail_document(values: Document, path: str, stamp: Stamp) -> Document:
    """A thumbnail at a rootless path; `values` are those of the templates.

    Loaders find the file by ``data.template.format(**data.template_data)``, where they put in their own ``project``. There is one
    for each version that has an image, and documents of other kinds name it, so it has no name and no unique key.
    """
    root, _, inside = path.partition("}")
    template = f"{root}}}{inside.replace('{', '{{').replace('}', '}}')}"
    known = {"name": "thumbnail", "ext": os.path.splitext(path)[1].lstrip("."), "thumbnail_type": "thumbnail"}
    ours = stamp.document("")
    del ours["key"]
    return {
        "_id": object_id(),
        "type": "thumbnail",
        "schema": "openpype:thumbnail-1.0",
        "data": {"template": template, "template_data": {**values, **known}, "integrator": ours},
    }


def _files(folder: str, names: Sequence[str], facts: Facts, date: Document) -> Packed:
    """The array `files`, written as JSON text at once: 100,000 dictionaries would cost more than linking the files."""
    base, first = os.urandom(9).hex(), int.from_bytes(os.urandom(2), "big")
    sites = encode([{"name": _SITE, "created_dt": date}]).decode()
    [folder] = _escaped([folder])
    pieces = []
    for start in range(0, len(names), PIECE):
        part = slice(start, start + PIECE)
        columns = zip(_escaped(names[part]), facts.sizes[part], map(_time_text, facts.source_times[part]), facts.checksums[part])
        rows = [
            f'{{"_id":{{"$oid":"{base}{n:06x}"}},"path":"{folder}/{name}","size":{size},'
            f'"hash":"{name.replace(".", ",")}|{time}|{size}","checksum":"{checksum}","sites":{sites}}}'
            for n, (name, size, time, checksum) in enumerate(columns, first + start)
        ]
        pieces.append(f"[{','.join(rows)}]".encode())
    return Packed(pieces, len(names))


def _time_text(nanoseconds: int) -> str:
    """A modification time as ``os.path.getmtime`` has it, to the last digit, with commas."""
    return str(nanoseconds // 10**9 + 1e-9 * (nanoseconds % 10**9)).replace(".", ",")


def _escaped(texts: Sequence[str]) -> Sequence[str]:
    """Texts as they stand between the quotes of JSON; names hardly ever need a change."""
    together = "".join(texts)
    if together.isascii() and together.isprintable() and '"' not in together and "\\" not in together:
        return texts
    return [json.dumps(text)[1:-1] for text in texts]
