"""The order of a publish, its barriers, and the rules of the protocol one by one."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from studio import Studio, Tree
from test_crash import Subject, assemble, fail, publish
from test_late_wakers import Overtaking, publish_next, settle

import integrator
from integrator import leases
from integrator.database import CLAIMS
from integrator.errors import Busy, DifferentContent, Failed, InDoubt, IntegratorError, Unanswered, VersionTaken
from integrator.root import create_root
from integrator.storage import Storage
from integrator.testing import CrashingDatabase, CrashingStorage, Fate, Killed


def calls_of(studio: Studio, request: dict[str, Any] | None = None) -> Fate:
    fate = Fate()
    with studio.open(fate) as root:
        integrator.publish(request or studio.request("job"), root)
    return fate


def first(fate: Fate, start: str, end: str = "") -> int:
    return next(n for n, call in enumerate(fate.calls) if call.startswith(start) and call.endswith(end))


# --- order and barriers ---------------------------------------------------------------------------------------------


def test_everything_is_durable_before_anybody_can_see_it(studio: Studio) -> None:
    """Files, then the record that they are prepared, then the final name, then its parent, then the verdict."""
    fate = calls_of(studio)
    written = max(n for n, call in enumerate(fate.calls) if call.startswith(("create", "link(", "set_times")))
    files = first(fate, "sync_filesystem")
    record = max(n for n, call in enumerate(fate.calls) if call.startswith("sync(") and ".journal" in call)
    reveals = [n for n, call in enumerate(fate.calls) if call.startswith("rename") and call.endswith("'v002')")]
    parents = [n for n, call in enumerate(fate.calls) if call in ("sync(renderBeauty)", "sync(camera)")]
    [verdict] = [n for n, call in enumerate(fate.calls) if "state=finished" in call]
    assert written < files < record < min(reveals)
    assert len(reveals) == 2
    assert max(reveals) < min(parents)
    assert len(parents) == 2
    assert max(parents) < verdict


def test_a_few_files_are_made_durable_one_by_one_with_all_their_folders(studio: Studio) -> None:
    request = studio.request("few")
    request["instances"] = [dict(request["instances"][1], subset="cameraNew")]
    fate = calls_of(studio, request)
    synced = [call for call in fate.calls if call.startswith("sync(")]
    names = {call[5:-1] for call in synced}
    assert fate.count("sync_filesystem") == 0
    assert {"demo_sh010_cameraNew_v001.abc", "cam.abc", "deep", "resources", "cameraNew", "camera"} <= names
    assert any(name.startswith("v001.tmp.") for name in names)
    last_file = max(n for n, call in enumerate(fate.calls) if call.startswith("sync(v001.tmp."))
    assert last_file < first(fate, "rename", "'v001')")


def test_a_withdrawal_is_durable_before_anything_of_it_is_deleted_or_released(studio: Studio) -> None:
    """Deleting first would let a power cut bring a gutted directory back."""
    _, run, _ = _killed_after_reveal(studio)
    fate = Fate()
    run.recover(fate)
    calls = fate.calls
    released = next(n for n, call in enumerate(calls) if "state=rolled_back" in call)
    withdrawals = [n for n, call in enumerate(calls) if call.startswith("rename('v002'")]
    assert len(withdrawals) == 2
    for withdrawn, end in zip(withdrawals, [*withdrawals[1:], released]):
        private, parent = calls[withdrawn + 1 : withdrawn + 3]
        assert (private, parent.startswith("sync(")) == ("sync(trash)", True)
        deletion = calls[withdrawn + 3 : end]
        assert deletion[0].startswith("unlink")
        assert "sync(trash)" in deletion


def test_the_old_content_is_in_the_trash_durably_before_the_transaction_ends(studio: Studio) -> None:
    fate = Subject(studio, assemble).calls
    [verdict] = [n for n, call in enumerate(fate) if "state=committed" in call]
    exchanged = next(n for n, call in enumerate(fate) if call.startswith("exchange"))
    [finished] = [n for n, call in enumerate(fate) if "state=finished" in call]
    assert verdict < exchanged < finished
    assert {"sync(trash)", "sync(demo)"} <= set(fate[exchanged:finished])


@pytest.mark.parametrize("few_or_many", [10, 2000])
def test_the_number_of_barriers_does_not_depend_on_the_number_of_files(tmp_path: Path, few_or_many: int) -> None:
    """One for the begin, one for the name of the journal, files, journal, parent, verdict: six."""
    source = tmp_path / "source"
    source.mkdir()
    for n in range(few_or_many):
        (source / f"a.{n:05d}.exr").write_bytes(b"x")
    with create_root(str(tmp_path / "show")) as root:
        root.engine.executor = None
        warm = {"asset": "sh010", "subset": "a", "family": "render"}
        whole = {"schema": "integrator:publish-request-1.0", "project": "demo"}
        files = {"name": "exr", "files": [f"{source}/a.%05d.exr"]}
        integrator.publish({**whole, "instances": [{**warm, "representations": [files]}]}, root)
    fate = Fate()
    studio: Studio = object.__new__(Studio)
    studio.path = str(tmp_path / "show")
    with studio.open(fate) as root:
        integrator.publish({**whole, "instances": [{**warm, "representations": [files]}]}, root)
    assert fate.count("sync", "sync_filesystem", "commit") == 6


# --- the rules against a late actor ---------------------------------------------------------------------------------


def _reveal(fate: Fate) -> int:
    return next(n for n, call in enumerate(fate.calls, 1) if call.startswith("rename") and call.endswith("'v002')"))


def _owner_overtaken(studio: Studio, number: int, *, next_publisher: bool) -> tuple[Studio, Tree]:
    """The owner sleeps at a call, is rolled back, perhaps followed by the next publisher, and goes on; tree before it went on."""
    run = studio.fresh("rule")

    def others() -> None:
        settle(run)
        if next_publisher:
            publish_next(run, publish, "other")

    overtaking = Overtaking(run, number, others)
    root = run.open(Fate(hook=overtaking))
    with contextlib.suppress(IntegratorError, OSError):
        publish(run, root)
    root.close()
    assert overtaking.seen is not None
    run.recover()
    return run, {name: entry for name, entry in overtaking.seen[0].items() if ".tmp." not in name}  # type: ignore[attr-defined]


def test_confirm_keeps_a_late_owner_from_revealing_what_was_rolled_back(studio: Studio) -> None:
    fate = calls_of(studio.fresh("count"))
    staging = next(n for n, call in enumerate(fate.calls, 1) if call.startswith("mkdir('v002.tmp."))
    run, seen = _owner_overtaken(studio, staging, next_publisher=False)
    assert run.tree() == seen
    assert run.leftovers() == []


def test_capture_keeps_a_late_owner_from_filling_what_is_being_deleted(studio: Studio) -> None:
    """An owner asleep in the middle of staging finds its directory gone with its descriptor, and can reveal nothing."""
    fate = calls_of(studio.fresh("count"))
    middle = next(n for n, call in enumerate(fate.calls, 1) if call.startswith("create('demo_sh010_renderBeauty_v002.1005"))
    run, seen = _owner_overtaken(studio, middle, next_publisher=True)
    assert run.tree() == seen
    assert run.leftovers() == []


def test_an_owner_must_win_the_right_to_roll_back(studio: Studio) -> None:
    """Its own rollback, after somebody else finished the same number, touches nothing of theirs."""
    subject = Subject(studio, fail)
    [own] = [n for n, call in enumerate(subject.calls, 1) if "state=rolling_back" in call]
    run = subject.studio.fresh("rule")

    def others() -> None:
        settle(run)
        publish_next(run, fail, "other")

    overtaking = Overtaking(run, own, others)
    root = run.open(Fate(hook=overtaking))
    with contextlib.suppress(IntegratorError, RuntimeError):
        fail(run, root)
    root.close()
    assert overtaking.seen is not None
    assert run.tree() == overtaking.seen[0]
    run.recover()
    assert run.leftovers() == []


def _killed_after_reveal(studio: Studio) -> tuple[Subject, Studio, int]:
    """A run killed between the reveal and the verdict, and the call at which its recoverer withdraws."""
    subject = Subject(studio, publish)
    [verdict] = [n for n, call in enumerate(subject.calls, 1) if "state=finished" in call]
    count, _ = subject.kill(verdict, "before")
    whole = Fate()
    count.recover(whole)
    withdraw = next(n for n, call in enumerate(whole.calls, 1) if call.startswith("rename('v002'"))
    run, _ = subject.kill(verdict, "before")
    return subject, run, withdraw


def test_a_number_is_burnt_rather_than_raced_for(studio: Studio) -> None:
    """A recoverer asleep between looking and withdrawing cannot take away what the next publisher put there: nobody gets
    that number again."""
    _, run, withdraw = _killed_after_reveal(studio)

    def others() -> None:
        settle(run)
        publish_next(run, publish, "other")

    overtaking = Overtaking(run, withdraw, others)
    run.recover(Fate(hook=overtaking))
    assert overtaking.seen is not None
    assert run.tree() == overtaking.seen[0]
    assert run.versions("renderBeauty") == [1, 3]
    assert run.leftovers() == []
    with run.open() as root:
        assert [claim["number"] for claim in root.engine.database.find(CLAIMS) if claim["burnt"]] == [2, 2]


def test_a_number_that_was_given_back_is_used_again(studio: Studio) -> None:
    _, run, _ = _killed_after_reveal(studio)
    run.recover()
    publish_next(run, publish, "other")
    assert run.versions("renderBeauty") == [1, 2]


def test_a_broken_lease_loses_at_the_verdict_even_if_nobody_took_over(studio: Studio) -> None:
    fate = calls_of(studio.fresh("count"))
    [verdict] = [n for n, call in enumerate(fate.calls, 1) if "state=finished" in call]
    old = studio.tree()

    def break_it() -> None:
        with studio.open() as root:
            leases.break_lease(root.engine.database, "demo/shots/sq01/sh010/camera", "test", root.engine.owner)

    overtaking = Overtaking(studio, verdict, break_it)
    root = studio.open(Fate(hook=overtaking))
    with pytest.raises(Failed, match="soft lock"):
        publish(studio, root)
    root.close()
    assert studio.tree() == old
    assert studio.leftovers() == []


def test_a_folder_that_appears_before_the_claim_is_seen_after_it(studio: Studio) -> None:
    """Somebody outside makes v002 between the look and the claim: the number is skipped, the folder stays."""
    foreign = Path(studio.path, "demo/shots/sq01/sh010/publish/camera/camera/v002")

    def hook(number: int, call: str) -> None:
        if number == 1:
            foreign.mkdir()

    with studio.open(Fate(hook=hook)) as root:
        result = integrator.publish(studio.request("job"), root)
    assert [version.version for version in result.versions] == [2, 3]
    assert list(foreign.iterdir()) == []
    assert studio.leftovers() == []


def test_a_folder_that_appears_before_the_reveal_is_never_replaced(studio: Studio) -> None:
    """A plain rename would silently replace an empty directory."""
    foreign = Path(studio.path, "demo/shots/sq01/sh010/publish/camera/camera/v002")
    at = _reveal(calls_of(studio.fresh("count")))
    old = studio.tree()

    def hook(number: int, call: str) -> None:
        if number == at:
            foreign.mkdir()

    root = studio.open(Fate(hook=hook))
    with pytest.raises(Failed):
        publish(studio, root)
    root.close()
    assert foreign.is_dir()
    foreign.rmdir()
    assert studio.tree() == old
    assert studio.leftovers() == []


def test_foreign_content_at_a_final_path_survives_recovery(studio: Studio) -> None:
    """Killed before the reveal; somebody puts a folder of that name there: it is not ours, whatever it holds."""
    subject = Subject(studio, publish)
    staged = next(n for n, call in enumerate(subject.calls, 1) if call.startswith("mkdir('v002.tmp."))
    for number in (*range(2, staged + 1), _reveal_of(subject)):
        run, _ = subject.kill(number, "before")
        foreign = Path(run.path, "demo/shots/sq01/sh010/publish/camera/camera/v002")
        foreign.mkdir()
        (foreign / "precious.txt").write_text("precious")
        run.recover()
        assert (foreign / "precious.txt").read_text() == "precious", subject.calls[number - 1]


def _reveal_of(subject: Subject) -> int:
    return next(n for n, call in enumerate(subject.calls, 1) if call.startswith("rename") and call.endswith("'v002')"))


def test_what_somebody_put_into_a_revealed_version_survives_its_withdrawal(studio: Studio) -> None:
    """Between reveal and verdict a folder can be seen: what others put there is kept in the trash, and named."""
    _, run, _ = _killed_after_reveal(studio)
    stranger = Path(run.path, "demo/shots/sq01/sh010/publish/camera/camera/v002/stranger.txt")
    stranger.write_text("precious")
    [settled] = run.recover()
    document = run.transaction(settled.transaction)
    assert document["state"] == "rolled_back"
    [left] = document["left"]
    assert Path(run.path, left).read_text() == "precious"
    assert not stranger.parent.exists()


# --- in doubt -------------------------------------------------------------------------------------------------------


class LateVerdict(CrashingDatabase):
    """Loses the verdict on its way; `land` lets it arrive."""

    late: Any = None

    def commit(self, changes: Any) -> None:
        if any("state" in getattr(c, "set", {}) and c.set["state"] in ("finished", "committed") for c in changes):
            self.late = list(changes)
            raise Unanswered("the connection was closed")
        self.database.commit(changes)

    def land(self) -> None:
        with contextlib.suppress(IntegratorError):
            self.database.commit(self.late)


def test_a_verdict_that_arrives_after_the_rollback_changes_nothing(studio: Studio) -> None:
    """A read that says `open` would prove nothing; the rollback is won by a compare-and-swap, and the late write is refused."""
    old = (studio.tree(), studio.documents())
    root = studio.open()
    late = root.engine.database = LateVerdict(root.engine.database, Fate())
    with pytest.raises(Failed):
        publish(studio, root)
    late.land()
    root.close()
    assert (studio.tree(), studio.documents()) == old
    assert studio.leftovers() == []


def test_a_verdict_that_was_made_without_an_answer_is_found_to_be_in(studio: Studio) -> None:
    subject = Subject(studio, publish)
    [verdict] = [n for n, call in enumerate(subject.calls, 1) if "state=finished" in call]
    run = subject.studio.fresh("lost")
    with run.open(Fate(fail_at=verdict, when="after")) as root:
        assert integrator.publish(run.request("job"), root).outcome == "published"
    assert subject.outcome(run) == "new"
    assert run.leftovers() == []


def test_without_any_answer_nothing_is_undone_and_recovery_settles_it(studio: Studio) -> None:
    subject = Subject(studio, publish)
    [verdict] = [n for n, call in enumerate(subject.calls, 1) if "state=finished" in call]
    for when, outcome in (("after", "new"), ("lost", "old")):
        run = subject.studio.fresh("doubt")
        root = run.open(Fate(fail_at=verdict, when=when, persistent=True), owner=run.dead)  # type: ignore[arg-type]
        with pytest.raises(InDoubt) as caught:
            publish(run, root)
        root.close()
        assert caught.value.exit_code == 6
        assert caught.value.next == f"integrator recover {caught.value.transaction}"
        assert Path(run.path, "demo/shots/sq01/sh010/publish/camera/camera/v002").is_dir()
        run.recover()
        assert subject.outcome(run) == outcome
        assert run.leftovers() == []


# --- retry by publish id --------------------------------------------------------------------------------------------


def test_a_retry_of_a_finished_publish_answers_the_same_and_writes_nothing(studio: Studio) -> None:
    with studio.open() as root:
        done = integrator.publish(studio.request("job"), root)
    fate = Fate()
    with studio.open(fate) as root:
        again = integrator.publish(studio.request("job"), root)
    assert again.outcome == "already_published"
    assert again.document() == {**done.document(), "outcome": "already_published"}
    assert fate.calls == []


def test_a_retry_with_other_content_is_refused(studio: Studio) -> None:
    with studio.open() as root:
        integrator.publish(studio.request("job"), root)
        with pytest.raises(DifferentContent):
            integrator.publish(studio.request("job", comment="other"), root)


def test_a_retry_of_a_committed_publish_with_a_dead_owner_finishes_it_first(studio: Studio) -> None:
    subject = Subject(studio, assemble)
    [verdict] = [n for n, call in enumerate(subject.calls, 1) if "state=committed" in call]
    run, _ = subject.kill(verdict, "after")
    assert Path(run.path, "demo/edit.json").read_bytes() == b"old"
    with run.open() as root, pytest.raises(DifferentContent):
        root.begin(project="demo", publish_id="job")
    assert Path(run.path, "demo/edit.json").read_bytes() == b"new"
    assert subject.outcome(run) == "new"


def test_a_living_owner_keeps_everybody_out(studio: Studio) -> None:
    with studio.open() as root, root.begin(project="demo", publish_id="one", author="anna") as assembly:
        version = assembly.new_version(asset="sh010", hierarchy="shots/sq01", subset="camera", family="camera")
        version.write("a.abc", b"1")
        with pytest.raises(Busy) as caught, studio.open() as other:
            integrator.publish(studio.request("two"), other)
    assert "is publishing demo/shots/sq01/sh010/camera v002 since" in caught.value.message
    assert caught.value.exit_code == 4
    assert studio.leftovers() == []


def test_waiting_for_a_soft_lock_ends_when_it_is_free(studio: Studio) -> None:
    root = studio.open()
    assembly = root.begin(project="demo", publish_id="one")
    version = assembly.new_version(asset="sh010", hierarchy="shots/sq01", subset="camera", family="camera")
    version.write("a.abc", b"1")

    def wait() -> None:
        with studio.open() as other:
            results.append(integrator.publish(studio.request("two"), other, wait=30))

    results: list[Any] = []
    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    assembly.commit()
    thread.join()
    root.close()
    assert [entry.version for entry in results[0].versions] == [2, 3]


# --- versions -------------------------------------------------------------------------------------------------------


def test_a_pinned_version_that_exists_is_refused(studio: Studio) -> None:
    request = studio.request("pin")
    request["instances"][0]["version"] = 1
    with studio.open() as root, pytest.raises(VersionTaken) as caught:
        integrator.publish(request, root)
    assert caught.value.exit_code == 3
    assert studio.leftovers() == []


def test_version_zero_can_be_pinned(studio: Studio) -> None:
    request = studio.request("zero")
    request["instances"][0]["version"] = 0
    with studio.open() as root:
        assert integrator.publish(request, root).versions[0].version == 0
    assert studio.versions("renderBeauty") == [0, 1]


def test_a_foreign_version_folder_is_counted_over_and_not_touched(studio: Studio) -> None:
    foreign = Path(studio.path, "demo/shots/sq01/sh010/publish/camera/camera/v007")
    foreign.mkdir()
    with studio.open() as root:
        assert integrator.publish(studio.request("job"), root).versions[1].version == 8
    assert list(foreign.iterdir()) == []


# --- roots ----------------------------------------------------------------------------------------------------------


def test_a_root_that_is_not_mounted_settles_nothing(studio: Studio) -> None:
    """Absence is believed only below a root that carries the right id."""
    other: Studio = object.__new__(Studio)
    other.__dict__.update(studio.__dict__)
    other.path, cache = f"{studio.folder}/two/show", Path(studio.folder, "cache")
    cache.mkdir()
    create_root(other.path, templates={"folder": _ON_CACHE}).close()
    config = Path(other.path, ".integrator/config.toml")
    config.write_text(config.read_text().replace("[templates]", f'[roots]\ncache = "{cache}"\n[templates]'))
    create_root(other.path).close()  # marks the new root
    calls_of(other, other.request("first"))
    reveal = _reveal(calls_of(other, other.request("second")))
    root = other.open(Fate(kill_at=reveal, when="after"), owner=studio.dead)
    with pytest.raises(Killed):
        integrator.publish(other.request("third"), root)
    root.close()
    cache.rename(f"{studio.folder}/away")
    cache.mkdir()
    [settled] = other.recover()
    assert settled.outcome == "in_doubt"
    assert "mounted" in settled.message
    assert other.transaction(settled.transaction)["state"] == "open"
    cache.rmdir()
    Path(studio.folder, "away").rename(cache)
    [settled] = other.recover()
    assert settled.outcome == "rolled_back"


_ON_CACHE = "{root[cache]}/{project[name]}/{hierarchy}/{asset}/publish/{family}/{subset}/{@version}"


def test_a_file_is_replaced_where_two_names_cannot_be_exchanged(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS and FUSE have no exchange; killed at any call, the file holds the old or the new content, and the trash the old one."""

    def refuse(self: Any, *names: Any) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(CrashingStorage, "exchange", refuse)
    monkeypatch.setattr(Storage, "exchange", refuse)
    subject = Subject(studio, assemble)
    assert any(call.startswith("replace") for call in subject.calls)
    [verdict] = [n for n, call in enumerate(subject.calls, 1) if "state=committed" in call]
    for number in range(verdict, len(subject.calls) + 1):
        run, _ = subject.kill(number, "after")
        run.recover()
        assert subject.outcome(run) == "new"
        assert run.leftovers() == []
        [old] = Path(run.path, "demo/.integrator/trash").glob("*/*.edit.json")
        assert old.read_bytes() == b"old"
        run.remove()


def test_a_transaction_that_has_no_lease_yet_is_left_alone(studio: Studio) -> None:
    with studio.open() as root, root.begin(project="demo") as assembly:
        assert [settled.outcome for settled in studio.recover()] == ["alive"]
        assembly.insert("demo", {"type": "note"})
    assert assembly.result is not None


def test_a_dry_run_writes_nothing_even_after_a_killed_run_of_the_same_id(studio: Studio) -> None:
    subject = Subject(studio, publish)
    run, _ = subject.kill(len(subject.calls) // 2, "before")
    fate = Fate()
    with run.open(fate) as root:
        assert integrator.publish(run.request("job"), root, dry_run=True).outcome == "planned"
    assert fate.calls == []
