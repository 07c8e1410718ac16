"""The journal on disk.

::

    1f3a5c77 {"seq":0,"kind":"began","time":1700000000.125,"format":2,"transaction":"...","root_id":"...",...}\\n
    ^^^^^^^^ ^
    |        the record: one JSON object, UTF-8, without a newline inside
    CRC-32 (zlib) of the bytes of the JSON object, eight lower-case hex digits, then one space

Every record has `seq` (0, 1, 2 ...) and `kind` (past tense); its other fields are those of the attrs class of that kind below.
`time` (Unix time, seconds) is for people only: clocks differ and jump, so nothing is ever decided by it. Format 1 had no times.
File names that are not UTF-8 are written as lone-surrogate escapes (``surrogateescape``). A last record that is cut short or
fails its checksum is no record; a bad record that is followed by a good one is damage, and nothing in that journal is believed.

A journal is untrusted input: `read_records` checks form, types, sequence and lengths of lists; who uses a path in it must still
check that it lies where the transaction may write.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, Union, get_args

import attrs

from integrator.encoding import decode, encode
from integrator.errors import Stuck

#: Version of the format above.
FORMAT: Final = 2
#: All that can be read.
_READABLE: Final = frozenset({1, FORMAT})


@attrs.frozen(kw_only=True)
class Began:
    """First record: what this transaction is."""

    format: int
    transaction: str
    root_id: str
    engine: str
    #: (plugin name, plugin version) of the publish, in order.
    plugins: list[list[str]]


@attrs.frozen(kw_only=True)
class FoldersMade:
    """Folders that are about to be made, outermost first; written before the first `mkdir`."""

    root: str
    paths: list[str]


@attrs.frozen(kw_only=True)
class Staged:
    """Files that are complete in a staging directory; parallel lists."""

    #: Index of the directory in the transaction's document.
    directory: int
    #: Paths relative to the staging directory.
    names: list[str]
    #: Bytes.
    sizes: list[int]
    inodes: list[int]
    #: copy, hardlink, reflink, symlink, move, write or adopt.
    transfer: str
    #: Absolute paths, [] for what was written or adopted.
    sources: list[str]
    #: Modification times of the sources in ns, [] as above.
    source_times: list[int]
    #: xxh3-128 as hex; "" where none was taken.
    checksums: list[str]


@attrs.frozen(kw_only=True)
class Unstaged:
    """Staged files that a savepoint takes back."""

    directory: int
    names: list[str]


@attrs.frozen(kw_only=True)
class ExchangeIntended:
    """New content for an existing path is about to be written under a private name."""

    number: int
    root: str
    path: str
    private: str


@attrs.frozen(kw_only=True)
class EffectIntended:
    """An outside call is about to be made; durable before it."""

    number: int
    name: str
    arguments: dict[str, Any]


@attrs.frozen(kw_only=True)
class EffectDone:
    """An outside call returned this (JSON) result."""

    number: int
    result: Any


@attrs.frozen(kw_only=True)
class EffectCompensated:
    """An outside call was taken back."""

    number: int


@attrs.frozen(kw_only=True)
class Documented:
    """A document operation that the verdict will carry out."""

    verb: str
    collection: str
    id: Any
    expect: dict[str, Any]
    content: dict[str, Any]


@attrs.frozen(kw_only=True)
class DocumentedPart:
    """Elements of a long array of the `Documented` record before it."""

    field: str
    #: A JSON array.
    elements: Any


@attrs.frozen(kw_only=True)
class Prepared:
    """Everything is verified and durable; identities by index of the directory: [inode, born], [] if it was given up."""

    directories: list[list[int]]
    #: Identities [inode, born, size] of the new content of exchanges, by index.
    exchanges: list[list[int]]


@attrs.frozen(kw_only=True)
class Revealed:
    """A staging directory has its final name."""

    directory: int


@attrs.frozen(kw_only=True)
class Committed:
    """The verdict is in."""


@attrs.frozen(kw_only=True)
class Finished:
    """What the verdict decided is done."""


@attrs.frozen(kw_only=True)
class RolledBack:
    """Everything is undone. `left` names what could not be removed."""

    left: list[str]


Record = Union[
    Began,
    FoldersMade,
    Staged,
    Unstaged,
    ExchangeIntended,
    EffectIntended,
    EffectDone,
    EffectCompensated,
    Documented,
    DocumentedPart,
    Prepared,
    Revealed,
    Committed,
    Finished,
    RolledBack,
]


def _kind(cls: type) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("_")


#: Class of each kind of record.
KINDS: Final[Mapping[str, type[Any]]] = {_kind(cls): cls for cls in get_args(Record)}
_FIELDS: Final = {cls: tuple(field.name for field in attrs.fields(cls)) for cls in KINDS.values()}
_NAMES: Final = {cls: kind for kind, cls in KINDS.items()}
#: Unix time of the year 9999: no clock is later, and every calendar knows it.
LATEST: Final = 253_370_764_800
_TYPES: Final[Mapping[str, type]] = {"int": int, "str": str, "list": list, "dict": dict}


class JournalDamaged(Stuck):
    """A journal is damaged before its end, or is not one."""

    code = "journal_damaged"


def encode_record(record: Record, sequence: int, time: float | None = None) -> bytes:
    """One line of the journal; `time` is when it was written (Unix time)."""
    cls = type(record)
    fields = {name: getattr(record, name) for name in _FIELDS[cls]}
    stamp = {} if time is None else {"time": time}
    text = encode({"seq": sequence, "kind": _NAMES[cls], **stamp, **fields})
    return b"%08x %s\n" % (zlib.crc32(text), text)


def read_records(content: bytes) -> tuple[list[Record], bool]:
    """All records of a journal, and whether a torn end was left out.

    Raises `JournalDamaged` for damage that is not at the end.
    """
    records, _, torn = read_timed(content)
    return records, torn


def read_timed(content: bytes) -> tuple[list[Record], list[float | None], bool]:
    """As `read_records`, with the time (Unix time, by its writer's clock) of each record; None where none was written."""
    records: list[Record] = []
    times: list[float | None] = []
    torn = False
    for line in _lines(content):
        decoded = _decode_line(line, len(records))
        if decoded is None:
            torn = True
        elif torn:
            raise JournalDamaged(f"record {len(records)} is damaged and others follow it")
        else:
            record, time = decoded
            records.append(record)
            times.append(time)
    if records and not isinstance(records[0], Began):
        raise JournalDamaged("the first record does not say what transaction this is")
    if records and isinstance(records[0], Began) and records[0].format not in _READABLE:
        raise JournalDamaged(f"it has format {records[0].format}, this program knows {FORMAT}")
    return records, times, torn


def _lines(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        if end < 0:
            yield content[start:] + b"\x00"  # no newline: cut short, and never valid
            return
        yield content[start:end]
        start = end + 1


def _decode_line(line: bytes, expected: int) -> tuple[Record, float | None] | None:
    """The record of a line and its time, None if the line is not whole. Raises `JournalDamaged` for a whole line out of place."""
    if len(line) < 10 or line[8:9] != b" " or line[:8] != b"%08x" % zlib.crc32(line[9:]):
        return None
    try:
        fields = decode(line[9:])
        cls = KINDS[fields.pop("kind")]
        sequence = fields.pop("seq")
        time = fields.pop("time", None)
        record: Record = cls(**fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise JournalDamaged(f"record {expected} cannot be understood: {error!r}") from error
    if type(sequence) is not int or sequence != expected:  # True and 1.0 equal 1, and nobody writes them
        raise JournalDamaged(f"record {sequence!r} stands where {expected} belongs")
    wrong = _wrong_time(time) or _wrong_type(record) or _wrong_shape(record)
    if wrong:
        raise JournalDamaged(f"record {expected}: {wrong}")
    return record, time


def _wrong_time(time: Any) -> str:
    """What is wrong with the time of a record, "" if nothing is."""
    if time is None or (type(time) in (int, float) and 0 <= time < LATEST):  # not true for NaN
        return ""
    return "time is no time"


def _wrong_type(record: Record) -> str:
    """What is of another type than its class says, "" if nothing is."""
    for field in attrs.fields(type(record)):
        if not _fits(getattr(record, field.name), str(field.type)):
            return f"{field.name} is not {field.type}"
    return ""


def _fits(value: Any, wanted: str) -> bool:
    outer, _, inner = wanted.partition("[")
    if outer not in _TYPES:
        return True
    if outer != "list" or type(value) is not list:
        return type(value) is _TYPES[outer]
    element = inner.removesuffix("]")
    if "[" in element:
        return all(_fits(part, element) for part in value)
    kind = _TYPES[element]
    return all(type(part) is kind for part in value)


def _wrong_shape(record: Record) -> str:
    """What makes a record of the right types one that nobody writes, "" if nothing does."""
    if isinstance(record, (Staged, Unstaged, Revealed)) and record.directory < 0:
        return "directory is negative"  # it would count from the end
    if isinstance(record, Staged):
        count = len(record.names)
        if {len(record.sizes), len(record.inodes), len(record.checksums)} != {count}:
            return "names, sizes, inodes and checksums are not parallel"
        if not len(record.sources) == len(record.source_times) in (0, count):
            return "names, sources and source_times are not parallel"
    if isinstance(record, Prepared):
        if any(len(identity) not in (0, 2) for identity in record.directories):
            return "directories holds something else than [inode, born] and []"
        if any(len(identity) not in (0, 3) for identity in record.exchanges):
            return "exchanges holds something else than [inode, born, size] and []"
    return ""
