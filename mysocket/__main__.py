"""``python -m mysocket`` is the program ``mysocket``."""

import sys

from mysocket.cli import main

if __name__ == "__main__":
    sys.exit(main())
