"""Everything that can be refused before the first write, over the whole request, all of it at once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs

from integrator import mounts, storage
from integrator.documents import Parents, context, find_parents
from integrator.errors import IntegratorError, NotThere, Problem, RequestRefused, ValidationRefused
from integrator.model import Document
from integrator.representations import EMPTY, Sources, file_problem, resolve
from integrator.request import InstanceRequest, PublishRequest
from integrator.root import Root
from integrator.transfer import Facts

#: Blocks that a publish may need beside its files (folders, journal, documents), in bytes.
_RESERVE = 4 * 1024 * 1024
#: Files in one folder of resources at most; more is a mistake in the path.
_MOST_RESOURCES = 100_000
#: Folders, journal and the like, in files.
_SPARE = 64
_UNPRIVILEGED = os.geteuid() != 0
#: Files that are looked at together.
_GLANCE = 2048
#: Seconds for which files that another user renders must have been left alone.
_QUIET = 2.0
#: Seconds between two looks at sources that have not settled.
_LOOK_AGAIN = 0.5
#: Links of one file below which no file system runs out of them within one request of ours.
_MANY_LINKS = 1000


_NO_LINK_ACROSS = 'so no hard link or reflink can be made: use copy, or link_fallback = "copy"'


@attrs.frozen(kw_only=True)
class Resource:
    """One file that goes along with a version."""

    source: str
    #: Folder in the version directory.
    folder: str
    name: str


@attrs.frozen(kw_only=True)
class InstancePlan:
    """One publish instance with all that could be found out before a number is claimed."""

    publish: PublishRequest
    request: InstanceRequest
    sources: tuple[Sources, ...]
    resources: tuple[Resource, ...]
    #: What a look at the files of `resources` found, in their order.
    resources_looked: Facts | None = None
    parents: Parents

    def values(self, root: Root, number: int) -> Document:
        """What fills in the templates for version `number`."""
        return context(self.publish, self.request, self.parents, number, root.engine.roots)

    @property
    def lease(self) -> str:
        """Key of the soft lock."""
        return lease_key(self.publish, self.request)


def lease_key(publish: PublishRequest, instance: InstanceRequest) -> str:
    """Key of the soft lock of a publish instance: project, hierarchy, asset and subset."""
    return "/".join(part for part in (publish.project, instance.hierarchy, instance.asset, instance.subset) if part)


def plan_instance(publish: PublishRequest, instance: InstanceRequest, parents: Parents) -> InstancePlan:
    """A plan without files, for a version that files are added to later."""
    return InstancePlan(publish=publish, request=instance, sources=(), resources=(), parents=parents)


def preflight(root: Root, request: PublishRequest, promised: Sequence[str] = (), *, settle: float = 0.0) -> list[InstancePlan]:
    """What the request means in files; `promised` are the staging directories of its instances that were reserved.

    A file that another machine wrote a moment ago may be invisible or short here: sources that are missing or empty, or that
    were written within the last `settle` seconds, are looked at again until they are there and stay as they are, for at most
    that long. Raises `ValidationRefused` with everything that stands against the request.
    """
    start, before = time.monotonic(), None
    while True:
        try:
            plans = _look_at_all(root, request, promised)
        except ValidationRefused as refused:
            if not settle or not all(isinstance(problem, NotThere) for problem in refused.problems):
                raise
            if time.monotonic() >= start + settle:
                raise ValidationRefused([*refused.problems, _waited(settle)]) from refused
        else:
            quiet = max(settle, _QUIET) if _is_rendered_by_others(plans) else settle
            found = [(list(looked.sizes), list(looked.source_times)) for _, looked in _looked(plans)]
            if found == before or not _is_young(found, quiet):
                return plans
            if time.monotonic() >= start + quiet:
                raise ValidationRefused([Problem(_growing(plans, before), "still changes"), _waited(quiet)])
            before = found
        time.sleep(_LOOK_AGAIN)


def sources_digest(root: Root, plans: Iterable[InstancePlan]) -> str:
    """Hex digest of every source by path, size and modification time: to tell whether something was rendered again since.

    "" where a source is moved away: what is there later has nothing to do with it.
    """
    plans = list(plans)
    if any(_way(root, sources) == "move" for plan in plans for sources in plan.sources):
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for paths, looked in _looked(plans):
        digest.update("\0".join(paths).encode("utf-8", "surrogateescape"))
        digest.update(looked.sizes.tobytes())
        digest.update(looked.source_times.tobytes())
    return digest.hexdigest()


def present_sources(root: Root, request: PublishRequest) -> str:
    """The digest of the sources as they are now; "" if the request could not be published from them any more."""
    try:
        return sources_digest(root, _look_at_all(root, request, ()))
    except IntegratorError:
        return ""  # moved away, cleaned up, never here


def _is_rendered_by_others(plans: Iterable[InstancePlan]) -> bool:
    """Whether files in a reserved directory are somebody else's: whether they are being written cannot be asked then."""
    first = [sources.paths[0] for plan in plans for sources in plan.sources if sources.promised]
    return _UNPRIVILEGED and any(os.lstat(path).st_uid != os.geteuid() for path in first)


