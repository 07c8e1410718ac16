"""Documents of what is exchanged: the hero version, and a version that is amended.

Between the verdict and the exchange the old directory is in place, after it the new one. So at the verdict the documents are
reduced to the files that both have, usually no change, and they become complete in the write that ends the transaction: no
document ever names a file that is not there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from integrator.database import Change, Delete, Update
from integrator.encoding import Packed
from integrator.layout import collision_key
from integrator.model import Document
from integrator.representations import extension

#: What of a representation that exists already is written anew; what other programs added to it stays.
_OURS: Final = (("name",), ("files",), ("context",))


def numbers(representation: Document) -> list[str] | None:
    """The frame of each file as it stands in its name; None if its files have no frames, or none can be told."""
    text = (representation.get("context") or {}).get("frame")
    names = [os.path.basename(file["path"]) for file in representation["files"]]
    if not isinstance(text, str) or not names:
        return None
    start = names[0].rfind(text)
    while start >= 0:
        head, tail = names[0][:start], names[0][start + len(text) :]
        found = [name[len(head) : len(name) - len(tail)] for name in names if name.startswith(head) and name.endswith(tail)]
        if len(found) == len(names) and all(number.removeprefix("-").isdecimal() for number in found):
            return found
        start = names[0].rfind(text, 0, start + len(text) - 1)
    return None


def reduced(representation: Document, kept: Collection[str]) -> Document | None:
    """The fields that change when only the files of these rootless paths stay; {} if all do, None if none does."""
    files = list(representation["files"])
    places = [n for n, file in enumerate(files) if file["path"] in kept]
    if len(places) == len(files):
        return {}
    if not places:
        return None
    changed: Document = {"files": Packed.of(files[n] for n in places)}
    path = (representation.get("data") or {}).get("path")
    if isinstance(path, str):
        changed["data.path"] = os.path.join(os.path.dirname(path), os.path.basename(files[places[0]]["path"]))
    frames = numbers(representation)
    if frames is not None:
        changed["context.frame"] = frames[places[0]]
    elif places[0] and "ext" in (representation.get("context") or {}):
        changed["context.ext"] = extension(files[places[0]]["path"])  # of several plain files each has its own
    tiles = (representation.get("context") or {}).get("udim")
    if isinstance(tiles, list) and len(tiles) == len(files):
        changed["context.udim"] = [tiles[n] for n in places]
    return changed


def replacement(
    collection: str, old: Sequence[Document], new: Iterable[Document], kept: Collection[str]
) -> tuple[list[Change], list[Document]]:
    """What the verdict changes in representations that are replaced, and the pointers (`Work.point`) that follow.

    `kept` are the rootless paths that both the old and the new directory have. A new representation with the name of an old one
    has its id, too.
    """
    wanted = {document["_id"]["$oid"]: document for document in new}
    changes: list[Change] = []
    pointers: list[Document] = []
    for document in old:
        # Whoever deleted or moved it meanwhile must be heard.
        place = {"collection": collection, "id": document["_id"], "expect": {"parent": document["parent"]}}
        changed = reduced(document, kept)
        if changed is None:
            changes.append(Delete(**place))
        elif changed:
            changes.append(Update(**place, set=changed))
        if document["_id"]["$oid"] not in wanted:
            pointers.append({"collection": collection, "id": document["_id"], "document": None})
    for document in wanted.values():
        fields = [*_OURS, *(("data", name) for name in document["data"])]
        pointers.append({"collection": collection, "id": document["_id"], "document": document, "set": fields})
    return changes, pointers


def by_name(representations: Iterable[Document]) -> Mapping[str, Any]:
    """Representations by what their names have in common with others that nobody may tell apart."""
    return {collision_key(str(document["name"])): document for document in representations}
