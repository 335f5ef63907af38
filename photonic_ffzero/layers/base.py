"""The contract of a layer, with a default for everything that only some layers need."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np

from meshes._tensorflow import tf

RUNS_ON = ("xla", "native", "device")
"""Where a layer runs: compiled by XLA, in code that TensorFlow calls (its own convolutions, the
native engine, a black box), or in a laboratory. A block runs where the last of these says that any
of its layers does."""

CHUNK = 1024  # samples evaluated at once where a whole data set is


class Portable:
    """A dataclass whose pickles and copies hold its fields, not what was compiled for it."""

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore


class Layer(Portable, ABC):
    """One layer of a network.

    Parameters are a named tuple of arrays that lead with P, the number of parameter sets evaluated
    side by side; inputs x are [B, ...], shared by all sets, or [P, B, ...].

    Attributes:
        name: What the layer is called in files, ``mesh`` or ``dense``.
        linear: Whether the tapped values are linear in the parameters.
        keeps_statistics: Whether the layer keeps statistics of a data set among its parameters.
        exact: Whether its gradient is always the exact one: a head, which is read out, not moved.
    """

    name: ClassVar[str]
    linear: ClassVar[bool] = False
    keeps_statistics: ClassVar[bool] = False
    exact: ClassVar[bool] = False

    @property
    def groups(self) -> int:
        """Independent groups of parameters G, each for a group of outputs.

        With more than one, every array of parameters leads with [P, G], and a group's outputs
        depend on its parameters alone, so that each group can be judged by its own loss.
        """
        return 1

    @property
    def runs_on(self) -> str:
        """One of RUNS_ON."""
        return "xla"

    @property
    def cacheable(self) -> bool:
        """Whether ``transmit`` gives an array, and the same one for the same arguments.

        It is then computed once for the whole of the next block's training.
        """
        return True

    @property
    @abstractmethod
    def taps(self) -> int:
        """Number of tapped values."""

    @property
    def repeats(self) -> int:
        """How many patches the tapped values have, over which a readout takes the mean."""
        return 1

    @property
    def values(self) -> int:
        """Numbers a sample that the layer computes at once."""
        return self.taps

    @property
    def outgoing(self) -> int:
        """Numbers a sample that the next layer gets."""
        return self.taps

    @property
    @abstractmethod
    def trainable(self) -> Any:
        """One parameter set's structure of boolean arrays, false where an entry is not trained.

        Entries that are trained have a gradient, estimated or, if the layer is ``exact``, exact.
        """

    @property
    def reach(self) -> Any:
        """The tapped values that each entry of one parameter set moves, by default all.

        Structured as the parameters: arrays [..., 2] of the first and the last + 1, whose leading
        axes broadcast to those of the parameters.
        """
        return everything(self.trainable, self.taps)

    @property
    def together(self) -> list[np.ndarray]:
        """Entries [G, s] of the parameters, array after array, in the blocks of the `metric`."""
        return []

    def metric(self, params: Any, x: Any) -> list[np.ndarray]:
        """How the layer's output moves with one parameter set: blocks [G, s, s], float32.

        They belong to the entries of `together`; by default there are none. ``x`` are inputs, of
        any shape that the layer is given.
        """
        return []

    @abstractmethod
    def init(self, rng: np.random.Generator) -> Any:
        """Draw one parameter set, without the axis P."""

    @abstractmethod
    def measure(self, params: Any, x: Any, noise: Any = ()) -> Any:
        """The values that detectors tap [P, B, taps]."""

    @abstractmethod
    def transmit(self, params: Any, x: Any, noise: Any = ()) -> Any:
        """The next layer's inputs [P, B, ...]."""

    def draw_noise(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, age: int
    ) -> Any:
        """Draw random numbers [steps, ...] for P = ``sets`` evaluations of a batch in each step.

        ``age`` is that of the chip, in epochs of training.
        """
        return ()

    def traced(self, params: Any, x: Any) -> tuple[Any, Any]:
        """The tapped values [B, taps] of one parameter set, and what `pullback` needs to know."""
        return self.measure(one_set(params), x)[0], x

    def pullback(self, params: Any, trace: Any, g_z: Any) -> Any:
        """The gradient of one parameter set, from that of its tapped values [B, taps]."""
        raise ValueError(
            f"perturb must be weights for a {self.name}: there is no way back from the gradient "
            "of its tapped values to its parameters"
        )

    def with_statistics(self, params: Any, x: np.ndarray) -> Any:
        """One parameter set with the statistics of a data set x [n, ...] in it."""
        return params

    @property
    def evaluation(self) -> Layer:
        """The layer as it is outside of training, where it uses the statistics it keeps."""
        return self

    @property
    def noiseless(self) -> Layer:
        """The layer without what differs from one reading to the next."""
        return self


