"""Publish roots: made once, opened by every program that publishes, recovers or reads."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs

from integrator import mounts
from integrator import settings as settings_module
from integrator.database import PROJECT, Database, connect, connect_reader, make_database
from integrator.errors import NotARoot, Problem, ReadOnly, RootRefused, SettingsRefused, TemplateRefused, UsageError
from integrator.layout import (
    FILE,
    FOLDER,
    HERO_FILE,
    HERO_FOLDER,
    LINKS,
    STAGING_MARK,
    Layout,
    NamePolicy,
    prove_apart,
    prove_distinct,
)
from integrator.model import Document, Place, from_here
from integrator.settings import Given, Settings, Source, Survey
from integrator.state_folder import (
    CONFIG,
    PROJECTS,
    STATE,
    Wish,
    database_url,
    is_root,
    make_state,
    mark,
    open_state,
    read_state,
    state_path,
)
from integrator.storage import Storage

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from integrator.assembly import Assembly
    from integrator.engine import Effect, Engine
    from integrator.queries import StoredVersion

_TEMPLATES: Final = {"folder": FOLDER, "file": FILE, "hero_folder": HERO_FOLDER, "hero_file": HERO_FILE}


_Self = TypeVar("_Self", bound="Reader")


class Reader:
    """A publish root, open for reading: committed state only, and nothing can be written. `Root` is one, too.

    Close it, or use it in a `with` block.
    """

    def __init__(self, path: str, settings: Settings, database: Database, config: Source) -> None:
        self.path = path
        self._config = config
        self._database = database
        self.settings = settings
        #: Name to absolute path.
        self.roots: Mapping[str, str] = {"work": path, **settings.roots}
        self.policy = NamePolicy(pattern=settings.name_pattern)
        self.layout = _layout(settings.templates, self.policy)

    @property
    def database(self) -> Database:
        return self._database

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()

    @property
    def state(self) -> str:
        """Absolute path of the folder with settings, journals and the embedded database."""
        return os.path.dirname(self._config.path)

    def absolute(self, place: Place) -> str:
        """The absolute path of a place."""
        return os.path.join(self.roots[place.root], place.path)

    def of_project(self: _Self, project: str) -> _Self:
        """This root with the settings, and so the templates, of a project; this very one where the project has none of its own.

        Close this one, not what it returns. Raises `SettingsRefused`.
        """
        own = _project_source(self.path, project)
        return self._with(_survey([self._config], own).settings()) if own else self

    def _with(self: _Self, settings: Settings) -> _Self:
        return type(self)(self.path, settings, self.database, self._config)

    def is_version(self, name: str) -> bool:
        """Whether a folder of this name is a version directory, by the templates of the root or of any project."""
        return any(layout.version_number(name) is not None for layout in self.layouts)

    @functools.cached_property
    def layouts(self) -> list[Layout]:
        """The templates of the root, and those of every project that has its own."""
        return [self.layout, *(self.of_project(project).layout for project in configured_projects(self.path))]

    def refuse_other_mount(self, root: str, folder: str, private: str) -> None:
        """Raise `RootRefused` where the trash is on another mount than a folder: nothing could be renamed away from there."""
        top = self.roots[root]
        there, trash = (mounts.nearest(os.path.join(top, path)) for path in (folder, private))
        if not mounts.same_place(there, trash):
            project = os.path.join(top, private.partition(STATE)[0])
            raise RootRefused(
                f"{there} is on another mount than {trash}, so nothing in it could be taken back. Nothing was touched",
                next=f"mount the whole project at {project}; see integrator doctor",
            )

    def is_kept(self, path: str) -> bool:
        """Whether a path below a root lies in a version directory, a staging directory or a folder of the engine."""
        parts = path.split("/")
        above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        return (
            STATE in parts
            or any(self.is_version(part.partition(STAGING_MARK)[0]) for part in parts)
            or any(layout.is_hero_folder(folder) for layout in self.layouts for folder in above)
        )

    def unfinished_journals(self) -> Iterator[tuple[str, str]]:
        """Transaction id and absolute path of every journal in the folder for unfinished transactions."""
        from integrator.journal import Journals

        journals = Journals(Storage(), self.state)
        return ((transaction, journals.location(transaction)) for transaction in journals.unfinished())

    def documents(self, project: str, where: Mapping[str, Any], **options: Any) -> list[Document]:
        """Documents of a project as the database has them, ids and dates in extended JSON; options as in `Database.find`."""
        return self.database.find(PROJECT + project, where, **options)

    def latest(self, project: str, asset: str, subset: str, *, hierarchy: str | None = None) -> StoredVersion:
        """The highest published version of a subset. Raises as `resolve`."""
        return self.resolve(project, asset, subset, "latest", hierarchy=hierarchy)

    def resolve(
        self, project: str, asset: str, subset: str, version: int | str = "latest", *, hierarchy: str | None = None
    ) -> StoredVersion:
        """A published version by number, ``"latest"`` or ``"hero"``, with its directory and its files.

        `hierarchy` tells assets of one name apart ("" is the top level). Raises `NotPublished`, `Ambiguous`, `UsageError`.
        """
        from integrator.queries import resolve

        return resolve(self, project, asset, subset, version, hierarchy)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # A publish that is given a reader must learn what it should have been given.
            if name in ("engine", "begin", "register_effect"):
                raise ReadOnly(
                    f"{self.path} was opened for reading only",
                    next=f"open it for publishing: integrator.open_root({self.path!r})",
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class Root(Reader):
    """An open publish root, to publish in."""

    def __init__(self, path: str, engine: Engine, executor: Executor | None, config: Source) -> None:
        super().__init__(path, engine.settings, engine.database, config)
        self.engine = engine
        self._executor = executor

    @property
    def database(self) -> Database:
        return self.engine.database

    def close(self) -> None:
        """Let go of the database and of the child that renews leases."""
        self.engine.renewal.close()
        super().close()
        if self._executor is not None:
            self._executor.shutdown()

    def _with(self, settings: Settings) -> Root:
        return Root(self.path, attrs.evolve(self.engine, settings=settings), None, self._config)

    def register_effect(self, name: str, effect: Effect) -> None:
        """Make an effect in an outside system known; recovery needs it under the same name."""
        self.engine.effects[name] = effect

    def begin(self, *, project: str, publish_id: str | None = None, wait: float = 0.0, **facts: Any) -> Assembly:
        """A publish to add versions to, one by one, in a `with` block; leaving it commits. See `assembly.Assembly`."""
        from integrator.assembly import Assembly

        return Assembly.begin(self, project=project, publish_id=publish_id, wait=wait, **facts)


def create_root(
    path: str | os.PathLike[str],
    *,
    database: str = "",
    templates: Mapping[str, str] | None = None,
    shared: bool = False,
    group: str = "",
    state: str = "",
) -> Root:
    """Make a publish root at `path` (its folder may exist) and open it; an existing root is opened as it is.

    A `shared` root belongs to `group` (a name or number): everything in it can be read and written by everybody in that group,
    whatever the umask of whoever made it. `state` is the folder for settings, journals and database if that is not to be in the
    root. Raises `UsageError`, `SettingsRefused`, `RootRefused`, `OSError`.
    """
    path = os.path.abspath(from_here(os.fspath(path)))
    if shared != bool(group):
        raise UsageError("a shared root needs the group that shares it", next=f"integrator init {path} --shared --group GROUP")
    if is_root(path):
        found, _ = open_state(path)
        if database or templates or shared or (state and os.path.abspath(from_here(state)) != found):
            raise UsageError(f"{path} is a publish root already; change {os.path.join(found, CONFIG)} instead")
        root = open_root(path)
        make_database(database_url(root.settings, root.state), root.settings.root_id)  # an older one does not say whose it is
        for place in root.engine.roots.values():
            # Only here: elsewhere a missing marker means a missing mount.
            mark(root.engine.storage, place, root.settings)
        return root
    wish = Wish(
        database=database, templates=templates or {}, group=group, state=os.path.abspath(from_here(state)) if state else ""
    )
    make_state(path, wish, lambda source: _survey([source]).settings())
    return open_root(path)


def open_root(path: str | os.PathLike[str], *, executor: Executor | None = None, application: str = "") -> Root:
    """Open the publish root at `path`.

    `executor` runs the copying (any `concurrent.futures.Executor`, not closed here); by default threads of this process.
    Raises `NotARoot`, `RootRefused`, `SettingsRefused`, `DatabaseFailed`, `DatabaseDamaged`, `NewerDatabase`.
    """
    from concurrent.futures import ThreadPoolExecutor

    from integrator.engine import Engine
    from integrator.journal import Journals
    from integrator.leases import Watcher, this_process
    from integrator.renewal import Renewal

    path = os.path.abspath(from_here(os.fspath(path)))
    state, source = open_state(path)
    settings = _survey([source]).settings()
    url = database_url(settings, state)
    own = None if executor is not None or settings.workers == 1 else ThreadPoolExecutor(settings.workers)
    writer = Storage()
    engine = Engine(
        storage=writer,
        database=connect(url, settings.root_id),
        journals=Journals(writer, state),
        roots={"work": path, **settings.roots},
        root_id=settings.root_id,
        settings=settings,
        renewal=Renewal(url, settings.lease),
        owner=this_process(application),
        watcher=Watcher(settings.lease),
        executor=executor or own,
    )
    return Root(path, engine, own, source)


def open_reader(path: str | os.PathLike[str]) -> Reader:
    """Open the publish root at `path` for reading; the right to read it is enough.

    Raises `NotARoot`, `RootRefused`, `SettingsRefused`, `DatabaseFailed`, `DatabaseDamaged`, `NewerDatabase`.
    """
    path = os.path.abspath(from_here(os.fspath(path)))
    state, source = open_state(path)
    settings = _survey([source]).settings()
    return Reader(path, settings, connect_reader(database_url(settings, state), settings.root_id), source)


def find_root(near: str = "") -> str:
    """The publish root to work with: ``$INTEGRATOR_ROOT``, else the nearest folder above that has ``.integrator/``, else the
    user's `default_root`.

    Above what is at `near`, if that is in a publish root; else above the working directory. Raises `NotARoot`, `SettingsRefused`.
    """
    named = os.environ.get("INTEGRATOR_ROOT")
    if named:
        return named
    here = ""
    found = _root_above(os.path.abspath(near)) or _root_above(os.path.realpath(near)) if near.startswith("/") else ""
    if not found:
        default = settings_module.survey([]).settings().default_root
        try:
            here = from_here("").rstrip("/") or "/"
        except UsageError:
            if default:
                return default
            raise
        starts = [os.path.abspath(near), os.path.realpath(near), here] if near else [here]
        found = next(filter(None, map(_root_above, starts)), "") or default
    if not found:
        raise NotARoot(
            f"neither {here} nor any folder above it is a publish root",
            next="name one with --root DIR, or make one: integrator init DIR",
        )
    return found


def _root_above(folder: str) -> str:
    """The nearest folder above that is a publish root, or this one; "" if there is none."""
    while not is_root(folder):
        parent = os.path.dirname(folder)
        if parent == folder:
            return ""
        folder = parent
    return folder


# --- settings ---------------------------------------------------------------------------------------------------------


def read_settings(path: str, project: str = "") -> Survey:
    """Everything that the settings of a root, or of a project in it, say on all levels, and all that is wrong with it.

    Raises `NotARoot`, and `SettingsRefused` where a file cannot be read.
    """
    _, source = read_state(path)
    return _survey([source], _project_source(path, project))


def configured_projects(path: str) -> list[str]:
    """The projects of a root that have settings of their own."""
    try:
        names = os.listdir(os.path.join(state_path(path), PROJECTS))
    except FileNotFoundError:
        return []
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def config_file(path: str) -> str:
    """Where the settings of a root stand."""
    return os.path.join(state_path(path), CONFIG)


def project_file(path: str, project: str) -> str:
    """Where the settings of a project stand, or would."""
    return os.path.join(state_path(path), PROJECTS, f"{project}.toml")


def _project_source(path: str, project: str) -> list[Source]:
    """The file of a project as a list of one, or of none. A name that cannot be a folder has none."""
    if NamePolicy().component_problem(project):
        return []
    name = project_file(path, project)
    try:
        with open(name, "rb") as file:
            return [Source(settings_module.PROJECT, name, file.read())]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return []
        raise SettingsRefused([Problem(name, f"cannot be read: {error.strerror}")]) from error


def _survey(root: Sequence[Source], project: Sequence[Source] = ()) -> Survey:
    """What the settings say, their templates checked too: folders must be distinct, in a project and between projects."""
    found = settings_module.survey([*root, *project])
    given = {**found.given}
    for name, text in {**_TEMPLATES, **LINKS}.items():
        default = Given(str(text), settings_module.DEFAULT, settings_module.DEFAULT)
        given[f"templates.{name}"] = (*given.get(f"templates.{name}", ()), default)
    found = attrs.evolve(found, given=given)
    problems = [*found.problems]
    if not found.value("root_id"):
        marker = os.path.join(os.path.dirname(root[0].path), "id")
        problems.append(
            Problem(f"{root[0].path}:1", f'root_id is missing; put the line root_id = "..." back with the id in {marker}')
        )
    policy = NamePolicy(pattern=found.value("name_pattern"))
    try:
        layout = _layout(found.table("templates"), policy)
        if project:
            prove_apart(layout, _layout(settings_module.survey(root).table("templates"), policy))
    except TemplateRefused as error:
        problems.append(Problem(_blamed(found, error.message), error.message))
    problems += _unused(found)
    return attrs.evolve(found, problems=tuple(problems))


def _blamed(found: Survey, message: str) -> str:
    """File and line of the template that a message quotes, else of the one that was set at the last level."""
    given = {name.partition(".")[2]: values[0] for name, values in found.given.items() if name.startswith("templates.")}
    changed = {name: value for name, value in given.items() if value.level != settings_module.DEFAULT}
    quoted = [value for name, value in changed.items() if repr(value.value) in message or f"{{@{name}}}" in message]
    return max(quoted or changed.values(), key=lambda value: settings_module.LEVELS.index(value.level)).where


def _unused(found: Survey) -> Iterator[Problem]:
    """Links that no template uses: most likely a template whose name is misspelt."""
    templates = found.table("templates")
    for name in templates.keys() - {*_TEMPLATES, *LINKS}:
        if not any(f"{{@{name}}}" in text for text in templates.values()):
            what = f"is neither one of {', '.join(_TEMPLATES)} nor an inner link: no template holds {{@{name}}}"
            yield Problem(found.given[f"templates.{name}"][0].where, f"templates.{name} {what}")


def _layout(templates: Mapping[str, str], policy: NamePolicy) -> Layout:
    links = dict(templates)
    given = {name: links.pop(name) for name in _TEMPLATES if name in links}
    layout = Layout(**given, links=links, policy=policy)
    prove_distinct(layout)
    return layout
