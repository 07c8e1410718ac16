"""The command line as people, farms and programs meet it: real processes, their exit codes and what they print."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from studio import Studio

import integrator
from integrator import cli, errors
from integrator.cli.console import Console, shown
from integrator.root import open_root
from integrator.testing import Fate, Killed

SHOT = ("--project", "demo", "--asset", "sh010", "--subset", "renderBeauty", "--family", "render")


def start(*words: str | bytes, **options: Any) -> subprocess.Popen[bytes]:
    """Start the command line. Signals are as a shell in the foreground leaves them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("INTEGRATOR_", "OPENJD_"))}
    environment.update(options.pop("env", {}))

    def foreground() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    command = [sys.executable, "-m", "integrator", *words]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, env=environment, preexec_fn=foreground, **pipes)


class Run:
    """How one command ended."""

    def __init__(self, *words: str | bytes, input: bytes | None = None, **options: Any) -> None:
        if input is not None:
            options["stdin"] = subprocess.PIPE
        child = start(*words, **options)
        out, err = child.communicate(input, timeout=60)
        self.code = child.returncode
        self.out = (out or b"").decode()
        self.err = (err or b"").decode()

    @property
    def json(self) -> Any:
        """The one document on standard output; more than one, or anything else, fails."""
        return json.loads(self.out)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "render"
    folder.mkdir()
    for frame in range(1001, 1004):
        (folder / f"beauty.{frame}.exr").write_bytes(b"pixels of %d" % frame)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "show"
    assert cli.main(["init", str(path)]) == 0
    return path


def request(sources: Path, **more: Any) -> dict[str, Any]:
    representation = {"name": "exr", "files": [str(sources / "beauty.%04d.exr")]}
    instance = {"asset": "sh010", "subset": "renderBeauty", "family": "render", "representations": [representation]}
    return {"schema": "integrator:publish-request-1.0", "project": "demo", "instances": [instance], **more}


def publish(root: Path, sources: Path, *more: str, **options: Any) -> Run:
    return Run("publish", *SHOT, str(sources / "beauty.%04d.exr"), "--root", str(root), *more, **options)


def tree(path: Path) -> dict[str, bytes]:
    """Everything below the projects of a root, without the engine's own folders."""
    files = (file for file in path.rglob("*") if file.is_file() and ".integrator" not in file.parts)
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


# --- light imports ----------------------------------------------------------------------------------------------------


def modules_of(*words: str) -> set[str]:
    code = f"import sys; sys.argv[1:] = {words!r}; from integrator.__main__ import main; c = main(); print(c, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, *modules = done.stdout.splitlines()[-1].split()
    assert said == "0"
    return set(modules)


def test_help_loads_nothing_that_only_a_command_needs() -> None:
    heavy = {"attr", "attrs", "msgspec", "sqlite3", "rich", "xxhash", "pymongo", "pyblish", "json", "integrator.cli.publish"}
    assert not heavy & modules_of("--help")


def test_status_loads_neither_encoder_nor_terminal_nor_media(root: Path) -> None:
    heavy = {"msgspec", "rich", "xxhash", "pymongo", "pyblish", "clique", "integrator.publish"}
    assert not heavy & modules_of("status", "--root", str(root))


# --- finding the way --------------------------------------------------------------------------------------------------


def test_options_stand_before_or_after_the_command(root: Path) -> None:
    before = Run("--json", "--root", str(root), "status")
    after = Run("status", f"--root={root}", "--json")
    assert before.json == after.json == {"unfinished": [], "leases": [], "orphans": []}


def test_the_root_is_found_from_the_environment_and_from_below(root: Path) -> None:
    (root / "demo").mkdir()
    assert Run("status", cwd=root / "demo").code == 0
    assert Run("status", cwd="/", env={"INTEGRATOR_ROOT": str(root)}).code == 0
    nowhere = Run("status", cwd="/", env={"INTEGRATOR_ROOT": ""})
    assert (nowhere.code, nowhere.out) == (2, "")
    assert "integrator init" in nowhere.err


