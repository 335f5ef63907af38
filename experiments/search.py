"""Search settings by trials of training runs, on held-out images alone."""

import sys

from photonic_ffzero.cli.search import main

if __name__ == "__main__":
    sys.exit(main())
