"""A studio whose publishes run as processes that die, fail or sleep at a call of one's choice, and ways to compare what is left.

The environment chooses: ``FAULTS=full`` tries every point instead of a sample, ``FAULTS_SEED=N`` samples other points.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import errno
import fcntl
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

import integrator
from integrator import queries
from integrator.check import check, is_kept, trash_names
from integrator.database import CLAIMS, LEASES, PROJECT, TRANSACTIONS
from integrator.model import ENDED, State
from integrator.root import Root, create_root, open_root

HERE = Path(__file__).parent
#: Whether every point is tried, or a sample.
FULL = os.environ.get("FAULTS", "") == "full"
#: Another seed samples other points.
SEED = int(os.environ.get("FAULTS_SEED", "1"))
#: Seconds after which a process that neither ended nor stopped is a failure.
LIMIT = 60.0
#: Seconds that SQLite waits for a lock of a process that may be asleep.
IMPATIENT = 0.15
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EACCES", "EROFS", "EMFILE", "ESTALE")

#: The source that a move removes.
MOVED = "own/moved.ma"

Tree = dict[str, tuple[Any, ...]]
Thing = TypeVar("Thing")


# --- processes --------------------------------------------------------------------------------------------------------


@attrs.frozen
class Call:
    """One changing call, as the shim numbered it."""

    number: int
    name: str
    path: str

    def __str__(self) -> str:
        return f"{self.number} {self.name} {self.path}"

    @property
    def kind(self) -> str:
        """Name and path without what differs between runs."""
        path = re.sub(r"[0-9a-f]{24}", "ID", self.path)
        return f"{self.name} {re.sub(r'/run-[^/]*/area/', '/', path)}"


@attrs.frozen
class Ending:
    """How a process was left: one of the three."""

    code: int | None = None
    signal: int | None = None
    stopped: bool = False


class Driver:
    """The process that forks those under test."""

    def __init__(self, library: Path, mutant: str = "") -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "LD_PRELOAD": str(library),
            "XDG_CONFIG_HOME": str(library.parent / "no-user-settings"),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "FAULT_MUTANT": mutant,
        }
        self.environment = environment
        #: Where its jobs leave logs and answers.
        self.folder = tempfile.mkdtemp(dir=fast_folder(), prefix="integrator-faults-out-")
        self.alive: set[int] = set()
        self._words = subprocess.Popen(
            [sys.executable, str(HERE / "driver.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def ask(self, word: Mapping[str, Any]) -> dict[str, Any]:
        assert self._words.stdin is not None
        assert self._words.stdout is not None
        self._words.stdin.write(json.dumps(word) + "\n")
        self._words.stdin.flush()
        answer: dict[str, Any] = json.loads(self._words.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._words.stdin is not None
        assert self._words.stdout is not None
        self._words.stdin.close()
        self._words.wait(LIMIT)
        self._words.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Job:
    """One job in a process of its own."""

    def __init__(self, driver: Driver, words: dict[str, Any], log: Path) -> None:
        self._driver = driver
        self._result = Path(words["result"])
        self._log = log
        self.pid: int = driver.ask({"job": words})["pid"]
        driver.alive.add(self.pid)

    def wait(self, seconds: float = LIMIT) -> Ending:
        """Until it ends or stops; fails when the time is over."""
        said = self._driver.ask({"wait": self.pid, "seconds": seconds})
        if not said:
            self.kill()
            raise AssertionError(f"the process did not end within {seconds} s; its last call: {self.calls()[-1:]}")
        ending = Ending(**said)
        if not ending.stopped:
            self._driver.alive.discard(self.pid)
        return ending

    def ended(self) -> bool:
        """Whether it has ended by now."""
        said = self._driver.ask({"wait": self.pid, "seconds": 0.0}) if self.pid in self._driver.alive else {}
        if said and not said.get("stopped"):
            self._driver.alive.discard(self.pid)
        return self.pid not in self._driver.alive

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it, stopped or not, and wait for its end."""
        if self.pid in self._driver.alive:
            os.kill(self.pid, signal.SIGKILL)
            while (said := self._driver.ask({"wait": self.pid, "seconds": LIMIT})).get("stopped"):
                pass
            assert said, "a killed process did not end"
            self._driver.alive.discard(self.pid)

    def calls(self) -> list[Call]:
        """The calls that it has made, or was about to make."""
        lines = self._log.read_text(errors="surrogateescape").splitlines() if self._log.exists() else []
        return [Call(int(number), name, path) for number, name, path in (line.split(" ", 2) for line in lines)]

    def answer(self) -> Any:
        return json.loads(self._result.read_text())["answer"] if self._result.exists() else None


