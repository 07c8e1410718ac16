"""Reservations: promised numbers and paths, rendered into, adopted, given back, expired, killed and overtaken at any call."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studio import Studio
from test_late_wakers import LONG, Overtaking, hours_later

import integrator
from integrator import ledger
from integrator.check import check
from integrator.errors import (
    DifferentContent,
    Failed,
    IntegratorError,
    LeaseLost,
    SourceChanged,
    StagingChanged,
    UsageError,
    ValidationRefused,
    VersionTaken,
)
from integrator.recovery import recover
from integrator.reservation import Reservation, release, reserve
from integrator.retry import Budget
from integrator.root import Root
from integrator.sweep import sweep
from integrator.testing import CrashingStorage, Fate, Killed

FRAMES = 5
DAY = 86400.0


def request(studio: Studio, **changes: Any) -> dict[str, Any]:
    """A sequence that is rendered into the reserved directory, and a cache that is copied."""
    instance = {
        "asset": "sh010", "hierarchy": "shots/sq01", "subset": "renderBeauty", "family": "render",
        "representations": [
            {"name": "exr", "files": ["{staging}/demo_sh010_renderBeauty_v002.%04d.exr"]},
            {"name": "abc", "files": [f"{studio.sources}/cam.abc"]},
        ],
    }  # fmt: skip
    whole = {"schema": "integrator:publish-request-1.0", "project": "demo", "publish_id": "farm-1", "instances": [instance]}
    return {**whole, **changes}


def content(frame: int) -> bytes:
    return f"rendered {frame}".encode() * 1000


def render(staging: str, frames: int = FRAMES) -> None:
    for frame in range(1001, 1001 + frames):
        Path(staging, f"demo_sh010_renderBeauty_v002.{frame}.exr").write_bytes(content(frame))


def reserved(studio: Studio, seconds: float = DAY) -> Reservation:
    with studio.open() as root:
        return reserve(request(studio), root, seconds=seconds)


def assert_published(studio: Studio) -> None:
    """v002 holds exactly the frames that were rendered and the cache, and everything is at peace."""
    folder = Path(studio.path, "demo/shots/sq01/sh010/publish/render/renderBeauty/v002")
    frames = {f"demo_sh010_renderBeauty_v002.{frame}.exr": content(frame) for frame in range(1001, 1001 + FRAMES)}
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {**frames, "demo_sh010_renderBeauty_v002.abc": Path(studio.sources, "cam.abc").read_bytes()}
    assert studio.leftovers() == []


def promised(studio: Studio) -> list[dict[str, Any]]:
    with studio.open() as root:
        return ledger.reservations(root.engine.database)


def assert_promised_or_published(studio: Studio, rendered: int = FRAMES) -> str:
    """The number is either published or promised still, with every rendered frame where it is promised."""
    documents = promised(studio)
    if not documents:
        assert_published(studio)
        return "published"
    [document] = documents
    assert document["publish_id"] == "farm-1"
    [directory] = document["directories"]
    assert directory["final"].endswith("/v002")
    assert next(iter(document["claims"].values()))[1] == 2
    staging = Path(studio.path, directory["staging"])
    found = {path.name: path.read_bytes() for path in staging.iterdir() if path.suffix == ".exr"}
    assert found == {f"demo_sh010_renderBeauty_v002.{n}.exr": content(n) for n in range(1001, 1001 + rendered)}
    return "promised"


# --- the usual way --------------------------------------------------------------------------------------------------


def test_a_reservation_promises_number_paths_and_names(studio: Studio) -> None:
    reservation = reserved(studio)
    [version] = reservation.versions
    assert version.version == 2
    assert version.path == f"{studio.path}/demo/shots/sq01/sh010/publish/render/renderBeauty/v002"
    assert version.staging == f"{version.path}.tmp.{reservation.transaction}"
    assert os.path.isdir(version.staging)
    exr, abc = version.representations
    assert exr["files"] == [f"{version.path}/demo_sh010_renderBeauty_v002.%04d.exr"]
    assert exr["staged"] == [f"{version.staging}/demo_sh010_renderBeauty_v002.%04d.exr"]
    assert abc["files"] == [f"{version.path}/demo_sh010_renderBeauty_v002.abc"]
    assert 0.9 * DAY < reservation.expires - time.time() <= DAY
    again = reserved(studio, 2 * DAY)
    assert again.versions == reservation.versions, "the same request again is the same promise"
    assert DAY < again.expires - reservation.expires <= 1.1 * DAY, "which lasts longer now"


def test_what_was_rendered_in_place_is_published_without_copying_a_byte(studio: Studio) -> None:
    [version] = reserved(studio).versions
    render(version.staging)
    inodes = {path.name: path.stat().st_ino for path in Path(version.staging).iterdir()}
    with studio.open() as root:
        result = integrator.publish(request(studio), root)
    assert (result.outcome, result.versions[0].version) == ("published", 2)
    assert_published(studio)
    assert inodes.items() <= {path.name: path.stat().st_ino for path in Path(version.path).iterdir()}.items()
    with studio.open() as root:
        assert integrator.publish(request(studio), root).outcome == "already_published"


def test_absolute_paths_below_the_staging_directory_mean_the_same(studio: Studio) -> None:
    [version] = reserved(studio).versions
    render(version.staging)
    wanted = request(studio)
    wanted["instances"][0]["representations"][0]["files"] = [f"{version.staging}/demo_sh010_renderBeauty_v002.####.exr"]
    with studio.open() as root:
        integrator.publish(wanted, root)
    assert_published(studio)


def test_others_publish_around_a_reserved_number(studio: Studio) -> None:
    [version] = reserved(studio).versions
    with studio.open() as root:
        other = integrator.publish(studio.request("other"), root)
        with pytest.raises(VersionTaken):
            pinned = request(studio, publish_id="pinned")
            pinned["instances"][0].update(version=2, representations=pinned["instances"][0]["representations"][1:])
            integrator.publish(pinned, root)
    assert other.versions[0].version == 3
    render(version.staging)
    with studio.open() as root:
        assert integrator.publish(request(studio), root).versions[0].version == 2


def test_reserving_and_publishing_at_once_never_chase_each_other(studio: Studio) -> None:
    """Whoever claimed a number keeps it, although a higher one was claimed meanwhile."""
    with studio.open() as first, studio.open() as second:
        begun: list[int] = []

        def both(number: int, call: str) -> None:
            if not begun and "commit" in call:
                begun.append(number)

        reservation = reserve(request(studio), first, seconds=DAY)
        other = reserve(request(studio, publish_id="farm-2"), second, seconds=DAY)
    assert [reservation.versions[0].version, other.versions[0].version] == [2, 3]


def test_the_id_of_a_reservation_is_for_that_destination_only(studio: Studio) -> None:
    reserved(studio)
    wanted = request(studio)
    wanted["instances"][0]["subset"] = "renderOther"
    with studio.open() as root:
        with pytest.raises(DifferentContent, match="reserved for something else"):
            integrator.publish(wanted, root)
        with pytest.raises(DifferentContent):
            reserve(wanted, root, seconds=DAY)
        with pytest.raises(UsageError):
            reserve(request(studio, publish_id=None), root, seconds=DAY)
    assert_promised_or_published(studio, rendered=0)


def test_staging_means_nothing_without_a_reservation(studio: Studio) -> None:
    with studio.open() as root, pytest.raises(ValidationRefused, match="none was reserved"):
        integrator.publish(request(studio), root)


def test_rendered_files_need_their_final_names(studio: Studio) -> None:
    [version] = reserved(studio).versions
    Path(version.staging, "beauty.1001.exr").write_bytes(b"x")
    wanted = request(studio)
    wanted["instances"][0]["representations"][0]["files"] = ["{staging}/beauty.%04d.exr"]
    with studio.open() as root, pytest.raises(ValidationRefused, match=r"must be called demo_sh010_renderBeauty_v002\.1001\.exr"):
        integrator.publish(wanted, root)
    assert len(promised(studio)) == 1


def test_files_that_nobody_asked_for_are_not_published_and_not_lost(studio: Studio) -> None:
    [version] = reserved(studio).versions
    render(version.staging)
    Path(version.staging, "render.log").write_text("took an hour")
    with studio.open() as root:
        integrator.publish(request(studio), root)
    assert not Path(version.path, "render.log").exists()
    [log] = Path(studio.path).glob("demo/.integrator/trash/*/render.log")
    assert log.read_text() == "took an hour"
    with studio.open() as root:
        sweep(root, older_than=0)
    assert_published(studio)


# --- a publish that fails --------------------------------------------------------------------------------------------


def test_a_publish_that_fails_leaves_the_promise_and_the_frames(studio: Studio) -> None:
    [version] = reserved(studio).versions
    render(version.staging)
    fate = Fate()
    with studio.fresh("count").open(fate) as root:
        integrator.publish(request(studio), root)
    last = max(number for number, call in enumerate(fate.calls, 1) if call.startswith("rename") and call.endswith("'v002')"))
    with studio.open(Fate(fail_at=last)) as root, pytest.raises(Failed):
        integrator.publish(request(studio), root)
    assert assert_promised_or_published(studio) == "promised"
    with studio.open() as root:
        integrator.publish(request(studio), root)
    assert_published(studio)
    [document] = [entry for entry in _documents(studio) if entry.get("publish_id") == "farm-1"]
    assert [attempt["counts"] for attempt in document["attempts"]] == [True]


def _documents(studio: Studio) -> list[dict[str, Any]]:
    with studio.open() as root:
        return root.engine.database.find("transactions")


def test_a_writer_that_has_not_stopped_is_found(studio: Studio) -> None:
    [version] = reserved(studio).versions
    render(version.staging)
    code = "import sys, time; file = open(sys.argv[1], 'ab'); print(flush=True); time.sleep(60)"
    path = f"{version.staging}/demo_sh010_renderBeauty_v002.1003.exr"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            with studio.open() as root, pytest.raises(StagingChanged, match=r"1003\.exr is still open for writing"):
                integrator.publish(request(studio), root)
        finally:
            writer.kill()
    assert assert_promised_or_published(studio) == "promised"
    with studio.open() as root:
        integrator.publish(request(studio), root)
    assert_published(studio)


def test_a_renderer_that_goes_on_by_path_does_not_reach_the_published_version(studio: Studio) -> None:
    """After the adoption the promised path is gone, so a late frame fails instead of appearing in a published version."""
    [version] = reserved(studio).versions
    render(version.staging)
    late: list[type[BaseException]] = []

    def renderer(number: int, call: str) -> None:
        if call.startswith("rename") and call.endswith("'v002')"):
            with pytest.raises(FileNotFoundError) as caught:
                Path(version.staging, "demo_sh010_renderBeauty_v002.1099.exr").write_bytes(b"late")
            late.append(caught.type)

    with studio.open(Fate(hook=renderer)) as root:
        integrator.publish(request(studio), root)
    assert late == [FileNotFoundError]
    assert_published(studio)


def test_a_frame_that_changes_before_the_adoption_is_noticed(studio: Studio) -> None:
    """What was looked at before anything was written is what is published, or nothing is."""
    [version] = reserved(studio).versions
    render(version.staging)

    def rerender(number: int, call: str) -> None:
        if call.startswith("rename") and ".r0.2" in call:
            Path(version.staging, "demo_sh010_renderBeauty_v002.1002.exr").write_bytes(content(1002) + b"more")

    with studio.open(Fate(hook=rerender)) as root, pytest.raises(SourceChanged, match="has not stopped"):
        integrator.publish(request(studio), root)
    assert len(promised(studio)) == 1


def test_a_scene_that_names_the_staging_directory_is_refused(studio: Studio) -> None:
    [version] = reserved(studio).versions
    wanted = request(studio)
    wanted["instances"][0]["representations"] = [{"name": "ma", "files": ["{staging}/demo_sh010_renderBeauty_v002.ma"]}]
    scene = Path(version.staging, "demo_sh010_renderBeauty_v002.ma")
    scene.write_text("//Maya ASCII\n" + "x" * 100_000 + f'\nsetAttr "{version.staging}/tex.exr";\n')
    with studio.open() as root, pytest.raises(StagingChanged, match="names a staging directory"):
        integrator.publish(wanted, root)
    [again] = reserved(studio).versions
    scene = Path(again.staging, "demo_sh010_renderBeauty_v002.ma")
    scene.write_text(f'//Maya ASCII\nsetAttr "{again.path}/tex.exr";\n')
    with studio.open() as root:
        assert integrator.publish(wanted, root).versions[0].version == 2


def failing_at_the_reveal(run: Studio, killed: int = 0) -> Fate:
    """A publish of the reservation whose reveal fails, and that is killed at a later call."""

    def strike(number: int, call: str) -> None:
        if call.startswith("rename") and call.endswith("'v002')"):
            raise OSError(5, "Input/output error")

    fate = Fate(hook=strike, kill_at=killed) if killed else Fate(hook=strike)
    with run.open(fate, owner=run.dead) as root, contextlib.suppress(Killed, IntegratorError):
        integrator.publish(request(run), root)
    return fate


def test_a_promise_is_durable_before_it_is_given(studio: Studio) -> None:
    """The promised directory when `reserve` returns; frames that are moved back before the number is promised anew."""
    fate = Fate()
    with studio.open(fate) as root:
        [version] = reserve(request(studio), root, seconds=DAY).versions
    assert "sync(renderBeauty)" in fate.calls[max(fate.numbers("mkdir")) :]
    render(version.staging)
    calls = failing_at_the_reveal(studio).calls
    moved = max(number for number, call in enumerate(calls) if "1005.exr', '" in call)
    promise = next(number for number, call in enumerate(calls) if "insert transactions state=reserved" in call)
    [document] = promised(studio)
    synced = calls[moved:promise]
    assert f"sync({os.path.basename(document['directories'][0]['staging'])})" in synced
    assert "sync(renderBeauty)" in synced


@pytest.mark.parametrize("when", ["before", "after", "lost"])
def test_a_publish_of_a_reservation_may_fail_at_any_call(studio: Studio, when: str) -> None:
    """Also without a reply, as at the adoption itself: the promise stands, or it is published, and the next run ends it."""
    subject = ready(studio)
    calls = calls_of(subject, adopt)
    for number, call in enumerate(calls, 1):
        if when == "lost" and not call.startswith("commit"):
            continue
        run = subject.fresh("failed")
        with run.open(Fate(fail_at=number, when=when), owner=run.dead) as root, contextlib.suppress(IntegratorError):  # type: ignore[arg-type]
            adopt(run, root)
        run.recover()
        publish_or_burnt(run)
        run.recover()
        assert_published_or_burnt(run)
        run.remove()


def test_a_sweep_at_any_moment_of_a_rollback_removes_no_frame(studio: Studio) -> None:
    """The frames wait under a name whose document is yet to come."""
    subject = ready(studio)
    calls = failing_at_the_reveal(subject.fresh("calls")).calls
    first = next(number for number, call in enumerate(calls, 1) if call.endswith("'v002')"))
    for number in range(first + 1, len(calls) + 1):
        run = subject.fresh("swept")
        failing_at_the_reveal(run, number)
        with run.open() as root:
            assert [finding for finding in check(root) if finding.kind == "staging" and ".tmp." in finding.path] == []
            sweep(root, older_than=0)
        run.recover()
        publish_or_burnt(run)
        run.remove()


def test_what_a_renderer_wrote_under_names_of_others_is_not_lost(studio: Studio) -> None:
    """A folder and a file that have the names of what the engine brings in."""
    [version] = reserved(studio).versions
    render(version.staging)
    wanted = request(studio)
    wanted["instances"][0]["resources"] = [{"files": [f"{studio.sources}/cam.abc"], "folder": "resources"}]
    Path(version.staging, "resources").mkdir()
    Path(version.staging, "resources/stats.json").write_text("{}")
    Path(version.staging, "demo_sh010_renderBeauty_v002.abc").write_bytes(b"the renderer's own")
    failing_at_the_reveal(studio)
    [document] = promised(studio)
    again = Path(studio.path, document["directories"][0]["staging"])
    assert (again / "resources/stats.json").read_text() == "{}"
    with studio.open() as root:
        integrator.publish(wanted, root)
    rendered = {path.name: path.read_bytes() for path in Path(studio.path).glob("demo/.integrator/trash/**/*") if path.is_file()}
    assert rendered == {"stats.json": b"{}", "demo_sh010_renderBeauty_v002.abc": b"the renderer's own"}


def test_a_renderer_that_makes_its_folder_anew_hides_no_frame(studio: Studio) -> None:
    """Killed between two frames; the renderer's next task makes the promised folder, empty."""
    subject = ready(studio)
    calls = calls_of(subject, adopt)
    number = next(number for number, call in enumerate(calls, 1) if "1004.exr" in call)
    run = killed_adoption(subject, number)
    staging = promised(subject)[0]["directories"][0]["staging"]
    os.makedirs(f"{run.path}/{staging}")
    with run.open() as root:
        integrator.publish(request(run), root)
    assert_published(run)


