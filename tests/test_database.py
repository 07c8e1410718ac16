"""Databases: one contract for all of them, and what only SQLite can get wrong."""

from __future__ import annotations

import contextlib
import linecache
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrator.database import (
    CLAIMS,
    PROJECT,
    TRANSACTIONS,
    Change,
    Database,
    Delete,
    Ensure,
    Insert,
    Now,
    Replace,
    Update,
    connect,
    make_database,
    sqlite,
)
from integrator.database.sqlite import CHECKPOINT_EVERY, FORMAT, SQLiteDatabase
from integrator.encoding import Packed
from integrator.errors import Conflict, DatabaseDamaged, DatabaseFailed, NewerDatabase, Unanswered, UsageError
from integrator.testing import CrashingDatabase, DatabaseContract, Fate, Killed, ManualClock, MemoryDatabase, MemoryStore


class TestMemoryDatabase(DatabaseContract):
    @pytest.fixture(autouse=True)
    def _store(self) -> None:
        self.store = MemoryStore()

    def make_database(self) -> Database:
        return MemoryDatabase(self.store)


class TestSQLiteDatabase(DatabaseContract):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = str(tmp_path / "publish.sqlite3")

    def make_database(self) -> Database:
        return SQLiteDatabase(self.path)

    def test_a_reader_never_sees_half_a_commit(self) -> None:
        """As in the contract, but the writer commits exactly between the two."""
        writer, reader = SQLiteDatabase(self.path), SQLiteDatabase(self.path)
        self._handles += [writer, reader]
        writer.commit([Insert(collection=CLAIMS, document={"_id": "a", "n": 1, "files": Packed.of([1])})])
        later = [Update(collection=CLAIMS, id="a", expect={"n": 1}, set={"n": 2, "files": Packed.of([2])})]
        for ask in (lambda: reader.read(CLAIMS, "a"), lambda: reader.find(CLAIMS)[0]):
            _before_pieces(reader, lambda: writer.commit(later))
            found = ask()
            reader._connection.set_trace_callback(None)
            assert found is not None
            assert list(found["files"]) == [found["n"]]
            writer.commit([Update(collection=CLAIMS, id="a", expect={"n": 2}, set={"n": 1, "files": Packed.of([1])})])


def _before_pieces(reader: SQLiteDatabase, act: Callable[[], None]) -> None:
    """Let another handle act when `reader` is about to read the pieces of a document."""
    waiting = [act]

    def trace(statement: str) -> None:
        if "FROM pieces" in statement and waiting:
            waiting.pop()()

    reader._connection.set_trace_callback(trace)


# --- both say the same ------------------------------------------------------------------------------------------------

IDS = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from([None, 0, 1, 1.0, True, "x", "y", "x\0", "x\udcff", '{"deep":1}', {"deep": 1}, {"$oid": "x"}, [1]])
NAMES = st.sampled_from(["n", "publish_id", "state", "inner.n"])
FIELDS = st.dictionaries(NAMES, VALUES, max_size=2)
DOCUMENTS = st.fixed_dictionaries(
    {"_id": IDS}, optional={"n": VALUES, "publish_id": VALUES, "state": VALUES, "inner": st.just({"n": 1})}
)
CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(lambda document: Insert(collection=TRANSACTIONS, document=document), DOCUMENTS),
    st.builds(lambda document: Ensure(collection=TRANSACTIONS, document=document), DOCUMENTS),
    st.builds(
        lambda key, expect, changed: Update(collection=TRANSACTIONS, id=key, expect=expect, set=changed), IDS, FIELDS, FIELDS
    ),
    st.builds(
        lambda expect, document: Replace(collection=TRANSACTIONS, id=document["_id"], expect=expect, document=document),
        FIELDS,
        DOCUMENTS,
    ),
    st.builds(lambda key, expect: Delete(collection=TRANSACTIONS, id=key, expect=expect), IDS, FIELDS),
)
PLAIN = VALUES.filter(lambda value: value not in ({"deep": 1}, [1]))
FILTERS = st.dictionaries(NAMES, st.one_of(PLAIN, st.lists(PLAIN, max_size=3).map(tuple)), max_size=2)


