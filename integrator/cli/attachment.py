"""A publish that ends with its caller: ``--attached``.

The caller writes the request as one line to standard input and keeps that open. When standard input ends, the caller was
killed or wants no more, and the publish is interrupted as by SIGTERM: rolled back, exit code 143. A pipe says so at once and
wherever the program runs, behind wrapper scripts and in containers, too. A process that the caller forked can hold the pipe
open after it; therefore the parent is looked at as well.
"""

from __future__ import annotations

import argparse
import os
import queue
import select
import signal
import threading
from typing import TYPE_CHECKING, Final

from integrator.request import MOST_BYTES

if TYPE_CHECKING:
    from integrator.cli.signals import Interruptions

#: Seconds between two looks at the parent.
_LOOK: Final = 1.0


def add_attachment_option(group: argparse._ArgumentGroup) -> None:
    """``--attached``."""
    group.add_argument(
        "--attached",
        action="store_true",
        help=(
            "for programs that wait for the answer (integrator_client.py): the request '-' is the first line of standard input,"
            " whose end interrupts the publish"
        ),
    )


class Attachment:
    """Listens to standard input from now on, in a thread of its own. To be made in the main thread."""

    def __init__(self, interruptions: Interruptions) -> None:
        self._interruptions = interruptions
        self._parent = os.getppid()
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        interruptions.heed(signal.SIGTERM)
        threading.Thread(target=self._listen, name="attachment", daemon=True).start()

    def request(self) -> bytes:
        """The first line; of one that is too long for a request, a part that is too long as well.

        Raises `errors.Interrupted`, as everything in the main thread does from now on, when the caller ends.
        """
        return self._lines.get()

    def _listen(self) -> None:
        said: bytearray | None = bytearray()
        while os.getppid() == self._parent:
            if not select.select([0], [], [], _LOOK)[0]:
                continue
            more = os.read(0, 1 << 20)
            if not more:
                break
            if said is not None:
                said += more
                if b"\n" in more or len(said) > MOST_BYTES:
                    self._lines.put(bytes(said).partition(b"\n")[0])
                    said = None
        self._interruptions.raise_in_main(signal.SIGTERM)
