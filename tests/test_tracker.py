"""A publish and a production tracker: both have the version, or neither has.

The plugin is the one of `examples/studio_plugins`, the tracker a real server (`tests/tracker.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyblish.api
import pyblish.util
import pytest
from studio import Studio
from tracker import LATE, TOKEN, Fault, Tracker

from integrator.results import failed

HOME = Path(__file__).parent.parent
EXAMPLE = HOME / "examples/studio_plugins/integrate_tracker_version.py"


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracker]:
    folder = tmp_path / "tracker"
    folder.mkdir()
    with Tracker(str(folder)) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture(params=[0.499, 0.5], ids=["3.499", "3.5"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A studio's plugins, the tracker's at one of the orders that such plugins have elsewhere."""
    text = EXAMPLE.read_text()
    assert "IntegratorOrder + 0.499" in text
    made = tmp_path / "plugins"
    made.mkdir()
    (made / EXAMPLE.name).write_text(text.replace("IntegratorOrder + 0.499", f"IntegratorOrder + {request.param}"))
    return str(made)


@pytest.fixture(autouse=True)
def _plugins() -> Iterator[None]:
    pyblish.api.deregister_all_paths()
    pyblish.api.deregister_all_plugins()
    pyblish.api.register_plugin_path(str(HOME / "plugins"))
    yield
    pyblish.api.deregister_all_paths()
    pyblish.api.deregister_all_plugins()


def request_of(studio: Studio, *subsets: str) -> dict[str, Any]:
    files = [{"name": "abc", "files": [f"{studio.sources}/cam.abc"]}]
    what = {"asset": "sh010", "hierarchy": "shots/sq01", "family": "model", "representations": files}
    return studio.request("farm-4711", instances=[{**what, "subset": subset} for subset in subsets or ("modelMain",)])


def publish(studio: Studio, folder: str, *subsets: str) -> dict[str, Any]:
    """Publish in pyblish's own loop; the answer."""
    pyblish.api.register_plugin_path(folder)
    context = pyblish.api.Context()
    context.data.update(publishRoot=studio.path, publishRequest=request_of(studio, *subsets))
    pyblish.util.publish(context)
    if "publishResult" not in context.data:  # refused before anything was written
        [error] = [result["error"] for result in context.data["results"] if result["error"] is not None]
        return failed(error).document()
    answer: dict[str, Any] = context.data["publishResult"]
    return answer


def state(studio: Studio) -> tuple[Any, Any]:
    return studio.tree(), studio.documents()


def settled(studio: Studio) -> bool:
    return studio.leftovers() == []


# --- it fails at the last moment --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [Fault.EXPIRED, Fault.BROKEN, Fault.CREATE_BROKEN, Fault.SILENT, Fault.REFUSED], ids=lambda fault: fault.value
)
def test_what_fails_five_times_is_published_once(studio: Studio, tracker: Tracker, folder: str, fault: Fault) -> None:
    before = state(studio)
    for _ in range(5):
        tracker.fault = fault
        answer = publish(studio, folder)
        assert answer["outcome"] == "rolled_back"
        assert answer["error"]["code"] == ("effect_failed" if fault is Fault.CREATE_BROKEN else "effect_not_made")
        assert state(studio) == before
        assert settled(studio)
        assert tracker.versions() == []
    tracker.fault = Fault.NONE
    assert publish(studio, folder)["outcome"] == "published"
    assert_published_once(studio, tracker)


def test_assets_of_one_name_in_two_sequences_have_an_entry_each(studio: Studio, tracker: Tracker, folder: str) -> None:
    request = request_of(studio)
    request["instances"] += [{**request["instances"][0], "hierarchy": "shots/sq02"}]
    pyblish.api.register_plugin_path(folder)
    context = pyblish.api.Context()
    context.data.update(publishRoot=studio.path, publishRequest=request)
    pyblish.util.publish(context)
    versions = context.data["publishResult"]["versions"]
    assert sorted(entry["path"] for entry in tracker.versions()) == sorted(version["path"] for version in versions)


def test_what_is_left_to_a_farm_or_is_no_version_has_no_entry(studio: Studio, tracker: Tracker, folder: str) -> None:
    class Collect(pyblish.api.ContextPlugin):  # type: ignore[misc]
        order = pyblish.api.CollectorOrder + 0.3

        def process(self, context: Any) -> None:
            context.create_instance("workfile")
            context.create_instance("later", asset="sh010", subset="renderMain", family="render", farm=True)

    pyblish.api.register_plugin(Collect)
    assert publish(studio, folder)["outcome"] == "published"
    assert_published_once(studio, tracker)


