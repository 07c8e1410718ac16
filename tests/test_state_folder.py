"""Where the state folder of a root is, how it is made, and when it is believed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from people import ADMINISTRATOR, ARTIST, FARM, GROUP, Place, as_root, place
from studio import Studio

import integrator
from integrator import queries, recovery, state_folder
from integrator.check import check
from integrator.database import CLAIMS, Insert, Update, connect, connect_reader
from integrator.errors import DatabaseDamaged, DatabaseFailed, NotARoot, RootMissing, RootRefused, SettingsRefused, UsageError
from integrator.root import create_root, find_root, open_reader, open_root
from integrator.storage import Storage
from integrator.sweep import sweep
from integrator.testing import CrashingStorage, Fate, Killed

__all__ = ["place"]


@pytest.fixture
def show(tmp_path: Path) -> Path:
    (tmp_path / "show").mkdir()
    return tmp_path / "show"


def camera(studio: Studio, publish_id: str) -> dict[str, Any]:
    whole = studio.request(publish_id)
    return {**whole, "instances": whole["instances"][1:]}


def names(folder: Path) -> set[str]:
    return {path.name.removesuffix("-wal").removesuffix("-shm") for path in folder.iterdir()}


def test_the_state_folder_can_be_elsewhere_and_everything_works(studio: Studio, show: Path, tmp_path: Path) -> None:
    state = tmp_path / "local" / "show-state"
    with create_root(str(show), state=str(state)) as root:
        assert root.state == str(state)
        assert integrator.publish(camera(studio, "job"), root).outcome == "published"
    assert names(show / ".integrator") == {"id", "state"}
    assert names(state) == {"config.toml", "history", "id", "journal", "publish.sqlite3"}
    assert (show / ".integrator/id").read_text() == (state / "id").read_text()
    assert find_root(str(show / "demo/shots")) == str(show)
    with open_root(str(show)) as root:
        assert [version["version"] for version in queries.versions(root, "demo")] == [1]
        assert check(root, checksums=True) == []
        assert recovery.recover(root.engine) == []
        assert root.engine.journals.unfinished() == []
    assert list(state.glob("history/*/*.journal"))


def test_a_killed_publish_is_recovered_from_a_state_folder_elsewhere(studio: Studio, show: Path, tmp_path: Path) -> None:
    create_root(str(show), state=str(tmp_path / "state")).close()
    run = studio.fresh()
    run.path = str(show)
    done = Fate()
    with run.open(done) as root:
        integrator.publish(camera(run, "first"), root)
    for number in range(3, len(done.calls), max(1, len(done.calls) // 8)):
        fate = Fate(kill_at=number, when="after")
        with contextlib.suppress(Killed), run.open(fate, owner=run.dead) as root:  # a later one makes fewer calls
            integrator.publish(camera(run, f"job-{number}"), root)
        run.recover()
        assert run.leftovers() == []


def test_a_state_folder_of_another_root_is_refused(studio: Studio, show: Path, tmp_path: Path) -> None:
    create_root(str(show), state=str(tmp_path / "one")).close()
    (tmp_path / "other").mkdir()
    create_root(str(tmp_path / "other"), state=str(tmp_path / "two")).close()
    with pytest.raises(UsageError, match="another publish root"):
        create_root(str(tmp_path / "third"), state=str(tmp_path / "one"))
    (show / ".integrator/state").write_text(f"{tmp_path}/two\n")
    with pytest.raises(RootRefused, match="is that of publish root"):
        open_root(str(show))


def test_a_state_folder_whose_own_id_was_exchanged_is_refused(show: Path, tmp_path: Path) -> None:
    create_root(str(show), state=str(tmp_path / "state")).close()
    (tmp_path / "state/id").write_text("0" * 24)
    with pytest.raises(RootRefused, match="says 000000"):
        open_root(str(show))


def test_a_state_folder_that_is_not_there_is_said_and_nothing_is_made(show: Path, tmp_path: Path) -> None:
    create_root(str(show), state=str(tmp_path / "state")).close()
    (tmp_path / "state").rename(tmp_path / "away")
    with pytest.raises(RootRefused, match="which is not there"):
        open_root(str(show))
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("where", ["root", "state", "state/journal"])
def test_a_state_folder_that_anybody_can_write_is_refused(show: Path, tmp_path: Path, where: str) -> None:
    create_root(str(show), state=str(tmp_path / "state")).close()
    folder = show / ".integrator" if where == "root" else tmp_path / where
    folder.chmod(0o777)
    with pytest.raises(RootRefused, match="anybody can write") as refused:
        open_root(str(show))
    assert refused.value.next.endswith(f"chmod o-w {folder}")


def test_a_root_that_exists_keeps_its_state_folder(show: Path, tmp_path: Path) -> None:
    create_root(str(show), state=str(tmp_path / "state")).close()
    with pytest.raises(UsageError, match=str(tmp_path / "state/config.toml")):
        create_root(str(show), state=str(tmp_path / "other"))


@pytest.mark.parametrize("elsewhere", [False, True], ids=["inside", "elsewhere"])
def test_an_init_that_was_killed_anywhere_can_be_run_again(
    tmp_path: Path, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str, fate: Fate) -> str:
        state = str(tmp_path / f"{name}-state") if elsewhere else ""
        monkeypatch.setattr(state_folder, "Storage", lambda: CrashingStorage(fate))
        create_root(str(tmp_path / name), state=state).close()
        return state

    whole = Fate()
    made("whole", whole)
    for number in range(1, len(whole.calls) + 1):
        for when in ("before", "after", "during"):
            name = f"{number}-{when}"
            try:
                made(name, Fate(kill_at=number, when=when))
            except Killed:
                state = made(name, Fate())
            where = Path(state) if elsewhere else tmp_path / name / ".integrator"
            assert names(where) - {"state"} == {"config.toml", "history", "id", "journal", "publish.sqlite3"}
            with open_root(str(tmp_path / name)) as root, root.engine.root("work"):
                pass


def test_a_folder_that_is_a_named_root_of_another_cannot_become_one(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "render").mkdir()
    config = Path(studio.path, ".integrator/config.toml")
    config.write_text(config.read_text() + f'[roots]\nrender = "{tmp_path}/render"\n')
    create_root(studio.path).close()
    with pytest.raises(UsageError, match="belongs to publish root"):
        create_root(str(tmp_path / "render"))


@pytest.mark.root
@as_root
def test_a_state_folder_elsewhere_is_shared_too(place: Place) -> None:
    state = f"{place.path}/state"
    done = ADMINISTRATOR.integrator("init", place.show, "--shared", "--group", str(GROUP), "--state", state)
    assert done.code == 0, done.err
    for person in (ARTIST, FARM):
        assert person.publish(place.show, place.request(person)).code == 0
    assert place.wrong() == []
    for here, _, files in os.walk(state):
        for path, mode in [(here, 0o2775), *((os.path.join(here, name), 0o664) for name in files)]:
            status = os.stat(path)
            assert (status.st_mode & 0o7777, status.st_gid) == (mode, GROUP), path


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A mounted folder; the test may unmount it."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True, timeout=10)
    yield folder
    subprocess.run(["umount", str(folder)], check=False, timeout=10, capture_output=True)


@pytest.mark.root
@as_root
def test_a_root_that_is_not_mounted_settles_nothing(studio: Studio, mounted: Path, tmp_path: Path) -> None:
    """Its state folder is on another disk, and knows of an unfinished transaction."""
    kept = tmp_path / "kept"
    create_root(str(mounted), state=str(tmp_path / "state")).close()
    run = studio.fresh()
    run.path = str(mounted)
    with run.open(Fate(kill_at=12, when="after"), owner=run.dead) as root, pytest.raises(Killed):
        integrator.publish(camera(run, "job"), root)
    root = run.open()
    try:
        shutil.copytree(mounted, kept, symlinks=True)
        subprocess.run(["umount", "--lazy", str(mounted)], check=True, timeout=10)
        [settled] = recovery.recover(root.engine)
        assert settled.outcome == "in_doubt"
        assert "mounted" in settled.message
        with pytest.raises(NotARoot) as missing:
            open_root(str(mounted))
        assert missing.value.next.startswith("mount it")
    finally:
        root.close()
    assert os.listdir(mounted) == []
    # The same content under the same id, mounted again.
    shutil.copytree(kept, mounted, symlinks=True, dirs_exist_ok=True)
    assert [settled.outcome for settled in run.recover()] == ["rolled_back"]
    assert run.leftovers() == []


def test_what_makes_a_state_folder_is_the_one_storage() -> None:
    assert state_folder.Storage is Storage


# --- a database that was lost ---------------------------------------------------------------------------------------


def _lose(database: Path, how: str) -> None:
    if how == "missing":
        database.unlink()
    elif how == "empty":
        database.write_bytes(b"")
    else:
        database.unlink()
        with contextlib.closing(sqlite3.connect(database)) as plain:
            plain.execute("CREATE TABLE other (id)")


@pytest.mark.parametrize("how", ["missing", "empty", "without tables"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["embedded", "elsewhere"])
def test_a_lost_database_is_never_made_anew(studio: Studio, how: str, elsewhere: bool) -> None:
    database = Path(studio.path, ".integrator/publish.sqlite3")
    if elsewhere:
        database = database.rename(Path(studio.folder, "own.sqlite3"))
        config = Path(studio.path, ".integrator/config.toml")
        config.write_text(config.read_text() + f'database = "sqlite://{database}"\n')
    _lose(database, how)
    log = Path(f"{database}-wal")
    if how != "without tables":  # else it is SQLite's own business
        log.write_bytes(b"what was not yet written into the file")
    before = names(database.parent), database.exists() and database.read_bytes()
    url = f"sqlite://{database}"
    for attempt in (open_root, open_reader, create_root, lambda _: connect(url), lambda _: connect_reader(url)):
        with pytest.raises(DatabaseDamaged) as damaged:
            attempt(studio.path)  # type: ignore[operator]
        assert damaged.value.exit_code == 6
        assert "cannot be told" in damaged.value.message
        assert f"put {database} back from a copy, with {database}-wal" in damaged.value.next
        assert "integrator recover" in damaged.value.next
        assert "init" not in damaged.value.next
    assert (names(database.parent), database.exists() and database.read_bytes()) == before
    assert how == "without tables" or log.read_bytes() == b"what was not yet written into the file"


def test_a_database_that_is_put_back_is_used_again(studio: Studio) -> None:
    database = Path(studio.path, ".integrator/publish.sqlite3")
    database.rename(studio.folder + "/copy")
    with pytest.raises(DatabaseDamaged):
        open_root(studio.path)
    Path(studio.folder, "copy").rename(database)
    assert studio.leftovers() == []


def test_the_database_of_another_root_is_refused(studio: Studio, show: Path, tmp_path: Path) -> None:
    create_root(str(show)).close()
    shutil.copy(Path(studio.path, ".integrator/publish.sqlite3"), show / ".integrator/publish.sqlite3")
    for attempt in (open_root, open_reader, create_root):
        with pytest.raises(RootRefused, match="is that of publish root"):
            attempt(str(show))
    with pytest.raises(RootRefused, match="is that of publish root"):
        create_root(str(tmp_path / "third"), database=f"sqlite://{show}/.integrator/publish.sqlite3")


def test_a_database_that_does_not_say_whose_it_is_is_accepted_and_init_says_it(studio: Studio) -> None:
    database = Path(studio.path, ".integrator/publish.sqlite3")
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as plain:
        plain.execute("DROP TABLE root")
    open_reader(studio.path).close()
    with open_root(studio.path) as root:
        own = root.settings.root_id
    create_root(studio.path).close()
    with contextlib.closing(sqlite3.connect(database)) as plain:
        assert plain.execute("SELECT id FROM root").fetchall() == [(own,)]


# --- an init that was not completed, or whose configuration is gone ---------------------------------------------------


@pytest.mark.parametrize("marker", ["", "\n"])
def test_an_empty_marker_is_written_anew(show: Path, marker: str) -> None:
    (show / ".integrator").mkdir()
    (show / ".integrator/id").write_text(marker)
    with create_root(str(show)) as root:
        assert (show / ".integrator/id").read_text().strip() == root.settings.root_id
    with open_root(str(show)) as root, root.engine.root("work"):
        pass


def test_an_init_of_which_only_the_marker_is_left_is_completed_with_its_id(show: Path) -> None:
    create_root(str(show)).close()
    own = (show / ".integrator/id").read_text().strip()
    (show / ".integrator/config.toml").unlink()
    (show / ".integrator/publish.sqlite3").write_bytes(b"")
    with create_root(str(show)) as root:
        assert root.settings.root_id == own


@pytest.mark.parametrize("elsewhere", [False, True], ids=["inside", "elsewhere"])
def test_a_configuration_that_was_lost_is_not_invented(studio: Studio, show: Path, tmp_path: Path, elsewhere: bool) -> None:
    state = tmp_path / "state" if elsewhere else show / ".integrator"
    with create_root(str(show), state=str(state) if elsewhere else "") as root:
        integrator.publish(camera(studio, "job"), root)
        own = root.settings.root_id
    config = state / "config.toml"
    kept = config.read_bytes()
    config.unlink()
    before = names(state)
    for attempt in (open_root, open_reader, lambda path: create_root(path, state=str(state))):
        with pytest.raises(RootRefused, match=r"config.toml is missing") as refused:
            attempt(str(show))
        assert f"put {config} back from a copy" in refused.value.next
        assert f'root_id = "{own}"' in refused.value.next
    assert names(state) == before
    config.write_bytes(kept)
    with open_root(str(show)) as root:
        assert check(root, checksums=True) == []


def _where(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


class Watched(Storage):
    """Notes in which folder a name was changed, and which folder was made durable."""

    def __init__(self, seen: list[tuple[str, str]]) -> None:
        self.seen = seen

    def mkdir(self, name: str, mode: int, at: int) -> None:
        super().mkdir(name, mode, at)
        self.seen.append(("changed", _where(at)))

    def rename(self, old: str, old_at: int, new: str, new_at: int) -> None:
        super().rename(old, old_at, new, new_at)
        self.seen.append((new, _where(new_at)) if new == "config.toml" else ("changed", _where(new_at)))

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.seen.append(("synced", _where(fd)))


@pytest.mark.parametrize("elsewhere", [False, True], ids=["inside", "elsewhere"])
def test_every_name_that_init_makes_is_durable(tmp_path: Path, elsewhere: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(state_folder, "Storage", lambda: Watched(seen))
    path, state = tmp_path / "new" / "show", str(tmp_path / "state") if elsewhere else ""
    create_root(str(path), state=state).close()
    where = state or str(path / ".integrator")
    folders = {folder for what, folder in seen if what != "synced"}
    assert folders == {str(path), str(path / ".integrator"), where}
    for folder in folders | {str(path.parent), str(tmp_path)}:
        last = [what for what, at in seen if at == folder][-1]
        assert last == "synced", folder
    before = seen[: seen.index(("config.toml", where))]
    for folder in {str(path / ".integrator"), where}:  # with it the root is one: all else must be there by then
        assert [what for what, at in before if at == folder][-1] == "synced", folder


def test_init_again_marks_a_root_that_was_added_and_makes_the_marker_durable(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "render").mkdir()
    config = Path(studio.path, ".integrator/config.toml")
    config.write_text(config.read_text() + f'[roots]\nrender = "{tmp_path}/render"\n')
    with open_root(studio.path) as root, pytest.raises(RootMissing), root.engine.root("render"):
        pass
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(integrator.root, "Storage", lambda: Watched(seen))
    create_root(studio.path).close()
    with open_root(studio.path) as root, root.engine.root("render"):
        pass
    assert (tmp_path / "render/.integrator/id").read_text() == Path(studio.path, ".integrator/id").read_text()
    for folder in (f"{tmp_path}/render", f"{tmp_path}/render/.integrator"):
        assert [what for what, at in seen if at == folder][-1] == "synced", folder


# --- what lies around a root ------------------------------------------------------------------------------------------


def test_a_burnt_number_that_is_claimed_meanwhile_is_not_swept(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    with studio.open() as root:
        database = root.engine.database
        claim = {"_id": "hero/v007", "lease": "hero", "number": 7, "transaction": "a" * 24, "burnt": 1.0}
        database.commit([Insert(collection=CLAIMS, document=claim)])
        real, again = database.commit, Update(collection=CLAIMS, id="hero/v007", expect={}, set={"transaction": "b" * 24})

        def late(changes: Any) -> None:
            real([again])
            real(changes)

        monkeypatch.setattr(database, "commit", late)
        [swept] = [entry for entry in sweep(root) if entry.kind == "claim"]
        assert swept.left == "claimed again meanwhile"
        kept = database.read(CLAIMS, "hero/v007")
        assert kept is not None
        assert kept["transaction"] == "b" * 24


def _integrator(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stdout": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-m", "integrator", *words], stderr=subprocess.PIPE, check=False, **options)


_FORM = ("publish", "--project", "demo", "--asset", "sh010", "--subset", "camera", "--family", "camera")


def test_a_removed_working_directory_matters_only_to_relative_paths(studio: Studio, tmp_path: Path) -> None:
    package = os.path.dirname(os.path.dirname(integrator.__file__))

    def run(*words: str) -> tuple[int, bytes]:
        gone = tmp_path / "gone"
        gone.mkdir()
        # From a file, as the installed command: Python 3.13.0 cannot run `-c` there.
        program = tmp_path / "program.py"
        program.write_text("import os, sys\nos.rmdir(os.getcwd())\nfrom integrator.__main__ import main\nsys.exit(main())\n")
        done = subprocess.run(
            [sys.executable, str(program), *words],
            cwd=gone,
            env={**os.environ, "PYTHONPATH": package},
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stderr

    assert run("versions", "demo", "--root", studio.path) == (0, b"")
    assert run("blame", f"{studio.path}/demo/shots", "--root", studio.path)[0] == 0
    assert run(*_FORM, f"{studio.sources}/cam.abc", "--root", studio.path)[0] == 0
    for words in (["status"], ["init", "new"], [*_FORM, "cam.abc", "--root", studio.path], ["status", "--root", "show"]):
        code, said = run(*words)
        assert code == 2, said
        assert b"the working directory was removed" in said
        assert b"absolute paths" in said


def test_an_answer_that_cannot_be_written_is_said(studio: Studio) -> None:
    with open("/dev/full", "wb") as full:
        done = _integrator(*_FORM, f"{studio.sources}/cam.abc", "--root", studio.path, "--json", stdout=full)
        assert done.returncode == 0
        assert b"the answer could not be written: No space left on device; what it was about is published" in done.stderr
        done = _integrator("versions", "demo", "--root", studio.path, "--json", stdout=full)
        assert (done.returncode, b"the answer could not be written" in done.stderr, b"bug" in done.stderr) == (1, True, False)


def test_a_comment_is_utf_8_whatever_the_locale(studio: Studio) -> None:
    surroundings = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [*_FORM, f"{studio.sources}/cam.abc", "--root", studio.path, "--comment"]
    assert _integrator(*words, "première", env=surroundings).returncode == 0
    with open_reader(studio.path) as reader:
        assert queries.versions(reader, "demo", "sh010", "camera")[-1]["comment"] == "première"
    assert _integrator(*words, os.fsdecode(b"\xff"), env=surroundings).returncode == 2


def test_settings_without_the_id_say_where_it_stands(studio: Studio) -> None:
    config = Path(studio.path, ".integrator/config.toml")
    config.write_text("format = 1\n")
    with pytest.raises(SettingsRefused, match=f"with the id in {studio.path}/.integrator/id"):
        open_root(studio.path)


@pytest.mark.root
@as_root
def test_a_full_disk_at_opening_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder)], check=True, timeout=10)
    try:
        create_root(str(folder)).close()
        with contextlib.suppress(OSError), open(folder / "rest", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(DatabaseFailed, match=f"The disk of {folder}/.integrator is full") as full:
            open_root(str(folder))
        assert full.value.exit_code == 5
        assert full.value.next.startswith("make room on the disk")
    finally:
        subprocess.run(["umount", str(folder)], check=False, timeout=10)
