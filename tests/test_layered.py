"""The layered law: its metric against a Jacobian, its covariance, and the training with it."""

import numpy as np
import pytest

from meshes import Phases, RectangularMesh
from meshes._tensorflow import tf
from meshes.sensitivity import metric, pair_metric
from photonic_ffzero import Model, Trainer, configure, fit
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.devices.simulated import SimulatedChip
from photonic_ffzero.gradients.directions import LAWS, Sampler, draw
from photonic_ffzero.gradients.estimators import CentralDifference, estimate
from photonic_ffzero.gradients.objectives import Objective, combine, displacements
from photonic_ffzero.layers import photonic
from photonic_ffzero.storage import load_checkpoint, save_checkpoint
from photonic_ffzero.training import step as steps
from photonic_ffzero.training.observer import Observer, StoppedError
from photonic_ffzero.training.step import Samples

RNG = np.random.default_rng(0)
SHAPES = [(4, 4), (6, 6), (5, 5), (6, 3), (7, 4), (2, 1)]
LAW = LAWS["layered"]


def light(units, count=9):
    """Fields with a mean power of 1 a port, bright in front."""
    x = RNG.normal(size=(count, units)) + 1j * RNG.normal(size=(count, units))
    x *= np.linspace(2, 1, units)
    return x / np.sqrt(np.mean(np.abs(x) ** 2))


def as_phases(mesh, values):
    """All entries [P, D] as phases."""
    ends = np.cumsum([mesh.mask.size, mesh.mask.size])
    theta, phi, gamma = np.split(values, ends, axis=1)
    return Phases(*(w.reshape(-1, *mesh.mask.shape) for w in (theta, phi)), gamma)


def brute_force(mesh, phases, x):
    """The mean of J^T J over the inputs from differences of fields, and the entries that act."""
    values = np.concatenate([np.ravel(w) for w in phases]).astype(np.float64)
    steps = 1e-6 * np.concatenate([np.eye(len(values)), -np.eye(len(values))])
    plus, minus = np.split(mesh.propagate(x, as_phases(mesh, values + steps), "xla"), 2)
    changes = (plus - minus).reshape(len(values), -1) / 2e-6
    acting = np.concatenate([np.tile(mesh.mask.ravel(), 2), np.ones(mesh.units, bool)])
    rows = np.concatenate([changes.real, changes.imag], axis=1)[acting]
    return rows @ rows.T / len(x), np.flatnonzero(acting)


@pytest.mark.parametrize("shape", SHAPES)
class TestMetric:
    def test_is_the_mean_of_the_squared_jacobian(self, shape):
        """Of an ideal mesh, whatever the couplers are, and however bright the light is."""
        mesh = RectangularMesh(*shape)
        phases, x = mesh.initial_phases(1), light(shape[0])
        expected, _ = brute_force(mesh, phases, x)
        np.testing.assert_allclose(metric(mesh, phases, x), expected, atol=2e-6)
        chip = RectangularMesh(*shape, splitter_error=0.1, insertion_loss_db=1)
        np.testing.assert_array_equal(metric(chip, phases, 30 * x), metric(mesh, phases, x))

    def test_a_column_is_cut_into_interferometers(self, shape):
        mesh = RectangularMesh(*shape)
        phases, x = mesh.initial_phases(2), light(shape[0])
        whole = metric(mesh, phases, x)
        pairs, gammas = pair_metric(mesh, phases, x)
        column, place = np.nonzero(mesh.mask)
        order = [np.r_[n, len(column) + n] for n in range(len(column))]
        for entries, block in zip(order, pairs, strict=True):
            np.testing.assert_allclose(block, whole[np.ix_(entries, entries)], atol=2e-6)
        screen = whole[2 * len(column) :, 2 * len(column) :]
        np.testing.assert_allclose(np.diag(gammas[:, 0, 0]), screen, atol=2e-6)
        for other in range(len(column)):  # nothing else in the same column is coupled
            same = np.flatnonzero((column == column[other]) & (place != place[other]))
            entries = np.ix_(order[other], np.r_[same, len(column) + same])
            np.testing.assert_allclose(whole[entries], 0, atol=2e-6)

    def test_unknown_light_is_equal_at_all_ports(self, shape):
        mesh = RectangularMesh(*shape)
        phases = mesh.initial_phases(3)
        expected, _ = brute_force(mesh, phases, np.sqrt(shape[0]) * np.eye(shape[0]))
        for x in (None, np.zeros((2, shape[0]))):
            np.testing.assert_allclose(metric(mesh, phases, x), expected, atol=2e-6)


