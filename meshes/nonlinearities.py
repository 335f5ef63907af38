r"""Nonlinear elements between meshes: one frozen dataclass each, complex fields to complex fields.

A new one is a class here and a row in NONLINEARITIES; all its fields are numbers. Powers are in
units of \|E\|^2. BlackBox stands apart: it wraps a function, which no text can name.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from meshes._tensorflow import tf
from meshes.validation import number


class Nonlinearity(ABC):
    """An element that every port's field passes, each port on its own.

    Attributes:
        passive: no field leaves with more power than it came with.
        compilable: XLA can compile it.
        differentiable: a gradient passes through it.
    """

    passive: ClassVar[bool]
    compilable: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, fields: Any) -> Any:
        """Apply to complex fields [..., N]; array in, array out, and the same for tensors."""


@dataclass(frozen=True)
class Linear(Nonlinearity):
    """No nonlinearity: :math:`f(E) = E`."""

    passive: ClassVar[bool] = True

    def __call__(self, fields: Any) -> Any:
        return fields


@dataclass(frozen=True)
class ElectroOptic(Nonlinearity):
    r"""A modulator driven by the light it modulates.

    .. math::
        f(E) = \sqrt{1 - \alpha} \, e^{-i \psi} \cos(\psi) \, E, \qquad
        \psi = \frac{g |E|^2 + \phi_b}{2}

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
    passive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        number("alpha", self.alpha, minimum=0.0, maximum=1.0)
        number("g", self.g)
        number("phi_b", self.phi_b)

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
        r"""Build one from the parts it is made of.

        .. math::
            g = \frac{\pi \, \alpha \, R \, G \, P_1}{V_\pi}, \qquad
            \phi_b = \frac{\pi V_b}{V_\pi}

        The paper's phase gain (its equations 5 and 7) is in rad per watt; ``unit_power_w`` makes
        it rad per unit of \|E\|^2.

        Args:
            tap: power share of the tap alpha, in [0, 1].
            responsivity_a_per_w: current of the detector per power of light R, A/W.
            gain_ohm: voltage of the transimpedance amplifier per current G, ohm; negative if it
                inverts.
            v_pi_v: voltage for a phase of pi in the modulator V_pi, V.
            bias_v: voltage of the bias V_b, V.
            unit_power_w: power P_1 of a field with \|E\|^2 = 1, W.

        Raises:
            TypeError, ValueError: a parameter is not a finite number or out of range.
        """
        number("tap", tap, minimum=0.0, maximum=1.0)
        number("responsivity_a_per_w", responsivity_a_per_w, minimum=0.0)
        number("gain_ohm", gain_ohm)
        number("v_pi_v", v_pi_v, above=0.0)
        number("bias_v", bias_v)
        number("unit_power_w", unit_power_w, above=0.0)
        drive_v = tap * unit_power_w * responsivity_a_per_w * gain_ohm
        return cls(alpha=tap, g=math.pi * drive_v / v_pi_v, phi_b=math.pi * bias_v / v_pi_v)

    @property
    def tap(self) -> float:
        """The tap as the angle of a coupler, rad: alpha = sin^2(tap)."""
        return math.asin(math.sqrt(self.alpha))

    def __call__(self, fields: Any) -> Any:
        return electro_optic(fields, self.tap, self.g, self.phi_b)


@dataclass(frozen=True)
class ModulatorParts:
    """What an electro-optic modulator is made of; as it stands, at 1 mW, `ElectroOptic`'s default.

    Args:
        tap: power share of the tap, in [0, 1].
        responsivity: current of the detector per power of light, A/W.
        gain: voltage of the transimpedance amplifier per current, ohm; negative if it inverts.
        v_pi: voltage for a phase of pi in the modulator, V.
        bias: voltage of the bias, V.

    Raises:
        TypeError, ValueError: a value is not a finite number or out of range.

    Reference:
        Williamson et al., arXiv 1903.04579, section II.
    """

    tap: float = 0.1
    responsivity: float = 1.0
    gain: float = 5e3
    v_pi: float = 10.0
    bias: float = 10.0

    def __post_init__(self) -> None:
        self.at(1.0)

    def at(self, unit_power: float) -> ElectroOptic:
        r"""The modulator in units of \|E\|^2, see `ElectroOptic.from_physical`.

        Args:
            unit_power: power of a field with \|E\|^2 = 1, W.
        """
        return ElectroOptic.from_physical(
            tap=self.tap,
            responsivity_a_per_w=self.responsivity,
            gain_ohm=self.gain,
            v_pi_v=self.v_pi,
            bias_v=self.bias,
            unit_power_w=unit_power,
        )


