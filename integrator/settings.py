"""Settings of a publish root: defaults, the root's ``config.toml``, the user's, and the environment.

Later ones override earlier ones: defaults, ``<root>/.integrator/config.toml``, the user's ``config.toml`` (where `platformdirs`
says), ``INTEGRATOR_DATABASE``. All mistakes of a file are reported at once, each with file and line.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from integrator.errors import Problem, SettingsRefused

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TRANSFERS: Final = ("copy", "hardlink", "reflink", "symlink", "move")
DAY: Final = 86400.0
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])", re.ASCII)
#: Settings that only make sense together.
_COMPARED: Final = {"lease.renew", "lease.takeover"}


@attrs.frozen(kw_only=True)
class LeaseTimes:
    """Times of the soft locks, in seconds."""

    #: Between two renewals; below `takeover`.
    renew: float = 20.0
    #: Silence after which anybody may take a transaction over.
    takeover: float = 900.0
    #: Silence after which a retry of the same publish id may.
    takeover_same_publish: float = 60.0


@attrs.frozen(kw_only=True)
class Settings:
    """Everything that can be configured."""

    #: Format of the configuration file.
    format: int = 1
    #: Id of the publish root, made by `init`; the marker file in each root carries it too.
    root_id: str = ""
    #: Database URL; "" is the embedded database in the state folder.
    database: str = ""
    #: Other named roots beside `work`: name to absolute path.
    roots: Mapping[str, str] = attrs.field(factory=dict)
    #: Path templates that differ from the defaults: folder, file, hero_folder, hero_file, or a link such as `version_padding`.
    templates: Mapping[str, str] = attrs.field(factory=dict)
    #: Regular expression for every name that reaches a path.
    name_pattern: str = r"^[a-zA-Z0-9_.-]+$"
    #: How files are brought in unless the request says so.
    transfer: str = "copy"
    #: none, copied or all.
    checksum: str = "copied"
    #: What a hard link or reflink becomes where the file system refuses it: refuse or copy.
    link_fallback: str = "refuse"
    #: Whether symbolic links may point outside the roots.
    symlink_outside: bool = False
    #: Mode of published files and folders.
    file_mode: int = 0o664
    folder_mode: int = 0o2775
    #: Whether copies keep the modification time of their source.
    keep_times: bool = True
    #: Whether an asset that has no document is made: True where this root is the home of the assets.
    create_assets: bool = True
    #: Threads that copy and link.
    workers: int = 2
    #: Seconds that ended leftovers, trash and burnt numbers are kept.
    keep: float = 7 * DAY
    #: Seconds that what a failed publish produced is kept, to go on from it.
    keep_failed: float = DAY
    #: Seconds that a source which is missing or changed is looked at again before that is believed.
    settle: float = 0.0
    #: How often one publish id may be tried, altogether and on one host; 0 for any number of times.
    attempts: int = 0
    attempts_per_host: int = 0
    lease: LeaseTimes = attrs.field(factory=LeaseTimes)


def _is(*types: type) -> Callable[[Any], str]:
    names = " or ".join({str: "text", int: "a whole number", float: "a number", bool: "true or false"}[t] for t in types)
    return lambda value: "" if type(value) in types else f"must be {names}"


def _one_of(*choices: str) -> Callable[[Any], str]:
    return lambda value: "" if value in choices else f"must be one of {', '.join(choices)}"


def _seconds(value: Any) -> str:
    return "" if type(value) in (int, float) and 0 < value < 10 * 365 * DAY else "must be a number of seconds above 0"


def _duration(value: Any) -> str:
    try:
        seconds(value)
    except ValueError as error:
        return str(error)
    return ""


def seconds(value: Any) -> float:
    """The seconds of a duration: a number of them, or a text such as "90s", "15m", "24h", "7d". Raises `ValueError`."""
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        value = float(found[1]) * _UNITS[found[2]]
    if type(value) not in (int, float) or not 0 <= value < 10 * 365 * DAY:
        raise ValueError('must be a number of seconds, or a duration such as "90s", "15m", "24h" or "7d"')
    return float(value)


def _count(value: Any) -> str:
    return "" if type(value) is int and 0 <= value <= 10_000 else "must be a whole number from 0 to 10000 (0: no limit)"


def _mode(value: Any) -> str:
    # TOML writes octal as 0o664.
    return "" if type(value) is int and 0o400 <= value <= 0o3777 else "must be a mode such as 0o664"


def _pattern(value: Any) -> str:
    try:
        re.compile(value)
    except (TypeError, ValueError, OverflowError, RecursionError, re.error) as error:
        return f"is not a regular expression: {error}"
    return ""


def _text_table(value: Any) -> str:
    good = isinstance(value, dict) and all(isinstance(inner, str) for inner in value.values())
    return "" if good else "must be a table of texts"


def _root_table(value: Any) -> str:
    if _text_table(value):
        return _text_table(value)
    relative = [name for name, path in value.items() if not os.path.isabs(path)]
    return f"must be absolute paths: {', '.join(relative)}" if relative else ""


def _workers(value: Any) -> str:
    return "" if type(value) is int and 1 <= value <= 64 else "must be a whole number from 1 to 64"


_RULES: Final[Mapping[str, Callable[[Any], str]]] = {
    "format": lambda value: "" if type(value) is int and value == 1 else "is a format that this program does not know",
    "root_id": _is(str),
    "database": _is(str),
    "roots": _root_table,
    "templates": _text_table,
    "name_pattern": _pattern,
    "transfer": _one_of(*_TRANSFERS),
    "checksum": _one_of("none", "copied", "all"),
    "link_fallback": _one_of("refuse", "copy"),
    "symlink_outside": _is(bool),
    "file_mode": _mode,
    "folder_mode": _mode,
    "keep_times": _is(bool),
    "create_assets": _is(bool),
    "workers": _workers,
    "keep": _seconds,
    "keep_failed": _duration,
    "settle": _duration,
    "attempts": _count,
    "attempts_per_host": _count,
    "lease.renew": _seconds,
    "lease.takeover": _seconds,
    "lease.takeover_same_publish": _seconds,
}


def load(config: bytes, path: str) -> Settings:
    """Settings of a root from the content of its ``config.toml`` and from user and environment.

    Raises `SettingsRefused` with every mistake.
    """
    values = _read(config, path)
    user = user_file()
    if os.path.exists(user):
        with open(user, "rb") as file:
            own = _read(file.read(), user)
        values.update(own)
        path = user if own.keys() & _COMPARED else path
    if os.environ.get("INTEGRATOR_DATABASE"):
        values["database"] = os.environ["INTEGRATOR_DATABASE"]
    times = {name.removeprefix("lease."): values.pop(name) for name in list(values) if name.startswith("lease.")}
    values.update({name: seconds(values[name]) for name in ("keep_failed", "settle") if name in values})
    lease = LeaseTimes(**times)
    if lease.renew >= lease.takeover:
        what = f"lease.renew ({lease.renew:g}) must be below lease.takeover ({lease.takeover:g}): else who lives looks gone"
        raise SettingsRefused([Problem(path, what)])
    return Settings(lease=lease, **values)


def user_file() -> str:
    """Path of the user's own configuration."""
    import platformdirs

    return os.path.join(platformdirs.user_config_dir("integrator", appauthor=False), "config.toml")


