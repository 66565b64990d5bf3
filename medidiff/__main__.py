"""``python -m medidiff`` is the ``medidiff`` command."""

import sys

from medidiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
