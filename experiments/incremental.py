"""New classes: are old ones forgotten, and does a small memory of them help?

Prototypes of all ten classes are drawn at the start. The network learns classes 0 to 4,
then 5 to 9, without any image of the old ones, or with a few of them beside every new one
(replay). Local losses (ff-dd) against one global loss (bp-dd), for a photonic network and
an MLP. incremental.csv and incremental.png show the accuracy on test images of old and new
classes after every epoch, decided among all ten. Runs that have ended are not run again
with the same --output.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from photonic_ffzero import (
    EpochRecord,
    Model,
    Observer,
    Samples,
    Trainer,
    configure,
    encode,
    load_dataset,
)
from photonic_ffzero.cli.arguments import PATH, LineParser, add_data_dir, count, reader, takes
from photonic_ffzero.command import command
from photonic_ffzero.data import Classification
from photonic_ffzero.goodness import decide
from photonic_ffzero.plots import curve_style, save_figure
from photonic_ffzero.runs import add_legend
from photonic_ffzero.settings import one_of
from photonic_ffzero.storage import read_json, write_csv, write_json

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
        scores = self.model.scores(self.test.x)
        right = decide(scores, self.model.config.rule).argmax(axis=1) == self.test.y
        old = self.test.y < OLD
        shares = {"old": float(right[old].mean()), "new": float(right[~old].mean())}
        self.rows.append(self.labels | {"epoch": len(self.rows) + 1} | shares)


def train(
    labels: dict[str, Any], train: Samples, test: Samples, preset: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    """Learn the old classes, then the new ones; a row for every epoch of a mesh or layer."""
    settings, _ = NETWORKS[labels["network"]]
    names = ("epochs", "batch_size")
    config = configure(
        method=METHODS[labels["loss"]], seed=seed, **settings, **{n: preset[n] for n in names}
    )
    old, new = np.flatnonzero(train.y < OLD), np.flatnonzero(train.y >= OLD)
    if labels["memory"]:
        kept = [old[train.y[old] == label][: labels["memory"]] for label in range(OLD)]
        new = np.concatenate([new, *kept])
    rows: list[dict[str, Any]] = []
    before: Model | None = None
    for phase, part in enumerate((old, new), start=1):
        model = Model(config, train.x.shape[1], Classification(CLASSES))
        if before is not None:
            model.take_over(before)
        watch = Accuracies(model, test, rows, labels | {"seed": seed, "phase": phase})
        samples = Samples(train.x[part], train.y[part])
        before = Trainer(model, samples, observers=(watch,)).run()
    return rows


def runs(preset: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int]]:
    """The labels and the seed of every run; all of them before the next seed."""
    for seed, network, loss, memory in product(
        range(preset["seeds"]), NETWORKS, METHODS, (0, MEMORY)
    ):
        yield {"network": network, "loss": loss, "memory": memory}, seed


def draw(*panels: Any, rows: list[dict[str, Any]]) -> None:
    """A panel for each network and memory: old and new classes over the epochs, mean of seeds."""
    places = list(product(NETWORKS, (0, MEMORY)))
    for axes, (network, memory) in zip(panels, places, strict=True):
        curves = product(METHODS, ("old", "new"))
        for index, (loss, classes) in enumerate(curves):
            mine = [
                row
                for row in rows
                if (row["network"], row["loss"], row["memory"]) == (network, loss, memory)
            ]
            epochs = sorted({row["epoch"] for row in mine})
            shares = [np.mean([row[classes] for row in mine if row["epoch"] == e]) for e in epochs]
            label = f"{loss} loss, {classes} classes"
            axes.plot(epochs, 100 * np.array(shares), label=label, ms=3, **curve_style(index))
        axes.set_title(f"{network}, {memory or 'no'} old images a class", fontsize="medium")
        axes.set(xlabel="epoch, one mesh or layer after another", ylabel="test accuracy (%)")
        axes.grid(alpha=0.3)
    add_legend(panels)


@command
def main() -> int:
    """Run what is missing in the output directory, then write table and figure."""
    parser = LineParser(prog="incremental.py", description=__doc__)
    parser.add_argument("--preset", **takes(one_of(PRESETS)), default="small")
    parser.add_argument("--seeds", type=count(1), metavar="N", help="seeds (default: preset's)")
    parser.add_argument("--epochs", type=count(1), metavar="N", help="epochs a mesh or layer")
    parser.add_argument("--limit", type=count(50), metavar="N", help="train on the first N images")
    parser.add_argument(
        "--output", type=reader(PATH), default=Path("results/incremental"), metavar="DIR"
    )
    add_data_dir(parser)
    arguments = parser.parse_args()
    asked = {name: getattr(arguments, name) for name in ("seeds", "epochs", "limit")}
    preset = PRESETS[arguments.preset] | {n: v for n, v in asked.items() if v is not None}
    try:
        data = load_dataset(preset["dataset"], arguments.data_dir)
        arguments.output.mkdir(parents=True, exist_ok=True)
        known = read_json(arguments.output / "preset.json")
        if known not in (None, preset):
            raise ValueError(f"output must be new or hold runs of {preset}, found {known}")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    write_json(arguments.output / "preset.json", preset)
    rows: list[dict[str, Any]] = []
    for labels, seed in runs(preset):
        name = "-".join(map(str, (*labels.values(), seed)))
        file = arguments.output / f"{name}.json"
        done = read_json(file)
        if done is None:
            side = min(NETWORKS[labels["network"]][1], data.train_images.shape[1])
            chosen = slice(preset["limit"])
            samples = Samples(
                encode(data.train_images[chosen], size=side), data.train_labels[chosen]
            )
            test = Samples(encode(data.test_images, size=side), data.test_labels)
            done = {"rows": train(labels, samples, test, preset, seed)}
            write_json(file, done)
        rows += done["rows"]
        last = done["rows"][-1]
        print(f"{name}: old {100 * last['old']:.1f} %, new {100 * last['new']:.1f} %", flush=True)
    write_csv(arguments.output / "incremental.csv", rows)
    title = f"New classes after old ones, {preset['dataset']}; two halves of the epochs"
    save_figure(
        arguments.output / "incremental.png",
        lambda *axes: draw(*axes, rows=rows),
        panels=2 * len(NETWORKS),
        title=title,
    )
    print(f"results in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