@pytest.fixture(scope="module")
def one_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = SQLiteDatabase(str(tmp_path_factory.mktemp("same") / "publish.sqlite3"))
    yield database
    database.close()


@settings(max_examples=150, deadline=None)
@given(commits=st.lists(st.lists(CHANGES, min_size=1, max_size=4), max_size=6), where=FILTERS, newest=NAMES)
def test_memory_and_sqlite_end_in_the_same_state(
    one_sqlite: Database, commits: list[list[Change]], where: dict[str, Any], newest: str
) -> None:
    """Whatever is committed, both databases accept or refuse it alike, and hold and find the same afterwards."""
    memory = MemoryDatabase()
    for found in one_sqlite.find(TRANSACTIONS):
        one_sqlite.commit([Delete(collection=TRANSACTIONS, id=found["_id"], expect={})])
    for changes in commits:
        assert _outcome(memory, changes) == _outcome(one_sqlite, changes)
        assert memory.find(TRANSACTIONS) == one_sqlite.find(TRANSACTIONS)
    assert memory.find(TRANSACTIONS, where) == one_sqlite.find(TRANSACTIONS, where)
    assert memory.find(TRANSACTIONS, newest=newest, limit=2) == one_sqlite.find(TRANSACTIONS, newest=newest, limit=2)


def _outcome(database: Database, changes: list[Change]) -> tuple[type[Exception] | None, str]:
    try:
        database.commit(changes)
    except Conflict as conflict:
        return Conflict, conflict.key
    return None, ""


def test_the_clock_can_be_set_by_hand(tmp_path: Path) -> None:
    clock = ManualClock()
    for database in (SQLiteDatabase(str(tmp_path / "a"), clock=clock), MemoryDatabase(MemoryStore(clock))):
        clock.advance(-3600)
        database.commit([Insert(collection=CLAIMS, document={"_id": "a", "at": Now(5)})])
        assert database.read(CLAIMS, "a") == {"_id": "a", "at": clock() + 5}
        assert database.now() == clock()
        database.close()


def test_the_clock_is_read_once_for_a_commit(tmp_path: Path) -> None:
    """Also while time passes within it."""
    ticking = ManualClock()

    def clock() -> float:
        ticking.advance(1)
        return ticking()

    for database in (SQLiteDatabase(str(tmp_path / "a"), clock=clock), MemoryDatabase(MemoryStore(clock))):
        database.commit([Insert(collection=CLAIMS, document={"_id": name, "at": Now(), "again": Now()}) for name in "abc"])
        found = database.find(CLAIMS)
        assert {row["at"] for row in found} == {row["again"] for row in found} == {found[0]["at"]}
        database.close()


# --- only SQLite ------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "publish.sqlite3")


@pytest.fixture
def database(path: str) -> Iterator[SQLiteDatabase]:
    database = SQLiteDatabase(path)
    yield database
    database.close()


def _add(id: str, **fields: Any) -> Insert:
    return Insert(collection=CLAIMS, document={"_id": id, **fields})


