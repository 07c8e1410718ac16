"""Names, path templates, and the folders and files that they give."""

from __future__ import annotations

import time
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrator.errors import TemplateRefused
from integrator.layout import FILE, FOLDER, HERO_FOLDER, Layout, NamePolicy, Template, collision_key, prove_distinct
from integrator.model import Place

POLICY = NamePolicy()
VALUES: dict[str, Any] = {
    "project": {"name": "demo", "code": "dm"},
    "hierarchy": "shots/sq01",
    "asset": "sh010",
    "family": "render",
    "subset": "beauty",
    "version": 3,
    "ext": "exr",
}
#: Letters that a name may have, the troublesome separators among them.
NAMES = st.text("a0_.", min_size=1, max_size=3).filter(lambda name: not POLICY.problem(name))
HIERARCHIES = st.lists(NAMES, max_size=3).map("/".join)


# --- names ------------------------------------------------------------------------------------------------------------

HOSTILE = [
    "",
    ".",
    "..",
    "../up",
    "/abs",
    "a/b",
    "a\\b",
    "a\0b",
    "a\nb",
    "a\n",
    "a\x7f",
    "CON",
    "nul.txt",
    "Com1",
    "lpt9.tar.gz",
    "a.",
    "a ",
    "-rf",
    ".hidden",
    ".integrator",
    "v001.tmp.0f3a",
    "x" * 256,
    "{0.__class__}",
    "{asset}",
    "$(reboot)",
    "$HOME",
    "a b",
    "e\u0301",
    "\u202egpj",
    "\ud800",
    "\udcff",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str) -> None:
    """A name that could leave its folder, be evaluated or be misread is refused, alone and in a hierarchy."""
    assert POLICY.problem(name)
    assert name == "a/b" or POLICY.hierarchy_problem(f"shots/{name}")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "\u202egpj",
        "a\x7f",
        ".",
        "a/b",
        "a\\b",
        "a\n",
        "CON ",
        "a.",
        "-rf",
        ".x",
        "é" * 128,
        "e\u0301",
        "\udcff",
        "NUL .x",
    ],
)
def test_a_wide_pattern_opens_no_way_out(name: str) -> None:
    """A studio may allow any letters; the rules of file systems hold all the same."""
    assert NamePolicy(pattern=r"(?s).*").problem(name)


@pytest.mark.parametrize("name", ["hero", "sh010", "0", "a.b-c_D", "console", "COM10", "x" * 255, "nullify"])
def test_usual_names_pass(name: str) -> None:
    assert POLICY.problem(name) == ""


def test_the_policy_decides_about_other_letters() -> None:
    assert NamePolicy(pattern="[a-z]+").problem("ab!")
    assert POLICY.problem("Käse 1")
    assert not NamePolicy(pattern=r"[\w ]+").problem("Käse 1")


@pytest.mark.parametrize("value", [None, True, 1, {"$ne": None}, ["a"], b"a"])
def test_only_text_is_a_name(value: object) -> None:
    assert "must be text" in POLICY.problem(value)
    assert "must be text" in POLICY.hierarchy_problem(value)


@pytest.mark.parametrize("text", ["/a", "a/", "a//b", "a/../b", "/", "a/" * 3000 + "a"])
def test_a_hierarchy_is_checked_part_by_part(text: str) -> None:
    assert POLICY.hierarchy_problem(text)
    assert not POLICY.hierarchy_problem("")
    assert not POLICY.hierarchy_problem("a/b")


def test_names_that_one_file_system_takes_for_one_share_a_key() -> None:
    assert collision_key("Dir/A.EXR") == collision_key("dir/a.exr")
    assert collision_key("\u00c9") == collision_key("e\u0301")
    assert collision_key("Straße") == collision_key("STRASSE")
    assert collision_key("a") != collision_key("b")


