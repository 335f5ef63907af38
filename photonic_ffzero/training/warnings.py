"""What makes the figures of a run meaningless, each in one line.

A warning is a function from the facts of a run to its text, or None; WARNINGS lists them. `fit`
issues them as `ResultWarning`, runs print them at their end and keep them in results.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meshes._tensorflow import tf
from meshes.validation import counted, from_spec
from photonic_ffzero.config import Config
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.goodness.losses import LOSSES
from photonic_ffzero.layers.base import first_step, one_set
from photonic_ffzero.layers.photonic import Photonic
from photonic_ffzero.model import EpochRecord, Model
from photonic_ffzero.power import beyond_tables, power_budget

_SAMPLE = 128  # training samples whose light is looked at
_DARK = float(np.finfo(np.float32).tiny)  # below it, an intensity is zero to the engines
_FEW = 5  # samples of a class that neither teach it nor test it
_NEAR = 1e-3  # relative distance from the loss of chance; goodness that tells nothing apart
_EXACT = 1e-5  # the same from the first epochs on
_ALL = 0.99  # share of samples that is as good as all
_ENOUGH = 10  # epochs after which some progress must show


class ResultWarning(UserWarning):
    """The figures of a training or a calibration, or predictions, mean little."""


@dataclass(frozen=True)
class Facts:
    """What the warnings judge by.

    Attributes:
        config: The settings of the run.
        classes: Number of classes; None for a regression.
        history: The records of its epochs.
        power: Power a port at the median sample after each mesh, in units of \\|E\\|^2; empty if
            nobody simulates the light.
        zeros: Share of readings that are zero after each mesh with a converter.
        finite: Whether each layer's parameters are finite.
        counts: Samples of each class, by what they are for; those for nothing are left out.
        scores: Scores of each readout [readouts, n, C] on test samples, or None.
        decided: Predicted classes [n] of the test samples, or None.
        beyond: What light exceeds the table of which nonlinearity, in words.
    """

    config: Config
    classes: int | None
    history: Sequence[EpochRecord] = ()
    power: Sequence[float] = ()
    zeros: Sequence[float] = ()
    finite: Sequence[bool] = ()
    counts: Mapping[str, np.ndarray] = field(default_factory=dict)
    scores: np.ndarray | None = None
    decided: np.ndarray | None = None
    beyond: Sequence[str] = ()

    @property
    def dark(self) -> list[int]:
        """The meshes that no light leaves, counted from 1."""
        return [number for number, power in enumerate(self.power, 1) if power < _DARK]

    @property
    def accuracy_of_chance(self) -> float:
        """What one answer to all training samples, or luck, may reach; 1 if nobody counted them."""
        counts = self.counts.get("training", np.zeros(0))
        total = int(np.sum(counts))
        if not total:
            return 1.0
        share = float(np.max(counts)) / total
        return share + 2 * math.sqrt(share * (1 - share) / total)

    @property
    def blocks(self) -> list[tuple[str, list[EpochRecord]]]:
        """The records of each block, by its name."""
        names = dict.fromkeys(record.mesh for record in self.history)
        return [(name, [r for r in self.history if r.mesh == name]) for name in names]


def parameters_not_finite(facts: Facts) -> str | None:
    broken = [str(i) for i, finite in enumerate(facts.finite, 1) if not finite]
    layer = facts.config.layer_name
    return f"parameters of {layer} {', '.join(broken)} are not finite" if broken else None


def no_light(facts: Facts) -> str | None:
    """The electro-optic modulator at its dark bias squares dim light away, mesh after mesh."""
    if not facts.dark:
        return None
    first = facts.dark[0]
    if first == 1:
        return "no light reaches mesh 1: the inputs are zero"
    after = f"; meshes {first} to {facts.dark[-1]} are dark" if len(facts.dark) > 1 else ""
    return f"no light reaches mesh {first}: use --amplifier or another bias{after}"


def readings_rounded_away(facts: Facts) -> str | None:
    lost = [(i, zeros) for i, zeros in enumerate(facts.zeros, 1) if zeros > 0.95]
    if facts.dark or not lost:
        return None
    number, zeros = lost[0]
    bits = facts.config.chip_imperfections.adc_bits
    return (
        f"{100 * zeros:.0f} % of the readings of mesh {number} are rounded to 0: use more "
        f"adc_bits than {bits}"
    )


def brighter_than_measured(facts: Facts) -> str | None:
    if not facts.beyond:
        return None
    return f"{'; '.join(facts.beyond)}; it is taken for the brightest of the table"


def loss_at_chance(facts: Facts) -> str | None:
    """Scores that are all zero have the same loss whatever the parameters are.

    Dim ports have nearly that loss, too, but an accuracy that rises.
    """
    chance = _loss_of_chance(facts)
    stuck = [
        name
        for name, records in facts.blocks
        if chance
        and abs(records[-1].loss - chance) < (_NEAR if len(records) >= _ENOUGH else _EXACT) * chance
        and records[-1].train_accuracy <= facts.accuracy_of_chance
    ]
    if facts.dark or not stuck:
        return None
    layer = facts.config.layer_name
    return (
        f"{layer} {', '.join(stuck)} learned nothing: the loss stayed at {chance:.3f}, that of "
        "chance; try another learning rate, or more light"
    )


def _loss_of_chance(facts: Facts) -> float | None:
    """The loss of scores that are all zero: ln C of a cross-entropy for each group."""
    if facts.classes is None or facts.classes < 2:
        return None
    loss = from_spec("loss", facts.config.loss, LOSSES)
    one = float(loss(tf.zeros([1, facts.classes]), tf.zeros([1], tf.int32))[0])
    return one * (1 if facts.config.network == "mixer" else facts.config.groups)


def no_progress(facts: Facts) -> str | None:
    """Neither the loss nor the accuracy of any block is better than at the start."""
    if facts.classes is None or facts.dark or loss_at_chance(facts) or not facts.blocks:
        return None
    for _, records in facts.blocks:
        falls = records[-1].loss < (1 - 10 * _NEAR) * records[0].loss
        if len(records) < _ENOUGH or falls or records[-1].train_accuracy > facts.accuracy_of_chance:
            return None
    return (
        f"nothing was learned in {counted(facts.config.epochs, 'epoch')}: the accuracy is that of "
        "chance, and the loss did not fall; try another learning rate"
    )


def goodness_near_zero(facts: Facts) -> str | None:
    if facts.scores is None or facts.dark or facts.config.readout != "goodness":
        return None
    largest = np.abs(facts.scores).max(axis=2, initial=0).mean(axis=1)
    low = [str(i) for i, goodness in enumerate(largest, 1) if goodness < _NEAR]
    layer = facts.config.layer_name
    return f"goodness of {layer} {', '.join(low)} is 0 within {_NEAR:g}" if low else None


def one_answer(facts: Facts) -> str | None:
    """A network that gives all samples the same class has an accuracy, but knows nothing."""
    if facts.decided is None or not len(facts.decided) or facts.dark:
        return None
    most = np.bincount(facts.decided[facts.decided >= 0], minlength=1).max() / len(facts.decided)
    varied = np.count_nonzero(facts.counts.get("test", ())) > 1
    if not varied or most < _ALL:
        return None
    return f"{100 * most:.0f} % of the test samples get the same class: the accuracy says nothing"


def few_samples(facts: Facts) -> str | None:
    """An accuracy needs some samples of each class, to learn from and to test."""
    for what, counts in facts.counts.items():
        if what != "test" and not facts.config.trains:
            continue
        few = [(count, label) for label, count in enumerate(counts) if count < _FEW]
        if few:
            count, label = min(few)
            others = f" ({len(few)} classes have fewer than {_FEW})" if len(few) > 1 else ""
            samples = counted(count, f"{what} sample")
            return f"class {label} has {samples}{others}: use more, or fewer classes"
    return None


WARNINGS: Sequence[Callable[[Facts], str | None]] = (
    parameters_not_finite,
    no_light,
    readings_rounded_away,
    brighter_than_measured,
    loss_at_chance,
    no_progress,
    goodness_near_zero,
    one_answer,
    few_samples,
)


def warnings_of(facts: Facts) -> list[str]:
    """The texts of all warnings that the facts call for."""
    return [text for warning in WARNINGS if (text := warning(facts)) is not None]


def facts_of(model: Model, x: np.ndarray, labels: Mapping[str, np.ndarray], **test: Any) -> Facts:
    """Gather the facts of a finished training.

    Args:
        model: The trained network.
        x: Its training samples [n, N].
        labels: Labels [n] by what they are for: training, validation, test.
        **test: ``scores`` and ``decided`` of the test samples, ``beyond`` of all samples.
    """
    classes = model.task.classes if isinstance(model.task, Classification) else None
    simulated = model.config.network == "photonic" and not model.config.device
    finite = [
        all(np.isfinite(array).all() for array in tf.nest.flatten(params))
        for _, params in model.layers
    ]
    facts: dict[str, Any] = {"history": model.history, "finite": finite, **test}
    if classes is None:
        facts["decided"] = None  # numbers, of which no two are the same
    else:
        facts["counts"] = {
            what: np.bincount(y, minlength=classes) for what, y in labels.items() if len(y)
        }
    if simulated and all(finite):
        budget = power_budget(model, x[:_SAMPLE])
        facts["power"] = list(budget.after_meshes.values())
        facts["zeros"] = _zeros(model, x[:_SAMPLE])
        facts.setdefault("beyond", beyond_tables(model, x))
    return Facts(model.config, classes, **facts)


def _zeros(model: Model, x: np.ndarray) -> list[float]:
    """Share of zeros among the readings of each mesh with a converter."""
    if not model.config.chip_imperfections.adc_bits:
        return []
    rng, age = model.noise_source("power")
    shares, light = [], x
    for layer, params in model.layers:
        if not isinstance(layer, Photonic):
            return []
        drawn = first_step(layer.draw_noise(rng, 1, 1, len(x), age))
        stacked = one_set(tf.nest.map_structure(tf.convert_to_tensor, params))
        readings = np.asarray(layer.measure(stacked, light, drawn))
        shares.append(float(np.mean(readings == 0)))
        light = layer.transmit(stacked, light, drawn)[0]
    return shares
