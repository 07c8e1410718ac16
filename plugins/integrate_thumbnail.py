"""Publishes the small picture of each version along with it."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.plugin import PublishTransaction, TransactionalPlugin


class IntegrateThumbnail(TransactionalPlugin):
    """Stores ``data["thumbnailContent"]`` in the version directory, and names it in the documents of version and asset.

    Part of the transaction: it is there when the version is, and gone when the publish fails. Without it the rest is published.
    """

    label = "Integrate thumbnail"
    order = pyblish.api.IntegratorOrder + 0.005  # before an early reveal, after which nothing is added
    policy = "best_effort"

    def integrate(self, instance: Any, transaction: PublishTransaction) -> None:
        """Store the picture, if there is one."""
        content = instance.data.get("thumbnailContent")
        if content:
            transaction.version(instance).set_thumbnail(content)