# --- templates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{0.__class__}",
        "{asset.__class__}",
        "{asset!r}",
        "{}",
        "{0}",
        "{a[b][c]}",
        "{a[b[c]]}",
        "{a",
        "a}",
        "{{a}}",
        "<a",
        "a>",
        "<a>",
        "<{a}" * 20 + ">" * 20,
        "{a:{b}}",
        "{a:0>999999}",
        "{@nothing}",
        "a\0b",
        "a\\b",
    ],
)
def test_a_template_is_never_more_than_keys_and_paddings(text: str) -> None:
    with pytest.raises(TemplateRefused):
        Template(text)


def test_inner_links_are_solved_first_and_cycles_refused() -> None:
    links: dict[str, str | int] = {
        "pad": 5,
        "deep": "{@pad}",
        "version": "v{version:0>{@deep}}",
        "a": "{@b}",
        "b": "x{@a}",
    }
    template = Template("{asset}_{@version}", links=links)
    assert template.solved == "{asset}_v{version:0>5}"
    assert template.keys == {"asset", "version"}
    assert template.format({"asset": "a", "version": "7"}) == "a_v00007"
    with pytest.raises(TemplateRefused, match="back to itself"):
        Template("{@a}", links=links)


def test_links_that_multiply_are_refused_at_once() -> None:
    links: dict[str, str | int] = {"l40": ""}
    links.update({f"l{n}": f"{{@l{n + 1}}}" * 9 for n in range(40)})
    started = time.perf_counter()
    assert Template("{@l0}", links=links).solved == ""
    with pytest.raises(TemplateRefused, match="longer"):
        Template("{@l0}", links={**links, "l40": "x"})
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("empty", [{}, {"o": None}, {"o": ""}])
def test_optional_parts_go_with_their_keys(empty: dict[str, Any]) -> None:
    template = Template("{a}<_{o}><_{o}_{a}>")
    assert template.format({"a": "x", **empty}) == "x"
    assert template.format({"a": "x", "o": 0}) == "x_0_0_x"
    assert Template("x<-{hierarchy}>").format({"hierarchy": ""}) == "x"


def test_optional_parts_nest() -> None:
    template = Template("x<_{a}<-{b}>>")
    assert [template.format(v) for v in ({"a": 1, "b": 2}, {"a": 1}, {"b": 2})] == ["x_1-2", "x_1", "x"]


@pytest.mark.parametrize("value", [None, "", {"name": "x"}, ["x"], 1.5, True, "a/b", "a\0"])
def test_a_required_key_without_a_usable_value_is_an_error(value: object) -> None:
    """It is never left in a path, nor is the text of some Python value."""
    with pytest.raises(TemplateRefused):
        Template("x_{asset}").format({"asset": value})
    with pytest.raises(TemplateRefused):
        Template("x_{task[name]}").format({"task": {"name": value}})
    with pytest.raises(TemplateRefused):
        Template("x_{asset}").format({})


@pytest.mark.parametrize("value", [{"name": "x"}, ["x"], True, "a/b"])
def test_a_value_of_the_wrong_kind_is_an_error_in_an_optional_part_too(value: object) -> None:
    with pytest.raises(TemplateRefused):
        Template("x<_{asset}>").format({"asset": value})


def test_values_are_never_read_as_templates() -> None:
    values = {"a": "{b}<{c}>{@version}", "b": "{a!r}"}
    assert Template("{a}-{b}").format(values) == "{b}<{c}>{@version}-{a!r}"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0000"), ("0", "0000"), (-5, "-005"), ("-5", "-005"), ("0012", "0012"), (12345, "12345"), (1001, "1001")],
)
def test_numbers_pad_by_sign_whether_int_or_text(value: object, text: str) -> None:
    for spec in ("{@frame}", "{frame:0>4}", "{frame:04d}", "{frame:04}"):
        assert Template(spec).format({"frame": value}) == text


@pytest.mark.parametrize("text", ["{hierarchy}/b", "a/{hierarchy}/b", "a/{hierarchy}", "{a}/{hierarchy}/b"])
def test_an_empty_hierarchy_leaves_no_double_slash(text: str) -> None:
    values = {"a": "a", "hierarchy": ""}
    assert Template(text).format(values) == "/".join(part for part in "ab" if part in text.replace("hierarchy", ""))


# --- folders and files ------------------------------------------------------------------------------------------------