def _looked(plans: Iterable[InstancePlan]) -> Iterator[tuple[Sequence[str], Facts]]:
    """Paths of all sources, and what a look at them found."""
    for plan in plans:
        yield from ((sources.paths, sources.looked) for sources in plan.sources if sources.looked is not None)
        if plan.resources_looked is not None:
            yield [resource.source for resource in plan.resources], plan.resources_looked


def _waited(settle: float) -> Problem:
    return Problem("--settle", f"the sources were waited for, {settle:g} s long")


def _is_young(found: Iterable[tuple[list[int], list[int]]], settle: float) -> bool:
    newest = max((max(times, default=0) for _, times in found), default=0)
    return settle > 0 and abs(time.time() - newest / 1e9) < settle


def _growing(plans: Iterable[InstancePlan], before: Sequence[tuple[list[int], list[int]]] | None) -> str:
    for (sizes, times), (paths, facts) in zip(before or (), _looked(plans)):
        for n, path in enumerate(paths):
            if n >= len(sizes) or (sizes[n], times[n]) != (facts.sizes[n], facts.source_times[n]):
                return path
    return "the sources"


def _look_at_all(root: Root, request: PublishRequest, promised: Sequence[str]) -> list[InstancePlan]:
    _refuse_what_is_not_there_yet(request)
    problems: list[Problem] = []
    plans: list[InstancePlan] = []
    for instance, staging in zip(request.instances, promised or [""] * len(request.instances)):
        plan = _plan(root, request, instance, staging, problems)
        if plan is not None:
            plans.append(plan)
    _check_moves(root, plans, problems)
    if not any(problem.kind == "destinations" for problem in problems):  # else there is nowhere to ask for space
        plans, needs = _survey(root, plans, problems)
        _check_space(needs, problems)
    if problems:
        raise ValidationRefused(problems)
    return plans


def _refuse_what_is_not_there_yet(request: PublishRequest) -> None:
    """Nothing of a request is dropped in silence: keys that mean something to a later version are refused here."""
    problems = [
        Problem(f"$.instances[{n}].{name}", "is not supported by this version of integrator")
        for n, instance in enumerate(request.instances)
        for name, used in (("template", instance.template),)
        if used
    ]
    if problems:
        raise RequestRefused(problems)


def _plan(
    root: Root, request: PublishRequest, instance: InstanceRequest, promised: str, problems: list[Problem]
) -> InstancePlan | None:
    found: list[Sources] = []
    for representation in instance.representations:
        sources, wrong = resolve(
            representation,
            base=instance.staging_dir,
            roots=root.engine.roots,
            policy=root.policy,
            promised=promised,
            missing_frames=root.settings.missing_frames,
        )
        problems += wrong
        if sources is not None:
            found.append(sources)
    resources = list(_resources(instance, root, promised, problems))
    parents = find_parents(root.engine.database, request, instance, create=root.settings.create_assets)
    if isinstance(parents, Problem):
        problems.append(parents)
        return None
    plan = InstancePlan(publish=request, request=instance, sources=tuple(found), resources=tuple(resources), parents=parents)
    problems += destination_problems(root, plan)
    return plan


def destination_problems(root: Root, plan: InstancePlan) -> list[Problem]:
    """What stands in the way of the folders that a version needs: below a root no link is followed."""
    place = root.layout.version_folder(plan.values(root, 1))
    with root.engine.root(place.root) as fd:
        found = [storage.obstacle(path, fd) for path in (place.parent, trash_folder(root, plan))]
    return [_obstacle(os.path.join(root.engine.roots[place.root], path)) for path in dict.fromkeys(filter(None, found))]


def _obstacle(path: str) -> Problem:
    if not os.path.islink(path):
        return Problem(path, "is no folder, so that no version can stand below it", "destinations")
    return Problem(
        path,
        f"is a symbolic link (to {os.readlink(path)}), and nothing is published through one: make it a folder,"
        " or mount what it leads to there, or add that as a root under [roots] in config.toml",
        "destinations",
    )


