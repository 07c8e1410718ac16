"""Validates a publish request before anything is written."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.plugin import publication_of
from integrator.request import parse_request


class ValidatePublishRequest(pyblish.api.ContextPlugin):
    """Refuses a publish that cannot succeed; its error lists every problem at once. Writes nothing."""

    label = "Validate publish request"
    order = pyblish.api.ValidatorOrder

    def process(self, context: Any) -> None:
        """Validate. Raises `RequestRefused`, `ValidationRefused` and others of `integrator.errors`."""
        publication = publication_of(context)
        if publication.request is None and context.data.get("publishRequest") is not None:
            parse_request(context.data["publishRequest"], publication.root.policy)
        if publication.result is None and publication.active():
            publication.look()
