"""Makes what `integrator demo` publishes: OpenEXR frames of a turning planet, and an animated geometry cache.

Pure Python: whole rows go through `map` with functions of the standard library, which is fast enough without numpy. The pixels
are scene-linear and exceed 1 where the sea mirrors the sun, as a renderer's would.

OpenEXR layout: "OpenEXR File Layout" of the OpenEXR documentation, single-part scanline file, ZIP compression (blocks of 16
lines, bytes split into even and odd ones, differences of neighbours, deflate).
"""

from __future__ import annotations

import math
import random
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import add, mul, sub
from typing import Final

WIDTH: Final = 384
HEIGHT: Final = 216
FIRST_FRAME: Final = 1001
FRAME_COUNT: Final = 48
FPS: Final = 24

# --- OpenEXR ----------------------------------------------------------------------------------------------------------

_BLOCK_LINES: Final = 16
#: Difference of two bytes, from -255 to 255 by Python's negative indices, to the byte that the ZIP compression stores.
_DIFFERENCE: Final = [(value + 128) & 255 for value in [*range(256), *range(-255, 0)]]


def exr(width: int, height: int, lines: Sequence[bytes]) -> bytes:
    """An OpenEXR file. Each of `lines` holds the half floats of B, G and R of one scanline, little-endian."""
    header = _header(width, height)
    blocks = [_block(y, b"".join(lines[y : y + _BLOCK_LINES])) for y in range(0, height, _BLOCK_LINES)]
    offset = len(header) + 8 * len(blocks)
    offsets = []
    for block in blocks:
        offsets.append(offset)
        offset += len(block)
    return b"".join([header, struct.pack(f"<{len(offsets)}Q", *offsets), *blocks])


def _header(width: int, height: int) -> bytes:
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    # Each channel: pixel type 1 (half), not perceptually linear, sampled everywhere.
    channels = b"".join(name + b"\0" + struct.pack("<iB3xii", 1, 0, 1, 1) for name in (b"B", b"G", b"R")) + b"\0"
    attributes = [
        (b"channels", b"chlist", channels),
        (b"compression", b"compression", b"\3"),
        (b"dataWindow", b"box2i", window),
        (b"displayWindow", b"box2i", window),
        (b"framesPerSecond", b"rational", struct.pack("<iI", FPS, 1)),
        (b"lineOrder", b"lineOrder", b"\0"),
        (b"pixelAspectRatio", b"float", struct.pack("<f", 1.0)),
        (b"screenWindowCenter", b"v2f", struct.pack("<2f", 0.0, 0.0)),
        (b"screenWindowWidth", b"float", struct.pack("<f", 1.0)),
    ]
    encoded = (name + b"\0" + kind + b"\0" + struct.pack("<i", len(value)) + value for name, kind, value in attributes)
    return struct.pack("<ii", 20000630, 2) + b"".join(encoded) + b"\0"


def _block(y: int, raw: bytes) -> bytes:
    split = raw[0::2] + raw[1::2]
    smooth = split[:1] + bytes(map(_DIFFERENCE.__getitem__, map(sub, split[1:], split)))
    packed = zlib.compress(smooth, 4)
    stored = packed if len(packed) < len(raw) else raw
    return struct.pack("<ii", y, len(stored)) + stored


# --- the planet -------------------------------------------------------------------------------------------------------

_TURN: Final = 480
_LATITUDES: Final = 240
_RADIUS: Final = 0.40 * HEIGHT
_SUN: Final = (-0.62, 0.42, 0.66)
#: Surface levels of the texture; the last one stands for a city.
_SEA: Final = 96
_CITY: Final = 255
_CLOUDS: Final = 16
_STARS: Final = 420
#: Columns of the texture by which ground and clouds move from the first frame to the last one.
_GROUND_DRIFT: Final = 130
_CLOUD_DRIFT: Final = 185


