"""Local losses: from scores [..., C] and labels that broadcast to [...] to losses [...]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshes._tensorflow import tf
from meshes.validation import check_fields, number_field


def _true_class(scores: Any, labels: Any) -> tuple[Any, Any]:
    """The score of the true class [...], and the mask [..., C] that picks it."""
    mask = tf.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
    return tf.reduce_sum(scores * mask, axis=-1, keepdims=True), mask


@dataclass(frozen=True)
class Margin:
    r"""Every wrong class should stay a margin below the true one.

    .. math:: \ell = \sum_{c \ne y} \max(0, m + G_c - G_y)

    Attributes:
        margin: m, in units of the scores, at least 0.

    Reference:
        Guo et al., arXiv 2603.24790, eq. 16. (The published scripts sum over the batch and
        include c = y, a constant m a sample.)
    """

    margin: float = number_field(0.3, minimum=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, scores: Any, labels: Any) -> Any:
        true, mask = _true_class(scores, labels)
        hinges = tf.nn.relu(self.margin + scores - true) * (1 - mask)
        return tf.reduce_sum(hinges, axis=-1)


@dataclass(frozen=True)
class Cosine:
    r"""The score of the true class alone, as in the published photonic script.

    .. math:: \ell = 1 - G_y
    """

    def __call__(self, scores: Any, labels: Any) -> Any:
        true, _ = _true_class(scores, labels)
        return 1 - true[..., 0]


@dataclass(frozen=True)
class CrossEntropy:
    r"""Softmax cross-entropy on scaled scores.

    .. math:: \ell = \log \sum_c e^{s G_c} - s G_y

    Attributes:
        scale: s, above 0. Cosines lie within [-1, 1], where a softmax without a scale never comes
            close to one class; intensities of a port readout need no scale.
    """

    scale: float = number_field(10.0, above=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, scores: Any, labels: Any) -> Any:
        logits = self.scale * scores
        true, _ = _true_class(logits, labels)
        return tf.reduce_logsumexp(logits, axis=-1) - true[..., 0]


@dataclass(frozen=True)
class Squared:
    r"""The squared error of a regression, for scores [..., 1] and labels within [-1, 1].

    .. math:: \ell = (y - G_{p_+})^2

    The second prototype is the negative of the first, so its goodness adds nothing.

    Reference:
        Guo et al., arXiv 2603.24790, section "Regression".
    """

    def __call__(self, scores: Any, labels: Any) -> Any:
        return tf.square(labels - scores[..., 0])


LOSSES: dict[str, Callable[..., Callable[[Any, Any], Any]]] = {
    "cross-entropy": CrossEntropy,
    "margin": Margin,
    "cosine": Cosine,
    "squared": Squared,
}
