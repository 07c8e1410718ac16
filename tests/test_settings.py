"""Settings: every rule, all mistakes at once with their lines, and who overrides whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import hypothesis
import pytest
from hypothesis import strategies as st

from integrator import settings as settings_module
from integrator.errors import SettingsRefused
from integrator.settings import (
    DAY,
    DEFAULT,
    ENVIRONMENT,
    PROJECT,
    ROOT,
    SETTINGS,
    USER,
    LeaseTimes,
    Settings,
    Source,
    load,
    seconds,
    setting_of,
    survey,
    user_file,
    without_password,
)


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings; returns where they would be."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("INTEGRATOR_DATABASE", raising=False)
    path = tmp_path / "integrator" / "config.toml"
    path.parent.mkdir()
    return path


def _load(text: str) -> Settings:
    return load(text.encode(), "config.toml")


def _problems(text: str) -> list[tuple[str, str]]:
    with pytest.raises(SettingsRefused) as caught:
        _load(text)
    assert caught.value.exit_code == 2
    return [(problem.where, problem.what) for problem in caught.value.problems]


def test_nothing_configured_gives_the_defaults() -> None:
    assert _load("") == Settings()
    defaults = Settings()
    assert (defaults.file_mode, defaults.folder_mode, defaults.transfer) == (0o664, 0o2775, "copy")
    assert (defaults.checksum, defaults.link_fallback, defaults.keep) == ("copied", "refuse", 7 * DAY)
    assert defaults.lease == LeaseTimes(renew=20, takeover=900, takeover_same_publish=60)


def test_everything_can_be_configured() -> None:
    """And a setting that is added without a rule makes this test fail."""
    text = """
