"""What `integrator doctor` sees, what it mends, and that it leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from people import ADMINISTRATOR, ARTIST, FARM, GROUP, Place, as_root, place
from studio import Studio

import integrator
from integrator import cli, doctor, mounts
from integrator.database.sqlite import SQLiteDatabase
from integrator.doctor import Finding, examine
from integrator.mounts import Mount
from integrator.root import create_root
from integrator.storage import Storage
from integrator.sweep import sweep
from integrator.testing import CrashingStorage, Fate, Killed

__all__ = ["place"]


def wrong(path: str, **options: Any) -> list[Finding]:
    return [finding for finding in examine(path, **options) if finding.severity != "note"]


def everything(path: str) -> set[str]:
    """All names below a root, without the files that SQLite makes and removes."""
    return {
        os.path.join(here, name)
        for here, folders, files in os.walk(path)
        for name in [*folders, *files]
        if "-" not in name and "history" not in here
    }


def test_a_good_root_is_well_and_nothing_is_left_there(studio: Studio) -> None:
    before, tree = everything(studio.path), studio.tree()
    assert wrong(studio.path) == []
    assert (everything(studio.path), studio.tree()) == (before, tree)
    assert studio.leftovers() == []


def test_the_answer_is_one_document_and_its_exit_code(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    assert cli.main(["doctor", "--root", studio.path, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert all(finding.keys() == {"kind", "severity", "path", "message", "next", "fixed"} for finding in answer["findings"])
    Path(studio.path, ".integrator/journal").chmod(0o700)
    assert cli.main(["doctor", "--root", studio.path]) == 3
    assert "integrator --root" in capsys.readouterr().out
    assert cli.main(["doctor", "--root", studio.path, "--fix"]) == 0
    assert "fixed: " in capsys.readouterr().out
    assert cli.main(["doctor", "--root", studio.path]) == 0


def test_killed_anywhere_it_leaves_nothing_that_a_sweep_does_not_take(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Fate()
    monkeypatch.setattr(doctor, "Storage", lambda: CrashingStorage(whole))
    examine(studio.path)
    before = everything(studio.path)
    assert len(whole.calls) > 20
    for number in range(1, len(whole.calls) + 1):
        monkeypatch.setattr(doctor, "Storage", lambda n=number: CrashingStorage(Fate(kill_at=n, when="after")))
        with contextlib.suppress(Killed):  # a trash folder that is there saves it a call
            examine(studio.path)
        assert all("/.integrator/trash" in path for path in everything(studio.path) - before)
        with studio.open() as root:
            sweep(root, older_than=0.0)
        assert {path for path in everything(studio.path) - before if not path.endswith("/trash")} == set()


@pytest.mark.parametrize("name", ["", "journal", "history", "publish.sqlite3"])
def test_what_anybody_can_write_is_an_error_and_mended(studio: Studio, name: str) -> None:
    path = Path(studio.path, ".integrator", name)
    path.chmod(path.stat().st_mode | 0o002)
    found = {finding.path: finding for finding in wrong(studio.path)}[str(path)]
    assert (found.severity, found.next) == ("error", "integrator doctor --fix")
    assert "anybody" in found.message
    assert all(finding.fixed for finding in wrong(studio.path, fix=True))
    assert wrong(studio.path) == []


@pytest.mark.parametrize("name", ["journal", "history"])
def test_a_missing_folder_of_the_engine_is_made_again(studio: Studio, name: str) -> None:
    subprocess.run(["rm", "-r", f"{studio.path}/.integrator/{name}"], check=True)
    with pytest.raises(integrator.errors.RootRefused) as refused:  # type: ignore[attr-defined]
        integrator.open_root(studio.path)
    assert "is missing" in refused.value.message
    assert [finding.kind for finding in wrong(studio.path)] == ["permissions", "root"]
    assert [finding.fixed for finding in wrong(studio.path, fix=True)] == [True]
    assert wrong(studio.path) == []


@pytest.mark.root
@as_root
def test_in_a_shared_root_whoever_owns_it_mends_what_others_cannot_use(place: Place) -> None:
    assert ADMINISTRATOR.integrator("init", place.show, "--shared", "--group", str(GROUP)).code == 0
    assert ARTIST.publish(place.show, place.request(ARTIST)).code == 0
    for person in (ARTIST, FARM, ADMINISTRATOR):
        assert person.integrator("doctor", "--root", place.show).code == 0
    [trash, subset] = [f"{place.show}/demo/.integrator/trash", f"{place.show}/demo/hero/publish/pointcache/cacheHair"]
    os.chmod(trash, 0o755)
    os.chmod(subset, 0o755)
    [journal] = Path(place.show, ".integrator/history").rglob("*.journal")
    os.chown(journal, ARTIST.uid, ARTIST.uid)
    os.chmod(journal, 0o600)
    said = FARM.integrator("doctor", "--fix", "--root", place.show, "--json")
    assert said.code == 3
    found = {finding["path"]: finding for finding in said.json["findings"] if finding["severity"] != "note"}
    assert found.keys() == {trash, str(journal), subset}
    assert not any(finding["fixed"] for finding in found.values())
    assert found[str(journal)]["next"].startswith("as its owner or root")
    assert found[subset]["next"].startswith(f"chgrp -R {GROUP} {place.show}/demo && find")
    mended = ARTIST.integrator("doctor", "--fix", "--root", place.show, "--json").json["findings"]
    assert {finding["path"] for finding in mended if finding["fixed"]} == {trash, str(journal)}
    subprocess.run(found[subset]["next"], shell=True, check=True)
    assert FARM.integrator("doctor", "--root", place.show).code == 0
    assert place.wrong() == []


def test_what_a_file_system_lacks_is_said_and_the_rest_is_tried(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    class Poor(Storage):
        def exchange(self, *arguments: Any) -> None:
            raise OSError(errno.EINVAL, "no")

        link = clone = exchange

        def sync_filesystem(self, fd: int) -> None:
            raise OSError(errno.ENOSYS, "no")

    monkeypatch.setattr(doctor, "Storage", Poor)
    found = [finding for finding in examine(studio.path) if finding.kind == "features"]
    said = " ".join(finding.message for finding in found)
    for word in ("exchange", "hard links", "reflinks", "durable"):
        assert word in said
    assert [finding.severity for finding in found if "durable" in finding.message] == ["warning"]
    assert [finding.severity for finding in found if "hard links" in finding.message] == ["note"]


@pytest.mark.parametrize(
    ("option", "severity"),
    [("ro", "error"), ("nobarrier", "warning"), ("barrier=0", "warning"), ("data=writeback", "warning"), ("soft", "warning"),
     ("noatime", ""), ("barrier=1", ""), ("data=ordered", "")],
)  # fmt: skip
def test_options_of_mounts_that_take_from_the_promise_are_named(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, option: str, severity: str
) -> None:
    name, _, value = option.partition("=")
    options = (("rw" if name != "ro" else "ro", ""), (name, value))
    one = Mount(id=1, device="0:1", path="/show", kind="ext4", source="/dev/sda", options=options)
    table = dict.fromkeys(mounts.read_mounts(), one)
    monkeypatch.setattr(mounts, "read_mounts", lambda text=None: table)
    found = {finding.severity for finding in examine(studio.path) if finding.kind == "mount"}
    assert found == ({severity} if severity else set())


def test_a_database_that_is_damaged_is_an_error(studio: Studio) -> None:
    with studio.open() as root:
        assert isinstance(root.engine.database, SQLiteDatabase)
        root.engine.database._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path = Path(studio.path, ".integrator/publish.sqlite3")
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 4] = b"\xff" * 4096
    path.write_bytes(content)
    assert {(finding.kind, finding.severity) for finding in wrong(studio.path)} & {("database", "error"), ("root", "error")}


def test_a_clock_that_is_off_is_said(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SQLiteDatabase, "now", lambda self: 0.0)
    assert [finding.kind for finding in wrong(studio.path)] == ["clock"]


def test_a_staging_directory_of_nobody_is_named_with_the_command_that_removes_it(studio: Studio) -> None:
    path = Path(studio.path, "demo/shots/sq01/sh010/publish/camera/camera", f"v007.tmp.{'0' * 24}")
    path.mkdir()
    assert [(finding.kind, finding.path, finding.next) for finding in wrong(studio.path)] == [
        ("staging", str(path), "integrator sweep")
    ]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)], check=True, timeout=10)
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


@pytest.mark.root
@as_root
def test_a_full_and_a_read_only_mount_are_named(small: Path) -> None:
    create_root(str(small)).close()
    assert wrong(str(small)) == []
    (small / "full").write_bytes(bytes(15 << 19))
    assert [(finding.kind, finding.next) for finding in wrong(str(small))] == [("space", "integrator sweep")]
    (small / "full").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True, timeout=10)
    try:
        found = wrong(str(small))
        assert {finding.severity for finding in found} == {"error"}
        assert {finding.kind for finding in found} <= {"mount", "root", "permissions"}
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True, timeout=10)


@pytest.mark.root
@as_root
def test_a_mount_inside_a_project_is_named_and_one_that_is_a_project_is_not(studio: Studio) -> None:
    inside = Path(studio.path, "demo/shots/sq02")
    inside.mkdir()
    project = Path(studio.path, "other/.integrator")
    project.mkdir(parents=True)
    for folder in (inside, project.parent):
        subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True, timeout=10)
    try:
        (project.parent / ".integrator").mkdir()
        (project.parent / ".integrator").chmod(0o2775)
        found = wrong(studio.path)
        assert [(finding.kind, finding.path) for finding in found] == [("mount", str(inside))]
    finally:
        for folder in (inside, project.parent):
            subprocess.run(["umount", str(folder)], check=True, timeout=10)