# --- a studio ---------------------------------------------------------------------------------------------------------


def fast_folder() -> str:
    """A folder in memory where there is one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


class Studio:
    """Sources, and a publish root with v001 of two subsets. `fresh` copies the root, so that every run begins alike."""

    def __init__(self, folder: str, driver: Driver, settings: str = "workers = 1\n") -> None:
        self.folder = os.path.realpath(folder)
        self.driver = driver
        self.sources = os.path.join(self.folder, "sources")
        self.template = os.path.join(self.folder, "template")
        self._numbers = itertools.count(1)
        #: What the file system under test lacks: "exchange", "noreplace".
        self.without = ""
        #: Seconds after which a lease has expired; 0 is what the settings say.
        self.takeover = 0.0
        os.makedirs(self.sources)
        for n in range(10):
            content = hashlib.sha256(str(n).encode()).digest() * 40
            Path(self.sources, f"beauty.{1001 + n}.exr").write_bytes(content)
        Path(self.sources, "cam.abc").write_bytes(b"cache" * 100)
        Path(self.sources, "wide.obj").write_bytes(b"v 0 0 0 " * 60)
        create_root(self.template).close()
        configure(self.template, settings)
        with open_root(self.template) as root:
            integrator.publish(request(self.sources, "history"), root)
            integrator.publish(exchange_request(self.sources, "heroes", old=True), root)
            with root.begin(project="demo", publish_id="edits") as assembly:
                assembly.replace_file(f"{root.path}/demo/edit.json", b"old")

    def run_by(self, driver: Driver) -> Studio:
        """The same studio, its processes forked by another driver."""
        other = copy.copy(self)
        other.driver = driver
        return other

    def with_leases_of(self, seconds: float) -> Studio:
        """The same studio, where anybody may take over after so many seconds of silence."""
        other = copy.copy(self)
        other.takeover = seconds
        return other

    def lacking(self, without: str) -> Studio:
        """The same studio on a file system that lacks something, as network file systems do."""
        other = copy.copy(self)
        other.without = without
        return other

    def fresh(self) -> Run:
        """A copy of the root."""
        run = Run(self, os.path.join(self.folder, f"run-{next(self._numbers)}"))
        os.makedirs(run.area)
        shutil.copytree(self.template, run.show, symlinks=True)
        os.makedirs(os.path.join(run.area, "own"))
        shutil.copy2(os.path.join(self.sources, "cam.abc"), run.own)
        return run


def configure(root: str, settings: str) -> None:
    """Put settings into the configuration of a root; tables last."""
    path = Path(root, ".integrator/config.toml")
    lines = path.read_text().splitlines()
    top = next((n for n, line in enumerate(lines) if line.startswith("[")), len(lines))
    path.write_text("\n".join([*lines[:top], settings, *lines[top:]]) + "\n")


def exchange_request(sources: str, publish_id: str, *, old: bool = False) -> dict[str, Any]:
    """Amends a version (its files grow, shrink, are others) and makes a new one; heroes of both. Or what that replaces."""
    first, wide, frames = f"{sources}/cam.abc", f"{sources}/wide.obj", f"{sources}/beauty.%04d.exr"
    look = [
        {"name": "grows", "files": [frames], "frames": "1001-1003" if old else "1003-1005"},
        {"name": "shrinks", "files": [wide, first] if old else [first], "output": "set"},
        {"name": "differs", "files": [first if old else wide], "output": "other"},
        *([{"name": "stays", "files": [first], "output": "stays"}] if old else []),
    ]
    cache = [{"name": "exr", "files": [frames], "frames": "1001-1003" if old else "1006-1008"}]
    resources = [{"files": [first], "folder": "deep/er"}]
    shot = {"asset": "sh010", "hierarchy": "shots/sq01", "hero": True}
    instances = [
        {**shot, "subset": "look", "family": "look", "representations": look, "amend": None if old else 1},
        {**shot, "subset": "cache", "family": "cache", "representations": cache, "resources": resources},
    ]
    return {**request(sources, publish_id), "instances": instances}


def request(sources: str, publish_id: str) -> dict[str, Any]:
    """20 files in 2 publish instances: copies, hard links and a resource in a folder of its own."""
    beauty = [
        {"name": "exr", "files": [f"{sources}/beauty.%04d.exr"]},
        {"name": "proxy", "files": [f"{sources}/beauty.%04d.exr"], "transfer": "hardlink", "frames": "1001-1008",
         "output": "proxy"},
    ]  # fmt: skip
    camera = [{"name": "abc", "files": [f"{sources}/cam.abc"]}]
    resource = [{"files": [f"{sources}/cam.abc"], "folder": "resources/deep"}]
    place = {"asset": "sh010", "hierarchy": "shots/sq01"}
    return {
        "schema": "integrator:publish-request-1.0", "project": "demo", "author": "anna", "publish_id": publish_id,
        "instances": [
            {**place, "subset": "renderBeauty", "family": "render", "representations": beauty},
            {**place, "subset": "camera", "family": "camera", "representations": camera, "resources": resource},
        ],
    }  # fmt: skip


class Run:
    """One copy of the studio, with the processes that work in it."""

    def __init__(self, studio: Studio, folder: str) -> None:
        self.studio = studio
        self.folder = folder
        self.area = os.path.join(folder, "area")
        #: Where logs and answers go, never on the file system under test.
        self.out = tempfile.mkdtemp(dir=studio.driver.folder)
        self.show = os.path.join(self.area, "show")
        self.own = os.path.join(self.area, MOVED)
        self._jobs: list[Job] = []

    def start(self, name: str, mode: str | None = "record", **arguments: Any) -> Job:
        """Start a job. `mode` is that of the shim; None runs it uncounted."""
        number = len(self._jobs)
        log = Path(self.out, f"calls-{number}")
        without = self.studio.without
        environment = {"FAULT_ROOT": self.area, "FAULT_LOG": str(log), "FAULT_MODE": mode or "", "FAULT_WITHOUT": without}
        if mode is None and not without:
            environment = {}
        words = {
            "name": name, "root": self.show, "result": os.path.join(self.out, f"result-{number}"), "environment": environment,
            "takeover": self.studio.takeover, **arguments,
        }  # fmt: skip
        job = Job(self.studio.driver, words, log)
        self._jobs.append(job)
        return job

    def finish(self, name: str, mode: str | None = None, **arguments: Any) -> tuple[Ending, Any]:
        """Start a job and wait for its end."""
        job = self.start(name, mode, **arguments)
        return job.wait(), job.answer()

    def recover(self) -> list[dict[str, Any]]:
        """Recover in a process; returns what was settled. Nothing may be left in doubt or stuck."""
        ending, settled = self.finish("recover")
        assert ending.code == 0, settled
        assert all(one["outcome"] in ("rolled_back", "finished") for one in settled), settled
        return list(settled)

    def remove(self) -> None:
        """End what still runs, and delete everything."""
        for job in self._jobs:
            job.kill()
        shutil.rmtree(self.out)
        shutil.rmtree(self.folder)

    # --- looking ------------------------------------------------------------------------------------------------------

    def open(self) -> Root:
        return open_root(self.show)

    def tree(self) -> Tree:
        """Everything outside the engine's folders, and the sources that can be moved."""
        return dict(_tree(self.area, ""))

    def documents(self) -> list[str]:
        """Every document of every project, as sorted JSON."""
        with self.open() as root:
            return sorted(
                json.dumps([project, _plain(document)], sort_keys=True)
                for project in root.engine.database.projects()
                for document in root.engine.database.find(PROJECT + project)
            )

    def rows(self) -> dict[str, list[Any]]:
        """Every document in the database, the engine's own included."""
        with self.open() as root:
            database = root.engine.database
            names = [TRANSACTIONS, LEASES, CLAIMS, *(PROJECT + project for project in database.projects())]
            return {name: [_plain(document) for document in database.find(name)] for name in names}

    def claims(self) -> list[str]:
        """Keys of burnt numbers."""
        with self.open() as root:
            return [row["_id"] for row in root.engine.database.find(CLAIMS) if row.get("burnt")]

    def versions(self, subset: str) -> list[int]:
        with self.open() as root:
            found = queries.versions(root, "demo", "sh010", subset)
            return [entry["version"] for entry in found if not entry.get("foreign")]

    def transaction_of(self, publish_id: str) -> dict[str, Any] | None:
        """The document of the transaction that has, or had, this publish id."""
        with self.open() as root:
            found = root.engine.database.find(TRANSACTIONS)
        ids = (publish_id,)
        return next((one for one in found if one.get("publish_id") in ids or one.get("former_publish_id") in ids), None)

    def listing(self) -> Tree:
        """Everything with inode and change time, the database aside: its files change by being opened."""
        return dict(_listing(self.area, ""))

    def leftovers(self) -> list[str]:
        """What a settled root must not have."""
        left = [name for name in _names(self.area) if ".tmp." in os.path.basename(name)]
        with self.open() as root:
            database = root.engine.database
            left += [f"journal {name}" for name in root.engine.journals.unfinished()]
            left += [f"lease {row['_id']}" for row in database.find(LEASES) if row.get("transaction")]
            left += [f"claim {row['_id']}" for row in database.find(CLAIMS) if not row.get("burnt")]
            left += [f"state {row['_id']} {row['state']}" for row in database.find(TRANSACTIONS)
                     if State(row["state"]) not in ENDED]  # fmt: skip
            private = [path for path in trash_names(root) if not re.fullmatch(r"[0-9a-f]{24}", os.path.basename(path))]
            left += [f"trash {path}" for path in private if not _kept(root, path)]
            left += [f"{finding.kind}: {finding.message}" for finding in check(root, checksums=True) if finding.wrong]
        return left


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
            yield name, ("file", stat.S_IMODE(status.st_mode), status.st_size, digest, status.st_mtime_ns)


