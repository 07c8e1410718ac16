"""Plugins for what points to a version or goes back to one: hero, latest, early reveal, frames to fix."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyblish.api
import pyblish.util
import pytest
from loops import context_of, gui, kept, ours, register, util
from studio import Studio

from integrator.errors import IntegratorError, PluginFailed
from integrator.plugin import TransactionalPlugin

PUBLISHED = "demo/shots/sq01/sh010/publish/render/renderBeauty"


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    register()
    monkeypatch.setenv("AVALON_PROJECT", "demo")
    yield
    kept.clear()
    register()
    pyblish.api.deregister_all_paths()


@pytest.fixture
def rendered(studio: Studio, tmp_path: Path) -> Path:
    """A folder with frames that were rendered again."""
    folder = tmp_path / "again"
    folder.mkdir()
    for frame in (1003, 1004):
        (folder / f"beauty.{frame}.exr").write_bytes(b"rendered again" * frame)
    return folder


def collecting(folder: str | Path, frames: list[int], *more: dict[str, Any], **data: Any) -> Any:
    """A collector and extractor in one, as OpenPype's leave an instance: `frames` of a render in a folder, and `more`."""

    class CollectRender(pyblish.api.ContextPlugin):
        order = pyblish.api.CollectorOrder + 0.1

        def process(self, context: Any) -> None:
            files = [f"beauty.{frame}.exr" for frame in frames]
            entry = {"name": "exr", "ext": "exr", "files": files, "stagingDir": str(folder)}
            context.create_instance(
                "renderBeauty",
                asset="sh010", hierarchy="shots/sq01", subset="renderBeauty", family="render",
                representations=[entry, *more], **data,
            )  # fmt: skip

    return CollectRender


def publish(studio: Studio, *plugins: Any) -> Any:
    register(*plugins)
    context = pyblish.api.Context()
    context.data.update(publishRoot=studio.path, projectName="demo")
    pyblish.util.publish(context)
    kept.append(context)
    failed = [result["error"] for result in context.data["results"] if result["error"] is not None]
    if failed:
        raise failed[0]
    return context


def frame_of(studio: Studio, version: int, frame: int) -> bytes:
    return Path(studio.path, PUBLISHED, f"v{version:03d}", f"demo_sh010_renderBeauty_v{version:03d}.{frame}.exr").read_bytes()


# --- frames to fix ----------------------------------------------------------------------------------------------------


def test_frames_to_fix_make_a_new_version_with_all_other_frames_of_the_latest_one(studio: Studio, rendered: Path) -> None:
    publish(studio, collecting(studio.sources, list(range(1001, 1011))))
    context = publish(studio, collecting(rendered, [1003, 1004], frames_to_fix="1003-1004"))
    [version] = context.data["publishResult"]["versions"]
    assert version["version"] == 3
    assert [os.path.basename(path)[-8:-4] for path in version["representations"][0]["files"]] == [
        str(n) for n in range(1001, 1011)
    ]
    assert frame_of(studio, 3, 1003).startswith(b"rendered again")
    old, new = (Path(studio.path, PUBLISHED, f"v00{n}", f"demo_sh010_renderBeauty_v00{n}.1002.exr") for n in (2, 3))
    assert old.samefile(new)
    with studio.open() as root:
        [document] = root.documents("demo", {"type": "representation", "data.path": version["representations"][0]["files"][0]})
    assert document["context"]["frame"] == "1001"
    assert [entry["size"] for entry in document["files"]] == [os.path.getsize(p) for p in version["representations"][0]["files"]]
    assert studio.leftovers() == []


def test_a_movie_that_goes_along_with_frames_to_fix_is_published_as_it_is(studio: Studio, rendered: Path) -> None:
    movie = {"name": "mov", "ext": "mov", "files": "beauty.mov", "stagingDir": str(rendered)}
    (rendered / "beauty.mov").write_bytes(b"movie")
    publish(studio, collecting(studio.sources, list(range(1001, 1011))))
    context = publish(studio, collecting(rendered, [1003], movie, frames_to_fix="1003"))
    [version] = context.data["publishResult"]["versions"]
    assert {entry["name"]: len(entry["files"]) for entry in version["representations"]} == {"exr": 10, "mov": 1}
    assert studio.leftovers() == []


def test_or_they_go_into_the_latest_version(studio: Studio, rendered: Path) -> None:
    publish(studio, collecting(studio.sources, list(range(1001, 1011))))
    again = collecting(rendered, [1003, 1004], frames_to_fix="1003-1004", rewrite_version=True)
    [version] = publish(studio, again).data["publishResult"]["versions"]
    assert version["version"] == 2
    assert len(version["representations"][0]["files"]) == 10
    assert frame_of(studio, 2, 1004).startswith(b"rendered again")
    assert not frame_of(studio, 2, 1002).startswith(b"rendered again")
    assert studio.leftovers() == []


