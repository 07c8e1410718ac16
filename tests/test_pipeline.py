"""`integrator publish` runs a pyblish pipeline together with a studio's plugins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pyblish.api
import pyblish.util
import pytest
from loops import context_of, register
from studio import Studio

from integrator import preflight
from integrator.attempt import Terms
from integrator.database import TRANSACTIONS
from integrator.errors import UsageError, ValidationRefused
from integrator.plugin import runner
from integrator.publish import publish as integrator_publish
from integrator.request import parse_request
from integrator.testing import Fate

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("PYBLISHPLUGINPATH", raising=False)
    yield
    register()
    pyblish.api.deregister_all_paths()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A studio's folder of plugins."""
    made = tmp_path / "plugins"
    made.mkdir()
    return made


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes a plugin: its base, order and body."""

    def write(name: str, body: str, *, base: str = "pyblish.api.ContextPlugin", order: float = 3.2, more: str = "") -> Path:
        what = "instance" if "Instance" in base else "context"
        method = "process" if base.startswith("pyblish") else "integrate"
        arguments = what if method == "process" else f"{'context' if 'Context' in base else 'instance'}, transaction"
        text = f"""
import os, sys, time
import pyblish.api
from integrator.plugin import Effect, TransactionalContextPlugin, TransactionalPlugin

