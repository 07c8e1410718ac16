"""What the plugins of one pyblish context publish together.

The steps are those of `publish.publish`; here the plugins of a studio run between them. Whoever drives the loop may stop at any
moment, and may never say so: a transaction that is open then is rolled back when the loop or the context goes away, when the
interpreter ends, or when the same thread begins with another context.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import attrs
import pyblish.api
import pyblish.util

from integrator.assembly import Assembly, OpenVersion
from integrator.attempt import Attempt, Terms
from integrator.engine import Effect
from integrator.errors import (
    DifferentContent,
    Failed,
    IntegratorError,
    PluginFailed,
    Problem,
    Unsettled,
    UsageError,
    ValidationRefused,
    text_of,
)
from integrator.layout import collision_key
from integrator.leases import busy
from integrator.model import State
from integrator.plugin import instances as shapes
from integrator.plugin.transaction import PublishTransaction
from integrator.request import PublishRequest, parse_request
from integrator.results import PublishResult, failed, of_transaction
from integrator.retry import Earlier, find
from integrator.root import Root, find_root, open_root

if TYPE_CHECKING:
    from integrator.transaction import Savepoint

_log: Final = logging.getLogger("integrator.plugin")
#: By the id of their context.
_publications: Final[dict[str, Publication]] = {}
#: Effects of every plugin that was ever discovered or run here, by name.
_effects: Final[dict[str, Effect]] = {}
#: Name and version of the plugins that were discovered last.
_discovered: Final[list[tuple[str, str]]] = []
_loop: Final = threading.local()
#: Loops of pyblish that end before the commit: what they opened goes on in the next one.
_STAGES: Final = {getattr(pyblish.util, f"{name}_iter").__code__ for name in ("collect", "validate", "extract", "integrate")}


def publication_of(context: Any) -> Publication:
    """The publication of a pyblish context, made when it is first asked for."""
    found = _publications.get(context.id)
    if found is None:
        found = _publications[context.id] = Publication(context)
        weakref.finalize(context, _forget, context.id)
        _leave_others(found)
    return found


def find_publication(context: Any) -> Publication | None:
    """The publication of a pyblish context, if it has one."""
    return _publications.get(context.id)


def open_publication() -> Publication | None:
    """The publication that has something open in this thread; there is one at most."""
    here = threading.current_thread()
    return next((found for found in list(_publications.values()) if found.thread is here and found.is_open), None)


def remember_effects(effects: Mapping[str, Effect]) -> None:
    """Make effects of plugins known to every publication of this process."""
    _effects.update(effects)


def remembered_effects() -> Mapping[str, Effect]:
    """Effects of every plugin that was discovered in this process, by name."""
    return _effects


def remember_plugins(plugins: Iterable[Any]) -> None:
    """Note which plugins take part in the publishes that follow."""
    _discovered[:] = names_of(plugins)


def names_of(plugins: Iterable[Any]) -> list[tuple[str, str]]:
    """Name and version of plugins."""
    return [(plugin.__name__, ".".join(map(str, plugin.version))) for plugin in plugins]


def see_loop(token: Any) -> None:
    """Note the loop that runs in this thread; `token` lives as long as it does, and nowhere else."""
    try:
        _loop.token = weakref.ref(token)
    except TypeError:  # loops from before pyblish 1.3 have a list, whose end nobody can see
        _loop.token = lambda: None


def _forget(context_id: str) -> None:
    publication = _publications.pop(context_id, None)
    if publication is not None:
        publication.abandon("its context is gone")


def _leave_others(new: Publication) -> None:
    """A host that starts again has given up what it had begun in the same thread."""
    for other in list(_publications.values()):
        if other is not new and other.thread is new.thread and not other.executing:
            other.abandon("another publish was started instead")


def _leave_to_parent() -> None:
    for publication in _publications.values():
        publication.disown()


os.register_at_fork(after_in_child=_leave_to_parent)


class Answered(Exception):
    """Somebody else has published the same in the meantime: there is nothing left to do."""


class Publication:
    """One publish request, or none, and at most one transaction; made by `publication_of`."""

    def __init__(self, context: Any) -> None:
        self._context = weakref.ref(context)
        self._context_id = context.id
        #: Where it publishes; opened when it is first needed unless somebody gave it.
        self._root: Root | None = None
        self._owned = False
        #: The request that was collected, before anything was switched off; None without one.
        self.request: PublishRequest | None = None
        self.terms = Terms(plugins=tuple(_discovered))
        #: What all plugins get.
        self.transaction = PublishTransaction(self)
        #: The answer, once there is nothing left to do.
        self.result: PublishResult | None = None
        #: What ended it, if it failed.
        self.failure: BaseException | None = None
        #: Unix time.
        self.started = time.time()
        #: Number of plugins of this context that run right now.
        self.executing = 0
        self._running = ("a plugin", "")
        self.thread = threading.current_thread()
        self._asked: PublishRequest | None = None
        self._earlier: Earlier | None = None
        self._problems: list[Problem] = []
        self._surveyed = False
        self._attempt: Attempt | None = None
        self._assembly: Assembly | None = None
        self._versions: dict[str, OpenVersion] = {}
        self._ends: list[weakref.finalize[Any, Any]] = []

    # --- where and what -------------------------------------------------------------------------------------------

    @property
    def context(self) -> Any:
        """The pyblish context."""
        context = self._context()
        if context is None:
            raise UsageError("the pyblish context is gone. Nothing was done by this call")
        return context

    def use(self, root: Root, terms: Terms, request: PublishRequest, *, dry_run: bool = False) -> PublishResult | None:
        """Publish this request into this root, which its caller closes, and on these terms; an answer if nothing is left to do.

        Raises as `Attempt.look`. An earlier run is compared with all of the request, whatever plugins switch off in it.
        """
        self._root, self.terms, self.request, self._asked = root, terms, request, request
        root.engine.effects.update(_effects)  # what an earlier run left may have to be compensated first
        attempt = Attempt(root, request, terms)
        answer = attempt.glance() if dry_run else attempt.look()
        if answer is not None:
            self._answer(answer)
        self._earlier = attempt.earlier
        return answer

    @property
    def transaction_id(self) -> str:
        """Id of the transaction, "" while there is none."""
        return self._assembly.transaction.id if self._assembly is not None else ""

    @property
    def is_open(self) -> bool:
        """Whether there is something that would be rolled back."""
        return self._assembly is not None and self.result is None and self.failure is None

    def answer(self) -> PublishResult | None:
        """The answer, once there is nothing left to do."""
        return self.result

    @property
    def outcome(self) -> PublishResult | None:
        """How it ended; None while it has not."""
        return self.result or (failed(self._told(self.failure)) if self.failure is not None else None)

    def planned(self) -> PublishResult:
        """What would be published, after `survey`; nothing was written."""
        attempt = self.attempt()
        return attempt.planned() if attempt is not None else PublishResult(transaction="", outcome="planned")

    def end(self) -> None:
        """Let go of the context: its loop is over, and nothing of it is open."""
        self.abandon("its loop has ended")
        _publications.pop(self._context_id, None)

    @property
    def root(self) -> Root:
        """The publish root: ``context.data["publishRoot"]`` (a path, or one that its caller has opened and closes), else the one
        that the command line would use.
        """
        given = self.context.data.get("publishRoot")
        if self._root is None and isinstance(given, Root):
            self._root = given
            self._root.engine.effects.update(_effects)
        elif self._root is None:
            path = os.path.abspath(given or find_root())
            self._root, self._owned = open_root(path, application="pyblish"), True
            self._root.engine.effects.update(_effects)  # settling an earlier run may need them, too
        return self._root

    def know(self, effects: Mapping[str, Effect]) -> None:
        """Make effects known that plugins may ask for."""
        remember_effects(effects)
        if self._assembly is not None:
            self.root.engine.effects.update(effects)

    def active(self) -> list[Any]:
        """The pyblish instances that are switched on and can be published."""
        return [instance for instance in self.context if shapes.is_active(instance) and shapes.is_publishable(instance)]

    def attempt(self) -> Attempt | None:
        """The attempt at that part of the request which is switched on; None if that is nothing."""
        wanted = tuple(instance.data["publishInstance"] for instance in self._requested())
        if self.request is None or not wanted:
            return None
        if self._attempt is None or self._attempt.request.instances != wanted:
            request = attrs.evolve(self.request, instances=wanted)
            self._attempt = Attempt(self.root, request, self.terms, asked=self._asked)
            self._attempt.earlier, self._earlier = self._earlier, None
        return self._attempt

    def _requested(self) -> list[Any]:
        return [instance for instance in self.active() if instance.data.get("publishInstance") is not None]

    def look(self) -> PublishResult | None:
        """Settle what earlier runs left, and look at all sources, each once; the answer if nothing is left to do.

        Raises what `Attempt.look` and `Attempt.preflight` do.
        """
        attempt = self.attempt()
        if attempt is None:
            return self._earlier_answer()
        if attempt.earlier is None and (answer := attempt.look()) is not None:
            self._answer(answer)
            return answer
        if attempt.plans is None:
            attempt.preflight()
        return None

    def survey(self) -> None:
        """Look at everything once more, for `problems` to tell of. Raises what makes a publish impossible as a whole."""
        self._problems, self._surveyed = [], False
        if self.request is None and self.context.data.get("publishRequest") is not None:
            parse_request(self.context.data["publishRequest"], self.root.policy)
        if self.result is not None or not self.active():
            return
        self._problems += self._wrong_shapes()
        attempt = self.attempt()
        if attempt is not None:
            attempt.plans = None
        try:
            self._surveyed = self.look() is None
        except ValidationRefused as refused:
            self._problems += refused.problems

    def problems(self, kind: str) -> list[Problem]:
        """What stands against this publish, of one kind; `survey` has found it."""
        return [problem for problem in self._problems if problem.kind == kind]

    def check_destinations(self) -> None:
        """Raise `ValidationRefused` or `VersionTaken` if two files would have one name, or a version number is taken."""
        if self._surveyed and (attempt := self.attempt()) is not None:
            attempt.planned()

    def check_soft_locks(self) -> str:
        """Raise `Busy` if somebody holds a soft lock that is not waited for; else who holds one, "" if nobody does."""
        if not self._surveyed or (attempt := self.attempt()) is None or (held := attempt.held()) is None:
            return ""
        if not self.terms.wait:
            raise busy(held)
        return str(busy(held))

    def _wrong_shapes(self) -> list[Problem]:
        """What is wrong with instances that no request describes: names, and two that would be one version."""
        found: list[Problem] = []
        seen: dict[str, Any] = {}
        for instance in self.active():
            if instance.data.get("publishInstance") is None:
                found += shapes.problems_of(instance, self.root.policy)
        for instance in self.active():
            place = shapes.destination(instance)
            other = seen.setdefault(collision_key(place), instance)
            if other is not instance:
                found.append(Problem(instance.name, f"would be the same version as {other.name} ({place})", "destinations"))
        return found

    def glance(self) -> None:
        """Know the answer of an earlier run that is finished; writes nothing."""
        attempt = self.attempt()
        with contextlib.suppress(DifferentContent):  # something may yet be switched off; `survey` tells
            if attempt is not None and (answer := attempt.glance()) is not None:
                self._answer(answer)
        self._attempt = None

    def _answer(self, result: PublishResult) -> None:
        self.result = result
        self.context.data["publishResult"] = result.document()

    # --- writing --------------------------------------------------------------------------------------------------

    def why_not(self, context: Any) -> str:
        """Why nothing is written any more, "" if something may be. Raises what `look` does."""
        if self.result is not None:
            return f"it was published before ({self.result.transaction})" if self._assembly is None else "it is published"
        if self.failure is not None:
            return "the publish failed"
        if self._assembly is None:
            if failures(context):
                return "a plugin before it failed"
            if not self.active():
                return "no publish instance is switched on"
            if self.look() is not None:
                return "it was published before"
        return ""

    def assembly(self) -> Assembly:
        """The open transaction; opens it. Raises as `Attempt.begin` does, `UsageError` once it has ended."""
        if self._assembly is None:
            reason = self.why_not(self.context)
            if reason:
                raise UsageError(f"nothing can be added to this publish: {reason}. Nothing was done by this call")
            self._begin()
        elif self.failure is not None or self.result is not None:
            raise UsageError("this publish has ended. Nothing was done by this call")
        assert self._assembly is not None
        return self._assembly

    def _begin(self) -> None:
        self.root.engine.effects.update(_effects)
        attempt = self.attempt()
        self._assembly = attempt.begin() if attempt is not None else self._begin_without_request()
        while self._assembly is None:  # another run of the same publish id was faster: ask again how it stands
            assert attempt is not None
            attempt.earlier = None
            if self.look() is not None:
                raise Answered
            self._assembly = attempt.begin()
        for instance, version in zip(self._requested(), self._assembly.versions):
            self._versions[instance.id] = version
        self._ends.append(weakref.finalize(self, _roll_back_abandoned, self._assembly, self._root if self._owned else None))
        token = getattr(_loop, "token", lambda: None)()
        if token is not None and self._asked is None:  # our runner says itself when its loop is over
            self._ends.append(weakref.finalize(token, _loop_ended, weakref.ref(self)))

    def _begin_without_request(self) -> Assembly:
        facts = shapes.publish_facts(self.context)
        project = shapes.project_of(self.context, self.active())
        if not project:
            raise UsageError('it is not known into which project to publish: set context.data["projectName"]')
        return Assembly.begin(
            self.root,
            project=project,
            publish_id=self.context.data.get("publishId"),
            wait=self.terms.wait,
            fingerprint=self._fingerprint(),
            plugins=self.terms.plugins,
            **facts,
        )

    def _fingerprint(self) -> str:
        return shapes.fingerprint(self.active())

    def _earlier_answer(self) -> PublishResult | None:
        publish_id = self.context.data.get("publishId")
        found = find(self.root, publish_id) if publish_id else None
        if found is None or found["state"] != State.FINISHED.value:
            return None
        if found.get("fingerprint") != self._fingerprint():
            raise DifferentContent(
                f"the publish id {publish_id} was used for something else ({found['_id']}). Nothing was touched",
                next=f"integrator show {found['_id']}",
            )
        result = of_transaction(self.root, found, "already_published")
        self._answer(result)
        return result

    def version(self, instance: Any) -> OpenVersion:
        """The version that a pyblish instance becomes; makes it. Raises as `Assembly.new_version` does."""
        assembly = self.assembly()
        version = self._versions.get(instance.id)
        if version is None or not assembly.keeps(version):
            version = self._versions[instance.id] = assembly.new_version(**shapes.describe(instance))
        return version

    def ensure_version(self, instance: Any) -> None:
        """Make the version of an instance that will be published, if it is not there yet."""
        if shapes.is_active(instance) and shapes.is_publishable(instance) and shapes.has_files(instance):
            self.version(instance)

    def savepoint(self) -> Savepoint:
        """A position to roll back to."""
        return self.assembly().savepoint()

    def refuse_hidden_failure(self) -> None:
        """Raise the error of a step that failed and whose error was caught by the plugin that made it."""
        self.assembly().transaction.raise_failure()

    def roll_back_to(self, point: Savepoint, error: Exception) -> None:
        """Take back what a plugin did before it failed with `error`. Raises if the transaction cannot go on."""
        if self.failure is not None:
            raise error
        self.assembly().roll_back_to(point)

    # --- how it ends ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def guarding(self, plugin: str, instance: str = "") -> Iterator[None]:
        """While a plugin runs: whatever it raises, `BaseException` included, rolls back what is open before it goes on."""
        self.executing += 1
        self._running = (plugin, instance)
        try:
            yield
        except BaseException as error:
            if self._assembly is None or self.result is not None:
                raise
            first = self.fail(error)
            if first is error or not isinstance(error, Exception):
                raise
            raise first from error
        finally:
            self.executing -= 1

    def fail(self, error: BaseException) -> BaseException:
        """End it by this error and roll back; the first error counts. Returns that, or what the rollback made of it."""
        if self.failure is None and self.result is None:
            self.failure = error
            if self._assembly is not None:
                try:
                    self._assembly.transaction.roll_back(error)
                except IntegratorError as second:
                    self.failure = second
                except BaseException as second:  # somebody else's: it cut the rollback short
                    self.failure = self._cut_short(second)
                    raise
            self.context.data["publishResult"] = failed(self._told(self.failure)).document()
            self._close()
        return self.failure or error

    def _cut_short(self, error: BaseException) -> Unsettled:
        message = f"the rollback was cut short by {type(error).__name__}. Nothing that is published was touched"
        unsettled = Unsettled(message, next=f"integrator recover {self.transaction_id}")
        unsettled.transaction = self.transaction_id
        return unsettled

    def _told(self, error: BaseException) -> IntegratorError:
        if isinstance(error, IntegratorError):
            return error
        told = PluginFailed(*self._running, error)
        told.transaction = self.transaction_id
        return told

    def conclude(self, context: Any, log: Any) -> None:
        """Commit if nothing failed, else roll back; the answer is in ``context.data["publishResult"]`` then.

        Raises as `Transaction.commit` does.
        """
        if self.result is not None:
            return
        found = failures(context)
        if found and self.failure is None:
            refused = ValidationRefused(found)
            if self._assembly is not None:
                self.fail(Failed(f"a plugin failed ({found[0].where}: {found[0].what}). Everything is as before"))
            else:
                self.failure = refused
                context.data["publishResult"] = failed(refused).document()
        if self.failure is not None:
            if not found:  # no plugin shows it, as when the loop was thought to be over
                raise self._told(self.failure)
            log.error("nothing is published: %s", text_of(self.failure))
            return
        if self._assembly is None or self._assembly.is_bare:
            log.warning("there is nothing to publish: no publish instance is switched on, and no plugin added anything")
            self.abandon("")
            return
        self.commit()

    def commit(self) -> PublishResult:
        """Publish what was put together. Raises as `Transaction.commit` does."""
        assembly = self.assembly()
        try:
            result = assembly.commit()
        except BaseException as error:
            self.fail(error)
            raise
        self._answer(result)
        self._close()
        return result

    def abandon(self, why: str) -> None:
        """Roll back what is open: whoever drove the loop has gone away."""
        if self._assembly is not None and self.is_open:
            if why:
                _log.warning("the publish was abandoned (%s), and is rolled back", why)
            error = Failed(f"the publish was abandoned: {why}. Everything is as before", next="run it again")
            self.failure = error
            try:
                self._assembly.transaction.roll_back(error)
            except IntegratorError as second:  # recovery tells about it
                self.failure = second
            if (context := self._context()) is not None:
                context.data["publishResult"] = failed(self._told(self.failure)).document()
        self._close()

    def disown(self) -> None:
        """In a process that was forked: what is open goes on in the one that opened it, and nothing here ends it."""
        if self._assembly is not None and self.result is None:
            for end in self._ends:
                end.detach()
            self._ends.clear()
            self._owned = False
            self.failure = self.failure or UsageError("this is a fork of the process that publishes. Nothing was done here")

    def _close(self) -> None:
        for end in self._ends:
            end.detach()
        self._ends.clear()
        if self._owned and self._root is not None:
            self._root.close()
            self._root, self._owned = None, False


def _roll_back_abandoned(assembly: Assembly, root: Root | None) -> None:
    """At the end of the interpreter, when nobody can be asked any more."""
    with contextlib.suppress(IntegratorError):
        assembly.transaction.roll_back(Failed("the program ended before the publish was committed. Everything is as before"))
    if root is not None:
        root.close()


def _loop_ended(publication: weakref.ref[Publication]) -> None:
    found = publication()
    if found is not None and not _in_stage():
        found.abandon("its loop has ended")


def _in_stage() -> bool:
    """Whether the loop that ends is one of pyblish for a single stage: the next stage goes on with what it opened."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in _STAGES:
        frame = frame.f_back
    return frame is not None


def failures(context: Any) -> list[Problem]:
    """What failed so far, in the order of the plugins; only the last run of each plugin with each instance counts."""
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for result in context.data.get("results", ()):
        if result.get("action") is None:
            last[result["plugin"].id, result["instance"].id if result["instance"] is not None else ""] = result
    return list(_problems(result for result in last.values() if result["error"] is not None))


def _problems(results: Iterable[Mapping[str, Any]]) -> Iterator[Problem]:
    for result in results:
        yield Problem(result["plugin"].__name__, text_of(result["error"]) or type(result["error"]).__name__)


__all__ = ["Publication", "failures", "find_publication", "publication_of", "remember_effects", "remembered_effects", "see_loop"]
