"""JSON in and out: the same values come back, odd file names included, and long arrays are what lists are."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrator.encoding import PIECE, Packed, decode, encode, encoded
from integrator.model import Place


@attrs.frozen(kw_only=True)
class Frames:
    first: float | None


#: Any text that a file name can be, bytes that are not UTF-8 included.
TEXT = st.one_of(st.text(), st.binary().map(lambda name: name.decode("utf-8", "surrogateescape")))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
@settings(deadline=None)
def test_values_come_back_as_they_were(value: Any) -> None:
    assert decode(encode(value)) == value


@given(TEXT)
@settings(deadline=None)
def test_every_file_name_comes_back(name: str) -> None:
    text = encode({"name": name})
    text.decode("utf-8")
    assert decode(text) == {"name": name}
    assert b"\n" not in text


def test_a_name_that_is_not_utf8_is_an_escape() -> None:
    assert encode({"name": "caf\udce9", "other": "é"}) == b'{"name":"caf\\udce9","other":"\\u00e9"}'
    assert encode({"name": "café"}) == '{"name":"café"}'.encode()


def test_json_is_compact_in_both_encoders() -> None:
    value = {"a": [1, {"b": None}], "c": True}
    assert encode(value) == b'{"a":[1,{"b":null}],"c":true}'
    assert encode(value | {"d": "\udcff"}) == b'{"a":[1,{"b":null}],"c":true,"d":"\\udcff"}'


@pytest.mark.parametrize("path", ["demo", "caf\udce9"])
def test_attrs_instances_are_tables(path: str) -> None:
    place = Place(root="work", path=path)
    assert decode(encode([place])) == [attrs.asdict(place)]


@pytest.mark.parametrize("value", [object(), {"a": {1: object()}}, [lambda: 0], {"a": b"x", "b": "\udcff", "c": object()}, 1j])
def test_what_json_lacks_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["null", "\udcff"])
def test_what_is_no_number_is_refused_by_both_encoders(value: float, name: str) -> None:
    """Written as NaN it is no JSON, written as null it is another value."""
    for holder in (value, [value], {"a": [{"b": value}]}, Frames(first=value)):
        with pytest.raises(ValueError):
            encode({"name": name, "a": holder})


def test_nothing_and_what_looks_like_it_are_written() -> None:
    value = {"a": None, "b": "null", "c": Place(root="null", path="x"), "d": Frames(first=None)}
    assert decode(encode(value)) == {"a": None, "b": "null", "c": {"root": "null", "path": "x"}, "d": {"first": None}}
    assert encode({"a": None, "b": encoded(b"[null]")}) == b'{"a":null,"b":[null]}'


def test_encoded_text_is_put_in_as_it_is() -> None:
    assert encode({"elements": encoded(b"[1,2]")}) == b'{"elements":[1,2]}'


@pytest.mark.parametrize("text", [b"", b"{", b"{'a':1}", b"[1,]", b"\xff", b'{"a":1}x', b"1" * 5000, b'"\n"'])
def test_what_is_no_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode(text)


# --- long arrays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 500])
def test_a_long_array_is_what_was_put_in(length: int) -> None:
    documents = [{"n": n} for n in range(length)]
    packed = Packed.of(iter(documents))
    assert list(packed) == documents
    assert list(packed) == documents, "it can be read twice"
    assert len(packed) == length
    assert packed == documents
    assert packed == Packed.of(documents)
    assert packed != [*documents, {}]
    assert bool(packed) == bool(documents)


@pytest.mark.parametrize("length", [0, 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 500])
def test_stored_pieces_make_the_same_array(length: int) -> None:
    packed = Packed.of(range(length))
    joined = Packed.joined(iter(packed.pieces))
    assert (len(joined), list(joined)) == (length, list(range(length)))


def test_pieces_are_full_but_the_last_one() -> None:
    assert [len(decode(piece)) for piece in Packed.of(range(2 * PIECE + 7)).pieces] == [PIECE, PIECE, 7]


def test_a_long_array_is_no_key_and_equals_nothing_else() -> None:
    with pytest.raises(TypeError):
        hash(Packed.of([1]))
    assert Packed.of([1]) != "1"
    assert Packed.of([1]) != (1,)


def test_a_long_array_holds_odd_file_names() -> None:
    assert list(Packed.of([{"path": "caf\udce9"}])) == [{"path": "caf\udce9"}]
