"""SIGINT, SIGTERM and SIGHUP become one `errors.Interrupted` in the main thread."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Final

from integrator.cli.console import Console
from integrator.errors import Interrupted

_SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interruptions:
    """While it is entered, the first signal raises `Interrupted`; further ones are noted on standard error and ignored.

    A signal that is ignored already stays ignored: a shell starts what runs in its background like that, `nohup` too.
    `restore` puts back what there was, for callers that go on afterwards; a program at its end must not die of a late signal.
    """

    def __init__(self, console: Console, *, restore: bool) -> None:
        self._console = console
        self._restore = restore
        self._before: dict[int, Any] = {}
        self._settled = False
        #: Number of the signal that came, 0 if none did.
        self.number = 0

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.settled()
        if self._restore:
            for number, before in self._before.items():
                signal.signal(number, before if before is not None else signal.SIG_DFL)

    def settled(self) -> None:
        """How this ends is decided: no signal changes it any more."""
        self._settled = True
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def check(self) -> None:
        """Raise `Interrupted` if a signal came and what it raised was lost, as happens inside a finalizer."""
        if self.number and not self._settled:
            raise Interrupted(self.number)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._settled:
            return
        if self.number:
            # Not through the console: its buffer may be in use right now.
            os.write(2, f"integrator: still {self._doing()}, this signal is ignored\n".encode())
            return
        self.number = number
        os.write(2, f"\nintegrator: {signal.Signals(number).name}, {self._doing()}\n".encode())
        raise Interrupted(number)

    def _doing(self) -> str:
        return "rolling back" if self._console.command in ("publish", "demo") else "stopping"
