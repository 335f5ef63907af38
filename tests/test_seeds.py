"""Streams of random numbers: named, independent, and the same in every version."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from photonic_ffzero.seeds import generator

SMALL = st.integers(0, 1000)
KEYS = st.tuples(SMALL, st.sampled_from(["directions", "shuffle", "prototypes"]), SMALL, SMALL)


def draws(key, count=4):
    return generator(*key).random(count)


@given(KEYS, KEYS)
@settings(derandomize=True)
def test_different_keys_give_different_streams(one, other):
    assert (one == other) == bool(np.all(draws(one) == draws(other)))


@pytest.mark.parametrize(
    "other",
    [(1, "directions", 0, 0), (0, "directions", 0, 1), (0, "shuffle", 0, 0)],
)
def test_neighbouring_streams_are_uncorrelated(other):
    n = 20_000
    x, y = draws((0, "directions", 0, 0), n), draws(other, n)
    # The correlation of n independent pairs has standard deviation 1 / sqrt(n).
    assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(n)
    assert not np.intersect1d(x, y).size  # nor is one stream the other, shifted


def test_streams_depend_on_the_key_alone():
    """Not on global generators, which they leave alone; a purpose counts by its checksum."""
    np.random.seed(7)  # noqa: NPY002 (the point is that it has no influence)
    before = random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002 (read, not used)
    checksum_of_directions = 0x495867EC
    key = np.random.SeedSequence(0, spawn_key=(checksum_of_directions, 1, 2))
    expected = np.random.default_rng(key).random(4)
    np.testing.assert_array_equal(draws((0, "directions", 1, 2)), expected)
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == before  # noqa: NPY002


@pytest.mark.parametrize("seed", [None, 0.0, True, "0"])
def test_seeds_that_are_no_whole_numbers_are_refused(seed):
    with pytest.raises(TypeError, match="seed must be a whole number"):
        generator(seed, "shuffle")
