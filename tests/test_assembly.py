"""A publish that is put together step by step: what it refuses, and that nothing is left of what failed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from studio import Studio

from integrator import transaction, versions
from integrator.database import CLAIMS, Delete, Insert
from integrator.engine import Effect
from integrator.errors import (
    EffectFailed,
    EffectNotMade,
    Failed,
    IntegratorError,
    StagingChanged,
    Unsettled,
    UsageError,
    ValidationRefused,
    VersionTaken,
)
from integrator.recovery import settle
from integrator.root import Root

#: Names that no file of a version may have.
_WRONG = ("/outside.txt", "../../outside.txt", "..", "a/../b.txt", "a//b.txt", "a/", "./a.txt", "", "a\nb.txt", "a\0b.txt",
          "-x.txt", "CON", "aux.txt", "a/-b.txt", "x" * 300, "a\x1b[31m.txt", ".hidden", "a.txt ")  # fmt: skip


@pytest.fixture
def root(studio: Studio) -> Iterator[Root]:
    with studio.open() as root:
        yield root


@pytest.mark.parametrize("name", _WRONG)
def test_a_name_that_no_file_may_have_is_refused_before_anything_is_written(studio: Studio, root: Root, name: str) -> None:
    before = studio.tree()
    for way in ("write", "adopt"):
        with pytest.raises((UsageError, ValidationRefused)), root.begin(project="demo") as assembly:
            version = assembly.new_version(asset="hero", subset="main", family="model")
            try:
                version.write(name, b"x") if way == "write" else version.adopt(name)
            finally:
                assert os.listdir(version.path) == []
        assert studio.tree() == before
    assert os.listdir(studio.folder) == ["show"]
    assert studio.leftovers() == []


@pytest.mark.parametrize("name", ["/outside.txt", "../outside.txt", "..", ".", "", "a\0b"])
def test_a_staging_directory_trusts_no_caller(root: Root, studio: Studio, name: str) -> None:
    with pytest.raises(ZeroDivisionError), root.begin(project="demo") as assembly:
        staging = assembly.new_version(asset="hero", subset="main", family="model").staging
        for folder in ("", "inner"):
            with pytest.raises(UsageError):
                staging.write(name, b"x", folder=folder)
        if name:
            with pytest.raises(UsageError):
                staging.write("a.txt", b"x", folder=name)
        with pytest.raises(UsageError):
            staging.adopt(name)
        assert os.listdir(staging.path) == []
        raise ZeroDivisionError
    assert studio.leftovers() == []


def test_a_file_may_be_written_into_a_folder_of_the_version(root: Root, studio: Studio) -> None:
    with root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="hero", subset="main", family="model")
        version.write("cache/deep/hero.abc", b"cache")
    assert Path(version.final_path("cache/deep/hero.abc")).read_bytes() == b"cache"
    assert studio.leftovers() == []


def test_a_second_file_of_one_name_is_refused_before_it_is_written(root: Root) -> None:
    with pytest.raises(UsageError, match=r"has a file 'A\.txt' already"), root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="hero", subset="main", family="model")
        version.write("a.txt", b"x")
        try:
            version.write("A.txt", b"x", "other")
        finally:
            assert os.listdir(version.path) == ["a.txt"]


@pytest.mark.parametrize("name", ["a\nb.txt", "-x.txt", "CON", "x" * 300, "a\0b.txt", ".hidden"])
def test_a_replaced_file_gets_no_name_that_no_file_may_have(root: Root, studio: Studio, name: str) -> None:
    before = studio.tree()
    with pytest.raises(ValidationRefused), root.begin(project="demo") as assembly:
        assembly.replace_file(f"{root.path}/demo/{name}", b"x")
    assert studio.tree() == before
    assert studio.leftovers() == []


def test_a_file_with_an_odd_name_that_is_there_may_be_replaced(root: Root) -> None:
    path = Path(root.path, "demo", "-odd name ")
    path.write_bytes(b"old")
    with root.begin(project="demo") as assembly:
        assembly.replace_file(str(path), b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("project", ["../demo", "", "a/b", "de\nmo", "CON", "-x", "x" * 300])
def test_the_name_of_a_project_is_one_by_the_rules_wherever_it_is_given(root: Root, project: str) -> None:
    with pytest.raises(UsageError, match="name of a project"):
        root.begin(project=project)
    for act in ("insert", "update", "replace", "delete"):
        with pytest.raises(UsageError, match="name of a project"), root.begin(project="demo") as assembly:
            arguments = {"insert": [{}], "update": [{}, {}], "replace": [{}, {}], "delete": [{}]}[act]
            getattr(assembly, act)(project, *arguments)


def test_a_second_version_of_one_subset_is_refused(root: Root, studio: Studio) -> None:
    with pytest.raises(UsageError, match="same hierarchy, asset, subset"), root.begin(project="demo") as assembly:
        assembly.new_version(asset="hero", subset="main", family="model").write("a.txt", b"x")
        assembly.new_version(asset="hero", subset="main", family="rig")
    assert studio.leftovers() == []


def test_a_version_that_a_savepoint_took_back_can_be_made_once_more(root: Root, studio: Studio) -> None:
    with root.begin(project="demo") as assembly:
        point = assembly.savepoint()
        assembly.new_version(asset="hero", subset="main", family="model").write("a.txt", b"dropped")
        assembly.roll_back_to(point)
        again = assembly.new_version(asset="hero", subset="main", family="model")
        again.write("a.txt", b"kept")
    assert Path(again.final_path("a.txt")).read_bytes() == b"kept"
    assert studio.leftovers() == []


def test_a_pinned_number_that_a_savepoint_took_back_is_taken(root: Root, studio: Studio) -> None:
    with pytest.raises(VersionTaken), root.begin(project="demo") as assembly:
        point = assembly.savepoint()
        assembly.new_version(asset="hero", subset="main", family="model", version=7).write("a.txt", b"dropped")
        assembly.roll_back_to(point)
        assembly.new_version(asset="hero", subset="main", family="model", version=7)
    assert studio.leftovers() == []


def test_a_number_that_never_gets_free_is_given_up(root: Root, studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "_PAUSE", 0.01)
    monkeypatch.setattr(versions, "_number", lambda *_: 1)
    claim = {"_id": "demo/hero/main/v001", "transaction": "another", "lease": "demo/hero/main", "number": 1, "burnt": None}
    root.engine.database.commit([Insert(collection=CLAIMS, document=claim)])
    with pytest.raises(Failed, match="could not be had"), root.begin(project="demo") as assembly:
        assembly.new_version(asset="hero", subset="main", family="model")
    root.engine.database.commit([Delete(collection=CLAIMS, id=claim["_id"], expect=claim)])
    assert studio.leftovers() == []


@pytest.mark.parametrize("end", ["commit", "rollback", "savepoint"])
def test_a_version_that_has_ended_takes_nothing_more(root: Root, studio: Studio, end: str) -> None:
    assembly = root.begin(project="demo")
    assembly.new_version(asset="hero", subset="other", family="model").write("a.txt", b"x")
    point = assembly.savepoint()
    version = assembly.new_version(asset="hero", subset="main", family="model")
    version.write("a.txt", b"x")
    if end == "commit":
        assembly.commit()
    elif end == "rollback":
        assembly.transaction.roll_back()
    else:
        assembly.roll_back_to(point)
    strange = Path(studio.folder, "strange")
    strange.mkdir()
    descriptors = [os.open(strange, os.O_RDONLY) for _ in range(20)]  # those numbers are free again
    before = studio.tree()
    with pytest.raises(UsageError, match="Nothing was written"):
        version.write("late.txt", b"x")
    with pytest.raises(UsageError, match="Nothing was written"):
        version.adopt("late.txt")
    for way in ("copy", "hardlink", "symlink"):
        with pytest.raises(UsageError, match="Nothing was written"):
            getattr(version, way)(f"{studio.sources}/cam.abc")
    if end != "savepoint":
        for call in (
            lambda: assembly.new_version(asset="hero", subset="third", family="model"),
            lambda: assembly.insert("demo", {"type": "note"}),
            lambda: assembly.effect("none", {}),
            lambda: assembly.replace_file(f"{root.path}/demo/late.txt", b"x"),
            assembly.savepoint,
            lambda: assembly.roll_back_to(point),
            assembly.commit,
        ):
            with pytest.raises(UsageError, match="not open any more"):
                call()
    assert os.listdir(strange) == []
    assert studio.tree() == before
    for fd in descriptors:
        os.close(fd)
    assembly.transaction.roll_back()
    assert studio.leftovers() == []


@pytest.mark.parametrize("step", ["write", "copy", "adopt", "new_version", "update", "effect", "replace_file"])
def test_a_step_that_failed_dooms_the_publish_even_if_its_error_is_caught(root: Root, studio: Studio, step: str) -> None:
    before, documents = studio.tree(), studio.documents()
    assembly = root.begin(project="demo")
    version = assembly.new_version(asset="hero", subset="main", family="model")
    version.write("a.txt", b"x")
    steps: dict[str, Callable[[], Any]] = {
        "write": lambda: version.write("../b.abc", b"x"),
        "copy": lambda: version.copy("/nowhere/b.abc"),
        "adopt": lambda: version.adopt("b.abc"),
        "new_version": lambda: assembly.new_version(asset="he/ro", subset="main", family="model"),
        "update": lambda: assembly.update("demo", {"type": "nothing"}, {}),
        "effect": lambda: assembly.effect("none", {}),
        "replace_file": lambda: assembly.replace_file("/etc/hostname", b"x"),
    }
    with pytest.raises(IntegratorError) as first:
        steps[step]()
    with contextlib.suppress(IntegratorError):
        version.copy("/nowhere/second.abc")
    point = assembly.savepoint()
    assembly.roll_back_to(point)  # later than the failure: it takes nothing back
    with pytest.raises(Failed, match="a step of this publish failed") as caught:
        assembly.commit()
    assert (caught.value.exit_code, caught.value.__cause__) == (5, first.value)
    assert first.value.message in caught.value.message
    assert (studio.tree(), studio.documents()) == (before, documents)
    assert studio.leftovers() == []


def test_a_failure_behind_a_savepoint_is_taken_back_with_it(root: Root, studio: Studio) -> None:
    with root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="hero", subset="main", family="model")
        version.write("a.txt", b"x")
        early, late = assembly.savepoint(), assembly.savepoint()
        with pytest.raises(ValidationRefused):
            version.copy("/nowhere/b.abc")
        with pytest.raises(ValidationRefused):
            version.copy("/nowhere/c.abc")
        assembly.roll_back_to(late)
        with pytest.raises(ValidationRefused):
            version.copy("/nowhere/b.abc")
        assembly.roll_back_to(early)
    assert os.listdir(version.final_path()) == ["a.txt"]
    assert studio.leftovers() == []


def test_a_savepoint_that_cannot_be_rolled_back_to_dooms_the_publish(root: Root, studio: Studio) -> None:
    def fail(*_: object) -> None:
        raise OSError("the tracker is away")

    root.register_effect("track", Effect(call=lambda arguments, key: key, compensate=fail))
    assembly = root.begin(project="demo")
    assembly.new_version(asset="hero", subset="main", family="model").write("a.txt", b"x")
    point = assembly.savepoint()
    assembly.effect("track", {})
    with pytest.raises(IntegratorError):
        assembly.roll_back_to(point)
    with pytest.raises(IntegratorError, match="the tracker is away"):
        assembly.commit()
    assert studio.versions("main") == []


def test_a_compensation_that_fails_again_is_tried_again_by_whoever_comes_next(root: Root, studio: Studio) -> None:
    """A host lives for days: what it could not settle must not wait for its end."""
    before, tries = studio.tree(), iter([OSError, OSError, OSError, None])

    def compensate(arguments: Any, key: str, result: Any) -> None:
        if (error := next(tries)) is not None:
            raise error("the tracker is away")

    root.register_effect("track", Effect(call=lambda arguments, key: key, compensate=compensate))
    with pytest.raises(Unsettled) as caught, root.begin(project="demo") as assembly:
        assembly.new_version(asset="hero", subset="main", family="model").write("a.txt", b"x")
        assembly.effect("track", {})
        raise ZeroDivisionError
    outcomes = [settle(root.engine, caught.value.transaction).outcome for _ in range(3)]
    assert outcomes == ["stuck", "stuck", "rolled_back"]
    assert studio.tree() == before
    assert studio.leftovers() == []


@pytest.mark.parametrize("error", [OSError, EffectNotMade])
def test_a_call_that_is_known_to_have_changed_nothing_is_not_taken_back(
    root: Root, studio: Studio, error: type[Exception]
) -> None:
    before, taken_back = studio.tree(), []

    def call(arguments: Any, key: str) -> None:
        raise error("the tracker is away")

    root.register_effect("track", Effect(call=call, compensate=lambda arguments, key, result: taken_back.append(result)))
    with pytest.raises(EffectFailed, match="track failed: the tracker is away") as caught, root.begin(project="demo") as assembly:
        assembly.new_version(asset="hero", subset="main", family="model").write("a.txt", b"x")
        assembly.effect("track", {})
    assert caught.value.exit_code == 5
    assert taken_back == ([None] if error is OSError else [])
    assert studio.tree() == before
    assert studio.leftovers() == []


@pytest.mark.parametrize("how", ["never written", "rolled back"])
def test_a_version_without_files_is_refused(root: Root, studio: Studio, how: str) -> None:
    before = studio.tree()
    with (
        pytest.raises(ValidationRefused, match="demo/hero/main v001: has no files") as caught,
        root.begin(project="demo") as assembly,
    ):
        version = assembly.new_version(asset="hero", subset="main", family="model")
        if how == "rolled back":
            point = assembly.savepoint()
            version.write("a.txt", b"x")
            assembly.roll_back_to(point)
    assert caught.value.exit_code == 3
    assert studio.tree() == before
    assert studio.leftovers() == []


def old_source(studio: Studio) -> str:
    path = Path(studio.folder, "old.abc")
    path.write_bytes(b"cache" * 100)
    os.utime(path, (1e9, 1e9))
    return str(path)


def test_a_copy_that_is_written_over_after_it_was_hashed_is_not_published(root: Root, studio: Studio) -> None:
    with pytest.raises(StagingChanged, match="another content"), root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="hero", subset="main", family="model")
        version.copy(old_source(studio))
        [name] = os.listdir(version.path)
        with open(f"{version.path}/{name}", "r+b") as file:
            file.write(b"other")
    assert studio.leftovers() == []


def test_a_file_system_that_keeps_no_times_gets_its_publishes(root: Root, studio: Studio) -> None:
    with root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="hero", subset="main", family="model")
        version.copy(old_source(studio))
        [name] = os.listdir(version.path)
        os.utime(f"{version.path}/{name}")
    assert studio.leftovers() == []


def test_what_is_published_is_not_moved_away_into_another_version(studio: Studio, root: Root) -> None:
    before = studio.tree()
    published = next(path for path in Path(studio.path).rglob("*.exr"))
    with pytest.raises(ValidationRefused, match="it cannot be moved away"), root.begin(project="demo") as assembly:
        assembly.new_version(asset="hero", subset="main", family="model").move(str(published))
    assert studio.tree() == before
    assert studio.leftovers() == []


def test_a_link_to_the_outside_is_refused_as_in_a_request(studio: Studio, root: Root) -> None:
    with pytest.raises(ValidationRefused, match="is outside the root"), root.begin(project="demo") as assembly:
        assembly.new_version(asset="hero", subset="main", family="model").symlink(f"{studio.sources}/cam.abc")
    assert studio.leftovers() == []


def test_a_sequence_that_was_filled_in_is_as_before_once_that_is_taken_back(studio: Studio, root: Root) -> None:
    shot = {"asset": "sh010", "hierarchy": "shots/sq01", "subset": "renderBeauty", "family": "render"}
    with root.begin(project="demo") as assembly:
        version = assembly.new_version(**shot)
        version.copy(f"{studio.sources}/beauty.%04d.exr", frames="1002")
        version.write("notes.txt", b"notes")
        point = assembly.savepoint()
        version.fill("exr", 1)
        assembly.roll_back_to(point)
    [published] = assembly.result.versions if assembly.result else ()
    assert [(entry.name, len(entry.files)) for entry in published.representations] == [("exr", 1), ("txt", 1)]
    [document] = root.documents("demo", {"type": "representation", "name": "exr", "context.version": 2})
    assert (len(document["files"]), document["context"]["frame"]) == (1, "1002")
    assert studio.leftovers() == []


def test_a_process_that_is_forked_off_has_no_part_in_the_publish(studio: Studio) -> None:
    with studio.open() as root:
        with root.begin(project="demo") as assembly:
            version = assembly.new_version(asset="sh010", subset="model", family="model")
            child = os.fork()
            if child == 0:
                try:
                    with contextlib.suppress(UsageError):
                        version.write("child.txt", b"of the child")
                    with contextlib.suppress(UsageError):
                        assembly.commit()
                    assembly.__exit__(RuntimeError, RuntimeError("in the child"), None)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            version.write("parent.txt", b"of the parent")
        assert assembly.result is not None
        assert [entry.name for entry in assembly.result.versions[0].representations] == ["txt"]
        final = version.final_path()
    assert os.listdir(final) == ["parent.txt"]
    assert studio.leftovers() == []
