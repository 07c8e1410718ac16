"""Several named roots: publishes that go to the second one, sources from it, and recovery there."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from studio import Studio

import integrator
from integrator import queries
from integrator.check import check
from integrator.doctor import examine
from integrator.errors import RootMissing
from integrator.root import create_root
from integrator.testing import Fate, Killed

_RENDER = "{root[render]}/{project[name]}/{hierarchy}/{asset}/publish/{family}/{subset}/{@version}"


@pytest.fixture
def render(studio: Studio) -> Path:
    """A second root, on which everything is published from now on."""
    folder = Path(studio.folder, "render-disk")
    folder.mkdir(mode=0o2775)
    config = Path(studio.path, ".integrator/config.toml")
    config.write_text(config.read_text() + f'[roots]\nrender = "{folder}"\n[templates]\nfolder = "{_RENDER}"\n')
    create_root(studio.path).close()
    return folder


def camera(studio: Studio, publish_id: str, *files: str) -> dict[str, Any]:
    representations = [{"name": "abc", "files": list(files or [f"{studio.sources}/cam.abc"])}]
    instance = {"asset": "sh020", "subset": "camera", "family": "camera", "representations": representations}
    return studio.request(publish_id, instances=[instance])


def test_each_root_has_the_id_of_the_publish_root(studio: Studio, render: Path) -> None:
    assert (render / ".integrator/id").read_text() == Path(studio.path, ".integrator/id").read_text()
    assert os.listdir(render / ".integrator") == ["id"]


def test_a_template_sends_versions_to_the_second_root_and_documents_name_it(studio: Studio, render: Path) -> None:
    with studio.open() as root:
        result = integrator.publish(camera(studio, "job"), root)
        [version] = result.versions
        assert version.path == str(render / "demo/sh020/publish/camera/camera/v001")
        [document] = root.documents("demo", {"type": "representation", "context.asset": "sh020"})
        assert [file["path"].partition("/")[0] for file in document["files"]] == ["{root[render]}"]
        found = [entry["path"] for entry in queries.versions(root, "demo", "sh020")]
        assert found == [version.path]
        assert check(root, checksums=True) == []
    assert (render / "demo/.integrator/trash").is_dir()
    assert [finding for finding in examine(studio.path) if finding.severity != "note"] == []


def test_sources_may_lie_in_a_named_root(studio: Studio, render: Path) -> None:
    shutil.copy(f"{studio.sources}/cam.abc", render / "cam.abc")
    with studio.open() as root:
        [version] = integrator.publish(camera(studio, "job", "{root[render]}/cam.abc"), root).versions
    assert Path(version.path, version.representations[0].names[0]).read_bytes() == (render / "cam.abc").read_bytes()


def test_killed_at_any_call_the_second_root_is_recovered(studio: Studio, render: Path) -> None:
    done = Fate()
    with studio.open(done) as root:
        integrator.publish(camera(studio, "first"), root)
    for number in range(1, len(done.calls) + 1, 2):
        with contextlib.suppress(Killed), studio.open(Fate(kill_at=number, when="after"), owner=studio.dead) as root:
            integrator.publish(camera(studio, f"job-{number}"), root)
        studio.recover()
        assert studio.leftovers() == []
        assert list(render.rglob("*.tmp.*")) == []


@pytest.mark.parametrize("damage", ["gone", "empty", "another"])
def test_a_second_root_that_is_not_the_right_one_settles_nothing(studio: Studio, render: Path, damage: str) -> None:
    with studio.open(Fate(kill_at=14, when="after"), owner=studio.dead) as root, pytest.raises(Killed):
        integrator.publish(camera(studio, "job"), root)
    away = render.with_name("away")
    render.rename(away)
    if damage != "gone":
        render.mkdir()
    if damage == "another":
        (render / ".integrator").mkdir()
        (render / ".integrator/id").write_text("0" * 24)
    [settled] = studio.recover()
    assert settled.outcome == "in_doubt"
    with studio.open() as root, pytest.raises(RootMissing):
        integrator.publish(camera(studio, "other"), root)
    assert "root" in {finding.kind for finding in examine(studio.path)}
    if damage != "gone":
        shutil.rmtree(render)
    away.rename(render)
    assert [settled.outcome for settled in studio.recover()] == ["rolled_back"]
    assert studio.leftovers() == []
