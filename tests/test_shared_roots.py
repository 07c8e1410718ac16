"""An artist, a farm and an administrator, each with a user id of their own, settle each other's work in one shared root."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from people import ADMINISTRATOR, ARTIST, FARM, GROUP, Person, Place, as_root, place

pytestmark = [pytest.mark.root, as_root]

__all__ = ["place"]


@pytest.fixture
def shared(place: Place) -> Place:
    made = ADMINISTRATOR.integrator("init", place.show, "--shared", "--group", str(GROUP))
    assert made.code == 0, made.err
    return place


def calls_of(person: Person, place: Place, where: str = "") -> list[str]:
    """Calls of a publish of a subset that is not there yet, in a project that is."""
    for subset in ("historyOne", "historyTwo"):
        done = person.publish(place.show, place.request(person, subset), where=where)
    return [text.partition("(")[0] for text in json.loads(done.out)]


#: Opens the database, so that its log and its index are there, and waits for the end of its standard input.
_HOLD = "import sys, time; from integrator.root import open_root; r = open_root(sys.argv[1]); r.engine.database.now();"
_HOLD += "r.engine.database.commit([]); print('open', flush=True); time.sleep(60)"


@pytest.mark.parametrize("people", [(ARTIST, FARM), (FARM, ARTIST)], ids=["077 first", "022 first"])
def test_everything_is_the_groups_whatever_the_umask(shared: Place, people: tuple[Person, Person]) -> None:
    first, second = people
    child = first.start(sys.executable, "-c", _HOLD, shared.show)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        for person in (first, second, first):
            done = person.publish(shared.show, shared.request(person))
            assert done.code == 0, done.err
        state = Path(shared.show, ".integrator")
        assert {"publish.sqlite3", "publish.sqlite3-wal", "publish.sqlite3-shm"} <= {path.name for path in state.iterdir()}
        assert shared.wrong() == []
        assert second.integrator("check", "--root", shared.show, "--checksums").code == 0
    finally:
        child.kill()
        child.communicate()


def test_an_index_that_one_made_can_be_used_and_made_again_by_the_other(shared: Place) -> None:
    for person in (ARTIST, FARM, ADMINISTRATOR, ARTIST):
        assert person.publish(shared.show, shared.request(person)).code == 0
    published = FARM.integrator("versions", "demo", "--root", shared.show, "--json").json["versions"]
    assert [version["version"] for version in published] == [1, 2, 3, 4]


@pytest.mark.parametrize("people", [(ARTIST, FARM), (FARM, ADMINISTRATOR)], ids=["077-022", "022-077"])
def test_what_one_was_killed_over_the_other_recovers(shared: Place, people: tuple[Person, Person]) -> None:
    """Killed at a sample of all calls, before and after the verdict."""
    killed, recovering = people
    calls = len(calls_of(killed, shared))
    outcomes = set()
    for number in range(2, calls + 1, max(1, calls // 5)):
        dead = killed.publish(shared.show, shared.request(killed), kill_at=number)
        assert dead.code == -9, dead.err
        assert shared.wrong() == []
        settled = recovering.integrator("recover", "--root", shared.show, "--json")
        assert settled.code == 0, settled.out + settled.err
        outcomes |= {entry["outcome"] for entry in settled.json["settled"]}
        assert shared.wrong() == []
    assert "rolled_back" in outcomes
    assert recovering.integrator("check", "--root", shared.show).code == 0
    assert recovering.publish(shared.show, shared.request(recovering)).code == 0


def test_in_a_host_the_umask_counts_for_the_one_moment_between_two_calls(shared: Place) -> None:
    """A library cannot change the umask of its host: what is made then is its owner's alone, and recovery says so."""
    said, before = [], set[str]()
    calls = calls_of(ARTIST, shared, "host")
    for number in [number for number, name in enumerate(calls, 1) if name == "set_mode"][:4]:
        assert ARTIST.publish(shared.show, shared.request(ARTIST), number, "host").code == -9
        assert len(set(shared.wrong()) - before) == 1
        settled = FARM.integrator("recover", "--root", shared.show)
        if settled.code:
            assert settled.code == 6
            assert "whoever owns it, or root, can mend that" in settled.out + settled.err
            [unfinished] = FARM.integrator("status", "--root", shared.show, "--json").json["unfinished"]
            assert ARTIST.integrator("recover", unfinished["transaction"], "--root", shared.show).code == 0
            said.append(number)
        before = set(shared.wrong())
        assert all("/history/" in path for path in before)
    assert said
    assert FARM.integrator("check", "--root", shared.show).code == 0
    assert FARM.integrator("sweep", "--older-than", "0", "--root", shared.show).code == 0


