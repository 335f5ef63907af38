"""A job: train and test one configuration on one data set for some seeds."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import numpy as np
from rich.console import Console

from meshes import ChipEstimate
from meshes.files import DataError, read_file, remove_temporary
from meshes.propagation import resolve_engine
from meshes.validation import counted, printable, quoted
from photonic_ffzero.command import say
from photonic_ffzero.config import Config
from photonic_ffzero.data.checks import in_colour
from photonic_ffzero.data.datasets import Dataset, default_validation, load_dataset, split
from photonic_ffzero.data.encoding import Encoder, form_of
from photonic_ffzero.data.tasks import quality_in_words, task_of
from photonic_ffzero.devices.device import Device, close_at_end, driver_of
from photonic_ffzero.elements import each, is_function
from photonic_ffzero.goodness.decisions import decide
from photonic_ffzero.gradients import has_twin
from photonic_ffzero.inference import Evaluation, score
from photonic_ffzero.model import Model, Position
from photonic_ffzero.networks import build_blocks, open_device, parameter_shapes
from photonic_ffzero.power import SAMPLE, UNIT_POWER, beyond_tables, power_budget
from photonic_ffzero.runs.directory import RunDirectory, versions
from photonic_ffzero.runs.history import read_history
from photonic_ffzero.runs.plan import HELD_OUT, TEST, Plan, changes_of, in_words
from photonic_ffzero.runs.records import read_results
from photonic_ffzero.runs.tensorboard import TensorBoard
from photonic_ffzero.settings import settings_of
from photonic_ffzero.storage import (
    ANY_FUNCTION,
    load_checkpoint,
    load_model,
    model_file,
    read_run_identity,
    write_json,
)
from photonic_ffzero.training.observer import Observer
from photonic_ffzero.training.progress import LiveProgress, progress_console
from photonic_ffzero.training.step import Samples
from photonic_ffzero.training.trainer import Trainer
from photonic_ffzero.training.warnings import facts_of, warnings_of


@dataclass(frozen=True)
class Job:
    """A plan with its data and the directory for the results.

    Attributes:
        plan: What to train on which data.
        dataset: The data.
        encoder: How images become inputs; None if the inputs are no images.
        train: All training samples, encoded.
        test: All test samples, encoded.
        output: The run directory; with several seeds it holds one for each.
        quiet: Whether to print the final result only.
        device: The device to train on; None if there is none, or each seed simulates one.
        tensorboard: Whether each seed's directory gets a folder for TensorBoard.
    """

    plan: Plan
    dataset: Dataset
    encoder: Encoder | None
    train: Samples
    test: Samples
    output: Path
    quiet: bool = False
    device: Device | None = None
    tensorboard: bool = False

    @classmethod
    def load(
        cls,
        plan: Plan,
        data_dir: Path | None,
        output: Path,
        quiet: bool,
        token_file: Path | None = None,
    ) -> Job:
        """Load and encode the data of a plan, and build its network once; write nothing."""
        keep = plan.config.takes_colours
        dataset = load_dataset(plan.dataset, data_dir, plan.image_size, keep)
        count = len(dataset.train_labels)
        held_out = default_validation(count) if plan.validation is None else plan.validation
        name = dataset.name if plan.dataset == "auto" else plan.dataset
        plan = replace(plan, dataset=name, validation=held_out)
        if plan.test_on == HELD_OUT and not held_out:
            raise ValueError(f"test_on must be {TEST} where no images are held out, got {HELD_OUT}")
        plan, encoder = _encoded(plan, dataset)
        train, test = (
            Samples(encoder(x) if encoder else x, _labels(y, plan.config.task))
            for x, y in (
                (dataset.train_images, dataset.train_labels),
                (dataset.test_images, dataset.test_labels),
            )
        )
        if plan.config.task == "regression" and len(test.y) < 2:
            raise ValueError(
                f"task must be classification with a single test sample: R^2 needs two or more, "
                f"found {len(test.y)} in {dataset.source}"
            )
        no_images = dataset.train_images[:0].copy()  # only what they were encoded to is used
        dataset = replace(dataset, train_images=no_images, test_images=no_images)
        job = cls(plan, dataset, encoder, train, test, output, quiet)
        if plan.config.device and not plan.config.simulates_device:
            device = open_device(plan.config, train.x.shape[-1], token_file)
            close_at_end(device)
            job = replace(job, device=device)
        elif token_file is not None:
            raise ValueError("token_file belongs to a device at tcp://host:port, found none")
        first, *others = job._folders
        for seed in others:
            replace(plan.config, seed=seed)
        # A network that starts from another may find that it does not fit, whatever its seed.
        for seed in (first, *(others if plan.start_from else ())):
            job._trainer(seed)  # so that errors surface before anything is written
        return job

    def run(self, observers: tuple[Observer, ...] = ()) -> list[dict[str, Any]]:
        """Train and test every seed, continuing what was begun; return the results.

        Args:
            observers: Told of every step, epoch and checkpoint, as the run directory is.
        """
        console = progress_console(self.quiet)
        for line in self._description():
            console.print(printable(line))
        root, run = RunDirectory(self.output), self._identity()
        count, results, directories, trained = self.plan.seeds, [], [], False
        for seed, folder in self._folders.items():
            directory = RunDirectory(folder, run)
            directories.append(directory)
            remove_temporary(directory.path)
            done = read_results(directory.results)
            trained |= done is None
            if done and directory.checkpoint.exists():
                self._trainer(seed, directory.checkpoint)  # that the results are those of this plan
            results.append(done or self._run_seed(seed, directory, console, observers))
            gc.collect()  # a trainer and its observers name each other, and would keep its samples
            print(printable(_result_line(results[-1])), flush=True)
            for text in results[-1].get("warnings", ()):
                say(f"warning: {text}")
        if count > 1:
            write_json(root.path / "summary.json", _seed_statistics(results))
            print(line := printable(_mean_line(results)))
            histories = [read_history(directory.path) for directory in directories]
            title = self._titled(f"{self.dataset.name}, {self.plan.config.method}, {line}")
            root.write_curves(histories, self.plan.config, f"{title}; bands: range")
        ending = "results in" if trained else "this run was done already, its results are in"
        console.print(printable(f"{ending} {self.output}"), soft_wrap=True)
        return results

    def check_same(self, written: dict[str, Any]) -> None:
        """Check that all that results depend on is as it was when the run began.

        Args:
            written: Content of the run's config.json; a run that has not begun has no checksums.
        """
        for key, mine in self._checksums.items():
            name, theirs = key.partition("_")[0], written.get(key)
            if theirs is not None and mine != theirs:
                raise DataError(
                    f"{self.output / 'config.json'}: the {name} data must have the checksum "
                    f"{quoted(theirs)}, found {mine} in {self.dataset.source}"
                )
        unchecked: dict[str, None] = {}
        for folder in self._folders.values():
            unchecked |= dict.fromkeys(self._unchecked(folder / "model.npz", written))
        if unchecked:
            say(
                f"{self.output}: its checkpoint is from before it held {', '.join(unchecked)}: "
                "whether they are the same is not checked"
            )

    def _unchecked(self, checkpoint: Path, written: dict[str, Any]) -> list[str]:
        """Compare a checkpoint's run with this one; return the names that it does not have."""
        if not checkpoint.exists():
            return []
        try:
            before = read_run_identity(checkpoint)
        except DataError:  # the run says so when it loads it, with what was saved
            return []
        for name, mine in self._identity().items():
            if before.get(name, mine) != mine:
                raise DataError(
                    f"{checkpoint}: {name} must be {quoted(before[name])} as when the run began, "
                    f"found {quoted(mine)}"
                )
        in_config = {name for name in written if name.endswith("_crc32")}
        return [name for name in self._identity() if name not in before and name not in in_config]

    @property
    def _folders(self) -> dict[int, Path]:
        """The run directory of each seed."""
        first, count = self.plan.config.seed, self.plan.seeds
        if count == 1:
            return {first: self.output}
        return {seed: self.output / f"seed-{seed}" for seed in range(first, first + count)}

    def _identity(self) -> dict[str, Any]:
        """What results depend on besides the configuration, which every model holds.

        Data are known by their checksums, as their path may change; after the first checkpoint
        nothing comes from the model to start from.
        """
        left_out = ("dataset", "seeds", "test_on", "start_from", "frozen_phases", "chip_estimate")
        plan = {n: getattr(self.plan, n) for n in settings_of(Plan) if n not in left_out}
        if path := self.plan.frozen_phases:
            plan["frozen_phases_crc32"] = zlib.crc32(read_file(path))
        return plan | self._checksums

    @cached_property
    def _checksums(self) -> dict[str, int]:
        """Of the training and test data, by their keys in config.json."""
        pairs = {"training": self.train, "test": self.test}
        return {
            f"{name}_data_crc32": zlib.crc32(samples.y.tobytes(), zlib.crc32(samples.x.tobytes()))
            for name, samples in pairs.items()
        }

    @property
    def written(self) -> dict[str, Any]:
        """What config.json holds: the plan, and the data that it was made for."""
        count = len(self.train.y)
        data = {"source": self.dataset.source, "training_samples": count, "pixels": self._pixels}
        return self.plan.as_json() | data | self._checksums

    @property
    def _pixels(self) -> int | None:
        """Pixels on the shorter side of an image."""
        return min(self.encoder.shape) if self.encoder else None

    def _description(self) -> list[str]:
        """The data, the method and the network, line by line."""
        config, data, held_out = self.plan.config, self.dataset, self.plan.validation or 0
        kept = min(len(self.train.y) - held_out, self.plan.limit or len(self.train.y))
        steps = f", K = {config.directions}, {config.perturb}" if config.directions else ""
        steps += ", with a twin" if has_twin(config.estimator) else ""
        lines = [
            f"{data.name} ({data.source})",
            f"{kept} training, {held_out} validation, {counted(len(self.test.y), 'test sample')}",
            f"{config.method}, recipe {config.recipe}{steps}, {counted(config.epochs, 'epoch')}",
            _network_line(config, self.train.x.shape[-1]),
        ]
        if self.device is not None:
            unchecked = "without an identity: a resume cannot check that it is the same"
            lines.append(f"device {driver_of(self.device).identity or unchecked}")
        return lines

    def _has_begun(self, seed: int) -> bool:
        """Whether a seed has a checkpoint, which then holds all that it started from."""
        return (self._folders[seed] / "model.npz").exists()

    def _trainer(self, seed: int, checkpoint: Path | None = None) -> Trainer:
        """Split off the validation samples; build the network of a seed, or load it."""
        config = replace(self.plan.config, seed=seed)
        kept, held_out = split(len(self.train.y), self.plan.validation or 0, seed)
        kept = kept[: self.plan.limit]
        train = Samples(self.train.x[kept], self.train.y[kept])
        validation = Samples(self.train.x[held_out], self.train.y[held_out])
        units, position = train.x.shape[-1], Position()
        if checkpoint is not None and checkpoint.exists():
            with catch_warnings(record=True, action="always") as caught:
                functions = [*filter(is_function, each(config.nonlinearity))]
                model, position = load_checkpoint(
                    checkpoint, device=self.device, nonlinearity=functions or None
                )
            for warning in caught:
                say(f"warning: {warning.message}")
            if self.device is not None:  # its address may differ
                model.config = replace(model.config, device=config.device)
            for name, value in vars(config).items():
                if (before := getattr(model.config, name)) != value:
                    raise DataError(
                        f"{checkpoint}: is a checkpoint of another run than config.json: {name} "
                        f"must be {quoted(before)}, found {quoted(value)}"
                    )
        else:
            task = task_of(config.task, self.train.y, kept, self.dataset.class_names)
            device = open_device(config, units) if config.simulates_device else self.device
            model = Model(config, units, task, self.encoder, device)
            begun = self._has_begun(seed)
            if self.plan.start_from is not None and not begun:
                path = _model_path(self.output / self.plan.start_from, seed)
                model.take_over(load_model(path, nonlinearity=ANY_FUNCTION))
            if self.plan.chip_estimate is not None and not begun:
                model.know(ChipEstimate.load(self.plan.chip_estimate))
        if self.plan.frozen_phases is not None:
            model.freeze(self.plan.frozen_phases)
        return Trainer(model, train, validation if len(held_out) else None, (), position)

    def _run_seed(
        self,
        seed: int,
        directory: RunDirectory,
        console: Console,
        observers: tuple[Observer, ...],
    ) -> dict[str, Any]:
        trainer = self._trainer(seed, directory.checkpoint)
        # Only now, as a checkpoint that does not fit, or a device, must cost nothing saved.
        write_json(self.output / "config.json", self.written)
        trainer.model.snapshots = directory.snapshots(trainer)
        sample = trainer.train.x[:SAMPLE]
        dark = self._warn_of_darkness(trainer.model, sample)
        label = f"seed {seed}, " if self.plan.seeds > 1 else ""
        label += trainer.config.layer_name
        quality = partial(quality_in_words, regression=trainer.config.task == "regression")
        with LiveProgress(console, trainer.course(label, quality)) as progress:
            trainer.observers = (progress, directory, *self._logs(directory), *observers)
            model = trainer.run()
        if trainer.traffic:
            console.print(f"workers exchanged {trainer.traffic}", soft_wrap=True)
        tested = trainer.validation if self._held_out_alone and trainer.validation else self.test
        scores = model.scores(tested.x)
        evaluation = score(model.task, scores, tested.y, model.config.rule)
        results = self._results(model, evaluation) | {"power": None}
        if model.config.network == "photonic" and not model.config.device:
            self._warn_of_darkness(model, sample, dark)
            budget = power_budget(model, sample)
            results["power"] = budget.as_json(self._unit_power)
            directory.write_power_budget(budget, self._unit_power, self.plan.detector_floor)
        predicted = model.task.predictions(decide(scores, model.config.rule))
        directory.write_figures(model, tested.y, predicted, self._titled(_result_line(results)))
        labels = {"training": trainer.train.y, "test": tested.y}
        if trainer.validation:
            labels["validation"] = trainer.validation.y
        beyond = beyond_tables(model, self.train.x) or beyond_tables(model, tested.x)
        facts = facts_of(model, sample, labels, scores=scores, decided=predicted, beyond=beyond)
        results["warnings"] = warnings_of(facts)
        write_json(directory.results, results)  # last, as it marks a finished run
        return results

    def _titled(self, line: str) -> str:
        """The title of a figure: a line, and what differs from the recipe."""
        different = changes_of(self.written)
        different.pop("seed", None)  # the line has it
        return f"{line}; {in_words(different)}" if different else line

    def _logs(self, directory: RunDirectory) -> tuple[TensorBoard, ...]:
        folder, label = directory.path / "tensorboard", self.plan.config.layer_name
        return (TensorBoard(folder, label),) if self.tensorboard else ()

    @property
    def _held_out_alone(self) -> bool:
        """Whether the test images are left alone."""
        return self.plan.test_on == HELD_OUT

    @property
    def _unit_power(self) -> float:
        return self.plan.unit_power or UNIT_POWER

    def _warn_of_darkness(
        self, model: Model, sample: np.ndarray, known: Collection[str] = ()
    ) -> Collection[str]:
        """Print where detectors see less light than they need, except at the known stages."""
        floor, unit = self.plan.detector_floor, self._unit_power
        dark = power_budget(model, sample).below(floor / unit) if floor else {}
        for stage in (stage for stage in dark if stage not in known):
            say(
                f"{stage}: detectors see {dark[stage] * unit:.2g} W a port, below their floor of "
                f"{floor:.2g} W; brighten it by --amplifier or --unit-power"
            )
        return dark

    def _results(self, model: Model, evaluation: Evaluation) -> dict[str, Any]:
        config, classes = model.config, model.config.task == "classification"
        rates, last = self.plan.rates, model.history[-1] if model.history else None
        return {
            "dataset": self.dataset.name,
            **{name: getattr(config, name) for name in _REPORTED},
            "encoding": self.plan.encoding,
            "size": self.plan.size,
            "ports": model.units,
            "columns": (config.columns or model.units) if config.meshes else None,
            "engine": resolve_engine(config.engine) if config.engine else None,
            "tested_on": HELD_OUT if self._held_out_alone else TEST,
            "test_accuracy": evaluation.quality if classes else None,
            "test_r2": None if classes else evaluation.quality,
            "vote_accuracy": evaluation.vote_accuracy,
            "goodness_sum_accuracy": evaluation.goodness_sum_accuracy,
            "layer_test_accuracy": evaluation.layer_quality if classes else None,
            "layer_test_r2": None if classes else evaluation.layer_quality,
            "last_validation_accuracy": last.validation_accuracy if last else None,
            **asdict(model.usage),
            "chip_seconds": rates.seconds(model.usage) if rates else None,
            "chip_joules": rates.joules(model.usage) if rates else None,
            "train_seconds": round(model.seconds, 3),
            "device_identity": model.device_identity,
            "versions": versions(),
        }


