"""Plugins on the bases of `integrator.plugin`: what they can do, how they end, and who commits."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyblish.api
import pyblish.util
import pytest
from loops import Gui, context_of, kept, register, three_instances
from pymongo import DeleteMany, DeleteOne, InsertOne, ReplaceOne, UpdateMany, UpdateOne
from studio import Studio

from integrator.database import LEASES, TRANSACTIONS
from integrator.errors import DifferentContent, UsageError
from integrator.plugin import (
    Effect,
    IntegrateCommit,
    TransactionalContextPlugin,
    TransactionalPlugin,
    arrange,
    publication_of,
)

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    register()
    monkeypatch.setenv("AVALON_PROJECT", "demo")
    yield
    kept.clear()
    register()
    pyblish.api.deregister_all_paths()


def state(studio: Studio) -> tuple[object, object, object]:
    return studio.tree(), studio.documents(), studio.leftovers()


def errors(context: Any) -> list[Exception]:
    return [result["error"] for result in context.data["results"] if result["error"] is not None]


def published(studio: Studio, *plugins: Any, request: Any = None) -> Any:
    """The context of a publish with these plugins; it must succeed."""
    register(*plugins)
    context = context_of(studio, request or studio.request("job"))
    pyblish.util.publish(context)
    assert errors(context) == []
    assert context.data["publishResult"]["outcome"] == "published"
    assert studio.leftovers() == []
    return context


def stop_after(context: Any, name: str) -> Any:
    """A loop that is suspended behind a plugin."""
    loop = pyblish.util.publish_iter(context)
    for result in loop:
        if result["plugin"].__name__ == name:
            return loop
    raise AssertionError(f"{name} was not run")


# --- what plugins can do ----------------------------------------------------------------------------------------------


def test_the_transaction_is_opened_by_the_first_write_and_there_is_one(studio: Studio) -> None:
    seen: list[Any] = []

    class Look(TransactionalPlugin):
        order = 1.6

        def integrate(self, instance: Any, transaction: Any) -> None:
            with studio.open() as root:
                seen.append(len(root.engine.database.find(TRANSACTIONS)))

    class Write(TransactionalPlugin):
        order = 2.0

        def integrate(self, instance: Any, transaction: Any) -> None:
            seen.append((transaction, transaction.id, transaction.publish_id))

    published(studio, Look, Write)
    assert seen[:2] == [1, 1]  # the one that made the history
    assert len({entry[1:] for entry in seen[2:]}) == 1
    assert seen[2][2] == "job"
    assert seen[2][0] is seen[3][0]


def test_files_come_in_one_by_one_in_groups_and_straight_into_the_staging_directory(studio: Studio) -> None:
    class Extract(TransactionalPlugin):
        order = 2.0
        families = ["camera"]  # noqa: RUF012 - as pyblish wants it

        def integrate(self, instance: Any, transaction: Any) -> None:
            version = transaction.version(instance)
            for frame in (-1, 0, 1):
                Path(version.path, f"play.{frame:04d}.jpg").write_bytes(b"picture")
            version.adopt([f"play.{frame:04d}.jpg" for frame in (1, -1, 0)], "jpg")
            Path(version.path, "both.obj").write_bytes(b"shape")
            Path(version.path, "both.mtl").write_bytes(b"colour")
            version.adopt(["both.obj", "both.mtl"])
            version.hardlink(f"{studio.sources}/cam.abc", "linked", output="linked")
            assert version.final_path("play.0000.jpg").endswith("/v002/play.0000.jpg")

    context = published(studio, Extract)
    [camera] = [version for version in context.data["publishResult"]["versions"] if version["subset"] == "camera"]
    names = {entry["name"]: [os.path.basename(path) for path in entry["files"]] for entry in camera["representations"]}
    assert names["jpg"] == ["play.-001.jpg", "play.0000.jpg", "play.0001.jpg"]
    assert names["obj"] == ["both.obj", "both.mtl"]
    assert all(os.path.isfile(path) for entry in camera["representations"] for path in entry["files"])
    [document] = [found for found in studio.documents().values() if found["type"] == "representation" and found["name"] == "jpg"]
    assert document["context"]["frame"] == "-001"


def test_documents_files_and_effects_are_part_of_it(studio: Studio) -> None:
    made: list[Any] = []

    class Whole(TransactionalContextPlugin):
        order = 3.2
        effects = {"mail.send": Effect(call=lambda arguments, key: made.append((dict(arguments), key)))}  # noqa: RUF012

        def integrate(self, context: Any, transaction: Any) -> None:
            transaction.insert("demo", {"type": "note", "name": "first"})
            transaction.update("demo", {"type": "project"}, {"data.published": True})
            transaction.replace_file(f"{studio.path}/demo/edit.json", b"{}")
            transaction.effect("mail.send", {"to": "anna"})
            assert made == []

    published(studio, Whole)
    assert Path(studio.path, "demo/edit.json").read_bytes() == b"{}"
    documents = studio.documents().values()
    assert [found["name"] for found in documents if found["type"] == "note"] == ["first"]
    assert [found["data"]["published"] for found in documents if found["type"] == "project"] == [True]
    assert [arguments for arguments, _ in made] == [{"to": "anna"}]


def test_operations_of_pymongo_are_carried_out_in_their_order(studio: Studio) -> None:
    class Bulk(TransactionalContextPlugin):
        order = 3.2

        def integrate(self, context: Any, transaction: Any) -> None:
            transaction.apply(
                "demo", [InsertOne({"type": "note", "name": "a", "count": 1}), InsertOne({"type": "note", "name": "b"})]
            )
            operations = [
                UpdateOne({"type": "note", "name": "a"}, {"$inc": {"count": 2}, "$set": {"data.text": "x"}}),
                UpdateOne({"type": "note", "name": "a"}, {"$inc": {"count": 4}, "$push": {"tags": "one"}}),
                UpdateOne(
                    {"name": {"$in": ["a"]}}, {"$addToSet": {"tags": {"$each": ["one", "two"]}}, "$unset": {"data.text": ""}}
                ),
                ReplaceOne({"name": "b"}, {"type": "note", "name": "c"}),
                UpdateOne({"name": "new"}, {"$setOnInsert": {"type": "note"}, "$set": {"level": 1}}, upsert=True),
                UpdateOne({"name": "nobody"}, {"$set": {"level": 1}}),
                DeleteOne({"name": "nobody"}),
                UpdateOne({"type": "project"}, {"$set": {"data.seen": 1}}),
                UpdateOne({"type": "project"}, {"$inc": {"data.seen": 1}}),
                DeleteOne({"name": "c"}),
            ]
            transaction.apply("demo", operations)

    published(studio, Bulk)
    notes = {found["name"]: found for found in studio.documents().values() if found["type"] == "note"}
    assert set(notes) == {"a", "new"}
    assert {key: value for key, value in notes["a"].items() if key != "_id"} == {
        "type": "note", "name": "a", "count": 7, "tags": ["one", "two"], "data": {}
    }  # fmt: skip
    assert notes["new"]["level"] == 1
    assert [found["data"]["seen"] for found in studio.documents().values() if found["type"] == "project"] == [2]


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (UpdateMany({}, {"$set": {"a": 1}}), "UpdateMany"),
        (DeleteMany({}), "DeleteMany"),
        (UpdateOne({"type": "project"}, {"$rename": {"a": "b"}}), "$rename"),
        (UpdateOne({"type": "project"}, [{"$set": {"a": 1}}]), "pipeline"),
        (UpdateOne({"type": "project"}, {"$inc": {"name": 1}}), "is no number"),
        (UpdateOne({"type": "project"}, {"$push": {"name": 1}}), "is no array"),
        (UpdateOne({"$or": [{"type": "project"}]}, {"$set": {"a": 1}}), "$or"),
        (UpdateOne({"frame": {"$gt": 1}}, {"$set": {"a": 1}}), "$gt"),
        (UpdateOne({"type": "project"}, {"$set": {"a.$[x]": 1}}, array_filters=[{"x": 1}]), "array_filters"),
        ({"insertOne": {}}, "dict"),
    ],
)
def test_operations_that_cannot_be_undone_or_compared_are_refused(operation: Any, said: str, studio: Studio) -> None:
    class Bulk(TransactionalContextPlugin):
        order = 3.2

        def integrate(self, context: Any, transaction: Any) -> None:
            transaction.apply("demo", [operation])

    before = state(studio)
    register(Bulk)
    context = context_of(studio, studio.request("job"))
    pyblish.util.publish(context)
    [error] = errors(context)
    assert isinstance(error, UsageError)
    assert said in str(error)
    assert state(studio) == before


# --- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1.6, 2.0, 3.2])
@pytest.mark.parametrize("base", [TransactionalPlugin, TransactionalContextPlugin])
@pytest.mark.parametrize("caught", [False, True])
def test_a_best_effort_plugin_that_fails_leaves_nothing_and_hinders_nothing(
    studio: Studio, order: float, base: Any, caught: bool
) -> None:
    undone: list[str] = []

    class Maybe(base):  # type: ignore[misc]
        policy = "best_effort"
        effects = {"tracker.create": Effect(call=lambda arguments, key: key, compensate=lambda a, k, r: undone.append(k))}  # noqa: RUF012

        def integrate(self, subject: Any, transaction: Any) -> None:
            for instance in [subject] if base is TransactionalPlugin else subject:
                transaction.version(instance).write("half.txt", b"half", "half")
            transaction.insert("demo", {"type": "note", "name": "half"})
            transaction.effect("tracker.create", {})
            try:
                transaction.version(subject if base is TransactionalPlugin else subject[0]).copy("/nowhere/at.all")
            except Exception:
                if not caught:
                    raise

    Maybe.order = order
    context = published(studio, Maybe)
    assert [version["version"] for version in context.data["publishResult"]["versions"]] == [2, 2]
    assert not list(Path(studio.path).rglob("half.txt"))
    assert not [found for found in studio.documents().values() if found.get("name") == "half"]
    assert undone
    said = [record.getMessage() for result in context.data["results"] for record in result["records"]]
    assert any("Maybe failed, and is left out" in message for message in said)


def test_an_interrupt_in_a_best_effort_plugin_ends_the_publish(studio: Studio) -> None:
    class Maybe(TransactionalPlugin):
        order = 3.2
        policy = "best_effort"

        def integrate(self, instance: Any, transaction: Any) -> None:
            raise KeyboardInterrupt

    before = state(studio)
    register(Maybe)
    context = context_of(studio, studio.request("job"))
    with pytest.raises(KeyboardInterrupt):
        pyblish.util.publish(context)
    assert state(studio) == before


def test_a_step_that_failed_dooms_the_publish_even_if_a_required_plugin_hides_it(studio: Studio) -> None:
    class Hide(TransactionalPlugin):
        order = 3.2

        def integrate(self, instance: Any, transaction: Any) -> None:
            try:
                transaction.version(instance).copy("/nowhere/at.all")
            except Exception as error:
                self.log.debug("hidden: %s", error)

    before = state(studio)
    register(Hide)
    context = context_of(studio, studio.request("job"))
    pyblish.util.publish(context)
    [error] = errors(context)
    assert "a step of this publish failed" in str(error)
    assert context.data["publishResult"]["outcome"] == "rolled_back"
    assert state(studio) == before


def test_a_policy_that_does_not_exist_is_named(studio: Studio) -> None:
    class Wrong(TransactionalPlugin):
        policy = "whatever"

        def integrate(self, instance: Any, transaction: Any) -> None:
            pass

    register(Wrong)
    context = context_of(studio, studio.request("job"))
    pyblish.util.publish(context)
    assert "Wrong.policy is 'whatever'" in str(errors(context)[0])


def test_nothing_is_written_before_everything_was_validated(studio: Studio) -> None:
    class Early(TransactionalPlugin):
        order = 0.4

        def integrate(self, instance: Any, transaction: Any) -> None:
            transaction.version(instance)

    before = state(studio)
    register(Early)
    context = context_of(studio, studio.request("job"))
    pyblish.util.publish(context)
    assert "Early has the order 0.4" in str(errors(context)[0])
    assert state(studio) == before


# --- discovery and order ----------------------------------------------------------------------------------------------


def test_a_base_that_a_plugin_module_imports_is_not_run(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "studio_plugin.py").write_text("from integrator.plugin import TransactionalContextPlugin, TransactionalPlugin\n")
    pyblish.api.register_plugin_path(str(tmp_path))
    names = [plugin.__name__ for plugin in pyblish.api.discover()]
    assert not {"TransactionalPlugin", "TransactionalContextPlugin"} & set(names)
    assert names.count("IntegrateCommit") == 1


def test_a_base_that_is_run_all_the_same_does_nothing(studio: Studio) -> None:
    context = context_of(studio, studio.request("job"))
    instance = context.create_instance("x", family="y")
    TransactionalPlugin().process(instance)
    TransactionalContextPlugin().process(context)
    assert "publishResult" not in context.data


def test_a_plugin_of_the_transaction_without_our_folder_is_committed_all_the_same(studio: Studio) -> None:
    class Only(TransactionalContextPlugin):
        def integrate(self, context: Any, transaction: Any) -> None:
            transaction.insert("demo", {"type": "note", "name": "only"})

    register(Only)
    pyblish.api.deregister_all_paths()
    context = pyblish.api.Context()
    context.data["publishRoot"] = studio.path
    context.create_instance("x", asset="sh010", subset="any", family="model", representations=[])
    pyblish.util.publish(context)
    assert errors(context) == []
    assert [found for found in studio.documents().values() if found.get("name") == "only"]


@pytest.mark.parametrize("highest", [3.4999, 3.5, 3.9, 3.9999])
def test_the_commit_comes_just_above_everything_that_can_fail(highest: float) -> None:
    class Last(pyblish.api.ContextPlugin):
        order = highest

    class Clean(pyblish.api.ContextPlugin):
        order = 4.0

    class Never(pyblish.api.ContextPlugin):
        order = 9
        after_commit = False

    class Said(pyblish.api.ContextPlugin):
        order = 3.1
        after_commit = True

    register(Last, Clean, Said)
    plugins = pyblish.api.discover()
    names = [plugin.__name__ for plugin in plugins]
    assert names[names.index("IntegrateCommit") - 1] == "Last"
    assert set(names[names.index("IntegrateCommit") + 1 :]) == {"Said", "Clean", "IntegrateReport"}
    assert [plugin.order for plugin in plugins] == sorted(plugin.order for plugin in plugins)
    register(Last, Clean, Never)
    names = [plugin.__name__ for plugin in pyblish.api.discover()]
    assert names[-4:] == ["Never", "IntegrateCommit", "Clean", "IntegrateReport"]


def test_plugins_without_any_of_ours_are_left_as_they_are() -> None:
    class Other(pyblish.api.ContextPlugin):
        order = 9

    plugins: list[Any] = [Other]
    arrange(plugins, ())
    assert plugins == [Other]


def test_plugins_of_others_keep_their_arguments(studio: Studio) -> None:
    """Pyblish gives old plugins what their arguments are called."""
    seen: list[Any] = []

    class Old(pyblish.api.Integrator):
        def process(self, context: Any, plugin: Any) -> None:
            seen.append((type(context).__name__, plugin.__name__))

    published(studio, Old)
    assert seen == [("Context", "Old")]


# --- instances as studios have them -----------------------------------------------------------------------------------


def shaped(studio: Studio, publish_id: str | None = None, **more: Any) -> Any:
    """A context with a pyblish instance as OpenPype's collectors make it, and no request."""
    context = pyblish.api.Context()
    context.data.update(publishRoot=studio.path, projectName="demo", user="anna", comment="first pass", intent={"value": "wip"})
    if publish_id:
        context.data["publishId"] = publish_id
    facts: dict[str, Any] = {
        "asset": "sh010", "hierarchy": "shots/sq01", "subset": "renderMain", "family": "render", "families": ["review"],
        "task": "lighting", "fps": 24, "frameStart": 1001, "frameEnd": 1010,
        "representations": [
            {"name": "exr", "ext": "exr", "files": [f"beauty.{frame}.exr" for frame in range(1001, 1011)],
             "stagingDir": studio.sources, "frameStart": 1, "tags": ["review"], "data": {"colorspace": "ACEScg"}},
            {"name": "abc", "ext": "abc", "files": "cam.abc", "stagingDir": studio.sources},
            {"name": "gone", "ext": "abc", "files": "gone.abc", "stagingDir": studio.sources, "tags": ["delete"]},
        ], **more,
    }  # fmt: skip
    context.create_instance("renderMain", **facts)
    return context