def electro_optic(fields: Any, tap: Any, g: Any, phi_b: Any) -> Any:
    r"""Apply `ElectroOptic` with settings that may differ from port to port.

    .. math:: f(E) = \cos(t) \, e^{-i \psi} \cos(\psi) \, E, \qquad
        \psi = \tfrac{1}{2} (g |E|^2 + \varphi_b)

    Args:
        fields: Complex fields [..., N].
        tap: Angle t of the coupler that takes the power share sin^2(t), rad: a number, or
            a tensor that fits the fields; as for the next two.
        g: Modulator phase per unit of input intensity, rad.
        phi_b: Bias phase, rad.
    """
    xp, real, imag = quadratures(fields)
    own: Any = tf if tf.is_tensor(phi_b) else math
    x = (real * real + imag * imag) * (0.5 * g)
    # Adding x to phi_b would lose a dim field's x next to pi: expand cos(psi) and sin(psi), with a
    # cos(phi_b / 2) that is exactly 0 at phi_b = pi.
    cos_b, sin_b = own.sin(0.5 * (math.pi - phi_b)), own.sin(0.5 * phi_b)
    cos_psi = xp.cos(x) * cos_b - xp.sin(x) * sin_b
    sin_psi = xp.sin(x) * cos_b + xp.cos(x) * sin_b
    amplitude = own.cos(tap) * cos_psi
    return fields * from_quadratures(amplitude * cos_psi, -amplitude * sin_psi)


@dataclass(frozen=True)
class SaturableAbsorber(Nonlinearity):
    r"""A thin absorber that bright light bleaches, such as graphene.

    .. math:: f(E) = \sqrt{1 - l - \frac{d}{1 + |E|^2 / I_s}} \; E

    Args:
        modulation_depth: d, power share that only dim light loses, in [0, 1).
        nonsaturable_loss: l, power share that all light loses, in [0, 1); l + d is below 1.
        saturation_intensity: I_s, where half of the modulation depth is left, in units of
            \|E\|^2, above 0.

    Raises:
        TypeError, ValueError: a parameter is not a finite number or out of range.

    Reference:
        Bao et al., "Atomic-layer graphene as a saturable absorber for ultrafast pulsed lasers",
        Adv. Funct. Mater. 19 (2009) 3077, arXiv 0910.5820, for the law; Shen et al., "Deep
        learning with coherent nanophotonic circuits", Nature Photonics 11 (2017) 441, for the
        place behind a mesh.
    """

    modulation_depth: float = 0.9
    nonsaturable_loss: float = 0.0
    saturation_intensity: float = 1.0
    passive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        number("modulation_depth", self.modulation_depth, minimum=0.0)
        number("nonsaturable_loss", self.nonsaturable_loss, minimum=0.0)
        number("saturation_intensity", self.saturation_intensity, above=0.0)
        # At 1 the root would have no derivative in the dark.
        total = self.modulation_depth + self.nonsaturable_loss
        number("modulation_depth + nonsaturable_loss", total, below=1.0)

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        x = (real * real + imag * imag) / self.saturation_intensity
        # A sum of positive terms, which rounding cannot make negative.
        in_the_dark = 1.0 - (self.modulation_depth + self.nonsaturable_loss)
        amplitude = xp.sqrt(in_the_dark + self.modulation_depth * (x / (1.0 + x)))
        return from_quadratures(amplitude * real, amplitude * imag)


