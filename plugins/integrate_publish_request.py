"""Publishes a publish request, in one transaction."""

from __future__ import annotations

from typing import Any

import attrs
import pyblish.api

import integrator
from integrator.errors import IntegratorError, Problem, ValidationRefused
from integrator.request import parse_request
from integrator.results import failed
from integrator.root import open_root


class IntegratePublishRequest(pyblish.api.ContextPlugin):
    """Publishes everything that was collected, or nothing at all.

    Does not begin if any plugin before it failed: pyblish itself goes on after an error that is not a validator's. The answer,
    the same as that of ``integrator publish --json``, is in ``context.data["publishResult"]`` afterwards, whatever happened.
    """

    label = "Integrate publish request"
    order = pyblish.api.IntegratorOrder

    def process(self, context: Any) -> None:
        """Publish. Raises a subclass of `IntegratorError`, whose `outcome` says what became of the publish."""
        problems = _problems(context)
        if problems:
            refused = ValidationRefused(problems)
            self.log.error(refused.message)
            context.data["publishResult"] = failed(refused).document()
            return
        instances = _active(context)
        if not instances:
            self.log.warning("there is nothing to publish: no publish instance is switched on")
            return
        try:
            with open_root(context.data["publishRoot"], application="pyblish") as root:
                request = parse_request(context.data["publishRequest"], root.policy)
                result = integrator.publish(attrs.evolve(request, instances=instances), root)
        except IntegratorError as error:
            context.data["publishResult"] = failed(error).document()
            raise
        context.data["publishResult"] = result.document()
        for version in result.versions:
            self.log.info("%s: %s v%03d in %s", result.outcome, version.subset, version.version, version.path)


def _problems(context: Any) -> list[Problem]:
    """Everything that failed before this plugin."""
    results = context.data.get("results", [])
    return [Problem(result["plugin"].__name__, str(result["error"])) for result in results if result["error"] is not None]


def _active(context: Any) -> tuple[Any, ...]:
    """The publish instances whose pyblish instances are there and switched on."""
    collected = [instance.data for instance in context if "publishInstance" in instance.data]
    return tuple(data["publishInstance"] for data in collected if data.get("publish") is not False)
