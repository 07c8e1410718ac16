"""The answer of a publish, for people, programs and the retry that asks again."""

from __future__ import annotations

import os
from collections.abc import Sequence

import attrs

from integrator.database import PROJECT
from integrator.errors import IntegratorError
from integrator.model import Document, Place
from integrator.root import Root


@attrs.frozen(kw_only=True)
class PublishedRepresentation:
    """One representation and where its files are."""

    name: str
    #: Absolute folder.
    folder: str
    #: Names in it, in the order of frames.
    names: Sequence[str]

    @property
    def files(self) -> list[str]:
        """Absolute paths."""
        return [f"{self.folder}/{name}" for name in self.names]


@attrs.frozen(kw_only=True)
class PublishedVersion:
    """One version of a publish."""

    project: str
    asset: str
    subset: str
    family: str
    version: int
    #: Absolute path of its directory.
    path: str
    representations: tuple[PublishedRepresentation, ...]
    #: Number of files that go along with it.
    resources: int = 0
    #: Absolute path of its thumbnail, "" without one.
    thumbnail: str = ""

    def answer(self) -> Document:
        """The part of the JSON answer that tells of it."""
        facts = attrs.asdict(self, filter=lambda field, _: field.name not in ("representations", "resources", "thumbnail"))
        named = [{"name": entry.name, "files": entry.files} for entry in self.representations]
        return {**facts, "representations": named, **({"thumbnail": self.thumbnail} if self.thumbnail else {})}


@attrs.frozen(kw_only=True)
class PublishResult:
    """How a publish ended."""

    transaction: str
    #: published, already_published, rolled_back, in_doubt, refused, busy; planned for a dry run.
    outcome: str
    versions: tuple[PublishedVersion, ...] = ()
    error: IntegratorError | None = None
    #: What had to be left where it is, each with the reason: moved sources that changed, files of others in a place of ours.
    left: tuple[str, ...] = ()

    def document(self) -> Document:
        """The JSON answer."""
        error = self.error
        said = {"code": error.code, "message": error.message, "next": error.next} if error else None
        return {
            "transaction": self.transaction or None,
            "outcome": self.outcome,
            "error": said,
            "versions": [version.answer() for version in self.versions],
            **({"left": list(self.left)} if self.left else {}),
        }


def failed(error: IntegratorError) -> PublishResult:
    """The answer for a publish that ended with this error."""
    return PublishResult(transaction=error.transaction, outcome=error.outcome, error=error, left=tuple(error.left))


def of_transaction(root: Root, document: Document, outcome: str) -> PublishResult:
    """The answer for a finished transaction, from its document and those of its representations."""
    summary = document.get("summary") or {"versions": []}
    versions = tuple(_version(root, entry) for entry in summary["versions"])
    left = tuple(document.get("left") or ())
    return PublishResult(transaction=document["_id"], outcome=outcome, versions=versions, left=left)


def _version(root: Root, entry: Document) -> PublishedVersion:
    path = root.absolute(Place(**entry["place"]))
    return PublishedVersion(
        project=entry["project"],
        asset=entry["asset"],
        subset=entry["subset"],
        family=entry["family"],
        version=entry["version"],
        path=path,
        representations=tuple(_representation(root, entry["project"], path, found) for found in entry["representations"]),
        resources=entry.get("resources", 0),
        thumbnail=os.path.join(path, entry["thumbnail"]) if entry.get("thumbnail") else "",
    )


def _representation(root: Root, project: str, folder: str, entry: Document) -> PublishedRepresentation:
    document = root.engine.database.read(PROJECT + project, entry["_id"]) or {"files": []}
    names = [os.path.basename(file["path"]) for file in document["files"]]
    return PublishedRepresentation(name=entry["name"], folder=folder, names=names)
