"""What an open transaction has gathered so far: staged directories, document operations, exchanges, effects, savepoints.

Nothing here is seen by anybody before the verdict, except effects with a compensation.
"""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from integrator import ledger, operations, storage
from integrator.database import Change, Ensure, Insert, Replace, Update
from integrator.encoding import Packed, encoded
from integrator.engine import Engine
from integrator.errors import EffectNotMade, Failed, LeaseLost, StorageFailed, UsageError
from integrator.evidence import Evidence, Proof
from integrator.journal import Journal
from integrator.journal.format import (
    Documented,
    DocumentedPart,
    EffectCompensated,
    EffectDone,
    EffectIntended,
    ExchangeIntended,
    FoldersMade,
)  # fmt: skip
from integrator.model import Document, Identity, Place, State
from integrator.operations import Actor
from integrator.staging import StagingDirectory


@attrs.frozen
class Savepoint:
    """A position in a transaction to roll back to."""

    directories: int
    files: tuple[int, ...]
    changes: int
    effects: int
    deferred: int
    exchanges: int
    pointers: int
    #: The how-manieth savepoint of its transaction this is.
    number: int


class Work(abc.ABC):
    """The contents of one open transaction. Used through `Transaction`."""

    def __init__(self, engine: Engine, document: Document) -> None:
        self._engine = engine
        #: The transaction's document as this actor last knew it.
        self.document = document
        #: Staging directories by index; None for one that a savepoint took back.
        self.staging: list[StagingDirectory | None] = []
        self._stack = contextlib.ExitStack()
        self._roots: dict[str, int] = {}
        self._journal: Journal | None = None
        self._changes: list[Change] = []
        self._effects: list[tuple[int, str, Document, object]] = []
        self._exchanges: list[Document] = []
        self._deferred: list[Document] = []
        #: Documents that are written once the exchanges are made; see `point`.
        self._pointers: list[Document] = []
        #: What must hold just before the verdict; each raises if it does not.
        self._expectations: list[Callable[[], None]] = []
        self._number = 0
        self._savepoints = 0
        #: Number of savepoints before the last early reveal: none of those can be rolled back to.
        self._revealed_after = 0
        #: The first failure and the number of savepoints before it: it dooms the transaction, unless a savepoint takes it back.
        self._failure: tuple[int, BaseException] | None = None
        #: The process that began it; one that is forked off has a copy of all this, and no part in it.
        self._process = os.getpid()
        #: Whether this actor has tried to roll back, or must not: it tries once, and recovery does the rest.
        self._over = False
        #: Number of document operations that the journal knows.
        self._documented = 0
        #: Identities of the staging directories, once prepared.
        self._identities: list[Identity | None] = []

    @property
    def id(self) -> str:
        return str(self.document["_id"])

    @property
    def state(self) -> State:
        return State(self.document["state"])

    def _stage_from(self, first: int) -> None:
        journal = self._open_journal()
        directories = ledger.directories(self.document)[first:]
        for root in {directory.root for directory in directories}:
            below = {d.parent for d in directories if d.root == root} | {d.private for d in directories if d.root == root}
            missing = sorted({path for folder in below for path in storage.missing_folders(folder, self.root(root))})
            if missing:
                journal.write(FoldersMade(root=root, paths=missing))
        journal.flush()
        for index, directory in enumerate(directories, first):
            root_fd, promised = self.root(directory.root), None
            try:
                if directory.reserved:
                    promised = operations.capture_promised(self._engine, Actor.of(self.document), index, directory, root_fd)
                staging = StagingDirectory(self._engine, directory, index, journal, root_fd, promised)
            except OSError as error:
                raise StorageFailed("make the staging directory", directory.staging, error) from error
            self.staging.append(staging)
            self._stack.callback(staging.close)

    def root(self, name: str) -> int:
        """A descriptor of a root, open as long as the transaction. Raises `RootMissing`."""
        if name not in self._roots:
            self._roots[name] = self._stack.enter_context(self._engine.root(name))
        return self._roots[name]

    def report_progress(self, share: float) -> None:
        """Tell others how far this is, 0 to 1."""
        self._engine.renewal.progress(self.id, share)

    @property
    def is_ours(self) -> bool:
        """Whether this process began it, and is no copy of that one."""
        return self._process == os.getpid()

    def _open_journal(self) -> Journal:
        if not self.is_ours:
            what = "is that of the process that this one was forked from"
            raise UsageError(f"the transaction {self.id} {what}. Nothing was done by this call")
        if self._journal is None or self._over or self.state is not State.OPEN:
            raise UsageError(f"the transaction {self.id} is not open any more. Nothing was done by this call")
        return self._journal

    # --- operations -----------------------------------------------------------------------------------------------

    def change(self, *changes: Change) -> None:
        """Add document operations; the verdict carries them out, all or none."""
        self._open_journal()
        self._changes += changes

    def changes(self) -> Sequence[Change]:
        """The document operations so far."""
        return tuple(self._changes)

    def point(self, *pointers: Document) -> None:
        """Add documents that may name exchanged directories: they are written when those are in place, with `finished`.

        ``{"collection", "id", "document", "set"}`` each: with a `document` of None it is deleted; `set` are the fields (each a
        path) that are changed where the document exists. Documents that name what is exchanged away are made smaller by `change`.
        """
        self._open_journal()
        self._pointers += pointers

    def expect(self, holds: Callable[[], None]) -> None:
        """Add something that is asked once more before the verdict; if it raises, the transaction is rolled back."""
        self._open_journal()
        self._expectations.append(holds)

    def exchange(self, place: Place, private: str, content: bytes) -> None:
        """Give an existing or new file this content after the verdict; the old one goes to the trash.

        Raises `StorageFailed`, also where the file system cannot exchange two files.
        """
        mode = self._engine.settings.file_mode
        self._exchange(place, private, lambda name, fd: self._engine.storage.write_file(name, content, mode, fd))

    def link(self, place: Place, private: str, target: str) -> None:
        """Let a symbolic link lead to `target` after the verdict; the old one goes to the trash. Raises as `exchange`."""
        self._exchange(place, private, lambda name, fd: self._engine.storage.symlink(target, name, fd))

    def _exchange(self, place: Place, private: str, make: Callable[[str, int], None]) -> None:
        journal = self._open_journal()
        number = self._number = self._number + 1
        plan = {"kind": "exchange", "number": number, "root": place.root, "path": place.path, "private": private}
        journal.write(ExchangeIntended(number=number, root=place.root, path=place.path, private=private))
        journal.sync()  # else a power cut could keep the new content and lose the only record of it
        self._exchanges.append(plan)
        name = operations.exchange_base(self.id, number)
        try:
            fd = self._engine.storage.make_folders(private, self._engine.settings.folder_mode, self.root(place.root))
            self._engine.mark_mount(private, self.root(place.root))
            try:
                make(name, fd)
                self._engine.storage.sync(fd)
                plan["identity"] = operations.identity_list(name, fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise StorageFailed("write the new content of", place.path, error) from error

    def effect(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Make a change in an outside system, registered under `name` in the engine.

        One with a compensation happens now and returns its result; any other one happens after the verdict, at least once.
        """
        journal = self._open_journal()
        if name not in self._engine.effects:
            raise UsageError(f"no effect is registered as {name!r}")
        number = self._number = self._number + 1
        if self._engine.effects[name].compensate is None:
            self._deferred.append({"kind": "effect", "number": number, "name": name, "arguments": dict(arguments)})
            return None
        actor = Actor.of(self.document)
        journal.write(EffectIntended(number=number, name=name, arguments=dict(arguments)))
        journal.sync()
        ledger.confirm(self._engine.database, self.document)
        self._effects.append((number, name, dict(arguments), None))
        try:
            result = operations.call_effect(self._engine, actor, number, name, arguments)
        except EffectNotMade:
            self._effects.pop()
            journal.write(EffectCompensated(number=number))
            raise
        self._effects[-1] = (number, name, dict(arguments), result)
        try:
            ledger.confirm(self._engine.database, self.document)
        except LeaseLost:
            operations.compensate_effect(self._engine, actor, number, name, arguments, result)
            raise
        journal.write(EffectDone(number=number, result=result))
        return result

    def savepoint(self) -> Savepoint:
        """A position to roll back to."""
        self._open_journal()
        self._savepoints += 1
        files = tuple(staging.position() if staging else 0 for staging in self.staging)
        return Savepoint(
            len(self.staging),
            files,
            len(self._changes),
            len(self._effects),
            len(self._deferred),
            len(self._exchanges),
            len(self._pointers),
            self._savepoints,
        )

    def roll_back_to(self, point: Savepoint) -> None:
        """Undo what was done since a savepoint; the transaction goes on."""
        self._open_journal()
        try:
            self._undo_since(point)
        except BaseException as error:
            self._failure = (0, error)  # nobody knows what was undone: no savepoint is before that
            raise
        if self._failure is not None and self._failure[0] >= point.number:
            self._failure = None

    def _undo_since(self, point: Savepoint) -> None:
        journal, actor = self._open_journal(), Actor.of(self.document)
        if point.number <= self._revealed_after:
            raise UsageError("a version that was revealed early can only be taken back with the whole publish")
        for number, name, arguments, result in reversed(self._effects[point.effects :]):
            operations.compensate_effect(self._engine, actor, number, name, arguments, result)
            journal.write(EffectCompensated(number=number))
            self._effects.pop()
        for index, staging in enumerate(self.staging):
            if staging is not None and index < point.directories:
                staging.take_back(point.files[index])
            elif staging is not None:
                root = self.root(staging.directory.root)
                operations.capture_own(self._engine, actor, index, staging.directory, root)
                staging.close()
                self.staging[index] = None
        for plan in self._exchanges[point.exchanges :]:
            operations.undo_exchange(self._engine, actor, plan, self.root(plan["root"]))
        del self._changes[point.changes :], self._deferred[point.deferred :], self._exchanges[point.exchanges :]
        del self._pointers[point.pointers :]
        self._documented = min(self._documented, point.changes)

    @contextlib.contextmanager
    def dooming(self) -> Iterator[None]:
        """Whatever fails inside keeps the transaction from being committed, even where a caller takes no notice of it."""
        open_before = self.state is State.OPEN and not self._over
        try:
            yield
        except BaseException as error:
            if open_before and self._failure is None:
                self._failure = (self._savepoints, error)
            raise

    def raise_failure(self) -> None:
        """Raise the error of a step that failed and that no savepoint took back; the transaction stays open."""
        if self._failure is not None:
            raise self._failure[1]

    @property
    def is_bare(self) -> bool:
        """Whether there is nothing to decide: no directory, document, file or effect was added."""
        added = (self._live(), self._changes, self._effects, self._exchanges, self._deferred)
        return not any(added)

    def refuse_doomed(self) -> None:
        """Roll back and raise `Failed` if a step failed that no savepoint took back."""
        if self._failure is not None:
            first = self._failure[1]
            error = Failed(
                f"a step of this publish failed, so none of it is published ({str(first) or type(first).__name__})."
                " Everything is as before",
                next="run it again; code that can do without a step rolls back to a savepoint from before it",
            )
            self.roll_back(error)
            raise error from first

    @abc.abstractmethod
    def roll_back(self, cause: BaseException | None = None) -> None:
        """Undo everything."""

    def evidence(self) -> Evidence:
        """What its owner knows of the transaction, for undoing it."""
        proofs = []
        for index in range(len(self.document["directories"])):
            staging = self.staging[index] if index < len(self.staging) else None
            identity = self._identities[index] if index < len(self._identities) else None
            files = staging.files() if staging is not None and identity is not None else {}
            made = frozenset(staging.made()) if staging is not None else frozenset()
            proofs.append(Proof(identity=identity, files=files, whole=True, made=made))
        return Evidence(proofs=proofs, effects=self._effects, exchanges=self._exchanges, revealed=bool(self._identities))

    def _live(self) -> list[tuple[int, StagingDirectory]]:
        return [(index, staging) for index, staging in enumerate(self.staging) if staging is not None]


def write_down(journal: Journal, change: Change) -> None:
    """Record a document operation, long arrays in parts."""
    verb = type(change).__name__.lower()
    content: Mapping[str, Any] = {}
    if isinstance(change, (Insert, Ensure, Replace)):
        content = change.document
    elif isinstance(change, Update):
        content = change.set
    long = {name: value for name, value in content.items() if isinstance(value, Packed)}
    expect = {} if isinstance(change, (Insert, Ensure)) else dict(change.expect)
    short = {name: value for name, value in content.items() if name not in long}
    journal.write(Documented(verb=verb, collection=change.collection, id=change.key, expect=expect, content=short))
    for name, packed in long.items():
        for piece in packed.pieces:
            journal.write(DocumentedPart(field=name, elements=encoded(piece)))
