"""The embedded database: JSON documents in SQLite.

::

    documents (collection, id, key, first, second, third, body)    one row for each document of every collection
    pieces    (collection, id, field, n, body)                     its long arrays (`encoding.Packed`), piece by piece

`body` is the document as JSON text; a long array is empty there. `id` and the four columns after it are copies of values of the
document, made here and only to be searched: `key` is the one that is unique in its collection (`database.UNIQUE`), the others
are those of `_LOOKUPS`. SQLite never looks into a body: its JSON functions cut texts at NUL and cannot tell a text from a table.
What a column cannot answer is answered by `database.matches`. `_column` says how a value is stored.

Durability: WAL with ``synchronous=FULL``, so that a COMMIT returns after its fsync. An error at COMMIT is no answer: the pages
may be in the log and come back when the database is opened again, so it is reported as `Unanswered` and this process asks no
more. Checkpoints run by count of commits and at `close`, never because a document is large: the number of
barriers of a commit does not depend on what is written.

Sources: sqlite.org/wal.html, sqlite.org/pragma.html, sqlite.org/lang_transaction.html, sqlite.org/datatype3.html.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import threading
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
from integrator.encoding import Packed, decode, encode
from integrator.errors import Conflict, DatabaseDamaged, DatabaseFailed, NewerDatabase, Unanswered
from integrator.model import Document

#: Version of the tables below; a database with a higher one is refused.
FORMAT: Final = 1
#: How long a statement waits for another writer, in seconds.
PATIENCE: Final = 60.0
#: Commits of one connection between two checkpoints.
CHECKPOINT_EVERY: Final = 200

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

        `clock` replaces the database's clock in tests. Raises `DatabaseFailed`, `NewerDatabase`.
        """
        self.path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._tables: set[str] = set()
        self._commits = 0
        self._in_doubt = False
        with self._errors("open"):
            self._connection = sqlite3.connect(
                path, timeout=PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            try:
                self._set_up()
            except BaseException:
                self._connection.close()
                raise

    def _set_up(self) -> None:
        run = self._connection.execute
        if run("PRAGMA journal_mode").fetchone()[0] != "wal":
            run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=FULL")
        run("PRAGMA wal_autocheckpoint=0")
        mode, level = run("PRAGMA journal_mode").fetchone()[0], run("PRAGMA synchronous").fetchone()[0]
        if (mode, level) != ("wal", 2):
            raise DatabaseFailed(f"{self.path} cannot be made durable: journal mode {mode}, synchronous {level}")
        found = run("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            raise NewerDatabase(
                f"{self.path} has format {found}, this program knows {FORMAT}. Nothing was touched.",
                next="use the newer integrator",
            )
        if found < FORMAT:
            self._make_tables()

    def _make_tables(self) -> None:
        def make(_: float) -> None:
            for statement in (*_TABLES, f"PRAGMA user_version={FORMAT}"):
                self._connection.execute(statement)

        self._write(make)
        # The file is new: its name must survive a power cut like its content does.
        fd = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

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
    ) -> list[Document]:
        """See `Database.find`."""
        wanted = choices(where)
        columns = dict(zip(("_id", *_searched(collection)), ("id", "key", "first", "second", "third")))
        column = columns.get(field_name(newest), "") if newest else ""
        conditions = [_condition(columns[name], values) for name, values in wanted.items() if name in columns]
        # What the columns cannot answer is done here.
        rest = {name: values for name, values in wanted.items() if name not in columns}
        sort = bool(newest) and not column
        query = _query([text for text, _ in conditions], column, 0 if rest or sort else limit)
        bound = [collection, *(value for _, values in conditions for value in values)]

        def work() -> list[Document]:
            rows = self._connection.execute(query, bound).fetchall()
            found = [(id, document) for id, body in rows if matches(document := decode(body), rest)]
            if sort:
                found.sort(key=lambda row: rank(asked_field(row[1], newest)), reverse=True)
            return [self._whole(collection, id, document, without) for id, document in found[: limit or None]]

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
        return self._whole(collection, id, decode(row[0])) if row else None

    def _whole(self, collection: str, id: Any, document: Document, without: str = "") -> Document:
        """`document` with its long arrays."""
        query = "SELECT field, body FROM pieces WHERE collection = ? AND id = ? AND field != ? ORDER BY field, n"
        long: dict[str, list[bytes]] = {}
        for name, piece in self._connection.execute(query, (collection, id, without)):
            long.setdefault(name, []).append(piece.encode())
        for name, pieces in long.items():
            document[name] = Packed.joined(pieces)
        return document

    def now(self) -> float:
        """See `Database.now`."""
        with self._lock, self._errors("read"):
            return self._now()

    def _now(self) -> float:
        return self._clock() if self._clock is not None else float(self._connection.execute(_CLOCK).fetchone()[0])

    def projects(self) -> list[str]:
        """See `Database.projects`."""
        query = "SELECT DISTINCT collection FROM documents WHERE collection >= ? AND collection < ?"
        with self._lock, self._errors("read"):
            rows = self._connection.execute(query, (PROJECT, PROJECT[:-1] + chr(ord(PROJECT[-1]) + 1))).fetchall()
        return sorted(name.removeprefix(PROJECT) for (name,) in rows)

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
            raise DatabaseFailed(f"cannot {action} the database {self.path}: {error}") from error

    def _damaged(self, error: sqlite3.DatabaseError) -> DatabaseDamaged:
        return DatabaseDamaged(
            f"the database {self.path} is damaged ({error}). Nothing that is published was touched, but what is published and"
            " what is unfinished cannot be told",
            next=f"keep {self.path} with its -wal file; put a good copy in their place, or: sqlite3 {self.path} .recover;"
            " then: integrator recover, integrator check",
        )


def _place(collection: str, key: str) -> tuple[str, Any]:
    """What a row of either table is found by. Raises `ValueError` for what is no collection."""
    kind(collection)
    return collection, _column(key)


def _searched(collection: str) -> tuple[str, ...]:
    """The fields whose values are in the columns `key`, `first`, `second`, `third`; "" where a column is not used."""
    what = kind(collection)
    lookups = _LOOKUPS.get(what, ())
    return UNIQUE.get(what, ""), *lookups, *("",) * (3 - len(lookups))


def _query(conditions: Sequence[str], newest: str, limit: int) -> str:
    """The rows that meet all conditions; `newest` is the column that they are ordered by, "" for the order of ids."""
    # The plus hides an index: to save a few rows from being sorted, SQLite would walk through the whole collection.
    by_id = "+id" if conditions else "id"
    order = f"{by_id if newest == 'id' else newest} DESC, {by_id}" if newest else by_id
    query = " AND ".join(["SELECT id, body FROM documents WHERE collection = ?", *conditions])
    return f"{query} ORDER BY {order} LIMIT {limit or -1:d}"


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
    return None if value is None else encode(value)


__all__ = ["CHECKPOINT_EVERY", "FORMAT", "Now", "SQLiteDatabase"]
