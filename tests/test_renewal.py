"""The child that renews leases: it lives as long as its parent works, and no longer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from integrator import leases, ledger
from integrator.database import LEASES, TRANSACTIONS, Update
from integrator.database.sqlite import SQLiteDatabase
from integrator.errors import LeaseLost
from integrator.leases import this_process
from integrator.ledger import Plan
from integrator.model import Directory, Document
from integrator.recovery import recover
from integrator.renewal import Renewal
from integrator.root import create_root, open_root
from integrator.settings import LeaseTimes

INTERVAL = 0.08
TIMES = LeaseTimes(renew=INTERVAL, takeover=30)
A = "a" * 24


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "publish.sqlite3")


@pytest.fixture
def database(path: str) -> Iterator[SQLiteDatabase]:
    database = SQLiteDatabase(path)
    yield database
    database.close()


@pytest.fixture
def renewal(path: str) -> Iterator[Renewal]:
    renewal = Renewal(f"sqlite://{path}", TIMES)
    yield renewal
    if renewal._child is not None:
        renewal._child.send_signal(signal.SIGCONT)
    renewal.close()


def _begin(database: SQLiteDatabase, transaction: str = A, lease: str = "hero") -> Document:
    directory = Directory(root="work", final=lease, staging="s", private="p", lease=lease, claim="")
    return ledger.begin(database, transaction, Plan(directories=(directory,)), this_process(), TIMES, {})


def _counter(database: SQLiteDatabase, lease: str = "hero") -> int:
    return int((database.read(LEASES, lease) or {})["counter"])


def _until(true: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.01)
    return False


def _grows(database: SQLiteDatabase, by: int = 2, lease: str = "hero") -> bool:
    goal = _counter(database, lease) + by
    return _until(lambda: _counter(database, lease) >= goal)


def _stands(database: SQLiteDatabase, lease: str = "hero") -> bool:
    """Whether a lease is not renewed for many intervals, once what was under way has ended."""
    time.sleep(2 * INTERVAL)
    before = _counter(database, lease)
    time.sleep(6 * INTERVAL)
    return _counter(database, lease) == before


def _gone(pid: int) -> bool:
    return leases._start_time(pid) is None


# --- while the parent works -------------------------------------------------------------------------------------------


def test_a_held_lease_is_renewed(database: SQLiteDatabase, renewal: Renewal) -> None:
    document = _begin(database)
    before = database.read(LEASES, "hero")
    renewal.hold(A, 1, document["leases"])
    assert _grows(database, 3)
    after = database.read(LEASES, "hero")
    assert before is not None
    assert after is not None
    assert after["renewed"] > before["renewed"]
    assert abs(after["expires"] - after["renewed"] - 30) < 0.01
    assert {name: after[name] for name in ("token", "transaction")} == {"token": 1, "transaction": A}


def test_one_child_renews_for_several_transactions(database: SQLiteDatabase, renewal: Renewal) -> None:
    for n, lease in enumerate(("hero", "villain")):
        transaction = f"{n:024x}"
        renewal.hold(transaction, 1, _begin(database, transaction, lease)["leases"])
    child = renewal._child
    assert _grows(database, lease="hero")
    assert _grows(database, lease="villain")
    assert renewal._child is child


def test_progress_reaches_the_document(database: SQLiteDatabase, renewal: Renewal) -> None:
    renewal.hold(A, 1, _begin(database)["leases"])
    for share in (0.25, 0.61234):
        renewal.progress(A, share)
    assert _until(lambda: (database.read(TRANSACTIONS, A) or {}).get("progress") == 0.612)
    assert _grows(database)


def test_a_dropped_transaction_is_not_renewed(database: SQLiteDatabase, renewal: Renewal) -> None:
    for n, lease in enumerate(("hero", "villain")):
        renewal.hold(f"{n:024x}", 1, _begin(database, f"{n:024x}", lease)["leases"])
    assert _grows(database)
    renewal.drop(f"{0:024x}")
    assert _stands(database, "hero")
    assert _grows(database, lease="villain")


def test_a_lost_lease_is_let_go_and_the_others_are_kept(database: SQLiteDatabase, renewal: Renewal) -> None:
    for n, lease in enumerate(("hero", "villain")):
        renewal.hold(f"{n:024x}", 1, _begin(database, f"{n:024x}", lease)["leases"])
    assert _grows(database)
    database.commit([Update(collection=LEASES, id="hero", expect={}, set={"token": 2})])
    assert _stands(database, "hero")
    assert _grows(database, lease="villain")


def test_a_broken_lease_is_not_renewed(database: SQLiteDatabase, renewal: Renewal) -> None:
    renewal.hold(A, 1, _begin(database)["leases"])
    assert _grows(database)
    assert _until(lambda: _broken(database))
    assert _stands(database)


def _broken(database: SQLiteDatabase) -> bool:
    try:
        leases.break_lease(database, "hero", "", this_process())
    except Exception:
        return False  # renewed between look and commit
    return True


def test_a_regranted_lease_is_renewed_with_its_new_token(database: SQLiteDatabase, renewal: Renewal) -> None:
    renewal.hold(A, 1, _begin(database)["leases"])
    database.commit([Update(collection=LEASES, id="hero", expect={}, set={"token": 2})])
    renewal.hold(A, 2, {"hero": 2})
    assert _grows(database)


def test_a_transaction_that_finishes_is_still_renewed(database: SQLiteDatabase, renewal: Renewal) -> None:
    document = _begin(database)
    renewal.hold(A, 1, document["leases"])
    ledger.verdict(database, document, [], [{"verb": "exchange"}], {})
    assert _grows(database)


def test_a_transaction_that_told_its_progress_is_renewed_while_it_finishes(database: SQLiteDatabase, renewal: Renewal) -> None:
    document = _begin(database)
    renewal.hold(A, 1, document["leases"])
    renewal.progress(A, 0.5)
    assert _until(lambda: (database.read(TRANSACTIONS, A) or {}).get("progress") == 0.5)
    ledger.verdict(database, document, [], [{"verb": "exchange"}], {})
    before = _counter(database)
    assert _until(lambda: _counter(database) >= before + 3, 3)


def test_a_locked_database_delays_and_does_not_end_renewal(database: SQLiteDatabase, path: str, renewal: Renewal) -> None:
    import sqlite3

    renewal.hold(A, 1, _begin(database)["leases"])
    assert _grows(database)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    time.sleep(4 * INTERVAL)
    other.execute("ROLLBACK")
    other.close()
    assert _grows(database)


def test_a_database_that_is_away_for_a_while_is_asked_again(path: str, database: SQLiteDatabase, renewal: Renewal) -> None:
    renewal.hold(A, 1, _begin(database)["leases"])
    assert _grows(database)
    folder = os.path.dirname(path)
    os.rename(folder, folder + "-away")
    time.sleep(4 * INTERVAL)
    os.rename(folder + "-away", folder)
    assert _grows(database)


def test_without_a_url_no_child_is_started() -> None:
    renewal = Renewal("", TIMES)
    renewal.hold(A, 1, {"hero": 1})
    renewal.progress(A, 0.5)
    renewal.drop(A)
    assert renewal._child is None
    renewal.close()


def test_without_a_transaction_no_child_is_started(renewal: Renewal) -> None:
    renewal.progress(A, 0.5)
    renewal.drop(A)
    assert renewal._child is None


def test_closing_ends_the_child(database: SQLiteDatabase, renewal: Renewal) -> None:
    renewal.hold(A, 1, _begin(database)["leases"])
    assert renewal._child is not None
    pid = renewal._child.pid
    assert _grows(database)
    renewal.close()
    renewal.close()
    assert _gone(pid)
    assert _stands(database)


def test_a_child_that_waits_for_its_first_renewal_ends_at_once(path: str, database: SQLiteDatabase) -> None:
    """The usual publish is over long before 20 seconds, and then nothing of it may stay."""
    patient = Renewal(f"sqlite://{path}", LeaseTimes(renew=20))
    patient.hold(A, 1, _begin(database)["leases"])
    assert patient._child is not None
    begun = time.monotonic()
    patient.close()
    assert time.monotonic() - begun < 5
    assert _counter(database) == 0


def test_a_child_that_died_is_no_error(database: SQLiteDatabase, renewal: Renewal) -> None:
    renewal.hold(A, 1, _begin(database)["leases"])
    assert renewal._child is not None
    renewal._child.kill()
    renewal._child.wait(10)
    for _ in range(3):
        renewal.progress(A, 0.5)
        renewal.drop(A)
    renewal.close()


def test_a_child_that_died_is_replaced_at_the_next_word(database: SQLiteDatabase, renewal: Renewal) -> None:
    renewal.hold(A, 1, _begin(database)["leases"])
    assert renewal._child is not None
    renewal._child.kill()
    renewal._child.wait(10)
    renewal.progress(A, 0.5)
    renewal.progress(A, 0.6)
    assert _until(lambda: _counter(database) > 0, 1)


def test_a_child_that_hangs_does_not_stop_the_publish(database: SQLiteDatabase, renewal: Renewal) -> None:
    """The child waits up to a minute for a locked database; whoever copies must not wait with it."""
    renewal.hold(A, 1, _begin(database)["leases"])
    assert renewal._child is not None
    renewal._child.send_signal(signal.SIGSTOP)
    telling = threading.Thread(target=lambda: [renewal.progress(A, n / 5000) for n in range(5000)], daemon=True)
    telling.start()
    telling.join(1)
    hangs = telling.is_alive()
    renewal._child.send_signal(signal.SIGCONT)
    telling.join(10)
    assert not hangs


def test_a_child_that_hangs_does_not_stop_the_end(database: SQLiteDatabase, renewal: Renewal) -> None:
    renewal.hold(A, 1, _begin(database)["leases"])
    child = renewal._child
    assert child is not None
    child.send_signal(signal.SIGSTOP)
    closing = threading.Thread(target=renewal.close, daemon=True)
    closing.start()
    closing.join(1)
    hangs = closing.is_alive()
    child.send_signal(signal.SIGCONT)
    closing.join(10)
    assert not hangs


def test_the_database_is_not_named_where_every_user_can_read_it(database: SQLiteDatabase, renewal: Renewal) -> None:
    """A URL can hold a password; `/proc/PID/cmdline` is everybody's."""
    secret = Renewal("mongodb://anna:secret@db.example/x", TIMES)
    secret.hold(A, 1, {"hero": 1})
    assert secret._child is not None
    command = Path(f"/proc/{secret._child.pid}/cmdline")
    assert _until(command.read_bytes), "the new program has not begun"
    shown = command.read_bytes()
    secret.close()
    assert b"secret" not in shown


