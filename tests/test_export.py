"""A trained network's phases and voltages as tables, and back."""

import csv
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from meshes import Phases
from meshes.calibration import (
    HeaterLaw,
    MeasuredCurve,
    Shifter,
    from_values,
    read_calibration,
    shifters,
)
from photonic_ffzero import configure, save_model
from photonic_ffzero.cli.export import main, settings
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.devices.simulated import SimulatedChip
from photonic_ffzero.model import Model, Position
from photonic_ffzero.storage import save_checkpoint

UNITS = 6


def network(method="ff-dd", **given):
    """Two meshes whose phases lie anywhere, as training may leave them."""
    model = Model(configure(method=method, **given), UNITS, Classification(3))
    rng = np.random.default_rng(0)
    for index, layers in enumerate(model.params):
        model.params[index] = tuple(
            type(own)(*(rng.uniform(-9, 9, x.shape).astype(np.float32) for x in own))
            for own in layers
        )
    return model


def name_of(row):
    return Shifter(*(row[field] for field in Shifter._fields))


def set_to(model, rows, phase_of):
    """The parameters of a chip that is set to the rows."""
    params = []
    for number, (layer, _) in enumerate(model.layers, start=1):
        own = [phase_of(row) for row in rows if row["mesh"] == number]
        phases = from_values(layer.mesh, np.array(own))
        params.append((Phases(*(x.astype(np.float32) for x in phases)),))
    return params


@pytest.mark.parametrize("lowest", [0.0, -2.5])
def test_voltages_make_the_network_again(lowest):
    model, law = network(), HeaterLaw(5.0, phase_0=lowest)
    x = np.random.default_rng(1).random((20, UNITS), np.float32)
    scores = model.scores(x)
    rows = settings(model, law)
    model.params = set_to(model, rows, lambda row: law.phase(row["voltage_V"]))
    np.testing.assert_allclose(model.scores(x), scores, atol=2e-5)


def test_every_shifter_once_and_idle_ones_never():
    rows = settings(network("bp-dd"), HeaterLaw(5.0))
    assert len({name_of(row) for row in rows}) == len(rows) == 2 * (2 * (6 * 3 - 3) + UNITS)
    assert all(0 <= row["phase_rad"] < 2 * np.pi for row in rows)


def test_a_shifter_of_its_own_calibration():
    model = network()
    names = [name_of(row) for row in settings(model, HeaterLaw(1.0))]
    laws = {name: HeaterLaw(1.0 + index) for index, name in enumerate(names)}
    for row in settings(model, laws):
        assert row["voltage_V"] == laws[name_of(row)].voltage(row["phase_rad"])


