r"""S-parameters of measured components, from Touchstone files (version 1) and Lumerical's."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meshes.angles import wrapped
from meshes.files import DataError, read_text, write_bytes
from meshes.validation import choice, closest, number

_LONGEST = 2**26  # bytes of a file
_LIGHT = 299792458.0  # m / s


@dataclass(frozen=True, eq=False)
class SParameters:
    """S-parameters of N ports over F frequencies, in rising order.

    Attributes:
        frequencies: [F], Hz.
        matrices: [F, N, N], complex; entry (i, j) is the amplitude that port i gets from port j.
    """

    frequencies: np.ndarray
    matrices: np.ndarray

    def __post_init__(self) -> None:
        shapes = np.shape(self.frequencies), np.shape(self.matrices)
        count, ports = np.size(self.frequencies), shapes[1][-1:]
        if not count or shapes != ((count,), (count, *ports, *ports)):
            raise ValueError(
                "frequencies and matrices must be [F] and [F, N, N], F at least 1, got shapes "
                "{} and {}".format(*shapes)
            )
        _check_rising(self.frequencies)
        if not np.isfinite(self.matrices).all():
            raise ValueError("matrices must be finite, got inf or nan")

    def at(self, wavelength_nm: float) -> np.ndarray:
        """The matrix [N, N] at one wavelength.

        Between the measured frequencies the magnitude and the phase of every entry are linear. The
        phase turns by less than pi, which takes a grid fine enough for the component's delay.
        """
        frequency = _LIGHT / number("wavelength_nm", wavelength_nm, above=0) * 1e9
        low, high = self.frequencies[[0, -1]]
        if not low * (1 - 1e-9) <= frequency <= high * (1 + 1e-9):
            raise ValueError(
                f"wavelength_nm must be from {_LIGHT / high * 1e9:.6g} to "
                f"{_LIGHT / low * 1e9:.6g}, got {wavelength_nm:g}"
            )
        after = int(np.clip(np.searchsorted(self.frequencies, frequency), 1, None))
        if after >= len(self.frequencies):
            return self.matrices[-1]
        start, end = self.frequencies[after - 1 : after + 1]
        share = np.clip((frequency - start) / (end - start), 0, 1)
        return _between(self.matrices[after - 1], self.matrices[after], share)


def _between(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    """Complex numbers between others: a chord of their circle would lose power."""
    size = (1 - share) * np.abs(start) + share * np.abs(end)
    turn = np.angle(end * np.conj(start))  # 0 where one of them is 0
    first = np.where(start == 0, end, start)
    return size * np.exp(1j * (np.angle(first) + share * turn))


def linear_layer(
    matrix: Any, inputs: Sequence[int] | None = None, outputs: Sequence[int] | None = None
) -> np.ndarray:
    """The matrix A [K, N] of a measured block, with out = in @ A for row vectors of fields.

    Args:
        matrix: S-parameters at one wavelength.
        inputs: its K ports that light enters; the first half if None.
        outputs: its N ports that light leaves; the second half if None.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"matrix must be [N, N] with N at least 2, got shape {matrix.shape}")
    half = len(matrix) // 2
    inputs = range(half) if inputs is None else inputs
    outputs = range(half, len(matrix)) if outputs is None else outputs
    for name, ports in (("inputs", inputs), ("outputs", outputs)):
        known = all(0 <= port < len(matrix) for port in ports)
        if not known or len(set(ports)) != len(ports) or not len(ports):
            raise ValueError(
                f"{name} must be different ports from 0 to {len(matrix) - 1}, got {list(ports)}"
            )
    return matrix[np.ix_(outputs, inputs)].T


class TwoByTwo(NamedTuple):
    r"""A measured component of two inputs and two outputs, in the terms of a mesh.

    Its matrix is that of a coupler or of an interferometer between phases and a loss:
    out = in @ (P M Q), with P = diag(e^{i before}, 1), Q = diag(e^{i after}, 1) e^{i common}.
    """

    error: float  # angle error of a coupler that splits so, rad
    theta: float  # internal phase of an interferometer that splits so, rad
    before: float  # phase at the upper input, rad, if it is taken for a coupler
    after: float  # phase at the upper output, rad, if it is taken for a coupler
    common: float  # phase of both outputs, rad, if it is taken for a coupler
    loss: float  # mean loss of power, dB
    misfit: float  # largest error of an entry of the matrix, divided by its mean amplitude


