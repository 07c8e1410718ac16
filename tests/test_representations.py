"""Which source files a representation means, and what is wrong with them."""

from __future__ import annotations

import os
import socket
import stat
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrator.errors import Problem
from integrator.frames import MOST_FRAMES, format_spans, frame_spans, holes, runs
from integrator.representations import Sources, extension, file_problem, inspect, parse_frames, resolve
from integrator.request import RepresentationRequest


def make(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).write_bytes(b"x")


def tried(folder: Path, *files: str, **more: Any) -> tuple[Sources | None, list[Problem]]:
    """What `resolve` says about `files` in `folder`."""
    return resolve(RepresentationRequest(name="r", files=files, **more), base=str(folder), roots={})


def resolved(folder: Path, *files: str, **more: Any) -> Sources:
    sources, problems = tried(folder, *files, **more)
    assert sources is not None, problems
    assert not problems
    return sources


def names(sources: Sources) -> list[str]:
    return [os.path.basename(path) for path in sources.paths]


def refusal(folder: Path, *files: str, **more: Any) -> str:
    """The one problem that `files` have."""
    sources, problems = tried(folder, *files, **more)
    assert sources is None
    [problem] = problems
    assert problem.where.rpartition("/")[2] in {name.rpartition("/")[2] for name in files}
    return problem.what


# --- frames as text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("0", [0]),
        ("1001", [1001]),
        ("-5", [-5]),
        ("1001-1003", [1001, 1002, 1003]),
        ("1001-1006x2", [1001, 1003, 1005]),
        ("-2-1", [-2, -1, 0, 1]),
        ("-10--8", [-10, -9, -8]),
        ("1010-1012, 1001,1011", [1001, 1010, 1011, 1012]),
        ("5-5", [5]),
    ],
)
def test_frame_ranges_are_read(text: str, frames: list[int]) -> None:
    assert parse_frames(text) == frames


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "1-",
        "-",
        "1--",
        "5-1",
        "1-5x0",
        "1-5x-1",
        "1.5",
        "1,,2",
        "1 2",
        "1;2",
        "\u0661",
        "1-1000001",
        "9" * 10,
        "1," * 10**6,
    ],
)
def test_other_frame_ranges_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_frames(text)


def test_frames_are_counted_before_they_are_made() -> None:
    text = f"1-{MOST_FRAMES // 2},1-{MOST_FRAMES // 2}"
    assert sum(map(len, frame_spans(text))) == MOST_FRAMES
    with pytest.raises(ValueError, match="more than"):
        frame_spans(text + ",7")


@given(st.sets(st.integers(-30, 30), min_size=1))
def test_runs_and_holes_share_out_the_whole_range(frames: set[int]) -> None:
    ordered = sorted(frames)
    assert parse_frames(format_spans(runs(ordered), most=99)) == ordered
    missing = {frame for first, last in holes(ordered) for frame in range(first, last + 1)}
    assert missing == set(range(ordered[0], ordered[-1] + 1)) - frames


def test_a_long_list_of_ranges_is_cut() -> None:
    assert format_spans([(1, 1), (3, 5), (7, 7)], most=2) == "1, 3-5, and 1 more ranges"


# --- patterns ---------------------------------------------------------------------------------------------------------

SHOT = ["a.0001.exr", "a.0002.exr", "a.0003.exr"]


@pytest.mark.parametrize(
    "pattern",
    ["a.%04d.exr", "a.####.exr", "a.%04d.exr [1-3]", "a.%04d.exr [1-2, 3]", "a.####.EXR".replace("EXR", "exr")],
)
def test_a_sequence_is_found_in_every_notation(tmp_path: Path, pattern: str) -> None:
    make(tmp_path, [*reversed(SHOT), "b.0004.exr", "a.0004.exr.tmp", "xa.0005.exr", "a.04.exr", "a..exr"])
    sources = resolved(tmp_path, pattern)
    assert (names(sources), sources.frames, sources.udims, sources.ext) == (SHOT, [1, 2, 3], None, "exr")
    assert sources.paths[0] == f"{tmp_path}/a.0001.exr"