# --- what happens to the parent ---------------------------------------------------------------------------------------

PARENT = """
import json, os, sys, threading, time
from integrator.renewal import Renewal
from integrator.settings import LeaseTimes
path, interval, tokens = sys.argv[1], float(sys.argv[2]), json.loads(sys.argv[3])
renewal = Renewal(f"sqlite://{path}", LeaseTimes(renew=interval, takeover=30))
renewal.hold("a" * 24, 1, tokens)
print(renewal._child.pid, flush=True)
for line in sys.stdin:
    if line == "hold the interpreter\\n":
        import ctypes
        ctypes.PyDLL(None).usleep(int(15 * interval * 1e6))
        print("done", flush=True)
    if line == "end without closing\\n":
        os._exit(0)
"""


class Parent:
    """Another process that holds the lease `hero` and renews it through a child of its own."""

    def __init__(self, path: str, tokens: dict[str, int]) -> None:
        command = [sys.executable, "-c", PARENT, path, str(INTERVAL), json.dumps(tokens)]
        self.running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.child = int(self.heard())

    def tell(self, line: str) -> None:
        assert self.running.stdin is not None
        self.running.stdin.write(line + "\n")
        self.running.stdin.flush()

    def heard(self) -> str:
        assert self.running.stdout is not None
        return self.running.stdout.readline()


