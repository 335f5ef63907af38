"""Streams of random numbers: named, independent, and nobody else's."""

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


@given(KEYS)
@settings(deadline=None, derandomize=True)
def test_the_same_key_gives_the_same_stream(key):
    np.testing.assert_array_equal(draws(key), draws(key))


@given(KEYS, KEYS)
@settings(deadline=None, derandomize=True)
def test_different_keys_give_different_streams(one, other):
    assert (one == other) == bool(np.all(draws(one) == draws(other)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "directions", 0, 0), (1, "directions", 0, 0)),
        ((0, "directions", 0, 0), (0, "directions", 0, 1)),
        ((0, "directions", 0, 1), (0, "directions", 1, 0)),
        ((0, "directions", 0, 0), (0, "shuffle", 0, 0)),
    ],
)
def test_neighbouring_streams_are_uncorrelated(one, other):
    n = 20_000
    x, y = draws(one, n), draws(other, n)
    # The correlation of n independent pairs has standard deviation 1 / sqrt(n).
    assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(n)
    assert not np.intersect1d(x, y).size  # nor is one stream the other, shifted


def test_global_generators_are_neither_used_nor_touched():
    def state():
        name, keys, *rest = np.random.get_state()  # noqa: NPY002 (read, not used)
        return name, keys.tobytes(), *rest, random.getstate()

    before = state()
    first = draws((0, "shuffle"))
    assert state() == before
    np.random.seed(7)  # noqa: NPY002 (the point is that it has no influence)
    np.testing.assert_array_equal(draws((0, "shuffle")), first)


def test_streams_are_those_of_earlier_versions_and_other_processes():
    """A published run can be repeated: the name of a purpose counts by its checksum."""
    checksum_of_directions = 0x495867EC
    key = np.random.SeedSequence(0, spawn_key=(checksum_of_directions, 1, 2))
    np.testing.assert_array_equal(
        draws((0, "directions", 1, 2)), np.random.default_rng(key).random(4)
    )


@pytest.mark.parametrize("seed", [None, 0.0, True, "0"])
def test_seeds_that_are_no_whole_numbers_are_refused(seed):
    with pytest.raises(TypeError, match="seed must be a whole number"):
        generator(seed, "shuffle")
