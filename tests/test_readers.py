"""Programs that only read: what they find, what they never see, and that they neither write nor need the right to."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from studio import Studio
from test_cli import Run, modules_of

import integrator
from integrator import errors, queries
from integrator.blame import blame
from integrator.check import check
from integrator.database import PROJECT, Change, Database, Insert, Update
from integrator.database.sqlite import SQLiteDatabase, SQLiteReader
from integrator.model import object_id
from integrator.root import Reader, open_reader
from integrator.sweep import sweep
from integrator.testing import DatabaseContract

SUBSET = "demo/shots/sq01/sh010/publish/camera/camera"


@pytest.fixture
def reader(studio: Studio) -> Iterator[Reader]:
    with open_reader(studio.path) as reader:
        yield reader


def publish(studio: Studio, **instance: Any) -> str:
    """Publish the camera of a shot; returns the path of the version directory."""
    request = studio.request()
    request["instances"] = [{**request["instances"][1], **instance}]
    with studio.open() as root:
        return integrator.publish(request, root).versions[0].path


# --- one version ------------------------------------------------------------------------------------------------------


def test_a_version_is_found_by_number_and_as_the_latest(studio: Studio, reader: Reader) -> None:
    path = publish(studio)
    latest, first = reader.latest("demo", "sh010", "camera"), reader.resolve("demo", "sh010", "camera", 1)
    assert (latest.version, latest.path, first.version) == (2, path, 1)
    assert latest == reader.resolve("demo", "sh010", "camera", "v002", hierarchy="shots/sq01")
    assert (latest.author, latest.hierarchy, latest.family) == ("anna", "shots/sq01", "camera")
    assert latest.transaction != first.transaction
    [representation] = latest.representations
    assert (representation.name, list(representation.files)) == ("abc", [f"{path}/demo_sh010_camera_v002.abc"])
    with studio.open() as root:
        assert root.latest("demo", "sh010", "camera") == latest


def test_all_files_of_a_sequence_are_named_and_are_there(reader: Reader) -> None:
    found = reader.latest("demo", "sh010", "renderBeauty")
    assert [(entry.name, len(entry.files)) for entry in found.representations] == [("exr", 10), ("proxy", 8)]
    assert all(os.path.isfile(path) for entry in found.representations for path in entry.files)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing", "sh010", "camera"), "no asset sh010"),
        (("demo", "sh011", "camera"), "no asset sh011"),
        (("demo", "sh010", "Camera"), "no subset Camera"),
        (("demo", "sh010", "camera", 7), "no v007"),
        (("demo", "sh010", "camera", "hero"), "no hero version"),
    ],
)
def test_what_is_not_published_is_said_with_a_command_that_lists_what_is(reader: Reader, words: Any, said: str) -> None:
    with pytest.raises(errors.NotPublished, match=said) as raised:
        reader.resolve(*words)
    assert raised.value.next.startswith("integrator ")


@pytest.mark.parametrize("version", ["newest", "", "-1", "v", "\u0663", "1" * 30])
def test_what_is_no_version_is_bad_usage(reader: Reader, version: str) -> None:
    with pytest.raises(errors.UsageError):
        reader.resolve("demo", "sh010", "camera", version)


def test_a_hero_version_is_the_version_that_it_names_in_its_own_folder(studio: Studio, reader: Reader) -> None:
    publish(studio)
    with studio.open() as root:
        [subset] = root.documents("demo", {"type": "subset", "name": "camera"})
        [first] = root.documents("demo", {"type": "version", "parent": subset["_id"], "name": 1})
        hero = {"_id": object_id(), "type": "hero_version", "schema": "openpype:hero_version-1.0", "parent": subset["_id"],
                "version_id": first["_id"]}  # fmt: skip
        file = {"path": f"{{root[work]}}/{SUBSET}/hero/demo_sh010_camera_hero.abc"}
        representation = {"_id": object_id(), "type": "representation", "name": "abc", "parent": hero["_id"], "files": [file]}
        root.engine.database.commit([Insert(collection=PROJECT + "demo", document=made) for made in (hero, representation)])
    found = reader.resolve("demo", "sh010", "camera", "hero")
    assert (found.version, found.path) == (1, f"{studio.path}/{SUBSET}/hero")
    assert found.representations[0].files == (f"{studio.path}/{SUBSET}/hero/demo_sh010_camera_hero.abc",)
    assert reader.latest("demo", "sh010", "camera").version == 2


def test_an_asset_of_two_sequences_needs_its_hierarchy(studio: Studio, reader: Reader) -> None:
    other = publish(studio, hierarchy="shots/sq02")
    with pytest.raises(errors.Ambiguous, match="shots/sq01/sh010, shots/sq02/sh010") as raised:
        reader.latest("demo", "sh010", "camera")
    assert raised.value.candidates == ("shots/sq01/sh010", "shots/sq02/sh010")
    assert reader.latest("demo", "sh010", "camera", hierarchy="shots/sq02").path == other
    assert reader.latest("demo", "sh010", "camera", hierarchy="/shots/sq01/").path == f"{studio.path}/{SUBSET}/v001"
    with pytest.raises(errors.NotPublished):
        reader.latest("demo", "sh010", "camera", hierarchy="")
    words = ("path", "demo", "sh010", "camera", "--root", studio.path)
    refused, found = Run(*words), Run(*words, "--hierarchy", "shots/sq02")
    assert (refused.code, refused.out, found.out) == (2, "", other + "\n")
    assert "--hierarchy" in refused.err
    assert "shots/sq02" in refused.err
    assert len(queries.versions(reader, "demo", "sh010", "camera")) == 2
    assert len(queries.versions(reader, "demo", "sh010", "camera", hierarchy="shots/sq02")) == 1


# --- committed state only ---------------------------------------------------------------------------------------------


def test_the_version_of_an_open_transaction_is_not_shown_even_when_it_is_revealed(studio: Studio, reader: Reader) -> None:
    with pytest.raises(KeyError), studio.open() as root, root.begin(project="demo") as assembly:
        assembly.new_version(asset="sh010", hierarchy="shots/sq01", subset="camera", family="camera").write("a.abc", b"a")
        final = Path(studio.path, SUBSET, "v002")
        final.mkdir()
        seen = queries.versions(reader, "demo", "sh010", "camera")
        assert [(entry["version"], entry.get("foreign")) for entry in seen] == [(1, None)]
        assert reader.latest("demo", "sh010", "camera").version == 1
        assert blame(reader, str(final))["kind"] == "unfinished"
        assert queries.status(reader)["unfinished"][0]["state"] == "open"
        final.rmdir()
        raise KeyError


def test_a_publish_that_ends_while_its_directory_is_listed_is_not_foreign(
    studio: Studio, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_folder, published = queries._names_in, []

    def list_after_a_publish(folder: str) -> set[str]:
        if not published and folder.endswith("camera"):
            published.append(publish(studio))
        return list_folder(folder)

    monkeypatch.setattr(queries, "_names_in", list_after_a_publish)
    seen = queries.versions(reader, "demo", "sh010", "camera")
    assert published
    assert [entry["version"] for entry in seen] == [1]


# --- foreign versions -------------------------------------------------------------------------------------------------


def test_a_foreign_version_is_listed_counted_and_never_touched(studio: Studio, reader: Reader) -> None:
    foreign = Path(studio.path, SUBSET, "v007")
    (foreign / "deep").mkdir(parents=True)
    (foreign / "deep/by_hand.abc").write_bytes(b"by hand")
    Path(studio.path, SUBSET, "v1").mkdir()  # not called as the template calls versions
    before = content(foreign)
    rows = queries.versions(reader, "demo", "sh010", "camera")
    assert [(row["version"], row.get("foreign", False)) for row in rows] == [(1, False), (7, True)]
    assert rows[1]["path"] == str(foreign)
    assert set(rows[1]) == {*rows[0], "foreign"}
    assert [row["version"] for row in queries.versions(reader, "demo", latest=True)] == [1, 1]
    assert reader.latest("demo", "sh010", "camera").version == 1
    assert publish(studio).endswith("/v008")
    studio.recover()
    with studio.open() as root:
        sweep(root, older_than=0.0)
        assert [finding for finding in check(root, checksums=True) if finding.wrong] == []
    assert content(foreign) == before


def content(folder: Path) -> dict[str, tuple[str, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def test_a_foreign_version_is_marked_for_people_and_for_programs(studio: Studio) -> None:
    Path(studio.path, SUBSET, "v003").mkdir()
    words = ("versions", "demo", "sh010", "camera", "--root", studio.path)
    assert [line.split()[2] for line in Run(*words).out.splitlines() if "foreign" in line] == ["v003"]
    assert [entry.get("foreign") for entry in Run(*words, "--json").json["versions"]] == [None, True]


# --- nothing is written -----------------------------------------------------------------------------------------------


def test_nothing_can_be_written_through_a_reader(studio: Studio, reader: Reader) -> None:
    before = studio.tree(), studio.documents()
    attempts: list[Callable[[], object]] = [
        lambda: integrator.publish(studio.request(), reader),  # type: ignore[arg-type]
        lambda: reader.begin(project="demo"),  # type: ignore[attr-defined]
        lambda: reader.engine,  # type: ignore[attr-defined]
        lambda: reader.database.commit([]),
    ]
    for attempt in attempts:
        with pytest.raises(errors.ReadOnly, match="reading only") as raised:
            attempt()
        assert "open_root" in raised.value.next
    assert not hasattr(reader, "nonsense")
    with pytest.raises(Exception, match="readonly"):
        reader.database._connection.execute("DELETE FROM documents")  # type: ignore[attr-defined]
    assert (studio.tree(), studio.documents()) == before


def test_reading_leaves_no_trace(studio: Studio) -> None:
    state = Path(studio.path, ".integrator")
    before = {path: path.stat().st_mtime_ns for path in state.rglob("*")}
    for words in (["versions", "demo"], ["status"], ["history"], ["path", "demo", "sh010", "camera"], ["lease", "list"]):
        assert Run(*words, "--root", studio.path).code == 0
    assert Run("blame", f"{studio.path}/{SUBSET}/v001").code == 0
    assert {path: path.stat().st_mtime_ns for path in state.rglob("*")} == before


def test_a_reader_starts_no_process_and_no_thread(reader: Reader) -> None:
    import threading

    threads = threading.active_count()
    reader.latest("demo", "sh010", "camera")
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    assert (threading.active_count(), children) == (threads, children)
    assert not isinstance(reader, integrator.root.Root)


# --- the database of a reader -----------------------------------------------------------------------------------------


class Split:
    """Commits with a handle that writes, reads with one that cannot."""

    def __init__(self, path: str, keep_open: bool) -> None:
        self.path = path
        SQLiteDatabase(path).close()
        self.kept = SQLiteDatabase(path) if keep_open else None
        self.reader = SQLiteReader(path)
        self.read, self.find, self.projects = self.reader.read, self.reader.find, self.reader.projects

    def commit(self, changes: Sequence[Change]) -> None:
        self.reader.projects()  # a closed handle says so
        writer = SQLiteDatabase(self.path)
        try:
            writer.commit(changes)
        finally:
            writer.close()

    def now(self) -> float:
        return self.reader.now()

    def close(self) -> None:
        self.reader.close()
        if self.kept is not None:
            self.kept.close()


class TestSQLiteReaderOfAFileAlone(DatabaseContract):
    """Every handle that writes is closed after each commit, so that there is no log."""

    keep_open = False

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = str(tmp_path / "a b?c#d%20.sqlite3")

    def make_database(self) -> Database:
        return Split(self.path, self.keep_open)


class TestSQLiteReaderBesideALog(TestSQLiteReaderOfAFileAlone):
    """Another handle is open all the time."""

    keep_open = True


def test_a_closed_reader_says_so(tmp_path: Path) -> None:
    SQLiteDatabase(str(tmp_path / "db")).close()
    reader = SQLiteReader(str(tmp_path / "db"))
    reader.close()
    with pytest.raises(errors.DatabaseFailed):
        reader.find("leases")


@pytest.mark.parametrize("content", [b"", b"no database at all" * 500])
def test_what_is_no_database_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "db").write_bytes(content)
    with pytest.raises((errors.DatabaseFailed, errors.DatabaseDamaged)):
        SQLiteReader(str(tmp_path / "db"))
    with pytest.raises(errors.DatabaseDamaged, match="is missing"):
        SQLiteReader(str(tmp_path / "nothing"))
    assert sorted(os.listdir(tmp_path)) == ["db"]


def test_a_newer_database_is_refused_by_readers_too(tmp_path: Path) -> None:
    database = SQLiteDatabase(str(tmp_path / "db"))
    database._connection.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(errors.NewerDatabase):
        SQLiteReader(str(tmp_path / "db"))


def _write_pairs(path: str, until: float) -> None:
    number = 0
    while time.time() < until:
        database = SQLiteDatabase(path)
        for _ in range(number % 3 + 1):
            number += 1
            both = [Update(collection="leases", id=id, expect={}, set={"n": number, "fill": "x" * 9000}) for id in ("a", "b")]
            database.commit(both)
        database.close()  # the last handle: the log is written into the file, and removed


def test_what_publishers_open_and_close_meanwhile_is_read_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "db")
    database = SQLiteDatabase(path)
    database.commit([Insert(collection="leases", document={"_id": id, "n": 0}) for id in ("a", "b")])
    database.close()
    writer = multiprocessing.get_context("fork").Process(target=_write_pairs, args=(path, time.time() + 2.0))
    writer.start()
    reader, seen = SQLiteReader(path), [0]
    while writer.is_alive():
        one, other = reader.find("leases")
        assert one["n"] == other["n"] >= seen[-1]
        seen.append(one["n"])
    writer.join()
    assert len(set(seen)) > 3
    assert reader.find("leases")[0]["n"] == SQLiteDatabase(path).find("leases")[0]["n"]


# --- without the right to write ---------------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def as_stranger(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user who owns nothing here."""
    command = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", sys.executable, "-m", "integrator", *words]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def public(studio: Studio) -> Iterator[Studio]:
    """A studio whose folders everybody may enter, and nobody else may write to."""
    if not shutil.which("setpriv") or as_stranger("--version").returncode:
        pytest.skip("another user cannot run this program here")
    for folder in (os.path.dirname(studio.folder), studio.folder, os.path.dirname(os.path.dirname(studio.folder))):
        os.chmod(folder, os.stat(folder).st_mode | 0o011)
    os.chmod(studio.folder, 0o755)
    return studio


