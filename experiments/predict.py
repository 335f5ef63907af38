"""Classify images with a trained model."""

import sys

from photonic_ffzero.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
