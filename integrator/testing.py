"""Test doubles for this project and for studios: a database in memory, a clock set by hand, and calls that fail or kill.

The pattern of a crash test: run once with a `Fate` that only records, then once for every call it recorded, killed there, and
each time recover with a new storage and a new handle on the same `MemoryStore` (or file) and look at what is left::

    fate = Fate()
    publish(CrashingStorage(fate), CrashingDatabase(MemoryDatabase(store), fate))
    for number in range(1, len(fate.calls) + 1):
        fate = Fate(kill_at=number, when="after")

`DatabaseContract` is the suite that every implementation of `integrator.database.Database` passes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from integrator.database import (
    CLAIMS,
    PROJECT,
    TRANSACTIONS,
    UNIQUE,
    Change,
    Database,
    Delete,
    Ensure,
    Insert,
    Now,
    Replace,
    Update,
    asked_field,
    changed,
    choices,
    field,
    field_name,
    id_text,
    kind,
    matches,
    rank,
    resolve_now,
)
from integrator.encoding import Packed, decode, encode
from integrator.errors import Conflict, DatabaseFailed, IntegratorError, Unanswered
from integrator.model import Document
from integrator.storage import Storage

if TYPE_CHECKING:
    from integrator.root import Root

# --- the database in memory -----------------------------------------------------------------------------------------


class ManualClock:
    """A clock that stands still until it is told to move, back if need be."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self.time = start

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


@attrs.frozen
class _Row:
    """A stored document: JSON text, its long arrays in pieces, and the value that must be unique in its collection."""

    body: bytes
    long: Mapping[str, Sequence[bytes]]
    unique: tuple[int, Any]


_Rows = dict[str, _Row]


class MemoryStore:
    """What stands for the server: it outlives the handles on it, so that a test can drop one and open another."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.collections: dict[str, _Rows] = {}


class MemoryDatabase:
    """A `Database` that keeps nothing. Safe to use from several threads, and through several handles on one store."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = MemoryStore() if store is None else store
        self._open = True

    def commit(self, changes: Sequence[Change]) -> None:
        """See `Database.commit`."""
        with self._asking() as store:
            now, draft = store.clock(), dict(store.collections)
            for name in {change.collection for change in changes}:
                kind(name)
                draft[name] = dict(draft.get(name, {}))
            for change in changes:
                _apply(draft[change.collection], change, now)
            store.collections = draft

    def read(self, collection: str, id: Any) -> Document | None:
        """See `Database.read`."""
        kind(collection)
        key = id_text(id)
        with self._asking() as store:
            row = store.collections.get(collection, {}).get(key)
            return _document(row) if row else None

    def find(
        self,
        collection: str,
        where: Mapping[str, Any] | None = None,
        *,
        newest: str = "",
        limit: int = 0,
        without: str = "",
        only: Sequence[str] = (),
    ) -> list[Document]:
        """See `Database.find`."""
        kind(collection)
        wanted, order = choices(where), field_name(newest) if newest else "_id"
        with self._asking() as store:
            rows = store.collections.get(collection, {})
            ordered = [rows[key] for key in sorted(rows, key=rank)]
        found = [row for row in ordered if matches(decode(row.body), wanted)]
        if newest:
            found.sort(key=lambda row: rank(asked_field(decode(row.body), order)), reverse=True)
        return [_document(row, without) for row in found[: limit or None]]

    def now(self) -> float:
        """See `Database.now`."""
        return self.store.clock()

    def projects(self) -> list[str]:
        """See `Database.projects`."""
        with self._asking() as store:
            filled = [name for name, rows in store.collections.items() if rows]
        return sorted(name.removeprefix(PROJECT) for name in filled if kind(name) == PROJECT)

    def close(self) -> None:
        """See `Database.close`."""
        self._open = False

    @contextlib.contextmanager
    def _asking(self) -> Iterator[MemoryStore]:
        with self.store.lock:
            if not self._open:
                raise DatabaseFailed("this handle is closed")
            yield self.store


def _apply(rows: _Rows, change: Change, now: float) -> None:
    row = rows.get(change.key)
    if isinstance(change, (Insert, Ensure)):
        if row is None:
            _put(rows, change, change.document, now)
        elif isinstance(change, Insert):
            raise Conflict(change.collection, change.key, "not unique (_id)")
        return
    made = changed(change, _document(row) if row else None)
    del rows[change.key]
    if not isinstance(change, Delete):
        _put(rows, change, made, now)


def _put(rows: _Rows, change: Change, document: Mapping[str, Any], now: float) -> None:
    long = {name: tuple(value.pieces) for name, value in document.items() if isinstance(value, Packed)}
    body = encode(resolve_now({**document, **{name: [] for name in long}}, now))
    name = UNIQUE.get(kind(change.collection))
    unique = rank(field(decode(body), name) if name else None)
    if unique != rank(None) and any(row.unique == unique for row in rows.values()):
        raise Conflict(change.collection, change.key, f"not unique ({unique[1]!r})")
    rows[change.key] = _Row(body, long, unique)


def _document(row: _Row, without: str = "") -> Document:
    document: Document = decode(row.body)
    return document | {name: Packed.joined(pieces) for name, pieces in row.long.items() if pieces and name != without}


# --- calls that fail or kill ----------------------------------------------------------------------------------------

#: before: the call is not made. after: it took effect. during: half of a write is made (else as before).
#: lost: a commit is not made and gives no answer (else as before).
When = Literal["before", "during", "after", "lost"]


class Killed(BaseException):
    """Stands for the death of the process: nothing changes any more after it, whatever `finally` tries."""


