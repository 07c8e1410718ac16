"""The command line. One module for each command; only the chosen one is imported.

A command module has `add_arguments(parser)` and ``run(call) -> int``, the exit code. It prints its answer through `Console`,
and raises `errors.IntegratorError` for everything that a user should read as a message.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Final

from integrator.cli.arguments import Arguments, Helped, Parser, add_options, separate
from integrator.cli.console import Console
from integrator.cli.failures import report
from integrator.cli.signals import Interruptions
from integrator.errors import Interrupted, UsageError

#: Commands in the order of `--help`, each with one line.
COMMANDS: Final[Mapping[str, str]] = {
    "init": "make a publish root",
    "publish": "publish files: all of them and their documents, or nothing at all",
    "reserve": "promise a version number and its paths to a publish that comes later",
    "release": "give a reservation back",
    "status": "what is unfinished, who holds a soft lock, what was left behind",
    "show": "one transaction in full",
    "history": "the latest transactions",
    "versions": "what is published",
    "path": "where a published version is",
    "blame": "which publish a file or directory comes from",
    "recover": "settle what crashed or was killed: undo it, or finish it",
    "resume": "go on with a publish that failed or was killed",
    "rollback": "roll back one transaction whose owner is gone",
    "check": "look for inconsistencies; writes nothing",
    "doctor": "look whether rights, mounts, file systems and the database fit",
    "config": "the settings that hold here, and where each comes from",
    "sweep": "remove abandoned leftovers by age",
    "lease": "list and break soft locks",
    "demo": "see it work: publish, kill a publish midway, recover, publish again",
}

_DESCRIPTION: Final = "Publishes files of visual effects and animation: a publish is complete or absent."
_EXITS: Final = """\
exit codes (retry?):
  0  done, or nothing to do             5  failed and rolled back completely (yes)
  1  a bug, rolled back if possible     6  in doubt or stuck: integrator recover (after that)
  2  bad usage or bad request (no)      7  retry budget used up (no)
  3  validation refused (no)            8  database newer than this program (no)
  4  busy, somebody is at it (later)  130, 143  interrupted, rolled back first (yes)
"""


class Call:
    """One run of a command."""

    def __init__(self, command: str, arguments: Arguments, console: Console, interruptions: Interruptions) -> None:
        self.command = command
        self.arguments = arguments
        self.console = console
        self.interruptions = interruptions

    def root(self, near: str = "") -> str:
        """Path of the publish root to work with, looked for from `near` first. Raises `errors.NotARoot`."""
        from integrator.root import find_root

        named = str(self.arguments.root or "")
        found = named or find_root(near)
        self.console.detail(f"publish root: {found}")
        # Between the two calls that make a folder and give it its mode, others of the group must be able to recover it, too.
        os.umask(0o002)
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code and never raises."""
    if argv is None:
        _occupy_standard_descriptors()
        # What a command reads has no cycles: looking for some in 10,000 documents costs more than reading them.
        gc.set_threshold(100_000, 50, 100)
    try:
        return _main(list(sys.argv[1:] if argv is None else argv), restore=argv is not None)
    except Interrupted as interrupted:  # between two statements of the way out
        return 128 + interrupted.signal_number
    finally:
        if argv is None:
            gc.freeze()  # nor does the interpreter have to look for them once more at its end


def _main(words: list[str], *, restore: bool) -> int:
    options, command, rest = separate(words)
    before_separator = words[: words.index("--")] if "--" in words else words
    console = Console(json="--json" in before_separator, command=command)
    with Interruptions(console, restore=restore) as interruptions:
        try:
            code = _run(options, command, rest, console, interruptions)
        except Helped as helped:
            console.help(helped.text)
            code = 0
        except BaseException as error:
            # Whatever was begun was rolled back on the way here; from now on there is only the answer to give.
            interruptions.settled()
            code = report(error, console)
        return console.close(code)


def _occupy_standard_descriptors() -> None:
    # A caller that closed one would make the next file that is opened the target of our messages: a journal, for example.
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _run(options: list[str], command: str, rest: list[str], console: Console, interruptions: Interruptions) -> int:
    if command not in COMMANDS:
        return _without_command(options, command)
    parser = Parser(prog=f"integrator {command}", description=_sentence(COMMANDS[command]))
    module = _module(command)
    add_options(parser)
    module.add_arguments(parser)
    arguments = parser.parse([*options, *rest])
    console.verbose = bool(arguments.verbose)
    console.root = str(arguments.root or "")
    run: Callable[[Call], int] = module.run
    return run(Call(command, arguments, console, interruptions))


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"integrator.cli.{command}")


def _without_command(options: list[str], command: str) -> int:
    """Help, version, or a complaint. Always raises."""
    parser = Parser(prog="integrator", description=_DESCRIPTION, usage="integrator COMMAND ...", epilog=_epilog())
    add_options(parser)
    parser.add_argument("--version", action="store_true", help="print the version")
    if command:
        close = _closest(command)
        raise UsageError(f"there is no command {command!r}{close}", next="integrator --help")
    if parser.parse(options).version:
        from integrator import __version__

        raise Helped(f"integrator {__version__}\n")
    if options:
        raise UsageError("a command is missing", next="integrator --help")
    raise Helped(parser.format_help())


def _closest(command: str) -> str:
    import difflib

    found = difflib.get_close_matches(command, COMMANDS, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _epilog() -> str:
    lines = [f"  {name:<9} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(["commands (integrator COMMAND --help says more):", *lines, "", _EXITS])


def _sentence(summary: str) -> str:
    return summary[:1].upper() + summary[1:] + "."


with contextlib.suppress(AttributeError, ValueError):
    # Names in any encoding must never stop an answer.
    for _stream in (sys.stdout, sys.stderr):
        _stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]

__all__ = ["COMMANDS", "Call", "main"]
