"""Write a trained network's phases, and the voltages that make them, as CSV and JSON."""

import sys

from photonic_ffzero.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