@pytest.mark.parametrize("moment", ["rmdir", "rename"])
def test_an_adopter_that_wakes_within_a_recovery_strands_no_frame(studio: Studio, moment: str) -> None:
    """It goes on taking frames, through its own descriptors, while they are being moved back."""
    run = ready(studio)
    asleep, wake, done = threading.Event(), threading.Event(), threading.Event()

    def sleep(number: int, call: str) -> None:
        if wake.is_set():
            done.set()
        elif call.startswith("rename('demo_sh010_renderBeauty_v002.1003.exr'"):
            asleep.set()
            wake.wait(30)

    def adopter() -> None:
        root = run.open(Fate(hook=sleep))
        with contextlib.suppress(IntegratorError):
            adopt(run, root)
        root.close()
        done.set()

    def waking(number: int, call: str) -> None:
        if re.match(rf"{moment}\('?(\w+\.r?0\.3|demo_sh010_renderBeauty_v002.1001)", call):
            wake.set()
            done.wait(30)

    thread = threading.Thread(target=adopter)
    thread.start()
    assert asleep.wait(30)
    with hours_later(run) as root:
        root.engine.storage = CrashingStorage(Fate(hook=waking))
        recover(root.engine)
    wake.set()
    thread.join()
    run.recover()
    assert assert_promised_or_published(run) == "promised"
    with run.open() as root:
        integrator.publish(request(run), root)
    assert_published(run)


