"""Reading the command line: the options of every command, accepted before or after its name, and errors as exceptions."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from integrator.errors import UsageError

Arguments = argparse.Namespace


class Helped(Exception):
    """Help was asked for; `text` is the answer."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations, prints nothing and raises `UsageError` or `Helped`."""

    def __init__(self, **options: Any) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=form, **options)
        # Ranges of frames may begin below zero: `--frames -5--1` gives a value, and no option.
        self._negative_number_matcher = re.compile(r"-[0-9][0-9,x-]*$")

    def parse(self, words: Sequence[str]) -> Arguments:
        """Parse options and positionals in any order. Raises `UsageError`, `Helped`."""
        return self.parse_intermixed_args(words)

    def print_help(self, file: Any = None) -> None:
        raise Helped(self.format_help())

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, next=f"{self.prog} --help")


class Once(argparse.Action):
    """Stores a value, and refuses a second one."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Arguments, values: Any, option: str | None = None) -> None:
        # Parsing positionals and options apart visits each twice; only a second value of one pass is too many.
        seen = namespace.__dict__.setdefault("_seen", set())
        if self.dest in seen:
            raise argparse.ArgumentError(self, "is given twice")
        seen.add(self.dest)
        setattr(namespace, self.dest, values)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every command."""
    options = parser.add_argument_group("options of every command")
    options.add_argument("--root", metavar="DIR", help="publish root (default: $INTEGRATOR_ROOT, else the nearest parent)")
    options.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options.add_argument("-v", "--verbose", action="store_true", help="details on standard error")


def separate(words: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Cut a command line into the options before the command, the command ("" if there is none), and the rest."""
    index = 0
    while index < len(words) and words[index].startswith("-"):
        index += 2 if words[index] == "--root" else 1
    command = words[index] if index < len(words) else ""
    return list(words[:index]), command, list(words[index + 1 :])


def pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE arguments as a mapping. Raises `UsageError` for one without a name, or a name that is there twice."""
    found: dict[str, str] = {}
    for text in given:
        name, mark, value = text.partition("=")
        if not mark or not name:
            raise UsageError(f"{option} {text}: write it as NAME=VALUE")
        if name in found:
            raise UsageError(f"{option} {name} is given twice")
        found[name] = value
    return found


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def age(text: str) -> float:
    """Seconds of an age such as ``7d``, ``12h``, ``30m``, ``45s`` or ``90``. Raises `argparse.ArgumentTypeError`."""
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    if not number.isascii() or not number.replace(".", "", 1).isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not an age; write 7d, 12h, 30m or a number of seconds")
    return float(number) * _UNITS[unit]


def seconds(text: str) -> float:
    """A number of seconds, 0 or more. Raises `argparse.ArgumentTypeError`."""
    if not text.isascii() or not text.replace(".", "", 1).isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(text)


def count(text: str) -> int:
    """A whole number above 0. Raises `argparse.ArgumentTypeError`."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
