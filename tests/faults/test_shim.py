"""The instruments themselves: every changing call is seen, forks behave like processes, and a renewing child is left alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from faults.harness import HERE, LIMIT, PUBLISH, SEED, Driver, Run, Studio, Subject, assert_settled, find, told

#: System calls that change a file system, with their names in the C library.
_CHANGING = {
    **{name: name for name in (
        "write", "pwrite64", "writev", "pwritev", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
        "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "fsync", "fdatasync", "syncfs", "truncate", "fallocate", "fchmod",
        "fchmodat", "chmod", "fchown", "copy_file_range", "sendfile", "setxattr", "fsetxattr",
    )},
    "ftruncate": "ftruncate64", "utimensat": "futimens",
}  # fmt: skip


def _cold(run: Run, driver: Driver, mode: str, *before: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The publish as a program of its own, not forked from one that is warm."""
    log = Path(run.out, "cold-calls")
    job = {"name": "publish", "root": run.show, "result": os.path.join(run.out, "cold"), **PUBLISH.arguments(run, "job")}
    Path(run.out, "job").write_text(json.dumps(job))
    environment = {**driver.environment, "FAULT_ROOT": run.area, "FAULT_LOG": str(log), "FAULT_MODE": mode}
    command = [sys.executable, str(HERE / "driver.py"), os.path.join(run.out, "job")]
    if before:  # the tracer itself is not loaded with the shim
        preloaded = environment.pop("LD_PRELOAD")
        command = [*before, "-E", f"LD_PRELOAD={preloaded}", *command]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * LIMIT), log


def test_a_fork_makes_the_same_calls_as_a_program(studio: Studio, driver: Driver) -> None:
    subject = Subject(studio, PUBLISH)
    run = subject.fresh()
    done, log = _cold(run, driver, "record")
    assert done.returncode == 0, done.stderr
    assert subject.outcome(run) == "new"
    cold = Counter(line.split(" ")[1] for line in log.read_text().splitlines())
    warm = Counter(call.name for call in subject.calls)
    assert {name: abs(cold[name] - warm[name]) for name in cold | warm if abs(cold[name] - warm[name]) > 4} == {}
    run.remove()


def test_a_program_that_is_killed_is_recovered_like_a_fork(studio: Studio, driver: Driver) -> None:
    subject = Subject(studio, PUBLISH)
    run = subject.fresh()
    done, _ = _cold(run, driver, "kill-before:120")
    assert done.returncode == -9
    run.recover()
    assert subject.outcome(run) == "old"
    assert_settled(run)
    run.remove()


def test_no_changing_call_goes_round_the_shim(studio: Studio, driver: Driver) -> None:
    """Judged by the kernel: the system calls that a tracer sees below the root are those that the shim counted."""
    tracer = shutil.which("strace")
    if tracer is None:
        pytest.skip("NOT TESTED: needs strace")
    run = studio.fresh()
    trace = Path(run.out, "trace")
    done, log = _cold(run, driver, "record", tracer, "-f", "-y", "-qq", "-o", str(trace), "-e", f"trace={','.join(_CHANGING)}")
    if "ptrace" in done.stderr:
        pytest.skip("NOT TESTED: tracing is not allowed here")
    assert done.returncode == 0, done.stderr
    counted = Counter(line.split(" ")[1] for line in log.read_text().splitlines())
    seen: Counter[str] = Counter()
    for line in trace.read_text().splitlines():
        call = re.match(r"\d+ +(\w+)\((.*)", line)
        if call and run.area in call.group(2) and f"<{log}>" not in line:
            seen[_CHANGING[call.group(1)]] += 1
    assert {name: counted[name] for name in seen} == dict(seen)
    told(f"{seen.total()} system calls, each counted by the shim")
    run.remove()


def test_a_program_that_the_publish_starts_runs_without_the_shim(studio: Studio) -> None:
    """The child that renews leases: its calls are neither numbered nor failed, whatever becomes of its parent's."""
    subject = Subject(studio, PUBLISH)
    run = subject.fresh()
    owner = PUBLISH.start(run, f"stop-before:{find(subject.calls, 'renameat2', '/v002$').number}")
    assert owner.wait().stopped
    children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
    mapped = [Path(f"/proc/{child}/maps").read_text() for child in children]
    owner.wake()
    assert owner.wait().code == 0
    assert len(mapped) == 1
    assert "python" in mapped[0]
    assert "shim.so" not in mapped[0]
    run.remove()


@pytest.mark.timeout(600)
def test_killed_with_several_threads_at_work_it_is_complete_or_absent(studio: Studio) -> None:
    """With threads the numbers differ from run to run; every one is still a place to die."""
    subject = Subject(studio, PUBLISH)
    outcomes: Counter[str] = Counter()
    for number in range(1 + SEED % 5, len(subject.calls), 12):
        run = subject.fresh()
        config = Path(run.show, ".integrator/config.toml")
        config.write_text(config.read_text().replace("workers = 1", "workers = 4"))
        PUBLISH.start(run, f"kill-before:{number}").wait()
        run.recover()
        outcomes[subject.outcome(run)] += 1
        assert_settled(run)
        run.remove()
    told(f"4 threads: killed at {outcomes.total()} points: {dict(outcomes)}")
