"""What happened when, from the journal of a transaction and the times that its document keeps.

The order is that of the journal. Its times are those of the process that published, the document's those of the database: the
two clocks may differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest
from typing import Any, Final

from integrator.journal import Content
from integrator.journal.format import (
    LATEST,
    Began,
    Committed,
    Documented,
    DocumentedPart,
    EffectCompensated,
    EffectDone,
    EffectIntended,
    ExchangeIntended,
    FoldersMade,
    Prepared,
    Record,
    Revealed,
    Staged,
    Unstaged,
)
from integrator.model import ENDED, Document, State
from integrator.report import FileList, Moment
from integrator.report.masks import Mask
from integrator.root import Root
from integrator.wording import plural, size

#: Characters of arguments and results that are shown.
_SHOWN: Final = 300
_TRANSFERS: Final = {
    "copy": "copied", "hardlink": "hard-linked", "reflink": "reflinked", "symlink": "linked symbolically", "move": "moved",
    "write": "written", "adopt": "adopted",
}  # fmt: skip

Timed = tuple[Record, "float | None"]


def read_journal(root: Root, document: Document) -> Content:
    """The journal of a transaction, wherever it is. Raises `JournalDamaged`, `OSError`."""
    journals, transaction = root.engine.journals, document["_id"]
    if State(document["state"]) in ENDED:
        try:
            return journals.read_ended(transaction)
        except (FileNotFoundError, NotADirectoryError):
            pass  # its document has ended, and its journal was not moved yet
    return journals.read(transaction)


def staged_files(journal: Content, directories: Sequence[str]) -> Iterator[FileList]:
    """The files that were staged for each directory, if there were any. `directories` are the final paths, by their index."""
    found: dict[int, dict[str, tuple[int, str]]] = {}
    for record in journal.records:
        if isinstance(record, Staged):
            files = found.setdefault(record.directory, {})
            files.update(zip(record.names, zip(record.sizes, record.checksums)))
        elif isinstance(record, Unstaged):
            for name in record.names:
                found.get(record.directory, {}).pop(name, None)
    for index, files in sorted(found.items()):
        if files and index < len(directories):
            sizes, checksums = zip(*files.values())
            yield FileList(name="", folder=directories[index], names=tuple(files), sizes=sizes, checksums=checksums)


def timeline(document: Document, journal: Content | None, mask: Mask) -> tuple[Moment, ...]:
    """Everything that is known to have happened, in its order."""
    records = journal.records if journal else ()
    timed: list[Timed] = list(zip_longest(records, journal.times if journal else ()))[: len(records)]
    moments = [*_beginning(document), *_recorded(timed, document, mask), *_end(document, records)]
    if journal is not None and journal.torn and records:
        moments.append(Moment(time=None, kind="torn", text="the last record of the journal is cut short", clock="journal"))
    return tuple(moments)


def _beginning(document: Document) -> Iterator[Moment]:
    owner = document.get("began") or document.get("reserved_by") or {}
    by = f" by {owner['user']} on {owner['host']} (process {owner['pid']})" if owner else ""
    if document.get("adopted"):
        yield _told(document.get("created"), "reserved", "the version was reserved")
        yield _told(document["adopted"], "adopted", f"the reservation was adopted{by}")
    else:
        yield _told(document.get("created"), "created", f"begun{by}: version claimed, soft lock granted")


def _end(document: Document, records: Sequence[Record]) -> Iterator[Moment]:
    if document.get("committed") and not any(isinstance(record, Committed) for record in records):
        yield _told(document["committed"], "committed", "the verdict: committed")
    stuck = document.get("stuck")
    if stuck:
        yield _told(stuck.get("at"), "stuck", f"stuck: {stuck.get('reason', '')}")
    state = str(document.get("state"))
    if document.get("ended"):
        words = {"finished": "finished: everything is done", "rolled_back": "rolled back: everything is as before"}
        yield _told(document["ended"], state, words.get(state, state))
    else:
        yield _told(None, state, f"not settled: it is {state.replace('_', ' ')}")


def _told(time: Any, kind: str, text: str) -> Moment:
    return Moment(time=moment(time), kind=kind, text=text, clock="database")


def moment(time: Any) -> float | None:
    """A time of a document, None if it is none: documents are not ours alone."""
    return float(time) if isinstance(time, (int, float)) and 0 <= time < LATEST else None


def _recorded(timed: Sequence[Timed], document: Document, mask: Mask) -> Iterator[Moment]:
    finals = [str(directory["final"]) for directory in document.get("directories") or ()]
    effects = {record.number: record.name for record, _ in timed if isinstance(record, EffectIntended)}
    for (kind, _), group in groupby(timed, key=_alike):
        entries = list(group)
        times = [time for _, time in entries if time is not None]
        if kind == "committed" and document.get("committed"):  # the record is written after it
            yield _told(document["committed"], kind, "the verdict: committed")
            continue
        text = _text([record for record, _ in entries], finals, effects, mask)
        if text:
            yield Moment(time=times[-1] if times else None, kind=kind, text=text, clock="journal")


def _alike(timed: Timed) -> tuple[str, Any]:
    """What stands in one line with its neighbours: kind, and what it is about."""
    record = timed[0]
    kind = type(record).__name__
    if isinstance(record, Staged):
        return "staged", (record.directory, record.transfer)
    if isinstance(record, (Documented, DocumentedPart)):
        return "documented", None
    if isinstance(record, (EffectIntended, EffectDone, EffectCompensated, ExchangeIntended)):
        return _words(kind), record.number
    return _words(kind), record.directory if isinstance(record, Unstaged) else None


def _words(kind: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in kind).lstrip("_")


def _text(records: Sequence[Any], finals: Sequence[str], effects: dict[int, str], mask: Mask) -> str:
    """What a run of records of one kind says."""
    first = records[0]
    if isinstance(first, Staged):
        files, count = sum(len(record.names) for record in records), sum(sum(record.sizes) for record in records)
        how = _TRANSFERS.get(first.transfer, first.transfer)
        return f"{plural(files, 'file')} {how} for {_final(finals, first.directory)}, {size(count)}"
    if isinstance(first, Unstaged):
        return f"{plural(sum(len(record.names) for record in records), 'file')} taken back by a savepoint"
    if isinstance(first, FoldersMade):
        return f"{plural(sum(len(record.paths) for record in records), 'folder')} made"
    if isinstance(first, (Documented, DocumentedPart)):
        count = sum(isinstance(record, Documented) for record in records)
        return f"{plural(count, 'document operation')} recorded" if count else ""
    if isinstance(first, Revealed):
        shown = ", ".join(_final(finals, record.directory) for record in records[:5])
        return f"revealed: {shown}" + (f" and {len(records) - 5} more" if len(records) > 5 else "")
    if isinstance(first, EffectIntended):
        return f"effect {first.name} called with {_json(mask.value(first.arguments))}"
    if isinstance(first, EffectDone):
        return f"effect {effects.get(first.number, first.number)} answered {_json(mask.value(first.result))}"
    if isinstance(first, EffectCompensated):
        return f"effect {effects.get(first.number, first.number)} was taken back"
    if isinstance(first, ExchangeIntended):
        return f"new content for {first.path} written beside it"
    if isinstance(first, Began):
        plugins = f", {plural(len(first.plugins), 'plugin')}" if first.plugins else ""
        return f"journal begun by integrator {first.engine}{plugins}"
    words = {Prepared: "prepared: everything is verified and durable", Committed: "the verdict: committed"}
    return words.get(type(first), _words(type(first).__name__).replace("_", " "))


def _final(finals: Sequence[str], index: int) -> str:
    return finals[index] if 0 <= index < len(finals) else f"directory {index}"


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
