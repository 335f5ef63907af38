"""A network with its configuration, its parameters and the history of its training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import InitVar, asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from meshes import ChipEstimate, MeshEstimate, Phases
from meshes._tensorflow import tf
from meshes.calibration import frozen_mask, read_frozen
from meshes.display import facts_html
from meshes.validation import choice, counted, instance, integer
from photonic_ffzero.config import Config
from photonic_ffzero.data.checks import check_inputs, require_finite
from photonic_ffzero.data.encoding import Encoder
from photonic_ffzero.data.tasks import TASKS, Task
from photonic_ffzero.devices.device import Device, driver_of
from photonic_ffzero.goodness.readouts import DETECTIONS, Goodness, Readout, unit_vectors
from photonic_ffzero.gradients import has_twin
from photonic_ffzero.layers.base import Layer, first_step, in_chunks, one_set
from photonic_ffzero.layers.blocks import Block, NoiseSource, Stage
from photonic_ffzero.layers.photonic import PhaseLayer, Photonic
from photonic_ffzero.networks import Saved, build_blocks
from photonic_ffzero.seeds import generator


@dataclass
class Usage:
    """What a run would ask of a chip.

    Attributes:
        forward_passes: Samples sent through one mesh (or digital layer), summed over them.
        phase_writes: Sets of phases (or weights) written to one, summed over them.
    """

    forward_passes: int = 0
    phase_writes: int = 0

    def add(self, block: Block | Stage, passes: int, samples: int, writes: int) -> None:
        """Count how often samples cross some blocks, and how often the blocks are written."""
        self.forward_passes += len(block.all_layers) * passes * samples
        self.phase_writes += len(block.layers) * writes


@dataclass(frozen=True)
class EpochRecord:
    """One row of the history; passes, writes and seconds are totals since the run began.

    Attributes:
        mesh: The mesh or meshes (layers) in training, counted from 1.
        epoch: The epoch, counted from 1.
        loss: Mean over the epoch's steps.
        train_accuracy: Accuracy (R^2 of a regression) of the readout of these meshes on some
            training images, at most 5,000.
        validation_accuracy: The same on the images held out, or None.
        forward_passes: See `Usage`.
        phase_writes: See `Usage`.
        epsilon: Step of the differences (of a phase: rad), or None.
        twin_weight: Weight w of the measured slopes at the epoch's end; None without a twin.
        twin_coefficient: Coefficient c of the twin's gradient; likewise.
        twin_error: Error of the intensities that the twin predicts, relative to their deviation
            from equal ports, a running mean; likewise. Detector noise alone makes it about
            sqrt(2) times ``read_noise``.
        twin_unexplained: Share of the variance of the measured slopes that the twin does not
            explain; None without measured slopes.
        seconds: Time since training began.
    """

    mesh: str
    epoch: int
    loss: float
    train_accuracy: float
    validation_accuracy: float | None
    forward_passes: int
    phase_writes: int
    epsilon: float | None
    twin_weight: float | None = field(default=None, kw_only=True)
    twin_coefficient: float | None = field(default=None, kw_only=True)
    twin_error: float | None = field(default=None, kw_only=True)
    twin_unexplained: float | None = field(default=None, kw_only=True)
    seconds: float

    @classmethod
    def optional(cls) -> set[str]:
        """The names of the fields that may be None."""
        return {name for name, kind in cls.__annotations__.items() if kind.endswith("None")}


class History(list[EpochRecord]):
    """The records of a training, one an epoch."""

    def to_frame(self) -> Any:
        """The history as a pandas DataFrame, a row an epoch and a column a field."""
        import pandas

        return pandas.DataFrame([asdict(record) for record in self])


@dataclass(eq=False)
class Position:
    """Where a training stands. Random states follow from it and the seed.

    Attributes:
        block: The block in training, from 0; of several that are trained at once, the first.
        epoch: Its epoch, from 0.
        losses: The losses of the steps taken in that epoch.
        optimizer: The optimizer's state, and a twin's, as a flat list; empty at a block's start.
        epsilon: Step of the differences in that block, once it has been chosen.
        metric: The smoothed metric of a law that follows the network; else empty.
        calibrated: Whether the twin of that block has learned from its calibration.
    """

    block: int = 0
    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    optimizer: list[np.ndarray] = field(default_factory=list)
    epsilon: float | None = None
    metric: list[np.ndarray] = field(default_factory=list)
    calibrated: bool = False

    @property
    def has_steps(self) -> bool:
        """Whether any step of the block in training was taken."""
        return bool(self.epoch or self.losses)

    def has_begun(self, block: int) -> bool:
        """Whether a block was calibrated, or any step of it taken."""
        return (self.block, self.has_steps or self.calibrated) > (block, False)


_STRUCTURE = (
    *("network", "meshes", "columns", "depth", "width", "scaling", "channels", "kernel_size"),
    *("groups", "patches", "head", "colour"),
    *("train_nonlinearity", "readout", "prototypes", "detection", "norm_size"),
)


@dataclass
class Model:
    """A network, new or trained.

    Attributes:
        config: Every choice of the run.
        units: Number of ports N, or of values of one input.
        task: What the labels are.
        encoder: How images become inputs; None for a network trained on inputs as they are.
        device: The device that the configuration names; None if it names none, or if the device is
            not at hand: then the model can be saved, but not evaluated.
        saved: What a trained model is restored from; None draws new parameters and prototypes.
        blocks: The blocks, in the order of the light.
        params: The parameters of each block; random at first.
        history: One record an epoch; ``history.to_frame()`` makes a DataFrame.
        usage: Forward passes and phase writes of the training.
        seconds: Time of the training.
        known: What is known of each mesh: what a twin has learned of those whose training ended,
            and what was known before of others. Empty without a twin.
        device_identity: The identity of the device; of a model that was loaded without its device,
            that of the device it was saved with. None if it has none.
        snapshots: The embeddings of some images after each epoch, for `explore`; None if nobody
            kept them.
    """

    config: Config
    units: int
    task: Task
    encoder: Encoder | None = None
    device: Device | None = None
    saved: InitVar[Saved | None] = None
    blocks: list[Block] = field(init=False)
    params: list[Any] = field(init=False)
    history: History = field(init=False, default_factory=History)
    usage: Usage = field(init=False, default_factory=Usage)
    seconds: float = field(init=False, default=0.0)
    known: list[MeshEstimate] = field(init=False, default_factory=list)
    device_identity: str | None = field(init=False, default=None)
    snapshots: Any = field(init=False, default=None, repr=False)

    def __post_init__(self, saved: Saved | None) -> None:
        instance("config", self.config, Config)
        instance("task", self.task, *TASKS.values())
        if self.encoder is not None:
            instance("encoder", self.encoder, Encoder)
        self.units = integer("units", self.units, minimum=1)
        if self.device is not None and not self.config.device:
            raise ValueError(f"device does not apply to a configuration without, got {self.device}")
        if self.task.name != self.config.task:
            raise ValueError(f"task must be a {self.config.task}, got {self.task}")
        if self.encoder is not None and self.encoder.values != self.units:
            raise ValueError(f"encoder must give {self.units} values, got {self.encoder}")
        self.blocks, self.params = build_blocks(
            self.config, self.units, self.task, self.device, saved
        )
        if self.device is not None:
            self.device_identity = driver_of(self.device).identity
        if has_twin(self.config.estimator):
            meshes, columns = self.config.layers, self.config.columns
            self.known = list(ChipEstimate.known(self.units, columns, meshes).meshes)

    def __repr__(self) -> str:
        return f"Model({', '.join(map(str, self._facts.values()))})"

    def _repr_html_(self) -> str:
        return facts_html("Model", self._facts)

    @property
    def _facts(self) -> dict[str, str]:
        """What it is, and how it was trained, in words."""
        config, last = self.config, self.history[-1] if self.history else None
        count = sum(np.size(array) for array in tf.nest.flatten(self.params))
        layers = counted(config.layers, config.layer_name)
        facts = {
            "network": f"{config.network}: {layers}, {counted(self.units, 'input')}",
            "task": f"{self.task.outputs} outputs ({self.task.name})",
            "parameters": counted(count, "parameter"),
            "method": f"{config.method}, recipe {config.recipe}",
        }
        if last is None:
            return facts | {"trained": "not trained here"}
        held_out, name = last.validation_accuracy, "accuracy"
        quality = last.train_accuracy if held_out is None else held_out
        words = f"{quality:.1%}" if config.task == "classification" else f"R^2 {quality:.3f}"
        facts["trained"] = f"{counted(len(self.history), 'epoch')} in {self.seconds:.1f} s"
        where = "training" if held_out is None else "validation"
        return facts | {name: f"{where} {words} at the end"}

    @property
    def chip_estimate(self) -> ChipEstimate | None:
        """What a twin has learned of the meshes; None without one."""
        return ChipEstimate(tuple(self.known)) if self.known else None

    @property
    def stages(self) -> list[Stage]:
        """The blocks in the order of their training, those together that are trained at once."""
        if self.config.order == "together":
            return [Stage(tuple(self.blocks), 0)]
        return [Stage((block,), index) for index, block in enumerate(self.blocks)]

    @property
    def layers(self) -> Iterator[tuple[Layer, Any]]:
        """Every layer with its parameters, in the order of the light."""
        for block, params in zip(self.blocks, self.params, strict=True):
            yield from zip(block.layers, params, strict=True)

    def scores(self, x: Any) -> np.ndarray:
        """Scores of every block's readout [blocks, n, T C] for fields x [n, N].

        They are 0 for a sample without light, of which a noisy chip would read noise alone.
        """
        x = check_inputs("x", x, self.units, self.config.network)
        dark = ~x.any(axis=1) if self.config.network == "photonic" else []
        scores, front = [], ()
        for index, (block, block_params) in enumerate(
            zip(self._evaluated_blocks, self.params, strict=True)
        ):
            params = (*front, *block_params)
            scores.append(block.all_scores(params, x, self.noise_source("readings", index)))
            front = () if block.cacheable else params
            if block.cacheable and block is not self._evaluated_blocks[-1]:
                x = block.all_outputs(params, x)
        stacked = np.stack(scores)
        stacked[:, dark] = 0
        require_finite("scores", stacked)
        return stacked

    def embed(self, x: Any, mesh: int | None = None, what: str = "detected") -> np.ndarray:
        """Where a mesh (layer) puts samples [n, N]; the model as it stands, trained or not.

        Args:
            x: Inputs [n, N], as for `predict`.
            mesh: Number of the mesh or layer, counted from 1; None for the last one.
            what: ``detected``: what the goodness compares with prototypes, unit vectors [n, T] of
                the tapped values T after the detection; ``intensities`` at the detectors [n, N] (of
                a digital layer ``outputs``); ``fields``: complex, in front of the detectors [n, N].
        """
        layers, params = zip(*self.layers, strict=True)
        number = integer("mesh", len(layers) if mesh is None else mesh, minimum=1)
        if number > len(layers):
            raise ValueError(f"mesh must be at most {len(layers)}, the last, got {number}")
        photonic, tapped = self.config.network == "photonic", "outputs"
        options = ("detected", "intensities", "fields") if photonic else ("detected", tapped)
        choice("what", what, options)
        x = check_inputs("x", x, self.units, self.config.network)
        source = self.noise_source("embed", number)
        if what == "fields":
            return self._fields(number, x, source)
        z = self._first_layers(number).all_measured(params[:number], x, source)
        return self._detected(number, z) if what == "detected" else z

    def _fields(self, number: int, x: np.ndarray, source: NoiseSource) -> np.ndarray:
        """Complex fields [n, N] in front of a mesh's detectors."""
        layers, params = zip(*self.layers, strict=True)
        layer = layers[number - 1]
        if not isinstance(layer, Photonic):
            raise ValueError(f"what must not be fields, which device {self.config.device} hides")
        if number > 1:
            x = self._first_layers(number - 1).all_outputs(params[: number - 1], x, source)
        alone = one_set(tf.nest.map_structure(tf.convert_to_tensor, params[number - 1]))

        def fields(chunk: np.ndarray) -> Any:
            drawn = layer.draw_noise(source.rng, 1, 1, len(chunk), source.age)
            noise = first_step(drawn)
            return dict(layer.stages(alone, chunk, noise))[layer.name][0]

        return in_chunks(fields, x, pad=False)

    def _first_layers(self, number: int) -> Block:
        """The first layers as one block; each is compiled once."""
        prefixes = vars(self).setdefault("_prefixes", {})
        if number not in prefixes:
            layers = tuple(layer for layer, _ in self.layers)
            prefixes[number] = Block(layers[:number], self.blocks[0].readout)
        return prefixes[number]

    def _detected(self, number: int, z: np.ndarray) -> np.ndarray:
        """Unit vectors [n, T] of tapped values [n, T]; each group of outputs has its own."""
        config, readout = self.config, self.readout_after(number)
        groups = len(readout.prototypes) if isinstance(readout, Goodness) else 1
        by_group = tf.reshape(z, [len(z), groups, z.shape[-1] // groups])
        detected = DETECTIONS[config.detection or "raw"](by_group)
        return unit_vectors(detected, config.norm_size or 0).numpy().reshape(len(z), -1)

    def readout_after(self, number: int) -> Readout | None:
        """The readout after a mesh or layer, counted from 1; None if a loss comes later (BP)."""
        ends = np.cumsum([len(block.layers) for block in self.blocks]).tolist()
        return self.blocks[ends.index(number)].readout if number in ends else None

    @cached_property
    def _evaluated_blocks(self) -> list[Block]:
        """Every block with the layers in front that its inputs have to cross again."""
        blocks: list[Block] = []
        front: tuple[Layer, ...] = ()
        for block in self.blocks:
            blocks.append(replace(block, layers=(*front, *block.layers)) if front else block)
            front = () if blocks[-1].cacheable else blocks[-1].layers
        return blocks

    def know(self, estimate: ChipEstimate) -> None:
        """Take what is known of the chip, from which the twin starts."""
        if not self.known:
            raise ValueError(
                f"chip_estimate is what estimator twin starts from, got {self.config.estimator}"
            )
        estimate.check_fits(self.units, self.config.columns or self.units, self.config.layers)
        self.known = list(estimate.meshes)

    def take_over(self, other: Model) -> None:
        """Take parameters and prototypes from a trained network of the same structure."""
        structure, other_structure = self._structure(), other._structure()
        for name, value in structure.items():
            if other_structure[name] != value:
                raise ValueError(
                    f"start_from must be a network with {name} {value}, got {other_structure[name]}"
                )
        seed, other_seed = self.config.seed, other.config.seed
        if self.config.network == "cnn" and seed != other_seed:
            raise ValueError(
                f"start_from must be a cnn of the same seed {seed}, from which its random matrices "
                f"follow, got {other_seed}"
            )
        self.params = list(other.params)
        pairs = zip(self.blocks, other.blocks, strict=True)
        self.blocks = [
            replace(block, readout=block.readout.with_prototypes_of(trained.readout))
            for block, trained in pairs
        ]
        self._forget_compiled()  # they hold the readouts of before

    def freeze(self, frozen: Any) -> None:
        """Let phases of meshes keep their values in training; true means: does not move.

        Args:
            frozen: `Phases` of booleans for each mesh, for one mesh without a list, or the path of
                a file, see `meshes.calibration.read_frozen`.
        """
        layers = [layer for layer, _ in self.layers if isinstance(layer, PhaseLayer)]
        if not layers:
            raise ValueError(f"frozen_phases needs meshes, got {self.config.network}")
        meshes = [layer.mesh for layer in layers]
        instance("frozen_phases", frozen, Phases, list, tuple, str, os.PathLike)
        if isinstance(frozen, (str, os.PathLike)):
            frozen = read_frozen(frozen, meshes)
        frozen = [frozen] if isinstance(frozen, Phases) else list(frozen)
        if len(frozen) != len(meshes):
            raise ValueError(
                f"frozen_phases must be for each of {len(meshes)} meshes, got {len(frozen)}"
            )
        masks = iter(
            type(layer.trainable)(
                *frozen_mask(layer.mesh, part, f"frozen_phases of mesh {number}"),
                *(np.zeros(mask.shape, bool) for mask in layer.trainable[3:]),
            )
            for number, (layer, part) in enumerate(zip(layers, frozen, strict=True), start=1)
        )
        self.blocks = [
            replace(block, frozen=tuple(next(masks) for _ in block.layers)) for block in self.blocks
        ]
        for number, block in enumerate(self.blocks, start=1):
            if not any(mask.any() for layer in block.trainable for mask in layer):
                where = f" of mesh {number}" if self.config.local else ""
                raise ValueError(f"frozen_phases must leave a phase{where} that moves, got none")
        self._forget_compiled()

    def _forget_compiled(self) -> None:
        for name in ("_evaluated_blocks", "_prefixes"):
            vars(self).pop(name, None)

    def _structure(self) -> dict[str, Any]:
        """What two networks must share for their parameters and prototypes to mean the same.

        A default is as good as its value in words.
        """
        config = self.config
        structure: dict[str, Any] = {"units": self.units, "task": self.task}
        structure |= {name: getattr(config, name) for name in _STRUCTURE}
        if config.network == "photonic":
            structure["columns"] = config.columns or self.units
        return structure | {
            "colour": config.colour or "grey",
            "method": "ff" if config.local else "bp",
        }

    def noise_source(self, purpose: str, *index: int) -> NoiseSource:
        """The noise of a chip when the model as it stands is evaluated for some purpose."""
        epochs = len(self.history)
        return NoiseSource(generator(self.config.seed, purpose, epochs, *index), epochs)
