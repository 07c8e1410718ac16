"""The loop of ``integrator publish``: pyblish's own; it stops at the first error after validation, and commits after its end."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
import pyblish.api
import pyblish.logic
import pyblish.plugin

from integrator.attempt import Terms
from integrator.engine import Effect
from integrator.errors import IntegratorError, PluginFailed, Problem, UsageError, ValidationRefused, text_of
from integrator.plugin.bases import IntegrateCommit
from integrator.plugin.discovery import arrange, is_shipped, runs_after_commit, shipped_folder
from integrator.plugin.publication import Publication, names_of, publication_of, remembered_effects
from integrator.request import PublishRequest
from integrator.results import PublishResult
from integrator.root import Root

_VALIDATION: Final = pyblish.api.ValidatorOrder - 0.5
_WRITING: Final = pyblish.api.ValidatorOrder + 0.5

#: What one plugin did: the dictionary that pyblish makes of it.
Result = Mapping[str, Any]


@attrs.frozen(kw_only=True)
class Pipeline:
    """Plugins in the order in which they run."""

    #: Those before the commit.
    before: Sequence[Any]
    #: Those after it; their failure is a warning.
    after: Sequence[Any]


@attrs.frozen(kw_only=True)
class Observer:
    """Who is told while a pipeline runs."""

    #: Each result, as soon as a plugin has ended.
    seen: Callable[[Result], None] = lambda result: None
    #: Asked between two plugins; raises `Interrupted` if a signal came that a plugin swallowed.
    check: Callable[[], None] = lambda: None
    #: The verdict is in: nothing changes it any more.
    decided: Callable[[], None] = lambda: None


# --- discovery --------------------------------------------------------------------------------------------------------


def load(folders: Iterable[str], late: Collection[str] = ()) -> Pipeline:
    """Our plugins, and those of `folders` and of ``PYBLISHPLUGINPATH``; a plugin of a studio replaces ours of the same name.

    Raises `UsageError` for a folder that is not there, and for files that cannot be loaded.
    """
    folders = [os.path.abspath(folder) for folder in folders]
    for folder in folders:
        if not os.path.isdir(folder):
            raise UsageError(f"there is no folder of plugins at {folder}. Nothing was touched", next="integrator publish --help")
    skipped = _Skipped()
    logger = logging.getLogger("pyblish.plugin")
    logger.addHandler(skipped)
    try:
        plugins = pyblish.api.discover(paths=[*folders, *_named_folders(), shipped_folder()])
    except (Exception, SystemExit) as error:
        raise UsageError(f"the plugins cannot be loaded ({type(error).__name__}: {error}). Nothing was touched") from error
    finally:
        logger.removeHandler(skipped)
    if skipped.reasons:
        raise UsageError(f"plugins cannot be loaded: {'; '.join(skipped.reasons)}. Nothing was touched")
    if nowhere := [plugin.__name__ for plugin in plugins if math.isnan(plugin.order)]:
        raise UsageError(f"plugins whose order is no number would never run: {', '.join(nowhere)}. Nothing was touched")
    arrange(plugins, late)
    after = [plugin for plugin in plugins if runs_after_commit(plugin, late)]
    before = [plugin for plugin in plugins if plugin not in after and not issubclass(plugin, IntegrateCommit)]
    return Pipeline(before=before, after=after)


def _named_folders() -> list[str]:
    """The folders of ``PYBLISHPLUGINPATH``; an empty entry, as of ``:/plugins``, is none, and never the working directory."""
    return [path for path in os.environ.get("PYBLISHPLUGINPATH", "").split(os.pathsep) if path]


def load_effects(folders: Iterable[str]) -> Mapping[str, Effect]:
    """The effects of all plugins, for recovery. Raises as `load`."""
    load(folders)
    return remembered_effects()


class _Skipped(logging.Handler):
    """Files that pyblish leaves out because they cannot be loaded."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.reasons: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.reasons.append(record.getMessage().removeprefix("Skipped: "))


# --- running ----------------------------------------------------------------------------------------------------------


def run(
    request: PublishRequest,
    root: Root,
    pipeline: Pipeline,
    terms: Terms,
    *,
    dry_run: bool = False,
    observer: Observer | None = None,
) -> PublishResult:
    """Publish a request through its plugins, or do nothing at all; durable when it returns.

    Errors of collectors and validators are all told together. After them the first error ends it, and everything is rolled back,
    whatever was raised. Raises a subclass of `IntegratorError`, `KeyboardInterrupt`, and what a plugin of ours did not expect.
    """
    observer = observer or Observer()
    context = pyblish.api.Context()
    context.data.update(publishRequest=request, publishRoot=root.path, publishDryRun=dry_run)
    publication = publication_of(context)
    try:
        result = _run(publication, request, root, pipeline, terms, dry_run, observer)
    except BaseException as error:
        first = publication.fail(error)
        if first is not error and isinstance(first, IntegratorError):
            raise first from error
        if isinstance(error, IntegratorError):
            error.transaction = error.transaction or publication.transaction_id
        raise
    finally:
        publication.end()
    return result


