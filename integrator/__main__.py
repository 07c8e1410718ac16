"""``python -m integrator`` and the script ``integrator`` are the command line."""

import os
import signal
import sys


def main() -> int:
    """Run the command line; returns the exit code. An interrupt before that takes signals over ends in 130 without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started this ignores it
        signal.signal(signal.SIGINT, _stop)
    from integrator.cli import main as run

    return run()


def _stop(number: int, _: object) -> None:
    os._exit(128 + number)  # nothing has begun: there is nothing to undo, and nobody reads where an import was


if __name__ == "__main__":
    sys.exit(main())