def _names(path: str) -> Iterator[str]:
    for folder, folders, files in os.walk(path):
        yield from (os.path.join(folder, name) for name in [*folders, *files])


def _listing(path: str, prefix: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.name.startswith("publish.sqlite3"):
            continue
        status = entry.stat(follow_symlinks=False)
        holds_database = prefix + entry.name == "show/.integrator"
        changes = () if holds_database else (status.st_ctime_ns, status.st_size)
        yield prefix + entry.name, (status.st_ino, status.st_mode, status.st_nlink, *changes)
        if entry.is_dir(follow_symlinks=False):
            yield from _listing(entry.path, f"{prefix}{entry.name}/")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)) or hasattr(value, "pieces"):
        return [_plain(inner) for inner in value]
    return value


# --- comparing --------------------------------------------------------------------------------------------------------

_ID = re.compile(r"[0-9a-f]{24}")
_TIMES = re.compile(r"\d{8}T\d{6}Z|\d{4}-\d\d-\d\dT[\d:.]+Z|\|\d{9,}(,\d+)?\|")


def normal(documents: Iterable[str], area: str) -> list[str]:
    """Documents of new publishes, comparable between runs: ids, times and the place of the run replaced by words.

    An id becomes type and name of the document that has it, so that references are still compared.
    """
    documents = list(documents)
    names: dict[str, str] = {}
    for text in documents:
        _, document = json.loads(text)
        names[document["_id"]["$oid"]] = f"<{document['type']} {document.get('name', '')}>"
    plain = (text.replace(area, "<area>") for text in documents)
    labelled = (_ID.sub(lambda match: names.get(match.group(), "<id>"), text) for text in plain)
    return sorted(_TIMES.sub("<time>", text) for text in labelled)


