"""Layers: what a block is made of.

A layer offers

* ``init(rng) -> params``: one parameter set, a named tuple of arrays;
* ``trainable``: the same structure of boolean arrays, false where an entry is no parameter;
* ``measure(params, x) -> z [P, B, taps]``: the tapped values a detector sees;
* ``transmit(params, x) -> x'``: what goes on to the next layer, which alone has to understand it;
* ``settles``: whether the layer holds statistics over its inputs; ``statistics(params, x)``: what
  each input adds to them [B, ...], under a stack of one parameter set; ``settled(params, added)``:
  one parameter set that holds them; ``evaluation``: the layer that uses them, as it is outside of
  training. Without statistics, false, the empty tuple, the same parameters and the layer itself;
* ``groups``: how many independent groups of parameters there are, each for a group of outputs;
  with more than one, every array leads with [P, groups];
* ``linear``: whether z is linear in the parameters;
* ``pullback(params, x, g_z)``: the gradient of one parameter set, from that of z [B, taps]; a
  layer that has none says why in an error;
* ``compilable``: whether XLA may compile the layer;
* ``cacheable``: whether what ``transmit`` gives can be kept for later: an array, and the same
  again for the same arguments;
* ``instrument``: whether it is a thing in a laboratory, which takes its time: it is sent nothing
  but what is asked for, and steps are taken one by one, so that they can be stopped and kept;
* ``draw(rng, steps, sets, batch, epochs) -> noise``: random numbers for some steps, each of P
  evaluations of a batch, on a chip of some age; and ``under(noise)``: the layer that uses those of
  one step. Without noise, the empty tuple and the layer itself.

Every array of ``params`` leads with P, the number of parameter sets evaluated side by side;
``x`` is [B, ...], shared by all sets, or [P, B, ...].
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, Self

import numpy as np

from meshes._tensorflow import tf


class Layer(Protocol):
    """The contract of every layer, see the module's text."""

    name: ClassVar[str]
    settles: ClassVar[bool]

    @property
    def taps(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def linear(self) -> bool: ...
    @property
    def compilable(self) -> bool: ...
    @property
    def cacheable(self) -> bool: ...
    @property
    def instrument(self) -> bool: ...
    @property
    def evaluation(self) -> Layer: ...
    @property
    def trainable(self) -> Any: ...
    def init(self, rng: np.random.Generator) -> Any: ...
    def measure(self, params: Any, x: Any) -> Any: ...
    def transmit(self, params: Any, x: Any) -> Any: ...
    def statistics(self, params: Any, x: Any) -> Any: ...
    def settled(self, params: Any, added: Any) -> Any: ...
    def pullback(self, params: Any, x: Any, g_z: Any) -> Any: ...
    def draw(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, epochs: int
    ) -> Any: ...
    def under(self, noise: Any) -> Layer: ...


class Noiseless:
    """What layers share that draw no noise here: numbers, unless they say otherwise."""

    cacheable: ClassVar[bool] = True
    instrument: ClassVar[bool] = False

    def draw(
        self, rng: np.random.Generator, steps: int, sets: int, batch: int, epochs: int
    ) -> tuple[()]:
        """Nothing."""
        return ()

    def under(self, noise: Any) -> Self:
        """The same."""
        return self


class Steady:
    """What layers share that hold no statistics."""

    settles: ClassVar[bool] = False

    @property
    def evaluation(self) -> Self:
        """The same."""
        return self

    def statistics(self, params: Any, x: Any) -> tuple[()]:
        """Nothing."""
        return ()

    def settled(self, params: Any, added: Any) -> Any:
        """The same."""
        return params


def normal_weights(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    return np.float32(scale) * rng.standard_normal(shape, np.float32)


def merge_last_axes(z: Any) -> Any:
    """The last two axes as one."""
    return tf.reshape(z, [*z.shape[:-2], z.shape[-2] * z.shape[-1]])