@dataclass(frozen=True)
class Kerr(Nonlinearity):
    r"""Self-phase modulation in a waveguide without loss.

    .. math:: f(E) = e^{i \phi_{nl} |E|^2} E

    Args:
        phi_nl: phase per unit of intensity, rad: the waveguide's gamma (rad / (W m)) times its
            length (m) times the power of a field with \|E\|^2 = 1 (W).

    Raises:
        TypeError, ValueError: phi_nl is not a finite number.

    Reference:
        Agrawal, "Nonlinear Fiber Optics", Academic Press, chapter "Self-phase modulation".
    """

    phi_nl: float = 1.0
    passive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        number("phi_nl", self.phi_nl)

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        phase = (real * real + imag * imag) * self.phi_nl
        return fields * from_quadratures(xp.cos(phase), xp.sin(phase))


@dataclass(frozen=True)
class ModReLU(Nonlinearity):
    r"""A dead zone in the modulus; the phase stays.

    .. math:: f(E) = \max(|E| + b, 0) \, \frac{E}{|E|}

    Args:
        bias: b, minus the radius of the dead zone, in units of \|E\|, at most 0. (A positive one
            would be gain, with a jump at E = 0.)

    Raises:
        TypeError, ValueError: bias is not a finite number or above 0.

    Reference:
        Arjovsky, Shah and Bengio, "Unitary evolution recurrent neural networks", ICML 2016,
        arXiv 1511.06464.
    """

    bias: float = -0.1
    passive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        number("bias", self.bias, maximum=0.0)

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        # The same without a division by a dark field: 1 - radius / max(|E|, radius). For a
        # radius of 0 the divisor has a floor, whose square (in the gradient) does not underflow.
        modulus = xp.maximum(xp.abs(fields), max(-self.bias, 1e-18))
        share = 1.0 + self.bias / modulus
        return from_quadratures(share * real, share * imag)


@dataclass(frozen=True)
class ZReLU(Nonlinearity):
    """Passes the first quadrant and nothing else: f(E) = E if Re E >= 0 and Im E >= 0, else 0.

    It depends on the phase of the light, not only on its power.

    Reference:
        Guberman, "On complex valued convolutional neural networks", arXiv 1602.09046 (2016).
    """

    passive: ClassVar[bool] = True

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        passes = (real >= 0.0) & (imag >= 0.0)
        return from_quadratures(xp.where(passes, real, 0.0), xp.where(passes, imag, 0.0))


@dataclass(frozen=True)
class CReLU(Nonlinearity):
    """Rectifies both quadratures: f(E) = max(Re E, 0) + i max(Im E, 0).

    It depends on the phase of the light, not only on its power.

    Reference:
        Trabelsi et al., "Deep complex networks", ICLR 2018, arXiv 1705.09792.
    """

    passive: ClassVar[bool] = True

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        return from_quadratures(xp.maximum(real, 0.0), xp.maximum(imag, 0.0))


@dataclass(frozen=True)
class Modulus(Nonlinearity):
    r"""Forgets the phase and keeps the power: :math:`f(E) = |E|`.

    Reference:
        Bruna and Mallat, "Invariant scattering convolution networks", IEEE Trans. Pattern Anal.
        Mach. Intell. 35 (2013) 1872, arXiv 1203.1513.
    """

    passive: ClassVar[bool] = True

    def __call__(self, fields: Any) -> Any:
        xp, _, imag = quadratures(fields)
        return from_quadratures(xp.abs(fields), xp.zeros_like(imag))


@dataclass(frozen=True)
class SquareLaw(Nonlinearity):
    r"""A detector whose signal is the amplitude of fresh light: :math:`f(E) = |E|^2`.

    A field of amplitude 1 leaves as it came, a brighter one with more power. The phase is
    forgotten.

    Reference:
        Saleh and Teich, "Fundamentals of Photonics", Wiley, chapter on photodetectors.
    """

    passive: ClassVar[bool] = False

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        return from_quadratures(real * real + imag * imag, xp.zeros_like(real))


