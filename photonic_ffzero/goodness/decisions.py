"""Rules that turn the scores of all layers into one prediction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def majority_vote(scores: np.ndarray) -> np.ndarray:
    """Let each layer vote for its best class (Guo et al., arXiv 2603.24790, eq. 6).

    The class with most votes wins; among tied classes the one that the last layer scores highest.
    With two layers the vote is therefore always the last layer's own prediction. A layer that no
    light reaches has no vote; if it is the last one, the sum over the others decides.

    Args:
        scores: Goodness [layers, n, C].

    Returns:
        The last layer's scores [n, C], minus infinity where a class has fewer votes.
    """
    classes = scores.shape[-1]
    cast = np.eye(classes, dtype=int)[scores.argmax(axis=-1)] * scores.any(axis=-1, keepdims=True)
    votes = cast.sum(axis=0)  # [n, C]
    tied = votes == votes.max(axis=-1, keepdims=True)
    deciding = np.where(scores[-1].any(axis=-1, keepdims=True), scores[-1], scores.sum(axis=0))
    return np.where(tied, deciding, -np.inf)


def summed_goodness(scores: np.ndarray) -> np.ndarray:
    r"""Sums [n, C] of the goodness [layers, n, C] of all layers: :math:`\sum_l G_c^{(l)}`."""
    return scores.sum(axis=0)


def last_layer(scores: np.ndarray) -> np.ndarray:
    """The scores [n, C] of the last layer alone, as a regression uses them."""
    return scores[-1]


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum": summed_goodness,
    "vote": majority_vote,
    "last": last_layer,
}


def decide(scores: np.ndarray, rule: str | None) -> np.ndarray:
    """Scores [n, C] by a rule; None stands for a network with one readout (BP)."""
    return RULES[rule or "last"](scores)