# Fields of the configuration that results.json repeats.
_REPORTED = (
    *("method", "recipe", "task", "network", "meshes", "depth", "width", "channels", "groups"),
    *("estimator", "perturb", "directions", "epochs", "seed", "rule", "device"),
)


_FEW_PORTS = 100  # wider meshes have a port for every class, and take long to build


def check_suits(plan: Plan, dataset: Dataset) -> None:
    """Check that a plan can be carried out on a data set, from a few of its images."""
    some = replace(dataset, train_images=dataset.train_images[:2])
    plan, encoder = _encoded(plan, some)
    units = encoder.values if encoder else some.train_images.shape[-1]
    labels = _labels(dataset.train_labels, plan.config.task)
    split(len(labels), plan.validation or 0, plan.config.seed)
    task = task_of(plan.config.task, labels, slice(None), dataset.class_names)
    if plan.config.device is None and (not plan.config.meshes or units <= _FEW_PORTS):
        build_blocks(plan.config, units, task)
    else:
        list(parameter_shapes(plan.config, units, task))


def _encoded(plan: Plan, dataset: Dataset) -> tuple[Plan, Encoder | None]:
    """An encoder for a data set's images; the plan with the size and the colours that it has."""
    colours, config = in_colour(dataset.train_images), plan.config
    if dataset.train_images.ndim == 2:
        if config.colour == "rgb":
            raise ValueError(
                f"colour must be grey for {dataset.name}, which has no images, got rgb"
            )
        return plan, None
    if config.colour == "rgb" and not colours:
        raise ValueError(f"colour must be grey for {dataset.name}, whose images are grey, got rgb")
    if config.takes_colours and colours:
        plan = replace(plan, config=replace(config, colour="rgb"))
    shape = dataset.train_images.shape[1:3]
    size = plan.size or form_of(plan.encoding).most(shape)
    encoder = Encoder(plan.encoding, size, shape, plan.config.colour or "grey")
    if plan.normalisation == "standard":
        encoder = encoder.fitted(dataset.train_images)
    return replace(plan, size=encoder.size), encoder


