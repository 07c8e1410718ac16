"""The thumbnail of a publish: there with the version, gone with it, and never the reason that there is none."""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyblish.api
import pyblish.util
import pytest
from studio import Studio

from integrator import thumbnail
from integrator.check import check
from integrator.demo_media import exr
from integrator.plugin import TransactionalPlugin
from integrator.plugin.images import Image, image_of

oiio = pytest.importorskip("OpenImageIO")
PLUGINS = Path(__file__).parent.parent / "plugins"
FRAMES = range(1001, 1006)


@pytest.fixture(autouse=True)
def _plugins() -> Iterator[None]:
    pyblish.api.deregister_all_paths()
    pyblish.api.deregister_all_plugins()
    pyblish.api.register_plugin_path(str(PLUGINS))
    yield
    pyblish.api.deregister_all_paths()
    pyblish.api.deregister_all_plugins()


def paint(path: Path, color: tuple[float, float, float], size: tuple[int, int] = (640, 360)) -> str:
    image = oiio.ImageBuf(oiio.ImageSpec(*size, 3, "uint8"))
    oiio.ImageBufAlgo.fill(image, color)
    assert image.write(str(path)), image.geterror()
    return str(path)


def color(path: str) -> str:
    """The name of the colour that a picture mostly has."""
    found = oiio.ImageBuf(path).getpixel(5, 5)
    return ("red", "green", "blue")[found.index(max(found))]


RED, GREEN, BLUE = (0.8, 0.1, 0.1), (0.1, 0.7, 0.1), (0.1, 0.1, 0.8)


@pytest.fixture
def frames(tmp_path: Path) -> str:
    """Five frames, of which the middle one is green."""
    for frame in FRAMES:
        paint(tmp_path / f"beauty.{frame}.png", GREEN if frame == 1003 else RED)
    return f"{tmp_path}/beauty.%04d.png"


def request_of(studio: Studio, frames: str, **changes: Any) -> dict[str, Any]:
    [beauty, camera] = studio.request()["instances"]
    beauty = {**beauty, "representations": [{"name": "png", "files": [frames], "data": {"colorspace": "sRGB"}}]}
    return studio.request("job", instances=[{**beauty, **changes}, camera])


def publish(studio: Studio, request: dict[str, Any] | None = None) -> Any:
    context = pyblish.api.Context()
    context.data.update(publishRoot=studio.path)
    if request is not None:
        context.data["publishRequest"] = request
    pyblish.util.publish(context)
    return context


def found(studio: Studio, kind: str) -> list[dict[str, Any]]:
    return [document for document in studio.documents().values() if document["type"] == kind]


def errors(context: Any) -> list[Exception]:
    return [result["error"] for result in context.data["results"] if result["error"] is not None]


# --- published --------------------------------------------------------------------------------------------------------


def test_a_version_is_published_with_the_middle_frame_as_its_thumbnail(studio: Studio, frames: str) -> None:
    context = publish(studio, request_of(studio, frames))
    assert errors(context) == []
    beauty, camera = context.data["publishResult"]["versions"]
    assert beauty["thumbnail"] == f"{beauty['path']}/demo_sh010_renderBeauty_v002_thumbnail.jpg"
    assert [entry["name"] for entry in beauty["representations"]] == ["png"]
    assert color(beauty["thumbnail"]) == "green"
    spec = oiio.ImageBuf(beauty["thumbnail"]).spec()
    assert (spec.width, spec.height) == (512, 288)
    assert "thumbnail" not in camera
    assert studio.leftovers() == []


def test_its_mode_is_that_of_every_published_file(studio: Studio, frames: str) -> None:
    [beauty, _] = publish(studio, request_of(studio, frames)).data["publishResult"]["versions"]
    modes = {os.stat(path).st_mode for path in (beauty["thumbnail"], beauty["representations"][0]["files"][0])}
    assert len(modes) == 1


def test_the_documents_of_version_and_asset_name_it_as_loaders_expect(studio: Studio, frames: str) -> None:
    [beauty, _] = publish(studio, request_of(studio, frames)).data["publishResult"]["versions"]
    [document] = found(studio, "thumbnail")
    assert document["schema"] == "openpype:thumbnail-1.0"
    [asset] = found(studio, "asset")
    [version] = [entry for entry in found(studio, "version") if "thumbnail_id" in entry["data"]]
    assert version["name"] == 2
    assert version["data"]["thumbnail_id"] == asset["data"]["thumbnail_id"] == document["_id"]
    # What a loader does: its own project, an environment variable of its own, and `str.format`.
    known = {**document["data"]["template_data"], "_id": document["_id"]["$oid"], "thumbnail_type": "thumbnail"}
    known.update(thumbnail_root="", project={"name": "demo", "code": "demo"})
    assert document["data"]["template"].startswith("{root[work]}/")
    assert os.path.normpath(document["data"]["template"].format(**known)) == beauty["thumbnail"]


