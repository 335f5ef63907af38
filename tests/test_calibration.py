"""Phases within a turn, phases to voltages and back, and calibration files."""

import csv
import os
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meshes import Phases, RectangularMesh
from meshes.calibration import (
    HeaterLaw,
    MeasuredCurve,
    Shifter,
    check_shifters,
    from_values,
    read_calibration,
    shifters,
    values,
    voltages,
    within_a_turn,
)
from meshes.plotting import fields_by_column

TURN = 2 * np.pi
ANY_PHASE = st.floats(-20, 20)


def any_phases(mesh, seed):
    rng, grid = np.random.default_rng(seed), mesh.mask.shape
    return Phases(*(rng.uniform(-15, 15, shape) for shape in (grid, grid, mesh.units)))


def matrix(mesh, phases):
    """In NumPy: the engines would be compiled for every size."""
    return fields_by_column(mesh, phases, np.eye(mesh.units))[-1]


class TestTurns:
    @settings(max_examples=30)
    @given(st.integers(2, 7), st.integers(1, 8), st.integers(0, 99), st.sampled_from([0, 0.2]))
    def test_a_turn_less_changes_no_matrix(self, units, columns, seed, error):
        mesh = RectangularMesh(units, columns, error, insertion_loss_db=error)
        phases = any_phases(mesh, seed)
        lowest = values(mesh, any_phases(mesh, seed + 1))  # every shifter has its own
        turned = within_a_turn(mesh, phases, lowest)
        np.testing.assert_allclose(matrix(mesh, turned), matrix(mesh, phases), atol=1e-9)
        listed = values(mesh, turned)
        assert ((lowest <= listed) & (listed < lowest + TURN)).all()

    @settings(max_examples=20)
    @given(st.integers(2, 6), st.integers(1, 6), st.integers(0, 99))
    def test_a_shifter_in_the_upper_arm_alone_makes_the_matrix_of_both(self, units, columns, seed):
        mesh = RectangularMesh(units, columns)
        phases = any_phases(mesh, seed)
        turned = within_a_turn(mesh, phases, arms="upper")
        np.testing.assert_allclose(upper_arm_matrix(mesh, turned), matrix(mesh, phases), atol=1e-9)

    @settings(max_examples=40)
    @given(st.integers(2, 7), st.integers(1, 8), st.integers(0, 999), st.sampled_from([0.05, 0.2]))
    def test_frozen_shifters_stay_where_they_are_or_are_named(self, units, columns, seed, share):
        mesh, rng = RectangularMesh(units, columns), np.random.default_rng(seed)
        lowest, phases = rng.uniform(-3, 3), any_phases(mesh, seed)
        frozen = Phases(*(rng.random(part.shape) < share for part in phases))
        near = lowest + rng.uniform(0, TURN, phases.theta.shape)  # what a dead theta can have
        phases = phases._replace(theta=np.where(frozen.theta, near, phases.theta))
        try:
            turned = within_a_turn(mesh, phases, lowest, frozen=frozen)
        except ValueError as error:
            named = re.search(r"another phase of (\w+)", str(error))[1]
            assert getattr(frozen, named).any()
            return
        np.testing.assert_allclose(matrix(mesh, turned), matrix(mesh, phases), atol=1e-9)
        listed, before, still = (values(mesh, x) for x in (turned, phases, frozen))
        assert ((lowest <= listed) & (listed < lowest + TURN)).all()
        assert (apart(listed, before)[still != 0] < 1e-6).all()

    def test_another_theta_is_mirrored_where_a_frozen_phi_would_move(self):
        mesh = RectangularMesh(4)
        phases = Phases(*(np.full(part.shape, 1.0) for part in any_phases(mesh, 0)))
        phases.theta[2, 0] -= 3  # a turn of it moves phi of column 1
        frozen = Phases(*(np.zeros(part.shape, bool) for part in phases))
        assert apart(within_a_turn(mesh, phases).phi[1, 0], 1) > 3
        frozen.phi[1, 0] = True
        kept = within_a_turn(mesh, phases, frozen=frozen)
        assert kept.phi[1, 0] == pytest.approx(1)
        np.testing.assert_allclose(matrix(mesh, kept), matrix(mesh, phases), atol=1e-12)

    @pytest.mark.parametrize("name", ["theta", "phi"])
    def test_frozen_shifters_that_would_have_to_move_are_named(self, name):
        mesh = RectangularMesh(4)
        phases = Phases(*(np.full(part.shape, 1.0) for part in any_phases(mesh, 0)))
        phases.theta[2, 0] = -2
        frozen = Phases(*(np.full(part.shape, name == "phi") for part in phases))
        frozen.theta[:] = name == "theta"
        where = "theta of mesh 7 in column 2" if name == "theta" else "phi of mesh 7 in column 0"
        with pytest.raises(
            ValueError, match=f"frozen must allow .* needs another phase of {where}"
        ):
            within_a_turn(mesh, phases, frozen=frozen, number=7)

    def test_phases_within_a_turn_stay_as_they_are(self):
        mesh = RectangularMesh(6)
        phases = mesh.initial_phases(3)
        listed = values(mesh, within_a_turn(mesh, phases))
        np.testing.assert_allclose(listed, values(mesh, phases), atol=1e-6)
        rounding = from_values(mesh, np.full(len(listed), -1e-20))
        assert (values(mesh, within_a_turn(mesh, rounding)) == 0).all()
        with pytest.raises(ValueError, match="arms must be one of both, upper; got 'lower'"):
            within_a_turn(mesh, phases, arms="lower")


