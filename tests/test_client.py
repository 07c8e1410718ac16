"""The client for hosts that cannot load the engine: from Python 3.7 on, in a poisoned environment, killed at any moment."""

from __future__ import annotations

import ast
import configparser
import contextlib
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import OLD, PROGRAM, Host, interpreter
from studio import Studio

import integrator_client
from integrator import cli
from integrator_client import PublishFailed, clean_environment, find_program, make_instance, make_representation, make_request

HOME = Path(__file__).parent.parent
PAGE = (HOME / "docs/hosts.md").read_text()
#: Long enough to be met in the middle; most of it is a hole, so that it costs no space before it is copied.
LARGE = 1 << 30


@pytest.fixture
def large(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A wish whose copying takes a while, with everything as it was before."""
    root, source = tmp_path / "show", tmp_path / "large"
    assert cli.main(["init", str(root)]) == 0
    source.mkdir()
    for number in range(1, 4):
        with open(source / f"large.{number}.exr", "wb") as file:
            file.write(b"begin")
            file.truncate(LARGE)
    instance = make_instance(
        "sh010", "renderBeauty", "render", [make_representation("exr", source / "large.%d.exr", transfer="copy")]
    )
    yield {
        "request": make_request("demo", [instance], checksum="copied"),
        "arguments": {"root": str(root)},
        "stop_at": str(root / "demo/sh010/publish/render/renderBeauty/v001.tmp.*/*"),
        "stop_size": 1 << 20,
    }
    shutil.rmtree(root)


def programs(root: str) -> list[int]:
    """Processes that publish to this root."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            words = Path(path).read_bytes().split(b"\0")
        except OSError:
            continue
        if b"publish" in words and any(word.endswith(os.fsencode(root)) for word in words):
            found.append(int(path.split("/")[2]))
    return found


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def nothing_is_left(root: str) -> bool:
    """No version, no staging directory, no unfinished transaction, no lease."""
    assert cli.main(["check", "--checksums", "--root", root]) == 0
    done = subprocess.run([*PROGRAM, "status", "--json", "--root", root], capture_output=True, check=True)
    status = json.loads(done.stdout)
    assert status == {"unfinished": [], "leases": [], "orphans": []}
    return not glob.glob(f"{root}/demo/**/v*", recursive=True)


# --- published --------------------------------------------------------------------------------------------------------


def test_a_publish_from_an_old_python_in_a_poisoned_environment_works(studio: Studio, host: Host, python: str) -> None:
    told = host.run(python, request=studio.request("job"), arguments={"root": studio.path})
    assert told["answer"]["outcome"] == "published", told
    assert [(entry["subset"], entry["version"]) for entry in told["answer"]["versions"]] == [("renderBeauty", 2), ("camera", 2)]
    files = [file for entry in told["answer"]["versions"] for one in entry["representations"] for file in one["files"]]
    assert len(files) == 19
    assert all(map(os.path.isfile, files))
    assert studio.versions("renderBeauty") == [1, 2]
    assert studio.leftovers() == []
    assert told["progress"][0] == 0.0
    assert told["progress"][-1] == 100.0
    assert all(told["threads"]), "a host's windows may be touched in its main thread only"


def test_the_poison_is_one(studio: Studio, host: Host, oldest: str) -> None:
    before = studio.tree()
    for name in ("PYTHONHOME", "PYTHONPATH"):
        with_it = {"root": studio.path, "environment": {name: "/nonexistent" if name == "PYTHONHOME" else host.wish["poison"]}}
        told = host.run(oldest, request=studio.request(), arguments=with_it)
        assert told["error"]["code"] == "no_answer"
        assert "ended with exit code 1" in told["error"]["message"]
    assert studio.tree() == before


def test_every_old_python_can_be_run_here_or_is_named() -> None:
    missing = [version for version in OLD if not interpreter(version)]
    if missing:
        pytest.skip(f"NOT tested with Python {', '.join(missing)}")


def test_the_client_needs_the_standard_library_alone() -> None:
    tree = ast.parse((HOME / "integrator_client.py").read_text(), feature_version=(3, 7))
    loaded = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    loaded |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert loaded <= set(sys.stdlib_module_names)
    parser = configparser.ConfigParser()
    parser.read(HOME / "setup.cfg")
    assert parser["options"]["py_modules"].split() == ["integrator_client"]


def test_the_text_of_a_request_is_read_strictly_by_the_program(studio: Studio) -> None:
    text = json.dumps(studio.request("job"), indent=2)
    answer = integrator_client.publish(text, root=studio.path, program=PROGRAM)
    assert answer["outcome"] == "published"
    assert integrator_client.publish(text.encode(), root=studio.path, program=PROGRAM)["outcome"] == "already_published"
    with pytest.raises(PublishFailed, match="holds the key 'project' twice"):
        integrator_client.publish(text.replace('"author"', '"project"'), root=studio.path, program=PROGRAM)


@pytest.mark.parametrize("publish_id", ["-job", "-4711", "a@b:/c"])
def test_every_publish_id_reaches_the_program(studio: Studio, publish_id: str) -> None:
    answer = integrator_client.publish(studio.request(), root=studio.path, program=PROGRAM, publish_id=publish_id)
    assert studio.transaction(answer["transaction"])["publish_id"] == publish_id


def test_a_publish_id_publishes_once_and_options_reach_the_program(studio: Studio) -> None:
    request = studio.request()
    first = integrator_client.publish(request, root=studio.path, program=PROGRAM, publish_id="once", workers=2, options=["-v"])
    again = integrator_client.publish(request, root=studio.path, program=PROGRAM, publish_id="once")
    assert (first["outcome"], again["outcome"]) == ("published", "already_published")
    assert first["transaction"] == again["transaction"]
    planned = integrator_client.publish(request, root=studio.path, program=PROGRAM, dry_run=True)
    assert (planned["outcome"], planned["versions"][0]["version"]) == ("planned", 3)
    more = integrator_client.publish(request, root=studio.path, program=PROGRAM, publish_id="once", again=True)
    assert more["versions"][0]["version"] == 3


def test_names_of_any_bytes_arrive(tmp_path: Path, studio: Studio) -> None:
    name = os.fsdecode(b"caf\xe9 \xe2\x82\xac.abc")
    (tmp_path / name).write_bytes(b"cache")
    entry = make_representation("abc", os.fsencode(tmp_path / name))
    request = make_request("demo", [make_instance("sh020", "cam", "camera", [entry])])
    answer = integrator_client.publish(request, root=studio.path, program=PROGRAM)
    [published] = answer["versions"][0]["representations"][0]["files"]
    assert Path(published).read_bytes() == b"cache"


def test_what_was_not_given_is_not_in_the_request() -> None:
    entry = make_representation("exr", [Path("/a/b.0001.exr"), b"/a/b.0002.exr"], frames=None, output="beauty")
    assert entry == {"name": "exr", "files": ["/a/b.0001.exr", "/a/b.0002.exr"], "output": "beauty"}
    instance = make_instance("a", "b", "c", [entry], version=None, hierarchy="shots")
    assert instance == {"asset": "a", "subset": "b", "family": "c", "hierarchy": "shots", "representations": [entry]}
    request = make_request("demo", iter([instance]), comment=None, author="anna")
    assert request == {"schema": integrator_client.SCHEMA, "project": "demo", "instances": [instance], "author": "anna"}


def test_what_no_request_can_hold_is_refused_before_anything_starts(studio: Studio) -> None:
    with pytest.raises(TypeError, match="cannot hold a complex"):
        integrator_client.publish(make_request("demo", [{"data": 1j}]), root=studio.path, program=["/nonexistent"])


def test_the_example_of_the_page_about_hosts_runs_on_an_old_python(tmp_path: Path, python: str, host: Host) -> None:
    [example] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    for frame in (1001, 1002, 1003):
        (jobs / f"beauty.{frame}.exr").write_bytes(b"pixels")
    assert cli.main(["init", str(tmp_path / "show")]) == 0
    (tmp_path / "example.py").write_text(example.replace("/jobs/sh010", str(jobs)))
    surroundings = {**os.environ, "INTEGRATOR_PROGRAM": " ".join(PROGRAM), "PYTHONPATH": host.wish["path"][0]}
    command = [python, "-W", "error", "example.py"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=True)
        *percents, path = done.stdout.splitlines()
        assert path == f"{tmp_path}/show/demo/shots/sq01/sh010/publish/render/renderBeauty/v001"
    assert percents[0] == "0 %"


# --- environment and program ------------------------------------------------------------------------------------------


def test_the_program_gets_nothing_that_belongs_to_the_host() -> None:
    theirs = {name.replace("*", "X"): "1" for name in integrator_client.LEFT_OUT}
    ours = {
        "PATH": "/bin",
        "HOME": "/home/anna",
        "INTEGRATOR_ROOT": "/show",
        "HTTPS_PROXY": "p",
        "SSL_CERT_FILE": "ca",
        "LANG": "C",
    }
    assert clean_environment(of={**theirs, **ours}) == ours
    assert set(theirs) > {"PYTHONX", "LD_X", "QT_X", "PYBLISHX"}


def test_the_page_about_hosts_lists_what_is_left_out() -> None:
    listed = PAGE.partition("These variables are left out")[2].partition("Everything else")[0]
    assert re.findall(r"`([A-Z_]\S*)`", listed) == list(integrator_client.LEFT_OUT)


def test_what_the_studio_needs_can_be_added() -> None:
    host = {
        "LD_LIBRARY_PATH": "/studio",
        "QT_X": "1",
        "INTEGRATOR_KEEP": "LD_LIBRARY_PATH, PYTHONUTF8",
        "PYTHONUTF8": "1",
        "A": "b",
    }
    more = clean_environment({"LICENSE": "7", "A": None}, host)
    assert more == {
        "LD_LIBRARY_PATH": "/studio",
        "PYTHONUTF8": "1",
        "INTEGRATOR_KEEP": host["INTEGRATOR_KEEP"],
        "LICENSE": "7",
    }


def test_the_program_is_found_by_argument_variable_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("integrator", "with space"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    spaced = str(tmp_path / "with space")
    surroundings = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    monkeypatch.delenv("INTEGRATOR_PROGRAM", raising=False)
    assert find_program(None, surroundings) == [str(tmp_path / "integrator")]
    monkeypatch.setenv("INTEGRATOR_PROGRAM", spaced)
    assert find_program(None, surroundings) == [spaced]
    monkeypatch.setenv("INTEGRATOR_PROGRAM", f"sh -c '{spaced} \"$@\"'")
    assert list(find_program(None, surroundings))[1:] == ["-c", f'{spaced} "$@"']
    assert find_program(Path(spaced), surroundings) == [spaced]
    assert find_program(["sh", "x"], surroundings)[1:] == ["x"]


@pytest.mark.parametrize("kind", ["missing", "not executable", "not a program"])
def test_a_program_that_cannot_be_started_is_told(tmp_path: Path, studio: Studio, kind: str) -> None:
    program = tmp_path / "integrator"
    if kind != "missing":
        program.write_bytes(b"\0not a program")
    if kind == "not a program":
        program.chmod(0o755)
    with pytest.raises(PublishFailed) as failed:
        integrator_client.publish(studio.request(), root=studio.path, program=program)
    assert (failed.value.code, failed.value.outcome, failed.value.exit_code) == ("no_program", "refused", None)
    assert "Nothing was touched" in failed.value.message
    assert "INTEGRATOR_PROGRAM" in str(failed.value)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_refusal_is_told_with_everything_that_a_host_shows(studio: Studio, host: Host, python: str) -> None:
    request = studio.request("job")
    request["instances"][0]["representations"][0]["frames"] = "1001-1020"
    before = studio.tree()
    error = host.run(python, request=request, arguments={"root": studio.path})["error"]
    assert (error["code"], error["outcome"], error["exit_code"], error["publish_id"]) == ("validation", "refused", 3, "job")
    assert "lacks the frames 1011-1020" in error["message"]
    assert studio.tree() == before


def test_the_next_command_is_told(studio: Studio) -> None:
    request = studio.request()
    request["instances"][0]["version"] = 1
    with pytest.raises(PublishFailed) as failed:
        integrator_client.publish(request, root=studio.path, program=PROGRAM)
    assert (failed.value.code, failed.value.exit_code) == ("version_taken", 3)
    assert str(failed.value).endswith("\n  next: leave the version out to get the next one")
    assert failed.value.publish_id.startswith("host-")


def test_a_program_that_was_killed_is_in_doubt_and_can_be_run_again_under_its_id(large: dict[str, Any]) -> None:
    root = large["arguments"]["root"]

    def kill() -> bool:
        if glob.glob(large["stop_at"]):
            for pid in programs(root):
                os.kill(pid, signal.SIGKILL)
        return False

    with pytest.raises(PublishFailed) as failed:
        integrator_client.publish(large["request"], root=root, program=PROGRAM, cancel=kill)
    error = failed.value
    assert (error.code, error.outcome, error.exit_code) == ("no_answer", "in_doubt", -9)
    assert "SIGKILL" in error.message
    assert error.publish_id in error.next
    small = Path(large["request"]["instances"][0]["representations"][0]["files"][0]).parent
    for path in small.iterdir():
        os.truncate(path, 100)
    answer = integrator_client.publish(large["request"], root=root, program=PROGRAM, publish_id=error.publish_id)
    assert answer["versions"][0]["version"] == 1
    assert not nothing_is_left(root)


def launcher(folder: Path, text: str) -> str:
    path = folder / "launcher"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_launcher_may_talk_and_leave_processes_behind(tmp_path: Path, studio: Studio) -> None:
    program = launcher(
        tmp_path, f'echo "{{ loading"; echo hello >&2; sleep 60 & {" ".join(PROGRAM)} "$@"; echo $! > {tmp_path}/pid'
    )
    said: list[str] = []
    started = time.monotonic()
    try:
        answer = integrator_client.publish(studio.request(), root=studio.path, program=program, message=said.append)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert time.monotonic() - started < 5
    assert answer["outcome"] == "published"
    assert "hello" in said


@pytest.mark.parametrize(
    "text", ["echo nonsense; exit 0", "echo '{}'; exit 3", "exec 1>&-; cat >/dev/null & exit 1", "kill -9 $$"]
)
def test_a_program_without_a_proper_answer_is_never_taken_for_a_success(tmp_path: Path, studio: Studio, text: str) -> None:
    with pytest.raises(PublishFailed) as failed:
        integrator_client.publish(studio.request("job"), root=studio.path, program=launcher(tmp_path, text))
    assert (failed.value.code, failed.value.outcome) == ("no_answer", "in_doubt")
    assert "publish id job" in failed.value.next


def test_a_program_that_does_not_read_does_not_hang_the_host(tmp_path: Path, studio: Studio) -> None:
    request = studio.request()
    request["instances"][0]["data"] = {"text": "x" * (1 << 20)}
    started = time.monotonic()
    with pytest.raises(PublishFailed) as failed:
        integrator_client.publish(request, root=studio.path, program=launcher(tmp_path, "exec sleep 60"), timeout=0.3)
    assert failed.value.cancelled
    assert time.monotonic() - started < 10
    started = time.monotonic()
    with pytest.raises(PublishFailed) as failed:
        deaf = launcher(tmp_path, f'trap "" TERM; sleep 60 & echo $! > {tmp_path}/pid; wait')
        integrator_client.publish(request, root=studio.path, program=deaf, timeout=0.5, patience=3)
    took = time.monotonic() - started
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert (failed.value.code, failed.value.outcome) == ("no_answer", "in_doubt")
    assert "has not ended within 3 s" in failed.value.message
    assert took < 6.4
    for pid in programs(studio.path):
        os.kill(pid, signal.SIGKILL)


def test_stop_before_the_request_is_read_begins_nothing(tmp_path: Path, studio: Studio) -> None:
    request = studio.request()
    request["instances"][0]["data"] = {"text": "x" * (1 << 20)}
    before = studio.tree()
    slow = launcher(tmp_path, f'trap "" TERM; sleep 0.8; exec {" ".join(PROGRAM)} "$@"')
    with pytest.raises(PublishFailed) as failed:
        integrator_client.publish(request, root=studio.path, program=slow, timeout=0.2, patience=20)
    assert (failed.value.cancelled, failed.value.exit_code) == (True, 143)
    assert studio.tree() == before


# --- stopped ----------------------------------------------------------------------------------------------------------


def test_the_stop_button_rolls_the_publish_back(large: dict[str, Any], host: Host, python: str) -> None:
    told = host.run(python, **large)
    error = told["error"]
    assert (error["code"], error["outcome"], error["exit_code"], error["cancelled"]) == ("interrupted", "rolled_back", 143, True)
    assert "Everything is as before" in error["message"]
    assert any("SIGTERM, rolling back" in line for line in told["said"])
    assert nothing_is_left(large["arguments"]["root"])


@pytest.mark.parametrize("how", ["KeyboardInterrupt", "RuntimeError"])
def test_an_exception_in_the_host_stops_the_publish_and_goes_on(large: dict[str, Any], host: Host, oldest: str, how: str) -> None:
    told = host.run(oldest, **{**large, "break_with": how})
    assert told["raised"] == how
    assert programs(large["arguments"]["root"]) == []
    assert nothing_is_left(large["arguments"]["root"])


def test_a_timeout_stops_the_publish(large: dict[str, Any]) -> None:
    root = large["arguments"]["root"]
    with pytest.raises(PublishFailed) as failed:
        integrator_client.publish(large["request"], root=root, program=PROGRAM, timeout=0.6)
    assert failed.value.cancelled
    assert nothing_is_left(root)


def test_stop_is_waited_for_behind_a_launcher(large: dict[str, Any], tmp_path: Path) -> None:
    root = large["arguments"]["root"]
    program = launcher(tmp_path, f'{" ".join(PROGRAM)} "$@"; exit $?')
    with pytest.raises(PublishFailed) as failed:
        integrator_client.publish(large["request"], root=root, program=program, cancel=lambda: bool(glob.glob(large["stop_at"])))
    assert (failed.value.cancelled, failed.value.exit_code) == (True, 143)
    assert programs(root) == []
    assert nothing_is_left(root)


def test_stop_after_the_verdict_answers_that_it_is_published(studio: Studio) -> None:
    pressed: list[float] = []
    answer = integrator_client.publish(
        studio.request(), root=studio.path, program=PROGRAM, progress=pressed.append, cancel=lambda: 100.0 in pressed
    )
    assert answer["outcome"] == "published"


@pytest.mark.parametrize(
    "wish",
    [
        {"signals": {"SIGPIPE": "SIG_DFL", "SIGCHLD": "SIG_IGN", "SIGTERM": "SIG_IGN"}},
        {"blocked": ["SIGTERM", "SIGINT", "SIGHUP", "SIGCHLD"]},
    ],
    ids=["ignored", "blocked"],
)
def test_a_host_may_do_with_its_signals_what_it_likes(
    large: dict[str, Any], host: Host, studio: Studio, oldest: str, wish: dict[str, Any]
) -> None:
    assert host.run(oldest, request=studio.request(), arguments={"root": studio.path}, **wish)["answer"]["outcome"] == "published"
    refused = host.run(oldest, request="x" * (17 << 20), arguments={"root": studio.path}, **wish)
    assert refused["error"]["code"] == "bad_request"
    ended = host.run(oldest, request="x" * (17 << 20), arguments={"root": studio.path, "program": ["true"]}, **wish)
    assert ended["error"]["code"] == "no_answer"
    assert host.run(oldest, **large, **wish)["error"]["cancelled"]
    assert nothing_is_left(large["arguments"]["root"])


# --- killed -----------------------------------------------------------------------------------------------------------


def test_killing_the_host_while_it_copies_leaves_nothing_behind(large: dict[str, Any], host: Host, python: str) -> None:
    root = large["arguments"]["root"]
    child = host.start(python, **{**large, "stop_size": 1 << 60})
    until(lambda: any(os.path.getsize(name) > 1 << 20 for name in glob.glob(large["stop_at"])))
    child.kill()
    child.communicate()
    until(lambda: not programs(root))
    assert nothing_is_left(root)


def test_killing_the_host_at_any_moment_leaves_nothing_behind(studio: Studio, host: Host, oldest: str) -> None:
    started = time.monotonic()
    assert host.run(oldest, request=studio.request(), arguments={"root": studio.fresh().path})["answer"]
    whole = time.monotonic() - started
    outcomes = set()
    for step in range(12):
        run = studio.fresh()
        before = (run.tree(), run.documents())
        child = host.start(oldest, request=run.request(), arguments={"root": run.path})
        time.sleep(whole * (0.2 + 0.07 * step))
        child.kill()
        child.communicate()
        until(lambda path=run.path: not programs(path))
        assert run.leftovers() == []
        versions = run.versions("renderBeauty")
        assert versions in ([1], [1, 2])
        if versions == [1]:
            assert (run.tree(), run.documents()) == before
        outcomes.add(len(versions))
        run.remove()
    assert 1 in outcomes


def test_a_process_that_the_host_forked_does_not_keep_the_publish_going(
    large: dict[str, Any], host: Host, oldest: str, tmp_path: Path
) -> None:
    root = large["arguments"]["root"]
    # Behind a launcher that lives on: only the pipe tells of the host's end.
    large["arguments"]["program"] = launcher(tmp_path, f'{" ".join(PROGRAM)} "$@"; exit $?')
    child = host.start(oldest, **{**large, "stop_size": 1 << 60, "fork_at": large["stop_at"]})
    until(lambda: (tmp_path / "forked").exists())
    child.kill()
    child.wait()
    until(lambda: not programs(root))
    os.kill(int((tmp_path / "forked").read_text()), signal.SIGKILL)
    child.communicate()
    assert nothing_is_left(root)


# --- the program's side -----------------------------------------------------------------------------------------------


def attached(root: str, *more: str, **pipes: Any) -> subprocess.Popen[bytes]:
    words = [*PROGRAM, "publish", "-", "--attached", "--json", "--root", root, *more]
    return subprocess.Popen(words, **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes})


def test_the_end_of_the_parent_interrupts_even_if_somebody_else_holds_the_pipe(large: dict[str, Any], tmp_path: Path) -> None:
    root = large["arguments"]["root"]
    (tmp_path / "request").write_text(json.dumps(large["request"]) + "\n")
    reading, writing = os.pipe()
    os.write(writing, (tmp_path / "request").read_bytes())
    command = [*PROGRAM, "publish", "-", "--attached", "--json", "--root", root]
    script = "import subprocess, sys; subprocess.call(sys.argv[1:])"
    parent = subprocess.Popen([sys.executable, "-c", script, *command], stdin=reading, stdout=subprocess.DEVNULL)
    os.close(reading)
    until(lambda: any(os.path.getsize(name) > 1 << 20 for name in glob.glob(large["stop_at"])))
    parent.kill()
    parent.wait()
    until(lambda: not programs(root))
    os.close(writing)
    assert nothing_is_left(root)


@pytest.mark.parametrize("said", [b"", b'{"schema": "integrator:pub'])
def test_an_end_before_the_request_is_complete_begins_nothing(studio: Studio, said: bytes) -> None:
    before = studio.tree()
    child = attached(studio.path)
    out, err = child.communicate(said, timeout=30)
    answer = json.loads(out)
    assert (child.returncode, answer["outcome"], answer["error"]["code"]) == (143, "rolled_back", "interrupted"), err
    assert studio.tree() == before


def test_a_request_of_one_line_that_is_too_long_is_refused(studio: Studio) -> None:
    child = attached(studio.path)
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it has read enough
        for _ in range(20):
            child.stdin.write(b"x" * (1 << 20))
            child.stdin.flush()
    answer = json.loads(child.stdout.read())
    assert child.wait(30) == 2
    child.stdout.close()
    assert "is larger than 16 MiB" in answer["error"]["message"]


def test_a_request_from_a_file_can_be_attached_too(large: dict[str, Any], tmp_path: Path) -> None:
    root = large["arguments"]["root"]
    (tmp_path / "request").write_text(json.dumps(large["request"]))
    words = [*PROGRAM, "publish", str(tmp_path / "request"), "--attached", "--json", "--root", root]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: glob.glob(large["stop_at"]))
    child.communicate(timeout=30)
    assert child.returncode == 143
    assert nothing_is_left(root)


def test_a_signal_is_heard_when_nobody_reads_standard_error_any_more(large: dict[str, Any]) -> None:
    root = large["arguments"]["root"]
    child = attached(root)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdin.write(json.dumps(large["request"]).encode() + b"\n")
    child.stdin.flush()
    until(lambda: glob.glob(large["stop_at"]))
    child.stderr.close()
    child.stdin.close()
    answer = json.loads(child.stdout.read())
    assert (child.wait(30), answer["error"]["code"], answer["outcome"]) == (143, "interrupted", "rolled_back")
    child.stdout.close()
    assert nothing_is_left(root)
