"""Publishes the files of every pyblish instance as a version."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.plugin import PublishTransaction, TransactionalPlugin
from integrator.plugin.instances import bring_in, has_files, is_active, is_publishable, tell


class IntegrateVersions(TransactionalPlugin):
    """Stages what a publish instance of the request wants, and the ``representations`` of the pyblish instance.

    Afterwards each representation has ``published_path`` and ``published_files``, where stock plugins look for the files that
    will be there after the commit, and the instance has ``publishDir``, ``versionEntity`` and ``published_representations``.
    """

    label = "Integrate versions"
    order = pyblish.api.IntegratorOrder

    def integrate(self, instance: Any, transaction: PublishTransaction) -> None:
        """Stage every file. Raises subclasses of `IntegratorError`."""
        if not is_active(instance) or not is_publishable(instance):
            self.log.debug("is switched off, left to a farm, or has no asset or no subset: it is not published")
            return
        if not has_files(instance):
            self.log.warning("has no representations, and is not published unless another plugin adds files")
            return
        version = transaction.version(instance)
        version.stage()
        bring_in(instance, version)
        tell(instance, version)
