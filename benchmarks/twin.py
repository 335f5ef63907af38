"""Time a training step with a twin, relative to automatic differentiation on the same chip.

    python benchmarks/twin.py                    64 and 196 ports
    python benchmarks/twin.py --ports 64

A step with a twin also simulates the chip, which a real one does at no cost to
the host; `host` leaves that time out. Steps take turns on the native engine.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import timing

from meshes.imperfections import imperfections_of
from photonic_ffzero import configure
from photonic_ffzero.cli.arguments import count as count_of

CHIPS = ("splitter_error=0.05,phase_offset=0.1", "splitter_error=0.05,loss_imbalance_db=0.1")


def measure(arguments: argparse.Namespace) -> Iterator[timing.Row]:
    """The time of a step with a twin alone, in steps of FF+AD, for every chip and size."""
    for ports in arguments.ports:
        images = timing.random_images(ports, 16 * timing.BATCH)
        for chip in CHIPS:
            shared = {"meshes": 1, "imperfections": chip}
            mesh = imperfections_of("chip", chip).fabricate(ports).mesh
            phases, light = mesh.initial_phases(), images.x[: timing.BATCH]
            tasks = {
                "twin": timing.training_steps(configure(estimator="twin", **shared), images),
                "ad": timing.training_steps(configure(method="ff-ad", **shared), images),
                "chip": lambda mesh=mesh, x=light, w=phases: np.sum(mesh.intensities(x, w)) * 0,
            }
            seconds = timing.median_seconds(tasks, arguments.seconds)
            host = (seconds["twin"] - seconds["chip"]) / seconds["ad"]
            step = {"ad ms": 1e3 * seconds["ad"], "twin ms": 1e3 * seconds["twin"]}
            ratios = {"ratio": seconds["twin"] / seconds["ad"], "host": host}
            yield {"chip": chip, "ports": ports} | step | ratios


if __name__ == "__main__":
    parser = timing.command_line(__doc__, seconds=4)
    parser.add_argument(
        "--ports", type=count_of(2), nargs="+", default=[64, 196], metavar="N", help="(64 196)"
    )
    timing.run(parser, measure, {"chip": 44}, ("ports", "ad ms", "twin ms", "ratio", "host"))