@pytest.mark.parametrize("words", [[], ["--help"], ["publish", "--help"], ["--version"], ["lease", "-h"]])
def test_help_is_an_answer_and_one_document_if_a_program_asks(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert capsys.readouterr().out
    if words:
        assert cli.main([*words, "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)) == {"help"}


def test_every_command_that_help_names_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in cli.COMMANDS:
        assert cli.main([command, "--help"]) == 0
        assert "--root DIR" in capsys.readouterr().out


def test_python_dash_m_and_the_console_script_are_the_same_program() -> None:
    assert Run("--version").out.startswith("integrator ")


@pytest.mark.parametrize(
    "words",
    [
        ["publsh"], ["--jso", "status"], ["status", "--roo", "x"], ["status", "surplus"], ["recover", "a", "b"], ["rollback"],
        ["lease", "steal"], ["lease", "break", "key"], ["lease", "list", "key"], ["init"], ["init", "a", "--root", "b"],
        ["sweep", "--older-than", "soon"], ["sweep", "--older-than", "-1"], ["history", "--limit", "0"],
        ["publish"], ["publish", "a.json", "b.json"], ["publish", "missing.json"], ["publish", "x.json", "--comment", "y"],
        ["publish", "--project", "demo", "x.exr"], ["publish", *SHOT], ["publish", *SHOT, "noextension"],
        ["publish", *SHOT, "a.exr", "b.abc", "--representation", "exr=c.exr"], ["publish", *SHOT, "x.%04d.exr", "y.%04d.exr"],
        ["publish", *SHOT, "a.1.exr", "a.1.exr"], ["publish", *SHOT, "--representation", "exr"],
        ["publish", *SHOT, "--representation", "a=x.exr", "--representation", "a=y.exr"],
        ["publish", *SHOT, "--asset", "b", "x.exr"],
        ["publish", *SHOT, "x.exr", "--data", "a=1", "--data", "a=2"], ["publish", *SHOT, "x.exr", "--fps", "nan"],
        ["publish", *SHOT, "x.exr", "--fps", "24", "--data", "fps=25"], ["publish", *SHOT, "x.exr", "--version", "-1"],
        ["publish", *SHOT, "x.exr", "--transfer", "teleport"], ["publish", *SHOT, "x.exr", "--workers", "0"],
        ["publish", *SHOT, "x.exr", "--hierarchy", "../.."], ["publish", *SHOT, "x.exr", "--publish-id", "no spaces"],
        ["publish", *SHOT, "x.exr", "--wait", "-3"], ["publish", *SHOT, "x.exr", "--amend", "x"], ["reserve", "x.json"],
    ],
)  # fmt: skip
def test_bad_usage_exits_2_says_why_and_stays_one_document(
    words: list[str], root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INTEGRATOR_ROOT", str(root))
    monkeypatch.chdir(root)
    before = sorted(path for path in root.rglob("*") if "sqlite" not in path.name)
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("integrator: ")
    assert ("farm: do not retry" in said.err) == (words[0] == "publish")
    assert cli.main([*words, "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["error"]) == {"code", "message", "next"}
    if words[0] == "publish":
        assert (answer["outcome"], answer["transaction"], answer["versions"]) == ("refused", None, [])
    assert sorted(path for path in root.rglob("*") if "sqlite" not in path.name) == before


# --- init -------------------------------------------------------------------------------------------------------------


def test_init_makes_a_root_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "show"
    first = Run("init", str(path), "--json", "--template", "version_padding=4")
    config = (path / ".integrator" / "config.toml").read_bytes()
    again = Run("init", str(path), "--json")
    assert (first.json, again.json) == ({"root": str(path), "created": True}, {"root": str(path), "created": False})
    assert (path / ".integrator" / "config.toml").read_bytes() == config
    assert Run("init", str(path), "--database", "sqlite:///elsewhere").code == 2


def test_init_takes_a_database_elsewhere(tmp_path: Path, sources: Path) -> None:
    assert Run("init", str(tmp_path / "show"), "--database", f"sqlite://{tmp_path}/local.sqlite3").code == 0
    assert publish(tmp_path / "show", sources).code == 0
    assert (tmp_path / "local.sqlite3").exists()
    assert not (tmp_path / "show" / ".integrator" / "publish.sqlite3").exists()


def test_init_where_no_folder_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = Run("init", str(tmp_path / "file"))
    assert run.code == 2
    assert "cannot become a publish root" in run.err


# --- publish ----------------------------------------------------------------------------------------------------------


def test_a_request_from_a_file_is_published(root: Path, sources: Path, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(json.dumps(request(sources)))
    run = Run("publish", str(tmp_path / "request.json"), "--root", str(root), "--json")
    assert run.code == 0
    answer = run.json
    version = answer["versions"][0]
    folder = root / "demo/sh010/publish/render/renderBeauty/v001"
    assert set(answer) == {"transaction", "outcome", "error", "versions"}
    assert (answer["outcome"], answer["error"]) == ("published", None)
    assert set(version) == {"project", "asset", "subset", "family", "version", "path", "representations"}
    assert (version["version"], version["path"]) == (1, str(folder))
    assert version["representations"][0]["files"] == sorted(map(str, folder.iterdir()))


def test_a_request_comes_from_standard_input(root: Path, sources: Path) -> None:
    run = Run("publish", "-", "--root", str(root), "--json", input=json.dumps(request(sources)).encode())
    assert run.json["outcome"] == "published"


def test_files_on_the_command_line_are_published_with_what_was_said_of_them(root: Path, sources: Path, tmp_path: Path) -> None:
    (tmp_path / "cam.abc").write_bytes(b"camera")
    run = Run(
        "publish", *SHOT, "render/beauty.####.exr", "--hierarchy", "shots/sq01", "--task", "lighting", "--comment", "first pass",
        "--author", "anna", "--fps", "24", "--frames", "1001-1002", "--representation", "camera=cam.abc",
        "--data", 'grade={"a": [1]}',
        "--data", "note=plain text", "--version", "7", "--checksum", "all", "--workers", "2", "--root", str(root), "--json",
        cwd=tmp_path,
    )  # fmt: skip
    answer = run.json
    assert run.code == 0
    assert answer["versions"][0]["path"] == str(root / "demo/shots/sq01/sh010/publish/render/renderBeauty/v007")
    assert [(entry["name"], len(entry["files"])) for entry in answer["versions"][0]["representations"]] == [
        ("camera", 1),
        ("exr", 2),
    ]
    with open_root(str(root)) as opened:
        (version,) = opened.documents("demo", {"type": "version"})
        representations = opened.documents("demo", {"type": "representation"})
    found = version["data"]
    assert (found["author"], found["comment"], found["fps"]) == ("anna", "first pass", 24)
    assert (found["grade"], found["note"]) == ({"a": [1]}, "plain text")
    assert {entry["context"]["task"]["name"] for entry in representations} == {"lighting"}


def test_a_sequence_that_the_shell_spelled_out_is_one_representation(root: Path, sources: Path) -> None:
    run = Run("publish", *SHOT, *map(str, sorted(sources.iterdir())), "--root", str(root), "--json")
    assert [len(entry["files"]) for entry in run.json["versions"][0]["representations"]] == [3]


@pytest.mark.parametrize("option", [[], ["--representation"]])
def test_clique_form_names_the_frames_that_are_wanted(root: Path, sources: Path, option: list[str]) -> None:
    pattern = f"{sources}/beauty.%04d.exr [1001-1002]"
    words = [*option, f"exr={pattern}" if option else pattern]
    run = Run("publish", *SHOT, *words, "--root", str(root), "--json")
    assert run.code == 0, run.err
    [entry] = run.json["versions"][0]["representations"]
    assert (entry["name"], len(entry["files"])) == ("exr", 2)
    missing = Run("publish", *SHOT, f"{sources}/beauty.%04d.exr [1001-1009]", "--root", str(root))
    assert (missing.code, "lacks the frames 1004-1009" in missing.err) == (3, True)
    hashes = Run("publish", *SHOT, f"{sources}/beauty.####.exr [1001-1002]", "--root", str(root))
    assert (hashes.code, "brackets go with %04d" in hashes.err) == (2, True)


def test_people_read_where_it_is_how_much_and_how_long(root: Path, sources: Path) -> None:
    run = publish(root, sources)
    assert "renderBeauty v001" in run.out
    assert str(root / "demo/sh010/publish/render/renderBeauty/v001") in run.out
    assert "3 files, 42 B in" in run.out


def test_a_dry_run_writes_nothing_and_says_the_number(root: Path, sources: Path) -> None:
    run = publish(root, sources, "--dry-run", "--json")
    assert (run.json["outcome"], run.json["versions"][0]["version"]) == ("planned", 1)
    assert tree(root) == {}


def test_the_same_publish_id_publishes_once_and_refuses_other_content(root: Path, sources: Path) -> None:
    first = publish(root, sources, "--publish-id", "farm-1", "--json")
    again = publish(root, sources, "--publish-id", "farm-1", "--json")
    other = publish(root, sources, "--publish-id", "farm-1", "--comment", "something else", "--json")
    assert (first.code, again.code, other.code) == (0, 0, 2)
    assert again.json == {**first.json, "outcome": "already_published"}
    assert other.json["error"]["code"] == "different_content"


def test_again_publishes_a_new_version_under_a_publish_id_that_was_published(root: Path, sources: Path) -> None:
    first = publish(root, sources, "--publish-id", "farm-1", "--json")
    again = publish(root, sources, "--publish-id", "farm-1", "--again", "--json")
    retry = publish(root, sources, "--publish-id", "farm-1", "--json")
    assert [run.json["versions"][0]["version"] for run in (first, again, retry)] == [1, 2, 1]
    assert again.json["outcome"] == "published"


def test_again_publishes_under_the_publish_id_itself_if_that_was_never_published(root: Path, sources: Path) -> None:
    missing = publish(root, sources / "nowhere", "--publish-id", "farm-1", "--json")
    first = publish(root, sources, "--publish-id", "farm-1", "--again", "--json")
    retry = publish(root, sources, "--publish-id", "farm-1", "--json")
    second = publish(root, sources, "--publish-id", "farm-1", "--again", "--json")
    assert (missing.code, first.json["outcome"], retry.json) == (3, "published", {**first.json, "outcome": "already_published"})
    assert (second.json["outcome"], second.json["versions"][0]["version"]) == ("published", 2)


def test_the_publish_id_of_the_command_line_wins_over_that_of_the_request(root: Path, sources: Path) -> None:
    text = json.dumps(request(sources, publish_id="inside")).encode()
    runs = [Run("publish", "-", "--publish-id", name, "--root", str(root), "--json", input=text) for name in ("a", "a", "inside")]
    assert [run.json["outcome"] for run in runs] == ["published", "already_published", "published"]


def test_refused_sources_exit_3_list_everything_and_touch_nothing(root: Path, sources: Path) -> None:
    run = Run("publish", *SHOT, str(sources / "a.exr"), str(sources / "b.abc"), "--root", str(root))
    assert run.code == 3
    assert str(sources / "a.exr") in run.err
    assert str(sources / "b.abc") in run.err
    assert "Nothing was touched" in run.err
    assert "farm: do not retry" in run.err
    assert tree(root) == {}


def test_a_taken_number_is_refused_with_exit_3(root: Path, sources: Path) -> None:
    publish(root, sources)
    run = publish(root, sources, "--version", "1", "--json")
    assert (run.code, run.json["error"]["code"]) == (3, "version_taken")


def test_a_bad_request_names_every_json_path(root: Path) -> None:
    run = Run("publish", "-", "--root", str(root), input=b'{"project": {"$ne": null}, "instances": 3, "x": 1}')
    assert run.code == 2
    for where in ("$.schema", "$.project", "$.instances", "$.x"):
        assert where in run.err


@pytest.mark.parametrize("text", [b"", b"\xff", b"[" * 100_000, b'{"a": NaN}', b'{"a": 1, "a": 1}', b"0" * (17 * 2**20)])
def test_hostile_requests_are_refused_within_seconds(root: Path, text: bytes) -> None:
    started = time.monotonic()
    run = Run("publish", "-", "--root", str(root), "--json", input=text)
    assert (run.code, run.json["error"]["code"]) == (2, "bad_request")
    assert time.monotonic() - started < 5


# --- exit codes that need a state of things ---------------------------------------------------------------------------


def hold(root: Path, sources: Path) -> subprocess.Popen[bytes]:
    """A publish that is stopped while it holds the soft lock of renderBeauty; its source is too large to be finished at once."""
    with open(sources / "beauty.1002.exr", "ab") as file:
        file.truncate(1 << 30)
    child = start("publish", *SHOT, str(sources / "beauty.%04d.exr"), "--root", str(root), "--checksum", "copied")
    folder = root / "demo/sh010/publish/render/renderBeauty"
    while not list(folder.glob("v*.tmp.*/*")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGSTOP)
    return child


def kill(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


def test_who_is_busy_exits_4_until_it_is_dead_and_then_is_recovered(root: Path, sources: Path) -> None:
    holder = hold(root, sources)
    (sources / "other.exr").write_bytes(b"other")
    another = ("publish", *SHOT, str(sources / "other.exr"), "--root", str(root))
    busy, words = Run(*another, "--json"), Run(*another)
    status = Run("status", "--root", str(root), "--json").json
    transaction = status["unfinished"][0]["transaction"]
    leases = Run("lease", "list", "--root", str(root), "--json").json["leases"]
    alive = Run("recover", transaction, "--root", str(root), "--json")
    all_alive = Run("recover", "--root", str(root))
    refused_rollback = Run("rollback", transaction, "--root", str(root))
    kill(holder)
    problems = Run("check", "--root", str(root), "--json")
    recovered = Run("recover", "--root", str(root), "--json")
    again = Run("recover", "--root", str(root), "--json")

    assert (busy.code, busy.json["outcome"], words.code) == (4, "busy", 4)
    assert "is publishing demo/sh010/renderBeauty" in words.err
    assert "farm: do not retry" not in words.err
    assert set(status) == {"unfinished", "leases", "orphans"}
    assert [lease["key"] for lease in leases] == ["demo/sh010/renderBeauty"]
    assert (alive.code, alive.json["settled"]) == (4, [{"transaction": transaction, "outcome": "alive"}])
    assert (all_alive.code, refused_rollback.code) == (0, 4)
    assert problems.code == 3
    assert problems.json["problems"][0]["next"] == f"integrator --root {root} recover {transaction}"
    assert (recovered.code, recovered.json) == (0, {"settled": [{"transaction": transaction, "outcome": "rolled_back"}]})
    assert (again.code, again.json) == (0, {"settled": []})
    assert tree(root) == {}
    assert Run("check", "--root", str(root), "--json").json == {"ok": True, "problems": []}


def test_a_broken_soft_lock_lets_the_next_one_publish(root: Path, sources: Path) -> None:
    holder = hold(root, sources)
    try:
        broken = Run("lease", "break", "demo/sh010/renderBeauty", "--reason", "gone home", "--root", str(root), "--json")
        (sources / "other.exr").write_bytes(b"other")
        run = Run("publish", *SHOT, str(sources / "other.exr"), "--root", str(root), "--json")
    finally:
        kill(holder)
    assert (broken.code, broken.json) == (0, {"broken": {"key": "demo/sh010/renderBeauty", "reason": "gone home"}})
    assert (run.code, run.json["outcome"]) == (0, "published")
    assert Run("lease", "break", "nobody/has/this", "--reason", "x", "--root", str(root)).code == 2


def test_what_a_publish_had_to_leave_is_said_by_it(studio: Studio) -> None:
    source = Path(studio.folder, "own.abc")
    source.write_bytes(b"own")
    representation = {"name": "abc", "files": [str(source)], "transfer": "move"}
    instance = {"asset": "hero", "subset": "main", "family": "model", "representations": [representation]}
    whole = {"schema": "integrator:publish-request-1.0", "project": "demo", "publish_id": "m", "instances": [instance]}

    counted = Fate()
    with studio.fresh("count").open(counted) as opened:
        integrator.publish(whole, opened)
    source.write_bytes(b"own")
    [verdict] = counted.numbers("state=committed")
    with contextlib.suppress(Killed), studio.open(Fate(kill_at=verdict, when="after"), owner=studio.dead) as opened:
        integrator.publish(whole, opened)
    assert source.exists()
    text = json.dumps(whole).encode()
    run = Run("publish", "-", "--root", studio.path, input=text)
    assert run.code == 0, run.err
    assert "left where it is: sources of 1 moved files were left" in run.err
    [left] = Run("publish", "-", "--root", studio.path, "--json", input=text).json["left"]
    assert "only their owner removes them" in left


def test_a_killed_publish_can_be_rolled_back_by_name(root: Path, sources: Path) -> None:
    kill(hold(root, sources))
    transaction = Run("status", "--root", str(root), "--json").json["unfinished"][0]["transaction"]
    run = Run("rollback", transaction, "--root", str(root), "--json")
    assert (run.code, run.json["settled"]) == (0, [{"transaction": transaction, "outcome": "rolled_back"}])
    assert Run("rollback", transaction, "--root", str(root)).code == 0
    assert tree(root) == {}


def test_what_is_published_is_never_rolled_back(root: Path, sources: Path) -> None:
    transaction = publish(root, sources, "--json").json["transaction"]
    before = tree(root)
    run = Run("rollback", transaction, "--root", str(root))
    assert run.code == 2
    assert "never rolled back" in run.err
    assert tree(root) == before


def test_a_damaged_journal_is_stuck_with_exit_6_and_its_command_settles_it(root: Path, sources: Path) -> None:
    kill(hold(root, sources))
    transaction = Run("status", "--root", str(root), "--json").json["unfinished"][0]["transaction"]
    journal = root / ".integrator" / "journal" / f"{transaction}.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"00000000" + lines[0][8:] + b"".join(lines[1:]) + lines[-1])
    run = Run("recover", "--root", str(root), "--json")
    assert (run.code, run.json["settled"][0]["outcome"]) == (6, "stuck")
    assert "next: integrator" in run.err
    assert Run("rollback", transaction, "--root", str(root)).code == 0
    assert Run("recover", transaction, "--root", str(root)).code == 0
    assert tree(root) == {}


def test_a_failed_copy_exits_5_and_everything_is_as_before(
    root: Path, sources: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from integrator.storage import Storage

    def broken(self: Storage, fd: int, content: object) -> int:
        raise OSError(28, "No space left on device")

    publish(root, sources)
    before = tree(root)
    monkeypatch.setattr(Storage, "write", broken)
    monkeypatch.setattr(Storage, "write_all", broken)
    monkeypatch.setattr("integrator.journal.Journal.flush", lambda self: None)
    code = cli.main(["publish", *SHOT, str(sources / "beauty.%04d.exr"), "--root", str(root), "--json"])
    said = capsys.readouterr()
    assert (code, json.loads(said.out)["outcome"]) == (5, "rolled_back")
    assert "everything is as before" in said.err.lower()
    assert "farm: do not retry" not in said.err
    assert tree(root) == before


def test_a_newer_database_exits_8_and_tells_the_farm(root: Path, sources: Path) -> None:
    connection = sqlite3.connect(root / ".integrator" / "publish.sqlite3")
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    run = publish(root, sources, "--json")
    assert (run.code, run.json["error"]["code"]) == (8, "newer_database")
    assert "farm: do not retry" in run.err


def failing_publish(error: BaseException, *, after: bool = False) -> Any:
    from integrator.plugin.runner import run as real

    def failing(*arguments: Any, **options: Any) -> Any:
        if after:
            real(*arguments, **options)
        raise error

    return failing


def in_process(root: Path, sources: Path, *more: str) -> int:
    return cli.main(["publish", *SHOT, str(sources / "beauty.%04d.exr"), "--root", str(root), *more])


def test_a_bug_exits_1_with_a_short_message_and_the_traceback_on_request(
    root: Path, sources: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.import_module("integrator.plugin.runner"), "run", failing_publish(ZeroDivisionError("oops")))
    assert in_process(root, sources, "--json") == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["code"] == "bug"
    assert "a bug: ZeroDivisionError: oops" in said.err
    assert "Traceback" not in said.err
    assert in_process(root, sources, "-v") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [errors.Interrupted(15), ZeroDivisionError("oops")])
def test_what_was_published_before_the_error_is_answered_as_published(
    error: BaseException, root: Path, sources: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.import_module("integrator.plugin.runner"), "run", failing_publish(error, after=True))
    assert in_process(root, sources, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["outcome"] == "published"
    assert len(answer["versions"][0]["representations"][0]["files"]) == 3


def test_an_interruption_before_the_engine_guards_what_it_began_is_in_doubt(
    root: Path, sources: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def begun(request: Any, opened: Any, *arguments: Any, **options: Any) -> Any:
        from integrator import ledger

        facts = {"publish_id": request.publish_id, "project": "demo"}
        ledger.begin(opened.engine.database, "0" * 24, ledger.Plan(), opened.engine.owner, opened.settings.lease, facts)
        raise errors.Interrupted(15)

    monkeypatch.setattr(importlib.import_module("integrator.plugin.runner"), "run", begun)
    assert in_process(root, sources, "--json") == 6
    answer = json.loads(capsys.readouterr().out)
    assert (answer["outcome"], answer["transaction"]) == ("in_doubt", "0" * 24)
    assert answer["error"]["next"].endswith(f"recover {'0' * 24}")


# --- the other answers ------------------------------------------------------------------------------------------------


def test_answers_have_their_documented_shapes(root: Path, sources: Path) -> None:
    published = publish(root, sources, "--comment", "hello", "--json").json
    publish(root, sources)
    where = ("--root", str(root), "--json")
    versions = Run("versions", "demo", *where).json["versions"]
    latest = Run("versions", "demo", "sh010", "renderBeauty", "--latest", *where).json["versions"]
    keys = {"asset", "subset", "family", "version", "path", "author", "comment", "time", "transaction"}
    assert [set(entry) for entry in versions] == [keys, keys]
    assert (versions[0]["comment"], versions[0]["transaction"]) == ("hello", published["transaction"])
    assert [entry["version"] for entry in latest] == [2]
    assert Run("versions", "nothing", *where).json == {"versions": []}
    shown_one = Run("show", published["transaction"], *where)
    assert (shown_one.code, shown_one.json["state"]) == (0, "finished")
    assert Run("show", "0" * 24, *where).code == 2
    assert len(Run("history", "--limit", "1", *where).json["transactions"]) == 1
    assert Run("sweep", *where).json == {"swept": [], "dry_run": False}
    assert Run("recover", "0" * 24, *where).code == 2


def test_people_get_every_answer_in_words(root: Path, sources: Path) -> None:
    transaction = publish(root, sources, "--comment", "hello", "--json").json["transaction"]
    for words, wanted in (
        (["versions", "demo"], "renderBeauty  v001"), (["history"], transaction), (["show", transaction], "finished"),
        (["status"], "nothing is unfinished"), (["check"], "all is well"), (["sweep"], "nothing to sweep"),
        (["recover"], "nothing to recover"), (["lease", "list"], "nobody holds"), (["versions", "x"], "nothing is published"),
    ):  # fmt: skip
        run = Run(*words, "--root", str(root))
        assert (run.code, run.err) == (0, "")
        assert wanted in run.out


def test_check_finds_a_changed_file_only_when_it_reads_it(root: Path, sources: Path) -> None:
    path = Path(publish(root, sources, "--json").json["versions"][0]["representations"][0]["files"][0])
    path.write_bytes(path.read_bytes().replace(b"pixels", b"PIXELS"))
    assert Run("check", "--root", str(root)).code == 0
    run = Run("check", "--checksums", "--root", str(root), "--json")
    assert run.code == 3
    (problem,) = run.json["problems"]
    assert (run.json["ok"], problem["kind"], problem["path"]) == (False, "changed_file", str(path))
    assert {"kind", "message", "next"} <= set(problem)


def test_sweep_removes_by_age_what_nobody_owns(root: Path, sources: Path) -> None:
    publish(root, sources)
    left = root / "demo/sh010/publish/render/renderBeauty" / f"v009.tmp.{'0' * 24}"
    left.mkdir()
    where = ("--root", str(root), "--json")
    assert Run("sweep", "--older-than", "1h", *where).json["swept"] == []
    planned = Run("sweep", "--older-than", "0", "--dry-run", *where).json
    assert ([entry["path"] for entry in planned["swept"]], planned["dry_run"]) == ([str(left)], True)
    assert left.exists()
    assert Run("sweep", "--older-than", "0s", *where).json["swept"][0]["kind"] == "staging"
    assert not left.exists()


# --- names, terminals, pipes ------------------------------------------------------------------------------------------

ODD = b"\xff\xfe \x1b[31m\x07 \xe2\x80\xae line\nend.exr"


def test_odd_names_reach_no_terminal_and_break_no_answer(root: Path, tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/" + ODD
    for words in ([place], [place, "--json"]):
        run = Run("publish", *SHOT, *words, "--root", str(root), env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
        assert run.code == 3
        assert run.err.isascii()
        assert "\x1b" not in run.err
        assert "\x07" not in run.err
        assert "\\xff\\xfe \\x1b[31m\\x07 \\u202e line\\nend.exr" in run.err
    assert os.fsdecode(ODD) in run.json["error"]["message"]
    Path(os.fsdecode(place)).write_bytes(b"fine")
    assert Run("publish", *SHOT, place, "--root", str(root), "--json").json["outcome"] == "published"


def test_a_comment_cannot_draw_on_the_terminal(root: Path, sources: Path) -> None:
    publish(root, sources, "--comment", "\x1b]0;owned\x07\u202egnp")
    out = Run("versions", "demo", "--root", str(root)).out
    assert "\x1b" not in out
    assert "\\x1b]0;owned\\x07\\u202egnp" in out


def test_shown_keeps_what_can_be_printed() -> None:
    assert shown("Größe 字 a b") == "Größe 字 a b"
    assert shown("a\tb\x9b\u2028\udcff\ud800") == "a\\tb\\x9b\\u2028\\xff\\ud800"


def test_a_root_that_was_named_is_part_of_the_next_command() -> None:
    console = Console(json=False, command="status")
    assert console.command_line("integrator recover abc") == "integrator recover abc"
    console.root = "/the show"
    assert console.command_line("then: integrator recover abc") == "then: integrator --root '/the show' recover abc"
    assert console.command_line("integrator init ROOT") == "integrator init ROOT"


def test_a_reader_that_went_away_does_not_undo_a_publish(root: Path, sources: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    child = start("publish", *SHOT, str(sources / "beauty.%04d.exr"), "--root", str(root), stdout=write)
    os.close(write)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 0
    assert b"Traceback" not in err
    assert b"Exception" not in err
    assert len(tree(root)) == 3


def test_a_full_disk_behind_standard_output_is_said_and_no_failure_of_the_publish(root: Path, sources: Path) -> None:
    with open("/dev/full", "wb") as full:
        run = publish(root, sources, "--json", stdout=full)
        query = Run("versions", "demo", "--root", str(root), stdout=full)
    assert run.code == 0
    assert "could not be written" in run.err
    assert query.code == 1


def test_with_closed_standard_streams_a_publish_works(root: Path, sources: Path) -> None:
    inner = [sys.executable, "-m", "integrator", "publish", *SHOT, str(sources / "beauty.%04d.exr"), "--root", str(root)]
    script = 'exec 0<&- 1>&- 2>&-; exec "$@"'
    assert subprocess.run(["sh", "-c", script, "sh", *inner], check=False).returncode == 0
    assert len(tree(root)) == 3


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_is_plain_lines_where_nobody_watches(root: Path, sources: Path) -> None:
    run = publish(root, sources, "--json")
    lines = [line for line in run.err.splitlines() if line]
    assert lines[0] == "Progress: 0%"
    assert lines[-1] == "Progress: 100%"


def test_open_job_description_gets_its_lines_on_standard_output_unless_a_program_reads_that(root: Path, sources: Path) -> None:
    session = {"OPENJD_SESSION_WORKING_DIR": "/sessions/1"}
    plain = publish(root, sources, env=session)
    program = publish(root, sources, "--json", env=session)
    assert plain.out.startswith("openjd_status: ")
    assert "openjd_progress: 0.0\n" in plain.out
    assert "openjd_progress: 100.0\nopenjd_status: published\n" in plain.out
    assert "openjd_" not in plain.err
    assert program.json["outcome"] == "published"
    assert "openjd_progress: 100.0\n" in program.err


def test_lines_come_once_a_second_and_100_means_published(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from integrator.cli.progress import Lines

    clock = [100.0]
    monkeypatch.setattr("integrator.cli.progress.time.monotonic", lambda: clock[0])
    with Lines(Console(json=False, command="publish")) as lines:
        for done in range(1, 1001):
            clock[0] += 0.01
            lines.update(done, 1000, done)
        said = capsys.readouterr().err.split()
        assert "100%" not in said
        lines.finish()
    assert 8 <= said.count("Progress:") <= 11
    assert capsys.readouterr().err == "Progress: 100%\n"


def on_a_terminal(*words: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    child = start(*words, stderr=theirs, env={"TERM": "xterm", "COLUMNS": "100", **(env or {})})
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        said += piece
    child.communicate(timeout=60)
    os.close(ours)
    return child.returncode, said.decode()


def test_a_terminal_gets_a_bar_and_a_farm_with_one_gets_lines(root: Path, sources: Path) -> None:
    words = ("publish", *SHOT, str(sources / "beauty.%04d.exr"), "--root", str(root))
    code, bar = on_a_terminal(*words)
    assert code == 0
    assert "copying" in bar
    assert "Progress:" not in bar
    code, lines = on_a_terminal(*words, env={"INTEGRATOR_FARM": "1"})
    assert code == 0
    assert "Progress: 100%" in lines


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, 0.0), ({"INTEGRATOR_FARM": "1"}, 900.0), ({"TR_ENV_JID": "12"}, 900.0), ({"CUE_FRAME_ID": "a"}, 900.0),
        ({"TR_ENV_JID": "12", "INTEGRATOR_FARM": "0"}, 0.0), ({"AYON_PUBLISH_JOB": "0"}, 0.0), ({"AYON_PUBLISH_JOB": "1"}, 900.0),
    ],
)  # fmt: skip
def test_a_farm_waits_for_a_soft_lock_and_an_artist_does_not(
    environment: dict[str, str], wanted: float, root: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []

    def publish(request: Any, opened: Any, pipeline: Any, terms: Any, **options: Any) -> Any:
        waited.append(terms.wait)
        raise errors.Failed("that is all")

    for name in ("INTEGRATOR_FARM", "TR_ENV_JID", "CUE_FRAME_ID", "AYON_PUBLISH_JOB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(importlib.import_module("integrator.plugin.runner"), "run", publish)
    assert in_process(root, sources) == 5
    assert in_process(root, sources, "--wait", "7") == 5
    assert waited == [wanted, 7.0]