def test_a_folder_with_braces_in_its_name_is_found_by_loaders(studio: Studio) -> None:
    from datetime import datetime, timezone

    from integrator.documents import Stamp, thumbnail_document

    stamp = Stamp(transaction="t", publish_id="p", moment=datetime.now(timezone.utc))
    data = thumbnail_document({"root": {"work": "/show"}}, "{root[work]}/{odd}/a.jpg", stamp)["data"]
    assert data["template"].format(**data["template_data"]) == "/show/{odd}/a.jpg"


def test_a_thumbnail_that_was_lost_or_changed_is_found(studio: Studio, frames: str) -> None:
    [beauty, _] = publish(studio, request_of(studio, frames)).data["publishResult"]["versions"]
    content = Path(beauty["thumbnail"]).read_bytes()
    for harm, kind in ((content[:-1] + b"x", "changed_file"), (None, "missing_file")):
        os.unlink(beauty["thumbnail"])
        if harm is not None:
            Path(beauty["thumbnail"]).write_bytes(harm)
        with studio.open() as root:
            [finding] = [entry for entry in check(root, checksums=True) if entry.wrong]
        assert (finding.kind, finding.path) == (kind, beauty["thumbnail"])


def test_the_answer_of_a_retry_names_it_too(studio: Studio, frames: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = publish(studio, request_of(studio, frames)).data["publishResult"]
    monkeypatch.setattr(thumbnail, "make_thumbnail", lambda *_, **__: pytest.fail("there is nothing left to do"))
    again = publish(studio, request_of(studio, frames)).data["publishResult"]
    assert again["outcome"] == "already_published"
    assert again["versions"] == first["versions"]


def test_the_report_shows_it(studio: Studio, frames: str, tmp_path: Path) -> None:
    context = pyblish.api.Context()
    context.data.update(publishRoot=studio.path, publishRequest=request_of(studio, frames), publishReport=str(tmp_path / "out"))
    pyblish.util.publish(context)
    [page] = (tmp_path / "out").glob("*.html")
    picture = Path(context.data["publishResult"]["versions"][0]["thumbnail"]).read_bytes()
    assert base64.b64encode(picture).decode() in page.read_text()


def test_an_asset_shows_what_was_published_last(studio: Studio, frames: str, tmp_path: Path) -> None:
    publish(studio, request_of(studio, frames))
    publish(studio, {**request_of(studio, paint(tmp_path / "blue.png", BLUE)), "publish_id": "second"})
    documents = {document["_id"]["$oid"]: document for document in found(studio, "thumbnail")}
    [asset] = found(studio, "asset")
    assert len(documents) == 2
    last = documents[asset["data"]["thumbnail_id"]["$oid"]]
    assert "v003" in last["data"]["template"]


def test_an_instance_that_extractors_filled_has_one_too(studio: Studio, frames: str, tmp_path: Path) -> None:
    class CollectReview(pyblish.api.ContextPlugin):
        order = pyblish.api.CollectorOrder

        def process(self, context: Any) -> None:
            context.data["projectName"] = "demo"
            names = [f"beauty.{frame}.png" for frame in FRAMES]
            entry = {"name": "png", "ext": "png", "files": names, "stagingDir": str(tmp_path)}
            data = {"asset": "sh010", "hierarchy": "shots/sq01", "subset": "review", "family": "review"}
            context.create_instance("review", **data, representations=[entry])

    pyblish.api.register_plugin(CollectReview)
    context = publish(studio)
    assert errors(context) == []
    [review] = context.data["publishResult"]["versions"]
    assert color(review["thumbnail"]) == "green"
    assert studio.leftovers() == []


def test_a_representation_that_has_its_name_keeps_it(studio: Studio, frames: str, tmp_path: Path) -> None:
    small = paint(tmp_path / "small.jpg", BLUE)
    taken = {"name": "thumbnail", "files": [small], "output": "thumbnail"}
    png = {"name": "png", "files": [frames]}
    [beauty, _] = publish(studio, request_of(studio, frames, representations=[png, taken])).data["publishResult"]["versions"]
    [theirs] = [entry["files"] for entry in beauty["representations"] if entry["name"] == "thumbnail"]
    assert theirs == [f"{beauty['path']}/demo_sh010_renderBeauty_v002_thumbnail.jpg"]
    assert beauty["thumbnail"] == f"{beauty['path']}/demo_sh010_renderBeauty_v002_thumbnail2.jpg"
    assert Path(theirs[0]).read_bytes() == Path(small).read_bytes()
    assert studio.leftovers() == []


# --- not published ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", ["no image at all", "cut short"])
def test_an_image_that_cannot_be_read_is_a_warning_if_somebody_named_it(
    studio: Studio, frames: str, kind: str, named: bool, caplog: pytest.LogCaptureFixture
) -> None:
    middle = Path(frames % 1003)
    middle.write_bytes(b"no pixels" if kind == "no image at all" else middle.read_bytes()[:200])
    request = request_of(studio, frames)
    request["instances"][0]["representations"][0]["tags"] = ["thumbnail"] if named else []
    context = publish(studio, request)
    assert errors(context) == []
    assert context.data["publishResult"]["outcome"] == "published"
    assert "thumbnail" not in context.data["publishResult"]["versions"][0]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(str(middle) in warning for warning in warnings) == named, warnings
    assert found(studio, "thumbnail") == []
    assert all("thumbnail_id" not in entry["data"] for entry in [*found(studio, "version"), *found(studio, "asset")])
    assert studio.leftovers() == []


def test_a_thumbnail_that_cannot_be_stored_is_a_warning_and_leaves_nothing(studio: Studio, frames: str) -> None:
    class Spoil(TransactionalPlugin):
        order = pyblish.api.IntegratorOrder + 0.002

        def integrate(self, instance: Any, transaction: Any) -> None:
            version = transaction.version(instance)
            if version.number == 2 and "renderBeauty" in version.path:
                version.write("demo_sh010_renderBeauty_v002_thumbnail.jpg", b"mine", "mine")
                version._taken.pop("mine")

    pyblish.api.register_plugin(Spoil)
    context = publish(studio, request_of(studio, frames))
    assert errors(context) == []
    [beauty, _] = context.data["publishResult"]["versions"]
    assert Path(beauty["path"], "demo_sh010_renderBeauty_v002_thumbnail.jpg").read_bytes() == b"mine"
    assert "thumbnail" not in beauty
    assert found(studio, "thumbnail") == []


def test_a_plugin_that_fails_later_leaves_neither_picture_nor_document(studio: Studio, frames: str) -> None:
    class Fail(TransactionalPlugin):
        order = pyblish.api.IntegratorOrder + 0.499

        def integrate(self, instance: Any, transaction: Any) -> None:
            assert any(name.endswith("_thumbnail.jpg") for name in os.listdir(transaction.version(instance).path))
            raise ConnectionError("certificate has expired")

    before = studio.tree(), studio.documents()
    pyblish.api.register_plugin(Fail)
    context = publish(studio, request_of(studio, frames))
    assert isinstance(errors(context)[0], ConnectionError)
    assert (studio.tree(), studio.documents()) == before
    assert studio.leftovers() == []


def test_without_the_library_everything_else_is_published(
    studio: Studio, frames: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(thumbnail, "is_possible", lambda: False)
    caplog.set_level(logging.INFO)
    context = publish(studio, request_of(studio, frames))
    assert context.data["publishResult"]["outcome"] == "published"
    assert "thumbnail" not in context.data["publishResult"]["versions"][0]
    assert "integrator[thumbnails]" in caplog.text


def test_a_second_thumbnail_of_a_version_is_refused(studio: Studio) -> None:
    from integrator.errors import UsageError

    with studio.open() as root, pytest.raises(UsageError, match="a thumbnail already"), root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="hero", subset="main", family="model")
        version.set_thumbnail(b"\xff\xd8")
        version.set_thumbnail(b"\xff\xd8")


def test_a_thumbnail_that_a_savepoint_took_back_is_named_nowhere(studio: Studio) -> None:
    with studio.open() as root, root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="hero", subset="main", family="model")
        version.write("a.txt", b"x")
        point = assembly.savepoint()
        version.set_thumbnail(b"\xff\xd8")
        assembly.roll_back_to(point)
    assert found(studio, "thumbnail") == []
    assert assembly.result is not None
    assert assembly.result.versions[0].thumbnail == ""
    assert studio.leftovers() == []


