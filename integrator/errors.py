"""Every error of the engine, grouped by when it happens.

Each error carries a stable `code` for programs, the exit code of the command line, its facts as attributes, and a message
that says what happened and what it means for the user's files; `next` is the command to run now ("" when there is none).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar


class IntegratorError(Exception):
    """Base of all errors that the engine raises on purpose."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    #: Outcome that a publish reports when it ends with this error.
    outcome: ClassVar[str] = "refused"

    def __init__(self, message: str, *, next: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next = next
        #: Transaction concerned, "" while there is none.
        self.transaction = ""
        #: What its rollback had to leave because it is not ours, each with the reason.
        self.left: Sequence[str] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors come back from worker processes; their facts are attributes, not arguments.
        return _rebuild, (type(self), self.__dict__)


def _rebuild(cls: type[IntegratorError], facts: dict[str, Any]) -> IntegratorError:
    error = cls.__new__(cls)
    error.__dict__.update(facts)
    error.args = (facts["message"],)
    return error


def text_of(error: BaseException) -> str:
    """What an error says; "" for one of somebody else's that fails while it says it."""
    try:
        return str(error)
    except Exception:
        return ""


class Problem(tuple[str, str]):
    """One thing that is wrong: (where, what). `where` is a JSON path, a file path, or file and line."""

    #: What it is about, for whoever reports problems of one kind: names, sources, frames, space or destinations.
    kind: str

    def __new__(cls, where: str, what: str, kind: str = "sources") -> Problem:
        made = super().__new__(cls, (where, what))
        made.kind = kind
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self, self.kind)

    @property
    def where(self) -> str:
        return self[0]

    @property
    def what(self) -> str:
        return self[1]


class NotThere(Problem):
    """Something that is not there, or not whole, as far as this machine sees: another one may just have written it."""


class _ProblemList(IntegratorError):
    """An error that lists all problems at once."""

    headline: ClassVar[str] = "refused"

    def __init__(self, problems: Iterable[Problem], *, next: str = "") -> None:
        self.problems: Sequence[Problem] = tuple(problems)
        shown = [f"  {where}: {what}" for where, what in self.problems[:20]]
        if len(self.problems) > 20:
            shown.append(f"  ... and {len(self.problems) - 20} more")
        super().__init__("\n".join([f"{self.headline} Nothing was touched.", *shown]), next=next)


# --- bad usage or bad request: nothing was touched (exit 2) ---------------------------------------------------------


class UsageError(IntegratorError):
    """The call itself is wrong."""

    code = "usage"
    exit_code = 2


class RequestRefused(_ProblemList):
    """The publish request does not follow its schema; every problem with its JSON path."""

    code = "bad_request"
    exit_code = 2
    headline = "The publish request is not valid."


class SettingsRefused(_ProblemList):
    """The configuration is not valid; every problem with its file and line."""

    code = "bad_settings"
    exit_code = 2
    headline = "The configuration is not valid."


class TemplateRefused(IntegratorError):
    """A path template cannot be read, or lacks a value that it needs."""

    code = "bad_template"
    exit_code = 2


class NotARoot(IntegratorError):
    """There is no publish root at this path."""

    code = "no_root"
    exit_code = 2


class RootRefused(IntegratorError):
    """The folders of the engine are incomplete, owned or writable by strangers, or lie where they cannot be kept safe."""

    code = "root_refused"
    exit_code = 2


class DifferentContent(IntegratorError):
    """This publish id was used for something else."""

    code = "different_content"
    exit_code = 2


class UnknownTransaction(IntegratorError):
    """No transaction has this id."""

    code = "unknown_transaction"
    exit_code = 2


class NotPublished(IntegratorError):
    """Nothing is published under this name."""

    code = "not_published"
    exit_code = 2


class Ambiguous(IntegratorError):
    """Several assets have this name; `candidates` are their paths below the project."""

    code = "ambiguous"
    exit_code = 2

    def __init__(self, message: str, candidates: Sequence[str] = (), *, next: str = "") -> None:
        self.candidates = tuple(candidates)
        super().__init__(message, next=next)


class ReadOnly(IntegratorError):
    """A publish root that was opened for reading cannot be written."""

    code = "read_only"
    exit_code = 2


# --- validation refused: nothing was touched (exit 3) ---------------------------------------------------------------


class ValidationRefused(_ProblemList):
    """Sources, destinations or resources make this publish impossible; every problem is listed."""

    code = "validation"
    exit_code = 3
    headline = "The publish was refused."