def test_a_hard_link_in_the_reserved_directory_is_refused(studio: Studio) -> None:
    [version] = reserved(studio).versions
    render(version.staging)
    own = Path(studio.folder, "artist.exr")
    own.write_bytes(b"the artist's own")
    own.chmod(0o400)
    path = Path(version.staging, "demo_sh010_renderBeauty_v002.1002.exr")
    path.unlink()
    os.link(own, path)
    with studio.open() as root, pytest.raises(ValidationRefused, match="hard link"):
        integrator.publish(request(studio), root)
    assert own.stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize("form", ["{staging}/log.txt", "absolute"])
def test_resources_do_not_come_from_the_reserved_directory(studio: Studio, form: str) -> None:
    [version] = reserved(studio).versions
    render(version.staging)
    Path(version.staging, "log.txt").write_text("took an hour")
    wanted = request(studio)
    wanted["instances"][0]["resources"] = [{"files": [form if "{" in form else f"{version.staging}/log.txt"]}]
    with studio.open() as root, pytest.raises(ValidationRefused, match="cannot be a resource"):
        integrator.publish(wanted, root)
    assert_promised_or_published(studio)


def test_what_stands_at_the_promised_path_is_found_before_anything_is_written(studio: Studio) -> None:
    [version] = reserved(studio).versions
    render(version.staging)
    os.mkdir(version.path)
    with studio.open() as root, pytest.raises(ValidationRefused, match="something is there now"):
        integrator.publish(request(studio), root)
    os.rmdir(version.path)
    with studio.open() as root:
        integrator.publish(request(studio), root)
    assert_published(studio)