def layer(mesh):
    return photonic.Photonic(mesh, photonic.Linear(), "native")


def expected_covariance(mesh, phases, x, trained):
    """Sigma of all D entries from the brute-force metric; zero where nothing is trained."""
    found, acting = brute_force(mesh, phases, x)
    kept = trained[acting]
    moved = acting[kept]
    part = found[np.ix_(kept, kept)]
    covariance = np.zeros((len(trained), len(trained)))
    inverse = np.linalg.inv(part + LAW.rho * np.eye(len(part)))
    covariance[np.ix_(moved, moved)] = (1 + LAW.rho) * inverse
    return covariance


@pytest.mark.parametrize("shape", [(4, 4), (6, 6)])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("most", [64**2, 0], ids=["whole", "by column"])
def test_directions_have_the_covariance(monkeypatch, shape, frozen, most):
    monkeypatch.setattr(photonic, "MOST_TOGETHER", most)
    mesh = RectangularMesh(*shape)
    phases, x, mesh_layer = mesh.initial_phases(4), light(shape[0]), layer(mesh)
    trainable = mesh_layer.trainable
    if frozen:
        theta = trainable.theta.copy()
        theta[1, 0] = False
        trainable = trainable._replace(theta=theta)
    sampler = Sampler("layered", 1e-2, 20_000, (trainable,))
    sampler.follow(mesh_layer.together, mesh_layer.metric(phases, x))
    v = sampler.draw(np.random.default_rng(5), 1).v[0]
    assert all(array.dtype == np.float32 for array in v)
    v = np.concatenate([array.reshape(20_000, -1) for array in v], axis=1).astype(np.float64)
    trained = np.concatenate([np.ravel(mask) for mask in trainable])
    expected = expected_covariance(mesh, phases, x, trained)
    if not most:  # what the metric couples within a column, and nothing else
        found, acting = brute_force(mesh, phases, x)
        column, _ = np.divmod(acting, mesh.mask.shape[1])
        column = np.where(acting < 2 * mesh.mask.size, column % len(mesh.mask), -1)
        within = np.where(column[:, None] == column, found, 0)
        expected = np.zeros_like(expected)
        kept = trained[acting]
        inverse = np.linalg.inv(within[np.ix_(kept, kept)] + LAW.rho * np.eye(kept.sum()))
        expected[np.ix_(acting[kept], acting[kept])] = (1 + LAW.rho) * inverse
    # The variance of a product is at most twice that of the squares.
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    tolerance = 5 * np.sqrt(2 / 20_000) * scale
    assert np.all(np.abs(v.T @ v / 20_000 - expected) <= tolerance + 1e-9)


def test_without_a_network_the_law_is_gaussian():
    masks = (np.ones(5, bool),)
    first, second = (draw(law, 1e-2, 3, masks, np.random.default_rng(6)) for law in LAWS_ALIKE)
    np.testing.assert_array_equal(first.v[0], second.v[0])


LAWS_ALIKE = ("layered", "gaussian")


def test_the_expected_estimate_is_the_covariance_times_the_gradient():
    mesh = RectangularMesh(4)
    phases, x, mesh_layer = mesh.initial_phases(7), light(4), layer(mesh)
    trainable = (mesh_layer.trainable,)
    slope = tuple(np.float32(RNG.normal(size=mask.shape)) for mask in trainable[0])
    origin = (Phases(*(np.zeros(mask.shape, np.float32) for mask in trainable[0])),)

    def losses(points):
        return tf.add_n(
            [
                tf.reduce_sum(w * g, axis=range(1, len(w.shape)))
                for w, g in zip(points[0], slope, strict=True)
            ]
        )[:, tf.newaxis]

    sampler = Sampler("layered", 1e-2, 40_000, trainable)
    sampler.follow(mesh_layer.together, mesh_layer.metric(phases, x))
    directions = sampler.draw(np.random.default_rng(8), 1).of_step(0)
    objective = Objective(origin, lambda points: points, losses, displacements, combine)
    (found,) = estimate(CentralDifference(), objective, directions).gradient
    found = np.concatenate([np.ravel(part) for part in found])
    gradient = np.concatenate([np.ravel(part) for part in slope])
    trained = np.concatenate([np.ravel(mask) for mask in trainable[0]])
    covariance = expected_covariance(mesh, phases, x, trained)
    spread = np.sqrt(2 * np.diag(covariance) * (gradient @ covariance @ gradient) / 40_000)
    assert np.all(np.abs(found - covariance @ gradient) <= 5 * spread + 1e-3)