def assert_published_once(studio: Studio, tracker: Tracker) -> None:
    """One version v001 here, and the same one there."""
    assert studio.versions("modelMain") == [1]
    [entry] = tracker.versions()
    assert (entry["publish_id"], entry["asset"], entry["subset"], entry["version"]) == ("farm-4711", "sh010", "modelMain", 1)
    assert os.listdir(entry["path"]) == ["demo_sh010_modelMain_v001.abc"]
    assert settled(studio)


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.LATE_REPLY], ids=lambda fault: fault.value)
def test_a_create_whose_answer_is_lost_is_found_again(studio: Studio, tracker: Tracker, folder: str, fault: Fault) -> None:
    tracker.fault = fault
    assert publish(studio, folder)["outcome"] == "published"
    assert_published_once(studio, tracker)


def test_a_create_that_arrives_after_its_sender_gave_up_is_refused(studio: Studio, tracker: Tracker, folder: str) -> None:
    tracker.fault = Fault.LATE_CREATE
    for _ in range(2):
        assert publish(studio, folder)["outcome"] == "rolled_back"
    tracker.fault = Fault.NONE
    assert publish(studio, folder)["outcome"] == "published"
    time.sleep(LATE)
    assert_published_once(studio, tracker)


def test_a_tracker_that_goes_away_with_the_answer_is_asked_when_it_is_back(studio: Studio, tracker: Tracker, folder: str) -> None:
    before = state(studio)
    tracker.fault = Fault.LOST_AND_GONE
    answer = publish(studio, folder)
    assert answer["outcome"] == "in_doubt"
    assert f"integrator recover {answer['transaction']}" in answer["error"]["next"]
    assert len(tracker.versions()) == 1
    assert state(studio) == before
    for _ in range(4):
        refused = publish(studio, folder)
        assert refused["outcome"] != "published"
        assert "certificate has expired" in refused["error"]["message"]
        assert len(tracker.versions()) == 1
    tracker.fault = Fault.NONE
    assert publish(studio, folder)["outcome"] == "published"
    assert_published_once(studio, tracker)


@pytest.mark.parametrize("fault", [Fault.EXPIRED, Fault.CREATE_BROKEN, Fault.SILENT], ids=lambda fault: fault.value)
def test_the_farm_may_try_again_after_each_failure(studio: Studio, tracker: Tracker, folder: str, fault: Fault) -> None:
    before = state(studio)
    for _ in range(5):
        tracker.fault = fault
        done = integrator(studio, "publish", "-", "--plugin-path", folder, "--json", said=request_of(studio))
        assert (done.returncode, json.loads(done.stdout)["outcome"]) == (5, "rolled_back"), done.stderr
        assert TOKEN not in done.stdout + done.stderr
        assert (state(studio), tracker.versions()) == (before, [])
    tracker.fault = Fault.NONE
    done = integrator(studio, "publish", "-", "--plugin-path", folder, said=request_of(studio))
    assert done.returncode == 0, done.stderr
    assert_published_once(studio, tracker)


def test_what_cannot_be_taken_back_yet_is_in_doubt_until_it_is_recovered(studio: Studio, tracker: Tracker, folder: str) -> None:
    tracker.fault = Fault.LOST_AND_GONE
    done = integrator(studio, "publish", "-", "--plugin-path", folder, said=request_of(studio))
    assert done.returncode == 6
    transaction = unfinished(studio)
    assert f"recover {transaction}" in done.stderr
    for _ in range(2):
        assert integrator(studio, "recover", transaction, "--plugin-path", folder).returncode == 6
    tracker.fault = Fault.NONE
    assert integrator(studio, "recover", transaction, "--plugin-path", folder).returncode == 0
    assert tracker.versions() == []
    assert settled(studio)
    done = integrator(studio, "publish", "-", "--plugin-path", folder, said=request_of(studio))
    assert done.returncode == 0, done.stderr
    assert_published_once(studio, tracker)


def test_what_an_earlier_attempt_left_in_the_tracker_is_found_by_the_publish_id(
    studio: Studio, tracker: Tracker, folder: str
) -> None:
    """A tracker that does not keep withdrawn keys can get an entry after its compensation."""
    left = {"key": "earlier/1", "publish_id": "farm-4711", "project": "demo", "asset": "sh010", "subset": "modelMain"}
    tracker.create({**left, "version": 1, "path": f"{studio.path}/demo/shots/sq01/sh010/publish/model/modelMain/v001"})
    other = {**left, "key": "other/1", "publish_id": "farm-1", "version": 1, "path": "/elsewhere"}
    tracker.create(other)
    assert publish(studio, folder)["outcome"] == "published"
    assert [entry["key"] == "other/1" for entry in tracker.versions()] == [True, False]


