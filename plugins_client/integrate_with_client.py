"""Publishes what was collected by a program of its own, for hosts that cannot load `integrator`.

Needs pyblish-base, ``integrator_client.py`` where the host's Python finds it, and Python 3.7 or later.
"""

from __future__ import annotations

import os
import re
from typing import Any, Mapping

import pyblish.api

import integrator_client

#: Plugins from this order on run after the publish is decided; their failure changes nothing.
_AFTER = pyblish.api.IntegratorOrder + 1


class IntegrateWithClient(pyblish.api.ContextPlugin):
    """Publishes everything that was collected in one transaction, or nothing at all.

    Runs as the last of all plugins that can still fail: its order is set at discovery, just above every plugin that is not
    declared `after_commit` and has an order below ``IntegratorOrder + 1``. Does not begin if any plugin before it failed.

    What is published is ``context.data["publishRequest"]`` (a mapping, or JSON text), else one publish instance for each pyblish
    instance that is switched on and has

    * ``publishInstance``, a publish instance of a request, as a mapping, or
    * ``representations`` as OpenPype's plugins make them (and ``resourceFiles``, the `resources` of a request).

    Such pyblish instances also take the place of the ``instances`` of a request that is a mapping, if they have
    ``publishInstance`` or it has none. Where and how say ``publishRoot``, ``publishId`` and ``publishOptions`` (further arguments
    of `integrator_client.publish`) in ``context.data``; ``publishProgress`` (a function that gets 0 to 100) and
    ``publishCancel`` (an event, or a function that says whether to stop) are for the host's window.

    Afterwards the answer is in ``context.data["publishResult"]``, whatever happened; of what was published, pyblish instances
    have ``publishDir`` and ``publishedVersion``, OpenPype's representations ``published_path`` and ``published_files``.
    """

    label = "Integrate with the integrator program"
    order = pyblish.api.IntegratorOrder + 0.9

    def process(self, context: Any) -> None:
        """Publish. Raises `integrator_client.PublishFailed`, and `ValueError` for what cannot be made a request."""
        failures = [result for result in context.data.get("results", []) if result["error"] is not None]
        if failures:
            names = ", ".join(sorted({result["plugin"].__name__ for result in failures}))
            self.log.error("%s failed: nothing is published, nothing was touched", names)
            message = f"The publish did not begin: {names} failed. Nothing was touched."
            context.data["publishResult"] = _answer(integrator_client.PublishFailed("validation", message, outcome="refused"))
            return
        collected = [instance for instance in context if _is_wanted(instance.data)]
        request = _request(context, collected)
        if request is None:
            self.log.warning("there is nothing to publish: no pyblish instance is switched on and has representations")
            return
        try:
            answer = integrator_client.publish(request, **self._arguments(context.data))
        except integrator_client.PublishFailed as error:
            context.data["publishResult"] = _answer(error)
            raise
        context.data["publishResult"] = answer
        for version in answer["versions"]:
            self.log.info("%s: %s v%03d in %s", answer["outcome"], version["subset"], version["version"], version["path"])
        _tell(collected, answer["versions"])

    def _arguments(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "root": data.get("publishRoot"),
            "publish_id": data.get("publishId"),
            "progress": data.get("publishProgress") or (lambda percent: self.log.debug("%.0f %%", percent)),
            "message": self.log.info,
            "cancel": data.get("publishCancel"),
            **(data.get("publishOptions") or {}),
        }


# --- the last plugin --------------------------------------------------------------------------------------------------


def place_last(plugins: list[Any]) -> None:
    """Put the integrator above every plugin that can still fail, in a list that discovery found."""
    ours = [plugin for plugin in plugins if plugin.__name__ == IntegrateWithClient.__name__]
    others = [plugin for plugin in plugins if plugin not in ours and not getattr(plugin, "after_commit", False)]
    highest = max([pyblish.api.IntegratorOrder] + [plugin.order for plugin in others if plugin.order < _AFTER])
    for plugin in ours:
        plugin.order = highest + min(0.001, (_AFTER - highest) / 2)
    plugins.sort(key=lambda plugin: plugin.order)


# Every discovery runs this file again: the filter of the last run goes first.
for _filter in list(pyblish.api.registered_discovery_filters()):
    if getattr(_filter, "of_client", False):
        pyblish.api.deregister_discovery_filter(_filter)
place_last.of_client = True  # type: ignore[attr-defined]
pyblish.api.register_discovery_filter(place_last)


# --- the request ------------------------------------------------------------------------------------------------------


def _is_wanted(data: Mapping[str, Any]) -> bool:
    on = data.get("publish") is not False and data.get("active") is not False and not data.get("farm")
    return on and bool(data.get("publishInstance") or data.get("representations"))


def _request(context: Any, collected: list[Any]) -> Any:
    """The publish request; None if there is nothing to publish."""
    given = context.data.get("publishRequest")
    if isinstance(given, (str, bytes)):
        return given
    if given is not None and given.get("instances") and not any("publishInstance" in instance.data for instance in context):
        return given
    instances = [_publish_instance(instance, context.data) for instance in collected]
    if not instances:
        return None
    if given is not None:
        return dict(given, instances=instances)
    data = context.data
    texts = {"author": "user", "comment": "comment", "source": "currentFile", "machine": "machine", "intent": "intent"}
    more = {key: data[name] for key, name in texts.items() if isinstance(data.get(name), str)}
    return integrator_client.make_request(_project(data), instances, **more)


def _project(data: Mapping[str, Any]) -> str:
    named = [data.get("projectName"), data.get("project"), (data.get("projectEntity") or {}).get("name")]
    named += [os.environ.get(name) for name in ("AYON_PROJECT_NAME", "AVALON_PROJECT")]
    found = next((name for name in named if isinstance(name, str) and name), None)
    if found is None:
        raise ValueError('it is not known which project to publish to: set context.data["projectName"]. Nothing was touched')
    return found


