"""How an error is shown, and which exit code it has: what happened, what it means for the user's files, the next command."""

from __future__ import annotations

import traceback
from typing import Final

from integrator.cli.console import Console, shown
from integrator.cli.farms import farm
from integrator.errors import Failed, IntegratorError, Interrupted, StorageFailed, text_of

#: Exit codes after which a farm must not run the same again.
_FINAL: Final = frozenset({2, 3, 7, 8})
#: What an exit code means for the files of a publish.
_MEANING: Final = {
    2: "Nothing was touched.",
    3: "Nothing was touched.",
    4: "Nothing was touched.",
    5: "It was rolled back: everything is as before.",
    6: "Nothing was removed that may still be wanted.",
    7: "Nothing was touched.",
    8: "Nothing was touched.",
}
_SAID: Final = ("nothing was", "nothing there was", "as before", "nothing that is published was", "it is published")


class Bug(IntegratorError):
    """An error that nobody expected."""

    code = "bug"
    outcome = "rolled_back"


def as_answer(error: BaseException, console: Console) -> IntegratorError:
    """The error that a user is told of, for anything that was raised."""
    met = error.__cause__ or error.__context__
    if isinstance(error, (KeyError, RuntimeError)) and isinstance(met, Interrupted):
        error = met  # what Python makes of it at the start of a thread, and, until 3.11, while a class is made
    if isinstance(error, Interrupted):
        if not console.publishes:
            error.message, error.next = "Interrupted. What was done so far stays done; it can be run again.", ""
        return error
    if isinstance(error, IntegratorError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(2)
    if isinstance(error, OSError) and error.errno is not None:
        if error.filename is not None:
            return StorageFailed("use", _name(error.filename), error)
        return Failed(str(error))
    told, hint = text_of(error), "" if console.verbose else "the same with -v, and report it"
    bug = Bug(f"a bug: {type(error).__name__}: {told}", next=hint)
    bug.__cause__ = error
    return bug


def exit_code(error: IntegratorError) -> int:
    """The exit code of an error."""
    return 128 + error.signal_number if isinstance(error, Interrupted) else error.exit_code


def report(error: BaseException, console: Console) -> int:
    """Give an error as the answer; returns its exit code."""
    told = as_answer(error, console)
    tell(told, console)
    console.answer(_document(told, console))
    return exit_code(told)


def tell(error: IntegratorError, console: Console) -> None:
    """Say an error on standard error."""
    code = exit_code(error)
    headline, *more = _lines(error)
    console.say(f"integrator: {headline}")
    for line in more:
        console.say(line)
    meaning = _MEANING.get(code, "")
    if meaning and console.publishes and not any(said in error.message.lower() for said in _SAID):
        console.say(f"  {meaning}")
    if error.next:
        console.say(f"  next: {shown(console.command_line(error.next))}")
    if code in _FINAL and (console.publishes or farm()):
        console.say("  farm: do not retry")
    if console.verbose:
        console.say("".join(traceback.format_exception(error.__cause__ if isinstance(error, Bug) else error)).rstrip())


def _lines(error: IntegratorError) -> list[str]:
    """The message, one line for each problem that it lists; a line end inside a name does not start a new one."""
    problems = getattr(error, "problems", None)
    if problems is None:
        return [shown(error.message)]
    listed = [f"  {shown(problem.where)}: {shown(problem.what)}" for problem in problems[:40]]
    if len(problems) > 40:
        listed.append(f"  ... and {len(problems) - 40} more")
    return [shown(error.message.partition("\n")[0]), *listed]


def _document(error: IntegratorError, console: Console) -> object:
    error.next = console.command_line(error.next)
    if console.publishes:
        return failure_document(error)
    return {"error": {"code": error.code, "message": error.message, "next": error.next}}


def failure_document(error: IntegratorError) -> object:
    """The answer of a publish that ended with this error. (`results` has the same, and loads half of the engine.)"""
    said = {"code": error.code, "message": error.message, "next": error.next}
    left = {"left": list(error.left)} if error.left else {}
    return {"transaction": error.transaction or None, "outcome": error.outcome, "error": said, "versions": [], **left}


def _name(path: object) -> str:
    return path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else str(path)
