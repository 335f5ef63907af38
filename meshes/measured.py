"""Nonlinear elements that were measured: tables in place of equations."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meshes._tensorflow import tf
from meshes.files import DataError, reading
from meshes.nonlinearities import Nonlinearity, from_quadratures, quadratures
from meshes.tables import read_table
from meshes.validation import keep, number, quoted, text

COLUMNS = ("power", "amplitude", "phase")
_MOST_ROWS, _MOST_BYTES = 10_000, 2**20
_DARK = 1e-18  # below this modulus, whose square is still a number, a field counts as dark


@dataclass(frozen=True)
class Table(Nonlinearity):
    r"""A measured element: its output amplitude and phase over the input power.

    .. math:: f(E) = a(r) \, e^{i \varphi(r)} \, E / r, \qquad r = \min(|E|, \sqrt{P})

    Both curves are monotone cubics in the input's amplitude between the rows, so that they have
    slopes everywhere and no waves that the measurement does not have. Towards the dark, the
    amplitude falls to 0 and the phase stays. Above the highest power P of the table, the output
    is that at P. Phases that jump by more than pi are unwrapped.

    Attributes:
        name: The file that it was read from, without its folders.
        power: Input powers of the rows, units of \|E\|^2, increasing.
        amplitude: Output amplitudes \|f(E)\|.
        phase: Phases of the output relative to the input, rad.

    Reference: Fritsch and Butland, "A method for constructing local monotone piecewise cubic
    interpolants", SIAM J. Sci. Stat. Comput. 5 (1984) 300.
    """

    name: str
    power: tuple[float, ...]
    amplitude: tuple[float, ...]
    phase: tuple[float, ...]

    def __post_init__(self) -> None:
        keep(self, name=text("name", self.name))
        for column in COLUMNS:
            values = [number(f"{self.name}: {column}", v) for v in getattr(self, column)]
            keep(self, **{column: tuple(values)})
        rows = len(self.power)
        if not 2 <= rows <= _MOST_ROWS or {len(self.amplitude), len(self.phase)} != {rows}:
            raise ValueError(
                f"{self.name}: a table must have 2 to {_MOST_ROWS} rows, power, amplitude and "
                f"phase in each, got {rows}, {len(self.amplitude)} and {len(self.phase)}"
            )
        self._check_rows()
        gain = np.square(self.amplitude) > (1 + 1e-9) * np.array(self.power)
        keep(self, passive=not gain.any())

    def _check_rows(self) -> None:
        powers = (-math.inf, *self.power)
        rows = zip(powers, self.power, self.amplitude, strict=False)
        for index, (before, power, amplitude) in enumerate(rows, start=1):
            where = f"{self.name}, row {index}: "
            number(f"{where}power", power, minimum=0)
            number(f"{where}amplitude", amplitude, minimum=0)
            if power <= before:
                raise ValueError(f"{where}power must increase, got {power:g} after {before:g}")
            if power == 0 < amplitude:
                raise ValueError(f"{where}amplitude must be 0 at power 0, got {amplitude:g}")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Table:
        """Read a CSV file with the header ``power,amplitude,phase``; errors are a `DataError`."""
        rows = read_table(path, "a table", _MOST_BYTES, skipinitialspace=True)
        with reading(path, "a table"):
            header = tuple(name.strip().lower() for name in rows.fieldnames or ())
            rows.fieldnames = list(header)
            if header != COLUMNS:
                line = quoted(",".join(header))
                raise DataError(f"{path}: the header must be {','.join(COLUMNS)}, found {line}")
            cells = [_numbers(path, index, row) for index, row in enumerate(rows, start=1)]
        try:
            return cls(Path(path).name, *zip(*cells, strict=True))
        except (TypeError, ValueError) as error:
            text = f"a table must have rows, found none in {path}" if not cells else str(error)
            raise DataError(text) from None

    def as_json(self) -> dict[str, Any]:
        """The table as a JSON object, from which `from_json` restores it."""
        return {"table": self.name} | {name: list(getattr(self, name)) for name in COLUMNS}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Table:
        if set(content) != {"table", *COLUMNS}:
            raise ValueError(f"a table holds table, {', '.join(COLUMNS)}, got {quoted(content)}")
        columns = [content[name] for name in COLUMNS]
        if not all(
            isinstance(column, Sequence) and len(column) <= _MOST_ROWS for column in columns
        ):
            raise ValueError(f"a table holds lists of at most {_MOST_ROWS} numbers")
        return cls(str(content["table"]), *map(tuple, columns))

    @property
    def highest(self) -> float:
        r"""The highest input power of the table, units of \|E\|^2."""
        return self.power[-1]

    def __str__(self) -> str:
        return f"table:{self.name}"

    def __repr__(self) -> str:
        lowest, highest = self.power[0], self.power[-1]
        return f"Table({self.name}: {len(self.power)} rows, |E|^2 from {lowest:g} to {highest:g})"

    @cached_property
    def _curves(self) -> _Curves:
        from scipy.interpolate import PchipInterpolator

        knots, amplitude = np.sqrt(self.power), np.array(self.amplitude)
        phase = np.unwrap(self.phase)
        if knots[0] > 0:
            knots, amplitude = np.append(0, knots), np.append(0, amplitude)
            phase = np.append(phase[0], phase)
        pieces = (PchipInterpolator(knots, values).c[::-1] for values in (amplitude, phase))
        return _Curves(knots, *pieces)

    def __call__(self, fields: Any) -> Any:
        xp, real, imag = quadratures(fields)
        curves = _Curves(*(array.astype(_numpy_type(real)) for array in self._curves))
        modulus = xp.sqrt(xp.maximum(real * real + imag * imag, _DARK**2))
        radius = xp.minimum(modulus, curves.knots[-1])
        piece = _pieces(xp, curves.knots, radius)
        offset = radius - _take(xp, curves.knots, piece)
        amplitude, phase = (
            [_take(xp, row, piece) for row in rows] for rows in (curves.amplitude, curves.phase)
        )
        # a(r) / r: in the first piece, which begins at a = r = 0, the r cancels.
        slope = amplitude[1] + offset * (amplitude[2] + offset * amplitude[3])
        share = (amplitude[0] + offset * slope) / xp.maximum(modulus, curves.knots[1])
        share = xp.where(modulus < curves.knots[1], slope, share)
        angle = phase[0] + offset * (phase[1] + offset * (phase[2] + offset * phase[3]))
        return fields * from_quadratures(share * xp.cos(angle), share * xp.sin(angle))


class _Curves(NamedTuple):
    """Cubics between the knots r_0 = 0, r_1, ...: sum_k c_k (r - r_i)^k in the piece i.

    Attributes:
        knots: Amplitudes of the input [R].
        amplitude: Coefficients c_0 to c_3 of the output's amplitude [4, R - 1].
        phase: The same of its phase, rad.
    """

    knots: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray


def _numpy_type(real: Any) -> Any:
    return real.dtype.as_numpy_dtype if tf.is_tensor(real) else np.asarray(real).dtype


def _pieces(xp: Any, knots: np.ndarray, radius: Any) -> Any:
    """The piece of every radius [...]."""
    inner = knots[1:-1]
    if xp is np:
        return np.searchsorted(inner, radius, side="right")
    flat = tf.reshape(radius, [-1])
    return tf.reshape(tf.searchsorted(tf.constant(inner), flat, side="right"), tf.shape(radius))


def _take(xp: Any, row: np.ndarray, piece: Any) -> Any:
    return row[piece] if xp is np else tf.gather(tf.constant(row), piece)


def _numbers(path: Any, index: int, row: Mapping[Any, Any]) -> list[float]:
    """The cells of a row as numbers."""
    try:
        return [number(f"{name} ", float(row[name])) for name in COLUMNS]
    except ValueError:
        cells = quoted(",".join(row[name] for name in COLUMNS))
        raise DataError(
            f"{path}, row {index}: cells must be finite numbers, found {cells}"
        ) from None
