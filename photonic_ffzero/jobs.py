"""A job: one configuration on one data set for some seeds, from arrays to a run directory."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from meshes.propagation import resolve_engine
from photonic_ffzero.data import Dataset, split
from photonic_ffzero.inference import Evaluation, evaluate
from photonic_ffzero.model import Model
from photonic_ffzero.progress import LiveProgress
from photonic_ffzero.recipes import Config
from photonic_ffzero.reporting import RunDirectory, versions
from photonic_ffzero.steps import Samples
from photonic_ffzero.training import Trainer

__all__ = ["Job"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train on what, and where to put it.

    Attributes:
        config: The configuration, with the first seed.
        dataset: The data.
        encoding: Name of the encoding, see `encode`.
        size: Pixels a side after encoding.
        train: All training images, encoded.
        test: All test images, encoded.
        validation: Training images held out.
        limit: Training images used at most; None for all that are left.
        seeds: How many seeds, from the configuration's on.
        output: The run directory; with several seeds it holds one for each.
        quiet: Whether to print the final result only.
    """

    config: Config
    dataset: Dataset
    encoding: str
    size: int
    train: Samples
    test: Samples
    validation: int
    limit: int | None
    seeds: int
    output: Path
    quiet: bool

    def trainer(self, seed: int) -> Trainer:
        """Hold out the validation images and build the network of one seed.

        Raises:
            ValueError: the data do not fit the network, or too many images are held out.
        """
        kept, held_out = split(len(self.train.y), self.validation, seed)
        kept = kept[: self.limit]
        return Trainer(
            replace(self.config, seed=seed),
            Samples(self.train.x[kept], self.train.y[kept]),
            Samples(self.train.x[held_out], self.train.y[held_out]) if self.validation else None,
        )

    def run(self) -> list[dict[str, Any]]:
        """Train and test every seed; return the results.

        Raises:
            NonFiniteLossError: training met a loss that is not finite.
            OSError: a file could not be written.
        """
        console = Console(stderr=True, quiet=self.quiet, highlight=False)
        root = RunDirectory(self.output)
        console.print(self.describe())
        results = []
        for seed in range(self.config.seed, self.config.seed + self.seeds):
            alone = self.seeds == 1
            directory = root if alone else RunDirectory(self.output / f"seed-{seed}")
            results.append(self._run_seed(seed, directory, console))
            print(_one_line(results[-1]), flush=True)
        if len(results) > 1:
            root.write_json("summary.json", _summary(results))
            print(_mean_line(results))
        console.print(f"results in {self.output}")
        return results

    def describe(self) -> str:
        """Say in a few lines what is going to happen."""
        config, data = self.config, self.dataset
        kept = min(len(self.train.y) - self.validation, self.limit or len(self.train.y))
        ports = self.train.x.shape[-1]
        steps = f", K = {config.directions}" if config.directions else ""
        return (
            f"{data.name} ({data.source})\n"
            f"{kept} training, {self.validation} validation, {len(self.test.y)} test images\n"
            f"{config.method}, recipe {config.recipe}{steps}, {config.epochs} epochs\n"
            f"{config.meshes} x {ports} ports, {config.columns or ports} columns, "
            f"{resolve_engine(config.engine)} engine"
        )

    def _run_seed(self, seed: int, directory: RunDirectory, console: Console) -> dict[str, Any]:
        trainer = self.trainer(seed)
        directory.write_json("config.json", self._settings(trainer))
        label = f"seed {seed}, " if self.seeds > 1 else ""
        with LiveProgress(console, trainer.steps, label) as progress:
            trainer.observers = (progress, directory)
            model = trainer.run()
        outcome = evaluate(model, *self.test)
        results = self._results(model, outcome)
        directory.write_json("results.json", results)
        directory.write_figures(model, outcome.confusion, _one_line(results))
        return results

    def _settings(self, trainer: Trainer) -> dict[str, Any]:
        return asdict(trainer.config) | {
            "dataset": self.dataset.name,
            "source": self.dataset.source,
            "encoding": self.encoding,
            "size": self.size,
            "validation": self.validation,
            "limit": self.limit,
        }

    def _results(self, model: Model, outcome: Evaluation) -> dict[str, Any]:
        config = model.config
        held_out = model.history[-1].validation_accuracy
        return {
            "dataset": self.dataset.name,
            "method": config.method,
            "recipe": config.recipe,
            "encoding": self.encoding,
            "size": self.size,
            "ports": model.units,
            "meshes": config.meshes,
            "columns": config.columns or model.units,
            "directions": config.directions,
            "epochs": config.epochs,
            "seed": config.seed,
            "engine": resolve_engine(config.engine),
            "rule": config.rule,
            "test_accuracy": outcome.accuracy,
            "vote_accuracy": outcome.vote_accuracy,
            "goodness_sum_accuracy": outcome.goodness_sum_accuracy,
            "layer_test_accuracy": outcome.layer_accuracy,
            "last_validation_accuracy": held_out,
            **asdict(model.usage),
            "train_seconds": round(model.seconds, 3),
            "versions": versions(),
        }


def _one_line(result: dict[str, Any]) -> str:
    layers = ", ".join(f"{100 * accuracy:.2f}" for accuracy in result["layer_test_accuracy"])
    rule = f" by {result['rule']} (readouts alone: {layers} %)" if result["rule"] else ""
    return (
        f"{result['dataset']}, {result['method']}, seed {result['seed']}: test accuracy "
        f"{100 * result['test_accuracy']:.2f} %{rule}, {result['train_seconds']:.1f} s"
    )


def _summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds (n - 1 in the denominator)."""
    names = ("test_accuracy", "vote_accuracy", "goodness_sum_accuracy", "train_seconds")
    columns = {name: [result[name] for result in results] for name in names}
    return {"seeds": [result["seed"] for result in results]} | {
        name: None if None in values else {"mean": float(np.mean(values)), "sd": _sd(values)}
        for name, values in columns.items()
    }


def _sd(values: list[float]) -> float:
    return float(np.std(values, ddof=1))


def _mean_line(results: list[dict[str, Any]]) -> str:
    values = [100 * result["test_accuracy"] for result in results]
    return (
        f"mean of {len(values)} seeds: test accuracy {np.mean(values):.2f} % "
        f"(standard deviation {_sd(values):.2f}, from {min(values):.2f} to {max(values):.2f})"
    )
