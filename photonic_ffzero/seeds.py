"""Every random draw of the package comes from a generator named by its purpose."""

from __future__ import annotations

import zlib

import numpy as np

from meshes.validation import integer


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return the generator for one purpose of one run.

    Streams of different purposes or indices are independent, so that drawing more of one thing
    (directions, say) never changes another (the initial phases), and an epoch can be repeated
    without replaying those before it.

    Args:
        seed: The run's seed, at least 0.
        purpose: What is drawn, e.g. ``"prototypes"``.
        *index: Which one of them, e.g. block and epoch.

    Raises:
        TypeError: ``seed`` is not a whole number.
        ValueError: ``seed`` is negative.
    """
    seed = integer("seed", seed, minimum=0)
    key = (zlib.crc32(purpose.encode()), *index)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
