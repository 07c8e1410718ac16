"""Collects which version a publish of a few frames that were rendered again belongs to."""

from __future__ import annotations

from typing import Any

import pyblish.api

from integrator.errors import NotPublished, UsageError
from integrator.plugin import publication_of
from integrator.plugin.instances import describe, is_publishable, project_of


class CollectFramesToFix(pyblish.api.InstancePlugin):
    """An instance with ``frames_to_fix`` publishes only those frames; all others are those of the latest version.

    With ``rewrite_version`` the latest version is amended, else a new one is published. ``data["amend"]`` or
    ``data["fillFrom"]`` names it afterwards; whoever sets one of them decides.
    """

    label = "Collect frames to fix"
    order = pyblish.api.CollectorOrder + 0.495  # what the instance is was collected before it

    def process(self, instance: Any) -> None:
        """Find the version. Raises `UsageError` if there is none yet."""
        data = instance.data
        if not data.get("frames_to_fix") or not is_publishable(instance) or {"amend", "fillFrom"} & data.keys():
            return
        found = describe(instance)
        reader = publication_of(instance.context).root
        project = project_of(instance.context, [instance])
        try:
            latest = reader.latest(project, found["asset"], found["subset"], hierarchy=found["hierarchy"])
        except NotPublished as error:
            raise UsageError(f"{instance.name} has frames to fix ({data['frames_to_fix']}), and no version yet") from error
        data["amend" if data.get("rewrite_version") else "fillFrom"] = latest.version
