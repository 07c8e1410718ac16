"""The pyblish plugins, in a real pyblish loop: the request is published whole, or nothing is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyblish.api
import pyblish.util
import pytest
from studio import Studio

from integrator.errors import IntegratorError, NotARoot, RequestRefused, SourceChanged, UsageError, ValidationRefused

PLUGINS = Path(__file__).parent.parent / "plugins"
NAMES = [
    "CollectPublishRequest", "CollectFramesToFix", "ValidateNames", "ValidateSources", "ValidateFrames", "ValidateSpace",
    "ValidateDestinations", "ValidateSoftLocks", "ExtractThumbnail", "IntegrateVersions", "IntegrateThumbnail", "IntegrateHero",
    "IntegrateLatest", "IntegrateReveal", "IntegrateCommit", "IntegrateReport",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _plugins() -> Iterator[None]:
    """Only our plugins, registered by path; nothing that was registered stays."""
    pyblish.api.deregister_all_paths()
    pyblish.api.deregister_all_plugins()
    pyblish.api.register_plugin_path(str(PLUGINS))
    yield
    pyblish.api.deregister_all_paths()
    pyblish.api.deregister_all_plugins()


@pytest.fixture
def context(studio: Studio) -> Any:
    """A context that names the studio's publish root and request."""
    made = pyblish.api.Context()
    made.data.update(publishRoot=studio.path, publishRequest=studio.request("job"))
    return made


def errors(context: Any) -> list[IntegratorError]:
    """What the plugins raised, in order."""
    return [result["error"] for result in context.data["results"] if result["error"] is not None]


def state(studio: Studio) -> tuple[object, object, object]:
    return studio.tree(), studio.documents(), studio.leftovers()


# --- discovery --------------------------------------------------------------------------------------------------------


def test_the_folder_holds_the_plugins_in_the_order_of_a_publish() -> None:
    assert [plugin.__name__ for plugin in pyblish.api.discover()] == NAMES


def test_the_installed_package_is_such_a_folder() -> None:
    import integrator_plugins

    plugins = pyblish.api.discover(paths=[os.path.dirname(integrator_plugins.__file__)])
    assert [plugin.__name__ for plugin in plugins] == NAMES


# --- published --------------------------------------------------------------------------------------------------------


def test_a_request_in_the_context_is_published(studio: Studio, context: Any) -> None:
    pyblish.util.publish(context)
    assert errors(context) == []
    result = context.data["publishResult"]
    assert result["outcome"] == "published"
    assert [(version["subset"], version["version"]) for version in result["versions"]] == [("renderBeauty", 2), ("camera", 2)]
    files = [file for version in result["versions"] for entry in version["representations"] for file in entry["files"]]
    assert len(files) == 19
    assert all(os.path.isfile(file) for file in files)
    assert studio.versions("renderBeauty") == studio.versions("camera") == [1, 2]
    assert studio.leftovers() == []


def test_a_request_in_a_file_is_published_into_the_root_of_the_environment(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps(studio.request("job")))
    monkeypatch.setenv("INTEGRATOR_REQUEST", str(request))
    monkeypatch.setenv("INTEGRATOR_ROOT", studio.path)
    context = pyblish.util.publish()
    assert errors(context) == []
    assert context.data["publishResult"]["outcome"] == "published"