def test_copies_of_a_killed_publish_of_a_reservation_are_taken_over(studio: Studio) -> None:
    wanted = request(studio)
    wanted["instances"][0]["representations"][0]["files"] = [f"{studio.sources}/beauty.%04d.exr"]
    with studio.open() as root:
        reserve(wanted, root, seconds=DAY)
    fate = Fate()
    with studio.fresh("count").open(fate) as root:
        integrator.publish(wanted, root)
    prepare = next(number for number, call in enumerate(fate.calls, 1) if call.startswith("rename") and call.endswith("'v002')"))
    with studio.open(Fate(kill_at=prepare), owner=studio.dead) as root, contextlib.suppress(Killed):
        integrator.publish(wanted, root)
    again = Fate()
    with studio.open(again) as root:
        assert integrator.publish(wanted, root).versions[0].version == 2
    assert [call for call in again.calls if call.startswith("create") and ".exr" in call] == []
    assert studio.leftovers() == []


def test_a_pinned_number_that_a_killed_publish_has_is_reserved_once_that_is_settled(studio: Studio) -> None:
    wanted = request(studio)
    wanted["instances"][0]["version"] = 7
    pinned = studio.request("killed")
    pinned["instances"] = [{**pinned["instances"][0], "version": 7}]
    with studio.open(Fate(kill_at=12), owner=studio.dead) as root, contextlib.suppress(Killed):
        integrator.publish(pinned, root)
    with studio.open() as root:
        assert reserve(wanted, root, seconds=DAY).versions[0].version == 7