class Moved(Layer):
    """A layer of several maps in a row, whose values inside can be moved, all at once."""

    @property
    @abstractmethod
    def parts(self) -> tuple[int, int]:
        """Patches and groups of the outputs, each of which can be judged alone."""

    @abstractmethod
    def sites(self, batch: int) -> Any:
        """The values that are moved, as boolean arrays [B, ...]."""

    @abstractmethod
    def trace(self, params: Any, x: Any, tapped: bool) -> tuple[Any, Any]:
        """The next layer's inputs [B, ...] for one parameter set, and what the others need.

        With ``tapped`` the values that detectors tap, instead of the next layer's inputs.
        """

    @abstractmethod
    def displaced(self, params: Any, trace: Any, x: Any, moves: Any, tapped: bool) -> Any:
        """The same, [K, B, ...], where displacements [K, B, ...] are added inside.

        ``x`` [K, B, ...] are the inputs; None if they are those of the trace.
        """

    @abstractmethod
    def pull(self, params: Any, trace: Any, slopes: Any) -> Any:
        """The gradient of one parameter set from that of the values that are moved."""

    def pullback(self, params: Any, trace: Any, g_z: Any) -> Any:
        raise ValueError(
            f"perturb must be weights, or activations inside, for a {self.name}: a gradient of the "
            "tapped values alone leads back to the last of its maps only"
        )


def one_set(params: Any) -> Any:
    """One parameter set as a stack of one, P = 1."""
    return tf.nest.map_structure(lambda w: w[tf.newaxis], params)


def first_step(drawn: Any) -> Any:
    """The noise of the first of the steps for which a layer's or block's ``draw_noise`` drew."""
    return tf.nest.map_structure(lambda array: array[0], drawn)


def everything(params: Any, taps: int) -> Any:
    """The `Layer.reach` of parameters that each move all tapped values."""
    whole = np.array([0, taps], np.int32)
    return tf.nest.map_structure(lambda w: whole.reshape([1] * np.ndim(w) + [2]), params)


def in_chunks(function: Callable[[np.ndarray], Any], x: np.ndarray, *, pad: bool) -> np.ndarray:
    """Apply a function of tensors to a data set [n, ...], some samples at a time.

    ``pad`` fills the last chunk with zeros, so that the function is compiled once.
    """
    outputs = np.empty(0)
    for start in range(0, len(x), CHUNK):
        chunk = x[start : start + CHUNK]
        missing = CHUNK - len(chunk) if pad else 0
        padded = np.pad(chunk, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        part = function(padded)[: len(chunk)].numpy()
        if start == 0:  # one array from the start, as chunks to join would take its size again
            outputs = np.empty([len(x), *part.shape[1:]], part.dtype)
        outputs[start : start + CHUNK] = part
    return outputs


def normal_weights(rng: np.random.Generator, shape: tuple[int, ...], variance: float) -> np.ndarray:
    return np.float32(math.sqrt(variance)) * rng.standard_normal(shape, np.float32)


def merge_last_axes(z: Any) -> Any:
    return tf.reshape(z, [*z.shape[:-2], z.shape[-2] * z.shape[-1]])