@pytest.mark.parametrize(
    ("pattern", "matching", "frames"),
    [
        ("a.%04d.x", ["a.-005.x", "a.0000.x", "a.0007.x", "a.10000.x"], [-5, 0, 7, 10000]),
        ("a.##.x", ["a.-5.x", "a.07.x", "a.100.x"], [-5, 7, 100]),
        ("a.%d.x", ["a.-5.x", "a.0.x", "a.7.x", "a.1000.x"], [-5, 0, 7, 1000]),
        ("a.%01d.x", ["a.-5.x", "a.0.x", "a.7.x"], [-5, 0, 7]),
    ],
)
def test_a_frame_counts_only_as_the_pattern_writes_it(
    tmp_path: Path, pattern: str, matching: list[str], frames: list[int]
) -> None:
    make(tmp_path, [*matching, "a.00003.x", "a.-0004.x", "a.003.x", "a.-00.x", "a.-0.x", "a.--3.x", "a.3a.x", "a.+3.x"])
    sources = resolved(tmp_path, pattern, missing_frames="allow")
    assert (names(sources), sources.frames) == (matching, frames)


def test_a_pattern_with_one_frame_is_a_sequence(tmp_path: Path) -> None:
    make(tmp_path, ["a.0000.exr"])
    for pattern in ("a.%04d.exr", "a.####.exr", "a.%04d.exr [0]"):
        assert resolved(tmp_path, pattern).frames == [0]


def test_other_digits_of_a_name_are_no_frames(tmp_path: Path) -> None:
    make(tmp_path, ["sh010_v002.1001.mp4", "sh010_v002.1002.mp4", "sh010_v003.1003.mp4", "sh020_v002.1004.mp4"])
    assert resolved(tmp_path, "sh010_v002.%04d.mp4").frames == [1001, 1002]
    assert resolved(tmp_path, "sh010_v002.1001.mp4").frames is None
    listed = resolved(tmp_path, "sh010_v002.1002.mp4", "sh010_v002.1001.mp4")
    assert (listed.frames, listed.ext) == ([1001, 1002], "mp4")


def test_percent_signs_are_escaped_as_in_printf(tmp_path: Path) -> None:
    make(tmp_path, ["50%_a.0001.exr", "50%%_a.0002.exr", "a%0003.exr", "a0004.exr"])
    assert names(resolved(tmp_path, "50%%_a.%04d.exr")) == ["50%_a.0001.exr"]
    assert names(resolved(tmp_path, "a%%%04d.exr")) == ["a%0003.exr"]
    assert resolved(tmp_path, "a%%04d.exr").frames is None


@pytest.mark.parametrize("pattern", ["t.<UDIM>.tx", "t.%(UDIM)d.tx", "t.<udim>.tx"])
def test_tiles_are_udims_and_no_frames(tmp_path: Path, pattern: str) -> None:
    make(tmp_path, ["t.1001.tx", "t.1012.tx", "t.0001.tx", "t.1000.tx", "t.10011.tx", "t.-101.tx"])
    sources = resolved(tmp_path, pattern)
    assert (names(sources), sources.udims, sources.frames) == (["t.1001.tx", "t.1012.tx"], [1001, 1012], None)
    assert "UDIM" in refusal(tmp_path, pattern, frames="1001")
    assert "UDIM" in refusal(tmp_path, pattern, start_frame=1)


def test_frame_1001_is_no_tile(tmp_path: Path) -> None:
    make(tmp_path, ["a.1001.exr"])
    sources = resolved(tmp_path, "a.%04d.exr")
    assert (sources.frames, sources.udims) == ([1001], None)


