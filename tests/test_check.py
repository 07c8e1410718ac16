"""`check` finds everything that is not as the documents say, tells what to do about it, and writes nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from studio import Studio

import integrator
from integrator.check import Finding, check
from integrator.cli import main
from integrator.database import PROJECT, Delete

CAMERA = "demo/shots/sq01/sh010/publish/camera/camera"


def found(studio: Studio, *, checksums: bool = False) -> list[Finding]:
    with studio.open() as root:
        return check(root, checksums=checksums)


def kinds(studio: Studio, *, checksums: bool = False) -> list[str]:
    return [finding.kind for finding in found(studio, checksums=checksums)]


@pytest.fixture
def resource(studio: Studio) -> Path:
    return Path(studio.path, CAMERA, "v001/resources/deep/cam.abc")


def test_nothing_is_wrong_with_a_fresh_publish(studio: Studio) -> None:
    assert found(studio, checksums=True) == []


def test_a_resource_that_is_gone_is_missing(studio: Studio, resource: Path) -> None:
    resource.unlink()
    [finding] = found(studio)
    assert (finding.kind, finding.path) == ("missing_file", str(resource))
    assert "integrator show" in finding.next


def test_a_resource_of_another_size_or_content_has_changed(studio: Studio, resource: Path) -> None:
    content = resource.read_bytes()
    resource.write_bytes(content + b"!")
    assert kinds(studio) == ["changed_file"]
    resource.write_bytes(content.swapcase())
    assert kinds(studio) == []
    assert kinds(studio, checksums=True) == ["changed_file"]


def test_a_published_link_to_nothing_is_found(studio: Studio) -> None:
    inside = Path(studio.path, "work.abc")
    inside.write_bytes(b"cache")
    asked = studio.request("link")
    asked["instances"] = asked["instances"][1:]
    asked["instances"][0]["representations"] = [{"name": "abc", "files": [str(inside)], "transfer": "symlink"}]
    with studio.open() as root:
        [version] = integrator.publish(asked, root).versions
    assert found(studio, checksums=True) == []
    inside.unlink()
    [finding] = found(studio, checksums=True)
    assert (finding.kind, finding.path) == ("dangling_link", version.representations[0].files[0])
    assert finding.next


def test_a_version_directory_that_is_gone_is_one_finding(studio: Studio) -> None:
    shutil.rmtree(Path(studio.path, CAMERA, "v001"))
    [finding] = found(studio)
    assert (finding.kind, finding.path) == ("missing_folder", os.path.join(studio.path, CAMERA, "v001"))
    assert "publish again" in finding.next


def test_a_file_that_may_not_be_read_is_a_finding(studio: Studio, resource: Path) -> None:
    resource.parent.rename(resource.parent.with_name("other"))
    resource.parent.write_bytes(b"a file where a folder was")
    assert kinds(studio) == ["unreadable_file"]


def test_a_foreign_version_is_said_and_no_problem(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = Path(studio.path, CAMERA, "v007")
    foreign.mkdir()
    [finding] = found(studio)
    assert (finding.kind, finding.path, finding.wrong) == ("undocumented_version", str(foreign), False)
    assert main(["check", "--root", studio.path]) == 0
    out = capsys.readouterr().out
    assert out.endswith("all is well\n")
    assert str(foreign) in out


def test_a_version_of_ours_that_lost_its_documents_is_a_problem(studio: Studio) -> None:
    with studio.open() as root:
        versions = root.documents("demo", {"type": "version"})
        [camera] = [entry for entry in versions if "/camera/camera/" in entry["data"]["integrator"]["folder"]]
        children = root.documents("demo", {"type": "representation", "parent": camera["_id"]})
        collection = PROJECT + "demo"
        root.engine.database.commit([Delete(collection=collection, id=camera["_id"], expect={"name": 1})])
        orphans = check(root)
        gone = [Delete(collection=collection, id=entry["_id"], expect={"name": "abc"}) for entry in children]
        root.engine.database.commit(gone)
        [finding] = check(root)
    assert [entry.kind for entry in orphans] == ["database"]
    assert all(entry.next for entry in orphans)
    transaction = camera["data"]["integrator"]["transaction"]
    assert (finding.kind, finding.wrong) == ("undocumented_version", True)
    assert transaction in finding.message
    assert transaction in finding.next


def test_a_publish_that_runs_is_no_finding(studio: Studio) -> None:
    asked = studio.request("second")
    seen: list[Finding] = []

    def look(*_: int) -> None:
        seen.extend(found(studio))

    with studio.open() as root:
        integrator.publish(asked, root, watch=look)
    assert seen == []