def timeless(tree: Tree) -> Tree:
    """A tree without the times of files: what is written rather than copied gets the time of its run."""
    return {name: entry[:4] for name, entry in tree.items()}


@attrs.frozen
class Work:
    """Something that is published, and what it must leave in the end."""

    name: str
    job: str
    #: Arguments of the job in a run, given a publish id.
    arguments: Callable[[Run, str], dict[str, Any]]
    #: Exit code of an undisturbed run.
    code: int = 0

    def start(self, run: Run, mode: str | None = "record", publish_id: str = "job", **more: Any) -> Job:
        return run.start(self.job, mode, **{**self.arguments(run, publish_id), **more})


def _request(run: Run, publish_id: str) -> dict[str, Any]:
    return {"request": request(run.studio.sources, publish_id)}


def _request_with_own_source(run: Run, publish_id: str) -> dict[str, Any]:
    wanted = request(run.studio.sources, publish_id)
    wanted["instances"][1]["resources"] = [{"files": [run.own], "folder": "resources/deep"}]
    return {"request": wanted, "source": run.own}


def _assembled(run: Run, publish_id: str) -> dict[str, Any]:
    return {
        "publish_id": publish_id, "source": f"{run.studio.sources}/cam.abc", "own": run.own,
        "replace": {"demo/edit.json": "new", "demo/cut.json": "made"},
    }  # fmt: skip


