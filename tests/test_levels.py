"""Settings where they take effect: a project's own in its publishes, templates that keep projects apart, `integrator config`."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import xxhash
from studio import Studio
from test_cli import Run

import integrator
from integrator import errors, queries
from integrator.errors import NotARoot, SettingsRefused, ValidationRefused
from integrator.layout import FOLDER, HERO_FOLDER, Layout, prove_apart
from integrator.root import create_root, find_root, open_root
from integrator.settings import SETTINGS, USER, user_file

_HERE = "{root[work]}/{project[name]}/{hierarchy}/{asset}/%s/{subset}/{@version}"


def project(studio: Studio, text: str, name: str = "demo") -> Path:
    """Give a project settings of its own."""
    path = Path(studio.path, f".integrator/projects/{name}.toml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def config(studio: Studio, text: str) -> Path:
    path = Path(studio.path, ".integrator/config.toml")
    path.write_text(path.read_text() + text)
    return path


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "user"))
    path = Path(user_file())
    path.parent.mkdir(parents=True)
    return path


def publish(studio: Studio, where: str = "demo", /, **representation: Any) -> Path:
    """Publish one camera in a project; returns its version directory."""
    wanted = {"name": "abc", "files": [f"{studio.sources}/cam.abc"], **representation}
    instance = {"asset": "sh010", "subset": "camera", "family": "camera", "representations": [wanted]}
    with studio.open() as root:
        request = {"schema": "integrator:publish-request-1.0", "project": where, "instances": [instance]}
        return Path(integrator.publish(request, root).versions[0].path)


def checksums(studio: Studio, version: Path) -> set[str]:
    """What the documents say of the files of a version."""
    inside = f"/{version.relative_to(studio.path)}/"
    files = (file for document in studio.documents().values() for file in document.get("files", []))
    return {file["checksum"] for file in files if inside in file["path"]}


def checksum_of(path: Path) -> str:
    return xxhash.xxh3_128_hexdigest(path.read_bytes())


def refusals(studio: Studio, **options: Any) -> list[tuple[str, str]]:
    with pytest.raises(SettingsRefused) as caught:
        publish(studio, **options)
    assert caught.value.exit_code == 2
    return [tuple(problem) for problem in caught.value.problems]


# --- a project's settings in its publishes ----------------------------------------------------------------------------


def test_a_project_has_its_own_transfer_modes_and_checksums_and_others_do_not(studio: Studio) -> None:
    project(studio, 'transfer = "hardlink"\nchecksum = "none"\nfile_mode = 0o640\nfolder_mode = 0o750\n')
    linked, copied = publish(studio), publish(studio, "other")
    [ours], [theirs] = list(linked.iterdir()), list(copied.iterdir())
    assert ours.samefile(f"{studio.sources}/cam.abc")
    assert not theirs.samefile(f"{studio.sources}/cam.abc")
    assert stat.S_IMODE(linked.stat().st_mode) == 0o750
    assert (stat.S_IMODE(copied.stat().st_mode), stat.S_IMODE(theirs.stat().st_mode)) == (0o2775, 0o664)
    own = publish(studio, transfer="copy")
    [copy] = own.iterdir()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640  # the mode stays the project's; how it is brought in, the request says
    assert (checksums(studio, own), checksums(studio, copied)) == ({""}, {checksum_of(theirs)})
    assert studio.leftovers() == []


def test_missing_frames_are_a_setting_of_root_and_project_that_a_request_overrides(studio: Studio, tmp_path: Path) -> None:
    for frame in (1, 2, 4):
        (tmp_path / f"a.{frame:04d}.exr").write_bytes(b"pixels")
    wanted = {"name": "exr", "files": [f"{tmp_path}/a.%04d.exr"]}
    with pytest.raises(ValidationRefused, match="lacks the frames 3"):
        publish(studio, **wanted)
    project(studio, 'missing_frames = "allow"')
    assert len(list(publish(studio, **wanted).iterdir())) == 3
    with pytest.raises(ValidationRefused, match="lacks the frames 3"):
        publish(studio, "other", **wanted)
    with pytest.raises(ValidationRefused, match="lacks the frames 3"):
        publish(studio, **wanted, missing_frames="refuse")


def test_a_project_says_whether_links_fall_back_and_assets_are_made(studio: Studio) -> None:
    project(studio, "create_assets = false", "closed")
    with pytest.raises(ValidationRefused, match="no such project"):
        publish(studio, "closed")
    project(studio, 'link_fallback = "copy"\ntransfer = "reflink"')
    [file] = publish(studio).iterdir()
    assert file.read_bytes() == b"cache" * 100


def test_a_publish_that_is_put_together_has_the_settings_of_its_project(studio: Studio) -> None:
    project(studio, "file_mode = 0o600\n[templates]\nversion_padding = '5'")
    with studio.open() as root, root.begin(project="demo") as transaction:
        version = transaction.new_version(asset="a", subset="b", family="model")
        version.write("b.txt", b"text")
    path = Path(version.final_path("b.txt"))
    assert path.parent.name == "v00001"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_all_projects_share_what_the_root_was_opened_with(studio: Studio) -> None:
    project(studio, "attempts = 3")
    with studio.open() as root:
        config(studio, "workers = 9\n")
        own = root.of_project("demo")
        assert (own.settings.workers, own.settings.attempts) == (2, 3)
        assert own.engine.database is root.engine.database
        assert own.engine.effects is root.engine.effects


def test_the_project_file_is_read_for_each_publish(studio: Studio) -> None:
    with studio.open() as root:
        assert root.of_project("demo") is root
        project(studio, "workers = 3")
        with pytest.raises(SettingsRefused):
            root.of_project("demo")
        project(studio, "attempts = 3")
        assert root.of_project("demo").settings.attempts == 3
        assert root.of_project("other") is root
        assert root.of_project("../projects/demo") is root
        assert root.of_project("d" * 255) is root


def test_a_broken_project_file_stops_its_publishes_and_no_others(studio: Studio) -> None:
    path = project(studio, "keep = 1\n\ntransfer = 'teleport'\n")
    before = studio.tree()
    assert refusals(studio) == [
        (f"{path}:1", "keep cannot be set in a project's file, only in the root's config.toml"),
        (f"{path}:3", "transfer must be one of copy, hardlink, reflink, symlink, move"),
    ]
    assert studio.tree() == before
    publish(studio, "other")
    assert studio.recover() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_project_file_that_cannot_be_read_is_not_ignored(studio: Studio) -> None:
    project(studio, "").chmod(0)
    assert "cannot be read" in refusals(studio)[0][1]


def test_a_folder_in_the_place_of_the_project_file_is_not_ignored(studio: Studio) -> None:
    project(studio, "", "other").rename(Path(studio.path, ".integrator/projects/x"))
    Path(studio.path, ".integrator/projects/demo.toml").mkdir()
    assert refusals(studio)[0][1] == "cannot be read: Is a directory"


# --- templates --------------------------------------------------------------------------------------------------------


def test_versions_of_a_project_with_other_templates_are_numbered_found_and_kept(studio: Studio) -> None:
    project(studio, f"[templates]\nfolder = '{_HERE % 'out'}'\nversion = 'take{{version}}'\n")
    first, second = publish(studio), publish(studio)
    assert [path.name for path in (first, second)] == ["take1", "take2"]
    with studio.open() as root:
        inside = os.path.relpath(first, studio.path)
        assert root.is_kept(f"{inside}/cam.abc")
        assert not root.is_kept("demo/sh010/cam.abc")
        (first.parent / "take9.tmp.0123").mkdir()
        assert [place.path for place, _ in queries.staging_directories(root)] == [f"{os.path.dirname(inside)}/take9.tmp.0123"]
        (first.parent / "take9.tmp.0123").rmdir()
    assert studio.leftovers() == []


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('[templates]\nfolder = "{asset}"', 2, "must start with {root[NAME]}/"),
        (f"[templates]\nversion_padding = '4'\nfolder = '{_HERE.replace('/{subset}', '') % 'x'}'", 3, "{subset} must be in a"),
        ("[templates]\nversion = '{@version}'", 2, "leads back to itself"),
        ("templates.file = '<'", 1, "unbalanced"),
        (
            "\ntemplates.fodler = 'x'",
            2,
            "templates.fodler is neither one of folder, file, hero_folder, hero_file nor an inner link",
        ),
        (
            "templates.folder = '{root[work]}/shows/{project[name]}/{hierarchy}/{asset}/{subset}/{@version}'",
            1,
            "begin like those",
        ),
    ],
)
def test_a_wrong_template_of_a_project_is_refused_with_file_and_line(studio: Studio, text: str, line: int, what: str) -> None:
    path = project(studio, text)
    [(where, found)] = refusals(studio)
    assert where == f"{path}:{line}"
    assert what in found


def test_a_wrong_template_of_the_root_is_refused_together_with_everything_else(studio: Studio) -> None:
    path = config(studio, "keep = 0\n[templates]\nfolder = '{root[work]}/x'\nwrong = 5\n")
    with pytest.raises(SettingsRefused) as caught:
        open_root(studio.path)
    lines = len(path.read_text().splitlines())
    assert sorted(where for where, _ in caught.value.problems) == [f"{path}:{lines - n}" for n in (3, 1, 0)]


def _layout(folder: str = FOLDER, hero: str = HERO_FOLDER) -> Layout:
    return Layout(folder=folder, hero_folder=hero)


def test_templates_that_begin_alike_keep_projects_apart() -> None:
    ours, other = _HERE % "out", HERO_FOLDER.replace("publish", "out")
    prove_apart(_layout(ours, other), _layout())
    prove_apart(_layout(ours.replace("work", "fast"), other.replace("work", "fast")), _layout())
    shows = [text.replace("]}/{project", "]}/shows/{project", 1) for text in (ours, other, FOLDER, HERO_FOLDER)]
    prove_apart(_layout(*shows[:2]), _layout(*shows[2:]))
    inside = "{root[work]}/{hierarchy}/{project[name]}/{asset}/{subset}/"
    prove_apart(_layout(inside + "{@version}", inside + "hero"), _layout(inside + "{@version}", inside + "hero"))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        # demo's "shows/demo/..." is where a project "shows" has its hierarchy "demo".
        (("{root[work]}/shows/{project[name]}/{hierarchy}/{asset}/{subset}/{@version}", HERO_FOLDER), (FOLDER, HERO_FOLDER)),
        ((FOLDER, "{root[work]}/hero/{project[name]}/{hierarchy}/{asset}/{subset}/hero"), (FOLDER, HERO_FOLDER)),
        (("{root[work]}/{hierarchy}/{project[name]}/{asset}/{subset}/{@version}", HERO_FOLDER), (FOLDER, HERO_FOLDER)),
        (("{root[work]}/x{project[name]}/{hierarchy}/{asset}/{subset}/{@version}", HERO_FOLDER), (FOLDER, HERO_FOLDER)),
    ],
)
def test_templates_by_which_two_projects_could_meet_are_refused(ours: tuple[str, str], theirs: tuple[str, str]) -> None:
    for first, second in ((ours, theirs), (theirs, ours)):
        with pytest.raises(errors.TemplateRefused, match="so that projects stay apart"):
            prove_apart(_layout(*first), _layout(*second))


# --- user -------------------------------------------------------------------------------------------------------------


def test_the_preferred_root_of_a_user_is_used_where_nothing_else_names_one(
    studio: Studio, user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotARoot):
        find_root(str(tmp_path))
    user.write_text(f"default_root = {json.dumps(studio.path)}")
    assert find_root(str(tmp_path)) == studio.path
    create_root(str(tmp_path / "near")).close()
    assert find_root(str(tmp_path / "near")) == str(tmp_path / "near")
    user.write_text("default_root = 'relative'")
    with pytest.raises(SettingsRefused):
        find_root(str(tmp_path))


def test_a_user_cannot_break_the_rules_of_the_house(studio: Studio, user: Path) -> None:
    user.write_text("file_mode = 0o777\n[templates]\nversion_padding = '1'\n")
    problems = refusals(studio)
    assert [where for where, _ in problems] == [f"{user}:1", f"{user}:3"]
    assert all("only in the root's config.toml or a project's file" in what for _, what in problems)


def test_a_root_is_not_made_with_a_password_in_its_file(tmp_path: Path) -> None:
    run = Run("init", str(tmp_path / "show"), "--database", "mongodb://anna:secret@host/db")
    assert (run.code, run.out) == (2, "")
    assert "config.toml:4: database holds a password" in run.err
    assert "secret" not in run.err
    assert not (tmp_path / "show").exists()


def test_project_settings_that_strangers_can_write_are_refused(studio: Studio) -> None:
    project(studio, "").parent.chmod(0o777)
    with pytest.raises(errors.RootRefused, match="anybody can write"):
        open_root(studio.path)


# --- integrator config ------------------------------------------------------------------------------------------------


def shown(studio: Studio, *words: str, **options: Any) -> Run:
    return Run("config", "--root", studio.path, *words, **options)


def test_config_prints_every_setting_with_its_value(studio: Studio) -> None:
    config(studio, "workers = 5\n")
    run = shown(studio)
    assert (run.code, run.err) == (0, "")
    lines = dict(line.split(" = ", 1) for line in run.out.splitlines())
    assert (lines["workers"], lines["file_mode"], lines["keep"], lines["lease.takeover"]) == ("5", "0o664", '"7d"', '"15m"')
    assert json.loads(lines["templates.folder"]) == FOLDER
    assert lines.keys() >= {name for name, setting in SETTINGS.items() if not setting.table}


def test_explain_says_where_each_value_comes_from_and_what_it_overrides(studio: Studio, user: Path) -> None:
    path = config(studio, 'settle = 3\ntransfer = "move"\n')
    project(studio, '# of demo\n[templates]\nversion_padding = "4"\n')
    user.write_text('settle = "1m"\n')
    line = len(path.read_text().splitlines())
    run = shown(studio, "--explain", "--project", "demo", env={"INTEGRATOR_DATABASE": f"sqlite://{studio.folder}/x"})
    assert run.code == 0
    for wanted in (
        f"# config.toml: {path}",
        f"# user file: {user}",
        f"# project file: {studio.path}/.integrator/projects/demo.toml",
        f'transfer = "move"  # config.toml:{line}\n#   overrides "copy" (default)\nchecksum = "copied"  # default',
        f'settle = "1m"  # user file:1\n#   overrides "3s" (config.toml:{line - 1})\n#   overrides 0 (default)',
        'templates.version_padding = "4"  # projects/demo.toml:3\n#   overrides "3" (default)',
        f'database = "sqlite://{studio.folder}/x"  # environment, INTEGRATOR_DATABASE\n#   overrides "" (default)',
    ):
        assert wanted in run.out
    other = shown(studio, "--explain", "--project", "other").out
    assert 'templates.version_padding = "3"  # default' in other
    assert "projects/other.toml (not there)" in other


@pytest.mark.parametrize("words", [[], ["--explain"], ["--json"], ["--explain", "--json"], ["-v", "--explain"]])
def test_config_never_prints_a_password(words: list[str], studio: Studio, user: Path) -> None:
    user.write_text('database = "mongodb://anna:secret@host/a"')
    run = shown(studio, *words, env={"INTEGRATOR_DATABASE": "mongodb://bert:secret@host/b"})
    assert run.code == 0
    assert "mongodb://bert:***@host/b" in run.out
    assert ("mongodb://anna:***@host/a" in run.out) == ("--explain" in words)
    assert "secret" not in run.out + run.err


def test_config_is_one_json_document(studio: Studio) -> None:
    path = config(studio, 'keep = "1h"\n')
    plain = shown(studio, "--json").json
    assert set(plain) == {"root", "project", "settings", "problems"}
    assert (plain["root"], plain["project"], plain["problems"]) == (studio.path, None, [])
    assert (plain["settings"]["keep"], plain["settings"]["file_mode"]) == (3600, 0o664)
    explained = shown(studio, "--json", "--explain", "--project", "demo").json
    assert explained["project"] == "demo"
    assert explained["sources"]["keep"] == [
        {"value": 3600, "level": "root", "where": f"{path}:{len(path.read_text().splitlines())}"},
        {"value": 604800, "level": "default", "where": "default"},
    ]


@pytest.mark.parametrize("words", [["config"], ["config", "--explain", "--project", "demo"], ["config", "--json"]])
def test_config_works_where_the_settings_are_broken_and_gives_all_mistakes(words: list[str], studio: Studio, user: Path) -> None:
    path = config(studio, "".join(f"wrong{n} = 1\n" for n in range(60)) + "workers = 3\n")
    own = project(studio, "[templates\n")
    user.write_text("\n\nkeep = 1")
    run = Run(*words, "--root", studio.path)
    first = len(path.read_text().splitlines()) - 60
    wanted = [f"{path}:{first + n}: wrong{n} is not a setting" for n in range(60)]
    wanted.append(f"{user}:3: keep cannot be set in the {USER}'s config.toml, only in the root's config.toml")
    if "--project" in words:
        wanted.append(f"{own}:1: is not TOML: ")
    assert run.code == 2
    assert [line for line in wanted if line not in run.err] == []
    if "--json" in words:
        assert len(run.json["problems"]) == len(wanted)
        assert run.json["settings"]["workers"] == 3
    else:
        assert "\nworkers = 3" in run.out
    assert Run("status", "--root", studio.path).code == 2


def test_config_of_what_cannot_be_a_project_or_is_no_root_is_refused(studio: Studio, tmp_path: Path) -> None:
    assert shown(studio, "--project", "../demo").code == 2
    run = Run("config", "--root", str(tmp_path))
    assert run.code == 2
    assert "is not a publish root" in run.err
