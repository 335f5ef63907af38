"""Phases that do not move, and training that starts from a model."""

import numpy as np
import pytest

from meshes import Phases
from meshes.calibration import read_frozen
from photonic_ffzero import fit, load_model
from photonic_ffzero.cli.train import main
from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.model import Model

N = 4
RNG = np.random.default_rng(0)
X, Y = RNG.random((40, N)).astype(np.float32), np.arange(40) % 2
SMALL = {"epochs": 1, "batch_size": 20, "seed": 1}


def masks(meshes=2, value=False):
    grid = (N, N // 2)
    shapes = (grid, grid, (N,))
    return [Phases(*(np.full(shape, value) for shape in shapes)) for _ in range(meshes)]


def some_frozen():
    first, second = masks()
    first.theta[0] = first.gamma[2] = second.phi[:] = True
    return [first, second]


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "ff-ad", "optimizer": "adam"},
        {"method": "ff-dd", "directions": 2},
        {"method": "bp-dd", "directions": 2, "law": "orthonormal"},
        {"method": "ff-ad", "train_nonlinearity": True},
    ],
    ids=str,
)
def test_frozen_phases_keep_their_values_and_the_others_move(settings):
    frozen = some_frozen()
    start = Model(configure(**(SMALL | settings)), N, Classification(2))
    model = fit(X, Y, frozen_phases=frozen, **(SMALL | settings))
    for (_, params), (layer, before), still in zip(model.layers, start.layers, frozen, strict=True):
        for after, first, mask, free in zip(params, before, still, layer.trainable, strict=False):
            np.testing.assert_array_equal(after[mask], np.asarray(first)[mask])
            moves = free & ~mask
            assert not moves.any() or (after != first)[moves].any()


def test_training_starts_from_a_model():
    model = fit(X, Y, **SMALL)
    again = fit(X, Y, start_from=model, **(SMALL | {"epochs": 0, "seed": 2}))
    np.testing.assert_array_equal(again.scores(X), model.scores(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"frozen_phases": masks(2, True)},
            "frozen_phases must leave a phase of mesh 1 that moves",
        ),
        (
            {"frozen_phases": masks(2, True), "method": "bp-dd"},
            "frozen_phases must leave a phase that moves",
        ),
        ({"frozen_phases": masks(1)}, "frozen_phases must be for each of 2 meshes, got 1"),
        ({"frozen_phases": masks(1)[0]}, "frozen_phases must be for each of 2 meshes, got 1"),
        (
            {"frozen_phases": [masks()[0], masks()[0]._replace(gamma=np.zeros(3, bool))]},
            r"frozen_phases of mesh 2\.gamma must be booleans of shape \(4,\), got bool of \(3,\)",
        ),
        ({"frozen_phases": [masks()[0], (1,)]}, "frozen_phases of mesh 2 must be Phases"),
        ({"frozen_phases": masks(), "recipe": "digital"}, "frozen_phases needs meshes, got mlp"),
        ({"start_from": "results/run"}, "start_from must be a Model .*got 'results/run'"),
    ],
)
def test_refuses(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit(X, Y, **(SMALL | options))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mesh3_theta": np.zeros((4, 2), bool)}, "'mesh3_theta'"),
        ({"mesh1_theta": np.zeros((2, 4), bool)}, r"mesh1_theta must have shape \(4, 2\), found"),
        ({"mesh1_theta": np.zeros((4, 2))}, "mesh1_theta.*float64"),
    ],
)
def test_refuses_files(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    model = Model(configure(**SMALL), N, Classification(2))
    with pytest.raises(ValueError, match=rf"x\.npz.*{message}"):
        read_frozen(tmp_path / "x.npz", [layer.mesh for layer, _ in model.layers])


def test_the_command_line_takes_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    still = np.zeros((16, 8), bool)
    still[:5] = True
    np.savez("frozen.npz", mesh1_theta=still)
    flags = "--dataset digits --size 4 --limit 64 --epochs 1 --meshes 1 --validation 0 --quiet"
    command = [*flags.split(), "--directions", "2", "--frozen-phases", "frozen.npz"]
    assert main([*command, "--output", "run"]) == 0
    model = load_model("run/model.npz")
    start = Model(model.config, model.units, model.task)
    after, before = (m.params[0][0].theta for m in (model, start))
    np.testing.assert_array_equal(after[still], before[still])
    assert (after[5:] != before[5:]).any()
    every = {f"mesh1_{name}": np.ones(size, bool) for name, size in (("gamma", 16),)}
    grids = {f"mesh1_{name}": np.ones((16, 8), bool) for name in ("theta", "phi")}
    np.savez("frozen.npz", **every, **grids)
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--output", "other"])
    assert "--frozen-phases must leave a phase of mesh 1 that moves" in capsys.readouterr().err