def two_by_two(layer: Any) -> TwoByTwo:
    """What a measured coupler or interferometer is, from its `linear_layer` [2, 2].

    A coupler sends the share sin^2(pi/4 - error) of the power across, an ideal interferometer
    cos^2(theta/2).
    """
    layer = np.asarray(layer, np.complex128)
    if layer.shape != (2, 2) or not np.isfinite(layer).all() or not np.abs(layer).sum():
        raise ValueError(f"layer must be [2, 2], finite and not dark, got shape {layer.shape}")
    amplitude = float(np.linalg.norm(layer)) / np.sqrt(2)
    squares = np.abs(layer) ** 2
    angle = np.arctan2(*np.sqrt([squares[0, 1] + squares[1, 0], squares[0, 0] + squares[1, 1]]))
    cos, sin = np.cos(angle), 1j * np.sin(angle)
    lag = np.angle(layer) - np.array([[0, np.pi / 2], [np.pi / 2, 0]])
    # lag = [[before + after, before], [after, 0]] + common; each pair that is dark says nothing.
    if cos >= abs(sin):
        common, turned = lag[1, 1], lag[0, 0] - lag[1, 1]
        before = (lag[0, 1] - common) if abs(sin) > 1e-9 else 0.0
        after = turned - before
    else:
        before_common, after_common = lag[0, 1], lag[1, 0]
        common = lag[1, 1] if cos > 1e-9 else 0.0
        before, after = before_common - common, after_common - common
    ideal = np.array([[cos, sin], [sin, cos]])
    left, right = np.exp([1j * before, 0]), np.exp([1j * after, 0]) * np.exp(1j * common)
    misfit = np.abs(layer / amplitude - left[:, None] * ideal * right).max()
    loss = -20 * np.log10(amplitude) + 0.0
    before, after, common = wrapped(np.array([before, after, common])).tolist()
    error, theta = float(np.pi / 4 - angle), float(np.pi - 2 * angle)
    return TwoByTwo(error, theta, before, after, common, float(loss), float(misfit))