def frames() -> Iterator[tuple[int, bytes]]:
    """(frame number, OpenEXR file) of a turning planet."""
    surface, clouds = _texture(3, 1.0), _clouds()
    tables, stars = _Colors(), _stars()
    rows = [_Row(y, stars) for y in range(HEIGHT)]
    for index in range(FRAME_COUNT):
        # Twice as wide as the globe, so that a turned globe is a slice and no column needs wrapping.
        here = surface[index * _GROUND_DRIFT // FRAME_COUNT :]
        above = clouds[index * _CLOUD_DRIFT // FRAME_COUNT :]
        yield FIRST_FRAME + index, exr(WIDTH, HEIGHT, [row.line(here, above, tables) for row in rows])


class _Row:
    """One scanline: what stays the same in every frame, and where the pixels of the globe look into the texture."""

    def __init__(self, y: int, stars: Mapping[tuple[int, int], float]) -> None:
        self._below = [_background(x, y, stars.get((x, y), 0.0)) for x in range(WIDTH)]
        shaded = [(x, _shade(x, y)) for x in range(WIDTH)]
        inside = [(x, shade) for x, shade in shaded if shade is not None]
        self._start = inside[0][0] if inside else 0
        self._texels = [shade.texel for _, shade in inside]
        self._light = [shade.light for _, shade in inside]
        self._glint = [shade.glint for _, shade in inside]
        self._night = [shade.night for _, shade in inside]
        self._haze = [self._blended(x, shade) for x, shade in inside]
        self._static = b"" if inside else self._pack([], [], [])

    def line(self, surface: bytes, clouds: bytes, tables: _Colors) -> bytes:
        """The scanline as half floats of B, G and R."""
        if self._static:
            return self._static
        look = [ground + 256 * cloud for ground, cloud in zip(_at(surface, self._texels), _at(clouds, self._texels))]
        glints = list(map(mul, self._glint, map(tables.water.__getitem__, look)))
        cities = list(map(mul, self._night, map(tables.city.__getitem__, look)))
        channels = []
        for number, table in enumerate((tables.blue, tables.green, tables.red)):
            lit = map(mul, self._light, map(table.__getitem__, look))
            warm = (0.25, 0.65, 1.0)[number]
            lamps = (warm * city for city in cities)
            channels.append(list(map(add, map(add, lit, glints), map(add, lamps, (haze[number] for haze in self._haze)))))
        return self._pack(*channels)

    def _pack(self, *channels: Sequence[float]) -> bytes:
        end = self._start + len(channels[0])
        whole = []
        for number, channel in enumerate(channels):
            whole += [pixel[number] for pixel in self._below[: self._start]]
            whole += channel
            whole += [pixel[number] for pixel in self._below[end:]]
        return struct.pack(f"<{len(whole)}e", *whole)

    def _blended(self, x: int, shade: _Shade) -> tuple[float, float, float]:
        blue, green, red = self._below[x]
        through, haze = 1.0 - shade.cover, shade.haze
        return blue * through + haze, green * through + 0.62 * haze, red * through + 0.28 * haze


def _background(x: int, y: int, star: float) -> tuple[float, float, float]:
    """B, G, R of the sky, and of the air that glows on the side of the sun."""
    dx, dy = x - WIDTH / 2 + 0.5, HEIGHT / 2 - y - 0.5
    distance = math.hypot(dx, dy)
    toward = (dx * _SUN[0] + dy * _SUN[1]) / max(distance, 1.0) / math.hypot(_SUN[0], _SUN[1])
    glow = 0.75 * math.exp(-max(0.0, distance - _RADIUS) / (0.045 * HEIGHT)) * max(0.0, 0.30 + 0.70 * toward) ** 2
    sky = 0.004 + 0.010 * (1.0 - y / HEIGHT)
    return sky + glow + star, 0.45 * sky + 0.55 * glow + 0.92 * star, 0.35 * sky + 0.20 * glow + 0.85 * star


def _stars() -> dict[tuple[int, int], float]:
    """Brightness of the stars by place; most are faint."""
    chance = random.Random(7)  # noqa: S311
    return {(chance.randrange(WIDTH), chance.randrange(HEIGHT)): 2.5 * chance.random() ** 4 + 0.02 for _ in range(_STARS)}


class _Shade:
    """How one pixel of the globe is lit, whatever lies there."""

    __slots__ = ("cover", "glint", "haze", "light", "night", "texel")

    def __init__(self, nx: float, ny: float, nz: float, cover: float) -> None:
        length = math.sqrt(sum(part * part for part in _SUN))
        sun = [part / length for part in _SUN]
        facing = nx * sun[0] + ny * sun[1] + nz * sun[2]
        day = min(1.0, max(0.0, (facing + 0.08) / 0.30))
        half = (sun[0], sun[1], sun[2] + 1.0)
        mirrored = (nx * half[0] + ny * half[1] + nz * half[2]) / math.sqrt(sum(part * part for part in half))
        self.cover = cover
        self.light = cover * (max(0.0, facing) * 1.25 + 0.06 * day)
        self.glint = cover * day * 2.2 * max(0.0, mirrored) ** 140
        self.night = cover * (1.0 - day) ** 2
        self.haze = cover * day * 0.55 * (1.0 - nz) ** 3
        # The axis leans to the viewer and to the side.
        upright = ny * math.cos(0.35) + nx * math.sin(0.35)
        across = nx * math.cos(0.35) - ny * math.sin(0.35)
        tilted, depth = upright * 0.94 + nz * 0.34, nz * 0.94 - upright * 0.34
        latitude = math.asin(min(1.0, max(-1.0, tilted)))
        row = min(_LATITUDES - 1, int((0.5 - latitude / math.pi) * _LATITUDES))
        column = int(((math.atan2(across, depth) / math.tau) % 1.0) * _TURN)
        self.texel = row * 2 * _TURN + column


def _shade(x: int, y: int) -> _Shade | None:
    """The globe at a pixel, or None beside it; its rim is soft over one pixel."""
    dx, dy = (x - WIDTH / 2 + 0.5) / _RADIUS, (HEIGHT / 2 - y - 0.5) / _RADIUS
    distance = math.hypot(dx, dy)
    cover = min(1.0, (1.0 - distance) * _RADIUS + 0.5)
    if cover <= 0.0:
        return None
    if distance > 0.999:
        dx, dy, distance = dx * 0.999 / distance, dy * 0.999 / distance, 0.999
    return _Shade(dx, dy, math.sqrt(1.0 - distance * distance), cover)


def _at(texture: bytes, texels: Sequence[int]) -> Iterator[int]:
    return map(texture.__getitem__, texels)


class _Colors:
    """Tables from a look (surface level + 256 x cloud level) to what it reflects."""

    def __init__(self) -> None:
        looks = range(256 * _CLOUDS)
        mixed = [_mixed(look & 255, (look >> 8) / (_CLOUDS - 1)) for look in looks]
        self.red, self.green, self.blue = ([pixel[n] for pixel in mixed] for n in range(3))
        self.water = [(1.0 - (look >> 8) / (_CLOUDS - 1)) * ((look & 255) < _SEA) for look in looks]
        self.city = [1.1 * (1.0 - (look >> 8) / _CLOUDS) * ((look & 255) == _CITY) for look in looks]


#: (surface level, R, G, B), linear.
_PALETTE: Final = (
    (0, 0.004, 0.016, 0.075), (70, 0.008, 0.050, 0.16), (95, 0.03, 0.17, 0.26), (96, 0.52, 0.44, 0.25),
    (106, 0.10, 0.22, 0.05), (140, 0.05, 0.14, 0.03), (175, 0.22, 0.17, 0.09), (205, 0.30, 0.26, 0.21), (230, 0.85, 0.87, 0.90),
    (256, 0.95, 0.96, 0.98),
)  # fmt: skip


def _mixed(level: int, cloud: float) -> tuple[float, float, float]:
    level = 120 if level == _CITY else level
    above = next(n for n, stop in enumerate(_PALETTE) if stop[0] > level)
    low, high = _PALETTE[above - 1], _PALETTE[above]
    share = (level - low[0]) / (high[0] - low[0])
    white = 0.92 * cloud**0.8
    red, green, blue = ((low[n] + share * (high[n] - low[n])) * (1.0 - white) for n in (1, 2, 3))
    return red + 0.93 * white, green + 0.95 * white, blue + white


def _clouds() -> bytes:
    return bytes(min(_CLOUDS - 1, max(0, (level - 124) * _CLOUDS // 100)) for level in _texture(11, 2.1))


def _texture(seed: int, detail: float) -> bytes:
    """Levels from 0 to 255 on a globe, each latitude twice in a row: waves in random directions through a sphere."""
    chance = random.Random(seed)  # noqa: S311
    waves = [_wave(chance, detail, number) for number in range(20)]
    scale = 1.0 / math.sqrt(sum(wave[4] ** 2 for wave in waves) / 2)
    cosines = [math.cos(math.tau * column / _TURN) for column in range(2 * _TURN)]
    texture = bytearray()
    for row in range(_LATITUDES):
        latitude = math.pi * (0.5 - (row + 0.5) / _LATITUDES)
        heights = array("d", bytes(8 * _TURN))
        for wave in waves:
            heights = array("d", map(add, heights, _ripple(wave, latitude, cosines)))
        levels = bytes(_level(height * scale, latitude, chance, detail) for height in heights)
        texture += levels + levels
    return bytes(texture)


def _wave(chance: random.Random, detail: float, number: int) -> tuple[float, float, float, float, float]:
    frequency = (1.6 + 1.27**number * 0.6) * detail
    vertical = chance.uniform(-1.0, 1.0)
    return frequency, vertical, chance.random(), chance.uniform(0.0, math.tau), frequency**-0.95


def _ripple(wave: tuple[float, float, float, float, float], latitude: float, cosines: Sequence[float]) -> Iterator[float]:
    """One wave along one latitude: the scalar product with its direction is a cosine of the longitude."""
    frequency, vertical, toward, phase, strength = wave
    level = frequency * vertical * math.sin(latitude) + phase
    reach = frequency * math.sqrt(1.0 - vertical * vertical) * math.cos(latitude)
    start = int(toward * _TURN)
    sine: Callable[[float], float] = math.sin
    return (strength * sine(level + reach * cosine) for cosine in cosines[start : start + _TURN])


def _level(height: float, latitude: float, chance: random.Random, detail: float) -> int:
    if detail > 1.0:
        return min(254, max(0, int(110 + 52 * height)))
    polar = max(0.0, abs(latitude) - 1.05) * 260
    level = min(254, max(0, int(86 + 46 * height + polar)))
    return _CITY if 98 < level < 122 and chance.random() < 0.045 else level


# --- the geometry cache -----------------------------------------------------------------------------------------------

_ROWS: Final = 25


def usda() -> str:
    """A grid of water with two wave trains running through it: USD text with a time sample for each frame."""
    last = FIRST_FRAME + FRAME_COUNT - 1
    counts = ", ".join("4" for _ in range((_ROWS - 1) ** 2))
    corners = ", ".join(str(index) for face in _faces() for index in face)
    samples = "".join(f"            {FIRST_FRAME + index}: [{_points(index)}],\n" for index in range(FRAME_COUNT))
    return f"""#usda 1.0
(
    defaultPrim = "water"
    doc = "Written by integrator demo"
    startTimeCode = {FIRST_FRAME}
    endTimeCode = {last}
    timeCodesPerSecond = {FPS}
    framesPerSecond = {FPS}
    metersPerUnit = 1
    upAxis = "Y"
)

def Xform "water" (
    kind = "component"
)
{{
    def Mesh "surface"
    {{
        float3[] extent = [(-3, -0.6, -3), (3, 0.6, 3)]
        int[] faceVertexCounts = [{counts}]
        int[] faceVertexIndices = [{corners}]
        color3f[] primvars:displayColor = [(0.06, 0.32, 0.45)]
        uniform token subdivisionScheme = "catmullClark"
        point3f[] points.timeSamples = {{
{samples}        }}
    }}
}}
"""


def _faces() -> Iterator[tuple[int, int, int, int]]:
    for row in range(_ROWS - 1):
        for column in range(_ROWS - 1):
            corner = row * _ROWS + column
            yield corner, corner + _ROWS, corner + _ROWS + 1, corner + 1


def _points(index: int) -> str:
    time = math.tau * index / FRAME_COUNT
    places = [6.0 * step / (_ROWS - 1) - 3.0 for step in range(_ROWS)]
    return ", ".join(f"({x:.3f}, {_water(x, z, time):.4f}, {z:.3f})" for z in places for x in places)


def _water(x: float, z: float, time: float) -> float:
    ring = math.hypot(x - 0.8, z + 0.5)
    return 0.22 * math.sin(1.6 * x + 0.5 * z - time) + 0.24 * math.sin(3.2 * ring - 2.0 * time) / (1.0 + 0.5 * ring)
