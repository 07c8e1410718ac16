"""Where things lie: names that may reach a path, path templates, and the folders and files that they give.

Templates follow OpenPype's Anatomy, so that a studio's own can be copied in:

* ``{asset}``, ``{project[name]}``, ``{version:0>3}``: a value, one level of nesting at most, with an optional padding;
* ``<_{output}>``: an optional part, dropped when a key directly inside it is missing, None or an empty text;
* ``{@version}``: an inner link, replaced by its text (which may hold further links) before anything else.

Nothing of Python's own formatting beyond that is evaluated, and a value is never read as a template.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import attrs

from integrator.errors import TemplateRefused
from integrator.model import Place

FOLDER = "{root[work]}/{project[name]}/{hierarchy}/{asset}/publish/{family}/{subset}/{@version}"
FILE = "{project[code]}_{asset}_{subset}_{@version}<_{output}><.{@frame}><_{udim}>.{ext}"
HERO_FOLDER = "{root[work]}/{project[name]}/{hierarchy}/{asset}/publish/{family}/{subset}/hero"
HERO_FILE = "{project[code]}_{asset}_{subset}_hero<_{output}><.{@frame}><_{udim}>.{ext}"
LINKS: Mapping[str, str | int] = MappingProxyType(
    {
        "version_padding": 3,
        "version": "v{version:0>{@version_padding}}",
        "frame_padding": 4,
        "frame": "{frame:0>{@frame_padding}}",
    }
)

#: What stands between a version directory's name and the id of the staging directory that becomes it.
STAGING_MARK = ".tmp."
#: File in each root, and in each project that is a mount of its own, that says which publish root it belongs to.
MARKER = ".integrator/id"

# --- names ------------------------------------------------------------------------------------------------------------

_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789\u00b9\u00b2\u00b3"]
)
# Categories that nobody sees in a listing: control, format (zero width, text direction), line and paragraph separators.
_INVISIBLE = frozenset(["Cc", "Cf", "Zl", "Zp"])


def _full_match(pattern: str) -> Callable[[str], object]:
    # `$` in a pattern also matches before a final newline; only a full match refuses that.
    return re.compile(pattern).fullmatch


@attrs.frozen(kw_only=True)
class NamePolicy:
    """Which names may reach a path. Raises `ValueError` when `pattern` is no regular expression."""

    #: Regular expression that a whole name must match.
    pattern: str = r"^[a-zA-Z0-9_.-]+$"
    #: Longest name in bytes of UTF-8.
    max_bytes: int = 255
    #: Longest path in bytes of UTF-8, staging directories included.
    max_path: int = 4000
    _matches: Callable[[str], object] = attrs.field(init=False, repr=False, eq=False)

    @_matches.default
    def _compile(self) -> Callable[[str], object]:
        try:
            return _full_match(self.pattern)
        except re.error as error:
            raise ValueError(f"{self.pattern!r} is no regular expression: {error}") from error

    def problem(self, name: object) -> str:
        """Why `name` cannot be the name of a project, asset, subset ... ("contains '/'"), or "" when it can."""
        found = self.component_problem(name)
        if found or not isinstance(name, str):
            return found
        if STAGING_MARK in name:
            return f"contains {STAGING_MARK!r}, as staging directories do"
        return "" if self._matches(name) else f"does not match {self.pattern}"

    def component_problem(self, name: object) -> str:
        """As `problem`, but by the rules of file systems alone: what holds for text that a template wrote, too."""
        if not isinstance(name, str):
            return f"must be text, not {kind_of(name)}"
        if not name:
            return "is empty"
        return _character_problem(name) or _edge_problem(name) or self._length_problem(name)

    def hierarchy_problem(self, text: object) -> str:
        """Why `text` cannot be a hierarchy (names joined by ``/``; "" for none), or "" when it can."""
        if not isinstance(text, str):
            return f"must be text, not {kind_of(text)}"
        if not text:
            return ""
        for part in text.split("/"):
            if not part:
                return "has an empty part (a leading, trailing or double '/')"
            found = self.problem(part)
            if found:
                return f"has a part {part[:40]!r} that {found}"
        return self.path_problem(text)

    def path_problem(self, path: str) -> str:
        """Why the path as a whole, or a component of it, is too long; "" when it is not."""
        size = len(path.encode("utf-8", "surrogatepass"))
        if size > self.max_path:
            return f"is a path of {size} bytes; at most {self.max_path} are allowed"
        if size <= self.max_bytes:
            return ""
        return next(filter(None, map(self._length_problem, path.split("/"))), "")

    def _length_problem(self, name: str) -> str:
        size = len(name.encode("utf-8", "surrogatepass"))
        return f"has {size} bytes; at most {self.max_bytes} are allowed" if size > self.max_bytes else ""


def _character_problem(name: str) -> str:
    for separator in "/\\":
        if separator in name:
            return f"contains {separator!r}"
    if name.isascii() and name.isprintable():
        return ""
    for character in name:
        if "\ud800" <= character <= "\udfff":
            return "contains bytes that are not UTF-8"
        if unicodedata.category(character) in _INVISIBLE:
            return f"contains the invisible character U+{ord(character):04X}"
    return "" if unicodedata.is_normalized("NFC", name) else "is not in Unicode normal form NFC"


def _edge_problem(name: str) -> str:
    if name[0] in ".-":
        return f"starts with {name[0]!r}"
    if name[-1] == "." or name[-1].isspace():
        return "ends with a dot or a space"
    if name.partition(".")[0].rstrip().upper() in _DEVICES:
        return "is the name of a device on Windows"
    return ""


def kind_of(value: object) -> str:
    """What `value` is, in words of JSON ("a number", "null", "an object")."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"


