"""JSON in and out, one way for journal, database and command line.

Text that is not UTF-8 (file names read with ``surrogateescape``) survives: it is written as an escape.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypedDict

#: Elements of a `Packed` array that are encoded and kept together.
PIECE = 1000


def encode(value: Any) -> bytes:
    """Compact UTF-8 JSON of `value`, which may hold attrs instances.

    Raises `TypeError` for what JSON lacks, `ValueError` for NaN and infinite numbers.
    """
    import msgspec  # here, because readers never encode

    try:
        text = msgspec.json.encode(value)
    except UnicodeEncodeError:  # a lone surrogate: only the slower encoder escapes it
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":"), allow_nan=False).encode("ascii")
    if b"null" in text:  # None, or what the fast encoder writes for NaN: only the slower one tells
        json.dumps(value, allow_nan=False, default=_plain)
    return text


def _plain(value: Any) -> Any:
    import msgspec

    return None if isinstance(value, msgspec.Raw) else msgspec.to_builtins(value)


def encoded(text: bytes) -> Any:
    """A value that is JSON already, to put into another one that is to be encoded."""
    import msgspec

    return msgspec.Raw(text)


def decode(text: str | bytes) -> Any:
    """The value of a JSON text. Raises `ValueError`."""
    return json.loads(text)


def fast_decoder(only: Iterable[str] = ()) -> Callable[[str], Any]:
    """A `decode` for thousands of texts. With `only`, of documents: these fields (dotted) are wanted, others may be absent.

    Making it takes as long as decoding a few hundred texts.
    """
    import msgspec

    fast = msgspec.json.Decoder(_shape(only)).decode

    def decode_fast(text: str) -> Any:
        try:
            return fast(text)
        except ValueError:  # a lone surrogate, a number beyond 64 bits, or another shape: the slower one takes everything
            return decode(text)

    return decode_fast


def _shape(only: Iterable[str]) -> Any:
    """The type of a document with these fields, all of them optional."""
    inner: dict[str, list[str]] = {}
    for name in only:
        first, _, rest = name.partition(".")
        inner.setdefault(first, []).append(rest)
    fields = {name: Any if "" in rests else _shape(rests) for name, rests in inner.items()}
    return TypedDict("Shape", fields, total=False) if fields else Any  # type: ignore[operator]


class Packed:
    """A long array of documents, kept encoded in pieces, so that 100,000 files need not be objects at once.

    Iterating decodes piece by piece; `pieces` are JSON arrays of at most `PIECE` elements.
    """

    def __init__(self, pieces: Iterable[bytes], length: int) -> None:
        self.pieces = list(pieces)
        self._length = length

    @classmethod
    def of(cls, documents: Iterable[Any]) -> Packed:
        """Pack what `documents` yields."""
        pieces: list[bytes] = []
        batch: list[Any] = []
        length = 0
        for document in documents:
            batch.append(document)
            if len(batch) == PIECE:
                pieces.append(encode(batch))
                length += len(batch)
                batch.clear()
        if batch:
            pieces.append(encode(batch))
            length += len(batch)
        return cls(pieces, length)

    @classmethod
    def joined(cls, pieces: Iterable[bytes]) -> Packed:
        """From stored pieces, all but the last of which are full."""
        kept = list(pieces)
        return cls(kept, PIECE * (len(kept) - 1) + len(decode(kept[-1])) if kept else 0)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        for piece in self.pieces:
            yield from decode(piece)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (list, Packed)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
