"""Time and energy on the chip, from counts and rates to the results."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from photonic_ffzero.cli.train import main
from photonic_ffzero.config import configure
from photonic_ffzero.model import Usage
from photonic_ffzero.power import ChipRates
from photonic_ffzero.runs.plan import plan_for

USAGE = Usage(forward_passes=3_000_000, phase_writes=200)
QUICK = ["--dataset", "digits", "--size", "4", "--limit", "120", "--epochs", "1"]
QUICK += ["--batch-size", "60", "--quiet", "--output", "run"]


def test_passes_and_writes_add_up_one_after_another():
    rates = ChipRates(symbol_rate=1e9, write_time=1e-5, chip_power=4.0)
    assert rates.seconds(USAGE) == pytest.approx(3e-3 + 2e-3)
    assert rates.joules(USAGE) == pytest.approx(0.02)
    assert replace(rates, chip_power=None).joules(USAGE) is None


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"symbol_rate": 0, "write_time": 0}, "symbol_rate must be greater than 0"),
        ({"symbol_rate": 1, "write_time": -1}, "write_time must be at least 0"),
        ({"symbol_rate": 1, "write_time": 1, "chip_power": -1}, "chip_power must be at least 0"),
        ({"symbol_rate": 1}, "write_time must be set with symbol_rate"),
        ({"chip_power": 1, "write_time": 1}, "symbol_rate must be set with write_time, chip_power"),
    ],
)
def test_a_plan_refuses(given, error):
    with pytest.raises(ValueError, match=error):
        plan_for("digits", configure(), **given)


def test_a_digital_network_is_on_no_chip():
    with pytest.raises(ValueError, match="symbol_rate does not apply to mlp"):
        plan_for("digits", configure("digital"), symbol_rate=1.0, write_time=1.0)


class TestRun:
    def result(self, *flags):
        assert main([*QUICK, *flags]) == 0
        return json.loads(Path("run/results.json").read_text())

    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_says_what_the_chip_would_take(self, capsys):
        flags = ["--symbol-rate", "1e6", "--write-time", "1e-3", "--chip-power", "2"]
        found = self.result(*flags)
        seconds = found["forward_passes"] / 1e6 + found["phase_writes"] * 1e-3
        assert found["chip_seconds"] == pytest.approx(seconds)
        assert found["chip_joules"] == pytest.approx(2 * seconds)
        assert f"on the chip {seconds:.3g} s and {2 * seconds:.3g} J" in capsys.readouterr().out
        config = json.loads(Path("run/config.json").read_text())
        assert (config["symbol_rate"], config["chip_power"]) == (1e6, 2)

    def test_says_nothing_without_rates(self, capsys):
        found = self.result()
        assert found["chip_seconds"] is found["chip_joules"] is None
        assert "on the chip" not in capsys.readouterr().out

    def test_a_flag_alone_is_refused_by_its_name(self, capsys):
        with pytest.raises(SystemExit, match="2"):
            main([*QUICK, "--chip-power", "1"])
        assert "argument --symbol-rate must be set with chip_power" in capsys.readouterr().err
        assert not Path("run").exists()
