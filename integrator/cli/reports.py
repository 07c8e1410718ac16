"""``--report DIR``: the report of a publish, whatever its outcome. One that cannot be written changes no outcome, it is said."""

from __future__ import annotations

import argparse
import contextlib
import copy
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from integrator.cli.arguments import Once
from integrator.cli.console import shown
from integrator.cli.failures import as_answer, exit_code

if TYPE_CHECKING:
    from integrator.cli import Call
    from integrator.report import PluginRun
    from integrator.request import PublishRequest
    from integrator.results import PublishResult
    from integrator.root import Root


def add_report_option(group: argparse._ActionsContainer) -> None:
    """The option, for every command that publishes."""
    group.add_argument(
        "--report", action=Once, metavar="DIR", help="write a report (a page and a JSON document) into this folder"
    )


@contextlib.contextmanager
def reported(call: Call) -> Iterator[None]:
    """Around a publish: what is raised, and so never gets to an answer of its own, is reported, too."""
    call.arguments.started = time.time()
    try:
        yield
    except BaseException as error:
        if call.arguments.report is not None:
            from integrator.results import failed

            call.interruptions.settled()  # the outcome stands; a signal changes nothing any more
            told = copy.copy(as_answer(error, call.console))
            told.next = call.console.command_line(told.next)
            write_report(call, failed(told), exit_code(told))
        raise


def write_report(
    call: Call,
    result: PublishResult,
    code: int,
    *,
    root: Root | None = None,
    request: PublishRequest | None = None,
    plugins: Sequence[PluginRun] = (),
) -> None:
    """Write the report of a publish that ended with this answer and exit code, if one is wanted. Raises nothing."""
    folder = call.arguments.report
    if folder is None:
        return
    try:
        from integrator.report.contents import Circumstances, gather
        from integrator.report.files import write
        from integrator.storage import Storage

        run = Circumstances(
            exit_code=code,
            started=call.arguments.started,
            ended=time.time(),
            publish_id=str(getattr(call.arguments, "publish_id", None) or ""),
            request=request,
            plugins=plugins,
        )
        written = write(gather(root, result, run), folder, Storage())
    except Exception as error:  # whatever it is, the publish ended as it did
        reason = getattr(error, "strerror", None) or str(error)
        call.console.say(f"integrator: the report in {shown(folder)} could not be written: {shown(reason)}")
    else:
        call.console.say(f"  report: {shown(written.page)}")
