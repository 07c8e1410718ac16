"""Validates the frames of sequences."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.errors import ValidationRefused
from integrator.plugin import publication_of


class ValidateFrames(pyblish.api.ContextPlugin):
    """Refuses sequences that lack frames, and frames of what is no sequence."""

    label = "Validate frames"
    order = pyblish.api.ValidatorOrder + 0.02

    def process(self, context: Any) -> None:
        """Validate. Raises `ValidationRefused` with every problem."""
        problems = publication_of(context).problems("frames")
        if problems:
            raise ValidationRefused(problems)