def test_a_version_that_is_amended_keeps_its_one_entry(studio: Studio, tracker: Tracker, folder: str) -> None:
    assert publish(studio, folder)["outcome"] == "published"
    other = Path(studio.folder, "other.abc")
    other.write_bytes(b"other cache")
    request = request_of(studio)
    request["instances"][0].update(amend=1, representations=[{"name": "abc", "files": [str(other)]}])
    request["publish_id"] = "fix-1"
    done = integrator(studio, "publish", "-", "--plugin-path", folder, said=request)
    assert done.returncode == 0, done.stderr
    [entry] = tracker.versions()
    assert [path.read_bytes() for path in Path(entry["path"]).iterdir()] == [b"other cache"]


# --- something else fails ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ConnectionError, KeyboardInterrupt, SystemExit])
def test_a_plugin_that_fails_later_takes_the_entry_along(
    studio: Studio, tracker: Tracker, folder: str, kind: type[BaseException]
) -> None:
    seen: list[int] = []

    class Fail(pyblish.api.ContextPlugin):
        order = pyblish.api.IntegratorOrder + 0.6

        def process(self, context: Any) -> None:
            seen.append(len(tracker.versions()))
            raise kind("no licence")

    before = state(studio)
    pyblish.api.register_plugin(Fail)
    escaping = pytest.raises(kind) if not issubclass(kind, Exception) else contextlib.nullcontext()
    with escaping:
        publish(studio, folder, "modelMain", "modelProxy")
    assert seen == [2]
    assert tracker.versions() == []
    assert state(studio) == before
    assert settled(studio)


def test_the_second_of_two_versions_takes_the_first_one_along(studio: Studio, tracker: Tracker, folder: str) -> None:
    before = state(studio)
    tracker.created = lambda version: setattr(tracker, "fault", Fault.CREATE_BROKEN)
    assert publish(studio, folder, "modelMain", "modelProxy")["outcome"] == "rolled_back"
    assert [method for method, _ in tracker.requests].count("POST") == 2
    assert tracker.versions() == []
    assert state(studio) == before


def test_a_best_effort_plugin_leaves_its_version_and_no_entry(studio: Studio, tracker: Tracker, folder: str) -> None:
    path = Path(folder, EXAMPLE.name)
    path.write_text(path.read_text() + '        raise RuntimeError("no such field")\n\n    policy = "best_effort"\n')
    assert publish(studio, folder)["outcome"] == "published"
    assert [method for method, _ in tracker.requests] == ["GET", "POST", "DELETE"]
    assert tracker.versions() == []
    assert studio.versions("modelMain") == [1]
    assert settled(studio)


# --- killed -----------------------------------------------------------------------------------------------------------

_PUBLISH = """
import json, os, signal, sys
import pyblish.api, pyblish.util
from integrator.plugin import TransactionalPlugin

class Linger(TransactionalPlugin):
    order = pyblish.api.IntegratorOrder + 0.6
    def integrate(self, instance, transaction):
        if sys.argv[4] == "linger":
            os.kill(os.getpid(), signal.SIGKILL)

for path in sys.argv[1:3]:
    pyblish.api.register_plugin_path(path)
pyblish.api.register_plugin(Linger)
context = pyblish.api.Context()
context.data.update(json.load(open(sys.argv[3])))
pyblish.util.publish(context)
"""


@pytest.mark.parametrize("when", ["in the create", "after it"])
def test_a_publish_that_was_killed_leaves_no_entry_once_it_is_recovered(
    studio: Studio, tracker: Tracker, folder: str, when: str, tmp_path: Path
) -> None:
    before = state(studio)
    running = start(studio, folder, tmp_path, "linger" if when == "after it" else "go on")
    if when == "in the create":
        tracker.created = lambda _: running.kill()
    assert running.wait(60) == -signal.SIGKILL
    assert len(tracker.versions()) == 1
    assert (studio.versions("modelMain"), studio.documents()) == ([], before[1])
    blind = integrator(studio, "recover")
    assert blind.returncode == 6
    assert "its plugin is not loaded here" in blind.stdout + blind.stderr
    assert len(tracker.versions()) == 1
    transaction = unfinished(studio)
    done = integrator(studio, "recover", transaction, "--plugin-path", folder)
    assert (done.returncode, "rolled back" in done.stdout) == (0, True), done.stderr
    assert tracker.versions() == []
    assert state(studio) == before
    assert settled(studio)
    assert publish(studio, folder)["outcome"] == "published"
    assert_published_once(studio, tracker)


