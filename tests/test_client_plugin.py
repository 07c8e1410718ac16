"""The pyblish plugin for hosts that cannot load the engine, in real pyblish loops of Python 3.7 to 3.9."""

from __future__ import annotations

import ast
import getpass
import os
import sys
from pathlib import Path
from typing import Any

import integrator_client_plugins
import pyblish.api
import pytest
from hosts import HOME, Host
from studio import Studio

PLUGINS = HOME / "plugins_client"

#: Plugins of a studio: a tracker high above the integrators, and a tidier after the commit, which both look around.
STUDIO = """
import os
import pyblish.api


def look(context, name):
    folder = context.data["looked_at"]
    seen = [sorted(os.listdir(folder)) if os.path.isdir(folder) else [], (context.data.get("publishResult") or {}).get("outcome")]
    context.data.setdefault("seen", {})[name] = seen


class IntegrateTracker(pyblish.api.ContextPlugin):
    order = 3.4999

    def process(self, context):
        look(context, "tracker")
        if context.data.get("expired"):
            raise RuntimeError("certificate has expired")


class IntegrateLate(pyblish.api.ContextPlugin):
    order = 3.9999

    def process(self, context):
        look(context, "late")


class CleanUp(pyblish.api.ContextPlugin):
    order = 4.0

    def process(self, context):
        look(context, "clean-up")


class Notify(pyblish.api.ContextPlugin):
    order = 3.99995
    after_commit = True

    def process(self, context):
        pass
"""


@pytest.fixture
def wish(studio: Studio, tmp_path: Path) -> dict[str, Any]:
    """Instances as OpenPype's extractors leave them."""
    folder, more = tmp_path / "staging", tmp_path / "studio_plugins"
    folder.mkdir()
    more.mkdir()
    (more / "studio.py").write_text(STUDIO)
    names = [f"b.{frame:04d}.exr" for frame in (11, 12, 13)] + ["wood.1001.tx", "wood.1002.tx", "cam.abc", "t.jpg", "p.1001.png"]
    for name in names:
        (folder / name).write_bytes(f"content of {name}".encode())
    at = str(folder)
    beauty = {
        "name": "renderMain", "asset": "sh010", "subset": "renderMain", "family": "render", "families": ["render", "review"],
        "anatomyData": {"hierarchy": "shots/sq01", "task": {"name": "light", "type": "Lighting", "short": "lgt"}},
        "frameStart": 11, "frameEnd": 13, "fps": 25.0, "stagingDir": at,
        "representations": [
            {"name": "exr", "ext": "exr", "files": names[:3], "stagingDir": at, "frameStart": 1001, "tags": ["review"]},
            {"name": "tx", "ext": "tx", "files": names[3:5], "stagingDir": at, "udim": ["1001", "1002"]},
            {"name": "png", "ext": "png", "files": ["p.1001.png"]},
            {"name": "thumbnail", "ext": "jpg", "files": "t.jpg", "tags": ["thumbnail", "delete"]},
        ],
    }  # fmt: skip
    camera = {
        "name": "cameraMain", "folderPath": "/shots/sq01/sh010", "productName": "cameraMain", "productType": "camera",
        "version": 7, "stagingDir": at,
        "representations": [{"name": "abc", "ext": "abc", "files": "cam.abc", "outputName": "left"}],
    }  # fmt: skip
    off = {**beauty, "name": "off", "subset": "off", "publish": False}
    return {
        "plugins": str(PLUGINS),
        "more_plugins": [str(more)],
        "context": {
            "publishRoot": studio.path, "publishId": "session-1", "projectName": "demo", "comment": "first pass",
            "looked_at": f"{studio.path}/demo/shots/sq01/sh010/publish/render/renderMain",
        },
        "instances": [beauty, camera, off],
    }  # fmt: skip


def test_what_openpypes_plugins_collect_is_published_in_one_transaction(
    studio: Studio, host: Host, python: str, wish: dict[str, Any]
) -> None:
    told = host.run(python, **wish)
    assert told["errors"] == []
    assert told["answer"]["outcome"] == "published"
    beauty, camera, off = told["instances"]
    start = f"{studio.path}/demo/shots/sq01/sh010/publish"
    assert (beauty["publishDir"], beauty["publishedVersion"]) == (f"{start}/render/renderMain/v001", 1)
    assert (camera["publishDir"], camera["publishedVersion"]) == (f"{start}/camera/cameraMain/v007", 7)
    assert "publishDir" not in off
    published = {entry["name"]: entry.get("published_files") for entry in beauty["representations"]}
    path = f"{start}/render/renderMain/v001/demo_sh010_renderMain_v001"
    assert published == {
        "exr": [f"{path}.{frame}.exr" for frame in (1001, 1002, 1003)],
        "tx": [f"{path}_1001.tx", f"{path}_1002.tx"],
        "png": [f"{path}.1001.png"],
        "thumbnail": None,
    }
    assert camera["representations"][0]["published_path"] == f"{start}/camera/cameraMain/v007/demo_sh010_cameraMain_v007_left.abc"
    assert Path(f"{path}.1001.exr").read_bytes() == b"content of b.0011.exr"
    assert studio.leftovers() == []
    documents = list(studio.documents().values())
    [version] = [entry for entry in documents if entry["type"] == "version" and entry["data"].get("fps") == 25.0]
    assert (version["data"]["author"], version["data"]["comment"]) == (getpass.getuser(), "first pass")
    assert (version["data"]["frameStart"], version["data"]["families"]) == (11, ["render", "review"])
    [exr] = [entry for entry in documents if entry["type"] == "representation" and entry["parent"] == version["_id"]
             and entry["name"] == "exr"]  # fmt: skip
    assert exr["context"]["task"] == {"name": "light", "type": "Lighting", "short": "lgt"}
    assert exr["data"]["tags"] == ["review"]


