r"""Nonlinear elements between meshes, and amplifiers: complex fields to complex fields.

To add a nonlinearity, write a frozen dataclass of numbers and enter it in NONLINEARITIES.
Powers are in units of \|E\|^2.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np

from meshes._tensorflow import from_python, tf
from meshes.angles import reduced
from meshes.validation import check_fields, keep, number, number_field


class Nonlinearity(ABC):
    """An element that acts on the field of each port separately."""

    passive: ClassVar[bool] = True  # no field leaves with more power than it enters with
    compilable: ClassVar[bool] = True  # by XLA

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def __call__(self, fields: Any) -> Any:
        """Apply to complex fields [..., N]: an array returns an array, a tensor a tensor."""


@dataclass(frozen=True)
class Linear(Nonlinearity):
    """No nonlinearity: :math:`f(E) = E`."""

    def __call__(self, fields: Any) -> Any:
        return fields


@dataclass(frozen=True)
class ElectroOptic(Nonlinearity):
    r"""A modulator driven by the light that it modulates.

    .. math::
        f(E) = \sqrt{1 - \alpha} \, e^{-i \psi} \cos(\psi) \, E, \qquad
        \psi = \frac{g |E|^2 + \phi_b}{2}

    A tap sends the power share alpha to a detector. Its signal g \|E\|^2 and a bias phi_b (rad) set
    the phase between the arms of an interferometer, which the remaining light passes; at a bias of
    pi it is dark at low power. The paper's global factor i is left out.

    Reference: Williamson et al., "Reprogrammable electro-optic nonlinear activation functions for
    optical neural networks", IEEE J. Sel. Top. Quantum Electron. 26 (2020), arXiv 1903.04579.
    """

    alpha: float = number_field(0.1, minimum=0.0, maximum=1.0)
    g: float = number_field(0.05 * math.pi)
    phi_b: float = number_field(math.pi)

    @classmethod
    def from_physical(
        cls,
        *,
        tap: float,
        responsivity_a_per_w: float,
        gain_ohm: float,
        v_pi_v: float,
        bias_v: float,
        unit_power_w: float,
    ) -> ElectroOptic:
        """The modulator with these `ModulatorParts`, whose units the arguments name."""
        number("responsivity_a_per_w", responsivity_a_per_w, minimum=0.0)
        number("gain_ohm", gain_ohm)
        number("v_pi_v", v_pi_v, above=0.0)
        number("bias_v", bias_v)
        number("unit_power_w", unit_power_w, above=0.0)
        parts = ModulatorParts(tap, responsivity_a_per_w, gain_ohm, v_pi_v, bias_v)
        return parts.at(unit_power_w)

    @property
    def tap(self) -> Any:
        """The tap as the angle of a coupler, rad: alpha = sin^2(tap)."""
        if tf.is_tensor(self.alpha):  # the slope has no limit at 0 and 1
            return tf.asin(tf.sqrt(tf.clip_by_value(self.alpha, 1e-6, 1 - 1e-6)))
        return math.asin(math.sqrt(self.alpha))

    def __call__(self, fields: Any) -> Any:
        return electro_optic(fields, self.tap, self.g, self.phi_b)


@dataclass(frozen=True)
class ModulatorParts:
    r"""The parts of an electro-optic modulator; by default, at 1 mW, those of `ElectroOptic`.

    .. math::
        g = \frac{\pi \, \alpha \, R \, G \, P_1}{V_\pi}, \qquad
        \phi_b = \frac{\pi V_b}{V_\pi}

    The tap takes the power share alpha; the detector has the responsivity R (A/W), its amplifier
    the gain G (ohm, negative if it inverts); V_pi (V) makes a phase of pi; the bias is V_b (V).

    Reference: Williamson et al., arXiv 1903.04579, equations 5 and 7, with a gain per watt.
    """

    tap: float = number_field(0.1, minimum=0.0, maximum=1.0)
    responsivity: float = number_field(1.0, minimum=0.0)
    gain: float = number_field(5e3)
    v_pi: float = number_field(10.0, above=0.0)
    bias: float = number_field(10.0)

    def __post_init__(self) -> None:
        check_fields(self)

    def at(self, unit_power: float) -> ElectroOptic:
        r"""The modulator where a field with \|E\|^2 = 1 has the power P_1, ``unit_power``, W."""
        number("unit_power", unit_power, above=0.0)
        drive_v = self.tap * unit_power * self.responsivity * self.gain
        g, phi_b = (math.pi * voltage / self.v_pi for voltage in (drive_v, self.bias))
        return ElectroOptic(self.tap, g, phi_b)


def electro_optic(fields: Any, tap: Any, g: Any, phi_b: Any) -> Any:
    """Apply `ElectroOptic` to complex fields [..., N].

    Its settings are numbers, or tensors that broadcast with the fields; ``tap`` is the angle of the
    coupler that taps the power share alpha = sin^2(tap), rad.
    """
    xp, real, imag = quadratures(fields)
    trigonometry: Any = tf if tf.is_tensor(phi_b) else math
    phi_b = reduced(phi_b, tf) if tf.is_tensor(phi_b) else float(reduced(phi_b))
    x = (real * real + imag * imag) * (0.5 * g)
    # Adding x to phi_b would lose the x of a dim field next to pi. Therefore expand cos(psi) and
    # sin(psi), with a cos(phi_b / 2) that is exactly 0 at phi_b = pi.
    cos_b = trigonometry.sin(0.5 * (math.pi - phi_b))
    sin_b = trigonometry.sin(0.5 * phi_b)
    cos_psi = xp.cos(x) * cos_b - xp.sin(x) * sin_b
    sin_psi = xp.sin(x) * cos_b + xp.cos(x) * sin_b
    amplitude = trigonometry.cos(tap) * cos_psi
    return _times(fields, from_quadratures(amplitude * cos_psi, -amplitude * sin_psi))


@dataclass(frozen=True)
class SaturableAbsorber(Nonlinearity):
    r"""A thin absorber that bright light bleaches, such as graphene.

    .. math:: f(E) = \sqrt{1 - l - \frac{d}{1 + |E|^2 / I_s}} \; E

    Dim light alone loses the power share d, the modulation depth, all light the share l, and
    l + d < 1. At the saturation intensity I_s half of d is left.

    References: Bao et al., "Atomic-layer graphene as a saturable absorber for ultrafast pulsed
    lasers", Adv. Funct. Mater. 19 (2009) 3077, arXiv 0910.5820 (the law); Shen et al., "Deep
    learning with coherent nanophotonic circuits", Nature Photonics 11 (2017) 441 (its use).
    """

    modulation_depth: float = number_field(0.9, minimum=0.0)
    nonsaturable_loss: float = number_field(0.0, minimum=0.0)
    saturation_intensity: float = number_field(1.0, above=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        # At a total of 1 the square root would have no derivative at E = 0.
        total = self.modulation_depth + self.nonsaturable_loss
        number("modulation_depth + nonsaturable_loss", total, below=1.0)

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        x = (real * real + imag * imag) / self.saturation_intensity
        # A sum of positive terms: rounding cannot make it negative.
        in_the_dark = 1.0 - (self.modulation_depth + self.nonsaturable_loss)
        if tf.is_tensor(in_the_dark):  # two parameters that are fitted know no common limit
            in_the_dark = tf.maximum(in_the_dark, 1e-3)
        amplitude = xp.sqrt(in_the_dark + self.modulation_depth * (x / (1.0 + x)))
        return from_quadratures(amplitude * real, amplitude * imag)


@dataclass(frozen=True)
class Kerr(Nonlinearity):
    r"""Self-phase modulation in a lossless waveguide.

    .. math:: f(E) = e^{i \phi_{nl} |E|^2} E

    The phase per unit of intensity, phi_nl, is the waveguide's gamma (rad / (W m)) times its length
    (m) times the power of a field with \|E\|^2 = 1 (W).

    Reference: Agrawal, "Nonlinear Fiber Optics", Academic Press, chapter "Self-phase modulation".
    """

    phi_nl: float = number_field(1.0)

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        phase = (real * real + imag * imag) * self.phi_nl
        return _times(fields, from_quadratures(xp.cos(phase), xp.sin(phase)))


@dataclass(frozen=True)
class ModReLU(Nonlinearity):
    r"""A dead zone in the modulus; the phase is kept.

    .. math:: f(E) = \max(|E| + b, 0) \, \frac{E}{|E|}

    The bias b is minus the zone's radius. (A positive one would be a gain, with a jump at E = 0.)

    Reference: Arjovsky et al., "Unitary evolution recurrent neural networks", arXiv 1511.06464.
    """

    bias: float = number_field(-0.1, maximum=0.0)

    def __call__(self, fields: Any) -> Any:
        fields = as_floating(fields)
        xp, real, imag = quadratures(fields)
        # 1 - radius / max(|E|, radius) is the same without dividing by a dark field. For a radius
        # of 0 the divisor has a floor whose square (in the gradient) does not underflow.
        radius = (tf.maximum if tf.is_tensor(self.bias) else max)(-self.bias, 1e-18)
        modulus = xp.maximum(xp.abs(fields), radius)
        share = 1.0 + self.bias / modulus
        return from_quadratures(share * real, share * imag)


@dataclass(frozen=True)
class ZReLU(Nonlinearity):
    """Passes the first quadrant only: f(E) = E if Re E >= 0 and Im E >= 0, else 0.

    Reference: Guberman, "On complex valued convolutional neural networks", arXiv 1602.09046.
    """

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        passes = (real >= 0.0) & (imag >= 0.0)
        return from_quadratures(xp.where(passes, real, 0.0), xp.where(passes, imag, 0.0))


@dataclass(frozen=True)
class CReLU(Nonlinearity):
    """Rectifies both quadratures: f(E) = max(Re E, 0) + i max(Im E, 0).

    Reference: Trabelsi et al., "Deep complex networks", ICLR 2018, arXiv 1705.09792.
    """

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        return from_quadratures(xp.maximum(real, 0.0), xp.maximum(imag, 0.0))


@dataclass(frozen=True)
class Modulus(Nonlinearity):
    r"""Discards the phase and keeps the power: :math:`f(E) = |E|`.

    Reference: Bruna and Mallat, "Invariant scattering convolution networks", arXiv 1203.1513.
    """

    def __call__(self, fields: Any) -> Any:
        fields = as_floating(fields)
        xp, _, imag = quadratures(fields)
        return from_quadratures(xp.abs(fields), xp.zeros_like(imag))


@dataclass(frozen=True)
class SquareLaw(Nonlinearity):
    r"""A detector whose signal sets the amplitude of new light: :math:`f(E) = |E|^2`.

    Fields of an amplitude above 1 gain power.
    Reference: Saleh and Teich, "Fundamentals of Photonics", Wiley, chapter on photodetectors.
    """

    passive: ClassVar[bool] = False

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        return from_quadratures(real * real + imag * imag, xp.zeros_like(real))


@dataclass(frozen=True)
class BlackBox(Nonlinearity):
    """Any function of NumPy arrays [..., N] that keeps their shape, such as an instrument.

    As nothing is known about the function, it counts as active, has no gradient, and XLA cannot
    compile it. Real values (in a digital layer) stay real; only outside of TensorFlow may the
    function make complex fields of them.
    """

    function: Callable[[np.ndarray], Any]
    passive: ClassVar[bool] = False
    compilable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {self.function!r}")

    def __call__(self, fields: Any) -> Any:
        if not tf.is_tensor(fields):
            return self._evaluate(np.asarray(fields))

        @tf.custom_gradient
        def apply(x: Any) -> tuple[Any, Callable[..., Any]]:
            y = from_python(str(self), self._evaluate_same_type, [x], x.dtype)
            return tf.ensure_shape(y, x.shape), self._refuse_gradient

        return apply(tf.convert_to_tensor(fields))

    def _evaluate(self, fields: np.ndarray) -> np.ndarray:
        # The function may write to its argument, so pass a copy: TensorFlow owns the original.
        result = np.asarray(self.function(np.array(fields)))
        if result.shape != np.shape(fields):
            raise ValueError(
                f"{self} must keep the shape {np.shape(fields)} of the fields, got {result.shape}"
            )
        kind = np.complex64 if np.iscomplexobj(result) else np.float32
        return result.astype(np.result_type(fields, kind), copy=False)

    def _evaluate_same_type(self, fields: np.ndarray) -> np.ndarray:
        # A graph fixes the type of the result before the function is called.
        result = self._evaluate(fields)
        if result.dtype != fields.dtype:
            raise TypeError(
                f"{self} must return real numbers for real ones, {fields.dtype}, got {result.dtype}"
            )
        return result

    def _refuse_gradient(self, *upstream: Any) -> Any:
        raise ValueError(
            f"{self} has no gradient; train with directional derivatives instead of automatic "
            "differentiation"
        )


NONLINEARITIES: dict[str, type[Nonlinearity]] = {
    "electro-optic": ElectroOptic,
    "saturable-absorber": SaturableAbsorber,
    "kerr": Kerr,
    "modrelu": ModReLU,
    "zrelu": ZReLU,
    "crelu": CReLU,
    "modulus": Modulus,
    "square-law": SquareLaw,
    "linear": Linear,
}


class Parameter(NamedTuple):
    """A number that describes an element, and how a fit may change it."""

    value: float
    scale: float  # by how much elements of one kind differ
    least: float
    most: float


SPREAD = 0.05
"""Expected relative deviation of an element's parameters from their nominal values."""