format = 1
missing_frames = "allow"
root_id = "f00d"
database = "sqlite:///local/publish.sqlite3"
name_pattern = "^[a-z]+$"
transfer = "hardlink"
checksum = "all"
link_fallback = "copy"
link_writable = false
latest_link = true
reveal = "early"
symlink_outside = true
file_mode = 0o640
folder_mode = 0o750
group = "vfx"
keep_times = false
create_assets = false
after_commit = ["Notify"]
workers = 8
keep = 3600
keep_failed = "2h"
settle = 60
attempts = 3
attempts_per_host = 1
[roots]
cache = "/cache"
[templates]
version_padding = "4"
[lease]
renew = 5
takeover = 60.5
takeover_same_publish = 10
"""
    found = attrs.asdict(_load(text))
    expected = {
        "group": "vfx",
        "format": 1, "root_id": "f00d", "database": "sqlite:///local/publish.sqlite3", "roots": {"cache": "/cache"},
        "templates": {"version_padding": "4"}, "name_pattern": "^[a-z]+$", "transfer": "hardlink", "checksum": "all",
        "link_fallback": "copy", "link_writable": False,
        "latest_link": True, "reveal": "early",
            "symlink_outside": True, "file_mode": 0o640, "folder_mode": 0o750, "keep_times": False,
        "create_assets": False, "after_commit": ("Notify",), "workers": 8, "keep": 3600, "keep_failed": 7200, "settle": 60,
        "attempts": 3,
        "attempts_per_host": 1, "missing_frames": "allow", "default_root": "",
        "lease": {"renew": 5, "takeover": 60.5, "takeover_same_publish": 10},
    }  # fmt: skip
    assert found == expected
    unchanged = [name for name, value in attrs.asdict(Settings()).items() if found[name] == value]
    assert unchanged == ["format", "default_root"]  # the one has one value, the other is the user's


GOOD = [
    'transfer = "copy"', 'transfer = "hardlink"', 'transfer = "reflink"', 'transfer = "symlink"', 'transfer = "move"',
    'checksum = "none"', 'checksum = "copied"', 'checksum = "all"', "workers = 1", "workers = 64", "file_mode = 0o400",
    "file_mode = 0o3777", "keep = 0.5", "roots = {}", "templates = {}", 'roots = {a = "/"}', "lease = {}",
    'keep = "7d"', 'lease.takeover = "1.5h"', "settle = 0", 'keep_failed = "0s"', "attempts = 10000", "[roots]",
    "[lease]\n[templates]",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_what_is_allowed(text: str) -> None:
    _load(text)


BAD = [
    ("format = 2", "must be 1, the only format that this program knows"),
    ("format = 0", "must be 1, the only format that this program knows"),
    ('format = "1"', "must be 1, the only format that this program knows"),
    ("root_id = 1", "must be text"),
    ("database = true", "must be text"),
    ('roots = "/cache"', "must be a table"),
    ("roots = {cache = 1}", "must be an absolute path"),
    ('roots = {good = "/good", dot = "./x"}', "must be an absolute path"),
    ("templates = []", "must be a table"),
    ("[[templates]]", "must be a table"),
    ("templates = {folder = 1}", "must be text"),
    ("templates = {folder = {a = 'b'}}", "must be text"),
    ("templates = {'a b' = 'c'}", "is not a setting"),
    ("'lease.renew' = 5", "is not a setting"),
    ("'templates.folder' = 'x'", "is not a setting"),
    ("templates.a.b = 'x'", "must be text"),
    ('name_pattern = "["', "is not a regular expression: "),
    ('name_pattern = "(?P<"', "is not a regular expression: "),
    ("name_pattern = 1", "is not a regular expression: "),
    ('transfer = "Copy"', "must be one of copy, hardlink, reflink, symlink, move"),
    ("transfer = 1", "must be one of copy, hardlink, reflink, symlink, move"),
    ('transfer = ["copy"]', "must be one of copy, hardlink, reflink, symlink, move"),
    ('checksum = "md5"', "must be one of none, copied, all"),
    ('link_fallback = "move"', "must be one of refuse, copy"),
    ("link_writable = 0", "must be true or false"),
    ("symlink_outside = 1", "must be true or false"),
    ('symlink_outside = "true"', "must be true or false"),
    ("file_mode = 664.0", "must be a mode such as 0o664"),
    ('file_mode = "0664"', "must be a mode such as 0o664"),
    ("file_mode = true", "must be a mode such as 0o664"),
    ("file_mode = 0o377", "must be a mode such as 0o664"),
    ("file_mode = -1", "must be a mode such as 0o664"),
    ("folder_mode = 0o4000", "must be a mode such as 0o664"),
    ("keep_times = 0", "must be true or false"),
    ("create_assets = 'no'", "must be true or false"),
    ("workers = 0", "must be a whole number from 1 to 64"),
    ("workers = 65", "must be a whole number from 1 to 64"),
    ("workers = 2.0", "must be a whole number from 1 to 64"),
    ("workers = true", "must be a whole number from 1 to 64"),
    ("keep = 0", "must be seconds, or "),
    ("keep = -1", "must be seconds, or "),
    ("keep = nan", "must be seconds, or "),
    ("keep = inf", "must be seconds, or "),
    ("keep = true", "must be seconds, or "),
    ('keep = "7 d"', "must be seconds, or "),
    ('keep = "0d"', "must be seconds, or "),
    ('keep = "-1d"', "must be seconds, or "),
    ('keep = "3650d"', "must be seconds, or "),
    ('keep = "\u0661d"', "must be seconds, or "),
    ("settle = -1", "must be seconds, or "),
    ("attempts = -1", "must be a whole number from 0 to 10000 (0: no limit)"),
    ("attempts_per_host = 1.0", "must be a whole number from 0 to 10000 (0: no limit)"),
    ('missing_frames = "skip"', "must be one of refuse, allow"),
    ('default_root = "/show"', "cannot be set in the root's config.toml, only in the user's config.toml"),
    ('database = "mongodb://anna:secret@host/db"', "holds a password; credentials belong in INTEGRATOR_DATABASE or in /"),
    ("lease = {renew = 0}", "must be seconds, or "),
    ("lease = {takeover = '1 h'}", "must be seconds, or "),
    ("lease = {takeover_same_publish = -1}", "must be seconds, or "),
    ("lease = 20", "must be a table"),
    ("lease = {renw = 20}", "is not a setting"),
    ("wrokers = 2", "is not a setting; did you mean workers?"),
    ("[files]\nmode = 1", "is not a setting"),
    ("password = 'x'", "is not a setting"),
]


@pytest.mark.parametrize(("text", "what"), BAD, ids=[text for text, _ in BAD])
def test_what_is_refused_and_why(text: str, what: str) -> None:
    ((where, found),) = _problems("\n\n" + text)
    assert where == "config.toml:3"
    assert what in found


@pytest.mark.parametrize("text", ["format = true", "format = 1.0"])
def test_a_format_of_another_type_is_refused(text: str) -> None:
    _problems(text)


@pytest.mark.parametrize(
    "text",
    [
        'name_pattern = "a{99999999999999999999}"',
        "roots = " + "[" * 20_000 + "]" * 20_000,
        'name_pattern = "' + "(" * 20_000 + ")" * 20_000 + '"',
    ],
)
def test_what_no_parser_can_take_is_refused_too(text: str) -> None:
    _problems(text)


@pytest.mark.parametrize("text", ["renew = 1000\ntakeover = 10", "renew = 10\ntakeover = 10", "takeover = 20", "renew = 900"])
def test_a_renewal_slower_than_the_takeover_is_refused(text: str) -> None:
    """With `renew` above `takeover` every live holder looks gone between two renewals."""
    ((where, what),) = _problems("[lease]\n" + text)
    assert where == "config.toml:2"
    assert "lease.renew" in what
    assert "lease.takeover" in what


def test_all_mistakes_are_reported_at_once_with_their_lines() -> None:
    text = """# a comment with workers = 3