def test_a_release_that_was_killed_is_carried_on_by_whoever_comes_next(studio: Studio) -> None:
    subject = ready(studio)
    for number in range(2, len(calls_of(subject, give_back))):
        run = subject.fresh("released")
        with run.open(Fate(kill_at=number), owner=run.dead) as root, contextlib.suppress(Killed):
            release("farm-1", root)
        with run.open() as root:
            assert reserve(request(run), root, seconds=DAY).versions[0].version == 2
        run.remove()


def test_a_reservation_that_was_given_back_is_no_failed_attempt(studio: Studio) -> None:
    reserved(studio)
    wanted = request(studio)
    wanted["instances"][0]["representations"] = wanted["instances"][0]["representations"][1:]
    with studio.open() as root:
        release("farm-1", root)
        assert integrator.publish(wanted, root, budget=Budget(attempts=1)).outcome == "published"


def test_names_are_promised_as_the_publish_will_have_them(studio: Studio) -> None:
    """Two representations with one extension, tiles, listed frames, several plain files."""
    wanted = request(studio)
    wanted["instances"][0]["representations"] = [
        {"name": "exr", "files": ["{staging}/a.%04d.exr"]},
        {"name": "proxy", "files": ["{staging}/b.%04d.exr"]},
        {"name": "tex", "files": ["{staging}/c.<UDIM>.tx"]},
        {"name": "listed", "files": ["/x/d.1001.png", "/x/d.1002.png"]},
        {"name": "obj", "files": ["/x/e.obj", "/x/e.mtl"]},
    ]
    with studio.open() as root:
        [version] = reserve(wanted, root, seconds=DAY).versions
    names = {entry["name"]: [os.path.basename(path) for path in entry["staged"]] for entry in version.representations}
    start = "demo_sh010_renderBeauty_v002"
    assert names == {
        "exr": [f"{start}_exr.%04d.exr"], "proxy": [f"{start}_proxy.%04d.exr"], "tex": [f"{start}_<UDIM>.tx"],
        "listed": [f"{start}.%04d.png"], "obj": [f"{start}.obj", f"{start}.mtl"],
    }  # fmt: skip


