"""Points along directions, and the gradient from slopes along them, by compiled loops.

They do what `CentralPoints.points` and `combine` do for one array of parameters. This module loads
Numba, so it is imported only when it is needed.
"""

from __future__ import annotations

import numpy as np

from meshes.engines.cache import kernel


@kernel
def both_sides(w, v, step, points):  # type: ignore
    """Write w + step v, then w - step v, to points [2 K, D]; w is [D], v [K, D]."""
    K = len(v)
    for k in range(K):
        for i in range(len(w)):
            move = step * np.float32(v[k, i])
            points[k, i] = w[i] + move
            points[K + k, i] = w[i] - move


@kernel
def combined(slopes, v, step, gradient):  # type: ignore
    """Write the gradient [D] of slopes [K] along directions v [K, D]."""
    K = len(v)
    gradient[:] = slopes[0] * v[0]
    for k in range(1, K):
        for i in range(len(gradient)):
            gradient[i] += slopes[k] * np.float32(v[k, i])
    for i in range(len(gradient)):
        gradient[i] = gradient[i] / np.float32(K) / step