def upper_arm_matrix(mesh, phases):
    """Each column multiplied by what theta in one arm adds to theta / 2 and -theta / 2."""
    fields = np.exp(1j * phases.gamma)[:, None] * np.eye(mesh.units)
    for column in range(mesh.num_columns):
        one = RectangularMesh(mesh.units, 2)  # its columns alternate as the mesh's do
        theta, phi = (np.full(one.mask.shape, np.pi) for _ in range(2))
        which = column % 2
        theta[which], phi[which] = phases.theta[column], phases.phi[column]
        still = Phases(theta, phi, np.zeros(mesh.units))
        before, after = fields_by_column(one, still, np.eye(mesh.units))[which : which + 2]
        common = np.ones(mesh.units, complex)
        for index in np.flatnonzero(mesh.mask[column]):
            first = 2 * index + which
            common[first : first + 2] = np.exp(0.5j * phases.theta[column, index])
        fields = fields @ np.linalg.solve(before, after) * common
    return fields


@pytest.mark.parametrize("units", [4, 5])
def test_every_shifter_has_a_name_in_the_order_of_the_values(units):
    mesh = RectangularMesh(units, 3)
    phases, names = any_phases(mesh, 0), shifters(mesh, 2)
    listed = values(mesh, phases)
    assert len(set(names)) == len(listed) == 2 * mesh.mask.sum() + units  # idle ones have none
    assert names[0] == Shifter(2, 0, 0, "theta", "0-1")
    assert Shifter(2, 1, 0, "phi", "1-2") in names
    for name, value in zip(names, listed, strict=True):
        place = int(name.ports) if name.column is None else (name.column, name.interferometer)
        assert value == getattr(phases, name.shifter)[place]
    np.testing.assert_array_equal(values(mesh, from_values(mesh, listed)), listed)


def apart(first, second):
    """Distance of phases on the circle, rad."""
    return np.abs(np.angle(np.exp(1j * (np.asarray(first) - np.asarray(second)))))


@st.composite
def measured_curves(draw):
    """A rising table that spans a turn, its points at uneven places."""
    steps = st.lists(st.floats(0.05, 1), min_size=2, max_size=12)
    first, more = draw(steps), draw(steps)
    count = min(len(first), len(more))
    volts = draw(st.floats(0, 3)) + np.cumsum([0, *first[:count]])
    rise = np.cumsum([0, *more[:count]])
    return MeasuredCurve(volts, draw(ANY_PHASE) + TURN * rise / rise[-1])