def test_a_request_in_the_context_comes_before_one_in_the_environment(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTEGRATOR_REQUEST", "elsewhere.json")
    pyblish.util.publish(context)
    assert errors(context) == []


def test_each_publish_instance_becomes_a_pyblish_instance(studio: Studio, context: Any) -> None:
    before = state(studio)
    pyblish.util.collect(context)
    found = [(instance.name, instance.data["family"], instance.data["publishInstance"].subset) for instance in context]
    assert found == [("sh010 renderBeauty", "render", "renderBeauty"), ("sh010 camera", "camera", "camera")]
    assert state(studio) == before


def test_the_answer_can_be_written_as_json(context: Any) -> None:
    pyblish.util.publish(context)
    assert json.loads(json.dumps(context.data["publishResult"])) == context.data["publishResult"]


def test_a_second_loop_with_the_same_publish_id_publishes_nothing_more(studio: Studio, context: Any) -> None:
    pyblish.util.publish(context)
    before = state(studio)
    again = pyblish.api.Context()
    again.data.update(publishRoot=studio.path, publishRequest=studio.request("job"))
    pyblish.util.publish(again)
    first, second = context.data["publishResult"], again.data["publishResult"]
    assert second == {**first, "outcome": "already_published"}
    assert state(studio) == before


def test_a_second_loop_needs_no_sources(studio: Studio, context: Any, tmp_path: Path) -> None:
    source = tmp_path / "model.abc"
    source.write_bytes(b"cache")
    entry = {"asset": "sh010", "subset": "model", "family": "model",
             "representations": [{"name": "abc", "files": [str(source)], "transfer": "move"}]}  # fmt: skip
    for outcome in ("published", "already_published"):
        again = pyblish.api.Context()
        again.data.update(publishRoot=studio.path, publishRequest=studio.request("moved", instances=[entry]))
        pyblish.util.publish(again)
        assert errors(again) == []
        assert again.data["publishResult"]["outcome"] == outcome
        assert not source.exists()


def test_a_pyblish_instance_that_is_switched_off_is_left_out(studio: Studio, context: Any) -> None:
    class SwitchOff(pyblish.api.ContextPlugin):
        order = pyblish.api.CollectorOrder + 0.1

        def process(self, context: Any) -> None:
            context[0].data["publish"] = False
            # What is left out must not stand in the way either.
            context[0].data["publishInstance"] = None

    pyblish.api.register_plugin(SwitchOff)
    pyblish.util.publish(context)
    assert errors(context) == []
    assert [version["subset"] for version in context.data["publishResult"]["versions"]] == ["camera"]
    assert studio.versions("renderBeauty") == [1]


def test_with_everything_switched_off_nothing_is_published(studio: Studio, context: Any) -> None:
    class SwitchOff(pyblish.api.ContextPlugin):
        order = pyblish.api.CollectorOrder + 0.1

        def process(self, context: Any) -> None:
            for instance in context:
                instance.data["publish"] = False

    before = state(studio)
    pyblish.api.register_plugin(SwitchOff)
    pyblish.util.publish(context)
    assert errors(context) == []
    assert "publishResult" not in context.data
    assert state(studio) == before


# --- not published ----------------------------------------------------------------------------------------------------


def test_a_request_that_is_not_valid_is_refused_with_every_problem(studio: Studio, context: Any) -> None:
    wrong = studio.request("job", author=7, speed="fast")
    wrong["instances"][1]["asset"] = "../sh010"
    context.data["publishRequest"] = json.dumps(wrong)
    before = state(studio)
    pyblish.util.publish(context)
    [error] = errors(context)
    assert isinstance(error, RequestRefused)
    assert {problem.where for problem in error.problems} == {"$.author", "$.speed", "$.instances[1].asset"}
    assert all(problem.where in str(error) for problem in error.problems)
    assert list(context) == []
    assert "publishResult" not in context.data
    assert state(studio) == before


def test_sources_that_cannot_be_published_are_refused_all_at_once(studio: Studio, context: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.abc").touch()
    missing = [{"name": "exr", "files": ["/nowhere/beauty.%04d.exr"]}]
    empty = [{"name": "abc", "files": [str(tmp_path / "empty.abc")]}]
    wrong = studio.request("job")
    wrong["instances"][0]["representations"] = missing
    wrong["instances"][1]["representations"] = empty
    context.data["publishRequest"] = wrong
    before = state(studio)
    pyblish.util.publish(context)
    [error] = errors(context)
    assert isinstance(error, ValidationRefused)
    assert "/nowhere" in str(error)
    assert state(studio) == before


def test_a_validator_of_somebody_else_that_fails_publishes_nothing(studio: Studio, context: Any) -> None:
    class ValidateColours(pyblish.api.InstancePlugin):
        order = pyblish.api.ValidatorOrder + 0.2
        families = ["camera"]  # noqa: RUF012 - as pyblish wants it

        def process(self, instance: Any) -> None:
            raise RuntimeError("not our colours")

    before = state(studio)
    pyblish.api.register_plugin(ValidateColours)
    pyblish.util.publish(context)
    assert [str(error) for error in errors(context)] == ["not our colours"]
    assert "publishResult" not in context.data
    assert state(studio) == before


@pytest.mark.parametrize(
    "order", [pyblish.api.CollectorOrder + 0.2, pyblish.api.ExtractorOrder, pyblish.api.IntegratorOrder - 0.1]
)
def test_a_plugin_that_fails_before_the_integrator_publishes_nothing(studio: Studio, context: Any, order: float) -> None:
    class Fail(pyblish.api.ContextPlugin):
        def process(self, context: Any) -> None:
            raise RuntimeError("no licence")

    Fail.order = order
    before = state(studio)
    pyblish.api.register_plugin(Fail)
    pyblish.util.publish(context)
    assert [str(error) for error in errors(context)] == ["no licence"]
    result = context.data["publishResult"]
    assert (result["outcome"], result["versions"], result["transaction"]) == ("refused", [], None)
    assert "Fail: no licence" in result["error"]["message"]
    assert state(studio) == before


def test_a_publish_that_fails_midway_leaves_nothing_and_says_so(
    studio: Studio, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(check: Any, stop: Any = None) -> None:
        raise SourceChanged("beauty.1001.exr changed while it was published")

    before = state(studio)
    monkeypatch.setattr("integrator.transfer.verify", fail)
    pyblish.util.publish(context)
    monkeypatch.undo()
    [error] = errors(context)
    assert isinstance(error, SourceChanged)
    result = context.data["publishResult"]
    assert (result["outcome"], result["versions"]) == ("rolled_back", [])
    assert result["error"]["code"] == "source_changed"
    assert state(studio) == before


def test_without_a_request_and_without_instances_nothing_is_published(studio: Studio) -> None:
    context, before = pyblish.api.Context(), state(studio)
    context.data["publishRoot"] = studio.path
    pyblish.util.publish(context)
    assert errors(context) == []
    assert "publishResult" not in context.data
    [said] = [record.msg for result in context.data["results"] for record in result["records"] if record.levelname == "WARNING"]
    assert "nothing to publish" in said
    assert state(studio) == before


def test_a_request_that_cannot_be_read_is_named(studio: Studio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INTEGRATOR_REQUEST", str(tmp_path))
    context = pyblish.api.Context()
    context.data["publishRoot"] = studio.path
    pyblish.util.publish(context)
    assert str(tmp_path) in str(errors(context)[0])
    assert isinstance(errors(context)[0], UsageError)


def test_without_a_publish_root_nothing_is_published(context: Any, tmp_path: Path) -> None:
    context.data["publishRoot"] = str(tmp_path)
    pyblish.util.publish(context)
    assert all(isinstance(error, NotARoot) for error in errors(context))
    assert errors(context) != []
    assert list(tmp_path.iterdir()) == []
