"""Validates the publish request and every name in it."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.errors import ValidationRefused
from integrator.plugin import publication_of


class ValidateNames(pyblish.api.ContextPlugin):
    """Refuses a request that is not valid, names that may not reach a path, and assets that are not known.

    Comes first: it looks at everything once, sources and free space included, and the other validators report what was found.
    What an earlier run with the same publish id left is settled here; if that is published, there is nothing left to do.
    """

    label = "Validate names"
    order = pyblish.api.ValidatorOrder

    def process(self, context: Any) -> None:
        """Validate. Raises `RequestRefused`, `ValidationRefused`, `DifferentContent`, `Busy`, `BudgetUsedUp`, `Unsettled`."""
        publication = publication_of(context)
        publication.survey()
        problems = publication.problems("names")
        if problems:
            raise ValidationRefused(problems)