@pytest.mark.parametrize("name", ["a#1.exr", "a%04d.exr", "a.%04d.exr [1-3]", "a#b#.exr", "a[1-3].exr", "<UDIM>.tx", "a%.exr"])
def test_a_name_that_looks_like_a_pattern_is_a_file_when_nothing_else_matches(tmp_path: Path, name: str) -> None:
    make(tmp_path, [name])
    if name.endswith("]"):
        assert "extension" in refusal(tmp_path, name)
        return
    sources = resolved(tmp_path, name)
    assert (names(sources), sources.frames, sources.udims) == ([name], None, None)


def test_a_matching_sequence_wins_over_a_file_of_that_name(tmp_path: Path) -> None:
    make(tmp_path, ["a.####.exr", "a.0001.exr"])
    assert names(resolved(tmp_path, "a.####.exr")) == ["a.0001.exr"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a.%04d.%04d.exr"], "more than one"),
        (["a.<UDIM>.%04d.exr"], "more than one"),
        (["a.##.##.exr"], "more than one"),
        (["none.%04d.exr"], "matches no file"),
        (["nowhere/a.%04d.exr"], "folder does not exist"),
        (["a.%04d.exr [3-1]"], "backwards"),
        (["a.%04d.exr", "b.exr"], "among other files"),
        (["a.0001.exr", "a.0001.exr"], "twice"),
        (["sub/"], "folder"),
        (["README"], "extension"),
        ([".hidden"], "extension"),
        (["a.e xr"], "extension"),
        (["{root[other]}/a.exr"], "root"),
        (["{root}/a.exr"], "root"),
    ],
)
def test_what_cannot_be_resolved_is_refused_by_its_name(tmp_path: Path, files: list[str], words: str) -> None:
    make(tmp_path, [*SHOT, "b.exr", "a.0001"])
    assert words in refusal(tmp_path, *files)


# --- missing frames, renumbering --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pattern", "frames"), [("a.%04d.exr", None), ("a.####.exr", "1-12"), ("a.%04d.exr [1-12]", None)])
def test_missing_frames_are_refused_or_left_out(tmp_path: Path, pattern: str, frames: str | None) -> None:
    make(tmp_path, [f"a.{frame:04}.exr" for frame in (1, 2, 4, 9, 12)])
    assert refusal(tmp_path, pattern, frames=frames) == "lacks the frames 3, 5-8, 10-11"
    assert resolved(tmp_path, pattern, frames=frames, missing_frames="allow").frames == [1, 2, 4, 9, 12]


def test_at_least_one_frame_must_be_there(tmp_path: Path) -> None:
    make(tmp_path, SHOT)
    assert "none of the frames 7-8" in refusal(tmp_path, "a.####.exr", frames="7-8", missing_frames="allow")


def test_frames_choose_among_those_that_are_there(tmp_path: Path) -> None:
    make(tmp_path, SHOT)
    assert names(resolved(tmp_path, "a.####.exr", frames="1-3x2")) == ["a.0001.exr", "a.0003.exr"]
    assert "other frames" in refusal(tmp_path, "a.%04d.exr [1-2]", frames="1-3")


def test_a_gap_of_a_billion_frames_is_reported_at_once(tmp_path: Path) -> None:
    make(tmp_path, ["a.1.exr", "a.1999999999.exr"])
    assert refusal(tmp_path, "a.%d.exr") == "lacks the frames 2-1999999998"


@pytest.mark.parametrize(("start", "frames"), [(0, [0, 1, 4]), (1001, [1001, 1002, 1005]), (-3, [-3, -2, 1])])
def test_renumbering_keeps_gaps(tmp_path: Path, start: int, frames: list[int]) -> None:
    make(tmp_path, ["a.0010.exr", "a.0011.exr", "a.0014.exr"])
    sources = resolved(tmp_path, "a.####.exr", missing_frames="allow", start_frame=start)
    assert sources.frames == frames
    assert names(sources)[-1] == "a.0014.exr"