class TestRoundTrips:
    @given(st.floats(0.1, 50), ANY_PHASE, ANY_PHASE)
    def test_heaters(self, v_pi, phase_0, phase):
        law = HeaterLaw(v_pi, phase_0)
        assert apart(law.phase(law.voltage(phase)), phase) < 1e-6

    @given(measured_curves(), ANY_PHASE)
    def test_measured_curves(self, curve, phase):
        assert apart(curve.phase(curve.voltage(phase)), phase) < 1e-6
        inner = curve.phases[:-1]  # the last is a turn above the first, which takes less
        np.testing.assert_allclose(curve.voltage(inner), curve.voltages[:-1], atol=1e-6)
        np.testing.assert_allclose(curve.phase(curve.voltages), curve.phases, atol=1e-12)

    @given(measured_curves(), ANY_PHASE, st.floats(0, 1))
    def test_no_lower_voltage_makes_the_phase(self, curve, phase, share):
        voltage = curve.voltage(phase)
        lower = curve.voltages[0] + share * (voltage - curve.voltages[0])
        assume(voltage - lower > 1e-3)
        assert curve.phase(lower) < curve.phase(voltage)
        assert curve.phase(voltage) - curve.phases[0] < TURN

    def test_a_measured_heater_is_close_to_its_law(self):
        phases = np.random.default_rng(0).uniform(0, TURN, (3, 4, 5)).astype(np.float32)
        law = HeaterLaw(5, phase_0=1)
        table = MeasuredCurve(np.linspace(0, 9, 40), law.phase(np.linspace(0, 9, 40)))
        assert table.voltage(phases).shape == (3, 4, 5)
        np.testing.assert_allclose(table.voltage(phases), law.voltage(phases), atol=0.05)


class TestLargePhases:
    @pytest.mark.parametrize("size", [1e4, 1e7, 1e10, 1e15])
    def test_get_the_voltages_of_their_equals(self, size):
        law = HeaterLaw(2.0, phase_0=0.3)
        phases = np.random.default_rng(0).uniform(-size, size, 50)
        made = law.phase(law.voltage(phases))
        assert np.all((made > 0.3 - 1e-6) & (made < 0.3 + 2 * np.pi))
        np.testing.assert_allclose(np.exp(1j * made), np.exp(1j * phases), atol=1e-9)

    @pytest.mark.parametrize("arms", ["both", "upper"])
    @pytest.mark.parametrize("size", [1e4, 1e10, 1e15])
    def test_within_a_turn_keep_the_matrix(self, size, arms):
        mesh, rng = RectangularMesh(4), np.random.default_rng(0)
        listed = rng.uniform(-size, size, len(shifters(mesh)))
        phases = from_values(mesh, listed)
        turned = within_a_turn(mesh, phases, arms=arms)
        made = upper_arm_matrix(mesh, turned) if arms == "upper" else matrix(mesh, turned)
        np.testing.assert_allclose(made, matrix(mesh, phases), atol=1e-9)

    @pytest.mark.parametrize("phase", [8001.0, -1e15])
    def test_a_curve_far_from_0_is_refused(self, phase):
        with pytest.raises(ValueError, match=r"phase_0 must be at .* 8000"):
            HeaterLaw(1.0, phase_0=abs(phase))
        with pytest.raises(ValueError, match=r"phases must be from -8000 to 8000"):
            MeasuredCurve([0, 1], [phase, phase + 1])


