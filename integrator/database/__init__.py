"""The port to the database: documents in collections, and commits that are all or nothing.

A commit is a list of changes, each with what it expects to find. Either all expectations hold and all changes are made,
durable, or nothing is. There is no session and no open transaction to hold, so that a commit could be one HTTP call.
Every protocol step above (lease, claim, verdict) is one such commit.

Documents are JSON values with ids and dates in MongoDB extended JSON. `_id` is a string or ``{"$oid": hex}``. Field names
may be dotted. An expected value of None also matches a field that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Union

import attrs

from integrator.model import Document

#: The engine's own collections. Every other collection holds the documents of the project of that name.
TRANSACTIONS, LEASES, CLAIMS = "transactions", "leases", "claims"
#: Prefix of the collection of a project.
PROJECT = "project:"


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
    """Set (and with None remove) fields of a document that is as expected; a conflict if it is not."""

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

    Reads see committed state only. All methods raise `errors.DatabaseFailed` when the database cannot be asked.
    """

    def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes, durable on return, or none.

        Raises:
            errors.Conflict: an expectation or a unique key failed; nothing was changed.
            errors.DatabaseFailed: nothing was changed, and nothing will be.
            errors.Unanswered: the changes may or may not be made, now or later.
        """

    def read(self, collection: str, id: Any) -> Document | None:
        """The document with this id."""

    def find(
        self,
        collection: str,
        where: Mapping[str, Any] | None = None,
        *,
        newest: str = "",
        limit: int = 0,
        without: str = "",
    ) -> list[Document]:
        """Documents whose fields equal the values in `where` (a tuple: any of its values).

        With `newest`, in descending order of that field; at most `limit` if that is not 0. `without` names a long array that is
        not wanted (it may then be absent or empty).
        """

    def now(self) -> float:
        """The database's clock, Unix time in seconds."""

    def projects(self) -> list[str]:
        """Names of the projects that have documents, sorted."""

    def close(self) -> None:
        """Let go of the database. The object cannot be used afterwards."""


def id_text(id: Any) -> str:
    """An id as one string, for messages and for stores that key by text."""
    return id if isinstance(id, str) else str(id["$oid"])


def field(document: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted field, None if it is not there."""
    value: Any = document
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def set_field(document: Document, name: str, value: Any) -> None:
    """Set a dotted field, or remove it if `value` is None."""
    *outer, last = name.split(".")
    for part in outer:
        document = document.setdefault(part, {})
    if value is None:
        document.pop(last, None)
    else:
        document[last] = value


def resolve_now(value: Any, now: float) -> Any:
    """`value` with each `Now` in it turned into a time."""
    if isinstance(value, Now):
        return now + value.plus
    if isinstance(value, dict):
        return {key: resolve_now(inner, now) for key, inner in value.items()}
    return value


def connect(url: str) -> Database:
    """Open the database of a URL: ``sqlite:///absolute/path``. Raises `errors.UsageError`, `errors.DatabaseFailed`."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/"):
        from integrator.database.sqlite import SQLiteDatabase

        return SQLiteDatabase(rest)
    from integrator.errors import UsageError

    raise UsageError(f"the database URL {scheme}://... is not one that this program knows: use sqlite:///absolute/path")
