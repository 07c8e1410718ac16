"""How far a publish is: a bar on a terminal, plain lines elsewhere, directives under Open Job Description.

The last percent is kept for making it durable and for the verdict: 100 means published.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Final, Protocol

from integrator.cli.console import Console, plural
from integrator.cli.console import size as bytes_shown
from integrator.cli.farms import farm, open_job_description

#: Seconds between two lines.
_PAUSE: Final = 1.0


class Progress(Protocol):
    """Enter it, call `update` as the work goes on, and `finish` when it is published; leave it in any case."""

    def __enter__(self) -> Progress: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def update(self, done: int, total: int, size: int) -> None:
        """`done` of `total` files, `size` bytes so far."""

    def finish(self) -> None:
        """It is published."""


def progress(console: Console) -> Progress:
    """The progress display for where this runs."""
    if open_job_description():
        return Lines(console, directives=True)
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return Bar() if terminal and not farm() else Lines(console)


class Lines:
    """A line when the percentage changed, at most one a second, and always one for 0 and 100."""

    def __init__(self, console: Console, *, directives: bool = False) -> None:
        self._console = console
        self._directives = directives
        self._percent = -1.0
        self._last = 0.0

    def __enter__(self) -> Lines:
        self._status("copying")
        self._show(0.0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def update(self, done: int, total: int, size: int) -> None:
        if done >= total:
            self._status("making it durable")
        percent = min(99.0, 100.0 * done / max(total, 1))
        if time.monotonic() - self._last >= _PAUSE:
            self._show(percent if self._directives else float(int(percent)))

    def finish(self) -> None:
        self._show(100.0)
        self._status("published")

    def _show(self, percent: float) -> None:
        if percent == self._percent:
            return
        self._percent, self._last = percent, time.monotonic()
        if self._directives:
            self._console.directive(f"openjd_progress: {percent:.1f}")
        else:
            self._console.say(f"Progress: {percent:.0f}%")

    def _status(self, text: str) -> None:
        if self._directives:
            self._console.directive(f"openjd_status: {text}")


class Bar:
    """A bar on standard error that is gone when the work is."""

    def __init__(self) -> None:
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Display

        self._display: Any = Display(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[files]}"),
            TextColumn("{task.fields[size]}"), TimeElapsedColumn(), console=Terminal(stderr=True), transient=True,
        )  # fmt: skip
        self._task = self._display.add_task("copying", total=None, files="", size="")

    def __enter__(self) -> Bar:
        self._display.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._display.stop()

    def update(self, done: int, total: int, size: int) -> None:
        text = "copying" if done < total else "making it durable"
        files = f"{done:,}/{plural(total, 'file')}"
        self._display.update(self._task, completed=done, total=total, files=files, size=bytes_shown(size), description=text)

    def finish(self) -> None:
        pass