class TestCurves:
    def test_the_equation_of_a_heater(self):
        law = HeaterLaw(5.0, phase_0=0.3)
        np.testing.assert_allclose(law.phase([0, 5, 10]), [0.3, 0.3 + np.pi, 0.3 + 4 * np.pi])
        np.testing.assert_allclose(law.voltage([0.3, 0.3 + np.pi]), [0, 5])
        np.testing.assert_allclose(law.phase(-5), law.phase(5))

    def test_rounding_does_not_cost_a_turn(self):
        assert HeaterLaw(5.0, phase_0=1.0).voltage(np.float64(1) - 1e-12) == 0
        assert HeaterLaw(5.0, max_voltage=5.0).voltage(np.pi + 1e-12) == 5.0

    def test_refuses_what_it_cannot_reach(self):
        law, curve = HeaterLaw(5.0, max_voltage=6.0), MeasuredCurve([0, 1, 2], [0.5, 1, 3])
        for function, value, message in [
            (law.voltage, [1.0, 5.0], "phase .* got 5"),
            (law.voltage, [0.0, np.nan], "phase must be finite"),
            (law.phase, 7.0, "voltage must be from -6 to 6, got 7"),
            (curve.voltage, 4.0, r"from 0\.5 to 3 rad modulo 2 pi.*got 4"),
            (curve.phase, 2.5, "voltage must be from 0 to 2, got 2.5"),
        ]:
            with pytest.raises(ValueError, match=message):
                function(value)

    @pytest.mark.parametrize(
        ("curve", "settings", "error"),
        [
            (HeaterLaw, (0,), "v_pi must be greater than 0"),
            (HeaterLaw, (1e-320,), "v_pi must be at least 1e-09"),
            (HeaterLaw, (5, 0, -1), "max_voltage must be greater than 0"),
            (MeasuredCurve, ([0, 1, 1], [0, 3, 6]), "voltages must increase, got 1 after 1"),
            (MeasuredCurve, ([0, 1], [0, 3, 6]), "voltages and phases .*got 2 and 3"),
            (MeasuredCurve, ([0], [0]), r"voltages must be \[K\] with K of at least 2"),
            (MeasuredCurve, ([0, np.nan], [0, 1]), "voltages must be finite"),
            (MeasuredCurve, ([-1e308, 1e308], [0, 1]), "voltages must be from -1e.06 to 1e.06"),
            (MeasuredCurve, ([0, 1e-200], [0, 1]), "voltages must not be as near as 1e-200 V"),
        ],
    )
    def test_refuses_what_is_no_curve(self, curve, settings, error):
        with pytest.raises(ValueError, match=error):
            curve(*settings)


