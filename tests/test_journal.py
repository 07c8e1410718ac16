"""Journals: what was written is read back, and nothing else ever is."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrator.journal import Journal, JournalDamaged, Journals
from integrator.journal.format import (
    FORMAT,
    KINDS,
    Began,
    Committed,
    Documented,
    DocumentedPart,
    EffectCompensated,
    EffectDone,
    EffectIntended,
    ExchangeIntended,
    Finished,
    FoldersMade,
    Prepared,
    Record,
    Revealed,
    RolledBack,
    Staged,
    Unstaged,
    encode_record,
    read_records,
    read_timed,
)
from integrator.storage import Storage
from integrator.testing import CrashingStorage, Fate, Killed

ID = "65a1b2c3d4e5f60718293a4b"
OTHER = "65a1b2c3d4e5f60718293a4c"
BEGAN = Began(format=FORMAT, transaction=ID, root_id="root", engine="0.1.0", plugins=[["integrate", "1.0"]])

#: What a journal of one version, one exchange and one effect held when format 1 was made, file names in Latin-1 included.
GOLDEN = Path(__file__).parent / "golden" / "journal-1.journal"
#: The same in format 2, whose records have times.
GOLDEN_2 = Path(__file__).parent / "golden" / "journal-2.journal"
GOLDEN_RECORDS: list[Record] = [
    Began(format=1, transaction=ID, root_id="f00d", engine="0.1.0", plugins=[["collect", "1.0"], ["integrate", "2.3"]]),
    FoldersMade(root="work", paths=["demo/sh010", "demo/sh010/publish"]),
    Staged(
        directory=0,
        names=["beauty.1001.exr", "caf\udce9.exr"],
        sizes=[0, 2**53 + 1],
        inodes=[12, 18446744073709551615],
        transfer="copy",
        sources=["/render/beauty.1001.exr", "/render/caf\udce9.exr"],
        source_times=[1700000000000000001, -1],
        checksums=["99aa06d3014798d86001c324468d497f", ""],
    ),
    Unstaged(directory=0, names=["caf\udce9.exr"]),
    ExchangeIntended(number=1, root="work", path="demo/édit.json", private="demo/.integrator/trash/x.1.1"),
    EffectIntended(
        number=2, name="tracker.create", arguments={"name": 'quote " and \n line', "deep": [{"a": [None, True, 0.5]}]}
    ),
    EffectDone(number=2, result={"id": "T-1"}),
    EffectCompensated(number=2),
    Documented(verb="insert", collection="project:demo", id={"$oid": OTHER}, expect={}, content={"name": 3, "files": []}),
    DocumentedPart(field="files", elements=[{"path": "{root[work]}/caf\udce9.exr"}]),
    Prepared(directories=[[77, 1700000000000000002]], exchanges=[[78, 0, 11]]),
    Revealed(directory=0),
    Committed(),
    Finished(),
    RolledBack(left=["demo/.nfs0001"]),
]
GOLDEN_2_RECORDS: list[Record] = [
    attrs.evolve(record, format=2) if isinstance(record, Began) else record for record in GOLDEN_RECORDS
]
GOLDEN_2_TIMES: list[float | None] = [1700000000.125 + n / 4 for n in range(len(GOLDEN_RECORDS))]


def _encoded(records: list[Record]) -> bytes:
    return b"".join(encode_record(record, n) for n, record in enumerate(records))


def _lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def _line(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


# --- the format -------------------------------------------------------------------------------------------------------


def test_the_golden_journal_reads_as_it_did_when_it_was_written() -> None:
    assert read_timed(GOLDEN.read_bytes()) == (GOLDEN_RECORDS, [None] * len(GOLDEN_RECORDS), False)


def test_the_golden_journal_with_times_reads_as_it_did_when_it_was_written() -> None:
    assert read_timed(GOLDEN_2.read_bytes()) == (GOLDEN_2_RECORDS, GOLDEN_2_TIMES, False)


def test_the_golden_journal_is_what_is_written_today() -> None:
    """A format that changed under the same number would make old programs misread new journals."""
    lines = [encode_record(record, n, time) for n, (record, time) in enumerate(zip(GOLDEN_2_RECORDS, GOLDEN_2_TIMES))]
    assert b"".join(lines) == GOLDEN_2.read_bytes()


def test_what_is_written_has_the_time_of_its_writing(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    journals, before = Journals(Storage(), str(tmp_path)), time.time()
    journal = journals.create(ID, BEGAN, 0o664)
    journal.write(Committed())
    journal.flush()
    journal.close()
    found = journals.read(ID).times
    assert len(found) == 2
    assert all(stamp is not None and before - 0.001 <= stamp <= time.time() + 0.001 for stamp in found)


@pytest.mark.parametrize("wrong", ["true", '"now"', "-1", "1e300", "NaN", "[]"])
def test_a_time_that_is_none_is_refused(wrong: str) -> None:
    text = f'{{"seq":1,"kind":"committed","time":{wrong}}}'.encode()
    with pytest.raises(JournalDamaged, match="time is no time"):
        read_records(encode_record(BEGAN, 0) + b"%08x %s\n" % (zlib.crc32(text), text))


def test_the_golden_journal_has_every_kind_of_record() -> None:
    assert {type(record) for record in GOLDEN_RECORDS} == set(KINDS.values())


def test_a_line_is_a_checksum_a_space_and_one_json_object() -> None:
    (line,) = _lines(encode_record(Revealed(directory=3), 7))
    assert line == b'%08x {"seq":7,"kind":"revealed","directory":3}\n' % zlib.crc32(line[9:-1])


def test_a_newline_in_a_value_does_not_end_the_line() -> None:
    content = _encoded([BEGAN, FoldersMade(root="work", paths=["a\nb", "c\r\u2028d\0"])])
    assert content.count(b"\n") == 2
    assert read_records(content)[0][1] == FoldersMade(root="work", paths=["a\nb", "c\r\u2028d\0"])


TEXT = st.text(st.one_of(st.characters(), st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)), max_size=12)
INTEGERS = st.integers(-(2**63), 2**64 - 1)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "int": INTEGERS,
    "str": TEXT,
    "list[str]": st.lists(TEXT, max_size=4),
    "list[int]": st.lists(INTEGERS, max_size=4),
    "list[list[str]]": st.lists(st.lists(TEXT, max_size=2), max_size=2),
    "list[list[int]]": st.lists(st.lists(INTEGERS, max_size=3), max_size=2),
    "dict[str, Any]": st.dictionaries(TEXT, JSON, max_size=3),
    "Any": JSON,
}
#: What is narrower than its type.
NARROW: dict[tuple[type, str], st.SearchStrategy[Any]] = {
    **{(cls, "directory"): st.integers(0, 2**64 - 1) for cls in (Unstaged, Revealed)},
    (Prepared, "directories"): st.lists(st.lists(INTEGERS, min_size=2, max_size=2) | st.just([]), max_size=2),
    (Prepared, "exchanges"): st.lists(st.lists(INTEGERS, min_size=3, max_size=3) | st.just([]), max_size=2),
}


def _staged(count: int) -> st.SearchStrategy[Staged]:
    texts, numbers = (st.lists(one, min_size=count, max_size=count) for one in (TEXT, INTEGERS))
    whole = st.builds(
        Staged, directory=st.integers(0, 9), names=texts, sizes=numbers, inodes=numbers, transfer=TEXT, sources=texts,
        source_times=numbers, checksums=texts,
    )  # fmt: skip
    return whole | whole.map(lambda staged: attrs.evolve(staged, sources=[], source_times=[]))


def _any_record(cls: type[Any]) -> st.SearchStrategy[Any]:
    if cls is Staged:
        return st.integers(0, 4).flatmap(_staged)
    return st.builds(cls, **{field.name: NARROW.get((cls, field.name), FIELDS[str(field.type)]) for field in attrs.fields(cls)})


RECORDS: st.SearchStrategy[Record] = st.one_of(*map(_any_record, KINDS.values()))


@given(st.lists(RECORDS, max_size=8))
@settings(max_examples=150, deadline=None)
def test_every_record_comes_back_as_it_was_written(records: list[Record]) -> None:
    assert read_records(_encoded([BEGAN, *records])) == ([BEGAN, *records], False)


# --- damage -----------------------------------------------------------------------------------------------------------


def _small() -> list[Record]:
    names = ["b.exr", "caf\udce9"]
    staged = Staged(
        directory=0, names=names, sizes=[1, 2], inodes=[3, 4], transfer="write", sources=[], source_times=[], checksums=["", ""]
    )
    return [BEGAN, staged, Revealed(directory=0), Committed()]


def test_a_journal_cut_anywhere_is_a_prefix() -> None:
    """Whatever a crash leaves of the file: the records that are whole, and no others."""
    records = _small()
    content = _encoded(records)
    ends = [sum(map(len, _lines(content)[:n])) for n in range(len(records) + 1)]
    for length in range(len(content) + 1):
        whole = sum(end <= length for end in ends) - 1
        assert read_records(content[:length]) == (records[:whole], length not in ends)


def test_a_cut_journal_that_is_filled_with_zeros_is_a_prefix() -> None:
    """What a file system leaves where the length became durable before the content."""
    records = _small()
    content = _encoded(records)
    for length in range(len(content)):
        found, torn = read_records(content[:length] + bytes(len(content) - length))
        assert found == records[: len(found)]
        assert torn


def test_every_flipped_bit_is_seen() -> None:
    """A flip in the last record (or of the newline before it) tears the end off; any other is damage. Never another record."""
    records = _small()
    content = _encoded(records)
    last = len(content) - len(_lines(content)[-1]) - 1
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found, torn = read_records(bytes(flipped))
        except JournalDamaged:
            assert bit // 8 < last
        else:
            assert bit // 8 >= last
            assert torn
            assert found in (records[:-1], records[:-2])


@pytest.mark.parametrize("gone", range(3))
def test_a_missing_record_is_damage(gone: int) -> None:
    lines = _lines(_encoded(_small()))
    del lines[gone]
    with pytest.raises(JournalDamaged):
        read_records(b"".join(lines))


@pytest.mark.parametrize("n", range(4))
def test_a_replayed_record_is_damage(n: int) -> None:
    lines = _lines(_encoded(_small()))
    for place in range(len(lines) + 1):
        with pytest.raises(JournalDamaged):
            read_records(b"".join([*lines[:place], lines[n], *lines[place:]]))


def test_records_out_of_order_are_damage() -> None:
    lines = _lines(_encoded(_small()))
    lines[1], lines[2] = lines[2], lines[1]
    with pytest.raises(JournalDamaged):
        read_records(b"".join(lines))


def test_two_journals_in_one_file_are_damage() -> None:
    content = _encoded(_small())
    for cut in range(1, 4):
        with pytest.raises(JournalDamaged):
            read_records(b"".join(_lines(content)[:cut]) + content)


def test_a_torn_record_with_others_behind_it_is_damage() -> None:
    lines = _lines(_encoded(_small()))
    for n in range(3):
        torn = [*lines[:n], lines[n][:-10] + b"\n", *lines[n + 1 :]]
        with pytest.raises(JournalDamaged):
            read_records(b"".join(torn))


def test_junk_before_the_record_that_belongs_there_is_damage() -> None:
    """The sequence alone would not tell: the record after the junk has the number that is expected."""
    lines = _lines(_encoded(_small()))
    for n in range(4):
        with pytest.raises(JournalDamaged):
            read_records(b"".join([*lines[:n], b"junk\n", *lines[n:]]))


def test_the_first_record_must_say_what_it_is() -> None:
    for first in _small()[1:]:
        with pytest.raises(JournalDamaged):
            read_records(_encoded([first]))


@pytest.mark.parametrize("format", [0, 3, -1, 10**9])
def test_another_format_is_not_guessed_at(format: int) -> None:
    with pytest.raises(JournalDamaged, match="format"):
        read_records(_encoded([attrs.evolve(BEGAN, format=format), Committed()]))


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n\n", b"x", bytes(4096), b"x" * 3_000_000, b"00000000 \n"])
def test_what_is_no_journal_has_no_records(content: bytes) -> None:
    assert read_records(content) == ([], bool(content))


def test_a_huge_line_is_only_long() -> None:
    record = FoldersMade(root="work", paths=["x" * 20_000_000])
    content = _encoded([BEGAN, record])
    assert read_records(content) == ([BEGAN, record], False)
    assert read_records(content[:-2]) == ([BEGAN], True)


# --- a journal is untrusted input -------------------------------------------------------------------------------------


def _forged(text: bytes) -> bytes:
    """A journal whose second record has the right checksum over whatever `text` is."""
    return encode_record(BEGAN, 0) + _line(text)


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[]",
        b"null",
        b"1",
        b'"revealed"',
        b"{",
        b"\xff\xfe",
        b'{"seq":1}',
        b'{"seq":1,"kind":"unheard_of"}',
        b'{"seq":1,"kind":null}',
        b'{"seq":1,"kind":["revealed"],"directory":0}',
        b'{"seq":1,"kind":{},"directory":0}',
        b'{"kind":"revealed","directory":0}',
        b'{"seq":1,"kind":"revealed"}',
        b'{"seq":1,"kind":"revealed","directory":0,"more":1}',
        b'{"seq":"1","kind":"revealed","directory":0}',
        b'{"seq":null,"kind":"revealed","directory":0}',
        b'{"seq":2,"kind":"revealed","directory":0}',
        b'{"seq":0,"kind":"revealed","directory":0}',
        b'{"seq":-1,"kind":"revealed","directory":0}',
        b'{"seq":1,"kind":"__class__"}',
        b'{"seq":1,"kind":"Revealed","directory":0}',
        b'{"seq":1,"kind":"revealed","directory":' + b"9" * 5000 + b"}",
        b'{"seq":1,"kind":"effect_done","number":1,"result":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"seq":1,"kind":"effect_done","number":1,"result":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}",
    ],
    ids=lambda text: text[:50],
)
def test_a_forged_record_is_damage(text: bytes) -> None:
    with pytest.raises(JournalDamaged):
        read_records(_forged(text))


@pytest.mark.parametrize("sequence", [b"true", b"1.0"])
def test_a_sequence_number_of_another_type_is_damage(sequence: bytes) -> None:
    with pytest.raises(JournalDamaged):
        read_records(_forged(b'{"seq":%s,"kind":"revealed","directory":0}' % sequence))


def test_deep_nesting_is_read_as_far_as_it_can_be_written() -> None:
    value: Any = 1
    for _ in range(100):
        value = [{"a": value}]
    assert read_records(_encoded([BEGAN, EffectDone(number=1, result=value)]))[0][1] == EffectDone(number=1, result=value)


WRONG: dict[str, list[Any]] = {
    "int": [None, True, 1.0, "1", [1], {}],
    "str": [None, 1, ["x"], {}, True],
    "list": [None, 1, "x", {}],
    "dict": [None, 1, "x", []],
}
ELEMENTS: dict[str, list[Any]] = {
    "int": [None, True, 1.5, "1", [1], {}],
    "str": [None, 1, ["x"], {}],
    "list": [None, 1, "x", {}],
}
SAMPLES = {type(record): record for record in GOLDEN_RECORDS}


def _wrong_values() -> Iterator[tuple[type, str, Any]]:
    for cls in KINDS.values():
        for field in attrs.fields(cls):
            outer, _, inner = str(field.type).partition("[")
            for value in WRONG.get(outer, []):
                yield cls, field.name, value
            if outer == "list":
                good = getattr(SAMPLES[cls], field.name)
                for element in ELEMENTS[inner.rstrip("]").partition("[")[0]]:
                    yield cls, field.name, [*good, element]


@pytest.mark.parametrize(("cls", "name", "value"), list(_wrong_values()))
def test_a_value_of_another_type_is_damage(cls: type, name: str, value: Any) -> None:
    wrong = attrs.evolve(SAMPLES[cls], **{name: value})  # type: ignore[type-var]
    place = 0 if cls is Began else 1
    with pytest.raises(JournalDamaged):
        read_records(_encoded([BEGAN, wrong]) if place else _encoded([wrong]))


@pytest.mark.parametrize("inner", [["77", 1], [None], [[1]], [1.5, 2], [{}]])
def test_a_value_of_another_type_in_an_inner_list_is_damage(inner: list[Any]) -> None:
    with pytest.raises(JournalDamaged):
        read_records(_encoded([BEGAN, Prepared(directories=[inner], exchanges=[])]))


@pytest.mark.parametrize("name", ["names", "sizes", "inodes", "sources", "source_times", "checksums"])
def test_parallel_lists_of_different_length_are_damage(name: str) -> None:
    whole = getattr(GOLDEN_RECORDS[2], name)
    for wrong in ([], whole[:1], [*whole, whole[0]]):
        staged = attrs.evolve(GOLDEN_RECORDS[2], **{name: wrong})  # type: ignore[type-var]
        with pytest.raises(JournalDamaged, match="parallel"):
            read_records(_encoded([BEGAN, staged]))


def test_what_was_written_has_no_sources() -> None:
    staged = attrs.evolve(GOLDEN_RECORDS[2], sources=[], source_times=[])  # type: ignore[type-var]
    assert read_records(_encoded([BEGAN, staged])) == ([BEGAN, staged], False)


@pytest.mark.parametrize("place", [2, 3, 11])
def test_a_directory_that_counts_from_the_end_is_damage(place: int) -> None:
    record = attrs.evolve(GOLDEN_RECORDS[place], directory=-1)  # type: ignore[type-var]
    with pytest.raises(JournalDamaged, match="directory"):
        read_records(_encoded([BEGAN, record]))


@pytest.mark.parametrize(("directories", "exchanges"), [([[1]], []), ([[1, 2, 3]], []), ([], [[1, 2]]), ([], [[1, 2, 3, 4]])])
def test_an_identity_of_another_length_is_damage(directories: Any, exchanges: Any) -> None:
    with pytest.raises(JournalDamaged, match="holds something else"):
        read_records(_encoded([BEGAN, Prepared(directories=directories, exchanges=exchanges)]))


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_no_bytes_make_another_error_than_damage(content: bytes) -> None:
    for candidate in (content, _forged(content.replace(b"\n", b""))):
        with contextlib.suppress(JournalDamaged):
            read_records(candidate)


# --- the files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for name in ("journal", "history"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def journals(state: Path) -> Journals:
    return Journals(Storage(), str(state))


@pytest.fixture
def journal(journals: Journals) -> Iterator[Journal]:
    journal = journals.create(ID, BEGAN, 0o664)
    yield journal
    journal.close()


def test_records_are_read_back_once_they_are_flushed(journals: Journals, journal: Journal) -> None:
    journal.write(Revealed(directory=0))
    assert journals.read(ID).records == (BEGAN,)
    journal.flush()
    assert journals.read(ID).records == (BEGAN, Revealed(directory=0))
    journal.write(Committed())
    journal.sync()
    assert journals.read(ID).records == (BEGAN, Revealed(directory=0), Committed())
    assert not journals.read(ID).torn


def test_much_that_waits_is_flushed_by_itself(journals: Journals, journal: Journal) -> None:
    for _ in range(40):
        journal.write(FoldersMade(root="work", paths=["x" * 10_000]))
    assert 20 < len(journals.read(ID).records) < 41


def test_closing_drops_what_waits(journals: Journals, journal: Journal) -> None:
    journal.write(Committed())
    journal.close()
    journal.close()
    assert journals.read(ID).records == (BEGAN,)


def test_a_transaction_has_one_journal(journals: Journals, journal: Journal) -> None:
    journal.write(Committed())
    journal.flush()
    with pytest.raises(FileExistsError):
        journals.create(ID, BEGAN, 0o664)
    assert journals.read(ID).records == (BEGAN, Committed())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_a_journal_has_the_mode_that_was_asked_for(state: Path, journals: Journals, umask: int) -> None:
    old = os.umask(umask)
    try:
        journals.create(ID, BEGAN, 0o664).close()
    finally:
        os.umask(old)
    assert (state / "journal" / f"{ID}.journal").stat().st_mode & 0o7777 == 0o664


def test_creating_writes_before_the_name_is_made_durable(state: Path) -> None:
    fate = Fate()
    Journals(CrashingStorage(fate), str(state)).create(ID, BEGAN, 0o664).close()
    names = [text.partition("(")[0] for text in fate.calls]
    assert names == ["create", "set_mode", "write", "sync"]
    assert fate.calls[-1] == "sync(journal)"


def test_a_sync_flushes_first(state: Path) -> None:
    fate = Fate()
    journal = Journals(CrashingStorage(fate), str(state)).create(ID, BEGAN, 0o664)
    del fate.calls[:]
    journal.write(Committed())
    journal.sync()
    journal.close()
    assert [text.partition("(")[0] for text in fate.calls] == ["write", "sync"]


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_journal_killed_at_any_write_is_a_prefix(state: Path, when: Any) -> None:
    for number in range(1, 8):
        state.joinpath("journal", f"{ID}.journal").unlink(missing_ok=True)
        fate = Fate(kill_at=number, when=when)
        with pytest.raises(Killed):
            _write_three(Journals(CrashingStorage(fate), str(state)))
        content = Journals(Storage(), str(state)).read(ID)
        assert content.records == (BEGAN, Revealed(directory=0), Committed())[: len(content.records)]


def _write_three(journals: Journals) -> None:
    journal = journals.create(ID, BEGAN, 0o664)
    try:
        for record in (Revealed(directory=0), Committed()):
            journal.write(record)
            journal.sync()
        raise Killed  # after the last call
    finally:
        journal.close()


def test_a_transaction_without_a_journal_has_no_records(state: Path, journals: Journals) -> None:
    assert journals.read(ID).records == ()
    assert journals.read(ID).torn
    (state / "journal" / f"{ID}.journal").touch()
    assert journals.read(ID).records == ()
    assert journals.read(ID).torn


def test_a_journal_of_another_transaction_is_damage(state: Path, journals: Journals, journal: Journal) -> None:
    source = state / "journal" / f"{ID}.journal"
    source.with_name(f"{OTHER}.journal").write_bytes(source.read_bytes())
    with pytest.raises(JournalDamaged, match=f"{OTHER} belongs to {ID}"):
        journals.read(OTHER)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    old = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is at most 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(old)


def _link_to_journal(path: Path) -> None:
    target = path.with_name("elsewhere")
    target.write_bytes(_encoded([BEGAN]))
    path.symlink_to(target)


def _dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("make", [_fifo, _socket, Path.mkdir, _link_to_journal, _dangling_link])
def test_what_is_no_plain_file_is_damage_and_never_blocks(state: Path, journals: Journals, make: Any) -> None:
    make(state / "journal" / f"{ID}.journal")
    with pytest.raises(JournalDamaged):
        journals.read(ID)
    with pytest.raises(FileExistsError):
        journals.create(ID, BEGAN, 0o664)


def test_a_journal_that_is_too_long_is_not_taken_for_a_torn_one(
    journals: Journals, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at the limit it would look as if it had never been prepared."""
    journal.write(Committed())
    journal.flush()
    length = os.path.getsize(journals.location(ID))
    monkeypatch.setattr("integrator.journal._LONGEST", length)
    assert journals.read(ID).records == (BEGAN, Committed())
    monkeypatch.setattr("integrator.journal._LONGEST", length - 1)
    with pytest.raises(JournalDamaged, match=f"{ID} is longer than {length - 1} bytes"):
        journals.read(ID)