def test_it_is_the_last_of_all_that_can_fail(host: Host, oldest: str, wish: dict[str, Any]) -> None:
    told = host.run(oldest, **wish)
    names = [name for name, _ in told["order"] if not name.startswith("Collect")]
    assert names == ["IntegrateTracker", "IntegrateLate", "IntegrateWithClient", "Notify", "CleanUp"]
    assert told["seen"] == {"tracker": [[], None], "late": [[], None], "clean-up": [["v001"], "published"]}


def test_nothing_is_published_after_a_plugin_that_failed(studio: Studio, host: Host, oldest: str, wish: dict[str, Any]) -> None:
    before = (studio.tree(), studio.documents())
    for _ in range(3):
        told = host.run(oldest, **{**wish, "context": {**wish["context"], "expired": True}})
        assert told["errors"] == [["IntegrateTracker", "certificate has expired"]]
        assert (told["answer"]["outcome"], told["answer"]["error"]["code"]) == ("refused", "validation")
        assert "IntegrateTracker failed" in told["answer"]["error"]["message"]
    assert (studio.tree(), studio.documents(), studio.leftovers()) == (*before, [])
    assert host.run(oldest, **wish)["answer"]["versions"][0]["version"] == 1


def test_a_refusal_is_the_error_of_the_plugin(studio: Studio, host: Host, oldest: str, wish: dict[str, Any]) -> None:
    before = studio.tree()
    Path(wish["instances"][0]["stagingDir"], "b.0012.exr").unlink()
    told = host.run(oldest, **wish)
    [[name, message]] = told["errors"]
    assert name == "IntegrateWithClient"
    assert "b.0012.exr: does not exist" in message
    assert (told["answer"]["outcome"], told["answer"]["error"]["code"]) == ("refused", "validation")
    assert "publishDir" not in told["instances"][0]
    assert studio.tree() == before


def test_a_request_is_published_without_what_is_switched_off(
    studio: Studio, host: Host, oldest: str, wish: dict[str, Any]
) -> None:
    request = studio.request()
    context = {"publishRoot": studio.path, "publishRequest": request}
    told = host.run(oldest, **{**wish, "more_plugins": [], "context": context, "instances": []})
    assert [entry["version"] for entry in told["answer"]["versions"]] == [2, 2]
    instances = [
        {"name": entry["subset"], "publish": entry["subset"] != "camera", "publishInstance": entry}
        for entry in request["instances"]
    ]
    told = host.run(oldest, **{**wish, "more_plugins": [], "context": context, "instances": instances})
    assert [(entry["subset"], entry["version"]) for entry in told["answer"]["versions"]] == [("renderBeauty", 3)]
    assert told["instances"][0]["publishedVersion"] == 3
    everything_off = [{**entry, "publish": False} for entry in instances]
    told = host.run(oldest, **{**wish, "more_plugins": [], "context": context, "instances": everything_off})
    assert (told["answer"], told["errors"]) == (None, [])
    assert studio.versions("renderBeauty") == [1, 2, 3]


def test_options_and_the_stop_button_reach_the_client(studio: Studio, host: Host, oldest: str, wish: dict[str, Any]) -> None:
    dry = host.run(oldest, **{**wish, "context": {**wish["context"], "publishOptions": {"dry_run": True}}})
    assert (dry["errors"], dry["answer"]["outcome"]) == ([], "planned")
    assert studio.versions("renderMain") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transfers": [["/a", "/b"]]}, "transfers and hardlinks are not known here"),
        ({"subset": None, "family": None, "families": []}, "has no subset and no family"),
        (
            {"representations": [{"name": "tx", "ext": "tx", "files": ["wood.1001.tx"], "udim": ["1001"]}]},
            "not all the UDIM tiles",
        ),
    ],
)
def test_what_cannot_be_made_a_request_is_said(
    studio: Studio, host: Host, oldest: str, wish: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    before = studio.tree()
    told = host.run(oldest, **{**wish, "instances": [{**wish["instances"][0], **changes}]})
    [[_, message]] = told["errors"]
    assert said in message
    assert "Nothing was touched" in message
    assert studio.tree() == before


def test_discovery_again_and_again_leaves_one_filter() -> None:
    before = list(pyblish.api.registered_discovery_filters())
    try:
        for _ in range(3):
            plugins = pyblish.api.discover(paths=[str(PLUGINS)])
            assert [plugin.__name__ for plugin in plugins] == ["IntegrateWithClient"]
        assert len(pyblish.api.registered_discovery_filters()) == len(before) + 1
    finally:
        pyblish.api.registered_discovery_filters()[:] = before


def test_the_plugin_needs_pyblish_and_the_client_alone() -> None:
    tree = ast.parse((PLUGINS / "integrate_with_client.py").read_text(), feature_version=(3, 7))
    loaded = {alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    loaded |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert loaded - set(sys.stdlib_module_names) == {"pyblish", "integrator_client"}
    assert os.path.samefile(os.path.dirname(str(integrator_client_plugins.__file__)), PLUGINS)
