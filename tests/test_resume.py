"""The next attempt of a publish: what it takes over, how often it may be, and how long it waits for its sources."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from studio import Studio, dead_owner

import integrator
from integrator.cli import main
from integrator.database import TRANSACTIONS
from integrator.errors import BudgetUsedUp, Failed, Interrupted, SourceChanged, ValidationRefused
from integrator.model import Document
from integrator.retry import Budget
from integrator.root import Root, create_root
from integrator.testing import Fate, Killed

FRAMES = 400


@pytest.fixture
def show(tmp_path: Path) -> Path:
    """A root and a sequence of some frames."""
    folder = tmp_path / "render"
    folder.mkdir()
    for frame in range(1001, 1001 + FRAMES):
        (folder / f"beauty.{frame}.exr").write_bytes(f"frame {frame}".encode() * 300)
    create_root(str(tmp_path / "show")).close()
    return tmp_path


def request(show: Path, **changes: Any) -> dict[str, Any]:
    representation = {"name": "exr", "files": [f"{show}/render/beauty.%04d.exr"]}
    instance = {"asset": "sh010", "subset": "renderBeauty", "family": "render", "representations": [representation]}
    whole = {"schema": "integrator:publish-request-1.0", "project": "demo", "publish_id": "farm-1", "instances": [instance]}
    return {**whole, **changes}


@contextlib.contextmanager
def opened(show: Path, fate: Fate | None = None, **engine: Any):  # type: ignore[no-untyped-def]
    studio: Studio = object.__new__(Studio)
    studio.path = str(show / "show")
    with studio.open(fate, **engine) as root:
        yield root


def killed_after(show: Path, files: int) -> Fate:
    """A publish that is killed when it has copied so many files."""
    created = [0]

    def count(number: int, call: str) -> None:
        if call.startswith("create") and "beauty" not in call and ".exr" in call:
            created[0] += 1
            if created[0] > files:
                fate.kill_at = number

    fate = Fate(hook=count)
    with opened(show, fate, owner=dead_owner()) as root, contextlib.suppress(Killed):
        integrator.publish(request(show), root)
    return fate


def copied(fate: Fate) -> int:
    return sum(1 for call in fate.calls if call.startswith("create") and ".exr" in call)


def published(show: Path, folder: str = "v001") -> dict[str, bytes]:
    place = show / "show/demo/sh010/publish/render/renderBeauty" / folder
    return {path.name.rsplit(".", 2)[1]: path.read_bytes() for path in place.iterdir()}


def sources(show: Path) -> dict[str, bytes]:
    return {path.name.split(".")[1]: path.read_bytes() for path in (show / "render").iterdir()}


def documents(show: Path) -> list[Document]:
    with opened(show) as root:
        return root.engine.database.find(TRANSACTIONS)


def leftovers(show: Path) -> list[str]:
    return sorted(path.name for path in (show / "show").rglob("*") if ".integrator/trash/" in str(path))


def test_a_publish_that_was_killed_goes_on_where_it_stopped(show: Path) -> None:
    """The retry copies at most the rest, and publishes the same as a fresh publish."""
    first = killed_after(show, FRAMES - 40)
    assert copied(first) == FRAMES - 39
    fate = Fate()
    with opened(show, fate) as root:
        assert integrator.publish(request(show), root).versions[0].version == 1
        fresh = integrator.publish(request(show, publish_id="fresh"), root)
    assert copied(fate) - FRAMES == 40, "no more than the rest"
    assert published(show) == sources(show) == published(show, "v002")
    assert leftovers(show) == []
    with opened(show) as root:
        ours, theirs = (_representation(root, version) for version in (1, 2))
    assert fresh.outcome == "published"
    assert ours == theirs


def _representation(root: Root, version: int) -> list[tuple[Any, ...]]:
    [parent] = root.documents("demo", {"type": "version", "name": version})
    [found] = root.documents("demo", {"type": "representation", "parent": parent["_id"]})
    return [(file["size"], file["checksum"], file["hash"].replace(f"v00{version}", "")) for file in found["files"]]


def test_a_copy_that_somebody_still_has_open_for_writing_is_made_again(show: Path) -> None:
    """Only those that were recorded are known to be closed."""
    killed_after(show, FRAMES - 40)
    [staging] = (show / "show").rglob("v001.tmp.*")
    fate = Fate()
    with contextlib.ExitStack() as stack:
        for path in staging.iterdir():
            stack.enter_context(path.open("r+b"))
        with opened(show, fate) as root:
            integrator.publish(request(show), root)
    assert copied(fate) > 40
    assert published(show) == sources(show)


def test_what_changed_meanwhile_is_copied_again(show: Path) -> None:
    """A changed source, a copy whose content is not what was recorded, one that is gone, one of another inode."""
    killed_after(show, FRAMES - 1)
    (show / "render/beauty.1001.exr").write_bytes(b"rendered again" * 100)
    [staging] = (show / "show").rglob("v001.tmp.*")
    names = {path.name.rsplit(".", 2)[1]: path for path in staging.iterdir()}
    size, times = names["1002"].stat().st_size, names["1002"].stat().st_mtime_ns
    names["1002"].write_bytes(bytes(size))
    os.utime(names["1002"], ns=(times, times))
    names["1003"].unlink()
    content = names["1004"].read_bytes()
    names["1004"].unlink()
    names["1004"].write_bytes(content)
    with opened(show) as root:
        integrator.publish(request(show), root)
    assert published(show) == sources(show)


def test_a_power_cut_that_left_zeros_is_noticed(show: Path) -> None:
    """The journal says copied, the file has its size, and its content never reached the disk."""
    killed_after(show, FRAMES - 1)
    [staging] = (show / "show").rglob("v001.tmp.*")
    for path in staging.iterdir():
        status = path.stat()
        with path.open("r+b") as file:
            file.write(bytes(status.st_size))
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    with opened(show) as root:
        integrator.publish(request(show), root)
    assert published(show) == sources(show)


def test_whoever_else_settles_it_keeps_nothing_that_was_copied(show: Path) -> None:
    killed_after(show, FRAMES - 10)
    with opened(show) as root:
        from integrator.recovery import recover

        assert [entry.outcome for entry in recover(root.engine)] == ["rolled_back"]
    assert leftovers(show) == []
    fate = Fate()
    with opened(show, fate) as root:
        integrator.publish(request(show), root)
    assert copied(fate) == FRAMES


def test_a_resumed_publish_that_is_killed_is_resumed_again(show: Path) -> None:
    killed_after(show, 300)
    killed_after(show, 60)
    fate = Fate()
    with opened(show, fate) as root:
        integrator.publish(request(show), root)
    assert copied(fate) == FRAMES - 360
    assert published(show) == sources(show)
    assert leftovers(show) == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_call_of_a_resume_it_is_complete_or_absent(tmp_path: Path, when: str) -> None:
    """Few frames, so that every call can be tried."""
    folder = tmp_path / "render"
    folder.mkdir()
    for frame in range(1001, 1013):
        (folder / f"beauty.{frame}.exr").write_bytes(f"frame {frame}".encode() * 300)
    count = 1
    number = 1
    while number <= count:
        run = tmp_path / f"run{number}"
        run.mkdir()
        (run / "render").symlink_to(folder)
        create_root(str(run / "show")).close()
        killed_after(run, 9)
        fate = Fate(kill_at=number, when=when)  # type: ignore[arg-type]
        with opened(run, fate, owner=dead_owner()) as root, contextlib.suppress(Killed):
            integrator.publish(request(run), root)
            count = len(fate.calls)
        count = max(count, number + 1) if fate.dead else number
        with opened(run) as root:
            assert integrator.publish(request(run), root).versions[0].version == 1
            from integrator.recovery import recover

            recover(root.engine)
        assert published(run) == sources(run)
        assert leftovers(run) == []
        number += 1
    print(f"\nresume: killed at {number - 1} calls, {when}")
    assert number > 40


def test_the_command_resumes_by_the_transaction(show: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed_after(show, FRAMES - 10)
    [attempt] = documents(show)
    assert main(["resume", attempt["_id"], "--root", str(show / "show"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["outcome"], answer["versions"][0]["version"]) == ("published", 1)
    assert published(show) == sources(show)
    assert main(["resume", attempt["_id"], "--root", str(show / "show"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "already_published"
    assert main(["resume", "0" * 24, "--root", str(show / "show")]) == 2


# --- what extractors produced ---------------------------------------------------------------------------------------


def assembled(root: Root, *, fail: bool, export: bool) -> None:
    with root.begin(project="demo", publish_id="job") as assembly:
        version = assembly.new_version(asset="hero", subset="modelMain", family="model")
        if export:
            Path(version.path, "hero.abc").write_bytes(b"took hours")
        version.adopt("hero.abc")
        version.write("notes.txt", b"quick")
        if fail:
            raise RuntimeError("a later plugin fails")


def test_what_an_extractor_produced_is_kept_for_the_next_attempt(show: Path) -> None:
    with opened(show) as root, pytest.raises(RuntimeError):
        assembled(root, fail=True, export=True)
    assert leftovers(show)[-1:] == ["hero.abc"], "what the engine wrote itself is not kept"
    with opened(show) as root:
        assembled(root, fail=False, export=False)
    assert (show / "show/demo/hero/publish/model/modelMain/v001/hero.abc").read_bytes() == b"took hours"


def test_files_of_an_extractor_that_may_still_run_are_not_taken_over(show: Path) -> None:
    """Taken over by silence: nobody knows whether its process still writes."""
    with opened(show) as root:
        root.engine.owner = attrs.evolve(root.engine.owner, host="elsewhere")
        assembly = root.begin(project="demo", publish_id="job")
        version = assembly.new_version(asset="hero", subset="modelMain", family="model")
        Path(version.path, "hero.abc").write_bytes(b"half")
        assembly.transaction._journal.flush()
        with opened(show) as other:
            other.engine.database._clock = lambda: time.time() + 10_000
            with pytest.raises(integrator.errors.StagingChanged, match="was not written"):
                assembled(other, fail=False, export=False)
        with contextlib.suppress(integrator.errors.IntegratorError):
            assembly.transaction.roll_back()


def test_nothing_is_kept_where_the_settings_say_so(show: Path) -> None:
    config = show / "show/.integrator/config.toml"
    config.write_text(config.read_text() + "keep_failed = 0\n")
    with opened(show) as root, pytest.raises(RuntimeError):
        assembled(root, fail=True, export=True)
    assert leftovers(show) == []


# --- attempts -------------------------------------------------------------------------------------------------------


def failing(show: Path, error: BaseException, host: str = "node1", **options: Any) -> None:
    def strike(number: int, call: str) -> None:
        if call.startswith("create") and "1005" in call:
            raise error

    with opened(show, Fate(hook=strike)) as root:
        root.engine.owner = attrs.evolve(root.engine.owner, host=host)
        integrator.publish(request(show), root, **options)


def test_a_budget_of_attempts_ends_in_exit_7(show: Path) -> None:
    budget = Budget(attempts=3)
    for _ in range(3):
        with pytest.raises(Failed):
            failing(show, OSError(28, "No space left on device"), budget=budget)
    with pytest.raises(BudgetUsedUp, match=r"tried 3 times, and failed: .*No space left") as caught:
        failing(show, OSError(28, "No space left on device"), budget=budget)
    assert caught.value.exit_code == 7
    with opened(show) as root:
        assert integrator.publish(request(show), root, budget=Budget(attempts=4)).versions[0].version == 1
    [document] = [entry for entry in documents(show) if entry["state"] == "finished"]
    assert [(entry["host"], entry["counts"]) for entry in document["attempts"]] == [("node1", True)] * 3
    assert all(entry["started"] <= entry["ended"] for entry in document["attempts"])


def test_attempts_of_one_host_have_their_own_budget(show: Path) -> None:
    budget = Budget(per_host=1)
    with pytest.raises(Failed):
        failing(show, OSError(28, "full"), budget=budget)
    with pytest.raises(BudgetUsedUp, match="1 times on node1"):
        failing(show, OSError(28, "full"), budget=budget)
    with pytest.raises(Failed):
        failing(show, OSError(28, "full"), host="node2", budget=budget)


def test_interrupted_attempts_do_not_count(show: Path) -> None:
    for error in (KeyboardInterrupt(), Interrupted(15)):
        with pytest.raises(type(error)):
            failing(show, error, budget=Budget(attempts=1))
    with opened(show) as root:
        assert integrator.publish(request(show), root, budget=Budget(attempts=1)).outcome == "published"


def test_a_killed_attempt_counts(show: Path) -> None:
    killed_after(show, 3)
    with opened(show) as root, pytest.raises(BudgetUsedUp, match="it was killed"):
        integrator.publish(request(show), root, budget=Budget(attempts=1))


def test_a_farm_has_a_budget_for_ids_that_it_gives(show: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTEGRATOR_FARM", "1")
    wanted = show / "request.json"
    wanted.write_text(json.dumps(request(show)))
    with pytest.raises(Failed):
        failing(show, OSError(28, "full"), host=os.uname().nodename)
    command = ["publish", str(wanted), "--root", str(show / "show"), "--wait", "0", "--settle", "0"]
    assert main(command) == 7
    assert main([*command, "--attempts-per-host", "2"]) == 0


# --- sources that appear late ------------------------------------------------------------------------------------------


def later(seconds: float, action: Any) -> threading.Thread:
    thread = threading.Timer(seconds, action)
    thread.start()
    return thread


def test_a_frame_that_appears_late_is_waited_for(show: Path) -> None:
    late = show / "render/beauty.1007.exr"
    hidden = show / "hidden.exr"
    late.rename(hidden)
    os.utime(hidden, (1, 1))
    wanted = request(show)
    wanted["instances"][0]["representations"][0]["frames"] = f"1001-{1000 + FRAMES}"
    with opened(show) as root:
        with pytest.raises(ValidationRefused, match="lacks the frames 1007"):
            integrator.publish(wanted, root)
        thread = later(1.0, lambda: hidden.rename(late))
        assert integrator.publish(wanted, root, settle=30).outcome == "published"
        thread.join()
    assert published(show) == sources(show)


def test_a_file_that_still_grows_is_waited_for(show: Path) -> None:
    path = show / "render/beauty.1003.exr"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])

    def write_on() -> None:
        for end in range(1400, len(whole) + 400, 400):
            time.sleep(0.2)
            path.write_bytes(whole[:end])

    thread = later(0.2, write_on)
    with opened(show) as root:
        integrator.publish(request(show), root, settle=30)
    thread.join()
    assert published(show)["1003"] == whole


def test_waiting_ends_and_says_so(show: Path) -> None:
    (show / "render/beauty.1003.exr").write_bytes(b"")
    start = time.monotonic()
    with opened(show) as root, pytest.raises(ValidationRefused, match=r"is empty(?s:.*)waited for, 1 s long"):
        integrator.publish(request(show), root, settle=1)
    assert time.monotonic() - start < 10


def test_what_waiting_cannot_mend_is_refused_at_once(show: Path) -> None:
    (show / "render/beauty.1003.exr").unlink()
    (show / "render/beauty.1003.exr").mkdir()
    start = time.monotonic()
    with opened(show) as root, pytest.raises(ValidationRefused, match="is a folder"):
        integrator.publish(request(show), root, settle=60)
    assert time.monotonic() - start < 10


def test_a_source_that_changes_while_it_is_copied_is_still_refused(show: Path) -> None:
    def touch(number: int, call: str) -> None:
        if call.startswith("create") and "1010" in call:
            (show / "render/beauty.1001.exr").write_bytes(b"changed")

    with opened(show, Fate(hook=touch)) as root, pytest.raises(SourceChanged):
        integrator.publish(request(show), root)
    assert not (show / "show/demo/sh010/publish/render/renderBeauty/v001").exists()


@pytest.fixture
def hidden(show: Path) -> Iterator[Path]:
    """The render folder as a network file system might show it: for 3 seconds one frame is missing, and one has half its size."""
    try:
        importlib.import_module("fuse")
    except (ImportError, OSError) as error:
        pytest.skip(f"frames that appear late are tested with threads only: {error} (.ci/system-packages)")
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("frames that appear late are tested with threads only: /dev/fuse cannot be used here")
    mount = show / "mounted"
    mount.mkdir()
    now = time.time()
    os.utime(show / "render/beauty.1009.exr", (now, now))
    words = [str(show / "render"), str(mount), "3", "beauty.1007.exr", "beauty.1009.exr"]
    with subprocess.Popen([sys.executable, str(Path(__file__).with_name("hiding.py")), *words]) as child:
        try:
            end = time.monotonic() + 10
            while not os.path.ismount(mount) and time.monotonic() < end:
                time.sleep(0.02)
            yield mount
        finally:
            subprocess.run(["umount", str(mount)], check=False)
            child.terminate()


def test_a_file_system_that_shows_frames_late_is_waited_for(show: Path, hidden: Path) -> None:
    wanted = request(show)
    wanted["instances"][0]["representations"][0].update(files=[f"{hidden}/beauty.%04d.exr"], frames=f"1001-{1000 + FRAMES}")
    with opened(show) as root:
        with pytest.raises(ValidationRefused, match="lacks the frames 1007"):
            integrator.publish(wanted, root)
        assert integrator.publish(wanted, root, settle=30).outcome == "published"
    assert published(show) == sources(show)


_PUBLISH = """
import sys, integrator
from integrator.root import open_root
with open_root(sys.argv[1]) as root:
    integrator.publish(open(sys.argv[2]).read(), root)
