"""A publish put together step by step, by Python code instead of a request.

::

    with root.begin(project="demo", publish_id="job-1") as assembly:
        version = assembly.new_version(asset="hero", subset="modelMain", family="model")
        version.copy("/jobs/demo/hero.ma")
        export_alembic(version.path + "/hero.abc")
        version.adopt("hero.abc")

Leaving the block commits; any exception, `KeyboardInterrupt` and `SystemExit` included, rolls everything back. So does a step
that failed and whose error was caught inside the block, unless the block rolled back to a savepoint from before it.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, TypeVar, cast

from integrator.bulk import carried_out, change_of
from integrator.database import PROJECT, Delete, Ensure, Insert, Replace, Update, choices, field, id_text, matches
from integrator.documents import Stamp, find_parents
from integrator.errors import Conflict, DifferentContent, ExpectationFailed, Problem, UsageError, ValidationRefused
from integrator.fill import fill
from integrator.harvest import Harvest, leftovers
from integrator.hero import follow
from integrator.layout import collision_key
from integrator.ledger import Plan
from integrator.model import Document, Place, State, new_id, object_id
from integrator.preflight import InstancePlan, destination_problems, plan_instance, source_problems
from integrator.representations import extension, frames_of, inspect, resolve
from integrator.request import PublishRequest, parse_request
from integrator.results import PublishedRepresentation, PublishedVersion, PublishResult
from integrator.retry import Earlier, find, former_runs
from integrator.root import Root
from integrator.staging import Progress, StagingDirectory
from integrator.transaction import Savepoint, Transaction
from integrator.transfer import Facts
from integrator.versions import Named, Version, claimed_numbers, name_files, name_sources, planner

_Step = TypeVar("_Step", bound=Callable[..., Any])


def _step(function: _Step) -> _Step:
    """A step of a publish: when it fails, the transaction is not committed, unless a savepoint takes the failure back."""

    @functools.wraps(function)
    def step(self: Assembly | OpenVersion, *args: Any, **kwargs: Any) -> Any:
        with self.transaction.dooming():
            return function(self, *args, **kwargs)

    return cast("_Step", step)


class Assembly:
    """A transaction that grows: versions, documents, files and effects are added until its block ends."""

    def __init__(
        self, root: Root, transaction: Transaction, request: Mapping[str, Any], wait: float, harvest: Harvest | None = None
    ) -> None:
        self._root = root
        self._request = request
        self._wait = wait
        self.transaction = transaction
        self.versions: list[OpenVersion] = []
        #: Those whose documents are known to the transaction.
        self._completed: list[OpenVersion] = []
        self._stamp = Stamp.now(transaction.id, str(transaction.document["publish_id"]))
        self._harvest = harvest
        #: The answer, once the block has ended well.
        self.result: PublishResult | None = None

    @classmethod
    def begin(
        cls,
        root: Root,
        *,
        project: str,
        publish_id: str | None = None,
        wait: float = 0.0,
        fingerprint: str = "",
        plugins: Sequence[tuple[str, str]] = (),
        **facts: Any,
    ) -> Assembly:
        """Begin a transaction without any lease yet; `facts` are author, comment, source, user, machine, intent.

        `fingerprint` tells later runs with this publish id whether they want the same; `plugins` are name and version of what
        takes part. Raises `DifferentContent` if the publish id was used: only a request can be compared with what was published.
        """
        _refuse_project(root, project)
        root = root.of_project(project)
        request = {"project": project, **facts}
        if publish_id is not None:
            request["publish_id"] = publish_id
            if (found := find(root, publish_id)) is not None:
                from integrator import recovery

                if (
                    found["state"] == State.FINISHED.value
                    or recovery.settle(root.engine, found["_id"], same_publish=True).outcome != "rolled_back"
                ):
                    raise _used(publish_id, found["_id"])
        earlier = former_runs(root, publish_id) if publish_id is not None else Earlier()
        described = {
            "attempts": earlier.attempts,
            "purpose": "assembly",
            "publish_id": publish_id or f"run-{new_id()}",
            "project": project,
            "plugins": list(plugins),
            **({"fingerprint": fingerprint} if fingerprint else {}),
        }
        try:
            transaction = Transaction.begin(root.engine, lambda _: Plan(), described, wait=wait)
        except Conflict as error:
            raise _used(str(publish_id), error.key) from error
        harvest = Harvest(root.engine, transaction.document, leftovers(root.engine, earlier.formers))
        return cls(root, transaction, request, wait, harvest)

    def __enter__(self) -> Assembly:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.transaction.roll_back(error)
        elif self.result is None:
            self.commit()

    def take_up(self, plans: Sequence[InstancePlan], progress: Progress) -> None:
        """Make the versions of a request whose directories the transaction began with; `OpenVersion.stage` fills them.

        Raises `ValidationRefused` for names that are the same.
        """
        numbers = claimed_numbers(self.transaction.document, plans)
        for plan, staging, number in zip(plans, self.transaction.staging, numbers):
            assert staging is not None
            version = OpenVersion(self._root, plan, staging, number, self._stamp, self.transaction, self._harvest)
            version.expect(name_files(self._root, plan, number), progress)
            self.versions.append(version)

    def commit(self) -> PublishResult:
        """Publish everything that was added. Raises as `Transaction.commit` does."""
        self.transaction.refuse_doomed()
        kept = self._kept()
        _refuse_empty(self.transaction, kept)
        if self._harvest is not None:
            self._harvest.discard()
        self._complete()
        document = self.transaction.commit({"versions": [version.summary() for version in kept]})
        published = tuple(version.published() for version in kept)
        left = tuple(document.get("left") or ())
        self.result = PublishResult(transaction=self.transaction.id, outcome="published", versions=published, left=left)
        return self.result

    def reveal(self) -> None:
        """Give everything that was added its final name now, minutes before the verdict perhaps; a failure still withdraws it.

        For programs that want to find a version at its final path while it is being published. Nothing can be added to the
        versions afterwards. Raises as `commit`.
        """
        self.transaction.refuse_doomed()
        _refuse_empty(self.transaction, self._kept())
        self._complete()
        self.transaction.reveal()

    def _complete(self) -> None:
        """Give every version what follows from what was added: files that stay, hero version, link, documents."""
        try:
            for version in self._kept():
                if version not in self._completed:
                    version.complete(self.transaction)
                    follow(self._root, self.transaction, version)
                    self.transaction.change(*version.changes())
                    self.transaction.point(*version.pointers())
                    self._completed.append(version)
        except BaseException as error:
            self.transaction.roll_back(error)
            raise

    # --- adding ---------------------------------------------------------------------------------------------------

    @_step
    def new_version(self, *, asset: str, subset: str, family: str, **instance: Any) -> OpenVersion:
        """Claim the next version (or `version=N`) of a subset and make its staging directory.

        Other arguments are those of a publish instance in a request: hierarchy, task, data, families, inputs. Raises
        `RequestRefused`, `ValidationRefused`, `Busy`, `VersionTaken`; the transaction is rolled back where it cannot go on.
        A subset has one version in a transaction. One that a savepoint took back can be made once more, with the next number.
        """
        wanted = {"asset": asset, "subset": subset, "family": family, **instance, "representations": [_ANY]}
        request = parse_request(
            {"schema": "integrator:publish-request-1.0", **self._request, "instances": [wanted]}, self._root.policy
        )
        parents = find_parents(
            self._root.engine.database, request, request.instances[0], create=self._root.settings.create_assets
        )
        if isinstance(parents, Problem):
            raise ValidationRefused([parents])
        plan = plan_instance(request, request.instances[0], parents)
        if problems := destination_problems(self._root, plan):
            raise ValidationRefused(problems)
        self._refuse_second(plan)
        used = frozenset(self.transaction.document["claims"])
        [staging] = self.transaction.extend(planner(self._root, [plan], used), wait=self._wait)
        claims = self.transaction.document["claims"]
        number = claims[staging.directory.claim][1] if staging.directory.claim else plan.request.amend or 0
        version = OpenVersion(self._root, plan, staging, number, self._stamp, self.transaction, self._harvest)
        self.versions.append(version)
        return version

    def _refuse_second(self, plan: InstancePlan) -> None:
        for version in self._kept():
            if collision_key(version.lease) == collision_key(plan.lease):
                raise UsageError(
                    f"this transaction has a version (v{version.number:03d}) with the same hierarchy, asset, subset already"
                    f" ({version.lease}). Nothing was touched: add the files to that one, or publish them in another transaction"
                )

    def _kept(self) -> list[OpenVersion]:
        """The versions that no savepoint took back."""
        return [version for version in self.versions if self.keeps(version)]

    def keeps(self, version: OpenVersion) -> bool:
        """Whether no savepoint took this version back."""
        return version.staging in self.transaction.staging

    @property
    def is_bare(self) -> bool:
        """Whether nothing was added."""
        return self.transaction.is_bare

    @_step
    def insert(self, project: str, document: Mapping[str, Any]) -> Any:
        """Add a document of a project; returns its id."""
        _refuse_project(self._root, project)
        made = _extended({"_id": object_id(), **document})
        self.transaction.change(Insert(collection=PROJECT + project, document=made))
        return made["_id"]

    @_step
    def update(self, project: str, where: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Set fields (dotted names) of the one document that `where` finds, provided they are still what they are now."""
        found, changed = self._one(project, where), _extended(dict(changes))
        expect = {name: field(found, name) for name in changed}
        self.transaction.change(Update(collection=PROJECT + project, id=found["_id"], expect=expect, set=changed))

    @_step
    def replace(self, project: str, where: Mapping[str, Any], document: Mapping[str, Any]) -> None:
        """Put another document in the place of the one that `where` finds, provided it is still as it is now."""
        found = self._one(project, where)
        made = _extended({**document, "_id": found["_id"]})
        self.transaction.change(Replace(collection=PROJECT + project, id=found["_id"], expect=found, document=made))

    @_step
    def delete(self, project: str, where: Mapping[str, Any]) -> None:
        """Remove the one document that `where` finds, provided it is still as it is now."""
        found = self._one(project, where)
        self.transaction.change(Delete(collection=PROJECT + project, id=found["_id"], expect=found))

    @_step
    def apply(self, project: str, operations: Iterable[Any]) -> None:
        """Carry out ``InsertOne``, ``UpdateOne``, ``ReplaceOne`` and ``DeleteOne`` of pymongo, in this order, at the verdict.

        ``UpdateOne`` knows ``$set``, ``$unset``, ``$inc``, ``$push``, ``$addToSet`` and ``$setOnInsert``; filters know values and
        ``$in``. An operation that matches nothing does nothing, as there. Raises `UsageError` for everything else.
        """
        _refuse_project(self._root, project)
        collection = PROJECT + project
        for operation in operations:
            change = change_of(operation, collection, lambda where: self._will_be(collection, where), _extended)
            if change is not None:
                self.transaction.change(change)

    def _will_be(self, collection: str, where: Mapping[str, Any]) -> list[Document]:
        """The documents that a filter will find once the transaction so far is carried out."""
        database, wanted = self._root.engine.database, choices(where)
        found: dict[str, Document | None] = {id_text(entry["_id"]): entry for entry in database.find(collection, where)}
        pending = [change for change in self.transaction.changes() if change.collection == collection]
        for change in pending:
            if change.key not in found:
                key = change.document["_id"] if isinstance(change, (Insert, Ensure)) else change.id
                found[change.key] = database.read(collection, key)
        for change in pending:
            found[change.key] = carried_out(found[change.key], change)
        return [entry for entry in found.values() if entry is not None and matches(entry, wanted)]

    def _one(self, project: str, where: Mapping[str, Any]) -> Document:
        _refuse_project(self._root, project)
        found = self._root.engine.database.find(PROJECT + project, _extended(dict(where)), limit=2)
        if len(found) != 1:
            raise ExpectationFailed(f"{len(found) or 'no'} documents of {project} match {dict(where)!r}; exactly one should")
        return found[0]

    @_step
    def effect(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Make a registered change in an outside system; see `Transaction.effect`."""
        return self.transaction.effect(name, arguments)

    @_step
    def replace_file(self, path: str, content: bytes) -> None:
        """Give a file inside a root this content, at the verdict; the old content goes to the trash."""
        place = self._place(path)
        # Two publishes that replace one file do so one after the other, to the end.
        key = f"file {place.root}/{place.path}"
        self.transaction.extend(lambda _: Plan(keys=frozenset({key})), wait=self._wait)
        first, slash, _ = place.path.partition("/")
        private = f"{first}/.integrator/trash" if slash else ".integrator/trash"
        self._root.refuse_other_mount(place.root, os.path.dirname(place.path), private)
        self.transaction.exchange(place, private, content)

    def _place(self, path: str) -> Place:
        for name, root in self._root.engine.roots.items():
            inside = os.path.relpath(os.path.normpath(path), root)
            if os.path.isabs(path) and not inside.startswith("..") and inside != ".":
                if self._root.is_kept(inside):
                    raise UsageError(f"{path} is published, or belongs to the engine: it cannot be replaced")
                if os.path.lexists(path) and (os.path.islink(path) or not os.path.isfile(path)):
                    raise UsageError(f"{path} is no plain file, so it cannot be replaced by one")
                _refuse_names(self._root, path, _missing(root, inside))
                return Place(root=name, path=inside)
        raise UsageError(f"{path} is not inside a root, so it cannot be part of a publish")

    def savepoint(self) -> Savepoint:
        """A position to roll back to."""
        return self.transaction.savepoint()

    def roll_back_to(self, point: Savepoint) -> None:
        """Undo what was added since; the rest goes on."""
        self.transaction.roll_back_to(point)
        for version in self.versions:
            version.forget_unstaged()


#: Stands for the representations that come later, where a request is checked without them.
_ANY = {"name": "any", "files": ["/any"]}


def _used(publish_id: str, transaction: str) -> DifferentContent:
    return DifferentContent(
        f"the publish id {publish_id} is in use or was published ({transaction}). Nothing was touched",
        next=f"integrator show {transaction}",
    )


class OpenVersion(Version):
    """A version that files are added to one by one. Each file, or sequence, is a representation named by its extension."""

    def __init__(
        self,
        root: Root,
        plan: InstancePlan,
        staging: StagingDirectory,
        number: int,
        stamp: Stamp,
        transaction: Transaction,
        harvest: Harvest | None = None,
    ) -> None:
        super().__init__(root, plan, staging, number, stamp)
        self.transaction = transaction
        self._plan = plan
        #: Key of the soft lock.
        self.lease = plan.lease
        self._harvest = harvest
        self._taken: dict[str, Sequence[str]] = {}
        #: Sequences that were filled in, as they were before: documents and names of files.
        self._unfilled: dict[str, tuple[Document, Sequence[str]]] = {}
        self._expected: Sequence[Named] | None = None
        self._progress: Progress | None = None
        self._checksum = plan.publish.checksum or root.settings.checksum

    def expect(self, named: Sequence[Named], progress: Progress | None = None) -> None:
        """Note what the request wants in this version; `stage` brings it in."""
        self._expected, self._progress = named, progress

    @_step
    def stage(self) -> None:
        """Bring in every file that the request wants in this version; does nothing the second time."""
        self.staging.check_open()
        expected, self._expected = self._expected, None
        if expected is None:
            return
        for named in expected:
            self._take(named.sources.representation.name, named)
            self.add(named, checksum=self._checksum, harvest=self._harvest, progress=self._progress)
        self.add_resources(checksum=self._checksum, harvest=self._harvest, progress=self._progress)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was brought in."""
        return not self.representations and not self._plan.resources

    def published(self) -> PublishedVersion:
        """The part of the answer that tells of this version."""
        folder = self.final_path()
        return PublishedVersion(
            project=self._plan.publish.project,
            asset=self._plan.request.asset,
            subset=self._plan.request.subset,
            family=self._plan.request.family,
            version=self.number,
            path=folder,
            representations=tuple(self._published(folder)),
            resources=len(self._plan.resources),
            thumbnail=os.path.join(folder, os.path.basename(self.thumbnail[0]["path"])) if self.thumbnail else "",
        )

    def _published(self, folder: str) -> Iterator[PublishedRepresentation]:
        if self._plan.request.amend is None:
            yield from (
                PublishedRepresentation(name=name, folder=folder, names=list(names)) for name, names in self._taken.items()
            )
            return
        for document in self.final_representations():  # with the files that stay
            names = [file["path"].removeprefix(f"{self.rootless}/") for file in document["files"]]
            yield PublishedRepresentation(name=document["name"], folder=folder, names=names)

    def copy(self, path: str, representation: str = "", **options: Any) -> None:
        """Copy a file or sequence (`representations.resolve` tells the patterns); options are those of a representation."""
        self._bring("copy", path, representation, options)

    def hardlink(self, path: str, representation: str = "", **options: Any) -> None:
        """Hard-link a file or sequence: no byte is copied, and source and published file stay one."""
        self._bring("hardlink", path, representation, options)

    def reflink(self, path: str, representation: str = "", **options: Any) -> None:
        """Clone a file or sequence: blocks are shared until one of the two changes."""
        self._bring("reflink", path, representation, options)

    def symlink(self, path: str, representation: str = "", **options: Any) -> None:
        """Link symbolically to a file or sequence."""
        self._bring("symlink", path, representation, options)

    def move(self, path: str, representation: str = "", **options: Any) -> None:
        """Take a file or sequence over: its source is removed after the verdict, never before."""
        self._bring("move", path, representation, options)

    @_step
    def write(self, name: str, content: bytes, representation: str = "") -> None:
        """Write a file of this name, which may have folders."""
        self._refuse_named(name, representation)
        folder, _, base = name.rpartition("/")
        facts = self.staging.write(base, content, folder=folder)
        self._describe_named([name], facts, representation)

    @_step
    def adopt(self, name: str | Sequence[str], representation: str = "") -> None:
        """Take up what an extractor wrote straight into `path`, in this run or in an earlier one that failed.

        Several names are one representation: the frames of a sequence, or files that belong together.
        """
        names = [name] if isinstance(name, str) else list(name)
        if not names or len(set(map(collision_key, names))) < len(names):
            raise UsageError("a representation needs at least one file, and each only once")
        for each in names:
            self._refuse_named(each, representation or extension(names[0]) or "file")
        frames = frames_of(names)
        names = list(frames.values()) if frames else names
        facts = Facts()
        for each in names:
            facts.extend(self.staging.adopt(each, checksum=self._checksum == "all", harvest=self._harvest))
        self._describe_named(names, facts, representation, next(iter(frames)) if frames else None)

    @_step
    def set_thumbnail(self, content: bytes) -> None:
        """Keep a small JPEG beside the representations, where the documents of version and asset name it for loaders."""
        self.staging.check_open()
        if self.thumbnail is not None:
            raise UsageError("this version has a thumbnail already. Nothing was written")
        used = set(map(collision_key, self._names()))
        outputs = ("thumbnail", *(f"thumbnail{number}" for number in range(2, 100)))
        values = {**self.values, "representation": "thumbnail", "ext": "jpg"}
        names = (self._root.layout.file_name({**values, "output": output}) for output in outputs)
        name = next(name for name in names if collision_key(name) not in used)
        self.describe_thumbnail(name, self.staging.write(name, content))

    @_step
    def fill(self, representation: str, number: int) -> None:
        """Add to a sequence the frames of an earlier version that it lacks, as links under the names of this version.

        For a publish of a few frames that were rendered again. Raises `UsageError` if one of the two is no such sequence.
        """
        own = [{**entry, "context": {**entry["context"]}, "data": {**entry["data"]}} for entry in self.representations]
        filled = fill(self._root, self, representation, number)
        before = next(entry for entry in own if entry["name"] == filled["name"])
        self._unfilled[filled["name"]] = before, self._taken[filled["name"]]
        self._taken[filled["name"]] = [os.path.basename(file["path"]) for file in filled["files"]]

    def forget_unstaged(self) -> None:
        """Drop the representations whose files a savepoint took back."""
        staged = set(self.staging.names())
        if self.thumbnail is not None and os.path.basename(self.thumbnail[0]["path"]) not in staged:
            self.thumbnail = None
        for name, (document, files) in self._unfilled.items():
            if name in self._taken and not staged.issuperset(self._taken[name]) and staged.issuperset(files):
                self._taken[name] = files
                self.representations = [document if entry["name"] == name else entry for entry in self.representations]
        kept = {name: files for name, files in self._taken.items() if staged.issuperset(files)}
        self.representations = [entry for entry in self.representations if entry["name"] in kept]
        self._taken = kept

    def _bring(self, way: str, path: str, representation: str, options: Mapping[str, Any]) -> None:
        name = representation or extension(path) or "file"
        self.bring({"name": name, "files": [path], "transfer": way, **options})

    @_step
    def bring(self, wanted: Mapping[str, Any]) -> None:
        """Bring in a representation as a request describes it: `name`, `files`, and what else is known there."""
        self.staging.check_open()
        name = wanted["name"]
        instance = {"asset": self._plan.request.asset, "subset": self._plan.request.subset, "family": self._plan.request.family}
        request: PublishRequest = parse_request(
            {
                "schema": "integrator:publish-request-1.0",
                "project": self._plan.publish.project,
                "instances": [{**instance, "representations": [wanted]}],
            },
            self._root.policy,
        )
        sources, problems = resolve(
            request.instances[0].representations[0],
            base=os.getcwd(),
            roots=self._root.engine.roots,
            policy=self._root.policy,
            missing_frames=self._root.settings.missing_frames,
        )
        if sources is None or (problems := inspect(sources.paths) or source_problems(self._root, self._plan, sources)):
            raise ValidationRefused(problems)
        named = name_sources(self._root, self._plan, sources, self.number, sources.representation.output)
        used = set(map(collision_key, self._names()))
        if not used.isdisjoint(map(collision_key, named.names)):
            named = name_sources(self._root, self._plan, sources, self.number, name)
        self._take(name, named)
        self.add(named, checksum=self._checksum)

    def _take(self, name: str, named: Named) -> None:
        self._refuse_representation(name)
        self._taken[name] = tuple(named.names)

    def _names(self) -> Iterator[str]:
        """Names of the files that this version has."""
        for files in self._taken.values():
            yield from files
        if self.thumbnail is not None:
            yield os.path.basename(self.thumbnail[0]["path"])

    def _refuse_representation(self, name: str) -> None:
        if any(collision_key(name) == collision_key(other) for other in self._taken):
            raise UsageError(f"this version has a representation {name!r} already; name this one differently")

    def _refuse_named(self, name: str, representation: str) -> None:
        """Raise unless a file of this name, and a representation for it, can be part of the version."""
        self.staging.check_open()
        _refuse_names(self._root, name, name.split("/") if isinstance(name, str) else [name])
        self._refuse_representation(representation or extension(name) or "file")
        if any(collision_key(name) == collision_key(file) for file in self._names()):
            raise UsageError(f"this version has a file {name!r} already; name this one differently")

    def _describe_named(self, names: Sequence[str], facts: Facts, representation: str, frame: int | None = None) -> None:
        kind = representation or extension(names[0]) or "file"
        values = {**self.values, "representation": kind, "ext": extension(names[0])}
        if frame is not None:
            values["frame"] = self._root.layout.frame_text(frame)
        self._taken[kind] = tuple(names)
        self.describe(kind, values, names, facts, literal=True)


def _refuse_empty(transaction: Transaction, versions: Iterable[OpenVersion]) -> None:
    """Roll back and raise `ValidationRefused` if a version has no file."""
    names = [f"{version.lease} v{version.number:03d}" for version in versions if version.is_empty]
    if names:
        what = "has no files: add some, or roll back to a savepoint from before it was made"
        error = ValidationRefused([Problem(name, what) for name in names])
        transaction.roll_back(error)
        raise error


def _refuse_project(root: Root, project: str) -> None:
    if problem := root.policy.problem(project):
        raise UsageError(f"{project!r} cannot be the name of a project: it {problem}. Nothing was touched")


def _refuse_names(root: Root, path: str, parts: Iterable[str]) -> None:
    """Raise `ValidationRefused` for parts of a path that no file system of a studio should see."""
    if problem := next(filter(None, map(root.policy.component_problem, parts)), ""):
        raise ValidationRefused([Problem(repr(path), f"has a name that {problem}")])


def _missing(root: str, inside: str) -> list[str]:
    """The components of a path below a root that do not exist."""
    parts = inside.split("/")
    there = (os.path.lexists(os.path.join(root, *parts[: n + 1])) for n in range(len(parts)))
    return [part for part, exists in zip(parts, there) if not exists]


def _extended(value: Any) -> Any:
    """ObjectIds and dates of the driver, where a caller uses them, as extended JSON."""
    bson = sys.modules.get("bson")
    if bson is not None and isinstance(value, bson.ObjectId):
        return {"$oid": str(value)}
    if isinstance(value, Mapping):
        return {key: _extended(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_extended(inner) for inner in value]
    if isinstance(value, datetime):
        # As the driver has it: a time without a zone is UTC, and milliseconds are kept.
        zoned = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
        return {"$date": zoned.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    return value