def _model_path(path: Path, seed: int) -> Path:
    """The model in a run directory, or in that of the seed; a file stands for itself."""
    folder = path / f"seed-{seed}"
    file = model_file(folder if folder.is_dir() else path)
    if not file.exists():
        raise DataError(f"{file}: no such file")
    return file


def _labels(y: np.ndarray, task: str) -> np.ndarray:
    """Labels as the task takes them; a regression takes classes as numbers."""
    if task == "regression":
        return y.astype(np.float64)
    if y.dtype.kind != "i":
        raise ValueError("task must be regression for a data set whose labels are numbers")
    return y


# --- what is printed ------------------------------------------------------------------------------

_QUALITY = {"classification": ("accuracy", "test_accuracy"), "regression": ("R^2", "test_r2")}


def _network_line(config: Config, inputs: int) -> str:
    if config.network == "photonic":
        columns = config.columns or inputs
        where = config.device or f"{resolve_engine(config.engine or 'auto')} engine"
        ports = counted(inputs, "port")
        return f"{config.meshes} x {ports}, {counted(columns, 'column')}, {where}"
    layers, channels = counted(config.depth, "layer"), counted(config.channels, "channel")
    if config.network == "mlp":
        return f"MLP of {layers}, {counted(inputs, 'input')}, width {config.width}"
    if config.network == "mixer":
        shape = f"{config.patches} x {counted(config.patches, 'patch')}, {channels}"
        blocks = counted(config.depth, "block")
        return f"mixer of {blocks}, {shape}, {counted(config.groups, 'group')}"
    return f"CNN of {layers}, {counted(inputs, 'pixel')}, {channels}"


