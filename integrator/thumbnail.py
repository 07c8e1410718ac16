"""Thumbnails: a small JPEG of an image of any kind that a studio renders.

Made by a child process. A broken image can crash the library that reads it, fill the memory or take for ever; none of that may
be the end of a publish.

What is seen: the display window, upright, at most 512 pixels on its longest side, never enlarged; transparency over grey. Images
of floating-point numbers are scene-referred and get the tone mapping of the default view of OpenColorIO's built-in
configuration; images of whole numbers (8 and 16 bits) are shown as they are, from their colour space to sRGB.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from integrator.errors import ThumbnailFailed
from integrator.renewal import child_command

if TYPE_CHECKING:
    from OpenImageIO import ImageBuf

#: Longest side, in pixels.
SIDE: Final = 512
#: Endings of the names of images that can be read, lower case, without the dot.
IMAGES: Final = frozenset(
    ("bmp", "cin", "dds", "dpx", "exr", "gif", "hdr", "ico", "iff", "j2k", "jp2", "jpeg", "jpg", "jxl", "pbm", "pgm", "png",
     "pnm", "ppm", "psd", "rgb", "rgba", "sgi", "sxr", "tga", "tif", "tiff", "tx", "webp")
)  # fmt: skip

#: Seconds for one image. A frame on a slow server takes some; nobody waits for more.
_PATIENCE: Final = 60.0
#: A JPEG of this size is far smaller; whatever is longer is none.
_MOST_BYTES: Final = 4 << 20
#: Memory that a child may use, in bytes: several 16k images.
_MEMORY: Final = 8 << 30
#: Colour behind what is transparent, as it is displayed.
_GREY: Final = 0.35
_QUALITY: Final = "jpeg:88"
#: OpenColorIO's built-in configuration, so that a picture is the same for everybody, and names that every version of it has.
_COLORS: Final = "ocio://default"
_LINEAR: Final = "lin_rec709"
_ENCODED: Final = "srgb_tx"

_CHILD: Final = """
import sys
sys.path[:] = sys.argv[3:]
from integrator.thumbnail import serve
serve(sys.argv[1], sys.argv[2])
"""


def is_possible() -> bool:
    """Whether the library that reads images is installed: ``pip install 'integrator[thumbnails]'``."""
    return importlib.util.find_spec("OpenImageIO") is not None


def make_thumbnail(path: str, *, colorspace: str = "", patience: float = _PATIENCE) -> bytes:
    """A JPEG of the image at an absolute path.

    `colorspace` is the one that the image is in, as OpenColorIO or the studio calls it; if it is not known here, as without it,
    the file says it. Raises `ThumbnailFailed` if the image cannot be read, or not within `patience` seconds.
    """
    command = child_command(_CHILD, path, colorspace)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience, check=False)
    except subprocess.TimeoutExpired:
        raise ThumbnailFailed(path, f"it could not be read within {patience:g} s") from None
    except (OSError, ValueError) as error:
        raise ThumbnailFailed(path, str(error)) from error
    if done.returncode or not done.stdout.startswith(b"\xff\xd8") or len(done.stdout) > _MOST_BYTES:
        said = done.stderr.decode("utf-8", "replace").replace(f" ({path})", "").replace(f'"{path}"', "it")
        lines = said.strip().splitlines()
        died = f"the library that reads it was stopped by signal {-done.returncode}" if done.returncode < 0 else ""
        raise ThumbnailFailed(path, died or (lines[-1] if lines else "no image came of it"))
    return done.stdout


# --- the child's end --------------------------------------------------------------------------------------------------


def serve(path: str, colorspace: str) -> None:
    """Write the JPEG to standard output; exits with 1 and a line on standard error if there is none."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import OpenImageIO as oiio

    oiio.attribute("threads", 2)
    try:
        image, show = _read(path)
        _write(_opaque(show(_upright(_shrunk(image)), colorspace)))
    except (_Unreadable, MemoryError) as error:
        sys.exit(str(error) or "it is too large")


class _Unreadable(Exception):
    pass


def _first_line(said: str) -> str:
    return said.strip().partition("\n")[0]


def _seen(image: ImageBuf) -> ImageBuf:
    """The image, if the call that made it succeeded."""
    if image.has_error:
        raise _Unreadable(_first_line(image.geterror()))
    return image


def _read(path: str) -> tuple[ImageBuf, Callable[[ImageBuf, str], ImageBuf]]:
    """(R, G, B) or (R, G, B, A) of the display window as floating-point numbers, and what shows them on a display."""
    import OpenImageIO as oiio

    image = oiio.ImageBuf(path)
    if not image.read(0, 0, True, oiio.FLOAT):
        raise _Unreadable(_first_line(image.geterror()) or "it is no image")
    show = _tone_mapped if image.nativespec().format.basetype in (oiio.HALF, oiio.FLOAT, oiio.DOUBLE) else _encoded
    if image.spec().deep:
        image = _seen(oiio.ImageBufAlgo.flatten(image))
    channels = _colors(image.spec())
    image = _seen(oiio.ImageBufAlgo.channels(image, channels, ("R", "G", "B", "A")[: len(channels)]))
    return _seen(oiio.ImageBufAlgo.fixNonFinite(image, oiio.NONFINITE_BOX3)), show


