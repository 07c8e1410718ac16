"""Validates a publish request before anything is written."""

from __future__ import annotations

from typing import Any

import attrs
import pyblish.api

import integrator
from integrator.request import parse_request
from integrator.root import open_root


class ValidatePublishRequest(pyblish.api.ContextPlugin):
    """Refuses a publish that cannot succeed; its error lists every problem at once.

    Reads the request strictly, then looks at sources, names, destinations, links and free space of all publish instances that
    would be published. Writes nothing.
    """

    label = "Validate publish request"
    order = pyblish.api.ValidatorOrder

    def process(self, context: Any) -> None:
        """Validate. Raises `RequestRefused`, `ValidationRefused` and others of `integrator.errors`."""
        if not {"publishRequest", "publishRoot"} <= context.data.keys():
            return  # the collector failed and said why
        with open_root(context.data["publishRoot"], application="pyblish") as root:
            request = parse_request(context.data["publishRequest"], root.policy)
            instances = _active(context)
            if instances:
                integrator.publish(attrs.evolve(request, instances=instances), root, dry_run=True)


def _active(context: Any) -> tuple[Any, ...]:
    """The publish instances whose pyblish instances are there and switched on."""
    collected = [instance.data for instance in context if "publishInstance" in instance.data]
    return tuple(data["publishInstance"] for data in collected if data.get("publish") is not False)