# --- which image ------------------------------------------------------------------------------------------------------


def instance_with(folder: Path, **data: Any) -> Any:
    return pyblish.api.Context().create_instance("it", stagingDir=str(folder), **data)


SEQUENCE = {"name": "exr", "files": ["b.1.exr", "b.2.exr", "b.3.exr"]}
STILL = {"name": "png", "files": "still.png"}
SMALL = {"name": "small", "files": ["t.jpg"], "tags": ["thumbnail", "delete"]}
MOVIE = {"name": "mov", "files": "review.mov"}
CACHE = {"name": "abc", "files": ["a.1.abc", "a.2.abc"]}


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"representations": [CACHE, MOVIE, STILL, SEQUENCE]}, "b.2.exr"),
        ({"representations": [CACHE, MOVIE, STILL]}, "still.png"),
        ({"representations": [STILL, SEQUENCE, SMALL]}, "t.jpg"),
        ({"representations": [SEQUENCE, {"name": "Thumbnail", "files": "t2.jpg"}]}, "t2.jpg"),
        ({"representations": [SEQUENCE, SMALL], "thumbnail": "given.png"}, "given.png"),
        ({"thumbnailPath": "path.png", "thumbnailSource": "source.png"}, "source.png"),
        ({"representations": [CACHE, MOVIE]}, None),
        ({"representations": [{**SEQUENCE, "files": []}]}, None),
        ({}, None),
    ],
)
def test_the_image_that_shows_best_is_chosen(tmp_path: Path, data: dict[str, Any], name: str | None) -> None:
    image = image_of(instance_with(tmp_path, **data))
    found = {"b.2.exr", "still.png"}  # the others are named, or tagged
    assert image == (Image(path=str(tmp_path / name), named=name not in found) if name else None)