PUBLISH = Work("publish", "publish", _request)
EXCHANGE = Work(
    "hero and amended version", "publish", lambda run, publish_id: {"request": exchange_request(run.studio.sources, publish_id)}
)
SOURCE_CHANGES = Work("rollback before the reveal", "publish_while_a_source_changes", _request_with_own_source, 5)
ASSEMBLE = Work("move and replace", "assemble", _assembled)
REFUSED = Work("rollback at the verdict", "assemble", lambda run, publish_id: {**_assembled(run, publish_id), "refused": True}, 5)


class Subject:
    """One kind of work in one studio: its calls, its old and its new state."""

    def __init__(self, studio: Studio, work: Work) -> None:
        self.studio = studio
        self.work = work
        run = self.fresh()
        self._old = (run.tree(), run.documents())
        job = work.start(run)
        ending = job.wait()
        assert ending.code == work.code, job.answer()
        self.calls = job.calls()
        self._new = (timeless(run.tree()), normal(run.documents(), run.area))
        assert run.leftovers() == []
        run.remove()

    def fresh(self) -> Run:
        return self.studio.fresh()

    def points(self, count: int) -> list[tuple[Call, str]]:
        """Before and after each call; about `count` of them where only a sample is wanted."""
        return points(self.calls, count)

    def outcome(self, run: Run) -> str:
        """old or new, exactly; anything else is a failure that says what differs."""
        tree, documents = run.tree(), run.documents()
        if self._is_old(run, tree, documents):
            return "old"
        # Sources of moved files are removed by the owner alone; whoever finishes in its place leaves them, or puts them back.
        found = {**self._new[0], **{name: entry for name, entry in timeless(self._old[0]).items() if name == MOVED}}
        new = self._new[0] if MOVED not in tree else found
        assert timeless(tree) == new, _difference(timeless(tree), timeless(self._old[0]), new)
        assert normal(documents, run.area) == self._new[1], _lines(normal(documents, run.area), self._new[1])
        return "new"

    def _is_old(self, run: Run, tree: Tree, documents: list[str]) -> bool:
        if self.work is SOURCE_CHANGES:  # the job itself changes the time of that source
            return timeless(tree) == timeless(self._old[0]) and documents == self._old[1]
        # The movable source is made anew for each run, from one file and with its time.
        return (tree, documents) == self._old


def _difference(tree: Tree, *others: Tree) -> str:
    shown = [sorted(set(tree.items()) ^ set(other.items()))[:8] for other in others]
    return f"neither old {shown[0]} nor new {shown[1]}"


def _lines(one: Sequence[str], other: Sequence[str]) -> str:
    return "\n".join(sorted(set(one) ^ set(other))[:6])


def _kept(root: Root, path: str) -> bool:
    """Whether a failed publish left this on purpose, with what an extractor had produced."""
    document = root.engine.database.read(TRANSACTIONS, os.path.basename(path).partition(".")[0])
    return is_kept(root, document, path)


def assert_settled(run: Run) -> None:
    """Nothing is left behind, and a second recovery changes nothing at all."""
    left = run.leftovers()
    assert left == [], "\n".join(left)
    before = (run.listing(), run.rows())
    assert run.recover() == []
    listing, rows = run.listing(), run.rows()
    assert rows == before[1]
    assert listing == before[0], _difference(listing, before[0], before[0])


# --- choosing points --------------------------------------------------------------------------------------------------