class Fate:
    """Numbers every changing call of a storage and a database, from 1 on, and decides which one goes wrong.

    Calls are made one at a time, whatever the number of threads, so that nothing takes effect after a kill.
    """

    def __init__(
        self,
        *,
        kill_at: int = 0,
        fail_at: int = 0,
        when: When = "before",
        error: int = errno.EIO,
        persistent: bool = False,
        hook: Callable[[int, str], None] | None = None,
    ) -> None:
        """Kill or fail at a call; with neither, only record.

        `error` is the errno of a failing storage call. A failing commit raises `DatabaseFailed` (before) or `Unanswered` (after,
        lost). With `persistent` all calls from `fail_at` on fail. `hook(number, text)` runs before each call is made, to let
        another actor act at that instant.
        """
        if kill_at and fail_at:
            raise ValueError("a call is killed or fails, not both")
        self.kill_at = kill_at
        self.fail_at = fail_at
        self.when: When = when
        self.error = error
        self.persistent = persistent
        self.hook = hook
        #: What was called, abridged: ``rename('v003.tmp.1f', 'v003')``.
        self.calls: list[str] = []
        self.dead = False
        self._lock = threading.RLock()

    def count(self, *names: str) -> int:
        """How many calls with one of these names were made: `fate.count("sync", "sync_filesystem", "commit")`."""
        return sum(text.partition("(")[0] in names for text in self.calls)

    def numbers(self, part: str) -> list[int]:
        """The numbers of the calls whose text contains `part`, such as ``state=committed`` for the verdict."""
        return [number for number, text in enumerate(self.calls, 1) if part in text]

    def check(self) -> None:
        """Raise `Killed` if the process is dead."""
        if self.dead:
            raise Killed

    @contextlib.contextmanager
    def call(self, text: str) -> Iterator[bool]:
        """Around one changing call; gives whether it goes wrong, now. Raises `Killed` if the process is dead already."""
        with self._lock:
            self.check()
            self.calls.append(text)
            number = len(self.calls)
            if self.hook is not None:
                self.hook(number, text)
                self.check()
            if number == self.kill_at:
                self.dead = True
            yield self.dead or number == self.fail_at or (self.persistent and 0 < self.fail_at < number)


