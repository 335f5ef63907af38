"""Check that two checkouts of the project train to the same figures, bit for bit.

    python benchmarks/same_figures.py OLD                      OLD against this checkout
    python benchmarks/same_figures.py OLD NEW --only chip cnn  two checkouts, some runs
    python benchmarks/same_figures.py OLD --keep DIR           train each commit only once

Both checkouts train the same short runs with this Python. The new results.json,
config.json, history.csv and model.npz must hold every value of the old ones, except
times and versions. One line a run says "equal" or names the first difference; the
exit status is 0 only if all are equal.
"""

import argparse
import csv
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

NOISE = "write_noise=0.01,source_noise=0.01,shot_noise=0.001,read_noise=0.05"
SMOOTH_CHIP = f"splitter_error=0.05,phase_offset=0.1,insertion_loss_db=0.1,{NOISE}"
CHIP = f"{SMOOTH_CHIP},loss_imbalance_db=0.1,drive_bits=8,crosstalk=0.01,adc_bits=8"

# A script in experiments/ with its flags, by the run's name.
RUNS = {
    f"{recipe}-{method}": f"{script} --recipe {recipe} --method {method}"
    for script, recipe in (
        ("mnist_photonic.py", "balanced"),
        ("mnist_photonic.py", "paper"),
        ("mnist_digital.py", "digital"),
    )
    for method in ("ff-dd", "ff-ad", "bp-dd", "bp-ad")
} | {
    "chip": f"mnist_photonic.py --imperfections {CHIP},drift=0.001 --epsilon 0.05 --chip 3",
    "chip-bp-ad": f"mnist_photonic.py --imperfections {SMOOTH_CHIP} --method bp-ad --reads 2",
    "device": f"mnist_photonic.py --device simulated:{CHIP} --epsilon 0.05",
    "epsilon-auto": f"mnist_photonic.py --imperfections {SMOOTH_CHIP} --epsilon auto",
    "train-nonlinearity": "mnist_photonic.py --train-nonlinearity --method bp-dd --directions 4",
    "jvp": "mnist_photonic.py --estimator jvp --directions 4",
    "xla": "mnist_photonic.py --engine xla --law orthonormal --directions 4 --amplifier gain=2",
    "regression": "mnist_digital.py --dataset f1 --task regression",
    "cnn": "mnist_digital.py --network cnn --channels 4 --perturb activations",
}
COMMON = ("--dataset", "digits", "--limit", "400", "--epochs", "2", "--seed", "1", "--quiet")
TIMES_AND_VERSIONS = {"seconds", "train_seconds", "versions"}


def command(name: str) -> list[str]:
    """The script and the flags of a run; its own flags override the common ones."""
    script, *flags = RUNS[name].split()
    return [script, *COMMON, *flags]


def train_missing(checkout: Path, names: list[str], keep: Path) -> dict[str, Path]:
    """Train the runs of a commit that are not in `keep` yet; return every run's directory."""
    folder = keep.resolve() / _git(checkout, "rev-parse", "HEAD")
    folder.mkdir(parents=True, exist_ok=True)
    if _git(checkout, "status", "--porcelain"):
        folder = Path(tempfile.mkdtemp(prefix="changed-", dir=folder))  # never used again
    version = {name: f"{zlib.crc32(' '.join(command(name)).encode()):08x}" for name in names}
    runs = {name: folder / f"{name}-{version[name]}" for name in names}
    if missing := [name for name in names if not runs[name].exists()]:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            worker = [sys.executable, __file__, checkout, "--train", temporary, "--only", *missing]
            environment = os.environ | {"PYTHONPATH": str(checkout)}
            subprocess.run(worker, cwd=checkout, env=environment, stdout=sys.stderr, check=True)
            for name in missing:
                finished = Path(temporary, name)
                if (finished / "results.json").exists() and not runs[name].exists():
                    finished.rename(runs[name])
    return runs


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", checkout, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def train(checkout: Path, names: list[str], output: Path) -> None:
    """Train runs one after another in this process, which starts TensorFlow only once."""
    for name in names:
        script, *flags = command(name)
        print(f"  {checkout.name}, {name}: ", end="", file=sys.stderr, flush=True)
        sys.argv = [script, *flags, "--output", str(output / name)]
        try:
            runpy.run_path(str(checkout / "experiments" / script), run_name="__main__")
        except SystemExit:  # the script has said what is wrong; the run lacks its results
            pass
        except Exception:
            traceback.print_exc()


def figures(run: Path) -> dict[str, str]:
    """Every value in the files of a run but times and versions, by file and key."""
    content: dict[str, Any] = {
        name: json.loads((run / name).read_text(encoding="utf-8"))
        for name in ("results.json", "config.json")
    }
    with (run / "history.csv").open(newline="", encoding="utf-8") as file:
        content["history.csv"] = list(csv.DictReader(file))
    with np.load(run / "model.npz") as arrays:
        content["model.npz"] = {  # arrays of bytes hold JSON
            key: json.loads(array.tobytes()) if array.dtype == np.uint8 else array
            for key, array in arrays.items()
        }
    return dict(_flat("", content))


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Keys and values of nested dictionaries, lists and arrays; a text tells -0.0 from 0.0."""
    if isinstance(value, np.ndarray):
        yield f"{key} shape and type", f"{value.shape} {value.dtype}"
        value = value.ravel().tolist()
    if not isinstance(value, dict | list):
        yield key, repr(value)
        return
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        if name not in TIMES_AND_VERSIONS:
            yield from _flat(f"{key} {name}".strip(), item)


def difference(old: Path, new: Path) -> str | None:
    """The first key of the old run that the new one lacks, or has with another value."""
    for side, run in (("old", old), ("new", new)):
        if not run.exists():
            return f"the {side} checkout did not finish this run"
    new_values = figures(new)
    for key, value in figures(old).items():
        if value != new_values.get(key):
            return f"{key}: {value} became {new_values.get(key, 'missing')}"
    return None


def main() -> int:
    """Train what is missing, compare, print a line for every run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="checkout with the figures that should stay")
    here = Path(__file__).parent.parent
    parser.add_argument("new", type=Path, nargs="?", default=here, help="(default: this one)")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=[*RUNS], metavar="RUN")
    parser.add_argument("--keep", type=Path, help="folder of finished runs, to be used again")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.old, arguments.only, arguments.train)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        old, new = (
            train_missing(
                checkout.resolve(), arguments.only, arguments.keep or Path(temporary, side)
            )
            for side, checkout in (("old", arguments.old), ("new", arguments.new))
        )
        differences = {name: difference(old[name], new[name]) for name in arguments.only}
    for name, text in differences.items():
        print(f"{name:20} {text or 'equal'}")
    return int(any(differences.values()))


if __name__ == "__main__":
    sys.exit(main())
