"""The embedded database: JSON documents in SQLite.

::

    documents (collection, id, key, first, second, third, body)    one row for each document of every collection
    pieces    (collection, id, field, n, body)                     its long arrays (`encoding.Packed`), piece by piece
    root      (id)                                                 the publish root that it belongs to; older ones do not say it

`body` is the document as JSON text; a long array is empty there. `id` and the four columns after it are copies of values of the
document, made here and only to be searched: `key` is the one that is unique in its collection (`database.UNIQUE`), the others
are those of `_LOOKUPS`. SQLite never looks into a body: its JSON functions cut texts at NUL and cannot tell a text from a table.
What a column cannot answer is answered by `database.matches`. `_column` says how a value is stored.

Durability: WAL with ``synchronous=FULL``, so that a COMMIT returns after its fsync. An error at COMMIT is no answer: the pages
may be in the log and come back when the database is opened again, so it is reported as `Unanswered` and this process asks no
more. Checkpoints run by count of commits and at `close`, never because a document is large: the number of
barriers of a commit does not depend on what is written.

Tables are made by `SQLiteDatabase` alone, that is, when a publish root is made. Everybody else opens what is there
(`ExistingSQLite`): a new empty database in the place of one that was lost would say that nothing is published, and be believed.

Nor does it work on a network file system: its index is memory that all processes share, and machines share none. There it is
refused.

Reading without the right to write (`SQLiteReader`): while a log is beside the file, SQLite reads both, through a shared memory
that may be mapped read-only. The last program that closes the database leaves neither, and the file is complete; SQLite would
make both again, which takes the right to write. So the file alone is read then, as an immutable one, without any lock, and
whether it was one is seen afterwards: no log, and the same size and times. Otherwise what was read is dropped and read again.

Sources: sqlite.org/wal.html, sqlite.org/pragma.html, sqlite.org/lang_transaction.html, sqlite.org/datatype3.html,
sqlite.org/uri.html.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from integrator.database import (
    CLAIMS,
    LEASES,
    PROJECT,
    TRANSACTIONS,
    UNIQUE,
    Change,
    Delete,
    Ensure,
    Insert,
    Now,
    asked_field,
    changed,
    choices,
    field,
    field_name,
    id_text,
    is_number,
    kind,
    matches,
    rank,
    resolve_now,
)
from integrator.encoding import Packed, decode, encode, fast_decoder
from integrator.errors import Conflict, DatabaseDamaged, DatabaseFailed, NewerDatabase, ReadOnly, RootRefused, Unanswered
from integrator.model import Document
from integrator.mounts import mount_of

#: Version of the tables below; a database with a higher one is refused.
FORMAT: Final = 1
#: How long a statement waits for another writer, in seconds.
PATIENCE: Final = 60.0
#: Commits of one connection between two checkpoints.
CHECKPOINT_EVERY: Final = 200
#: Seconds in which two changes of a file may leave the same time; a tick of the kernel is 10 ms at most.
_TICK: Final = 0.02
#: How often a reader begins again because the database was opened or closed by a publisher meanwhile.
_READS: Final = 100
#: Documents up to which it is not worth to load the fast decoder.
_FEW: Final = 200
#: Documents whose long arrays are asked for in one statement; old versions of SQLite bind 999 values at most.
_TOGETHER: Final = 500

_CLOCK: Final = "SELECT (julianday('now') - 2440587.5) * 86400.0"
# The searched columns have no type: SQLite compares their values as they were bound.
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS documents (collection TEXT, id, key, first, second, third, body TEXT NOT NULL,"
    " PRIMARY KEY (collection, id))",
    "CREATE UNIQUE INDEX IF NOT EXISTS keys ON documents (collection, key) WHERE key IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS lookups ON documents (collection, first, second, third) WHERE first IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS pieces (collection TEXT, id, field TEXT, n INTEGER, body TEXT,"
    " PRIMARY KEY (collection, id, field, n)) WITHOUT ROWID",
)
_ROOT: Final = "CREATE TABLE IF NOT EXISTS root (id TEXT NOT NULL)"
_INSERT: Final = "INSERT INTO documents (key, first, second, third, body, collection, id) VALUES (?, ?, ?, ?, ?, ?, ?)"
_UPDATE: Final = "UPDATE documents SET key = ?, first = ?, second = ?, third = ?, body = ? WHERE collection = ? AND id = ?"

#: Fields that each kind of collection is searched by.
_LOOKUPS: Final = {
    TRANSACTIONS: ("state", "former_publish_id"),
    LEASES: ("transaction",),
    CLAIMS: ("lease",),
    PROJECT: ("type", "parent", "name"),
}
_Result = TypeVar("_Result")


class SQLiteDatabase:
    """A `Database` in one file. Safe to use from several threads; one connection, used by one at a time.

    Not to be called by a signal handler: it could come into the middle of a transaction.
    """

    def __init__(self, path: str, *, clock: Callable[[], float] | None = None) -> None:
        """Open, and make if it is not there, the database at `path`.

        `clock` replaces the database's clock in tests. Raises `DatabaseFailed`, `NewerDatabase`, `RootRefused`.
        """
        refuse_network(path)
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._tables: set[str] = set()
        self._commits = 0
        self._in_doubt = False
        with self._errors("open"):
            self._connection = self._connected(path)
            try:
                self._set_up()
            except BaseException:
                self._connection.close()
                raise

    def _connected(self, name: str, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(
            name, timeout=PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=256, **options
        )
        return connection

    def _set_up(self) -> None:
        run = self._connection.execute
        if run("PRAGMA journal_mode").fetchone()[0] != "wal":
            run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=FULL")
        run("PRAGMA wal_autocheckpoint=0")
        mode, level = run("PRAGMA journal_mode").fetchone()[0], run("PRAGMA synchronous").fetchone()[0]
        if (mode, level) != ("wal", 2):
            raise DatabaseFailed(f"{self.path} cannot be made durable: journal mode {mode}, synchronous {level}")
        if self._format() < FORMAT:
            self._make_tables()

    def _format(self) -> int:
        """The format of the tables, 0 if there are none. Raises `NewerDatabase`."""
        found: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            raise NewerDatabase(
                f"{self.path} has format {found}, this program knows {FORMAT}. Nothing was touched.",
                next="use the newer integrator",
            )
        return found

    def _make_tables(self) -> None:
        def make(_: float) -> None:
            for statement in (*_TABLES, f"PRAGMA user_version={FORMAT}"):
                self._connection.execute(statement)

        self._write(make)
        self._sync_name()

    def _sync_name(self) -> None:
        # The file is new: its name must survive a power cut like its content does.
        fd = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def belong_to(self, root_id: str) -> None:
        """Say in the database which publish root it belongs to, if it does not say so. Raises `RootRefused` for another one's."""

        def write(_: float) -> None:
            self._connection.execute(_ROOT)
            if not self._owner():
                self._connection.execute("INSERT INTO root VALUES (?)", (root_id,))

        with self._lock:
            if not self._read_owner():
                self._write(write)
        self._refuse_other(root_id)

    def _refuse_other(self, root_id: str) -> None:
        found = self._read_owner()
        if root_id and found and found != root_id:
            raise RootRefused(
                f"the database {self.path} is that of publish root {found}, not of {root_id}. Nothing was touched",
                next=f"put the file of this publish root at {self.path}, or correct `database` in its settings",
            )

    def _read_owner(self) -> str:
        with self._errors("read"):
            return self._owner()

    def _owner(self) -> str:
        """The id of the publish root that this belongs to, "" if it does not say it."""
        if not self._connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'root'").fetchone():
            return ""
        row = self._connection.execute("SELECT id FROM root").fetchone()
        return str(row[0]) if row else ""

    # --- writing --------------------------------------------------------------------------------------------------

    def commit(self, changes: Sequence[Change]) -> None:
        """See `Database.commit`."""

        def apply(now: float) -> None:
            for change in changes:
                self._apply(change, now)

        with self._lock:
            if self._in_doubt:
                raise Unanswered(f"{self.path} failed while it committed; only a new process can tell what it holds")
            self._write(apply)
            self._commits += 1
            if self._commits % CHECKPOINT_EVERY == 0:
                self._checkpoint()

    def _write(self, work: Callable[[float], None]) -> None:
        """One write transaction around `work`, which gets the clock, read once inside it."""
        try:
            with self._errors("write to"):
                self._begin("BEGIN IMMEDIATE")
                work(self._now())
            self._end()
        finally:
            self._roll_back()

    def _begin(self, statement: str) -> None:
        self._roll_back()  # a second interrupt can end `_roll_back` itself too early
        self._connection.execute(statement)

    def _end(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._in_doubt = True
            raise Unanswered(f"{self.path} failed while it committed ({error})") from error

    def _roll_back(self) -> None:
        """End a transaction that is still open, whatever left it so: an interrupt may come between any two lines."""
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _apply(self, change: Change, now: float) -> None:
        if isinstance(change, Insert):
            self._put(_INSERT, change, change.document, now)
            return
        place = _place(change.collection, change.key)
        found = self._document(*place)
        if isinstance(change, Ensure):
            if found is None:
                self._put(_INSERT, change, change.document, now)
            return
        made = changed(change, found)
        self._connection.execute("DELETE FROM pieces WHERE collection = ? AND id = ?", place)
        if isinstance(change, Delete):
            self._connection.execute("DELETE FROM documents WHERE collection = ? AND id = ?", place)
        else:
            self._put(_UPDATE, change, made, now)

    def _put(self, statement: str, change: Change, document: Mapping[str, Any], now: float) -> None:
        place = _place(change.collection, change.key)
        long = {name: value for name, value in document.items() if isinstance(value, Packed)}
        body = resolve_now({**document, **{name: [] for name in long}}, now)
        columns = [_column(field(body, name)) if name else None for name in _searched(change.collection)]
        try:
            self._connection.execute(statement, (*columns, encode(body).decode(), *place))
        except sqlite3.IntegrityError as error:
            raise Conflict(change.collection, change.key, f"not unique ({error})") from error
        for name, packed in long.items():
            self._connection.executemany(
                "INSERT INTO pieces VALUES (?, ?, ?, ?, ?)",
                ((*place, name, n, piece.decode()) for n, piece in enumerate(packed.pieces)),
            )

    def _checkpoint(self) -> None:
        # What was committed is durable in the log already: a failure here costs only the log's length.
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, collection: str, id: Any) -> Document | None:
        """See `Database.read`."""
        place = _place(collection, id_text(id))
        return self._read(lambda: self._document(*place))

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
        wanted = choices(where)
        columns = dict(zip(("_id", *_searched(collection)), ("id", "key", "first", "second", "third")))
        column = columns.get(field_name(newest), "") if newest else ""
        conditions = [_condition(columns[name], values) for name, values in wanted.items() if name in columns]
        # What the columns cannot answer is done here.
        rest = {name: values for name, values in wanted.items() if name not in columns}
        sort = bool(newest) and not column
        # Whole rows are slower to sort than ids, so SQLite does that only where it can leave most rows out.
        order = column or ("id" if limit and not (rest or sort) else "")
        query = _query([text for text, _ in conditions], order, bool(column), 0 if rest or sort else limit)
        bound = [collection, *(value for _, values in conditions for value in values)]

        def work() -> list[Document]:
            rows = self._connection.execute(query, bound)
            found = [(id, decode(body)) for id, body in rows.fetchmany(_FEW)]
            if len(found) == _FEW:
                decode_fast = fast_decoder(() if rest or sort else only)
                found += [(id, decode_fast(body)) for id, body in rows]
            if not order:
                found.sort(key=_in_order)
            if rest:
                found = [(id, document) for id, document in found if matches(document, rest)]
            if sort:
                found.sort(key=lambda row: rank(asked_field(row[1], newest)), reverse=True)
            return self._whole(collection, found[: limit or None], without)

        return self._read(work)

    def _read(self, work: Callable[[], _Result]) -> _Result:
        """One read transaction around `work`: no commit of another handle comes between its statements."""
        with self._lock:
            try:
                with self._errors("read"):
                    self._begin("BEGIN")
                    return work()
            finally:
                self._roll_back()

    def _document(self, collection: str, id: Any) -> Document | None:
        query = "SELECT body FROM documents WHERE collection = ? AND id = ?"
        row = self._connection.execute(query, (collection, id)).fetchone()
        return self._whole(collection, [(id, decode(row[0]))])[0] if row else None

    def _whole(self, collection: str, found: Sequence[tuple[Any, Document]], without: str = "") -> list[Document]:
        """Documents with their long arrays. Those are empty in a body, so whose body has no empty one is whole already."""
        lacking = {id: document for id, document in found if [] in document.values() and _empty(document) - {without}}
        ids = list(lacking)
        for start in range(0, len(ids), _TOGETHER):
            part = ids[start : start + _TOGETHER]
            query = (
                f"SELECT id, field, body FROM pieces WHERE collection = ? AND field != ? AND id IN ({', '.join('?' * len(part))})"
                " ORDER BY id, field, n"
            )
            long: dict[tuple[Any, str], list[bytes]] = {}
            for id, name, piece in self._connection.execute(query, (collection, without, *part)):
                long.setdefault((id, name), []).append(piece.encode())
            for (id, name), pieces in long.items():
                lacking[id][name] = Packed.joined(pieces)
        return [document for _, document in found]

    def now(self) -> float:
        """See `Database.now`."""
        return self._read(self._now)

    def _now(self) -> float:
        return self._clock() if self._clock is not None else float(self._connection.execute(_CLOCK).fetchone()[0])

    def projects(self) -> list[str]:
        """See `Database.projects`."""
        query = "SELECT DISTINCT collection FROM documents WHERE collection >= ? AND collection < ?"
        bound = PROJECT, PROJECT[:-1] + chr(ord(PROJECT[-1]) + 1)
        rows = self._read(lambda: self._connection.execute(query, bound).fetchall())
        return sorted(name.removeprefix(PROJECT) for (name,) in rows)

    def problems(self) -> list[str]:
        """See `Examinable.problems`."""
        wanted = {"journal_mode": "wal", "synchronous": 2, "quick_check": "ok"}
        with self._lock, self._errors("read"):
            found = {name: self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted}
        return [f"{self.path}: {name} is {found[name]}, not {value}" for name, value in wanted.items() if found[name] != value]

    def close(self) -> None:
        """See `Database.close`."""
        with self._lock:
            if self._commits and not self._in_doubt:
                self._checkpoint()
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """Wrap the driver's errors, once."""
        try:
            yield
        except sqlite3.Error as error:
            if type(error) is sqlite3.DatabaseError:  # damaged, or no database; everything else has a class of its own
                raise self._damaged(error) from error
            raise self._failed(action, error) from error

    def _failed(self, action: str, error: sqlite3.Error) -> DatabaseFailed:
        what, folder = f"cannot {action} the database {self.path}: {error}", os.path.dirname(self.path)
        if isinstance(error, sqlite3.OperationalError) and _is_full(folder):
            return DatabaseFailed(
                f"{what}. The disk of {folder} is full: nothing was written to the database, and what is published is as before",
                next=f"make room on the disk of {folder}, then run the same command again",
            )
        if "readonly" in str(error):
            return DatabaseFailed(
                f"{what}. You may not write this file or the folder it is in, or its disk is mounted for reading only: nothing"
                " was written to the database, and what is published is as before",
                next=f"see who may write it with ls -l {self.path}, then run the same command as one of them",
            )
        return DatabaseFailed(what)

    def _damaged(self, error: sqlite3.DatabaseError) -> DatabaseDamaged:
        return DatabaseDamaged(
            f"the database {self.path} is damaged ({error}). Nothing that is published was touched, but what is published and"
            " what is unfinished cannot be told",
            next=f"keep {self.path} with its -wal file; put a good copy in their place, or: sqlite3 {self.path} .recover;"
            " then: integrator recover, integrator check",
        )


