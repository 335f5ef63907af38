"""Where the light goes, amplifiers on its way, and what a run takes on a chip."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meshes import NONLINEARITIES
from meshes.validation import from_spec
from photonic_ffzero import Model, Samples, Trainer, configure
from photonic_ffzero.cli.train import main
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.model import Usage
from photonic_ffzero.power import ChipRates, PowerBudget, in_units, power_budget
from photonic_ffzero.runs import plan_for

PORTS = 8
STATIC = "insertion_loss_db=0.1,splitter_error=0.05"
PASSIVE = sorted(name for name, cls in NONLINEARITIES.items() if cls.passive)


def light(samples=20):
    rng = np.random.default_rng(0)
    return (rng.random((samples, PORTS)) * rng.uniform(0.2, 1, (samples, 1))).astype(np.float32)


def network(**settings):
    return Model(configure(seed=1, columns=4, **settings), PORTS, Classification(3))


class TestBudget:
    @pytest.mark.parametrize("nonlinearity", PASSIVE)
    def test_energy_never_grows_without_gain(self, nonlinearity):
        for engine, imperfections in (("native", ""), ("xla", STATIC)):
            chosen = {"nonlinearity": nonlinearity, "imperfections": imperfections}
            powers = power_budget(network(engine=engine, meshes=3, **chosen), light()).powers
            assert np.all(powers[1:] <= powers[:-1] * (1 + 1e-5))

    @pytest.mark.parametrize(("method", "train_nonlinearity"), [("ff-dd", False), ("bp-ad", True)])
    def test_an_amplifier_follows_every_nonlinearity(self, method, train_nonlinearity):
        chosen = {"method": method, "train_nonlinearity": train_nonlinearity}
        budget = power_budget(network(meshes=3, amplifier="level=5", **chosen), light())
        between = ["nonlinearity", "amplifier", "mesh"]
        names = [stage.split()[0] for stage in budget.stages]
        assert names == ["input", "mesh", *between, *between]
        for stage, powers in zip(budget.stages, budget.powers, strict=True):
            if stage.startswith("amplifier") or stage in ("mesh 2", "mesh 3"):
                np.testing.assert_allclose(powers, 5, rtol=1e-4)

    def test_is_what_the_detectors_see(self):
        model, x = network(meshes=2, amplifier="gain=3"), light()
        budget = power_budget(model, x)
        for number, (block, params) in enumerate(zip(model.blocks, model.params, strict=True), 1):
            power = budget.powers[budget.stages.index(f"mesh {number}")]
            np.testing.assert_allclose(power, block.all_measured(params, x).sum(axis=-1), 1e-4)
            x = block.all_outputs(params, x)

    def test_names_the_meshes_with_less_power_a_port_than_the_floor(self):
        budget = PowerBudget(("input", "mesh 1", "mesh 2"), np.array([[8.0], [8.0], [0.8]]), 8)
        assert budget.below(1.5) == {"mesh 1": 1.0, "mesh 2": 0.1}
        assert budget.below(0.5) == {"mesh 2": 0.1}
        assert budget.below(0.05) == {}

    def test_takes_lists_and_tables(self):
        from pandas import DataFrame

        model, x = network(imperfections="source_noise=0.1"), light()
        expected = power_budget(model, x).powers
        for same in (x.tolist(), DataFrame(x)):
            np.testing.assert_array_equal(power_budget(model, same).powers, expected)

    def test_refuses_another_width(self):
        with pytest.raises(ValueError, match=rf"x must have shape \[n, {PORTS}\], got"):
            power_budget(network(), light()[:, 1:])

    def test_a_digital_network_has_none(self):
        model = Model(configure("digital"), PORTS, Classification(3))
        with pytest.raises(ValueError, match=r"photonic network.*, got mlp"):
            power_budget(model, light())


class TestAmplifiers:
    """Three meshes, so that there are two amplifiers."""

    def trained(self, **settings):
        model = network(meshes=3, batch_size=10, epochs=1, **settings)
        Trainer(model, Samples(light(), np.arange(20) % 3)).run()
        return model

    @pytest.mark.parametrize("method", ["ff-dd", "ff-ad", "bp-dd", "bp-ad"])
    def test_gain_counts_and_a_gain_of_one_is_none_to_the_bit(self, method):
        chosen = {"method": method} | ({"directions": 2} if method.endswith("dd") else {})
        off, one, level = (
            self.trained(amplifier=amplifier, **chosen) for amplifier in ("", "gain=1", "level=4")
        )
        assert np.isfinite(level.scores(light())).all()
        np.testing.assert_array_equal(off.scores(light()), one.scores(light()))
        losses = [[record.loss for record in model.history] for model in (off, one, level)]
        assert losses[0] == losses[1] != losses[2]


class TestParts:
    def test_become_the_settings_of_a_modulator_in_the_unit_of_power(self):
        text = in_units("electro-optic:gain=1000,v_pi=5,bias=2", 0.004)
        modulator = from_spec("nonlinearity", text, NONLINEARITIES)
        assert modulator.alpha == 0.1
        assert modulator.g == pytest.approx(math.pi * 0.1 * 0.004 * 1000 / 5)
        assert modulator.phi_b == pytest.approx(0.4 * math.pi)
        for other in ("kerr", "electro-optic:g=1", "x:tap=1"):
            assert in_units(other, 0.5) == other

    @pytest.mark.parametrize("rest", ["tap=2", "gain=x", "g=1"])
    def test_that_make_no_modulator_are_refused(self, rest):
        with pytest.raises(ValueError, match=r"nonlinearity|tap|v_pi"):
            in_units(f"electro-optic:tap=0.1,{rest}", 1e-3)


class TestRates:
    def test_passes_and_writes_add_up_one_after_another(self):
        usage = Usage(forward_passes=3_000_000, phase_writes=200)
        rates = ChipRates(symbol_rate=1e9, write_time=1e-5, chip_power=4.0)
        assert rates.seconds(usage) == pytest.approx(3e-3 + 2e-3)
        assert rates.joules(usage) == pytest.approx(0.02)
        assert replace(rates, chip_power=None).joules(usage) is None

    @pytest.mark.parametrize(
        ("recipe", "rates", "error"),
        [
            ("balanced", (0, 0, None), "symbol_rate must be greater than 0"),
            ("balanced", (1, -1, None), "write_time must be at least 0"),
            ("balanced", (1, 1, -1), "chip_power must be at least 0"),
            ("balanced", (1, None, None), "write_time must be set with symbol_rate"),
            ("balanced", (None, 1, 1), "symbol_rate must be set with write_time"),
            ("digital", (1, 1, None), "symbol_rate does not apply to mlp"),
        ],
        ids=str,
    )
    def test_a_plan_refuses(self, recipe, rates, error):
        names = ("symbol_rate", "write_time", "chip_power")
        chosen = {name: rate for name, rate in zip(names, rates, strict=True) if rate is not None}
        with pytest.raises(ValueError, match=error):
            plan_for("digits", configure(recipe), **chosen)


class TestRun:
    QUICK = ("--dataset", "digits", "--size", "4", "--limit", "80", "--quiet", "--output", "run")

    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def results(self, flags):
        assert main([*self.QUICK, *flags.split()]) == 0
        return (json.loads(Path(f"run/{name}.json").read_text()) for name in ("results", "config"))

    def test_records_relative_power_and_is_silent_above_the_floor(self, capsys):
        results, _ = self.results("--epochs 0 --detector-floor 1e-5 --amplifier level=5")
        assert capsys.readouterr().err == ""
        assert results["chip_seconds"] is results["chip_joules"] is None
        power = results["power"]
        stages = ["input", "mesh 1", "nonlinearity 1", "amplifier 1", "mesh 2"]
        assert [stage["stage"] for stage in power["stages"]] == stages
        assert (power["unit_power_w"], power["samples"]) == (1e-3, 80)
        assert all(0 < s["low"] <= s["median"] <= s["high"] for s in power["stages"])

    def test_warns_of_the_meshes_below_the_floor_in_the_unit(self, capsys):
        flags = "--epochs 0 --detector-floor 1e-5 --unit-power 0.002"
        results, config = self.results(f"{flags} --nonlinearity electro-optic:gain=0.1")
        (warning,) = capsys.readouterr().err.splitlines()
        seen = 0.002 * results["power"]["stages"][-1]["median"] / 16
        assert warning.startswith(f"mesh 2: detectors see {seen:.2g} W a port")
        assert config["nonlinearity"] == in_units("electro-optic:gain=0.1", 0.002)

    def test_says_what_the_chip_would_take(self, capsys):
        flags = "--symbol-rate 1e6 --write-time 1e-3 --chip-power 2 --epochs 1 --directions 1"
        results, config = self.results(flags)
        seconds = results["forward_passes"] / 1e6 + results["phase_writes"] * 1e-3
        assert results["chip_seconds"] == pytest.approx(seconds)
        assert results["chip_joules"] == pytest.approx(2 * seconds)
        assert f"on the chip {seconds:.3g} s and {2 * seconds:.3g} J" in capsys.readouterr().out
        assert (config["symbol_rate"], config["chip_power"]) == (1e6, 2)
