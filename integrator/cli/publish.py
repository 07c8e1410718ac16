"""``integrator publish``: a request from a file or standard input, or one publish instance from the command line."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from integrator.cli import plugins
from integrator.cli.arguments import Arguments, Once, count, seconds
from integrator.cli.attachment import Attachment, add_attachment_option
from integrator.cli.console import Console, duration, plural, shown, size
from integrator.cli.failures import Bug, as_answer, exit_code, tell
from integrator.cli.farms import FARM_ATTEMPTS, FARM_ATTEMPTS_PER_HOST, FARM_SETTLE, FARM_WAIT, farm
from integrator.cli.plugins import add_plugin_path
from integrator.cli.progress import Progress, progress
from integrator.cli.reports import add_report_option, reported, write_report
from integrator.errors import IntegratorError, Interrupted, Unsettled, UsageError
from integrator.results import PublishResult, failed

if TYPE_CHECKING:
    from integrator.attempt import Terms
    from integrator.cli import Call
    from integrator.report import PluginRun
    from integrator.request import PublishRequest
    from integrator.root import Root

_EPILOG: Final = """\
A PATTERN is a file, or a sequence such as beauty.%04d.exr, beauty.####.exr or 'beauty.%04d.exr [1001-1010]'.
Relative ones start at the current folder. Each becomes a representation that is named after its extension;
--representation gives another name.

  integrator publish request.json --publish-id farm-4711
  integrator publish --project demo --asset sh010 --subset renderBeauty --family render 'render/beauty.%04d.exr'
"""
#: Options that only the command-line form knows, by their place in the arguments.
_FORM: Final = (
    "project", "asset", "subset", "family", "representation", "hierarchy", "task", "comment", "author", "frames", "fps",
    "version", "amend", "hero", "transfer", "checksum", "data",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Both forms of the command."""
    parser.usage = (
        "integrator publish REQUEST.json | -  [options]\n"
        "       integrator publish --project P --asset A --subset S --family F PATTERN...  [options]"
    )
    parser.epilog = _EPILOG
    parser.add_argument("patterns", nargs="*", metavar="REQUEST|PATTERN", help="a request ('-': standard input), or patterns")
    form = parser.add_argument_group("a publish instance without a request")
    for name in ("project", "asset", "subset", "family"):
        form.add_argument(f"--{name}", action=Once, metavar=name[0].upper())
    form.add_argument("--representation", action="append", metavar="NAME=PATTERN", help="a representation with its name")
    form.add_argument("--hierarchy", action=Once, metavar="H", help="folders above the asset, as shots/sq01")
    form.add_argument("--task", action=Once, metavar="T")
    form.add_argument("--comment", action=Once, metavar="TEXT")
    form.add_argument("--author", action=Once, metavar="NAME", help="default: who is logged in")
    form.add_argument("--frames", action=Once, metavar="1001-1048", help="frames that must be there, and no others are taken")
    form.add_argument("--fps", action=Once, metavar="N", type=_number)
    form.add_argument("--version", action=Once, metavar="N", type=_version, help="this number instead of the next one")
    form.add_argument(
        "--amend", action=Once, metavar="N", type=_version, help="replace frames or files of this published version"
    )
    form.add_argument("--hero", action="store_const", const=True, help="let the hero version follow")
    form.add_argument("--transfer", action=Once, choices=("copy", "hardlink", "reflink", "symlink", "move"))
    form.add_argument("--checksum", action=Once, choices=("none", "copied", "all"))
    form.add_argument("--data", action="append", metavar="KEY=VALUE", help="stored with the version; JSON if VALUE is JSON")
    both = parser.add_argument_group("both forms")
    both.add_argument("--publish-id", action=Once, metavar="ID", help="publishes once under this id, however often it is run")
    both.add_argument(
        "--again",
        action="store_true",
        help=(
            "publish a new version even if this publish id was published: then under an id of its own, else under this one;"
            " attempts that failed before do not count"
        ),
    )
    add_retry_options(both)
    add_plugin_path(both)
    add_report_option(both)
    both.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    both.add_argument("--workers", action=Once, metavar="N", type=count, help="threads that copy")
    add_attachment_option(both)


def add_retry_options(group: argparse._ArgumentGroup) -> None:
    """Options that say how long to wait and how often to try; `resume` has them, too."""
    group.add_argument(
        "--attempts",
        action=Once,
        metavar="N",
        type=count,
        help=f"give up (exit 7) after so many failed attempts (default: never; on a farm {FARM_ATTEMPTS})",
    )
    group.add_argument(
        "--attempts-per-host",
        action=Once,
        metavar="N",
        type=count,
        help=f"the same for attempts on one host (on a farm {FARM_ATTEMPTS_PER_HOST})",
    )
    group.add_argument(
        "--on-changed",
        action=Once,
        choices=("refuse", "amend"),
        help="what to do if the publish id was used for other content (default: refuse)",
    )
    group.add_argument("--settle", action=Once, metavar="SECONDS", type=seconds,
                      help=f"wait so long for sources that are missing or still grow (on a farm {FARM_SETTLE:.0f})")  # fmt: skip
    group.add_argument("--wait", action=Once, metavar="SECONDS", type=seconds,
                      help=f"wait for a busy soft lock (default: 0; on a farm {FARM_WAIT:.0f})")  # fmt: skip


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(number) if number.is_integer() else number


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version number")
    return int(text)


