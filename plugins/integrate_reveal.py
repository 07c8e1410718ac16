"""Reveals version directories early, for plugins of trackers that want the files there."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.plugin import PublishTransaction, TransactionalContextPlugin


class IntegrateReveal(TransactionalContextPlugin):
    """Gives version directories their final names before the plugins behind it run, if an instance asks for it.

    ``instance.data["reveal"]`` is ``"early"`` then. The commit still comes last, and a failure withdraws them again; but for as
    long as those plugins run, a reader of the bare file system sees what may yet be withdrawn.
    """

    label = "Reveal early"
    order = pyblish.api.IntegratorOrder + 0.01

    def integrate(self, context: Any, transaction: PublishTransaction) -> None:
        """Reveal if it is asked for. Raises as `Transaction.reveal`."""
        if any(instance.data.get("reveal") == "early" for instance in context):
            transaction.transaction.reveal()