def read_sparameters(path: str | os.PathLike[str], gain: float = 0.01) -> SParameters:
    """Read a Touchstone file (``.s1p``, ``.s2p``, ...) or Lumerical's (``.sparam``, ``.dat``).

    The ports of a Lumerical file are taken in the order of their names, numbers by their value;
    entries that it lacks are 0. ``gain`` is by how much amplitudes may exceed those of a passive
    component, as measured ones do.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    touchstone = re.fullmatch(r"\.s([1-9]\d{0,3})p", suffix)
    if not touchstone and suffix not in (".sparam", ".dat"):
        raise ValueError(
            f"the suffix of S-parameters must be .s1p, .s2p, ..., .sparam or .dat; got {suffix!r}"
        )
    text = read_text(path, "S-parameters", _LONGEST)
    rows = text.split("\n")
    parts = _touchstone(path, rows, int(touchstone[1])) if touchstone else _lumerical(path, rows)
    lines, frequencies, matrices = parts
    for line, matrix in zip(lines, matrices, strict=True):
        largest = float(np.linalg.norm(matrix, 2)) if np.isfinite(matrix).all() else np.inf
        if not largest <= 1 + gain:
            raise DataError(
                f"{path}, line {line}: S-parameters must not gain, found an amplitude of "
                f"{largest:.4g}; measured ones may with gain={largest - 1:.2g}"
            )
    return SParameters(frequencies, matrices)


def _numbers(path: Path, line: int, words: Sequence[str]) -> list[float]:
    values = []
    for word in words:
        try:
            values.append(float(word))
        except ValueError:
            raise DataError(f"{path}, line {line}: must hold numbers, found {word!r:.60}") from None
    if not np.isfinite(values).all():
        raise DataError(f"{path}, line {line}: must hold finite numbers, found inf or nan")
    return values


_UNITS = {"HZ": 1.0, "KHZ": 1e3, "MHZ": 1e6, "GHZ": 1e9, "THZ": 1e12}
_FORMS = {
    "RI": lambda a, b: a + 1j * b,
    "MA": lambda a, b: a * np.exp(1j * np.deg2rad(b)),
    "DB": lambda a, b: 10 ** (a / 20) * np.exp(1j * np.deg2rad(b)),
}
_Table = tuple[list[int], np.ndarray, np.ndarray]  # line and frequency of each matrix


def _touchstone(path: Path, rows: Sequence[str], ports: int) -> _Table:
    """Version 1: an option line, then a frequency and N^2 pairs of numbers, over several lines."""
    unit, form = "GHZ", "MA"
    needed = 1 + 2 * ports**2
    lines: list[int] = []
    values: list[float] = []
    optioned = False
    for line, row in enumerate(rows, start=1):
        row = row.partition("!")[0].strip()
        if row.startswith("[") or row.startswith("#"):
            if row.startswith("["):
                raise DataError(
                    f"{path}, line {line}: must be Touchstone version 1, found {row:.40}"
                )
            if not optioned:  # the first one counts
                unit, form = _options(path, line, row)
            optioned = True
        elif row:
            if len(values) % needed == 0:
                lines.append(line)
            values += _numbers(path, line, row.split())
            if len(values) > needed * len(lines):
                raise DataError(
                    f"{path}, line {line}: must end with the {needed} numbers of a frequency of "
                    f"{ports} ports, found {len(values) - needed * (len(lines) - 1)}"
                )
    if not values or len(values) % needed:
        raise DataError(
            f"{path}, line {len(rows)}: must hold {needed} numbers for each frequency of {ports} "
            f"ports, found {len(values) % needed} at the end"
        )
    table = np.array(values).reshape(-1, needed)
    with np.errstate(over="ignore", invalid="ignore"):
        matrices = _FORMS[form](table[:, 1::2], table[:, 2::2]).reshape(-1, ports, ports)
    if ports == 2:
        matrices = matrices.swapaxes(1, 2)  # S11 S21 S12 S22
    frequencies = table[:, 0] * _UNITS[unit]
    _check_rising(frequencies, lambda index: f"{path}, line {lines[index]}: ")
    return lines, frequencies, matrices


def _options(path: Path, line: int, row: str) -> tuple[str, str]:
    """Unit and form of the numbers in ``# GHZ S MA R 50``."""
    unit, form = "GHZ", "MA"
    words = iter(row[1:].upper().split())
    for word in words:
        if word in _UNITS:
            unit = word
        elif word in _FORMS:
            form = word
        elif word == "R":
            _numbers(path, line, [next(words, "")])
        elif word != "S":
            hint = closest(word, [*_UNITS, *_FORMS])
            raise DataError(
                f"{path}, line {line}: must be # UNIT S FORM R x, found {word:.40}{hint}"
            )
    return unit, form


def _check_rising(frequencies: np.ndarray, place: Callable[[int], str] = lambda index: "") -> None:
    """Refuse frequencies that do not rise; ``place`` says where one stands in a file."""
    with np.errstate(invalid="ignore"):
        falls = np.flatnonzero(~(np.diff(frequencies, prepend=0.0) > 0) | ~np.isfinite(frequencies))
    if falls.size:
        raise DataError(
            f"{place(falls[0])}frequencies must rise from above 0, found "
            f"{frequencies[falls[0]]:g} Hz"
        )


_BLOCK = re.compile(
    r'\(\s*"([^"]+)"\s*,\s*"([^"]*)"\s*,\s*(\d+)\s*,\s*"([^"]+)"\s*,\s*(\d+)\s*,\s*"[^"]*"\s*\)'
)
_SHAPE = re.compile(r"\(\s*(\d{1,9})\s*,\s*3\s*\)")
_HEADER = re.compile(r'\[\s*"([^"]+)"\s*,\s*"[^"]*"\s*\]')


