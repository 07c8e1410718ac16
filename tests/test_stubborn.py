"""What cannot be removed from a staging directory: the rollback ends all the same, and a sweep takes the rest later."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from people import as_root
from studio import Studio

import integrator
from integrator.errors import Failed
from integrator.sweep import sweep
from integrator.testing import Fate, Killed

pytestmark = [pytest.mark.root, as_root]


def trash(run: Studio) -> Path:
    return Path(run.path, "demo/.integrator/trash")


def staged(run: Studio) -> Path:
    [found] = Path(run.path).rglob("v002.tmp.*")
    return found


def camera(run: Studio) -> dict[str, Any]:
    whole = run.request("job")
    return {**whole, "instances": whole["instances"][1:]}


def killed(run: Studio, name: str, about: str = "") -> None:
    """A publish of the camera that dies after its last call of this name, about something."""
    counting = run.fresh()
    fate = Fate()
    with counting.open(fate) as root:
        integrator.publish(camera(counting), root)
    number = max(n for n, call in enumerate(fate.calls, 1) if call.startswith(name) and about in call)
    counting.remove()
    with run.open(Fate(kill_at=number, when="after"), owner=run.dead) as root, pytest.raises(Killed):
        integrator.publish(camera(run), root)


@pytest.mark.parametrize("revealed", [False, True], ids=["staged", "revealed"])
def test_what_is_mounted_inside_is_left_untouched_and_the_rollback_ends(studio: Studio, tmp_path: Path, revealed: bool) -> None:
    """Even where it holds files of the very names that were published there."""
    theirs = tmp_path / "theirs"
    (theirs / "deep").mkdir(parents=True)
    for path in (theirs / "cam.abc", theirs / "deep/cam.abc"):
        path.write_text("theirs")
    killed(studio, *(("rename", ".tmp.") if revealed else ("close",)))
    [directory] = [path for path in Path(studio.path).rglob("v002*") if path.is_dir()]
    target = directory / "resources/theirs"
    target.mkdir(parents=True, exist_ok=True)
    place: Path | None = None
    subprocess.run(["mount", "--bind", theirs, directory / "resources"], check=True, timeout=10)
    try:
        [settled] = studio.recover()
        assert settled.outcome == "rolled_back", settled
        assert "resources" in settled.message
        assert [path.read_text() for path in (theirs / "cam.abc", theirs / "deep/cam.abc")] == ["theirs", "theirs"]
        assert not [path for path in Path(studio.path).rglob("v002*") if "trash" not in str(path)]
        [private] = trash(studio).iterdir()
        place = private / "resources"
        assert os.path.ismount(place)
        with studio.open() as root:
            [entry] = sweep(root, older_than=-1.0)
        assert "resources" in entry.left
        assert (theirs / "cam.abc").read_text() == "theirs"
    finally:
        subprocess.run(["umount", place or directory / "resources"], check=True, timeout=10)
    with studio.open() as root:
        assert [entry.left for entry in sweep(root, older_than=-1.0)] == [""]
    assert list(trash(studio).iterdir()) == []
    assert (theirs / "cam.abc").read_text() == "theirs"
    with studio.open() as root:
        assert integrator.publish(camera(studio), root).outcome == "published"


@pytest.fixture
def on_disk(studio: Studio) -> Iterator[Studio]:
    """A studio where files can be immutable; memory may not know that."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="integrator-stubborn-") as folder:
        run = studio.fresh()
        target = Path(folder, "show")
        subprocess.run(["cp", "-a", run.path, target], check=True)
        run.path = str(target)
        yield run
        subprocess.run(["chattr", "-R", "-i", folder], check=False, capture_output=True)


def immutable(path: Path) -> None:
    if subprocess.run(["chattr", "+i", path], capture_output=True, timeout=10).returncode:
        pytest.skip("SKIPPED, NOT TESTED: this file system has no immutable files")


def test_what_is_immutable_is_left_in_the_trash_and_the_rollback_ends(on_disk: Studio) -> None:
    killed(on_disk, "close")
    directory = staged(on_disk)
    (directory / "resources/stubborn").mkdir(parents=True, exist_ok=True)
    (directory / "resources/stubborn/file").write_text("x")
    immutable(directory / "resources/stubborn/file")
    [settled] = on_disk.recover()
    assert settled.outcome == "rolled_back"
    assert "stubborn/file" in settled.message
    assert not list(Path(on_disk.path).rglob("v002.tmp.*"))
    [private] = trash(on_disk).iterdir()
    assert sorted(path.name for path in private.rglob("*") if path.is_file()) == ["file"]
    with on_disk.open() as root:
        (trash(on_disk) / ("0" * 24)).mkdir()
        swept = sweep(root, older_than=-1.0)
        assert sorted(bool(entry.left) for entry in swept) == [False, True]
        subprocess.run(["chattr", "-i", private / "resources/stubborn/file"], check=True)
        assert [entry.left for entry in sweep(root, older_than=-1.0)] == [""]
    assert list(trash(on_disk).iterdir()) == []
    with on_disk.open() as root:
        assert integrator.publish(camera(on_disk), root).outcome == "published"


def test_an_owner_whose_own_rollback_meets_it_fails_with_what_it_left(on_disk: Studio) -> None:
    config = Path(on_disk.path, ".integrator/config.toml")
    config.write_text(config.read_text() + "keep_failed = 0\n")
    with on_disk.open() as root:
        with pytest.raises(Failed), root.begin(project="demo") as assembly:
            version = assembly.new_version(asset="sh010", hierarchy="shots/sq01", subset="camera", family="camera")
            version.copy(f"{on_disk.sources}/cam.abc")
            late = Path(version.path, "late")
            late.write_text("x")
            immutable(late)
            raise Failed("no")
        [document] = [entry for entry in root.engine.database.find("transactions") if entry["state"] == "rolled_back"]
    assert any("late" in path for path in document["left"])
    assert not list(Path(on_disk.path).rglob("v002.tmp.*"))


def test_links_are_removed_and_what_they_lead_to_is_not(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/file").write_text("theirs")
    killed(studio, "close")
    directory = staged(studio)
    for name, target in (("folder", tmp_path / "theirs"), ("file", tmp_path / "theirs/file"), ("dangling", tmp_path / "none")):
        os.symlink(target, directory / name)
    assert [settled.outcome for settled in studio.recover()] == ["rolled_back"]
    assert studio.leftovers() == []
    assert (tmp_path / "theirs/file").read_text() == "theirs"
