"""Hero versions and amended versions: replaced in one instant, and no document ever names a file that is not there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from studio import Studio
from test_crash import exchange, exchange_request, prepare_exchange

import integrator
from integrator import ledger, operations
from integrator.database import PROJECT, TRANSACTIONS, Update
from integrator.errors import ExpectationFailed, IntegratorError, UsageError, ValidationRefused
from integrator.recovery import recover
from integrator.reservation import reserve
from integrator.root import Root
from integrator.storage import Storage
from integrator.testing import Fate, Killed
from integrator.transaction import Transaction

SUBSETS = ("look", "cache")
PUBLISHED = "demo/shots/sq01/sh010/publish"


@pytest.fixture
def prepared(studio: Studio) -> Studio:
    """A studio with two subsets and their hero versions; `exchange` replaces both, and amends one."""
    prepare_exchange(studio)
    return studio


def missing_files(root: Root) -> list[str]:
    """Files that documents name, one way or another, and that are not there."""
    missing = []
    for document in root.engine.database.find(f"{PROJECT}demo", {"type": "representation"}):
        paths = [file["path"].replace("{root[work]}", root.path) for file in document["files"]]
        missing += [path for path in [*paths, document["data"]["path"]] if not os.path.exists(path)]
        if not paths:
            missing.append(f"no file of {document['name']}")
    return missing


def wrong_first_files(root: Root) -> list[str]:
    """Representations whose template, filled in with their context, is not their first file."""
    from integrator.layout import Template

    wrong = []
    for document in root.engine.database.find(f"{PROJECT}demo", {"type": "representation"}):
        context = document["context"] | {"root": {"work": "{root[work]}"}}
        if isinstance(context.get("udim"), list):
            context["udim"] = context["udim"][0]
        filled, first = Template(document["data"]["template"]).format(context), next(iter(document["files"]))["path"]
        if filled != first or os.path.basename(document["data"]["path"]) != os.path.basename(first):
            wrong.append(f"{filled} is not {first}")
    return wrong


def names(run: Studio, *parts: str) -> set[str]:
    """Files below a folder of the shot, relative to it."""
    folder = Path(run.path, PUBLISHED, *parts)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def amended_versions(root: Root) -> list[dict[str, Any]]:
    found = root.documents("demo", {"type": "version", "name": 1})
    return [document for document in found if "amended" in document["data"]["integrator"]]


# --- what is exchanged ----------------------------------------------------------------------------------------------


def test_an_amended_version_has_the_new_files_and_those_that_nobody_asked_to_replace(prepared: Studio) -> None:
    before = names(prepared, "look/look/v001")
    own = Path(prepared.path, PUBLISHED, "look/look/v001/notes.md")
    own.write_text("somebody's own")
    with prepared.open() as root:
        exchange(prepared, root)
        found = root.resolve("demo", "sh010", "look", 1)
    assert {entry.name: len(entry.files) for entry in found.representations} == {
        "grows": 5,
        "shrinks": 1,
        "differs": 1,
        "stays": 1,
    }
    documented = {os.path.relpath(file, found.path) for entry in found.representations for file in entry.files}
    assert names(prepared, "look/look/v001") == documented | {"notes.md"}
    assert own.read_text() == "somebody's own"
    [trash] = Path(prepared.path, "demo/.integrator/trash").rglob("*.v001")
    assert {path.name for path in trash.iterdir()} == before | {"notes.md"}, "the old content is kept whole"
    assert prepared.leftovers() == []


def test_what_stays_of_an_amended_version_is_the_very_same_file(prepared: Studio) -> None:
    kept = Path(prepared.path, PUBLISHED, "look/look/v001/demo_sh010_look_v001.1001.exr")
    before = kept.stat()
    with prepared.open() as root:
        exchange(prepared, root)
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_hero_version_has_the_files_of_its_version_and_those_of_others(prepared: Studio) -> None:
    with prepared.open() as root:
        exchange(prepared, root)
        hero, version = (root.resolve("demo", "sh010", "cache", which) for which in ("hero", 2))
    assert [entry.name for entry in hero.representations] == ["exr"]
    linked = zip(hero.representations[0].files, version.representations[0].files)
    assert all(os.path.samefile(one, other) for one, other in linked)
    assert names(prepared, "cache/cache/hero") == {
        *(f"demo_sh010_cache_hero.{frame}.exr" for frame in (1006, 1007, 1008)), "deep/er/cam.abc", "notes.txt",
    }  # fmt: skip
    assert os.readlink(Path(prepared.path, PUBLISHED, "cache/cache/latest")) == "v002"
    assert os.readlink(Path(prepared.path, PUBLISHED, "look/look/latest")) == "v001"


def test_folders_of_others_stay_as_they_are_in_what_is_exchanged(prepared: Studio) -> None:
    places = [Path(prepared.path, PUBLISHED, "look/look", name) for name in ("v001", "hero")]
    for place in places:
        (place / "notes/empty").mkdir(parents=True)
        (place / "private").mkdir()
        (place / "private/list.txt").write_text("somebody's own")
        (place / "private").chmod(0o500)
    with prepared.open() as root:
        exchange(prepared, root)
    for place in places:
        assert (place / "notes/empty").is_dir()
        assert stat.S_IMODE((place / "private").stat().st_mode) == 0o500
        assert (place / "private/list.txt").read_text() == "somebody's own"
    with prepared.open() as root:
        assert missing_files(root) == []
    assert prepared.leftovers() == []


def test_links_of_others_stay_as_they_were_written(prepared: Studio) -> None:
    """In the hero and in the amended version, also one that leads nowhere yet."""
    targets = {"look/look/hero/a": "./notes.txt", "look/look/hero/b": "../v001//x", "look/look/v001/c": "./nowhere"}
    for path, target in targets.items():
        os.symlink(target, Path(prepared.path, PUBLISHED, path))
    with prepared.open() as root:
        exchange(prepared, root)
    assert {path: os.readlink(Path(prepared.path, PUBLISHED, path)) for path in targets} == targets


def test_documents_keep_their_ids_and_what_other_programs_wrote_into_them(prepared: Studio) -> None:
    def representations(root: Root) -> dict[tuple[str, str], Any]:
        found = root.documents("demo", {"type": "representation"})
        return {(document["parent"]["$oid"], document["name"]): document for document in found}

    with prepared.open() as root:
        before = representations(root)
        root.engine.database.commit(
            [
                Update(collection=f"{PROJECT}demo", id=document["_id"], expect={}, set={"data.ftrack": "x", "sync": 7})
                for document in before.values()
            ]
        )
        exchange(prepared, root)
        after = representations(root)
        assert wrong_first_files(root) == []
    assert {name: document["_id"] for name, document in before.items()}.items() <= {
        name: document["_id"] for name, document in after.items()
    }.items()
    assert {document["data"]["ftrack"] for name, document in after.items() if name in before} == {"x"}
    assert {document["sync"] for name, document in after.items() if name in before} == {7}


def test_amending_leaves_its_traces_in_the_version(prepared: Studio) -> None:
    with prepared.open() as root:
        exchange(prepared, root)
        [version] = amended_versions(root)
    ours = version["data"]["integrator"]
    assert [(entry["publish_id"], entry["comment"], entry["author"]) for entry in ours["amended"]] == [("job", "again", "anna")]
    assert ours["publish_id"] == "before"
    assert "amending" not in ours


def test_amended_twice_and_asked_again_it_is_answered_as_it_is(prepared: Studio) -> None:
    with prepared.open() as root:
        first = integrator.publish(exchange_request(prepared, "job"), root)
        again = integrator.publish(exchange_request(prepared, "job"), root)
        assert again.outcome == "already_published"
        assert again.document()["versions"] == first.document()["versions"]
        assert integrator.publish(exchange_request(prepared, "more"), root).outcome == "published"
        [version] = amended_versions(root)
    assert len(version["data"]["integrator"]["amended"]) == 2
    assert prepared.leftovers() == []


def test_a_lower_version_that_is_published_later_is_not_the_latest(prepared: Studio) -> None:
    with prepared.open() as root:
        for number in (7, 3):
            request = exchange_request(prepared, f"pinned-{number}")
            request["instances"] = [{**request["instances"][1], "version": number, "hero": False}]
            integrator.publish(request, root)
    assert os.readlink(Path(prepared.path, PUBLISHED, "cache/cache/latest")) == "v007"


# --- refused before anything is written -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"amend": 5}, "v005 of demo/shots/sq01/sh010/look: is not published"),
        ({"amend": 1, "subset": "other"}, "is not published"),
        ({"amend": 1, "representations": [{"name": "new", "files": ["{sources}/cam.abc"], "output": "stays"}]},
         "is a file of the representation stays"),
    ],
)  # fmt: skip
def test_what_cannot_be_amended_is_refused_and_leaves_everything_as_it_is(
    prepared: Studio, change: dict[str, Any], said: str
) -> None:
    before = (prepared.tree(), prepared.documents())
    request = exchange_request(prepared, "job")
    changed = json.loads(json.dumps(change).replace("{sources}", prepared.sources))
    request["instances"] = [{**request["instances"][0], **changed}]
    with prepared.open() as root, pytest.raises(ValidationRefused) as refused:
        integrator.publish(request, root)
    assert said in refused.value.message
    assert (prepared.tree(), prepared.documents()) == before
    assert prepared.leftovers() == []


def test_a_version_that_another_program_published_cannot_be_amended(prepared: Studio) -> None:
    with prepared.open() as root:
        [version] = root.documents("demo", {"type": "version", "data.integrator.publish_id": "before"}, limit=1)
        foreign = {**version, "data": {"families": ["look"]}, "name": 9, "_id": {"$oid": "0" * 24}}
        root.engine.database.commit([integrator.database.Insert(collection=f"{PROJECT}demo", document=foreign)])
        request = exchange_request(prepared, "job")
        subset = root.engine.database.read(f"{PROJECT}demo", version["parent"])
        assert subset is not None
        amended = next(entry for entry in request["instances"] if entry["subset"] == subset["name"])
        request["instances"] = [{**amended, "amend": 9}]
        with pytest.raises(ValidationRefused, match="another program put it"):
            integrator.publish(request, root)


@pytest.mark.parametrize("folder", ["v001", "hero"])
def test_nothing_becomes_a_link_into_a_folder_that_is_exchanged(prepared: Studio, folder: str) -> None:
    """After the exchange it would lead to itself."""
    request = exchange_request(prepared, "job")
    source = next(Path(prepared.path, PUBLISHED, "look/look", folder).glob("*.abc"))
    linked = {"name": "abc", "files": [str(source)], "transfer": "symlink"}
    request["instances"] = [{**request["instances"][0], "amend": 1, "hero": True, "representations": [linked]}]
    before = (prepared.tree(), prepared.documents())
    with prepared.open() as root, pytest.raises(ValidationRefused, match="is in a folder that is replaced"):
        integrator.publish(request, root)
    assert (prepared.tree(), prepared.documents()) == before


def test_a_version_whose_folder_is_gone_cannot_be_amended(prepared: Studio) -> None:
    """It would be made of the new files alone."""
    folder = Path(prepared.path, PUBLISHED, "look/look/v001")
    shutil.rmtree(folder)
    request = exchange_request(prepared, "job")
    request["instances"] = [{**request["instances"][0], "hero": False}]
    with prepared.open() as root, pytest.raises(ValidationRefused, match="is not there, so it cannot be amended"):
        integrator.publish(request, root)
    assert not folder.exists()


def test_a_reservation_promises_no_amended_version(prepared: Studio) -> None:
    with prepared.open() as root, pytest.raises(UsageError, match="nothing to reserve"):
        reserve(exchange_request(prepared, "job"), root, seconds=60)


def test_a_folder_called_latest_is_nobody_elses_to_replace(prepared: Studio) -> None:
    link = Path(prepared.path, PUBLISHED, "cache/cache/latest")
    link.unlink()
    link.mkdir()
    with prepared.open() as root, pytest.raises(ValidationRefused, match="is no symbolic link"):
        exchange(prepared, root)
    assert link.is_dir()
    assert prepared.leftovers() == []


# --- at every instant -----------------------------------------------------------------------------------------------


class Looking:
    """A hook that looks, at every call that changes anything, for what a reader must never see."""

    def __init__(self, run: Studio) -> None:
        self._run = run
        self.looks = 0

    def __call__(self, number: int, call: str) -> None:
        with self._run.open() as root:
            for subset in SUBSETS:
                assert Path(root.path, PUBLISHED, subset, subset, "hero").is_dir(), call
            assert missing_files(root) == [], call
            assert wrong_first_files(root) == [], call
        self.looks += 1


def test_at_no_call_does_a_document_name_a_file_that_is_not_there(prepared: Studio) -> None:
    looking = Looking(prepared)
    with prepared.open(Fate(hook=looking)) as root:
        exchange(prepared, root)
    assert looking.looks > 100
    assert prepared.leftovers() == []


def test_nor_where_the_old_and_the_new_frames_and_tiles_only_overlap(prepared: Studio) -> None:
    """Then the documents are made smaller at the verdict: their first file, its frame and their tiles change with it."""

    def overlapping(publish_id: str, frames: str, *tiles: int) -> dict[str, Any]:
        folder = Path(prepared.folder, publish_id)
        folder.mkdir()
        for tile in tiles:
            (folder / f"wood.{tile}.tx").write_bytes(b"wood" * tile)
        entries = [
            {"name": "exr", "files": [f"{prepared.sources}/beauty.%04d.exr"], "frames": frames},
            {"name": "tx", "files": [f"{folder}/wood.<UDIM>.tx"]},
        ]
        request = exchange_request(prepared, publish_id)
        return {**request, "instances": [{**request["instances"][1], "representations": entries}]}

    with prepared.open() as root:
        integrator.publish(overlapping("one", "1001-1004", 1001, 1002, 1011), root)
    looking = Looking(prepared)
    seen: list[tuple[str, list[str]]] = []

    def look(number: int, call: str) -> None:
        looking(number, call)
        with prepared.open() as root:
            [hero] = [entry for entry in root.documents("demo", {"type": "hero_version"}) if "/cache/" in str(entry["data"])]
            parts = {entry["name"]: entry for entry in root.documents("demo", {"type": "representation", "parent": hero["_id"]})}
            state = (parts["exr"]["context"]["frame"], parts["tx"]["context"]["udim"])
            seen.extend([state] if state not in seen else [])

    with prepared.open(Fate(hook=look)) as root:
        integrator.publish(overlapping("two", "1003-1006", 1002, 1011, 1012), root)
    old, smaller, new = ["1001", "1002", "1011"], ["1002", "1011"], ["1002", "1011", "1012"]
    assert seen == [("1001", old), ("1003", smaller), ("1003", new)]
    assert prepared.leftovers() == []


def test_nor_while_somebody_else_finishes_what_was_killed_after_the_verdict(prepared: Studio) -> None:
    whole = Fate()
    done = prepared.fresh("done")
    with done.open(whole) as root:
        exchange(done, root)
    [verdict] = [n for n, call in enumerate(whole.calls, 1) if "state=committed" in call]
    looks = []
    for number in range(verdict, len(whole.calls) + 1):
        run = prepared.fresh("killed")
        root = run.open(Fate(kill_at=number, when="after"), owner=run.dead)
        with contextlib.suppress(Killed):
            exchange(run, root)
        root.close()
        looking = Looking(run)
        run.recover(Fate(hook=looking))
        looks.append(looking.looks)
        assert run.leftovers() == []
        run.remove()
    assert sum(looks) > 100


def test_a_reader_that_polls_all_the_time_finds_every_file_that_documents_name(prepared: Studio) -> None:
    """In another thread, through handles of its own, while heroes and amended versions come and go."""
    ended, found, looks = threading.Event(), list[str](), [0]

    def poll() -> None:
        with integrator.open_reader(prepared.path) as reader:
            while not ended.is_set():
                for document in reader.documents("demo", {"type": "representation"}):
                    paths = [file["path"].replace("{root[work]}", prepared.path) for file in document["files"]]
                    gone = [path for path in paths if not os.path.exists(path)]
                    # The document may have changed between the two looks: then it is the new one that counts.
                    now = reader.database.read(f"{PROJECT}demo", document["_id"]) if gone else None
                    if now is not None and now["files"] == document["files"]:
                        found.extend(gone)
                looks[0] += 1
                time.sleep(0.001)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        with prepared.open() as root:
            for n in range(6):
                request = exchange_request(prepared, f"job-{n}")
                frames = "1001-1004" if n % 2 else "1007-1010"
                request["instances"][1]["representations"][0]["frames"] = frames
                integrator.publish(request, root)
    finally:
        ended.set()
        thread.join()
    assert looks[0] > 5
    assert found == []
    assert prepared.leftovers() == []


def test_hero_and_trash_are_as_the_last_commit_left_them_wherever_it_was_killed(prepared: Studio) -> None:
    """The hero is that of the last committed version, and the trash holds the whole one before it."""
    old = {subset: names(prepared, subset, subset, "hero") for subset in SUBSETS}
    whole = Fate()
    done = prepared.fresh("done")
    with done.open(whole) as root:
        exchange(done, root)
    for number in range(1, len(whole.calls) + 1, 2):
        run = prepared.fresh("killed")
        root = run.open(Fate(kill_at=number, when="after"), owner=run.dead)
        with contextlib.suppress(Killed):
            exchange(run, root)
        root.close()
        run.recover()
        with run.open() as root:
            [transaction] = root.engine.database.find(TRANSACTIONS, {"former_publish_id": "job"}) or root.engine.database.find(
                TRANSACTIONS, {"publish_id": "job"}
            ) or [{"_id": "none", "state": "none"}]  # fmt: skip
        trash = Path(run.path, "demo/.integrator/trash", transaction["_id"])
        kept = {subset: {str(path.relative_to(hero)) for path in hero.rglob("*") if not path.is_dir()}
                for hero in trash.glob("*.hero") for subset in SUBSETS if next(hero.glob(f"*_{subset}_*"), None)}  # fmt: skip
        now = {subset: names(run, subset, subset, "hero") for subset in SUBSETS}
        if transaction["state"] == "finished":
            assert now == {subset: names(done, subset, subset, "hero") for subset in SUBSETS}
            assert kept == old, whole.calls[number - 1]
        else:
            assert now == old
            assert kept == {}
        run.remove()


def test_an_exchange_that_somebody_else_made_is_durable_before_it_is_called_finished(prepared: Studio) -> None:
    """Its owner died between the last rename and the first sync: a power cut could still take the renames back."""
    whole = Fate()
    done = prepared.fresh("done")
    with done.open(whole) as root:
        exchange(done, root)
    last = max(n for n, call in enumerate(whole.calls, 1) if ".latest'" in call and call.startswith("rename"))
    root = prepared.open(Fate(kill_at=last, when="after"), owner=prepared.dead)
    with contextlib.suppress(Killed):
        exchange(prepared, root)
    root.close()
    fate = Fate()
    prepared.recover(fate)
    [finished] = [n for n, call in enumerate(fate.calls) if "state=finished" in call]
    synced = [call for call in fate.calls[:finished] if call.startswith("sync(")]
    assert len([call for call in synced if "(trash)" in call]) >= 4, "the folder of the private names, for each exchange"
    assert len([call for call in synced if call in ("sync(look)", "sync(cache)")]) >= 4, "the folder of the final names"


def test_a_version_that_another_program_changes_meanwhile_is_not_amended(prepared: Studio) -> None:
    before = prepared.tree()

    def meddle(number: int, call: str) -> None:
        if "state=committed" in call:
            with prepared.open() as root:
                found = root.documents("demo", {"type": "version", "name": 1})
                [version] = [entry for entry in found if entry["data"]["families"] == ["look"]]
                root.engine.database.commit(
                    [
                        Update(
                            collection=f"{PROJECT}demo",
                            id=version["_id"],
                            expect={},
                            set={"data.integrator.transaction": "other"},
                        )
                    ]
                )

    with prepared.open(Fate(hook=meddle)) as root, pytest.raises(ExpectationFailed):
        exchange(prepared, root)
    assert prepared.tree() == before
    assert prepared.leftovers() == []


def test_what_another_program_writes_into_a_document_just_before_the_end_is_kept(prepared: Studio) -> None:
    """Between the read and the write that completes it: the write is refused, and made again from what is there now."""
    met: list[str] = []

    def meddle(number: int, call: str) -> None:
        if "state=finished" in call and not met:
            with prepared.open() as root:
                for document in root.documents("demo", {"type": "representation", "name": "grows"}):
                    met.append(document["_id"]["$oid"])
                    change = Update(collection=f"{PROJECT}demo", id=document["_id"], expect={}, set={"data.ftrack": "x"})
                    root.engine.database.commit([change])

    with prepared.open(Fate(hook=meddle)) as root:
        exchange(prepared, root)
        found = root.documents("demo", {"type": "representation", "name": "grows"})
    assert len(met) == 2, "of the version and of its hero"
    assert [(document["data"].get("ftrack"), len(document["files"])) for document in found] == [("x", 5), ("x", 5)]
    assert prepared.leftovers() == []


# --- file systems that cannot exchange ------------------------------------------------------------------------------


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(Storage, "exchange", refuse)


@pytest.mark.usefixtures("no_exchange")
def test_without_an_exchange_it_is_killed_and_overtaken_anywhere_all_the_same(prepared: Studio) -> None:
    whole = Fate()
    done = prepared.fresh("done")
    with done.open(whole) as root:
        exchange(done, root)
    assert done.leftovers() == []
    new = done.tree()
    [verdict] = [n for n, call in enumerate(whole.calls, 1) if "state=committed" in call]
    for number in range(verdict, len(whole.calls) + 1):
        killed = prepared.fresh("killed")
        root = killed.open(Fate(kill_at=number, when="after"), owner=killed.dead)
        with contextlib.suppress(Killed):
            exchange(killed, root)
        root.close()
        killed.recover()
        assert killed.tree().keys() == new.keys(), whole.calls[number - 1]
        assert killed.leftovers() == []
        killed.remove()


def test_whoever_wakes_up_late_exchanges_nothing_again(prepared: Studio) -> None:
    """At each call after the verdict the owner sleeps; somebody finishes, another publishes the next ones; the owner wakes."""
    whole = Fate()
    done = prepared.fresh("done")
    with done.open(whole) as root:
        exchange(done, root)
    [verdict] = [n for n, call in enumerate(whole.calls, 1) if "state=committed" in call]
    for number in range(verdict + 1, len(whole.calls) + 1):
        run = prepared.fresh("late")
        seen: list[object] = []

        def others(at: int, call: str, run: Studio = run, number: int = number, seen: list[object] = seen) -> None:
            if at != number:
                return
            with run.open() as root:
                root.engine.database._clock = lambda: time.time() + 10_000.0  # type: ignore[attr-defined]
                assert all(settled.outcome in ("finished", "rolled_back") for settled in recover(root.engine))
            with run.open() as root:
                integrator.publish(exchange_request(run, "next"), root)
            seen.append((run.tree(), run.documents()))

        root = run.open(Fate(hook=others))
        with contextlib.suppress(IntegratorError, OSError):
            exchange(run, root)
        root.close()
        assert seen == [(run.tree(), run.documents())], whole.calls[number - 1]
        assert run.leftovers() == []
        run.remove()


def test_an_owner_that_wakes_up_in_the_middle_of_what_a_killed_recoverer_did_swaps_nothing_back(prepared: Studio) -> None:
    whole = Fate()
    done = prepared.fresh("done")
    with done.open(whole) as root:
        exchange(done, root)
    new = done.tree()
    exchanges = [n for n, call in enumerate(whole.calls, 1) if call.startswith("exchange(")]
    assert len(exchanges) == 4, "a version, two heroes, a link"
    for number in exchanges[:2]:
        for depth in range(2, 30):
            run = prepared.fresh("late")

            def others(at: int, call: str, run: Studio = run, number: int = number, depth: int = depth) -> None:
                if at == number:
                    with run.open(Fate(kill_at=depth, when="after"), owner=run.dead) as root, contextlib.suppress(Killed):
                        plain = root.engine.database.database  # type: ignore[attr-defined]
                        plain._clock = lambda: time.time() + 10_000.0
                        recover(root.engine)

            root = run.open(Fate(hook=others))
            with contextlib.suppress(IntegratorError, OSError):
                exchange(run, root)
            root.close()
            run.recover()
            assert run.tree() == new, (whole.calls[number - 1], depth)
            assert run.leftovers() == []
            run.remove()


@pytest.mark.usefixtures("no_exchange")
def test_without_an_exchange_whoever_wakes_up_late_takes_nothing_away(prepared: Studio) -> None:
    test_whoever_wakes_up_late_exchanges_nothing_again(prepared)


# --- other ways to it -----------------------------------------------------------------------------------------------


def test_a_hero_is_part_of_what_a_failed_publish_takes_back(prepared: Studio) -> None:
    before = (prepared.tree(), prepared.documents())
    with prepared.open() as root:
        shutil.copy(f"{prepared.sources}/cam.abc", f"{prepared.sources}/changing.abc")
        request = exchange_request(prepared, "job")
        request["instances"][1]["representations"].append(
            {"name": "late", "files": [f"{prepared.sources}/changing.abc"], "output": "late"}
        )
        root.engine.storage.sync_filesystem = lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "disk"))  # type: ignore[method-assign]
        with pytest.raises(IntegratorError):
            integrator.publish(request, root)
    assert (prepared.tree(), prepared.documents()) == before
    assert prepared.leftovers() == []


def test_an_adopted_reservation_has_a_hero_and_goes_on_without_it_after_a_failure(prepared: Studio) -> None:
    request = exchange_request(prepared, "farm")
    request["instances"] = request["instances"][1:]
    with prepared.open() as root:
        reserve(request, root, seconds=600)
        plain = root.engine.storage.sync_filesystem
        root.engine.storage.sync_filesystem = lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "disk"))  # type: ignore[method-assign]
        with pytest.raises(IntegratorError):
            integrator.publish(request, root)
        root.engine.storage.sync_filesystem = plain  # type: ignore[method-assign]
        assert len(ledger.reservations(root.engine.database)[0]["directories"]) == 1
        assert integrator.publish(request, root).versions[0].version == 2
        assert root.resolve("demo", "sh010", "cache", "hero").version == 2
    assert prepared.leftovers() == []


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_nobody_elses_to_replace_by_a_hero(prepared: Studio, kind: str) -> None:
    hero = Path(prepared.path, PUBLISHED, "cache/cache/hero")
    hero.rename(hero.with_name("elsewhere"))
    hero.write_text("somebody's own") if kind == "file" else hero.symlink_to("elsewhere")
    before = prepared.tree()
    with prepared.open() as root, pytest.raises(ValidationRefused, match="is no folder"):
        exchange(prepared, root)
    assert prepared.tree() == before


def test_frames_in_a_folder_of_the_version_are_amended_there(prepared: Studio) -> None:
    shot = {"asset": "sh010", "hierarchy": "shots/sq01", "subset": "sim", "family": "look", "hero": True}
    folder = Path(prepared.path, PUBLISHED, "look/sim/v001")
    names = [f"frames/demo_sh010_sim_v001.{frame}.exr" for frame in range(1001, 1005)]
    with prepared.open() as root:
        for chosen, amend in ((names[:2], None), (names[2:], 1)):
            with root.begin(project="demo") as assembly:
                version = assembly.new_version(**shot, amend=amend)
                Path(version.path, "frames").mkdir()
                for name in chosen:
                    Path(version.path, name).write_text(name)
                version.adopt(chosen, "exr")
            assert missing_files(root) == wrong_first_files(root) == []
        with pytest.raises(ValidationRefused, match="in another folder"), root.begin(project="demo") as assembly:
            version = assembly.new_version(**shot, amend=1)
            version.copy(f"{prepared.sources}/beauty.%04d.exr", frames="1002-1003")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.exr")) == names
    assert prepared.leftovers() == []


def test_a_disk_that_cannot_be_asked_before_the_verdict_rolls_it_back(prepared: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look and the verdict: what the exchange will replace cannot be told."""
    before = (prepared.tree(), prepared.documents())

    def fail(name: str, at: int) -> list[int]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with prepared.open() as root:
        plain = Transaction._directory_exchanges

        def cut(self: Transaction) -> Any:
            monkeypatch.setattr(operations, "identity_list", fail)
            return plain(self)

        monkeypatch.setattr(Transaction, "_directory_exchanges", cut)
        with pytest.raises(IntegratorError):
            exchange(prepared, root)
        monkeypatch.undo()
    assert (prepared.tree(), prepared.documents()) == before
    assert prepared.leftovers() == []


def test_a_reservation_whose_publish_was_killed_keeps_nothing_of_its_hero(prepared: Studio) -> None:
    request = exchange_request(prepared, "farm")
    request["instances"] = request["instances"][1:]
    with prepared.open() as root:
        reserve(request, root, seconds=600)
    whole = Fate()
    count = prepared.fresh("count")
    with count.open(whole) as root:
        integrator.publish(request, root)
    [verdict] = [n for n, call in enumerate(whole.calls, 1) if "state=committed" in call]
    root = prepared.open(Fate(kill_at=verdict, when="before"), owner=prepared.dead)
    with contextlib.suppress(Killed):
        integrator.publish(request, root)
    root.close()
    with prepared.open() as root:
        assert integrator.publish(request, root).versions[0].version == 2
    assert prepared.leftovers() == []