# --- several files, and single ones -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "frames"),
    [
        (["a.0002.exr", "a.0001.exr"], [1, 2]),
        (["a.-001.exr", "a.0000.exr", "a.0001.exr"], [-1, 0, 1]),
        (["a_9.exr", "a_10.exr"], [9, 10]),
        (["a099.exr", "a100.exr"], [99, 100]),
        (["sh-001.exr", "sh-002.exr"], [1, 2]),
        (["1v2_003.exr", "1v2_004.exr"], [3, 4]),
        (["x1_7.exr", "x2_7.exr"], [1, 2]),
    ],
)
def test_files_that_differ_in_one_number_are_a_sequence(tmp_path: Path, files: list[str], frames: list[int]) -> None:
    sources = resolved(tmp_path, *files)
    assert sources.frames == frames
    assert sorted(sources.paths) == sorted(f"{tmp_path}/{name}" for name in files)


@pytest.mark.parametrize(
    "files",
    [
        ["a.1_1.exr", "a.2_2.exr"],
        ["a.01.exr", "a.1.exr"],
        ["a.01.exr", "a.002.exr"],
        ["a.1.exr", "b.2.exr"],
        ["a.1.exr", "a.exr"],
        ["x/a.1.exr", "y/a.2.exr"],
        ["x1/a.exr", "x2/a.exr"],
        ["sh1.exr", "sh-2.exr"],
        ["a.1.exr", "a.2.exr", "a.3b.exr"],
        ["a.1.exr", "a.2.exr", "b.3.exr"],
    ],
)
def test_other_files_that_would_share_a_name_are_refused(tmp_path: Path, files: list[str]) -> None:
    assert "same name" in refusal(tmp_path, *files)


@pytest.mark.parametrize("files", [["a.obj", "a.mtl"], ["a.mp3", "a.mp4"], ["C#_1.obj", "C#_2.mtl"]])
def test_files_with_extensions_of_their_own_are_plain_files(tmp_path: Path, files: list[str]) -> None:
    make(tmp_path, files)
    sources = resolved(tmp_path, *files)
    assert (names(sources), sources.frames, sources.ext) == (files, None, extension(files[0]))


def test_listed_files_obey_frames_too(tmp_path: Path) -> None:
    assert "lacks the frames 2" in refusal(tmp_path, "a.1.exr", "a.3.exr")
    assert resolved(tmp_path, "a.1.exr", "a.3.exr", frames="1,3").frames == [1, 3]
    assert "not among" in refusal(tmp_path, "a.1.exr", "a.3.exr", "a.2.exr", frames="1-2")


def test_frame_numbers_of_their_own_are_no_extensions(tmp_path: Path) -> None:
    assert "no extension" in refusal(tmp_path, "cache.0001", "cache.0002")
    make(tmp_path, ["cache.0001"])
    assert "no extension" in tried(tmp_path, "cache.%04d")[1][0].what


@pytest.mark.parametrize("frame", ["1001", "0", "-5"])
def test_one_file_is_a_sequence_when_its_frame_is_given(tmp_path: Path, frame: str) -> None:
    name = f"sh010.{int(frame):04d}.exr"
    assert resolved(tmp_path, name, frames=frame).frames == [int(frame)]
    assert resolved(tmp_path, name).frames is None
    assert "no sequence" in refusal(tmp_path, name, frames="10")


def test_frames_of_a_plain_file_are_refused(tmp_path: Path) -> None:
    assert "no sequence" in refusal(tmp_path, "cam.abc", frames="1001-1048")
    assert "no sequence" in refusal(tmp_path, "cam.abc", start_frame=1)


