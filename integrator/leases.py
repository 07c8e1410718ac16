"""Soft locks: leases, their fencing tokens, claims, and who is gone.

A lease row is ``{"_id": key, "token", "transaction", "counter", "renewed", "expires", "takeover", "broken"}``. It is never
deleted; `transaction` is None while nobody holds it. The token grows with every grant and is checked at the verdict: a lease
does not exclude by itself, the fence does. Times are the database's; `counter` grows with every renewal, so that whoever
judges a lease can make its own step conditional on "not renewed since I looked".

A claim row is ``{"_id": key, "transaction", "lease", "number", "burnt"}``: one version number that nobody else gets.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from integrator.database import CLAIMS, LEASES, TRANSACTIONS, Change, Database, Insert, Now, Update
from integrator.errors import Busy
from integrator.model import Document, Owner
from integrator.settings import LeaseTimes

#: How far an expiry may lie beyond what a lease can be before it counts as a jump of the clock, in seconds.
_SLACK: Final = 60.0


# --- granting -------------------------------------------------------------------------------------------------------


class Held(Exception):
    """A lease is held by a transaction; both rows as they were read."""

    def __init__(self, lease: Document, holder: Document | None, now: float) -> None:
        super().__init__(lease["_id"])
        self.lease = lease
        self.holder = holder
        self.now = now


def grants(database: Database, keys: Iterable[str], transaction: str, times: LeaseTimes) -> tuple[list[Change], dict[str, int]]:
    """The changes that grant free leases to a transaction, in sorted order, and the tokens that go with them.

    Raises `Held` for the first one that is not free.
    """
    changes: list[Change] = []
    tokens: dict[str, int] = {}
    for key in sorted(set(keys)):
        row = database.read(LEASES, key)
        if row is not None and row.get("transaction"):
            raise Held(row, database.read(TRANSACTIONS, row["transaction"]), database.now())
        tokens[key] = row["token"] + 1 if row else 1
        granted = _granted(transaction, tokens[key], times)
        if row is None:
            changes.append(Insert(collection=LEASES, document={"_id": key, **granted}))
        else:
            free = {"token": row["token"], "transaction": None}
            changes.append(Update(collection=LEASES, id=key, expect=free, set=granted))
    return changes, tokens


def regrants(rows: Iterable[Document], transaction: str, times: LeaseTimes) -> tuple[list[Change], dict[str, int]]:
    """The changes that hand leases over to a new actor of the same transaction, if they were not renewed since."""
    changes: list[Change] = []
    tokens: dict[str, int] = {}
    for row in rows:
        unchanged = {"token": row["token"], "transaction": row["transaction"], "counter": row["counter"]}
        tokens[row["_id"]] = row["token"] + 1
        granted = _granted(transaction, row["token"] + 1, times)
        changes.append(Update(collection=LEASES, id=row["_id"], expect=unchanged, set=granted))
    return changes, tokens


def _granted(transaction: str, token: int, times: LeaseTimes) -> dict[str, Any]:
    return {
        "transaction": transaction,
        "token": token,
        "counter": 0,
        "renewed": Now(),
        "expires": Now(times.takeover),
        "takeover": times.takeover,
        "broken": None,
    }


def fences(tokens: Mapping[str, int], transaction: str) -> list[Change]:
    """The changes that *write* every lease of a transaction on the condition that it is still ours and not broken."""
    return [
        Update(collection=LEASES, id=key, expect=_ours(transaction, token) | {"broken": None}, set={"renewed": Now()})
        for key, token in sorted(tokens.items())
    ]


def releases(tokens: Mapping[str, int], transaction: str, *, unbroken: bool = False) -> list[Change]:
    """The changes that let go of the leases of a transaction; with `unbroken`, only if nobody broke them."""
    free = {"transaction": None, "broken": None, "expires": Now()}
    expected = {"broken": None} if unbroken else {}
    return [
        Update(collection=LEASES, id=key, expect=_ours(transaction, token) | expected, set=free)
        for key, token in sorted(tokens.items())
    ]


def _ours(transaction: str, token: int) -> dict[str, Any]:
    return {"token": token, "transaction": transaction}


def claims(keys: Mapping[str, tuple[str, int]], transaction: str) -> list[Change]:
    """The changes that claim numbers: claim key to (lease key, number)."""
    return [
        Insert(
            collection=CLAIMS,
            document={"_id": key, "transaction": transaction, "lease": lease, "number": number, "burnt": None},
        )
        for key, (lease, number) in sorted(keys.items())
    ]


def renew(database: Database, transaction: str, tokens: Mapping[str, int], times: LeaseTimes) -> None:
    """Renew the leases of a transaction. Raises `errors.Conflict` if one is lost or broken."""
    changes: list[Change] = []
    for key, token in sorted(tokens.items()):
        row = database.read(LEASES, key)
        counter = row["counter"] if row else 0
        expect = _ours(transaction, token) | {"broken": None, "counter": counter}
        renewed = {"counter": counter + 1, "renewed": Now(), "expires": Now(times.takeover)}
        changes.append(Update(collection=LEASES, id=key, expect=expect, set=renewed))
    if changes:
        database.commit(changes)


def break_lease(database: Database, key: str, reason: str, by: Owner) -> None:
    """End a lease now: its holder loses at its verdict, and anybody may take the transaction over.

    Raises `errors.Conflict` if there is no such lease, or it changed meanwhile.
    """
    row = database.read(LEASES, key) or {}
    expect = {"transaction": row.get("transaction"), "token": row.get("token"), "counter": row.get("counter")}
    mark = {"by": str(by), "reason": reason, "at": Now()}
    change = Update(collection=LEASES, id=key, expect=expect, set={"expires": Now(), "broken": mark})
    database.commit([change])


# --- who is gone ----------------------------------------------------------------------------------------------------


def this_process(application: str = "") -> Owner:
    """The owner that this process is."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return Owner(
        user=user,
        host=socket.gethostname(),
        boot=_boot_id(),
        namespace=_pid_namespace(),
        pid=os.getpid(),
        started=_start_time(os.getpid()) or 0,
        application=application or os.path.basename(sys.argv[0] or "python"),
    )


