"""Collects a publish request: one pyblish instance for each publish instance of it."""

from __future__ import annotations

import os
from typing import Any

import pyblish.api

from integrator.errors import RequestRefused, UsageError
from integrator.plugin import publication_of
from integrator.request import MOST_BYTES, PublishRequest, parse_request


class CollectPublishRequest(pyblish.api.ContextPlugin):
    """Puts a publish request and its publish instances into the context.

    Reads ``context.data["publishRequest"]`` (JSON text, a mapping, or a `PublishRequest`), else the file that the environment
    variable ``INTEGRATOR_REQUEST`` names; without either, what other plugins collected is published. The publish root is
    ``context.data["publishRoot"]``, else the one that the command line would use. Afterwards both are in ``context.data``, and
    every pyblish instance made here has its publish instance in ``data["publishInstance"]``. A request that is not valid makes
    no pyblish instance; the validator says what is wrong.
    """

    label = "Collect publish request"
    order = pyblish.api.CollectorOrder

    def process(self, context: Any) -> None:
        """Collect. Raises `UsageError` for a request that cannot be read, `NotARoot` without a publish root."""
        publication = publication_of(context)
        source = context.data.get("publishRequest")
        if source is None:
            source = _read_named_file()
        if source is None:
            return
        if publication.request is not None:  # somebody has read it already
            _create_instances(context, publication.request)
            return
        context.data.update(publishRequest=source, publishRoot=publication.root.path)
        try:
            request = parse_request(source, publication.root.policy)
        except RequestRefused:
            self.log.warning("the publish request is not valid")
            return
        publication.request = context.data["publishRequest"] = request
        _create_instances(context, request)
        publication.glance()


def _read_named_file() -> bytes | None:
    path = os.environ.get("INTEGRATOR_REQUEST")
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES + 1)  # one byte too many, so that a request that is too long is refused
    except (OSError, ValueError) as error:
        raise UsageError(f"the publish request {path} cannot be read: {error}") from error


def _create_instances(context: Any, request: PublishRequest) -> None:
    for entry in request.instances:
        context.create_instance(
            f"{entry.asset} {entry.subset}",
            family=entry.family,
            families=list(entry.families),
            asset=entry.asset,
            subset=entry.subset,
            publishInstance=entry,
        )