def points(calls: Sequence[Call], count: int, *, pages: bool = True) -> list[tuple[Call, str]]:
    """Before and after each call; about `count` of them where only a sample is wanted.

    Without `pages`, each run of calls that differ only in the page that they write counts as three, in full mode too.
    """
    every = [(call, when) for call in calls for when in ("before", "after")]
    return every if FULL and pages else sample(_distinct(every), count)


def quiet(calls: Sequence[Call]) -> list[Call]:
    """The calls without the pages of the database's log, which are many and alike."""
    return [call for call in calls if not (call.name == "pwrite64" and "sqlite3" in call.path)]


def _distinct(every: Sequence[tuple[Call, str]]) -> list[tuple[Call, str]]:
    """First, middle and last of calls that follow each other with the same name and path (the pages of one commit)."""
    chosen = []
    for _, group in itertools.groupby(every, key=lambda point: (point[0].name, point[0].path)):
        alike = list(group)
        chosen += alike if len(alike) <= 3 else [alike[0], alike[len(alike) // 2], alike[-1]]
    return chosen


def find(calls: Sequence[Call], name: str, path: str, which: int = 0) -> Call:
    """The call whose name and path match these patterns, the first or the one asked for."""
    return [call for call in calls if re.fullmatch(name, call.name) and re.search(path, call.path)][which]


def sample(things: Sequence[Thing], count: int, most: int = 1_000_000) -> list[Thing]:
    """About `count` of them (in full mode about `most`) in order, one from each stretch, chosen by the seed."""
    count = most if FULL else count
    if len(things) <= count:
        return list(things)
    chosen = random.Random(SEED)
    step = len(things) / count
    return [things[min(len(things) - 1, int((n + chosen.random()) * step))] for n in range(count)]


def told(text: str) -> None:
    """Say how much was tried."""
    print(f"\n  {'full' if FULL else f'sample, seed {SEED}'}: {text}")


# --- a file system of one's own ---------------------------------------------------------------------------------------

_SHUTDOWN = 0x8004587D


@contextlib.contextmanager
def ext4(folder: str, megabytes: int = 64) -> Iterator[Disk]:
    """A mounted ext4 image with a journal. Raises `OSError` where that is not allowed."""
    disk = Disk(folder, megabytes)
    try:
        disk.mount()
        yield disk
    finally:
        disk.remove()


class Disk:
    """A file system in a file, whose power can be cut."""

    def __init__(self, folder: str, megabytes: int) -> None:
        self.path = tempfile.mkdtemp(dir=folder, prefix="mount-")
        self._image = f"{self.path}.img"
        with open(self._image, "wb") as file:
            file.truncate(megabytes << 20)
        _command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", self._image)
        self._mounted = False

    def mount(self) -> None:
        _command("mount", "-o", "loop", self._image, self.path)
        self._mounted = True
        if not self._writable():
            # Another mount name space still has the file system whose power was cut; a copy is a disk of its own.
            self.unmount()
            _command("cp", "--sparse=always", self._image, f"{self._image}.copy")
            os.replace(f"{self._image}.copy", self._image)
            _command("mount", "-o", "loop", self._image, self.path)
            self._mounted = True

    def _writable(self) -> bool:
        probe = os.path.join(self.path, "probe")
        try:
            os.mkdir(probe)
        except OSError:
            return False
        os.rmdir(probe)
        return True

    def unmount(self) -> None:
        for _ in range(200):
            with contextlib.suppress(OSError):
                _command("umount", self.path)
                self._mounted = False
                return
            time.sleep(0.02)  # a process that was just killed may still hold a descriptor
        raise OSError(errno.EBUSY, "cannot unmount", self.path)

    def cut_power(self) -> None:
        """From now on nothing reaches the disk; what was not made durable is lost at the next mount."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, (ctypes.c_uint32 * 1)(2))
        finally:
            os.close(fd)

    def remove(self) -> None:
        if self._mounted:
            try:
                self.unmount()
            except OSError:  # a failed test has left a process asleep there
                _command("umount", "--lazy", self.path)
        os.rmdir(self.path)
        os.unlink(self._image)


def _command(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise OSError(errno.EPERM, f"{' '.join(words)}: {done.stderr.strip()}")
