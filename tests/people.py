"""People with their own user ids in one group, who work in one publish root. Needs root."""

from __future__ import annotations

import functools
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from studio import fast_folder

GROUP = 41000
HOME = Path(__file__).parent.parent


def _why_not() -> str:
    """Why other users cannot be played here, "" if they can."""
    if os.geteuid() != 0:
        return "needs to be root (user ids, mounts)"
    places = [HOME, Path(sys.prefix)]
    closed = [above for place in places for above in (place, *place.parents) if not above.stat().st_mode & stat.S_IXOTH]
    return f"other users cannot reach this checkout or its environment: {closed[0]}" if closed else ""


as_root = pytest.mark.skipif(bool(_why_not()), reason=f"SKIPPED, NOT TESTED: {_why_not()}")

#: Publishes a request and dies by SIGKILL just before one of its calls; lists them all if it is not to die.
_PUBLISH = """
import json, os, signal, sys
from integrator.database import connect
from integrator.journal import Journals
from integrator.publish import publish
from integrator.root import open_root
from integrator.testing import CrashingDatabase, CrashingStorage, Fate
from integrator.renewal import Renewal
show, request, kill_at = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
if "host" not in sys.argv:
    os.umask(0o002)  # as the command line does; a host keeps its own
def hook(number, call):
    if number == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
fate = Fate(hook=hook)
with open_root(show) as root:
    engine = root.engine
    engine.executor, engine.renewal = None, Renewal("", engine.settings.lease)
    engine.storage = CrashingStorage(fate)
    engine.journals = Journals(engine.storage, engine.journals.path)
    engine.database = CrashingDatabase(engine.database, fate)
    publish(request, root)
print(json.dumps(fate.calls))
"""


#: Shows one folder of an unreachable one, in a mount name space of its own: $1 is the latter, $2 the name of the former.
_SHOW = """
set -e; shown=$(mktemp -d); mount --bind "$1/$2" "$shown"; mount -t tmpfs -o mode=755 none "$1"
mkdir "$1/$2"; mount --move "$shown" "$1/$2"; rmdir "$shown"; shift 2; exec "$@"
"""


@functools.cache
def _with_interpreter() -> list[str]:
    """Words before a command of somebody who could not reach this interpreter otherwise: it may be in the home of root."""
    real = Path(os.path.realpath(sys.executable))
    for above, below in zip(reversed(real.parents), [*reversed(real.parents[:-1]), real]):
        if not above.stat().st_mode & stat.S_IXOTH:
            return ["unshare", "--mount", "--propagation=private", "sh", "-c", _SHOW, "sh", str(above), below.name]
    return []


@attrs.frozen(kw_only=True)
class Run:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@attrs.frozen(kw_only=True)
class Person:
    """Somebody with a user id, a umask and the group."""

    uid: int
    umask: int
    gid: int = GROUP

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("INTEGRATOR_")}
        environment |= {"PYTHONPATH": str(HOME), "USER": f"user{self.uid}", "LOGNAME": f"user{self.uid}"}
        environment["XDG_CONFIG_HOME"] = "/nonexistent"
        # The first group is a private one, as everywhere where each user has a group.
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", f"--groups={self.gid}", *words]
        return subprocess.Popen(
            [*_with_interpreter(), *become], umask=self.umask, env=environment, text=True, cwd="/",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **options,
        )  # fmt: skip

    def call(self, *words: str) -> Run:
        child = self.start(*words)
        out, err = child.communicate(timeout=60)
        return Run(code=child.returncode, out=out, err=err)

    def integrator(self, *words: str) -> Run:
        return self.call(sys.executable, "-m", "integrator", *words)

    def publish(self, show: str, request: dict[str, Any], kill_at: int = 0, where: str = "") -> Run:
        """Publish; with `kill_at`, die by SIGKILL at that call. `where` is "host" for a program that keeps its umask."""
        return self.call(sys.executable, "-c", _PUBLISH, show, json.dumps(request), str(kill_at), where)

    def write(self, path: str, content: bytes, mode: int) -> None:
        Path(path).write_bytes(content)
        os.chown(path, self.uid, self.gid)
        os.chmod(path, mode)


ARTIST = Person(uid=41001, umask=0o077)
FARM = Person(uid=41002, umask=0o022)
ADMINISTRATOR = Person(uid=41003, umask=0o077)


@attrs.frozen(kw_only=True)
class Place:
    """A folder that all can reach, with sources of each of them and a shared publish root."""

    path: str

    @property
    def show(self) -> str:
        return f"{self.path}/show"

    def request(self, person: Person, subset: str = "cacheHair", transfer: str = "copy", mode: int = 0o644) -> dict[str, Any]:
        """A publish of three files that belong to `person`."""
        folder = f"{self.path}/{person.uid}-{mode:o}"
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o755)
        for n in range(1, 4):
            person.write(f"{folder}/hair.{n:04d}.abc", b"hair %d" % n, mode)
        representation = {"name": "abc", "files": [f"{folder}/hair.%04d.abc"], "transfer": transfer}
        instance = {"asset": "hero", "subset": subset, "family": "pointcache", "representations": [representation]}
        return {"schema": "integrator:publish-request-1.0", "project": "demo", "instances": [instance]}

    def wrong(self) -> list[str]:
        """What is not the group's, or has not the mode that lets all of them work."""
        found = []
        for here, _, files in os.walk(self.show):
            for path, mode in [(here, 0o2775), *((os.path.join(here, name), 0o664) for name in files)]:
                status = os.lstat(path)
                if (status.st_mode & 0o7777, status.st_gid) != (mode, GROUP):
                    found.append(f"{path} {status.st_mode & 0o7777:o} {status.st_gid}")
        return found


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(dir=fast_folder(), prefix="integrator-people-") as folder:
        os.chmod(folder, 0o755)
        os.chown(folder, ADMINISTRATOR.uid, GROUP)
        yield Place(path=folder)


__all__ = ["ADMINISTRATOR", "ARTIST", "FARM", "GROUP", "Person", "Place", "Run", "as_root", "place"]
