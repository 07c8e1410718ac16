"""``python -m integrator`` is the command line."""

import sys

from integrator.cli import main

if __name__ == "__main__":
    sys.exit(main())
