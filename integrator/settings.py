"""Settings: what they are, who may set them where, and which of several values counts.

Later ones override earlier ones: the defaults, the root's ``config.toml``, the project's file, the user's ``config.toml`` (where
`platformdirs` says), the environment. The classes `Settings` and `LeaseTimes` are the table of all settings; reading, checking,
`integrator config --explain` and the table in docs/settings.md follow from it. A new setting is one entry there.

All mistakes of all files are found at once, each with file and line.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from integrator.errors import Problem, SettingsRefused

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DAY: Final = 86400.0

# --- levels -----------------------------------------------------------------------------------------------------------

DEFAULT, ROOT, PROJECT, USER, ENVIRONMENT = LEVELS = ("default", "root", "project", "user", "environment")
_FILES: Final = {ROOT: "the root's config.toml", PROJECT: "a project's file", USER: "the user's config.toml"}

#: What holds for the whole publish root, whoever works in it on whatever.
_WHOLE: Final = (ROOT,)
#: Rules of the house: a project may have its own, a user may not.
_HOUSE: Final = (ROOT, PROJECT)
#: What depends on where the work is done, not on what is published.
_PLACE: Final = (ROOT, USER)


# --- kinds of values --------------------------------------------------------------------------------------------------


def _toml(value: Any) -> str:
    # A JSON string is a TOML string, as long as it has no lone surrogates; so are numbers and truth values.
    if isinstance(value, float):
        return f"{value:.15g}"
    return json.dumps(value, ensure_ascii=False)


@attrs.frozen
class Kind:
    """What a setting can be."""

    #: What is allowed, to follow "must be".
    allowed: str
    #: From what TOML has to what the engine uses. Raises `ValueError`, with a message where `allowed` does not say enough.
    read: Callable[[Any], Any]
    #: As it is written in a file.
    show: Callable[[Any], str] = _toml


def _refuse() -> Any:
    raise ValueError


def _is(*types: type) -> Callable[[Any], Any]:
    # `bool` is an `int` for isinstance.
    return lambda value: value if type(value) in types else _refuse()


def _one_of(*choices: str) -> Kind:
    return Kind(f"one of {', '.join(choices)}", lambda value: value if value in choices else _refuse())


def _whole_number(least: int, most: int, meaning: str = "") -> Kind:
    good = range(least, most + 1)
    allowed = f"a whole number from {least} to {most}{meaning}"
    return Kind(allowed, lambda value: value if type(value) is int and value in good else _refuse())


_UNITS: Final = {"d": DAY, "h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)([smhd])")


def seconds(value: Any) -> float:
    """The seconds of a duration: a number of them, or a text such as "90s", "15m", "24h", "7d". Raises `ValueError`."""
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        value = float(found[1]) * _UNITS[found[2]]
    if type(value) not in (int, float) or not 0 <= value < 10 * 365 * DAY:
        raise ValueError
    return float(value)


def _some_seconds(value: Any) -> float:
    return seconds(value) or _refuse()


def _show_seconds(value: float) -> str:
    unit = next((unit for unit, size in _UNITS.items() if value >= size and value % size == 0), "")
    return f'"{value / _UNITS[unit]:.15g}{unit}"' if unit else _toml(value)


def _format(value: Any) -> int:
    return value if type(value) is int and value == 1 else _refuse()


def _mode(value: Any) -> int:
    return value if type(value) is int and 0o400 <= value <= 0o3777 else _refuse()


def _pattern(value: Any) -> str:
    try:
        re.compile(value)
    except (TypeError, ValueError, OverflowError, RecursionError, re.error) as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return str(value)


def _absolute(value: Any) -> str:
    return value if isinstance(value, str) and os.path.isabs(value) else _refuse()


def _names(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) and all(isinstance(name, str) and name for name in value) else _refuse()


_AUTHORITY: Final = re.compile(r"(://[^/:][^:]*|://):.*@", re.DOTALL)
_SECRET_OPTION: Final = re.compile(r"([?&][^=&]*(?:password|passphrase|secret|token)[^=&]*=)[^&]+", re.IGNORECASE)


def without_password(url: str) -> str:
    """A URL that can be shown to anybody. In doubt more is masked than needed: a password may hold any character."""
    return _SECRET_OPTION.sub(r"\1***", _AUTHORITY.sub(r"\1:***@", url))


_TEXT: Final = Kind("text", _is(str))
_NAMES: Final = Kind("a list of texts", _names, lambda value: json.dumps(list(value)))
_YES_NO: Final = Kind("true or false", _is(bool))
_FORMAT: Final = Kind("1, the only format that this program knows", _format)
_URL: Final = Kind("text", _is(str), lambda value: _toml(without_password(value)))
_FOLDER: Final = Kind("an absolute path", _absolute)
_REGULAR: Final = Kind("a regular expression", _pattern)
_TIME: Final = Kind('seconds, or "90s", "15m", "24h", "7d"; 0 to 10 years', seconds, _show_seconds)
_TIME_ABOVE_0: Final = Kind('seconds, or "90s", "15m", "24h", "7d"; above 0, to 10 years', _some_seconds, _show_seconds)
_MODE: Final = Kind("a mode such as 0o664, from 0o400 to 0o3777", _mode, lambda value: f"0o{value:o}")
_COUNT: Final = _whole_number(0, 10_000, " (0: no limit)")


# --- the table --------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Setting:
    """One setting."""

    #: As it is written in a file; ``lease.renew`` is `renew` in the table `lease`.
    name: str
    kind: Kind
    #: In which files it may stand.
    levels: tuple[str, ...]
    #: What it says, in one line.
    about: str
    default: Any = None
    #: Environment variable that overrides every file.
    variable: str = ""
    #: Whether it is a table of values that have names of their own.
    table: bool = False


def _setting(default: Any, kind: Kind, levels: tuple[str, ...], about: str, *, variable: str = "") -> Any:
    facts = {"kind": kind, "levels": levels, "about": about, "variable": variable}
    return attrs.field(default=default, metadata=facts)


def _table(kind: Kind, levels: tuple[str, ...], about: str) -> Any:
    return attrs.field(factory=dict, metadata={"kind": kind, "levels": levels, "about": about, "table": True})


@attrs.frozen(kw_only=True)
class LeaseTimes:
    """Times of the soft locks, in seconds."""

    renew: float = _setting(20.0, _TIME_ABOVE_0, _WHOLE, "between two renewals of a soft lock; below `lease.takeover`")
    takeover: float = _setting(900.0, _TIME_ABOVE_0, _WHOLE, "silence after which anybody may take a transaction over")
    takeover_same_publish: float = _setting(60.0, _TIME_ABOVE_0, _WHOLE, "... and a retry of the same publish id")


@attrs.frozen(kw_only=True)
class Settings:
    """Everything that can be configured; times in seconds."""

    format: int = _setting(1, _FORMAT, (ROOT, PROJECT, USER), "format of the file")
    root_id: str = _setting("", _TEXT, _WHOLE, "id of the publish root, made by `init`; leave it as it is")
    default_root: str = _setting("", _FOLDER, (USER,), "publish root to work with where nothing else names one")
    database: str = _setting("", _URL, _PLACE, 'database URL; "" is the embedded one in the root', variable="INTEGRATOR_DATABASE")
    name_pattern: str = _setting(r"^[a-zA-Z0-9_.-]+$", _REGULAR, _WHOLE, "what every name that reaches a path must match")
    transfer: str = _setting("copy", _one_of("copy", "hardlink", "reflink", "symlink", "move"), _HOUSE,
                             "how files are brought in unless the request says so")  # fmt: skip
    checksum: str = _setting(
        "copied", _one_of("none", "copied", "all"), _HOUSE, "which files get a checksum unless the request says"
    )
    missing_frames: str = _setting("refuse", _one_of("refuse", "allow"), _HOUSE,
                                   "whether a sequence may lack frames unless the request says so")  # fmt: skip
    link_fallback: str = _setting("refuse", _one_of("refuse", "copy"), _HOUSE,
                                  "what a hard link or reflink becomes where it cannot be made")  # fmt: skip
    link_writable: bool = _setting(
        True, _YES_NO, _HOUSE, "whether hard links may be made to sources that somebody can still write"
    )
    latest_link: bool = _setting(False, _YES_NO, _HOUSE, "whether a link `latest` leads to the highest version of a subset")
    reveal: str = _setting("late", _one_of("late", "early"), _HOUSE,
                           "when other plugins find a version at its final path: after the commit, or earlier")  # fmt: skip
    symlink_outside: bool = _setting(False, _YES_NO, _HOUSE, "whether symbolic links may point outside the roots")
    file_mode: int = _setting(0o664, _MODE, _HOUSE, "mode of published files")
    folder_mode: int = _setting(0o2775, _MODE, _HOUSE, "mode of folders that a publish makes")
    group: str = _setting("", _TEXT, _WHOLE, "group that shares the root, by name or number; set by `init --shared`")
    keep_times: bool = _setting(True, _YES_NO, _HOUSE, "whether copies keep the modification time of their source")
    create_assets: bool = _setting(True, _YES_NO, _HOUSE, "whether project and asset documents that are not there are made")
    settle: float = _setting(0.0, _TIME, (ROOT, PROJECT, USER), "how long a missing or changed source is looked at again")
    attempts: int = _setting(0, _COUNT, _HOUSE, "how often one publish id may be tried")
    attempts_per_host: int = _setting(0, _COUNT, _HOUSE, "how often one publish id may be tried on one host")
    after_commit: Sequence[str] = _setting(
        (), _NAMES, _WHOLE, "class names of pyblish plugins that run after the commit, whatever their order"
    )
    workers: int = _setting(2, _whole_number(1, 64), _PLACE, "threads that copy and link")
    keep: float = _setting(7 * DAY, _TIME_ABOVE_0, _WHOLE, "how long leftovers, trash and burnt numbers stay until `sweep`")
    keep_failed: float = _setting(DAY, _TIME, _WHOLE, "how long that which a failed publish produced stays, to go on from it")
    lease: LeaseTimes = attrs.field(factory=LeaseTimes)
    #: Beside `work`, which is the publish root itself.
    roots: Mapping[str, str] = _table(_FOLDER, _WHOLE, "further named roots, each an absolute path")
    #: A link is what templates name as ``{@version_padding}``.
    templates: Mapping[str, str] = _table(_TEXT, _HOUSE, "folder, file, hero_folder, hero_file, or an inner link of theirs")


def _described() -> Iterator[Setting]:
    fields = [("", field) for field in attrs.fields(Settings) if field.metadata]
    fields += [("lease.", field) for field in attrs.fields(LeaseTimes)]
    for prefix, field in fields:
        yield Setting(name=prefix + field.name, default=field.default, **field.metadata)


#: Every setting by its name. A table has one entry; its values are called ``templates.folder`` and so on.
SETTINGS: Final[Mapping[str, Setting]] = {setting.name: setting for setting in _described()}
_TABLES: Final = {"lease"} | {name for name, setting in SETTINGS.items() if setting.table}


def setting_of(name: str) -> Setting | None:
    """The setting that a name such as ``workers``, ``lease.renew`` or ``templates.folder`` belongs to."""
    table, dot, inner = name.partition(".")
    if name in SETTINGS:
        return None if SETTINGS[name].table else SETTINGS[name]
    return SETTINGS[table] if dot and table in SETTINGS and SETTINGS[table].table and _BARE.fullmatch(inner) else None


# --- one file ---------------------------------------------------------------------------------------------------------

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_AT_LINE: Final = re.compile(r" \(at line (\d+), column \d+\)$")


@attrs.frozen
class Source:
    """A configuration file that was read."""

    #: `ROOT`, `PROJECT` or `USER`.
    level: str
    path: str
    content: bytes


@attrs.frozen
class Given:
    """A value, and where it comes from."""

    value: Any
    level: str
    #: File and line, a variable, or "default".
    where: str


def _read(source: Source, problems: list[Problem]) -> dict[str, Given]:
    """The good values of one file by their flat names; adds what is wrong to `problems`, in the order of lines."""
    try:
        text = source.content.decode()
        values = dict(_flat(tomllib.loads(text)))
    except UnicodeDecodeError as error:
        line = source.content[: error.start].count(b"\n") + 1
        problems.append(Problem(f"{source.path}:{line}", "is not UTF-8"))
        return {}
    except ValueError as error:
        problems.append(_syntax_problem(source.path, text, str(error)))
        return {}
    except RecursionError:
        problems.append(Problem(source.path, "is nested too deeply"))
        return {}
    lines = _lines(text)
    given: dict[str, Given] = {}
    for name in sorted(values, key=lines.__getitem__):
        where = f"{source.path}:{lines[name]}"
        try:
            given[name] = Given(_value(name, values[name], source.level), source.level, where)
        except ValueError as error:
            problems.append(Problem(where, f"{name} {error}"))
    return given


def _syntax_problem(path: str, text: str, what: str) -> Problem:
    found = _AT_LINE.search(what)
    line = int(found[1]) if found else len(text.rstrip("\n").split("\n"))
    return Problem(f"{path}:{line}", f"is not TOML: {what[: found.start()] if found else what}")


def _value(name: str, value: Any, level: str) -> Any:
    """The value of a setting as the engine uses it. Raises `ValueError` with what is wrong."""
    setting = setting_of(name)
    if setting is None:
        raise ValueError("must be a table" if name in _TABLES else f"is not a setting{_closest(name)}")
    if level in _FILES and level not in setting.levels:
        allowed = " or ".join(_FILES[other] for other in setting.levels)
        raise ValueError(f"cannot be set in {_FILES[level]}, only in {allowed}")
    try:
        read = setting.kind.read(value)
    except ValueError as error:
        raise ValueError(str(error) or f"must be {setting.kind.allowed}") from error
    # Everybody who publishes can read the files of a root.
    if setting.kind is _URL and level == ROOT and without_password(read) != read:
        raise ValueError(f"holds a password; credentials belong in {setting.variable} or in {user_file()}")
    return read


def _closest(name: str) -> str:
    found = difflib.get_close_matches(name, SETTINGS, n=1)
    return f"; did you mean {found[0]}?" if found else "; `integrator config` lists them all"


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if name in _TABLES and isinstance(value, dict):
            yield from ((f"{name}.{_quoted(inner)}", part) for inner, part in value.items())
        else:
            yield _quoted(name), value


def _quoted(key: str) -> str:
    # A key "lease.renew" in quotes is not `renew` of the table `lease`.
    return key if _BARE.fullmatch(key) else _toml(key)


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
            found = dict(_flat(tomllib.loads(header + statement)))
        except ValueError:
            continue  # the middle of a value of several lines
        for name in found:
            lines.setdefault(name, start)
        if statement.lstrip().startswith("["):
            header = statement
        statement, start = "", number + 1
    return lines


# --- all levels -------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Survey:
    """Everything that was found on all levels."""

    #: Values of each setting by its flat name, the one that counts first, the default last.
    given: Mapping[str, tuple[Given, ...]]
    #: Everything that is wrong.
    problems: tuple[Problem, ...]

    def value(self, name: str) -> Any:
        """The value that counts."""
        return self.given[name][0].value

    def table(self, name: str) -> dict[str, Any]:
        """The values of a table that count, by their names in it."""
        start = f"{name}."
        return {flat.removeprefix(start): found[0].value for flat, found in self.given.items() if flat.startswith(start)}

    def settings(self) -> Settings:
        """The settings. Raises `SettingsRefused` with every mistake."""
        if self.problems:
            raise SettingsRefused(self.problems)
        tables: dict[str, Any] = {name: self.table(name) for name in _TABLES}
        tables["lease"] = LeaseTimes(**tables["lease"])
        return Settings(**{name: found[0].value for name, found in self.given.items() if "." not in name}, **tables)


def survey(sources: Iterable[Source]) -> Survey:
    """Read the files of a root and a project, the user's own, and the environment. Raises nothing for what is in them."""
    problems: list[Problem] = []
    found = [_read(source, problems) for source in [*sources, *_users(problems)]]
    found.append(_variables(problems))
    given = {name: [Given(setting.default, DEFAULT, DEFAULT)] for name, setting in SETTINGS.items() if not setting.table}
    for values in found:
        for name, value in values.items():
            given.setdefault(name, []).insert(0, value)
    problems += _comparisons(given)
    return Survey(given={name: tuple(values) for name, values in given.items()}, problems=tuple(problems))


