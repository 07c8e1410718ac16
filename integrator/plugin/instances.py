"""Pyblish instances as studios have them: what their ``data`` says, in the words of a publish request.

Read are the keys that OpenPype's collectors and extractors fill in, and AYON's names for the same:

====================================  ==================================================================================
``asset``, ``folderPath``             name of the asset; the path of a folder is hierarchy and asset
``hierarchy``                         folders above the asset, else ``assetEntity["data"]["parents"]``
``subset``, ``productName``           name of the subset
``family``, ``productType``           family; ``families`` are the further ones
``task``, ``anatomyData["task"]``     task, by its name or as {"name", "type", "short"}
``version``                           the version number; without it the next one
``amend``                             the published version that gets some other files
``fillFrom``                          the version whose frames are taken for those that a sequence lacks
``versionData``, ``fps`` ...          stored with the version
``publish``, ``active``, ``farm``     switched off, or to be published by a farm: left out
``representations``                   what is published, each {"name", "ext", "files", "stagingDir", ...}
====================================  ==================================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from integrator.errors import Problem, RequestRefused, UsageError, ValidationRefused
from integrator.layout import NamePolicy
from integrator.request import SCHEMA, parse_request

if TYPE_CHECKING:
    from integrator.assembly import OpenVersion

#: Stored with the version if the instance has them.
_VERSION_DATA: Final = (
    "fps", "frameStart", "frameEnd", "handleStart", "handleEnd", "step", "sourceHashes", "colorspaceData", "colorspace",
)  # fmt: skip
#: Stands for representations that an extractor has yet to make.
_ANY: Final[dict[str, Any]] = {"name": "any", "files": ["/any"]}
_FAMILY_OF_PYBLISH: Final = "default"
_FRAME: Final = re.compile(r"(?P<head>.*?)(?P<frame>(?:(?<=[._])-)?[0-9]+)(?P<tail>\.[^0-9][^/]*)?$", re.DOTALL)


def is_active(instance: Any) -> bool:
    """Whether an instance is switched on, and not left to a farm."""
    data = instance.data
    return data.get("publish") is not False and data.get("active") is not False and not data.get("farm")


def is_publishable(instance: Any) -> bool:
    """Whether an instance says what it is: a publish instance of a request, or asset, subset and family."""
    data = instance.data
    if "publishInstance" in data:
        return data["publishInstance"] is not None
    return bool((data.get("asset") or data.get("folderPath")) and (data.get("subset") or data.get("productName")))


def has_files(instance: Any) -> bool:
    """Whether an instance says itself which files it publishes; other plugins may add some to any."""
    return instance.data.get("publishInstance") is not None or bool(representations(instance))


def describe(instance: Any) -> dict[str, Any]:
    """What an instance is: the arguments of `Assembly.new_version`. Raises `UsageError` if it does not say."""
    data = instance.data
    if not is_publishable(instance):
        raise UsageError(f"the pyblish instance {instance.name} cannot be published: its data has no asset, or no subset")
    family = data.get("productType") or data.get("family") or _FAMILY_OF_PYBLISH
    found: dict[str, Any] = {
        **_place(data),
        "subset": data.get("subset") or data["productName"],
        "family": family,
        "families": [entry for entry in data.get("families") or () if entry != family],
        "data": {**{key: data[key] for key in _VERSION_DATA if data.get(key) is not None}, **(data.get("versionData") or {})},
    }
    task = (data.get("anatomyData") or {}).get("task") or data.get("task")
    if task:
        found["task"] = (
            {"name": task} if isinstance(task, str) else {k: task[k] for k in ("name", "type", "short") if task.get(k)}
        )
    if data.get("amend") is not None:
        found["amend"] = int(data["amend"])
    elif data.get("version") is not None:
        found["version"] = int(data["version"])
    return found


def destination(instance: Any) -> str:
    """Hierarchy, asset and subset of an instance, as one text."""
    entry = instance.data.get("publishInstance")
    if entry is not None:
        return "/".join(part for part in (entry.hierarchy, entry.asset, entry.subset) if part)
    found = describe(instance)
    return "/".join(str(part) for part in (found["hierarchy"], found["asset"], found["subset"]) if part)


def problems_of(instance: Any, policy: NamePolicy) -> list[Problem]:
    """What is wrong with the names of an instance and its representations."""
    found = describe(instance)
    entries = [{"name": entry.get("name"), "files": ["/any"]} for entry in representations(instance)] or [_ANY]
    whole = {"schema": SCHEMA, "project": "any", "instances": [{**found, "representations": entries}]}
    try:
        parse_request(whole, policy)
    except RequestRefused as refused:
        return [Problem(where.replace("$.instances[0]", instance.name), what, "names") for where, what in refused.problems]
    return []


def _place(data: Mapping[str, Any]) -> dict[str, str]:
    path = str(data.get("folderPath") or "").strip("/")
    if path and not data.get("asset"):
        return {"asset": path.rpartition("/")[2], "hierarchy": path.rpartition("/")[0]}
    hierarchy = data.get("hierarchy")
    if hierarchy is None:
        parents = ((data.get("assetEntity") or {}).get("data") or {}).get("parents") or ()
        hierarchy = "/".join(parents)
    return {"asset": data["asset"], "hierarchy": str(hierarchy).replace("\\", "/").strip("/")}


def project_of(context: Any, instances: Iterable[Any]) -> str:
    """Name of the project that instances without a request belong to, "" if nobody says."""
    places: list[Mapping[str, Any]] = [context.data, *(instance.data for instance in instances)]
    for data in places:
        for entry in (data.get("projectName"), data.get("project"), (data.get("projectEntity") or {}).get("name")):
            if isinstance(entry, str) and entry:
                return entry
    return next((os.environ[name] for name in ("AYON_PROJECT_NAME", "AVALON_PROJECT") if os.environ.get(name)), "")


def publish_facts(context: Any) -> dict[str, str]:
    """Texts about the whole publish that a context has: author, comment, source, machine, intent."""
    data = context.data
    intent = data.get("intent")
    found = {
        "author": data.get("user"),
        "user": data.get("user"),
        "comment": data.get("comment"),
        "source": data.get("currentFile"),
        "machine": data.get("machine"),
        "intent": intent.get("value") if isinstance(intent, Mapping) else intent,
    }
    return {key: str(value) for key, value in found.items() if value}


def fingerprint(instances: Iterable[Any]) -> str:
    """Hex digest of what instances are, to tell "the same again" from "the same id for something else"."""
    named = ("asset", "hierarchy", "subset", "family")
    places = sorted([str(describe(instance)[key]) for key in named] for instance in instances)
    return hashlib.blake2b(json.dumps(places).encode(), digest_size=16).hexdigest()


def representations(instance: Any) -> list[dict[str, Any]]:
    """The entries of ``representations`` that are to be published: without those that are tagged ``delete``."""
    entries = instance.data.get("representations") or ()
    return [entry for entry in entries if "delete" not in (entry.get("tags") or ())]


def sources_of(instance: Any, entry: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of ``representations`` as the representation of a request, with absolute `files`. Raises `ValidationRefused`."""
    folder = entry.get("stagingDir") or instance.data.get("stagingDir") or ""
    files = entry.get("files")
    if not files:
        raise ValidationRefused([Problem(f"{instance.name}, representation {entry['name']}", "has no files")])
    found: dict[str, Any] = {"name": entry["name"], "data": dict(entry.get("data") or {})}
    if isinstance(files, str):
        found["files"] = [os.path.join(folder, files)]
    else:
        found.update(_several([os.path.join(folder, name) for name in files], entry))
        if entry.get("frameStart") is not None and not entry.get("udim"):
            found["start_frame"] = int(entry["frameStart"])
    if entry.get("outputName"):
        found["output"] = entry["outputName"]
    if entry.get("tags"):
        found["tags"] = list(entry["tags"])
    if entry.get("colorspaceData"):
        found["data"]["colorspaceData"] = entry["colorspaceData"]
    if entry.get("transfer"):
        found["transfer"] = entry["transfer"]
    return found