N, CLASSES = 6, 3
X = np.abs(RNG.normal(size=(24, N))).astype(np.float32)
Y = np.arange(24) % CLASSES
SETTINGS = {"directions": 2, "epochs": 2, "batch_size": 4, "law": "layered"}


class StopAt(Observer):
    def __init__(self, step, path):
        self.left, self.path = step, path

    def on_steps(self, mesh, losses):
        self.left -= len(losses)
        if self.left == 0:
            raise StoppedError

    def on_checkpoint(self, model, position):
        save_checkpoint(model, position, self.path)


class TestTraining:
    @pytest.mark.parametrize(
        ("most", "stop"),
        [(64**2, 4), (0, 14), *(pytest.param(64**2, n, marks=pytest.mark.long) for n in (6, 12))],
    )
    def test_a_resumed_run_ends_as_one_that_never_stopped(self, monkeypatch, tmp_path, most, stop):
        """6 steps an epoch in calls of 2; the metric is taken anew after every 3."""
        monkeypatch.setattr(photonic, "MOST_TOGETHER", most)
        monkeypatch.setattr(steps, "MOST_STEPS", 2)
        monkeypatch.setitem(LAWS, "layered", type(LAW)(every=3, smoothing=0.3))
        config = configure("balanced", "ff-dd", meshes=2, imperfections="ntt-2025", **SETTINGS)
        task, samples = Classification(CLASSES), Samples(X, Y)
        whole = Trainer(Model(config, N, task), samples).run()
        path = tmp_path / "checkpoint.npz"
        with pytest.raises(StoppedError):
            Trainer(Model(config, N, task), samples, observers=(StopAt(stop, path),)).run()
        model, position = load_checkpoint(path)
        assert position.metric
        resumed = Trainer(model, samples, position=position).run()
        for found, expected in zip(
            tf.nest.flatten(resumed.params), tf.nest.flatten(whole.params), strict=True
        ):
            np.testing.assert_array_equal(found, expected)

    def test_follows_the_network(self, monkeypatch):
        """Another smoothing is another run; one that keeps the first metric is not renewed."""
        runs = []
        for smoothing, every in ((0.0, 1), (0.0, 10**6), (0.5, 1)):
            monkeypatch.setitem(LAWS, "layered", type(LAW)(every=every, smoothing=smoothing))
            runs.append(fit(X, Y, meshes=1, **SETTINGS).params[0][0].theta)
        np.testing.assert_array_equal(runs[0], runs[1])
        assert np.any(runs[0] != runs[2])

    @pytest.mark.parametrize("method", ["ff-dd", "bp-dd"])
    def test_devices_need_the_layout_alone(self, method):
        chip = SimulatedChip(N, meshes=2)
        model = fit(X, Y, method=method, device=chip, meshes=2, **(SETTINGS | {"epochs": 1}))
        assert all(np.isfinite(w).all() for w in tf.nest.flatten(model.params))

    def test_trained_modulators_are_moved_as_by_the_gaussian_law(self):
        model = fit(X, Y, train_nonlinearity=True, **(SETTINGS | {"epochs": 1}))
        assert all(np.isfinite(w).all() for w in tf.nest.flatten(model.params))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "digital", "network": "mlp"}, "law layered is for meshes, .* got mlp"),
        ({"estimator": "cones"}, "estimator must be central, .* for law layered, .* got cones"),
    ],
)
def test_what_it_does_not_fit_gets_one_line(settings, message):
    with pytest.raises(ValueError, match=message):
        configure(**({"law": "layered"} | settings))


def test_the_whole_covariance_ends_at_64_ports():
    assert len(layer(RectangularMesh(64)).together) == 1
    assert len(layer(RectangularMesh(65)).together) == 2


@pytest.mark.parametrize("noise", ["write_noise=0.01", "source_noise=0.01", "drift=0.01"])
@pytest.mark.parametrize("method", ["ff-dd", "bp-dd"])
def test_trains_meshes_whose_light_is_noisy(noise, method):
    y = np.arange(32) % 2
    given = {"law": "layered", "imperfections": noise, "meshes": 2, "directions": 2}
    model = fit(light(4, 32), y, method=method, epochs=1, batch_size=16, progress=False, **given)
    assert np.isfinite(model.history[-1].loss)