def trash_folder(root: Root, plan: InstancePlan) -> str:
    """The trash folder of the project below its root; that of the root if the template has no folder of the project."""
    place = root.layout.version_folder(plan.values(root, 1))
    first = place.path.partition("/")[0]
    return f"{first}/.integrator/trash" if first == plan.publish.project else ".integrator/trash"


def _check_moves(root: Root, plans: Iterable[InstancePlan], problems: list[Problem]) -> None:
    """A symbolic link to a source that the same request moves away would lead to nothing."""
    paths: dict[str, list[str]] = {"move": [], "symlink": []}
    for sources in (entry for plan in plans for entry in plan.sources):
        paths.get(_way(root, sources), []).extend(sources.paths)
    if all(paths.values()):
        moved = set(map(os.path.realpath, paths["move"]))
        problems += [
            Problem(path, "is moved and linked to in one request, so that the link would lead to nothing: copy it instead of one")
            for path in paths["symlink"]
            if os.path.realpath(path) in moved
        ]


def _resources(instance: InstanceRequest, root: Root, promised: str, problems: list[Problem]) -> Iterator[Resource]:
    """The files of an instance's resources; folders are taken with all they hold, links in them followed to files only."""
    for resource in instance.resources:
        for path in resource.files:
            for name, place in root.engine.roots.items():
                path = path.replace(f"{{root[{name}]}}", place) if path.startswith("{root[") else path
            full = path if os.path.isabs(path) or not instance.staging_dir else os.path.join(instance.staging_dir, path)
            if path.startswith("{staging}") or (promised and full.startswith(promised + "/")):
                problems.append(Problem(path, "cannot be a resource: only representations stay where they were rendered"))
            elif not os.path.isabs(full):
                problems.append(Problem(path, "is relative, and the publish instance has no staging_dir"))
            elif os.path.isdir(full):
                yield from _tree(full.rstrip("/"), resource.folder, root, problems)
            else:
                yield from _resource(full, resource.folder, os.path.basename(full), root, problems)


def _tree(path: str, folder: str, root: Root, problems: list[Problem]) -> Iterator[Resource]:
    above = os.path.dirname(path)
    count = 0

    def tell(error: OSError) -> None:
        problems.append(
            Problem(error.filename or path, f"cannot be read ({error.strerror}), and nothing is left out of a folder")
        )

    for here, folders, names in os.walk(path, onerror=tell):
        for link in (os.path.join(here, name) for name in sorted(folders)):
            if os.path.islink(link):
                problems.append(Problem(link, f"is a symbolic link to a folder ({os.readlink(link)}): name that folder instead"))
        inside = os.path.join(folder, os.path.relpath(here, above))
        for name in sorted(names):
            count += 1
            if count > _MOST_RESOURCES:
                problems.append(Problem(path, f"holds more than {_MOST_RESOURCES} files"))
                return
            yield from _resource(os.path.join(here, name), inside, name, root, problems)


def _resource(path: str, folder: str, name: str, root: Root, problems: list[Problem]) -> Iterator[Resource]:
    wrong = [root.policy.component_problem(part) for part in [*folder.split("/"), name]]
    if any(wrong):
        problems.append(Problem(path, f"has a name that {next(filter(None, wrong))}", "names"))
    else:
        yield Resource(source=path, folder=folder, name=name)


# --- looking at the sources -----------------------------------------------------------------------------------------


@attrs.define
class _Need:
    """What one device must have room for."""

    where: str
    device: int
    most_links: int
    #: Bytes.
    size: int = 0
    files: int = 0
    #: Links that each inode with many links gets in addition.
    links: Counter[int] = attrs.field(factory=Counter)


def _survey(root: Root, plans: Sequence[InstancePlan], problems: list[Problem]) -> tuple[list[InstancePlan], list[_Need]]:
    """Look at every source once; returns the plans with what was found, and what each destination device must have room for."""
    needs: dict[int, _Need] = {}
    looked = []
    for plan in plans:
        where = nearest_folder(root, plan)
        device = os.stat(where).st_dev
        need = needs.setdefault(device, _Need(where=where, device=device, most_links=_most_links(where)))
        replaced = _replaced_folders(root, plan)
        sources = tuple(
            attrs.evolve(entry, looked=_look(root, _way(root, entry), entry.paths, need, problems, replaced))
            for entry in plan.sources
        )
        problems += _bound_elsewhere(root, plan, where)
        beside = _look(root, "copy", [resource.source for resource in plan.resources], need, problems)
        looked.append(attrs.evolve(plan, sources=sources, resources_looked=beside if plan.resources else None))
    return looked, list(needs.values())