def _tested_on(result: dict[str, Any]) -> str:
    return str(result.get("tested_on", TEST))


def _result_line(result: dict[str, Any]) -> str:
    task = result["task"]
    what, key = _QUALITY[task]
    in_words_of = partial(quality_in_words, regression=task == "regression")
    alone = [*map(in_words_of, result[f"layer_{key}"])]
    rule = ""
    if result["rule"] and len(alone) > 1:
        rule = f" by {result['rule']} (readouts alone: {', '.join(alone)})"
    line = (
        f"{result['dataset']}, {result['method']}, seed {result['seed']}: "
        f"{_tested_on(result)} {what} "
        f"{in_words_of(result[key])}{rule}, {result['train_seconds']:.1f} s"
    )
    if result["chip_seconds"] is not None:
        line += f", on the chip {result['chip_seconds']:.3g} s"
    return line if result["chip_joules"] is None else f"{line} and {result['chip_joules']:.3g} J"


_AVERAGED = ["test_accuracy", "test_r2", "vote_accuracy", "goodness_sum_accuracy", "train_seconds"]


def _seed_statistics(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds (n - 1 in the denominator)."""
    from pandas import DataFrame

    table = DataFrame(results)[_AVERAGED].astype(float)
    return {"seeds": [result["seed"] for result in results]} | {
        str(name): None if values.isna().any() else {"mean": values.mean(), "sd": values.std()}
        for name, values in table.items()
    }


def _mean_line(results: list[dict[str, Any]]) -> str:
    task = results[0]["task"]
    what, key = _QUALITY[task]
    values = [result[key] for result in results]
    figures = (*_seed_statistics(results)[key].values(), min(values), max(values))
    mean, sd, low, high = (quality_in_words(q, task == "regression") for q in figures)
    return (
        f"mean of {len(values)} seeds: {_tested_on(results[0])} {what} {mean} "
        f"(standard deviation {sd}, from {low} to {high})"
    )