# --- giving back, and expiry ------------------------------------------------------------------------------------------


def test_a_released_number_is_free_and_the_frames_are_kept_for_a_while(studio: Studio) -> None:
    [version] = reserved(studio).versions
    render(version.staging)
    with studio.open() as root:
        assert release("farm-1", root).outcome == "rolled_back"
        with pytest.raises(UsageError, match="nothing is reserved"):
            release("farm-1", root)
        assert integrator.publish(studio.request("other"), root).versions[0].version == 2
    [document] = [entry for entry in _documents(studio) if entry["_id"] in version.staging]
    [kept] = document["kept"]
    assert len(os.listdir(f"{studio.path}/{kept['path']}")) == FRAMES
    with studio.open() as root:
        sweep(root)
        assert os.path.isdir(f"{studio.path}/{kept['path']}"), "not before its time"
        sweep(root, older_than=0)
    assert not os.path.exists(f"{studio.path}/{kept['path']}")
    assert studio.leftovers() == []


def test_recovery_and_sweep_leave_a_reservation_alone_until_it_expires(studio: Studio) -> None:
    [version] = reserved(studio, seconds=2 * LONG).versions
    render(version.staging)
    with hours_later(studio) as root:
        assert recover(root.engine) == []
        assert sweep(root, older_than=0) == []
    assert assert_promised_or_published(studio) == "promised"
    with hours_later(studio, 3) as root:
        assert [entry.outcome for entry in recover(root.engine)] == ["rolled_back"]
    assert promised(studio) == []
    assert not os.path.exists(version.staging)


def test_an_expired_reservation_that_nobody_took_is_still_adopted(studio: Studio) -> None:
    [version] = reserved(studio, seconds=1).versions
    render(version.staging)
    with hours_later(studio) as root:
        integrator.publish(request(studio), root)
    assert_published(studio)


def test_a_reservation_is_removed_when_its_directory_cannot_be_made(studio: Studio) -> None:
    before = (studio.tree(), studio.documents())
    fate = Fate()
    with studio.fresh("count").open(fate) as root:
        reserve(request(studio), root, seconds=DAY)
    made = next(number for number, call in enumerate(fate.calls, 1) if call.startswith("mkdir"))
    with studio.open(Fate(fail_at=made)) as root, pytest.raises(Failed):
        reserve(request(studio), root, seconds=DAY)
    assert (studio.tree(), studio.documents()) == before
    assert promised(studio) == []


# --- killed anywhere ------------------------------------------------------------------------------------------------


def adopt(run: Studio, root: Root) -> None:
    integrator.publish(request(run), root)


def reserve_again(run: Studio, root: Root) -> None:
    reserve(request(run), root, seconds=DAY)


def give_back(run: Studio, root: Root) -> None:
    release("farm-1", root)


def ready(studio: Studio, seconds: float = DAY) -> Studio:
    """A studio with a reservation that was rendered into."""
    run = studio.fresh("ready")
    [version] = reserved(run, seconds).versions
    render(version.staging)
    return run


def calls_of(studio: Studio, work: Callable[[Studio, Root], None]) -> list[str]:
    fate, done = Fate(), studio.fresh("calls")
    with done.open(fate) as root:
        work(done, root)
    done.remove()
    return list(fate.calls)


