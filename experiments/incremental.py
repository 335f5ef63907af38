"""New classes: are old ones forgotten, and does a small memory of them help?

Prototypes of all ten classes are drawn at the start. The network learns classes 0 to 4,
then 5 to 9, without any image of the old classes, or with 20 of each, repeated so that as
many old images come as new ones (replay). Local losses (ff-dd) against one global loss
(bp-dd), for a photonic network and an MLP. Accuracies are of the test images of old and of new
classes, decided among all ten: incremental.csv and incremental.png have them after every epoch,
results.csv at the end of each run, and for old classes also before new ones came.
Runs that have ended are not run again with the same --output.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from photonic_ffzero import (
    EpochRecord,
    Model,
    NonFiniteLossError,
    Observer,
    Samples,
    Trainer,
    configure,
    encode,
    load_dataset,
)
from photonic_ffzero.cli.arguments import (
    PATH,
    LineParser,
    Reader,
    add_data_dir,
    as_flag,
    check_data_dir,
    count,
    takes,
    typed_words,
)
from photonic_ffzero.command import command, say, signals
from photonic_ffzero.data import Classification, DataError, Dataset
from photonic_ffzero.goodness import decide
from photonic_ffzero.plots import curve_style, save_figure
from photonic_ffzero.runs import add_legend, check_new_directory
from photonic_ffzero.runs.claim import Claim
from photonic_ffzero.settings import one_of
from photonic_ffzero.storage import read_json, write_csv, write_json
from photonic_ffzero.training.progress import LiveProgress, progress_console

Row = dict[str, Any]
CLASSES, OLD = 10, 5  # classes below OLD come first
MEMORY = 20  # images of each old class that are kept for replay
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {  # settings, pixels a side
    "photonic": ({"recipe": "balanced"}, 8),
    "mlp": ({"recipe": "digital", "network": "mlp", "depth": 3, "readout": "goodness"}, 28),
}
METHODS = {"local": "ff-dd", "global": "bp-dd"}
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"dataset": "digits", "limit": None, "epochs": 8, "seeds": 1, "batch_size": 32},
    "paper": {"dataset": "mnist", "limit": None, "epochs": 10, "seeds": 3, "batch_size": 128},
}


@dataclass
class Accuracies(Observer):
    """Collects the accuracy on test images of old and new classes after every epoch."""

    model: Model
    test: Samples
    rows: list[dict[str, Any]]
    labels: dict[str, Any]

    def on_epoch(self, record: EpochRecord) -> None:
        config, done = self.model.config, len(self.model.history)
        right = decide(self.model.scores(self.test.x), config.rule).argmax(axis=1) == self.test.y
        old = self.test.y < OLD
        shares = {"old": float(right[old].mean()), "new": float(right[~old].mean())}
        progress = done / (len(self.model.stages) * config.epochs)
        self.rows.append(self.labels | {"progress": progress} | shares)


def parts(labels: np.ndarray, memory: int) -> tuple[np.ndarray, np.ndarray]:
    """Which samples come first, and which then: new ones, and as many repeats of those kept."""
    old, new = np.flatnonzero(labels < OLD), np.flatnonzero(labels >= OLD)
    if memory:
        kept = [old[labels[old] == label][:memory] for label in range(OLD)]
        new = np.concatenate([new, np.resize(np.concatenate(kept), len(new))])
    return old, new


def train(
    labels: dict[str, Any], train: Samples, test: Samples, preset: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    """Learn the old classes, then the new ones; a row for every epoch of a mesh or layer."""
    settings, _ = NETWORKS[labels["network"]]
    names = ("epochs", "batch_size")
    config = configure(
        method=METHODS[labels["loss"]], seed=seed, **settings, **{n: preset[n] for n in names}
    )
    rows: list[dict[str, Any]] = []
    before: Model | None = None
    for phase, part in enumerate(parts(train.y, labels["memory"]), start=1):
        model = Model(config, train.x.shape[1], Classification(CLASSES))
        if before is not None:
            model.take_over(before)
        watch = Accuracies(model, test, rows, labels | {"seed": seed, "phase": phase})
        trainer = Trainer(model, Samples(train.x[part], train.y[part]))
        label = f"{_name(labels, seed)}, part {phase}, {config.layer_name}"
        with LiveProgress(progress_console(False), trainer.course(label, str)) as progress:
            trainer.observers = (progress, watch)
            before = trainer.run()
    return rows


def runs(preset: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """The labels and the seed of every run; all of them before the next seed."""
    for seed, network, loss, memory in product(
        range(preset["seeds"]), NETWORKS, METHODS, (0, MEMORY)
    ):
        yield {"network": network, "loss": loss, "memory": memory}, seed


def ends(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A run's row of results.csv: what it is, and its accuracies after the old and the new part.

    Args:
        rows: Those that `train` returned.
    """
    before, last = ([row for row in rows if row["phase"] == phase][-1] for phase in (1, 2))
    run = {name: last[name] for name in ("network", "loss", "memory", "seed")}
    return run | {"old_before": before["old"], "old": last["old"], "new": last["new"]}


def _name(labels: dict[str, Any], seed: int) -> str:
    return "{network}-{loss}-memory-{memory}-seed-".format(**labels) + str(seed)