def _publish_instance(instance: Any, context: Mapping[str, Any]) -> dict[str, Any]:
    """The publish instance that a pyblish instance stands for. Raises `ValueError`."""
    data = instance.data
    if data.get("publishInstance"):
        return dict(data["publishInstance"])
    if data.get("transfers") or data.get("hardlinks"):
        raise ValueError(f"{instance.name}: transfers and hardlinks are not known here; use resourceFiles. Nothing was touched")
    anatomy = data.get("anatomyData") or {}
    folder, _, asset = str(data.get("folderPath") or "").strip("/").rpartition("/")
    families = [data.get("productType"), data.get("family"), *(data.get("families") or [])]
    family = next((name for name in families if name and name != "default"), "")  # pyblish itself gives "default"
    wanted = [entry for entry in data.get("representations") or [] if "delete" not in (entry.get("tags") or [])]
    version = data.get("version")
    entry = integrator_client.make_instance(
        asset or data.get("asset") or "",
        data.get("subset") or data.get("productName") or "",
        family,
        [_representation(instance, found) for found in wanted],
        hierarchy=folder or anatomy.get("hierarchy") or data.get("hierarchy") or _parents(data) or None,
        families=[name for name in data.get("families") or [] if name != family],
        task=_task(data.get("task"), anatomy.get("task")),
        version=int(version) if version is not None else None,
        resources=data.get("resourceFiles"),
        data=_version_data(data, context),
    )
    missing = [key for key in ("asset", "subset", "family") if not entry.get(key)]
    if missing:
        raise ValueError(f"{instance.name} has no {' and no '.join(missing)}. Nothing was touched")
    return entry


def _parents(data: Mapping[str, Any]) -> str:
    entity = data.get("assetEntity") or {}
    return "/".join((entity.get("data") or {}).get("parents") or [])


def _task(name: Any, known: Any) -> Any:
    if isinstance(known, Mapping) and known.get("name"):
        return {key: known[key] for key in ("name", "type", "short") if known.get(key)}
    return {"name": name} if isinstance(name, str) and name else None


def _version_data(data: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored with the version, as OpenPype does."""
    stored = {"fps": context["fps"]} if context.get("fps") is not None else {}
    names = ("fps", "frameStart", "frameEnd", "handleStart", "handleEnd", "step", "colorspaceData")
    stored.update({name: data[name] for name in names if data.get(name) is not None})
    stored.update(data.get("versionData") or {})
    return stored


def _representation(instance: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """A representation of a request for one of OpenPype. Raises `ValueError`."""
    names = given["files"]
    folder = given.get("stagingDir") or instance.data.get("stagingDir") or ""
    if given.get("udim") and not isinstance(names, str):
        files = [_tiles(instance, folder, names)]
    else:
        files = [os.path.join(folder, name) for name in ([names] if isinstance(names, str) else names)]
    is_sequence = not isinstance(names, str) and not given.get("udim")
    start = given.get("frameStart") if is_sequence else None
    frames = None
    if is_sequence and len(names) == 1:  # one frame is a sequence if it says which frame it is
        # As the program reads names: a hyphen is a sign unless it follows a letter, a digit or a bracket.
        last = re.findall(r"(?<![A-Za-z0-9)\]])-[0-9]+|[0-9]+", os.path.splitext(names[0])[0])
        frames = str(int(last[-1])) if last else None
    return integrator_client.make_representation(
        given["name"],
        files,
        frames=frames,
        start_frame=int(start) if start is not None and (frames or len(names) > 1) else None,
        output=given.get("outputName") or None,
        tags=[tag for tag in given.get("tags") or [] if isinstance(tag, str)],
        data=given.get("data"),
    )


def _tiles(instance: Any, folder: str, names: list[str]) -> str:
    """The pattern of UDIM tiles, which must be all of the folder's: a request has no list of them. Raises `ValueError`."""
    pattern = re.sub(r"(?<!\d)[1-9]\d{3}(?=\D*$)", "<UDIM>", names[0])
    head, _, tail = pattern.partition("<UDIM>")
    same = re.compile(re.escape(head) + r"[1-9]\d{3}" + re.escape(tail))
    others = [name for name in os.listdir(folder) if same.fullmatch(name) and name not in names]
    if not tail or others or not all(map(same.fullmatch, names)):
        raise ValueError(
            f"{instance.name}: {names[0]} and the others are not all the UDIM tiles in {folder}. Nothing was touched"
        )
    return os.path.join(folder, pattern)


# --- the answer -------------------------------------------------------------------------------------------------------


def _answer(error: Any) -> dict[str, Any]:
    """The answer of a publish that failed."""
    if error.answer is not None:
        return error.answer  # type: ignore[no-any-return]
    said = {"code": error.code, "message": error.message, "next": error.next}
    return {"transaction": error.transaction or None, "outcome": error.outcome, "error": said, "versions": []}


def _tell(collected: list[Any], versions: list[dict[str, Any]]) -> None:
    """Tell the pyblish instances where they are published; the answer has them in the order of the request."""
    if len(collected) != len(versions):
        return  # a request that was given as a whole
    for instance, version in zip(collected, versions):
        instance.data.update(publishDir=version["path"], publishedVersion=version["version"])
        files = {entry["name"]: entry["files"] for entry in version["representations"]}
        for entry in instance.data.get("representations") or []:
            if entry["name"] in files:
                entry.update(published_path=files[entry["name"]][0], published_files=files[entry["name"]])
