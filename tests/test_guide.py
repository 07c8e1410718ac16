"""The guide for plugin authors: its code is run as it stands there, and does what the guide says."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyblish.api
import pyblish.util
import pytest

import integrator
from integrator.database import PROJECT
from integrator.demo_media import exr
from integrator.plugin.discovery import AFTER_COMMIT

HOME = Path(__file__).parent.parent
GUIDE = (HOME / "docs/plugins.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
#: By the file that the first line names; fragments are called "".
FILES = {(re.match(r"# ([\w/. ]+\.py)\n", block) or [0, ""])[1]: block for block in BLOCKS}
PLUGINS = {name: block for name, block in FILES.items() if name and "/" not in name and not name.startswith("test_")}


@pytest.fixture(autouse=True)
def _plugins() -> Iterator[None]:
    pyblish.api.deregister_all_paths()
    pyblish.api.deregister_all_plugins()
    yield
    pyblish.api.deregister_all_paths()
    pyblish.api.deregister_all_plugins()


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the plugins of the guide ask for; the working directory."""
    for folder in ("render", "textures", "outbox", "plugins"):
        (tmp_path / folder).mkdir()
    for frame in (1001, 1002):
        (tmp_path / f"render/beauty.{frame}.exr").write_bytes(exr(8, 8, [bytes(48)] * 8))
    (tmp_path / "render/beauty.mov").write_bytes(b"movie")
    names = ["wood.tx", "scan.ply", "preview.jpg", "albedo.tx"]
    names += [f"bark.{n:04d}.tx" for n in (1, 2, 3)] + [f"leaf.{udim}.tx" for udim in (1001, 1002)]
    for name in names:
        (tmp_path / "textures" / name).write_bytes(name.encode())
    for name, block in PLUGINS.items():
        (tmp_path / "plugins" / name).write_text(block)
    review = (HOME / "examples/studio_plugins/integrate_review.py").read_text()
    (tmp_path / "plugins/integrate_review.py").write_text(review)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STUDIO_OUTBOX", str(tmp_path / "outbox"))
    with integrator.create_root(tmp_path / "show") as root, root.begin(project="demo") as assembly:
        assembly.new_version(asset="sh010", hierarchy="shots/sq01", subset="first", family="render").write("a.txt", b"x")
    return tmp_path


class CollectMore(pyblish.api.ContextPlugin):
    """The instances that the guide has plugins for, but no collector."""

    order = pyblish.api.CollectorOrder + 0.1

    def process(self, context: Any) -> None:
        shot = {"hierarchy": "shots/sq01", "asset": "sh010"}
        folder = os.path.abspath("textures")
        context.create_instance("textures", **shot, subset="texturesMain", family="textures", stagingDir=folder)
        context.create_instance("cache", **shot, subset="cacheMain", family="cache")


def publish(studio: Path, *more: Any) -> Any:
    [register] = [block for name, block in FILES.items() if not name]
    exec(register, {})
    pyblish.api.register_plugin_path(str(studio / "plugins"))
    for plugin in (CollectMore, *more):
        pyblish.api.register_plugin(plugin)
    context = pyblish.api.Context()
    context.data["publishRoot"] = str(studio / "show")
    pyblish.util.publish(context)
    return context


def version(studio: Path, family: str, subset: str) -> Path:
    return studio / "show/demo/shots/sq01/sh010/publish" / family / subset / "v001"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def documents(studio: Path, **where: Any) -> list[dict[str, Any]]:
    with integrator.open_root(studio / "show") as root:
        return list(root.engine.database.find(PROJECT + "demo", where))


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FILES if "/" in name])
def test_the_examples_are_the_files_of_the_repository(name: str) -> None:
    block = FILES[name].split("\n", 1)[1]
    text = (HOME / name.removeprefix("part of ")).read_text()
    assert block in text if name.startswith("part of ") else block == text


def test_every_block_is_known() -> None:
    assert len(FILES) == len(BLOCKS) == 14
    assert len(PLUGINS) == 9


def test_every_file_and_command_that_is_named_exists() -> None:
    from integrator.cli import COMMANDS

    files = re.findall(r"`((?:tests|examples)/[\w./]+)`", GUIDE) + re.findall(r"\]\(\.\./([\w./]+)\)", GUIDE)
    assert len(files) >= 3
    assert [path for path in files if not (HOME / path).exists()] == []
    assert set(re.findall(r"`integrator (\w+)", GUIDE)) <= set(COMMANDS)


def test_the_transactional_plugin_is_ten_lines() -> None:
    text = (HOME / "examples/studio_plugins/integrate_review.py").read_text()
    lines = [line for line in text.split('"""', 2)[2].splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("import ", "from "))]) <= 10


# --- what they do -----------------------------------------------------------------------------------------------------


