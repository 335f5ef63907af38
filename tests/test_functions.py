"""The functions to learn: their values, their noise, and the same samples every time."""

import math

import numpy as np
import pytest

from photonic_ffzero.data.datasets import load_dataset
from photonic_ffzero.data.functions import FUNCTIONS, NOISE, TRAIN, sample

# The paper's formulas, sample by sample
FORMULAS = {
    "f1": lambda a, b: math.sin(a) + math.cos(b),
    "f2": lambda a, b, c, d, e: math.exp(a) * math.sin(b) + c * math.cos(d) - e * a,
}


@pytest.mark.parametrize("name", FUNCTIONS)
class TestEveryFunction:
    def values(self, name, x):
        return np.array([FORMULAS[name](*row) for row in x.astype(np.float64)])

    def test_has_as_many_samples_as_the_paper_uniform_on_the_cube(self, name):
        x, y, test_x, test_y = sample(name)
        inputs = FUNCTIONS[name][0]
        assert (x.shape, test_x.shape) == ((10_000, inputs), (2_000, inputs))
        assert (y.shape, test_y.shape) == ((10_000,), (2_000,))
        assert (x.dtype, y.dtype) == (np.float32, np.float64)
        assert np.abs(x).max() <= 1
        # A uniform variable on [-1, 1] has variance 1/3, and its square 4/45: five errors each.
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=5 * np.sqrt(1 / 3 / TRAIN))
        np.testing.assert_allclose((x**2).mean(axis=0), 1 / 3, atol=5 * np.sqrt(4 / 45 / TRAIN))

    def test_training_labels_alone_carry_normal_noise_of_a_twentieth_of_their_spread(self, name):
        x, y, test_x, test_y = sample(name)
        np.testing.assert_allclose(test_y, self.values(name, test_x), rtol=1e-12)
        clean = self.values(name, x)
        noise = (y - clean) / clean.std()
        assert NOISE == 0.05
        assert abs(noise.std() - NOISE) < 5 * NOISE / np.sqrt(2 * TRAIN)
        assert abs(noise.mean()) < 5 * NOISE / np.sqrt(TRAIN)
        assert abs(np.mean((noise / NOISE) ** 4) - 3) < 5 * np.sqrt(96 / TRAIN)  # normal's
        correlation = np.corrcoef(np.column_stack([noise, clean, x]).T)[0, 1:]
        assert np.abs(correlation).max() < 5 / np.sqrt(TRAIN)

    def test_is_a_data_set_and_the_same_every_time(self, name):
        data = load_dataset(name)
        assert (data.name, data.num_classes, data.note) == (name, None, "")
        arrays = (data.train_images, data.train_labels, data.test_images, data.test_labels)
        for array, again in zip(arrays, sample(name), strict=True):
            np.testing.assert_array_equal(array, again)
