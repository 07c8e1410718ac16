"""Leases, claims and the document of a transaction: who may do what, and who is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from integrator import leases, ledger
from integrator.database import CLAIMS, LEASES, PROJECT, TRANSACTIONS, Database, Insert, Update
from integrator.database.sqlite import SQLiteDatabase
from integrator.errors import Conflict, DatabaseFailed, LeaseLost, Unanswered
from integrator.leases import Held, Watcher, known_dead, this_process
from integrator.ledger import Plan
from integrator.model import Directory, Document, Owner, State
from integrator.settings import LeaseTimes
from integrator.testing import CrashingDatabase, Fate, ManualClock, MemoryDatabase, MemoryStore

TIMES = LeaseTimes(renew=20, takeover=900, takeover_same_publish=60)
HOUR = 3600.0
A, B, C = "a" * 24, "b" * 24, "c" * 24


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
def database(request: pytest.FixtureRequest, clock: ManualClock, tmp_path: Path) -> Iterator[Database]:
    """Both databases, their clock set by hand."""
    if request.param == "memory":
        yield MemoryDatabase(MemoryStore(clock))
        return
    database = SQLiteDatabase(str(tmp_path / "publish.sqlite3"), clock=clock)
    yield database
    database.close()


def _owner(**facts: Any) -> Owner:
    """An owner on another machine, of whom nobody here can know that it is dead."""
    known = {"user": "anna", "host": "ws12", "boot": "b", "namespace": 1, "pid": 1, "started": 1, "application": "maya"}
    return Owner(**{**known, **facts})


def _plan(*numbers: tuple[str, int]) -> Plan:
    """A plan for versions of subsets: (subset, number)."""
    claims = {f"{subset}/v{number:03d}": (subset, number) for subset, number in numbers}
    directories = [
        Directory(root="work", final=key, staging=f"{key}.tmp", private="trash", lease=lease, claim=key)
        for key, (lease, _) in claims.items()
    ]
    return Plan(directories=tuple(directories), claims=claims, folders=(("work", "demo"),))


def _begin(database: Database, transaction: str, *numbers: tuple[str, int], **facts: Any) -> Document:
    return ledger.begin(database, transaction, _plan(*numbers), _owner(), TIMES, {"publish_id": transaction, **facts})


def _read(database: Database, collection: str, id: str) -> Document:
    found = database.read(collection, id)
    assert found is not None
    return found


def _everything(database: Database) -> dict[str, list[Document]]:
    return {name: database.find(name) for name in (TRANSACTIONS, LEASES, CLAIMS, PROJECT + "demo")}


def _publish(id: str) -> Insert:
    return Insert(collection=PROJECT + "demo", document={"_id": id, "type": "version"})


def _unchanged(database: Database, attempt: Callable[[], object], error: type[BaseException]) -> None:
    """`attempt` raises `error` and leaves the database exactly as it was."""
    before = _everything(database)
    with pytest.raises(error):
        attempt()
    assert _everything(database) == before


# --- granting ---------------------------------------------------------------------------------------------------------


def test_a_first_grant_has_token_1(database: Database, clock: ManualClock) -> None:
    _begin(database, A, ("hero", 1))
    assert _read(database, LEASES, "hero") == {
        "_id": "hero",
        "transaction": A,
        "token": 1,
        "counter": 0,
        "renewed": clock(),
        "expires": clock() + 900,
        "takeover": 900,
        "broken": None,
    }
    assert _read(database, CLAIMS, "hero/v001") == {
        "_id": "hero/v001",
        "transaction": A,
        "lease": "hero",
        "number": 1,
        "burnt": None,
    }


def test_tokens_grow_with_every_grant(database: Database) -> None:
    for n in range(1, 5):
        document = _begin(database, f"{n:024x}", ("hero", n))
        assert document["leases"] == {"hero": n}
        ledger.verdict(database, document, [], [], {})
    assert _read(database, LEASES, "hero")["token"] == 4


def test_a_held_lease_is_not_granted(database: Database, clock: ManualClock) -> None:
    _begin(database, A, ("hero", 1))
    clock.advance(100 * HOUR)
    with pytest.raises(Held) as caught:
        _begin(database, B, ("hero", 2))
    holder = caught.value.holder
    assert holder is not None
    assert (caught.value.lease["_id"], holder["_id"], caught.value.now) == ("hero", A, clock())
    assert database.read(TRANSACTIONS, B) is None


def test_leases_are_granted_in_sorted_order(database: Database) -> None:
    """Two publishers that want the same leases in another order must not each get one and wait for the other."""
    changes, tokens = leases.grants(database, ["b", "c", "a", "b"], A, TIMES)
    assert [change.key for change in changes] == ["a", "b", "c"]
    assert tokens == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("held", ["a", "b", "c"])
def test_with_any_one_lease_held_nothing_is_taken(database: Database, held: str) -> None:
    _begin(database, A, (held, 1))
    _unchanged(database, lambda: _begin(database, B, ("a", 2), ("b", 2), ("c", 2)), Held)


@pytest.mark.parametrize("taken", ["a/v002", "b/v002", "c/v002"])
def test_with_any_one_number_claimed_nothing_is_taken(database: Database, taken: str) -> None:
    database.commit([Insert(collection=CLAIMS, document={"_id": taken, "transaction": C})])
    _unchanged(database, lambda: _begin(database, B, ("a", 2), ("b", 2), ("c", 2)), Conflict)


def test_a_lease_granted_meanwhile_is_a_conflict(database: Database) -> None:
    """Between looking and committing another publisher may come first, at a new row and at a free one."""
    for number in (1, 2):
        mine, _ = leases.grants(database, ["hero"], A, TIMES)
        theirs, tokens = leases.grants(database, ["hero"], B, TIMES)
        database.commit(theirs)
        _unchanged(database, lambda mine=mine: database.commit(mine), Conflict)  # type: ignore[misc]
        database.commit(leases.releases(tokens, B))
        assert _read(database, LEASES, "hero")["token"] == number


def test_an_old_grant_is_not_made_after_the_lease_came_and_went(database: Database) -> None:
    """Free again is not the same as never taken: the token tells."""
    database.commit(leases.grants(database, ["hero"], C, TIMES)[0])
    database.commit(leases.releases({"hero": 1}, C))
    late, _ = leases.grants(database, ["hero"], A, TIMES)
    between, tokens = leases.grants(database, ["hero"], B, TIMES)
    database.commit(between)
    database.commit(leases.releases(tokens, B))
    _unchanged(database, lambda: database.commit(late), Conflict)


def test_exactly_one_of_many_publishers_gets_the_number(database: Database) -> None:
    won: list[str] = []

    def publish(n: int) -> None:
        transaction = f"{n:024x}"
        try:
            _begin(database, transaction, ("hero", 1))
        except (Held, Conflict):
            return
        won.append(transaction)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(won) == 1
    assert _read(database, CLAIMS, "hero/v001")["transaction"] == won[0]
    assert [found["_id"] for found in database.find(TRANSACTIONS)] == won


# --- renewing, handing over, releasing, breaking ----------------------------------------------------------------------


def test_renewing_moves_expiry_and_counter_only(database: Database, clock: ManualClock) -> None:
    _begin(database, A, ("hero", 1))
    before = _read(database, LEASES, "hero")
    for counter in (1, 2):
        clock.advance(20)
        leases.renew(database, A, {"hero": 1}, TIMES)
        renewed = {"counter": counter, "renewed": clock(), "expires": clock() + 900}
        assert _read(database, LEASES, "hero") == before | renewed


def test_an_expired_lease_that_nobody_took_is_still_its_holders(database: Database, clock: ManualClock) -> None:
    document = _begin(database, A, ("hero", 1))
    clock.advance(100 * HOUR)
    leases.renew(database, A, {"hero": 1}, TIMES)
    clock.advance(100 * HOUR)
    ledger.verdict(database, document, [_publish("v1")], [], {})
    assert database.find(PROJECT + "demo") == [{"_id": "v1", "type": "version"}]


def test_only_the_holder_renews(database: Database) -> None:
    _begin(database, A, ("hero", 1))
    wrong: list[tuple[str, Mapping[str, int]]] = [
        (B, {"hero": 1}), (A, {"hero": 2}), (A, {"other": 1}), (A, {"hero": 1, "other": 1}),
    ]  # fmt: skip
    for transaction, tokens in wrong:
        _unchanged(database, lambda t=transaction, k=tokens: leases.renew(database, t, k, TIMES), Conflict)  # type: ignore[misc]


def test_renewing_nothing_asks_for_nothing(database: Database) -> None:
    fate = Fate()
    leases.renew(CrashingDatabase(database, fate), A, {}, TIMES)
    assert fate.calls == []


def test_a_lease_is_handed_over_only_if_it_was_not_renewed_since(database: Database) -> None:
    """Who judged the holder gone looked at one counter; a renewal after that proves the judgement wrong."""
    _begin(database, A, ("hero", 1), ("villain", 1))
    looked = database.find(LEASES)
    changes, tokens = leases.regrants(looked, A, TIMES)
    assert tokens == {"hero": 2, "villain": 2}
    leases.renew(database, A, {"villain": 1}, TIMES)
    _unchanged(database, lambda: database.commit(changes), Conflict)
    again, tokens = leases.regrants(database.find(LEASES), A, TIMES)
    database.commit(again)
    assert [(row["token"], row["counter"]) for row in database.find(LEASES)] == [(2, 0), (2, 0)]


def test_the_former_actor_renews_and_releases_no_more(database: Database) -> None:
    _begin(database, A, ("hero", 1))
    database.commit(leases.regrants(database.find(LEASES), A, TIMES)[0])
    _unchanged(database, lambda: leases.renew(database, A, {"hero": 1}, TIMES), Conflict)
    _unchanged(database, lambda: database.commit(leases.releases({"hero": 1}, A)), Conflict)
    _unchanged(database, lambda: database.commit(leases.fences({"hero": 1}, A)), Conflict)


def test_a_released_lease_keeps_its_row_and_token(database: Database, clock: ManualClock) -> None:
    _begin(database, A, ("hero", 1))
    database.commit(leases.releases({"hero": 1}, A))
    row = _read(database, LEASES, "hero")
    assert (row.get("transaction"), row["token"], row["expires"]) == (None, 1, clock())
    _unchanged(database, lambda: database.commit(leases.releases({"hero": 1}, A)), Conflict)


def test_fences_write_every_lease(database: Database, clock: ManualClock) -> None:
    """Under snapshot isolation only a write meets another writer: a fence that reads is none."""
    _begin(database, A, ("hero", 1), ("villain", 1))
    clock.advance(7)
    database.commit(leases.fences({"hero": 1, "villain": 1}, A))
    assert [row["renewed"] for row in database.find(LEASES)] == [clock()] * 2


def test_a_broken_lease_says_by_whom_and_why(database: Database, clock: ManualClock) -> None:
    _begin(database, A, ("hero", 1))
    leases.break_lease(database, "hero", "went home", _owner(user="bert"))
    row = _read(database, LEASES, "hero")
    assert row["broken"] == {"by": "bert on ws12 (process 1)", "reason": "went home", "at": clock()}
    assert (row["expires"], row["transaction"], row["token"]) == (clock(), A, 1)


def test_a_broken_lease_makes_its_holder_lose_at_the_verdict_and_nothing_more(database: Database) -> None:
    document = _begin(database, A, ("hero", 1))
    leases.break_lease(database, "hero", "stuck", _owner(user="bert"))
    for finish in ([], [{"verb": "exchange"}]):
        _unchanged(database, lambda f=finish: ledger.verdict(database, document, [_publish("v1")], f, {}), Conflict)  # type: ignore[misc]
    _unchanged(database, lambda: leases.renew(database, A, {"hero": 1}, TIMES), Conflict)
    ledger.confirm(database, document)
    ledger.start_rollback(database, document, "lost")
    ledger.rolled_back(database, document, burn=False, left=[])
    assert _begin(database, B, ("hero", 1))["leases"] == {"hero": 2}
    assert _read(database, LEASES, "hero").get("broken") is None


def test_what_does_not_exist_cannot_be_broken(database: Database) -> None:
    _unchanged(database, lambda: leases.break_lease(database, "hero", "", _owner()), Conflict)


def test_a_lease_renewed_meanwhile_is_not_broken(database: Database) -> None:
    _begin(database, A, ("hero", 1))

    class Interrupted(MemoryDatabase):
        """Renews between the look and the commit of whoever uses it."""

        def read(self, collection: str, id: Any) -> Document | None:
            return database.read(collection, id)

        def commit(self, changes: Any) -> None:
            leases.renew(database, A, {"hero": 1}, TIMES)
            database.commit(changes)

    with pytest.raises(Conflict):
        leases.break_lease(Interrupted(), "hero", "", _owner())
    assert _read(database, LEASES, "hero").get("broken") is None


# --- who is known to be dead ------------------------------------------------------------------------------------------


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "60"])
    yield child
    child.kill()
    child.wait(10)


def _owner_of(pid: int) -> Owner:
    return attrs.evolve(this_process(), pid=pid, started=leases._start_time(pid) or 0)


def test_this_process_is_not_dead() -> None:
    owner = this_process("nuke")
    assert (owner.pid, owner.application) == (os.getpid(), "nuke")
    assert owner.boot
    assert owner.namespace
    assert owner.started
    assert not known_dead(owner)


def test_a_process_that_ended_is_known_dead(child: subprocess.Popen[bytes]) -> None:
    owner = _owner_of(child.pid)
    assert not known_dead(owner)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert known_dead(owner), "a zombie does nothing any more"
    child.wait(10)
    assert known_dead(owner)


def test_a_stopped_process_is_not_dead(child: subprocess.Popen[bytes]) -> None:
    owner = _owner_of(child.pid)
    child.send_signal(19)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert not known_dead(owner)


def test_another_process_with_the_same_pid_is_another_process(child: subprocess.Popen[bytes]) -> None:
    owner = _owner_of(child.pid)
    assert known_dead(attrs.evolve(owner, started=owner.started - 1))


@pytest.mark.parametrize(
    "facts", [{"host": "ws12"}, {"boot": "another boot"}, {"namespace": 1}, {"boot": ""}, {"namespace": 0}], ids=str
)
def test_of_what_runs_elsewhere_nobody_knows(facts: dict[str, Any]) -> None:
    gone = attrs.evolve(this_process(), pid=2**22 + 1, started=1)
    assert known_dead(gone)
    assert not known_dead(attrs.evolve(gone, **facts))


def test_without_a_boot_id_nothing_is_known(mocker: Any) -> None:
    mocker.patch("integrator.leases._boot_id", return_value="")
    assert not known_dead(attrs.evolve(this_process(), pid=2**22 + 1))


def test_a_name_with_spaces_and_brackets_does_not_confuse(tmp_path: Path) -> None:
    """The second field of ``/proc/PID/stat`` is the program's name, and that may hold anything."""
    program = tmp_path / ") R 1 (x"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    child = subprocess.Popen([program, "60"])
    try:
        assert not known_dead(_owner_of(child.pid))
        assert abs((leases._start_time(child.pid) or 0) - _owner_of(os.getpid()).started) < 100 * 86400 * 30
        assert leases._start_time(child.pid) != 0
    finally:
        child.kill()
        child.wait(10)


