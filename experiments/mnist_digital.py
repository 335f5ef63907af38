"""Train a digital MLP or CNN on MNIST with the photonic networks' core; see --help."""

import sys

from photonic_ffzero.cli.train import main

if __name__ == "__main__":
    sys.exit(main(recipe="digital"))
