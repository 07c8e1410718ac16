"""What the documentation says is what the program does."""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from studio import Studio

from integrator import errors, settings
from integrator.cli import COMMANDS
from integrator.journal.format import KINDS
from integrator.model import TRANSITIONS, State

HOME = Path(__file__).parent.parent
README = (HOME / "README.md").read_text()
DESIGN = (HOME / "docs/design.md").read_text()
SETTINGS_PAGE = (HOME / "docs/settings.md").read_text()
CONTRIBUTING = (HOME / "CONTRIBUTING.md").read_text()

COMMIT_POINT = (
    "The commit point is one database write: the transaction's document turns from `open` to `committed` in the same database"
    " transaction as the documents that it publishes. Before it everything is undone; after it everything is redone."
)


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title!r}"
    return found[2]


def blocks(text: str, language: str) -> list[str]:
    """Code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def rows(text: str) -> list[list[str]]:
    """Cells of the lines of all tables, without head lines."""
    found: list[list[str]] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        headline = number + 1 < len(lines) and lines[number + 1].startswith("| --")
        if line.startswith("| ") and not line.startswith("| --") and not headline:
            found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


# --- sentences and tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["README.md", "docs/design.md", "integrator/publish.py"])
def test_the_commit_point_is_stated_word_for_word(name: str) -> None:
    assert COMMIT_POINT in " ".join((HOME / name).read_text().split())


@pytest.mark.parametrize("part", ["## What it guarantees", "### What cannot be promised"])
def test_guarantees_and_limits_are_the_same_everywhere(part: str) -> None:
    title = part.lstrip("# ")
    ours = section(README, title)
    theirs = section(DESIGN, title.replace("What it guarantees", "Guarantees"))
    points = re.findall(r"^(?:\d\.|-) .*?(?=^(?:\d\.|-) |^$|\Z)", ours, re.MULTILINE | re.DOTALL)
    assert len(points) >= 5
    assert [point for point in points if point not in theirs] == []


def test_the_exit_codes_are_those_of_the_errors() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.IntegratorError)]
    raised = {0} | {kind.exit_code for kind in kinds} | {128 + n for n in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    for text in (README, DESIGN):
        table = rows(section(text, "Exit codes"))
        assert {int(code) for row in table for code in row[0].split(", ")} == raised


def test_the_states_are_those_of_the_model() -> None:
    table = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[3])) for row in rows(section(DESIGN, "States"))}
    assert table == {state.value: {after.value for after in TRANSITIONS[state]} for state in State}


def test_the_kinds_of_records_are_those_of_the_format() -> None:
    listed = section(DESIGN, "Journal").partition("The kinds:")[2].partition("\n\n")[2].partition("\n\n")[0]
    assert re.findall(r"`(\w+)`", listed) == list(KINDS)


def test_the_settings_are_all_there_as_the_table_has_them() -> None:
    levels = {"root", "project", "user"}
    table = {
        row[0].strip("`").removesuffix(".NAME"): (row[1].strip("`"), row[2], set(row[3].split(", ")), row[4])
        for row in rows(section(SETTINGS_PAGE, "All settings"))
    }
    assert table == {
        name: (setting.kind.show(setting.default) if not setting.table else "", setting.kind.allowed,
               set(setting.levels) & levels, setting.about)
        for name, setting in settings.SETTINGS.items()
    }  # fmt: skip
    assert list(table) == list(settings.SETTINGS)


def test_the_levels_are_those_of_the_program() -> None:
    named = [row[0] for row in rows(section(SETTINGS_PAGE, "Levels"))]
    assert named == [*settings.LEVELS, "request"]
    assert {setting.variable for setting in settings.SETTINGS.values()} - {""} == {"INTEGRATOR_DATABASE"}


def test_the_example_settings_are_valid() -> None:
    [block] = blocks(section(README, "Settings"), "toml")
    assert settings.load(block.encode(), "config.toml") != settings.Settings()


def test_the_keys_of_a_request_are_all_there() -> None:
    from integrator import request

    named = set(re.findall(r"`(\w+)`", section(README, "The publish request")))
    kinds = (request.PublishRequest, request.InstanceRequest, request.RepresentationRequest)
    assert named >= {field.name for cls in kinds for field in attrs.fields(cls)}


def test_every_command_that_is_named_exists() -> None:
    for text in (README, DESIGN, CONTRIBUTING, SETTINGS_PAGE):
        named = set(re.findall(r"^(?:\$ )?integrator (\w+)", text, re.MULTILINE)) | set(re.findall(r"`integrator (\w+)", text))
        assert named - {"COMMAND"} <= set(COMMANDS)


# --- names ------------------------------------------------------------------------------------------------------------


def test_every_name_in_reading_the_source_exists() -> None:
    text = " ".join(section(README, "Reading the source").split())
    entries = re.findall(r"\[`(integrator/[\w/]+)\.py`\]\(\1\.py\) `([\w.]+)`", text)
    assert len(entries) == len(re.findall(r"\[`integrator/", text)) >= 10
    for module, name in entries:
        found: Any = importlib.import_module(module.replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found)
    assert entries[-1] == ("integrator/ledger", "verdict")


@pytest.mark.parametrize("text", [README, DESIGN, CONTRIBUTING], ids=["README", "design", "CONTRIBUTING"])
def test_every_file_that_is_named_exists(text: str) -> None:
    named = re.findall(r"`((?:integrator|tests|docs|plugins|benchmarks)/[\w./]*)`", text) + re.findall(r"\]\(([\w./]+)\)", text)
    assert named
    assert [path for path in named if not (HOME / path).exists()] == []


def modules() -> Iterator[tuple[str, Path]]:
    """Name below `integrator` and file of every module, those of the command line as one, and those of plugins."""
    for path in sorted((HOME / "integrator").rglob("*.py")):
        parts = path.relative_to(HOME / "integrator").with_suffix("").parts
        yield ".".join(parts[:1] if parts[0] in ("cli", "plugin") else [part for part in parts if part != "__init__"]), path


def test_the_layers_are_all_modules_in_the_order_of_their_imports() -> None:
    table = [re.findall(r"`([\w.]+)`", row[1]) for row in rows(section(DESIGN, "Layers"))]
    place = {name: number for number, names in enumerate(table) for name in names}
    assert set(place) == {name for name, _ in modules()} - {"", "__main__"}
    for name, path in modules():
        if name in place:
            upward = [other for other in imports(path) if place[other] > place[name]]
            assert not upward, f"{name} stands above {upward}"


def imports(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports when it is loaded; the package itself, whose names come later, does not count."""
    known = {name for name, _ in modules()}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "integrator":
            below = str(node.module).removeprefix("integrator").lstrip(".")
            for alias in node.names:
                full = f"{below}.{alias.name}".lstrip(".")
                if found := full if full in known else below:
                    yield found.split(".")[0] if found.startswith(("cli", "plugin")) else found