STRANGER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
DEAD = """
import json, sys
from integrator.leases import known_dead
from integrator.model import Owner
sys.exit(known_dead(Owner(**json.loads(sys.argv[1]))))
"""


def _judged_dead(owner: Owner, *before: str) -> bool:
    """What another process says, started behind the command `before`."""
    import json

    command = [*before, sys.executable, "-c", DEAD, json.dumps(attrs.asdict(owner))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode not in (0, 1) or done.stderr:
        pytest.skip(f"SKIPPED, NOT TESTED: {' '.join(before)}: {done.stderr[-200:]}")
    return done.returncode == 1


def test_another_process_judges_alike(child: subprocess.Popen[bytes]) -> None:
    owner = _owner_of(child.pid)
    assert not _judged_dead(owner)
    child.kill()
    child.wait(10)
    assert _judged_dead(owner)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT TESTED: needs to be root (namespaces)")
def test_a_container_never_knows_who_is_dead_outside(child: subprocess.Popen[bytes]) -> None:
    """In another pid namespace the same number is another process, or none."""
    owner = _owner_of(child.pid)
    assert not _judged_dead(owner, "unshare", "--pid", "--fork", "--mount-proc")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT TESTED: needs to be root (mounts)")
@pytest.mark.parametrize("hidepid", ["1", "2"])
def test_a_process_that_may_not_be_seen_is_not_dead(child: subprocess.Popen[bytes], hidepid: str) -> None:
    script = f'mount -t proc -o hidepid={hidepid} proc /proc && exec {" ".join(STRANGER)} "$@"'
    if subprocess.run([*STRANGER, sys.executable, "-c", "import integrator"]).returncode:
        pytest.skip("SKIPPED, NOT TESTED: another user cannot run this Python")
    assert not _judged_dead(_owner_of(child.pid), "unshare", "--mount", "sh", "-c", script, "sh")


# --- who is gone ------------------------------------------------------------------------------------------------------


@pytest.fixture
def boot_clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def watcher(boot_clock: ManualClock) -> Watcher:
    return Watcher(TIMES, boot_clock)


def _gone(watcher: Watcher, database: Database, *, same_publish: bool = False) -> bool:
    return watcher.gone(database.find(LEASES), _owner(), database.now(), same_publish=same_publish)


def test_a_holder_is_gone_after_long_silence_by_the_databases_clock(
    database: Database, clock: ManualClock, watcher: Watcher
) -> None:
    _begin(database, A, ("hero", 1))
    clock.advance(899.9)
    assert not _gone(watcher, database)
    clock.advance(0.2)
    assert _gone(watcher, database)


def test_a_retry_of_the_same_publish_waits_for_a_minute(database: Database, clock: ManualClock, watcher: Watcher) -> None:
    _begin(database, A, ("hero", 1))
    clock.advance(59.9)
    assert not _gone(watcher, database, same_publish=True)
    clock.advance(0.2)
    assert _gone(watcher, database, same_publish=True)
    assert not _gone(watcher, database)


def test_a_renewal_starts_the_silence_anew(database: Database, clock: ManualClock, watcher: Watcher) -> None:
    _begin(database, A, ("hero", 1))
    for _ in range(5):
        clock.advance(800)
        leases.renew(database, A, {"hero": 1}, TIMES)
        assert not _gone(watcher, database)


def test_every_lease_must_be_silent(database: Database, clock: ManualClock, watcher: Watcher) -> None:
    _begin(database, A, ("hero", 1), ("villain", 1))
    clock.advance(1000)
    leases.renew(database, A, {"villain": 1}, TIMES)
    assert not _gone(watcher, database)
    clock.advance(1000)
    assert _gone(watcher, database)


def test_the_holders_own_patience_counts(database: Database, clock: ManualClock, watcher: Watcher) -> None:
    """A host that renews every 10 minutes says so in its rows; others must not judge it by their settings."""
    slow = LeaseTimes(renew=600, takeover=3600, takeover_same_publish=60)
    ledger.begin(database, A, _plan(("hero", 1)), _owner(), slow, {})
    clock.advance(3599)
    assert not _gone(watcher, database)
    clock.advance(2)
    assert _gone(watcher, database)


def test_who_is_known_dead_is_gone_at_once(database: Database, watcher: Watcher) -> None:
    _begin(database, A, ("hero", 1))
    dead = attrs.evolve(this_process(), pid=2**22 + 1)
    assert watcher.gone(database.find(LEASES), dead, database.now(), same_publish=False)


def test_without_leases_or_owner_somebody_is_gone(database: Database, watcher: Watcher) -> None:
    assert watcher.gone([], _owner(), database.now(), same_publish=False)
    _begin(database, A, ("hero", 1))
    assert watcher.gone(database.find(LEASES), None, database.now(), same_publish=False)


def test_a_broken_lease_is_silent_at_once(database: Database, watcher: Watcher) -> None:
    _begin(database, A, ("hero", 1), ("villain", 1))
    leases.break_lease(database, "hero", "", _owner())
    assert not _gone(watcher, database)
    leases.break_lease(database, "villain", "", _owner())
    assert _gone(watcher, database)


def test_what_a_watcher_saw_unchanged_for_the_whole_time_is_gone(
    database: Database, boot_clock: ManualClock, watcher: Watcher
) -> None:
    """On its own clock, even while the database's stands still."""
    _begin(database, A, ("hero", 1))
    assert not _gone(watcher, database)
    boot_clock.advance(899)
    assert not _gone(watcher, database)
    boot_clock.advance(2)
    assert _gone(watcher, database)


def test_a_watcher_begins_anew_when_it_sees_a_renewal(database: Database, boot_clock: ManualClock, watcher: Watcher) -> None:
    _begin(database, A, ("hero", 1))
    for _ in range(3):
        assert not _gone(watcher, database)
        boot_clock.advance(800)
        leases.renew(database, A, {"hero": 1}, TIMES)
    assert not _gone(watcher, database)
    boot_clock.advance(901)
    assert _gone(watcher, database)


def test_a_watcher_begins_anew_with_a_new_grant(database: Database, boot_clock: ManualClock, watcher: Watcher) -> None:
    """A counter that is 0 again under a new token is another silence, not the old one."""
    document = _begin(database, A, ("hero", 1))
    assert not _gone(watcher, database)
    boot_clock.advance(800)
    ledger.verdict(database, document, [], [], {})
    _begin(database, B, ("hero", 2))
    boot_clock.advance(800)
    assert not _gone(watcher, database)


def test_a_watcher_that_looks_once_after_a_long_time_knows_nothing_by_itself(
    database: Database, boot_clock: ManualClock, watcher: Watcher
) -> None:
    _begin(database, A, ("hero", 1))
    boot_clock.advance(100 * HOUR)
    assert not _gone(watcher, database)


def test_a_clock_that_jumps_back_makes_nobody_immortal(
    database: Database, clock: ManualClock, boot_clock: ManualClock, watcher: Watcher
) -> None:
    """Renewed in the future: only what the watcher sees itself counts, and after its patience the holder is gone."""
    _begin(database, A, ("hero", 1))
    clock.advance(-5 * HOUR)
    assert not _gone(watcher, database)
    boot_clock.advance(901)
    assert _gone(watcher, database)


def test_a_clock_that_jumps_back_hurts_nobody_alive(
    database: Database, clock: ManualClock, boot_clock: ManualClock, watcher: Watcher
) -> None:
    document = _begin(database, A, ("hero", 1))
    clock.advance(-5 * HOUR)
    for _ in range(100):
        assert not _gone(watcher, database)
        boot_clock.advance(20)
        clock.advance(20)
        leases.renew(database, A, {"hero": 1}, TIMES)
    ledger.verdict(database, document, [_publish("v1")], [], {})


def test_a_clock_that_was_ahead_and_is_right_again_makes_nobody_gone(
    database: Database, clock: ManualClock, watcher: Watcher
) -> None:
    """The row says renewed in the future, so its age says nothing."""
    clock.advance(5 * HOUR)
    _begin(database, A, ("hero", 1))
    clock.advance(-5 * HOUR + 1000)
    assert not _gone(watcher, database)


def test_a_clock_that_jumps_ahead_costs_at_most_the_publish(database: Database, clock: ManualClock, watcher: Watcher) -> None:
    """A live holder can look gone until its next renewal; taken over, it loses at the verdict and changes nothing."""
    document = _begin(database, A, ("hero", 1))
    clock.advance(5 * HOUR)
    assert _gone(watcher, database)
    leases.renew(database, A, {"hero": 1}, TIMES)
    assert not _gone(watcher, database)
    clock.advance(5 * HOUR)
    ledger.take_over(database, document, database.find(LEASES), _owner(user="bert"), TIMES)
    _unchanged(database, lambda: ledger.verdict(database, document, [_publish("v1")], [], {}), Conflict)


def test_a_busy_lease_is_reported_with_who_and_since_when(database: Database, clock: ManualClock) -> None:
    _begin(database, A, ("hero", 1))
    clock.advance(3)
    with pytest.raises(Held) as caught:
        _begin(database, B, ("hero", 2))
    error = leases.busy(caught.value)
    assert "anna on ws12 is publishing hero v001 since " in error.message
    assert "(renewed 3 s ago)" in error.message
    assert (error.exit_code, error.transaction) == (4, A)


def test_a_busy_lease_says_how_far_its_holder_is(database: Database) -> None:
    document = _begin(database, A, ("hero", 4))
    change = Update(collection=TRANSACTIONS, id=A, expect={"actor": document["actor"]}, set={"progress": 0.614})
    database.commit([change])
    with pytest.raises(Held) as caught:
        _begin(database, B, ("hero", 5))
    message = leases.busy(caught.value).message
    assert "hero v004 since" in message
    assert "(61 %, renewed " in message


# --- the document -----------------------------------------------------------------------------------------------------


def _plans_of_numbers(document: Document) -> tuple[dict[str, int], dict[str, list[Any]]]:
    return document["leases"], document["claims"]


def test_a_begun_transaction_is_written_as_it_is_returned(database: Database, clock: ManualClock) -> None:
    document = _begin(database, A, ("hero", 1), purpose="test")
    found = _read(database, TRANSACTIONS, A)
    assert found == document | {"created": clock()}
    assert (found["state"], found["actor"], found["actors"], found["undoers"]) == ("open", 1, [1], [])
    assert found["owner"] == attrs.asdict(_owner())
    assert ledger.directories(found) == list(_plan(("hero", 1)).directories)


@pytest.mark.parametrize("when", ["before", "lost"])
def test_a_begin_that_fails_takes_nothing(database: Database, when: Any) -> None:
    failing = CrashingDatabase(database, Fate(fail_at=1, when=when))
    error = DatabaseFailed if when == "before" else Unanswered
    _unchanged(database, lambda: _begin(failing, A, ("hero", 1)), error)


def test_extending_adds_to_leases_claims_and_directories(database: Database) -> None:
    document = _begin(database, A, ("hero", 1))
    ledger.extend(database, document, _plan(("hero", 2), ("villain", 1)), TIMES)
    assert _plans_of_numbers(document) == (
        {"hero": 1, "villain": 1},
        {"hero/v001": ["hero", 1], "hero/v002": ["hero", 2], "villain/v001": ["villain", 1]},
    )
    found = _read(database, TRANSACTIONS, A)
    assert _plans_of_numbers(found) == _plans_of_numbers(document)
    assert len(found["directories"]) == 3
    assert len(database.find(CLAIMS)) == 3


def test_extending_takes_all_or_nothing(database: Database) -> None:
    document = _begin(database, A, ("hero", 1))
    _begin(database, B, ("villain", 1))
    before = dict(document)
    _unchanged(database, lambda: ledger.extend(database, document, _plan(("extra", 1), ("villain", 2)), TIMES), Held)
    ledger.verdict(database, dict(document), [], [{"verb": "exchange"}], {})
    _unchanged(database, lambda: ledger.extend(database, document, _plan(("extra", 1)), TIMES), Conflict)
    assert document == before


def test_moving_claims_gives_up_and_takes_in_one_write(database: Database) -> None:
    document = _begin(database, A, ("hero", 1), ("villain", 1))
    ledger.move_claims(database, document, _plan(("hero", 2), ("villain", 1)))
    assert [row["_id"] for row in database.find(CLAIMS)] == ["hero/v002", "villain/v001"]
    assert set(document["claims"]) == {"hero/v002", "villain/v001"}
    database.commit([Insert(collection=CLAIMS, document={"_id": "hero/v003", "transaction": C})])
    _unchanged(database, lambda: ledger.move_claims(database, document, _plan(("hero", 3), ("villain", 1))), Conflict)
    assert set(document["claims"]) == {"hero/v002", "villain/v001"}


def test_confirm_asks_who_the_actor_is(database: Database) -> None:
    document = _begin(database, A, ("hero", 1))
    ledger.confirm(database, document)
    ledger.take_over(database, document, database.find(LEASES), _owner(user="bert"), TIMES)
    with pytest.raises(LeaseLost, match="bert on ws12"):
        ledger.confirm(database, document)
    with pytest.raises(LeaseLost):
        ledger.confirm(database, {"_id": B, "actor": 1})


# --- verdict and end --------------------------------------------------------------------------------------------------


def test_a_verdict_with_nothing_to_finish_ends_in_the_same_write(database: Database, clock: ManualClock) -> None:
    document = _begin(database, A, ("hero", 1))
    fate = Fate()
    ledger.verdict(CrashingDatabase(database, fate), document, [_publish("v1")], [], {"versions": 1})
    assert fate.count("commit") == 1
    found = _read(database, TRANSACTIONS, A)
    assert (found["state"], document["state"]) == ("finished", "finished")
    assert (found["committed"], found["summary"]) == (clock(), {"versions": 1})
    assert database.find(CLAIMS) == []
    assert _read(database, LEASES, "hero").get("transaction") is None
    assert database.find(PROJECT + "demo") == [{"_id": "v1", "type": "version"}]


def test_a_verdict_with_something_to_finish_keeps_leases_and_claims(database: Database) -> None:
    document = _begin(database, A, ("hero", 1))
    ledger.verdict(database, document, [_publish("v1")], [{"verb": "exchange"}], {})
    found = _read(database, TRANSACTIONS, A)
    assert (found["state"], document["state"], found["finish"]) == ("committed", "committed", [{"verb": "exchange"}])
    assert _read(database, LEASES, "hero")["transaction"] == A
    assert [row["_id"] for row in database.find(CLAIMS)] == ["hero/v001"]
    ledger.finished(database, document, [_publish("hero")], ["left"])
    found = _read(database, TRANSACTIONS, A)
    assert (found["state"], found["left"]) == ("finished", ["left"])
    assert database.find(CLAIMS) == []
    assert _read(database, LEASES, "hero").get("transaction") is None
    assert len(database.find(PROJECT + "demo")) == 2


def _take_over(database: Database, document: Document) -> None:
    ledger.take_over(database, document, database.find(LEASES), _owner(), TIMES)


def _take_lease(database: Database, document: Document) -> None:
    database.commit([Update(collection=LEASES, id="villain", expect={}, set={"token": 2})])


def _take_claim(database: Database, document: Document) -> None:
    database.commit([Update(collection=CLAIMS, id="villain/v001", expect={}, set={"transaction": B})])


def _break(database: Database, document: Document) -> None:
    leases.break_lease(database, "villain", "", _owner())


def _roll_back(database: Database, document: Document) -> None:
    ledger.start_rollback(database, dict(document), "")


def _commit(database: Database, document: Document) -> None:
    ledger.verdict(database, dict(document), [], [{"verb": "exchange"}], {})


def _document_taken(database: Database, document: Document) -> None:
    database.commit([_publish("v1")])


@pytest.mark.parametrize("finish", [[], [{"verb": "exchange"}]])
@pytest.mark.parametrize("meanwhile", [_take_over, _take_lease, _take_claim, _break, _roll_back, _commit, _document_taken])
def test_a_verdict_is_refused_after(database: Database, meanwhile: Any, finish: list[Document]) -> None:
    """The fence: whatever one row of the transaction changed meanwhile, nothing is published."""
    document = _begin(database, A, ("hero", 1), ("villain", 1))
    meanwhile(database, document)
    _unchanged(database, lambda: ledger.verdict(database, document, [_publish("v1")], finish, {}), Conflict)
    assert document["state"] == "open"


def test_only_one_of_verdict_and_rollback_wins(database: Database) -> None:
    for n in range(10):
        document = _begin(database, f"{n:024x}", (f"hero{n}", 1))
        won: list[str] = []

        def attempt(name: str, call: Callable[[], None], won: list[str] = won) -> None:
            try:
                call()
            except Conflict:
                return
            won.append(name)

        mine, theirs = dict(document), dict(document)
        calls: list[tuple[str, Callable[[], None]]] = [
            ("verdict", lambda mine=mine: ledger.verdict(database, mine, [], [{"verb": "x"}], {})),  # type: ignore[misc]
            ("rollback", lambda theirs=theirs: ledger.start_rollback(database, theirs, "")),  # type: ignore[misc]
        ]
        threads = [threading.Thread(target=attempt, args=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        state = _read(database, TRANSACTIONS, document["_id"])["state"]
        assert (won, state) in ((["verdict"], "committed"), (["rollback"], "rolling_back"))


def test_a_rollback_frees_numbers_leases_and_publish_id(database: Database) -> None:
    document = _begin(database, A, ("hero", 1), publish_id="job")
    ledger.start_rollback(database, document, "disk full")
    found = _read(database, TRANSACTIONS, A)
    assert (found["state"], found["undoers"], found["error"], found["publish_id"]) == ("rolling_back", [1], "disk full", "job")
    with pytest.raises(Conflict):
        _begin(database, B, ("villain", 1), publish_id="job")
    ledger.rolled_back(database, document, burn=False, left=[])
    found = _read(database, TRANSACTIONS, A)
    assert (found["state"], found.get("publish_id"), found["former_publish_id"]) == ("rolled_back", None, "job")
    assert database.find(CLAIMS) == []
    assert _begin(database, B, ("hero", 1), publish_id="job")["leases"] == {"hero": 2}


def test_a_burnt_number_stays_claimed(database: Database, clock: ManualClock) -> None:
    document = _begin(database, A, ("hero", 1))
    ledger.start_rollback(database, document, "")
    ledger.rolled_back(database, document, burn=True, left=["demo/.nfs1"])
    assert _read(database, CLAIMS, "hero/v001")["burnt"] == clock()
    assert _read(database, TRANSACTIONS, A)["left"] == ["demo/.nfs1"]
    _unchanged(database, lambda: _begin(database, B, ("hero", 1)), Conflict)
    _begin(database, B, ("hero", 2))


def test_a_finished_publish_keeps_its_publish_id(database: Database) -> None:
    ledger.verdict(database, _begin(database, A, ("hero", 1), publish_id="job"), [], [], {})
    _unchanged(database, lambda: _begin(database, B, ("hero", 2), publish_id="job"), Conflict)


# --- taking over ------------------------------------------------------------------------------------------------------


def test_whoever_takes_an_open_transaction_over_rolls_it_back(database: Database) -> None:
    document = _begin(database, A, ("hero", 1), ("villain", 1))
    taken = ledger.take_over(database, document, ledger.lease_rows(database, document), _owner(user="bert"), TIMES)
    found = _read(database, TRANSACTIONS, A)
    assert {name: found.get(name) for name in taken if name != "created"} == {k: v for k, v in taken.items() if k != "created"}
    assert (taken["state"], taken["actor"], taken["actors"], taken["undoers"]) == ("rolling_back", 2, [1, 2], [2])
    assert (taken["leases"], taken["owner"]["user"]) == ({"hero": 2, "villain": 2}, "bert")
    assert [row["token"] for row in database.find(LEASES)] == [2, 2]
    ledger.rolled_back(database, taken, burn=False, left=[])


def test_whoever_takes_a_committed_transaction_over_finishes_it(database: Database) -> None:
    document = _begin(database, A, ("hero", 1))
    ledger.verdict(database, document, [], [{"verb": "exchange"}], {})
    taken = ledger.take_over(database, document, ledger.lease_rows(database, document), _owner(), TIMES)
    assert (taken["state"], taken["actor"], taken["undoers"]) == ("committed", 2, [])
    _unchanged(database, lambda: ledger.finished(database, document, [], []), Conflict)
    ledger.finished(database, taken, [], [])


def test_a_rollback_is_taken_over_too(database: Database) -> None:
    document = _begin(database, A, ("hero", 1))
    ledger.start_rollback(database, document, "")
    taken = ledger.take_over(database, document, ledger.lease_rows(database, document), _owner(), TIMES)
    assert (taken["state"], taken["actors"], taken["undoers"]) == ("rolling_back", [1, 2], [1, 2])
    _unchanged(database, lambda: ledger.rolled_back(database, document, burn=False, left=[]), Conflict)


def test_a_renewal_after_the_look_stops_a_takeover(database: Database) -> None:
    document = _begin(database, A, ("hero", 1))
    rows = ledger.lease_rows(database, document)
    leases.renew(database, A, {"hero": 1}, TIMES)
    _unchanged(database, lambda: ledger.take_over(database, document, rows, _owner(), TIMES), Conflict)


def test_a_verdict_after_the_look_stops_a_takeover(database: Database) -> None:
    document = _begin(database, A, ("hero", 1))
    rows = ledger.lease_rows(database, document)
    ledger.verdict(database, dict(document), [], [{"verb": "exchange"}], {})
    _unchanged(database, lambda: ledger.take_over(database, document, rows, _owner(), TIMES), Conflict)


def test_exactly_one_of_two_takeovers_wins(database: Database) -> None:
    for n in range(10):
        document = _begin(database, f"{n:024x}", (f"hero{n}", 1))
        rows = ledger.lease_rows(database, document)
        won: list[Document] = []

        def attempt(document: Document = document, rows: list[Document] = rows, won: list[Document] = won) -> None:
            try:
                won.append(ledger.take_over(database, document, rows, _owner(), TIMES))
            except Conflict:
                return

        threads = [threading.Thread(target=attempt) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert [taken["actor"] for taken in won] == [2]
        assert _read(database, TRANSACTIONS, document["_id"])["actor"] == 2


@pytest.mark.parametrize("state", ["reserved", "finished", "rolled_back"])
def test_what_is_settled_or_reserved_is_not_taken_over(database: Database, state: str) -> None:
    document = _begin(database, A, ("hero", 1)) | {"state": state}
    _unchanged(database, lambda: ledger.take_over(database, document, [], _owner(), TIMES), Conflict)


def test_a_stuck_transaction_lets_go_of_its_leases_and_keeps_its_numbers(database: Database, clock: ManualClock) -> None:
    document = _begin(database, A, ("hero", 1))
    ledger.start_rollback(database, document, "")
    ledger.mark_stuck(database, document, "not mounted")
    assert _read(database, TRANSACTIONS, A)["stuck"] == {"reason": "not mounted", "at": clock()}
    assert [row["_id"] for row in database.find(CLAIMS)] == ["hero/v001"]
    other = _begin(database, B, ("hero", 2))
    stuck = _read(database, TRANSACTIONS, A)
    _unchanged(database, lambda: ledger.take_over(database, stuck, [], _owner(), TIMES), Held)
    ledger.verdict(database, other, [], [], {})
    taken = ledger.take_over(database, stuck, [], _owner(), TIMES)
    assert taken["leases"] == {"hero": 3}
    ledger.rolled_back(database, taken, burn=False, left=[])
    assert _read(database, TRANSACTIONS, A).get("stuck") is None


def test_a_stuck_transaction_that_is_committed_keeps_its_leases(database: Database) -> None:
    """Whoever came next would be overtaken by what it has yet to put in place."""
    document = _begin(database, A, ("hero", 1))
    ledger.verdict(database, document, [], [{"kind": "effect"}], {})
    ledger.mark_stuck(database, document, "its plugin is not here")
    stuck = _read(database, TRANSACTIONS, A)
    with pytest.raises(Held):
        _begin(database, B, ("hero", 2))
    taken = ledger.take_over(database, stuck, ledger.lease_rows(database, stuck), _owner(), TIMES)
    ledger.finished(database, taken, [], [])
    _begin(database, B, ("hero", 2))


def test_unsettled_are_the_ones_that_recovery_looks_at(database: Database) -> None:
    documents = [_begin(database, f"{n:024x}", (f"s{n}", 1)) for n in range(5)]
    ledger.verdict(database, documents[1], [], [{"verb": "exchange"}], {})
    ledger.verdict(database, documents[2], [], [], {})
    ledger.start_rollback(database, documents[3], "")
    ledger.start_rollback(database, documents[4], "")
    ledger.rolled_back(database, documents[4], burn=False, left=[])
    found = [(document["_id"], document["state"]) for document in ledger.unsettled(database)]
    assert found == [(f"{n:024x}", state) for n, state in ((0, "open"), (1, "committed"), (3, "rolling_back"))]


# --- illegal steps ----------------------------------------------------------------------------------------------------

STEPS: dict[str, Callable[[Database, Document], object]] = {
    "extend": lambda database, document: ledger.extend(database, document, _plan(("extra", 1)), TIMES),
    "move_claims": lambda database, document: ledger.move_claims(database, document, _plan(("hero", 9))),
    "verdict": lambda database, document: ledger.verdict(database, document, [_publish("v1")], [], {}),
    "verdict_to_finish": lambda database, document: ledger.verdict(database, document, [_publish("v1")], [{"verb": "x"}], {}),
    "finished": lambda database, document: ledger.finished(database, document, [_publish("v1")], []),
    "start_rollback": lambda database, document: ledger.start_rollback(database, document, ""),
    "rolled_back": lambda database, document: ledger.rolled_back(database, document, burn=False, left=[]),
    "confirm": ledger.confirm,
}
LEGAL = {
    "extend": {State.OPEN},
    "move_claims": {State.OPEN},
    "verdict": {State.OPEN},
    "verdict_to_finish": {State.OPEN},
    "finished": {State.COMMITTED},
    "start_rollback": {State.OPEN},
    "rolled_back": {State.ROLLING_BACK},
    "confirm": {State.OPEN},
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", STEPS)
def test_every_step_is_refused_in_every_other_state(database: Database, step: str, state: State) -> None:
    document = _begin(database, A, ("hero", 1))
    database.commit([Update(collection=TRANSACTIONS, id=A, expect={}, set={"state": state.value})])
    if state in LEGAL[step]:
        STEPS[step](database, document)
    else:
        _unchanged(database, lambda: STEPS[step](database, document), LeaseLost if step == "confirm" else Conflict)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_is_refused_to_a_former_actor(database: Database, step: str) -> None:
    document = _begin(database, A, ("hero", 1))
    for state in LEGAL[step]:
        later = {"state": state.value, "actor": 2}
        database.commit([Update(collection=TRANSACTIONS, id=A, expect={}, set=later)])
        _unchanged(database, lambda: STEPS[step](database, document), LeaseLost if step == "confirm" else Conflict)


@pytest.mark.parametrize("step", sorted(set(STEPS) - {"confirm"}))
def test_every_step_is_one_commit_that_is_made_or_not(database: Database, step: str) -> None:
    document = _begin(database, A, ("hero", 1))
    (state,) = LEGAL[step]
    database.commit([Update(collection=TRANSACTIONS, id=A, expect={}, set={"state": state.value})])
    fate = Fate(fail_at=1, when="before")
    _unchanged(database, lambda: STEPS[step](CrashingDatabase(database, fate), dict(document)), DatabaseFailed)
    assert fate.count("commit") == 1
    STEPS[step](database, document)