class VersionTaken(IntegratorError):
    """The version number that the request pins exists."""

    code = "version_taken"
    exit_code = 3


# --- busy: nothing was touched (exit 4) -----------------------------------------------------------------------------


class Busy(IntegratorError):
    """Somebody holds the soft lock."""

    code = "busy"
    exit_code = 4
    outcome = "busy"


# --- failed and rolled back (exit 5) --------------------------------------------------------------------------------


class Failed(IntegratorError):
    """Something failed on the way; everything is as before."""

    code = "failed"
    exit_code = 5
    outcome = "rolled_back"


class StorageFailed(Failed):
    """A call to the file system failed."""

    code = "storage_failed"

    def __init__(self, action: str, path: str, cause: OSError) -> None:
        self.action = action
        self.path = path
        self.errno = cause.errno
        super().__init__(f"cannot {action} {path}: {cause.strerror or cause}")


class SourceChanged(Failed):
    """A source changed while it was published."""

    code = "source_changed"


class StagingChanged(Failed):
    """What was staged is not there any more, or not as it was recorded."""

    code = "staging_changed"


class EffectFailed(Failed):
    """A change in an outside system failed."""

    code = "effect_failed"


class EffectNotMade(EffectFailed):
    """The call of an effect failed, and is known to have changed nothing outside: there is nothing to take back.

    For calls to raise, for example when the outside system could not be reached at all. Without it a compensation follows, which
    the same outage would make fail, too.
    """

    code = "effect_not_made"


class ThumbnailFailed(Failed):
    """An image cannot be shown small. The shipped pipeline publishes without a thumbnail then."""

    code = "thumbnail_failed"

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"there is no thumbnail of {path}: {reason}")


class PluginFailed(Failed):
    """A pyblish plugin raised something that is no error of ours."""

    code = "plugin_failed"

    def __init__(self, plugin: str, instance: str, cause: BaseException) -> None:
        self.plugin = plugin
        #: Name of the pyblish instance it ran for, "" for the context.
        self.instance = instance
        where = f"{plugin} failed for {instance}" if instance else f"{plugin} failed"
        said = text_of(cause)
        reason = f"{type(cause).__name__}: {said}" if said else type(cause).__name__
        super().__init__(f"{where} ({reason}). Everything is as before", next="mend the cause, then run it again")


class LeaseLost(Failed):
    """Another actor took this transaction over."""

    code = "lease_lost"


class DatabaseFailed(Failed):
    """The database did not do what it was asked, and is known not to have done it."""

    code = "database_failed"


class Conflict(DatabaseFailed):
    """A change met another state than it expects; none of the changes that were sent with it was made."""

    code = "conflict"

    def __init__(self, collection: str, key: str, reason: str) -> None:
        self.collection = collection
        self.key = key
        super().__init__(f"{collection} {key}: {reason}")


class ExpectationFailed(Failed):
    """A document is not what the transaction expects to find."""

    code = "expectation_failed"


# --- in doubt or stuck: recover (exit 6) ----------------------------------------------------------------------------


class Unsettled(IntegratorError):
    """How this ends is not settled here; nothing was undone that could still be wanted."""

    code = "unsettled"
    exit_code = 6
    outcome = "in_doubt"


class Unanswered(Unsettled):
    """The database was asked to commit and gave no answer; it may have done so, or may still do so."""

    code = "unanswered"


class DatabaseDamaged(Unsettled):
    """The database did not do what it was asked because what it holds is damaged; how earlier runs ended cannot be told."""

    code = "database_damaged"


class InDoubt(Unsettled):
    """The verdict was sent and its outcome is not known."""

    code = "in_doubt"


class Stuck(Unsettled):
    """A transaction cannot go on without help."""

    code = "stuck"


class RootMissing(Unsettled):
    """A root is not there, or what is there is not it (not mounted?)."""

    code = "root_missing"


# --- tried often enough: nothing was touched (exit 7) ---------------------------------------------------------------


class BudgetUsedUp(IntegratorError):
    """This publish was tried as often as it may be."""

    code = "budget_used_up"
    exit_code = 7


# --- versions and interruption --------------------------------------------------------------------------------------


class NewerDatabase(IntegratorError):
    """The database was written by a newer program."""

    code = "newer_database"
    exit_code = 8


class Interrupted(IntegratorError):
    """A signal ended the run; what had begun was rolled back first."""

    code = "interrupted"
    outcome = "rolled_back"

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__("The publish was interrupted. Everything is as before.", next="run the same command again")
