"""Validates where files would be published."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.errors import ValidationRefused
from integrator.plugin import publication_of


class ValidateDestinations(pyblish.api.ContextPlugin):
    """Refuses destinations that would be used twice, over all instances, that lead through a link, or that are taken."""

    label = "Validate destinations"
    order = pyblish.api.ValidatorOrder + 0.04

    def process(self, context: Any) -> None:
        """Validate. Raises `ValidationRefused` with every problem, `VersionTaken` for a number that is wanted and exists."""
        publication = publication_of(context)
        problems = publication.problems("destinations")
        if problems:
            raise ValidationRefused(problems)
        publication.check_destinations()
