"""Lets the link `latest` follow."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.plugin import PublishTransaction, TransactionalPlugin
from integrator.plugin.instances import is_publishable


class IntegrateLatest(TransactionalPlugin):
    """Lets the link ``latest`` beside the versions lead to that of an instance, if it is the highest.

    ``data["latest"]`` says whether, else the setting ``latest_link``.
    """

    label = "Integrate latest"
    order = pyblish.api.IntegratorOrder + 0.012

    def integrate(self, instance: Any, transaction: PublishTransaction) -> None:
        """Note it; the link is made with the rest."""
        wanted = instance.data.get("latest")
        if wanted is not None and is_publishable(instance):
            transaction.version(instance).latest = bool(wanted)
