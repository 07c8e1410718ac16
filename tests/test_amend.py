"""A publish id that is used again for other content, and what amending means on the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio import Studio, fast_folder

import integrator
from integrator.errors import DifferentContent, ExpectationFailed, UsageError
from integrator.testing import Fate, Killed


@pytest.fixture
def studio() -> Iterator[Studio]:
    """A studio whose sources are not those of other tests: they are changed here."""
    folder = tempfile.mkdtemp(dir=fast_folder())
    yield Studio(folder)
    shutil.rmtree(folder)


def render_again(studio: Studio, *frames: int) -> None:
    """Other content under the names of these frames."""
    for frame in frames:
        path = Path(studio.sources, f"beauty.{frame}.exr")
        path.unlink()
        path.write_bytes(b"rendered again" * frame)


def request(studio: Studio) -> dict[str, Any]:
    whole = studio.request("farm-1")
    whole["instances"][0]["representations"] = whole["instances"][0]["representations"][:1]
    return whole


def published(studio: Studio, version: int, frame: int) -> bytes:
    folder = Path(studio.path, "demo/shots/sq01/sh010/publish/render/renderBeauty", f"v{version:03d}")
    return (folder / f"demo_sh010_renderBeauty_v{version:03d}.{frame}.exr").read_bytes()


def test_the_same_again_is_answered_even_when_the_sources_are_gone(studio: Studio) -> None:
    with studio.open() as root:
        first = integrator.publish(request(studio), root)
        os.unlink(f"{studio.sources}/beauty.1003.exr")
        again = integrator.publish(request(studio), root)
    assert again.outcome == "already_published"
    assert [version.version for version in again.versions] == [version.version for version in first.versions] == [2, 2]


def test_frames_that_were_rendered_again_are_refused_with_the_way_to_publish_them(studio: Studio) -> None:
    with studio.open() as root:
        integrator.publish(request(studio), root)
        before = studio.tree()
        render_again(studio, 1004)
        with pytest.raises(DifferentContent, match="its sources changed since") as refused:
            integrator.publish(request(studio), root)
    assert "--on-changed amend" in refused.value.next
    assert studio.tree() == before


def test_or_they_amend_what_was_published_as_often_as_they_change(studio: Studio) -> None:
    with studio.open() as root:
        integrator.publish(request(studio), root)
        for frame in (1004, 1007):
            render_again(studio, frame)
            result = integrator.publish(request(studio), root, on_changed="amend")
            assert (result.outcome, [version.version for version in result.versions]) == ("published", [2, 2])
            assert published(studio, 2, frame).startswith(b"rendered again")
            for _ in range(2):
                again = integrator.publish(request(studio), root, on_changed="amend")
                assert again.outcome == "already_published"
                assert again.document()["versions"] == result.document()["versions"]
    assert studio.versions("renderBeauty") == [1, 2]
    assert studio.leftovers() == []


def test_another_request_under_the_id_amends_too(studio: Studio) -> None:
    changed = request(studio)
    changed["comment"] = "denoised"
    with studio.open() as root:
        integrator.publish(request(studio), root)
        with pytest.raises(DifferentContent, match="the request is another one"):
            integrator.publish(changed, root)
        assert integrator.publish(changed, root, on_changed="amend").versions[0].version == 2
        assert root.resolve("demo", "sh010", "renderBeauty", 2).comment == "denoised"


def test_other_subsets_cannot_be_amended(studio: Studio) -> None:
    changed = request(studio)
    changed["instances"] = changed["instances"][:1]
    with studio.open() as root:
        integrator.publish(request(studio), root)
        with pytest.raises(DifferentContent, match="other subsets"):
            integrator.publish(changed, root, on_changed="amend")


def test_an_amendment_that_was_killed_is_taken_up_by_its_retry(studio: Studio) -> None:
    with studio.open() as root:
        integrator.publish(request(studio), root)
    render_again(studio, 1004)
    whole = Fate()
    count = studio.fresh("count")
    with count.open(whole) as root:
        integrator.publish(request(count), root, on_changed="amend")
    for number in range(1, len(whole.calls) + 1, 5):
        run = studio.fresh("killed")
        root = run.open(Fate(kill_at=number, when="after"), owner=run.dead)
        try:
            integrator.publish(request(run), root, on_changed="amend")
        except Killed:
            pass
        finally:
            root.close()
        with run.open() as root:
            integrator.publish(request(run), root, on_changed="amend")
        run.recover()
        assert run.tree().keys() == count.tree().keys()
        assert published(run, 2, 1004).startswith(b"rendered again")
        assert run.versions("renderBeauty") == [1, 2]
        assert run.leftovers() == []
        run.remove()


def integrate(studio: Studio, *words: str, code: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "integrator", *words, "--json", "--root", studio.path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


SAME_SHOT = {"asset": "sh010", "hierarchy": "shots/sq01"}
SHOT = ("--project", "demo", "--hierarchy", "shots/sq01", "--asset", "sh010", "--subset", "renderBeauty", "--family", "render")


def test_the_command_line_amends_and_makes_heroes(studio: Studio) -> None:
    integrate(studio, "publish", *SHOT, "--hero", f"{studio.sources}/beauty.%04d.exr")
    render_again(studio, 1002)
    answer = integrate(studio, "publish", *SHOT, "--amend", "2", "--frames", "1002", f"{studio.sources}/beauty.%04d.exr")
    [version] = answer["versions"]
    assert version["version"] == 2
    assert len(version["representations"][0]["files"]) == 10
    assert published(studio, 2, 1002).startswith(b"rendered again")
    assert not published(studio, 2, 1001).startswith(b"rendered again")
    hero = integrate(studio, "path", "demo", "sh010", "renderBeauty", "hero", "--hierarchy", "shots/sq01")
    assert hero["path"].endswith("/hero")
    integrate(studio, "publish", *SHOT, "--amend", "9", f"{studio.sources}/beauty.%04d.exr", code=3)
    assert integrate(studio, "check")["ok"]


def test_one_file_does_not_take_the_place_of_a_sequence(studio: Studio) -> None:
    integrate(studio, "publish", *SHOT, f"{studio.sources}/beauty.%04d.exr")
    before = (studio.tree(), studio.documents())
    refused = integrate(studio, "publish", *SHOT, "--amend", "2", f"{studio.sources}/beauty.1002.exr", code=3)
    assert "say which frame it is" in refused["error"]["message"]
    assert (studio.tree(), studio.documents()) == before
    [version] = integrate(studio, "publish", *SHOT, "--amend", "2", "--frames", "1002", f"{studio.sources}/beauty.1002.exr")[
        "versions"
    ]
    assert len(version["representations"][0]["files"]) == 10


def test_the_command_line_amends_what_changed_under_a_publish_id(studio: Studio) -> None:
    words = ("publish", *SHOT, "--publish-id", "farm-7", f"{studio.sources}/beauty.%04d.exr")
    integrate(studio, *words)
    render_again(studio, 1002)
    assert "--on-changed amend" in integrate(studio, *words, code=2)["error"]["next"]
    assert integrate(studio, *words, "--on-changed", "amend")["versions"][0]["version"] == 2
    assert integrate(studio, *words, "--on-changed", "amend")["outcome"] == "already_published"


# --- early reveal ---------------------------------------------------------------------------------------------------


def test_what_was_revealed_early_is_there_and_takes_nothing_more(studio: Studio) -> None:
    with studio.open() as root, root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="sh010", subset="model", family="model")
        point = assembly.savepoint()
        version.copy(f"{studio.sources}/cam.abc")
        assembly.reveal()
        assert version.path == version.final_path()
        assert os.listdir(version.path) == ["demo_sh010_model_v001.abc"]
        with studio.open() as other:
            assert other.documents("demo", {"type": "subset", "name": "model"}) == []
        after = assembly.savepoint()
        with pytest.raises(UsageError, match="revealed early"):
            version.write("late.txt", b"late")
        assembly.roll_back_to(after)
        with pytest.raises(UsageError, match="revealed early"):
            assembly.roll_back_to(point)
        assembly.transaction._failure = None  # that it dooms the publish is another test
    assert studio.versions("model") == [1]
    assert studio.leftovers() == []


def test_a_failure_withdraws_what_was_revealed_early(studio: Studio) -> None:
    before = (studio.tree(), studio.documents())
    with studio.open() as root:
        with pytest.raises(RuntimeError), root.begin(project="demo") as assembly:
            version = assembly.new_version(asset="sh010", subset="model", family="model")
            version.copy(f"{studio.sources}/cam.abc")
            assembly.reveal()
            raise RuntimeError
        assert (studio.tree(), studio.documents()) == before
    assert studio.leftovers() == []


def test_what_changes_after_an_early_reveal_is_found_before_the_verdict(studio: Studio) -> None:
    with studio.open() as root, pytest.raises(integrator.errors.StagingChanged), root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="sh010", subset="model", family="model")
        version.copy(f"{studio.sources}/cam.abc")
        version.write("notes.txt", b"as they were")
        assembly.reveal()
        Path(version.path, "demo_sh010_model_v001.abc").write_bytes(b"written over")
    assert not os.path.exists(f"{studio.path}/demo/sh010/publish/model/model/v001")
    assert studio.versions("model") == []


@pytest.mark.parametrize("elsewhere", ["shots/sq02", "other"])
def test_a_shot_of_the_same_name_elsewhere_is_not_amended(studio: Studio, elsewhere: str) -> None:
    mine, other = request(studio), request(studio)
    if elsewhere == "other":
        other["project"] = elsewhere
    else:
        other["instances"] = [{**instance, "hierarchy": elsewhere} for instance in other["instances"]]
    with studio.open() as root:
        for _ in range(2):  # so that it has the number that is published under the id
            integrator.publish({**other, "publish_id": None}, root)
        integrator.publish(mine, root)
        before = (studio.tree(), studio.documents())
        with pytest.raises(DifferentContent, match="it was for other subsets"):
            integrator.publish({**other, "publish_id": mine["publish_id"]}, root, on_changed="amend")
    assert (studio.tree(), studio.documents()) == before


def test_what_changed_while_an_earlier_run_was_settled_is_noticed(studio: Studio) -> None:
    """It was killed after the verdict; its retry finishes it, and must not take that for what is wanted now."""
    whole = request(studio)
    whole["instances"] = [{**whole["instances"][0], "hero": True}]
    fate = Fate()
    with studio.fresh().open(fate) as root:
        integrator.publish(whole, root)
    [verdict] = fate.numbers("state=committed")
    with studio.open(Fate(kill_at=verdict, when="after"), owner=studio.dead) as root, pytest.raises(Killed):
        integrator.publish(whole, root)
    render_again(studio, 1004)
    with studio.open() as root:
        with pytest.raises(DifferentContent, match="its sources changed since"):
            integrator.publish(whole, root)
        assert integrator.publish(whole, root, on_changed="amend").outcome == "published"
    assert published(studio, 2, 1004).startswith(b"rendered again")
    assert studio.leftovers() == []


@pytest.mark.parametrize("settled", [False, True])
def test_an_amendment_that_was_killed_is_resumed_by_its_transaction(studio: Studio, settled: bool) -> None:
    with studio.open() as root:
        integrator.publish(request(studio), root)
    render_again(studio, 1004)
    fate = Fate()
    with studio.fresh().open(fate) as root:
        integrator.publish(request(studio), root, on_changed="amend")
    [verdict] = fate.numbers("state=committed")
    with studio.open(Fate(kill_at=verdict), owner=studio.dead) as root, pytest.raises(Killed):
        integrator.publish(request(studio), root, on_changed="amend")
    killed = integrate(studio, "status")["unfinished"][0]["transaction"]
    if settled:
        studio.recover()
    assert integrate(studio, "resume", killed)["versions"][0]["version"] == 2
    assert published(studio, 2, 1004).startswith(b"rendered again")
    with studio.open() as root:
        assert integrator.publish(request(studio), root, on_changed="amend").outcome == "already_published"
    assert studio.leftovers() == []


@pytest.mark.parametrize("amend", [None, 1])
def test_nobody_rolls_back_to_before_an_early_reveal(studio: Studio, amend: int | None) -> None:
    before = (studio.tree(), studio.documents())
    what = "only be taken back with the whole publish"
    with studio.open() as root, pytest.raises(UsageError, match=what), root.begin(project="demo") as assembly:
        version = assembly.new_version(**SAME_SHOT, subset="renderBeauty", family="render", amend=amend)
        version.copy(f"{studio.sources}/beauty.%04d.exr", frames="1001")
        point = assembly.savepoint()
        assembly.reveal()
        assembly.roll_back_to(point)
    assert (studio.tree(), studio.documents()) == before
    assert studio.leftovers() == []


def test_nothing_is_added_to_an_amended_version_after_an_early_reveal(studio: Studio) -> None:
    with studio.open() as root, root.begin(project="demo") as assembly:
        version = assembly.new_version(**SAME_SHOT, subset="renderBeauty", family="render", amend=1)
        version.copy(f"{studio.sources}/beauty.%04d.exr", frames="1001")
        point = assembly.savepoint()
        assembly.roll_back_to(point)
        assembly.reveal()
        point = assembly.savepoint()
        with pytest.raises(UsageError, match="nothing can be added"):
            version.write("late.txt", b"late")
        assembly.roll_back_to(point)
    assert not Path(version.final_path("late.txt")).exists()
    assert studio.leftovers() == []


@pytest.mark.parametrize("place", ["v001", "hero"])
@pytest.mark.parametrize("change", ["added", "removed", "replaced"])
def test_what_somebody_else_changes_meanwhile_is_not_lost_in_the_exchange(studio: Studio, place: str, change: str) -> None:
    whole = request(studio)
    whole["instances"] = [{**whole["instances"][0], "hero": True, "amend": 1}]
    with studio.open() as root:
        integrator.publish({**whole, "publish_id": "first"}, root)
    own = Path(studio.path, "demo/shots/sq01/sh010/publish/render/renderBeauty", place, "notes.txt")
    if change != "added":
        own.write_text("somebody's own")
    before = studio.documents()
    with studio.open() as root, pytest.raises(ExpectationFailed, match="notes"), root.begin(project="demo") as assembly:
        version = assembly.new_version(**SAME_SHOT, subset="renderBeauty", family="render", amend=1, hero=True)
        version.copy(f"{studio.sources}/beauty.%04d.exr", frames="1001")
        assembly.reveal()
        if change == "replaced":
            own.with_suffix(".new").write_text("newer")
            own.with_suffix(".new").rename(own)
        elif change == "removed":
            own.unlink()
        else:
            own.write_text("newer")
    assert own.exists() == (change != "removed")
    assert studio.documents() == before
    assert studio.leftovers() == []


def test_a_dry_run_says_what_would_be_done_about_a_publish_id_that_was_used(studio: Studio) -> None:
    words = ("publish", *SHOT, "--publish-id", "farm-7", "--dry-run", f"{studio.sources}/beauty.%04d.exr")
    integrate(studio, *(word for word in words if word != "--dry-run"))
    assert integrate(studio, *words)["outcome"] == "already_published"
    render_again(studio, 1002)
    assert "--on-changed amend" in integrate(studio, *words, code=2)["error"]["next"]
    planned = integrate(studio, *words, "--on-changed", "amend")
    assert (planned["outcome"], planned["versions"][0]["version"]) == ("planned", 2)


def test_a_bug_after_the_verdict_of_an_amendment_is_told_as_what_it_is(studio: Studio) -> None:
    words = ("publish", *SHOT, "--publish-id", "farm-7", f"{studio.sources}/beauty.%04d.exr")
    first = integrate(studio, *words)
    render_again(studio, 1002)
    plugins = Path(studio.folder, "plugins")
    plugins.mkdir()
    (plugins / "late_bug.py").write_text(
        "from integrator.assembly import Assembly\n"
        "whole = Assembly.commit\n"
        "def commit(self):\n"
        "    whole(self)\n"
        "    raise ZeroDivisionError\n"
        "Assembly.commit = commit\n"
    )
    answer = integrate(studio, *words, "--on-changed", "amend", "--plugin-path", str(plugins))
    assert (answer["outcome"], answer["versions"][0]["version"]) == ("published", 2)
    assert answer["transaction"] != first["transaction"]


def test_an_id_that_looks_like_an_amendment_is_somebodys_own(studio: Studio) -> None:
    with studio.open() as root:
        integrator.publish(request(studio), root)
        camera = studio.request("farm-1+amend1")
        integrator.publish({**camera, "instances": camera["instances"][1:]}, root)
        assert integrator.publish(request(studio), root).outcome == "already_published"
        render_again(studio, 1004)
        assert integrator.publish(request(studio), root, on_changed="amend").outcome == "published"
        assert integrator.publish(request(studio), root, on_changed="amend").outcome == "already_published"
    assert published(studio, 2, 1004).startswith(b"rendered again")