def collision_key(path: str) -> str:
    """The same text for paths that differ only in case or Unicode form: one file on many file systems."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


# --- templates --------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\{([^{}]*)\}|([<>])|([^{}<>]+)")
_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\[([A-Za-z0-9_.-]+)\])?(?::(.*))?", re.DOTALL)
_SPEC = re.compile(r"(?:(.)?([<>^]))?(0?)([0-9]{0,2})([ds]?)")
_LINK = re.compile(r"\{@([A-Za-z0-9_]*)\}")
_NUMBER = re.compile(r"-?[0-9]+")
# Keys whose values are paths.
_WITH_FOLDERS = ("root", "hierarchy")
_LONGEST = 4096
_DEEPEST = 8
# Given as a value: a number that differs from file to file. It is written as its padding between two marks, which no
# value may hold, since no path can.
_SLOT = object()
_SLOT_MARK = "\0"


@attrs.frozen
class _Key:
    """A value in a template: ``{name[part]:spec}``."""

    name: str
    part: str
    spec: str

    def __str__(self) -> str:
        return f"{self.name}[{self.part}]" if self.part else self.name


@attrs.frozen
class _Optional:
    """``<...>``"""

    nodes: tuple[_Node, ...]


_Node = str | _Key | _Optional
_Component = tuple[_Node, ...]


class _Missing(Exception):
    """A key has no value."""


@attrs.frozen
class Template:
    """A path template, parsed once and strictly. Raises `TemplateRefused` when `text` is not one."""

    #: As it was written.
    text: str
    #: Texts of the inner links by name.
    links: Mapping[str, str | int] = attrs.field(default=LINKS, kw_only=True)
    #: `text` with all inner links solved.
    solved: str = attrs.field(init=False, eq=False)
    _nodes: tuple[_Node, ...] = attrs.field(init=False, eq=False, repr=False)
    #: Every key in it, optional ones included, as ``asset`` or ``project[name]``.
    keys: frozenset[str] = attrs.field(init=False, eq=False, repr=False)

    @solved.default
    def _solve(self) -> str:
        return _solve_links(self.text, self.links, (), {})

    @_nodes.default
    def _parse(self) -> tuple[_Node, ...]:
        return _parse(self.solved)

    @keys.default
    def _list_keys(self) -> frozenset[str]:
        return frozenset(str(key) for key in _keys(self._nodes))

    def format(self, values: Mapping[str, object]) -> str:
        """The template filled in with `values` (text, whole numbers, or mappings of these, one level deep).

        Numbers may come as int or as decimal text. A list under ``udim`` means its first entry. Only ``hierarchy`` may
        be empty outside an optional part; the slash after it goes with it. Raises `TemplateRefused` when a key that
        is not optional has no value, and when any value is of the wrong kind.
        """
        try:
            return _fill(self._nodes, values)
        except _Missing as missing:
            raise TemplateRefused(f"The template {self.text!r} needs a value for {{{missing}}}.") from None


def _solve_links(text: str, links: Mapping[str, str | int], open_links: tuple[str, ...], solved_links: dict[str, str]) -> str:
    def replace(match: re.Match[str]) -> str:
        name = match[1]
        if name in open_links:
            raise TemplateRefused(f"The inner link {{@{name}}} leads back to itself.")
        if name not in links:
            raise TemplateRefused(f"The template {text!r} uses the inner link {{@{name}}}, which is not defined.")
        if name not in solved_links:
            solved_links[name] = _solve_links(str(links[name]), links, (*open_links, name), solved_links)
        return solved_links[name]

    solved = _LINK.sub(replace, text)
    if len(solved) > _LONGEST:
        raise TemplateRefused(f"A template is longer than {_LONGEST} characters once its inner links are solved.")
    return solved


def _parse(text: str) -> tuple[_Node, ...]:
    open_parts: list[list[_Node]] = [[]]
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise TemplateRefused(f"The template {text!r} has an unbalanced {text[position]!r}.")
        position = match.end()
        key, bracket, literal = match.groups()
        if key is not None:
            open_parts[-1].append(_parse_key(key, text))
        elif literal is not None:
            open_parts[-1].append(_parse_literal(literal, text))
        elif bracket == "<":
            open_parts.append([])
        else:
            _close_optional(open_parts, text)
    if len(open_parts) > 1:
        raise TemplateRefused(f"The template {text!r} has an unbalanced '<'.")
    return tuple(open_parts[0])


def _close_optional(open_parts: list[list[_Node]], text: str) -> None:
    if len(open_parts) == 1:
        raise TemplateRefused(f"The template {text!r} has an unbalanced '>'.")
    if len(open_parts) > _DEEPEST:
        raise TemplateRefused(f"The template {text!r} nests optional parts too deeply.")
    nodes = tuple(open_parts.pop())
    if not any(isinstance(node, _Key) for node in nodes):
        raise TemplateRefused(f"The template {text!r} has an optional part without a key.")
    open_parts[-1].append(_Optional(nodes))


def _parse_key(inside: str, text: str) -> _Key:
    match = _KEY.fullmatch(inside)
    if match is None:
        raise TemplateRefused(
            f"The template {text!r} holds {{{inside}}}; it may hold {{key}}, {{key[part]}} and a padding, {{key:0>3}}."
        )
    name, part, spec = match.groups()
    if spec and not _SPEC.fullmatch(spec):
        raise TemplateRefused(f"The template {text!r} holds the padding {spec!r}; paddings look like '0>3'.")
    return _Key(name, part or "", spec or "")


def _parse_literal(literal: str, text: str) -> str:
    if "\\" in literal or not literal.isprintable():
        raise TemplateRefused(f"The template {text!r} holds a backslash or an invisible character.")
    return literal


def _keys(nodes: Sequence[_Node]) -> Iterator[_Key]:
    for node in nodes:
        if isinstance(node, _Key):
            yield node
        elif isinstance(node, _Optional):
            yield from _keys(node.nodes)


def _fill(nodes: Sequence[_Node], values: Mapping[str, object]) -> str:
    filled: list[str] = []
    ends_with_slash = True
    swallow = False
    for node in nodes:
        if isinstance(node, str):
            text = node[1:] if swallow and node.startswith("/") else node
        elif isinstance(node, _Optional):
            text = _fill_optional(node, values)
        else:
            text = _value(node, values)
        swallow = ends_with_slash and text == "" and isinstance(node, _Key)
        if text:
            ends_with_slash = text.endswith("/")
        filled.append(text)
    result = "".join(filled)
    return result.rstrip("/") if swallow else result


def _fill_optional(node: _Optional, values: Mapping[str, object]) -> str:
    try:
        if any(isinstance(inner, _Key) and _value(inner, values) == "" for inner in node.nodes):
            return ""
        return _fill(node.nodes, values)
    except _Missing:
        return ""


def _value(key: _Key, values: Mapping[str, object]) -> str:
    value = values.get(key.name)
    if key.part and value not in (None, ""):
        if not isinstance(value, Mapping):
            raise TemplateRefused(f"{{{key}}} needs a group of values in {key.name!r}, not {kind_of(value)}.")
        value = value.get(key.part)
    if key.name == "udim" and isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if value == "" and str(key) == "hierarchy":
        return ""
    if value is None or value == "":
        raise _Missing(key)
    if value is _SLOT:
        return f"{_SLOT_MARK}{key.spec}{_SLOT_MARK}"
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TemplateRefused(f"{{{key}}} must be text or a whole number, not {kind_of(value)}.")
    if isinstance(value, str) and (_SLOT_MARK in value or ("/" in value and key.name not in _WITH_FOLDERS)):
        raise TemplateRefused(f"The value of {{{key}}} contains a NUL character or a '/'.")
    return _padding(key.spec)(value)


@functools.lru_cache(maxsize=64)
def _padding(spec: str) -> Callable[[str | int], str]:
    match = _SPEC.fullmatch(spec)
    if not spec or match is None:
        return str
    fill, align, zero, digits, kind = match.groups()
    width = int(digits or 0)
    if _pads_with_zeros(spec):
        # zfill, unlike a right alignment, keeps the sign in front of the zeros.
        return lambda value: _whole(value, spec, kind == "d").zfill(width)
    python_spec = f"{(fill or zero or ' ') + align if align else ''}{digits}"
    return lambda value: format(_whole(value, spec, kind == "d"), python_spec)


def _pads_with_zeros(spec: str) -> bool:
    match = _SPEC.fullmatch(spec)
    if match is None:
        return False
    fill, align, zero, _, _ = match.groups()
    return (fill or zero) == "0" and align in (None, ">")


def _whole(value: str | int, spec: str, must: bool) -> str:
    if isinstance(value, int):
        return str(value)
    if _NUMBER.fullmatch(value) and len(value) <= 20:
        return str(int(value))
    if must:
        raise TemplateRefused(f"{value!r} is not a whole number, as the padding {spec!r} wants.")
    return value


# --- layout -----------------------------------------------------------------------------------------------------------

_ROOT = re.compile(r"\{root\[([A-Za-z0-9_-]+)\]\}/")


@attrs.frozen(kw_only=True)
class Layout:
    """The folders and files of versions and hero versions. Raises `TemplateRefused` when a template cannot be one."""

    #: Template of a version directory.
    folder: str = FOLDER
    #: Template of a file in a version directory.
    file: str = FILE
    #: Template of the folder of a hero version.
    hero_folder_text: str = attrs.field(default=HERO_FOLDER, alias="hero_folder")
    #: Template of a file in the folder of a hero version.
    hero_file: str = HERO_FILE
    #: Texts of the inner links; those not named here have their defaults.
    links: Mapping[str, str | int] = attrs.field(factory=dict)
    #: Rules that every component of a finished path must pass (all but its `pattern`).
    policy: NamePolicy = attrs.field(factory=NamePolicy)
    _templates: Mapping[str, Template] = attrs.field(init=False, repr=False, eq=False)
    _components: Mapping[str, Sequence[_Component]] = attrs.field(init=False, repr=False, eq=False)

    @_templates.default
    def _read(self) -> Mapping[str, Template]:
        links = {**LINKS, **self.links}
        folders = {"folder": self.folder, "hero_folder": self.hero_folder_text}
        files = {"file": self.file, "hero_file": self.hero_file}
        templates = {name: Template(text, links=links) for name, text in (folders | files).items()}
        for name in folders:
            _check_folder(templates[name])
            templates[f"{name} below root"] = Template(_ROOT.sub("", templates[name].solved, count=1))
        for name in files:
            _check_file(templates[name])
        return templates

    @_components.default
    def _split(self) -> Mapping[str, Sequence[_Component]]:
        return {name: _split(self._templates[f"{name} below root"]._nodes) for name in ("folder", "hero_folder")}

    def version_folder(self, values: Mapping[str, object]) -> Place:
        """The place of a version directory. Raises `TemplateRefused` when `values` give no safe path."""
        return self._place("folder", values)

    def hero_folder(self, values: Mapping[str, object]) -> Place:
        """The place of the folder of a hero version; `version` is not needed. Raises as `version_folder`."""
        return self._place("hero_folder", values)

    def file_name(self, values: Mapping[str, object]) -> str:
        """The name of a file in a version directory. Raises `TemplateRefused` when `values` give no safe name."""
        return self._component(self._templates["file"].format(values))

    def hero_file_name(self, values: Mapping[str, object]) -> str:
        """The name of a file in the folder of a hero version. Raises as `file_name`."""
        return self._component(self._templates["hero_file"].format(values))

    def file_names(self, values: Mapping[str, object], frames: Sequence[int] | None, udims: Sequence[int] | None) -> list[str]:
        """`file_name` for each of `frames`, or each of `udims`, in their order; one name without either.

        Raises `TemplateRefused` as `file_name`, and `ValueError` when both are given.
        """
        return self._names("file", values, frames, udims)

    def hero_file_names(
        self, values: Mapping[str, object], frames: Sequence[int] | None, udims: Sequence[int] | None
    ) -> list[str]:
        """As `file_names`, for the folder of a hero version."""
        return self._names("hero_file", values, frames, udims)

    def frame_text(self, frame: int) -> str:
        """A frame as it stands in the name of a file: put into the template as text, it gives that name again."""
        specs = [key.spec for key in _keys(self._templates["file"]._nodes) if key.name == "frame"]
        return _padding(specs[0] if specs else f"0>{self.links.get('frame_padding', LINKS['frame_padding'])}")(frame)

    def path_template(self) -> str:
        """The template of a published path, inner links solved (`data.template` of a representation)."""
        return f"{self._templates['folder'].solved}/{self._templates['file'].solved}"

    def hero_path_template(self) -> str:
        """As `path_template`, for a hero version."""
        return f"{self._templates['hero_folder'].solved}/{self._templates['hero_file'].solved}"

    def version_number(self, folder_name: str) -> int | None:
        """The number of a folder that this template named (``v003`` -> 3); None for every other name."""
        nodes = self._components["folder"][-1]
        if not _only_version(nodes):
            return None
        pattern = "".join(re.escape(node) if isinstance(node, str) else "([0-9]{1,9})" for node in nodes)
        match = re.fullmatch(pattern, folder_name)
        if match is None:
            return None
        number = int(match[1])
        return number if _fill(nodes, {"version": number}) == folder_name else None

    def is_hero_folder(self, path: str) -> bool:
        """Whether a path below a root can be the folder of a hero version (or its staging directory)."""
        folder, _, name = path.rpartition("/")
        if name.partition(STAGING_MARK)[0] != _plain_text(self._components["hero_folder"][-1]):
            return False
        return self._ends_like([*folder.split("/"), name], self._components["hero_folder"])

    def _place(self, which: str, values: Mapping[str, object]) -> Place:
        root = self._templates[which].solved.partition("[")[2].partition("]")[0]
        path = self._templates[f"{which} below root"].format(values)
        for part in path.split("/"):
            self._component(part)
        found = self.policy.path_problem(path) or self._enclosing(path)
        if found:
            raise TemplateRefused(f"The folder {path!r} {found}.")
        return Place(root=root, path=path)

    def _component(self, name: str) -> str:
        found = self.policy.component_problem(name)
        if found:
            raise TemplateRefused(f"The template gives the name {name!r}, which {found}.")
        return name

    def _enclosing(self, path: str) -> str:
        # A hierarchy may imitate the components that follow it, and so lead into what another asset has published.
        parts = path.split("/")
        for length in range(1, len(parts)):
            for components in self._components.values():
                if self._ends_like(parts[:length], components):
                    return f"lies inside {'/'.join(parts[:length])!r}, which is where another asset publishes"
        return ""

    def _ends_like(self, parts: Sequence[str], components: Sequence[_Component]) -> bool:
        """Whether a path of `parts` could be a folder of `components`, judged by its part behind the hierarchy."""
        if not any(map(_is_hierarchy, components)) or len(parts) < len(components) - 1:
            return False
        last = parts[-1].partition(STAGING_MARK)[0]
        for part, nodes in zip([last, *parts[-2::-1]], reversed(components), strict=False):
            if _is_hierarchy(nodes):
                return True
            if _only_version(nodes) and self.version_number(part) is None:
                return False
            text = _plain_text(nodes)
            if text is not None and collision_key(text) != collision_key(part):
                return False
        return True

    def _names(
        self, which: str, values: Mapping[str, object], frames: Sequence[int] | None, udims: Sequence[int] | None
    ) -> list[str]:
        if frames is not None and udims is not None:
            raise ValueError("a file has a frame or a UDIM, not both")
        numbers = frames if frames is not None else udims
        template = self._templates[which]
        if numbers is None:
            return [self._component(template.format(values))]
        names = _fill_slots(template.format({**values, "frame" if frames is not None else "udim": _SLOT}), numbers)
        # Names differ in digits alone, so the shortest, the longest, the first and the last speak for all.
        for name in {min(names), max(names), min(names, key=len), max(names, key=len)} if names else ():
            self._component(name)
        return names


def _fill_slots(text: str, numbers: Sequence[int]) -> list[str]:
    pieces = text.split(_SLOT_MARK)
    if len(pieces) == 1:
        return [text] * len(numbers)
    if len(pieces) == 3:
        head, spec, tail = pieces
        pad = _padding(spec)
        if _pads_with_zeros(spec):
            # zfill and a zero-padded format agree on whole numbers, and the format is several times faster.
            width = f"0{_SPEC.fullmatch(spec)[4] or 0}d"  # type: ignore[index]
            return [f"{head}{number:{width}}{tail}" for number in numbers]
        return [head + pad(number) + tail for number in numbers]
    pads = [_padding(spec) for spec in pieces[1::2]]
    tails = pieces[2::2]
    return [pieces[0] + "".join(pad(number) + tail for pad, tail in zip(pads, tails, strict=True)) for number in numbers]


def _check_folder(template: Template) -> None:
    root = _ROOT.match(template.solved)
    if root is None:
        raise TemplateRefused(f"The folder template {template.text!r} must start with {{root[NAME]}}/.")
    rest = template.solved[root.end() :]
    if not rest or "//" in rest or rest[0] == "/" or rest[-1] == "/":
        raise TemplateRefused(f"The folder template {template.text!r} has an empty component.")
    if any(key.name == "root" for key in _keys(_parse(rest))):
        raise TemplateRefused(f"The folder template {template.text!r} names a root after its start.")


def _check_file(template: Template) -> None:
    if "/" in template.solved or any(key.split("[")[0] in ("root", "hierarchy") for key in template.keys):
        raise TemplateRefused(f"The file template {template.text!r} must give one name, without folders.")


# --- proof that folders are distinct ----------------------------------------------------------------------------------

#: What every version directory and hero folder belongs to. Two sequences may both have a shot of one name.
_OWNERS = ("project[name]", "hierarchy", "asset", "subset")


def prove_distinct(layout: Layout) -> None:
    """Raise `TemplateRefused` unless folder templates give distinct folders for distinct asset, subset and version.

    The condition is sufficient, and simple enough to trust. Names hold no ``/``, and ``{hierarchy}``, the one value
    that does, is a component of its own and occurs once; every other component is always there. Hence the number of
    components tells how deep the hierarchy is, and so which component is which. Each of project, asset and subset is
    alone in some component (but for literal text), unpadded, so it can be read back from there; the version likewise
    from the last one. The last component of the hero folder is text that cannot be read as a version.
    """
    version, hero = layout._components["folder"], layout._components["hero_folder"]
    reason = _unclear(version)
    if not reason and not _only_version(version[-1]):
        reason = "the last component must hold {version}, padded with zeros or not at all, and no other key"
    if reason:
        _refuse(layout.folder, reason)
    reason = _unclear(hero)
    last = _plain_text(hero[-1])
    if not reason and (last is None or layout.version_number(last) is not None):
        reason = "the last component of the hero folder must be plain text that is not a version"
    if reason:
        _refuse(layout.hero_folder_text, reason)


def prove_apart(layout: Layout, other: Layout) -> None:
    """Raise `TemplateRefused` unless distinct projects get distinct folders, one by `layout` and one by `other`.

    Both must be proven distinct already. Where they differ, all folder templates must begin alike, up to the component that
    holds the project's name, with nothing before it that can span folders. Then two projects part there, whatever follows.
    """
    folders = ("folder", "hero_folder")
    if all(layout._templates[name].solved == other._templates[name].solved for name in folders):
        return
    begin = _beginning(other._components["folder"])
    for text, components in (
        (layout.folder, layout._components["folder"]),
        (layout.hero_folder_text, layout._components["hero_folder"]),
    ):
        if not begin or any(_beginning(found) != begin for found in (components, other._components["hero_folder"])):
            raise TemplateRefused(
                f"The folder templates of a project must begin like those of the root, up to {{project[name]}}, with no"
                f" {{hierarchy}} before it, so that projects stay apart; {text!r} does not beside {other.folder!r}."
            )


def _beginning(components: Sequence[_Component]) -> Sequence[_Component]:
    """The components up to the project's name; none if something before it can span folders."""
    for count, nodes in enumerate(components, 1):
        if _is_hierarchy(nodes):
            return ()
        if _alone(nodes, "project[name]"):
            return components[:count]
    return ()


