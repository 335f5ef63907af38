"""Learn a chip from intensities at random phases."""

import sys

from photonic_ffzero.cli.calibrate import main

if __name__ == "__main__":
    sys.exit(main())