def frozen_phi():
    """Two phases of mesh 1 that do not move, and would."""
    frozen = np.zeros((UNITS, UNITS // 2), bool)
    frozen[3:5, 0] = True
    return frozen


def test_frozen_phases_stay_and_the_network_too():
    model, law = network(), HeaterLaw(5.0)
    x = np.random.default_rng(1).random((20, UNITS), np.float32)
    scores, before = model.scores(x), model.params[0][0].phi
    masks = [Phases(*(np.zeros(part.shape, bool) for part in p[:3])) for _, p in model.layers]
    assert max(moved(settings(model, law), before)) > 1
    model.freeze([masks[0]._replace(phi=frozen_phi()), masks[1]])
    rows = settings(model, law)
    assert max(moved(rows, before)) < 1e-5
    model.params = set_to(model, rows, lambda row: law.phase(row["voltage_V"]))
    np.testing.assert_allclose(model.scores(x), scores, atol=2e-5)
    model = network()
    model.freeze([Phases(part.theta, ~part.phi, ~part.gamma) for part in masks])
    with pytest.raises(
        ValueError, match=r"frozen must allow .* needs another phase of phi of mesh 1"
    ):
        settings(model, law)


def test_phases_of_a_real_chip_are_never_mirrored():
    """Its couplers are not ideal, so that whole turns alone leave its light alone."""
    chip = SimulatedChip(UNITS, 1, UNITS, imperfections="splitter_error=0.1", seed=1)
    config = configure(meshes=1, device="lab:Chip", columns=UNITS)
    model = Model(config, UNITS, Classification(3), device=chip)
    model.params[0] = network(meshes=1).params[0]
    x, law = np.eye(UNITS, dtype=np.complex64), HeaterLaw(5.0)
    before = model.scores(x)
    still = Phases(*(np.zeros(part.shape, bool) for part in model.params[0][0][:3]))
    again = Model(config, UNITS, Classification(3), device=chip)
    again.params = set_to(model, settings(model, law), lambda row: row["phase_rad"])
    np.testing.assert_allclose(again.scores(x), before, atol=1e-4)
    model.freeze([still._replace(phi=frozen_phi())])
    with pytest.raises(ValueError, match=r"frozen must allow .* another phase of phi"):
        settings(model, law)


def test_a_chip_may_have_more_meshes_than_the_network():
    chip, law = SimulatedChip(UNITS, 3, UNITS), HeaterLaw(5.0)
    config = configure(meshes=2, device="lab:Chip", columns=UNITS)
    model = Model(config, UNITS, Classification(3), device=chip)
    curves = {
        name: law
        for number, mesh in enumerate((each.mesh for each in chip.chips), start=1)
        for name in shifters(mesh, number)
    }
    assert settings(model, curves) == settings(model, law)
    refusal = r"calibration must hold shifters of this chip alone, found .* of mesh 3"
    with pytest.raises(ValueError, match=refusal):
        settings(network(), curves)


def moved(rows, before):
    """How far the rows of `frozen_phi` are from the phases before, rad."""
    names = [Shifter(1, column, 0, "phi", f"{column % 2}-{column % 2 + 1}") for column in (3, 4)]
    by_name = {name_of(row): row["phase_rad"] for row in rows}
    return [abs(np.angle(np.exp(1j * (by_name[n] - before[n.column, 0])))) for n in names]


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("run").mkdir()
        save_model(network(), "run/model.npz")

    def export(self, *flags, run="run", output="out"):
        assert main([run, *flags, "--output", output]) == 0
        return json.loads(Path(output, "phases.json").read_text())

    def test_writes_the_same_rows_as_csv_and_json(self, run, capsys):
        content = self.export("--v-pi", "5", "--max-voltage", "8")
        assert content["calibration"] == {"v_pi": 5, "phase_0": 0, "max_voltage": 8}
        assert (content["ports"], content["columns"], content["meshes"]) == (UNITS, UNITS, 2)
        with open("out/phases.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        header = ["mesh", "column", "interferometer", "shifter", "ports", "phase_rad", "voltage_V"]
        assert list(rows[0]) == header
        assert len(rows) == len(content["shifters"])
        for row, same in zip(rows, content["shifters"], strict=True):
            assert row == {k: "" if v is None else str(v) for k, v in same.items()}
        assert "72 phase shifters in out" in capsys.readouterr().out

    def test_an_export_is_a_template_for_a_calibration_of_every_shifter(self, run):
        self.export("--v-pi", "5")
        with open("out/phases.csv", newline="") as file:
            rows = list(csv.reader(file))
        table = [[*rows[0][:5], "v_pi_V", "phase_0_rad"], *([*row[:5], 4, 0.1] for row in rows[1:])]
        with open("laws.csv", "w", newline="") as file:
            csv.writer(file).writerows(table)
        content = self.export("--calibration", "laws.csv", run="run/model.npz", output="second")
        assert set(read_calibration("laws.csv").values()) == {HeaterLaw(4, 0.1)}
        assert content["calibration"] == "laws.csv"

    def test_a_measured_curve(self, run):
        Path("curve.csv").write_text("voltage_V,phase_rad\n0,0.2\n3,2\n5,7\n")
        curve = MeasuredCurve([0, 3, 5], [0.2, 2, 7])
        for row in self.export("--calibration", "curve.csv")["shifters"]:
            assert curve.voltage(row["phase_rad"]) == pytest.approx(row["voltage_V"])

    def test_one_arm_makes_other_phases_but_the_same_thetas(self, run):
        upper = self.export("--v-pi", "5", "--arms", "upper")
        assert upper["theta_arms"] == "upper"
        pairs = zip(upper["shifters"], settings(network(), HeaterLaw(5.0)), strict=True)
        changed = {
            one["shifter"] for one, two in pairs if abs(one["phase_rad"] - two["phase_rad"]) > 1e-6
        }
        assert changed == {"phi", "gamma"}

    def test_the_frozen_phases_of_a_run_or_of_the_flag_stay(self, run, capsys):
        np.savez("frozen.npz", mesh1_phi=frozen_phi())
        before = network().params[0][0].phi
        flags = ["--v-pi", "5", "--frozen-phases", "frozen.npz"]
        flagged = self.export(*flags, run="run/model.npz")["shifters"]
        assert max(moved(flagged, before)) < 1e-5
        Path("run/config.json").write_text(json.dumps({"frozen_phases": "frozen.npz"}))
        assert self.export("--v-pi", "5", output="second")["shifters"] == flagged
        of_run = {"frozen_phases_crc32": zlib.crc32(Path("frozen.npz").read_bytes())}
        save_checkpoint(network(), Position(), "run/model.npz", of_run)
        assert self.export("--v-pi", "5", output="third")["shifters"] == flagged
        np.savez("frozen.npz", mesh1_phi=~frozen_phi())
        for found in ("another content in frozen.npz", "no frozen.npz", "none"):
            with pytest.raises(SystemExit, match="2"):
                main(["run", "--v-pi", "5", "--output", "fourth"])
            rule = "--frozen-phases must name the file that run/model.npz was trained with, found"
            assert f"{rule} {found}" in capsys.readouterr().err
            gone = Path("frozen.npz" if "another" in found else "run/config.json")
            gone.unlink(missing_ok=True)

    @pytest.mark.parametrize(
        ("flags", "error"),
        [
            (["--v-pi", "0"], "v-pi must be greater than 0"),
            (["--v-pi", "5", "--max-voltage", "5"], "phase must be from 0 to"),
            ([], "one of the arguments --calibration --v-pi is required"),
            (["--calibration", "none.csv"], "none.csv"),
            (["--calibration", "none.csv", "--phase-0", "1"], "--phase-0 belongs to v-pi"),
            (["--v-pi", "5"], "got mlp"),
        ],
        ids=str,
    )
    def test_refuses_in_one_line_and_writes_nothing(self, flags, error, run, capsys):
        if error == "got mlp":
            model = Model(configure("digital", depth=2, width=4), UNITS, Classification(3))
            save_model(model, "run/model.npz")
        with pytest.raises(SystemExit, match="2"):
            main(["run", *flags, "--output", "out"])
        assert not Path("out").exists()
        message = capsys.readouterr().err
        assert error in message.replace("_", "-")
        assert message.count("\n") == 1

    def test_what_cannot_be_written_is_removed_and_no_bad_input(self, run, capsys, monkeypatch):
        def full(path, content):
            path.write_text("half")
            raise OSError(28, "No space left on device", str(path))

        with monkeypatch.context() as patch:
            patch.setattr("photonic_ffzero.cli.export.write_json", full)
            with pytest.raises(SystemExit) as stop:
                main(["run", "--v-pi", "5", "--output", "out"])
        assert stop.value.code == 1
        assert "No space left on device: 'out/phases.json'" in capsys.readouterr().err
        assert not Path("out").exists()
        self.export("--v-pi", "5")

    def test_a_black_box_between_the_meshes_does_not_matter(self, run):
        save_model(network(nonlinearity=np.tanh), "run/model.npz")
        self.export("--v-pi", "5")
