"""The paper's two regressions: functions and noisy samples of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from photonic_ffzero.seeds import generator

TRAIN, TEST, NOISE = 10_000, 2_000, 0.05


def f1(x: np.ndarray) -> np.ndarray:
    return np.sin(x[:, 0]) + np.cos(x[:, 1])


def f2(x: np.ndarray) -> np.ndarray:
    return np.exp(x[:, 0]) * np.sin(x[:, 1]) + x[:, 2] * np.cos(x[:, 3]) - x[:, 4] * x[:, 0]


FUNCTIONS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "f1": (2, f1),
    "f2": (5, f2),
}
"""Name -> number of inputs D, and the function from x [n, D] to y [n]."""


def sample(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw x [10000, D], y [10000] for training and x [2000, D], y [2000] for testing.

    They are the same every time: x uniform on [-1, 1], and normal noise of 0.05 standard
    deviations of the labels on those for training alone.

    Reference: Guo et al., arXiv 2603.24790, section "Regression".
    """
    inputs, function = FUNCTIONS[name]
    rng = generator(0, f"samples of {name}")
    x = rng.uniform(-1, 1, (TRAIN + TEST, inputs)).astype(np.float32)
    y = function(x.astype(np.float64))
    noisy = y[:TRAIN] + NOISE * y[:TRAIN].std() * rng.standard_normal(TRAIN)
    return x[:TRAIN], noisy, x[TRAIN:], y[TRAIN:]
