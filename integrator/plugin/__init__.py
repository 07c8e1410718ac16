"""For plugin authors: base classes whose plugins publish together, in one transaction for each pyblish context.

::

    from integrator.plugin import TransactionalPlugin

    class IntegrateTurntable(TransactionalPlugin):
        order = pyblish.api.IntegratorOrder + 0.1
        families = ["model"]

        def integrate(self, instance, transaction):
            version = transaction.version(instance)
            version.copy(instance.data["turntable"], "mov")

Nobody begins or commits: the transaction is opened when it is first written to, and committed after the last plugin that can
still fail. This package and the top-level `plugins` are the only places that know pyblish.
"""

from __future__ import annotations

from integrator.engine import Effect
from integrator.plugin.bases import IntegrateCommit, TransactionalContextPlugin, TransactionalPlugin
from integrator.plugin.discovery import arrange, watch_loops
from integrator.plugin.publication import Publication, publication_of
from integrator.plugin.transaction import PublishTransaction

__all__ = [
    "Effect",
    "IntegrateCommit",
    "Publication",
    "PublishTransaction",
    "TransactionalContextPlugin",
    "TransactionalPlugin",
    "arrange",
    "publication_of",
    "watch_loops",
    "write_report",
]


def write_report(publication: Publication, folder: str) -> str:
    """Write the report of a publish that has ended into this folder; returns the path of the page."""
    from integrator.plugin.runs import write_report as write  # half of the engine, for those who want one

    return write(publication, folder)


watch_loops()
