"""SIGINT, SIGTERM and SIGHUP become one `errors.Interrupted` in the main thread."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Final

from integrator.cli.console import Console
from integrator.errors import Interrupted

_SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
#: Seconds after which a lost interrupt is raised again.
_LATER: Final = 0.001


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
        self._hook = sys.unraisablehook
        #: Number of the signal that came, 0 if none did.
        self.number = 0

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._arrived)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._lost
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.settled()
        if self._restore and threading.current_thread() is threading.main_thread():
            sys.unraisablehook = self._hook
            for number, before in self._before.items():
                signal.signal(number, before if before is not None else signal.SIG_DFL)

    def settled(self) -> None:
        """How this ends is decided: no signal changes it any more."""
        self._settled = True
        if self.number and threading.current_thread() is threading.main_thread():
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def heed(self, number: int) -> None:
        """Listen to this signal even if it is blocked or ignored, as some hosts start their children. In the main thread only."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        if signal.getsignal(number) is signal.SIG_IGN:
            self._before[number] = signal.signal(number, self._arrived)

    def raise_in_main(self, number: int) -> None:
        """As if this signal had come; for another thread. Does nothing when one came already, or how this ends is decided."""
        if not self.number and not self._settled:
            # To that very thread: it may sit in a call that only a signal of its own interrupts.
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    def check(self) -> None:
        """Raise `Interrupted` if a signal came and what it raised was lost, as happens inside a finalizer."""
        if self.number and not self._settled:
            raise Interrupted(self.number)

    def _lost(self, what: sys.UnraisableHookArgs) -> None:
        """What was raised met code whose exceptions nobody sees, as callbacks at the end of an import: raise it again, later."""
        if not isinstance(what.exc_value, Interrupted):
            self._hook(what)
        elif not self._settled:
            signal.signal(signal.SIGALRM, self._arrived_again)
            signal.setitimer(signal.ITIMER_REAL, _LATER)

    def _arrived_again(self, number: int, frame: FrameType | None) -> None:
        self.check()

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._settled:
            return
        if self.number:
            _say(f"integrator: still {self._doing()}, this signal is ignored\n")
            return
        self.number = number
        _say(f"\nintegrator: {signal.Signals(number).name}, {self._doing()}\n")
        raise Interrupted(number)

    def _doing(self) -> str:
        return "rolling back" if self._console.command in ("publish", "demo") else "stopping"


def _say(text: str) -> None:
    # Not through the console: its buffer may be in use right now. Whoever reads may be what ended.
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
