"""Collects a publish request: one pyblish instance for each publish instance of it."""

from __future__ import annotations

import os
from typing import Any

import pyblish.api

from integrator.errors import RequestRefused, UsageError
from integrator.request import MOST_BYTES, PublishRequest, parse_request
from integrator.root import find_root, open_root


class CollectPublishRequest(pyblish.api.ContextPlugin):
    """Puts a publish request and its publish instances into the context.

    Reads ``context.data["publishRequest"]`` (JSON text, a mapping, or a `PublishRequest`), else the file that the environment
    variable ``INTEGRATOR_REQUEST`` names. The publish root is ``context.data["publishRoot"]``, else the one that the command
    line would use. Afterwards both are in ``context.data``, and every pyblish instance made here has its publish instance in
    ``data["publishInstance"]``. A request that is not valid makes no pyblish instance; the validator says what is wrong.
    """

    label = "Collect publish request"
    order = pyblish.api.CollectorOrder

    def process(self, context: Any) -> None:
        """Collect. Raises `UsageError` without a request, `NotARoot` without a publish root."""
        source = context.data.get("publishRequest")
        if source is None:
            source = _read_named_file()
        path = os.path.abspath(context.data.get("publishRoot") or find_root())
        context.data.update(publishRequest=source, publishRoot=path)
        with open_root(path, application="pyblish") as root:
            try:
                request = parse_request(source, root.policy)
            except RequestRefused:
                self.log.warning("the publish request is not valid")
                return
        context.data["publishRequest"] = request
        _create_instances(context, request)


def _read_named_file() -> bytes:
    path = os.environ.get("INTEGRATOR_REQUEST")
    if not path:
        raise UsageError('there is no publish request: set INTEGRATOR_REQUEST to its path, or context.data["publishRequest"]')
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
