"""``integrator config``: the settings that hold here, where each comes from, and everything that is wrong with them."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from integrator.cli.arguments import Once
from integrator.cli.console import shown
from integrator.errors import SettingsRefused, UsageError

if TYPE_CHECKING:
    from integrator.cli import Call
    from integrator.settings import Given, Survey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which settings, and how much of them."""
    parser.epilog = "Values are written as in a configuration file; passwords are never shown."
    parser.add_argument("--explain", action="store_true", help="where each value comes from, and what it overrides")
    parser.add_argument("--project", action=Once, default="", metavar="P", help="the settings that hold in this project")


def run(call: Call) -> int:
    """Print what could be read, and then everything that is wrong; writes nothing."""
    from integrator.root import read_settings

    path, project = os.path.abspath(call.root()), str(call.arguments.project)
    if "/" in project or project.startswith("."):
        raise UsageError(f"{project!r} cannot be the name of a project", next="integrator config --project NAME")
    found = read_settings(path, project)
    call.console.answer(_document(path, project, found, call.arguments.explain))
    if not call.console.json:
        _print(call, path, project, found)
    if not found.problems:
        return 0
    call.console.say(f"integrator: {SettingsRefused.headline} Publishes are refused until this is corrected:")
    for where, what in found.problems:
        call.console.say(f"  {shown(where)}: {shown(what)}")
    return SettingsRefused.exit_code


def _print(call: Call, path: str, project: str, found: Survey) -> None:
    if call.arguments.explain:
        for label, name in _places(path, project).items():
            call.console.print(f"# {label}: {shown(name)}{'' if os.path.exists(name) else ' (not there)'}")
    for name, (value, *overridden) in found.given.items():
        line = f"{name} = {shown(_text(name, value))}"
        if not call.arguments.explain:
            call.console.print(line)
            continue
        call.console.print(f"{line}  # {shown(_from(value))}")
        for other in overridden:
            call.console.print(f"#   overrides {shown(_text(name, other))} ({shown(_from(other))})")


def _places(path: str, project: str) -> dict[str, str]:
    from integrator.root import config_file, project_file
    from integrator.settings import user_file

    places = {"config.toml": config_file(path), "user file": user_file()}
    return {**places, "project file": project_file(path, project)} if project else places


def _text(name: str, given: Given) -> str:
    """A value as it is written in a file."""
    from integrator.settings import setting_of

    setting = setting_of(name)
    assert setting is not None
    return setting.kind.show(given.value)


def _from(given: Given) -> str:
    """Where a value comes from, in short."""
    from integrator.settings import ENVIRONMENT, PROJECT, ROOT, USER

    file, _, line = given.where.rpartition(":")
    names = {ROOT: "config.toml", PROJECT: f"projects/{os.path.basename(file)}", USER: "user file"}
    if given.level in names:
        return f"{names[given.level]}:{line}"
    return f"environment, {given.where}" if given.level == ENVIRONMENT else given.where


def _document(path: str, project: str, found: Survey, explain: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "root": path,
        "project": project or None,
        "settings": {name: _value(name, values[0]) for name, values in found.given.items()},
        "problems": [{"where": where, "what": what} for where, what in found.problems],
    }
    if explain:
        answer["sources"] = {
            name: [{"value": _value(name, given), "level": given.level, "where": given.where} for given in values]
            for name, values in found.given.items()
        }
    return answer


def _value(name: str, given: Given) -> Any:
    """A value for programs: seconds and modes as numbers."""
    from integrator.settings import without_password

    return without_password(given.value) if name == "database" else given.value