def assert_stranger_reads(studio: Studio, latest: int) -> None:
    state = Path(studio.path, ".integrator")
    before = sorted(path.name for path in state.iterdir())
    found = as_stranger("path", "demo", "sh010", "camera", "--root", studio.path)
    assert (found.stdout, found.stderr) == (f"{studio.path}/{SUBSET}/v{latest:03d}\n", "")
    for words in (["versions", "demo"], ["status"], ["history"]):
        assert as_stranger(*words, "--root", studio.path).returncode == 0
    assert as_stranger("blame", f"{studio.path}/{SUBSET}/v001", "--json").returncode == 0
    assert sorted(path.name for path in state.iterdir()) == before


@needs_root
@pytest.mark.root
def test_a_user_who_may_only_read_reads_when_nobody_publishes(public: Studio) -> None:
    assert not list(Path(public.path, ".integrator").glob("*-wal"))
    assert_stranger_reads(public, 1)
    refused = as_stranger("recover", "--root", public.path)
    assert refused.returncode not in (0, 1)


@needs_root
@pytest.mark.root
def test_a_user_who_may_only_read_sees_what_others_publish_at_the_same_time(public: Studio) -> None:
    with public.open() as root:
        publish(public)
        assert list(Path(public.path, ".integrator").glob("*-wal"))
        assert_stranger_reads(public, 2)
        integrator.publish(public.request(), root)
        assert_stranger_reads(public, 3)
    assert_stranger_reads(public, 3)