def _refuse(text: str, reason: str) -> None:
    raise TemplateRefused(
        f"A folder template must give distinct folders for distinct asset, subset and version; {text!r} does not: {reason}."
    )


def _split(nodes: Sequence[_Node]) -> list[_Component]:
    components: list[list[_Node]] = [[]]
    for node in nodes:
        if not isinstance(node, str):
            components[-1].append(node)
            continue
        first, *others = node.split("/")
        components[-1] += [first] if first else []
        components += [[part] if part else [] for part in others]
    return [tuple(component) for component in components]


def _unclear(components: Sequence[_Component]) -> str:
    for nodes in components:
        if any(isinstance(node, _Optional) and _spans_folders(node) for node in nodes):
            return "an optional part spans folders"
        if all(isinstance(node, _Optional) for node in nodes):
            return "a component is optional as a whole"
    if sum(key.name == "hierarchy" for nodes in components for key in _keys(nodes)) > 1:
        return "{hierarchy} occurs more than once"
    for owner in _OWNERS:
        if not any(_alone(nodes, owner) for nodes in components):
            return f"{{{owner}}} must be in a component of the path that holds no other key, unpadded"
    return ""


def _spans_folders(part: _Optional) -> bool:
    return any(
        "/" in node if isinstance(node, str) else isinstance(node, _Optional) and _spans_folders(node) for node in part.nodes
    )


def _alone(nodes: _Component, owner: str) -> bool:
    key = _only_key(nodes)
    if key is None or str(key) != owner or key.spec:
        return False
    return owner != "hierarchy" or len(nodes) == 1


def _is_hierarchy(nodes: _Component) -> bool:
    return _alone(nodes, "hierarchy")


def _only_version(nodes: _Component) -> bool:
    key = _only_key(nodes)
    return key is not None and str(key) == "version" and (not key.spec or _pads_with_zeros(key.spec))


def _only_key(nodes: _Component) -> _Key | None:
    """The one key of a component that is otherwise plain text."""
    values = [node for node in nodes if not isinstance(node, str)]
    return values[0] if len(values) == 1 and isinstance(values[0], _Key) else None


def _plain_text(nodes: _Component) -> str | None:
    """The text of a component without any key."""
    return "".join(map(str, nodes)) if all(isinstance(node, str) for node in nodes) else None