def run(call: Call) -> int:
    """Publish, and give the answer whatever happens."""
    attachment = Attachment(call.interruptions) if call.arguments.attached else None
    with opened(call) as root:
        request, given = _request(call.arguments, root, call.console, attachment)
        return carry_out(call, root, request, on_farm=bool(farm()) and given)


def carry_out(call: Call, root: Root, request: PublishRequest, *, on_farm: bool) -> int:
    """Publish a request that has a publish id, and give the answer whatever happens; returns the exit code."""
    started = time.monotonic()
    display, copied = progress(call.console), [0]
    runs: list[PluginRun] = []
    result = _publish(call, root, request, display, copied, runs, on_farm)
    if result.error is not None:
        tell(result.error, call.console)
        result.error.next = call.console.command_line(result.error.next)
        code = exit_code(result.error)
    else:
        _print(call.console, result, copied[0], time.monotonic() - started)
        code = 0
    for reason in result.left:
        call.console.say(f"  left where it is: {shown(reason)}")
    call.console.answer(result.document())
    write_report(call, result, code, root=root, request=request, plugins=runs)
    return code


@contextlib.contextmanager
def opened(call: Call) -> Iterator[Root]:
    """The publish root, with as many threads as the command line says. What is raised meanwhile gets its report here."""
    from integrator.root import open_root

    workers = call.arguments.workers
    executor = ThreadPoolExecutor(workers) if workers else None
    try:
        with reported(call), open_root(call.root(), executor=executor, application="integrator publish") as root:
            yield root
    finally:
        if executor is not None:
            executor.shutdown()


# --- the request ------------------------------------------------------------------------------------------------------


def _request(arguments: Arguments, root: Root, console: Console, attachment: Attachment | None) -> tuple[PublishRequest, bool]:
    """The request with a publish id, by which its outcome can be asked for whatever happens; whether the caller gave that id.

    Raises `RequestRefused`.
    """
    import attrs

    from integrator.model import new_id
    from integrator.request import parse_request

    form = [name for name in _FORM if getattr(arguments, name) is not None]
    if {"project", "asset", "subset", "family"}.intersection(form) or len(arguments.patterns) != 1:
        from integrator.cli.form import from_arguments

        source: Any = from_arguments(arguments)
    elif form:
        raise UsageError(f"--{form[0]} belongs to a publish without a request; put it into the request instead",
                         next="integrator publish --help")  # fmt: skip
    elif attachment is not None and arguments.patterns == ["-"]:
        source = attachment.request()
    else:
        source = read_request(arguments.patterns[0], console)
    request = parse_request(source, root.policy)
    given = arguments.publish_id if arguments.publish_id is not None else request.publish_id
    publish_id = given if given is not None else f"run-{new_id()}"
    if arguments.again and _is_published(root, publish_id):
        publish_id += f"+{new_id()}"  # an id of its own: the one that was published keeps its answer
    return parse_request(attrs.evolve(request, publish_id=publish_id), root.policy), given is not None and not arguments.again


def _is_published(root: Root, publish_id: str) -> bool:
    """Whether the verdict of a publish with this id is in, even if somebody has yet to finish it."""
    from integrator.model import State
    from integrator.retry import find

    return (find(root, publish_id) or {}).get("state") in (State.COMMITTED.value, State.FINISHED.value)


def read_request(name: str, console: Console) -> bytes:
    """The text of a request, and a byte too many where it is too long."""
    from integrator.request import MOST_BYTES

    try:
        if name == "-":
            if sys.stdin.isatty():
                console.say("integrator: reading the request from standard input")
            return sys.stdin.buffer.read(MOST_BYTES + 1)
        with open(name, "rb") as file:
            return file.read(MOST_BYTES + 1)
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the request {name} cannot be read: {reason}", next="integrator publish --help") from error


# --- publishing and its outcome ---------------------------------------------------------------------------------------