def test_without_a_version_there_is_nothing_to_fix(studio: Studio, rendered: Path) -> None:
    collect = collecting(rendered, [1003], frames_to_fix="1003")
    shutil.rmtree(f"{studio.path}/demo")
    with studio.open() as root:
        for document in root.documents("demo", {"type": "subset"}):
            from integrator.database import PROJECT, Delete

            root.engine.database.commit([Delete(collection=f"{PROJECT}demo", id=document["_id"], expect={})])
    with pytest.raises(IntegratorError, match="no version yet"):
        publish(studio, collect)
    assert not os.path.exists(f"{studio.path}/demo")
    with studio.open() as root:
        assert root.documents("demo", {"type": "subset"}) == []


# --- hero and latest --------------------------------------------------------------------------------------------------


def test_an_instance_asks_for_a_hero_and_for_the_link(studio: Studio) -> None:
    publish(studio, collecting(studio.sources, [1001, 1002], hero=True, latest=True))
    hero = Path(studio.path, PUBLISHED, "hero")
    assert sorted(path.name for path in hero.iterdir()) == [f"demo_sh010_renderBeauty_hero.{n}.exr" for n in (1001, 1002)]
    assert os.readlink(Path(studio.path, PUBLISHED, "latest")) == "v002"
    assert studio.leftovers() == []


def test_the_hero_has_what_later_plugins_add(studio: Studio) -> None:
    class IntegrateNotes(TransactionalPlugin):
        order = pyblish.api.IntegratorOrder + 0.4

        def integrate(self, instance: Any, transaction: Any) -> None:
            transaction.version(instance).write("notes.txt", b"by a later plugin")

    publish(studio, collecting(studio.sources, [1001], hero=True), IntegrateNotes)
    assert Path(studio.path, PUBLISHED, "hero/notes.txt").read_bytes() == b"by a later plugin"


# --- early reveal -----------------------------------------------------------------------------------------------------


class RegisterWithTracker(pyblish.api.InstancePlugin):
    """A stock plugin of a tracker: it uploads the published file, which must be there."""

    order = 3.499
    seen: ClassVar[list[bool]] = []
    failing = False

    def process(self, instance: Any) -> None:
        folder = instance.data["publishDir"]
        type(self).seen.append(os.path.isdir(folder) and bool(os.listdir(folder)))
        if self.failing:
            raise OSError("the certificate has expired")


def tracker(*, failing: bool = False) -> Any:
    return type("RegisterWithTracker", (RegisterWithTracker,), {"seen": [], "failing": failing})


@pytest.mark.parametrize("loop", [ours, util, gui])
@pytest.mark.parametrize("early", [True, False])
def test_a_plugin_of_others_finds_the_version_where_it_will_be_only_if_that_is_asked_for(
    studio: Studio, loop: Any, early: bool
) -> None:
    plugin = tracker()
    if early:
        with open(f"{studio.path}/.integrator/config.toml", "a") as config:
            config.write('reveal = "early"\n')
    loop(studio, studio.request("job"), plugin)
    assert RegisterWithTracker.seen == []
    assert _seen(plugin) == [early, early]
    assert studio.versions("renderBeauty") == [1, 2]
    assert studio.leftovers() == []


@pytest.mark.parametrize("loop", [ours, util, gui])
def test_its_failure_withdraws_the_version_that_was_revealed(studio: Studio, loop: Any) -> None:
    before = (studio.tree(), studio.documents())

    class AskForEarly(pyblish.api.InstancePlugin):
        order = pyblish.api.CollectorOrder + 0.4

        def process(self, instance: Any) -> None:
            instance.data["reveal"] = "early"

    plugin = tracker(failing=True)
    with pytest.raises((OSError, PluginFailed), match="the certificate has expired"):
        loop(studio, studio.request("job"), AskForEarly, plugin)
    assert _seen(plugin)[0] is True
    assert (studio.tree(), studio.documents()) == before
    assert studio.leftovers() == []


def _seen(plugin: Any) -> list[bool]:
    found: list[bool] = plugin.seen
    return found


def test_an_instance_that_says_late_wins_over_the_settings(studio: Studio) -> None:
    with open(f"{studio.path}/.integrator/config.toml", "a") as config:
        config.write('reveal = "early"\n')
    plugin = tracker()
    publish(studio, collecting(studio.sources, [1001], reveal="late"), plugin)
    assert _seen(plugin) == [False]
    context_of(studio, studio.request("unused"))


# --- nothing to publish -----------------------------------------------------------------------------------------------


def test_an_instance_without_representations_is_left_out_and_the_others_are_published(studio: Studio) -> None:
    class CollectLayout(pyblish.api.ContextPlugin):
        order = pyblish.api.CollectorOrder + 0.2

        def process(self, context: Any) -> None:
            deleted = {"name": "abc", "ext": "abc", "files": "x.abc", "stagingDir": "/nowhere", "tags": ["delete"]}
            for name, entries in (("layoutNone", []), ("layoutGone", [deleted])):
                context.create_instance(
                    name, asset="sh010", hierarchy="shots/sq01", subset=name, family="layout", representations=entries
                )

    context = publish(studio, collecting(studio.sources, [1001, 1002]), CollectLayout)
    versions = context.data["publishResult"]["versions"]
    assert [version["subset"] for version in versions] == ["renderBeauty"]
    assert studio.leftovers() == []
