"""Projects that are mounts of their own below the root: a loop-mounted ext4, or memory where there is no mkfs. Needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from people import as_root
from studio import Studio

import integrator
from integrator import queries
from integrator.errors import RootMissing, RootRefused, UsageError, ValidationRefused
from integrator.recovery import recover
from integrator.sweep import sweep
from integrator.testing import Fate, Killed

pytestmark = [pytest.mark.root, as_root]


def command(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, timeout=20, capture_output=True)


@pytest.fixture
def film(studio: Studio, tmp_path: Path) -> Iterator[Path]:
    """A project folder `film` below the root, on a file system of its own."""
    folder = Path(studio.path, "film")
    folder.mkdir()
    image = tmp_path / "film.img"
    if shutil.which("mkfs.ext4"):
        with image.open("wb") as file:
            file.truncate(32 << 20)
        command("mkfs.ext4", "-q", "-F", image)
        command("mount", "-o", "loop", image, folder)
    else:
        command("mount", "-t", "tmpfs", "none", folder)
    folder.chmod(0o2775)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=False, timeout=20, capture_output=True)


def film_request(studio: Studio, publish_id: str = "job", transfer: str = "copy") -> dict[str, Any]:
    files = [{"name": "exr", "files": [f"{studio.sources}/beauty.%04d.exr"], "transfer": transfer}]
    instance = {"asset": "sh010", "subset": "renderBeauty", "family": "render", "representations": files}
    return studio.request(publish_id, project="film", instances=[instance])


def left(film: Path) -> list[str]:
    """What is in the trash and what is staged."""
    trash = film / ".integrator/trash"
    names = os.listdir(trash) if trash.is_dir() else []
    return names + [str(path) for path in film.rglob("v*.tmp.*")]


def test_everything_of_a_project_stays_on_its_file_system(studio: Studio, film: Path) -> None:
    assert film.stat().st_dev != Path(studio.path).stat().st_dev
    with studio.open() as root:
        integrator.publish(film_request(studio), root)
        with root.begin(project="film") as assembly:
            assembly.replace_file(f"{film}/edit.json", b"old")
        with root.begin(project="film") as assembly:
            assembly.replace_file(f"{film}/edit.json", b"new")
        [kept] = os.listdir(film / ".integrator/trash")
        assert sorted(path.read_bytes() for path in (film / ".integrator/trash" / kept).iterdir()) == [b"old"]
        assert {entry.kind for entry in sweep(root, older_than=-1.0)} == {"trash"}
    assert left(film) == []
    assert studio.leftovers() == []


@pytest.mark.parametrize("transfer", ["copy", "move"])
def test_killed_at_any_call_it_is_recovered_on_the_file_system_of_the_project(studio: Studio, film: Path, transfer: str) -> None:
    sources = studio.sources
    done = Fate()
    with studio.open(done) as root:
        integrator.publish(film_request(studio), root)
    for number in range(2, len(done.calls), 7):
        studio.sources = f"{studio.folder}/again-{number}"
        shutil.copytree(sources, studio.sources)
        with contextlib.suppress(Killed), studio.open(Fate(kill_at=number, when="after"), owner=studio.dead) as root:
            integrator.publish(film_request(studio, f"job-{number}", transfer), root)
        studio.recover()
        assert left(film) == []
        assert studio.leftovers() == []
    studio.sources = sources


def test_a_moved_source_goes_once_its_copy_on_the_other_file_system_is_published(studio: Studio, film: Path) -> None:
    sources, studio.sources = studio.sources, f"{studio.folder}/moved"
    shutil.copytree(sources, studio.sources)
    with studio.open() as root:
        integrator.publish(film_request(studio, transfer="move"), root)
    assert [name for name in os.listdir(studio.sources) if name.endswith(".exr")] == []
    assert len(list(film.rglob("*.exr"))) == studio.frames
    studio.sources = sources


def test_a_failure_rolls_back_on_the_file_system_of_the_project(studio: Studio, film: Path) -> None:
    with studio.open() as root, pytest.raises(ZeroDivisionError), root.begin(project="film") as assembly:
        version = assembly.new_version(asset="hero", subset="modelMain", family="model")
        version.copy(f"{studio.sources}/cam.abc")
        raise ZeroDivisionError
    assert left(film) == []
    assert list(film.rglob("*.abc")) == []


def test_a_hard_link_into_the_project_is_refused_before_the_first_write_or_copied(studio: Studio, film: Path) -> None:
    before = sorted(film.rglob("*"))
    with studio.open() as root, pytest.raises(ValidationRefused, match="on another file system"):
        integrator.publish(film_request(studio, transfer="hardlink"), root)
    assert sorted(film.rglob("*")) == before
    config = Path(studio.path, ".integrator/config.toml")
    config.write_text(config.read_text() + 'link_fallback = "copy"\n')
    with studio.open() as root:
        assert integrator.publish(film_request(studio, transfer="hardlink"), root).outcome == "published"


def test_a_bind_mount_of_the_same_file_system_is_another_place_all_the_same(studio: Studio) -> None:
    """It has the same device number, and yet no link leads into it."""
    elsewhere, bound = Path(studio.folder, "elsewhere"), Path(studio.path, "film")
    elsewhere.mkdir(mode=0o2775)
    bound.mkdir()
    command("mount", "--bind", elsewhere, bound)
    try:
        assert bound.stat().st_dev == Path(studio.sources).stat().st_dev
        with studio.open() as root:
            with pytest.raises(ValidationRefused, match="in another mount"):
                integrator.publish(film_request(studio, transfer="hardlink"), root)
            assert list(elsewhere.iterdir()) == []
            assert integrator.publish(film_request(studio), root).outcome == "published"
        assert studio.leftovers() == []
    finally:
        command("umount", bound)


def test_what_is_mounted_deeper_than_a_project_is_refused_before_the_first_write(studio: Studio) -> None:
    """Nothing there could be renamed into the trash of the project."""
    deeper = Path(studio.path, "demo/sh020")
    deeper.mkdir()
    command("mount", "-t", "tmpfs", "none", deeper)
    try:
        request = studio.request("job")
        for instance in request["instances"]:
            instance.update(asset="sh020", hierarchy="")
        request["instances"][0]["representations"].pop()
        with studio.open() as root:
            with pytest.raises(RootRefused, match="on another mount than"):
                integrator.publish(request, root)
            with pytest.raises(RootRefused), root.begin(project="demo") as assembly:
                assembly.replace_file(f"{deeper}/edit.json", b"{}")
        assert list(deeper.iterdir()) == []
        assert studio.leftovers() == []
    finally:
        command("umount", deeper)


def test_a_project_that_is_not_mounted_settles_nothing_and_is_not_published_into(
    studio: Studio, film: Path, tmp_path: Path
) -> None:
    if not (tmp_path / "film.img").exists():
        pytest.skip("SKIPPED, NOT TESTED: no mkfs.ext4, and what is in memory is gone when it is unmounted")
    with studio.open(Fate(kill_at=40, when="after"), owner=studio.dead) as root, pytest.raises(Killed):
        integrator.publish(film_request(studio), root)
    assert left(film)
    with studio.open() as root:
        command("umount", film)
        [settled] = recover(root.engine)
        assert settled.outcome == "in_doubt"
        assert "not mounted" in settled.message
        with pytest.raises((RootMissing, UsageError)):
            integrator.publish(film_request(studio, "other"), root)
        assert list(film.iterdir()) == []
        command("mount", "-o", "loop", tmp_path / "film.img", film)
        assert [settled.outcome for settled in recover(root.engine)] == ["rolled_back"]
        assert queries.versions(root, "film") == []
    assert left(film) == []
    assert studio.leftovers() == []
