"""The transaction as a plugin sees it: opened by the first call that needs it, and never committed from here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from integrator.assembly import OpenVersion
    from integrator.plugin.publication import Publication
    from integrator.transaction import Savepoint, Transaction


class PublishTransaction:
    """The one transaction of a pyblish context; every plugin of it gets this same object.

    Whatever is done through it is published together or not at all. A call that fails dooms all of it, even if its error is
    caught, unless `roll_back_to` goes back to a `savepoint` from before it.
    """

    def __init__(self, publication: Publication) -> None:
        self._publication = publication

    def version(self, instance: Any) -> OpenVersion:
        """The version that a pyblish instance becomes: the one of its publish instance, else made from ``instance.data``.

        The same one for every plugin that asks. Raises as `Assembly.new_version` does, `UsageError` for an instance that does
        not say what it is.
        """
        return self._publication.version(instance)

    def insert(self, project: str, document: Mapping[str, Any]) -> Any:
        """Add a document of a project; returns its id."""
        return self._publication.assembly().insert(project, document)

    def update(self, project: str, where: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Set fields (dotted names) of the one document that `where` finds, provided they are still what they are now."""
        self._publication.assembly().update(project, where, changes)

    def replace(self, project: str, where: Mapping[str, Any], document: Mapping[str, Any]) -> None:
        """Put another document in the place of the one that `where` finds, provided it is still as it is now."""
        self._publication.assembly().replace(project, where, document)

    def delete(self, project: str, where: Mapping[str, Any]) -> None:
        """Remove the one document that `where` finds, provided it is still as it is now."""
        self._publication.assembly().delete(project, where)

    def apply(self, project: str, operations: Iterable[Any]) -> None:
        """Carry out operations of pymongo's ``bulk_write``; see `Assembly.apply`."""
        self._publication.assembly().apply(project, operations)

    def replace_file(self, path: str, content: bytes) -> None:
        """Give a file inside a root this content, at the verdict; the old content goes to the trash."""
        self._publication.assembly().replace_file(path, content)

    def effect(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Make a change in an outside system that a plugin has in its `effects`; see `Transaction.effect`."""
        return self._publication.assembly().effect(name, arguments)

    def savepoint(self) -> Savepoint:
        """A position to roll back to."""
        return self._publication.assembly().savepoint()

    def roll_back_to(self, point: Savepoint) -> None:
        """Undo what was added since; the rest goes on."""
        self._publication.assembly().roll_back_to(point)

    def reveal(self) -> None:
        """Give every version its final name now, and every instance its paths; nothing can be added to them afterwards.

        The commit still comes last, and a failure withdraws them again. See `Assembly.reveal`.
        """
        self._publication.assembly().reveal()

    @property
    def reveals_early(self) -> bool:
        """What the settings say about that (`reveal`)."""
        return self._publication.root.settings.reveal == "early"

    @property
    def id(self) -> str:
        """Id of the transaction."""
        return self._publication.assembly().transaction.id

    @property
    def publish_id(self) -> str:
        """Id under which this is published once."""
        return str(self._publication.assembly().transaction.document["publish_id"])

    @property
    def transaction(self) -> Transaction:
        """The transaction of the engine, for what has no method here."""
        return self._publication.assembly().transaction
