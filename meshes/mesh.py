"""The rectangular mesh: its layout, fabrication and phases. Only this module imports Neurophox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from meshes import propagation
from meshes._tensorflow import tf
from meshes.angles import wrapped
from meshes.display import facts_html
from meshes.engines import upper_port
from meshes.validation import integer, number, refuse_masked

# Random streams of a chip, each with its seed. Coupler errors use the seed alone, which NumPy takes
# for stream 0, as it leaves out zeros at the end.
OFFSETS, SHIFTERS, PATHS, WALK = 1, 2, 3, 4


class Phases(NamedTuple):
    """Phase shifts of a mesh of N ports, L columns and M = N // 2 interferometers each, in rad.

    P sets of phases are stacked along a first axis, which all three then have.
    """

    theta: Any  # internal phases [..., L, M]
    phi: Any  # external phases [..., L, M]
    gamma: Any  # input phase screen [..., N]


_BY_NAME = ("splitter_error", "insertion_loss_db", "loss_imbalance_db", "shifter_loss")


class _ReadOnly:
    """An attribute that keeps a checked, read-only copy of an array; a tensor or None as it is.

    ``shape_of`` tells the array's shape from that of the mesh's mask and its ports; ``of_couplers``
    whether it is 0 where an interferometer is idle.
    """

    def __init__(
        self,
        shape_of: Callable[[tuple[int, int], int], tuple[int, ...]],
        of_couplers: bool = False,
    ) -> None:
        self._shape_of, self._of_couplers = shape_of, of_couplers

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, mesh: Any, owner: type | None = None) -> Any:
        return self if mesh is None else getattr(mesh, self._name)

    def __set__(self, mesh: Any, value: Any) -> None:
        if value is not None and not tf.is_tensor(value):
            value = self._checked(value, self._shape_of(mesh.mask.shape, mesh.units))
            if self._of_couplers:
                value[..., ~mesh.mask] = 0
            value.flags.writeable = False
        setattr(mesh, self._name, value)

    def _checked(self, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        name = self._name[1:]
        refuse_masked(name, value)
        array = np.array(value)
        if array.dtype.kind not in "fiu" or array.shape != shape:
            raise ValueError(
                f"{name} must be real numbers of shape {list(shape)}, got {array.dtype} of shape "
                f"{list(array.shape)}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite, got nan or inf")
        return array if array.dtype.kind == "f" else array.astype(np.float32)


class RectangularMesh:
    r"""A rectangular (Clements) mesh of Mach-Zehnder interferometers.

    Light enters N ports, passes the phase screen ``gamma`` and then L columns of interferometers.
    An interferometer on the neighbouring ports (u, v) maps, in Neurophox's Bloch basis,

    .. math::
        u' = i e^{i \phi} \left( \sin\frac{\theta}{2} \, u + \cos\frac{\theta}{2} \, v \right),
        \qquad
        v' = i \left( \cos\frac{\theta}{2} \, u - \sin\frac{\theta}{2} \, v \right)

    Even columns pair ports (0, 1), (2, 3), ...; odd columns (1, 2), (3, 4), .... For even N the
    last interferometer of an odd column would join ports (N - 1, 0): it is idle, in the bar state
    with theta = phi = pi, and multiplies both ports by -i. For odd N the unpaired port is
    unchanged. The phases of idle interferometers have no influence.

    With splitter errors a coupler of angle pi/4 + delta keeps cos(pi/4 - delta) of the amplitude
    in its waveguide (Neurophox's power imbalance is e = sin(2 delta)).

    Args:
        units: number of ports N, at least 2.
        num_columns: number of columns L, at least 1; N if None.
        splitter_error: standard deviation of the coupler angles' errors, rad, drawn once for each
            of the two couplers of every interferometer.
        seed: seed of all draws.
        insertion_loss_db: loss of power in each interferometer, dB. Ports that a column does not
            couple lose as much, so that all paths are balanced.
        loss_imbalance_db: mean of a further loss of each port in each column, dB, drawn once from
            an exponential distribution, so that no path gains.
        shifter_loss: largest share of the amplitude that the phase shifters of a column take from
            a port, drawn once for each from a uniform distribution.

    Attributes:
        mask: bool [L, M], False where an interferometer is idle.
        splitter_errors: delta, float32 [2, L, M], rad, first coupler then second; or None. An idle
            interferometer has no couplers: its entries are 0.
        transmission: amplitude that a column passes at each port, float32 [L, N]; or None. Both may
            be set; arrays are copied and read-only, as the engines keep what follows from them.

    Reference: Pai et al., "Matrix optimization on universal unitary photonic devices", Phys. Rev.
    Applied 11 (2019) 064044 (Neurophox).
    """

    splitter_errors = _ReadOnly(lambda mask, units: (2, *mask), of_couplers=True)
    transmission = _ReadOnly(lambda mask, units: (mask[0], units))

    def __init__(
        self,
        units: int,
        num_columns: int | None = None,
        splitter_error: float = 0.0,
        seed: int = 0,
        *,
        insertion_loss_db: float = 0.0,
        loss_imbalance_db: float = 0.0,
        shifter_loss: float = 0.0,
    ) -> None:
        self.units = integer("units", units, minimum=2)
        columns = self.units if num_columns is None else num_columns
        self.num_columns = integer("num_columns", columns, minimum=1)
        self.splitter_error = number("splitter_error", splitter_error, minimum=0.0)
        self.seed = integer("seed", seed, minimum=0)
        self.insertion_loss_db = number("insertion_loss_db", insertion_loss_db, minimum=0.0)
        self.loss_imbalance_db = number("loss_imbalance_db", loss_imbalance_db, minimum=0.0)
        self.shifter_loss = number("shifter_loss", shifter_loss, minimum=0.0, maximum=0.5)
        model = _neurophox().meshmodel.RectangularMeshModel(self.units, self.num_columns)
        self.mask = model.mask.astype(bool)
        self.splitter_errors = self._draw_splitter_errors()
        self.transmission = self._draw_transmission()

    @classmethod
    def measured(
        cls,
        units: int,
        num_columns: int | None = None,
        splitter_errors: np.ndarray | None = None,
        transmission: np.ndarray | None = None,
    ) -> RectangularMesh:
        """A mesh with measured `splitter_errors` and `transmission` in place of drawn ones.

        Raises:
            ValueError: one of them has another shape than the mesh, or a number is not finite.
        """
        mesh = cls(units, num_columns)
        mesh.splitter_errors, mesh.transmission = splitter_errors, transmission
        return mesh

    @property
    def num_interferometers(self) -> int:
        """Interferometers in a column, idle ones included: M = N // 2."""
        return self.units // 2

    def initial_phases(self, seed: int = 0) -> Phases:
        """Phases of a random unitary, Haar-distributed where num_columns = units.

        The power cos^2(theta/2) that crosses over in an interferometer of Haar exponent alpha
        follows P(cos^2(theta/2) <= r) = r^alpha; phi and gamma are uniform in [0, 2 pi). Russell et
        al., "Direct dialling of Haar random unitary matrices", New J. Phys. 19 (2017) 033007, as in
        Neurophox's ``haar_rect``. The phases are float32.
        """
        rng = np.random.default_rng(integer("seed", seed, minimum=0))
        shape = self.mask.shape
        cross_power = rng.random(shape) ** (1.0 / self._haar_exponents())
        theta = np.pi - 2.0 * np.arcsin(np.sqrt(cross_power))
        phi = rng.uniform(0.0, 2.0 * np.pi, shape)
        gamma = rng.uniform(0.0, 2.0 * np.pi, self.units)
        idle = ~self.mask
        theta[idle] = phi[idle] = np.pi
        single = [x.astype(np.float32) for x in (theta, phi, gamma)]
        return Phases(single[0], wrapped(single[1]), wrapped(single[2]))

    @property
    def light_cones(self) -> Phases:
        """The output ports that each phase moves: arrays [..., 2] of the first and the last + 1.

        Light spreads by one port a column, so that a phase in column l moves the ports within
        L - 1 - l of its pair; phi, which one port of the pair carries, within one port less.
        """
        column, pair = np.indices(self.mask.shape)
        upper, left = upper_port(column, pair), self.num_columns - 1 - column
        port = np.arange(self.units)
        paired = np.minimum(port // 2 * 2 + 1, self.units - 1)  # at odd N the last port is alone
        entry = self.num_columns - 1
        return Phases(
            self._within(upper - left, upper + 2 + left),
            self._within(upper - left, np.where(left, upper + left, upper - left)),
            self._within(port // 2 * 2 - entry, paired + 1 + entry),
        )

    def _within(self, first: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Ranges of ports [..., 2], clipped to those that exist."""
        return np.clip(np.stack([first, end], axis=-1), 0, self.units).astype(np.int32)

    def propagate(self, fields: Any, phases: Phases, engine: str = "auto") -> Any:
        """The fields at the output; see :func:`meshes.propagation.propagate`."""
        return propagation.propagate(self, phases, fields, engine)

    def intensities(self, fields: Any, phases: Phases, engine: str = "auto") -> Any:
        """The intensities at the output; see :func:`meshes.propagation.intensities`."""
        return propagation.intensities(self, phases, fields, engine)

    def matrix(self, phases: Phases, engine: str = "auto") -> Any:
        """The matrix U [..., N, N], with out = in @ U for row vectors of fields."""
        return self.propagate(np.eye(self.units, dtype=np.float32), phases, engine)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the arrays of a pickle or a copy through the checks: both make them writeable."""
        vars(self).update(state)
        self.splitter_errors, self.transmission = self.splitter_errors, self.transmission

    def __repr__(self) -> str:
        """What builds the mesh again, without what is as by default; or that it was measured."""
        named = {n: v for n in _BY_NAME if (v := getattr(self, n))}
        parts = [str(self.units), str(self.num_columns), *(f"{n}={v}" for n, v in named.items())]
        if named.keys() - {"insertion_loss_db"}:  # drawn from the seed
            parts.append(f"seed={self.seed}")
        fabricated = self.splitter_errors is not None or self.transmission is not None
        if fabricated and not named:
            parts.append("measured")
        return f"RectangularMesh({', '.join(parts)})"

    def _repr_html_(self) -> str:
        facts = {
            "ports": self.units,
            "columns": self.num_columns,
            "interferometers": int(self.mask.sum()),
            "coupler error (rad)": self.splitter_error or None,
            "loss (dB)": self.insertion_loss_db or None,
        }
        return facts_html("Rectangular mesh", facts)

    def _draw_splitter_errors(self) -> np.ndarray | None:
        if self.splitter_error == 0.0:
            return None
        rng = np.random.default_rng(self.seed)
        return rng.normal(0.0, self.splitter_error, (2, *self.mask.shape)).astype(np.float32)

    def _draw_transmission(self) -> np.ndarray | None:
        if self.insertion_loss_db == self.loss_imbalance_db == self.shifter_loss == 0.0:
            return None
        loss_db = np.full((self.num_columns, self.units), self.insertion_loss_db)
        if self.loss_imbalance_db:
            rng = np.random.default_rng([self.seed, PATHS])
            loss_db += rng.exponential(self.loss_imbalance_db, loss_db.shape)
        if self.shifter_loss:
            rng = np.random.default_rng([self.seed, SHIFTERS])
            loss_db -= 20 * np.log10(1 - rng.uniform(0.0, self.shifter_loss, loss_db.shape))
        return (10.0 ** (-loss_db / 20.0)).astype(np.float32)

    def _haar_exponents(self) -> np.ndarray:
        """Neurophox's exponents alpha [L, M], in the order of the phases."""
        checkerboard = _neurophox().helpers.get_alpha_checkerboard_general
        board = checkerboard(self.units, self.num_columns)
        whole = self.num_columns - self.num_columns % self.units
        if self.units % 2:
            # Neurophox averages the last, incomplete square of columns with its mirror image. At
            # odd N that pairs every interferometer with an empty place and halves its exponent.
            board[:, whole:] *= 2.0
        alpha = np.ones(self.mask.shape)
        for column in range(self.num_columns):
            active = board[column % 2 :: 2, column]
            alpha[column, : active.size] = active
        return alpha


def upper_ports(mesh: RectangularMesh, column: int) -> np.ndarray:
    """The upper port of each interferometer in a column that is not idle."""
    return np.asarray(upper_port(column, np.flatnonzero(mesh.mask[column])))


def in_front(mesh: RectangularMesh, upper: Any, lower: Any) -> np.ndarray:
    """Screens [L + 1, N] with phases [L, M], rad, at both inputs of every interferometer."""
    screens = np.zeros((mesh.num_columns + 1, mesh.units))
    column, index = np.nonzero(mesh.mask)
    port = upper_port(column, index)
    screens[column, port], screens[column, port + 1] = upper[column, index], lower[column, index]
    return screens


def to_input(
    mesh: RectangularMesh, phi: np.ndarray, screens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Move screens of phases in front of every column and at the output into phi and to the input.

    Phases (a, b) after an interferometer equal b at both inputs and a - b in its phi.

    Args:
        mesh: N ports and L columns.
        phi: external phases [..., L, M], rad; not changed.
        screens: phases [..., L + 1, N], rad: in front of each column, and at the output.

    Returns:
        phi [..., L, M] and the screen [..., N] at the input that have the effect of all of them.
    """
    phi, screen = phi.copy(), screens[..., -1, :].copy()
    for column in reversed(range(mesh.num_columns)):
        upper = upper_ports(mesh, column)
        phi[..., column, upper // 2] += screen[..., upper] - screen[..., upper + 1]
        screen[..., upper] = screen[..., upper + 1]
        screen += screens[..., column, :]
    return phi, screen


def _neurophox() -> Any:
    """Neurophox, imported at its first use and after TensorFlow, whose messages it would show."""
    tf.float32  # noqa: B018 (imports TensorFlow without its messages)
    import neurophox.helpers
    import neurophox.meshmodel

    return neurophox
