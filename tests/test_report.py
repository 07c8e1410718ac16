"""Reports: whatever became of a publish, the page and the JSON document tell it, and tell nobody a secret."""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs
import pytest
import xxhash
from browser import MISSING, Browser, find_browser
from studio import Studio

import integrator
from integrator import cli
from integrator.engine import Effect
from integrator.errors import Failed, InDoubt, IntegratorError, Interrupted
from integrator.journal.format import KINDS
from integrator.report import SCHEMA, Attempt, Failure, FileList, Moment, PluginRun, Report, ReportedVersion, Thumbnail, Wanted
from integrator.report.contents import Circumstances, gather
from integrator.report.files import write
from integrator.report.masks import MASK, Mask
from integrator.report.page import render
from integrator.report.sequences import collapse
from integrator.request import parse_request
from integrator.results import PublishResult, failed
from integrator.root import Root
from integrator.storage import Storage
from integrator.testing import Fate

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63b8a46606000306013ca5e10d1d"
    "0000000049454e44ae426082"
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A publish root `show` and some frames."""
    (tmp_path / "render").mkdir()
    for frame in range(1001, 1004):
        (tmp_path / f"render/beauty.{frame}.exr").write_bytes(b"pixels of %d" % frame)
    (tmp_path / "render/thumb.png").write_bytes(PNG)
    assert cli.main(["init", str(tmp_path / "show")]) == 0
    return tmp_path


def words(place: Path, *more: str) -> list[str]:
    shot = ("--project", "demo", "--asset", "sh010", "--subset", "renderBeauty", "--family", "render")
    where = ("--root", str(place / "show"), "--report", str(place / "reports"))
    return ["publish", *shot, str(place / "render/beauty.####.exr"), *where, *more]


def reports(place: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """JSON document and page of every report, by name."""
    found = sorted((place / "reports").glob("*.json"), key=lambda path: path.stem)
    return {path.stem: (json.loads(path.read_text()), path.with_suffix(".html").read_text("utf-8")) for path in found}


def heading(page: str) -> str:
    return re.findall("<h1>(.*?)</h1>", page)[0]


# --- what became of it ------------------------------------------------------------------------------------------------


def test_a_publish_is_reported_with_all_its_files(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thumbnail = ("--representation", f"thumbnail={place}/render/thumb.png")
    assert cli.main(words(place, "--publish-id", "farm-1", "--comment", "first pass", *thumbnail)) == 0
    [(name, (document, page))] = reports(place).items()
    assert name == "farm-1"
    assert f"report: {place}/reports/farm-1.html" in capsys.readouterr().err
    assert (document["schema"], document["outcome"], document["exit_code"], document["error"]) == (SCHEMA, "published", 0, None)
    [version] = document["versions"]
    assert (version["asset"], version["subset"], version["version"]) == ("sh010", "renderBeauty", 1)
    listed = {entry["name"]: entry["files"] for entry in version["representations"]}
    assert set(listed) == {"exr", "thumbnail"}
    on_disk = {path.name: path.read_bytes() for path in Path(version["path"]).iterdir()}
    assert {file["name"]: (file["size"], file["checksum"]) for files in listed.values() for file in files} == {
        name: (len(content), xxhash.xxh3_128(content).hexdigest()) for name, content in on_disk.items()
    }
    assert heading(page) == "Published"
    assert "first pass" in page
    assert 'src="data:image/png;base64,' in page
    assert document["thumbnail"]["type"] == "image/png"
    assert base64.b64encode(PNG).decode() in page
    assert document["notes"] == []


def test_the_timeline_is_that_of_the_journal_with_its_times(place: Path) -> None:
    before = time.time()
    assert cli.main(words(place)) == 0
    [(document, _)] = reports(place).values()
    kinds = [moment["kind"] for moment in document["timeline"]]
    assert kinds == [
        "created", "began", "folders_made", "staged", "documented", "prepared", "revealed", "committed", "finished"
    ]  # fmt: skip
    assert set(kinds) - {"created", "finished"} <= set(KINDS)
    assert all(before - 1 <= moment["time"] <= time.time() + 1 for moment in document["timeline"])
    journalled = [moment["time"] for moment in document["timeline"] if moment["clock"] == "journal"]
    assert journalled == sorted(journalled)
    staged = next(moment for moment in document["timeline"] if moment["kind"] == "staged")
    assert staged["text"].startswith("3 files copied for demo/sh010/publish/render/renderBeauty/v001")


def test_a_publish_that_was_published_already_is_reported_as_that_and_the_first_report_stays(place: Path) -> None:
    assert cli.main(words(place, "--publish-id", "farm-1")) == 0
    first = reports(place)["farm-1"]
    assert cli.main(words(place, "--publish-id", "farm-1")) == 0
    found = reports(place)
    assert list(found) == ["farm-1", "farm-1-2"]
    assert found["farm-1"] == first
    document, page = found["farm-1-2"]
    assert (document["outcome"], heading(page)) == ("already_published", "Published already")
    assert [len(entry["files"]) for entry in document["versions"][0]["representations"]] == [3]
    assert document["timeline"] == first[0]["timeline"]
    assert "farm-1-2.json" in page


def test_a_refused_publish_says_all_that_is_wrong(place: Path) -> None:
    missing = [str(place / "render/cam.abc"), str(place / "render/cam.fbx")]
    assert cli.main(words(place, *missing, "--publish-id", "farm-1")) == 3
    [(document, page)] = reports(place).values()
    assert (document["outcome"], document["exit_code"], heading(page)) == ("refused", 3, "Refused")
    problems = [problem["what"] for problem in document["error"]["problems"]]
    assert len(problems) == 2
    assert all(problem in page for problem in problems)
    assert "Nothing was touched" in page
    assert document["wanted"][0]["subset"] == "renderBeauty"
    assert document["timeline"] == []


def test_a_request_that_cannot_be_read_is_reported(place: Path) -> None:
    (place / "request.json").write_text('{"schema": "integrator:publish-request-1.0", "project": "../x", "instances": []}')
    where = ["--root", str(place / "show"), "--report", str(place / "reports"), "--publish-id", "farm-9"]
    assert cli.main(["publish", str(place / "request.json"), *where]) == 2
    document, page = reports(place)["farm-9"]
    assert (document["outcome"], document["error"]["code"], heading(page)) == ("refused", "bad_request", "Refused")
    assert len(document["error"]["problems"]) == 2


def test_a_publish_without_a_root_is_reported(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = words(place)
    arguments[arguments.index("--root") + 1] = str(place / "elsewhere")
    assert cli.main(arguments) == 2
    [(document, page)] = reports(place).values()
    assert (document["outcome"], document["error"]["code"], document["root"]) == ("refused", "no_root", None)
    assert heading(page) == "Refused"
    assert document["error"]["next"] in page.replace("&#x27;", "'")
    assert f"next: {document['error']['next']}" in capsys.readouterr().err


def test_a_dry_run_is_reported_as_one(place: Path) -> None:
    assert cli.main(words(place, "--dry-run")) == 0
    [(document, page)] = reports(place).values()
    assert (document["outcome"], heading(page)) == ("planned", "Would publish")
    assert len(document["versions"][0]["representations"][0]["files"]) == 3
    assert not (place / "show/demo").exists()


def real(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "integrator", *arguments], **quiet, **options)


def test_a_publish_that_failed_says_why_and_how_far_it_came(place: Path) -> None:
    (place / "render/beauty.1003.exr").write_bytes(b"x" * 3_000_000)
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))  # noqa: E731
    child = real(words(place, "--publish-id", "farm-1", "--workers", "1"), preexec_fn=full)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 5, said
    document, page = reports(place)["farm-1"]
    assert (document["outcome"], heading(page)) == ("rolled_back", "Not published")
    assert "File too large" in document["error"]["message"]
    assert "File too large" in page
    assert document["timeline"][-1]["kind"] == "rolled_back"
    assert re.fullmatch("[0-9a-f]{24}", document["transaction"])

    # The next attempt tells of this one, refused or not.
    assert cli.main(words(place, "--publish-id", "farm-1", "--attempts", "1")) == 7
    refused, _ = reports(place)["farm-1-2"]
    assert [attempt["transaction"] for attempt in refused["attempts"]] == [document["transaction"]]
    assert refused["timeline"] == []
    assert cli.main(words(place, "--publish-id", "farm-1")) == 0
    done, page = reports(place)["farm-1-3"]
    [attempt] = done["attempts"]
    assert (attempt["transaction"], attempt["counts"]) == (document["transaction"], True)
    assert "Attempts before this one" in page
    assert "File too large" in page


def test_a_publish_that_was_interrupted_is_reported(place: Path) -> None:
    with open(place / "render/beauty.1003.exr", "wb") as file:
        file.truncate(1 << 30)
    child = real(words(place, "--publish-id", "farm-1"))
    folder = place / "show/demo/sh010/publish/render/renderBeauty"
    while not any(file.stat().st_size > 1 << 20 for file in folder.glob("v*.tmp.*/*")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.002)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode == 143
    document, page = reports(place)["farm-1"]
    assert (document["outcome"], document["exit_code"], document["error"]["code"]) == ("rolled_back", 143, "interrupted")
    assert heading(page) == "Interrupted"
    assert document["timeline"][-1]["kind"] == "rolled_back"
    assert document["transaction"]


def test_an_interruption_before_there_is_a_root_is_reported(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("integrator.root.open_root", interrupted)
    assert cli.main(words(place, "--publish-id", "farm-1")) == 143
    document, page = reports(place)["farm-1"]
    assert (document["error"]["code"], document["root"], heading(page)) == ("interrupted", None, "Interrupted")


def test_who_is_busy_is_reported_without_the_timeline_of_the_other(place: Path) -> None:
    with integrator.open_root(str(place / "show")) as root:
        other = root.begin(project="demo", publish_id="other")
        other.new_version(asset="sh010", subset="renderBeauty", family="render").write("a.txt", b"x")
        assert cli.main(words(place)) == 4
        other.transaction.roll_back()
    [(document, page)] = reports(place).values()
    assert (document["outcome"], heading(page), document["timeline"]) == ("busy", "Busy", [])


def test_a_bug_is_reported(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise ZeroDivisionError("<oops>")

    monkeypatch.setattr("integrator.root.open_root", wrong)
    assert cli.main(words(place)) == 1
    [(document, page)] = reports(place).values()
    assert document["error"]["code"] == "bug"
    assert "&lt;oops&gt;" in page


def test_an_error_that_names_no_transaction_is_reported_with_that_of_this_run(studio: Studio) -> None:
    error = IntegratorError("a bug: ZeroDivisionError: oops")
    answer = attrs.evolve(failed(error), outcome="rolled_back")
    with studio.open() as root:
        assert told(root, studio.request("job"), answer, 1).timeline == ()
        with pytest.raises(ZeroDivisionError), root.begin(project="demo", publish_id="job") as assembly:
            assembly.new_version(asset="hero", subset="main", family="model").write("a.txt", b"x")
            raise ZeroDivisionError
        report = told(root, studio.request("job"), answer, 1)
    assert report.transaction == assembly.transaction.id
    assert report.timeline[-1].kind == "rolled_back"
    assert report.attempts == ()
    with studio.open(owner=studio.dead) as other:  # another process had nothing to do with it
        report = told(other, studio.request("job"), answer, 1)
    assert (report.transaction, report.timeline) == ("", ())
    assert [attempt.transaction for attempt in report.attempts] == [assembly.transaction.id]


def test_a_resumed_publish_is_reported(place: Path) -> None:
    (place / "render/beauty.1003.exr").write_bytes(b"x" * 3_000_000)
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))  # noqa: E731
    real(words(place, "--publish-id", "farm-1"), preexec_fn=full).communicate(timeout=60)
    failed, _ = reports(place)["farm-1"]
    where = ["--root", str(place / "show"), "--report", str(place / "reports")]
    assert cli.main(["resume", failed["transaction"], *where]) == 0
    document, _ = reports(place)["farm-1-2"]
    assert (document["outcome"], document["attempts"][0]["transaction"]) == ("published", failed["transaction"])


def told(root: Root, request: dict[str, Any], result: PublishResult, code: int, **more: Any) -> Report:
    run = Circumstances(exit_code=code, started=0.0, ended=1.0, request=parse_request(request, root.policy), **more)
    return gather(root, result, run)


def test_a_publish_in_doubt_is_reported_from_its_unfinished_journal(studio: Studio) -> None:
    counted = Fate()
    done = studio.fresh("count")
    with done.open(counted) as root:
        integrator.publish(done.request("job"), root)
    [verdict] = counted.numbers("state=finished")
    root = studio.open(Fate(fail_at=verdict, when="lost", persistent=True), owner=studio.dead)
    with pytest.raises(InDoubt) as caught:
        integrator.publish(studio.request("job"), root)
    report = told(root, studio.request("job"), failed(caught.value), 6)
    root.close()
    assert [moment.kind for moment in report.timeline][-3:] == ["revealed", "documented", "open"] or report.timeline[
        -1
    ].kind == "open"
    assert sum(len(entry.names) for entry in report.staged) == 20
    assert all(size is not None for entry in report.staged for size in entry.sizes)
    page = render(report, "x.json")
    assert heading(page) == "In doubt"
    assert f"integrator recover {caught.value.transaction}" in page
    studio.recover()


def test_a_database_that_does_not_answer_leaves_a_note_and_a_report(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    with studio.open() as root:
        result = integrator.publish(studio.request("job"), root)

        def away(*_: object, **__: object) -> None:
            raise Failed("the database is away")

        monkeypatch.setattr(type(root.engine.database), "read", away)
        report = told(root, studio.request("job"), result, 0)
        monkeypatch.undo()
    assert report.notes == ("the database: the database is away",)
    assert [len(entry.names) for version in report.versions for entry in version.representations] == [10, 8, 1]
    assert "the database is away" in render(report, "x.json")


def test_a_damaged_journal_leaves_a_note(studio: Studio) -> None:
    with studio.open() as root:
        result = integrator.publish(studio.request("job"), root)
        [journal] = Path(root.state, "history").rglob(f"{result.transaction}.journal")
        journal.write_bytes(b"\n".join([b"junk", *journal.read_bytes().split(b"\n")]))
        report = told(root, studio.request("job"), result, 0)
    assert "the journal: " in report.notes[0]
    assert [moment.kind for moment in report.timeline] == ["created", "committed", "finished"]


def test_resources_are_reported_with_their_sizes(studio: Studio) -> None:
    with studio.open() as root:
        report = told(root, studio.request("job"), integrator.publish(studio.request("job"), root), 0)
    [camera] = [version for version in report.versions if version.subset == "camera"]
    [resources] = camera.resources
    assert (list(resources.names), list(resources.sizes)) == (["resources/deep/cam.abc"], [500])


@pytest.mark.parametrize("content", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", PNG + bytes(1 << 20), b"", b"\x89PNX"])
def test_what_is_no_small_picture_is_no_thumbnail(content: bytes, studio: Studio, tmp_path: Path) -> None:
    with studio.open() as root:
        with root.begin(project="demo") as assembly:
            assembly.new_version(asset="hero", subset="main", family="model").write("t.png", content, representation="thumbnail")
        assert assembly.result is not None
        report = told(root, studio.request("job"), assembly.result, 0)
    assert report.thumbnail is None
    assert "<img" not in render(report, "x.json")


def test_what_a_savepoint_took_back_is_not_how_far_it_came(studio: Studio) -> None:
    with studio.open() as root:
        assembly = root.begin(project="demo")
        version = assembly.new_version(asset="hero", subset="main", family="model")
        version.write("kept.txt", b"x")
        point = assembly.savepoint()
        version.write("gone.abc", b"x")
        assembly.roll_back_to(point)
        error = Failed("it broke")
        assembly.transaction.roll_back(error)
        report = told(root, studio.request("job"), failed(error), 5)
    assert [list(entry.names) for entry in report.staged] == [["kept.txt"]]
    assert "unstaged" in [moment.kind for moment in report.timeline]


# --- files of the report ----------------------------------------------------------------------------------------------


def test_no_report_takes_the_place_of_anything(tmp_path: Path) -> None:
    (tmp_path / "job.html").write_text("somebody's")
    (tmp_path / "job-2.json").write_text("somebody's, too")
    written = [write(simple(publish_id="job"), str(tmp_path), Storage()) for _ in range(2)]
    assert [os.path.basename(entry.page) for entry in written] == ["job-3.html", "job-4.html"]
    assert (tmp_path / "job.html").read_text() == "somebody's"
    assert (tmp_path / "job-2.json").read_text() == "somebody's, too"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize(
    "hostile", ["../../etc/passwd", "/etc/x", "..", ".hidden", "-rf", "a\0b", "\udce9", "x" * 5000, "a/b\n<c>"]
)
def test_no_publish_id_leads_out_of_the_folder(hostile: str, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    written = write(simple(publish_id=hostile), str(folder), Storage())
    assert {os.path.dirname(path) for path in (written.page, written.document)} == {str(folder)}
    assert all(re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9_+.-]*\.(html|json)", path.name) for path in folder.iterdir())
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("call", ["create", "write", "sync", "rename"])
def test_a_report_that_fails_midway_leaves_no_part(call: str, tmp_path: Path) -> None:
    class Failing(Storage):
        pass

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    setattr(Failing, call, fail)
    with pytest.raises(OSError, match="No space"):
        write(simple(publish_id="job"), str(tmp_path), Failing())
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_changes_nothing_but_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "reports").write_text("no folder")
    assert cli.main(words(place, "--json")) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["outcome"] == "published"
    assert f"the report in {place}/reports could not be written: " in said.err


def test_a_bug_in_the_report_changes_nothing_either(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("integrator.report.contents.gather", wrong)
    assert cli.main(words(place)) == 0
    assert "could not be written: oops" in capsys.readouterr().err


def test_a_publish_without_a_report_loads_nothing_of_it(place: Path) -> None:
    arguments = words(place)
    del arguments[arguments.index("--report") : arguments.index("--report") + 2]
    code = f"import sys; from integrator import cli; print(cli.main({arguments!r}), *sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("0 ")]
    assert not [name for name in line.split() if name.startswith("integrator.report") or name == "html"]


# --- secrets ----------------------------------------------------------------------------------------------------------

TOKEN = "9f86d081884c7d65"
LEAKS = [
    "token={}", "token: {}", "API_KEY = '{}'", '{{"password": "{}"}}', "Authorization: Bearer {}", "authorization: Basic {}",
    "{{'Authorization': 'Bearer {}'}}", "curl --token {} x", "--api-key={}", "mongodb://anna:{}@db.example/show?w=1",
    "https://tracker.example/?access_token={}&x=1", "sent Bearer {} to it", "FTRACK_API_KEY={}", "client_secret:{}",
    "Cookie: {}", '\\"secret\\": \\"{}\\"', "https://user:{}@host/path and more",
]  # fmt: skip


@pytest.mark.parametrize("text", LEAKS)
def test_what_looks_like_a_credential_is_masked(text: str) -> None:
    leak = text.format(TOKEN)
    assert TOKEN in leak
    masked = Mask().text(f"before {leak} after")
    assert TOKEN not in masked
    assert MASK in masked
    assert masked.startswith("before ")


@pytest.mark.parametrize("text", [
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----", "xoxb-123456789012-abcdef",
])  # fmt: skip
def test_a_token_that_shows_by_its_form_is_masked(text: str) -> None:
    assert Mask().text(f"got {text}.") in (f"got {MASK}.", f"got {MASK}")


@pytest.mark.parametrize("text", [
    "3 files copied to /show/demo/v001", "certificate verify failed: certificate has expired (_ssl.c:1006)",
    "the tracker at https://tracker.example/api answered 500", "soft lock on demo/sh010/renderBeauty", "mail anna@studio.example",
])  # fmt: skip
def test_ordinary_messages_stay_as_they_are(text: str) -> None:
    assert Mask().text(text) == text


def test_the_values_of_this_process_are_masked_wherever_they_turn_up(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    surroundings = {
        "STUDIO_TRACKER_TOKEN": "hunter2hunter2", "PWD": "/jobs/show/render", "MY_SECRET_FILE": "/etc/my-secret-file",
        "SIGNING_KEY_TOKEN": str(tmp_path / "key"), "A_PASSWORD": "pä ss/word",
    }  # fmt: skip
    mask = Mask.of_process("mongodb://publisher:db@pass:word@db.example/show", surroundings)
    assert mask.text("said hunter2hunter2 aloud, and db@pass:word") == f"said {MASK} aloud, and {MASK}"
    assert mask.text("p%C3%A4%20ss%2Fword and pä ss/word") == f"{MASK} and {MASK}"
    untouched = f"/jobs/show/render /etc/my-secret-file {tmp_path}/key"
    assert mask.text(untouched) == untouched


def test_masking_a_long_hostile_message_takes_no_time() -> None:
    started = time.monotonic()
    for text in ("a" * 200_000, "token" * 40_000, "-" * 200_000, "token=" * 40_000, "://" * 60_000, '"' * 200_000):
        Mask().text(text)
    assert time.monotonic() - started < 20.0


def everything(report: Report, folder: Path) -> str:
    write(report, str(folder), Storage())
    return "".join(path.read_text("utf-8") for path in folder.iterdir())


def test_no_secret_reaches_a_report(studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER_TOKEN", "correct-horse-battery")
    secret = "s3cr3t-in-arguments"
    runs = [
        PluginRun(
            name="IntegrateTracker", label="correct-horse-battery", order=3.4, instance="", started=0.0, seconds=0.1,
            records=(("info", "sending token=s3cr3t-in-arguments"), ("debug", "headers are correct-horse-battery")),
            error="401 for https://bot:s3cr3t-in-arguments@tracker.example",
        )
    ]  # fmt: skip

    def call(arguments: Any, key: str) -> Any:
        return {"id": 7, "session": {"access_token": ["v1", secret]}}

    with studio.open() as root:
        root.register_effect("tracker.create", Effect(call=call, compensate=lambda *_: None))
        with root.begin(project="demo", publish_id="job", comment="correct-horse-battery") as assembly:
            assembly.new_version(asset="hero", subset="main", family="model").write("a.txt", b"x")
            assembly.effect(
                "tracker.create", {"asset": "hero", "auth": [{"Token": {"parts": [secret]}}], "note": "correct-horse-battery"}
            )
        assert assembly.result is not None
        request = studio.request("job", comment="password: s3cr3t-in-arguments")
        error = Failed("cannot log in with correct-horse-battery", next="integrator publish --data token=s3cr3t-in-arguments")
        result = attrs.evolve(assembly.result, error=error, left=("left for correct-horse-battery",))
        report = told(root, request, result, 5, plugins=runs)
    text = everything(report, tmp_path / "reports")
    assert "tracker.create called with" in text
    assert "hero" in text
    assert secret not in text
    assert "correct-horse" not in text


# --- hostile names ----------------------------------------------------------------------------------------------------


def simple(**changes: Any) -> Report:
    whole = {
        "outcome": "published", "exit_code": 0, "transaction": "0" * 24, "publish_id": "job", "error": None, "user": "anna",
        "host": "farm-1", "process": 7, "started": 1e9, "ended": 1e9 + 5, "engine": "0.1.0",
    }  # fmt: skip
    return Report(**{**whole, **changes})  # type: ignore[arg-type]


HOSTILE = [
    "<script>alert(1)</script>", '"><img src=http://evil.example/x onerror=alert(1)>', "'onmouseover='alert(1)",
    "</style></title>",
    "\u202egnp.exe", "caf\udce9", "\x1b]0;title\x07", "&lt;", "a\nb", "<!--", "{{7*7}}", "javascript:alert(1)", "\x00",
]  # fmt: skip


def full(text: str, **changes: Any) -> Report:
    """A report with this text wherever there is one."""
    files = FileList(name=text, folder=text, names=[text, f"{text}.1001.exr", f"{text}.1002.exr"], sizes=[1, None, 2],
                     checksums=[text, "", "c"])  # fmt: skip
    version = ReportedVersion(project=text, asset=text, subset=text, family=text, version=3, path=text, representations=(files,),
                              resources=(files,))  # fmt: skip
    run = PluginRun(
        name=text, label=text, order=3.499, instance=text, started=1e9, seconds=0.5, records=((text, text),), error=text
    )
    facts: dict[str, Any] = {
        "outcome": "rolled_back", "exit_code": 5, "publish_id": text, "left": (text,), "root": text, "project": text,
        "author": text, "comment": text, "user": text, "host": text, "versions": (version,), "staged": (files,),
        "error": Failure(code="failed", message=text, next=text, problems=((text, text),)),
        "wanted": (Wanted(asset=text, hierarchy=text, subset=text, family=text, representations=((text, (text,)),)),),
        "plugins": (run, attrs.evolve(run, instance=f"{text}2")),
        "timeline": (Moment(time=1e9, kind=text, text=text, clock="journal"), Moment(time=None, kind="x", text=text, clock=text)),
        "attempts": (Attempt(transaction=text, host=text, started=1e9, ended=None, error=text, counts=True),),
        "thumbnail": Thumbnail(path=text, type="image/png", content=PNG), "notes": (text,),
    }  # fmt: skip
    return simple(**{**facts, **changes})


class Tags(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.text += text


def test_no_name_becomes_html() -> None:
    plain = Tags(render(full("name"), "x.json"))
    assert plain.open == []
    allowed = {name for _, attributes in plain.tags for name in attributes}
    assert allowed == {"lang", "charset", "http-equiv", "content", "name", "rel", "href", "class", "src", "alt", "title", "style",
                       "open", "aria-hidden"}  # fmt: skip
    for text in HOSTILE:
        page = render(full(text), "x.json")
        found = Tags(page)
        assert found.open == []
        assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags], text
        assert {name for _, attributes in found.tags for name in attributes} == allowed
        links = {value for _, attributes in found.tags for name, value in attributes.items() if name in ("href", "src")}
        assert all(str(value).startswith("data:") for value in links)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
        page.encode("utf-8")


def test_every_text_of_a_report_is_on_its_page_and_in_its_document() -> None:
    report = full("a <name> & more")
    page, document = Tags(render(report, "x.json")).text, json.dumps(report.document())
    assert page.count("a <name> & more") > 25
    assert document.count("a <name> & more") > 30


# --- long lists -------------------------------------------------------------------------------------------------------


def listed(names: list[str]) -> FileList:
    return FileList(name="exr", folder="/show/v001", names=names, sizes=[1000] * len(names), checksums=["ab" * 16] * len(names))


def with_files(names: list[str], representations: int = 1) -> Report:
    version = ReportedVersion(
        project="demo", asset="sh010", subset="main", family="render", version=1, path="/show/v001",
        representations=(listed(names),) * representations,
    )  # fmt: skip
    return simple(versions=(version,))


@pytest.mark.parametrize("names", [
    [f"beauty.{n}.exr" for n in range(1001, 11001)], [f"{n:x}-{n}-x.{n % 7}.exr" for n in range(10_000)],
    [f"{'abcdefghij'[n % 10] * (1 + n // 10)}.exr" for n in range(2000)], [f"{n}.v1.{n}.exr" for n in range(10_000)],
])  # fmt: skip
def test_ten_thousand_files_stay_a_page_that_opens_at_once(names: list[str], tmp_path: Path) -> None:
    started = time.monotonic()
    written = write(with_files(names, representations=12), str(tmp_path), Storage())
    assert time.monotonic() - started < 20.0
    assert os.path.getsize(written.page) < 1_500_000
    assert Path(written.page).read_text("utf-8").count("<tr>") < 3000
    document = json.loads(Path(written.document).read_text())
    assert [file["name"] for file in document["versions"][0]["representations"][0]["files"]] == names


def test_many_plugins_records_and_moments_stay_a_page() -> None:
    runs = [
        PluginRun(name=f"Plugin{n}", label="", order=n, instance=f"sh{i}", started=1.0, seconds=0.01,
                  records=(("info", "x" * 100),) * 20, error="it broke" if (n, i) == (450, 90) else "")
        for n in range(500) for i in range(100)
    ]  # fmt: skip
    moments = [Moment(time=float(n), kind="effect_done", text=f"effect {n}", clock="journal") for n in range(5000)]
    attempt = Attempt(transaction="0" * 24, host="h", started=1.0, ended=2.0, error="", counts=True)
    attempts = [attrs.evolve(attempt, error=f"broke {n}.") for n in range(999)]
    report = simple(plugins=tuple(runs), timeline=tuple(moments), attempts=tuple(attempts))
    started = time.monotonic()
    page = render(report, "x.json")
    assert time.monotonic() - started < 20.0
    assert len(page) < 2_000_000
    assert "Plugin450" in page  # what failed is shown, wherever the list is cut
    assert "it broke" in page
    assert "effect 0<" in page
    assert "effect 4999<" in page
    assert "effect 2500<" not in page
    assert "broke 998." in page
    assert "broke 3." not in page
    assert "and 949 more attempts" in page
    assert len(report.document()["plugins"]) == 50_000


def test_a_chatty_plugin_does_not_hide_the_one_that_failed() -> None:
    chatty = PluginRun(
        name="Chatty", label="", order=1.0, instance="", started=1.0, seconds=1.0, records=(("info", "x" * 9000),) * 9000
    )
    bad = attrs.evolve(chatty, name="Bad", order=2.0, records=(("info", "the last thing it said"),), error="E" * 50_000)
    page = render(simple(plugins=(chatty,) * 100 + (bad,)), "x.json")
    assert "the last thing it said" in page
    assert "E" * 1000 in page
    assert len(page) < 2_000_000


@pytest.mark.parametrize(("names", "shown"), [
    (["a.1001.exr", "a.1002.exr", "a.1004.exr"], ["a.[1001-1002, 1004].exr"]),
    (["a.0999.exr", "a.1000.exr"], ["a.[999-1000].exr"]),
    (["a.-005.exr", "a.-004.exr", "a.000.exr"], ["a.[-5--4, 0].exr"]),
    (["a.exr"], ["a.exr"]),
    (["a.1001.exr"], ["a.1001.exr"]),
    (["wood.tx", "metal.tx"], ["wood.tx", "metal.tx"]),
    (["t.1001.0001.exr", "t.1001.0002.exr", "t.1002.0001.exr"], ["t.1001.[1-2].exr", "t.1002.0001.exr"]),
    (["a_v001_main.mp4", "a_v002_main.mp4"], ["a_v[1-2]_main.mp4"]),
    (["a-1001.exr", "a-1002.exr"], ["a-[1001-1002].exr"]),
    (["x1.mp3", "x1.mp4"], ["x1.mp3", "x1.mp4"]),
    (["1001", "1002"], ["[1001-1002]"]),
    ([".1.exr", ".2.exr"], [".[1-2].exr"]),
    (["a.12345678901.exr", "a.12345678902.exr"], ["a.12345678901.exr", "a.12345678902.exr"]),
])  # fmt: skip
def test_names_that_differ_in_one_number_are_one_line(names: list[str], shown: list[str]) -> None:
    groups = collapse(names)
    assert [group.name for group in groups] == shown
    assert sorted(place for group in groups for place in group.places) == list(range(len(names)))


# --- documentation ----------------------------------------------------------------------------------------------------


def test_the_page_about_reports_lists_every_key() -> None:
    text = (Path(__file__).parent.parent / "docs/report.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| `")]
    keys = [key for line in table for key in re.findall(r"`(\w+)`", line.split(" | ")[0])]
    document = full("x").document()
    assert keys == list(document)
    rows = {key: line for line in table for key in re.findall(r"`(\w+)`", line.split(" | ")[0])}
    for key in ("error", "run"):
        assert set(re.findall(r'"(\w+)"', rows[key])) >= set(document[key])
    for key in ("wanted", "versions", "plugins", "timeline", "attempts"):
        assert set(re.findall(r'"(\w+)"', rows[key])) >= set(document[key][0])
    assert set(re.findall(r'"(\w+)"', text.partition("FILES is")[2])) >= set(document["staged"][0])
    assert SCHEMA in text


# --- in a real browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not find_browser():
        pytest.skip(MISSING)
    with Browser() as running:
        yield running


def published() -> Report:
    return with_files([f"demo_sh010_main_v001.{n}.exr" for n in range(1001, 11001)], representations=3)


PAGES: dict[str, Callable[[], Report]] = {
    "published": published,
    "rolled_back": lambda: full("a name", versions=()),
    "refused": lambda: full("x" * 400, outcome="refused", exit_code=3),
    "hostile": lambda: full('"><img src=http://evil.example/x><script>alert(1)</script>'),
}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_page_is_shown_as_it_should_be(name: str, width: int, dark: bool, browser: Browser, tmp_path: Path) -> None:
    report = PAGES[name]()
    written = write(report, str(tmp_path), Storage())
    page = Path(written.page)
    assert browser.open(page, width, dark=dark) < 20.0
    assert browser.ask("document.title").startswith({"published": "Published", "refused": "Refused"}.get(name, "Not published"))
    browser.ask("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('main *')].filter(one => one.getBoundingClientRect().right > innerWidth).length"
    assert browser.ask(wide) == 0
    assert browser.requests() == [page.as_uri()]
    assert browser.complaints() == []
    assert browser.ask("document.scripts.length") == 0
    heading = "document.querySelector('h1').getBoundingClientRect()"
    assert browser.ask(f"{heading}.bottom") < 200  # within the first look
    if report.error is not None:
        shown = "document.querySelector('.why .message')"
        assert browser.ask(f"{shown}.innerText") == report.error.message
        assert browser.ask(f"{shown}.getBoundingClientRect().top") < 900
        assert browser.ask("document.querySelector('.command').innerText") == report.error.next
    back = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back)[:3])) < 200) is dark


def test_every_colour_can_be_read_on_its_ground() -> None:
    style = (Path(__file__).parent.parent / "integrator/report/page.css").read_text()
    light, _, rest = style.partition("@media (prefers-color-scheme: dark)")
    for text in (light, rest.partition("* {")[0]):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", text))
        pairs = [("text", ground) for ground in ("page", "card", "sunk")] + [
            ("soft", ground) for ground in ("page", "card", "sunk")
        ]
        pairs += [(tone, f"{tone}-back") for tone in ("good", "bad", "wait", "calm")]
        pairs += [(ink, f"{tone}-back") for tone in ("good", "bad", "wait", "calm") for ink in ("text", "soft")]
        assert [(pair, ratio) for pair in pairs if (ratio := contrast(*(colours[name] for name in pair))) < 4.5] == []


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2, 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