@dataclass(frozen=True)
class BlackBox(Nonlinearity):
    """Any function of NumPy arrays, for instance a measured table or an instrument.

    Nothing is known about it: it counts as active, has no gradient, and XLA cannot compile it.

    Args:
        function: from fields [..., N] to an array of the same shape. Complex fields stay
            complex, whatever it returns; real values (of a digital layer) stay real, and only as
            arrays outside of TensorFlow may they become complex.

    Raises:
        TypeError: function cannot be called, or makes real tensors complex.
        ValueError: function returns another shape, or a gradient is asked for.
    """

    function: Callable[[np.ndarray], Any]
    passive: ClassVar[bool] = False
    compilable: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {self.function!r}")

    def __call__(self, fields: Any) -> Any:
        return self._through_tensorflow(fields) if tf.is_tensor(fields) else self._evaluate(fields)

    def _through_tensorflow(self, fields: Any) -> Any:
        @tf.custom_gradient
        def apply(x: Any) -> tuple[Any, Callable[..., Any]]:
            y = tf.ensure_shape(tf.numpy_function(self._evaluate_as_given, [x], x.dtype), x.shape)
            return y, self._refuse_gradient

        return apply(tf.convert_to_tensor(fields))

    def _evaluate(self, fields: np.ndarray) -> np.ndarray:
        # The function gets a copy: TensorFlow owns the memory of what it passes.
        result = np.asarray(self.function(np.array(fields)))
        if result.shape != np.shape(fields):
            raise ValueError(
                f"{self} must keep the shape {np.shape(fields)} of the fields, got {result.shape}"
            )
        kind = np.complex64 if np.iscomplexobj(result) else np.float32
        return result.astype(np.result_type(fields, kind), copy=False)

    def _evaluate_as_given(self, fields: np.ndarray) -> np.ndarray:
        """Evaluate where the type is known before: in a graph it cannot follow from the result."""
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


def quadratures(fields: Any) -> tuple[Any, Any, Any]:
    """The library that computes with the fields, and their real and imaginary parts."""
    if tf.is_tensor(fields):
        return tf, tf.math.real(fields), tf.math.imag(fields)
    return np, np.real(fields), np.imag(fields)


def from_quadratures(real: Any, imag: Any) -> Any:
    """Complex fields of their real and imaginary parts, arrays or tensors."""
    return tf.complex(real, imag) if tf.is_tensor(real) else real + 1j * imag


@dataclass(frozen=True)
class Amplifier:
    r"""An amplifier in every port, all with the same gain.

    .. math:: f(E) = \sqrt{G} \, E, \qquad \text{or} \quad
        f(E) = \sqrt{\frac{P}{\sum_p |E_p|^2}} \; E

    With a fixed gain bright samples stay bright and dim ones dim. Set to a level, it is a gain
    control that measures each sample's total power and brings all to the same; what is dark stays
    dark. It adds no noise: the spontaneous emission of a real one is left out.

    Args:
        gain: G, power out per power in, above 0; below 1 it attenuates.
        level: P, total power of every sample behind it, in units of \|E\|^2, above 0.

    Raises:
        TypeError, ValueError: not exactly one of the two is given, or it is no such number.

    Reference:
        Agrawal, "Fiber-Optic Communication Systems", Wiley, chapter "Optical amplifiers".
    """

    gain: float | None = None
    level: float | None = None

    def __post_init__(self) -> None:
        given = {k: v for k, v in vars(self).items() if v is not None}
        if len(given) != 1:
            raise ValueError(f"amplifier must have either a gain or a level, got {given or None}")
        for name, value in given.items():
            number(f"amplifier {name}", value, above=0)

    def __call__(self, fields: Any) -> Any:
        """Apply to complex fields [..., N]; array in, array out, and the same for tensors."""
        out = self._amplified(tf.convert_to_tensor(fields))
        return out if tf.is_tensor(fields) else out.numpy()

    def _amplified(self, fields: Any) -> Any:
        if self.gain is not None:
            return fields * tf.cast(self.gain**0.5, fields.dtype)
        # Relative to the brightest quadrature, as the squares of dim light underflow. It cancels
        # out, and so does its gradient.
        size = tf.maximum(tf.abs(tf.math.real(fields)), tf.abs(tf.math.imag(fields)))
        peak = tf.stop_gradient(tf.reduce_max(size, axis=-1, keepdims=True))
        unit = fields / tf.cast(tf.where(peak > 0, peak, 1), fields.dtype)
        real, imag = tf.math.real(unit), tf.math.imag(unit)
        power = tf.reduce_sum(real * real + imag * imag, axis=-1, keepdims=True)
        factor = tf.sqrt(self.level / tf.where(power > 0, power, tf.ones_like(power)))
        return unit * tf.cast(factor, fields.dtype)