def test_the_context_offers_an_image_for_instances_without_one(tmp_path: Path) -> None:
    instance = instance_with(tmp_path, representations=[CACHE])
    instance.context.data["thumbnailSource"] = str(tmp_path / "scene.png")
    assert image_of(instance) == Image(path=str(tmp_path / "scene.png"))


@pytest.mark.parametrize(
    "where", [{"colorspace": "ACEScg"}, {"colorspaceData": {"colorspace": "ACEScg"}}], ids=["plain", "as OpenPype has it"]
)
def test_its_colour_space_is_what_the_pipeline_says(tmp_path: Path, where: dict[str, Any]) -> None:
    assert image_of(instance_with(tmp_path, representations=[{**STILL, **where}])).colorspace == "ACEScg"  # type: ignore[union-attr]
    assert image_of(instance_with(tmp_path, representations=[STILL], **where)).colorspace == "ACEScg"  # type: ignore[union-attr]


@pytest.mark.parametrize("data", [{"publish": False}, {"thumbnailContent": False}, {"thumbnailContent": b"\xff\xd8 mine"}])
def test_what_is_switched_off_or_there_is_left_alone(
    studio: Studio, frames: str, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Say(pyblish.api.InstancePlugin):
        order = pyblish.api.CollectorOrder + 0.1

        def process(self, instance: Any) -> None:
            instance.data.update(data)

    monkeypatch.setattr(thumbnail, "make_thumbnail", lambda *_, **__: pytest.fail("nobody asked for it"))
    pyblish.api.register_plugin(Say)
    context = publish(studio, request_of(studio, frames))
    pictures = [version.get("thumbnail") for version in context.data.get("publishResult", {}).get("versions", ())]
    contents = [Path(picture).read_bytes() for picture in pictures if picture]
    assert contents == ([b"\xff\xd8 mine"] * 2 if data.get("thumbnailContent") else [])


def test_a_rendered_frame_is_shown_in_its_colours(studio: Studio, tmp_path: Path) -> None:
    import struct

    for frame in FRAMES:
        line = struct.pack("<300e", *[0.02] * 100, *[0.5] * 100, *[0.02] * 100)
        (tmp_path / f"beauty.{frame}.exr").write_bytes(exr(100, 50, [line] * 50))
    [beauty, _] = publish(studio, request_of(studio, f"{tmp_path}/beauty.%04d.exr")).data["publishResult"]["versions"]
    assert color(beauty["thumbnail"]) == "green"