class {name}({base}):
    order = {order}
{textwrap.indent(textwrap.dedent(more), "    ")}
    def {method}(self, {arguments}):
{textwrap.indent(textwrap.dedent(body), "        ")}
"""
        path = folder / f"{name.lower()}.py"
        path.write_text(text)
        return path

    return write


@attrs.frozen
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def command(studio: Studio, *words: str, more: dict[str, str] | None = None) -> list[str]:
    return [sys.executable, "-m", "integrator", *words, "--root", studio.path]


def integrator(studio: Studio, *words: str, stdin: str = "", **environment: str) -> Ran:
    surroundings = {**os.environ, "INTEGRATOR_FARM": "0", **environment}
    done = subprocess.run(
        command(studio, *words), input=stdin, capture_output=True, text=True, check=False, env=surroundings, timeout=120
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def publish(studio: Studio, folder: Path, *words: str, request: Any = None, **environment: str) -> Ran:
    text = json.dumps(request or studio.request("job"))
    return integrator(studio, "publish", "-", "--plugin-path", str(folder), "--json", *words, stdin=text, **environment)


def state(studio: Studio) -> tuple[object, object, object]:
    return studio.tree(), studio.documents(), studio.leftovers()


# --- with plugins -----------------------------------------------------------------------------------------------------


def test_a_plugin_of_the_studio_publishes_with_the_rest(studio: Studio, folder: Path, write: Write) -> None:
    write("Notes", 'transaction.version(instance).write("notes.txt", b"checked", "notes")', base="TransactionalPlugin")
    ran = publish(studio, folder)
    assert (ran.code, ran.json["outcome"]) == (0, "published"), ran.err
    for version in ran.json["versions"]:
        assert "notes" in [entry["name"] for entry in version["representations"]]
        assert Path(version["path"], "notes.txt").read_bytes() == b"checked"
    again = publish(studio, folder)
    assert again.json == {**ran.json, "outcome": "already_published"}
    assert studio.leftovers() == []


def test_plugins_are_found_in_the_environment_too(studio: Studio, tmp_path: Path, folder: Path, write: Write) -> None:
    mark = tmp_path / "ran"
    write("Mark", f'open({str(mark)!r}, "w").close()')
    ran = integrator(studio, "publish", "-", "--json", stdin=json.dumps(studio.request("job")), PYBLISHPLUGINPATH=str(folder))
    assert ran.code == 0, ran.err
    assert mark.exists()


def test_an_empty_entry_in_the_environment_does_not_run_what_lies_in_the_working_directory(
    studio: Studio, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "stray.py").write_text("raise RuntimeError('must not be loaded')")
    monkeypatch.chdir(folder)
    text = json.dumps(studio.request("job"))
    for paths in (":/nowhere", "/nowhere:", ":", "/nowhere::/nowhere"):
        ran = integrator(studio, "publish", "-", "--dry-run", stdin=text, PYBLISHPLUGINPATH=paths)
        assert ran.code == 0, ran.err


def test_what_plugins_print_does_not_get_into_the_answer(studio: Studio, folder: Path, write: Write) -> None:
    write("Loud", 'print("hello"); os.system("echo from a child"); os.write(1, b"raw\\n"); self.log.warning("mind the step")')
    with (folder / "loud.py").open("a") as file:
        file.write('\nprint("while loading")\n')
    ran = publish(studio, folder)
    assert ran.json["outcome"] == "published"
    for said in ("hello", "from a child", "raw", "while loading", "Loud: mind the step"):
        assert said in ran.err


def test_a_publish_that_is_done_runs_no_plugin(studio: Studio, tmp_path: Path, folder: Path, write: Write) -> None:
    mark = tmp_path / "ran"
    assert publish(studio, folder).code == 0
    write("Mark", f'open({str(mark)!r}, "w").close()', order=-0.4)
    assert publish(studio, folder).json["outcome"] == "already_published"
    assert not mark.exists()


def test_a_dry_run_validates_with_all_plugins_and_writes_nothing(studio: Studio, folder: Path, write: Write) -> None:
    before = state(studio)
    write("Write", 'raise RuntimeError("must not run")', order=2)
    ran = publish(studio, folder, "--dry-run")
    assert (ran.code, ran.json["outcome"]) == (0, "planned")
    write("Check", 'raise RuntimeError("not our colours")', order=1.2)
    ran = publish(studio, folder, "--dry-run")
    assert (ran.code, ran.json["outcome"]) == (3, "refused")
    assert "not our colours" in ran.json["error"]["message"]
    assert state(studio) == before


def test_name_and_version_of_every_plugin_are_in_the_first_record(studio: Studio, folder: Path, write: Write) -> None:
    write("Versioned", "pass", more="version = (1, 4, 2)")
    with studio.open() as root:
        pipeline = runner.load([str(folder)])
        result = runner.run(parse_request(studio.request("job"), root.policy), root, pipeline, Terms())
        document = root.engine.database.read(TRANSACTIONS, result.transaction) or {}
        began = root.engine.journals.read_ended(result.transaction).records[0]
    assert ["Versioned", "1.4.2"] in [list(entry) for entry in document["plugins"]]
    assert ["Versioned", "1.4.2"] in began.plugins
    assert "IntegrateVersions" in [name for name, _ in began.plugins]


# --- refused ----------------------------------------------------------------------------------------------------------


def test_all_problems_of_all_validators_are_told_together(studio: Studio, folder: Path, write: Write, tmp_path: Path) -> None:
    (tmp_path / "empty.abc").touch()
    request = studio.request("job")
    request["instances"][0]["representations"][0]["frames"] = "1001-1099"
    request["instances"][1]["representations"] = [{"name": "abc", "files": [str(tmp_path / "empty.abc")]},
                                                  {"name": "txt", "files": ["/nowhere/missing.txt"]}]  # fmt: skip
    write("Colours", 'raise RuntimeError("not our colours")', base="pyblish.api.InstancePlugin", order=1.2)
    before = state(studio)
    ran = publish(studio, folder, request=request)
    assert (ran.code, ran.json["outcome"]) == (3, "refused")
    for said in ("lacks the frames 1011-1099", "missing.txt", "Colours, sh010 camera: not our colours"):
        assert said in ran.json["error"]["message"], said
    assert state(studio) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("class (:", "invalid syntax"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import pyblish.api\nclass Never(pyblish.api.ContextPlugin):\n  order = float('nan')", "Never"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_an_error_before_anything_is_written(
    text: str, said: str, studio: Studio, folder: Path
) -> None:
    (folder / "broken.py").write_text(text)
    before = state(studio)
    ran = publish(studio, folder)
    assert (ran.code, ran.json["error"]["code"]) == (2, "usage")
    assert said in ran.json["error"]["message"]
    assert state(studio) == before


def test_a_folder_of_plugins_that_is_not_there_is_an_error(studio: Studio, folder: Path) -> None:
    ran = publish(studio, folder / "nowhere")
    assert ran.code == 2
    assert "nowhere" in ran.json["error"]["message"]


def test_sources_are_looked_at_once_whatever_validates_them(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Path(studio.folder, "many")
    sources.mkdir()
    for frame in range(10_000):
        (sources / f"a.{frame:05d}.exr").write_bytes(b"x")
    looked = []
    statuses = preflight._statuses
    monkeypatch.setattr(preflight, "_statuses", lambda paths, *rest: looked.append(len(paths)) or statuses(paths, *rest))
    request = studio.request("many")
    request["instances"] = [request["instances"][1] | {"resources": [], "representations": [
        {"name": "exr", "files": [f"{sources}/a.%05d.exr"], "transfer": "hardlink"}]}]  # fmt: skip
    with studio.open() as root:
        runner.run(parse_request(request, root.policy), root, runner.load([]), Terms())
    assert sum(looked) == 10_000


def test_a_bad_request_ends_with_the_exit_code_of_a_bad_request(studio: Studio, folder: Path) -> None:
    request = studio.request("job", speed="fast")
    assert publish(studio, folder, request=request).code == 2


# --- failing ----------------------------------------------------------------------------------------------------------


#: Errors whose classes are somebody else's: no `Exception`, or one that fails while it says what it is.
ODD = 'type("Odd", (BaseException,), {})("odd")'
MUTE = 'type("Mute", (Exception,), {"__str__": lambda self: 1 / 0})()'


@pytest.mark.parametrize("raised", ['RuntimeError("no licence")', "SystemExit(0)", 'GeneratorExit("odd")', ODD, MUTE])
def test_a_plugin_that_fails_ends_it_at_once_and_everything_is_as_before(
    raised: str, studio: Studio, folder: Path, write: Write, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    write("Fail", f"raise {raised}", order=3.2)
    write("Later", f'open({str(mark)!r}, "w").close()', order=3.3)
    before = state(studio)
    ran = publish(studio, folder)
    assert (ran.code, ran.json["outcome"], ran.json["error"]["code"]) == (5, "rolled_back", "plugin_failed")
    assert "Fail failed" in ran.json["error"]["message"]
    assert ran.json["transaction"]
    assert not mark.exists()
    assert state(studio) == before


def test_a_message_whose_arguments_do_not_fit_is_no_reason_to_fail(
    studio: Studio, folder: Path, write: Write, tmp_path: Path
) -> None:
    write("Early", 'self.log.warning("%d frames", "ten")', order=3.1)
    write("Late", 'self.log.warning("%d frames", "ten")', order=4.1)
    ran = publish(studio, folder, "--report", str(tmp_path / "report"))
    assert (ran.code, ran.json["outcome"]) == (0, "published"), ran.err
    assert "Early: '%d frames' (its arguments do not fit)" in ran.err
    assert "failed" not in ran.err
    assert len(list((tmp_path / "report").iterdir())) == 2


def test_a_plugin_after_the_commit_that_fails_is_a_warning(studio: Studio, folder: Path, write: Write) -> None:
    write("Notify", 'assert context.data["publishResult"]["outcome"] == "published"; raise RuntimeError("no mail")', order=4)
    write("Exit", "raise SystemExit(3)", order=3.1, more="after_commit = True")
    ran = publish(studio, folder)
    assert (ran.code, ran.json["outcome"]) == (0, "published")
    assert "Notify, which comes after that, failed: no mail" in ran.err
    assert "Exit, which comes after that, failed" in ran.err


def test_the_settings_say_which_plugins_come_after_the_commit(studio: Studio, folder: Path, write: Write) -> None:
    write("Timer", 'assert context.data["publishResult"]["outcome"] == "published"', order=3.1)
    assert publish(studio, folder).code == 5
    with open(f"{studio.path}/.integrator/config.toml", "a") as file:
        file.write('\nafter_commit = ["Timer"]\n')
    ran = publish(studio, folder)
    assert (ran.code, ran.json["outcome"]) == (0, "published"), ran.err
    assert "which comes after that, failed" not in ran.err


@pytest.mark.parametrize(("order", "number"), [(1.2, signal.SIGTERM), (3.2, signal.SIGTERM), (3.2, signal.SIGINT)])
def test_a_signal_during_a_plugin_rolls_back_even_if_the_plugin_swallows_it(
    order: float, number: int, studio: Studio, folder: Path, write: Write, tmp_path: Path
) -> None:
    mark = tmp_path / "sleeps"
    body = f"""
    try:
        open({str(mark)!r}, "w").close()
        time.sleep(60)
    except Exception:
        pass
    """
    write("Sleep", body, order=order)
    before = state(studio)
    request = tmp_path / "request.json"
    request.write_text(json.dumps(studio.request("job")))
    words = command(studio, "publish", str(request), "--plugin-path", str(folder), "--json")
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not mark.exists():
        assert child.poll() is None, child.stderr and child.stderr.read()
        time.sleep(0.01)
    started = time.monotonic()
    child.send_signal(number)
    out, _ = child.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert child.returncode == 128 + number
    assert json.loads(out)["error"]["code"] == "interrupted"
    assert state(studio) == before


# --- effects ----------------------------------------------------------------------------------------------------------

EFFECT = """
def call(arguments, key):
    with open(arguments["log"], "a") as file:
        file.write(f"made {key}\\n")
    os.kill(os.getpid(), 9)

