"""What is known of an unfinished transaction beside its document: from its journal, or from its owner's memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from integrator.engine import Engine
from integrator.journal.format import (
    EffectCompensated,
    EffectDone,
    EffectIntended,
    ExchangeIntended,
    FoldersMade,
    Prepared,
    Record,
    Staged,
    Unstaged,
)  # fmt: skip
from integrator.model import Document, Identity


@attrs.frozen(kw_only=True)
class Proof:
    """What is known of one directory, to tell ours from others."""

    #: Its identity, from the `prepared` record; None if it was not prepared.
    identity: Identity | None
    #: (size, inode) of each file in it, by its relative name.
    files: Mapping[str, tuple[int, int]]
    #: False if the journal lost its end or is not there: then absence of a `prepared` record proves nothing.
    whole: bool
    #: Names of the files that the engine itself brought in; an extractor or a renderer produced all others.
    made: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class Evidence:
    """The evidence for undoing a transaction."""

    #: One for each directory of the document.
    proofs: Sequence[Proof]
    #: (number, name, arguments, result or None) of effects that may have to be taken back, in order.
    effects: Sequence[tuple[int, str, Document, object]] = ()
    #: Exchanges whose new content may wait under a private name.
    exchanges: Sequence[Document] = ()
    #: (root, path) of folders that were made beside those that the document lists.
    folders: Sequence[tuple[str, str]] = ()
    #: Whether a directory may have been revealed.
    revealed: bool = False
    #: False if there is a journal that is not to be believed.
    believed: bool = True


def no_evidence(document: Document) -> Evidence:
    """For a transaction whose journal is not to be believed: nothing at a final path can be proved to be ours."""
    nothing = Proof(identity=None, files={}, whole=True)
    return Evidence(proofs=[nothing] * len(document["directories"]), revealed=True, believed=False)


def evidence_of(engine: Engine, document: Document) -> Evidence:
    """The evidence that a journal gives. Raises `JournalDamaged`: nothing is deleted on the word of a damaged one."""
    if "expires" in document and not document.get("adopted"):  # only reserved so far: there is no journal, and nothing revealed
        nothing = Proof(identity=None, files={}, whole=True)
        return Evidence(proofs=[nothing] * len(document["directories"]))
    content = engine.journals.read(document["_id"])
    prepared = _last(content.records, Prepared)
    files = _staged_files(content.records, len(document["directories"]))
    made = [frozenset(_made(content.records, index) & files[index].keys()) for index in range(len(files))]
    proofs = [
        Proof(identity=_identity(prepared, index), files=files[index], whole=not content.torn, made=made[index])
        for index in range(len(document["directories"]))
    ]
    done = {record.number: record.result for record in content.records if isinstance(record, EffectDone)}
    taken_back = {record.number for record in content.records if isinstance(record, EffectCompensated)}
    return Evidence(
        proofs=proofs,
        effects=[
            (record.number, record.name, record.arguments, done.get(record.number))
            for record in content.records
            if isinstance(record, EffectIntended) and record.number not in taken_back
        ],
        exchanges=[
            {"number": record.number, "root": record.root, "path": record.path, "private": record.private}
            for record in content.records
            if isinstance(record, ExchangeIntended) and record.root in engine.roots
        ],
        folders=[
            (record.root, path)
            for record in content.records
            if isinstance(record, FoldersMade) and record.root in engine.roots
            for path in record.paths
            if _leads_to(document, record.root, path)
        ],
        revealed=prepared is not None,  # this record is durable before anything is revealed
    )


def _leads_to(document: Document, root: str, path: str) -> bool:
    """Whether a folder lies above something that the *document* names: a journal's word alone removes no folder."""
    places = [entry[part] + "/x" for entry in document["directories"] if entry["root"] == root for part in ("final", "private")]
    trash = path.endswith((".integrator", ".integrator/trash"))
    return ".." not in path.split("/") and (trash or any(place.startswith(path.rstrip("/") + "/") for place in places))


def moved_sources(engine: Engine, document: Document) -> list[str]:
    """Absolute paths of the sources that a transaction moved. Raises `JournalDamaged`."""
    staged = (record for record in engine.journals.read(document["_id"]).records if isinstance(record, Staged))
    return [path for record in staged if record.transfer == "move" for path in record.sources]


def _last(records: Iterable[Record], kind: type[Prepared]) -> Prepared | None:
    return next((record for record in reversed(list(records)) if isinstance(record, kind)), None)


def _identity(prepared: Prepared | None, index: int) -> Identity | None:
    if prepared is None or index >= len(prepared.directories) or not prepared.directories[index]:
        return None
    inode, born = prepared.directories[index]
    return Identity(inode=inode, born=born)


def _made(records: Iterable[Record], index: int) -> set[str]:
    staged = (record for record in records if isinstance(record, Staged) and record.directory == index)
    return {name for record in staged if record.transfer != "adopt" for name in record.names}


def _staged_files(records: Iterable[Record], count: int) -> list[dict[str, tuple[int, int]]]:
    files: list[dict[str, tuple[int, int]]] = [{} for _ in range(count)]
    for record in records:
        if isinstance(record, Staged) and 0 <= record.directory < count:
            files[record.directory].update(zip(record.names, zip(record.sizes, record.inodes)))
        elif isinstance(record, Unstaged) and 0 <= record.directory < count:
            for name in record.names:
                files[record.directory].pop(name, None)
    return files