@needs_root
@pytest.mark.root
def test_a_user_who_may_only_read_sees_what_a_killed_publisher_committed(public: Studio) -> None:
    code = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import integrator
with integrator.open_root({public.path!r}) as root:
    integrator.publish({public.request()!r}, root)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", code], check=False)
    assert died.returncode == -signal.SIGKILL
    log = Path(public.path, ".integrator/publish.sqlite3-wal")
    assert log.stat().st_size
    assert_stranger_reads(public, 2)
    log.chmod(0o600)
    refused = as_stranger("path", "demo", "sh010", "camera", "--root", public.path)
    assert (refused.returncode, refused.stdout) == (5, "")
    assert "-wal" in refused.stderr
    assert "next: ls -l" in refused.stderr


# --- fast -------------------------------------------------------------------------------------------------------------


def statements(reader: Reader, work: Callable[[], object]) -> int:
    """How many statements `work` sends to the database."""
    sent: list[str] = []
    reader.database._connection.set_trace_callback(sent.append)  # type: ignore[attr-defined]
    try:
        work()
    finally:
        reader.database._connection.set_trace_callback(None)  # type: ignore[attr-defined]
    return len([statement for statement in sent if statement not in ("BEGIN", "ROLLBACK")])


def test_the_number_of_statements_does_not_depend_on_the_number_of_versions(studio: Studio) -> None:
    calls: dict[str, Callable[[Reader], object]] = {
        "a project": lambda reader: queries.versions(reader, "demo"),
        "a subset": lambda reader: queries.versions(reader, "demo", "sh010", "camera"),
        "latest": lambda reader: queries.versions(reader, "demo", latest=True),
        "one": lambda reader: reader.resolve("demo", "sh010", "camera", 1),
        "status": queries.status,
        "history": queries.history,
    }

    def count() -> Mapping[str, int]:
        counts = {}
        for name, call in calls.items():
            with open_reader(studio.path) as reader:
                call(reader)
                counts[name] = statements(reader, lambda call=call, reader=reader: call(reader))  # type: ignore[misc]
        return counts

    Path(studio.path, SUBSET, "v9000").mkdir()
    before = count()
    copy_versions(studio, 1500)
    assert count() == before
    assert before["a project"] <= 5
    assert before["a project"] == before["a subset"]
    assert before["status"] <= 4