def test_the_defaults_give_the_documented_places() -> None:
    layout = Layout()
    below = "demo/shots/sq01/sh010/publish/render/beauty"
    assert layout.version_folder(VALUES) == Place(root="work", path=f"{below}/v003")
    assert layout.hero_folder(VALUES) == Place(root="work", path=f"{below}/hero")
    assert layout.version_folder({**VALUES, "hierarchy": "", "version": 0}).path == ("demo/sh010/publish/render/beauty/v000")
    assert layout.file_name(VALUES) == "dm_sh010_beauty_v003.exr"
    assert layout.file_name({**VALUES, "frame": 0, "output": "h264"}) == "dm_sh010_beauty_v003_h264.0000.exr"
    assert layout.hero_file_name({**VALUES, "version": None, "udim": 1001}) == "dm_sh010_beauty_hero_1001.exr"


def test_the_path_template_gives_the_path_again() -> None:
    """What `data.template` holds, formatted with the context and the roots, is the path of the first file."""
    layout = Layout()
    for values in ({**VALUES, "frame": "-005"}, {**VALUES, "hierarchy": "", "udim": ["1001", "1002"]}):
        place = layout.version_folder(values)
        template = Template(layout.path_template())
        assert "@" not in template.text
        path = template.format({**values, "root": {"work": "//server/show"}})
        assert path == f"//server/show/{place.path}/{layout.file_name(values)}"


@pytest.mark.parametrize("key", ["asset", "subset", "family"])
@pytest.mark.parametrize("name", [name for name in HOSTILE if POLICY.component_problem(name)])
def test_no_value_leads_out_of_its_folder(key: str, name: str) -> None:
    """The layout looks at what it made, whatever a caller forgot to check."""
    with pytest.raises(TemplateRefused):
        Layout().version_folder({**VALUES, key: name})


@pytest.mark.parametrize("hierarchy", ["a/publish/render/beauty/v001", "a/publish/f/s/hero/x", "a/Publish/f/s/v2000/b"])
def test_no_hierarchy_leads_into_what_another_asset_published(hierarchy: str) -> None:
    with pytest.raises(TemplateRefused, match="lies inside"):
        Layout().version_folder({**VALUES, "hierarchy": hierarchy})
    assert Layout().version_folder({**VALUES, "hierarchy": "publish/a/b/v1/hero"})


@pytest.mark.parametrize("name", ["v3", "v0003", "v003.tmp.ab", "V003", "v003\n", "foo", "v-01", "hero", "v", "v\u0663"])
def test_other_folders_have_no_version_number(name: str) -> None:
    assert Layout().version_number(name) is None


@given(st.integers(0, 10**9 - 1))
def test_the_number_of_a_version_folder_is_read_back(version: int) -> None:
    layout = Layout()
    assert layout.version_number(layout.version_folder({**VALUES, "version": version}).name) == version


FILE_TEMPLATES = [
    FILE,
    "{frame}_{udim:0>6}.{ext}",
    "{subset}<.{frame}><.{frame:0>6}><_{udim}>",
    "COM<{frame}>",
    "{asset}",
]


@given(st.sampled_from(FILE_TEMPLATES), st.lists(st.integers(-20000, 20000) | st.integers(1, 12)), st.booleans())
def test_names_of_a_sequence_equal_names_one_by_one(text: str, numbers: list[int], tiles: bool) -> None:
    """Also in what they refuse."""
    layout = Layout(file=text)
    key, other = ("udim", "frame") if tiles else ("frame", "udim")
    values = {**VALUES, **({other: 7} if text.startswith("{frame}") else {})}

    def names(make: Any) -> Any:
        try:
            return make()
        except TemplateRefused:
            return "refused"

    one_by_one = names(lambda: [layout.file_name({**values, key: number}) for number in numbers])
    at_once = names(lambda: layout.file_names(values, None if tiles else numbers, numbers if tiles else None))
    assert at_once == one_by_one


def test_a_hundred_thousand_names_take_a_moment() -> None:
    started = time.perf_counter()
    names = Layout().file_names(VALUES, range(100_000), None)
    assert len(set(names)) == 100_000
    assert time.perf_counter() - started < 0.5


