"""Where the light goes: the power budget of networks, amplifiers in them, and watts."""

import json
import math

import numpy as np
import pytest

from meshes import NONLINEARITIES, ElectroOptic, ModulatorParts
from meshes._tensorflow import tf
from meshes.validation import from_spec
from photonic_ffzero import Model, Samples, Trainer, configure, load_model, save_model
from photonic_ffzero.cli.train import main
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.power import PowerBudget, in_units, power_budget

PORTS = 8
PASSIVE = sorted(name for name, cls in NONLINEARITIES.items() if cls.passive)
METHODS = ("ff-dd", "ff-ad", "bp-dd", "bp-ad")


def light(samples=20):
    rng = np.random.default_rng(0)
    return (rng.random((samples, PORTS)) * rng.uniform(0.2, 1, (samples, 1))).astype(np.float32)


def network(**given):
    return Model(configure(seed=1, columns=4, **given), PORTS, Classification(3))


def test_one_mesh_has_nothing_between():
    with pytest.raises(ValueError, match=r"^amplifier stands between two meshes or more, got 1"):
        configure(amplifier="gain=2", meshes=1)


@pytest.mark.parametrize("engine", ["native", "xla"])
@pytest.mark.parametrize("nonlinearity", PASSIVE)
def test_energy_never_grows_without_gain(nonlinearity, engine):
    imperfect = "insertion_loss_db=0.1,splitter_error=0.05"
    for imperfections in ("", imperfect):
        given = {"nonlinearity": nonlinearity, "imperfections": imperfections}
        budget = power_budget(network(engine=engine, meshes=3, **given), light())
        powers = budget.powers
        assert np.all(powers[1:] <= powers[:-1] * (1 + 1e-5))


@pytest.mark.parametrize("train_nonlinearity", [False, True])
@pytest.mark.parametrize("method", ["ff-dd", "bp-ad"])
def test_an_amplifier_stands_behind_every_nonlinearity(method, train_nonlinearity):
    model = network(
        method=method, meshes=3, amplifier="level=5", train_nonlinearity=train_nonlinearity
    )
    budget = power_budget(model, light())
    between = ["nonlinearity", "amplifier", "mesh"]
    assert [stage.split()[0] for stage in budget.stages] == ["input", "mesh", *between, *between]
    for stage, powers in zip(budget.stages, budget.powers, strict=True):
        if stage.startswith("amplifier") or stage in ("mesh 2", "mesh 3"):
            np.testing.assert_allclose(powers, 5, rtol=1e-4)


def test_what_the_detectors_see_is_the_budget_s():
    model = network(meshes=2, amplifier="gain=3")
    budget, x = power_budget(model, light()), light()
    for number, (block, params) in enumerate(zip(model.blocks, model.params, strict=True), 1):
        seen = block.all_measured(params, x).sum(axis=-1)
        np.testing.assert_allclose(budget.powers[budget.stages.index(f"mesh {number}")], seen, 1e-4)
        x = block.all_outputs(params, x)


