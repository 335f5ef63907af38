"""What a training takes on a chip: time and energy."""

from __future__ import annotations

from dataclasses import dataclass

from meshes.validation import number
from photonic_ffzero.model import Usage

__all__ = ["ChipRates"]


@dataclass(frozen=True, kw_only=True)
class ChipRates:
    r"""How fast a chip works and what it draws, one mesh at a time.

    .. math:: T = F / f + W t_w, \qquad E = P T

    for F forward passes and W phase writes: light crosses in no time, a pass lasts as long as its
    modulators and detectors take for one sample, and nothing is sent while phases settle.

    Attributes:
        symbol_rate: Samples a second f, Hz.
        write_time: Time in which the phases of one mesh are written and settle t_w, s.
        chip_power: Power of laser, heaters and electronics together P, W; None where the energy
            is not asked for.

    Raises:
        TypeError, ValueError: a value is not a number or out of range.
    """

    symbol_rate: float
    write_time: float
    chip_power: float | None = None

    def __post_init__(self) -> None:
        number("symbol_rate", self.symbol_rate, above=0)
        number("write_time", self.write_time, minimum=0)
        if self.chip_power is not None:
            number("chip_power", self.chip_power, minimum=0)

    def seconds(self, usage: Usage) -> float:
        """The time that a usage takes, s."""
        return usage.forward_passes / self.symbol_rate + usage.phase_writes * self.write_time

    def joules(self, usage: Usage) -> float | None:
        """The energy that a usage takes, J; None without a power."""
        return None if self.chip_power is None else self.chip_power * self.seconds(usage)