workers = 0

"keep" = -1
  transfer = "teleport"
[lease]
renew = "often"
[templates]
folder = 5
[nonsense]
"""
    lines = {what.partition(" ")[0]: int(where.partition(":")[2]) for where, what in _problems(text)}
    assert lines == {"workers": 2, "keep": 4, "transfer": 5, "lease.renew": 7, "templates.folder": 9, "nonsense": 10}


def test_the_line_of_an_inline_table_is_named() -> None:
    ((where, _),) = _problems("\n\nlease = {renew = 0}")
    assert where == "config.toml:3"


WRITTEN = [
    ("[lease]\nrenew = 0", 2), ("lease.renew = 0", 1), ("\n[ 'lease' ]\n\n\"renew\" = 0", 4), ("lease . \"renew\" = 0", 1),
    ('root_id = """\n[lease]\nrenew = 1"""\n[lease]\nrenew = 0', 5), ("lease = {takeover = 1e3, renew = 0}", 1),
    ("# renew = 0\n[templates]\nrenew = '0'\n[lease] # renew = 0\r\n# renew = 0\r\nrenew = 0\r\n", 6),
    ("[[a]]\n[a.b]\n[[a]]\nx = 1\n[lease]\nrenew = 0", 6), ("root_id = 'a\u2028b\x85c'\n[lease]\nrenew = 0", 3),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), WRITTEN)
def test_the_line_is_found_however_a_setting_is_written(text: str, line: int) -> None:
    assert [where for where, what in _problems(text) if what.startswith("lease.renew ")] == [f"config.toml:{line}"]


@pytest.mark.parametrize("text", ["\n\n[[nonsense]]\na = 1\n[[nonsense]]\na = 2", "\n\nnonsense.a = [\n1,\n2]\nnonsense.b = 1"])
def test_a_setting_on_several_lines_is_named_by_its_first(text: str) -> None:
    assert [where for where, _ in _problems(text)] == ["config.toml:3"]


def test_the_line_is_that_of_the_key_in_its_own_table() -> None:
    ((where, _),) = _problems('[roots]\nrenew = "/renew"\n[lease]\nrenew = 0')
    assert where == "config.toml:4"


@pytest.mark.parametrize(
    "text", ["workers = ", "= 1", "a = 1\na = 2", "[lease", 'a = "\0"', "a = 1 b = 2", 'a = """\nb = 1', "[a]\n[a]"]
)
def test_what_is_no_toml_is_refused_with_its_line(text: str) -> None:
    ((where, what),) = _problems("\n" + text)
    assert where == f"config.toml:{1 + len(text.splitlines())}"
    assert what.startswith("is not TOML: ")


def test_what_is_no_utf8_is_refused_with_its_line() -> None:
    with pytest.raises(SettingsRefused) as caught:
        load(b'workers = 1\nroot_id = "\xff"', "config.toml")
    assert list(caught.value.problems) == [("config.toml:2", "is not UTF-8")]


_KEYS = st.sampled_from(
    ["lease", "renew", "templates", "folder", "workers", "a", "'a b'", '"lease"', "lease.renew", '"lease.renew"', "a.b"]
)
_VALUES = st.sampled_from(
    [
        "1",
        "'x'",
        "[\n1, # ]\n2]",
        '"""\n[lease]\nrenew = 1\n"""',
        "'''\na = 1\n\n[[b]]'''",
        "{b = 1, c = {d = 2}}",
        '"\\"""',
        "[[1],\n[2]]",
    ]
)
_STATEMENTS = st.one_of(
    st.tuples(_KEYS, _VALUES).map(" = ".join),
    _KEYS.map("[{}]".format),
    _KEYS.map("[[{}]]".format),
    st.sampled_from(["", "# lease.renew = 0", "  \t", "\r"]),
)