@pytest.mark.parametrize(
    ("path", "ext"),
    [
        ("/a.b/c.exr", "exr"),
        ("/a.b/c", ""),
        (".bashrc", ""),
        ("a.0001.bgeo.sc", "bgeo.sc"),
        ("a.ass.gz", "ass.gz"),
        ("a.0001.gz", "gz"),
        ("tar.gz", "gz"),
        ("a.MA", "MA"),
    ],
)
def test_extensions_are_read(path: str, ext: str) -> None:
    assert extension(path) == ext


# --- where paths start ------------------------------------------------------------------------------------------------


def test_paths_start_at_the_base_at_a_root_or_at_the_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def first(path: str, base: str) -> str:
        representation = RepresentationRequest(name="r", files=(path,))
        sources, problems = resolve(representation, base=base, roots={"work": "/show/"})
        return sources.paths[0] if sources else problems[0].what

    assert first("a.exr", "/base") == "/base/a.exr"
    assert first("../a.exr", "sub") == f"{tmp_path}/sub/../a.exr"
    assert first("a.exr", "{root[work]}/in") == "/show/in/a.exr"
    assert first("{root[work]}/a.exr", "") == "/show/a.exr"
    assert first("/a.exr", "") == "/a.exr"
    assert "relative" in first("a.exr", "")


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    name = b"\xff.0001.exr".decode("utf-8", "surrogateescape")
    make(tmp_path, [name])
    assert names(resolved(tmp_path, "\udcff.%04d.exr")) == [name]


# --- files themselves -------------------------------------------------------------------------------------------------


def test_every_unusable_source_is_listed(tmp_path: Path) -> None:
    good, empty, folder, fifo = (str(tmp_path / name) for name in ("good", "empty", "folder", "fifo"))
    make(tmp_path, ["good"])
    (tmp_path / "empty").touch()
    os.mkdir(folder)
    os.mkfifo(fifo)
    os.symlink("good", tmp_path / "link")
    os.symlink("nothing", tmp_path / "dangling")
    os.symlink("loop", tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        paths = [good, str(tmp_path / "link"), "/dev/null", empty, folder, fifo, f"{good}/below"]
        paths += [str(tmp_path / name) for name in ("socket", "dangling", "loop", "missing")]
        found = [(os.path.basename(problem.where), problem.what.split(":")[0]) for problem in inspect(paths)]
    assert found == [
        ("null", "is a device, not a file"),
        ("empty", "is empty (0 bytes)"),
        ("folder", "is a folder; folders go under resources"),
        ("fifo", "is a FIFO, not a file"),
        ("below", "does not exist"),
        ("socket", "is a socket, not a file"),
        ("dangling", "is a symbolic link to nothing"),
        ("loop", "cannot be read"),
        ("missing", "does not exist"),
    ]


def test_an_unreadable_source_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, ["secret", "open"])
    (tmp_path / "secret").chmod(0)

    def access(path: str, mode: int, **_: object) -> bool:
        return mode == os.R_OK and bool(os.stat(path).st_mode & stat.S_IRUSR)

    # These tests may run as root, whom no mode keeps out.
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", access)
    [problem] = inspect([str(tmp_path / "open"), str(tmp_path / "secret")])
    assert problem.where.endswith("secret")
    assert "permission" in problem.what
    assert "permission" in file_problem("/secret/a", PermissionError(13, "Permission denied"))


def test_a_hundred_thousand_frames_take_a_moment(tmp_path: Path) -> None:
    """Resolving and looking at them, each; one file stands for all, since making them would take longer."""
    files = tuple(f"/render/beauty_with_quite_a_long_name.{frame:06d}.exr" for frame in range(100_000))
    representation = RepresentationRequest(name="exr", files=files, frames="0-99999")
    started = time.process_time()
    sources, _ = resolve(representation, base="", roots={})
    assert sources is not None
    assert len(sources.paths) == 100_000
    assert time.process_time() - started < 1
    tracemalloc.start()
    resolve(representation, base="", roots={})
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()
    started = time.process_time()
    assert inspect([__file__] * 100_000) == []
    assert time.process_time() - started < 1