def parameters_of(element: Nonlinearity | Amplifier) -> dict[str, Parameter]:
    """The numbers that describe an element, by name; none of a black box."""
    result = {}
    for item in fields(cast(Any, element)):
        limits, value = item.metadata.get("limits"), getattr(element, item.name)
        if limits is None or value is None:
            continue
        least, most = limits.get("minimum", -math.inf), limits.get("maximum", math.inf)
        if "above" in limits:  # an open limit is approached to a hundredth of the distance
            least = limits["above"] + 0.01 * (value - limits["above"])
        scale = SPREAD * max(abs(value), abs(cast(float, item.default or 0.0)))
        result[item.name] = Parameter(value, scale, least, most)
    return result


def with_parameters(element: Any, values: Mapping[str, Any]) -> Any:
    """The same element with other numbers, which may be tensors and are not checked."""
    changed = copy.copy(element)
    keep(changed, **values)
    return changed


def spec_of_element(element: Any, registry: Mapping[str, Any]) -> str | None:
    """``NAME:key=value,...``, which gives an element of a registry again; None for another one."""
    name = next((name for name, cls in registry.items() if type(element) is cls), None)
    if name is None:
        return None
    values = [f"{item.name}={_plain(getattr(element, item.name))!r}" for item in fields(element)]
    return ":".join(filter(None, [name, ",".join(values)]))