def _read(config: bytes, path: str) -> dict[str, Any]:
    """The values of one file, flat (`lease.renew`). Raises `SettingsRefused`."""
    try:
        text = config.decode()
        flat = _flat(tomllib.loads(text))
    except ValueError as error:  # TOMLDecodeError names the line
        raise SettingsRefused([Problem(path, str(error))]) from error
    except RecursionError as error:
        raise SettingsRefused([Problem(path, "is nested too deeply")]) from error
    wrong = {name: _RULES[name](value) if name in _RULES else "is not a setting" for name, value in flat.items()}
    if any(wrong.values()):
        lines = _lines(text)
        raise SettingsRefused(Problem(f"{path}:{lines[name]}", f"{name} {what}") for name, what in wrong.items() if what)
    return flat


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if name == "lease" and isinstance(value, dict):
            flat.update({f"lease.{inner}": part for inner, part in value.items()})
        else:
            flat[name] = value
    return flat


def _lines(text: str) -> dict[str, int]:
    """Line of each setting in a valid file, 1-based.

    The parser is asked, statement by statement: it knows every way to write one.
    """
    lines: dict[str, int] = {}
    header = statement = ""
    start = 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        if statement.lstrip().startswith("["):
            header = ""
        try:
            found = _flat(tomllib.loads(header + statement))
        except ValueError:
            continue  # the middle of a value of several lines
        for name in found:
            lines.setdefault(name, start)
        if statement.lstrip().startswith("["):
            header = statement
        statement, start = "", number + 1
    return lines
