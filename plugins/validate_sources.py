"""Validates that every source is there and can be brought in."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.errors import ValidationRefused
from integrator.plugin import publication_of


class ValidateSources(pyblish.api.ContextPlugin):
    """Refuses sources that are missing, empty, no files, not readable, or cannot be linked as they should."""

    label = "Validate sources"
    order = pyblish.api.ValidatorOrder + 0.01

    def process(self, context: Any) -> None:
        """Validate. Raises `ValidationRefused` with every problem."""
        problems = publication_of(context).problems("sources")
        if problems:
            raise ValidationRefused(problems)
