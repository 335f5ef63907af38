"""Time the trainer's step on imperfect chips, relative to the same step on the ideal chip.

    python benchmarks/imperfections.py                    64 ports, K = 8
    python benchmarks/imperfections.py --directions 1 32

Every chip takes turns with the ideal one on the native engine; the time is the
ratio of two medians.
"""

import argparse
from collections.abc import Iterator
from itertools import product

import timing

from photonic_ffzero import configure
from photonic_ffzero.cli.arguments import count as count_of

STATIC = "splitter_error=0.05,phase_offset=0.1"
CHIPS = {
    "splitter errors": "splitter_error=0.05",
    "phase offsets": "phase_offset=0.1",
    "insertion loss": "insertion_loss_db=0.1",
    "loss imbalance": "loss_imbalance_db=0.1",
    "drive of 8 bits": "drive_bits=8",
    "write noise": "write_noise=0.01",
    "crosstalk": "crosstalk=0.01",
    "drift": "drift=0.001",
    "splitters, offsets, loss": f"{STATIC},insertion_loss_db=0.1",
    "all of phases and splitters": (
        f"{STATIC},drive_bits=8,write_noise=0.01,crosstalk=0.01,drift=0.001"
    ),
    "read noise": "read_noise=0.1",
    "source noise": "source_noise=0.01",
    "readout of 8 bits": "adc_bits=8",
}


def measure(arguments: argparse.Namespace) -> Iterator[timing.Row]:
    """The time of a step on every chip relative to the ideal one, for every K."""
    images = timing.random_images(arguments.ports)
    for (name, chip), count in product(CHIPS.items(), arguments.directions):
        tasks = {
            imperfections: timing.training_steps(
                configure(directions=count, epsilon=0.05, meshes=1, imperfections=imperfections),
                images,
            )
            for imperfections in ("", chip)
        }
        seconds = timing.median_seconds(tasks, arguments.seconds)
        yield {"chip": name, "K": count, "time": seconds[chip] / seconds[""]}


if __name__ == "__main__":
    parser = timing.command_line(__doc__, seconds=4)
    parser.add_argument("--ports", type=count_of(1), default=64, metavar="N", help="(default: 64)")
    text = "(default: 8)"
    parser.add_argument(
        "--directions", type=count_of(1), nargs="+", default=[8], metavar="K", help=text
    )
    timing.run(parser, measure, {"chip": 28}, ("K", "time"))
