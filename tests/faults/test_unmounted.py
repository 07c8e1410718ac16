"""A root that is not mounted settles nothing: absence of files below an empty mount point proves nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import integrator
from faults.harness import Disk, Driver, Run, Studio, configure, find, request, told
from integrator.check import check
from integrator.root import create_root, open_root

pytestmark = [pytest.mark.timeout(600), pytest.mark.root]

FOLDER = "{root[fast]}/{project[name]}/{hierarchy}/{asset}/publish/{family}/{subset}/{@version}"


class TwoRoots:
    """A publish root on one file system whose versions lie on another one that can be unmounted."""

    def __init__(self, studio: Studio, disk: Disk) -> None:
        self.disk = disk
        self.run = Run(studio, os.path.join(studio.folder, f"two-{os.path.basename(disk.path)}"))
        os.makedirs(self.run.area)
        create_root(self.run.show, templates={"folder": FOLDER}).close()
        with open(Path(self.run.show, ".integrator/config.toml"), "a") as file:
            file.write(f'\n[roots]\nfast = "{disk.path}"\n')
        configure(self.run.show, 'workers = 1\nlink_fallback = "copy"\n')
        create_root(self.run.show).close()  # marks the second root
        with open_root(self.run.show) as root:
            integrator.publish(request(studio.sources, "history"), root)

    def published(self) -> list[str]:
        """Names below the second root, the engine's own aside."""
        found = (os.path.join(folder, name) for folder, folders, files in os.walk(self.disk.path) for name in [*folders, *files])
        return sorted(path for path in found if ".integrator" not in path and "lost+found" not in path)

    def publish(self, publish_id: str, mode: str | None = "record") -> tuple[int | None, list[int]]:
        """Exit code of a publish, and numbers of the calls around the reveal."""
        job = self.run.start("publish", mode, request=request(self.run.studio.sources, publish_id))
        ending = job.wait()
        calls = job.calls()
        syncs = [call.number for call in calls if call.name == "fdatasync" and call.path.endswith("-wal")]
        return ending.code, [find(calls, "write", r"/journal/").number, *syncs] if ending.code == 0 and calls else []

    def assert_whole(self) -> None:
        with open_root(self.run.show) as root:
            assert check(root, checksums=True) == []
        assert not [path for path in self.published() if re.search(r"\.tmp\.", path)]


def test_a_root_that_is_not_mounted_settles_nothing_until_it_is_back(studio: Studio, disk: Disk) -> None:
    two = TwoRoots(studio, disk)
    run = two.run
    code, numbers = two.publish("whole")
    assert code == 0
    for number in numbers:
        before = two.published()
        code, _ = two.publish(f"killed-{number}", f"kill-after:{number}")
        assert code is None
        left, rows = two.published(), run.rows()
        disk.unmount()
        ending, settled = run.finish("recover")
        assert ending.code == 0
        assert [one["outcome"] for one in settled] in (["in_doubt"], []), settled
        assert run.rows() == rows, "something was decided about a root that is not there"
        code, _ = two.publish("another", None)
        assert code == 6
        assert run.rows() == rows
        assert os.listdir(disk.path) == [], "something was written below the mount point"
        disk.mount()
        assert two.published() == left
        run.recover()
        assert two.published() in (before, left)
        two.assert_whole()
    told(f"unmounted after {len(numbers)} kills")
    assert len(numbers) > 3
    run.remove()


@pytest.fixture(autouse=True)
def _needs(driver: Driver) -> None:
    """The driver must not hold anything open on the disk."""
