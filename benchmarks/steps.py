"""Time training steps of all networks on the device that TensorFlow takes: a GPU, or the CPU.

    python benchmarks/steps.py                            the GPU, if there is one
    CUDA_VISIBLE_DEVICES= python benchmarks/steps.py      the CPU beside it

Meshes take XLA where there is a GPU and the native engine elsewhere. Steps are of the first
mesh or layer, of a mixer and under one global loss (bp) of all. The column first has the
seconds until the first steps are done, compilation included.
"""

import argparse
import time
from collections.abc import Iterator

import timing

from meshes._tensorflow import tf
from photonic_ffzero import Config, configure

STEPS = 16
GREY, COLOURED = 28**2, 3 * 32**2  # values of an image
CASES: dict[str, tuple[Config, int]] = {
    "64 ports, K = 32": (configure(), 64),
    "64 ports, FF+AD": (configure(method="ff-ad"), 64),
    "196 ports, recipe wide": (configure("wide"), 196),
    "784 ports, recipe wide": (configure("wide"), 784),
    "784 ports, all columns, K = 8": (configure(directions=8), 784),
    "MLP of width 100, K = 8": (configure("digital", directions=8, batch_size=256), GREY),
    "MLP of width 1000, K = 8": (
        configure("digital", directions=8, batch_size=256, width=1000),
        GREY,
    ),
    "CNN of 16 channels, K = 1": (
        configure("digital", network="cnn", channels=16, directions=1, batch_size=128),
        GREY,
    ),
    "CNN of 16 channels, BP+AD": (
        configure("digital", "bp-ad", network="cnn", channels=16, batch_size=128),
        GREY,
    ),
    "mixer of CIFAR-10's small preset": (
        configure("digital", network="mixer", colour="rgb"),
        COLOURED,
    ),
}


def measure(arguments: argparse.Namespace) -> Iterator[timing.Row]:
    """A row for each network: milliseconds a step, and seconds until the first."""
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    for name, (config, pixels) in CASES.items():
        together = config.network == "mixer" or config.method.startswith("bp")
        images = timing.random_images(pixels, STEPS * config.batch_size)
        start = time.perf_counter()
        task = timing.training_steps(config, images, None if together else 0)
        task()
        first = time.perf_counter() - start
        seconds = timing.median_seconds({name: task}, arguments.seconds)
        yield {"device": device, "step": name, "ms": 1e3 * seconds[name], "first s": first}


if __name__ == "__main__":
    parser = timing.command_line(__doc__, seconds=2)
    timing.run(parser, measure, {"device": 7, "step": 34}, ("ms", "first s"))