@pytest.mark.parametrize("recovered", [True, False])
def test_a_publish_of_a_reservation_killed_at_any_call_keeps_the_promise(studio: Studio, recovered: bool) -> None:
    """Killed at any call, then recovered (or not), then published again by a third."""
    subject = ready(studio)
    calls, outcomes = calls_of(subject, adopt), {"published": 0, "promised": 0}
    for number in range(1, len(calls) + 1):
        for when in ("before", "after"):
            run = subject.fresh("kill")
            root = run.open(Fate(kill_at=number, when=when), owner=run.dead)  # type: ignore[arg-type]
            with contextlib.suppress(Killed):
                adopt(run, root)
            root.close()
            if recovered:
                run.recover()
                outcomes[assert_promised_or_published(run)] += 1
                again = Fate()
                run.recover(again)
                assert again.calls == []
            with run.open() as root:
                assert integrator.publish(request(run), root).versions[0].version == 2
            run.recover()
            assert_published(run)
            run.remove()
    print(f"\nadopt: killed at {2 * len(calls)} points: {outcomes}")
    assert outcomes["published"] > 0 or not recovered


def killed_adoption(subject: Studio, number: int) -> Studio:
    """A studio in which the publish of the reservation was killed after a call. (A copy would have other inodes.)"""
    run = subject.fresh("killed")
    root = run.open(Fate(kill_at=number, when="after"), owner=run.dead)
    with contextlib.suppress(Killed):
        adopt(run, root)
    root.close()
    return run


def recovery_calls(subject: Studio, number: int) -> int:
    fate, run = Fate(), killed_adoption(subject, number)
    run.recover(fate)
    run.remove()
    return len(fate.calls)


def test_a_recovery_of_an_adopted_reservation_killed_at_any_call_keeps_the_promise(studio: Studio) -> None:
    subject = ready(studio)
    calls, points = calls_of(subject, adopt), 0
    for killed in range(2, len(calls) + 1, 4):
        for number in range(1, recovery_calls(subject, killed) + 1):
            run = killed_adoption(subject, killed)
            with contextlib.suppress(Killed):
                run.recover(Fate(kill_at=number, when="after"), owner=run.dead)
            run.recover()
            publish_or_burnt(run)
            run.remove()
            points += 1
    print(f"\nrecovery of an adoption: killed at {points} points")
    assert points > 30


def test_a_reserver_that_is_overtaken_at_any_call_leaves_nothing(studio: Studio) -> None:
    """Asleep at any call while somebody releases the reservation: its directory does not stay behind."""
    for number in range(1, len(calls_of(studio, reserve_again)) + 1):
        run = studio.fresh("late")

        def meanwhile(at: int, call: str, run: Studio = run, number: int = number) -> None:
            if at == number:
                with run.open() as other, contextlib.suppress(UsageError):
                    release("farm-1", other)

        root = run.open(Fate(hook=meanwhile))
        with contextlib.suppress(IntegratorError):
            reserve_again(run, root)
        root.close()
        for document in promised(run):
            assert os.path.isdir(f"{run.path}/{document['directories'][0]['staging']}")
            with run.open() as root:
                release("farm-1", root)
        assert run.leftovers() == []
        run.remove()


def test_a_reservation_killed_at_any_call_is_made_or_absent(studio: Studio) -> None:
    calls = calls_of(studio, reserve_again)
    for number in range(1, len(calls) + 1):
        for when in ("before", "after"):
            run = studio.fresh("kill")
            root = run.open(Fate(kill_at=number, when=when), owner=run.dead)  # type: ignore[arg-type]
            with contextlib.suppress(Killed):
                reserve_again(run, root)
            root.close()
            run.recover()
            [version] = reserved(run).versions
            render(version.staging)
            with run.open() as root:
                integrator.publish(request(run), root)
            assert_published(run)
            run.remove()


def test_a_release_killed_at_any_call_is_complete_or_absent(studio: Studio) -> None:
    subject = ready(studio)
    calls = calls_of(subject, give_back)
    for number in range(1, len(calls) + 1):
        run = subject.fresh("kill")
        root = run.open(Fate(kill_at=number, when="after"), owner=run.dead)
        with contextlib.suppress(Killed):
            give_back(run, root)
        root.close()
        run.recover()
        assert promised(run) == []
        kept = [path.read_bytes() for path in Path(run.path).glob("demo/.integrator/trash/*/*.exr")]
        assert sorted(kept) == sorted(content(frame) for frame in range(1001, 1001 + FRAMES))
        with run.open() as root:
            assert integrator.publish(run.request("other"), root).versions[0].version == 2
        run.remove()


# --- overtaken anywhere ---------------------------------------------------------------------------------------------


