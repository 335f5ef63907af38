"""A job: one configuration on one data set for some seeds, from arrays to a run directory."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from meshes.propagation import resolve_engine
from photonic_ffzero.data import Dataset, load_dataset, split
from photonic_ffzero.encoding import encode
from photonic_ffzero.formats import DataError
from photonic_ffzero.inference import Evaluation, evaluate
from photonic_ffzero.model import Model, Position
from photonic_ffzero.progress import LiveProgress
from photonic_ffzero.recipes import Config
from photonic_ffzero.reporting import RunDirectory, versions
from photonic_ffzero.steps import Samples
from photonic_ffzero.storage import load_checkpoint, read_json, write_json
from photonic_ffzero.training import Observer, Trainer

__all__ = ["Job", "Plan"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train on what: all of a job that can be written down, as it is in config.json.

    Attributes:
        config: The configuration, with the first seed.
        dataset: Name of the data set; ``auto`` becomes what was found.
        encoding: Name of the encoding, see `encode`.
        size: Pixels a side after encoding.
        validation: Training images held out; None for a tenth, at most 5000.
        limit: Training images used at most; None for all that are left.
        seeds: How many seeds, from the configuration's on.
    """

    config: Config
    dataset: str
    encoding: str
    size: int
    validation: int | None
    limit: int | None
    seeds: int

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Plan:
        """Rebuild a plan from a config.json.

        Raises:
            DataError: something is missing or out of range.
        """
        own = {field.name for field in fields(cls)} - {"config"}
        try:
            config = Config(**{field.name: content[field.name] for field in fields(Config)})
            return cls(config=config, **{name: content[name] for name in own})
        except KeyError as error:
            raise DataError(f"config.json must name {error}, which is missing") from None
        except (TypeError, ValueError) as error:
            raise DataError(f"config.json: {error}") from None

    def as_json(self) -> dict[str, Any]:
        """The plan as a flat JSON object."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return asdict(own.pop("config")) | own


@dataclass(frozen=True)
class Job:
    """A plan with its data, and where to put the results.

    Attributes:
        plan: What to train on what.
        dataset: The data.
        train: All training images, encoded.
        test: All test images, encoded.
        output: The run directory; with several seeds it holds one for each.
        quiet: Whether to print the final result only.
    """

    plan: Plan
    dataset: Dataset
    train: Samples
    test: Samples
    output: Path
    quiet: bool = False

    @classmethod
    def load(cls, plan: Plan, data_dir: Path | None, output: Path, quiet: bool) -> Job:
        """Load and encode the data of a plan; write nothing.

        Raises:
            TypeError, ValueError: the data are missing or damaged, or do not fit the plan.
        """
        dataset = load_dataset(plan.dataset, data_dir)
        count = len(dataset.train_labels)
        held_out = min(5000, count // 10) if plan.validation is None else plan.validation
        job = cls(
            replace(plan, dataset=dataset.name, validation=held_out),
            dataset,
            Samples(encode(dataset.train_images, plan.encoding, plan.size), dataset.train_labels),
            Samples(encode(dataset.test_images, plan.encoding, plan.size), dataset.test_labels),
            output,
            quiet,
        )
        job._trainer(plan.config.seed)  # raises now what would be raised later
        return job

    def run(self, observers: tuple[Observer, ...] = ()) -> list[dict[str, Any]]:
        """Train and test every seed, going on from what is there; return the results.

        Args:
            observers: Told of every step, epoch and checkpoint, besides the run directory.

        Raises:
            NonFiniteLossError: training met a loss that is not finite.
            StoppedError: an observer stopped the run.
            DataError: a checkpoint is damaged or belongs to another run.
            OSError: a file could not be written.
        """
        console = Console(stderr=True, quiet=self.quiet, highlight=False)
        console.print(self._description())
        root = RunDirectory(self.output)
        write_json(root.path / "config.json", self._written_plan())
        first, count = self.plan.config.seed, self.plan.seeds
        results = []
        for seed in range(first, first + count):
            directory = root if count == 1 else RunDirectory(self.output / f"seed-{seed}")
            done = read_json(directory.results)
            results.append(done or self._run_seed(seed, directory, console, observers))
            print(_one_line(results[-1]), flush=True)
        if count > 1:
            write_json(root.path / "summary.json", _summary(results))
            print(_mean_line(results))
        console.print(f"results in {self.output}")
        return results

    def _written_plan(self) -> dict[str, Any]:
        crc = zlib.crc32(self.train.y.tobytes(), zlib.crc32(self.train.x.tobytes()))
        return self.plan.as_json() | {"source": self.dataset.source, "training_data_crc32": crc}

    def check_same(self, written: dict[str, Any]) -> None:
        """Check that the data are those of a run to resume.

        Raises:
            DataError: they are others.
        """
        mine, theirs = (plan.get("training_data_crc32") for plan in (self._written_plan(), written))
        if mine != theirs:
            raise DataError(
                f"{self.output / 'config.json'}: the training data must have the checksum "
                f"{theirs}, found {mine} in {self.dataset.source}"
            )

    def _description(self) -> str:
        """Say in a few lines what is going to happen."""
        config, data, held_out = self.plan.config, self.dataset, self.plan.validation or 0
        kept = min(len(self.train.y) - held_out, self.plan.limit or len(self.train.y))
        ports = self.train.x.shape[-1]
        steps = f", K = {config.directions}" if config.directions else ""
        return (
            f"{data.name} ({data.source})\n"
            f"{kept} training, {held_out} validation, {len(self.test.y)} test images\n"
            f"{config.method}, recipe {config.recipe}{steps}, {config.epochs} epochs\n"
            f"{config.meshes} x {ports} ports, {config.columns or ports} columns, "
            f"{resolve_engine(config.engine)} engine"
        )

    def _trainer(self, seed: int, checkpoint: Path | None = None) -> Trainer:
        """Hold out the validation images; build the network of one seed, or load it."""
        config = replace(self.plan.config, seed=seed)
        kept, held_out = split(len(self.train.y), self.plan.validation or 0, seed)
        kept = kept[: self.plan.limit]
        train = Samples(self.train.x[kept], self.train.y[kept])
        validation = Samples(self.train.x[held_out], self.train.y[held_out])
        position = Position()
        if checkpoint is not None and checkpoint.exists():
            model, position = load_checkpoint(checkpoint)
            if model.config != config:
                raise DataError(f"{checkpoint}: is a checkpoint of another run than config.json")
        else:
            model = Model(config, train.x.shape[-1], int(self.train.y.max()) + 1)
        return Trainer(model, train, validation if len(held_out) else None, (), position)

    def _run_seed(
        self,
        seed: int,
        directory: RunDirectory,
        console: Console,
        observers: tuple[Observer, ...],
    ) -> dict[str, Any]:
        trainer = self._trainer(seed, directory.checkpoint)
        label = f"seed {seed}, " if self.plan.seeds > 1 else ""
        with LiveProgress(console, trainer.steps, trainer.steps_done, label) as progress:
            trainer.observers = (progress, directory, *observers)
            model = trainer.run()
        outcome = evaluate(model, *self.test)
        results = self._results(model, outcome)
        directory.write_figures(model, outcome.confusion, _one_line(results))
        write_json(directory.results, results)
        return results

    def _results(self, model: Model, outcome: Evaluation) -> dict[str, Any]:
        config = model.config
        held_out = model.history[-1].validation_accuracy
        return {
            "dataset": self.dataset.name,
            "method": config.method,
            "recipe": config.recipe,
            "encoding": self.plan.encoding,
            "size": self.plan.size,
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