def _plain(value: Any) -> Any:
    """A NumPy number as Python's, which is written as it is read."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def quadratures(fields: Any) -> tuple[Any, Any, Any]:
    """NumPy or TensorFlow, whichever the fields belong to, and their real and imaginary parts."""
    fields = as_floating(fields)
    if tf.is_tensor(fields):
        return tf, tf.math.real(fields), tf.math.imag(fields)
    return np, np.real(fields), np.imag(fields)


def as_floating(fields: Any) -> Any:
    """Fields as they are, but whole numbers as floats: their squares would overflow."""
    if tf.is_tensor(fields):
        exact = fields.dtype.is_integer or fields.dtype.is_bool
        return tf.cast(fields, tf.float32) if exact else fields
    fields = np.asarray(fields)
    exact = fields.dtype.kind in "biu"
    return fields.astype(np.result_type(fields, np.float32)) if exact else fields


def _times(fields: Any, factor: Any) -> Any:
    """Fields, which may be real, times complex numbers; TensorFlow multiplies equal types alone."""
    return tf.cast(fields, factor.dtype) * factor if tf.is_tensor(factor) else fields * factor


def from_quadratures(real: Any, imag: Any) -> Any:
    """Complex fields from real and imaginary parts, arrays or tensors."""
    return tf.complex(real, imag) if tf.is_tensor(real) else real + 1j * imag


@dataclass(frozen=True)
class Amplifier:
    r"""An amplifier in every port, all with the same gain.

    .. math:: f(E) = \sqrt{G} \, E, \qquad \text{or} \quad
        f(E) = \sqrt{\frac{P}{\sum_p |E_p|^2}} \; E

    Set either a gain G of power or a level P. A level is an automatic gain control: it brings the
    total power of every sample to P; dark samples stay dark. Spontaneous emission is not modelled,
    so an amplifier adds no noise.

    Reference: Agrawal, "Fiber-Optic Communication Systems", Wiley, chapter "Optical amplifiers".
    """

    gain: float | None = number_field(None, above=0)
    level: float | None = number_field(None, above=0)

    def __post_init__(self) -> None:
        settings = {name: value for name, value in vars(self).items() if value is not None}
        if len(settings) != 1:
            raise ValueError(
                f"amplifier must have either a gain or a level, got {settings or None}"
            )
        for name, value in settings.items():
            keep(self, **{name: number(f"amplifier {name}", value, above=0)})

    def __call__(self, fields: Any) -> Any:
        """Apply to complex fields [..., N]: an array returns an array, a tensor a tensor."""
        out = self._amplified(tf.convert_to_tensor(as_floating(fields)))
        return out if tf.is_tensor(fields) else out.numpy()

    def _amplified(self, fields: Any) -> Any:
        if self.gain is not None:
            factor = tf.constant(self.gain**0.5, fields.dtype.real_dtype)
            return fields * tf.cast(factor, fields.dtype)
        # Divide by the brightest quadrature first, as the squares of dim light underflow. It
        # cancels out, and so does its gradient.
        size = tf.maximum(tf.abs(tf.math.real(fields)), tf.abs(tf.math.imag(fields)))
        peak = tf.stop_gradient(tf.reduce_max(size, axis=-1, keepdims=True))
        unit = fields / tf.cast(tf.where(peak > 0, peak, 1), fields.dtype)
        real, imag = tf.math.real(unit), tf.math.imag(unit)
        power = tf.reduce_sum(real * real + imag * imag, axis=-1, keepdims=True)
        factor = tf.sqrt(self.level / tf.where(power > 0, power, tf.ones_like(power)))
        return unit * tf.cast(factor, fields.dtype)