def test_an_instance_without_a_request_is_published_from_what_it_says(studio: Studio) -> None:
    seen: list[Any] = []

    class Tracker(pyblish.api.InstancePlugin):
        order = 3.2

        def process(self, instance: Any) -> None:
            entries = [entry for entry in instance.data["representations"] if "delete" not in entry.get("tags", [])]
            seen.extend(entries)
            seen.append((instance.data["publishDir"], instance.data["versionEntity"], instance.data["published_representations"]))

    register(Tracker)
    context = shaped(studio)
    pyblish.util.publish(context)
    assert errors(context) == []
    [version] = context.data["publishResult"]["versions"]
    exr, abc, (folder, entity, entries) = seen
    assert (version["asset"], version["subset"], version["version"], version["path"]) == ("sh010", "renderMain", 1, folder)
    assert folder.endswith("shots/sq01/sh010/publish/render/renderMain/v001")
    assert [os.path.basename(path) for path in exr["published_files"]] == [
        f"demo_sh010_renderMain_v001.{frame:04d}.exr" for frame in range(1, 11)
    ]
    assert exr["published_path"] == exr["published_files"][0]
    assert all(os.path.isfile(path) for path in [*exr["published_files"], abc["published_path"]])
    assert (entity["name"], entity["type"], str(entity["_id"])) in [
        (found["name"], found["type"], found["_id"]["$oid"]) for found in studio.documents().values()
    ]
    assert {entry["representation"]["name"] for entry in entries.values()} == {"exr", "abc"}
    stored = next(found for found in studio.documents().values() if found["_id"]["$oid"] == str(entity["_id"]))
    data = stored["data"]
    assert (data["fps"], data["frameStart"], data["author"], data["comment"], data["intent"]) == (
        24,
        1001,
        "anna",
        "first pass",
        "wip",
    )
    assert data["families"] == ["render", "review"]
    assert studio.leftovers() == []


