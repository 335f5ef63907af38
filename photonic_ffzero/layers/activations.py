"""Nonlinearities between digital layers, real to real; and callables as black boxes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from meshes._tensorflow import tf


@dataclass(frozen=True)
class Activation(ABC):
    """A real function, entry by entry.

    Attributes:
        compilable: Whether XLA may compile it.
        differentiable: Whether TensorFlow can differentiate it.
    """

    compilable: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, z: Any) -> Any:
        """Map values of any shape."""


class Relu(Activation):
    r""":math:`\max(0, z)`."""

    def __call__(self, z: Any) -> Any:
        return tf.nn.relu(z)


class Tanh(Activation):
    r""":math:`\tanh z`."""

    def __call__(self, z: Any) -> Any:
        return tf.tanh(z)


class Gelu(Activation):
    r""":math:`z \, \Phi(z)`, with the normal distribution's :math:`\Phi`.

    Reference:
        Hendrycks and Gimpel, arXiv 1606.08415.
    """

    def __call__(self, z: Any) -> Any:
        return tf.nn.gelu(z)


class Sine(Activation):
    r""":math:`\sin z`."""

    def __call__(self, z: Any) -> Any:
        return tf.sin(z)


class Identity(Activation):
    """z: a network of linear layers, whose local losses still differ."""

    def __call__(self, z: Any) -> Any:
        return z


ACTIVATIONS: dict[str, type[Activation]] = {
    "relu": Relu,
    "tanh": Tanh,
    "gelu": Gelu,
    "sine": Sine,
    "identity": Identity,
}