def test_the_plugins_of_the_guide_publish_together(studio: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    context = publish(studio)
    assert [result["error"] for result in context.data["results"] if result["error"] is not None] == []
    assert context.data["publishResult"]["outcome"] == "published"
    assert names(version(studio, "render", "renderBeauty"))[:2] == [
        "demo_sh010_renderBeauty_v001.1001.exr",
        "demo_sh010_renderBeauty_v001.1002.exr",
    ]
    assert names(version(studio, "review", "reviewMain")) == ["demo_sh010_reviewMain_v001.mov", "notes.json"]
    assert "sheet" in caplog.text
    assert "no room on the sheet" in caplog.text
    assert caplog.text.count("published ") >= 4


def test_files_one_by_one_in_groups_and_linked(studio: Path) -> None:
    publish(studio)
    folder, prefix = version(studio, "textures", "texturesMain"), "demo_sh010_texturesMain_v001"
    assert names(folder) == sorted(
        ["colors.json", f"{prefix}.jpg", f"{prefix}.ply", f"{prefix}.tx", f"{prefix}_albedo.tx",
         *(f"{prefix}.{n:04d}.tx" for n in (1, 2, 3)), *(f"{prefix}_{udim}.tx" for udim in (1001, 1002))]
    )  # fmt: skip
    assert (folder / f"{prefix}.ply").samefile(studio / "textures/scan.ply")
    assert not (studio / "textures/preview.jpg").exists()
    assert (folder / f"{prefix}_albedo.tx").read_bytes() == b"albedo.tx"


def test_what_is_written_straight_into_the_staging_directory(studio: Path) -> None:
    publish(studio)
    folder = version(studio, "cache", "cacheMain")
    assert names(folder) == ["water.1001.vdb", "water.1002.vdb", "water.1003.vdb", "water.usda"]
    assert f"@{folder}/water.1001.vdb@" in (folder / "water.usda").read_text()
    [cache] = documents(studio, type="representation", name="vdb")
    assert len(cache["files"]) == 3


def test_documents_and_existing_files(studio: Path) -> None:
    (studio / "show/demo/edit.json").write_text("{}")
    publish(studio)
    assert [note["data"] for note in documents(studio, type="note", name="for review")] == [{"version": 1}]
    assert [note["data"] for note in documents(studio, type="note", name="reviews")] == [{"count": 1}]
    [project] = documents(studio, type="project")
    assert project["data"]["lastReview"] == 1
    edit = json.loads((studio / "show/demo/edit.json").read_text())
    assert edit == {"beauty": 1, "review": 1, "textures": 1, "cache": 1}


def test_a_message_is_sent_after_the_commit_and_once(studio: Path) -> None:
    publish(studio)
    [message] = (studio / "outbox").iterdir()
    assert message.read_text() == "v001 is ready for review"


def test_nothing_stays_if_a_plugin_fails(studio: Path) -> None:
    class Fail(pyblish.api.ContextPlugin):
        order = pyblish.api.IntegratorOrder + 0.9

        def process(self, context: Any) -> None:
            raise RuntimeError("no licence")

    (studio / "show/demo/edit.json").write_text("{}")
    before = documents(studio), tree(studio)
    context = publish(studio, Fail)
    assert context.data["publishResult"]["outcome"] == "rolled_back"
    assert (documents(studio), tree(studio)) == before
    assert names(studio / "outbox") == []


def tree(studio: Path) -> list[tuple[str, bytes]]:
    files = (path for path in sorted(studio.rglob("*")) if path.is_file() and ".integrator" not in path.parts)
    return [(str(path), path.read_bytes()) for path in files if "__pycache__" not in path.parts]


def test_the_ordinary_plugin_leaves_what_the_transactional_one_does_not(studio: Path) -> None:
    class Fail(pyblish.api.ContextPlugin):
        order = pyblish.api.IntegratorOrder + 0.9

        def process(self, context: Any) -> None:
            raise RuntimeError("no licence")

    class Collect(pyblish.api.ContextPlugin):
        order = pyblish.api.CollectorOrder

        def process(self, context: Any) -> None:
            data = {"publishDir": str(studio / "final"), "reviewMovie": "render/beauty.mov", "notes": {}}
            context.create_instance("review", family="review", **data)

    pyblish.api.register_plugin_path(str(HOME / "examples/ordinary"))
    for plugin in (Collect, Fail):
        pyblish.api.register_plugin(plugin)
    pyblish.util.publish()
    assert names(studio / "final") == ["notes.json", "review.mov"]


def test_the_command_line_runs_them_too(studio: Path) -> None:
    instance = {"asset": "sh010", "hierarchy": "shots/sq01", "subset": "model", "family": "model",
                "representations": [{"name": "tx", "files": [str(studio / "textures/wood.tx")]}]}  # fmt: skip
    request = {"schema": "integrator:publish-request-1.0", "project": "demo", "instances": [instance]}
    done = subprocess.run(
        [sys.executable, "-m", "integrator", "publish", "-", "--root", "show", "--plugin-path", "plugins", "--json"],
        input=json.dumps(request), capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HOME)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {entry["subset"] for entry in json.loads(done.stdout)["versions"]} == {"model", "renderBeauty", "reviewMain"}


def test_the_test_of_the_guide_passes(studio: Path) -> None:
    test = studio / "test_integrate_review.py"
    test.write_text(FILES["test_integrate_review.py"])
    plugins = str(HOME / "examples/studio_plugins")
    environment = {**os.environ, "PYTHONPATH": str(HOME), "STUDIO_PLUGINS": plugins, "TRACKER_URL": ""}
    alone = studio / "alone"
    alone.mkdir()
    (alone / "integrate_review.py").write_text((HOME / "examples/studio_plugins/integrate_review.py").read_text())
    environment["STUDIO_PLUGINS"] = str(alone)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)]
    done = subprocess.run(command, cwd=studio, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_orders_are_those_of_the_plugins() -> None:
    pyblish.api.register_plugin_path(str(HOME / "plugins"))
    orders = {plugin.__name__: plugin.order for plugin in pyblish.api.discover()}
    assert orders["ExtractThumbnail"] == pytest.approx(2.49)
    assert orders["IntegrateVersions"] == 3
    assert orders["IntegrateThumbnail"] == pytest.approx(3.005)
    assert orders["IntegrateReveal"] == pytest.approx(3.02)
    assert AFTER_COMMIT == 4
    assert max(order for name, order in orders.items() if name.startswith("Validate")) < 1.5