@hypothesis.given(st.lists(_STATEMENTS, max_size=8))
def test_every_setting_of_any_valid_file_has_a_line_on_which_its_name_stands(statements: list[str]) -> None:
    text = "\n".join(statements)
    try:
        names = dict(settings_module._flat(settings_module.tomllib.loads(text)))
    except ValueError:
        hypothesis.reject()
    lines = settings_module._lines(text)
    starts = [1 + sum(statement.count("\n") + 1 for statement in statements[:n]) for n in range(len(statements))]
    assert lines.keys() >= names.keys()
    for name in names:
        last = name.rpartition(".")[2].strip("\"'")
        assert lines[name] in starts
        written = [text.split("\n")[line - 1] for line in starts if line <= lines[name]]
        assert any(last in line for line in written)


# --- levels -----------------------------------------------------------------------------------------------------------


def _survey(root: str = "", project: str = "") -> Any:
    sources = [Source(ROOT, "config.toml", root.encode()), Source(PROJECT, "demo.toml", project.encode())]
    return survey(sources)


def test_the_project_overrides_the_root_and_the_user_the_project_value_by_value(user: Path) -> None:
    user.write_text("settle = 3\n")
    found = _survey(
        'transfer = "move"\nsettle = 1\n[templates]\na = "1"\nb = "1"', 'transfer = "copy"\nsettle = 2\ntemplates.b = "2"'
    )
    assert found.problems == ()
    settings = found.settings()
    assert (settings.transfer, settings.settle, settings.templates) == ("copy", 3, {"a": "1", "b": "2"})
    assert [(given.value, given.level, given.where) for given in found.given["settle"]] == [
        (3, USER, f"{user}:1"), (2, PROJECT, "demo.toml:2"), (1, ROOT, "config.toml:2"), (0, DEFAULT, "default")
    ]  # fmt: skip


