"""Shows what the engine is for: a publish, one that is killed midway, recovery, and the publish again.

Every step is a real command in a process of its own, printed before its output. Only the killing is done here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from integrator import demo_media
from integrator.errors import Failed, UsageError

#: File by which a folder of ours is known.
_MARK: Final = ".integrator-demo"
_PROJECT: Final = "demo"
_FRAMES: Final = f"{demo_media.FIRST_FRAME}-{demo_media.FIRST_FRAME + demo_media.FRAME_COUNT - 1}"
#: Files that the victim must have copied, and must not have copied, when it is killed.
_MIDWAY: Final = range(12, demo_media.FRAME_COUNT - 4)
#: Seconds that the victim runs between two looks at what it did.
_STEP: Final = 0.001
_ATTEMPTS: Final = 5

Say = Callable[[str], None]


@attrs.frozen(kw_only=True)
class Places:
    """Where the demo keeps things."""

    #: Absolute path.
    folder: str

    @property
    def root(self) -> str:
        return os.path.join(self.folder, "show")

    @property
    def frames(self) -> str:
        return os.path.join(self.folder, "render", "beauty.%04d.exr")

    def frame(self, number: int) -> str:
        return os.path.join(self.folder, "render", f"beauty.{number:04d}.exr")

    @property
    def cache(self) -> str:
        return os.path.join(self.folder, "cache", "water.usda")

    @property
    def request(self) -> str:
        return os.path.join(self.folder, "request.json")


@attrs.frozen(kw_only=True)
class Killed:
    """A publish that was killed while it copied."""

    transaction: str
    #: Absolute path of the staging directory that it left.
    staging: str
    #: Files in it.
    count: int


def take(places: Places) -> None:
    """Make the folder and mark it as ours. Raises `UsageError` for one with other things in it."""
    mark = os.path.join(places.folder, _MARK)
    if os.path.isdir(places.folder) and os.listdir(places.folder) and not os.path.exists(mark):
        raise UsageError(
            f"{places.folder} is not empty, and no demo made it. Nothing was touched", next="integrator demo ANOTHER-DIR"
        )
    os.makedirs(places.folder, exist_ok=True)
    _write(mark, b"integrator demo made this folder; it can be removed as a whole\n")


def make_media(places: Places) -> None:
    """Make what is published, and the request."""
    for path in (places.frames, places.cache):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    for number, content in demo_media.frames():
        _write(places.frame(number), content)
    _write(places.cache, demo_media.usda().encode())
    _write(places.request, json.dumps(_request(places), indent=2).encode() + b"\n")


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _request(places: Places) -> dict[str, Any]:
    shot = {"hierarchy": "shots/sq01", "asset": "sh010", "data": {"fps": demo_media.FPS}}
    frames = {"name": "exr", "files": [places.frames], "frames": _FRAMES}
    return {
        "schema": "integrator:publish-request-1.0",
        "project": _PROJECT,
        "author": "demo",
        "comment": "a planet, and some water",
        "instances": [
            {**shot, "subset": "renderBeauty", "family": "render", "representations": [frames]},
            {**shot, "subset": "cacheWater", "family": "pointcache",
             "representations": [{"name": "usd", "files": [places.cache]}]},
        ],
    }  # fmt: skip


# --- commands ---------------------------------------------------------------------------------------------------------


def command(*words: str) -> list[str]:
    """One of our own commands, for `subprocess`."""
    return [sys.executable, "-m", "integrator", *words]


def surroundings(places: Places) -> dict[str, str]:
    """The environment of such a command: this very package, the demo's own database, and no farm."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    database = "sqlite://" + os.path.join(places.root, ".integrator", "publish.sqlite3")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENJD_")}
    return {**kept, "PYTHONPATH": path, "INTEGRATOR_DATABASE": database, "INTEGRATOR_FARM": "0"}


def run(places: Places, *words: str) -> Any:
    """Run one of our own commands; returns its JSON answer. Raises `Failed`."""
    done = subprocess.run(
        command(*words, "--json"), capture_output=True, text=True, errors="surrogateescape", env=surroundings(places), check=False
    )
    if done.returncode not in (0, 3):
        raise Failed(f"integrator {' '.join(words)} ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


# --- killing ----------------------------------------------------------------------------------------------------------


def kill_midway(places: Places) -> Killed:
    """Start a publish, kill it (SIGKILL) while it copies, and say what it left. Raises `Failed` if it always was faster.

    The child runs a millisecond at a time and is stopped while we look, so that this meets the middle of the copying on a machine
    of any speed.
    """
    for _ in range(_ATTEMPTS):
        before = _staging_directories(places)
        child = subprocess.Popen(
            command("publish", places.request, "--root", places.root, "--workers", "1"),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=surroundings(places), start_new_session=True,
        )  # fmt: skip
        try:
            left = _step(child, places, before)
        finally:
            child.kill()
            child.wait()
        if left is not None:
            return left
    raise Failed(f"this machine finished {_ATTEMPTS} publishes before one could be killed; everything they published is whole")


def _step(child: subprocess.Popen[bytes], places: Places, before: Sequence[str]) -> Killed | None:
    """Let the child run until it is midway, and leave it stopped there; None if it came through."""
    while child.poll() is None:
        time.sleep(_STEP)
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        for path in set(_staging_directories(places)) - set(before):
            count = len(os.listdir(path))
            if count in _MIDWAY:
                return Killed(transaction=path.rpartition(".")[2], staging=path, count=count)
        os.kill(child.pid, signal.SIGCONT)
    return None


def subset_folder(places: Places) -> str:
    """The folder of the versions of the rendered frames."""
    return os.path.join(places.root, _PROJECT, "shots", "sq01", "sh010", "publish", "render", "renderBeauty")


def _staging_directories(places: Places) -> list[str]:
    folder = subset_folder(places)
    if not os.path.isdir(folder):
        return []
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if ".tmp." in name]
