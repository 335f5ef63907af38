"""Optical amplifiers between meshes, which make up for what taps and modulators take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshes._tensorflow import tf
from meshes.validation import number

__all__ = ["Amplifier"]


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
