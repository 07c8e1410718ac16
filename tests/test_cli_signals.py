"""Signals to real processes that publish: copying stops within a second, everything is as before, the answer is true."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from integrator import cli
from integrator.cli.console import Console
from integrator.cli.failures import as_answer, exit_code
from integrator.cli.signals import Interruptions
from integrator.errors import Interrupted

#: Long enough to be met in the middle; most of it is a hole, so that it costs no space before it is copied.
LARGE = 1 << 30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "show"
    assert cli.main(["init", str(path)]) == 0
    (tmp_path / "small.exr").write_bytes(b"small")
    assert run(root=path, source=tmp_path / "small.exr") == 0
    for number in range(1, 4):
        with open(tmp_path / f"large.{number}.exr", "wb") as file:
            file.write(b"begin")
            file.truncate(LARGE)
    return path


def command(root: Path, source: Path, *more: str) -> list[str]:
    shot = ("--project", "demo", "--asset", "sh010", "--subset", "renderBeauty", "--family", "render")
    return [sys.executable, "-m", "integrator", "publish", *shot, str(source), "--root", str(root), "--json", *more]


def start(root: Path, source: Path, *more: str, **options: Any) -> subprocess.Popen[bytes]:
    def foreground() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": foreground, **options}
    return subprocess.Popen(command(root, source, *more), **pipes)


def run(root: Path, source: Path) -> int:
    return subprocess.run(command(root, source), capture_output=True, check=False).returncode


def tree(path: Path) -> dict[str, tuple[int, int, int]]:
    """Names, sizes, times and inodes of everything that a publish could have touched."""
    found = {}
    for file in [path, *path.rglob("*")]:
        status = file.lstat()
        if ".integrator" not in file.parts:
            found[str(file)] = (
                status.st_ino,
                status.st_size if file.is_file() else 0,
                status.st_mtime_ns if file.is_file() else 0,
            )
    return found


def until_it_copies(child: subprocess.Popen[bytes], root: Path, size: int = 1 << 20) -> None:
    folder = root / "demo/sh010/publish/render/renderBeauty"
    while not any(file.stat().st_size > size for file in folder.glob("v*.tmp.*/*")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.002)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("checksum", ["copied", "none"])
def test_a_signal_stops_the_copying_within_a_second_and_everything_is_as_before(
    number: signal.Signals, code: int, checksum: str, root: Path, tmp_path: Path
) -> None:
    before = tree(root)
    child = start(root, tmp_path / "large.%d.exr", "--checksum", checksum, "--workers", "2")
    try:
        until_it_copies(child, root)
    except AssertionError:
        if checksum == "none":
            pytest.skip("this file system copies by sharing blocks, faster than anybody can interrupt")
        raise
    sent = time.monotonic()
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    # A second is what the program takes; a disk that is behind with its writing can keep a process in one call for longer.
    assert time.monotonic() - sent < 10.0
    answer = json.loads(out)
    assert (child.returncode, answer["outcome"], answer["error"]["code"]) == (code, "rolled_back", "interrupted")
    assert b"Everything is as before" in err
    assert b"Traceback" not in err
    assert tree(root) == before
    assert cli.main(["check", "--checksums", "--root", str(root)]) == 0


def test_further_signals_do_not_disturb_the_rollback(root: Path, tmp_path: Path) -> None:
    before = tree(root)
    child = start(root, tmp_path / "large.%d.exr")
    until_it_copies(child, root, 1 << 26)
    while child.poll() is None:
        child.send_signal(signal.SIGINT)
        time.sleep(0.001)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, json.loads(out)["outcome"]) == (130, "rolled_back")
    assert b"Traceback" not in err
    assert tree(root) == before
    assert cli.main(["check", "--root", str(root)]) == 0


def test_a_signal_at_any_moment_ends_in_an_answer_that_is_true(root: Path, tmp_path: Path) -> None:
    for frame in range(300):
        (tmp_path / f"frame.{frame:04d}.exr").write_bytes(b"frame %d" % frame)
    started = time.monotonic()
    assert run(root, tmp_path / "frame.%04d.exr") == 0
    whole = time.monotonic() - started
    number = 2
    outcomes = set()
    for step in range(14):
        child = start(root, tmp_path / "frame.%04d.exr")
        time.sleep(whole * (0.35 + 0.05 * step))
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=30)
        versions = sorted(path.name for path in (root / "demo/sh010/publish/render/renderBeauty").iterdir())
        assert b"Traceback" not in err, err
        assert child.returncode in (0, 143), (out, err)
        outcome = json.loads(out)["outcome"]
        assert outcome == ("published" if child.returncode == 0 else "rolled_back")
        number += outcome == "published"
        assert versions == [f"v{n:03d}" for n in range(1, number + 1)]
        outcomes.add(outcome)
    assert cli.main(["check", "--root", str(root)]) == 0


def test_an_interrupt_while_the_program_is_loaded_ends_in_130_without_a_word(tmp_path: Path) -> None:
    # A module of the standard library that is met on the way, with a signal in the middle of its import.
    (tmp_path / "argparse.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)\n")
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for words in (["-m", "integrator"], ["-c", "import sys; from integrator.__main__ import main; sys.exit(main())"]):
        done = subprocess.run([sys.executable, *words, "status"], env=surroundings, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_signal_that_is_ignored_from_the_start_stays_ignored(root: Path, tmp_path: Path) -> None:
    def background() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    child = start(root, tmp_path / "large.%d.exr", preexec_fn=background)
    until_it_copies(child, root)
    child.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 143


def test_an_interruption_that_got_lost_is_raised_again_by_the_next_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    from integrator.cli.console import Console
    from integrator.cli.signals import Interruptions
    from integrator.errors import Interrupted

    with Interruptions(Console(json=False, command="publish"), restore=True) as interruptions:
        interruptions.check()
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            interruptions.check()
        interruptions.settled()
        interruptions.check()


def test_words_about_a_signal_never_land_in_a_file_that_got_the_number_of_standard_error(root: Path, tmp_path: Path) -> None:
    before = tree(root)
    script = 'exec 0<&- 1>&- 2>&-; exec "$@"'
    child = subprocess.Popen(["sh", "-c", script, "sh", *command(root, tmp_path / "large.%d.exr")])
    until_it_copies(child, root)
    held = {number: os.readlink(f"/proc/{child.pid}/fd/{number}") for number in (0, 1, 2)}
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=30) == 143
    assert set(held.values()) == {os.devnull}
    assert tree(root) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_any_signal_while_the_program_is_loaded_ends_without_a_word(tmp_path: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "argparse.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(9)\n")
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = ["-c", "import sys; from integrator.__main__ import main; sys.exit(main())"]
    done = subprocess.run([sys.executable, *words, "status"], env=surroundings, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_signals_are_taken_over_before_anything_is_loaded() -> None:
    program = "import sys; before = set(sys.modules); import integrator.__main__; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert set(done.stdout.split()) <= {"__future__", "integrator", "integrator.__main__"}


def test_an_interrupt_that_met_deaf_code_is_raised_again() -> None:
    """As in a callback of a weak reference, which imports use; nothing that is raised there gets any further."""

    class Deaf:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)

    with pytest.raises(Interrupted) as interrupted, Interruptions(Console(json=False, command="status"), restore=True):
        Deaf().__del__  # noqa: B018 - dropped at once
        time.sleep(5)
    assert interrupted.value.signal_number == signal.SIGTERM


def test_an_interrupt_while_a_class_is_made_is_told_as_one() -> None:
    class Attribute:
        def __set_name__(self, owner: type, name: str) -> None:
            raise Interrupted(signal.SIGTERM)

    with pytest.raises((Interrupted, RuntimeError)) as raised:
        type("Made", (), {"attribute": Attribute()})
    told = as_answer(raised.value, Console(json=False, command="publish"))
    assert isinstance(told, Interrupted)
    assert exit_code(told) == 143


@pytest.mark.parametrize("first", ["thread", "caller"])
def test_an_interrupt_at_the_start_of_a_thread_is_told_as_one(
    first: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name = next(name for name in ("_start_joinable_thread", "_start_new_thread") if hasattr(threading, name))
    begin = getattr(threading, name)

    def interrupted(*arguments: Any, **options: Any) -> None:
        with contextlib.nullcontext() if first == "thread" else threading._active_limbo_lock:  # type: ignore[attr-defined]
            begin(*arguments, **options)
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(threading, name, interrupted)
    with Interruptions(Console(json=False, command="publish"), restore=True):
        with pytest.raises((Interrupted, KeyError)) as raised:
            threading.Thread(target=time.sleep, args=(0.0,)).start()
        time.sleep(0.1)
    assert isinstance(as_answer(raised.value, Console(json=False, command="publish")), Interrupted)
    assert "Traceback" not in capfd.readouterr().err
