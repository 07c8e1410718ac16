"""The port to the database: documents in collections, and commits that are all or nothing.

A commit is a list of changes, each with what it expects to find. Either all expectations hold and all changes are made,
durable, or nothing is. There is no session and no open transaction to hold, so that a commit could be one HTTP call.
Every protocol step above (lease, claim, verdict) is one such commit.

Documents are JSON values with ids and dates in MongoDB extended JSON. `_id` is a string or ``{"$oid": hex}``. Field names
may be dotted. A value of None, expected or asked for, also matches a field that is not there.

What names, ids, filters and expectations mean stands here once, so that every database that runs in this process means the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, Union, runtime_checkable

import attrs

from integrator.encoding import encode
from integrator.errors import Conflict
from integrator.model import Document

#: The engine's own collections. Every other collection holds the documents of the project of that name.
TRANSACTIONS, LEASES, CLAIMS = "transactions", "leases", "claims"
#: Documents that replace others once a committed transaction has put their files in place; empty otherwise.
POINTERS = "pointers"
#: Prefix of the collection of a project.
PROJECT = "project:"

#: The field of a kind of collection (`kind`) whose value, unless it is None, only one document of a collection has.
UNIQUE: Final = {TRANSACTIONS: "publish_id", PROJECT: "data.integrator.key"}

_COLLECTION: Final = re.compile(
    r"(transactions|leases|claims|pointers|migrations|versions|project:[^\"\x00-\x1f\ud800-\udfff]{1,200})\Z"
)
_FIELD: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(\.[A-Za-z_$][A-Za-z0-9_$]*)*\Z")


@attrs.frozen
class Now:
    """Stands for the database's clock at the commit, plus some seconds (Unix time, float)."""

    plus: float = 0.0


@attrs.frozen(kw_only=True)
class Insert:
    """Add a document; a conflict if its `_id` or a unique key exists."""

    collection: str
    document: Mapping[str, Any]

    @property
    def key(self) -> str:
        return id_text(self.document["_id"])


@attrs.frozen(kw_only=True)
class Ensure:
    """Add a document unless there is one with its `_id` already, whatever that holds."""

    collection: str
    document: Mapping[str, Any]

    @property
    def key(self) -> str:
        return id_text(self.document["_id"])


@attrs.frozen(kw_only=True)
class Update:
    """Set (and with None remove) fields of a document that is as expected; a conflict if it is not.

    Tables on the way to a field are made. A conflict, too, if what is there on the way is no table.
    """

    collection: str
    id: Any
    expect: Mapping[str, Any]
    set: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def key(self) -> str:
        return id_text(self.id)


@attrs.frozen(kw_only=True)
class Replace:
    """Put another document in the place of one that is as expected; a conflict if it is not."""

    collection: str
    id: Any
    expect: Mapping[str, Any]
    document: Mapping[str, Any]

    @property
    def key(self) -> str:
        return id_text(self.id)


@attrs.frozen(kw_only=True)
class Delete:
    """Remove a document that is as expected; a conflict if it is not."""

    collection: str
    id: Any
    expect: Mapping[str, Any]

    @property
    def key(self) -> str:
        return id_text(self.id)


Change = Union[Insert, Ensure, Update, Replace, Delete]


class Database(Protocol):
    """What a database must do. `integrator.testing.DatabaseContract` is its test suite.

    Reads see committed state only. All methods raise `errors.DatabaseFailed` when the database cannot be asked,
    `errors.DatabaseDamaged` when what it holds is damaged.
    """

    def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes, durable on return, or none.

        Raises:
            errors.Conflict: an expectation or a unique key failed; nothing was changed.
            errors.DatabaseFailed: nothing was changed, and nothing will be.
            errors.Unanswered: the changes may or may not be made, now or later.
            TypeError, ValueError: a name, an id or a value is none; nothing was changed.
        """

    def read(self, collection: str, id: Any) -> Document | None:
        """The document with this id. Raises `TypeError` for what is no id."""

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
        """Documents whose fields equal the values in `where` (a tuple: any of its values).

        With `newest`, in descending order of that field (`rank`), else in the order of ids; at most `limit` if that is not 0.
        `without` names a long array that is not wanted (it may then be absent or empty), `only` the fields that are wanted
        (others may then be absent).

        Raises `ValueError` for names that no collection or field can have, `TypeError` for values that are not plain.
        """

    def now(self) -> float:
        """The database's clock, Unix time in seconds."""

    def projects(self) -> list[str]:
        """Names of the projects that have documents, sorted."""

    def close(self) -> None:
        """Let go of the database. The object cannot be used afterwards."""


def kind(collection: str) -> str:
    """What a collection holds: its name, or `PROJECT`. Raises `ValueError` for what is no collection."""
    if not _COLLECTION.match(collection):
        raise ValueError(f"no collection can be called {collection!r}")
    return PROJECT if collection.startswith(PROJECT) else collection


def id_text(id: Any) -> str:
    """An id as one string, for messages and for stores that key by text. Raises `TypeError` for what is no id."""
    if isinstance(id, str):
        return id
    if not _is_object_id(id):
        raise TypeError("an id is text or {'$oid': text}")
    return str(id["$oid"])


def _is_object_id(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"$oid"} and isinstance(value["$oid"], str)