def copy_versions(studio: Studio, count: int) -> None:
    """More versions of the camera, and more transactions that ended."""
    with studio.open() as root:
        [subset] = root.documents("demo", {"type": "subset", "name": "camera"})
        [version] = root.documents("demo", {"type": "version", "parent": subset["_id"]})
        ended = root.engine.database.read("transactions", version["data"]["integrator"]["transaction"])
        assert ended is not None
        changes = []
        for n in range(2, count):
            key = f"version/{subset['_id']['$oid']}/"
            text = json.dumps(version).replace("v001", f"v{n:03d}").replace(f"{key}1", f"{key}{n}")
            made = {**json.loads(text), "_id": object_id(), "name": n}
            changes += [
                Insert(collection=PROJECT + "demo", document=made),
                Insert(collection="transactions", document={**ended, "_id": made["_id"]["$oid"], "publish_id": None}),
                Insert(collection="leases", document={"_id": f"demo/sh/{n}", "token": 1, "transaction": None}),
            ]
        root.engine.database.commit(changes)


@pytest.mark.parametrize(
    "words",
    [
        ["versions", "demo", "sh010"],
        ["path", "demo", "sh010", "camera"],
        ["status"],
        ["history"],
        ["blame", "--root=ROOT", f"ROOT/{SUBSET}/v001"],
    ],
    ids=lambda words: str(words[0]),
)
def test_readers_load_nothing_that_only_a_publish_needs(studio: Studio, words: list[str]) -> None:
    words = [word.replace("ROOT", studio.path) for word in words]
    loaded = modules_of(*words, *([] if words[0] == "blame" else ["--root", studio.path]))
    heavy = {"pyblish", "xxhash", "rich", "msgspec", "pymongo", "concurrent.futures", "subprocess", "integrator.publish",
             "integrator.engine", "integrator.renewal", "integrator.transaction", "integrator.documents"}  # fmt: skip
    if sys.version_info < (3, 11):
        heavy.remove("subprocess")  # Python's own `platform` loads it, which attrs needs
    assert heavy & loaded == set()