def _publish(
    call: Call, root: Root, request: PublishRequest, display: Progress, copied: list[int], runs: list[PluginRun], on_farm: bool
) -> PublishResult:
    from integrator.plugin import runner

    arguments = call.arguments

    def watch(done: int, total: int, count: int) -> None:
        call.interruptions.check()
        copied[0] = count
        with contextlib.suppress(OSError):  # a terminal that went away is no reason to fail
            display.update(done, total, count)

    def seen(outcome: Mapping[str, Any]) -> None:
        if arguments.report is not None:
            from integrator.plugin.runs import run_of

            runs.append(run_of(outcome))
        plugins.tell(call.console, outcome)
        if decided:
            plugins.tell_late(call.console, outcome)

    def decide() -> None:
        call.interruptions.settled()
        decided.append(True)

    decided: list[bool] = []
    terms = _terms(call, root, request, watch, on_farm)
    observer = runner.Observer(seen=seen, check=call.interruptions.check, decided=decide)
    try:
        with call.console.aside(), contextlib.nullcontext() if arguments.dry_run else display:
            pipeline = plugins.load(call, root)
            result = runner.run(request, root, pipeline, terms, dry_run=arguments.dry_run, observer=observer)
            call.interruptions.settled()
            if result.outcome != "planned":
                display.finish()
            return result
    except BaseException as error:
        # From here on only the truth is looked for; a signal changes nothing any more.
        call.interruptions.settled()
        return _outcome(root, request, as_answer(error, call.console), call.console)


def _terms(call: Call, root: Root, request: PublishRequest, watch: Callable[[int, int, int], None], on_farm: bool) -> Terms:
    """How the publish is to be made: what the command line says, else the settings, else what is usual here."""
    from integrator.attempt import Terms
    from integrator.retry import Budget
    from integrator.settings import without_password

    arguments = call.arguments
    settings = root.of_project(request.project).settings
    wait = arguments.wait if arguments.wait is not None else FARM_WAIT if farm() else 0.0
    settle = arguments.settle if arguments.settle is not None else settings.settle or (FARM_SETTLE if farm() else 0.0)
    again = getattr(arguments, "again", False)  # whoever asks for it has mended what failed
    budget = Budget(
        attempts=arguments.attempts or (0 if again else settings.attempts) or (FARM_ATTEMPTS if on_farm else 0),
        per_host=arguments.attempts_per_host
        or (0 if again else settings.attempts_per_host)
        or (FARM_ATTEMPTS_PER_HOST if on_farm else 0),
    )
    database = without_password(root.settings.database) or "embedded"
    call.console.detail(f"publish id {request.publish_id}, database {database}, waits {wait:g} s")
    return Terms(wait=wait, settle=settle, budget=budget, watch=watch, on_changed=arguments.on_changed or "refuse")


def _outcome(root: Root, request: PublishRequest, error: IntegratorError, console: Console) -> PublishResult:
    """What became of a publish that ended with this error, by the word of the database.

    A signal or a bug can strike between the verdict and its answer, or before the engine guards what it began. Errors that the
    engine itself raises say what became of it.
    """
    if not isinstance(error, (Interrupted, Bug)):
        return failed(error)
    from integrator.model import State
    from integrator.results import of_transaction
    from integrator.retry import last

    try:
        document = last(root, str(request.publish_id))
    except IntegratorError:
        return failed(_unsettled(error, ""))
    if document is None or not document.get("owner") or not _ours(root, document["owner"]):
        return failed(error)
    if document["state"] == State.FINISHED.value:
        console.say(f"integrator: it was published before this: {shown(error.message)}")
        return of_transaction(root, document, "published")
    return failed(_unsettled(error, document["_id"]))


def _ours(root: Root, owner: dict[str, Any]) -> bool:
    here = root.engine.owner
    return (owner["host"], owner["boot"], owner["pid"], owner["started"]) == (here.host, here.boot, here.pid, here.started)


def _unsettled(error: IntegratorError, transaction: str) -> Unsettled:
    first = "it was interrupted" if isinstance(error, Interrupted) else error.message
    message = f"{first}, and how it ends is not settled. Nothing that is published was touched"
    unsettled = Unsettled(message, next=f"integrator recover {transaction}".rstrip())
    unsettled.transaction = transaction
    return unsettled


# --- the answer for people --------------------------------------------------------------------------------------------

_WORDS: Final = {"published": "published", "already_published": "published already, nothing to do", "planned": "would publish"}


def _print(console: Console, result: PublishResult, copied: int, took: float) -> None:
    for version in result.versions:
        asset = f"{shown(version.project)} / {shown(version.asset)}"
        name = f"{shown(version.subset)} v{version.version:03d}"
        console.print(f"{_WORDS[result.outcome]}: {name} ({shown(version.family)}) of {asset}")
        console.print(f"  {shown(version.path)}")
        for representation in version.representations:
            console.print(f"  {shown(representation.name):<8} {_files(representation.names)}")
        if version.resources:
            console.print(f"  {'resources':<8} {plural(version.resources, 'file')}")
    files = sum(len(representation.names) for version in result.versions for representation in version.representations)
    files += sum(version.resources for version in result.versions)
    if result.outcome == "published":
        console.print(f"{plural(files, 'file')}, {size(copied)} in {duration(took)}; transaction {result.transaction}")
    elif result.outcome == "planned":
        console.print(f"{plural(files, 'file')}; nothing was written")
    else:
        console.print(f"{plural(files, 'file')}; transaction {result.transaction}")


def _files(names: Any) -> str:
    first, last = shown(names[0]), shown(names[-1])
    return first if len(names) == 1 else f"{plural(len(names), 'file')}, {first} to {last}"
