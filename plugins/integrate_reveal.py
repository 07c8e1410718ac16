"""Reveals version directories early, for plugins of trackers that want the files there."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.plugin import PublishTransaction, TransactionalContextPlugin


class IntegrateReveal(TransactionalContextPlugin):
    """Gives version directories their final names before the plugins behind it run, if the settings or an instance ask for it.

    ``reveal = "early"`` in the settings, or ``instance.data["reveal"]``; one instance asks for all of them. The commit still
    comes last, and a failure withdraws them again; but for as long as those plugins run, a reader of the bare file system sees
    what may yet be withdrawn.
    """

    label = "Reveal early"
    order = pyblish.api.IntegratorOrder + 0.02  # after everything of ours that adds files

    def integrate(self, context: Any, transaction: PublishTransaction) -> None:
        """Reveal if it is asked for. Raises as `Assembly.reveal`."""
        wanted = [instance.data.get("reveal") for instance in context]
        if "early" in wanted or (transaction.reveals_early and not all(word == "late" for word in wanted)):
            transaction.reveal()