def undo(arguments, key, result):
    with open(arguments["log"], "a") as file:
        file.write(f"undone {key}\\n")

effects = {"tracker.create": Effect(call=lambda arguments, key: call(arguments, key), compensate=lambda *all: undo(*all))}
"""


@pytest.mark.parametrize("way", ["recover", "rollback", "resume"])
def test_recovery_knows_the_effects_of_plugins(way: str, studio: Studio, folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (folder / "tracker.py").write_text(
        f"""
import os
import pyblish.api
from integrator.plugin import Effect, TransactionalContextPlugin
{EFFECT}
class Tracker(TransactionalContextPlugin):
    order = 3.499
    effects = effects

    def integrate(self, context, transaction):
        if not os.path.exists({str(log)!r}):
            transaction.effect("tracker.create", {{"log": {str(log)!r}}})
"""
    )
    before = state(studio)
    assert publish(studio, folder).code == -signal.SIGKILL
    [unfinished] = integrator(studio, "status", "--json").json["unfinished"]
    transaction = unfinished["_id"] if "_id" in unfinished else unfinished["transaction"]
    words = [way, transaction, "--json"]
    ran = integrator(studio, *words)
    assert ran.code == 6  # nobody knows how to undo it
    if way == "recover":
        assert "--plugin-path DIR" in ran.out + ran.err
    ran = integrator(studio, *words, "--plugin-path", str(folder))
    assert ran.code == 0, ran.err
    made, undone = log.read_text().splitlines()
    assert made.split()[1] == undone.split()[1] == f"{transaction}/1"
    if way == "resume":
        assert ran.json["outcome"] == "published"
    else:
        assert state(studio) == before


@pytest.mark.parametrize("raised", ["SystemExit(3)", ODD])
@pytest.mark.parametrize("policy", ["required", "best_effort"])
def test_a_compensation_that_cannot_be_made_is_never_told_as_a_rollback(
    raised: str, policy: str, studio: Studio, folder: Path, write: Write, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    undo = f'__import__("os").path.exists({str(gone)!r}) or (_ for _ in ()).throw({raised})'
    effect = f"Effect(call=lambda arguments, key: None, compensate=lambda *_: {undo})"
    more = f'policy = {policy!r}\neffects = {{"made": {effect}}}'
    write("Made", 'transaction.effect("made", {}); raise RuntimeError("later")', base="TransactionalContextPlugin", more=more)
    before = state(studio)
    ran = publish(studio, folder)
    assert (ran.code, ran.json["outcome"]) == (6, "in_doubt"), ran.err
    assert ran.json["error"]["next"].endswith(f"recover {ran.json['transaction']}")
    gone.touch()
    assert integrator(studio, "recover", ran.json["transaction"], "--plugin-path", str(folder)).code == 0
    assert state(studio) == before


def test_effects_are_not_taken_from_a_folder_that_cannot_be_loaded(folder: Path) -> None:
    (folder / "broken.py").write_text("import nothing_of_this_name")
    with pytest.raises(UsageError):
        runner.load_effects([str(folder)])


# --- order ------------------------------------------------------------------------------------------------------------


def test_a_plugin_of_the_studio_replaces_ours_of_the_same_name(studio: Studio, folder: Path, write: Write) -> None:
    write("ValidateSpace", "pass", order=1.03)
    pipeline = runner.load([str(folder)])
    [found] = [plugin for plugin in pipeline.before if plugin.__name__ == "ValidateSpace"]
    assert found.__module__ == str(folder / "validatespace.py")


def test_collectors_of_the_studio_can_switch_instances_off(studio: Studio, folder: Path, write: Write) -> None:
    write("Off", 'context[0].data["publish"] = False', order=0.3)
    ran = publish(studio, folder)
    assert [version["subset"] for version in ran.json["versions"]] == ["camera"]
    again = publish(studio, folder)
    assert again.json == {**ran.json, "outcome": "already_published"}


def test_problems_of_validators_are_one_error(studio: Studio) -> None:
    class First(pyblish.api.ContextPlugin):
        order = 1.1

        def process(self, context: Any) -> None:
            raise RuntimeError("one")

    class Second(pyblish.api.ContextPlugin):
        order = 1.2

        def process(self, context: Any) -> None:
            raise RuntimeError("two")

    register(First, Second)
    with studio.open() as root, pytest.raises(ValidationRefused) as caught:
        runner.run(parse_request(studio.request("job"), root.policy), root, runner.load([]), Terms())
    assert list(caught.value.problems) == [("First", "one"), ("Second", "two")]


# --- as without plugins -----------------------------------------------------------------------------------------------


def test_a_pipeline_makes_the_same_commits_and_barriers_as_a_publish_without_plugins(studio: Studio) -> None:
    calls = []
    for pipeline in (None, runner.load([])):
        fate = Fate()
        with studio.open(fate) as root:
            request = parse_request(studio.request(f"job-{len(calls)}"), root.policy)
            if pipeline is None:
                integrator_publish(request, root)
            else:
                runner.run(request, root, pipeline, Terms())
        calls.append([fate.count(kind) for kind in ("commit", "sync", "sync_filesystem", "mkdir", "create", "rename")])
    assert calls[0] == calls[1]


def test_each_validator_tells_of_its_own_kind(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.abc").touch()
    (tmp_path / "odd.ex-r!").write_bytes(b"x")
    Path(studio.path, "demo/shots/sq01/sh020").mkdir()
    Path(studio.path, "demo/shots/sq01/sh020/publish").symlink_to(tmp_path)
    monkeypatch.setattr(preflight, "_RESERVE", 1 << 60)

    def entry(subset: str, files: str, asset: str = "sh010", **more: Any) -> dict[str, Any]:
        representation = {"name": "any", "files": [files], **more}
        return {"asset": asset, "hierarchy": "shots/sq01", "subset": subset, "family": "any", "representations": [representation]}

    good = f"{studio.sources}/cam.abc"
    cases = {
        "ValidateNames": entry("a", str(tmp_path / "odd.ex-r!")),
        "ValidateSources": entry("b", str(tmp_path / "empty.abc")),
        "ValidateFrames": entry("c", f"{studio.sources}/beauty.%04d.exr", frames="1001-1099"),
        "ValidateDestinations": entry("d", good, asset="sh020"),
        "ValidateSpace": entry("e", good),
    }
    for name, instance in cases.items():
        context = context_of(studio, studio.request("job", instances=[instance]))
        register()
        pyblish.util.publish(context)
        failed = [result["plugin"].__name__ for result in context.data["results"] if result["error"] is not None]
        assert name in failed, (name, failed)
        assert set(failed) <= {name, "ValidateSpace"}, (name, failed)


def test_a_soft_lock_that_somebody_holds_is_told_before_anything_is_written(studio: Studio) -> None:
    with studio.open() as other, other.begin(project="demo") as assembly:
        assembly.new_version(asset="sh010", hierarchy="shots/sq01", subset="camera", family="camera").write("a.txt", b"a")
        context = context_of(studio, studio.request("job"))
        register()
        pyblish.util.publish(context)
        [failed] = [result for result in context.data["results"] if result["error"] is not None]
        assert (failed["plugin"].__name__, failed["error"].exit_code) == ("ValidateSoftLocks", 4)
    assert studio.versions("camera") == [1, 2]


def test_a_report_is_written_in_a_loop_of_others_too(studio: Studio, tmp_path: Path) -> None:
    class Fail(pyblish.api.ContextPlugin):
        order = 3.2

        def process(self, context: Any) -> None:
            raise RuntimeError("no licence")

    for number, plugins in enumerate([(), (Fail,)]):
        register(*plugins)
        context = context_of(studio, studio.request(f"job-{number}"))
        context.data["publishReport"] = str(tmp_path / str(number))
        pyblish.util.publish(context)
        [document] = [json.loads(path.read_text()) for path in (tmp_path / str(number)).glob("*.json")]
        assert document["outcome"] == ("rolled_back" if plugins else "published")
        assert "IntegrateVersions" in [run["name"] for run in document["plugins"]]


def test_a_signal_while_plugins_are_loaded_is_told_as_one(studio: Studio, folder: Path) -> None:
    """pyblish takes what is raised then for a fault of the file."""
    (folder / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    before = state(studio)
    ran = publish(studio, folder)
    assert ran.code == 143, ran.err
    assert state(studio) == before
