"""The process under test: imports the engine once, then forks a process for each job that it is told on standard input.

A fork is a process of its own with its own death, descriptors and locks, and costs milliseconds instead of the third of a
second that an interpreter takes to start. `python driver.py JOB.json` runs one job without a fork, for the tests that prove the
two alike.

Words on standard input, one JSON object a line, each answered with one line: {"job": {...}} forks and answers {"pid"};
{"wait": pid, "seconds": s} answers {"code"}, {"signal"}, {"stopped": true} or {} when the time is over.
A job: {"name", "root", "result", "environment", "patience", "umask", ...arguments of the function below}.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Arguments = dict[str, Any]


def _load() -> None:
    """Everything that a job imports, so that only the first process pays."""
    import platformdirs.unix  # noqa: F401
    import xxhash  # noqa: F401

    import integrator.assembly
    import integrator.check
    import integrator.publish
    import integrator.queries
    import integrator.recovery
    import integrator.sweep  # noqa: F401
    from integrator.database import sqlite  # noqa: F401


# --- jobs -------------------------------------------------------------------------------------------------------------


def publish(root: Any, arguments: Arguments) -> Any:
    """Publish a request."""
    import integrator

    return integrator.publish(arguments["request"], root, wait=arguments.get("wait", 0.0)).document()


def publish_while_a_source_changes(root: Any, arguments: Arguments) -> Any:
    """Publish a request one of whose sources changes when everything is staged: rolled back by its owner, before the reveal."""
    import integrator

    def change(done: int, total: int, size: int) -> None:
        if done == total:
            os.utime(arguments["source"], ns=(1, 1))

    return integrator.publish(arguments["request"], root, watch=change).document()


def assemble(root: Any, arguments: Arguments) -> Any:
    """A transaction with everything that is carried out after the verdict: a moved source, replaced files."""
    from integrator.database import PROJECT, Update

    own = arguments["own"]
    with root.begin(project="demo", publish_id=arguments["publish_id"], author="anna") as assembly:
        version = assembly.new_version(asset="sh010", hierarchy="shots/sq01", subset="model", family="model")
        version.copy(arguments["source"])
        Path(version.path, "sim.vdb").write_bytes(b"voxels")
        version.adopt("sim.vdb")
        if own:
            version.move(own)
        note = {"$oid": arguments["publish_id"].encode().hex()[:24].zfill(24)}
        assembly.insert("demo", {"_id": note, "type": "note", "text": arguments["publish_id"]})
        for name, content in arguments["replace"].items():
            assembly.replace_file(f"{root.path}/{name}", content.encode())
        if arguments.get("refused"):
            subset = root.documents("demo", {"type": "subset"})[0]
            wrong = Update(collection=PROJECT + "demo", id=subset["_id"], expect={"name": "another"}, set={"name": "another"})
            assembly.transaction.change(wrong)
    return assembly.result.document()


def recover(root: Any, arguments: Arguments) -> Any:
    """Settle everything that can be settled."""
    from integrator import recovery

    settled = recovery.recover(root.engine)
    return [{"transaction": one.transaction, "outcome": one.outcome, "message": one.message} for one in settled]


def recover_one(root: Any, arguments: Arguments) -> Any:
    """Settle one transaction, marked as stuck or not."""
    from integrator import recovery

    settled = recovery.settle(root.engine, arguments["transaction"])
    return [{"transaction": settled.transaction, "outcome": settled.outcome, "message": settled.message}]


def break_leases(root: Any, arguments: Arguments) -> Any:
    """Break every soft lock that is held."""
    from integrator import queries

    held = queries.lease_list(root)
    for row in held:
        queries.lease_break(root, row["key"], "the holder sleeps")
    return [row["key"] for row in held]


def sweep(root: Any, arguments: Arguments) -> Any:
    """Sweep everything abandoned, whatever its age."""
    from integrator.sweep import sweep

    return [entry.path for entry in sweep(root, older_than=0.0)]


def publish_many(root: Any, arguments: Arguments) -> Any:
    """Publish to one subset many times, as one worker of several; each answer is written down after the call returned."""
    import integrator
    from integrator.errors import IntegratorError

    with open(arguments["answers"], "a", buffering=1) as answers:
        for number in range(*arguments["numbers"]):
            publish_id = f"{arguments['worker']}-{number}"
            request = {**arguments["request"], "publish_id": publish_id}
            while True:
                try:
                    result = integrator.publish(request, root, wait=60.0)
                    break
                except IntegratorError as error:
                    if error.exit_code not in (4, 5):
                        raise
                    answers.write(f"{publish_id} again {error.code}\n")
            answers.write(f"{publish_id} {' '.join(str(version.version) for version in result.versions)}\n")
    return None


JOBS: dict[str, Callable[[Any, Arguments], Any]] = {
    job.__name__: job
    for job in (
        publish, publish_while_a_source_changes, assemble, recover, recover_one, break_leases, sweep, publish_many,
    )
}  # fmt: skip


# --- running them -----------------------------------------------------------------------------------------------------


def _answer(arguments: Arguments) -> tuple[int, Any]:
    """The exit code and the answer of a job, as the command line would give them."""
    from integrator.errors import IntegratorError
    from integrator.root import open_root

    try:
        with open_root(arguments["root"]) as root:
            return 0, JOBS[arguments["name"]](root, arguments)
    except IntegratorError as error:
        return error.exit_code, {"code": error.code, "message": error.message, "transaction": error.transaction}
    except OSError as error:
        return 5, {"code": "bare OSError", "message": str(error), "trace": traceback.format_exc()}
    except Exception as error:
        return 1, {"code": "bug", "message": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}


def _expire_after(seconds: float) -> None:
    """Leases that are silent for so long may be taken over; no setting may make them shorter than a renewal."""
    import attrs

    from integrator import settings

    found, times = settings.Survey.settings, settings.LeaseTimes(takeover=seconds, takeover_same_publish=seconds)
    settings.Survey.settings = lambda survey: attrs.evolve(found(survey), lease=times)


def run(arguments: Arguments) -> int:
    """Run one job to its end in this process; returns its exit code, and writes its answer to `result`."""
    from integrator.database import sqlite

    if arguments.get("takeover"):
        _expire_after(arguments["takeover"])
    sqlite.PATIENCE = arguments.get("patience", sqlite.PATIENCE)
    os.environ.update(arguments.get("environment", {}))
    library = ctypes.CDLL(None)
    library.fault_count.restype = ctypes.c_long
    if "FAULT_MODE" in arguments.get("environment", {}):
        library.fault_arm()
    code, answer = _answer(arguments)
    calls = library.fault_count()
    Path(arguments["result"]).write_text(json.dumps({"code": code, "answer": answer, "calls": calls}))
    return code


def _fork(arguments: Arguments) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with contextlib.suppress(BaseException):
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, signal.default_int_handler)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        code = run(arguments)
    os._exit(code)


def _wait(pid: int, seconds: float) -> dict[str, Any]:
    end = time.monotonic() + seconds
    pause = 0.0005
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found:
            if os.WIFSTOPPED(status):
                return {"stopped": True}
            return {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else {"code": os.WEXITSTATUS(status)}
        if time.monotonic() >= end:
            return {}
        time.sleep(pause)
        pause = min(pause * 1.2, 0.005)


def main() -> None:
    _load()
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import mutants

    mutants.apply(os.environ.get("FAULT_MUTANT", ""))
    if len(sys.argv) > 1:
        sys.exit(run(json.loads(Path(sys.argv[1]).read_text())))
    alive: set[int] = set()
    for line in sys.stdin:
        told = json.loads(line)
        if "job" in told:
            answer: dict[str, Any] = {"pid": _fork(told["job"])}
            alive.add(answer["pid"])
        else:
            answer = _wait(told["wait"], told["seconds"])
            if "code" in answer or "signal" in answer:
                alive.discard(told["wait"])
        print(json.dumps(answer), flush=True)
    for pid in alive:  # the tests are over, or have died
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
