"""Commits, after everything that can fail."""

from integrator.plugin import IntegrateCommit, watch_loops

watch_loops()

__all__ = ["IntegrateCommit"]
