"""Settings: every rule, all mistakes at once with their lines, and who overrides whom."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from integrator.errors import SettingsRefused
from integrator.settings import DAY, LeaseTimes, Settings, load, user_file


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
root_id = "f00d"
database = "sqlite:///local/publish.sqlite3"
name_pattern = "^[a-z]+$"
transfer = "hardlink"
checksum = "all"
link_fallback = "copy"
symlink_outside = true
file_mode = 0o640
folder_mode = 0o750
keep_times = false
create_assets = false
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
        "format": 1, "root_id": "f00d", "database": "sqlite:///local/publish.sqlite3", "roots": {"cache": "/cache"},
        "templates": {"version_padding": "4"}, "name_pattern": "^[a-z]+$", "transfer": "hardlink", "checksum": "all",
        "link_fallback": "copy", "symlink_outside": True, "file_mode": 0o640, "folder_mode": 0o750, "keep_times": False,
        "create_assets": False, "workers": 8, "keep": 3600, "keep_failed": 7200, "settle": 60, "attempts": 3,
        "attempts_per_host": 1,
        "lease": {"renew": 5, "takeover": 60.5, "takeover_same_publish": 10},
    }  # fmt: skip
    assert found == expected
    unchanged = [name for name, value in attrs.asdict(Settings()).items() if found[name] == value]
    assert unchanged == ["format"]


GOOD = [
    'transfer = "copy"', 'transfer = "hardlink"', 'transfer = "reflink"', 'transfer = "symlink"', 'transfer = "move"',
    'checksum = "none"', 'checksum = "copied"', 'checksum = "all"', "workers = 1", "workers = 64", "file_mode = 0o400",
    "file_mode = 0o3777", "keep = 0.5", "roots = {}", "templates = {}", 'roots = {a = "/"}', "lease = {}",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_what_is_allowed(text: str) -> None:
    _load(text)


BAD = [
    ("format = 2", "is a format that this program does not know"),
    ("format = 0", "is a format that this program does not know"),
    ('format = "1"', "is a format that this program does not know"),
    ("root_id = 1", "must be text"),
    ("database = true", "must be text"),
    ('roots = "/cache"', "must be a table of texts"),
    ("roots = {cache = 1}", "must be a table of texts"),
    ('roots = {cache = "cache", good = "/good", dot = "./x"}', "must be absolute paths: cache, dot"),
    ("templates = []", "must be a table of texts"),
    ("templates = {folder = 1}", "must be a table of texts"),
    ("templates = {folder = {a = 'b'}}", "must be a table of texts"),
    ('name_pattern = "["', "is not a regular expression: "),
    ('name_pattern = "(?P<"', "is not a regular expression: "),
    ("name_pattern = 1", "is not a regular expression: "),
    ('transfer = "Copy"', "must be one of copy, hardlink, reflink, symlink, move"),
    ("transfer = 1", "must be one of copy, hardlink, reflink, symlink, move"),
    ('transfer = ["copy"]', "must be one of copy, hardlink, reflink, symlink, move"),
    ('checksum = "md5"', "must be one of none, copied, all"),
    ('link_fallback = "move"', "must be one of refuse, copy"),
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
    ("keep = 0", "must be a number of seconds above 0"),
    ("keep = -1", "must be a number of seconds above 0"),
    ("keep = nan", "must be a number of seconds above 0"),
    ("keep = inf", "must be a number of seconds above 0"),
    ("keep = true", "must be a number of seconds above 0"),
    ('keep = "7d"', "must be a number of seconds above 0"),
    ("lease = {renew = 0}", "must be a number of seconds above 0"),
    ("lease = {takeover = '1h'}", "must be a number of seconds above 0"),
    ("lease = {takeover_same_publish = -1}", "must be a number of seconds above 0"),
    ("lease = 20", "is not a setting"),
    ("lease = {renw = 20}", "is not a setting"),
    ("wrokers = 2", "is not a setting"),
    ("[files]\nmode = 1", "is not a setting"),
    ("password = 'x'", "is not a setting"),
]


@pytest.mark.parametrize(("text", "what"), BAD, ids=[text for text, _ in BAD])
def test_what_is_refused_and_why(text: str, what: str) -> None:
    ((where, found),) = _problems("\n\n" + text)
    assert where == "config.toml:3"
    assert found.partition(" ")[2].startswith(what)


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
    assert where == "config.toml"
    assert "lease.renew" in what
    assert "lease.takeover" in what


def test_a_renewal_slower_than_the_takeover_of_another_file_is_refused_too(user: Path) -> None:
    user.write_text("[lease]\nrenew = 50")
    assert _load("[lease]\ntakeover = 51").lease.renew == 50
    ((where, _),) = _problems("[lease]\ntakeover = 50")
    assert where == str(user)
    user.write_text("workers = 1")
    ((where, _),) = _problems("[lease]\ntakeover = 20")
    assert where == "config.toml"


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
    assert lines == {"workers": 2, "keep": 4, "transfer": 5, "lease.renew": 7, "templates": 8, "nonsense": 10}


def test_the_line_of_an_inline_table_is_named() -> None:
    ((where, _),) = _problems("\n\nlease = {renew = 0}")
    assert where == "config.toml:3"


WRITTEN = [
    ("[lease]\nrenew = 0", 2), ("lease.renew = 0", 1), ("\n[ 'lease' ]\n\n\"renew\" = 0", 4), ("lease . \"renew\" = 0", 1),
    ('root_id = """\n[lease]\nrenew = 1"""\n[lease]\nrenew = 0', 5), ("lease = {takeover = 5, renew = 0}", 1),
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


@pytest.mark.parametrize("text", ["workers = ", "= 1", "a = 1\na = 2", "[lease", 'a = "\0"', "a = 1 b = 2"])
def test_what_is_no_toml_is_refused_with_its_line(text: str) -> None:
    ((where, what),) = _problems("\n" + text)
    assert where == "config.toml"
    assert re.search(r"line [12]|end of document", what)


def test_what_is_no_utf8_is_refused() -> None:
    with pytest.raises(SettingsRefused):
        load(b'root_id = "\xff"', "config.toml")


def test_the_user_overrides_the_root_setting_by_setting(user: Path) -> None:
    user.write_text('transfer = "hardlink"\n[lease]\nrenew = 5\n')
    found = _load('transfer = "move"\nworkers = 7\n[lease]\nrenew = 10\ntakeover = 100\n')
    assert (found.transfer, found.workers) == ("hardlink", 7)
    assert found.lease == LeaseTimes(renew=5, takeover=100)


def test_mistakes_of_the_user_name_the_users_file(user: Path) -> None:
    user.write_text("\nworkers = 0")
    ((where, _),) = _problems("")
    assert where == f"{user}:2"


def test_the_environment_overrides_both(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user.write_text('database = "sqlite:///user"')
    assert _load('database = "sqlite:///root"').database == "sqlite:///user"
    monkeypatch.setenv("INTEGRATOR_DATABASE", "sqlite:///environment")
    assert _load('database = "sqlite:///root"').database == "sqlite:///environment"
    monkeypatch.setenv("INTEGRATOR_DATABASE", "")
    assert _load('database = "sqlite:///root"').database == "sqlite:///user"


def test_the_users_file_is_where_the_platform_has_it(user: Path) -> None:
    assert user_file() == str(user)


def test_settings_cannot_be_changed() -> None:
    found: Any = _load("")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.workers = 3