def test_the_command_line_leaves_the_group_its_part_of_every_mode(shared: Place) -> None:
    code = (
        "import argparse, os, sys; from integrator.cli import Call; from integrator.cli.console import Console\n"
        "console = Console(json=False, command='status')\n"
        "Call('status', argparse.Namespace(root=sys.argv[1]), console, None).root(); print(os.umask(0))"
    )
    assert ARTIST.call(sys.executable, "-c", code, shared.show).out == "2\n"


def test_what_an_extractor_wrote_with_another_umask_is_the_groups_too(shared: Place) -> None:
    code = (
        "import os, sys, integrator\n"
        "with integrator.open_root(sys.argv[1]) as root, root.begin(project='demo') as assembly:\n"
        "    version = assembly.new_version(asset='hero', subset='modelMain', family='model')\n"
        "    os.makedirs(f'{version.path}/cache/deep')\n"
        "    open(f'{version.path}/cache/deep/hero.abc', 'w').write('cache')\n"
        "    version.adopt('cache/deep/hero.abc')\n"
    )
    done = ARTIST.call(sys.executable, "-c", code, shared.show)
    assert done.code == 0, done.err
    assert shared.wrong() == []


def test_one_rolls_back_and_sweeps_what_another_left(shared: Place) -> None:
    calls = len(calls_of(ARTIST, shared))
    assert ARTIST.publish(shared.show, shared.request(ARTIST), kill_at=calls // 2).code == -9
    [left] = FARM.integrator("status", "--root", shared.show, "--json").json["unfinished"]
    assert FARM.integrator("rollback", left["transaction"], "--root", shared.show).code == 0
    replace = (
        "import sys, integrator\n"
        "with integrator.open_root(sys.argv[1]) as root, root.begin(project='demo') as assembly:\n"
        "    assembly.replace_file(f'{root.path}/demo/edit.json', sys.argv[2].encode())\n"
    )
    for person, text in ((ARTIST, "of the artist"), (FARM, "of the farm")):
        done = person.call(sys.executable, "-c", replace, shared.show, text)
        assert done.code == 0, done.err
    assert Path(shared.show, "demo/edit.json").read_text() == "of the farm"
    assert shared.wrong() == []
    swept = ADMINISTRATOR.integrator("sweep", "--root", shared.show, "--older-than", "0", "--json")
    assert swept.code == 0, swept.err
    assert {entry["kind"] for entry in swept.json["swept"]} == {"trash"}
    assert os.listdir(f"{shared.show}/demo/.integrator/trash") == []
    assert list(Path(shared.show, ".integrator/history").rglob("*.journal.gz"))
    assert shared.wrong() == []


@pytest.mark.parametrize("mode", [0o444, 0o644], ids=oct)
def test_a_link_to_the_file_of_another_is_refused_before_the_first_write(shared: Place, mode: int) -> None:
    assert Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1", "NOT TESTED: fs.protected_hardlinks is 0 here"
    done = FARM.integrator("publish", *said(shared, ARTIST, "hardlink", mode))
    assert done.code == 3
    assert "fs.protected_hardlinks" in done.err
    assert "use copy" in done.err
    assert 'link_fallback = "copy"' in done.err
    assert sorted(os.listdir(shared.show)) == [".integrator"]
    config = Path(shared.show, ".integrator/config.toml")
    config.write_text(config.read_text() + 'link_fallback = "copy"\n')
    assert FARM.integrator("publish", *said(shared, ARTIST, "hardlink", mode)).code == 0
    assert {path.stat().st_nlink for path in Path(shared.show).rglob("*.abc")} == {1}


def test_a_link_to_a_file_that_the_group_may_write_is_made(shared: Place) -> None:
    assert FARM.integrator("publish", *said(shared, ARTIST, "hardlink", 0o664)).code == 0
    assert {path.stat().st_nlink for path in Path(shared.show).rglob("*.abc")} == {2}


def said(place: Place, owner: Person, transfer: str, mode: int) -> list[str]:
    """Words of a publish of files of `owner`."""
    [pattern] = place.request(owner, mode=mode)["instances"][0]["representations"][0]["files"]
    shot = ("--project", "demo", "--asset", "hero", "--subset", "cacheHair", "--family", "pointcache")
    return [*shot, "--transfer", transfer, "--root", place.show, pattern]


def test_setuid_bits_of_sources_are_not_carried_over(shared: Place) -> None:
    request = shared.request(ARTIST, mode=0o6755)
    assert ARTIST.publish(shared.show, request).code == 0
    assert {path.stat().st_mode & 0o7777 for path in Path(shared.show).rglob("*.abc")} == {0o664}
    assert FARM.integrator("publish", *said(shared, ARTIST, "hardlink", 0o6755)).code == 3


def test_who_is_not_in_the_group_cannot_share_a_root_with_it(place: Place) -> None:
    os.chmod(place.path, 0o777)
    stranger = Person(uid=41009, umask=0o022, gid=41009)
    done = stranger.integrator("init", place.show, "--shared", "--group", str(GROUP))
    assert done.code == 2
    assert "must be in the group" in done.err
    assert not Path(place.show, ".integrator").exists()


@pytest.mark.parametrize("words", [["--shared"], ["--group", "41000"], ["--shared", "--group", "no-such-group"]])
def test_a_shared_root_needs_a_group_that_is_there(place: Place, words: list[str]) -> None:
    done = ADMINISTRATOR.integrator("init", place.show, *words)
    assert done.code == 2
    assert "group" in done.err
    assert not Path(place.show).exists()


def test_a_root_is_shared_from_the_start_or_not_by_init(shared: Place) -> None:
    again = ADMINISTRATOR.integrator("init", shared.show, "--shared", "--group", str(GROUP))
    assert again.code == 2
    assert "config.toml" in again.err


def test_a_state_folder_of_another_group_is_refused(shared: Place) -> None:
    state = Path(shared.show, ".integrator/journal")
    os.chown(state, 41009, 41009)
    done = FARM.integrator("status", "--root", shared.show)
    assert done.code == 2
    assert f"chown --reference={shared.show} {state}" in done.err


#: Renders frames under the umask of whoever runs it: the pattern, the first frame and the last.
_RENDER = """
import sys
for frame in range(int(sys.argv[2]), int(sys.argv[3]) + 1):
    with open(sys.argv[1] % frame, "wb") as file:
        file.write(b"frame %d" % frame * 1000)
"""


def test_what_one_reserves_a_second_renders_a_third_publishes_and_a_kill_loses_nothing(shared: Place) -> None:
    """Umasks 077, 022 and 077; the publish is killed at a sample of its calls, and settled by somebody else."""
    representation = {"name": "exr", "files": ["{staging}/demo_hero_renderBeauty_v001.%04d.exr"]}
    instance = {"asset": "hero", "subset": "renderBeauty", "family": "render", "representations": [representation]}
    request = {"schema": "integrator:publish-request-1.0", "project": "demo", "publish_id": "farm-1", "instances": [instance]}
    path = Path(shared.path, "request.json")
    path.write_text(json.dumps(request))
    path.chmod(0o644)
    reserved = ARTIST.integrator("reserve", str(path), "--root", shared.show, "--json")
    assert reserved.code == 0, reserved.err
    [version] = reserved.json["versions"]
    assert FARM.call(sys.executable, "-c", _RENDER, version["representations"][0]["staged"][0], "1001", "1006").code == 0
    for kill_at in (4, 9, 12, 15, 18):
        assert ADMINISTRATOR.publish(shared.show, request, kill_at=kill_at).code == -9
        settled = ARTIST.integrator("recover", "--root", shared.show, "--json")
        assert settled.code == 0, settled.out + settled.err
    done = FARM.integrator("publish", str(path), "--root", shared.show, "--json")
    assert done.code == 0, done.err
    [published] = done.json["versions"]
    assert published["version"] == 1
    assert [Path(file).read_bytes() for file in published["representations"][0]["files"]] == [
        b"frame %d" % frame * 1000 for frame in range(1001, 1007)
    ]
    assert ADMINISTRATOR.integrator("check", "--root", shared.show, "--checksums").code == 0


@pytest.mark.parametrize("people", [(ARTIST, FARM), (FARM, ARTIST)], ids=["077-022", "022-077"])
def test_a_publish_that_was_killed_under_one_user_is_resumed_by_another(shared: Place, people: tuple[Person, Person]) -> None:
    killed, resuming = people
    calls = json.loads(killed.publish(shared.show, shared.request(killed, "historyOne")).out)
    third = next(number for number, call in enumerate(calls, 1) if call.startswith("create") and "0003" in call)
    request = {**shared.request(killed), "publish_id": "farm-1"}
    assert killed.publish(shared.show, request, kill_at=third + 4).code == -9
    [attempt] = resuming.integrator("status", "--root", shared.show, "--json").json["unfinished"]
    done = resuming.integrator("resume", attempt["transaction"], "--root", shared.show, "--json")
    assert done.code == 0, done.err
    assert done.json["outcome"] == "published"
    owners = [os.stat(path).st_uid for path in done.json["versions"][0]["representations"][0]["files"]]
    assert owners.count(killed.uid) >= 2, "what the first had copied was taken over"
    assert shared.wrong() == []
    assert ADMINISTRATOR.integrator("check", "--root", shared.show, "--checksums").code == 0
