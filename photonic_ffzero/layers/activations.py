"""Nonlinearities between digital layers: real functions, entry by entry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from meshes._tensorflow import tf


@dataclass(frozen=True)
class Activation(ABC):
    """A real function that XLA compiles."""

    compilable: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, z: Any) -> Any:
        """Map values of any shape."""


class Relu(Activation):
    r""":math:`\max(z, 0)`."""

    def __call__(self, z: Any) -> Any:
        return tf.nn.relu(z)


class Tanh(Activation):
    r""":math:`\tanh z`."""

    def __call__(self, z: Any) -> Any:
        return tf.tanh(z)


class Gelu(Activation):
    r""":math:`z \, \Phi(z)` with the normal distribution's :math:`\Phi` (arXiv 1606.08415)."""

    def __call__(self, z: Any) -> Any:
        return tf.nn.gelu(z)


class Sine(Activation):
    r""":math:`\sin z`."""

    def __call__(self, z: Any) -> Any:
        return tf.sin(z)


class Identity(Activation):
    """No nonlinearity."""

    def __call__(self, z: Any) -> Any:
        return z


ACTIVATIONS: dict[str, type[Activation]] = {
    "relu": Relu,
    "tanh": Tanh,
    "gelu": Gelu,
    "sine": Sine,
    "identity": Identity,
}