@pytest.fixture
def parent(database: SQLiteDatabase, path: str) -> Iterator[Parent]:
    parent = Parent(path, _begin(database)["leases"])
    yield parent
    parent.running.send_signal(signal.SIGCONT)
    parent.running.kill()
    parent.running.communicate(timeout=10)
    assert _until(lambda: _gone(parent.child)), "a child outlives its parent"


@pytest.mark.parametrize("end", ["kill", "exit", "interrupt"])
def test_the_child_ends_with_its_parent(database: SQLiteDatabase, parent: Parent, end: str) -> None:
    assert _grows(database)
    if end == "exit":
        parent.tell("end without closing")
    else:
        parent.running.send_signal(signal.SIGKILL if end == "kill" else signal.SIGINT)
    assert _until(lambda: _gone(parent.child), 3)
    assert _stands(database)


def test_the_child_ends_with_a_parent_that_dies_before_the_first_renewal(database: SQLiteDatabase, parent: Parent) -> None:
    parent.running.kill()
    assert _until(lambda: _gone(parent.child), 3)
    assert _counter(database) <= 1


def test_the_child_ends_although_others_hold_the_pipe(database: SQLiteDatabase, path: str) -> None:
    """A process that the host forked has a copy of the pipe's end, and may outlive the host."""
    script = PARENT.replace("for line in sys.stdin:", "if not os.fork(): time.sleep(30)\nfor line in sys.stdin:")
    command = [sys.executable, "-c", script, path, str(INTERVAL), json.dumps(_begin(database)["leases"])]
    host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert host.stdout is not None
    child = int(host.stdout.readline())
    try:
        assert _grows(database)
        host.kill()
        host.wait(10)
        assert _until(lambda: _gone(child), 5)
        assert _stands(database)
    finally:
        os.killpg(host.pid, signal.SIGKILL)
        host.communicate(timeout=10)


