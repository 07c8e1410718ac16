"""Sequences as studios have them: published for real, then the names on disk and the documents are looked at."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

import integrator
from integrator import cli
from integrator.database import PROJECT
from integrator.errors import ValidationRefused
from integrator.reservation import reserve

Publish = Callable[..., Any]
PREFIX = "demo_sh010_main_v001"


@attrs.frozen
class Case:
    """Source names, what a request says of them, and what must come of it."""

    #: What this is about.
    about: str
    #: Names of the files in the folder.
    names: Sequence[str]
    #: The representation; `files` start from that folder.
    request: Mapping[str, Any]
    #: Published names behind `PREFIX` (and a dot, unless they bring a sign of their own) by source name, in their order.
    published: Mapping[str, str]
    #: `context.frame`.
    frame: str | None = None
    #: `context.udim`.
    udim: Sequence[str] | None = None


def same(*names: str) -> dict[str, str]:
    """Names that keep the part behind the first dot."""
    return {name: name.partition(".")[2] for name in names}


def tiles(*names: str) -> dict[str, str]:
    """Names of tiles: the template puts another sign before them."""
    return {name: f"_{name.partition('.')[2]}" for name in names}


CASES = [
    Case("tiles", ["wood.1001.tx", "wood.1002.tx", "wood.1011.tx"], {"files": ["wood.<UDIM>.tx"]},
         tiles("wood.1001.tx", "wood.1002.tx", "wood.1011.tx"), udim=["1001", "1002", "1011"]),
    Case("tiles in printf form", ["wood.1001.tx", "wood.1012.tx"], {"files": ["wood.%(UDIM)d.tx"]},
         tiles("wood.1001.tx", "wood.1012.tx"), udim=["1001", "1012"]),
    Case("one tile", ["wood.1001.tx"], {"files": ["wood.<udim>.tx"]}, tiles("wood.1001.tx"), udim=["1001"]),
    Case("tiles among what is none", [f"{name}.tx" for name in ("v2_wood_1001", "v2_wood_0999", "v2_wood_10", "v1_wood_1001")],
         {"files": ["v2_wood_<UDIM>.tx"]}, {"v2_wood_1001.tx": "_1001.tx"}, udim=["1001"]),
    Case("one frame by a pattern", ["b.1001.exr"], {"files": ["b.%04d.exr"]}, same("b.1001.exr"), frame="1001"),
    Case("one frame by its number", ["b.1001.exr"], {"files": ["b.1001.exr"], "frames": "1001"}, same("b.1001.exr"),
         frame="1001"),
    Case("one frame that is renumbered", ["b.1001.exr"], {"files": ["b.####.exr"], "start_frame": 1}, {"b.1001.exr": "0001.exr"},
         frame="0001"),
    Case("one file that has digits", ["b.1001.exr"], {"files": ["b.1001.exr"]}, {"b.1001.exr": "exr"}),
    Case("frame 0", ["b.0000.exr", "b.0001.exr"], {"files": ["b.%04d.exr"]}, same("b.0000.exr", "b.0001.exr"), frame="0000"),
    Case("frame 0 alone", ["b.0000.exr"], {"files": ["b.%04d.exr"], "frames": "0"}, same("b.0000.exr"), frame="0000"),
    Case("frame 0 by its number", ["b.0.exr"], {"files": ["b.0.exr"], "frames": "0"}, {"b.0.exr": "0000.exr"}, frame="0000"),
    Case("negative frames", ["b.-002.exr", "b.-001.exr", "b.0000.exr", "b.0001.exr"], {"files": ["b.%04d.exr"]},
         same("b.-002.exr", "b.-001.exr", "b.0000.exr", "b.0001.exr"), frame="-002"),
    Case("negative frames in a list", ["b.-10.exr", "b.-9.exr", "b.0.exr"],
         {"files": ["b.0.exr", "b.-9.exr", "b.-10.exr"], "missing_frames": "allow"},
         {"b.-10.exr": "-010.exr", "b.-9.exr": "-009.exr", "b.0.exr": "0000.exr"}, frame="-010"),
    Case("one negative frame", ["b.-005.exr"], {"files": ["b.%04d.exr"], "frames": "-5"}, same("b.-005.exr"), frame="-005"),
    Case("a hyphen that is no sign", ["sh-001.exr", "sh-002.exr"], {"files": ["sh-%03d.exr"]},
         {"sh-001.exr": "0001.exr", "sh-002.exr": "0002.exr"}, frame="0001"),
    Case("a hyphen that is no sign, in a list", ["sh-001.exr", "sh-002.exr"], {"files": ["sh-002.exr", "sh-001.exr"]},
         {"sh-001.exr": "0001.exr", "sh-002.exr": "0002.exr"}, frame="0001"),
    Case("digits in the name", ["v2_shot010.1001.exr", "v2_shot010.1002.exr", "v1_shot010.1001.exr"],
         {"files": ["v2_shot010.%04d.exr"]}, same("v2_shot010.1001.exr", "v2_shot010.1002.exr"), frame="1001"),
    Case("digits in the name, in a list", ["v2_shot010.1001.exr", "v2_shot010.1002.exr"],
         {"files": ["v2_shot010.1002.exr", "v2_shot010.1001.exr"]}, same("v2_shot010.1001.exr", "v2_shot010.1002.exr"),
         frame="1001"),
    Case("digits behind the frame", ["b.1001.v3.exr", "b.1002.v3.exr"], {"files": ["b.####.v3.exr"]},
         {"b.1001.v3.exr": "1001.exr", "b.1002.v3.exr": "1002.exr"}, frame="1001"),
    Case("digits in the extension", ["b.1.mp4", "b.2.mp4"], {"files": ["b.1.mp4", "b.2.mp4"]},
         {"b.1.mp4": "0001.mp4", "b.2.mp4": "0002.mp4"}, frame="0001"),
    Case("renumbering keeps gaps", ["b.0010.exr", "b.0012.exr", "b.0020.exr"],
         {"files": ["b.%04d.exr"], "start_frame": 1001, "missing_frames": "allow"},
         {"b.0010.exr": "1001.exr", "b.0012.exr": "1003.exr", "b.0020.exr": "1011.exr"}, frame="1001"),
    Case("renumbering to 0", ["b.1001.exr", "b.1002.exr"], {"files": ["b.%04d.exr"], "start_frame": 0},
         {"b.1001.exr": "0000.exr", "b.1002.exr": "0001.exr"}, frame="0000"),
    Case("renumbering below 0", ["b.1001.exr", "b.1002.exr"], {"files": ["b.%04d.exr"], "start_frame": -1},
         {"b.1001.exr": "-001.exr", "b.1002.exr": "0000.exr"}, frame="-001"),
    Case("renumbering from below 0", ["b.-001.exr", "b.0000.exr"], {"files": ["b.%04d.exr"], "start_frame": 99999},
         {"b.-001.exr": "99999.exr", "b.0000.exr": "100000.exr"}, frame="99999"),
    Case("renumbering those that are wanted", ["b.1001.exr", "b.1002.exr", "b.1003.exr", "b.1004.exr"],
         {"files": ["b.%04d.exr"], "frames": "1002-1004x2", "start_frame": 1},
         {"b.1002.exr": "0001.exr", "b.1004.exr": "0003.exr"}, frame="0001"),
    Case("unpadded", [f"b.{n}.exr" for n in (8, 9, 10, 11)], {"files": ["b.%d.exr"]},
         {f"b.{n}.exr": f"{n:04d}.exr" for n in (8, 9, 10, 11)}, frame="0008"),
    Case("unpadded in a list", [f"b.{n}.exr" for n in (99, 100, 101)], {"files": [f"b.{n}.exr" for n in (101, 99, 100)]},
         {f"b.{n}.exr": f"{n:04d}.exr" for n in (99, 100, 101)}, frame="0099"),
    Case("frames of more digits than the padding", [f"b.{n}.exr" for n in (9998, 9999, 10000, 10001)], {"files": ["b.####.exr"]},
         same("b.9998.exr", "b.9999.exr", "b.10000.exr", "b.10001.exr"), frame="9998"),
    Case("only frames of more digits", ["b.100000.exr", "b.100001.exr"], {"files": ["b.%04d.exr"]},
         same("b.100000.exr", "b.100001.exr"), frame="100000"),
    Case("wider padding in the source", ["b.0000001.exr", "b.0000002.exr"], {"files": ["b.%07d.exr"]},
         {"b.0000001.exr": "0001.exr", "b.0000002.exr": "0002.exr"}, frame="0001"),
    Case("other paddings beside it", ["b.0001.exr", "b.001.exr", "b.1.exr", "b.00001.exr"], {"files": ["b.%04d.exr"]},
         same("b.0001.exr"), frame="0001"),
    Case("gaps that are allowed", ["b.1001.exr", "b.1003.exr"], {"files": ["b.%04d.exr"], "missing_frames": "allow"},
         same("b.1001.exr", "b.1003.exr"), frame="1001"),
    Case("the first frames are missing, which is allowed", ["b.1003.exr"],
         {"files": ["b.%04d.exr"], "frames": "1001-1004", "missing_frames": "allow"}, same("b.1003.exr"), frame="1003"),
    Case("every other frame", ["b.1001.exr", "b.1003.exr", "b.1005.exr"], {"files": ["b.%04d.exr"], "frames": "1001-1005x2"},
         same("b.1001.exr", "b.1003.exr", "b.1005.exr"), frame="1001"),
    Case("frames in clique form", ["b.-001.exr", "b.0000.exr", "b.0001.exr", "b.0009.exr"], {"files": ["b.%04d.exr [-1-1]"]},
         same("b.-001.exr", "b.0000.exr", "b.0001.exr"), frame="-001"),
    Case("brackets and percent signs", ["a[1]%.0001.exr", "a[1]%.0002.exr"], {"files": ["a[1]%%.%04d.exr"]},
         same("a[1]%.0001.exr", "a[1]%.0002.exr"), frame="0001"),
    Case("a compressed cache", ["fx.0001.bgeo.sc", "fx.0002.bgeo.sc"], {"files": ["fx.$F.bgeo.sc".replace("$F", "%04d")]},
         same("fx.0001.bgeo.sc", "fx.0002.bgeo.sc"), frame="0001"),
    Case("no dot before the frame", ["shot010_0001.exr", "shot010_0002.exr"], {"files": ["shot010_0001.exr", "shot010_0002.exr"]},
         {"shot010_0001.exr": "0001.exr", "shot010_0002.exr": "0002.exr"}, frame="0001"),
    Case("nothing but the frame", ["0001.exr", "0002.exr"], {"files": ["%04d.exr"]},
         {"0001.exr": "0001.exr", "0002.exr": "0002.exr"}, frame="0001"),
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> str:
    integrator.create_root(str(tmp_path / "show")).close()
    return str(tmp_path / "show")


def make(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(f"content of {name}".encode())


def with_request(root: str, request: Mapping[str, Any]) -> None:
    """Publish with Python."""
    with integrator.open_root(root) as opened:
        assert integrator.publish(request, opened).outcome == "published"


def with_command(root: str, request: Mapping[str, Any]) -> None:
    """Publish with the command line."""
    path = Path(root).parent / "request.json"
    path.write_text(json.dumps(request))
    assert cli.main(["publish", str(path), "--root", root]) == 0


def request_of(folder: Path, *representations: Mapping[str, Any], **instance: Any) -> dict[str, Any]:
    entries = [{"name": f"r{number}", **entry} for number, entry in enumerate(representations)]
    one = {"asset": "sh010", "subset": "main", "family": "render", "staging_dir": str(folder), "representations": entries}
    return {"schema": "integrator:publish-request-1.0", "project": "demo", "instances": [{**one, **instance}]}


def documents(root: str, kind: str) -> list[Any]:
    with integrator.open_root(root) as opened:
        return [document for document in opened.engine.database.find(PROJECT + "demo") if document["type"] == kind]


def filled(template: str, context: Mapping[str, Any]) -> str:
    """A template filled in as OpenPype's loaders do it; written without the engine's own reader of templates."""
    values = dict(context)
    if isinstance(values.get("udim"), list):
        values["udim"] = values["udim"][0]

    def optional(match: re.Match[str]) -> str:
        try:
            return match[1].format(**values)
        except KeyError:
            return ""

    text = re.sub(r"<((?:\{[^{}]*\}|[^<>{}])*)>", optional, template).format(**values)
    return re.sub("/+", "/", text)


def look_at(root: str, document: Any) -> list[str]:
    """What every representation must be; returns the names of its files in their order."""
    context = document["context"]
    files = [entry["path"].format(root={"work": root}) for entry in document["files"]]
    assert context["root"] == {"work": root}
    assert filled(document["data"]["template"], context) == files[0] == document["data"]["path"]
    assert all(os.path.isfile(path) for path in files)
    for path, entry in zip(files, document["files"]):
        assert entry["size"] == os.lstat(path).st_size
        assert entry["hash"].startswith(os.path.basename(path).replace(".", ",") + "|")
    if "frame" in context:
        assert isinstance(context["frame"], str)
        assert f".{context['frame']}." in os.path.basename(files[0])
    return [os.path.basename(path) for path in files]


@pytest.mark.parametrize("publish", [with_request, with_command], ids=["python", "command"])
@pytest.mark.parametrize("case", CASES, ids=[case.about for case in CASES])
def test_a_sequence_is_published_under_its_names(case: Case, publish: Publish, root: str, tmp_path: Path) -> None:
    make(tmp_path / "render", case.names)
    publish(root, request_of(tmp_path / "render", case.request))
    [document] = documents(root, "representation")
    names = look_at(root, document)
    expected = {source: f"{PREFIX}{'' if name[0] == '_' else '.'}{name}" for source, name in case.published.items()}
    assert names == list(expected.values())
    assert (document["context"].get("frame"), document["context"].get("udim")) == (case.frame, case.udim)
    folder = os.path.dirname(document["data"]["path"])
    assert sorted(os.listdir(folder)) == sorted(names)
    for source, name in expected.items():
        assert Path(folder, name).read_bytes() == f"content of {source}".encode()
    assert cli.main(["check", "--checksums", "--root", root]) == 0


REFUSED = [
    ("gaps", ["b.1001.exr", "b.1003.exr", "b.1007.exr"], {"files": ["b.%04d.exr"]}, "lacks the frames 1002, 1004-1006"),
    ("a gap in a list", ["b.1.exr", "b.3.exr"], {"files": ["b.1.exr", "b.3.exr"]}, "lacks the frames 2"),
    ("a gap over 0", ["b.-001.exr", "b.0001.exr"], {"files": ["b.%04d.exr"]}, "lacks the frames 0"),
    ("wanted frames that are not there", ["b.0001.exr"], {"files": ["b.%04d.exr"], "frames": "-1-1"}, "lacks the frames -1-0"),
    ("no frame at all, even if gaps are allowed", ["b.0001.exr"],
     {"files": ["b.%04d.exr"], "frames": "5", "missing_frames": "allow"}, "has none of the frames 5"),
    ("frames of another padding", ["b.1.exr", "b.02.exr"], {"files": ["b.%04d.exr"]}, "matches no file"),
    ("tiles that are frames, too", ["b.1001.tx"], {"files": ["b.<UDIM>.tx"], "frames": "1001"}, "these are UDIM tiles"),
    ("no extension", ["b.0001", "b.0002"], {"files": ["b.%04d"]}, "has no extension"),
    ("two numbers", ["b.1.1001.tx"], {"files": ["b.%d.<UDIM>.tx"]}, "more than one place for a number"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "request_", "said"), [entry[1:] for entry in REFUSED], ids=[entry[0] for entry in REFUSED])
def test_what_is_no_whole_sequence_is_refused_and_nothing_is_touched(
    names: Sequence[str], request_: Mapping[str, Any], said: str, root: str, tmp_path: Path
) -> None:
    make(tmp_path / "render", names)
    with integrator.open_root(root) as opened, pytest.raises(ValidationRefused, match=re.escape(said)):
        integrator.publish(request_of(tmp_path / "render", request_), opened)
    assert documents(root, "version") == []
    assert not os.path.exists(f"{root}/demo")


@pytest.mark.parametrize("publish", [with_request, with_command], ids=["python", "command"])
def test_version_0_is_a_version(publish: Publish, root: str, tmp_path: Path) -> None:
    make(tmp_path / "render", ["b.0000.exr"])
    publish(root, request_of(tmp_path / "render", {"files": ["b.%04d.exr"]}, version=0))
    publish(root, request_of(tmp_path / "render", {"files": ["b.%04d.exr"]}))
    assert [document["name"] for document in documents(root, "version")] == [0, 1]
    found = [look_at(root, document) for document in documents(root, "representation")]
    assert found == [["demo_sh010_main_v000.0000.exr"], ["demo_sh010_main_v001.0000.exr"]]
    assert [document["context"]["version"] for document in documents(root, "representation")] == [0, 1]
    assert cli.main(["path", "demo", "sh010", "main", "0", "--root", root]) == 0
    with integrator.open_root(root) as opened, pytest.raises(integrator.errors.VersionTaken):
        integrator.publish(request_of(tmp_path / "render", {"files": ["b.%04d.exr"]}, version=0), opened)


@pytest.mark.parametrize("padding", [1, 3, 6])
def test_frames_are_padded_as_the_settings_say(padding: int, root: str, tmp_path: Path) -> None:
    with open(f"{root}/.integrator/config.toml", "a") as file:
        file.write(f'\n[templates]\nframe_padding = "{padding}"\n')
    names = ["b.-002.exr", "b.0008.exr", "b.10000.exr"]
    make(tmp_path / "render", names)
    with_request(root, request_of(tmp_path / "render", {"files": ["b.%04d.exr"], "missing_frames": "allow"}))
    [document] = documents(root, "representation")
    assert look_at(root, document) == [f"{PREFIX}.{frame:0{padding}d}.exr" for frame in (-2, 8, 10000)]
    assert document["context"]["frame"] == f"{-2:0{padding}d}"


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ('frame = "{frame:0>6}"', ["-00002", "000008", "010000"]),
        ('frame = "{frame}"', ["-2", "8", "10000"]),
        ('file = "{project[code]}_{asset}_{subset}_{@version}.{frame:0>5}.{ext}"', ["-0002", "00008", "10000"]),
    ],
)
def test_templates_of_a_studio_give_the_same_name_again(template: str, names: list[str], root: str, tmp_path: Path) -> None:
    with open(f"{root}/.integrator/config.toml", "a") as file:
        file.write(f"\n[templates]\n{template}\n")
    make(tmp_path / "render", ["b.-002.exr", "b.0008.exr", "b.10000.exr"])
    with_request(root, request_of(tmp_path / "render", {"files": ["b.%04d.exr"], "missing_frames": "allow"}))
    [document] = documents(root, "representation")
    assert look_at(root, document) == [f"{PREFIX}.{name}.exr" for name in names]
    assert document["context"]["frame"] == names[0]


def test_a_reservation_promises_names_with_the_padding_of_the_template(root: str, tmp_path: Path) -> None:
    with open(f"{root}/.integrator/config.toml", "a") as file:
        file.write('\n[templates]\nframe = "{frame:0>6}"\n')
    request = request_of(tmp_path, {"files": [f"{{staging}}/{PREFIX}.%06d.exr"]}, staging_dir="")
    with integrator.open_root(root) as opened:
        [version] = reserve({**request, "publish_id": "job"}, opened, seconds=60).versions
        [promised] = version.representations
        assert promised["files"] == [f"{version.path}/{PREFIX}.%06d.exr"]
        for frame in (-1, 0):
            Path(version.staging, f"{PREFIX}.{frame:06d}.exr").write_bytes(b"rendered")
        assert integrator.publish({**request, "publish_id": "job"}, opened).outcome == "published"
    [document] = documents(root, "representation")
    assert look_at(root, document) == [f"{PREFIX}.-00001.exr", f"{PREFIX}.000000.exr"]


def test_sequences_tiles_and_single_files_go_together(root: str, tmp_path: Path) -> None:
    names = ["b.1001.exr", "b.1002.exr", "m.1001.exr", "m.1002.exr", "wood.1001.tx", "wood.1002.tx", "b.mov"]
    make(tmp_path / "render", names)
    with_command(
        root,
        request_of(
            tmp_path / "render",
            {"name": "beauty", "files": ["b.%04d.exr"]},
            {"name": "mask", "files": ["m.%04d.exr"]},
            {"name": "tx", "files": ["wood.<UDIM>.tx"]},
            {"name": "mov", "files": ["b.mov"]},
        ),
    )
    found = {document["name"]: look_at(root, document) for document in documents(root, "representation")}
    assert found == {
        "beauty": [f"{PREFIX}_beauty.1001.exr", f"{PREFIX}_beauty.1002.exr"],
        "mask": [f"{PREFIX}_mask.1001.exr", f"{PREFIX}_mask.1002.exr"],
        "tx": [f"{PREFIX}_1001.tx", f"{PREFIX}_1002.tx"],
        "mov": [f"{PREFIX}.mov"],
    }


def test_patterns_and_frames_of_the_command_line_are_the_same(root: str, tmp_path: Path) -> None:
    make(tmp_path / "render", ["v2_b.-001.exr", "v2_b.0000.exr", "v2_b.0001.exr", "wood.1001.tx"])
    shot = ["--project", "demo", "--asset", "sh010", "--subset", "main", "--family", "render", "--root", root]
    assert cli.main(["publish", *shot, str(tmp_path / "render/v2_b.%04d.exr"), "--frames", "-1-1"]) == 0
    assert cli.main(["publish", *shot, str(tmp_path / "render/wood.<UDIM>.tx"), "--version", "0"]) == 0
    assert cli.main(["publish", *shot, str(tmp_path / "render/v2_b.%04d.exr [0-1]")]) == 0
    found = [look_at(root, document) for document in documents(root, "representation")]
    assert found == [
        [f"{PREFIX}.{frame}.exr" for frame in ("-001", "0000", "0001")],
        ["demo_sh010_main_v000_1001.tx"],
        ["demo_sh010_main_v002.0000.exr", "demo_sh010_main_v002.0001.exr"],
    ]


@pytest.mark.parametrize("way", ["copy", "hardlink", "symlink", "move"])
def test_every_way_of_transfer_renumbers(way: str, root: str, tmp_path: Path) -> None:
    names = [f"b.{frame}.exr" for frame in (-1, 0, 1)]
    make(tmp_path / "render", names)
    if way == "symlink":
        with open(f"{root}/.integrator/config.toml", "a") as file:
            file.write("\nsymlink_outside = true\n")
    with_request(root, request_of(tmp_path / "render", {"files": ["b.%d.exr"], "start_frame": 1001, "transfer": way}))
    [document] = documents(root, "representation")
    assert look_at(root, document) == [f"{PREFIX}.{frame}.exr" for frame in (1001, 1002, 1003)]
    folder = os.path.dirname(document["data"]["path"])
    assert Path(folder, f"{PREFIX}.1001.exr").read_bytes() == b"content of b.-1.exr"
    assert sorted(os.listdir(tmp_path / "render")) == ([] if way == "move" else sorted(names))


def test_a_sequence_put_together_step_by_step_has_the_same_documents(root: str, tmp_path: Path) -> None:
    make(tmp_path / "render", ["b.-001.exr", "b.0000.exr", "wood.1001.tx", "wood.1002.tx"])
    with integrator.open_root(root) as opened, opened.begin(project="demo") as assembly:
        version = assembly.new_version(asset="sh010", subset="main", family="render", version=0)
        version.copy(str(tmp_path / "render/b.%04d.exr"), start_frame=1001)
        version.copy(str(tmp_path / "render/wood.<UDIM>.tx"))
    found = {document["name"]: document for document in documents(root, "representation")}
    assert look_at(root, found["exr"]) == [f"demo_sh010_main_v000.{frame}.exr" for frame in (1001, 1002)]
    assert look_at(root, found["tx"]) == [f"demo_sh010_main_v000_{tile}.tx" for tile in (1001, 1002)]
    assert (found["exr"]["context"]["frame"], found["tx"]["context"]["udim"]) == ("1001", ["1001", "1002"])
