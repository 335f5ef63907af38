"""Time the trainer's step on imperfect chips, relative to the same step on the ideal chip.

    python benchmarks/imperfections.py                    64 ports, K = 8
    python benchmarks/imperfections.py --directions 1 32

Every chip takes turns with the ideal one on the native engine; every figure is
the ratio of two medians.
"""

import argparse
from typing import Any

import timing

from photonic_ffzero import configure

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


def step_ratio(ports: int, directions: int, imperfections: str, budget: float) -> float:
    """Time of a step on a chip, relative to a step on the ideal chip."""
    common = {"directions": directions, "epsilon": 0.05, "meshes": 1}
    configs = configure(**common), configure(**common, imperfections=imperfections)
    images = timing.random_images(ports)
    ideal, chip = (timing.training_steps(config, images) for config in configs)
    seconds = timing.median_seconds({"ideal": ideal, "chip": chip}, budget)
    return seconds["chip"] / seconds["ideal"]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all chips; print one line each."""
    ratios: dict[int, dict[str, float]] = {count: {} for count in arguments.directions}
    print(f"{'step time':28}", *(f"K = {count:<4}" for count in ratios))
    for name, imperfections in CHIPS.items():
        for count, column in ratios.items():
            column[name] = step_ratio(arguments.ports, count, imperfections, arguments.seconds)
        print(f"{name:28}", *(f"{column[name]:7.2f}x" for column in ratios.values()), flush=True)
    return {"ports": arguments.ports, "ratios": ratios}


if __name__ == "__main__":
    parser = timing.command_line(__doc__, seconds=4)
    parser.add_argument("--ports", type=int, default=64, metavar="N", help="(default: 64)")
    text = "(default: 8)"
    parser.add_argument("--directions", type=int, nargs="+", default=[8], metavar="K", help=text)
    timing.run(parser, measure)