def refuse_network(path: str, mounts: str | None = None) -> None:
    """Raise `RootRefused` for a path on a network file system; `mounts` replaces the kernel's table in tests."""
    try:
        found = mount_of(path, mounts)
    except OSError as error:
        raise DatabaseFailed(f"cannot reach {path}: {error.strerror}") from error
    if found is not None and found.is_network:
        raise RootRefused(
            f"{path} is on a network file system ({found.kind} at {found.path}), where SQLite loses what another machine has"
            " committed. Nothing was touched",
            next="integrator init ROOT with --database sqlite:///local/path or --state /local/folder if one machine publishes;"
            " with a database server (MongoDB) if several do",
        )


class ExistingSQLite(SQLiteDatabase):
    """The database of a publish root that was made before. It makes neither file nor tables."""

    def __init__(self, path: str, root_id: str = "", *, clock: Callable[[], float] | None = None) -> None:
        """Open the database at `path`, which must be that of the publish root `root_id` ("": of any).

        Raises `DatabaseDamaged` where there is none, `DatabaseFailed`, `NewerDatabase`, `RootRefused`.
        """
        self._root_id = root_id
        super().__init__(path, clock=clock)

    def _connected(self, name: str, **options: Any) -> sqlite3.Connection:
        _refuse_missing(name)  # before SQLite sees it: it removes the log beside an empty file
        return super()._connected(_uri(name, "mode=rw"), uri=True, **options)

    def _set_up(self) -> None:
        if not self._format():
            raise _lost(self.path, "has no tables")
        self._refuse_other(self._root_id)
        super()._set_up()