def _lumerical(path: Path, rows: Sequence[str]) -> _Table:
    """Blocks: ports and mode, (F, 3), F rows of frequency (Hz), magnitude and phase (rad)."""
    blocks: dict[tuple[str, str], tuple[int, np.ndarray]] = {}
    names: dict[str, None] = {}  # in the order of the file
    modes = set()
    line = 0
    while line < len(rows):
        row = rows[line].strip()
        line += 1
        if header := _HEADER.fullmatch(row):
            names[header[1]] = None
            continue
        if not row:
            continue
        found = _BLOCK.fullmatch(row)
        shape = _SHAPE.fullmatch(rows[line].strip()) if found and line < len(rows) else None
        if not found or not shape:
            where, text = (line, row) if not found else (line + 1, "".join(rows[line : line + 1]))
            form = '("out","mode",1,"in",1,"transmission")' if not found else "(count, 3)"
            raise DataError(f"{path}, line {where}: must be {form}, found {text!r:.60}")
        modes.add(found.group(2, 3, 5))
        if len(modes) > 1 or found[3] != found[5]:
            raise DataError(f"{path}, line {line}: must have one mode, found {found[2]} {found[5]}")
        start, count = line + 1, int(shape[1])
        present = enumerate(rows[start : start + count], start=start + 1)
        table = [_numbers(path, number, row.split()) for number, row in present]
        bad = next((n for n, r in enumerate(table) if len(r) != 3), len(table))
        if bad < count or not count:
            raise DataError(
                f"{path}, line {start + bad + 1}: must be frequency, magnitude and phase, one of "
                f"{count} rows"
            )
        pair = (found[1], found[4])
        if pair in blocks:
            raise DataError(f"{path}, line {line}: must have each pair of ports once")
        blocks[pair] = start + 1, np.array(table)
        line = start + count
    if not blocks:
        raise DataError(f"{path}, line {len(rows)}: must have a block of S-parameters, found none")
    return _joined(path, blocks, names)


def _joined(
    path: Path, blocks: Mapping[tuple[str, str], tuple[int, np.ndarray]], names: Mapping[str, None]
) -> _Table:
    ports = sorted({*names, *(port for pair in blocks for port in pair)}, key=_natural)
    (first, table), *_ = blocks.values()
    if len(ports) ** 2 * len(table) * 16 > _LONGEST:
        raise DataError(f"{path}: must have fewer ports, found {len(ports)} and {len(table)} rows")
    matrices = np.zeros((len(table), len(ports), len(ports)), np.complex128)
    for (out, source), (line, rows) in blocks.items():
        if not np.array_equal(rows[:, 0], table[:, 0]):
            raise DataError(f"{path}, line {line}: must have the frequencies of line {first}")
        matrices[:, ports.index(out), ports.index(source)] = rows[:, 1] * np.exp(1j * rows[:, 2])
    lines = list(range(first, first + len(table)))
    if len(table) > 1 and table[0, 0] > table[-1, 0]:
        lines, table, matrices = lines[::-1], table[::-1], matrices[::-1]
    _check_rising(table[:, 0], lambda index: f"{path}, line {lines[index]}: ")
    return lines, table[:, 0], matrices


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts port 2 before port 10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part[:18]), "") if part.isdecimal() else (-1, part) for part in parts]


def write_touchstone(path: str | os.PathLike[str], parameters: SParameters) -> None:
    """Write S-parameters as a Touchstone file of version 1; its suffix must be that of N ports."""
    path, ports = Path(path), parameters.matrices.shape[-1]
    choice("the suffix of these S-parameters", path.suffix.lower(), [f".s{ports}p"])
    matrices = parameters.matrices.swapaxes(1, 2) if ports == 2 else parameters.matrices
    lines = ["# HZ S RI R 50"]
    for frequency, matrix in zip(parameters.frequencies.tolist(), matrices, strict=True):
        pairs = [f"{z.real!r} {z.imag!r}" for z in matrix.ravel().tolist()]
        lines += _wrapped_lines(f"{frequency!r}", pairs, ports)
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _wrapped_lines(frequency: str, pairs: Sequence[str], ports: int) -> Iterator[str]:
    """At most four pairs a line; from three ports on, each row of the matrix begins a line."""
    row = ports if ports > 2 else len(pairs)
    for start in range(0, len(pairs), row):
        for first in range(start, start + row, 4):
            lead = frequency if first == 0 else " "
            yield " ".join([lead, *pairs[first : min(first + 4, start + row)]])
