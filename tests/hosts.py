"""Hosts that embed an old Python, for tests: real interpreters, run with `host.py`."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyblish

HOME = Path(__file__).parent.parent
PROGRAM = [sys.executable, "-m", "integrator"]
OLD = ("3.7", "3.8", "3.9")


def interpreter(version: str) -> str:
    """A real Python of this version; "" if there is none."""
    homes = [os.environ.get("PYENV_ROOT", ""), os.path.expanduser("~/.pyenv")]
    found = [path for home in homes if home for path in sorted(glob.glob(f"{home}/versions/{version}.*/bin/python{version}"))]
    return (found or [shutil.which(f"python{version}") or ""])[-1]


class Host:
    """Runs `host.py` with an old Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        poison, modules = folder / "poison", folder / "modules"
        for path in (poison, modules):
            path.mkdir()
        for name in ("json", "attrs", "sqlite3", "argparse"):
            (poison / f"{name}.py").write_text("raise RuntimeError('the module of another Python')\n")
        (modules / "pyblish").symlink_to(Path(pyblish.__file__).parent)
        (modules / "integrator_client.py").symlink_to(HOME / "integrator_client.py")
        self.wish: dict[str, Any] = {"path": [str(modules)], "poison": str(poison), "forked": str(folder / "forked")}

    def start(self, python: str, **wish: Any) -> subprocess.Popen[str]:
        path = self.folder / f"wish{len(list(self.folder.iterdir()))}.json"
        path.write_text(json.dumps({**self.wish, **wish}))
        surroundings = {**os.environ, "INTEGRATOR_PROGRAM": " ".join(PROGRAM), "TMPDIR": str(self.folder)}
        strict = [] if "plugins" in wish else ["-W", "error"]  # what pyblish brings along warns
        command = [python, *strict, str(HOME / "tests/host.py"), str(path)]
        return subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, python: str, **wish: Any) -> dict[str, Any]:
        child = self.start(python, **wish)
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
        told: dict[str, Any] = json.loads(out.splitlines()[-1])  # what comes before it, pyblish prints
        assert sys.version_info[:2] != tuple(told["version"])
        return told
