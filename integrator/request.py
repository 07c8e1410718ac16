"""The publish request: what a caller wants published, as an immutable value, and the schema that it is read by.

The schema is read strictly: nothing is converted, nothing unknown is accepted, and everything that is wrong is listed
at once with its JSON path. It is read by hand, field by field, because a hostile request may hold a million wrong
values, and has to be refused within a second and without an exception for each of them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

from integrator.errors import Problem, RequestRefused
from integrator.frames import frame_spans
from integrator.layout import NamePolicy, collision_key, kind_of
from integrator.model import Document

SCHEMA = "integrator:publish-request-1.0"

TRANSFERS = ("copy", "hardlink", "reflink", "symlink", "move")
CHECKSUMS = ("none", "copied", "all")
MISSING_FRAMES = ("refuse", "allow")

#: Longest text of a request, in bytes.
MOST_BYTES = 16 * 2**20
#: Deepest nesting of lists and objects.
MOST_LEVELS = 64
#: Most values, counting those inside lists and objects.
MOST_VALUES = 500_000
#: Reading stops after this many problems.
MOST_PROBLEMS = 200
#: Files that a request which is kept for `resume` may list one by one.
_MOST_KEPT = 2000
#: Highest version number.
MOST_VERSION = 999_999_999

_PUBLISH_ID = re.compile(r"[A-Za-z0-9_.:/@+-]{1,200}")

# --- values -----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class TaskRequest:
    """The task that a publish instance comes from."""

    #: Name of the task.
    name: str
    #: Its type, such as ``Lighting``.
    type: str = ""
    #: Short name of the type, for templates.
    short: str = ""


@attrs.frozen(kw_only=True)
class ResourceRequest:
    """Files or folders that go along with a version and are no representation."""

    #: Source paths; folders are taken with all they hold.
    files: tuple[str, ...]
    #: Folder in the version directory, as a relative POSIX path.
    folder: str = "resources"


@attrs.frozen(kw_only=True)
class RepresentationRequest:
    """One form of what is published: a file, a sequence, a set of UDIM tiles."""

    #: Name of the representation.
    name: str
    #: Source paths: one file, one pattern, or the files of one sequence; may start with ``{root[NAME]}/``.
    files: tuple[str, ...]
    #: Frames that are wanted, as ``1001-1048``; None for those that are found.
    frames: str | None = None
    #: Whether missing frames are refused or left out (`MISSING_FRAMES`); None for what the settings say.
    missing_frames: str | None = None
    #: Number that the first frame gets; None keeps the numbers.
    start_frame: int | None = None
    #: How files reach the version directory (`TRANSFERS`); None for what the settings say.
    transfer: str | None = None
    #: Part of the file name that tells this representation from others with the same extension.
    output: str = ""
    #: Tags to be stored.
    tags: tuple[str, ...] = ()
    #: Stored as it is.
    data: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class InstanceRequest:
    """One publish instance: one version of one subset."""

    #: Name of the asset.
    asset: str
    #: Folders above the asset, joined by ``/``; "" for none.
    hierarchy: str = ""
    #: Name of the subset.
    subset: str
    #: Family, which templates may use.
    family: str
    #: Further families.
    families: tuple[str, ...] = ()
    #: Task, if there is one.
    task: TaskRequest | None = None
    #: Number of the new version; None for the next one.
    version: int | None = None
    #: Number of the existing version to amend; None for a new version.
    amend: int | None = None
    #: Whether the hero version follows.
    hero: bool = False
    #: Name of the template in the settings; "" for the default.
    template: str = ""
    #: Folder that relative source paths start from; "" when there are none.
    staging_dir: str = ""
    #: Ids of the versions that went into this one.
    inputs: tuple[str, ...] = ()
    #: Files that go along.
    resources: tuple[ResourceRequest, ...] = ()
    #: What is published.
    representations: tuple[RepresentationRequest, ...] = ()
    #: Stored as it is.
    data: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def place(self) -> tuple[str, str, str]:
        """Hierarchy, asset and subset: what tells it from the other publish instances of its request."""
        return self.hierarchy, self.asset, self.subset


@attrs.frozen(kw_only=True)
class PublishRequest:
    """Everything that one transaction is to publish."""

    #: Name of the project.
    project: str
    #: Id under which this is published once; None for an id made for this run.
    publish_id: str | None = None
    #: Who made it.
    author: str = ""
    #: What the author says about it.
    comment: str = ""
    #: What gets a checksum (`CHECKSUMS`); None for what the settings say.
    checksum: str | None = None
    #: Workfile that it was made from.
    source: str = ""
    #: What it is meant for.
    intent: str = ""
    #: Machine that it was made on.
    machine: str = ""
    #: Login name of who made it.
    user: str = ""
    #: At least one.
    instances: tuple[InstanceRequest, ...]

    def fingerprint(self) -> str:
        """Hex digest of what is published, to tell "the same again" from "the same id for something else".

        Who runs it is left out (`publish_id`, `machine`, `user`): a retry may come from another machine.
        """
        document = to_document(self)
        for key in ("publish_id", "machine", "user"):
            del document[key]
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), default=dict)
        return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()

    def destination(self) -> str:
        """Hex digest of where this is published, whatever the files: what a reservation and its publish have in common."""
        named = ("asset", "hierarchy", "subset", "family", "version", "amend", "hero", "template")
        places = [{name: getattr(instance, name) for name in named} for instance in self.instances]
        text = json.dumps([self.project, places], sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def to_document(request: PublishRequest) -> Document:
    """The request as a JSON object of the schema, every default spelled out; `parse_request` reads it back."""
    return {"schema": SCHEMA, **_plain(request)}


def repeatable(request: PublishRequest) -> Document | None:
    """The request as the transaction keeps it, so that it can be resumed; None for one that lists very many files."""
    listed = sum(len(entry.files) for instance in request.instances for entry in instance.representations)
    if listed > _MOST_KEPT:
        return None
    document = to_document(request)
    for instance in document["instances"]:
        if instance["staging_dir"] and not instance["staging_dir"].startswith(("/", "{")):
            instance["staging_dir"] = os.path.abspath(instance["staging_dir"])  # it may be resumed elsewhere
    return document


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        return {field.name: _plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def parse_request(
    source: str | bytes | Mapping[str, object] | PublishRequest, policy: NamePolicy | None = None
) -> PublishRequest:
    """The request that `source` holds: JSON text, a mapping of the same shape, or a request to be looked at once more.

    Raises `RequestRefused` with every problem and its JSON path (after `MOST_PROBLEMS` of them, with those). Names must
    pass `policy`, the default one when None.
    """
    reading = _Reading(policy=policy or NamePolicy(), problems=[])
    try:
        if isinstance(source, PublishRequest):
            source = to_document(source)
        document = _load(source, reading) if isinstance(source, (str, bytes)) else source
        plain = _Plain(reading).copy(document)
        request = plain if plain is _WRONG else _read_request(reading, plain)
    except _Enough:
        request = _WRONG
    if reading.problems:
        raise RequestRefused(reading.problems)
    assert isinstance(request, PublishRequest), "a value that was not reported"
    return request


# --- reading ----------------------------------------------------------------------------------------------------------


class _Enough(Exception):
    """Reading on is of no use."""


#: Stands in for a value that was reported.
_WRONG: Any = object()

# Reads one value at one JSON path, reports what is wrong with it, and answers `_WRONG` then.
Reader = Callable[["_Reading", object, str], Any]


@attrs.frozen(kw_only=True)
class _Reading:
    """One run over one request."""

    policy: NamePolicy
    problems: list[Problem]

    def wrong(self, where: str, what: str) -> Any:
        """Report a problem; the answer stands in for the value. Raises `_Enough` when there are enough."""
        self.problems.append(Problem(where, what))
        if len(self.problems) >= MOST_PROBLEMS:
            self.problems.append(Problem("$", f"more than {MOST_PROBLEMS} problems; reading stopped here"))
            raise _Enough
        return _WRONG

    def stop(self, where: str, what: str) -> _Enough:
        """Report a problem after which reading on is of no use."""
        self.problems.append(Problem(where, what))
        return _Enough()


class _Repeated(dict[str, object]):
    """An object whose text names a key twice."""

    key = ""


def _load(source: str | bytes, reading: _Reading) -> object:
    size = len(source.encode("utf-8", "surrogatepass")) if isinstance(source, str) else len(source)
    if size > MOST_BYTES:
        raise reading.stop("$", f"is larger than {MOST_BYTES // 2**20} MiB")
    try:
        # Editors on Windows put a byte order mark in front.
        text = (source.decode("utf-8") if isinstance(source, bytes) else source).removeprefix("\ufeff")
        # A rough count (texts may hold these, too) that keeps the memory of what is refused anyway within bounds.
        if sum(map(text.count, "[{,")) > 4 * MOST_VALUES:
            raise reading.stop("$", f"holds more than {MOST_VALUES} values")
        return json.loads(text, object_pairs_hook=_pairs, parse_int=_integer_text)
    except UnicodeDecodeError as error:
        raise reading.stop("$", f"is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise reading.stop("$", f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise reading.stop("$", f"is nested more than {MOST_LEVELS} levels deep") from None


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = _Repeated(found)
    repeated.key = Counter(key for key, _ in pairs).most_common(1)[0][0]
    return repeated


def _integer_text(text: str) -> int | float:
    # Python refuses or slowly reads thousands of digits. Infinity is refused later, where its path is known.
    return int(text) if len(text) <= 20 else math.inf


class _Plain:
    """Copies a request into plain dicts and lists, and looks at what holds for every value wherever it stands.

    One instance copies one request: it counts the values.
    """

    def __init__(self, reading: _Reading) -> None:
        self._reading = reading
        self._values = 0

    def copy(self, value: object, where: str = "$", level: int = 0) -> object:
        self._values += 1
        if self._values > MOST_VALUES:
            raise self._reading.stop("$", f"holds more than {MOST_VALUES} values")
        if value is None or isinstance(value, (str, bool)):
            return value
        if isinstance(value, (int, float)):
            return self._number(value, where)
        if not isinstance(value, (Mapping, list, tuple)):
            return self._reading.wrong(where, f"must be a JSON value, not {kind_of(value)}")
        if level >= MOST_LEVELS:
            raise self._reading.stop(where[:200], f"is nested more than {MOST_LEVELS} levels deep")
        if isinstance(value, Mapping):
            return self._object(value, where, level)
        return [self.copy(entry, f"{where}[{index}]", level + 1) for index, entry in enumerate(value)]

    def _number(self, value: int | float, where: str) -> object:
        if isinstance(value, float) and not math.isfinite(value):
            return self._reading.wrong(where, "must be a finite number of at most 64 bits")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return self._reading.wrong(where, "must be a finite number of at most 64 bits")
        return value

    def _object(self, value: Mapping[Any, object], where: str, level: int) -> dict[str, object]:
        if isinstance(value, _Repeated):
            self._reading.wrong(where, f"holds the key {value.key[:80]!r} twice")
        copied = {}
        for key, entry in value.items():
            if isinstance(key, str):
                copied[key] = self.copy(entry, _below(where, key), level + 1)
            else:
                self._reading.wrong(where, f"has a key that is {kind_of(key)}, not text")
        return copied


def _below(where: str, key: str) -> str:
    if key.isidentifier() and key.isascii():
        return f"{where}.{key[:80]}"
    return f"{where}[{json.dumps(key[:80])}]"


def _read_object(
    cls: type[Any], readers: Mapping[str, Reader], also: Sequence[str], reading: _Reading, value: object, where: str
) -> Any:
    """An instance of `cls` read from a JSON object; `also` are keys that somebody else looks at."""
    if not isinstance(value, dict):
        return _wrong_kind(reading, where, "an object", value)
    for key in value:
        if key not in readers and key not in also:
            reading.wrong(_below(where, key), "is not known")
    read: dict[str, Any] = {}
    for field in attrs.fields(cls):
        if field.name in value:
            read[field.name] = _read(readers[field.name], reading, value[field.name], f"{where}.{field.name}")
        elif field.default is attrs.NOTHING:
            read[field.name] = reading.wrong(f"{where}.{field.name}", "is missing")
    return _WRONG if any(entry is _WRONG for entry in read.values()) else cls(**read)


def _read(read: Reader, reading: _Reading, value: object, where: str) -> Any:
    return _WRONG if value is _WRONG else read(reading, value, where)


def _wrong_kind(reading: _Reading, where: str, wanted: str, value: object) -> Any:
    return reading.wrong(where, f"must be {wanted}, not {kind_of(value)}")


def _text(reading: _Reading, value: object, where: str) -> Any:
    if not isinstance(value, str):
        return _wrong_kind(reading, where, "text", value)
    found = _text_problem(value)
    return reading.wrong(where, found) if found else value


def _text_problem(value: str) -> str:
    if "\0" in value:
        return "contains a NUL character"
    return "" if value.isascii() or not _SURROGATE.search(value) else "contains bytes that are not UTF-8"


_SURROGATE = re.compile("[\ud800-\udfff]")


def _full_text(reading: _Reading, value: object, where: str) -> Any:
    return reading.wrong(where, "is empty") if value == "" else _text(reading, value, where)


def _path(reading: _Reading, value: object, where: str) -> Any:
    """A path on this machine, empty or with any bytes that a file name may have."""
    if not isinstance(value, str):
        return _wrong_kind(reading, where, "text", value)
    if "\0" in value:
        return reading.wrong(where, "contains a NUL character")
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return reading.wrong(where, "contains characters that no file name can have")
    return value


def _source(reading: _Reading, value: object, where: str) -> Any:
    return reading.wrong(where, "is empty") if value == "" else _path(reading, value, where)


def _name(reading: _Reading, value: object, where: str) -> Any:
    found = reading.policy.problem(value)
    return reading.wrong(where, found) if found else str(value)


def _name_or_empty(reading: _Reading, value: object, where: str) -> Any:
    return "" if value == "" else _name(reading, value, where)


def _component_or_empty(reading: _Reading, value: object, where: str) -> Any:
    found = "" if value == "" else reading.policy.component_problem(value)
    return reading.wrong(where, found) if found else str(value)


def _hierarchy(reading: _Reading, value: object, where: str) -> Any:
    found = reading.policy.hierarchy_problem(value)
    return reading.wrong(where, found) if found else str(value)


def _folder(reading: _Reading, value: object, where: str) -> Any:
    return reading.wrong(where, "is empty") if value == "" else _hierarchy(reading, value, where)


def _publish_id(reading: _Reading, value: object, where: str) -> Any:
    if not isinstance(value, str):
        return _wrong_kind(reading, where, "text", value)
    if not _PUBLISH_ID.fullmatch(value):
        return reading.wrong(where, "must have 1 to 200 characters out of letters, digits and _.:/@+-")
    return value


def _frames(reading: _Reading, value: object, where: str) -> Any:
    if not isinstance(value, str):
        return _wrong_kind(reading, where, "text", value)
    try:
        frame_spans(value)
    except ValueError as error:
        return reading.wrong(where, str(error))
    return value


def _integer(lowest: int, highest: int) -> Reader:
    def read(reading: _Reading, value: object, where: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int):
            return _wrong_kind(reading, where, "a whole number", value)
        if not lowest <= value <= highest:
            return reading.wrong(where, f"must be between {lowest} and {highest}")
        return value

    return read


def _boolean(reading: _Reading, value: object, where: str) -> Any:
    return value if isinstance(value, bool) else _wrong_kind(reading, where, "true or false", value)


def _one_of(choices: Sequence[str]) -> Reader:
    def read(reading: _Reading, value: object, where: str) -> Any:
        if isinstance(value, str) and value in choices:
            return value
        return reading.wrong(where, f"must be one of {', '.join(choices)}")

    return read


def _or_null(read: Reader) -> Reader:
    return lambda reading, value, where: None if value is None else read(reading, value, where)


def _list(read: Reader, *, filled: bool = False) -> Reader:
    def read_all(reading: _Reading, value: object, where: str) -> Any:
        if not isinstance(value, list):
            return _wrong_kind(reading, where, "a list", value)
        if filled and not value:
            return reading.wrong(where, "must not be empty")
        found = tuple([_read(read, reading, entry, f"{where}[{index}]") for index, entry in enumerate(value)])
        return _WRONG if any(entry is _WRONG for entry in found) else found

    return read_all


def _data(reading: _Reading, value: object, where: str) -> Any:
    """An object that is stored as it is: any JSON that a database can keep."""
    if not isinstance(value, dict):
        return _wrong_kind(reading, where, "an object", value)
    known = len(reading.problems)
    _check_data(reading, value, where)
    return value if len(reading.problems) == known else _WRONG


def _check_data(reading: _Reading, value: object, where: str) -> Any:
    if isinstance(value, str):
        _text(reading, value, where)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _check_data(reading, entry, f"{where}[{index}]")
    elif isinstance(value, dict):
        for key, entry in value.items():
            # Operators and typed values ($ne, $oid) are spelled like this: stored, it would come back as another value.
            found = "is a key that starts with '$'" if key.startswith("$") else _text_problem(key)
            if found:
                reading.wrong(_below(where, key), found)
            _check_data(reading, entry, _below(where, key))


# --- the schema -------------------------------------------------------------------------------------------------------


def _reader(cls: type[Any], readers: Mapping[str, Reader], *also: str) -> Reader:
    return functools.partial(_read_object, cls, MappingProxyType(dict(readers)), also)


_TASK = _reader(TaskRequest, {"name": _name, "type": _component_or_empty, "short": _name_or_empty})

_RESOURCE = _reader(ResourceRequest, {"files": _list(_source, filled=True), "folder": _folder})

_REPRESENTATION = _reader(
    RepresentationRequest,
    {
        "name": _name,
        "files": _list(_source, filled=True),
        "frames": _or_null(_frames),
        "missing_frames": _or_null(_one_of(MISSING_FRAMES)),
        "start_frame": _or_null(_integer(-MOST_VERSION, MOST_VERSION)),
        "transfer": _or_null(_one_of(TRANSFERS)),
        "output": _name_or_empty,
        "tags": _list(_full_text),
        "data": _data,
    },
)


def _read_instance(reading: _Reading, value: object, where: str) -> Any:
    instance = _INSTANCE_FIELDS(reading, value, where)
    if not isinstance(value, dict):
        return instance
    if not value.get("representations") and not value.get("resources"):
        reading.wrong(where, "needs at least one representation or resource")
    if value.get("version") is not None and value.get("amend") is not None:
        reading.wrong(f"{where}.amend", "cannot stand beside a version: it names the version itself")
    _check_distinct(reading, value.get("representations"), ("name",), f"{where}.representations")
    return instance


_INSTANCE_FIELDS = _reader(
    InstanceRequest,
    {
        "asset": _name,
        "hierarchy": _hierarchy,
        "subset": _name,
        "family": _name,
        "families": _list(_full_text),
        "task": _or_null(_TASK),
        "version": _or_null(_integer(0, MOST_VERSION)),
        "amend": _or_null(_integer(0, MOST_VERSION)),
        "hero": _boolean,
        "template": _name_or_empty,
        "staging_dir": _path,
        "inputs": _list(_full_text),
        "resources": _list(_RESOURCE),
        "representations": _list(_REPRESENTATION),
        "data": _data,
    },
)

_REQUEST_FIELDS = _reader(
    PublishRequest,
    {
        "project": _name,
        "publish_id": _or_null(_publish_id),
        "author": _text,
        "comment": _text,
        "checksum": _or_null(_one_of(CHECKSUMS)),
        "source": _text,
        "intent": _text,
        "machine": _text,
        "user": _text,
        "instances": _list(_read_instance, filled=True),
    },
    "schema",
)


def _read_request(reading: _Reading, document: object) -> Any:
    if not isinstance(document, dict):
        return _wrong_kind(reading, "$", "an object", document)
    schema = document.get("schema")
    if schema != SCHEMA:
        reading.wrong("$.schema", f"must be {SCHEMA!r}" if "schema" in document else f"is missing; it must be {SCHEMA!r}")
    _check_distinct(reading, document.get("instances"), ("hierarchy", "asset", "subset"), "$.instances")
    return _REQUEST_FIELDS(reading, document, "$")


def _check_distinct(reading: _Reading, entries: object, keys: Sequence[str], where: str) -> None:
    """Report entries that say the same under `keys`, by the rules of the least precise file system."""
    seen: dict[tuple[str, ...], int] = {}
    for index, words in _identities(entries, keys):
        first = seen.setdefault(words, index)
        if first != index:
            reading.wrong(f"{where}[{index}]", f"has the same {', '.join(keys)} as {where}[{first}]")


def _identities(entries: object, keys: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Position and comparable words of those entries that have all `keys`; ``hierarchy`` is "" by default."""
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        words = {"hierarchy": "", **entry} if isinstance(entry, dict) else {}
        if all(isinstance(words.get(key), str) for key in keys):
            yield index, tuple(collision_key(words[key]) for key in keys)
