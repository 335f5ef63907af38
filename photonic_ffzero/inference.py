"""From the scores of all layers to predictions, and how good they are."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from meshes.display import facts_html
from meshes.validation import counted
from photonic_ffzero.data.checks import CHECKS
from photonic_ffzero.data.tasks import Classification, Task, quality_in_words
from photonic_ffzero.goodness.decisions import decide, majority_vote, summed_goodness
from photonic_ffzero.model import Model
from photonic_ffzero.power import beyond_tables
from photonic_ffzero.training.warnings import ResultWarning

LOW_GOODNESS = 0.05
"""Mean goodness of the readouts, within [-1, 1], below which no class fits a sample."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well a network predicts labelled samples; None where a task has no such figure.

    Attributes:
        quality: Accuracy, or R^2 of a regression, by the rule that was set before training.
        layer_quality: The same of each readout alone.
        vote_accuracy: Accuracy of the majority vote.
        goodness_sum_accuracy: Accuracy of the summed goodness.
        confusion: Counts [C, C], true class by class predicted with the rule; samples without
            light are in none.
    """

    quality: float
    layer_quality: list[float]
    vote_accuracy: float | None = None
    goodness_sum_accuracy: float | None = None
    confusion: np.ndarray | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Evaluation):
            return NotImplemented
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(np.array_equal(mine, theirs) for mine, theirs in pairs)

    __hash__ = None  # type: ignore[assignment]  # as that of the lists and arrays in it

    def __repr__(self) -> str:
        return f"Evaluation({', '.join(f'{name} {value}' for name, value in self._facts.items())})"

    def _repr_html_(self) -> str:
        return facts_html("Evaluation", self._facts)

    @property
    def _facts(self) -> dict[str, str]:
        """The figures in words."""
        regression = self.confusion is None
        words = partial(quality_in_words, regression=regression)
        alone = ", ".join(map(words, self.layer_quality))
        facts = {"R^2" if regression else "accuracy": words(self.quality)}
        return facts | ({"readouts alone": alone} if len(self.layer_quality) > 1 else {})

    @property
    def accuracy(self) -> float:
        """The quality of a classification, 0 to 1; a regression has no such attribute."""
        if self.confusion is None:
            raise AttributeError("a regression has no accuracy; its quality is R^2")
        return self.quality

    @property
    def layer_accuracy(self) -> list[float]:
        """The accuracy of each readout alone; a regression has no such attribute."""
        return self.layer_quality if self.accuracy is not None else []


def score(task: Task, scores: np.ndarray, labels: np.ndarray, rule: str | None) -> Evaluation:
    """Evaluate the scores [readouts, n, T C] of all readouts against labels [n] or [n, T].

    ``rule`` is a name in `RULES`, or None for a network with one readout (BP).
    """
    decided = decide(scores, rule)
    quality, alone = task.quality(decided, labels), [task.quality(z, labels) for z in scores]
    if not isinstance(task, Classification):
        return Evaluation(quality, alone)
    from sklearn.metrics import confusion_matrix  # a second to import, needed once

    predicted = task.predictions(decided)
    return Evaluation(
        quality,
        alone,
        vote_accuracy=task.quality(majority_vote(scores), labels) if rule else None,
        goodness_sum_accuracy=task.quality(summed_goodness(scores), labels) if rule else None,
        confusion=confusion_matrix(labels, predicted, labels=np.arange(task.classes)),
    )


def predict(model: Model, x: Any) -> np.ndarray:
    """Predict the labels of encoded samples [n, N], by the rule set before training.

    Warns of samples without light, or with so little goodness that no class fits them.

    Returns:
        Classes [n], `NO_LIGHT` (-1) for a sample without light; of a regression, values in the unit
        of the training labels, [n] or [n, T].
    """
    scores = model.scores(x)
    _warn_of_brightness(model, x)
    _warn_of_darkness(model, scores, "predicted as -1")
    if low := of_low_goodness(model, scores).sum():
        warnings.warn(
            f"goodness below {LOW_GOODNESS} in {low} of {counted(len(scores[0]), 'sample')}: "
            "no class fits",
            ResultWarning,
            stacklevel=2,
        )
    return model.task.predictions(decide(scores, model.config.rule))


def evaluate(model: Model, x: Any, y: Any) -> Evaluation:
    """Evaluate a model on encoded samples [n, N] with labels [n] or [n, T].

    Both are checked as `fit` checks them. Samples without light count as wrong, with a warning.
    """
    task = model.task
    x, y, _ = CHECKS[task.name](x, y, task.classes * task.labels)
    scores = model.scores(x)
    _warn_of_brightness(model, x)
    _warn_of_darkness(model, scores, "counted as wrong")
    return score(task, scores, y, model.config.rule)


def without_light(scores: np.ndarray) -> np.ndarray:
    """Which samples [n] no readout sees any light of, by their scores [readouts, n, T C]."""
    return np.asarray(~scores.any(axis=(0, 2)))


def of_low_goodness(model: Model, scores: np.ndarray) -> np.ndarray:
    """Which samples [n] have light, but less goodness than `LOW_GOODNESS` for every class."""
    if model.config.readout != "goodness" or not isinstance(model.task, Classification):
        return np.zeros(scores.shape[1], bool)
    return (scores.mean(axis=0).max(axis=1) < LOW_GOODNESS) & ~without_light(scores)


def _warn_of_brightness(model: Model, x: Any) -> None:
    for text in beyond_tables(model, np.asarray(x)):
        text += "; it is taken for the brightest of the table"
        warnings.warn(text, ResultWarning, stacklevel=3)


def _warn_of_darkness(model: Model, scores: np.ndarray, dark_are: str) -> None:
    if not isinstance(model.task, Classification):
        dark_are = "their values mean nothing"
    if dark := without_light(scores).sum():
        text = f"no light in {dark} of {counted(len(scores[0]), 'sample')}: {dark_are}"
        warnings.warn(text, ResultWarning, stacklevel=3)
