"""Thumbnails of images as studios have them, whole and broken."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from integrator import demo_media, thumbnail
from integrator.errors import ThumbnailFailed
from integrator.thumbnail import SIDE, make_thumbnail

oiio = pytest.importorskip("OpenImageIO")

Pixel = tuple[float, ...]


def paint(path: Path, size: tuple[int, int], left: Pixel, right: Pixel | None = None, kind: str = "uint8", **facts: Any) -> str:
    """An image of two colours, one in each half."""
    spec = oiio.ImageSpec(*size, len(left), kind)
    for name, value in facts.items():
        spec.attribute(name, value)
    image = oiio.ImageBuf(spec)
    oiio.ImageBufAlgo.fill(image, left)
    oiio.ImageBufAlgo.fill(image, right or left, roi=oiio.ROI(size[0] // 2, size[0], 0, size[1]))
    assert image.write(str(path)), image.geterror()
    return str(path)


def look(content: bytes, path: Path) -> Any:
    """The image that a JPEG holds."""
    path.write_bytes(content)
    image = oiio.ImageBuf(str(path))
    assert image.spec().nchannels == 3
    assert max(image.spec().width, image.spec().height) <= SIDE
    return image


def size(image: Any) -> tuple[int, int]:
    return image.spec().width, image.spec().height


def near(image: Any, x: float, y: float, color: Pixel, slack: float = 0.03) -> bool:
    """Whether a place (0 to 1 across and down) has this colour."""
    found = image.getpixel(int(x * image.spec().width), int(y * image.spec().height))
    return all(abs(a - b) <= slack for a, b in zip(found, color))


RED, BLUE = (0.8, 0.1, 0.1), (0.1, 0.2, 0.7)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tga", "a.bmp", "a.dpx", "a.webp", "a b'$(x) ä.png"])
def test_an_image_is_shown_small_with_its_colours(tmp_path: Path, name: str) -> None:
    source = paint(tmp_path / name, (1600, 900), RED, BLUE)
    image = look(make_thumbnail(source), tmp_path / "small.jpg")
    assert size(image) == (512, 288)
    assert near(image, 0.25, 0.5, RED)
    assert near(image, 0.75, 0.5, BLUE)


@pytest.mark.parametrize(("wide", "small"), [((100, 60), (100, 60)), ((900, 1600), (288, 512)), ((1, 5000), (1, 512))])
def test_the_longest_side_is_512_and_nothing_is_enlarged(tmp_path: Path, wide: tuple[int, int], small: tuple[int, int]) -> None:
    assert size(look(make_thumbnail(paint(tmp_path / "a.png", wide, RED)), tmp_path / "small.jpg")) == small


def test_sixteen_bits_are_shown_as_eight_are(tmp_path: Path) -> None:
    image = look(make_thumbnail(paint(tmp_path / "a.tif", (64, 64), RED, BLUE, "uint16")), tmp_path / "small.jpg")
    assert near(image, 0.2, 0.5, RED)
    assert near(image, 0.8, 0.5, BLUE)


def test_a_camera_that_was_turned_is_turned_back(tmp_path: Path) -> None:
    source = paint(tmp_path / "a.jpg", (400, 200), RED, BLUE, Orientation=6)
    image = look(make_thumbnail(source), tmp_path / "small.jpg")
    assert size(image) == (200, 400)
    assert near(image, 0.5, 0.2, RED)
    assert near(image, 0.5, 0.8, BLUE)


def test_what_is_transparent_is_grey(tmp_path: Path) -> None:
    source = paint(tmp_path / "a.png", (64, 64), (*RED, 1.0), (0.0, 0.0, 0.0, 0.0))
    image = look(make_thumbnail(source), tmp_path / "small.jpg")
    assert near(image, 0.2, 0.5, RED)
    assert near(image, 0.8, 0.5, (0.35, 0.35, 0.35))


def test_half_transparent_colours_are_not_darkened_twice(tmp_path: Path) -> None:
    source = paint(tmp_path / "a.exr", (64, 64), (0.5, 0.5, 0.5, 0.5), kind="half")  # white, premultiplied
    white = look(make_thumbnail(paint(tmp_path / "w.exr", (64, 64), (1.0, 1.0, 1.0), kind="half")), tmp_path / "w.jpg")
    shown = white.getpixel(32, 32)[0]
    image = look(make_thumbnail(source), tmp_path / "small.jpg")
    assert near(image, 0.5, 0.5, (shown / 2 + 0.175,) * 3)


@pytest.mark.parametrize("kind", ["half", "float"])
def test_light_beyond_white_is_rolled_off_not_cut_off(tmp_path: Path, kind: str) -> None:
    shades = []
    for number, light in enumerate((0.18, 1.0, 2.0, 4.0)):
        source = paint(tmp_path / f"{number}.exr", (64, 64), (light,) * 3, kind=kind)
        shades.append(look(make_thumbnail(source), tmp_path / f"{number}.jpg").getpixel(32, 32)[0])
    assert shades == sorted(shades)
    assert 0.3 < shades[0] < 0.5
    assert all(b - a > 0.02 for a, b in itertools.pairwise(shades))


def test_a_frame_of_the_demo_has_a_thumbnail(tmp_path: Path) -> None:
    frame = tmp_path / "planet.exr"
    frame.write_bytes(next(demo_media.frames())[1])
    image = look(make_thumbnail(str(frame)), tmp_path / "small.jpg")
    assert size(image) == (demo_media.WIDTH, demo_media.HEIGHT)
    blue, dark = image.getpixel(210, 130), image.getpixel(375, 4)
    assert blue[2] > blue[0] + 0.1
    assert max(dark) < 0.2


@pytest.mark.parametrize("said", ["caller", "file"])
def test_the_colour_space_is_that_of_the_caller_or_the_file(tmp_path: Path, said: str) -> None:
    facts = {"oiio:ColorSpace": "lin_rec709"} if said == "file" else {}
    source = paint(tmp_path / "a.png", (64, 64), (0.2,) * 3, kind="uint16", **facts)
    shown = look(make_thumbnail(source, colorspace="lin_rec709" if said == "caller" else ""), tmp_path / "small.jpg")
    assert near(shown, 0.5, 0.5, (0.485,) * 3)


def test_a_colour_space_that_nobody_knows_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCIO", "/nowhere/config.ocio")
    source = paint(tmp_path / "a.png", (64, 64), RED)
    assert near(look(make_thumbnail(source, colorspace="Studio - Log"), tmp_path / "small.jpg"), 0.5, 0.5, RED)


def test_pixels_that_are_not_square_become_square(tmp_path: Path) -> None:
    source = paint(tmp_path / "a.exr", (400, 400), RED, kind="half", PixelAspectRatio=2.0)
    assert size(look(make_thumbnail(source), tmp_path / "small.jpg")) == (512, 256)


def test_overscan_is_not_shown(tmp_path: Path) -> None:
    spec = oiio.ImageSpec(140, 140, 3, "half")
    spec.x = spec.y = -20
    spec.full_width = spec.full_height = 100
    image = oiio.ImageBuf(spec)
    oiio.ImageBufAlgo.fill(image, (4.0, 0.0, 0.0))
    oiio.ImageBufAlgo.fill(image, (0.0, 0.0, 0.5), roi=oiio.ROI(0, 100, 0, 100))
    assert image.write(str(tmp_path / "a.exr"))
    small = look(make_thumbnail(str(tmp_path / "a.exr")), tmp_path / "small.jpg")
    assert size(small) == (100, 100)
    assert max(small.getpixel(x, y)[0] for x in (1, 50, 98) for y in (1, 50, 98)) < 0.3


def test_a_render_region_stands_where_it_belongs(tmp_path: Path) -> None:
    spec = oiio.ImageSpec(50, 100, 3, "half")
    spec.x, spec.full_width, spec.full_height = 50, 100, 100
    image = oiio.ImageBuf(spec)
    oiio.ImageBufAlgo.fill(image, (0.0, 1.0, 0.0))
    assert image.write(str(tmp_path / "a.exr"))
    small = look(make_thumbnail(str(tmp_path / "a.exr")), tmp_path / "small.jpg")
    assert size(small) == (100, 100)
    assert near(small, 0.2, 0.5, (0.0, 0.0, 0.0))
    assert small.getpixel(80, 50)[1] > 0.5


@pytest.mark.parametrize(("origin", "black"), [(0, 50), (50, 0), (25, 25)])
def test_a_region_as_large_as_the_picture_stands_where_it_belongs(tmp_path: Path, origin: int, black: int) -> None:
    spec = oiio.ImageSpec(100, 100, 3, "half")
    spec.x, spec.full_x, spec.full_width, spec.full_height = 50, origin, 100, 100
    image = oiio.ImageBuf(spec)
    oiio.ImageBufAlgo.fill(image, (0.0, 1.0, 0.0))
    assert image.write(str(tmp_path / "a.exr"))
    small = look(make_thumbnail(str(tmp_path / "a.exr")), tmp_path / "small.jpg")
    assert size(small) == (100, 100)
    assert [x for x in range(100) if small.getpixel(x, 50)[1] < 0.3] == list(range(black))


@pytest.mark.parametrize(
    ("channels", "seen"),
    [(("Y",), (0, 0, 0)), (("Z", "A"), (0, 0, 0)), (("N.x", "N.y", "beauty.R", "beauty.G", "beauty.B"), (2, 3, 4)),
     (("B", "G", "R"), (2, 1, 0)), (("red", "green", "blue"), (0, 1, 2)), (("u", "v"), (0, 0, 0))],
)  # fmt: skip
def test_of_many_channels_the_colours_are_shown(tmp_path: Path, channels: tuple[str, ...], seen: tuple[int, ...]) -> None:
    values = tuple(0.05 + 0.2 * number for number in range(len(channels)))
    values = tuple(1.0 if name == "A" else value for name, value in zip(channels, values))
    for name, colors in (("a", values), ("b", tuple(values[n] for n in seen))):
        spec = oiio.ImageSpec(32, 32, len(colors), "half")
        if name == "a":
            spec.channelnames = channels
        image = oiio.ImageBuf(spec)
        oiio.ImageBufAlgo.fill(image, colors)
        assert image.write(str(tmp_path / f"{name}.exr")), image.geterror()
    found, wanted = (look(make_thumbnail(str(tmp_path / f"{n}.exr")), tmp_path / f"{n}.jpg") for n in "ab")
    assert near(found, 0.5, 0.5, wanted.getpixel(16, 16))


def test_a_pixel_that_is_no_number_does_not_spread(tmp_path: Path) -> None:
    spec = oiio.ImageSpec(1024, 1024, 3, "float")
    image = oiio.ImageBuf(spec)
    oiio.ImageBufAlgo.fill(image, (0.18, 0.18, 0.18))
    for x, y, value in ((512, 512, float("nan")), (100, 900, float("inf"))):
        image.setpixel(x, y, 0, (value, value, value))
    assert image.write(str(tmp_path / "a.exr"))
    small = look(make_thumbnail(str(tmp_path / "a.exr")), tmp_path / "small.jpg")
    grey = small.getpixel(10, 10)
    assert all(near(small, x, y, grey) for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9))


def test_what_a_file_tells_beside_its_pixels_stays_there(tmp_path: Path) -> None:
    source = paint(tmp_path / "a.exr", (64, 64), RED, kind="half", Artist="anna secret", HostComputer="ws12-secret")
    assert b"secret" not in make_thumbnail(source)
    assert str(tmp_path).encode() not in make_thumbnail(source)


# --- what is no image -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "empty", "cut short", "a folder", "missing", "a movie"])
def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.exr"
    if kind == "text":
        path.write_text("not an image at all\n" * 100)
    elif kind == "empty":
        path.touch()
    elif kind == "cut short":
        paint(path, (600, 600), RED, kind="half")
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a movie":
        path = tmp_path / "a.mov"
        path.write_bytes(b"\0\0\0\x14ftypqt  " + bytes(1000))
    with pytest.raises(ThumbnailFailed, match="there is no thumbnail of") as caught:
        make_thumbnail(str(path))
    assert (caught.value.path, caught.value.exit_code) == (str(path), 5)
    assert caught.value.reason
    assert "\n" not in caught.value.message
    assert "Traceback" not in caught.value.message
    assert caught.value.message.count(str(path)) == 1


def test_an_image_that_never_comes_is_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.exr")
    with pytest.raises(ThumbnailFailed, match=r"could not be read within 0\.5 s"):
        make_thumbnail(str(tmp_path / "a.exr"), patience=0.5)


def test_an_image_that_would_fill_the_memory_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = paint(tmp_path / "a.png", (9000, 9000), RED)  # a gigabyte, as floating-point numbers
    code = thumbnail._CHILD.replace("serve(", "import integrator.thumbnail as t; t._MEMORY = 1 << 30; serve(")
    monkeypatch.setattr(thumbnail, "_CHILD", code)
    with pytest.raises(ThumbnailFailed):
        make_thumbnail(source)
    assert make_thumbnail(paint(tmp_path / "b.png", (900, 900), RED))


def test_a_crash_of_the_library_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnail, "_CHILD", f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})")
    with pytest.raises(ThumbnailFailed, match="stopped by signal 11"):
        make_thumbnail(paint(tmp_path / "a.png", (8, 8), RED))


def test_only_a_jpeg_is_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnail, "_CHILD", "print('a stray line')")
    with pytest.raises(ThumbnailFailed):
        make_thumbnail(paint(tmp_path / "a.png", (8, 8), RED))


def test_the_library_is_loaded_by_the_child_alone() -> None:
    code = "import sys, integrator.thumbnail as t; t.is_possible(); print('OpenImageIO' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
