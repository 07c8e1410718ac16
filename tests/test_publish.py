"""What a publish brings in, refuses and writes down."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import xxhash
from studio import Studio

import integrator
from integrator.database import PROJECT
from integrator.errors import (
    Failed,
    RequestRefused,
    SourceChanged,
    StagingChanged,
    UsageError,
    ValidationRefused,
    VersionTaken,
)
from integrator.layout import Template
from integrator.results import failed
from integrator.root import Root, create_root, open_root
from integrator.testing import Fate


def ask(root: Root, *representations: dict[str, Any], **instance: Any) -> integrator.results.PublishedVersion:  # type: ignore[name-defined]
    """Publish one instance and return its version."""
    return integrator.publish(whole(*representations, **instance), root).versions[0]


def whole(*representations: dict[str, Any], publish_id: str | None = None, **instance: Any) -> dict[str, Any]:
    """A request with one publish instance."""
    return {
        "publish_id": publish_id,
        "schema": "integrator:publish-request-1.0",
        "project": "demo",
        "author": "anna",
        "instances": [
            {"asset": "hero", "subset": "main", "family": "model", "representations": list(representations), **instance}
        ],
    }


@pytest.fixture
def root(studio: Studio) -> Any:
    with studio.open() as opened:
        yield opened


def names(version: Any, representation: int = 0) -> list[str]:
    return list(version.representations[representation].names)


# --- ways of bringing files in --------------------------------------------------------------------------------------


def test_a_copy_has_content_mode_and_time_of_policy(studio: Studio, root: Root) -> None:
    os.utime(f"{studio.sources}/cam.abc", (1_000_000, 1_000_000))
    os.chmod(f"{studio.sources}/cam.abc", 0o6755)
    previous = os.umask(0o077)
    try:
        version = ask(root, {"name": "abc", "files": [f"{studio.sources}/cam.abc"]})
    finally:
        os.umask(previous)
    [path] = version.representations[0].files
    status = os.stat(path)
    assert Path(path).read_bytes() == b"cache" * 100
    assert status.st_mode & 0o7777 == 0o664, "neither the umask nor a setuid bit of the source counts"
    assert status.st_mtime == 1_000_000
    assert os.stat(version.path).st_mode & 0o7777 == 0o2775


def test_a_hard_link_is_the_source_itself_and_stays_as_it_is(studio: Studio, root: Root) -> None:
    before = os.stat(f"{studio.sources}/cam.abc")
    [path] = ask(root, {"name": "abc", "files": [f"{studio.sources}/cam.abc"], "transfer": "hardlink"}).representations[0].files
    after = os.stat(path)
    assert (after.st_ino, after.st_mode, after.st_mtime_ns, after.st_uid) == (
        before.st_ino, before.st_mode, before.st_mtime_ns, before.st_uid,
    )  # fmt: skip


def test_a_symbolic_link_is_relative_and_only_inside_the_root(studio: Studio, root: Root) -> None:
    inside = Path(root.path, "library.abc")
    inside.write_bytes(b"library")
    [path] = ask(root, {"name": "abc", "files": [str(inside)], "transfer": "symlink"}).representations[0].files
    assert not os.path.isabs(os.readlink(path))
    assert Path(path).read_bytes() == b"library"
    with pytest.raises(ValidationRefused, match="outside the root"):
        ask(root, {"name": "abc", "files": [f"{studio.sources}/cam.abc"], "transfer": "symlink"})


def test_a_moved_source_is_removed_after_the_verdict_and_not_before(studio: Studio) -> None:
    source = Path(studio.folder, "own.abc")
    source.write_bytes(b"own")
    seen = []

    def hook(number: int, call: str) -> None:
        if "state=committed" in call:
            seen.append(source.exists())

    with studio.open(Fate(hook=hook)) as root:
        [path] = ask(root, {"name": "abc", "files": [str(source)], "transfer": "move"}).representations[0].files
    assert seen == [True]
    assert not source.exists()
    assert Path(path).read_bytes() == b"own"


def test_a_file_that_somebody_saved_over_a_moved_source_is_put_back(studio: Studio) -> None:
    source = Path(studio.folder, "own.abc")
    source.write_bytes(b"own")

    def hook(number: int, call: str) -> None:
        if "state=committed" in call:
            source.unlink()
            source.write_bytes(b"saved meanwhile")

    with studio.open(Fate(hook=hook)) as root:
        result = integrator.publish(whole({"name": "abc", "files": [str(source)], "transfer": "move"}, publish_id="moved"), root)
        assert source.read_bytes() == b"saved meanwhile"
        source.write_bytes(b"own")  # a retry is the same request
        again = integrator.publish(whole({"name": "abc", "files": [str(source)], "transfer": "move"}, publish_id="moved"), root)
    assert result.left == again.left == (f"{source}: it is not what was published any more",)
    assert result.document()["left"] == list(result.left)
    assert [path.name for path in Path(studio.folder).iterdir() if path.name.startswith(".")] == []


def test_what_somebody_put_into_a_revealed_version_is_kept_and_said(studio: Studio) -> None:
    wanted = whole({"name": "abc", "files": [f"{studio.sources}/cam.abc"]})
    counted = Fate()
    with studio.fresh("count").open(counted) as root:
        integrator.publish(wanted, root)
    [verdict] = counted.numbers("state=finished")
    version = Path(studio.path, "demo/hero/publish/model/main/v001")

    def hook(number: int, call: str) -> None:
        if number == verdict:
            (version / "note.txt").write_text("mine")

    with studio.open(Fate(fail_at=verdict, hook=hook)) as root, pytest.raises(Failed) as caught:
        integrator.publish(wanted, root)
    [left] = failed(caught.value).document()["left"]
    assert Path(studio.path, left).read_text() == "mine"
    assert not version.exists()


def test_a_reflink_that_the_file_system_refuses_is_refused_or_copied_by_policy(studio: Studio) -> None:
    wanted = {"name": "abc", "files": [f"{studio.sources}/cam.abc"], "transfer": "reflink"}
    with studio.open() as root, pytest.raises(Failed, match="reflink"):
        ask(root, wanted)
    config = Path(studio.path, ".integrator/config.toml")
    config.write_text(config.read_text() + 'link_fallback = "copy"\n')
    with studio.open() as root:
        [path] = ask(root, wanted).representations[0].files
    assert Path(path).read_bytes() == b"cache" * 100


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a second file system needs root")
def test_a_hard_link_across_file_systems_is_refused_before_anything_is_written(studio: Studio, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(other)], check=True)
    try:
        (other / "a.abc").write_bytes(b"far away")
        fate = Fate()
        with studio.open(fate) as root, pytest.raises(ValidationRefused, match="another file system"):
            ask(root, {"name": "abc", "files": [f"{other}/a.abc"], "transfer": "hardlink"})
        assert fate.calls == []
        with studio.open() as root:
            ask(root, {"name": "abc", "files": [f"{other}/a.abc"], "transfer": "move"})
        assert not (other / "a.abc").exists()
    finally:
        subprocess.run(["umount", str(other)], check=True)


@pytest.mark.parametrize("executor", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_the_copying_runs_on_any_executor(studio: Studio, executor: Any) -> None:
    with executor(2) as pool, open_root(studio.path, executor=pool) as root:
        result = integrator.publish(studio.request("job"), root)
    assert result.outcome == "published"
    assert studio.leftovers() == []


# --- checksums ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("checksum", "expected"), [("none", (False, False)), ("copied", (True, False)), ("all", (True, True))])
def test_checksums_are_taken_of_what_the_request_says(
    studio: Studio, root: Root, checksum: str, expected: tuple[bool, bool]
) -> None:
    integrator.publish(studio.request("job", checksum=checksum), root)
    for name, wanted in zip(("exr", "proxy"), expected):
        for document in root.documents("demo", {"type": "representation", "name": name}):
            if document["data"]["integrator"]["publish_id"] == "job":
                for file in document["files"]:
                    path = file["path"].replace("{root[work]}", root.path)
                    real = xxhash.xxh3_128_hexdigest(Path(path).read_bytes())
                    assert file["checksum"] == (real if wanted else "")


# --- sources that cannot be published -------------------------------------------------------------------------------


def test_everything_wrong_with_the_sources_is_listed_before_anything_is_written(studio: Studio) -> None:
    folder = Path(studio.folder, "bad")
    folder.mkdir()
    (folder / "empty.abc").touch()
    (folder / "folder.abc").mkdir()
    os.mkfifo(folder / "fifo.abc")
    (folder / "dangling.abc").symlink_to("nowhere")
    kinds = ["empty", "folder", "fifo", "dangling", "missing"]
    wanted = [{"name": kind, "files": [f"{folder}/{kind}.abc"]} for kind in kinds]
    fate = Fate()
    with studio.open(fate) as root, pytest.raises(ValidationRefused) as caught:
        ask(root, *wanted)
    assert {os.path.basename(problem.where) for problem in caught.value.problems} == {f"{kind}.abc" for kind in kinds}
    assert fate.calls == []
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("transfer", ["copy", "hardlink"])
def test_a_source_that_changes_while_it_is_published_rolls_back(studio: Studio, transfer: str) -> None:
    source = Path(studio.folder, "own.abc")
    source.write_bytes(b"own")

    def hook(number: int, call: str) -> None:
        if call.startswith(("close", "link(")):
            source.write_bytes(b"longer than before")

    old = studio.tree()
    root = studio.open(Fate(hook=hook))
    with pytest.raises((SourceChanged, StagingChanged)):
        ask(root, {"name": "abc", "files": [str(source)], "transfer": transfer})
    root.close()
    assert studio.tree() == old
    assert studio.leftovers() == []


def test_a_staged_file_that_is_tampered_with_is_found_at_prepare(studio: Studio) -> None:
    with studio.open() as root, pytest.raises(StagingChanged), root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="hero", subset="main", family="model")
        version.write("a.txt", b"first")
        Path(version.path, "a.txt").write_bytes(b"other")
        os.truncate(f"{version.path}/a.txt", 3)
    assert studio.leftovers() == []


def test_a_file_that_nobody_registered_is_not_published(studio: Studio) -> None:
    with studio.open() as root, pytest.raises(StagingChanged, match=r"stray\.txt"), root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="hero", subset="main", family="model")
        version.write("a.txt", b"first")
        Path(version.path, "stray.txt").write_bytes(b"x")
    assert studio.leftovers() == []


def test_two_files_of_one_name_are_refused_and_both_are_named(studio: Studio, root: Root) -> None:
    for folder in ("one", "two"):
        Path(studio.folder, folder).mkdir()
    Path(studio.folder, "one/A.txt").write_text("1")
    Path(studio.folder, "two/a.txt").write_text("2")
    files = [f"{studio.folder}/one/A.txt", f"{studio.folder}/two/a.txt"]
    with pytest.raises(ValidationRefused) as caught:
        ask(root, {"name": "abc", "files": [f"{studio.sources}/cam.abc"]}, resources=[{"files": files, "folder": "extra"}])
    assert all(path in str(caught.value) for path in files)


@pytest.mark.parametrize("where", ["demo", "demo/hero/publish/model", "demo/.integrator/trash"])
@pytest.mark.parametrize("target", ["elsewhere", "nowhere", "file"])
def test_a_destination_that_leads_through_a_link_is_refused_and_nothing_is_touched(
    studio: Studio, tmp_path: Path, where: str, target: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "file").write_bytes(b"mine")
    shutil.rmtree(f"{studio.path}/{where}", ignore_errors=True)
    Path(studio.path, where).parent.mkdir(parents=True, exist_ok=True)
    Path(studio.path, where).symlink_to(tmp_path / target)
    before = studio.tree()
    with studio.open() as root:
        with pytest.raises(ValidationRefused, match="is a symbolic link"):
            ask(root, {"name": "abc", "files": [f"{studio.sources}/cam.abc"]})
        with (
            pytest.raises(ValidationRefused, match="is a symbolic link"),
            root.begin(project="demo") as assembly,
        ):
            assembly.new_version(asset="hero", subset="main", family="model")
    assert studio.tree() == before
    assert os.listdir(tmp_path / "elsewhere") == []
    assert not (tmp_path / "nowhere").exists()


def test_a_destination_below_a_file_is_refused(studio: Studio, root: Root) -> None:
    Path(studio.path, "demo/hero").write_text("a file")
    with pytest.raises(ValidationRefused, match="demo/hero: is no folder"):
        ask(root, {"name": "abc", "files": [f"{studio.sources}/cam.abc"]})


def test_a_dangling_link_takes_the_number_that_it_has_and_is_never_written_through(studio: Studio, root: Root) -> None:
    folder = Path(studio.path, "demo/hero/publish/model/main")
    folder.mkdir(parents=True)
    (folder / "v001").symlink_to(Path(studio.folder, "nowhere"))
    source = {"name": "abc", "files": [f"{studio.sources}/cam.abc"]}
    with pytest.raises(VersionTaken):
        ask(root, source, version=1)
    assert names(ask(root, source)) == ["demo_hero_main_v002.abc"]
    assert not Path(studio.folder, "nowhere").exists()
    assert (folder / "v001").is_symlink()


def test_a_source_is_not_moved_and_linked_to_in_one_request(studio: Studio, root: Root) -> None:
    source = Path(studio.path, "work.abc")
    source.write_bytes(b"cache")
    other_name = Path(studio.path, "alias.abc")
    other_name.symlink_to(source)
    moved = {"name": "abc", "files": [str(source)], "transfer": "move"}
    linked = {"name": "link", "files": [str(other_name)], "transfer": "symlink", "output": "link"}
    with pytest.raises(ValidationRefused, match="is moved and linked to"):
        ask(root, moved, linked)
    assert source.read_bytes() == b"cache"
    version = ask(root, moved, {**linked, "transfer": "copy"})
    assert [Path(file).read_bytes() for entry in version.representations for file in entry.files] == [b"cache", b"cache"]
    assert not source.exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(studio: Studio, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=True)
    try:
        big = Path(studio.folder, "big.abc")
        with big.open("wb") as file:
            file.truncate(16 * 1024 * 1024)
        with create_root(str(small / "show")) as root, pytest.raises(ValidationRefused, match="MiB free"):
            ask(root, {"name": "abc", "files": [str(big)]})
        assert [path.name for path in (small / "show").iterdir()] == [".integrator"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


# --- sequences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["beauty.%04d.exr", "beauty.####.exr", "beauty.%04d.exr [1001-1010]"])
def test_a_sequence_may_be_written_in_three_forms(studio: Studio, root: Root, pattern: str) -> None:
    version = ask(root, {"name": "exr", "files": [f"{studio.sources}/{pattern}"]})
    assert names(version) == [f"demo_hero_main_v001.{frame}.exr" for frame in range(1001, 1011)]


def test_missing_frames_are_refused_or_left_out(studio: Studio, root: Root) -> None:
    wanted = {"name": "exr", "files": [f"{studio.sources}/beauty.%04d.exr"], "frames": "1009-1012"}
    with pytest.raises(ValidationRefused, match="1011-1012"):
        ask(root, wanted)
    version = ask(root, {**wanted, "missing_frames": "allow"})
    assert names(version) == ["demo_hero_main_v001.1009.exr", "demo_hero_main_v001.1010.exr"]


def test_representations_that_would_collide_get_their_names_into_the_files(studio: Studio, root: Root) -> None:
    files = [f"{studio.sources}/cam.abc"]
    version = ask(root, {"name": "abc", "files": files}, {"name": "sim", "files": files})
    assert [names(version, n) for n in (0, 1)] == [["demo_hero_main_v001_abc.abc"], ["demo_hero_main_v001_sim.abc"]]


def test_resources_keep_their_tree(studio: Studio, root: Root) -> None:
    tree = Path(studio.folder, "tex/sub")
    tree.mkdir(parents=True)
    (tree / "wood.tx").write_bytes(b"wood")
    resources = [{"files": [str(tree.parent), f"{studio.sources}/cam.abc"], "folder": "resources"}]
    version = ask(root, {"name": "abc", "files": [f"{studio.sources}/cam.abc"]}, resources=resources)
    assert Path(version.path, "resources/tex/sub/wood.tx").read_bytes() == b"wood"
    assert Path(version.path, "resources/cam.abc").exists()


# --- documents ------------------------------------------------------------------------------------------------------


def test_the_template_of_a_representation_formatted_with_its_context_is_its_first_file(studio: Studio, root: Root) -> None:
    tiles = Path(studio.folder, "tiles")
    tiles.mkdir()
    for tile in (1001, 1002):
        (tiles / f"skin.{tile}.tif").write_bytes(b"tile")
    integrator.publish(studio.request("job"), root)
    ask(root, {"name": "tif", "files": [f"{tiles}/skin.<UDIM>.tif"]})
    with root.begin(project="demo") as assembly:
        version = assembly.new_version(asset="hero", subset="free", family="model", task={"name": "rig"})
        version.write("any name.txt".replace(" ", "_"), b"x")
    found = root.documents("demo", {"type": "representation"})
    assert len(found) == 8
    for document in found:
        context = {**document["context"], "root": root.engine.roots}
        first = next(iter(document["files"]))["path"].replace("{root[work]}", root.path)
        assert Template(document["data"]["template"]).format(context) == first
        if document["data"]["integrator"]["publish_id"] != "history":  # that one was copied here
            assert document["data"]["path"] == first


def test_documents_have_the_fields_that_loaders_ask_for(studio: Studio, root: Root) -> None:
    [version] = root.documents("demo", {"type": "version"}, limit=1)
    subset = root.engine.database.read(PROJECT + "demo", version["parent"])
    asset = root.engine.database.read(PROJECT + "demo", subset["parent"])
    assert (version["schema"], subset["schema"]) == ("openpype:version-3.0", "openpype:subset-3.0")
    assert re.fullmatch(r"\d{8}T\d{6}Z", version["data"]["time"])
    assert (asset["name"], asset["data"]["parents"]) == ("sh010", ["shots", "sq01"])
    assert subset["data"]["families"] == [subset["data"]["family"]]
    [representation] = root.documents("demo", {"type": "representation", "name": "exr"})
    assert representation["context"]["frame"] == "1001"
    assert representation["context"]["project"] == {"name": "demo", "code": "demo"}
    file = next(iter(representation["files"]))
    name, changed, size = file["hash"].split("|")
    assert (name, size) == (os.path.basename(file["path"]).replace(".", ","), str(file["size"]))
    assert float(changed.replace(",", ".")) == os.stat(f"{studio.sources}/beauty.1001.exr").st_mtime


def test_an_unknown_asset_is_refused_where_assets_come_from_elsewhere(studio: Studio) -> None:
    config = Path(studio.path, ".integrator/config.toml")
    config.write_text(config.read_text() + "create_assets = false\n")
    with studio.open() as root:
        with pytest.raises(ValidationRefused, match="no such asset"):
            ask(root, {"name": "abc", "files": [f"{studio.sources}/cam.abc"]})
        assert integrator.publish(studio.request("job"), root).outcome == "published"


def test_a_subset_that_differs_only_in_case_is_refused(studio: Studio, root: Root) -> None:
    request = studio.request("job")
    request["instances"][1]["subset"] = "CAMERA"
    with pytest.raises(ValidationRefused, match="only in case"):
        integrator.publish(request, root)


def test_hostile_input_is_refused_before_the_first_write(studio: Studio) -> None:
    fate = Fate()
    with studio.open(fate) as root:
        for name in ("..", "a/b", "con", "a\nb", "{0.__class__}", "$(touch x)", "x" * 256, "-rf", {"$ne": None}):
            with pytest.raises(RequestRefused) as caught:
                ask(root, {"name": "abc", "files": [f"{studio.sources}/cam.abc"]}, subset=name)
            assert [problem.where for problem in caught.value.problems] == ["$.instances[0].subset"]
    assert fate.calls == []


# --- step by step ---------------------------------------------------------------------------------------------------


def test_a_savepoint_takes_back_files_documents_and_effects_and_the_rest_goes_on(studio: Studio) -> None:
    from integrator.engine import Effect

    taken_back: list[Any] = []
    with studio.open() as root:
        compensated = Effect(call=lambda arguments, key: key, compensate=lambda arguments, key, result: taken_back.append(result))
        root.register_effect("track", compensated)
        with root.begin(project="demo") as assembly:
            version = assembly.new_version(asset="hero", subset="main", family="model")
            version.write("kept.txt", b"kept")
            point = assembly.savepoint()
            version.write("dropped.abc", b"dropped")
            assembly.new_version(asset="hero", subset="second", family="model").write("b.abc", b"dropped")
            assembly.insert("demo", {"type": "note"})
            assembly.effect("track", {})
            assembly.replace_file(f"{root.path}/demo/new.txt", b"dropped")
            assembly.roll_back_to(point)
        assert assembly.result is not None
        [published] = assembly.result.versions
        assert os.listdir(published.path) == ["kept.txt"]
        assert root.documents("demo", {"type": "note"}) == []
    assert len(taken_back) == 1
    assert not Path(studio.path, "demo/new.txt").exists()
    assert studio.leftovers() == []


def test_an_update_refuses_a_document_that_changed_meanwhile(studio: Studio) -> None:
    with studio.open() as root:
        with root.begin(project="demo") as assembly:
            assembly.insert("demo", {"_id": {"$oid": "a" * 24}, "type": "note", "text": "one"})
        with pytest.raises(Failed, match="expects"), root.begin(project="demo") as assembly:
            assembly.update("demo", {"type": "note"}, {"text": "two"})
            with studio.open() as other, other.begin(project="demo") as faster:
                faster.update("demo", {"type": "note"}, {"text": "three"})
        [note] = root.documents("demo", {"type": "note"})
        assert note["text"] == "three"


def test_nothing_outside_the_roots_can_be_replaced(studio: Studio) -> None:
    outside = Path(studio.folder, "outside.txt")
    with studio.open() as root:
        for path in (str(outside), f"{root.path}/../outside.txt", "relative.txt"):
            with pytest.raises(UsageError), root.begin(project="demo") as assembly:
                assembly.replace_file(path, b"x")
    assert not outside.exists()


@pytest.mark.parametrize("raised", [OSError, SystemExit])
def test_an_effect_after_the_verdict_that_fails_leaves_it_to_recovery(studio: Studio, raised: type[BaseException]) -> None:
    from integrator.engine import Effect
    from integrator.errors import Unsettled
    from integrator.recovery import settle

    calls: list[str] = []

    def fail_once(arguments: Any, key: str) -> None:
        calls.append(key)
        if len(calls) == 1:
            raise raised("certificate has expired")

    with studio.open(owner=studio.dead) as root:
        root.register_effect("mail", Effect(call=fail_once))
        with pytest.raises(Unsettled, match="certificate") as caught, root.begin(project="demo") as assembly:
            assembly.new_version(asset="hero", subset="main", family="model").write("a.txt", b"x")
            assembly.effect("mail", {})
        assert caught.value.exit_code == 6
        assert settle(root.engine, caught.value.transaction).outcome == "finished"
    assert len(set(calls)) == 1
    assert studio.leftovers() == []


def test_ids_and_dates_of_the_driver_are_stored_as_extended_json(studio: Studio) -> None:
    bson = pytest.importorskip("bson")
    id, when = bson.ObjectId(), datetime(2026, 1, 2, 3, 4, 5, 678900)
    with studio.open() as root:
        with root.begin(project="demo") as assembly:
            assembly.insert("demo", {"type": "note", "task": id, "when": when, "inner": [id]})
        [note] = root.documents("demo", {"type": "note"})
    oid = {"$oid": str(id)}
    assert (note["task"], note["inner"], note["when"]) == (oid, [oid], {"$date": "2026-01-02T03:04:05.678Z"})


def test_links_to_sources_that_can_be_written_are_refused_where_the_house_says_so(studio: Studio) -> None:
    """What is saved in place after a hard-linked publish changes the published file, too."""
    config = Path(studio.path, ".integrator/config.toml")
    config.write_text("link_writable = false\n" + config.read_text())
    with studio.open() as root, pytest.raises(ValidationRefused, match="can still be written"):
        integrator.publish(studio.request("job"), root)
    for path in Path(studio.sources).iterdir():
        path.chmod(0o444)
    try:
        with studio.open() as root:
            assert integrator.publish(studio.request("job"), root).outcome == "published"
    finally:
        for path in Path(studio.sources).iterdir():
            path.chmod(0o644)


def test_a_folder_of_resources_is_taken_whole_or_not_at_all(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Path(studio.folder, "tex")
    (tree / "closed").mkdir(parents=True)
    (tree / "wood.tx").write_bytes(b"wood")
    (tree / "linked").symlink_to(studio.sources)
    plain = os.scandir

    def scandir(path: Any) -> Any:
        if path == str(tree / "closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    fate, before = Fate(), studio.tree()
    with studio.open(fate) as root, pytest.raises(ValidationRefused) as caught:
        resources = [{"files": [str(tree)], "folder": "resources"}]
        ask(root, {"name": "abc", "files": [f"{studio.sources}/cam.abc"]}, resources=resources)
    found = {os.path.basename(where): what for where, what in caught.value.problems}
    assert found.keys() == {"closed", "linked"}
    assert "cannot be read (Permission denied)" in found["closed"]
    assert "is a symbolic link to a folder" in found["linked"]
    assert (fate.calls, studio.tree(), caught.value.exit_code) == ([], before, 3)


def test_resources_are_counted_by_the_answer_and_by_the_one_of_a_retry(studio: Studio, root: Root) -> None:
    for _ in range(2):
        assert [version.resources for version in integrator.publish(studio.request("job"), root).versions] == [0, 1]
    assert [version.resources for version in integrator.publish(studio.request(), root, dry_run=True).versions] == [0, 1]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("folder", ["demo_hero_main_v001.abc", "DEMO_hero_main_v001.abc/deep", "resources/cam.abc/deep"])
def test_a_file_and_a_folder_with_one_destination_are_refused(studio: Studio, root: Root, folder: str, dry_run: bool) -> None:
    before = studio.tree()
    resources = [{"files": [f"{studio.sources}/cam.abc"], "folder": inner} for inner in (folder, "resources")]
    request = whole({"name": "abc", "files": [f"{studio.sources}/cam.abc"]}, resources=resources)
    with pytest.raises(ValidationRefused, match="name of a folder of the resources") as caught:
        integrator.publish(request, root, dry_run=dry_run)
    assert caught.value.exit_code == 3
    assert studio.tree() == before
    assert studio.leftovers() == []
