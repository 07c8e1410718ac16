"""Validates that nobody else is publishing the same."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.plugin import publication_of


class ValidateSoftLocks(pyblish.api.ContextPlugin):
    """Refuses a publish whose soft locks somebody holds, unless they are waited for. Takes none of them."""

    label = "Validate soft locks"
    order = pyblish.api.ValidatorOrder + 0.05

    def process(self, context: Any) -> None:
        """Validate. Raises `Busy`, which says who holds the first one."""
        waited = publication_of(context).check_soft_locks()
        if waited:
            self.log.info("it will be waited for: %s", waited)