class CrashingStorage(Storage):
    """A storage whose changing calls meet their fate. What reads the file system is not touched."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate

    def _meet(self, name: str, *arguments: Any, **named: Any) -> Any:
        plain = getattr(super(), name)
        if name == "close":
            return self._close(plain, *arguments)
        with self.fate.call(_abridged(name, arguments)) as wrong:
            if not wrong:
                return plain(*arguments, **named)
            if self.fate.when == "during" and name == "write":
                plain(arguments[0], arguments[1][: len(arguments[1]) // 2])
            if self.fate.when == "after":
                with contextlib.suppress(OSError):
                    made = plain(*arguments, **named)
                    if name == "create":
                        os.close(made)  # nobody learns of the descriptor
            raise self._error()

    def _close(self, plain: Callable[[int], None], fd: int) -> None:
        # The kernel closes the descriptor in any case: when close fails, and when the process dies.
        try:
            with self.fate.call(_abridged("close", (fd,))) as wrong:
                if wrong:
                    raise self._error()
        except BaseException:
            with contextlib.suppress(OSError):
                plain(fd)
            raise
        plain(fd)

    def _error(self) -> BaseException:
        return Killed() if self.fate.dead else OSError(self.fate.error, os.strerror(self.fate.error), "(injected)")


def open_fated(path: str | os.PathLike[str], fate: Fate) -> Root:
    """Open a publish root whose calls `fate` counts, fails or kills.

    Everything runs in one thread, and without the child that renews leases. Whoever opens the root next takes its owner for dead.
    """
    from integrator.journal import Journals
    from integrator.leases import this_process
    from integrator.renewal import Renewal
    from integrator.root import open_root

    root = open_root(path)
    engine = root.engine
    engine.executor = None
    engine.renewal = Renewal("", engine.settings.lease)
    engine.owner = attrs.evolve(this_process("integrator.testing"), started=1)
    engine.storage = CrashingStorage(fate)
    engine.journals = Journals(engine.storage, engine.journals.path)
    engine.database = CrashingDatabase(engine.database, fate)
    return root


def _fated(name: str) -> Callable[..., Any]:
    def call(self: CrashingStorage, *arguments: Any, **named: Any) -> Any:
        return self._meet(name, *arguments, **named)

    call.__name__ = name
    return call


for _name in Storage.CALLS:
    setattr(CrashingStorage, _name, _fated(_name))


def _abridged(name: str, arguments: Sequence[Any]) -> str:
    """A call as text that is the same in every run: names, lengths, and the name behind a leading descriptor."""
    shown = [repr(text[-60:]) for text in arguments if isinstance(text, str)]
    shown += [f"{len(content)} bytes" for content in arguments if isinstance(content, (bytes, memoryview))]
    if arguments and isinstance(arguments[0], int):
        with contextlib.suppress(OSError):
            shown.insert(0, os.path.basename(os.readlink(f"/proc/self/fd/{arguments[0]}")))
    return f"{name}({', '.join(shown)})"


class CrashingDatabase:
    """A database whose commits meet their fate. Reads are not counted, but end with the process."""

    def __init__(self, database: Database, fate: Fate) -> None:
        self.database = database
        self.fate = fate

    def commit(self, changes: Sequence[Change]) -> None:
        """See `Database.commit`."""
        with self.fate.call(f"commit({_described(changes)})") as wrong:
            if not wrong:
                self.database.commit(changes)
                return
            if self.fate.when == "after":
                with contextlib.suppress(IntegratorError):  # refused, and nobody learns of it
                    self.database.commit(changes)
            if self.fate.dead:
                raise Killed
            if self.fate.when in ("after", "lost"):
                raise Unanswered("the answer was lost (injected)")
            raise DatabaseFailed("the database cannot be asked (injected)")

    def read(self, collection: str, id: Any) -> Document | None:
        """See `Database.read`."""
        self.fate.check()
        return self.database.read(collection, id)

    def find(
        self,
        collection: str,
        where: Mapping[str, Any] | None = None,
        *,
        newest: str = "",
        limit: int = 0,
        without: str = "",
        only: Sequence[str] = (),
    ) -> list[Document]:
        """See `Database.find`."""
        self.fate.check()
        return self.database.find(collection, where, newest=newest, limit=limit, without=without, only=only)

    def now(self) -> float:
        """See `Database.now`."""
        self.fate.check()
        return self.database.now()

    def projects(self) -> list[str]:
        """See `Database.projects`."""
        self.fate.check()
        return self.database.projects()

    def close(self) -> None:
        """See `Database.close`. Always closes: so does the kernel."""
        self.database.close()


def _described(changes: Sequence[Change]) -> str:
    shown = [_described_change(change) for change in changes[:8]]
    return ", ".join([*shown, f"{len(changes) - 8} more"] if len(changes) > 8 else shown)


def _described_change(change: Change) -> str:
    content: Mapping[str, Any] = {}
    if isinstance(change, Update):
        content = change.set
    elif not isinstance(change, Delete):
        content = change.document
    state = f" state={content['state']}" if "state" in content and change.collection == TRANSACTIONS else ""
    return f"{type(change).__name__.lower()} {change.collection}{state}"


# --- the suite that every database passes ---------------------------------------------------------------------------

_DEMO: Final = PROJECT + "demo"


class DatabaseContract:
    """What a `Database` must do. pytest runs it through a subclass that says how to open one::

        class TestMyDatabase(DatabaseContract):
            def make_database(self):
                return MyDatabase(...)

    Every call within one test must give a handle on the same database, which is empty when the test begins.
    """

    def make_database(self) -> Database:
        raise NotImplementedError

    def setup_method(self) -> None:
        self._handles: list[Database] = []

    def teardown_method(self) -> None:
        for handle in self._handles:
            handle.close()

    def open(self) -> Database:
        """A handle that is closed when the test ends."""
        handle = self.make_database()
        self._handles.append(handle)
        return handle

    # --- one change -----------------------------------------------------------------------------------------------

    def test_what_is_inserted_is_read_back_unchanged(self) -> None:
        database = self.open()
        document = {"_id": "a", "text": "ä", "number": 0, "share": 0.25, "big": 2**53, "yes": True, "none": None, "list": [[2]]}
        database.commit([_insert("a", **document)])
        assert database.read(TRANSACTIONS, "a") == document

    def test_ids_may_be_object_ids(self) -> None:
        database = self.open()
        id = {"$oid": "65a1b2c3d4e5f60718293a4b"}
        database.commit([Insert(collection=_DEMO, document={"_id": id, "name": "hero"})])
        database.commit([Update(collection=_DEMO, id=id, expect={"name": "hero"}, set={"name": "villain"})])
        assert database.read(_DEMO, id) == {"_id": id, "name": "villain"}

    def test_a_document_is_a_copy_on_the_way_in_and_out(self) -> None:
        database = self.open()
        document: Document = {"_id": "a", "inner": {"list": [1]}}
        database.commit([Insert(collection=TRANSACTIONS, document=document)])
        document["inner"]["list"].append(2)
        found = database.read(TRANSACTIONS, "a")
        assert found == {"_id": "a", "inner": {"list": [1]}}
        found["inner"]["list"].append(3)
        assert database.read(TRANSACTIONS, "a") == {"_id": "a", "inner": {"list": [1]}}

    def test_what_is_not_there_is_none(self) -> None:
        database = self.open()
        assert database.read(TRANSACTIONS, "a") is None
        assert database.read(PROJECT + "unknown", {"$oid": "0" * 24}) is None
        assert database.find(PROJECT + "unknown", {"type": "version"}) == []

    def test_insert_of_an_id_that_exists_is_a_conflict(self) -> None:
        database = self.open()
        database.commit([_insert("a", n=1)])
        with _raises(Conflict) as caught:
            database.commit([_insert("a", n=2)])
        assert (caught[0].collection, caught[0].key) == (TRANSACTIONS, "a")
        assert database.read(TRANSACTIONS, "a") == {"_id": "a", "n": 1}

    def test_insert_over_a_long_array_is_a_conflict_too(self) -> None:
        database = self.open()
        document = {"_id": "a", "files": Packed.of([1])}
        database.commit([Insert(collection=_DEMO, document=document)])
        with _raises(Conflict):
            database.commit([Insert(collection=_DEMO, document=document)])

    def test_ensure_adds_once_and_keeps_what_is_there(self) -> None:
        database = self.open()
        for n in (1, 2):
            database.commit([Ensure(collection=_DEMO, document={"_id": "a", "n": n})])
        assert database.read(_DEMO, "a") == {"_id": "a", "n": 1}

    def test_ensure_meets_unique_keys(self) -> None:
        database = self.open()
        database.commit([_keyed("a", "version/3")])
        with _raises(Conflict):
            database.commit([Ensure(collection=_DEMO, document=dict(_keyed("b", "version/3").document))])

    def test_update_sets_and_removes_and_keeps_the_rest(self) -> None:
        database = self.open()
        database.commit([_insert("a", n=1, gone=2, kept=3, inner={"gone": 4, "kept": 5})])
        changed = {"n": 6, "gone": None, "inner.gone": None, "inner.made": 7, "new.deep": 8}
        database.commit([_update("a", {}, changed)])
        expected = {"_id": "a", "n": 6, "kept": 3, "inner": {"kept": 5, "made": 7}, "new": {"deep": 8}}
        assert database.read(TRANSACTIONS, "a") == expected

    def test_removing_a_field_that_is_not_there_changes_nothing(self) -> None:
        database = self.open()
        database.commit([_insert("a", n=1)])
        database.commit([_update("a", {}, {"gone": None, "outer.gone": None})])
        assert database.read(TRANSACTIONS, "a") == {"_id": "a", "n": 1}
        database.commit([_update("a", {}, {"n.deep": None, "n.deep.er": None})])
        assert database.read(TRANSACTIONS, "a") == {"_id": "a", "n": 1}

    def test_a_field_below_what_is_no_table_is_a_conflict(self) -> None:
        database = self.open()
        before = {"_id": "a", "n": 1, "text": "x", "none": None, "list": [{}], "files": [1], "inner": {"n": 1}}
        database.commit([Insert(collection=TRANSACTIONS, document={**before, "files": Packed.of([1])})])
        for name in ("n.x", "text.x", "none.x", "list.x", "list.0", "files.x", "inner.n.x", "n.x.y"):
            with _raises(Conflict):
                database.commit([_update("a", {}, {"first": 1, name: 2})])
        assert database.read(TRANSACTIONS, "a") == before

    def test_replace_leaves_nothing_of_the_old_document(self) -> None:
        database = self.open()
        database.commit([_insert("a", old=1, files=Packed.of([1]))])
        database.commit([Replace(collection=TRANSACTIONS, id="a", expect={"old": 1}, document={"_id": "a", "new": 2})])
        assert database.read(TRANSACTIONS, "a") == {"_id": "a", "new": 2}

    def test_delete_removes_and_frees_the_id(self) -> None:
        database = self.open()
        database.commit([_insert("a", files=Packed.of([1]))])
        database.commit([Delete(collection=TRANSACTIONS, id="a", expect={})])
        assert database.read(TRANSACTIONS, "a") is None
        database.commit([_insert("a", n=2)])
        assert database.read(TRANSACTIONS, "a") == {"_id": "a", "n": 2}

    # --- expectations ---------------------------------------------------------------------------------------------

    def test_every_verb_refuses_what_is_not_as_expected(self) -> None:
        database = self.open()
        database.commit([_insert("a", state="open", inner={"token": 3})])
        wrong: list[Mapping[str, Any]] = [
            {"state": "committed"}, {"inner.token": 4}, {"inner": {"token": 4}}, {"inner": {}}, {"absent": 1}, {"state": None},
            {"state": "open", "inner.token": None}, {"state.inner": "open"}, {"inner.token": "3"},
        ]  # fmt: skip
        for expect in wrong:
            for change in _conditional("a", expect):
                with _raises(Conflict):
                    database.commit([change])
        assert database.read(TRANSACTIONS, "a") == {"_id": "a", "state": "open", "inner": {"token": 3}}

    def test_every_verb_refuses_a_document_that_is_not_there(self) -> None:
        database = self.open()
        expectations: list[Mapping[str, Any]] = [{}, {"state": None}, {"state": "open"}]
        for expect in expectations:
            for change in _conditional("a", expect):
                with _raises(Conflict):
                    database.commit([change])
        assert database.find(TRANSACTIONS) == []

    def test_what_is_expected_is_found(self) -> None:
        database = self.open()
        document = {"null": None, "inner": {"token": 3, "null": None}, "list": [1, {"b": 2}], "zero": 0, "empty": ""}
        database.commit([_insert("a", **document)])
        right = document | {"absent": None, "inner.token": 3, "inner.null": None, "absent.deep": None, "zero.deep": None}
        database.commit([_update("a", right, {"done": 1})])
        assert database.read(TRANSACTIONS, "a") == {"_id": "a", **document, "done": 1}

    # --- commits --------------------------------------------------------------------------------------------------

    def test_a_conflict_in_the_last_change_leaves_nothing_of_the_others(self) -> None:
        database = self.open()
        database.commit([_insert("a", n=1), _insert("b", n=1), _insert("c", n=1, files=Packed.of([1, 2]))])
        before = database.find(TRANSACTIONS)
        good: list[Change] = [
            _insert("d", n=1, files=Packed.of([3])),
            Ensure(collection=_DEMO, document={"_id": "new", "n": 1}),
            _update("a", {"n": 1}, {"n": 2}),
            Replace(collection=TRANSACTIONS, id="b", expect={}, document={"_id": "b", "n": 3}),
            Delete(collection=TRANSACTIONS, id="c", expect={}),
        ]
        bad: list[Change] = [_insert("a"), *_conditional("a", {"n": 9}), *_conditional("nobody", {})]
        for last in bad:
            with _raises(Conflict):
                database.commit([*good, last])
            assert database.find(TRANSACTIONS) == before
            assert database.find(_DEMO) == []
            assert database.projects() == []
        database.commit(good)  # and they were good
        assert [document["_id"] for document in database.find(TRANSACTIONS)] == ["a", "b", "d"]

    def test_what_cannot_be_written_leaves_nothing_either(self) -> None:
        database = self.open()
        with _raises(TypeError):
            database.commit([_insert("a"), _insert("b", wrong=object())])
        assert database.find(TRANSACTIONS) == []
        database.commit([_insert("a")])  # and nothing hangs

    def test_a_change_sees_the_ones_before_it(self) -> None:
        database = self.open()
        database.commit(
            [
                _insert("a", n=1, publish_id="job"),
                _update("a", {"n": 1}, {"n": 2}),
                Delete(collection=TRANSACTIONS, id="a", expect={"n": 2}),
                _insert("b", publish_id="job"),
                _update("b", {"n": None}, {"n": 3}),
            ]
        )
        assert database.find(TRANSACTIONS) == [{"_id": "b", "publish_id": "job", "n": 3}]

    def test_a_commit_of_nothing_is_nothing(self) -> None:
        database = self.open()
        database.commit([])
        assert database.projects() == []

    # --- unique keys ----------------------------------------------------------------------------------------------

    def test_a_publish_id_is_there_once(self) -> None:
        database = self.open()
        database.commit([_insert("a", publish_id="job"), _insert("b", publish_id="other")])
        second: list[Change] = [
            _insert("c", publish_id="job"),
            _update("b", {}, {"publish_id": "job"}),
            Replace(collection=TRANSACTIONS, id="b", expect={}, document={"_id": "b", "publish_id": "job"}),
        ]
        for change in second:
            with _raises(Conflict):
                database.commit([change])
        assert [found["_id"] for found in database.find(TRANSACTIONS, {"publish_id": "job"})] == ["a"]

    def test_any_number_of_documents_has_no_publish_id(self) -> None:
        database = self.open()
        database.commit([_insert("a"), _insert("b"), _insert("c", publish_id=None), _insert("d", publish_id=None)])
        assert len(database.find(TRANSACTIONS)) == 4

    def test_a_publish_id_is_freed_by_the_write_that_moves_it_aside(self) -> None:
        database = self.open()
        database.commit([_insert("a", publish_id="job")])
        moved = {"publish_id": None, "former_publish_id": "job"}
        database.commit([_update("a", {}, moved), _insert("b", publish_id="job")])
        assert [found["_id"] for found in database.find(TRANSACTIONS, {"publish_id": "job"})] == ["b"]
        database.commit([Delete(collection=TRANSACTIONS, id="b", expect={}), _insert("c", publish_id="job")])

    def test_a_document_may_be_rewritten_with_its_own_key(self) -> None:
        database = self.open()
        database.commit([_keyed("a", "version/3")])
        same = _keyed("a", "version/3").document
        database.commit([Replace(collection=_DEMO, id="a", expect={}, document=same)])
        database.commit([Update(collection=_DEMO, id="a", expect={}, set={"n": 1})])
        assert database.read(_DEMO, "a") == {**same, "n": 1}

    def test_a_key_is_unique_in_its_project_only(self) -> None:
        database = self.open()
        database.commit([_keyed("a", "version/3"), _keyed("a", "version/3", project="other"), _keyed("b", "version/4")])
        with _raises(Conflict):
            database.commit([_keyed("c", "version/3")])
        with _raises(Conflict):
            database.commit([_keyed("c", "version/5"), _keyed("d", "version/5")])
        assert [document["_id"] for document in database.find(_DEMO)] == ["a", "b"]

    def test_keys_that_differ_anywhere_are_different(self) -> None:
        database = self.open()
        keys = ["a", "A", "a ", "ä", "a\u0308", "a\udcff", "1", ""]
        database.commit([_keyed(f"id{n}", key) for n, key in enumerate(keys)])
        assert len(database.find(_DEMO)) == len(keys)

    def test_keys_with_nul_are_not_cut_short(self) -> None:
        database = self.open()
        database.commit([_insert(f"id{n}", publish_id=text) for n, text in enumerate(["a", "a\0", "a\0b", "a\0c"])])
        assert len(database.find(TRANSACTIONS)) == 4

    def test_a_key_that_looks_like_a_table_is_another_one(self) -> None:
        database = self.open()
        keys: list[Any] = ['{"a":1}', {"a": 1}, '["a"]', ["a"], "1", 1, '{"$oid":"a"}', {"$oid": "a"}]
        database.commit([_insert(f"id{n}", publish_id=key) for n, key in enumerate(keys)])
        for key in keys:
            with _raises(Conflict):
                database.commit([_insert("more", publish_id=key)])

    # --- the clock ------------------------------------------------------------------------------------------------

    def test_now_is_the_databases_clock_and_the_same_within_a_commit(self) -> None:
        database = self.open()
        before = database.now()
        nested = {"deep": {"at": Now(), "n": 1}}
        database.commit(
            [
                _insert("a", at=Now(), later=Now(900.0), inner=nested),
                _insert("b", at=Now()),
                _update("b", {}, {"again": Now(-1.5)}),
            ]
        )
        after = database.now()
        a, b = database.find(TRANSACTIONS)
        assert before - 0.01 <= a["at"] <= after + 0.01
        assert a["inner"] == {"deep": {"at": a["at"], "n": 1}}
        assert b["at"] == a["at"]
        assert abs(a["later"] - a["at"] - 900.0) < 0.001
        assert abs(b["again"] - a["at"] + 1.5) < 0.001

    def test_now_in_the_part_of_a_document_that_is_set(self) -> None:
        database = self.open()
        database.commit([_insert("a")])
        database.commit([_update("a", {}, {"broken": {"by": "anna", "at": Now()}, "inner.at": Now()})])
        found = database.read(TRANSACTIONS, "a")
        assert found is not None
        assert found["broken"] == {"by": "anna", "at": found["inner"]["at"]}
        assert abs(found["inner"]["at"] - database.now()) < 60

    # --- long arrays ----------------------------------------------------------------------------------------------

    def test_a_long_array_comes_back_whole_and_in_order(self) -> None:
        database = self.open()
        for length in (1, 999, 1000, 1001, 2500):
            files = [{"path": f"{{root[work]}}/beauty.{n:04d}.exr", "size": n} for n in range(length)]
            database.commit([Insert(collection=_DEMO, document={"_id": f"r{length}", "files": Packed.of(files), "n": length})])
            found = database.read(_DEMO, f"r{length}")
            assert found is not None
            assert len(found["files"]) == length
            assert list(found["files"]) == files
            assert found["n"] == length

    def test_a_long_array_survives_a_change_of_another_field(self) -> None:
        database = self.open()
        database.commit([Insert(collection=_DEMO, document={"_id": "r", "files": Packed.of(range(2500))})])
        database.commit([Update(collection=_DEMO, id="r", expect={}, set={"n": 1})])
        assert [list(found["files"]) for found in database.find(_DEMO)] == [list(range(2500))]

    def test_a_long_array_may_shrink_and_grow_and_go(self) -> None:
        database = self.open()
        database.commit([Insert(collection=_DEMO, document={"_id": "r", "files": Packed.of(range(2500))})])
        for length in (1200, 3, 2100):
            database.commit([Update(collection=_DEMO, id="r", expect={}, set={"files": Packed.of(range(length))})])
            assert [list(found["files"]) for found in database.find(_DEMO)] == [list(range(length))]
        database.commit([Update(collection=_DEMO, id="r", expect={}, set={"files": None})])
        assert database.find(_DEMO) == [{"_id": "r"}]

    def test_an_empty_long_array_is_empty(self) -> None:
        database = self.open()
        database.commit([Insert(collection=_DEMO, document={"_id": "r", "files": Packed.of([])})])
        assert [list(found["files"]) for found in database.find(_DEMO)] == [[]]

    def test_long_arrays_stay_with_their_own_document_and_field(self) -> None:
        database = self.open()
        for id in ("r", "s"):
            document = {"_id": id, "files": Packed.of([id, "files"]), "links": Packed.of([id, "links"])}
            database.commit([Insert(collection=collection, document=document) for collection in (_DEMO, PROJECT + "other")])
        database.commit([Delete(collection=_DEMO, id="r", expect={})])
        expected = [{"_id": id, "files": [id, "files"], "links": [id, "links"]} for id in ("r", "s")]
        assert database.find(_DEMO) == expected[1:]
        assert database.find(PROJECT + "other") == expected

    def test_find_can_leave_a_long_array_out(self) -> None:
        database = self.open()
        document = {"_id": "r", "files": Packed.of(range(2500)), "links": Packed.of([7])}
        database.commit([Insert(collection=_DEMO, document=document)])
        (found,) = database.find(_DEMO, without="files")
        assert list(found.get("files") or []) == []
        assert list(found["links"]) == [7]

    # --- find -----------------------------------------------------------------------------------------------------

    def test_find_can_be_told_which_fields_are_wanted(self) -> None:
        database = self.open()
        odd: Document = {"_id": "a", "n": 1 << 70, "d": None}
        torn: Document = {"_id": "z", "n": 1, "d": {"name": "\udc80", "l": []}}
        plain = [{"_id": f"p{n:04d}", "n": n, "d": {"name": str(n), "more": {"x": [1.5]}}} for n in range(1500)]
        database.commit([Insert(collection=_DEMO, document=document) for document in (torn, *plain, odd)])
        assert database.find(_DEMO) == [odd, *plain, torn]
        for document, found in zip([odd, *plain, torn], database.find(_DEMO, only=("_id", "n", "d.name"))):
            assert [field(found, name) for name in ("_id", "n", "d.name")] == [
                document["_id"],
                document["n"],
                field(document, "d.name"),
            ]
        assert database.find(_DEMO, {"d.more.x": None}, newest="n", only=("_id",))[-1]["_id"] == "z"

    def test_find_asks_for_all_fields_at_once(self) -> None:
        database = self.open()
        for n in range(6):
            database.commit([_insert(f"t{n}", even=n % 2 == 0, big=n > 2, n=n, inner={"n": n}, text=str(n))])
        assert _ids(database.find(TRANSACTIONS, {"even": True, "big": True})) == ["t4"]
        assert _ids(database.find(TRANSACTIONS, {"inner.n": 3})) == ["t3"]
        assert _ids(database.find(TRANSACTIONS, {"n": "3"})) == []
        assert _ids(database.find(TRANSACTIONS, {"text": 3})) == []
        assert _ids(database.find(TRANSACTIONS, {"n.deep": 3})) == []
        assert _ids(database.find(TRANSACTIONS)) == [f"t{n}" for n in range(6)]

    def test_a_tuple_asks_for_any_of_its_values(self) -> None:
        database = self.open()
        database.commit([_insert("a", n=1), _insert("b", n="two"), _insert("c", n=3), _insert("d")])
        assert _ids(database.find(TRANSACTIONS, {"n": (1, "two", 9)})) == ["a", "b"]
        assert _ids(database.find(TRANSACTIONS, {"_id": ("a", "c", "z")})) == ["a", "c"]
        assert database.find(TRANSACTIONS, {"n": ()}) == []

    def test_nothing_is_asked_for_with_none(self) -> None:
        database = self.open()
        database.commit([_insert("a", n=1), _insert("b", n=None), _insert("c")])
        assert _ids(database.find(TRANSACTIONS, {"n": None})) == ["b", "c"]
        assert _ids(database.find(TRANSACTIONS, {"n": (None, 1)})) == ["a", "b", "c"]

    def test_ids_are_asked_for_by_value(self) -> None:
        database = self.open()
        one, other = {"$oid": "1" * 24}, {"$oid": "2" * 24}
        database.commit(
            [Insert(collection=_DEMO, document={"_id": id, "parent": parent}) for id, parent in ((one, None), (other, one))]
        )
        assert [found["_id"] for found in database.find(_DEMO, {"parent": one})] == [other]
        assert [found["_id"] for found in database.find(_DEMO, {"parent": (one, other)})] == [other]
        assert [found["_id"] for found in database.find(_DEMO, {"_id": one})] == [one]
        assert database.find(_DEMO, {"parent": "1" * 24}) == []

    def test_a_text_that_looks_like_an_id_is_none(self) -> None:
        database = self.open()
        id, text = {"$oid": "1" * 24}, '{"$oid":"' + "1" * 24 + '"}'
        database.commit([Insert(collection=_DEMO, document={"_id": "a", "parent": id, "other": id, "list": ["x"]})])
        database.commit([Insert(collection=_DEMO, document={"_id": "b", "parent": text, "other": text, "list": '["x"]'})])
        for name in ("parent", "other"):
            assert _ids(database.find(_DEMO, {name: text})) == ["b"]
            assert _ids(database.find(_DEMO, {name: id})) == ["a"]
            assert _ids(database.find(_DEMO, {name: (text, {"$oid": "2" * 24})})) == ["b"]
        assert _ids(database.find(_DEMO, {"list": '["x"]'})) == ["b"]

    def test_newest_come_first_and_limit_cuts(self) -> None:
        database = self.open()
        numbers = [3, 10, 2, 1, 30]
        database.commit([_insert(f"t{n}", name=n, inner={"name": n}) for n in numbers])
        assert [found["name"] for found in database.find(TRANSACTIONS, newest="name")] == [30, 10, 3, 2, 1]
        assert [found["name"] for found in database.find(TRANSACTIONS, newest="inner.name", limit=2)] == [30, 10]
        assert _ids(database.find(TRANSACTIONS, {"name": (1, 2, 3)}, newest="name", limit=1)) == ["t3"]
        assert _ids(database.find(TRANSACTIONS, newest="_id", limit=1)) == ["t30"]
        assert len(database.find(TRANSACTIONS, limit=9)) == 5

    def test_what_lacks_the_order_comes_last(self) -> None:
        database = self.open()
        database.commit([_insert("a"), _insert("b", n=1), _insert("c", n=None), _insert("d", n=-5)])
        assert _ids(database.find(TRANSACTIONS, newest="n"))[:2] == ["b", "d"]

    def test_equals_keep_the_order_of_their_ids(self) -> None:
        database = self.open()
        database.commit([_insert(id, state="open", n=1) for id in ("b", "c", "a")])
        for newest in ("state", "n", "absent"):
            assert _ids(database.find(TRANSACTIONS, newest=newest)) == ["a", "b", "c"]
            assert _ids(database.find(TRANSACTIONS, {"n": 1}, newest=newest, limit=2)) == ["a", "b"]

    def test_numbers_are_found_by_value(self) -> None:
        database = self.open()
        numbers: list[Any] = [1, 1.0, True, "1", 0.1, 2**53 + 1, 2.0**53, -(2**63), 2**63 - 1, 2**63, 2**64 - 1]
        documents = [{"_id": f"{n:02d}", "name": number, "type": number, "n": number} for n, number in enumerate(numbers)]
        database.commit([Insert(collection=_DEMO, document=document) for document in documents])
        for name in ("type", "name", "n"):
            for number in numbers[:-2]:
                assert [found["n"] for found in database.find(_DEMO, {name: number})] == [n for n in numbers if n == number]
            for number in (*numbers[-2:], 2.0**63, 10**400, float("nan"), float("inf")):
                with _raises(TypeError):
                    database.find(_DEMO, {name: number})
            assert database.find(_DEMO, newest=name, limit=4)[1]["n"] in (2**63, 2**64 - 1)

    def test_operators_are_refused_by_type(self) -> None:
        database = self.open()
        database.commit([_insert("a", name="x")])
        for operator in _OPERATORS:
            with _raises(TypeError):
                database.find(TRANSACTIONS, {"name": operator})
            with _raises(TypeError):
                database.find(TRANSACTIONS, {"name": ("x", operator)})

    def test_operators_are_refused_in_the_place_of_an_id(self) -> None:
        database = self.open()
        database.commit([_insert("a", name="x")])
        for operator in _OPERATORS:
            with _raises(TypeError):
                database.find(TRANSACTIONS, {"_id": ("a", operator)})
            with _raises(TypeError):
                database.read(TRANSACTIONS, operator)
            with _raises(TypeError):
                database.commit([Insert(collection=CLAIMS, document={"_id": operator})])
            with _raises(TypeError):
                database.commit([Delete(collection=TRANSACTIONS, id=operator, expect={})])

    def test_nonsense_names_are_refused(self) -> None:
        database = self.open()
        database.commit([_insert("a", name="x")])
        for name in ("", ".", "a.", ".a", "a..b", "a b", "a'b", 'a"b', "a;--", "a\n", "a\0", "name)", "ä", "[0]"):
            with _raises(ValueError):
                database.find(TRANSACTIONS, {name: "x"})
            if name:
                with _raises(ValueError):
                    database.find(TRANSACTIONS, newest=name)
        names = ["", "nonsense", "transactions ", "sqlite_master", "pieces", "documents", "x\0", "project:"]
        for name in (*names, 'project:a"b', "project:a\n", "project:a\udcff"):
            with _raises(ValueError):
                database.read(name, "a")
            with _raises(ValueError):
                database.find(name)
            with _raises(ValueError):
                database.commit([Insert(collection=name, document={"_id": "a"})])
        assert database.projects() == []

    # --- what is in the values ------------------------------------------------------------------------------------

    def test_hostile_text_is_only_text(self) -> None:
        database = self.open()
        for n, text in enumerate(_HOSTILE):
            document = {"_id": text, "name": text, "n": n, "inner": {text or "empty": [text]}}
            database.commit([Insert(collection=CLAIMS, document=document)])
            assert database.read(CLAIMS, text) == document
            assert database.find(CLAIMS, {"name": text}) == [document]
            assert database.find(CLAIMS, {"_id": text}) == [document]
            database.commit([Update(collection=CLAIMS, id=text, expect={"name": text}, set={"name": text * 2})])
        assert len(database.find(CLAIMS)) == len(_HOSTILE)

    def test_text_with_nul_is_not_cut_short(self) -> None:
        database = self.open()
        database.commit([Insert(collection=CLAIMS, document={"_id": "a\0b", "name": "a\0b"})])
        assert database.read(CLAIMS, "a\0b") == {"_id": "a\0b", "name": "a\0b"}
        assert database.read(CLAIMS, "a") is None
        assert database.find(CLAIMS, {"name": "a"}) == []
        assert len(database.find(CLAIMS, {"name": "a\0b"})) == 1

    def test_file_names_that_are_not_utf8_survive_in_values(self) -> None:
        database = self.open()
        document = {"_id": "a", "name": "b\udcff", "files": Packed.of(["c\udcfe"]), "inner": {"d\udcfd": "\ud800"}}
        database.commit([Insert(collection=_DEMO, document=document)])
        assert database.read(_DEMO, "a") == document
        database.commit([Update(collection=_DEMO, id="a", expect={"name": "b\udcff"}, set={"n": 1})])
        assert database.read(_DEMO, "a") == document | {"n": 1}

    def test_file_names_that_are_not_utf8_can_be_asked_for(self) -> None:
        database = self.open()
        database.commit([Insert(collection=_DEMO, document={"_id": "a", "name": "b\udcff"})])
        assert _ids(database.find(_DEMO, {"name": "b\udcff"})) == ["a"]
        assert database.find(_DEMO, {"name": "b\udcfe"}) == []
        assert database.read(_DEMO, "b\udcff") is None
        database.commit([Insert(collection=_DEMO, document={"_id": "b\udcff", "files": Packed.of([1])})])
        assert database.read(_DEMO, "b\udcff") == {"_id": "b\udcff", "files": [1]}
        assert _ids(database.find(_DEMO, {"_id": "b\udcff"})) == ["b\udcff"]

    def test_hostile_names_of_projects_are_only_names(self) -> None:
        database = self.open()
        names = ["a'b", "a;drop table leases", "a.b", "a%", "ä", "a]", "a`", "-- a", "transactions", "x" * 200]
        for name in names:
            database.commit([_keyed("a", "k", project=name)])
        assert database.projects() == sorted(names)
        for name in names:
            assert _ids(database.find(PROJECT + name)) == ["a"]

    def test_a_project_without_documents_is_none(self) -> None:
        database = self.open()
        database.commit([_keyed("a", "k")])
        database.commit([Delete(collection=_DEMO, id="a", expect={})])
        assert database.projects() == []

    def test_projects_that_differ_in_case_are_different(self) -> None:
        database = self.open()
        database.commit([_keyed("a", "k", project="Demo")])
        database.commit([_keyed("b", "k", project="demo")])
        assert database.projects() == ["Demo", "demo"]
        assert [_ids(database.find(PROJECT + name)) for name in ("Demo", "demo")] == [["a"], ["b"]]

    def test_projects_may_be_called_after_fields(self) -> None:
        database = self.open()
        for name in ("a", "a.key", "a.name", "b.key", "b"):
            database.commit([_keyed("x", "k", project=name)])
        assert database.projects() == ["a", "a.key", "a.name", "b", "b.key"]

    def test_big_documents_fit(self) -> None:
        database = self.open()
        text, names = "x" * 3_000_000, [f"n{n}" for n in range(50_000)]
        database.commit([Insert(collection=_DEMO, document={"_id": "a", "text": text, "names": names})])
        found = database.read(_DEMO, "a")
        assert found is not None
        assert (found["text"], found["names"]) == (text, names)

    def test_many_changes_fit_into_one_commit(self) -> None:
        database = self.open()
        database.commit([Insert(collection=_DEMO, document={"_id": f"{n:05d}", "n": n}) for n in range(2000)])
        assert len(database.find(_DEMO)) == 2000

    # --- several handles and threads ------------------------------------------------------------------------------

    def test_a_handle_reads_what_another_one_committed(self) -> None:
        one, other = self.open(), self.open()
        one.commit([_insert("a", n=1), _keyed("r", "k")])
        assert other.read(TRANSACTIONS, "a") == {"_id": "a", "n": 1}
        other.commit([_update("a", {"n": 1}, {"n": 2})])
        assert one.find(TRANSACTIONS, {"n": 2}) == [{"_id": "a", "n": 2}]
        assert one.projects() == other.projects() == ["demo"]

    def test_what_was_committed_is_there_when_all_handles_are_closed(self) -> None:
        self.open().commit([_insert("a", files=Packed.of([1]))])
        self.teardown_method()
        assert self.open().read(TRANSACTIONS, "a") == {"_id": "a", "files": [1]}

    def test_a_closed_handle_says_so(self) -> None:
        database = self.make_database()
        database.close()
        database.close()
        asked: list[Callable[[], object]] = [
            lambda: database.commit([_insert("a")]),
            lambda: database.read(TRANSACTIONS, "a"),
            lambda: database.find(TRANSACTIONS),
            database.projects,
        ]
        for ask in asked:
            with _raises(DatabaseFailed):
                ask()
        assert self.open().find(TRANSACTIONS) == []

    def test_no_update_is_lost_among_threads_and_handles(self) -> None:
        handles = [self.open(), self.open()]
        handles[0].commit([_insert("a", n=0), _insert("b", n=0)])
        _at_once([partial(_increment, handles[n % 2], 10) for n in range(8)])
        assert [found["n"] for found in handles[0].find(TRANSACTIONS)] == [80, 80]

    def test_exactly_one_of_many_inserters_wins(self) -> None:
        handles = [self.open() for _ in range(4)]
        won: list[str] = []

        def insert(n: int) -> None:
            with contextlib.suppress(Conflict):
                handles[n % 4].commit([_insert(f"mine{n}"), _insert(f"t{n}", publish_id="job"), _insert(f"done{n}")])
                won.append(f"t{n}")

        _at_once([partial(insert, n) for n in range(8)])
        assert _ids(handles[0].find(TRANSACTIONS, {"publish_id": "job"})) == won
        assert len(handles[0].find(TRANSACTIONS)) == 3

    def test_a_new_project_can_be_begun_by_several_at_once(self) -> None:
        handles = [self.open() for _ in range(4)]
        _at_once([partial(handles[n].commit, [_keyed(f"id{n}", f"k{n}")]) for n in range(4)])
        assert _ids(handles[0].find(_DEMO)) == ["id0", "id1", "id2", "id3"]

    def test_a_reader_never_sees_half_a_commit(self) -> None:
        writer, reader = self.open(), self.open()
        writer.commit([_insert("a", n=0, files=Packed.of([0] * 1500))])
        seen: list[Document] = []

        def write() -> None:
            for n in range(1, 30):
                writer.commit([_update("a", {}, {"n": n, "files": Packed.of([n] * 1500)})])

        def read() -> None:
            for _ in range(60):
                seen.extend(reader.find(TRANSACTIONS, {"_id": "a"}))

        _at_once([write, read])
        assert [document["n"] for document in seen if set(document["files"]) != {document["n"]}] == []


_HOSTILE: Final = [
    "", "'", '"', "''; DROP TABLE leases; --", '") OR 1=1 --', "%", "_", "*", "?", "$", "a.b", "$where", "{}", '{"$ne":null}',
    "\\", "\\u0041", "\n", "\x7f", "null", "true", "1", "NaN", "\U0001f3ac", "a\u0308", "\u2028", "\ufeff", " ", "x" * 5000,
]  # fmt: skip


_OPERATORS: Final[list[Any]] = [
    {"$ne": None}, {"$gt": ""}, {"$where": "1"}, {"$oid": {"$ne": None}}, {"$oid": "1", "$ne": 1}, {}, ["x"], b"x",
]  # fmt: skip


def _insert(id: str, **fields: Any) -> Insert:
    return Insert(collection=TRANSACTIONS, document={"_id": id, **fields})


def _update(id: str, expect: Mapping[str, Any], changed: Mapping[str, Any]) -> Update:
    return Update(collection=TRANSACTIONS, id=id, expect=expect, set=changed)


def _conditional(id: str, expect: Mapping[str, Any]) -> list[Change]:
    """One change of each verb that takes an expectation."""
    return [
        _update(id, expect, {"wrong": True}),
        Replace(collection=TRANSACTIONS, id=id, expect=expect, document={"_id": id, "wrong": True}),
        Delete(collection=TRANSACTIONS, id=id, expect=expect),
    ]


def _keyed(id: str, key: str, project: str = "demo") -> Insert:
    return Insert(collection=PROJECT + project, document={"_id": id, "data": {"integrator": {"key": key}}})


def _ids(documents: Sequence[Document]) -> list[str]:
    return [document["_id"] for document in documents]


def _increment(database: Database, times: int) -> None:
    """Count two documents up together, by compare-and-swap."""
    for _ in range(times):
        while True:
            n = (database.read(TRANSACTIONS, "a") or {})["n"]
            with contextlib.suppress(Conflict):
                database.commit([_update(id, {"n": n}, {"n": n + 1}) for id in ("a", "b")])
                break


def _at_once(calls: Sequence[Callable[[], object]]) -> None:
    """Make all calls at the same time, each in a thread; raises the first error of any."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> None:
        try:
            start.wait(30)
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads must meet within short calls, too
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a thread hangs"
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


@contextlib.contextmanager
def _raises(kind: type[BaseException]) -> Iterator[list[Any]]:
    """Like `pytest.raises`, which an installed package must not need; the list holds the error afterwards."""
    caught: list[Any] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
    else:
        raise AssertionError(f"{kind.__name__} was not raised")
