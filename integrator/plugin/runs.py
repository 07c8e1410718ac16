"""What plugins did, for the report of a publish."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from integrator.errors import UsageError, text_of
from integrator.plugin.publication import Publication
from integrator.report import PluginRun
from integrator.report.contents import Circumstances, gather
from integrator.report.files import write
from integrator.root import find_root, open_root
from integrator.wording import logged


def run_of(result: Mapping[str, Any]) -> PluginRun:
    """One result of pyblish; it ended just now."""
    plugin, instance, error = result["plugin"], result["instance"], result["error"]
    took = float(result["duration"] or 0.0) / 1000
    return PluginRun(
        name=plugin.__name__,
        label=str(plugin.label or plugin.__name__),
        order=float(plugin.order),
        instance=instance.name if instance is not None else "",
        started=time.time() - took,
        seconds=took,
        records=tuple((record.levelname, logged(record)) for record in result["records"]),
        error="" if error is None else f"{type(error).__name__}: {text_of(error)}",
    )


def write_report(publication: Publication, folder: str) -> str:
    """Write the report of a publish that has ended into this folder; returns the path of the page.

    Raises `UsageError` if it has not ended, `OSError`.
    """
    result = publication.outcome
    if result is None:
        raise UsageError("nothing was published and nothing failed, so there is nothing to report")
    context = publication.context
    runs = tuple(run_of(entry) for entry in context.data.get("results", ()))
    code = 0 if result.error is None else result.error.exit_code
    with open_root(context.data.get("publishRoot") or find_root(), application="pyblish") as root:
        run = Circumstances(
            exit_code=code,
            started=publication.started,
            ended=time.time(),
            publish_id=str(context.data.get("publishId") or ""),
            request=publication.request,
            plugins=runs,
        )
        return write(gather(root, result, run), folder, root.engine.storage).page
