"""What is known of a publish, gathered from its answer, its documents and its journal.

Whatever cannot be read becomes a note of the report: a report is written when things go wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import attrs

from integrator import __version__, ledger, storage
from integrator.database import PROJECT, TRANSACTIONS
from integrator.errors import IntegratorError
from integrator.leases import this_process
from integrator.model import Document, Place
from integrator.report import Attempt, Failure, FileList, PluginRun, Report, ReportedVersion, Thumbnail, Wanted
from integrator.report.masks import Mask
from integrator.report.timeline import moment, read_journal, staged_files, timeline
from integrator.request import PublishRequest
from integrator.results import PublishedVersion, PublishResult
from integrator.retry import former_attempts
from integrator.root import Root

#: Outcomes after which files are in place.
_IN_PLACE: Final = ("published", "already_published")
#: Outcomes of a run that began no transaction; one that its answer names is another run's.
_UNTOUCHED: Final = ("refused", "busy", "planned")
#: Bytes of the largest picture that goes into a page.
_LARGEST: Final = 1 << 20
_PICTURES: Final = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"), (b"GIF8", "image/gif"))
#: Characters of the longest message that is kept whole.
_LONGEST: Final = 20_000

_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class Circumstances:
    """What the caller knows of a run, beside its answer."""

    exit_code: int
    #: Unix time.
    started: float
    ended: float
    #: What was given on the command line, for a request that could not be read; "" if nothing was.
    publish_id: str = ""
    request: PublishRequest | None = None
    plugins: Sequence[PluginRun] = ()


class _Asking:
    """Asks for facts, one by one. What fails is noted; what nobody answers is not asked again."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def ask(self, what: str, question: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return question()
        except (IntegratorError, OSError, ValueError, KeyError, TypeError, LookupError) as error:
            self.notes.append(f"{what}: {error}")
            return otherwise


def gather(root: Root | None, result: PublishResult, run: Circumstances) -> Report:
    """The report of a publish; `root` is open, or None if it was refused before one was opened."""
    asking, request = _Asking(), run.request
    publish_id = (request.publish_id if request else "") or run.publish_id
    document = _transaction(root, result, publish_id, asking)
    journal = asking.ask("the journal", lambda: read_journal(root, document), None) if root and document else None
    mask = Mask.of_process(root.settings.database if root else "")
    owner = this_process("")
    versions = _versions(root, result, document, asking)
    report = Report(
        outcome=result.outcome,
        exit_code=run.exit_code,
        transaction=result.transaction or str(document.get("_id") or ""),
        publish_id=publish_id,
        error=_failure(result.error),
        left=result.left,
        root=root.path if root else "",
        project=request.project if request else "",
        author=request.author if request else "",
        comment=request.comment if request else "",
        user=owner.user,
        host=owner.host,
        process=owner.pid,
        started=run.started,
        ended=run.ended,
        engine=__version__,
        wanted=_wanted(request),
        versions=versions,
        staged=_staged(root, document, journal) if root and journal and result.outcome not in _IN_PLACE else (),
        plugins=tuple(run.plugins),
        timeline=timeline(document, journal, mask) if document else (),
        attempts=_attempts(root, document, publish_id, asking),
        thumbnail=asking.ask("the thumbnail", lambda: _thumbnail(result), None),
        notes=tuple(asking.notes),
    )
    return _masked(report, mask)


def _transaction(root: Root | None, result: PublishResult, publish_id: str, asking: _Asking) -> Document:
    """The document of the transaction that the answer tells of; {} if it has none, or nobody can be asked.

    An error that is none of the engine's does not say which transaction it ended: that is the last of this very process.
    """

    def read() -> Document:
        assert root is not None
        if result.transaction:
            return root.engine.database.read(TRANSACTIONS, result.transaction) or nothing
        former = next(iter(former_attempts(root, publish_id)), nothing) if publish_id else nothing
        return former if former.get("began") == attrs.asdict(root.engine.owner) else nothing

    nothing: Document = {}
    return nothing if root is None or result.outcome in _UNTOUCHED else asking.ask("the database", read, nothing)


def _failure(error: IntegratorError | None) -> Failure | None:
    if error is None:
        return None
    problems = tuple((problem.where, problem.what) for problem in getattr(error, "problems", ()))
    message = error.message.partition("\n")[0] if problems else error.message
    return Failure(code=error.code, message=message, next=error.next, problems=problems)


def _wanted(request: PublishRequest | None) -> tuple[Wanted, ...]:
    return tuple(
        Wanted(
            asset=instance.asset,
            hierarchy=instance.hierarchy,
            subset=instance.subset,
            family=instance.family,
            representations=tuple((entry.name, tuple(entry.files)) for entry in instance.representations),
        )
        for instance in (request.instances if request else ())
    )


# --- files ------------------------------------------------------------------------------------------------------------


def _versions(root: Root | None, result: PublishResult, document: Document, asking: _Asking) -> tuple[ReportedVersion, ...]:
    """The versions of the answer, with the sizes and checksums that their documents have."""
    kept = {(entry["asset"], entry["subset"], entry["version"]): entry
            for entry in (document.get("summary") or {}).get("versions", ())}  # fmt: skip
    found = []
    for version in result.versions:
        summary = kept.get((version.asset, version.subset, version.version))
        told = _told(version)
        if root is not None and summary is not None and result.outcome in _IN_PLACE:
            told = asking.ask(f"the files of {version.subset}", lambda: _documented(root, version, summary), told)  # noqa: B023
        found.append(told)
    return tuple(found)


