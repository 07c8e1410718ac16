"""Filling a sequence in: a few frames were rendered again, all others are those of an earlier version."""

from __future__ import annotations

from integrator.errors import UsageError
from integrator.layout import collision_key
from integrator.model import Document
from integrator.pointers import by_name, numbers, renamed
from integrator.queries import rooted
from integrator.root import Root
from integrator.transfer import Policy
from integrator.versions import Version


def fill(root: Root, version: Version, name: str, number: int) -> Document:
    """Add the frames that a representation lacks, as links to those of version `number`; returns its document as it is now.

    Raises `UsageError` if one of the two is no sequence, `StorageFailed`.
    """
    own: Document | None = by_name(version.representations).get(collision_key(name))
    project, subset = version.instance.publish.project, version.instance.parents.subset
    found = root.documents(project, {"type": "version", "parent": subset["_id"], "name": number}, limit=1)
    others = root.documents(project, {"type": "representation", "parent": found[0]["_id"]}) if found else []
    other = by_name(others).get(collision_key(name))
    have, had = (_by_frame(entry) for entry in (own, other))
    if own is None or not have or not had:
        raise UsageError(f"{name} is no sequence in both v{number:03d} and v{version.number:03d}: nothing can be filled in")
    missing = sorted(had.keys() - have.keys())
    names = root.layout.file_names(own["context"], missing, None)
    rule = Policy(transfer="hardlink", checksum="none", fallback="copy", mode=root.settings.file_mode, keep_times=True)
    version.staging.transfer([rooted(root, had[frame]["path"]) for frame in missing], names, rule)
    have.update(zip(missing, renamed([had[frame] for frame in missing], names, version.rootless)))
    own["files"] = [have[frame] for frame in sorted(have)]
    own["context"]["frame"] = root.layout.frame_text(min(have))
    own["data"]["path"] = version.final_path(have[min(have)]["path"].rpartition("/")[2])
    return own


def _by_frame(representation: Document | None) -> dict[int, Document]:
    if representation is None:
        return {}
    files: list[Document] = list(representation["files"])
    return dict(zip(map(int, numbers(representation) or ()), files))