def _several(paths: Sequence[str], entry: Mapping[str, Any]) -> dict[str, Any]:
    """A list means a sequence, even if it has one frame only, or tiles."""
    match = _FRAME.match(os.path.basename(paths[0]))
    if match is None or (len(paths) > 1 and not entry.get("udim")):
        return {"files": list(paths)}
    folder, frame, tail = os.path.dirname(paths[0]), match["frame"], match["tail"] or ""
    if entry.get("udim"):
        _refuse_other_tiles(folder, match["head"], tail, {os.path.basename(path) for path in paths})
        return {"files": [os.path.join(folder, f"{match['head']}<UDIM>{tail}")]}
    return {"files": [os.path.join(folder, f"{match['head']}%0{len(frame)}d{tail}")], "frames": str(int(frame))}


def _refuse_other_tiles(folder: str, head: str, tail: str, names: set[str]) -> None:
    """A request takes all tiles of a folder: raise `ValidationRefused` if these are not the ones that are listed."""
    tile = re.compile(re.escape(head) + "[1-9][0-9]{3}" + re.escape(tail))
    found = {name for name in os.listdir(folder) if tile.fullmatch(name)} if os.path.isdir(folder) else set()
    problems = [Problem(os.path.join(folder, name), "is a UDIM tile that is not listed") for name in sorted(found - names)]
    problems += [Problem(os.path.join(folder, name), "does not exist, or is no such UDIM tile") for name in sorted(names - found)]
    if problems:
        raise ValidationRefused(problems)


def bring_in(instance: Any, version: OpenVersion) -> None:
    """Stage the ``representations`` of an instance. Raises `ValidationRefused` for those that cannot be published."""
    for entry in representations(instance):
        if not entry.get("published_files"):
            version.bring(sources_of(instance, entry))
            if instance.data.get("fillFrom") is not None and not isinstance(entry["files"], str):  # a movie is whole
                version.fill(entry["name"], int(instance.data["fillFrom"]))


def tell(instance: Any, version: OpenVersion) -> None:
    """Write into an instance what stock plugins look for there; the paths are those after the commit."""
    files = {entry.name: entry.files for entry in version.published().representations}
    for entry in representations(instance):
        entry["published_files"] = files[entry["name"]]
        entry["published_path"] = files[entry["name"]][0]
    instance.data["publishDir"] = version.final_path()
    instance.data["versionEntity"] = _native(version.document)
    instance.data["published_representations"] = {
        str(document["_id"]["$oid"]): {
            "representation": _representation(instance, document),
            "anatomy_data": document["context"],
            "published_files": files[document["name"]],
        }
        for document in version.final_representations()
    }


def _representation(instance: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    """A representation for stock plugins, which expect a list of files.

    Where a request says what is published, `files` stay packed until somebody reads them: there may be 10,000.
    """
    files = document["files"] if instance.data.get("publishInstance") is not None else _native(list(document["files"]))
    return {**_native({name: value for name, value in document.items() if name != "files"}), "files": files}


def _native(value: Any) -> Any:
    """Documents with the driver's own ids, where the driver is loaded."""
    bson = sys.modules.get("bson")
    if isinstance(value, Mapping):
        if bson is not None and set(value) == {"$oid"}:
            return bson.ObjectId(value["$oid"])
        return {key: _native(entry) for key, entry in value.items()}
    return [_native(entry) for entry in value] if isinstance(value, list) else value