# --- blame ------------------------------------------------------------------------------------------------------------


def test_blame_names_the_publish_of_a_directory_and_of_every_file_in_it(studio: Studio, reader: Reader) -> None:
    path = publish(studio)
    version = reader.latest("demo", "sh010", "camera")
    for inside, representation in [
        ("", ""), ("demo_sh010_camera_v002.abc", "abc"), ("resources/deep", ""), ("resources/deep/cam.abc", "resources"),
    ]:  # fmt: skip
        found = blame(reader, os.path.join(path, inside))
        assert (found["kind"], found["version"], found["representation"]) == ("published", 2, representation)
        assert (found["asset"], found["subset"], found["author"]) == ("sh010", "camera", "anna")
        assert (found["transaction"], found["state"]) == (version.transaction, "finished")
        assert found["host"]
        assert found["publish_id"]


def test_blame_knows_hero_versions(studio: Studio, reader: Reader) -> None:
    request = studio.request("hero")
    request["instances"] = [{**request["instances"][1], "hero": True}]
    with studio.open() as root:
        transaction = integrator.publish(request, root).transaction
    hero = Path(studio.path, SUBSET, "hero")
    (hero / "notes.txt").write_text("somebody's own")
    (hero.parent / f"hero.tmp.{'a' * 24}").mkdir()
    for inside, representation in [("", ""), ("demo_sh010_camera_hero.abc", "abc"), ("resources/deep/cam.abc", "resources")]:
        found = blame(reader, str(hero / inside))
        assert (found["kind"], found["hero"], found["version"], found["representation"]) == ("published", True, 2, representation)
        assert (found["transaction"], found["publish_id"], found["author"]) == (transaction, "hero", "anna")
    assert "hero version of demo/shots/sq01/sh010 camera v002" in Run("blame", str(hero), "--root", studio.path).out
    assert blame(reader, str(hero / "notes.txt"))["kind"] == "foreign"
    assert blame(reader, f"{hero}.tmp.{'a' * 24}")["kind"] == "staging"


