"""Validates that there is room for everything."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.errors import ValidationRefused
from integrator.plugin import publication_of


class ValidateSpace(pyblish.api.ContextPlugin):
    """Refuses a publish that its file systems have too little space or too few inodes for."""

    label = "Validate free space"
    order = pyblish.api.ValidatorOrder + 0.03

    def process(self, context: Any) -> None:
        """Validate. Raises `ValidationRefused` with every problem."""
        problems = publication_of(context).problems("space")
        if problems:
            raise ValidationRefused(problems)
