"""What is mounted where, and where SQLite is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fuse_mount
import pytest
from people import as_root
from studio import Studio

import integrator
from integrator import mounts
from integrator.database.sqlite import SQLiteDatabase, refuse_network
from integrator.errors import RootRefused
from integrator.mounts import Mount, mount_id, mount_of, read_mounts


def mount(kind: str, source: str = "none") -> Mount:
    return Mount(id=1, device="0:1", path="/show", kind=kind, source=source, options=())


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("nfs", "filer:/show"), ("nfs4", "filer:/show"), ("cifs", "//filer/show"), ("smb3", "//filer/show"), ("afs", "#cell"),
        ("ceph", "10.0.0.1:/"), ("lustre", "mgs@tcp:/show"), ("gpfs", "gpfs1"), ("beegfs", "beegfs_nodev"), ("9p", "share"),
        ("vboxsf", "show"), ("fuse.sshfs", "filer:/show"), ("fuse.glusterfs", "filer:show"), ("fuse.ceph-fuse", "ceph-fuse"),
        ("fuse.rclone", "remote:show"), ("fuse.unheard-of", "filer:/show"), ("fuse", "//filer/show"), ("fuse.LucidLink", "x"),
    ],
)  # fmt: skip
def test_a_file_system_that_other_machines_write_to_is_a_network_file_system(kind: str, source: str) -> None:
    assert mount(kind, source).is_network


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("ext4", "/dev/sda1"), ("xfs", "/dev/mapper/a:b"), ("btrfs", "/dev/sda1"), ("zfs", "tank/show"), ("tmpfs", "tmpfs"),
        ("overlay", "overlay"), ("virtiofs", "share"), ("fuse.bindfs", "/show"), ("fuseblk", "/dev/sdb1"), ("fuse", "lxcfs"),
    ],
)  # fmt: skip
def test_any_other_file_system_is_none(kind: str, source: str) -> None:
    assert not mount(kind, source).is_network


def test_a_line_of_the_kernel_is_read_with_all_that_may_stand_in_it() -> None:
    text = "36 35 98:0 /mnt1 /my\\040show rw,noatime master:1 shared:2 - ext3 /dev/a\\134b ro,errors=continue,barrier=0\n"
    [found] = read_mounts(text).values()
    assert (found.id, found.device, found.path, found.kind, found.source) == (36, "98:0", "/my show", "ext3", "/dev/a\\b")
    assert (found.option("errors"), found.option("noatime"), found.option("ro"), found.option("x")) == ("continue", "", "", None)


def test_a_path_lies_in_the_mount_that_the_kernel_says(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "not" / "there", Path("/proc/self/status"), Path("/")):
        found = mount_of(str(path))
        assert found is not None
        there = path if path.exists() else tmp_path
        if found.kind != "btrfs":
            device = os.stat(there).st_dev
            assert found.device == f"{os.major(device)}:{os.minor(device)}"


def test_sqlite_is_refused_on_a_network_file_system_and_the_ways_out_are_named(tmp_path: Path) -> None:
    table = f"{mount_id(str(tmp_path))} 1 0:50 / /show rw - nfs4 filer:/show rw,vers=4.2"
    with pytest.raises(RootRefused) as refused:
        refuse_network(str(tmp_path / "publish.sqlite3"), table)
    assert "network file system (nfs4 at /show)" in refused.value.message
    for way in ("MongoDB", "--database sqlite:///local/path", "--state"):
        assert way in refused.value.next
    refuse_network(str(tmp_path / "publish.sqlite3"), table.replace("nfs4 filer:/show", "ext4 /dev/sda1"))


def test_a_root_whose_file_system_became_a_network_one_is_not_opened(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_mounts()
    other = {id: Mount(id=id, device="0:1", path="/", kind="nfs", source="filer:/", options=()) for id in before}
    monkeypatch.setattr(mounts, "read_mounts", lambda text: other)
    with pytest.raises(RootRefused):
        integrator.open_root(studio.path)


@pytest.fixture
def sshfs(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "remote").mkdir()
    try:
        with fuse_mount.mounted(str(tmp_path / "remote"), "sshfs", "anna@filer:/show"):
            yield tmp_path / "remote"
    except OSError as error:
        pytest.skip(f"SKIPPED, NOT TESTED: no file system of type fuse here ({error})")


@pytest.mark.root
@as_root
def test_on_a_real_fuse_file_system_a_root_is_refused_before_anything_is_made(sshfs: Path) -> None:
    with pytest.raises(RootRefused, match=r"fuse\.sshfs"):
        SQLiteDatabase(str(sshfs / "publish.sqlite3"))
    done = subprocess.run(
        [sys.executable, "-m", "integrator", "init", str(sshfs / "show")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "network file system (fuse.sshfs" in done.stderr
    assert "--state" in done.stderr