class SQLiteReader(SQLiteDatabase):
    """A `Database` that only reads, for users who need no more than the right to read; see above. It makes no file."""

    def __init__(self, path: str, root_id: str = "") -> None:
        """Open the database at `path`, which must be that of the publish root `root_id` ("": of any).

        Raises `DatabaseDamaged` where there is none, `DatabaseFailed`, `NewerDatabase`, `RootRefused`.
        """
        refuse_network(path)
        self.path = path
        self._root_id = root_id
        self._clock = None
        self._lock = threading.Lock()
        self._is_connected = self._closed = False
        #: The file that the connection takes for immutable, None if it reads a log.
        self._file: tuple[int, ...] | None = None
        self._read(lambda: None)

    def commit(self, changes: Sequence[Change]) -> None:
        """Raises `ReadOnly`."""
        raise ReadOnly(
            f"{self.path} was opened for reading only; nothing was changed", next="open it with integrator.open_root to publish"
        )

    def _read(self, work: Callable[[], _Result]) -> _Result:
        with self._lock:
            for _ in range(_READS):
                try:
                    found = self._read_once(work)
                except Exception:
                    # Of a file that was written meanwhile, any nonsense can be read.
                    if self._closed or self._is_unchanged():
                        self._disconnect()
                        raise
                else:
                    if self._file is None or self._is_unchanged():
                        return found
                self._disconnect()
        raise DatabaseFailed(f"{self.path} is opened and closed too often to be read", next="the same command again")

    def _read_once(self, work: Callable[[], _Result]) -> _Result:
        with self._errors("read"):
            if self._closed:
                raise sqlite3.ProgrammingError("it was closed")
            if not self._is_connected:
                self._connect()
            try:
                self._begin("BEGIN")
                return work()
            finally:
                self._roll_back()

    def _connect(self) -> None:
        self._file = _file_without_log(self.path)
        mode = "mode=ro" if self._file is None else "immutable=1"
        self._connection = self._connected(_uri(self.path, mode), uri=True)
        self._is_connected = True
        try:
            found = self._format()
        except sqlite3.OperationalError as error:
            raise DatabaseFailed(
                f"cannot read the database {self.path}: {error}. You must be able to read this file and, while it is in use,"
                " those beside it that end in -wal and -shm",
                next=f"ls -l {self.path}*",
            ) from error
        if not found:
            raise _lost(self.path, "has no tables")
        self._refuse_other(self._root_id)

    def _is_unchanged(self) -> bool:
        return _file_without_log(self.path) == self._file

    def _disconnect(self) -> None:
        if self._is_connected:
            self._connection.close()
        self._is_connected = False

    def close(self) -> None:
        """See `Database.close`."""
        with self._lock:
            self._closed = True
            self._disconnect()


