"""The publish request: strict reading, every problem with its JSON path, and the way back."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrator import request as module
from integrator.errors import RequestRefused
from integrator.layout import NamePolicy
from integrator.request import (
    CHECKSUMS,
    TRANSFERS,
    InstanceRequest,
    PublishRequest,
    RepresentationRequest,
    ResourceRequest,
    TaskRequest,
    parse_request,
    to_document,
)


def example() -> dict[str, Any]:
    """The example of the documentation."""
    return {
        "schema": "integrator:publish-request-1.0",
        "project": "demo",
        "publish_id": "farm-4711",
        "author": "anna",
        "comment": "first pass",
        "checksum": "copied",
        "instances": [
            {
                "asset": "sh010",
                "hierarchy": "shots/sq01",
                "subset": "renderBeauty",
                "family": "render",
                "task": {"name": "lighting", "type": "Lighting", "short": "lgt"},
                "version": None,
                "amend": None,
                "hero": False,
                "data": {"fps": 24, "colorspaceData": {}},
                "inputs": [],
                "resources": [{"files": ["/tex/wood.tx"], "folder": "resources"}],
                "representations": [
                    {
                        "name": "exr",
                        "files": ["/render/beauty.%04d.exr"],
                        "frames": "1001-1048",
                        "transfer": "hardlink",
                        "missing_frames": "refuse",
                    },
                    {"name": "abc", "files": ["/cache/cam.abc"]},
                ],
            }
        ],
    }


def problems(source: Any) -> dict[str, str]:
    """What is wrong with a request, by JSON path."""
    with pytest.raises(RequestRefused) as refused:
        parse_request(source)
    assert refused.value.problems
    found: dict[str, str] = {}
    for where, what in refused.value.problems:
        found[where] = f"{found[where]}; {what}" if where in found else what
    return found


def changed(path: str, value: object) -> dict[str, Any]:
    """The example with another value at `path` (``instances.0.asset``)."""
    document = example()
    place: Any = document
    *steps, last = path.split(".")
    for step in steps:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    return document


def json_path(path: str) -> str:
    return "$" + "".join(f"[{step}]" if step.isdigit() else f".{step}" for step in path.split("."))


def test_the_example_is_read_in_every_form() -> None:
    request = parse_request(example())
    assert request == parse_request(json.dumps(example())) == parse_request(json.dumps(example()).encode())
    assert request == parse_request(request) == parse_request("\ufeff" + json.dumps(example()))
    instance = request.instances[0]
    assert instance.task == TaskRequest(name="lighting", type="Lighting", short="lgt")
    assert (instance.hierarchy, instance.version, instance.data["fps"]) == ("shots/sq01", None, 24)
    assert instance.representations[1] == RepresentationRequest(name="abc", files=("/cache/cam.abc",))


def test_every_problem_is_listed_at_once_with_its_path() -> None:
    document = changed("instances.0.representations.1.name", "../up")
    document["instances"][0] |= {"asset": {"$ne": None}, "version": -1, "colour": 1, "a b": 2}
    document["instances"][0]["representations"][0]["frames"] = "5-1"
    document["instances"].append({"asset": "x", "family": "f", "representations": []})
    del document["project"]
    document["comment"] = float("nan")
    assert set(problems(document)) == {
        "$.project",
        "$.comment",
        "$.instances[0].asset",
        "$.instances[0].version",
        "$.instances[0].colour",
        '$.instances[0]["a b"]',
        "$.instances[0].representations[0].frames",
        "$.instances[0].representations[1].name",
        "$.instances[1].subset",
        "$.instances[1]",
    }


# --- names and types --------------------------------------------------------------------------------------------------

NAME_FIELDS = [
    "project",
    "instances.0.asset",
    "instances.0.subset",
    "instances.0.family",
    "instances.0.hierarchy",
    "instances.0.template",
    "instances.0.task.name",
    "instances.0.task.short",
    "instances.0.representations.0.name",
    "instances.0.representations.0.output",
    "instances.0.resources.0.folder",
    "publish_id",
]


@pytest.mark.parametrize("field", NAME_FIELDS)
@pytest.mark.parametrize(
    "name",
    ["a\0", "a\nb", "a\n", "$(reboot)", "{0.__class__}", "a\\b", "\ud800", "x" * 256, "a b"],
)
def test_hostile_names_are_refused_where_they_stand(field: str, name: str) -> None:
    assert list(problems(changed(field, name))) == [json_path(field)]


@pytest.mark.parametrize("field", NAME_FIELDS[:-1])
@pytest.mark.parametrize("name", ["..", "/abs", "a/../b", "CON", "nul.txt", "a.", "-rf", ".integrator"])
def test_names_that_are_no_path_component_are_refused_where_they_stand(field: str, name: str) -> None:
    assert list(problems(changed(field, name))) == [json_path(field)]


TEXT_FIELDS = [
    *NAME_FIELDS,
    "author",
    "comment",
    "source",
    "intent",
    "machine",
    "user",
    "schema",
    "checksum",
    "instances.0.staging_dir",
    "instances.0.task.type",
    "instances.0.families.0",
    "instances.0.inputs.0",
    "instances.0.resources.0.files.0",
    "instances.0.representations.0.files.0",
    "instances.0.representations.0.frames",
    "instances.0.representations.0.transfer",
    "instances.0.representations.0.missing_frames",
    "instances.0.representations.0.tags.0",
]


@pytest.mark.parametrize("field", TEXT_FIELDS)
@pytest.mark.parametrize("value", [{"$ne": None}, {"$where": "1"}, 1, True, ["a"]])
def test_nothing_but_text_stands_where_text_belongs(field: str, value: object) -> None:
    """So nothing but text ever reaches a query or a path."""
    if field.rpartition(".")[2].isdigit() or field.endswith("files.0"):
        field, value = field.rpartition(".")[0], [value]
        found = problems(changed(field, value))
        assert list(found) == [f"{json_path(field)}[0]"]
    else:
        assert list(problems(changed(field, value))) == [json_path(field)]


@pytest.mark.parametrize("field", ["version", "amend", "representations.0.start_frame"])
@pytest.mark.parametrize("value", [True, "1", 1.0, {"$gt": 0}, [1], 2**70])
def test_nothing_but_whole_numbers_stand_where_numbers_belong(field: str, value: object) -> None:
    assert list(problems(changed(f"instances.0.{field}", value))) == [json_path(f"instances.0.{field}")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("instances", []),
        ("instances", {}),
        ("instances", None),
        ("instances.0.hero", 1),
        ("instances.0.task", []),
        ("instances.0.data", []),
        ("instances.0.families", "render"),
        ("instances.0.amend", -1),
        ("instances.0.version", -1),
        ("instances.0.representations.0.files", []),
        ("instances.0.representations.0.files", "/a"),
        ("instances.0.representations.0.transfer", "teleport"),
        ("instances.0.representations.0.missing_frames", "skip"),
        ("checksum", "md5"),
        ("schema", "integrator:publish-request-2.0"),
        ("unknown", 1),
        ("publish_id", ""),
        ("publish_id", "x" * 201),
    ],
)
def test_other_values_out_of_the_schema_are_refused(field: str, value: object) -> None:
    assert json_path(field) in problems(changed(field, value))


def test_frame_zero_and_version_zero_are_numbers_like_any_other() -> None:
    assert parse_request(changed("instances.0.version", 0)).instances[0].version == 0
    assert parse_request(changed("instances.0.amend", 0)).instances[0].amend == 0
    start = parse_request(changed("instances.0.representations.0.start_frame", 0))
    assert start.instances[0].representations[0].start_frame == 0


def test_a_publish_id_may_look_like_a_path() -> None:
    assert parse_request(changed("publish_id", "deadline:job/1@2+3-4")).publish_id == "deadline:job/1@2+3-4"


def test_the_policy_given_is_the_one_that_decides() -> None:
    document = changed("instances.0.asset", "Figur Zwei")
    assert problems(document)
    assert parse_request(document, NamePolicy(pattern=r"[\w ]+")).instances[0].asset == "Figur Zwei"


@pytest.mark.parametrize("field", ["instances.0.representations.0.files", "instances.0.resources.0.files"])
def test_sources_may_have_any_bytes_that_files_have(field: str) -> None:
    name = b"/in/\xff\n #%[.exr".decode("utf-8", "surrogateescape")
    assert to_document(parse_request(json.dumps(changed(field, [name])))) == to_document(parse_request(changed(field, [name])))
    for wrong in ("a\0b", "\ud800", ""):
        assert list(problems(changed(field, ["/a", wrong]))) == [f"{json_path(field)}[1]"]


def test_a_version_to_amend_stands_alone() -> None:
    assert problems(changed("instances.0.amend", 2) | {"x": 1}).keys() == {"$.x"}
    document = changed("instances.0.amend", 2)
    document["instances"][0]["version"] = 3
    assert list(problems(document)) == ["$.instances[0].amend"]


# --- the same thing twice ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [{}, {"subset": "RENDERbeauty"}, {"family": "other"}])
def test_two_instances_of_one_subset_are_refused(same: dict[str, str]) -> None:
    document = example()
    document["instances"].append(document["instances"][0] | same)
    assert "$.instances[0]" in problems(document)["$.instances[1]"]
    document["instances"][1] |= {"hierarchy": "shots/sq02"}
    assert len(parse_request(document).instances) == 2


def test_two_representations_of_one_name_are_refused() -> None:
    document = changed("instances.0.representations.1.name", "EXR")
    assert list(problems(document)) == ["$.instances[0].representations[1]"]


# --- hostile JSON -----------------------------------------------------------------------------------------------------

LOOP: dict[str, Any] = {}
LOOP["a"] = LOOP
WIDE: dict[str, Any] = {}
for _ in range(40):
    WIDE = {"a": WIDE, "b": WIDE, "c": WIDE}

HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "too large": (lambda: " " * (module.MOST_BYTES + 1), "16 MiB"),
    "too large in bytes": (lambda: '"' + "é" * (module.MOST_BYTES // 2) + '"', "16 MiB"),
    "nested lists": (lambda: "[" * 200_000, "levels"),
    "nested objects": (lambda: '{"a":' * 200_000, "levels"),
    "nested a little too deeply": (lambda: "[" * 65 + "]" * 65, "levels"),
    "nested in Python": (lambda: {"instances": LOOP}, "levels"),
    "shared in Python": (lambda: WIDE, "values"),
    "many numbers": (lambda: "[" + "1," * 8_000_000 + "1]", "values"),
    "many objects": (lambda: "[" + "{}," * 600_000 + "1]", "values"),
    "many wrong values": (lambda: json.dumps(changed("instances", [{}] * 400_000)), "missing"),
    "a number of a million digits": (lambda: "1" * 1_000_000, "64 bits"),
    "not a number": (lambda: json.dumps(changed("author", float("nan"))), "finite"),
    "minus infinity": (lambda: json.dumps(changed("instances.0.data", {"a": -float("inf")})), "finite"),
    "an overflowing number": (lambda: '{"a": 1e999}', "finite"),
    "no JSON": (lambda: "{'a': 1}", "not JSON"),
    "nothing": (lambda: b"", "not JSON"),
    "not UTF-8": (lambda: b'{"a": "\xff"}', "UTF-8"),
    "another type": (lambda: [1], "object"),
    "a Python object": (lambda: {"a": object()}, "JSON value"),
    "a key that is no text": (lambda: {1: 2}, "key"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_json_is_refused_soon(kind: str) -> None:
    make, words = HOSTILE[kind]
    source = make()
    started = time.process_time()
    found = problems(source)
    # Half a second here; the rest is for slow machines.
    assert time.process_time() - started < 2
    assert any(words in what for what in found.values()), found
    assert len(found) <= module.MOST_PROBLEMS + 1


def test_memory_is_bounded_by_what_is_read() -> None:
    text = "[" + "{}," * 5_000_000 + "1]"
    tracemalloc.start()
    problems(text)
    assert tracemalloc.get_traced_memory()[1] < 4 * module.MOST_BYTES
    tracemalloc.stop()


def test_a_key_given_twice_is_refused_with_its_path() -> None:
    text = json.dumps(example()).replace('"asset": "sh010"', '"asset": "sh010", "asset": "sh020"')
    assert problems(text) == {"$.instances[0]": "holds the key 'asset' twice"}


@pytest.mark.parametrize("extra", [{"$oid": "0" * 24}, {"a": [{"$ne": 1}]}, {"a": "\ud800"}, {"a\0": 1}, {"a": 2**63}])
def test_data_holds_only_what_a_database_gives_back_as_it_is(extra: dict[str, Any]) -> None:
    assert next(iter(problems(changed("instances.0.data", extra)))).startswith("$.instances[0].data")


def test_data_is_kept_as_it_is_and_apart_from_the_callers() -> None:
    given_data = {"a.b": [1, 1.5, None, True, {"x": "é"}]}
    kept = parse_request(changed("instances.0.data", given_data)).instances[0].data
    assert kept == given_data
    given_data["a.b"].append(2)
    assert kept != given_data


# --- fingerprint and the way back -------------------------------------------------------------------------------------

WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
DATA = st.dictionaries(WORDS, JSON, max_size=3)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)
FULL_TEXTS = TEXTS.filter(bool)
FILES = st.lists(
    st.binary(min_size=1, max_size=9)
    .filter(lambda name: b"\0" not in name)
    .map(lambda name: name.decode("utf-8", "surrogateescape")),
    min_size=1,
    max_size=3,
).map(tuple)
HIERARCHIES = st.lists(WORDS, max_size=3).map("/".join)
NUMBERS = st.none() | st.integers(0, 10**9 - 1)
REPRESENTATIONS = st.builds(
    RepresentationRequest,
    name=WORDS,
    files=FILES,
    frames=st.sampled_from([None, "0", "-5--1", "1001-1010x2,7"]),
    missing_frames=st.sampled_from([None, "refuse", "allow"]),
    start_frame=st.none() | st.integers(-100, 2000),
    transfer=st.none() | st.sampled_from(TRANSFERS),
    output=st.just("") | WORDS,
    tags=st.lists(FULL_TEXTS, max_size=2).map(tuple),
    data=DATA,
)
INSTANCES = st.builds(
    InstanceRequest,
    asset=WORDS,
    hierarchy=HIERARCHIES,
    subset=WORDS,
    family=WORDS,
    families=st.lists(FULL_TEXTS, max_size=2).map(tuple),
    task=st.none() | st.builds(TaskRequest, name=WORDS, type=st.just("") | WORDS, short=st.just("") | WORDS),
    version=NUMBERS,
    amend=st.none(),
    hero=st.booleans(),
    template=st.just("") | WORDS,
    staging_dir=st.sampled_from(["", "/a", "{root[work]}/x"]),
    inputs=st.lists(FULL_TEXTS, max_size=2).map(tuple),
    resources=st.lists(st.builds(ResourceRequest, files=FILES, folder=HIERARCHIES.filter(bool)), min_size=1, max_size=2).map(
        tuple
    ),
    representations=st.lists(REPRESENTATIONS, max_size=2, unique_by=lambda one: one.name).map(tuple),
    data=DATA,
)
REQUESTS = st.builds(
    PublishRequest,
    project=WORDS,
    publish_id=st.none() | WORDS,
    author=TEXTS,
    comment=TEXTS,
    checksum=st.none() | st.sampled_from(CHECKSUMS),
    source=TEXTS,
    intent=TEXTS,
    machine=TEXTS,
    user=TEXTS,
    instances=st.lists(INSTANCES, min_size=1, max_size=2, unique_by=lambda one: (one.hierarchy, one.asset, one.subset)).map(
        tuple
    ),
)


@settings(deadline=None, max_examples=60)
@given(REQUESTS)
def test_a_request_comes_back_from_its_document(request_: PublishRequest) -> None:
    document = to_document(request_)
    assert parse_request(document) == request_ == parse_request(json.dumps(document))
    assert parse_request(json.dumps(document)).fingerprint() == request_.fingerprint()


def test_the_fingerprint_ignores_how_and_where_it_is_said() -> None:
    spelled_out = to_document(parse_request(example()))
    backwards = json.dumps(dict(reversed(spelled_out.items())))
    first = parse_request(example()).fingerprint()
    assert first == parse_request(spelled_out).fingerprint() == parse_request(backwards).fingerprint()
    for key in ("publish_id", "machine", "user"):
        assert first == parse_request(changed(key, "other")).fingerprint()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("project", "other"),
        ("comment", "other"),
        ("checksum", "all"),
        ("instances.0.version", 3),
        ("instances.0.hero", True),
        ("instances.0.data", {"fps": 25}),
        ("instances.0.representations.0.frames", "1001-1049"),
        ("instances.0.representations.0.files", ["/render/other.%04d.exr"]),
        ("instances.0.resources.0.folder", "textures"),
    ],
)
def test_the_fingerprint_tells_other_content(field: str, value: object) -> None:
    assert parse_request(changed(field, value)).fingerprint() != parse_request(example()).fingerprint()


def test_requests_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        parse_request(example()).project = "other"  # type: ignore[misc]
