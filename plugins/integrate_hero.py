"""Lets the hero version follow."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.plugin import PublishTransaction, TransactionalPlugin
from integrator.plugin.instances import is_publishable


class IntegrateHero(TransactionalPlugin):
    """Lets the hero version follow the version of an instance: ``data["hero"]`` says whether, else the publish request.

    It gets the files that the version has in the end, and takes its place after the verdict.
    """

    label = "Integrate hero version"
    order = pyblish.api.IntegratorOrder + 0.011

    def integrate(self, instance: Any, transaction: PublishTransaction) -> None:
        """Note it; the hero is staged when everything was added to the version."""
        wanted = instance.data.get("hero")
        if wanted is not None and is_publishable(instance):
            transaction.version(instance).hero = bool(wanted)
