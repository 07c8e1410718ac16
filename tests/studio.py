"""A small studio for tests: sources, a publish root with a history, and ways to open it, damage it and compare it."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

import integrator
from integrator import queries
from integrator.check import check
from integrator.database import CLAIMS, LEASES, PROJECT, TRANSACTIONS
from integrator.journal import Journals
from integrator.leases import this_process
from integrator.model import Owner
from integrator.recovery import Settled, recover
from integrator.renewal import Renewal
from integrator.root import Root, create_root, open_root
from integrator.settings import LeaseTimes
from integrator.testing import CrashingDatabase, CrashingStorage, Fate

Tree = dict[str, tuple[Any, ...]]


def fast_folder() -> str:
    """A folder in memory where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


def dead_owner() -> Owner:
    """The owner that a process of this machine was that does not run any more."""
    child = subprocess.Popen(["true"])
    child.wait()
    return attrs.evolve(this_process("tests"), pid=child.pid, started=1)


class Studio:
    """Sources and one publish root. `fresh` copies it, so that every run starts from the same state."""

    def __init__(self, folder: str, frames: int = 10) -> None:
        self.folder = folder
        self.sources = os.path.join(folder, "sources")
        self.path = os.path.join(folder, "show")
        self.frames = frames
        os.makedirs(self.sources)
        for n in range(frames):
            content = hashlib.sha256(str(n).encode()).digest() * 40
            Path(self.sources, f"beauty.{1001 + n}.exr").write_bytes(content)
        Path(self.sources, "cam.abc").write_bytes(b"cache" * 100)
        with create_root(self.path) as root:
            integrator.publish(self.request("history"), root)
        self.dead = dead_owner()

    def request(self, publish_id: str | None = None, **changes: Any) -> dict[str, Any]:
        """20 files with the default of 10 frames, in 2 publish instances: copies, hard links and a resource."""
        beauty = [
            {"name": "exr", "files": [f"{self.sources}/beauty.%04d.exr"]},
            {"name": "proxy", "files": [f"{self.sources}/beauty.%04d.exr"], "transfer": "hardlink", "frames": "1001-1008",
             "output": "proxy"},
        ]  # fmt: skip
        camera = [{"name": "abc", "files": [f"{self.sources}/cam.abc"]}]
        resource = [{"files": [f"{self.sources}/cam.abc"], "folder": "resources/deep"}]
        instances = [
            {"asset": "sh010", "hierarchy": "shots/sq01", "subset": "renderBeauty", "family": "render",
             "representations": beauty},
            {"asset": "sh010", "hierarchy": "shots/sq01", "subset": "camera", "family": "camera",
             "representations": camera, "resources": resource},
        ]  # fmt: skip
        whole = {"schema": "integrator:publish-request-1.0", "project": "demo", "author": "anna", "instances": instances}
        if publish_id is not None:
            whole["publish_id"] = publish_id
        return {**whole, **changes}

    def fresh(self, name: str = "run") -> Studio:
        """A copy of this studio that shares its sources."""
        copy: Studio = object.__new__(Studio)
        copy.__dict__.update(self.__dict__)
        copy.folder = tempfile.mkdtemp(dir=self.folder, prefix=name)
        copy.path = os.path.join(copy.folder, "show")
        shutil.copytree(self.path, copy.path, symlinks=True)
        return copy

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def open(self, fate: Fate | None = None, *, owner: Owner | None = None, times: LeaseTimes | None = None) -> Root:
        """Open the root without threads and without a renewing child; with a `fate`, on storage and database that crash."""
        root = open_root(self.path)
        engine = root.engine
        engine.executor = None
        engine.renewal = Renewal("", engine.settings.lease)
        if owner is not None:
            engine.owner = owner
        if times is not None:
            engine.settings = attrs.evolve(engine.settings, lease=times)
        if fate is not None:
            engine.storage = CrashingStorage(fate)
            engine.journals = Journals(engine.storage, engine.journals.path)
            engine.database = CrashingDatabase(engine.database, fate)
        return root

    def recover(self, fate: Fate | None = None, *, owner: Owner | None = None) -> list[Settled]:
        with self.open(fate, owner=owner) as root:
            return recover(root.engine)

    # --- looking --------------------------------------------------------------------------------------------------

    def tree(self) -> Tree:
        """Everything outside the engine's own folders: kind, mode, size, modification time and content."""
        return dict(_tree(self.path, ""))

    def documents(self) -> dict[str, dict[str, Any]]:
        """Every document of every project, by project and id."""
        with self.open() as root:
            return {
                f"{project}/{document['_id']['$oid']}": _plain(document)
                for project in root.engine.database.projects()
                for document in root.engine.database.find(PROJECT + project)
            }

    def leftovers(self) -> list[str]:
        """What a settled root must not have: staging, private names, journals, leases, claims, findings of `check`."""
        with self.open() as root:
            database = root.engine.database
            left = [root.absolute(place) for place, _ in queries.staging_directories(root)]
            left += [f"journal {name}" for name in root.engine.journals.unfinished()]
            left += [f"lease {row['_id']}" for row in database.find(LEASES) if row.get("transaction")]
            left += [f"claim {row['_id']}" for row in database.find(CLAIMS) if not row.get("burnt")]
            left += [f"{finding.kind}: {finding.message}" for finding in check(root, checksums=True) if finding.wrong]
        return left

    def versions(self, subset: str) -> list[int]:
        with self.open() as root:
            return [entry["version"] for entry in queries.versions(root, "demo", "sh010", subset)]

    def transaction(self, transaction: str) -> dict[str, Any]:
        with self.open() as root:
            return root.engine.database.read(TRANSACTIONS, transaction) or {}


def _tree(path: str, prefix: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.name == ".integrator":
            continue
        status = entry.stat(follow_symlinks=False)
        name = prefix + entry.name
        if stat.S_ISDIR(status.st_mode):
            yield name, ("folder", stat.S_IMODE(status.st_mode))
            yield from _tree(entry.path, name + "/")
        elif stat.S_ISLNK(status.st_mode):
            yield name, ("link", os.readlink(entry.path))
        else:
            digest = hashlib.sha256(Path(entry.path).read_bytes()).hexdigest()
            yield name, ("file", stat.S_IMODE(status.st_mode), status.st_size, status.st_mtime_ns, digest)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)) or hasattr(value, "pieces"):
        return [_plain(inner) for inner in value]
    return value