def _told(version: PublishedVersion) -> ReportedVersion:
    """A version as the answer has it, without sizes."""
    return _version(
        version,
        [
            FileList(name=entry.name, folder=entry.folder, names=tuple(entry.names), sizes=(None,) * len(entry.names),
                     checksums=("",) * len(entry.names))
            for entry in version.representations
        ],
        [],
    )  # fmt: skip


def _version(version: PublishedVersion, lists: Sequence[FileList], resources: Sequence[FileList]) -> ReportedVersion:
    return ReportedVersion(
        project=version.project, asset=version.asset, subset=version.subset, family=version.family, version=version.version,
        path=version.path, representations=tuple(lists), resources=tuple(resources),
    )  # fmt: skip


def _documented(root: Root, version: PublishedVersion, summary: Document) -> ReportedVersion:
    """A version as its documents have it."""
    database, collection = root.engine.database, PROJECT + version.project
    documents = [database.read(collection, entry["_id"]) or {} for entry in summary["representations"]]
    lists = [
        _files(str(entry["name"]), version.path, document.get("files") or ())
        for entry, document in zip(summary["representations"], documents)
    ]
    parent = next((document["parent"] for document in documents if "parent" in document), None)
    if parent is not None:
        above = database.read(collection, parent) or {}
    else:  # nothing but resources
        where = {"type": "version", "name": version.version}
        mine = (found for found in database.find(collection, where) if _path(root, found) == version.path)
        above = next(mine, {})
    ours = (above.get("data") or {}).get("integrator") or {}
    rest = [_files("resources", version.path, ours["resources"], str(ours.get("folder", "")))] if ours.get("resources") else []
    return _version(version, lists, rest)


def _path(root: Root, version: Document) -> str:
    from integrator.queries import folder_of, rooted

    return rooted(root, folder_of(version))


def _files(name: str, folder: str, entries: Any, rootless: str = "") -> FileList:
    """Files of a document; names are relative to `folder` where the rootless path of that is given."""
    rows = [(str(entry["path"]), entry.get("size"), str(entry.get("checksum") or "")) for entry in entries]
    names = [path.removeprefix(rootless + "/") if rootless else os.path.basename(path) for path, _, _ in rows]
    return FileList(
        name=name, folder=folder, names=names, sizes=[size for _, size, _ in rows], checksums=[digest for _, _, digest in rows]
    )


def _staged(root: Root, document: Document, journal: Any) -> tuple[FileList, ...]:
    directories = ledger.directories(document)
    paths = [root.absolute(Place(root=directory.root, path=directory.final)) for directory in directories]
    return tuple(staged_files(journal, paths))


def _thumbnail(result: PublishResult) -> Thumbnail | None:
    if result.outcome not in _IN_PLACE:
        return None
    for version in result.versions:
        if version.thumbnail and (picture := _picture(*os.path.split(version.thumbnail))):
            return picture
    for entry in (entry for version in result.versions for entry in version.representations):
        if entry.name.lower().startswith("thumb"):
            for name in entry.names:
                if picture := _picture(entry.folder, name):
                    return picture
    return None


def _picture(folder: str, name: str) -> Thumbnail | None:
    at = storage.open_root(folder)
    try:
        content = storage.read_file(name, at, _LARGEST + 1)
    finally:
        os.close(at)
    if len(content) > _LARGEST:
        return None
    kind = next((kind for start, kind in _PICTURES if content.startswith(start)), "")
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        kind = "image/webp"
    return Thumbnail(path=os.path.join(folder, name), type=kind, content=content) if kind else None


# --- attempts ---------------------------------------------------------------------------------------------------------


def _attempts(root: Root | None, document: Document, publish_id: str, asking: _Asking) -> tuple[Attempt, ...]:
    """The runs with this publish id before this one, the oldest first."""

    def read() -> list[Document]:
        former = next(iter(former_attempts(root, publish_id)), None) if root and publish_id else None
        return ledger.attempts(former) if former else []

    nothing: list[Document] = []
    found = document.get("attempts") or [] if document else asking.ask("the attempts before", read, nothing)
    return tuple(map(_attempt, found))


def _attempt(entry: Document) -> Attempt:
    return Attempt(
        transaction=str(entry["transaction"]),
        host=str(entry.get("host") or ""),
        started=moment(entry.get("started")),
        ended=moment(entry.get("ended")),
        error=str(entry.get("error") or ""),
        counts=bool(entry.get("counts")),
    )


# --- credentials ------------------------------------------------------------------------------------------------------


def _masked(report: Report, mask: Mask) -> Report:
    """The same without credentials. Long messages are cut: what was cut off is never needed to see what happened."""

    def clean(text: str) -> str:
        return _cut(mask.text(text))

    error = report.error
    return attrs.evolve(
        report,
        publish_id=mask.known(report.publish_id),
        comment=clean(report.comment),
        left=tuple(map(clean, report.left)),
        notes=tuple(map(clean, report.notes)),
        error=error and attrs.evolve(
            error, message=clean(error.message), next=clean(error.next),
            problems=tuple((mask.known(where), clean(what)) for where, what in error.problems),
        ),
        wanted=tuple(
            attrs.evolve(
                wanted,
                representations=tuple((name, tuple(map(mask.known, files))) for name, files in wanted.representations),
            )
            for wanted in report.wanted
        ),
        plugins=tuple(
            attrs.evolve(
                run, label=clean(run.label), instance=clean(run.instance), error=clean(run.error),
                records=tuple((level, clean(text)) for level, text in run.records),
            )
            for run in report.plugins
        ),
        timeline=tuple(attrs.evolve(moment, text=clean(moment.text)) for moment in report.timeline),
        attempts=tuple(attrs.evolve(attempt, error=clean(attempt.error)) for attempt in report.attempts),
    )  # fmt: skip


def _cut(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
