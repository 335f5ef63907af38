"""The paper's two regressions: functions and noisy samples of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from photonic_ffzero.seeds import generator

TRAIN, TEST, NOISE = 10_000, 2_000, 0.05

FUNCTIONS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "f1": (2, lambda x: np.sin(x[:, 0]) + np.cos(x[:, 1])),
    "f2": (
        5,
        lambda x: np.exp(x[:, 0]) * np.sin(x[:, 1]) + x[:, 2] * np.cos(x[:, 3]) - x[:, 4] * x[:, 0],
    ),
}
"""Name -> number of inputs D, and the function from x [n, D] to y [n]."""


def sample(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    r"""Draw samples of a function, the same ones every time.

    .. math::
        f_1 = \sin x_0 + \cos x_1, \qquad
        f_2 = e^{x_0} \sin x_1 + x_2 \cos x_3 - x_4 x_0, \qquad x_i \in [-1, 1]

    Training labels carry normal noise of 0.05 standard deviations of the labels; test labels
    carry none.

    Returns:
        x [10000, D] and y [10000] for training, x [2000, D] and y [2000] for testing.

    Reference: Guo et al., arXiv 2603.24790, section "Regression".
    """
    inputs, function = FUNCTIONS[name]
    rng = generator(0, f"samples of {name}")
    x = rng.uniform(-1, 1, (TRAIN + TEST, inputs)).astype(np.float32)
    y = function(x.astype(np.float64))
    noisy = y[:TRAIN] + NOISE * y[:TRAIN].std() * rng.standard_normal(TRAIN)
    return x[:TRAIN], noisy, x[TRAIN:], y[TRAIN:]
