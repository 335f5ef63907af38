"""Nonlinear elements between meshes: one frozen dataclass each, complex fields to complex fields.

A new one is a class here and a row in NONLINEARITIES. All its fields are numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from meshes._tensorflow import tf
from meshes.validation import choice, number

__all__ = ["NONLINEARITIES", "ElectroOptic", "Linear", "parse_nonlinearity"]


@dataclasses.dataclass(frozen=True)
class Linear:
    """No nonlinearity: f(E) = E."""

    def __call__(self, fields: Any) -> Any:
        """Return the fields [..., N] as they are."""
        return fields


@dataclasses.dataclass(frozen=True)
class ElectroOptic:
    """A modulator driven by the light it modulates.

        f(E) = sqrt(1 - alpha) exp(-i psi) cos(psi) E,    psi = (g |E|^2 + phi_b) / 2

    A tap takes the power share alpha to a detector, whose amplified signal and a bias set the
    phase between the arms of an interferometer that the remaining light passes. The paper's
    global factor i is left out: no intensity, here or behind later meshes, depends on it.

    Args:
        alpha: power share of the tap, in [0, 1].
        g: modulator phase per unit of input intensity, rad.
        phi_b: bias phase, rad. At pi the element is dark at low power.

    Raises:
        TypeError, ValueError: a parameter is not a finite number or alpha is out of range.

    Reference:
        Williamson et al., "Reprogrammable electro-optic nonlinear activation functions for
        optical neural networks", IEEE J. Sel. Top. Quantum Electron. 26 (2020) 7700412, arXiv
        1903.04579 (2019).
    """

    alpha: float = 0.1
    g: float = 0.05 * math.pi
    phi_b: float = math.pi

    def __post_init__(self) -> None:
        number("alpha", self.alpha, minimum=0.0, maximum=1.0)
        number("g", self.g)
        number("phi_b", self.phi_b)

    def __call__(self, fields: Any) -> Any:
        """Apply to complex fields [..., N]; array in, array out, and the same for tensors."""
        xp = tf.math if tf.is_tensor(fields) else np
        x = (xp.square(xp.real(fields)) + xp.square(xp.imag(fields))) * (0.5 * self.g)
        # Adding x to phi_b would lose a dim field's x next to pi: expand cos(psi) and sin(psi),
        # with a cos(phi_b / 2) that is exactly 0 at phi_b = pi.
        cos_b, sin_b = math.sin(0.5 * (math.pi - self.phi_b)), math.sin(0.5 * self.phi_b)
        cos_psi = xp.cos(x) * cos_b - xp.sin(x) * sin_b
        sin_psi = xp.sin(x) * cos_b + xp.cos(x) * sin_b
        amplitude = math.sqrt(1.0 - self.alpha) * cos_psi
        return fields * _complex(amplitude * cos_psi, -amplitude * sin_psi)


NONLINEARITIES: dict[str, Callable[..., Any]] = {
    "electro-optic": ElectroOptic,
    "linear": Linear,
}


def parse_nonlinearity(text: str) -> Any:
    """Build a nonlinearity from its name and parameters.

    Args:
        text: "name" or "name:parameter=value,...", e.g. "electro-optic:g=0.1,phi_b=1.57".

    Raises:
        ValueError: an unknown name or parameter, or a value that is none or out of range.
    """
    name, _, settings = text.partition(":")
    cls = NONLINEARITIES[choice("nonlinearity", name, NONLINEARITIES)]
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = (part.strip() for part in setting.partition("="))
        if key not in known:
            parameters = ", ".join(known) or "none"
            raise ValueError(f"{name} takes the parameters {parameters}; got {setting.strip()!r}")
        try:
            values[key] = number(key, value)
        except TypeError as error:
            raise ValueError(str(error)) from None
    return cls(**values)


def _complex(real: Any, imaginary: Any) -> Any:
    return tf.complex(real, imaginary) if tf.is_tensor(real) else real + 1j * imaginary