def _colors(spec: Any) -> tuple[int, ...]:
    """Numbers of the channels for red, green, blue and, if there is one, alpha; of the first layer that has them."""
    names = [name.lower() for name in spec.channelnames]
    for number, name in enumerate(names):
        layer, dot, last = name.rpartition(".")
        wanted = [f"{layer}{dot}{other}" for other in (("green", "blue", "alpha") if last == "red" else ("g", "b", "a"))]
        if last in ("r", "red") and set(wanted[:2]) <= set(names):
            return (number, *(names.index(other) for other in wanted if other in names))
    alpha = [spec.alpha_channel] if spec.alpha_channel >= 0 else []
    grey = [number for number in range(spec.nchannels) if number not in alpha] or alpha
    return (*(grey[:3] if len(grey) >= 3 else [grey[0]] * 3), *alpha)


def _shrunk(image: ImageBuf) -> ImageBuf:
    """At most `SIDE` pixels on its longest side, with square pixels."""
    import OpenImageIO as oiio

    spec = image.spec()
    aspect = spec.get_float_attribute("PixelAspectRatio", 1.0)
    aspect = aspect if 0.1 < aspect < 10.0 else 1.0
    width, height = spec.full_width * max(aspect, 1.0), spec.full_height / min(aspect, 1.0)
    scale = min(1.0, SIDE / max(width, height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    if (spec.width, spec.height) == (width, height):
        return image
    left, top = spec.full_x, spec.full_y
    return _seen(oiio.ImageBufAlgo.resize(image, roi=oiio.ROI(left, left + width, top, top + height, 0, 1, 0, spec.nchannels)))


def _upright(image: ImageBuf) -> ImageBuf:
    import OpenImageIO as oiio

    return _seen(oiio.ImageBufAlgo.reorient(image))


def _tone_mapped(image: ImageBuf, colorspace: str) -> ImageBuf:
    """A rendered image as an sRGB display shows it, bright light rolled off instead of cut off."""
    import OpenImageIO as oiio

    spaces = oiio.ColorConfig(_COLORS)
    display = spaces.getDefaultDisplayName()
    view, space = spaces.getDefaultViewName(display), _space(image, colorspace, _LINEAR)
    return _seen(oiio.ImageBufAlgo.ociodisplay(image, display, view, space, colorconfig=_COLORS))


def _encoded(image: ImageBuf, colorspace: str) -> ImageBuf:
    """An image that was made for a display, in sRGB."""
    import OpenImageIO as oiio

    return _seen(oiio.ImageBufAlgo.colorconvert(image, _space(image, colorspace, _ENCODED), _ENCODED, colorconfig=_COLORS))


def _space(image: ImageBuf, colorspace: str, otherwise: str) -> str:
    """The colour space of an image: as the caller says, as its file says, or what is usual."""
    import OpenImageIO as oiio

    spaces = oiio.ColorConfig(_COLORS)
    names = {name.lower() for name in spaces.getColorSpaceNames()}
    told = (colorspace, image.spec().get_string_attribute("oiio:ColorSpace"))
    return next((space for space in told if space and spaces.resolve(space).lower() in names), otherwise)


def _opaque(image: ImageBuf) -> ImageBuf:
    """The image over grey: its colours are premultiplied already."""
    import OpenImageIO as oiio

    if image.nchannels < 4:
        return image
    image.specmod().alpha_channel = 3
    grey = oiio.ImageBuf(oiio.ImageSpec(image.roi_full, oiio.FLOAT))
    oiio.ImageBufAlgo.fill(grey, (_GREY, _GREY, _GREY, 1.0))
    return _seen(oiio.ImageBufAlgo.channels(_seen(oiio.ImageBufAlgo.over(image, grey)), (0, 1, 2)))


def _write(image: ImageBuf) -> None:
    """Write it without anything that the file told beside its pixels: hosts, users and paths do not belong in a thumbnail."""
    import OpenImageIO as oiio

    spec = image.spec()
    plain = oiio.ImageBuf(oiio.ImageSpec(spec.full_width, spec.full_height, 3, oiio.UINT8))
    plain.specmod().attribute("compression", _QUALITY)
    oiio.ImageBufAlgo.paste(plain, -spec.full_x, -spec.full_y, 0, 0, image)  # overscan falls off, a render region stands in black
    if not plain.write("/dev/stdout", oiio.UINT8, "jpeg"):
        raise _Unreadable(plain.geterror())