def source_problems(root: Root, plan: InstancePlan, sources: Sources) -> list[Problem]:
    """What stands against the files of one representation, where they are added to a version one after the other."""
    where, problems = nearest_folder(root, plan), list[Problem]()
    need = _Need(where=where, device=os.stat(where).st_dev, most_links=_most_links(where))
    _look(root, _way(root, sources), sources.paths, need, problems, _replaced_folders(root, plan))
    return [*problems, *_bound_elsewhere(root, attrs.evolve(plan, sources=(sources,)), where)]


def _replaced_folders(root: Root, plan: InstancePlan) -> tuple[str, ...]:
    """Absolute paths, without links, of what is exchanged for new content by a publish of this subset, now or later."""
    number = plan.request.amend
    places = [root.layout.hero_folder({name: value for name, value in plan.values(root, 1).items() if name != "version"})]
    if number is not None:
        places.append(root.layout.version_folder(plan.values(root, number)))
    return tuple(os.path.realpath(root.absolute(place)) for place in places)


def _bound_elsewhere(root: Root, plan: InstancePlan, where: str) -> Iterator[Problem]:
    """Sources of hard links that have the right device number, but lie in another mount of that file system."""
    linked = [path for entry in plan.sources if _way(root, entry) == "hardlink" for path in entry.paths]
    if linked and root.settings.link_fallback == "refuse" and mounts.is_bound_elsewhere(where):
        here, device = mounts.mount_id(where), os.stat(where).st_dev
        for path in linked:
            with contextlib.suppress(OSError):  # said already
                if os.stat(path).st_dev == device and mounts.mount_id(path) != here:
                    yield Problem(path, f"is in another mount than {where}, {_NO_LINK_ACROSS}")


def _way(root: Root, sources: Sources) -> str:
    """How files are brought in; ``adopt`` for those that need not be."""
    return "adopt" if sources.promised else sources.representation.transfer or root.settings.transfer


def _look(
    root: Root, way: str, paths: Sequence[str], need: _Need, problems: list[Problem], replaced: Sequence[str] = ()
) -> Facts:
    """Look at the sources of one representation, some at a time: what `stat` returns is large."""
    facts = Facts()
    for start in range(0, len(paths), _GLANCE):
        some = paths[start : start + _GLANCE]
        some, found = _statuses(some, problems, os.lstat if way == "adopt" else os.stat)
        need.files += len(some) if way not in ("hardlink", "adopt") else 0
        need.size += sum(status.st_size for status in found if way == "copy" or status.st_dev != need.device)
        read_only_links = way == "hardlink" and not root.settings.link_writable
        if read_only_links or _is_doubtful(way, found, need):
            rule = _Rule(root=root, way=way, need=need, replaced=replaced)
            wrong = ((path, rule.problem(path, status)) for path, status in zip(some, found))
            problems += [(NotThere if what == EMPTY else Problem)(path, what) for path, what in wrong if what]
        facts.sizes.extend([status.st_size for status in found])
        facts.inodes.extend([status.st_ino for status in found])
        facts.source_times.extend([status.st_mtime_ns for status in found])
    facts.source_inodes.frombytes(bytes(8 * len(facts.sizes)))
    facts.checksums = [""] * len(facts.sizes)
    return facts


def _statuses(
    paths: Sequence[str], problems: list[Problem], look: Callable[[str], os.stat_result]
) -> tuple[Sequence[str], list[os.stat_result]]:
    """Those of the paths that are there, and their status; the others are problems."""
    try:
        return paths, [look(path) for path in paths]
    except OSError:
        there, found = [], []
    for path in paths:
        try:
            found.append(look(path))
            there.append(path)
        except OSError as error:
            problems.append(NotThere(path, file_problem(path, error)))
    return there, found


def _is_doubtful(way: str, found: Sequence[os.stat_result], need: _Need) -> bool:
    """Whether each of these files must be asked about; usually a glance at all of them says that they are plain and near."""
    plain = all(stat.S_ISREG(status.st_mode) and status.st_size for status in found)
    near = all(status.st_dev == need.device for status in found)
    few_links = way != "hardlink" or all(status.st_nlink < _MANY_LINKS for status in found)
    single = way != "adopt" or all(status.st_nlink == 1 for status in found)
    return not (plain and near and few_links and single) or _UNPRIVILEGED or way in ("symlink", "move")


