"""Versions: which number is next, what their files are called, and how files get into them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs

from integrator import documents, ledger, storage
from integrator.amend import Amendment
from integrator.database import CLAIMS, LEASES, PROJECT, Change, Insert, Update
from integrator.documents import Stamp
from integrator.errors import Problem, ValidationRefused, VersionTaken
from integrator.harvest import Harvest
from integrator.layout import STAGING_MARK, collision_key
from integrator.ledger import Plan
from integrator.model import Directory, Document, Place
from integrator.preflight import InstancePlan, trash_folder
from integrator.representations import Sources, extension
from integrator.results import PublishedRepresentation, PublishedVersion
from integrator.root import Root
from integrator.staging import Progress, StagingDirectory, policy
from integrator.transaction import Planner, Transaction
from integrator.transfer import Facts

# --- numbers --------------------------------------------------------------------------------------------------------


def planner(root: Root, instances: Sequence[InstancePlan], used: Collection[str] = ()) -> Planner:
    """Says which versions a transaction should claim now; `used` are claims of its own that it cannot have once more."""

    def plan(transaction: str) -> Plan:
        directories, claims, folders = [], {}, []
        for instance in instances:
            amended = instance.request.amend
            number = _number(root, instance, transaction, used) if amended is None else _published_number(root, instance, amended)
            place = root.layout.version_folder(instance.values(root, number))
            claim = f"{instance.lease}/v{number:03d}" if amended is None else ""
            if claim:
                claims[claim] = (instance.lease, number)
            directories.append(
                Directory(
                    root=place.root,
                    final=place.path,
                    staging=f"{place.path}{STAGING_MARK}{transaction}",
                    private=trash_folder(root, instance),
                    lease=instance.lease,
                    claim=claim,
                    exchanged=amended is not None,
                )
            )
            root.refuse_other_mount(place.root, place.parent, directories[-1].private)
            folders += missing_folders(root, directories[-1])
        return Plan(directories=tuple(directories), claims=claims, folders=tuple(dict.fromkeys(folders)))

    return plan


def _number(root: Root, instance: InstancePlan, transaction: str, used: Collection[str]) -> int:
    """The number that the request pins, or the highest of documents, claims and directories plus one.

    Raises `VersionTaken` for a pinned number that exists.
    """
    claims = root.engine.database.find(CLAIMS, {"lease": instance.lease})
    on_disk, pinned = set(_on_disk(root, instance)), instance.request.version
    mine = [claim["number"] for claim in claims if claim["transaction"] == transaction and claim["_id"] not in used]
    for own in mine if pinned is None else ():
        if own not in on_disk and not _published(root, instance, own):
            return int(own)  # claimed before, and still free
    taken = on_disk | set(_published(root, instance, pinned)) | set(_claimed(root, instance, claims, transaction, used))
    if pinned is None:
        return max(taken, default=0) + 1
    if pinned in taken:
        raise VersionTaken(
            f"v{pinned:03d} of {instance.lease} exists. Nothing was touched",
            next="leave the version out to get the next one",
        )
    return pinned


def _published_number(root: Root, instance: InstancePlan, number: int) -> int:
    """The number of a version that can be amended. Raises `ValidationRefused`."""
    name = f"v{number:03d} of {instance.lease}"
    where = {"type": "version", "parent": instance.parents.subset["_id"], "name": number}
    found = root.engine.database.find(PROJECT + instance.publish.project, where, limit=1)
    if not found:
        raise ValidationRefused([Problem(name, "is not published, so it cannot be amended")])
    place = root.layout.version_folder(instance.values(root, number))
    folder = ((found[0].get("data") or {}).get("integrator") or {}).get("folder")
    if folder != f"{{root[{place.root}]}}/{place.path}":
        where_it_is = folder or "where another program put it"
        raise ValidationRefused([Problem(name, f"is in {where_it_is}, not in {place.path}: only a new version can be published")])
    if not os.path.isdir(root.absolute(place)):
        raise ValidationRefused([Problem(root.absolute(place), "is not there, so it cannot be amended: integrator check")])
    return number


def _published(root: Root, instance: InstancePlan, number: int | None) -> Iterable[int]:
    """This number if it is published; without one, the highest that is."""
    where: dict[str, Any] = {"type": "version", "parent": instance.parents.subset["_id"]}
    if number is not None:
        where["name"] = number
    newest = root.engine.database.find(PROJECT + instance.publish.project, where, newest="name", limit=1)
    return [document["name"] for document in newest]


def _claimed(
    root: Root, instance: InstancePlan, claims: Iterable[Document], transaction: str, used: Collection[str]
) -> Iterable[int]:
    # Whoever holds the soft lock is settled or waited for before anybody else gets it: then its claims are gone.
    lease = root.engine.database.read(LEASES, instance.lease) or {}
    holder = lease.get("transaction") if instance.request.version is not None else None
    free = (transaction, holder)
    return [claim["number"] for claim in claims if claim["_id"] in used or claim["transaction"] not in free]


def _on_disk(root: Root, instance: InstancePlan) -> Iterable[int]:
    place = root.layout.version_folder(instance.values(root, 1))
    with root.engine.root(place.root) as fd:
        try:
            with storage.folder(place.parent, fd) as parent, os.scandir(parent) as entries:
                names = [entry.name for entry in entries]
        except FileNotFoundError:
            return []
    numbers = (root.layout.version_number(name) for name in names)
    return [number for number in numbers if number is not None]


def missing_folders(root: Root, directory: Directory) -> list[tuple[str, str]]:
    """(root, path) of the folders above a directory, and above its private names, that are not there; outermost first."""
    with root.engine.root(directory.root) as fd:
        root.engine.see_mount(directory.root, directory.private, fd)
        missing = {path for folder in (directory.parent, directory.private) for path in storage.missing_folders(folder, fd)}
    return [(directory.root, path) for path in sorted(missing)]


# --- names ----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Named:
    """A representation with the names that its files will have."""

    sources: Sources
    values: Document
    names: list[str]


def name_files(root: Root, instance: InstancePlan, number: int) -> list[Named]:
    """Names of all files of an instance; representations that would collide get their own name into `{output}`.

    Raises `ValidationRefused` if two files still would have one name, `TemplateRefused`.
    """
    named = [name_sources(root, instance, sources, number, sources.representation.output) for sources in instance.sources]
    keys = Counter(collision_key(entry.names[0]) for entry in named)
    for n, entry in enumerate(named):
        representation = entry.sources.representation
        if keys[collision_key(entry.names[0])] > 1 and not representation.output:
            named[n] = name_sources(root, instance, entry.sources, number, representation.name)
    _check_distinct(instance, named)
    _check_promised(named)
    return named


def name_sources(root: Root, instance: InstancePlan, sources: Sources, number: int, output: str) -> Named:
    """Names of the files of one representation. Raises `TemplateRefused`."""
    representation = sources.representation
    values = {**instance.values(root, number), "representation": representation.name, "ext": sources.ext}
    if output:
        values["output"] = output
    if sources.frames is None and sources.udims is None:
        names = [root.layout.file_name({**values, "ext": extension(path)}) for path in sources.paths]
    else:
        names = root.layout.file_names(values, sources.frames, sources.udims)
    if sources.frames is not None:
        values["frame"] = root.layout.frame_text(sources.frames[0])
    if sources.udims is not None:
        values["udim"] = [str(udim) for udim in sources.udims]
    return Named(sources=sources, values=values, names=names)


def _check_promised(named: Sequence[Named]) -> None:
    """Files that stay where they were rendered have their final names already."""
    pairs = ((path, name) for entry in named if entry.sources.promised for path, name in zip(entry.sources.paths, entry.names))
    wrong = [(path, name) for path, name in pairs if os.path.basename(path) != name]
    if wrong:
        raise ValidationRefused(
            Problem(path, f"is in the reserved staging directory, and must be called {name} there", "names")
            for path, name in wrong
        )


def _check_distinct(instance: InstancePlan, named: Sequence[Named]) -> None:
    inside = [f"{resource.folder}/{resource.name}" for resource in instance.resources]
    keys = [collision_key(name) for names in (*(entry.names for entry in named), inside) for name in names]
    paths = [path for entry in named for path in entry.sources.paths] + [resource.source for resource in instance.resources]
    _check_folders(paths, keys, {resource.folder for resource in instance.resources})
    if len(set(keys)) == len(keys):
        return
    seen: dict[str, str] = {}
    pairs = ((path, key, seen.setdefault(key, path)) for path, key in zip(paths, keys))
    raise ValidationRefused(
        Problem(path, f"would be published under the same name as {other} ({key})", "destinations")
        for path, key, other in pairs
        if other is not path
    )


def _check_folders(paths: Sequence[str], keys: Sequence[str], folders: Iterable[str]) -> None:
    """Refuse files that would have the name of a folder that the version needs. Raises `ValidationRefused`."""
    taken = {parent for folder in folders for parent in _and_above(collision_key(folder))}
    if (
        problems := [
            Problem(
                path,
                f"would be published under the name of a folder of the resources ({key}): give the folder another name",
                "destinations",
            )
            for path, key in zip(paths, keys)
            if key in taken
        ]
        if taken
        else []
    ):
        raise ValidationRefused(problems)


def _and_above(folder: str) -> Iterable[str]:
    parts = folder.split("/")
    return ("/".join(parts[: n + 1]) for n in range(len(parts)))


# --- contents -------------------------------------------------------------------------------------------------------


class Version:
    """One version that is being published: its staging directory, and the documents that go with it."""

    def __init__(self, root: Root, instance: InstancePlan, staging: StagingDirectory, number: int, stamp: Stamp) -> None:
        self._root = root
        #: What is published.
        self.instance = instance
        #: Who publishes it, and when.
        self.stamp = stamp
        self.staging = staging
        self.number = number
        self.values = instance.values(root, number)
        place = Place(root=staging.directory.root, path=staging.directory.final)
        self.rootless = f"{{root[{place.root}]}}/{place.path}"
        self.document = documents.version_document(
            instance.publish, instance.request, instance.parents, number, self.rootless, stamp
        )
        self.representations: list[Document] = []
        #: What goes along and is no representation: ``{"path", "size", "checksum"}`` each.
        self.resources: list[Document] = []
        #: Its thumbnail as a resource, and the document of it; None without one.
        self.thumbnail: tuple[Document, Document] | None = None
        #: Whether the hero version follows, and the link `latest`, when everything was added.
        self.hero = instance.request.hero
        self.latest = root.settings.latest_link and instance.request.amend is None
        self._amendment: Amendment | None = None
        if instance.request.amend is not None:
            self._amendment = Amendment(root, self)
            self.document = self._amendment.document

    @property
    def is_amended(self) -> bool:
        """Whether this puts other files into a published version, instead of being a new one."""
        return self._amendment is not None

    @property
    def path(self) -> str:
        """Absolute path of the staging directory: extractors may write straight into it, then `adopt`."""
        return self.staging.path

    def final_path(self, name: str = "") -> str:
        """Absolute path that a file will have once published; this is what belongs *into* files, never `path`."""
        return os.path.join(self.staging.final_path, name) if name else self.staging.final_path

    def add(self, named: Named, *, checksum: str, harvest: Harvest | None = None, progress: Progress | None = None) -> None:
        """Stage the files of a representation and describe it; `harvest` has copies that an earlier attempt left."""
        representation = named.sources.representation
        if named.sources.promised:
            assert named.sources.looked is not None
            facts = self.staging.take(named.names, named.sources.looked, checksum=checksum == "all")
            self._describe_sources(named, facts)
            if progress is not None:
                progress(len(facts.sizes), 0)
            return
        way = representation.transfer or self._root.settings.transfer
        rule = policy(self._root.engine, way, checksum)
        sources = _link_targets(self, named, self._root) if way == "symlink" else named.sources.paths
        known = named.sources.looked if way == "hardlink" and checksum != "all" else None
        facts = self.staging.transfer(sources, named.names, rule, known=known, harvest=harvest, progress=progress)
        self._describe_sources(named, facts)

    def _describe_sources(self, named: Named, facts: Facts) -> None:
        representation = named.sources.representation
        extra = {**representation.data, "tags": list(representation.tags)} if representation.tags else dict(representation.data)
        self.describe(representation.name, named.values, named.names, facts, extra)

    def describe(
        self,
        name: str,
        values: Document,
        names: Sequence[str],
        facts: Facts,
        extra: Mapping[str, Any] | None = None,
        *,
        literal: bool = False,
    ) -> None:
        """Add the document of a representation whose files are staged; a `literal` name is not made by the template."""
        place = (self.final_path(), self.rootless, names)
        template = self._root.layout.path_template()
        if literal:
            template = f"{template.rpartition('/')[0]}/{names[0]}"
        self.representations.append(
            documents.representation_document(self.document, name, template, values, place, facts, extra or {}, self.stamp)
        )

    def add_resources(self, *, checksum: str, harvest: Harvest | None = None, progress: Progress | None = None) -> None:
        """Stage the files that go along."""
        by_folder: dict[str, list[tuple[str, str]]] = {}
        for resource in self.instance.resources:
            by_folder.setdefault(resource.folder, []).append((resource.source, resource.name))
        rule = policy(self._root.engine, "copy", checksum)
        for folder, entries in by_folder.items():
            sources, names = [source for source, _ in entries], [name for _, name in entries]
            facts = self.staging.transfer(sources, names, rule, folder=folder, harvest=harvest, progress=progress)
            self.resources += [
                {"path": f"{self.rootless}/{folder}/{name}", "size": facts.sizes[n], "checksum": facts.checksums[n]}
                for n, name in enumerate(names)
            ]

    def complete(self, transaction: Transaction) -> None:
        """Bring in what stays of a version that is amended; called once, when everything else was added."""
        if self._amendment is not None:
            self._amendment.complete(transaction)

    def describe_thumbnail(self, name: str, facts: Facts) -> None:
        """Add the document of a small picture that is staged; it is no representation."""
        path = f"{self.rootless}/{name}"
        document = documents.thumbnail_document(self.values, path, self.stamp)
        self.thumbnail = {"path": path, "size": facts.sizes[0], "checksum": facts.checksums[0]}, document

    def changes(self) -> list[Change]:
        """The document operations of this version: files first, then their documents, parents before children."""
        collection, parents = PROJECT + self.instance.publish.project, self.instance.parents
        if self._amendment is not None:
            return [*parents.made, *self._amendment.changes(), *self._thumbnail_changes()]
        ours = {**self.document["data"]["integrator"], **self.added()}
        document = {**self.document, "data": {**self.document["data"], **self.shown(), "integrator": ours}}
        own = [Insert(collection=collection, document=made) for made in (document, *self.representations)]
        return [*parents.made, *self._thumbnail_changes(), *own]

    def shown(self) -> Document:
        """What of the version's `data` names its thumbnail."""
        return {"thumbnail_id": self.thumbnail[1]["_id"]} if self.thumbnail is not None else {}

    def added(self) -> Document:
        """What of the engine's own data tells of files that are no representation."""
        resources = [*self.resources, *([self.thumbnail[0]] if self.thumbnail is not None else [])]
        return {"resources": resources} if resources else {}

    def _thumbnail_changes(self) -> list[Change]:
        if self.thumbnail is None:
            return []
        collection, thumbnail = PROJECT + self.instance.publish.project, self.thumbnail[1]
        # As OpenPype has it, an asset shows what was published last. Whoever comes last may be anybody: nothing is expected.
        seen = {"data.thumbnail_id": thumbnail["_id"]}
        shown = Update(collection=collection, id=self.instance.parents.asset["_id"], expect={}, set=seen)
        return [Insert(collection=collection, document=thumbnail), shown]

    def pointers(self) -> list[Document]:
        """What is written once exchanged directories are in place; see `Work.point`."""
        return self._amendment.pointers() if self._amendment is not None else []

    def final_representations(self) -> list[Document]:
        """Every representation that the version has once it is published."""
        return self._amendment.final_representations() if self._amendment is not None else self.representations

    def final_resources(self) -> list[Document]:
        """Every file that it has then and that belongs to none of them."""
        found = self._amendment.resources() if self._amendment is not None else self.added().get("resources", [])
        return list(found)

    def summary(self) -> Document:
        """What the transaction's document keeps of this version."""
        request = self.instance.request
        return {
            "project": self.instance.publish.project,
            "asset": request.asset,
            "subset": request.subset,
            "family": request.family,
            "version": self.number,
            "place": {"root": self.staging.directory.root, "path": self.staging.directory.final},
            "representations": [{"_id": entry["_id"], "name": entry["name"]} for entry in self.final_representations()],
            "resources": len(self.instance.resources),
            **({"thumbnail": os.path.basename(self.thumbnail[0]["path"])} if self.thumbnail else {}),
        }