def test_a_stopped_parent_is_not_renewed_for(database: SQLiteDatabase, parent: Parent) -> None:
    """A laptop that sleeps or a debugger: whoever waits for the lease must be able to tell."""
    assert _grows(database)
    parent.running.send_signal(signal.SIGSTOP)
    assert _stands(database)
    parent.running.send_signal(signal.SIGCONT)
    assert _grows(database)


def test_a_parent_that_holds_the_interpreter_lock_is_renewed_for(database: SQLiteDatabase, parent: Parent) -> None:
    assert _grows(database)
    parent.tell("hold the interpreter")
    before = _counter(database)
    assert parent.heard() == "done\n"
    assert _counter(database) >= before + 5


def test_the_child_is_no_member_of_the_parents_group(parent: Parent) -> None:
    """Ctrl-C in a terminal goes to the whole group; a rollback still needs its leases."""
    assert os.getpgid(parent.child) != os.getpgid(parent.running.pid)
    assert os.getsid(parent.child) != os.getsid(parent.running.pid)


def test_the_child_survives_what_ctrl_c_sends_to_the_group(database: SQLiteDatabase, path: str) -> None:
    script = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + PARENT
    command = [sys.executable, "-c", script, path, str(INTERVAL), json.dumps(_begin(database)["leases"])]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert running.stdout is not None
    running.stdout.readline()
    try:
        assert _grows(database)
        os.killpg(running.pid, signal.SIGINT)
        assert _grows(database)
    finally:
        running.kill()
        running.communicate(timeout=10)


def test_a_host_that_is_no_python_finds_one(mocker: Any) -> None:
    from integrator import renewal

    mocker.patch.object(sys, "executable", "/usr/autodesk/maya/bin/maya.bin")
    done = subprocess.run([renewal._interpreter(), "-c", "print(1)"], capture_output=True, text=True, timeout=10)
    assert done.stdout == "1\n"


def test_a_transaction_that_has_locked_nothing_yet_is_kept_alive(tmp_path: Path) -> None:
    """An export can take longer than a lease before it adds its first version."""
    path = str(tmp_path / "show")
    create_root(path).close()
    config = Path(path, ".integrator/config.toml")
    config.write_text(config.read_text() + "[lease]\nrenew = 0.1\ntakeover = 1.0\ntakeover_same_publish = 1.0\n")
    with open_root(path) as root, open_root(path) as other:
        # To another host it is not known whether this process lives.
        root.engine.owner = attrs.evolve(root.engine.owner, host="elsewhere")
        with pytest.raises(LeaseLost), root.begin(project="demo", publish_id="job") as assembly:
            time.sleep(2.5)
            assert [entry.outcome for entry in recover(other.engine)] == ["alive"]
            root.engine.renewal.drop(assembly.transaction.id)
            time.sleep(2.0)
            assert [entry.outcome for entry in recover(other.engine)] == ["rolled_back"]


def test_the_child_finds_modules_where_no_path_leads_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install is found by a hook of the parent, which the child does not have."""
    from integrator import renewal

    package = str(Path(renewal.__file__).parent.parent)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", package)])
    code = "import sys; sys.path[:] = sys.argv[2:]; import integrator; print(sys.argv[1])"
    done = subprocess.run(renewal.child_command(code, "found"), capture_output=True, text=True, timeout=10, cwd="/")
    assert done.stdout == "found\n", done.stderr
