"""Base classes of plugins that publish in the one transaction of their pyblish context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyblish.api

from integrator.engine import Effect
from integrator.errors import UsageError, text_of
from integrator.plugin.publication import Answered, Publication, publication_of
from integrator.plugin.transaction import PublishTransaction

_POLICIES = ("required", "best_effort")


class _Transactional:
    """What both flavours have in common."""

    #: ``required``: its failure ends the publish, and nothing of it stays. ``best_effort``: what it did is taken back, the rest
    #: is published, and its error is a warning.
    policy: ClassVar[str] = "required"
    #: Changes in outside systems by the names that `PublishTransaction.effect` calls them; recovery finds them here.
    effects: ClassVar[Mapping[str, Effect]] = {}
    #: Whether it runs after the commit, and its failure is a warning; None for what its order says.
    after_commit: ClassVar[bool | None] = None

    log: Any
    order: float


class TransactionalPlugin(_Transactional, pyblish.api.InstancePlugin):  # type: ignore[misc]
    """Base for a plugin that publishes something of each pyblish instance. Implement `integrate`."""

    order = pyblish.api.IntegratorOrder

    def process(self, instance: Any) -> None:
        """Called by pyblish; calls `integrate` unless there is nothing to do any more."""
        if type(self).integrate is not TransactionalPlugin.integrate:
            _run(self, instance.context, instance)

    def integrate(self, instance: Any, transaction: PublishTransaction) -> None:
        """Add what belongs to `instance`. Whatever is raised ends the publish, or with ``best_effort`` is a warning."""


class TransactionalContextPlugin(_Transactional, pyblish.api.ContextPlugin):  # type: ignore[misc]
    """Base for a plugin that publishes something for the whole context. Implement `integrate`."""

    order = pyblish.api.IntegratorOrder

    def process(self, context: Any) -> None:
        """Called by pyblish; calls `integrate` unless there is nothing to do any more."""
        if type(self).integrate is not TransactionalContextPlugin.integrate:
            _run(self, context, None)

    def integrate(self, context: Any, transaction: PublishTransaction) -> None:
        """Add what belongs to the context. Whatever is raised ends the publish, or with ``best_effort`` is a warning."""


class IntegrateCommit(pyblish.api.ContextPlugin):  # type: ignore[misc]
    """Commits what all plugins of the context have put together, or rolls it back if any of them failed.

    Comes last of all that can fail: its order is set whenever plugins are discovered. `integrator publish` commits after its
    loop and leaves this out.
    """

    label = "Commit the publish"
    order = pyblish.api.IntegratorOrder + 0.4999

    def process(self, context: Any) -> None:
        """Commit. Raises a subclass of `IntegratorError`, whose `outcome` says what became of the publish."""
        publication_of(context).conclude(context, self.log)


def _run(plugin: Any, context: Any, instance: Any) -> None:
    """Call `integrate` as the policy of the plugin says."""
    if plugin.policy not in _POLICIES:
        raise UsageError(f"{type(plugin).__name__}.policy is {plugin.policy!r}; it must be one of {', '.join(_POLICIES)}")
    if plugin.order < pyblish.api.ValidatorOrder + 0.5:
        raise UsageError(
            f"{type(plugin).__name__} has the order {plugin.order:g}: nothing is written before everything was validated."
            f" Give it an order from {pyblish.api.ValidatorOrder + 0.5:g} on"
        )
    publication = publication_of(context)
    with publication.guarding(type(plugin).__name__, instance.name if instance is not None else ""):
        reason = publication.why_not(context)
        if reason:
            plugin.log.info("not run: %s", reason)
            return
        publication.know(plugin.effects)
        subject = context if instance is None else instance
        try:
            if plugin.policy == "required":
                plugin.integrate(subject, publication.transaction)
            else:
                _try(plugin, publication, subject, [instance] if instance is not None else list(context))
        except Answered:
            plugin.log.info("it was published in the meantime, by another run with the same publish id")


def _try(plugin: Any, publication: Publication, subject: Any, instances: list[Any]) -> None:
    """Call `integrate`; if it fails, take back what it did and go on."""
    # A number that is taken back is not given again: versions are made where nothing takes them back.
    for instance in instances:
        publication.ensure_version(instance)
    point = publication.savepoint()
    try:
        plugin.integrate(subject, publication.transaction)
        publication.refuse_hidden_failure()
    except Answered:
        raise
    except Exception as error:
        publication.roll_back_to(point, error)
        # As text: a record that held the error would keep its frames, and with them the whole loop, alive.
        plugin.log.warning("%s failed, and is left out: %s", type(plugin).__name__, text_of(error) or type(error).__name__)
