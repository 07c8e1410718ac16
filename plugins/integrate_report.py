"""Writes a report of the publish, after the commit."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.plugin import publication_of, write_report


class IntegrateReport(pyblish.api.ContextPlugin):
    """Writes a page and a JSON document into the folder ``context.data["publishReport"]``; without one it does nothing.

    It tells of publishes that failed, too, unless a validator refused them: then pyblish runs nothing any more, and this neither.
    `integrator publish` writes its own, with ``--report``.
    """

    label = "Report"
    order = pyblish.api.IntegratorOrder + 1.4

    def process(self, context: Any) -> None:
        """Write. What goes wrong changes nothing that is published."""
        folder = context.data.get("publishReport")
        if folder:
            self.log.info("report: %s", write_report(publication_of(context), folder))
