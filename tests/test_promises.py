"""What version 0.1 offered still works: names, flags, module paths, and its files.

`promises.json` lists what commit 4baf77a had; names may be added, none may go. `former_run` is a
run that this commit began and did not end; `former_results.json` is what it ended in.
"""

import importlib
import json
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from photonic_ffzero import Config, configure, load_model
from photonic_ffzero.cli.train import build_parser, main
from photonic_ffzero.config import read_config
from photonic_ffzero.settings import completed, settings_of

HERE = Path(__file__).parent
PROMISES = json.loads((HERE / "promises.json").read_text())


@pytest.mark.parametrize("package", PROMISES["public_names"])
def test_public_names_are_there(package):
    module = importlib.import_module(package)
    names = set(PROMISES["public_names"][package])
    assert names <= set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("path", PROMISES["former_paths"])
def test_former_module_paths_are_there(path):
    module = importlib.import_module(path)
    assert set(PROMISES["former_paths"][path]) <= set(dir(module))


@pytest.mark.parametrize("registry", PROMISES["registries"])
def test_registries_keep_their_names(registry):
    assert set(PROMISES["registries"][registry]) <= set(pkgutil.resolve_name(registry))


def test_settings_and_flags_are_there():
    assert set(PROMISES["settings"]) <= set(settings_of(Config))
    flags = {flag for action in build_parser()._actions for flag in action.option_strings}
    assert set(PROMISES["flags"]) <= flags


def test_scripts_and_targets_are_there():
    root = HERE.parent
    assert set(PROMISES["scripts"]) <= {path.name for path in (root / "experiments").glob("*.py")}
    makefile = (root / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in PROMISES["targets"])


def test_a_former_path_runs_as_a_program():
    command = [sys.executable, "-m", "photonic_ffzero.report", "--help"]
    assert "--output" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


FORMER_SPECS = {
    "nonlinearity": {
        "electro-optic:": "electro-optic",
        "electro-optic:g=1,,alpha=0.2,": "electro-optic:g=1,alpha=0.2",
        "electro-optic: g=9, g=1": "electro-optic:g=1",
        "kerr:phi_nl=1": "kerr:phi_nl=1",
    },
    "loss": {"cross-entropy:": "cross-entropy", "margin:margin=1,": "margin:margin=1"},
    "imperfections": {"read_noise=0.1,": "read_noise=0.1", "": "", ",": ""},
    "amplifier": {"gain=2,": "gain=2"},
}


@pytest.mark.parametrize("name", FORMER_SPECS)
def test_former_specifications_are_read_from_files_alone(name):
    written = configure().as_json()
    for former, today in FORMER_SPECS[name].items():
        assert getattr(Config(**completed(Config, written | {name: former})), name) == today
        if former != today:
            with pytest.raises(ValueError, match=name):
                configure(**{name: former})
    assert completed(Config, written) == written


@pytest.mark.parametrize("network", ["mlp", "cnn", "mixer"])
def test_files_from_before_a_setting_existed_mean_what_was_done_then(network):
    written = configure("digital", network=network).as_json()
    for name in ("scaling", "initialization", "weight_decay", "colour"):
        older = {other: value for other, value in written.items() if other != name}
        assert read_config(older).as_json() == written


@pytest.mark.parametrize(
    ("device", "today"),
    [("simulated:", "simulated"), ("os:getcwd", "os:getcwd"), ("tcp://a:1?retries=0",) * 2],
)
def test_former_devices_too(device, today):
    assert completed(Config, {"device": device})["device"] == today


def test_a_former_run_loads_resumes_and_ends_in_its_figures(tmp_path):
    run = shutil.copytree(HERE / "former_run", tmp_path / "run")
    assert load_model(run / "model.npz").units == 16
    assert main(["--resume", str(run), "--quiet"]) == 0
    results = json.loads((run / "results.json").read_text())
    expected = json.loads((HERE / "former_results.json").read_text())
    assert set(PROMISES["results_keys"]) <= set(results)
    for name, value in expected.items():
        assert results[name] == pytest.approx(value, abs=0.02), name  # other machines round apart