def field(document: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted field, None if it is not there."""
    value: Any = document
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def set_field(document: Document, name: str, value: Any) -> None:
    """Set a dotted field, or remove it if `value` is None. Raises `ValueError` if it would lie below what is no table."""
    *outer, last = name.split(".")
    table = document
    for part in outer:
        inner = table.get(part) if value is None else table.setdefault(part, {})
        if not isinstance(inner, dict):
            if value is None:
                return  # what is not there need not be removed
            raise ValueError(f"{name} cannot be set: {part} is no table")
        table = inner
    if value is None:
        table.pop(last, None)
    else:
        table[last] = value


# --- filters --------------------------------------------------------------------------------------------------------


def field_name(name: str) -> str:
    """`name`, if a field can be asked for by it. Raises `ValueError`."""
    if not _FIELD.match(name):
        raise ValueError(f"no field can be called {name!r}")
    return name


def choices(where: Mapping[str, Any] | None) -> dict[str, tuple[Any, ...]]:
    """The values that each field of a filter may have; those of `_id` as texts.

    Raises `ValueError` for a name that no field can have, `TypeError` for operators and whatever else is not plain.
    """
    wanted = {}
    for name, value in (where or {}).items():
        values = value if isinstance(value, tuple) else (value,)
        if field_name(name) == "_id":
            values = tuple(map(id_text, values))
        elif not all(one is None or isinstance(one, str) or is_number(one) or _is_object_id(one) for one in values):
            raise TypeError("a filter takes texts, numbers of 64 bits and ids only")
        wanted[name] = values
    return wanted


def is_number(value: Any) -> bool:
    """Whether `value` is a number that every database can hold."""
    return isinstance(value, (int, float)) and -(2**63) <= value < 2**63


def asked_field(document: Document, name: str) -> Any:
    """The value that a filter or an order compares."""
    return id_text(document["_id"]) if name == "_id" else field(document, name)


def matches(document: Document, wanted: Mapping[str, tuple[Any, ...]]) -> bool:
    """Whether a document is one that `choices` ask for."""
    return all(asked_field(document, name) in values for name, values in wanted.items())


def rank(value: Any) -> tuple[int, Any]:
    """`value` so that values of all types can be ordered: nothing, numbers, texts by code points, the rest."""
    if value is None:
        return 0, 0
    if isinstance(value, (int, float)):
        return 1, value
    if isinstance(value, str):
        # A text that is not UTF-8 is among the rest, as in a store that has no such texts.
        return 2 if _is_utf8(value) else 3, value.encode("utf-8", "surrogatepass")
    return 3, encode(value)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- changes --------------------------------------------------------------------------------------------------------


def changed(change: Update | Replace | Delete, found: Document | None) -> Document:
    """What `change` makes of the document that is there (which it may alter). Raises `Conflict`."""
    if found is None:
        raise Conflict(change.collection, change.key, "not there")
    for name, value in change.expect.items():
        if field(found, name) != value:
            raise Conflict(change.collection, change.key, f"{name} is {field(found, name)!r}, expected {value!r}")
    if isinstance(change, Replace):
        return dict(change.document)
    if isinstance(change, Update):
        try:
            for name, value in change.set.items():
                set_field(found, name, value)
        except ValueError as error:
            raise Conflict(change.collection, change.key, str(error)) from error
    return found


def resolve_now(value: Any, now: float) -> Any:
    """`value` with each `Now` in it turned into a time."""
    if isinstance(value, Now):
        return now + value.plus
    if isinstance(value, dict):
        return {key: resolve_now(inner, now) for key, inner in value.items()}
    if isinstance(value, list):
        return [resolve_now(inner, now) for inner in value]
    return value


@runtime_checkable
class Examinable(Protocol):
    """A database that can say what is wrong with its file or its server."""

    def problems(self) -> list[str]:
        """Sentences; [] if all is well. Raises `errors.DatabaseFailed`."""


def refuse_place(url: str) -> None:
    """Raise `errors.RootRefused` for a URL whose place cannot keep a database safe; asked before anything is made."""
    if url.startswith("sqlite:///"):
        from integrator.database.sqlite import refuse_network

        refuse_network(url.removeprefix("sqlite://"))


def make_database(url: str, root_id: str) -> None:
    """Make the database of a new publish root; one that is there is completed. The only place that makes tables.

    Raises `errors.UsageError`, `errors.DatabaseFailed`, and `errors.RootRefused` for the database of another root.
    """
    from integrator.database.sqlite import SQLiteDatabase

    database = SQLiteDatabase(_sqlite_path(url))
    try:
        database.belong_to(root_id)
    finally:
        database.close()


def connect(url: str, root_id: str = "") -> Database:
    """Open the database of a URL, ``sqlite:///absolute/path``, which must be that of the publish root `root_id` ("": of any).

    Raises `errors.DatabaseDamaged` where there is none, `errors.UsageError`, `errors.DatabaseFailed`, `errors.RootRefused`.
    """
    from integrator.database.sqlite import ExistingSQLite

    return ExistingSQLite(_sqlite_path(url), root_id)


def connect_reader(url: str, root_id: str = "") -> Database:
    """As `connect`, without the right to write: `commit` raises `errors.ReadOnly`, and nothing is made or changed."""
    from integrator.database.sqlite import SQLiteReader

    return SQLiteReader(_sqlite_path(url), root_id)


def _sqlite_path(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/"):
        return rest
    from integrator.errors import UsageError

    raise UsageError(f"the database URL {scheme}://... is not one that this program knows: use sqlite:///absolute/path")