def test_mistakes_of_all_files_and_of_the_environment_are_reported_at_once(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user.write_text("\nworkers = 0\ntransfer = 'copy'")
    found = _survey("workers = 'x'\n\nkeep = 0", "a = = 1")
    assert [where for where, _ in found.problems] == ["config.toml:1", "config.toml:3", "demo.toml:1", f"{user}:2", f"{user}:3"]
    with pytest.raises(SettingsRefused) as caught:
        found.settings()
    assert caught.value.problems == found.problems


_GIVEN = {
    "group": "'vfx'",
    "format": "1", "root_id": "'f00d'", "default_root": "'/show'", "database": "'sqlite:///x'", "name_pattern": "'^a$'",
    "transfer": "'move'", "checksum": "'all'", "missing_frames": "'allow'", "link_fallback": "'copy'", "link_writable": "false",
    "symlink_outside": "true", "latest_link": "true", "reveal": "'early'",
    "file_mode": "0o600", "folder_mode": "0o700", "keep_times": "false", "create_assets": "false", "settle": "1", "attempts": "1",
    "after_commit": "['Notify']",
    "attempts_per_host": "1", "workers": "1", "keep": "1", "keep_failed": "1", "roots": "{a = '/a'}", "templates": "{a = 'a'}",
    "lease.renew": "1", "lease.takeover": "1000", "lease.takeover_same_publish": "1",
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_may_stand_only_where_the_table_says(name: str, user: Path) -> None:
    text = f"{name} = {_GIVEN[name]}"
    user.write_text("")
    assert bool(_survey(root=text).problems) == (ROOT not in SETTINGS[name].levels)
    assert bool(_survey(project=text).problems) == (PROJECT not in SETTINGS[name].levels)
    user.write_text(text)
    assert bool(_survey().problems) == (USER not in SETTINGS[name].levels)


def test_neither_a_project_nor_a_user_can_break_what_holds_for_all() -> None:
    whole = {"root_id", "database", "roots", "name_pattern", "keep", "keep_failed", "workers", "after_commit"} | {
        name for name in SETTINGS if "." in name
    }
    assert not [name for name in whole if PROJECT in SETTINGS[name].levels]
    assert {name for name in SETTINGS if USER in SETTINGS[name].levels} == {
        "format",
        "default_root",
        "database",
        "workers",
        "settle",
    }


def test_what_cannot_stand_there_says_where_it_can(user: Path) -> None:
    user.write_text("file_mode = 0o600")
    ((where, what),) = _survey().problems
    assert (where, what) == (
        f"{user}:1",
        "file_mode cannot be set in the user's config.toml, only in the root's config.toml or a project's file",
    )


def test_a_file_of_the_user_that_cannot_be_read_is_refused(user: Path) -> None:
    user.mkdir()
    assert _survey().problems == ((str(user), "cannot be read: Is a directory"),)


def test_the_environment_overrides_all_files(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user.write_text('database = "sqlite:///user"')
    assert _load('database = "sqlite:///root"').database == "sqlite:///user"
    monkeypatch.setenv("INTEGRATOR_DATABASE", "sqlite:///environment")
    found = _survey('database = "sqlite:///root"')
    assert [given.value for given in found.given["database"]] == ["sqlite:///environment", "sqlite:///user", "sqlite:///root", ""]
    assert found.given["database"][0].level == ENVIRONMENT
    monkeypatch.setenv("INTEGRATOR_DATABASE", "")
    assert _load('database = "sqlite:///root"').database == "sqlite:///user"


def test_the_user_and_the_environment_may_hold_a_password(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user.write_text('database = "mongodb://anna:secret@host"')
    assert _load("").database == "mongodb://anna:secret@host"
    monkeypatch.setenv("INTEGRATOR_DATABASE", "mongodb://bert:secret@host")
    assert _load("").database == "mongodb://bert:secret@host"


PASSWORDS = [
    "mongodb://anna:secret@host/db", "mongodb://anna:secret@one,two/db?x=1", "mongodb://:secret@host", "mongodb://anna:sec@ret@host",
    "mongodb://anna@home:secret@host", "mongodb://anna:secret/@host/db", "mongodb+srv://a:secret@host", "mongodb://h/?password=secret",
    "mongodb://h/?a=b&tlsCertificateKeyFilePassword=secret&c=d", "mongodb://anna:secret:x@host", "x://anna:\nsecret@host",
]  # fmt: skip


@pytest.mark.parametrize("url", PASSWORDS)
def test_a_password_is_never_shown_and_refused_in_the_file_of_a_root(url: str) -> None:
    assert "sec" not in without_password(url)
    assert [where for where, _ in _problems(f"\ndatabase = {json.dumps(url)}")] == ["config.toml:2"]


@hypothesis.given(st.text(min_size=3), st.text(alphabet=st.characters(exclude_characters=":/"), min_size=1))
def test_no_password_of_any_characters_is_shown(password: str, user: str) -> None:
    assert without_password(f"mongodb://{user}:{password}@host/db") == f"mongodb://{user}:***@host/db"


@pytest.mark.parametrize(
    "url", ["", "sqlite:///srv/a:b@c/publish.sqlite3", "mongodb://host:27017/db", "mongodb://anna@host/db?tls=true"]
)
def test_a_url_without_password_is_shown_as_it_is(url: str) -> None:
    assert without_password(url) == url


@pytest.mark.parametrize(
    ("text", "length"), [("90s", 90), ("15m", 900), ("24h", DAY), ("7d", 7 * DAY), ("0.5h", 1800), (0, 0), (2.5, 2.5)]
)
def test_durations(text: object, length: float) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if not setting.table])
def test_a_default_is_shown_as_a_file_would_have_it(name: str) -> None:
    setting = SETTINGS[name]
    if name != "default_root":  # "" stands for none
        value = settings_module.tomllib.loads(f"x = {setting.kind.show(setting.default)}")["x"]
        assert setting.kind.read(value) == setting.default


@hypothesis.given(st.floats(min_value=0, max_value=1e8) | st.integers(0, 10**8))
def test_a_duration_is_shown_so_that_it_reads_the_same(length: float) -> None:
    kind = SETTINGS["settle"].kind
    shown = settings_module.tomllib.loads(f"x = {kind.show(float(length))}")["x"]
    assert kind.read(shown) == pytest.approx(length, rel=1e-14)


def test_names_of_tables_and_of_their_values_are_told_apart() -> None:
    assert setting_of("templates") is setting_of("lease") is setting_of("templates.a.b") is setting_of("workers.a") is None
    assert setting_of("templates.folder") is SETTINGS["templates"]
    assert setting_of("lease.renew") is SETTINGS["lease.renew"]


def test_the_users_file_is_where_the_platform_has_it(user: Path) -> None:
    assert user_file() == str(user)


def test_settings_cannot_be_changed() -> None:
    found: Any = _load("")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.workers = 3