def test_a_list_is_a_sequence_even_with_one_frame_and_tiles_are_tiles(studio: Studio) -> None:
    for name in ("one.0000.exr", "neg.-005.exr", "wood.1001.tx", "wood.1012.tx", "v2_shot010.1001.exr"):
        Path(studio.sources, name).write_bytes(b"pixels")
    entries = [
        {"name": "zero", "ext": "exr", "files": ["one.0000.exr"], "outputName": "zero"},
        {"name": "neg", "ext": "exr", "files": ["neg.-005.exr"], "outputName": "neg"},
        {"name": "tx", "ext": "tx", "files": ["wood.1001.tx", "wood.1012.tx"], "udim": ["1001", "1012"]},
        {"name": "digits", "ext": "exr", "files": ["v2_shot010.1001.exr"], "outputName": "digits"},
    ]
    register()
    context = shaped(studio, representations=entries, stagingDir=studio.sources)
    pyblish.util.publish(context)
    assert errors(context) == []
    [version] = context.data["publishResult"]["versions"]
    names = {entry["name"]: [os.path.basename(path) for path in entry["files"]] for entry in version["representations"]}
    assert names == {
        "zero": ["demo_sh010_renderMain_v001_zero.0000.exr"], "neg": ["demo_sh010_renderMain_v001_neg.-005.exr"],
        "tx": ["demo_sh010_renderMain_v001_1001.tx", "demo_sh010_renderMain_v001_1012.tx"],
        "digits": ["demo_sh010_renderMain_v001_digits.1001.exr"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("listed", "said"), [(["wood.1001.tx"], "not listed"), (["wood.1001.tx", "wood.1012.tx", "wood.1013.tx"], "does not exist")]
)
def test_tiles_that_are_not_all_that_are_there_are_refused(studio: Studio, listed: list[str], said: str) -> None:
    for name in ("wood.1001.tx", "wood.1012.tx"):
        Path(studio.sources, name).write_bytes(b"pixels")
    before = state(studio)
    entry = {"name": "tx", "ext": "tx", "files": listed, "udim": [name[5:9] for name in listed]}
    register()
    context = shaped(studio, representations=[entry], stagingDir=studio.sources)
    pyblish.util.publish(context)
    assert said in str(errors(context)[0])
    assert state(studio) == before


@pytest.mark.parametrize("files", [{}, {"files": []}, {"files": None}])
def test_a_representation_without_files_is_refused_by_its_name(studio: Studio, files: dict[str, Any]) -> None:
    register()
    context = shaped(studio, representations=[{"name": "exr", "ext": "exr", **files}], stagingDir=studio.sources)
    pyblish.util.publish(context)
    assert "renderMain, representation exr: has no files" in str(errors(context)[0])


def test_instances_that_are_switched_off_or_say_not_what_they_are_stay_out(studio: Studio) -> None:
    register()
    ways: list[dict[str, Any]] = [{"publish": False}, {"active": False}, {"subset": None}, {"farm": True}]
    for number, off in enumerate(ways, 1):
        context, before = shaped(studio, **off), state(studio)
        pyblish.util.publish(context)
        assert errors(context) == []
        assert "publishResult" not in context.data
        assert state(studio) == before
        context.create_instance("on").data.update(shaped(studio, subset="renderOn")[0].data)
        context.data.pop("results")
        pyblish.util.publish(context)
        assert [(entry["subset"], entry["version"]) for entry in context.data["publishResult"]["versions"]] == [
            ("renderOn", number)
        ]


def test_the_same_publish_id_with_another_request_is_refused(studio: Studio) -> None:
    published(studio)
    before = state(studio)
    other = context_of(studio, studio.request("job", comment="something else"))
    pyblish.util.publish(other)
    assert isinstance(errors(other)[0], DifferentContent)
    assert state(studio) == before


def test_the_journal_of_a_foreign_loop_names_its_plugins_too(studio: Studio) -> None:
    context = published(studio)
    names = [name for name, _ in studio.transaction(context.data["publishResult"]["transaction"])["plugins"]]
    assert {"CollectPublishRequest", "IntegrateVersions", "IntegrateCommit"} <= set(names)


def test_a_publish_id_publishes_once_without_a_request_too(studio: Studio) -> None:
    register()
    first, second, other = shaped(studio, "farm-1"), shaped(studio, "farm-1"), shaped(studio, "farm-1", subset="renderOther")
    for context in (first, second, other):
        pyblish.util.publish(context)
    assert errors(first) == errors(second) == []
    assert second.data["publishResult"] == {**first.data["publishResult"], "outcome": "already_published"}
    assert isinstance(errors(other)[0], DifferentContent)
    assert studio.versions("renderMain") == [1]


def test_bad_names_and_two_of_the_same_are_refused(studio: Studio) -> None:
    register()
    before = state(studio)
    context = shaped(studio, subset="../evil")
    pyblish.util.publish(context)
    assert "renderMain.subset" in str(errors(context)[0])
    context = shaped(studio)
    context.create_instance("again").data.update({**context[0].data, "subset": "RENDERMAIN"})
    pyblish.util.publish(context)
    assert "would be the same version as renderMain" in str(errors(context)[0])
    context = shaped(studio)
    context.create_instance(context[0].name).data.update(context[0].data)
    pyblish.util.publish(context)
    assert "would be the same version as renderMain" in str(errors(context)[0])
    assert state(studio) == before


def test_instances_with_and_without_a_request_are_published_together(studio: Studio) -> None:
    class Collect(pyblish.api.ContextPlugin):
        order = 0.2

        def process(self, context: Any) -> None:
            context.create_instance("extra").data.update(shaped(studio)[0].data)

    context = published(studio, Collect)
    assert [(entry["subset"], entry["version"]) for entry in context.data["publishResult"]["versions"]] == [
        ("renderBeauty", 2), ("camera", 2), ("renderMain", 1)
    ]  # fmt: skip


# --- loops that stop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["close", "drop", "context", "reset"])
def test_a_loop_that_stops_midway_leaves_nothing(studio: Studio, way: str) -> None:
    before = state(studio)
    context = context_of(studio, three_instances(studio, "job"))
    loop = stop_after(context, "IntegrateVersions")
    assert studio.leftovers() != []
    if way == "close":
        loop.close()
    elif way == "drop":
        del loop
    elif way == "context":
        del context, loop
        gc.collect()
    else:
        kept.append(loop)
        publication_of(pyblish.api.Context())
    assert state(studio) == before


def test_a_publish_that_another_one_took_the_place_of_says_so_when_it_goes_on(studio: Studio) -> None:
    register()
    first, second = (context_of(studio, studio.request(job)) for job in ("one", "two"))
    loop = stop_after(first, "IntegrateVersions")
    stop_after(second, "CollectPublishRequest").close()
    assert first.data["publishResult"]["outcome"] == "rolled_back"
    list(loop)
    assert ["another publish was started" in str(error) for error in errors(first)] == [True]
    assert studio.leftovers() == []


@pytest.mark.parametrize("end", ["sys.exit(0)", "window.clear(); gc.collect(); os._exit(0)", "raise RuntimeError"])
def test_a_process_that_the_host_forks_meanwhile_ends_nothing(studio: Studio, end: str) -> None:
    """The host may fork at any moment; its child must not roll back what the host is about to commit."""
    program = f"""
import gc, os, sys
sys.path.insert(0, {str(HERE)!r})
import pyblish.api
from loops import register
from test_transactional import stop_after
register()
context = pyblish.api.Context()
context.data.update(publishRoot={studio.path!r}, publishRequest={studio.request("job")!r})
window = [stop_after(context, "IntegrateVersions"), context]
del context
if os.fork() == 0:
    {end}
os.wait()
for _ in window[0]:
    pass
assert window[1].data["publishResult"]["outcome"] == "published", window[1].data["publishResult"]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert studio.versions("camera") == [1, 2]
    assert studio.leftovers() == []


def test_a_gui_that_resets_and_starts_again_rolls_back_what_it_had_begun(studio: Studio) -> None:
    before = state(studio)
    window = Gui(context_of(studio, three_instances(studio, "job")))
    turns = window.turns()
    while next(turns) != "IntegrateVersions":
        pass
    assert studio.leftovers() != []
    old, window.context = window.context, context_of(studio, three_instances(studio, "job"))
    window.plugins, window.processing = pyblish.api.discover(), {"nextOrder": None, "ordersWithError": set()}
    assert state(studio) == before
    for _ in window.turns():
        pass
    assert window.context.data["publishResult"]["outcome"] == "published"
    assert old is not window.context
    assert studio.leftovers() == []


def test_stages_that_are_called_one_by_one_are_one_publish(studio: Studio) -> None:
    class Extract(TransactionalPlugin):
        order = 2.0

        def integrate(self, instance: Any, transaction: Any) -> None:
            transaction.version(instance).write("extracted.txt", b"content", "txt")

    register(Extract)
    context = context_of(studio, studio.request("job"))
    for stage in (pyblish.util.collect, pyblish.util.validate, pyblish.util.extract, pyblish.util.integrate):
        stage(context)
    assert errors(context) == []
    assert context.data["publishResult"]["outcome"] == "published"
    assert studio.leftovers() == []


ENDING = """
import sys
sys.path.insert(0, {here!r})
import pyblish.util
from loops import context_of, register, three_instances
from studio import Studio
studio = object.__new__(Studio)
studio.__dict__.update({facts!r})
register()
context = context_of(studio, three_instances(studio, "job"))
loop = pyblish.util.publish_iter(context)
for result in loop:
    if result["plugin"].__name__ == "IntegrateVersions":
        break
print("open", flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise RuntimeError('host')", "import os, signal; os.kill(os.getpid(), 9)"])
def test_an_interpreter_that_ends_midway_leaves_nothing(studio: Studio, end: str) -> None:
    before = state(studio)
    code = ENDING.format(
        here=str(HERE), facts={name: getattr(studio, name) for name in ("folder", "sources", "path", "frames")}, end=end
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "open" in done.stdout, done.stderr
    if done.returncode == -signal.SIGKILL:
        studio.recover()
    assert state(studio) == before


def test_a_lease_is_let_go_at_once_when_a_plugin_fails(studio: Studio) -> None:
    held: list[int] = []

    class Fail(pyblish.api.ContextPlugin):
        order = 3.2

        def process(self, context: Any) -> None:
            held.append(leases(studio))
            raise RuntimeError("no")

    class Later(pyblish.api.ContextPlugin):
        order = 3.3

        def process(self, context: Any) -> None:
            held.append(leases(studio))

    register(Fail, Later)
    pyblish.util.publish(context_of(studio, three_instances(studio, "job")))
    assert held == [3, 0]


def leases(studio: Studio) -> int:
    with studio.open() as root:
        return sum(1 for row in root.engine.database.find(LEASES) if row.get("transaction"))


def test_the_commit_plugin_is_ours() -> None:
    assert [plugin.__name__ for plugin in pyblish.api.discover()].count(IntegrateCommit.__name__) == 1