@pytest.fixture
def eager():
    """Training without compiling, which would take longer than the few steps."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


class TestAmplifiedNetworks:
    """Checked with 3 meshes, so that there are two amplifiers."""

    def trained(self, **given):
        model = network(meshes=3, batch_size=10, epochs=1, **given)
        Trainer(model, Samples(light(), np.arange(20) % 3)).run()
        return model

    @pytest.mark.usefixtures("eager")
    @pytest.mark.parametrize("method", METHODS)
    def test_gain_counts_and_a_gain_of_one_is_none_to_the_bit(self, method):
        given = {"method": method} | ({"directions": 2} if method.endswith("dd") else {})
        off, one, level = (
            self.trained(amplifier=amplifier, **given) for amplifier in ("", "gain=1", "level=4")
        )
        assert np.isfinite(level.scores(light())).all()
        np.testing.assert_array_equal(off.scores(light()), one.scores(light()))
        losses = [[record.loss for record in model.history] for model in (off, one, level)]
        assert losses[0] == losses[1] != losses[2]

    def test_a_saved_model_keeps_its_amplifiers(self, tmp_path):
        model = network(meshes=3, amplifier="level=4")
        save_model(model, tmp_path / "model.npz")
        loaded = load_model(tmp_path / "model.npz")
        np.testing.assert_array_equal(model.scores(light()), loaded.scores(light()))
        assert loaded.config.amplifier == "level=4"

    def test_ten_meshes_stay_bright(self):
        dim, bright = (network(meshes=10, amplifier=given) for given in ("", "level=4"))
        assert np.median(power_budget(dim, light()).powers[-1]) < 1e-30
        np.testing.assert_allclose(power_budget(bright, light()).powers[-1], 4, rtol=1e-4)


class TestWatts:
    RUN = ("--dataset", "digits", "--size", "4", "--limit", "80", "--epochs", "0", "--quiet")

    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def run(self, *flags):
        assert main([*self.RUN, *flags, "--output", "run"]) == 0
        with open("run/results.json") as file:
            return json.load(file)["power"]

    def test_every_run_records_relative_power(self):
        found = self.run()
        stages = ["input", "mesh 1", "nonlinearity 1", "mesh 2"]
        assert [stage["stage"] for stage in found["stages"]] == stages
        assert found["unit_power_w"] == 1e-3
        assert found["samples"] == 80
        for stage in found["stages"]:
            assert 0 < stage["low"] < stage["median"] < stage["high"]

    def test_warns_of_the_meshes_below_the_floor(self, capsys):
        found = self.run("--detector-floor", "1e-5", "--unit-power", "0.002")
        (warning,) = capsys.readouterr().err.splitlines()
        seen = 0.002 * found["stages"][-1]["median"] / 16
        assert warning.startswith(f"mesh 2: detectors see {seen:.2g} W a port, below their floor")

    def test_is_silent_above_it(self, capsys):
        self.run("--detector-floor", "1e-5", "--amplifier", "level=5")
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("flag", ["--unit-power", "--detector-floor"])
    def test_a_digital_network_has_no_light(self, flag, capsys):
        with pytest.raises(SystemExit):
            main([*self.RUN, flag, "1e-3"], "digital")
        assert f"argument {flag} does not apply to mlp" in capsys.readouterr().err

    def test_a_modulator_s_parts_go_through_the_unit(self):
        self.run("--unit-power", "0.004", "--nonlinearity", "electro-optic:gain=1000,v_pi=5,bias=2")
        with open("run/config.json") as file:
            spec = json.load(file)["nonlinearity"]
        found = from_spec("nonlinearity", spec, NONLINEARITIES)
        assert found.alpha == 0.1
        assert found.g == pytest.approx(math.pi * 0.1 * 0.004 * 1000 / 5)
        assert found.phi_b == pytest.approx(0.4 * math.pi)


def test_the_floor_is_compared_with_the_power_of_a_port():
    budget = PowerBudget(("input", "mesh 1", "mesh 2"), np.array([[8.0], [8.0], [0.8]]), 8)
    assert budget.below(1.5) == {"mesh 1": 1.0, "mesh 2": 0.1}
    assert budget.below(0.5) == {"mesh 2": 0.1}
    assert budget.below(0.05) == {}


def test_the_parts_as_they_stand_make_the_published_modulator():
    found, published = ModulatorParts().at(1e-3), ElectroOptic()
    np.testing.assert_allclose(
        [found.alpha, found.g, found.phi_b], [published.alpha, published.g, published.phi_b]
    )


@pytest.mark.parametrize("spec", ["kerr", "electro-optic", "electro-optic:g=1,phi_b=2", "x:tap=1"])
def test_what_has_no_parts_stays_as_it_is(spec):
    assert in_units(spec, 0.5) == spec


@pytest.mark.parametrize("rest", ["tap=2", "gain=x", "tap=0.1,g=1", "v_pi=0", "bias"])
def test_parts_that_make_no_modulator_are_refused(rest):
    with pytest.raises(ValueError):
        in_units(f"electro-optic:tap=0.1,{rest}", 1e-3)


def test_a_digital_network_has_no_budget():
    model = Model(configure("digital"), PORTS, Classification(3))
    with pytest.raises(ValueError, match=r"photonic network.*, got mlp"):
        power_budget(model, light())