def test_damage_names_the_transaction(state: Path, journals: Journals) -> None:
    lines = _lines(_encoded(_small()))
    (state / "journal" / f"{ID}.journal").write_bytes(b"".join([lines[0], b"x" + lines[1][1:], *lines[2:]]))
    with pytest.raises(JournalDamaged, match=f"the journal of {ID} is damaged"):
        journals.read(ID)


def test_only_journals_are_unfinished(state: Path, journals: Journals) -> None:
    early = "00000001" + ID[8:]
    for name in (f"{OTHER}.journal", f"{early}.journal", f"{ID}.journal"):
        (state / "journal" / name).touch()
    for name in ("x.journal", f"{ID}.journal~", f"{ID}.journal.gz", f"{ID.upper()}.journal", f"{ID}0.journal", ".journal"):
        (state / "journal" / name).touch()
    (state / "journal" / f"{ID}\n.journal").touch()
    assert journals.unfinished() == [early, ID, OTHER]


def test_an_archived_journal_is_unfinished_no_more(state: Path, journals: Journals, journal: Journal) -> None:
    content = (state / "journal" / f"{ID}.journal").read_bytes()
    assert journals.archive(ID)
    assert journals.unfinished() == []
    assert (state / "history" / "2024-01" / f"{ID}.journal").read_bytes() == content
    assert not journals.archive(ID)
    assert journals.read(ID).records == ()


def test_archiving_never_overwrites_history(state: Path, journals: Journals, journal: Journal) -> None:
    old = state / "history" / "2024-01" / f"{ID}.journal"
    old.parent.mkdir()
    old.write_text("old")
    with pytest.raises(FileExistsError):
        journals.archive(ID)
    assert old.read_text() == "old"
    assert journals.unfinished() == [ID]


def test_a_missing_state_folder_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    """An unmounted root must not look like one where everything is settled."""
    journals = Journals(Storage(), str(tmp_path / "unmounted"))
    with pytest.raises(FileNotFoundError):
        journals.unfinished()
    with pytest.raises(FileNotFoundError):
        journals.read(ID)