def test_blame_takes_relative_paths_and_follows_links(
    studio: Studio, reader: Reader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = Path(studio.path, SUBSET)
    monkeypatch.chdir(folder)
    os.symlink("v001", "latest")
    os.symlink(folder / "latest", tmp_path / "link")
    os.symlink(tmp_path / "link", tmp_path / "second")
    for path in ("v001", "./v001/../v001/", "latest", "latest/demo_sh010_camera_v001.abc", str(tmp_path / "second")):
        assert blame(reader, path)["kind"] == "published", path
    assert blame(reader, str(tmp_path / "link"))["path"] == str(folder / "v001")
    monkeypatch.chdir(folder / "v001")
    assert blame(reader, ".")["version"] == 1
    os.symlink("circle", tmp_path / "circle")
    assert blame(reader, str(tmp_path / "circle"))["kind"] == "outside"


def test_blame_says_plainly_what_no_publish_made(studio: Studio, reader: Reader, tmp_path: Path) -> None:
    folder = Path(studio.path, SUBSET)
    (folder / "v005").mkdir()
    (folder / "v005/a").write_bytes(b"a")
    (folder / "v001/notes.txt").write_bytes(b"a")
    (folder / "notes.txt").write_bytes(b"a")
    (folder / f"v002.tmp.{'a' * 24}").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"a")
    trash = Path(studio.path, "demo/.integrator/trash", "b" * 24 + ".0.1")
    trash.mkdir(parents=True)
    expected = {
        folder / "v005": "foreign", folder / "v005/a": "foreign", folder / "v001/notes.txt": "foreign",
        folder / "notes.txt": "foreign", folder: "folder", folder / f"v002.tmp.{'a' * 24}": "staging", trash: "trash",
        Path(studio.path, ".integrator/config.toml"): "engine", tmp_path / "elsewhere": "outside",
    }  # fmt: skip
    assert {path: blame(reader, str(path))["kind"] for path in expected} == expected
    for path, kind in expected.items():
        words = Run("blame", str(path), "--root", studio.path)
        assert words.code == 0
        assert {"engine": "integrator itself"}.get(kind, kind) in words.out
    with pytest.raises(errors.UsageError, match="nothing at"):
        blame(reader, str(folder / "v009"))


def test_blame_names_the_publish_of_a_file_that_is_gone(studio: Studio, reader: Reader) -> None:
    path = reader.latest("demo", "sh010", "camera").representations[0].files[0]
    os.unlink(path)
    assert blame(reader, path)["representation"] == "abc"


def test_blame_finds_the_publish_root_from_the_path(studio: Studio) -> None:
    found = Run("blame", f"{studio.path}/{SUBSET}/v001", "--json", cwd="/")
    assert (found.json["kind"], found.json["version"]) == ("published", 1)
    people = Run("blame", f"{studio.path}/{SUBSET}/v001", cwd="/")
    assert "published: demo/shots/sq01/sh010 camera v001" in people.out
    assert "anna" in people.out


# --- the command line -------------------------------------------------------------------------------------------------


def test_path_prints_a_path_or_files_and_nothing_else(studio: Studio) -> None:
    words = ("path", "demo", "sh010", "renderBeauty", "1", "--root", studio.path)
    folder = f"{studio.path}/demo/shots/sq01/sh010/publish/render/renderBeauty/v001"
    assert Run(*words).out == folder + "\n"
    files = Run(*words, "--representation", "proxy").out.splitlines()
    assert len(files) == 8
    assert all(os.path.isfile(path) for path in files)
    answer = Run(*words, "--representation", "proxy", "--json").json
    assert (answer["path"], answer["representations"]) == (folder, [{"name": "proxy", "files": files}])
    unknown = Run(*words, "--representation", "jpg")
    assert (unknown.code, unknown.out) == (2, "")
    assert "exr, proxy" in unknown.err


def test_an_error_of_path_is_one_document_for_programs(studio: Studio) -> None:
    refused = Run("path", "demo", "sh010", "camera", "hero", "--json", "--root", studio.path)
    assert (refused.code, refused.json["error"]["code"]) == (2, "not_published")
    assert refused.json["error"]["next"].startswith("integrator --root")