"""


def test_after_a_kill_at_9000_of_10000_frames_no_more_than_the_rest_is_copied(tmp_path: Path) -> None:
    """A real process, a real kill, and the bytes that the retry writes into files."""
    size, count = 2048, 10_000
    folder = tmp_path / "render"
    folder.mkdir()
    for frame in range(count):
        (folder / f"beauty.{frame:04d}.exr").write_bytes(b"%08d" % frame * (size // 8))
    create_root(str(tmp_path / "show")).close()
    wanted = request(tmp_path)
    wanted["instances"][0]["representations"][0]["files"] = [f"{folder}/beauty.%04d.exr"]
    (tmp_path / "request.json").write_text(json.dumps(wanted))
    with subprocess.Popen([sys.executable, "-c", _PUBLISH, str(tmp_path / "show"), str(tmp_path / "request.json")]) as child:
        staged = 0
        end = time.monotonic() + 60
        subset = tmp_path / "show/demo/sh010/publish/render/renderBeauty"
        while staged < 9000 and time.monotonic() < end and child.poll() is None:
            staged = sum(len(os.listdir(path)) for path in subset.glob("v001.tmp.*"))
        child.kill()
    [staging] = subset.glob("v001.tmp.*")
    complete = sum(1 for path in staging.iterdir() if path.stat().st_size == size)
    assert 8000 < complete < count
    fate = Fate()
    with opened(tmp_path, fate) as root:
        integrator.publish(wanted, root)
    assert copied(fate) == count - complete
    print(f"\nkilled after {complete} of {count} frames; the retry copied {copied(fate) * size} bytes")
    assert published(tmp_path) == sources(tmp_path)
    assert leftovers(tmp_path) == []


def test_a_publish_that_had_copied_everything_is_resumed_with_threads(show: Path) -> None:
    """Nothing is left to copy, and the usual threads have nothing to do."""
    killed_after(show, FRAMES)
    [attempt] = documents(show)
    if attempt["state"] == "open":
        assert main(["resume", attempt["_id"], "--root", str(show / "show")]) == 0
    killed_at_the_reveal = request(show, publish_id="farm-2")
    count = Fate()
    with opened(show, count) as root:
        integrator.publish(request(show, publish_id="count"), root)
    reveal = next(number for number, call in enumerate(count.calls, 1) if call.startswith("rename") and "'v00" in call)
    with opened(show, Fate(kill_at=reveal), owner=dead_owner()) as root, contextlib.suppress(Killed):
        integrator.publish(killed_at_the_reveal, root)
    [dead] = [entry for entry in documents(show) if entry["state"] == "open"]
    assert main(["resume", dead["_id"], "--root", str(show / "show")]) == 0
    assert published(show, "v003") == sources(show)
