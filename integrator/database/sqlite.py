"""The embedded database: JSON documents in SQLite.

One table for each collection: `id` and `body` (the document as JSON text), with real unique indexes on expressions over the
body. A long array (`encoding.Packed`) is kept in pieces in the table `pieces`; the body then holds an empty array.

Durability: WAL with ``synchronous=FULL``, so that a COMMIT returns after its fsync. An error at COMMIT is no answer: the pages
may be in the log and come back when the database is opened again, so it is reported as `Unanswered` and this process asks no
more. Checkpoints run by count of commits and at `close`, never because a document is large: the number of
barriers of a commit does not depend on what is written.

Sources: sqlite.org/wal.html, sqlite.org/pragma.html, sqlite.org/lang_transaction.html.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from integrator.database import (
    CLAIMS,
    LEASES,
    PROJECT,
    TRANSACTIONS,
    Change,
    Delete,
    Ensure,
    Insert,
    Now,
    Replace,
    field,
    id_text,
    resolve_now,
    set_field,
)
from integrator.encoding import Packed, decode, encode
from integrator.errors import Conflict, DatabaseFailed, NewerDatabase, Unanswered
from integrator.model import Document

#: Version of the tables below; a database with a higher one is refused.
FORMAT: Final = 1
#: How long a statement waits for another writer, in seconds.
PATIENCE: Final = 60.0
#: Commits of one connection between two checkpoints.
CHECKPOINT_EVERY: Final = 200

_CLOCK: Final = "SELECT (julianday('now') - 2440587.5) * 86400.0"
_COLLECTION: Final = re.compile(r"(transactions|leases|claims|migrations|versions|project:[^\"\x00-\x1f]{1,200})\Z")
_FIELD: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(\.[A-Za-z_$][A-Za-z0-9_$]*)*\Z")

_INDEXES: Final = {
    TRANSACTIONS: (("UNIQUE ", "publish_id", ("publish_id",)), ("", "state", ("state",))),
    LEASES: (("", "transaction", ("transaction",)),),
    CLAIMS: (("", "lease", ("lease",)),),
    PROJECT: (
        ("UNIQUE ", "key", ("data.integrator.key",)),
        ("", "name", ("type", "parent", "name")),
    ),
}


class SQLiteDatabase:
    """A `Database` in one file. Safe to use from several threads; one connection, used by one at a time."""

    def __init__(self, path: str, *, clock: Callable[[], float] | None = None) -> None:
        """Open, and make if it is not there, the database at `path`.

        `clock` replaces the database's clock in tests. Raises `DatabaseFailed`, `NewerDatabase`.
        """
        self.path = path
        self._clock = clock
        self._lock = threading.RLock()
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
        with self._writing():
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS pieces (collection TEXT, id TEXT, field TEXT, n INTEGER, body TEXT,"
                " PRIMARY KEY (collection, id, field, n)) WITHOUT ROWID"
            )
            for collection in (TRANSACTIONS, LEASES, CLAIMS):
                self._table(collection, make=True)
            self._connection.execute(f"PRAGMA user_version={FORMAT}")
        # The file is new: its name must survive a power cut like its content does.
        fd = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # --- writing --------------------------------------------------------------------------------------------------

    def commit(self, changes: Sequence[Change]) -> None:
        """See `Database.commit`."""
        with self._lock:
            if self._in_doubt:
                raise Unanswered(f"{self.path} failed while it committed; only a new process can tell what it holds")
            with self._writing() as now:
                for change in changes:
                    self._apply(change, now)
            self._commits += 1
            if self._commits % CHECKPOINT_EVERY == 0:
                self._checkpoint()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[float]:
        """One write transaction; gives the clock, read once inside it."""
        with self._errors("write to"):
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            with self._errors("write to"):
                yield self.now()
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            self._tables.clear()  # those made in this transaction are gone
            raise
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            self._in_doubt = True
            raise Unanswered(f"{self.path} failed while it committed ({error})") from error

    def _apply(self, change: Change, now: float) -> None:
        table = self._table(change.collection, make=True)
        key = change.key
        if isinstance(change, Insert):
            self._put(f"INSERT INTO {table} (body, id) VALUES (?, ?)", change, key, change.document, now)
            return
        found = self._body(table, change.collection, key)
        if isinstance(change, Ensure):
            if found is None:
                self._put(f"INSERT INTO {table} (body, id) VALUES (?, ?)", change, key, change.document, now)
            return
        for name, value in change.expect.items():
            if found is None or field(found, name) != value:
                is_now = "not there" if found is None else f"{name} is {field(found, name)!r}, expected {value!r}"
                raise Conflict(change.collection, key, is_now)
        if found is None:
            raise Conflict(change.collection, key, "not there")
        if isinstance(change, Delete):
            self._connection.execute("DELETE FROM pieces WHERE collection = ? AND id = ?", (change.collection, key))
            self._connection.execute(f"DELETE FROM {table} WHERE id = ?", (key,))
            return
        if isinstance(change, Replace):
            found = dict(change.document)
        else:
            for name, value in change.set.items():
                set_field(found, name, value)
        self._connection.execute("DELETE FROM pieces WHERE collection = ? AND id = ?", (change.collection, key))
        self._put(f"UPDATE {table} SET body = ? WHERE id = ?", change, key, found, now)

    def _put(self, statement: str, change: Change, key: str, document: Mapping[str, Any], now: float) -> None:
        body = dict(document)
        for name, value in document.items():
            if isinstance(value, Packed):
                body[name] = []
                self._connection.executemany(
                    "INSERT INTO pieces VALUES (?, ?, ?, ?, ?)",
                    ((change.collection, key, name, n, piece.decode()) for n, piece in enumerate(value.pieces)),
                )
        try:
            self._connection.execute(statement, (encode(resolve_now(body, now)).decode(), key))
        except sqlite3.IntegrityError as error:
            raise Conflict(change.collection, key, f"not unique ({error})") from error

    def _checkpoint(self) -> None:
        # What was committed is durable in the log already: a failure here costs only the log's length.
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, collection: str, id: Any) -> Document | None:
        """See `Database.read`."""
        with self._lock, self._errors("read"):
            table = self._table(collection)
            return self._body(table, collection, id_text(id)) if table else None

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
        with self._lock, self._errors("read"):
            table = self._table(collection)
            if not table:
                return []
            conditions, values = [], []
            for name, value in (where or {}).items():
                choices = value if isinstance(value, tuple) else (value,)
                conditions.append(f"{_extract(name)} IN ({', '.join('?' * len(choices))})")
                values += [id_text(choice) if name == "_id" else _plain(choice) for choice in choices]
            query = f"SELECT id, body FROM {table}"
            query += f" WHERE {' AND '.join(conditions)}" if conditions else ""
            query += f" ORDER BY {_extract(newest)} DESC" if newest else " ORDER BY id"
            query += f" LIMIT {limit:d}" if limit else ""
            rows = self._connection.execute(query, values).fetchall()
            return [self._whole(collection, key, body, without) for key, body in rows]

    def now(self) -> float:
        """See `Database.now`."""
        if self._clock is not None:
            return self._clock()
        with self._lock, self._errors("read"):
            return float(self._connection.execute(_CLOCK).fetchone()[0])

    def projects(self) -> list[str]:
        """See `Database.projects`."""
        with self._lock, self._errors("read"):
            rows = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            return sorted(name.removeprefix(PROJECT) for (name,) in rows if name.startswith(PROJECT))

    def close(self) -> None:
        """See `Database.close`."""
        with self._lock:
            if self._commits and not self._in_doubt:
                self._checkpoint()
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()

    # --- tables ---------------------------------------------------------------------------------------------------

    def _table(self, collection: str, *, make: bool = False) -> str:
        """The quoted table of a collection, "" if it does not exist."""
        if not _COLLECTION.match(collection):
            raise ValueError(f"no collection can be called {collection!r}")
        name = f'"{collection}"'
        if collection in self._tables:
            return name
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        if not self._connection.execute(query, (collection,)).fetchone():
            if not make:
                return ""
            self._connection.execute(f"CREATE TABLE {name} (id TEXT PRIMARY KEY, body TEXT NOT NULL)")
            kind = PROJECT if collection.startswith(PROJECT) else collection
            for unique, label, fields in _INDEXES.get(kind, ()):
                columns = ", ".join(map(_extract, fields))
                self._connection.execute(f'CREATE {unique}INDEX "{collection}.{label}" ON {name} ({columns})')
        self._tables.add(collection)
        return name

    def _body(self, table: str, collection: str, key: str) -> Document | None:
        row = self._connection.execute(f"SELECT body FROM {table} WHERE id = ?", (key,)).fetchone()
        return self._whole(collection, key, row[0]) if row else None

    def _whole(self, collection: str, key: str, body: str, without: str = "") -> Document:
        document: Document = decode(body)
        query = "SELECT field, body FROM pieces WHERE collection = ? AND id = ? AND field != ? ORDER BY field, n"
        long: dict[str, list[bytes]] = {}
        for name, piece in self._connection.execute(query, (collection, key, without)):
            long.setdefault(name, []).append(piece.encode())
        for name, pieces in long.items():
            document[name] = Packed.joined(pieces)
        return document

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """Wrap the driver's errors, once."""
        try:
            yield
        except sqlite3.Error as error:
            raise DatabaseFailed(f"cannot {action} the database {self.path}: {error}") from error


def _extract(name: str) -> str:
    if not _FIELD.match(name):
        raise ValueError(f"no field can be called {name!r}")
    if name == "_id":
        return "id"
    path = "".join(f'."{part}"' for part in name.split("."))
    return f"json_extract(body, '${path}')"


def _plain(value: Any) -> Any:
    """A filter value as SQLite compares it; operators (dicts that are no id) are refused by type."""
    if isinstance(value, dict):
        if set(value) != {"$oid"} or not isinstance(value["$oid"], str):
            raise TypeError("a filter takes plain values and ids only")
        return encode(value).decode()
    if value is not None and not isinstance(value, (str, int, float)):
        raise TypeError(f"a filter takes plain values and ids only, not {type(value).__name__}")
    return value


__all__ = ["CHECKPOINT_EVERY", "FORMAT", "Now", "SQLiteDatabase"]
