"""Reservations: a version number, its final paths and a staging directory, promised to a publish that comes later.

A studio fixes the number when a job is submitted, and publishes hours later, often from another machine. A reservation has no
owner and no soft lock. `publish` with the same publish id adopts it; `release` gives it back; it expires by the database's
clock. A renderer may write straight into the staging directory: then publishing is verify and rename.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from integrator import ledger, recovery, storage
from integrator.database import CLAIMS, TRANSACTIONS
from integrator.documents import find_parents
from integrator.errors import (
    Conflict,
    DifferentContent,
    Failed,
    Problem,
    StorageFailed,
    Unsettled,
    UsageError,
    ValidationRefused,
    VersionTaken,
)
from integrator.layout import collision_key
from integrator.model import Document, Place, State, new_id
from integrator.preflight import InstancePlan, plan_instance
from integrator.recovery import Settled
from integrator.representations import extension, is_pattern, is_sequence, is_tiles
from integrator.request import PublishRequest, RepresentationRequest, parse_request
from integrator.retry import find, former_runs
from integrator.root import Root
from integrator.versions import planner

#: Stands for the frame in a name that is turned into a pattern; no padding alters it.
_FRAME: Final = 987654321


@attrs.frozen(kw_only=True)
class ReservedVersion:
    """One version that is promised."""

    project: str
    asset: str
    subset: str
    family: str
    version: int
    #: Absolute path of its directory, once published.
    path: str
    #: Absolute path of the staging directory that may be written into.
    staging: str
    #: {"name", "files", "staged"} of each representation: final path and staging path, a printf pattern for a sequence.
    representations: tuple[Document, ...]


@attrs.frozen(kw_only=True)
class Reservation:
    """What is promised to a publish id."""

    transaction: str
    publish_id: str
    #: Unix time by the database's clock.
    expires: float
    versions: tuple[ReservedVersion, ...]

    def document(self) -> Document:
        """The JSON answer."""
        return attrs.asdict(self)


def reserve(request: PublishRequest | dict[str, Any] | str | bytes, root: Root, *, seconds: float) -> Reservation:
    """Promise the versions of a request to its publish id for so long; durable when it returns.

    The same request again gives the same answer. Raises `UsageError` without a publish id, `DifferentContent` if the id is used
    or reserved for something else, `ValidationRefused`, `VersionTaken`, `Failed`.
    """
    request = parse_request(request, root.policy)
    root = root.of_project(request.project)
    if any(instance.amend is not None for instance in request.instances):
        raise UsageError("a version that is amended has its number already: there is nothing to reserve. Nothing was touched")
    if request.publish_id is None:
        raise UsageError("a reservation is for a publish id: give it one with --publish-id ID")
    if seconds <= 0:
        raise UsageError("a reservation must last for some time", next="integrator reserve --help")
    while True:
        found = find(root, request.publish_id)
        if found is None:
            try:
                return _reserve(request, root, seconds)
            except Conflict as error:  # somebody else got the number or the id first: look again
                if error.collection == CLAIMS and any(instance.version is not None for instance in request.instances):
                    _settle_claim(root, error.key)
            continue
        if found["state"] == State.RESERVED.value and found["reservation"] == request.destination():
            with contextlib.suppress(Conflict):  # adopted or given back just now: look again
                if root.engine.database.now() + seconds > found["expires"]:
                    found = ledger.prolong(root.engine.database, found, seconds)
                _make_directories(root, found)  # whoever reserved it may have been killed before they were made
                _confirm(root, found)
                return answer(root, found, _plans(root, request))
            continue
        given_back = found["state"] == State.ROLLING_BACK.value
        if not given_back or recovery.settle(root.engine, found["_id"], same_publish=True).outcome != "rolled_back":
            raise DifferentContent(
                f"the publish id {request.publish_id} is in use or was published ({found['_id']}). Nothing was touched",
                next=f"integrator show {found['_id']}",
            )


def _settle_claim(root: Root, key: str) -> None:
    """Settle whoever has the number that a request pins. Raises `VersionTaken` if that cannot be done now."""
    claim = root.engine.database.read(CLAIMS, key)
    if claim is None:
        return
    settled = recovery.settle(root.engine, claim["transaction"])
    if claim.get("burnt") or settled.outcome not in ("rolled_back", "finished"):
        raise VersionTaken(
            f"v{claim['number']:03d} of {claim['lease']} is taken by transaction {claim['transaction']}. Nothing was touched",
            next=f"integrator show {claim['transaction']}",
        )


def _plans(root: Root, request: PublishRequest) -> list[InstancePlan]:
    plans, problems = [], []
    for instance in request.instances:
        parents = find_parents(root.engine.database, request, instance, create=root.settings.create_assets)
        if isinstance(parents, Problem):
            problems.append(parents)
        else:
            plans.append(plan_instance(request, instance, parents))
    if problems:
        raise ValidationRefused(problems)
    return plans


def _reserve(request: PublishRequest, root: Root, seconds: float) -> Reservation:
    plans = _plans(root, request)
    plan, transaction, engine = planner(root, plans), new_id(), root.engine
    facts = {
        "root_id": engine.root_id, "purpose": "publish", "publish_id": request.publish_id, "project": request.project,
        "reservation": request.destination(), "attempts": former_runs(root, str(request.publish_id)).attempts,
    }  # fmt: skip
    document = ledger.reserve(engine.database, transaction, plan(transaction), engine.owner, seconds, facts)
    try:
        for _ in range(100):  # only with the claim is it certain that nobody took the number just before
            again = plan(transaction)
            if set(again.claims) == set(document["claims"]):
                break
            ledger.move_claims(engine.database, document, again)
        document = engine.database.read(TRANSACTIONS, transaction) or document
        _make_directories(root, document)
        _confirm(root, document)
    except BaseException as error:
        settled = recovery.give_back(engine, document, f"{type(error).__name__}: {error}")
        if settled.outcome != "rolled_back":
            raise Unsettled(f"{error}, and it could not be undone: {settled.message}", next=settled.next) from error
        if isinstance(error, OSError):
            raise StorageFailed("make the staging directory", error.filename or "", error) from error
        if isinstance(error, Conflict) and error.collection != CLAIMS:
            raise Failed(f"the reservation was taken away: {error}", next="run it again") from error
        raise
    return answer(root, document, plans)


def _confirm(root: Root, document: Document) -> None:
    """Remove the directories again if the reservation was given back or adopted before they were there. Raises `Failed`."""
    now = root.engine.database.read(TRANSACTIONS, document["_id"]) or {}
    if now.get("state") == State.RESERVED.value:
        return
    for directory in ledger.directories(document):
        with root.engine.root(directory.root) as fd:
            root.engine.storage.remove_empty(directory.staging, fd)
    state = now.get("state", "gone")
    raise Failed(f"the reservation of {document['publish_id']} did not last: it is {state} now", next="integrator status")


def _make_directories(root: Root, document: Document) -> None:
    """Make the staging directories of a reservation that are not there, durable."""
    for directory in ledger.directories(document):
        with root.engine.root(directory.root) as fd:
            missing = storage.missing_folders(directory.staging, fd)
            if missing:
                os.close(root.engine.storage.make_folders(directory.staging, root.settings.folder_mode, fd))
            for path in missing:
                with storage.folder(path.rpartition("/")[0], fd) as parent:
                    root.engine.storage.sync(parent)


def answer(root: Root, document: Document, plans: Sequence[InstancePlan]) -> Reservation:
    """What a reservation promises; `plans` are its publish instances, in order."""
    versions = []
    for plan, directory in zip(plans, ledger.directories(document)):
        number = document["claims"][directory.claim][1]
        path, staging = (root.absolute(Place(root=directory.root, path=part)) for part in (directory.final, directory.staging))
        named = _names(root, plan, number)
        versions.append(
            ReservedVersion(
                project=plan.publish.project, asset=plan.request.asset, subset=plan.request.subset, family=plan.request.family,
                version=number, path=path, staging=staging,
                representations=tuple(
                    {"name": name, "files": _below(path, files), "staged": _below(staging, files)} for name, files in named
                ),
            )
        )  # fmt: skip
    return Reservation(
        transaction=document["_id"], publish_id=document["publish_id"], expires=document["expires"], versions=tuple(versions)
    )


def _below(folder: str, names: Iterable[str]) -> list[str]:
    return [f"{folder}/{name}" for name in names]


def _names(root: Root, plan: InstancePlan, number: int) -> list[tuple[str, list[str]]]:
    """Names of the files of each representation; sequences and tiles as one pattern. As `versions.name_files` has them."""
    representations = plan.request.representations
    named = [(entry.name, _name(root, plan, entry, number, entry.output)) for entry in representations]
    keys = Counter(collision_key(files[0]) for _, files in named)
    for n, entry in enumerate(representations):
        if keys[collision_key(named[n][1][0])] > 1 and not entry.output:
            named[n] = (entry.name, _name(root, plan, entry, number, entry.name))
    return named


def _name(root: Root, plan: InstancePlan, representation: RepresentationRequest, number: int, output: str) -> list[str]:
    first = representation.files[0]
    values = {**plan.values(root, number), "representation": representation.name, "ext": extension(first)}
    if output:
        values["output"] = output
    if is_tiles(first):
        return [name.replace(str(_FRAME), "<UDIM>") for name in root.layout.file_names(values, None, [_FRAME])]
    if is_pattern(first) or is_sequence(representation.files):
        pattern = f"%0{len(root.layout.frame_text(0))}d"
        return [name.replace(str(_FRAME), pattern) for name in root.layout.file_names(values, [_FRAME], None)]
    return [root.layout.file_name({**values, "ext": extension(path)}) for path in representation.files]


def release(publish_id: str, root: Root) -> Settled:
    """Give a reservation back: its numbers are free again, what was rendered for it is kept for a while (`keep_failed`).

    Raises `UsageError` if nothing is reserved under this id.
    """
    found = find(root, publish_id)
    if found is not None and found["state"] == State.ROLLING_BACK.value and not found.get("fingerprint"):
        return recovery.settle(root.engine, found["_id"], same_publish=True)  # somebody began to give it back
    if found is None or found["state"] != State.RESERVED.value:
        state = f"it is {found['state']}" if found else "nobody knows it"
        raise UsageError(f"nothing is reserved for the publish id {publish_id}: {state}", next="integrator status")
    return recovery.give_back(root.engine, found, "released")
