"""The main job: train a photonic network on MNIST from forward passes alone."""

import sys

from photonic_ffzero.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