def test_a_name_that_its_values_make_too_long_is_refused() -> None:
    with pytest.raises(TemplateRefused, match="255"):
        Layout().file_names({**VALUES, "asset": "a" * 200, "subset": "b" * 60}, [1, 2], None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"folder": "/show/{asset}"},
        {"folder": "{root[work]}//{asset}"},
        {"folder": "{root[work]}/{asset}/"},
        {"folder": "{root[work]}/{root[work]}"},
        {"file": "{asset}/{ext}"},
        {"hero_file": "{hierarchy}.{ext}"},
    ],
)
def test_templates_that_are_no_folder_or_file_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(TemplateRefused):
        Layout(**wrong)  # type: ignore[arg-type]


# --- distinct folders -------------------------------------------------------------------------------------------------

START = "{root[work]}/{project[name]}/{hierarchy}"
INDISTINCT = [
    START + "/{asset}{subset}/{@version}",
    START + "/{asset}_{subset}/{@version}",
    START + "/{asset}/{@version}",
    START + "/{asset}/{subset}",
    START + "/{asset}/{subset}/{@version}/files",
    START + "/{asset}/{subset}/{version:0<3}",
    START + "/{asset}/{subset}_{@version}",
    START + "/{asset:0>5}/{subset}/{@version}",
    START + "/{asset}<_{subset}>/{@version}",
    START + "/{asset}/{subset}</{task[name]}>/{@version}",
    START + "/{asset}/<{task[name]}>/{subset}/{@version}",
    START + "_{asset}/{subset}/{@version}",
    START + "/{hierarchy}/{asset}/{subset}/{@version}",
    START + "/{asset}/{subset}/a<b/{task[name]}>/{@version}",
    "{root[work]}/{project[name]}/x{hierarchy}/{asset}/{subset}/{@version}",
    "{root[work]}/{project[name]}/{asset}/{subset}/{@version}",
    "{root[work]}/{hierarchy}/{asset}/{subset}/{@version}",
]


@pytest.mark.parametrize("folder", INDISTINCT)
def test_templates_that_may_give_one_folder_twice_are_refused(folder: str) -> None:
    with pytest.raises(TemplateRefused, match="must give distinct folders for distinct asset, subset and version"):
        prove_distinct(Layout(folder=folder))


@pytest.mark.parametrize("last", ["v001", "{@version}", "{family}", "<x{family}>/hero"])
def test_a_hero_folder_that_may_be_a_version_is_refused(last: str) -> None:
    with pytest.raises(TemplateRefused, match="must give distinct folders"):
        prove_distinct(Layout(hero_folder=HERO_FOLDER.removesuffix("hero") + last))


DISTINCT = [
    FOLDER,
    START + "/{asset}/{subset}/{@version}",
    "{root[b]}/p_{project[name]}/{subset}/{hierarchy}/{asset}-a/x{family}<_{task}>/{version}",
]


@pytest.mark.parametrize("folder", DISTINCT)
def test_templates_with_separate_components_are_proved_distinct(folder: str) -> None:
    prove_distinct(Layout(folder=folder))


IDENTITIES = st.tuples(HIERARCHIES, NAMES, NAMES, st.integers(0, 1200))


@given(st.sampled_from(DISTINCT), IDENTITIES, IDENTITIES)
def test_proved_templates_give_distinct_folders(folder: str, one: tuple[Any, ...], two: tuple[Any, ...]) -> None:
    layout = Layout(folder=folder)

    def place(identity: tuple[Any, ...]) -> Place | None:
        try:
            return layout.version_folder(
                {**VALUES, **dict(zip(("hierarchy", "asset", "subset", "version"), identity, strict=True))}
            )
        except TemplateRefused:
            return None

    if place(one) is not None and place(two) is not None:
        assert (place(one) == place(two)) == (one == two)


def test_the_values_are_frozen() -> None:
    for value in (POLICY, Layout(), Template("a")):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.text = "b"  # type: ignore[union-attr, misc]
