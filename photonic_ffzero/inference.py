"""From the scores of all layers to one prediction, and how good it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from photonic_ffzero.model import Model

__all__ = [
    "RULES",
    "Evaluation",
    "evaluate",
    "majority_vote",
    "predict",
    "score",
    "summed_goodness",
]


def majority_vote(scores: np.ndarray) -> np.ndarray:
    r"""Let each layer vote for its best class.

    The class with most votes wins; among tied classes the one that the last layer scores
    highest. With two layers the vote is always the last layer's own prediction.

    Args:
        scores: Goodness [layers, n, C].

    Returns:
        Predicted classes [n].

    Reference:
        Guo et al., arXiv 2603.24790, eq. 6.
    """
    classes = scores.shape[-1]
    votes = np.eye(classes, dtype=int)[scores.argmax(axis=-1)].sum(axis=0)  # [n, C]
    tied = votes == votes.max(axis=-1, keepdims=True)
    return np.where(tied, scores[-1], -np.inf).argmax(axis=-1)


def summed_goodness(scores: np.ndarray) -> np.ndarray:
    r"""Add the goodness of all layers: :math:`\arg\max_c \sum_l G_c^{(l)}`.

    Args:
        scores: Goodness [layers, n, C].

    Returns:
        Predicted classes [n].
    """
    return scores.sum(axis=0).argmax(axis=-1)


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum": summed_goodness,
    "vote": majority_vote,
}


def _decide(scores: np.ndarray, rule: str | None) -> np.ndarray:
    """A network with one readout (BP) needs no rule: its best class is the prediction."""
    return RULES[rule](scores) if rule else scores[-1].argmax(axis=-1)


@dataclass(frozen=True)
class Evaluation:
    """What a network's scores on labelled samples amount to.

    Attributes:
        accuracy: Accuracy of the rule that was set before training, 0 to 1.
        vote_accuracy: Accuracy of the majority vote; None for a single readout.
        goodness_sum_accuracy: Accuracy of the summed goodness; None for a single readout.
        layer_accuracy: Accuracy of each readout alone.
        confusion: Counts [C, C]: true class by predicted class, with the rule.
    """

    accuracy: float
    vote_accuracy: float | None
    goodness_sum_accuracy: float | None
    layer_accuracy: list[float]
    confusion: np.ndarray


def score(scores: np.ndarray, labels: np.ndarray, rule: str | None) -> Evaluation:
    """Evaluate scores against labels.

    Args:
        scores: Scores of every readout [readouts, n, C].
        labels: True classes [n].
        rule: ``"sum"`` or ``"vote"``; None for a network with one global readout (BP).
    """

    from sklearn.metrics import confusion_matrix  # a second to import, needed once

    def accuracy(predicted: np.ndarray) -> float:
        return float(np.mean(predicted == labels))

    predicted = _decide(scores, rule)
    return Evaluation(
        accuracy=accuracy(predicted),
        vote_accuracy=accuracy(majority_vote(scores)) if rule else None,
        goodness_sum_accuracy=accuracy(summed_goodness(scores)) if rule else None,
        layer_accuracy=[accuracy(layer.argmax(axis=-1)) for layer in scores],
        confusion=confusion_matrix(labels, predicted, labels=np.arange(scores.shape[-1])),
    )


def predict(model: Model, x: Any) -> np.ndarray:
    """Predict classes [n] of encoded samples [n, N], by the rule set before training.

    Raises:
        ValueError: ``x`` has other than N ports.
    """
    return _decide(model.scores(x), model.config.rule)


def evaluate(model: Model, x: Any, y: Any) -> Evaluation:
    """Evaluate a model on encoded samples [n, N] with labels [n].

    Raises:
        ValueError: ``x`` has other than N ports, or the lengths differ.
    """
    if len(x) != len(y):
        raise ValueError(f"x and y must be equally long, got {len(x)} and {len(y)}")
    return score(model.scores(x), np.asarray(y), model.config.rule)
