"""Which source files a representation means.

An entry of `files` is a plain path, or its last component is a pattern:

========================  ==============================================================================================
``name.%04d.exr``         printf: frames of at least 4 characters, padded with zeros; ``%d`` unpadded, ``%%`` a percent
                          sign
``name.####.exr``         as many characters as there are hash signs
``name.%04d.exr [1-5]``   clique: as printf, and the frames that are wanted
``name.<UDIM>.exr``       UDIM tiles, which are no frames; ``%(UDIM)d`` is the same
========================  ==============================================================================================

A number counts as a frame of a pattern only when the pattern, filled in with it, gives that very name: ``%04d`` means
``0001``, ``-005`` and ``10000``, but neither ``00001`` nor ``1``. An entry that reads as a pattern is one, unless no
file matches it and a file of literally that name exists (as one of several entries: if such a file exists). Digits of
a plain path are no frames, with two exceptions: several plain paths that differ in one group of digits (file extension
aside) are a sequence; so is a single one when `frames` is one frame and its last group is that number.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from integrator.errors import NotThere, Problem
from integrator.frames import format_spans, holes, parse_frames, runs
from integrator.layout import NamePolicy
from integrator.model import from_here
from integrator.request import RepresentationRequest
from integrator.transfer import Facts

__all__ = ["Sources", "extension", "file_problem", "inspect", "parse_frames", "resolve", "split_clique"]

_ROOTLESS = re.compile(r"\{root\[([^\[\]{}]+)\]\}(?=/|$)")
#: What is said of a file without content.
EMPTY = "is empty (0 bytes)"

_STAGING = "{staging}/"
_RANGES = re.compile(r"[0-9,\s-]+")
_PRINTF = re.compile(r"(?<!%)((?:%%)*)%(?:0([1-9][0-9]?))?d")
_UDIM = re.compile(r"<UDIM>|%\(UDIM\)d", re.IGNORECASE)
_HASHES = re.compile(r"#+")
# A hyphen is a sign unless it follows a letter, a digit or a bracket: shot-001 is not frame -1.
_DIGITS = re.compile(r"((?<![A-Za-z0-9)\]])-[0-9]+|[0-9]+)")
_NUMBER = re.compile(r"-?[0-9]+")
_TILE = re.compile(r"[1-9][0-9]{3}")
_LOWEST_TILE = 1001
_LONGEST_NUMBER = 10

_COMPRESSED = frozenset(["gz", "bz2", "xz", "zst", "lz4", "sc"])
_COMPRESSIBLE = frozenset(["abc", "ass", "bgeo", "geo", "json", "obj", "pc", "rib", "tar", "usda", "vdb", "xml"])


@attrs.frozen(kw_only=True)
class Sources:
    """The files of one representation."""

    #: What they were resolved for.
    representation: RepresentationRequest
    #: Absolute paths, in the order of `frames` or `udims`.
    paths: list[str]
    #: Frame of each path as it is published (renumbered by `start_frame`); None when these are no frames.
    frames: list[int] | None
    #: UDIM of each path; None when these are no tiles.
    udims: list[int] | None
    #: What a look at the files found; None until somebody looked.
    looked: Facts | None = None
    #: Whether they were rendered into the staging directory that was promised to this publish, where they stay.
    promised: bool = False
    #: Extension without its dot. Of several plain files each has its own (`extension`); this is that of the first.
    ext: str


@attrs.frozen(kw_only=True)
class _Pattern:
    """A sequence or a set of tiles in one folder."""

    #: As it was written.
    text: str
    #: Absolute folder.
    folder: str
    #: Name before the number.
    head: str
    #: Name behind it.
    tail: str
    #: Least number of characters of a frame, its sign included; 0 for UDIM tiles.
    width: int
    #: Frames that the pattern itself lists.
    wanted: list[int] | None = None

    def listed(self) -> dict[int, str]:
        """Names in the folder by number, ascending. Raises `_Refused` when there are none, or no folder."""
        try:
            names = [name for name in os.listdir(self.folder) if name.startswith(self.head) and name.endswith(self.tail)]
        except OSError as error:
            raise _Missing(self.text, f"cannot be looked for: its folder {_reason(error)}") from None
        start, end = len(self.head), -len(self.tail) or None
        texts = [name[start:end] for name in names]
        together = "".join(texts)
        if self.width and together.isascii() and together.isdigit() and all(len(text) == self.width for text in texts):
            found = dict(zip(map(int, texts), names))  # the usual folder: nothing more to ask of any name
        else:
            pairs = ((self._number(text), name) for text, name in zip(texts, names) if _NUMBER.fullmatch(text))
            found = {number: name for number, name in pairs if number is not None}
        if not found:
            raise _Missing(self.text, "matches no file")
        return {number: found[number] for number in sorted(found)}

    def paths(self, names: Mapping[int, str]) -> list[str]:
        folder = self.folder.rstrip("/") + "/"
        return [folder + name for name in names.values()]

    def _number(self, text: str) -> int | None:
        if self.width == 0:
            return int(text) if _TILE.fullmatch(text) and int(text) >= _LOWEST_TILE else None
        return _frame(text, self.width)


class _Refused(Exception):
    """The representation cannot be resolved: (where, what), and the kind of problem unless it is the sources."""


class _Missing(_Refused):
    """Files are not there, or cannot be seen here yet."""


def resolve(
    representation: RepresentationRequest,
    *,
    base: str,
    roots: Mapping[str, str],
    policy: NamePolicy | None = None,
    promised: str = "",
    missing_frames: str = "refuse",
) -> tuple[Sources | None, list[Problem]]:
    """The files that `representation` means, or None and what is wrong (by pattern or path).

    Relative paths start at `base`, which may itself be relative to the current folder; with "" they are refused.
    `{root[NAME]}/` is filled in from `roots`, `{staging}/` with the directory that was `promised`. The extension must pass
    `policy`. `missing_frames` is for a representation that leaves it open. Folders of patterns are listed, files are not
    looked at: `inspect` does that.
    """
    if representation.missing_frames is None:
        representation = attrs.evolve(representation, missing_frames=missing_frames)
    try:
        found = _resolve(representation, _places(base, roots, promised), policy or NamePolicy())
        inside = [path.startswith(promised + "/") for path in found.paths] if promised else [False]
        for path in found.paths if inside[0] else ():
            if "/" in path[len(promised) + 1 :]:
                raise _Refused(path, "must lie directly in the staging directory that was reserved")
        if any(inside) and not all(inside):
            raise _Refused(found.paths[inside.index(False)], f"is not in the staging directory {promised}, as other files are")
        return attrs.evolve(found, promised=inside[0]), []
    except _Refused as refused:
        return None, [(NotThere if isinstance(refused, _Missing) else Problem)(*refused.args)]


def _resolve(representation: RepresentationRequest, place: Callable[[str], str], policy: NamePolicy) -> Sources:
    files = representation.files
    wanted = parse_frames(representation.frames) if representation.frames is not None else None
    if len(files) == 1 and is_pattern(files[0]):
        return _from_pattern(representation, files[0], place, wanted, policy)
    paths = [place(_not_a_folder(name)) for name in files]
    if len(set(paths)) < len(paths):
        raise _Refused(_first_repeated(paths), "is listed twice")
    for path in paths:
        if is_pattern(path) and not os.path.lexists(path):
            raise _Refused(path, "is a pattern among other files; a representation is one sequence or plain files")
    numbers = _sequence(paths, wanted)
    if numbers is None:
        return _plain_files(representation, paths, policy)
    numbers = _choose(representation, files[0], numbers, wanted)
    return _sources(representation, list(numbers.values()), policy, frames=list(numbers))


def _from_pattern(
    representation: RepresentationRequest,
    text: str,
    place: Callable[[str], str],
    wanted: list[int] | None,
    policy: NamePolicy,
) -> Sources:
    try:
        pattern = _parse_pattern(text, place)
        listed = pattern.listed()
    except _Refused:
        if not os.path.lexists(place(text)):
            raise
        return _plain_files(representation, [place(text)], policy)
    if pattern.width == 0:
        _refuse_frames(representation, text, "these are UDIM tiles")
        return _sources(representation, pattern.paths(listed), policy, udims=list(listed))
    if pattern.wanted is not None:
        if wanted is not None and wanted != pattern.wanted:
            raise _Refused(text, f"lists other frames than the frames {representation.frames} of the representation", "frames")
        wanted = pattern.wanted
    chosen = _choose(representation, text, listed, wanted)
    return _sources(representation, pattern.paths(chosen), policy, frames=list(chosen))


def _plain_files(representation: RepresentationRequest, paths: list[str], policy: NamePolicy) -> Sources:
    _refuse_frames(representation, paths[0], "this is no sequence; write %04d or #### where the frame stands")
    by_extension: dict[str, str] = {}
    for path in paths:
        other = by_extension.setdefault(extension(path).lower(), path)
        if other is not path:
            raise _Refused(
                path,
                f"would be published under the same name as {other}: they are no sequence and end in the same way",
                "destinations",
            )
    return _sources(representation, paths, policy)


def _refuse_frames(representation: RepresentationRequest, where: str, why: str) -> None:
    for key, value in (("frames", representation.frames), ("start_frame", representation.start_frame)):
        if value is not None:
            raise _Refused(where, f"cannot have {key}: {why}", "frames")


def _sources(
    representation: RepresentationRequest,
    paths: list[str],
    policy: NamePolicy,
    *,
    frames: list[int] | None = None,
    udims: list[int] | None = None,
) -> Sources:
    # The files of a sequence share their extension; several plain files have one each.
    for path in paths if frames is None and udims is None else paths[:1]:
        ext = extension(path)
        if frames is not None and ext.isdigit():
            ext = ""
        problem = policy.problem(ext) if ext else "is missing"
        if problem:
            raise _Refused(path, f"has an extension that {problem}" if ext else "has no extension", "names")
    if frames is not None and representation.start_frame is not None:
        offset = representation.start_frame - frames[0]
        frames = [frame + offset for frame in frames]
    return Sources(representation=representation, paths=paths, frames=frames, udims=udims, ext=extension(paths[0]))


# --- places -----------------------------------------------------------------------------------------------------------


def _places(base: str, roots: Mapping[str, str], promised: str) -> Callable[[str], str]:
    """A function that makes a source path absolute. It raises `_Refused`."""

    def filled(path: str) -> str:
        if path.startswith(_STAGING):
            if not promised:
                raise _Refused(path, "names a staging directory, and none was reserved for this publish id (integrator reserve)")
            return f"{promised}/{path[len(_STAGING) :]}"
        if not path.startswith("{root"):
            return path
        match = _ROOTLESS.match(path)
        if match is None or match[1] not in roots:
            raise _Refused(path, f"names a root that is not known; known are {', '.join(sorted(roots)) or 'none'}")
        return roots[match[1]].rstrip("/") + path[match.end() :]

    start = filled(base)
    if start and not start.startswith("/"):
        start = from_here(start)

    def place(path: str) -> str:
        path = filled(path)
        if path.startswith("/"):
            return path
        if not start:
            raise _Refused(path, "is relative, and the publish instance has no staging_dir that it could start from")
        return os.path.join(start, path)

    return place


def _not_a_folder(path: str) -> str:
    if path.endswith("/"):
        raise _Refused(path, "is a folder; folders go under resources")
    return path


def _first_repeated(paths: Iterable[str]) -> str:
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            return path
        seen.add(path)
    raise ValueError("no path is there twice")


def extension(path: str) -> str:
    """The extension without its dot, both parts of a compressed one (``bgeo.sc``); "" without one."""
    stem, dot, last = path.rpartition("/")[2].rpartition(".")
    if not dot or not stem:
        return ""
    inner = stem.rpartition(".")[2]
    if last.lower() in _COMPRESSED and inner != stem and inner.lower() in _COMPRESSIBLE:
        return f"{inner}.{last}"
    return last


# --- patterns ---------------------------------------------------------------------------------------------------------


def is_tiles(path: str) -> bool:
    """Whether the last component is a pattern of UDIM tiles."""
    return bool(_UDIM.search(path.rpartition("/")[2]))


def is_sequence(files: Sequence[str]) -> bool:
    """Whether several plain paths are the frames of one sequence."""
    return frames_of(files) is not None


def frames_of(files: Sequence[str]) -> dict[int, str] | None:
    """Several plain paths by frame, ascending; None when they are no sequence."""
    return _sequence(files, None) if len(files) > 1 and len(set(files)) == len(files) else None


def is_pattern(path: str) -> bool:
    """Whether the last component reads as a pattern."""
    name = path.rpartition("/")[2]
    return bool(_PRINTF.search(name) or _UDIM.search(name) or "#" in name)


def _parse_pattern(text: str, place: Callable[[str], str]) -> _Pattern:
    path = place(text)
    folder, _, name = path.rpartition("/")
    wanted = None
    name, ranges = split_clique(name)
    if ranges:
        try:
            wanted = parse_frames(ranges)
        except ValueError as error:
            raise _Refused(text, str(error)) from None
    head, width, tail = _parse_name(text, name)
    if width == 0 and wanted is not None:
        raise _Refused(text, "lists frames, but these are UDIM tiles", "frames")
    return _Pattern(text=text, folder=folder or "/", head=head, tail=tail, width=width, wanted=wanted)


def split_clique(name: str) -> tuple[str, str]:
    """A pattern in clique form as its printf pattern and its frames; any other name as it is, and ""."""
    before, _, ranges = name.rpartition(" [")
    if _PRINTF.search(before.rpartition("/")[2]) and ranges.endswith("]") and _RANGES.fullmatch(ranges[:-1]):
        return before, ranges[:-1]
    return name, ""


def _parse_name(text: str, name: str) -> tuple[str, int, str]:
    """Text before the number, its width (0 for UDIM), text behind it."""
    tiles, printf = list(_UDIM.finditer(name)), list(_PRINTF.finditer(name))
    if len(tiles) + len(printf) > 1:
        raise _Refused(text, "has more than one place for a number")
    if tiles:
        return name[: tiles[0].start()], 0, name[tiles[0].end() :]
    if printf:
        match = printf[0]
        head, tail = name[: match.start()] + match[1], name[match.end() :]
        return head.replace("%%", "%"), int(match[2] or 1), tail.replace("%%", "%")
    hashes = list(_HASHES.finditer(name))
    if len(hashes) > 1:
        raise _Refused(text, "has more than one place for a number")
    return name[: hashes[0].start()], len(hashes[0][0]), name[hashes[0].end() :]


def _frame(text: str, width: int) -> int | None:
    """The frame that `text` stands for at this width; None when no frame is written like that."""
    if not 0 < len(text) <= max(width, _LONGEST_NUMBER):
        return None
    number = int(text)
    return number if str(number).zfill(width) == text else None


# --- frames -----------------------------------------------------------------------------------------------------------


def _choose(representation: RepresentationRequest, where: str, found: dict[int, str], wanted: list[int] | None) -> dict[int, str]:
    """Those of the `found` files that are `wanted`, all by default. Missing frames are refused or left out."""
    if wanted is None:
        missing = holes(list(found))
        chosen = found
    else:
        missing = runs(frame for frame in wanted if frame not in found)
        chosen = {frame: found[frame] for frame in wanted if frame in found}
    if missing and representation.missing_frames != "allow":
        raise _Missing(where, f"lacks the frames {format_spans(missing)}", "frames")
    if not chosen:
        raise _Missing(where, f"has none of the frames {format_spans(missing)}", "frames")
    return chosen


def _sequence(paths: Sequence[str], wanted: list[int] | None) -> dict[int, str] | None:
    """Plain paths as the frames of one sequence, ascending; None when they are none."""
    if len(paths) == 1:
        found = _single_frame(paths[0])
        return found if wanted == list(found) else None
    first = _groups(paths[0])
    position = _differing_group(first, _groups(paths[1]))
    if position is None:
        return None
    head, tail = "".join(first[:position]), "".join(first[position + 1 :])
    digits = "-?[0-9]+" if _may_be_signed(head) else "[0-9]+"
    match = re.compile(f"{re.escape(head)}({digits}){re.escape(tail)}", re.DOTALL).fullmatch
    numbers = _numbers([matched[1] if matched else "" for matched in map(match, paths)])
    if numbers is None:
        return None
    found = dict(sorted(zip(numbers, paths, strict=True)))
    allowed = set(found if wanted is None else wanted)
    for frame, path in found.items():
        if frame not in allowed:
            raise _Refused(path, "is listed, but its frame is not among the frames of the representation", "frames")
    return found


def _single_frame(path: str) -> dict[int, str]:
    groups = _groups(path)
    numbers = _numbers([groups[-2]]) if len(groups) > 1 else None
    return {numbers[0]: path} if numbers else {}


def _may_be_signed(head: str) -> bool:
    return _DIGITS.split(f"{head[-1:]}-1")[1] == "-1"


def _groups(path: str) -> list[str]:
    """Folder with text, digits, text, digits, ..., text with extension: digits stand at the odd places."""
    folder, slash, name = path.rpartition("/")
    ext = extension(path)
    # A name like cache.0001 ends in its frame; mp3 and mp4 are not frames 3 and 4.
    kept = len(name) if ext.isdigit() else len(name) - len(ext)
    groups = _DIGITS.split(name[:kept])
    groups[0] = f"{folder}{slash}{groups[0]}"
    groups[-1] += name[kept:]
    return groups


def _differing_group(first: list[str], second: list[str]) -> int | None:
    if len(first) != len(second):
        return None
    positions = [index for index, text in enumerate(first) if text != second[index]]
    return positions[0] if len(positions) == 1 and positions[0] % 2 else None


def _numbers(texts: Sequence[str]) -> list[int] | None:
    """The frames that `texts` are at one common width; None when there is no such width."""
    width = next((len(text) for text in texts if text.lstrip("-").startswith("0")), 1)
    numbers = [_frame(text, width) for text in texts]
    return [number for number in numbers if number is not None] if None not in numbers else None


# --- looking at files -------------------------------------------------------------------------------------------------

_KINDS = (
    (stat.S_ISDIR, "is a folder; folders go under resources"),
    (stat.S_ISFIFO, "is a FIFO, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)


def file_problem(path: str, status: os.stat_result | OSError) -> str:
    """Why `path` cannot be a source, given what `os.stat` or `os.fstat` answered or raised; "" when it can."""
    if isinstance(status, OSError):
        if status.errno == errno.ENOENT and os.path.islink(path):
            return "is a symbolic link to nothing"
        return _reason(status)
    if stat.S_ISREG(status.st_mode):
        return "" if status.st_size else EMPTY
    return next((text for is_kind, text in _KINDS if is_kind(status.st_mode)), "is not a regular file")


def inspect(paths: Sequence[str]) -> list[Problem]:
    """Everything that is wrong with source files, symbolic links followed; one call or two for each."""
    problems: list[Problem] = []
    # Root may read everything, and the answer for it would be "yes" at the price of a call.
    ask = os.geteuid() != 0
    effective = os.access in os.supports_effective_ids
    for path in paths:
        status: os.stat_result | OSError
        try:
            status = os.stat(path)
        except OSError as error:
            status = error
        found = file_problem(path, status)
        if not found and ask and not os.access(path, os.R_OK, effective_ids=effective):
            found = "cannot be read: permission denied"
        if found:
            problems.append(Problem(path, found))
    return problems


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "does not exist"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "cannot be read: permission denied"
    return f"cannot be read: {error.strerror or error}"