@attrs.frozen(kw_only=True)
class _Rule:
    """What one file must be to be brought in one way; asked only where a glance at all of them leaves a doubt."""

    root: Root
    way: str
    need: _Need
    #: Folders that are exchanged: a link into them would lead to what is in place afterwards, perhaps to itself.
    replaced: Sequence[str]

    def problem(self, path: str, status: os.stat_result) -> str:
        refuse = self.root.settings.link_fallback == "refuse"
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return file_problem(path, status)
        if _UNPRIVILEGED and not os.access(path, os.R_OK, effective_ids=True):
            return "cannot be read: permission denied"
        if self.way in ("hardlink", "reflink") and status.st_dev != self.need.device and refuse:
            return f"is on another file system, {_NO_LINK_ACROSS}"
        if self.way == "hardlink" and status.st_mode & 0o222 and not self.root.settings.link_writable:
            return "can still be written, and so could what is published: use copy, or take write permission away (link_writable)"
        if self.way == "hardlink" and refuse and not _may_be_linked(path, status):
            return (
                f"belongs to {_user(status.st_uid)}, and this system links only files of others that one may write"
                ' (fs.protected_hardlinks): use copy, or link_fallback = "copy", or let its owner run chmod g+rw'
            )
        if self.way == "hardlink" and refuse:
            self.need.links[status.st_ino] += 1
            if self.need.links[status.st_ino] + status.st_nlink > self.need.most_links:
                return f"has {status.st_nlink} links, and its file system takes {self.need.most_links} at most"
        if self.way == "adopt" and status.st_nlink > 1:
            return "has another name elsewhere (it is a hard link), so it could be changed there once it is published"
        if self.way == "move" and _published(self.root, path):
            return "is published, or belongs to the engine: it cannot be moved away, only copied or linked"
        if self.way == "symlink" and not self.root.settings.symlink_outside and not _inside(self.root, path):
            return "is outside the root, and symbolic links to there are not allowed (symlink_outside)"
        if self.way == "symlink" and any(os.path.realpath(path).startswith(f"{folder}/") for folder in self.replaced):
            return "is in a folder that is replaced by another, and a link would lead to what is there then: copy or hard-link it"
        return ""


def _may_be_linked(path: str, status: os.stat_result) -> bool:
    """What the kernel will say to a hard link (proc_sys_fs(5), protected_hardlinks)."""
    if not _UNPRIVILEGED or status.st_uid == os.geteuid() or not _protected_links():
        return True
    runs_as_another = status.st_mode & stat.S_ISUID or (status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IXGRP)
    return not runs_as_another and os.access(path, os.R_OK | os.W_OK, effective_ids=True)


@functools.cache
def _protected_links() -> bool:
    try:
        with open("/proc/sys/fs/protected_hardlinks") as file:
            return file.read().strip() != "0"
    except OSError:
        return False


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _published(root: Root, path: str) -> bool:
    """Whether a path lies in a version directory, a staging directory or a folder of the engine."""
    real = os.path.realpath(path)
    for place in map(os.path.realpath, root.engine.roots.values()):
        if real.startswith(place.rstrip("/") + "/"):
            return root.is_kept(real[len(place.rstrip("/")) + 1 :])
    return False


def _inside(root: Root, path: str) -> bool:
    real = os.path.realpath(path)
    return any(real.startswith(place.rstrip("/") + "/") for place in map(os.path.realpath, root.engine.roots.values()))


def nearest_folder(root: Root, plan: InstancePlan) -> str:
    """Absolute path of the folder that the version will stand in, or of its nearest ancestor that exists."""
    place = root.layout.version_folder(plan.values(root, 1))
    with root.engine.root(place.root) as fd:
        missing = storage.missing_folders(place.parent, fd)
    nearest = missing[0].rpartition("/")[0] if missing else place.parent
    return os.path.join(root.engine.roots[place.root], nearest)


def _most_links(path: str) -> int:
    try:
        return os.pathconf(path, "PC_LINK_MAX")
    except OSError:
        return 1 << 62


def _check_space(needs: Iterable[_Need], problems: list[Problem]) -> None:
    for need in needs:
        space = os.statvfs(need.where)
        free, wanted = space.f_bavail * space.f_frsize, need.size + _RESERVE
        if need.size and wanted > free:
            what = f"has {free >> 20} MiB free, and this publish needs {wanted >> 20} MiB"
            problems.append(Problem(need.where, what, "space"))
        if space.f_files and need.files + _SPARE > space.f_favail:
            what = f"has room for {space.f_favail} more files, and this publish needs {need.files + _SPARE}"
            problems.append(Problem(need.where, what, "space"))
