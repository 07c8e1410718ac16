"""The demo: what a newcomer sees first works, is what it says, and its media are what their formats demand."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from integrator import cli, demo, demo_media


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a demo, and what it printed; the environment names a database that it must not touch."""
    folder = tmp_path_factory.mktemp("demo") / "100% mine"
    environment = {**os.environ, "INTEGRATOR_DATABASE": "sqlite:///nonexistent/x", "OPENJD_SESSION_WORKING_DIR": "/x"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "integrator", "demo", str(folder)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 20
    return folder, done.stdout


def test_the_demo_kills_recovers_and_publishes_again(shown: tuple[Path, str]) -> None:
    folder, text = shown
    versions = folder / "show/demo/shots/sq01/sh010/publish/render/renderBeauty"
    names = sorted(path.name for path in versions.iterdir())
    # On a machine that is busy a publish may come through before it can be killed; then another one is.
    assert names == [f"v{number:03d}" for number in range(1, len(names) + 1)]
    assert len(names) >= 2
    assert {len(list(path.glob("*.exr"))) for path in versions.iterdir()} == {48}
    assert all(len(list(path.iterdir())) in (48, 49) for path in versions.iterdir())  # a thumbnail, where it can be made
    order = ["published: renderBeauty v001", "killed after", "v002.tmp.", "integrator status", "that process is gone",
             "integrator recover", "rolled back", f"published: renderBeauty {names[-1]}", "all is well", "Try next"]  # fmt: skip
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert "openjd" not in text


def test_a_second_demo_in_the_same_folder_goes_on_and_answers_programs(
    shown: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", str(shown[0]), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["settled"] == [{"transaction": answer["killed"], "outcome": "rolled_back"}]
    # One more for each publish that came through before it could be killed, on a machine that is busy.
    versions = {entry["version"] for entry in answer["versions"]}
    assert versions == set(range(1, max(versions) + 1))
    assert versions >= {1, 2, 3, 4}


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("mine")
    assert cli.main(["demo", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert capsys.readouterr().out == ""


def test_a_publish_is_killed_midway_every_time(shown: tuple[Path, str]) -> None:
    places = demo.Places(folder=str(shown[0]))
    for _ in range(3):
        killed = demo.kill_midway(places)
        assert 0 < killed.count < demo_media.FRAME_COUNT
        assert demo.run(places, "recover", "--root", places.root)["settled"][0]["transaction"] == killed.transaction


def test_the_frames_are_openexr_and_move() -> None:
    made = demo_media.frames()
    (first, one), (second, two) = next(made), next(made)
    assert (first, second) == (demo_media.FIRST_FRAME, demo_media.FIRST_FRAME + 1)
    pixels, others = read_exr(one), read_exr(two)
    assert pixels != others
    assert max(pixels) > 0.5
    assert min(pixels) >= 0.0
    assert sum(1 for value in pixels if value > 0.05) > len(pixels) // 10


def read_exr(content: bytes) -> list[float]:
    """All samples of a file of ours, read by what the format says and not by how it was written."""
    assert struct.unpack_from("<ii", content) == (20000630, 2)
    offset, attributes = 8, {}
    while content[offset]:
        name, kind = content[offset:].split(b"\0", 2)[:2]
        offset += len(name) + len(kind) + 2
        (size,) = struct.unpack_from("<i", content, offset)
        attributes[name] = content[offset + 4 : offset + 4 + size]
        offset += 4 + size
    left, top, right, bottom = struct.unpack("<4i", attributes[b"dataWindow"])
    assert (right - left + 1, bottom - top + 1) == (demo_media.WIDTH, demo_media.HEIGHT)
    assert attributes[b"compression"] == b"\3"
    blocks = (bottom - top + 16) // 16
    samples: list[float] = []
    for number, start in enumerate(struct.unpack_from(f"<{blocks}Q", content, offset + 1)):
        y, size = struct.unpack_from("<ii", content, start)
        assert y == 16 * number
        lines = min(16, demo_media.HEIGHT - y)
        raw_size = lines * demo_media.WIDTH * 6
        stored = content[start + 8 : start + 8 + size]
        samples += struct.unpack(f"<{raw_size // 2}e", stored if size == raw_size else unzipped(stored))
    return samples


def unzipped(stored: bytes) -> bytes:
    smooth = bytearray(zlib.decompress(stored))
    for index in range(1, len(smooth)):
        smooth[index] = (smooth[index - 1] + smooth[index] - 128) & 255
    raw, half = bytearray(len(smooth)), (len(smooth) + 1) // 2
    raw[0::2], raw[1::2] = smooth[:half], smooth[half:]
    return bytes(raw)


def test_the_cache_has_a_sample_for_every_frame() -> None:
    text = demo_media.usda()
    assert text.startswith("#usda 1.0\n")
    last = demo_media.FIRST_FRAME + demo_media.FRAME_COUNT - 1
    samples = [line for line in text.splitlines() if line.strip().partition(":")[0].isdigit()]
    assert [int(line.strip().partition(":")[0]) for line in samples] == list(range(demo_media.FIRST_FRAME, last + 1))
    assert {line.count("(") for line in samples} == {25 * 25}
    assert len(set(samples)) == demo_media.FRAME_COUNT