def _child(script: str, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _pragma(database: SQLiteDatabase, name: str) -> Any:
    return database._connection.execute(f"PRAGMA {name}").fetchone()[0]


class Careless(sqlite3.Connection):
    """A build of SQLite whose default is the faster and forgetful one."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.execute("PRAGMA synchronous=NORMAL")


class Deaf(Careless):
    """One that will not be told otherwise."""

    def execute(self, query: str, *arguments: Any) -> sqlite3.Cursor:
        return super().execute("SELECT 1" if query == "PRAGMA synchronous=FULL" else query, *arguments)


def test_every_connection_is_durable(path: str, mocker: Any) -> None:
    """Synchronous is not stored in the file: a second connection that forgot it would lose commits in a power cut."""
    plain = sqlite3.connect
    mocker.patch("sqlite3.connect", lambda *arguments, **named: plain(*arguments, factory=Careless, **named))
    for n in range(3):
        database = SQLiteDatabase(path)
        assert (_pragma(database, "journal_mode"), _pragma(database, "synchronous")) == ("wal", 2)
        database.commit([_add(f"{n}")])
        database.close()


def test_durability_is_read_back(path: str, mocker: Any) -> None:
    plain = sqlite3.connect
    mocker.patch("sqlite3.connect", lambda *arguments, **named: plain(*arguments, factory=Deaf, **named))
    with pytest.raises(DatabaseFailed, match="synchronous 1"):
        SQLiteDatabase(path)


def test_a_database_that_cannot_be_made_durable_is_refused() -> None:
    with pytest.raises(DatabaseFailed, match="cannot be made durable"):
        SQLiteDatabase(":memory:")


def test_a_newer_database_is_refused_and_not_touched(path: str) -> None:
    SQLiteDatabase(path).close()
    with contextlib.closing(sqlite3.connect(path)) as plain:
        plain.execute(f"PRAGMA user_version={FORMAT + 1}")
    before = Path(path).read_bytes()
    with pytest.raises(NewerDatabase) as caught:
        SQLiteDatabase(path)
    assert caught.value.exit_code == 8
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database, and longer than a header" * 50, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_refused(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(DatabaseDamaged, match="is damaged"):
        SQLiteDatabase(path)
    assert Path(path).read_bytes() == content


def test_a_database_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatabaseFailed):
        SQLiteDatabase(str(tmp_path / "no" / "publish.sqlite3"))


def test_urls(path: str) -> None:
    make_database(f"sqlite://{path}", "0" * 24)
    database = connect(f"sqlite://{path}")
    assert database.find(TRANSACTIONS) == []
    database.close()
    for url in ("sqlite:relative", "sqlite://relative", "", "postgres://secret@host/x"):
        with pytest.raises(UsageError) as caught:
            connect(url)
        assert "secret" not in str(caught.value)


WRITER = """
import sys
from integrator.database import CLAIMS, Insert
from integrator.database.sqlite import SQLiteDatabase
database = SQLiteDatabase(sys.argv[1])
for n in range(100_000):
    database.commit([Insert(collection=CLAIMS, document={"_id": f"{n:06d}", "text": "x" * (n % 9000)})])
    print(n, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(path: str) -> None:
    """Every commit that returned before the SIGKILL is there, and each document is whole."""
    child = _child(WRITER, path)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) == 450:  # two checkpoints later
            child.kill()
            break
    rest = child.stdout.read()
    child.communicate(timeout=10)
    last = int(rest.split()[-1]) if rest.split() else 450
    database = SQLiteDatabase(path)
    found = database.find(CLAIMS)
    database.close()
    assert len(found) in (last + 1, last + 2)  # one more may have landed unheard
    assert [(row["_id"], len(row["text"])) for row in found] == [(f"{n:06d}", n % 9000) for n in range(len(found))]


OPENER = """
import sys
from integrator.database import PROJECT, Insert
from integrator.database.sqlite import SQLiteDatabase
sys.stdin.readline()
database = SQLiteDatabase(sys.argv[1])
database.commit([Insert(collection=PROJECT + "demo", document={"_id": sys.argv[2]})])
database.close()
"""


def test_a_database_can_be_made_by_several_processes_at_once(path: str) -> None:
    command = [sys.executable, "-c", OPENER, path]
    children = [subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for n in range(6)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    errors = [child.communicate(timeout=30)[1] for child in children]
    assert errors == [""] * 6
    database = SQLiteDatabase(path)
    assert [row["_id"] for row in database.find(PROJECT + "demo")] == [str(n) for n in range(6)]
    database.close()


# --- errors while writing ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _files_end_at(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size`: the kernel answers EFBIG, a real I/O error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_io_error_at_commit_is_no_answer_and_final(path: str, database: SQLiteDatabase) -> None:
    """The commit may come back from the log, so this handle answers nothing more, whatever it is asked."""
    database.commit([_add("a")])
    with _files_end_at(os.path.getsize(path + "-wal") + 100), pytest.raises(Unanswered):
        database.commit([_add("b")])
    for _ in range(2):
        with pytest.raises(Unanswered):
            database.commit([_add("c")])
    database.close()
    later = SQLiteDatabase(path)
    found = [row["_id"] for row in later.find(CLAIMS)]
    later.commit([_add("d")])
    later.close()
    assert found in (["a"], ["a", "b"])


def test_an_io_error_before_commit_is_a_no_and_not_final(path: str, database: SQLiteDatabase) -> None:
    """More than the page cache holds is written before COMMIT is asked; that can fail, and then nothing was asked."""
    database.commit([_add("a")])
    with _files_end_at(os.path.getsize(path + "-wal") + 100), pytest.raises(DatabaseFailed):
        database.commit([_add(f"b{n}", text="x" * 1_000_000) for n in range(6)])
    assert [row["_id"] for row in database.find(CLAIMS)] == ["a"]
    database.commit([_add("c")])
    assert [row["_id"] for row in database.find(CLAIMS)] == ["a", "c"]


def test_a_checkpoint_that_fails_costs_nothing(path: str, database: SQLiteDatabase) -> None:
    """What was committed is in the log: the number of commits at which the log is emptied is no commit's business."""
    with _files_end_at(1 << 40):
        for n in range(CHECKPOINT_EVERY - 1):
            database.commit([_add(f"{n:04d}", text="x" * 3000)])
    size = os.path.getsize(path)
    log = os.path.getsize(path + "-wal")
    assert log > size + 100_000, "the log must be longer than the database, or the limit below says nothing"
    with _files_end_at(log + 100_000):
        database.commit([_add("last")])
    assert len(database.find(CLAIMS)) == CHECKPOINT_EVERY


def test_a_keyboard_interrupt_while_waiting_for_the_lock_leaves_no_lock_behind(path: str, database: SQLiteDatabase) -> None:
    """Ctrl-C arrives when the call returns, that is when the lock has just been granted."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timers = [
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)),
        threading.Timer(0.4, other.execute, ("ROLLBACK",)),
    ]
    for timer in timers:
        timer.start()
    with pytest.raises(KeyboardInterrupt):
        database.commit([_add("a")])
    for timer in timers:
        timer.join()
    other.close()
    database.commit([_add("b")])
    assert [row["_id"] for row in database.find(CLAIMS)] == ["b"]


def _interrupted(call: Callable[[], object], number: int) -> bool:
    """Interrupt `call` before the line of the module that it runs as this one; False when there are not that many."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != sqlite.__file__:
            return None
        # Signals come after calls: none between the end of a `with` block and its exit, or before a `try` that follows at once.
        line = linecache.getline(sqlite.__file__, frame.f_lineno).strip()
        if event == "line" and line != "try:" and not line.startswith("with "):
            count += 1
            if count == number:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("verb", ["commit", "read", "find"])
def test_an_interrupt_anywhere_is_only_an_interrupt_and_leaves_no_lock(path: str, database: SQLiteDatabase, verb: str) -> None:
    """Before any line of the module: the commit is whole or absent, and nobody waits, neither this handle nor another."""
    asked: dict[str, Callable[[], object]] = {
        "commit": lambda: database.commit([_add("a", files=Packed.of([1])), _add("b")]),
        "read": lambda: database.read(CLAIMS, "x"),
        "find": lambda: database.find(CLAIMS, {"n": 1}, newest="n"),
    }
    database.commit([_add("x", n=1, files=Packed.of([1]))])
    other = sqlite3.connect(path, isolation_level=None, timeout=0)
    for number in range(1, 1000):
        if not _interrupted(asked[verb], number):
            break
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        found = [row["_id"] for row in database.find(CLAIMS)]
        assert found in (["x"], ["a", "b", "x"])
        database.commit([Delete(collection=CLAIMS, id=id, expect={}) for id in found if id != "x"])
    other.close()
    assert 20 < number < 1000, "the interrupts must reach the module and come to its end"


def test_an_interrupt_right_after_the_commit_is_an_interrupt(database: SQLiteDatabase) -> None:
    """What the call returned is lost, not what it did."""

    class Interrupting:
        def __init__(self, connection: sqlite3.Connection) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def execute(self, query: str, *arguments: Any) -> sqlite3.Cursor:
            cursor = self._connection.execute(query, *arguments)
            if query == "COMMIT":
                raise KeyboardInterrupt
            return cursor

    plain = database._connection
    database._connection = Interrupting(plain)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        database.commit([_add("a")])
    database._connection = plain
    database.commit([_add("b")])
    assert [row["_id"] for row in database.find(CLAIMS)] == ["a", "b"]


# --- barriers ---------------------------------------------------------------------------------------------------------

SIZED = """
import os, sys
from integrator.database import CLAIMS, PROJECT, Insert
from integrator.database.sqlite import SQLiteDatabase
from integrator.encoding import Packed
database = SQLiteDatabase(sys.argv[1])
database.commit([Insert(collection=PROJECT + "demo", document={"_id": "first"})])
os.write(1, b"BEGIN")
files = Packed.of({"path": f"beauty.{n:06d}.exr", "size": n} for n in range(int(sys.argv[2])))
database.commit([Insert(collection=PROJECT + "demo", document={"_id": "second", "files": files})])
os.write(1, b"END")
"""
needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")


def _traced(path: str, files: int, trace: Path) -> tuple[list[str], list[str]]:
    """The barriers that making a database and that one commit of this many files cost."""
    child = _child(SIZED, path, str(files), before=("strace", "-f", "-y", "-o", str(trace), "-e", "trace=fsync,fdatasync,write"))
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    making, _, rest = trace.read_text().partition('"BEGIN"')
    commit = rest.partition('"END"')[0]
    return [re.findall(r"\b(f(?:data)?sync\(\d+<[^>]*>)", part) for part in (making, commit)]  # type: ignore[return-value]


@needs_strace
def test_a_commit_has_one_barrier_whatever_its_size(tmp_path: Path) -> None:
    counts = {}
    for files in (10, 100_000):
        _, commit = _traced(str(tmp_path / f"{files}.sqlite3"), files, tmp_path / "trace")
        counts[files] = len(commit)
        assert all(name.endswith("-wal>") for name in commit)
    assert counts == {10: 1, 100_000: 1}


@needs_strace
def test_the_name_of_a_new_database_is_durable(tmp_path: Path) -> None:
    """By our own barrier: whether SQLite syncs a folder is decided when it is compiled."""
    making, _ = _traced(str(tmp_path / "new.sqlite3"), 1, tmp_path / "trace")
    assert any(name.startswith("fsync(") and name.endswith(f"<{tmp_path}>") for name in making)


# --- long arrays ------------------------------------------------------------------------------------------------------


def test_pieces_of_a_deleted_document_are_gone(path: str, database: SQLiteDatabase) -> None:
    """Else a later document of the same id would come back with a foreign array."""
    document = {"_id": "r", "files": Packed.of(range(2500))}
    database.commit([Insert(collection=CLAIMS, document=document)])
    database.commit([Delete(collection=CLAIMS, id="r", expect={})])
    with contextlib.closing(sqlite3.connect(path)) as plain:
        assert plain.execute("SELECT count(*) FROM pieces").fetchone() == (0,)


def test_what_is_asked_for_often_is_found_by_an_index(database: SQLiteDatabase) -> None:
    """A project of 100,000 documents must not be read from one end to the other for one version."""
    asked: list[tuple[str, dict[str, Any], str]] = [
        (TRANSACTIONS, {"publish_id": "job"}, "keys"),
        (TRANSACTIONS, {"state": ("open", "committed")}, "lookups"),
        (CLAIMS, {"lease": "a"}, "lookups"),
        (PROJECT + "demo", {"data.integrator.key": "version/3"}, "keys"),
        (PROJECT + "demo", {"type": "version", "parent": {"$oid": "1" * 24}}, "first=? AND second=?"),
        (PROJECT + "demo", {"type": "version", "parent": {"$oid": "1" * 24}, "name": 3}, "first=? AND second=? AND third=?"),
        (PROJECT + "demo", {"_id": {"$oid": "1" * 24}}, "id=?"),
    ]
    statements: list[str] = []
    database._connection.set_trace_callback(statements.append)
    for collection, where, how in asked:
        for newest in ("", "_id", "name"):
            database.find(collection, where, newest=newest, limit=1)
            query = next(text for text in reversed(statements) if "FROM documents" in text)
            plan = " ".join(row[3] for row in database._connection.execute(f"EXPLAIN QUERY PLAN {query}"))
            assert how in plan, (query, plan)


# --- the double that fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "error", "applied"), [("before", DatabaseFailed, False), ("after", Unanswered, True), ("lost", Unanswered, False)]
)
@pytest.mark.parametrize("persistent", [False, True])
def test_a_commit_fails_as_it_is_told(when: Any, error: type[Exception], applied: bool, persistent: bool) -> None:
    store = MemoryStore()
    failing = CrashingDatabase(MemoryDatabase(store), Fate(fail_at=2, when=when, persistent=persistent))
    failing.commit([_add("a")])
    with pytest.raises(error):
        failing.commit([_add("b")])
    with pytest.raises(error) if persistent else contextlib.nullcontext():
        failing.commit([_add("c")])
    expected = {"a"} | ({"b"} if applied else set()) | ({"c"} if applied or not persistent else set())
    assert {row["_id"] for row in MemoryDatabase(store).find(CLAIMS)} == expected


def test_a_refused_commit_whose_answer_is_lost_tells_nothing() -> None:
    failing = CrashingDatabase(MemoryDatabase(), Fate(fail_at=2, when="after"))
    failing.commit([_add("a")])
    with pytest.raises(Unanswered):
        failing.commit([_add("a")])


@pytest.mark.parametrize(("when", "left"), [("before", []), ("after", ["a"])])
def test_a_killed_handle_answers_nothing_and_another_one_goes_on(when: Any, left: list[str]) -> None:
    store = MemoryStore()
    dead = CrashingDatabase(MemoryDatabase(store), Fate(kill_at=1, when=when))
    asked: list[Callable[[], object]] = [
        lambda: dead.commit([_add("a")]),
        lambda: dead.commit([_add("b")]),
        lambda: dead.read(CLAIMS, "a"),
        lambda: dead.find(CLAIMS),
        dead.now,
        dead.projects,
    ]
    for ask in asked:
        with pytest.raises(Killed):
            ask()
    dead.close()
    assert [row["_id"] for row in MemoryDatabase(store).find(CLAIMS)] == left


def test_calls_say_what_the_verdict_is() -> None:
    fate = Fate()
    database = CrashingDatabase(MemoryDatabase(), fate)
    database.commit([Insert(collection=TRANSACTIONS, document={"_id": "a", "state": "open"})])
    database.commit([Update(collection=TRANSACTIONS, id="a", expect={}, set={"state": "committed"}), _add("b")])
    assert fate.calls == ["commit(insert transactions state=open)", "commit(update transactions state=committed, insert claims)"]
    assert fate.numbers("state=committed") == [2]
    assert fate.count("sync", "sync_filesystem", "commit") == 2