def test_all_packages_are_installed() -> None:
    parser = configparser.ConfigParser()
    parser.read(HOME / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    found = {".".join(path.relative_to(HOME).parent.parts) for path in (HOME / "integrator").rglob("__init__.py")}
    assert listed == found | {"integrator_plugins", "integrator_client_plugins"}


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def example_request(place: Path) -> Any:
    """The request of the README, its sources made below `place`."""
    [block] = blocks(section(README, "The publish request"), "json")
    folder = place / "jobs"
    folder.mkdir()
    for frame in range(1001, 1049):
        (folder / f"beauty.{frame}.exr").write_bytes(b"pixels")
    for name in ("wood.tx", "cam.abc"):
        (folder / name).write_bytes(b"content")
    return json.loads(block.replace("/jobs/sh010", str(folder)))


def test_the_examples_in_python_run_as_they_are(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyblish.api

    examples = blocks(README, "python")
    assert len(examples) == 5
    namespace = {"request": example_request(place), "__name__": "example"}
    try:
        for example in examples:
            exec(example, namespace)
    finally:
        pyblish.api.deregister_all_paths()
    version = place / "show/demo/hero/publish/model/modelMain/v001"
    camera = place / "show/demo/shots/sq01/sh010/publish/camera/camMain/v001"
    assert capsys.readouterr().out.splitlines() == [
        f"published {version}",
        "published [1, 1]",
        f"1 {camera} ('{camera}/demo_sh010_camMain_v001.abc',)",
        "already_published",
    ]
    assert sorted(path.name for path in version.iterdir()) == ["demo_hero_modelMain_v001.ma", "hero.abc"]


def test_the_example_of_a_failure_test_passes(studio: Studio) -> None:
    [block] = blocks(CONTRIBUTING, "python")
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    [check] = [found for name, found in namespace.items() if name.startswith("test_")]
    check(studio)


def test_the_example_request_is_published_by_the_command_line(place: Path) -> None:
    (place / "request.json").write_text(json.dumps(example_request(place)))
    assert run("integrator init show", place).returncode == 0
    done = run("integrator publish request.json --root show", place)
    assert done.returncode == 0, done.stderr
    assert "50 files" in done.stdout


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the README in a shell in which `integrator` is this very program."""
    program = f'integrator() {{ {shlex.quote(sys.executable)} -m integrator "$@"; }}'
    surroundings = {**os.environ, "PYTHONPATH": str(HOME), "INTEGRATOR_FARM": "0"}
    return subprocess.run(
        ["bash", "-c", f"{program}\n{command}"], cwd=folder, env=surroundings, capture_output=True, text=True, check=False
    )


def test_the_five_minutes_go_as_they_are_printed(place: Path) -> None:
    *tour, _ = blocks(section(README, "Five minutes"), "console")
    folder = place
    for block in tour:
        for command, printed in commands(block):
            done = run(command, folder)
            if command.startswith("cd "):
                folder = folder / command.removeprefix("cd ")
            said = done.stdout + re.sub(r"^Progress: \d+%\n", "", done.stderr, flags=re.MULTILINE)
            assert masked(said.replace(str(place), "/home/anna")) == masked(printed), command


def test_the_demo_prints_what_the_readme_shows(place: Path) -> None:
    shown = masked(blocks(section(README, "Five minutes"), "console")[-1])
    done = run("integrator demo", place)
    assert done.returncode == 0, done.stderr
    printed = masked(done.stdout)
    assert [line for line in shown if line not in printed] == []


def commands(block: str) -> list[tuple[str, str]]:
    """Commands of a console block with what they print."""
    entries = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(command, printed) for command, _, printed in (entry.partition("\n") for entry in entries)]


def masked(text: str) -> list[str]:
    """Lines without what differs from run to run: ids, times, numbers, who and where."""
    text = re.sub(r"\b[0-9a-f]{24}\b", "ID", text)
    text = re.sub(r"by .* on .* \(", "by SOMEBODY (", text)
    text = re.sub(r"^(sh\d+ .* v\d+ +)\S+( +\d+T)", r"\1NAME\2", text, flags=re.MULTILINE)
    lines = (re.sub(r"\d+", "#", line) for line in text.splitlines())
    return [re.sub(r" +", " ", line).strip() for line in lines if line.strip()]