def _file_without_log(path: str) -> tuple[int, ...] | None:
    """What tells a database file from every later state of it; None if there is a log, without which it is not complete."""
    file = _refuse_missing(path)
    age = time.time() - file.st_mtime
    if 0 <= age < _TICK:
        time.sleep(_TICK - age)  # from now on, a change leaves another time
    # A log is there before the file is written, and after: it is looked for last.
    return None if os.path.exists(path + "-wal") else (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns)


def _refuse_missing(path: str) -> os.stat_result:
    """The status of a database file. Raises `DatabaseDamaged` for one that is not there or is empty, `DatabaseFailed`."""
    try:
        file = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _lost(path, "is missing") from error
    except OSError as error:
        raise DatabaseFailed(f"cannot read the database {path}: {error.strerror}") from error
    if not file.st_size:
        raise _lost(path, "is an empty file")
    return file


def _is_full(folder: str) -> bool:
    """Whether a disk has no room for one more page, or no file can be made on it. SQLite calls that by several names."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < 1 << 16 or (disk.f_files > 0 and not disk.f_favail)


def _lost(path: str, what: str) -> DatabaseDamaged:
    return DatabaseDamaged(
        f"the database {path} {what}, though this publish root was made with one: what is published and what is unfinished cannot"
        " be told. Nothing was touched: no file was made, changed or removed",
        next=f"put {path} back from a copy, with {path}-wal if the copy has one (or mount the disk that it is on);"
        " then: integrator recover, then: integrator check",
    )


def _uri(path: str, mode: str) -> str:
    return f"file:{path.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?{mode}"


def _empty(document: Document) -> set[str]:
    """The fields of a document that are an empty array."""
    return {name for name, value in document.items() if value == []}


def _place(collection: str, key: str) -> tuple[str, Any]:
    """What a row of either table is found by. Raises `ValueError` for what is no collection."""
    kind(collection)
    return collection, _column(key)


def _searched(collection: str) -> tuple[str, ...]:
    """The fields whose values are in the columns `key`, `first`, `second`, `third`; "" where a column is not used."""
    what = kind(collection)
    lookups = _LOOKUPS.get(what, ())
    return UNIQUE.get(what, ""), *lookups, *("",) * (3 - len(lookups))


def _query(conditions: Sequence[str], column: str, descending: bool, limit: int) -> str:
    """The rows that meet all conditions; `column` is what they are ordered by, "" for no order."""
    query = " AND ".join(["SELECT id, body FROM documents WHERE collection = ?", *conditions])
    # The plus hides an index: to save a few rows from being sorted, SQLite would walk through the whole collection.
    by_id = "+id" if conditions else "id"
    if descending:
        query += f" ORDER BY {by_id if column == 'id' else column} DESC, {by_id}"
    elif column:
        query += f" ORDER BY {by_id}"
    return f"{query} LIMIT {limit or -1:d}"


def _in_order(row: tuple[Any, Document]) -> tuple[bool, Any]:
    return isinstance(row[0], bytes), row[0]


def _condition(column: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
    """That a column holds one of these values, and what to bind."""
    bound = [_column(value) for value in values if value is not None]
    condition = f"{column} IN ({', '.join('?' * len(bound))})"
    return f"({condition} OR {column} IS NULL)" if None in values else condition, bound


def _column(value: Any) -> Any:
    """`value` as SQLite stores, compares and orders it, in the order of `database.rank`.

    Numbers are numbers (those that SQLite has no place for, and no filter asks for, are infinite), texts are TEXT, the rest is
    a BLOB of its JSON. A text that is not UTF-8 is a BLOB, too, and one that JSON cannot be.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-8", "surrogatepass")
        return value
    if isinstance(value, (int, float)):
        return value if is_number(value) else math.copysign(math.inf, value)
    oid = value.get("$oid") if isinstance(value, dict) and len(value) == 1 else None
    if isinstance(oid, str) and oid.isascii() and oid.isalnum():
        return b'{"$oid":"%s"}' % oid.encode()  # as below, but readers need no encoder
    return None if value is None else encode(value)


__all__ = ["CHECKPOINT_EVERY", "FORMAT", "ExistingSQLite", "Now", "SQLiteDatabase", "SQLiteReader"]