def test_a_retry_settles_what_was_killed(studio: Studio, tracker: Tracker, folder: str, tmp_path: Path) -> None:
    assert start(studio, folder, tmp_path, "linger").wait(60) == -signal.SIGKILL
    assert len(tracker.versions()) == 1
    assert publish(studio, folder)["outcome"] == "published"
    assert_published_once(studio, tracker)


def start(studio: Studio, folder: str, tmp_path: Path, word: str) -> subprocess.Popen[bytes]:
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"publishRoot": studio.path, "publishRequest": request_of(studio)}))
    command = [sys.executable, "-c", _PUBLISH, str(HOME / "plugins"), folder, str(data), word]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(HOME)})


def integrator(studio: Studio, *words: str, said: Any = None) -> subprocess.CompletedProcess[str]:
    """Run a command; `said` is the JSON document on its standard input."""
    command = [sys.executable, "-m", "integrator", "--root", studio.path, *words]
    environment = {**os.environ, "PYTHONPATH": str(HOME), "INTEGRATOR_FARM": "0"}
    return subprocess.run(
        command, input=json.dumps(said), env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def unfinished(studio: Studio) -> str:
    from integrator import ledger

    with studio.open() as root:
        [document] = ledger.unsettled(root.engine.database)
    return str(document["_id"])


# --- the token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
def test_the_token_is_written_down_nowhere(
    studio: Studio, tracker: Tracker, fault: Fault, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(0)
    tracker.fault, tracker.redirect_to = fault, tracker.url
    answer = publish(studio, str(EXAMPLE.parent))
    if fault is not Fault.EXPIRED:
        assert f"Bearer {TOKEN}" in tracker.tokens
    printed = "".join(capfd.readouterr())
    assert TOKEN not in printed + caplog.text + repr(answer)
    assert TOKEN.encode() not in everything(studio.path)


def everything(path: str) -> bytes:
    """All bytes below a folder, and what is packed there."""
    import gzip

    contents = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    assert contents
    return b"".join(
        gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes() for file in contents if file.is_file()
    )


def test_the_token_is_not_sent_on_to_another_server(studio: Studio, tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with Tracker(str(tmp_path / "other")) as other:
        tracker.fault, tracker.redirect_to = Fault.REDIRECTED, other.url
        answer = publish(studio, str(EXAMPLE.parent))
        assert "307" in answer["error"]["message"]
        assert tracker.tokens == [f"Bearer {TOKEN}"]
        assert other.requests == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("TRACKER_URL", ""), ("TRACKER_URL", "http://localhost:1"), ("TRACKER_URL", "https://anna:SECRET@localhost:1"),
     ("TRACKER_TOKEN", ""), ("TRACKER_TOKEN", "SECRET\nX-Admin: yes"), ("TRACKER_TOKEN", "SECRET\x07"),
     ("TRACKER_CA_FILE", "/nowhere/ca.pem"), ("TRACKER_TIMEOUT", "soon")],
)  # fmt: skip
def test_surroundings_that_are_wrong_are_named_without_their_secrets(
    studio: Studio, tracker: Tracker, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    before = state(studio)
    answer = publish(studio, str(EXAMPLE.parent))
    assert answer["outcome"] == "rolled_back"
    assert name in answer["error"]["message"]
    assert "SECRET" not in repr(answer)
    assert tracker.requests == []
    assert state(studio) == before


def test_a_certificate_of_somebody_else_is_not_believed(
    studio: Studio, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("TRACKER_CA_FILE", Tracker(str(tmp_path / "other")).ca_file)
    answer = publish(studio, str(EXAMPLE.parent))
    assert "certificate verify failed" in answer["error"]["message"]
    assert tracker.requests == []


# --- several at once --------------------------------------------------------------------------------------------------


def test_a_farm_that_runs_the_job_three_times_at_once_gets_one_entry(
    studio: Studio, tracker: Tracker, folder: str, tmp_path: Path
) -> None:
    for running in [start(studio, folder, tmp_path, "go on") for _ in range(3)]:
        running.wait(60)
    if not tracker.versions():
        publish(studio, folder)
    assert_published_once(studio, tracker)
