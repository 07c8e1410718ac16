"""Operations of pymongo's ``bulk_write`` as changes of a transaction, for plugins that have them already.

``InsertOne``, ``UpdateOne``, ``ReplaceOne`` and ``DeleteOne`` are recognised by their type; the driver is not imported. What an
operation does is worked out now, and carried out at the verdict provided that what it read is still the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final

from integrator.database import Change, Delete, Insert, Replace, Update, field, set_field
from integrator.errors import ExpectationFailed, UsageError
from integrator.model import Document, object_id

#: The documents that a filter finds, as they will be once the transaction so far is carried out.
Find = Callable[[Mapping[str, Any]], "list[Document]"]

_OPTIONS: Final = {"_collation": "collation", "_array_filters": "array_filters", "_sort": "sort", "_namespace": "namespace"}


def change_of(operation: Any, collection: str, find: Find, plain: Callable[[Any], Any]) -> Change | None:
    """The change that an operation is; None for one that finds nothing to change.

    `plain` turns values of the driver into those of a document. Raises `UsageError` for everything that is not one of the four
    operations, or uses what is not supported; `ExpectationFailed` if several documents match.
    """
    name = type(operation).__name__
    if not type(operation).__module__.startswith("pymongo") or name not in _MAKERS:
        raise UsageError(
            f"{name} cannot be part of a publish: use InsertOne, UpdateOne, ReplaceOne or DeleteOne of pymongo, or the methods"
            " insert, update, replace and delete. Nothing was done by this call"
        )
    for slot, option in _OPTIONS.items():
        if getattr(operation, slot, None) is not None:
            raise UsageError(f"{name} with {option} cannot be part of a publish. Nothing was done by this call")
    return _MAKERS[name](operation, collection, find, plain)


def _insert(operation: Any, collection: str, find: Find, plain: Callable[[Any], Any]) -> Change:
    return Insert(collection=collection, document=plain({"_id": operation._doc.get("_id") or object_id(), **operation._doc}))


def _delete(operation: Any, collection: str, find: Find, plain: Callable[[Any], Any]) -> Change | None:
    found = _one(operation, find, plain)
    return Delete(collection=collection, id=found["_id"], expect=found) if found is not None else None


def _replace(operation: Any, collection: str, find: Find, plain: Callable[[Any], Any]) -> Change | None:
    found, document = _one(operation, find, plain), plain(dict(operation._doc))
    if found is not None:
        return Replace(collection=collection, id=found["_id"], expect=found, document={**document, "_id": found["_id"]})
    return Insert(collection=collection, document={**_blank(operation, plain), **document}) if operation._upsert else None


def _update(operation: Any, collection: str, find: Find, plain: Callable[[Any], Any]) -> Change | None:
    if not isinstance(operation._doc, Mapping):
        raise UsageError("UpdateOne with a pipeline cannot be part of a publish. Nothing was done by this call")
    found = _one(operation, find, plain)
    if found is None and not operation._upsert:
        return None
    document = found if found is not None else _blank(operation, plain)
    changed: dict[str, Any] = {}
    for operator, fields in operation._doc.items():
        if operator == "$setOnInsert":
            changed.update(plain(dict(fields)) if found is None else {})
            continue
        if operator not in _OPERATORS:
            raise UsageError(
                f"UpdateOne with {operator} cannot be part of a publish; {', '.join(_OPERATORS)} can."
                " Nothing was done by this call"
            )
        for name, value in fields.items():
            try:
                changed[name] = _OPERATORS[operator](field(document, name), plain(value))
            except TypeError as error:
                raise UsageError(f"{operator} of {name}: {error}. Nothing was done by this call") from None
    if found is not None:
        expect = {name: field(found, name) for name in changed}
        return Update(collection=collection, id=found["_id"], expect=expect, set=changed)
    for name, value in changed.items():
        set_field(document, name, value)
    return Insert(collection=collection, document=document)


def _one(operation: Any, find: Find, plain: Callable[[Any], Any]) -> Document | None:
    where = {name: _wanted(name, value, plain) for name, value in operation._filter.items()}
    found = find(where)
    if len(found) > 1:
        raise ExpectationFailed(f"{len(found)} documents match {dict(operation._filter)!r}; one at most should")
    return found[0] if found else None


def _wanted(name: str, value: Any, plain: Callable[[Any], Any]) -> Any:
    """What a filter asks of one field, as `Database.find` takes it."""
    if isinstance(value, Mapping) and set(value) == {"$in"}:
        return tuple(plain(list(value["$in"])))
    if name.startswith("$") or (isinstance(value, Mapping) and any(str(key).startswith("$") for key in value)):
        raise UsageError(f"the filter {name}: {value!r} cannot be part of a publish; values and $in can. Nothing was done")
    return plain(value)


def _blank(operation: Any, plain: Callable[[Any], Any]) -> Document:
    """What an upsert begins with: the values that its filter asks for."""
    document: Document = {}
    for name, value in operation._filter.items():
        if not isinstance(value, Mapping):
            set_field(document, name, plain(value))
    document.setdefault("_id", object_id())
    return document


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    return value


def _many(value: Any) -> list[Any]:
    if isinstance(value, Mapping) and any(str(key).startswith("$") for key in value):
        if set(value) != {"$each"}:
            raise TypeError(f"only $each is supported, not {', '.join(sorted(value))}")
        return list(value["$each"])
    return [value]


def _array(old: Any) -> list[Any]:
    if old is None:
        return []
    if isinstance(old, (Mapping, str, int, float)):
        raise TypeError("it is no array")
    return copy.deepcopy(list(old))


def _push(old: Any, value: Any) -> Any:
    return _array(old) + _many(value)


def _add(old: Any, value: Any) -> Any:
    found = _array(old)
    for entry in _many(value):
        if entry not in found:
            found.append(entry)
    return found


_OPERATORS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "$set": lambda old, value: value,
    "$unset": lambda old, value: None,
    "$inc": lambda old, value: _number(0 if old is None else old) + _number(value),
    "$push": _push,
    "$addToSet": _add,
}
_MAKERS: Final[Mapping[str, Callable[[Any, str, Find, Callable[[Any], Any]], Change | None]]] = {
    "InsertOne": _insert,
    "UpdateOne": _update,
    "ReplaceOne": _replace,
    "DeleteOne": _delete,
}


def carried_out(document: Document | None, change: Change) -> Document | None:
    """A document as it is after a change of it; None if there is none then."""
    if isinstance(change, Update):
        changed = copy.deepcopy(document or {})
        for name, value in change.set.items():
            set_field(changed, name, value)
        return changed
    return None if isinstance(change, Delete) else dict(change.document)
