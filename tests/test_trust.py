"""A publish root whose own folder is damaged, incomplete or in the hands of strangers is refused with what to do about it."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from studio import Studio

import integrator
from integrator.cli import main
from integrator.errors import DatabaseDamaged, RootRefused
from integrator.root import open_root
from integrator.testing import Fate, Killed

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
OWN = ["", "config.toml", "publish.sqlite3", "journal", "history"]
STRANGER = 4711


def refused(studio: Studio) -> RootRefused:
    with pytest.raises(RootRefused) as caught:
        open_root(studio.path)
    assert caught.value.exit_code == 2
    assert "Nothing was touched" in caught.value.message
    return caught.value


def mend(error: RootRefused) -> None:
    """Run the command that the error names."""
    subprocess.run(shlex.split(error.next.rpartition("then: ")[2]), check=True)


@pytest.mark.parametrize("name", OWN)
def test_what_anybody_can_write_is_refused_until_the_command_is_run(studio: Studio, name: str) -> None:
    path = Path(studio.path, ".integrator", name)
    path.chmod(path.stat().st_mode | 0o002)
    error = refused(studio)
    assert "anybody can write" in error.message
    assert str(path) in error.message
    mend(error)
    studio.open().close()


@as_root
@pytest.mark.parametrize("name", OWN)
def test_what_belongs_to_a_stranger_is_refused_until_the_command_is_run(studio: Studio, name: str) -> None:
    path = Path(studio.path, ".integrator", name)
    os.chown(path, STRANGER, STRANGER)
    error = refused(studio)
    assert f"belongs to a stranger (user {STRANGER})" in error.message
    mend(error)
    studio.open().close()


@as_root
@pytest.mark.parametrize("name", OWN)
def test_what_another_group_can_write_is_refused_until_the_command_is_run(studio: Studio, name: str) -> None:
    path = Path(studio.path, ".integrator", name)
    os.chown(path, -1, STRANGER)
    path.chmod(path.stat().st_mode | 0o020)
    error = refused(studio)
    assert f"by a group (group {STRANGER})" in error.message
    mend(error)
    studio.open().close()


@as_root
def test_another_group_that_only_reads_is_no_stranger(studio: Studio) -> None:
    for name in OWN:
        path = Path(studio.path, ".integrator", name)
        os.chown(path, -1, STRANGER)
        path.chmod(path.stat().st_mode & ~0o022)
    studio.open().close()


@as_root
def test_a_root_that_a_group_shares_is_opened_whoever_of_it_made_what(studio: Studio) -> None:
    os.chown(studio.path, 4712, STRANGER)
    for path in [Path(studio.path, ".integrator"), *Path(studio.path, ".integrator").rglob("*")]:
        os.chown(path, 4713, STRANGER)
        path.chmod(0o2775 if path.is_dir() else 0o664)
    with studio.open() as root:
        integrator.publish(studio.request(), root)


@pytest.mark.parametrize("name", ["journal", "history"])
def test_a_folder_that_is_missing_is_named_with_what_it_means_and_the_way_out(
    studio: Studio, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(studio.path, ".integrator", name)
    path.rename(path.with_name("away"))
    error = refused(studio)
    assert f"{path} is missing" in error.message
    assert "what is published is not concerned" in error.message
    assert main(["status", "--root", studio.path]) == 2
    assert "Traceback" not in capsys.readouterr().err
    subprocess.run(shlex.split(error.next.partition("anew: ")[2].partition(";")[0]), check=True)
    assert main(["recover", "--root", studio.path]) == 0
    assert studio.leftovers() == []


def test_a_journal_folder_made_anew_lets_recovery_go_by_the_database(studio: Studio) -> None:
    with pytest.raises(Killed), studio.open(Fate(kill_at=20), owner=studio.dead) as root:
        integrator.publish(studio.request(), root)
    path = Path(studio.path, ".integrator/journal")
    path.rename(path.with_name("away"))
    error = refused(studio)
    subprocess.run(shlex.split(error.next.partition("anew: ")[2].partition(";")[0]), check=True)
    assert [settled.outcome for settled in studio.recover()] == ["rolled_back"]
    assert studio.leftovers() == []


def test_a_file_where_the_journals_should_be_is_refused(studio: Studio) -> None:
    path = Path(studio.path, ".integrator/journal")
    path.rmdir()
    path.write_text("a file")
    assert "is no folder" in refused(studio).message


@pytest.mark.parametrize("damage", ["other", "pages"])
def test_a_damaged_database_is_said_with_exit_6_and_nothing_is_touched(
    studio: Studio, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Path(studio.path, ".integrator/publish.sqlite3")
    with database.open("r+b") as file:
        if damage == "other":
            file.write(b"this is no database at all")
        else:
            file.seek(4096)
            file.write(b"\xff" * (database.stat().st_size - 4096))
    before, content = studio.tree(), database.read_bytes()
    with pytest.raises(DatabaseDamaged, match="is damaged"), studio.open() as root:
        integrator.publish(studio.request("after"), root)
    assert main(["check", "--root", studio.path]) == 6
    told = capsys.readouterr().err
    assert "Nothing that is published was touched" in told
    assert "next: keep" in told
    assert studio.tree() == before
    assert database.read_bytes() == content