def _run(
    publication: Publication,
    request: PublishRequest,
    root: Root,
    pipeline: Pipeline,
    terms: Terms,
    dry_run: bool,
    observer: Observer,
) -> PublishResult:
    # Somebody may have come with this publish id before; then there may be nothing left to do, and no plugin runs.
    answer = publication.use(
        root, attrs.evolve(terms, plugins=names_of([*pipeline.before, *pipeline.after])), request, dry_run=dry_run
    )
    if answer is not None:
        return answer
    # Collectors and validators tell all that is wrong before anything is written.
    checks = [plugin for plugin in pipeline.before if plugin.order < _WRITING]
    _refuse([result for result in _results(publication, checks, observer) if result["error"] is not None])
    if publication.result is not None:
        return publication.result
    if dry_run:
        return publication.planned()
    # Extractors and integrators; the first one that fails is the last one that runs.
    for result in _results(publication, [plugin for plugin in pipeline.before if plugin.order >= _WRITING], observer):
        if result["error"] is not None:
            raise _told(result)
        if (faster := publication.answer()) is not None:  # another run with the same publish id
            return faster
    # Everything that can fail has been asked.
    published = publication.commit()
    observer.decided()
    _run_after(publication, pipeline.after, observer)
    pyblish.api.emit("published", context=publication.context)
    return published


def _results(publication: Publication, plugins: Sequence[Any], observer: Observer) -> Iterator[Result]:
    """Run plugins in their order, those for instances once for each."""
    context = publication.context
    collectors = [plugin for plugin in plugins if plugin.order < _VALIDATION]
    others = [plugin for plugin in plugins if plugin.order >= _VALIDATION]
    for some in (collectors, others):  # what collectors find decides which of the others run
        for plugin, instance in pyblish.logic.Iterator(some, context, {"nextOrder": None, "ordersWithError": set()}):
            try:
                with publication.guarding(plugin.__name__, instance.name if instance is not None else ""):
                    result = pyblish.plugin.process(plugin, context, instance)
            except (KeyboardInterrupt, IntegratorError):
                raise
            except BaseException as error:  # what pyblish does not catch, and what it stumbles over
                observer.check()
                raise PluginFailed(plugin.__name__, instance.name if instance is not None else "", error) from error
            observer.seen(result)
            observer.check()
            yield result


def _run_after(publication: Publication, plugins: Sequence[Any], observer: Observer) -> None:
    """It is published: whatever happens here is a warning."""
    with contextlib.suppress(Exception):
        state = {"nextOrder": None, "ordersWithError": set[float]()}
        for plugin, instance in pyblish.logic.Iterator(plugins, publication.context, state):
            try:
                observer.seen(pyblish.plugin.process(plugin, publication.context, instance))
            except BaseException as error:
                observer.seen({"plugin": plugin, "instance": instance, "error": error, "records": [], "duration": 0.0})


def _refuse(wrong: Sequence[Result]) -> None:
    """Raise the first error of collectors and validators, with everything else that can be told in the same way."""
    if not wrong:
        return
    first = _told(wrong[0])
    if isinstance(first, (ValidationRefused, PluginFailed)):
        raise ValidationRefused([problem for result in wrong for problem in _problems(result)]) from wrong[0]["error"]
    raise first


def _problems(result: Result) -> Iterable[Problem]:
    error: Exception = result["error"]
    if isinstance(error, ValidationRefused):
        return error.problems
    name = result["plugin"].__name__
    where = f"{name}, {result['instance'].name}" if result["instance"] is not None else name
    return [Problem(where, error.message if isinstance(error, IntegratorError) else text_of(error) or type(error).__name__)]


def _told(result: Result) -> BaseException:
    """What a user is told of a plugin that failed: our own errors as they are, those of others with the name of the plugin."""
    error: BaseException = result["error"]
    if isinstance(error, (IntegratorError, KeyboardInterrupt)) or is_shipped(result["plugin"]):
        return error
    told = PluginFailed(result["plugin"].__name__, result["instance"].name if result["instance"] is not None else "", error)
    told.__cause__ = error
    return told


__all__ = ["Observer", "Pipeline", "Result", "load", "load_effects", "run"]