def known_dead(owner: Owner) -> bool:
    """Whether this process, on the same boot of the same machine and in the same pid namespace, does not run any more."""
    here = (socket.gethostname(), _boot_id(), _pid_namespace())
    if (owner.host, owner.boot, owner.namespace) != here or not owner.boot or not owner.namespace:
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it runs, and is somebody else's
    fields = _status_fields(owner.pid)
    if fields is None:
        return False  # it may be hidden from us (``hidepid``), not gone
    return fields[0] in (b"Z", b"X") or int(fields[19]) != owner.started


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _status_fields(pid: int) -> list[bytes] | None:
    """The fields of proc(5) ``stat`` from the third, the state, on; None if they cannot be read."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def _start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None if it does not run, or cannot be seen."""
    fields = _status_fields(pid)
    return None if fields is None or fields[0] in (b"Z", b"X") else int(fields[19])


@attrs.frozen(kw_only=True)
class Sighting:
    """What a watcher saw of a lease, and when by its own clock (seconds since boot, suspend included)."""

    key: str
    token: int
    counter: float
    since: float


def boot_clock() -> float:
    """Seconds since boot, suspend included: a holder's and a watcher's own clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Watcher:
    """Judges whether the owner of a transaction is gone."""

    def __init__(self, times: LeaseTimes, clock: Callable[[], float] = boot_clock) -> None:
        self._times = times
        self._clock = clock
        self._sightings: dict[str, Sighting] = {}

    def gone(self, rows: Sequence[Document], owner: Owner | None, now: float, *, same_publish: bool) -> bool:
        """Whether a transaction with these lease rows may be taken over at the database's time `now`.

        True when its owner is known dead; when it let go of its leases (no owner); or when *every* lease was silent for long
        enough.
        """
        if owner is None or known_dead(owner):
            return True
        return all(self._silent(row, now, same_publish) for row in rows)

    def _silent(self, row: Document, now: float, same_publish: bool) -> bool:
        if row.get("broken"):
            return True
        patience = self._times.takeover_same_publish if same_publish else float(row.get("takeover") or self._times.takeover)
        seen = self._sightings.get(row["_id"])
        if seen is None or (seen.token, seen.counter) != (row["token"], row["counter"]):
            seen = Sighting(key=row["_id"], token=row["token"], counter=row["counter"], since=self._clock())
            self._sightings[row["_id"]] = seen
        if self._clock() - seen.since >= patience:
            return True
        # Further ahead than a lease can be: the database's clock jumped back, and only what we see ourselves counts.
        jumped = row["renewed"] > now + _SLACK or row["expires"] > now + float(row.get("takeover") or 0) + _SLACK
        return not jumped and now - row["renewed"] >= patience


def busy(held: Held) -> Busy:
    """The error that tells a user who holds a soft lock."""
    holder = held.holder or {}
    owner = holder.get("owner") or {}
    who = f"{owner.get('user', 'somebody')} on {owner.get('host', 'another machine')}"
    since = time.strftime("%H:%M", time.localtime(holder.get("created", held.now)))
    silent = max(0, int(held.now - held.lease.get("renewed", held.now)))
    claimed = (holder.get("claims") or {}).values()
    versions = [f"v{number:03d}" for number in sorted(number for key, number in claimed if key == held.lease["_id"])]
    what = " ".join([held.lease["_id"], ", ".join(versions)]).strip()
    share = f"{holder['progress'] * 100:.0f} %, " if holder.get("progress") else ""
    error = Busy(
        f"{who} is publishing {what} since {since} ({share}renewed {silent} s ago). Nothing was touched.",
        next="try again later, or wait for it with --wait SECONDS",
    )
    error.transaction = held.lease.get("transaction") or ""
    return error