def _link_targets(version: Version, named: Named, root: Root) -> list[str]:
    """Targets of symbolic links: relative inside the root, absolute outside (`preflight` has refused those that may not be)."""
    inside = root.engine.roots[version.staging.directory.root].rstrip("/") + "/"
    real = map(os.path.realpath, named.sources.paths)
    return [os.path.relpath(path, version.final_path()) if path.startswith(inside) else path for path in real]


def describe(plan: InstancePlan, number: int, folder: str, named: Sequence[Named]) -> PublishedVersion:
    """The part of the answer that tells of one version."""
    return PublishedVersion(
        project=plan.publish.project,
        asset=plan.request.asset,
        subset=plan.request.subset,
        family=plan.request.family,
        version=number,
        path=folder,
        representations=tuple(
            PublishedRepresentation(name=entry.sources.representation.name, folder=folder, names=entry.names) for entry in named
        ),
        resources=len(plan.resources),
    )


def planned_versions(
    root: Root, plans: Sequence[InstancePlan], plan: Planner, reservation: Document | None
) -> tuple[PublishedVersion, ...]:
    """What a dry run answers: the numbers that would be next, or are reserved, and the names."""
    if reservation is not None:
        claims, directories = reservation["claims"], ledger.directories(reservation)
    else:
        wanted = plan("")
        claims, directories = wanted.claims, list(wanted.directories)
    versions = []
    for instance, directory in zip(plans, directories):
        number = claims[directory.claim][1] if directory.claim else instance.request.amend or 0
        folder = root.absolute(Place(root=directory.root, path=directory.final))
        versions.append(describe(instance, number, folder, name_files(root, instance, number)))
    return tuple(versions)


def claimed_numbers(document: Document, plans: Sequence[InstancePlan]) -> list[int]:
    """The version number of each publish instance of a transaction."""
    numbers = []
    for plan, directory in zip(plans, document["directories"]):
        claim = document["claims"].get(directory["claim"])
        numbers.append(int(claim[1]) if claim else plan.request.amend or 0)
    return numbers


def check_names(root: Root, plans: Sequence[InstancePlan], reservation: Document) -> None:
    """Refuse names and final paths before the reservation is adopted: its numbers are known. Raises `ValidationRefused`."""
    places = [Place(root=directory.root, path=directory.final) for directory in ledger.directories(reservation)]
    taken = [root.absolute(place) for place in places if os.path.lexists(root.absolute(place))]
    if taken:
        raise ValidationRefused(
            Problem(path, "was reserved, and something is there now: move it away", "destinations") for path in taken
        )
    for plan, number in zip(plans, claimed_numbers(reservation, plans)):
        name_files(root, plan, number)
