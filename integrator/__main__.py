"""``python -m integrator`` and the script ``integrator`` are the command line.

Loading takes longer than most commands run, so signals are taken over before anything else is imported; the module `signal`
itself would load half a dozen others.
"""

import _signal  # type: ignore[import-not-found]
import os
import sys


def main() -> int:
    """Run the command line; returns the exit code. A signal before that takes them over ends in 128 + its number, silently."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # else whoever started this ignores it
        _signal.signal(_signal.SIGINT, _stop)
    for number in (_signal.SIGTERM, _signal.SIGHUP):
        if _signal.getsignal(number) == _signal.SIG_DFL:
            _signal.signal(number, _stop)
    from integrator.cli import main as run

    return run()


def _stop(number: int, _: object) -> None:
    os._exit(128 + number)  # nothing has begun: there is nothing to undo, and nobody reads where an import was


if __name__ == "__main__":
    sys.exit(main())
