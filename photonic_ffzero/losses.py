"""Local losses: from the scores of all classes to one number, the mean over the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshes._tensorflow import tf
from meshes.validation import number

__all__ = ["LOSSES", "Cosine", "CrossEntropy", "Margin"]


def _true_class(scores: Any, labels: Any) -> Any:
    """The score of each sample's own class [..., B, 1] and the mask [B, C] that picked it."""
    mask = tf.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
    return tf.reduce_sum(scores * mask, axis=-1, keepdims=True), mask


@dataclass(frozen=True)
class Margin:
    r"""Every wrong class is to stay a margin below the true one.

    .. math:: \ell = \frac{1}{B} \sum_b \sum_{c \ne y_b} \max(0, m + G_{bc} - G_{b y_b})

    Attributes:
        margin: m, in units of the scores, at least 0.

    Reference:
        Guo et al., arXiv 2603.24790, eq. 16. (The published scripts sum over the batch and
        include c = y, a constant m a sample.)
    """

    margin: float = 0.3

    def __post_init__(self) -> None:
        number("margin", self.margin, minimum=0)

    def __call__(self, scores: Any, labels: Any) -> Any:
        """Map scores [..., B, C] and labels [B] to losses [...]."""
        true, mask = _true_class(scores, labels)
        hinges = tf.nn.relu(self.margin + scores - true) * (1 - mask)
        return tf.reduce_mean(tf.reduce_sum(hinges, axis=-1), axis=-1)


@dataclass(frozen=True)
class Cosine:
    r"""The true class alone: what the published photonic script uses.

    .. math:: \ell = \frac{1}{B} \sum_b (1 - G_{b y_b})
    """

    def __call__(self, scores: Any, labels: Any) -> Any:
        """Map scores [..., B, C] and labels [B] to losses [...]."""
        true, _ = _true_class(scores, labels)
        return tf.reduce_mean(1 - true[..., 0], axis=-1)


@dataclass(frozen=True)
class CrossEntropy:
    r"""Softmax cross-entropy on scaled scores.

    .. math:: \ell = \frac{1}{B} \sum_b \Big(\log \sum_c e^{s G_{bc}} - s G_{b y_b}\Big)

    Attributes:
        scale: s, above 0. A cosine within [-1, 1] needs a scale to become sure of itself; the
            intensities of a port readout need none.
    """

    scale: float = 10.0

    def __post_init__(self) -> None:
        number("scale", self.scale, above=0)

    def __call__(self, scores: Any, labels: Any) -> Any:
        """Map scores [..., B, C] and labels [B] to losses [...]."""
        logits = self.scale * scores
        true, _ = _true_class(logits, labels)
        return tf.reduce_mean(tf.reduce_logsumexp(logits, axis=-1) - true[..., 0], axis=-1)


LOSSES: dict[str, Callable[..., Callable[[Any, Any], Any]]] = {
    "cross-entropy": CrossEntropy,
    "margin": Margin,
    "cosine": Cosine,
}