class TestFiles:
    def write(self, path, header, rows):
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([header.split(","), *rows])
        return path

    def test_one_curve_for_all(self, tmp_path):
        rows = [(0, 0.1), (1, 0.5), (2, 7)]
        curve = read_calibration(self.write(tmp_path / "c.csv", "voltage_V,phase_rad", rows))
        np.testing.assert_allclose(curve.phase([0, 1, 2]), [0.1, 0.5, 7])
        path = self.write(tmp_path / "c.csv", "v_pi_V,phase_0_rad", [(5, 0.2)])
        assert read_calibration(path) == HeaterLaw(5.0, 0.2)

    def test_only_regular_files_of_some_size_are_read(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        with open(tmp_path / "sparse.csv", "wb") as file:
            file.truncate(2**30)
        for path in (tmp_path / "fifo", "/dev/zero", tmp_path, tmp_path / "sparse.csv"):
            with pytest.raises(ValueError, match=rf"{path}: must (be a regular|have at most)"):
                read_calibration(path)

    def test_one_for_every_shifter(self, tmp_path):
        names = shifters(RectangularMesh(3))
        header = ",".join((*Shifter._fields, "voltage_V", "phase_rad"))
        points = [(0, 0), (1, 1), (2, 16)]
        rows = [
            (*name, volt, (1 + index) / 2 * phase)
            for index, name in enumerate(names)
            for volt, phase in points
        ]
        read = read_calibration(self.write(tmp_path / "c.csv", header, rows))
        assert list(read) == names
        wanted = np.arange(1, len(names) + 1) / 2  # what each makes of one volt
        np.testing.assert_allclose(voltages(read, names, wanted), 1)

    def test_every_shifter_is_needed_and_named_where_it_fails(self):
        names = shifters(RectangularMesh(2))
        laws = {name: HeaterLaw(5, max_voltage=5) for name in names}
        with pytest.raises(ValueError, match=r"theta of mesh 1 in column 0, ports 0-1: phase must"):
            voltages(laws, names, np.full(len(names), 5.0))
        del laws[names[-1]]
        with pytest.raises(ValueError, match="found none for gamma of mesh 1, ports 1"):
            voltages(laws, names, np.ones(len(names)))

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("1,0,0,thetta,0-1", "shifter must be one of .*'thetta', did you mean theta"),
            ("0,0,0,theta,0-1", "mesh must be a whole number from 1, found '0'"),
            ("1,0,,theta,0-1", "interferometer must be a whole number from 0, found ''"),
            ("1,1,0,phi,0-1", "ports must be 1-2 in column 1, interferometer 0, found '0-1'"),
            ("1,0,,gamma,0", "column must be empty for gamma, found '0'"),
            ("1,,,gamma,x", "ports must be a whole number from 0, found 'x'"),
        ],
    )
    def test_a_row_names_a_shifter(self, name, error, tmp_path):
        header = ",".join((*Shifter._fields, "v_pi_V", "phase_0_rad"))
        path = self.write(tmp_path / "c.csv", header, [[*name.split(","), 5, 0]])
        with pytest.raises(ValueError, match=rf"c\.csv: line 2: {error}"):
            read_calibration(path)

    def test_curves_of_other_chips_are_refused(self):
        names = shifters(RectangularMesh(3))
        check_shifters(dict.fromkeys(names, HeaterLaw(5)), names)
        check_shifters(HeaterLaw(5), names)
        other = Shifter(9, 0, 0, "theta", "0-1")
        with pytest.raises(ValueError, match="this chip alone, found theta of mesh 9 in column 0"):
            check_shifters(dict.fromkeys([*names, other], HeaterLaw(5)), names)

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            (None, "No such file"),
            ("", "must have the columns"),
            ("voltage,phase\n0,0\n", "must have the columns.*found voltage, phase"),
            ("voltage_V,phase_rad\n", "must have a row"),
            ("voltage_V,phase_rad\n0,0\n1,x\n", "phase_rad must be a number, found 'x'"),
            (
                "voltage_V,phase_rad\n0,0\n1\n",
                "line 3: must have 2 cells, as the header has, found 1$",
            ),
            ("v_pi_V,phase_0_rad\n5,2,0,1\n", "line 2: must have 2 .* found 4; decimals take a"),
            ("v_pi_V,phase_0_rad,v_pi_V\n5,2,4\n", "each column once, found 'v_pi_V' twice"),
            ("voltage_V,phase_rad\n0,0\n1,1\n2,0.5\n", "phases must increase"),
            ("v_pi_V,phase_0_rad\n5,0\n4,0\n", "one row a shifter, found 2"),
            ("mesh,v_pi_V,phase_0_rad\n1,5,0\n", "all columns mesh, column.*found mesh"),
        ],
    )
    def test_refused_with_the_file_s_name(self, text, error, tmp_path):
        path = tmp_path / "c.csv"
        if text is not None:
            path.write_text(text)
        with pytest.raises(ValueError, match=rf"c\.csv.*{error}"):
            read_calibration(path)


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 2), min_size=2, max_size=8), st.floats(-3, 3))
def test_a_measured_curve_gives_the_voltages_of_its_own_phases(steps, first):
    phases = np.cumsum([first, *steps])
    curve = MeasuredCurve(np.arange(len(phases), dtype=float), phases)
    apart = curve.phase(curve.voltage(phases)) - phases
    np.testing.assert_allclose(apart - TURN * np.round(apart / TURN), 0, atol=1e-6)