def draw(*panels: Any, rows: list[dict[str, Any]]) -> None:
    """A panel for each network and memory: old and new classes in time, mean of seeds."""
    places = list(product(NETWORKS, (0, MEMORY)))
    for axes, (network, memory) in zip(panels, places, strict=True):
        axes.sharey(panels[0])
        curves = product(METHODS, ("old", "new"))
        for index, (loss, classes) in enumerate(curves):
            shares: dict[float, list[float]] = {}
            for row in rows:
                if (row["network"], row["loss"], row["memory"]) == (network, loss, memory):
                    time = row["phase"] - 1 + row["progress"]
                    shares.setdefault(time, []).append(100 * row[classes])
            means = [np.mean(values) for values in shares.values()]
            label = f"{loss} loss, classes {'0 to 4' if classes == 'old' else '5 to 9'}"
            axes.plot([*shares], means, label=label, ms=3, **curve_style(index))
        axes.axvline(1, color="gray", linewidth=1)
        axes.set_xticks([0.5, 1.5], ["training on 0 to 4", "training on 5 to 9"])
        axes.set_title(f"{network}, {memory or 'no'} old images a class", fontsize="medium")
        axes.set(ylabel="test accuracy (%)", xlim=(0, 2))
        axes.grid(alpha=0.3, axis="y")
    add_legend(panels)


def check_preset(output: Path, preset: dict[str, Any]) -> None:
    """Refuse a directory with runs of other settings; more seeds go on in the same one."""
    settings = {name: value for name, value in preset.items() if name != "seeds"}
    known = read_json(output / "preset.json")
    if known is None:
        check_new_directory(output)
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "preset.json", settings)
    for name, value in settings.items():
        if known is not None and known.get(name) != value:
            raise ValueError(
                f"argument --output: must be new or hold runs with {name} {value}, "
                f"found {known.get(name) or 'none'} in {output}"
            )


def _run(output: Path, preset: dict[str, Any], data: Dataset) -> tuple[list[Row], list[Row]]:
    """Make the runs that are missing; return the rows of all epochs and those of all ends."""

    @cache
    def samples(network: str) -> tuple[Samples, Samples]:
        """Those for training and for testing, encoded once for all runs of a network."""
        side = min(NETWORKS[network][1], data.train_images.shape[1])
        chosen = slice(preset["limit"])
        train_x = encode(data.train_images[chosen], size=side)
        test = Samples(encode(data.test_images, size=side), data.test_labels)
        return Samples(train_x, data.train_labels[chosen]), test

    rows: list[Row] = []
    table: list[Row] = []
    for labels, seed in runs(preset):
        file = output / f"{_name(labels, seed)}.json"
        finished = read_json(file)
        if finished is None:
            finished = {"rows": train(labels, *samples(labels["network"]), preset, seed)}
            write_json(file, finished)
        if not finished.get("rows"):
            raise DataError(f"{file}: must hold rows; without the file the run is made again")
        rows += finished["rows"]
        table.append(end := ends(finished["rows"]))
        shares = f"classes 0 to 4 {100 * end['old']:.1f} %, 5 to 9 {100 * end['new']:.1f} %"
        print(f"{_name(labels, seed)}: {shares}", flush=True)
    return rows, table


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing in the output directory, then write table and figure."""
    parser = LineParser(prog="incremental.py", description=__doc__)
    parser.add_argument(
        "--preset", **takes(one_of(PRESETS)), default="small", help="digits, or MNIST in full"
    )
    parser.add_argument("--seeds", type=count(1), metavar="N", help="seeds (default: preset's)")
    parser.add_argument("--epochs", type=count(1), metavar="N", help="epochs a mesh or layer")
    parser.add_argument("--limit", type=count(50), metavar="N", help="train on the first N images")
    parser.add_argument(
        "--output",
        type=Reader(PATH),
        default=Path("results/incremental"),
        metavar="DIR",
        help="directory of the results, new or stopped (default: results/incremental)",
    )
    add_data_dir(parser)
    arguments = parser.parse_args(argv)
    asked = {name: getattr(arguments, name) for name in ("seeds", "epochs", "limit")}
    preset = PRESETS[arguments.preset] | {n: v for n, v in asked.items() if v is not None}
    signals().advice = "runs that have ended are kept; go on with the same command"
    try:
        check_data_dir(arguments.data_dir)
        data = load_dataset(preset["dataset"], arguments.data_dir)
        check_preset(arguments.output, preset)
        Claim(arguments.output)  # keeps other processes out until this command ends
    except (ValueError, OSError) as error:
        parser.error(as_flag(str(error), parser))

    try:
        rows, table = _run(arguments.output, preset, data)
        write_csv(arguments.output / "incremental.csv", rows)
        write_csv(arguments.output / "results.csv", table)
        words = ["python", "experiments/incremental.py", *typed_words(arguments, "preset", *asked)]
        write_json(arguments.output / "about.json", {"command": " ".join(words)})
        save_figure(
            arguments.output / "incremental.png",
            lambda *axes: draw(*axes, rows=rows),
            panels=2 * len(NETWORKS),
            per_row=2,
            title=f"New classes after old ones, {preset['dataset']}",
        )
    except (NonFiniteLossError, DataError, OSError) as error:
        say(f"incremental.py: {error}; runs that have ended are kept in {arguments.output}")
        return 1
    print(f"results in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
