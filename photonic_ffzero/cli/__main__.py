"""``python -m photonic_ffzero.cli``: train a photonic network."""

import sys

from photonic_ffzero.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
