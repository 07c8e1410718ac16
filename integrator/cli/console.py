"""What a command prints: its answer on standard output, messages on standard error, and nothing that a terminal could obey."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TextIO

from integrator.wording import duration, plural, shown, size, when

__all__ = ["Console", "duration", "plural", "shown", "size", "when"]

#: A command of ours inside a sentence; it gets the `--root` that this run was given, so that it can be pasted as it is.
_OWN_COMMAND: Final = re.compile(
    r"\bintegrator (?=(?:publish|status|show|history|versions|path|blame|recover|rollback|check|sweep|lease|config|doctor)\b)"
)


def _laid_out(document: Any, encode: Callable[[Any], str]) -> str:
    if not isinstance(document, dict) or not document:
        return encode(document)
    fields = (f"  {encode(name)}: {_lines(value, encode)}" for name, value in document.items())
    return "{\n" + ",\n".join(fields) + "\n}"


def _lines(value: Any, encode: Callable[[Any], str]) -> str:
    if not isinstance(value, list) or not value:
        return encode(value)
    return "[\n    " + ",\n    ".join(map(encode, value)) + "\n  ]"


def _cells(column: Sequence[object]) -> list[str]:
    texts = ["-" if cell in (None, "") else str(cell) for cell in column]
    return texts if "".join(texts).isprintable() else list(map(shown, texts))


class Console:
    """Standard output and standard error of one command.

    With `json`, `print` does nothing and `answer` writes the one document; without it, it is the other way round.
    """

    def __init__(self, *, json: bool, command: str) -> None:
        self.json = json
        self.command = command
        #: Whether the answer is that of a publish.
        self.publishes = command in ("publish", "resume")
        self.verbose = False
        #: What `--root` named; "" if nothing did.
        self.root = ""
        self._broken: OSError | None = None
        #: Standard output while that of others is set aside.
        self._out: TextIO | None = None

    def print(self, text: str = "") -> None:
        """A line of the answer for people. `text` is printed as it is: names in it must be `shown`."""
        if not self.json:
            self._write(text + "\n")

    def answer(self, document: Any) -> None:
        """The answer for programs."""
        if self.json:
            import json

            # ASCII only, so that lone surrogates are escapes. Long arrays come in pieces of their own and are read as lists.
            # One line for each element of a list: an indent below that would be written by Python, not by C.
            self._write(_laid_out(document, json.JSONEncoder(default=list).encode) + "\n")

    def help(self, text: str) -> None:
        """Help, which is the answer if somebody asks for it."""
        self.answer({"help": text})
        self.print(text.rstrip("\n"))

    def directive(self, text: str) -> None:
        """A line for a farm that reads standard output; on standard error if an answer for programs goes there."""
        if self.json:
            self.say(text)
        else:
            self._write(text + "\n")

    def say(self, text: str) -> None:
        """A message for people on standard error. `text` is printed as it is: names in it must be `shown`."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def detail(self, text: str) -> None:
        """A message that only `-v` shows."""
        if self.verbose:
            self.say(f"  . {shown(text)}")

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Columns for people; every cell is escaped here."""
        if self.json:
            return
        columns = [_cells(column) for column in zip(headings, *rows)]
        line = "  ".join([*(f"%-{max(map(len, column))}s" for column in columns[:-1]), "%s"])
        self.print("\n".join([line % row for row in zip(*columns)]))

    def command_line(self, text: str) -> str:
        """A sentence with commands in it, with the `--root` that this run was given."""
        if not self.root:
            return text
        return _OWN_COMMAND.sub(lambda found: f"{found[0]}--root {shlex.quote(os.path.abspath(self.root))} ", text)

    def close(self, code: int) -> int:
        """Flush; returns the exit code. An answer that could not be delivered does not undo what was done."""
        self._write("")
        if self._broken is not None:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                # The interpreter flushes once more at its end, and must not meet the same error.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(self._broken, BrokenPipeError):
                done = "; what it was about is published all the same" if self.publishes and not code else ""
                self.say(f"integrator: the answer could not be written: {self._broken.strerror}{done}")
                return code or (0 if self.publishes else 1)
        return code

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """While code of others runs: whatever it writes to standard output goes to standard error, its children's, too."""
        before, kept = sys.stdout, -1
        with contextlib.suppress(OSError, ValueError, AttributeError):
            before.flush()
            if before.fileno() == 1:
                kept = os.dup(1)
                os.dup2(2, 1)
        try:
            self._out = before if kept < 0 else os.fdopen(kept, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
            sys.stdout = sys.stderr
            yield
        finally:
            sys.stdout, self._out = before, None
            if kept >= 0:
                os.dup2(kept, 1)
                os.close(kept)

    def _write(self, text: str) -> None:
        out = self._out or sys.stdout
        if self._broken is None and out is not None:
            try:
                out.write(text)
                out.flush()
            except OSError as error:
                self._broken = error
