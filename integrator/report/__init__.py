"""The report of one publish: what became of it, why, what to do now, and everything that is known about it.

`contents.gather` puts it together, `files.write` writes it as one JSON document and one page. Times are Unix times, sizes bytes.
A report is read by whoever gets the page: `masks` takes out what looks like a credential before it becomes part of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs

from integrator.model import Document

SCHEMA: Final = "integrator:publish-report-1.0"


@attrs.frozen(kw_only=True)
class PluginRun:
    """One plugin that was run on one publish instance, or on the context."""

    #: Class of the plugin.
    name: str
    #: What people call it.
    label: str
    order: float
    #: Name of the publish instance, "" for the context.
    instance: str
    #: When it started.
    started: float
    #: How long it took.
    seconds: float
    #: (level, message) of what it logged.
    records: tuple[tuple[str, str], ...] = ()
    #: What it failed with, "" if it did not.
    error: str = ""


@attrs.frozen(kw_only=True)
class Failure:
    """Why it is not published."""

    #: Stable word for programs.
    code: str
    message: str
    #: Command to run now, "" where there is none.
    next: str
    #: (where, what) of everything that is wrong, for errors that list it.
    problems: tuple[tuple[str, str], ...] = ()


@attrs.frozen(kw_only=True)
class FileList:
    """Files of one folder, in the order of frames; parallel lists."""

    #: Name of the representation; of the folder for resources; "" for what was only staged.
    name: str
    #: Absolute folder.
    folder: str
    names: Sequence[str]
    #: None where it is not known.
    sizes: Sequence[int | None]
    #: xxh3-128 as hex, "" where none was taken.
    checksums: Sequence[str]

    @property
    def size(self) -> int | None:
        """Bytes of all of them, None if that is not known of every one."""
        known = [size for size in self.sizes if size is not None]
        return sum(known) if len(known) == len(self.names) else None

    def document(self) -> Document:
        rows = zip(self.names, self.sizes, self.checksums)
        files = [{"name": name, "size": size, "checksum": checksum} for name, size, checksum in rows]
        return {"name": self.name, "folder": self.folder, "size": self.size, "files": files}


@attrs.frozen(kw_only=True)
class ReportedVersion:
    """A version that is published, or would be."""

    project: str
    asset: str
    subset: str
    family: str
    version: int
    #: Absolute path of its directory.
    path: str
    representations: tuple[FileList, ...]
    resources: tuple[FileList, ...] = ()


@attrs.frozen(kw_only=True)
class Wanted:
    """A publish instance as the request has it."""

    asset: str
    hierarchy: str
    subset: str
    family: str
    #: (name of the representation, its files as the request gives them).
    representations: tuple[tuple[str, tuple[str, ...]], ...]


@attrs.frozen(kw_only=True)
class Moment:
    """Something that happened, in the order of the journal."""

    #: Unix time, None where it was not kept.
    time: float | None
    #: Kind of the journal's record, or `created`, `adopted`, `stuck`, `ended` of the document.
    kind: str
    text: str
    #: Whose clock it was: "journal" is that of the process that published, "database" the database's.
    clock: str


@attrs.frozen(kw_only=True)
class Attempt:
    """A run with the same publish id before this one."""

    transaction: str
    host: str
    started: float | None
    ended: float | None
    #: "" if it was killed.
    error: str
    #: Whether it counts against the budget of attempts.
    counts: bool


@attrs.frozen(kw_only=True)
class Thumbnail:
    """A picture of what is published."""

    #: Absolute path.
    path: str
    #: image/jpeg, image/png, image/gif or image/webp, by its first bytes.
    type: str
    content: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Report:
    """Everything that is known of one publish."""

    #: published, already_published, planned, rolled_back, refused, busy or in_doubt, as `PublishResult` has it.
    outcome: str
    exit_code: int
    #: The transaction concerned, "" if there is none.
    transaction: str
    #: "" while there is none.
    publish_id: str
    error: Failure | None
    #: What had to be left where it is, each with the reason.
    left: tuple[str, ...] = ()

    #: Absolute path of the publish root, "" if none was opened.
    root: str = ""
    project: str = ""
    author: str = ""
    comment: str = ""
    #: The process that published: user, host and number.
    user: str
    host: str
    process: int
    started: float
    ended: float
    #: Version of this program.
    engine: str

    #: What was asked for; empty if the request could not be read.
    wanted: tuple[Wanted, ...] = ()
    #: What is published, or was planned.
    versions: tuple[ReportedVersion, ...] = ()
    #: What was staged for a version directory (its final path) by a publish that is not published.
    staged: tuple[FileList, ...] = ()
    plugins: tuple[PluginRun, ...] = ()
    timeline: tuple[Moment, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    thumbnail: Thumbnail | None = None
    #: What could not be found out for this report, and why.
    notes: tuple[str, ...] = ()

    def document(self) -> Document:
        """The JSON document."""
        error = self.error and {**_plain(self.error), "problems": [{"where": w, "what": x} for w, x in self.error.problems]}
        return {
            "schema": SCHEMA,
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "transaction": self.transaction or None,
            "publish_id": self.publish_id or None,
            "error": error,
            "left": list(self.left),
            "root": self.root or None,
            "project": self.project,
            "author": self.author,
            "comment": self.comment,
            "run": {
                "user": self.user, "host": self.host, "process": self.process, "started": self.started, "ended": self.ended,
                "engine": self.engine,
            },
            "wanted": [
                {
                    **_plain(wanted),
                    "representations": [{"name": name, "files": list(files)} for name, files in wanted.representations],
                }
                for wanted in self.wanted
            ],
            "versions": [
                {
                    **_plain(version),
                    "representations": [entry.document() for entry in version.representations],
                    "resources": [entry.document() for entry in version.resources],
                }
                for version in self.versions
            ],
            "staged": [entry.document() for entry in self.staged],
            "plugins": [
                {**_plain(run), "records": [{"level": level, "message": text} for level, text in run.records]}
                for run in self.plugins
            ],
            "timeline": [_plain(moment) for moment in self.timeline],
            "attempts": [_plain(attempt) for attempt in self.attempts],
            "thumbnail": self.thumbnail and {"path": self.thumbnail.path, "type": self.thumbnail.type},
            "notes": list(self.notes),
        }  # fmt: skip


def _plain(value: Any) -> Document:
    return attrs.asdict(value, recurse=False)


__all__ = [
    "SCHEMA", "Attempt", "Failure", "FileList", "Moment", "PluginRun", "Report", "ReportedVersion", "Thumbnail", "Wanted",
]  # fmt: skip
