"""Time the trainer's step on imperfect chips against that on the ideal one.

    python experiments/bench_imperfections.py                    64 ports, K = 8
    python experiments/bench_imperfections.py --directions 1 32

Every chip and the ideal one take turns on the native engine; every figure is a
median.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench_engine import BATCH, CLASSES, endless, interleaved, samples

from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.model import Model
from photonic_ffzero.runs.directory import check_new_directory, versions
from photonic_ffzero.storage import write_json
from photonic_ffzero.training.step import BlockTraining, Samples

CHIPS = {
    "splitter errors": "splitter_error=0.05",
    "phase offsets": "phase_offset=0.1",
    "insertion loss": "insertion_loss_db=0.1",
    "loss imbalance": "loss_imbalance_db=0.1",
    "drive of 8 bits": "drive_bits=8",
    "write noise": "write_noise=0.01",
    "crosstalk": "crosstalk=0.01",
    "drift": "drift=0.001",
    "splitters, offsets, loss": "splitter_error=0.05,phase_offset=0.1,insertion_loss_db=0.1",
    "all of phases and splitters": (
        "splitter_error=0.05,phase_offset=0.1,drive_bits=8,write_noise=0.01,crosstalk=0.01,"
        "drift=0.001"
    ),
    "read noise": "read_noise=0.1",
    "source noise": "source_noise=0.01",
    "readout of 8 bits": "adc_bits=8",
}


def training(ports: int, directions: int, imperfections: str) -> Callable[[], object]:
    """A function that takes some steps at the first mesh, and returns how many."""
    config = configure(
        directions=directions, epsilon=0.05, meshes=1, epochs=10**6, imperfections=imperfections
    )
    model, data = Model(config, ports, Classification(CLASSES)), samples(ports)
    targets = Samples(data.x, model.task.targets(data.y))
    losses = endless(BlockTraining(config, model.blocks[0], 0, model.params[0], targets))
    return lambda: len(next(losses))


def ratios(ports: int, directions: int, budget: float) -> dict[str, float]:
    """Seconds of a step on every chip, each beside one on the ideal chip, as a ratio."""
    found = {}
    for name, imperfections in CHIPS.items():
        pair = {"ideal": "", name: imperfections}
        seconds = interleaved(
            {key: training(ports, directions, made) for key, made in pair.items()}, budget
        )
        found[name] = seconds[name] / seconds["ideal"]
        ideal = 1e3 * seconds["ideal"]
        print(f"  K = {directions}, {name}: {found[name]:.2f} of {ideal:.3g} ms", file=sys.stderr)
    return found


def main() -> int:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ports", type=int, default=64, metavar="N", help="(default: 64)")
    parser.add_argument(
        "--directions", type=int, nargs="+", default=[8], metavar="K", help="(default: 8)"
    )
    parser.add_argument("--seconds", type=float, default=4, metavar="S", help="time a chip")
    parser.add_argument("--output", type=Path, metavar="DIR", help="new directory")
    arguments = parser.parse_args()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    output = arguments.output or Path("results") / f"bench-imperfections-{stamp}"
    check_new_directory(output)
    every = {k: ratios(arguments.ports, k, arguments.seconds) for k in arguments.directions}
    print(f"{'step time, batch ' + str(BATCH):30}" + "".join(f"  K = {k:<4}" for k in every))
    for name in CHIPS:
        print(f"{name:30}" + "".join(f"{own[name]:6.2f}x  " for own in every.values()))
    output.mkdir(parents=True, exist_ok=True)
    content = {"ports": arguments.ports, "ratios": every, "versions": versions()}
    write_json(output / "bench.json", content)
    print(f"results in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