def publish_third(run: Studio) -> None:
    """A third machine settles what is unfinished and publishes what was promised, to the end."""
    with hours_later(run) as root:
        assert all(entry.outcome in ("rolled_back", "finished") for entry in recover(root.engine))
    publish_or_burnt(run)


def publish_or_burnt(run: Studio) -> None:
    """What was promised is published; or, once it could be seen and its rollback was taken over, burnt, with every frame kept."""
    if promised(run):
        assert_promised_or_published(run)
    with run.open() as root:
        if promised(run) or any(entry.get("publish_id") == "farm-1" for entry in _documents(run)):
            assert integrator.publish(request(run), root).versions[0].version == 2
            return
        with pytest.raises(VersionTaken, match="burnt"):
            integrator.publish(request(run), root)
    assert kept_frames(run) == sorted(content(frame) for frame in range(1001, 1001 + FRAMES))


def kept_frames(run: Studio) -> list[bytes]:
    return sorted(path.read_bytes() for path in Path(run.path).glob("demo/.integrator/trash/*/*.exr"))


def assert_published_or_burnt(run: Studio) -> None:
    frames = kept_frames(run)
    with run.open() as root:
        sweep(root, older_than=0)
    if not frames:
        assert_published(run)
    else:
        assert frames == sorted(content(frame) for frame in range(1001, 1001 + FRAMES))
        assert not Path(run.path, "demo/shots/sq01/sh010/publish/render/renderBeauty/v002").exists()


def test_an_adopter_that_is_overtaken_at_any_call_hurts_nobody(studio: Studio) -> None:
    subject = ready(studio)
    calls = calls_of(subject, adopt)
    for number, call in enumerate(calls, 1):
        run = subject.fresh("late")
        overtaking = Overtaking(run, number, lambda run=run: publish_third(run))  # type: ignore[misc]
        root = run.open(Fate(hook=overtaking))
        with contextlib.suppress(IntegratorError, OSError):
            adopt(run, root)
        root.close()
        assert overtaking.seen is not None, call
        run.recover()
        assert_published_or_burnt(run)
        assert run.documents() == overtaking.seen[1], call
        run.remove()


def test_a_recoverer_of_an_adoption_that_is_overtaken_at_any_call_hurts_nobody(studio: Studio) -> None:
    subject = ready(studio)
    calls, points = calls_of(subject, adopt), 0
    for killed in range(2, len(calls) + 1, 3):
        for number in range(1, recovery_calls(subject, killed) + 1):
            run = killed_adoption(subject, killed)
            overtaking = Overtaking(run, number, lambda run=run: publish_third(run))  # type: ignore[misc]
            run.recover(Fate(hook=overtaking))
            run.recover()
            assert_published_or_burnt(run)
            assert overtaking.seen is not None
            assert run.documents() == overtaking.seen[1], (calls[killed - 1], number)
            run.remove()
            points += 1
    print(f"\nrecoverer of an adoption overtaken at {points} points")
    assert points > 50


def expire(run: Studio, root: Root) -> None:
    root.engine.database._clock = lambda: time.time() + 2 * LONG  # type: ignore[attr-defined]
    recover(root.engine)


@pytest.mark.parametrize("other", ["adopts", "releases", "expires"])
def test_of_release_and_adoption_one_wins(studio: Studio, other: str) -> None:
    """At every call of one of them the other runs to its end: the frames are published, or kept; never both, never neither."""
    subject = ready(studio, seconds=LONG)
    first, second = {"adopts": (give_back, adopt), "releases": (adopt, give_back), "expires": (adopt, expire)}[other]
    for number in range(1, len(calls_of(subject, first)) + 1):
        run = subject.fresh("race")
        ends: list[str] = []

        def meanwhile(at: int, call: str, run: Studio = run, number: int = number, ends: list[str] = ends) -> None:
            if at == number:
                with run.open() as root:
                    try:
                        second(run, root)
                        ends.append("second")
                    except (UsageError, LeaseLost, ValidationRefused, IntegratorError) as error:
                        ends.append(type(error).__name__)

        root = run.open(Fate(hook=meanwhile))
        with contextlib.suppress(IntegratorError):
            first(run, root)
        root.close()
        run.recover()
        published = Path(run.path, "demo/shots/sq01/sh010/publish/render/renderBeauty/v002").exists()
        kept = {path.name for path in Path(run.path).glob("demo/.integrator/trash/*/*.exr")}
        if published:
            assert_published(run)
        else:
            assert len(kept) == FRAMES
        assert promised(run) == []
        run.remove()