def load(config: bytes, path: str) -> Settings:
    """Settings of a root from the content of its ``config.toml``, from user and environment. Raises `SettingsRefused`."""
    return survey([Source(ROOT, path, config)]).settings()


def user_file() -> str:
    """Path of the user's own configuration."""
    import platformdirs

    return os.path.join(platformdirs.user_config_dir("integrator", appauthor=False), "config.toml")


def _users(problems: list[Problem]) -> list[Source]:
    path = user_file()
    try:
        with open(path, "rb") as file:
            return [Source(USER, path, file.read())]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problems.append(Problem(path, f"cannot be read: {error.strerror}"))
        return []


def _variables(problems: list[Problem]) -> dict[str, Given]:
    given = {}
    for setting in SETTINGS.values():
        if text := os.environ.get(setting.variable):
            try:
                given[setting.name] = Given(_value(setting.name, text, ENVIRONMENT), ENVIRONMENT, setting.variable)
            except ValueError as error:
                problems.append(Problem(setting.variable, str(error)))
    return given


def _comparisons(given: Mapping[str, list[Given]]) -> Iterator[Problem]:
    """What is wrong only together."""
    renew, takeover = given["lease.renew"][0], given["lease.takeover"][0]
    if renew.value >= takeover.value:
        what = f"lease.renew ({renew.value:g}) must be below lease.takeover ({takeover.value:g}): else who lives looks gone"
        yield Problem((takeover if renew.level == DEFAULT else renew).where, what)
