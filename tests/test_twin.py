"""The twin: its fit, its gradient and its correction, and what a run learns of a chip."""

from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from test_gradients import CLASSES, axes

from meshes import (
    Amplifier,
    Chip,
    ChipEstimate,
    ElectroOptic,
    Imperfections,
    Phases,
)
from meshes._tensorflow import tf
from meshes.estimate import difference
from photonic_ffzero import SimulatedChip, calibrate, configure, fit
from photonic_ffzero.cli.calibrate import main as command_line
from photonic_ffzero.devices import Device, DeviceError, DeviceServer
from photonic_ffzero.goodness.losses import CrossEntropy
from photonic_ffzero.goodness.prototypes import simplex
from photonic_ffzero.goodness.readouts import Goodness
from photonic_ffzero.gradients import (
    Autodiff,
    CentralDifference,
    TwinEstimator,
    control,
    estimate,
    estimators,
)
from photonic_ffzero.gradients.directions import Directions, draw
from photonic_ffzero.gradients.objectives import Weights
from photonic_ffzero.gradients.twin import Comparison, Prior, _misfit
from photonic_ffzero.layers.blocks import Block
from photonic_ffzero.layers.photonic import Photonic
from photonic_ffzero.runs.claim import claim_new
from photonic_ffzero.seeds import generator
from photonic_ffzero.training.calibration import calibrated, stages
from photonic_ffzero.training.twins import learned, nominal_twin, twin_of
from photonic_ffzero.training.warnings import ResultWarning

N, B = 6, 20
IMPERFECTIONS = Imperfections(splitter_error=0.05, phase_offset=0.2, insertion_loss_db=0.2)
BRIGHT = ElectroOptic(phi_b=np.pi / 2)
BRIEF = {"epochs": 2, "batch_size": 20, "estimator": "twin", "seed": 1}


def fabricated_block(meshes=1, imperfections=IMPERFECTIONS):
    """Meshes of a chip with one loss; parameters, and the truth about them."""
    chips = [imperfections.fabricate(N, seed=seed) for seed in range(meshes)]
    layers = tuple(Photonic(chip.mesh, BRIGHT, "auto", chip) for chip in chips)
    prototypes = simplex(CLASSES, N, generator(0, "prototypes"), zero_mean=True)
    block = Block(layers, Goodness(prototypes[np.newaxis], "balanced"))
    params = tuple(layer.init(generator(seed, "parameters")) for seed, layer in enumerate(layers))
    return block, params, ChipEstimate.of_chips(chips).meshes


def objective_of(block, params, twin=None, state=None):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((B, N)), tf.float32)
    y = rng.integers(0, CLASSES, (B, 1))
    objective = Weights()(block, CrossEntropy(), params, x, y)
    if twin is None:
        return objective
    return objective._replace(twin=twin.bound(state or twin.init(), x, 0.1))


def flat(gradient):
    return np.concatenate([np.ravel(g) for g in tf.nest.flatten(gradient)])


def unknown(meshes=1):
    return ChipEstimate.known(N, meshes=meshes).meshes


def samples(count=60):
    y = np.arange(count) % 2
    noise = np.random.default_rng(0).random((count, N), np.float32)
    return noise + np.eye(N, dtype=np.float32)[y], y


def trained(**settings):
    return fit(*samples(), **(BRIEF | {"meshes": 2} | settings))


# --- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("meshes", [1, 2])
def test_a_twin_that_knows_all_has_the_readings_and_the_gradient_of_the_chip(meshes):
    block, params, truth = fabricated_block(meshes)
    twin = nominal_twin(block, truth, port_losses=True)
    objective = objective_of(block, params, twin)
    exact = estimate(Autodiff(), objective, None)
    result = estimate(TwinEstimator(), objective, None)
    np.testing.assert_allclose(flat(result.gradient), flat(exact.gradient), atol=2e-5)
    np.testing.assert_allclose(result.loss, exact.loss, rtol=1e-5)
    assert float(result.state.error) < 1e-4


@pytest.mark.parametrize("meshes", [1, 2])
def test_the_first_step_of_the_fit_goes_down_the_misfit(meshes):
    """One mesh goes forth once for gradient and fit; both slopes equal those taken apart."""
    block, params, _ = fabricated_block(meshes)
    twin = nominal_twin(block, unknown(meshes))
    objective = objective_of(block, params, twin)
    result = estimate(TwinEstimator(), objective, None)
    points = tuple(Phases(*(w[np.newaxis] for w in part)) for part in params)
    readings = objective.measure(points)
    first = twin.init()
    inputs = (points, objective.twin.x, readings)
    (alone,) = twin.learn([first], *inputs, 0.1, tf.ones([1, B]), [Prior(first.values)])
    for one, other in zip(flat(alone.values), flat(result.state.values), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    ideal = objective_of(nominal_twin(block, unknown(meshes)).block, params)
    expected = estimate(Autodiff(), ideal, None)
    np.testing.assert_allclose(flat(result.gradient), flat(expected.gradient), atol=1e-5)


@pytest.mark.parametrize("meshes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_twin_without_error_stays_where_it_is(meshes):
    """In a compiled step, too, where a root of the squared error 0 has no slope."""
    block, params, truth = fabricated_block(meshes)
    twin = nominal_twin(block, truth, port_losses=True)
    objective = objective_of(block, params, twin)

    @tf.function(autograph=False)
    def step():
        result = estimate(TwinEstimator(), objective, None)
        return result.gradient, result.state

    gradient, state = step()
    assert np.isfinite(flat(gradient)).all()
    np.testing.assert_allclose(flat(state.values), flat(twin.init().values), atol=1e-6)


def test_what_is_known_exactly_does_not_move():
    block, params, (truth,) = fabricated_block()
    arrays = {f"mesh1_{name}": getattr(truth.values, name) for name in ("coupler1", "loss")}
    known = ChipEstimate.known(N, mesh1_coupler2_std=1e-3, **arrays).meshes
    twin = nominal_twin(block, known)
    objective = objective_of(block, params, twin)
    state = estimate(TwinEstimator(), objective, None).state
    (after,), (start,) = state.values, twin.init().values
    for name in ("coupler1", "loss"):
        np.testing.assert_array_equal(getattr(after, name), getattr(start, name))
    steps = {name: np.abs(getattr(after, name) - getattr(start, name)).max() for name in
             ("theta", "coupler2")}  # fmt: skip
    np.testing.assert_allclose([steps["theta"], steps["coupler2"]], [1e-2, 1e-4], rtol=0.01)


def test_what_readings_do_not_show_is_drawn_back_to_the_start():
    block, _, _ = fabricated_block()
    twin = nominal_twin(block, ChipEstimate.known(N).meshes)
    start = twin.init()
    (at_start,) = start.values
    away = at_start._replace(theta=at_start.theta + 0.1, loss=at_start.loss + 0.1)
    state = start._replace(values=(away,))
    still = (state.values, state.elements)
    still = Comparison(tf.nest.map_structure(tf.zeros_like, still), 0.0, 0.0)
    (after,) = twin.fitted(state, still, 0.1).values
    np.testing.assert_allclose(after.theta - at_start.theta, 0.1 * (1 - 0.1 * 0.05), rtol=1e-4)
    np.testing.assert_array_equal(after.loss, away.loss)  # which follows the total light
    for prior in (Prior((away,)), Prior(start.values, strength=0.0)):
        (kept,) = twin.fitted(state, still, 0.1, prior).values
        np.testing.assert_array_equal(kept.theta, away.theta)


def reachable(start):
    """Every object that the attributes and entries of an object lead to."""
    seen, queue = {}, [start]
    while queue:
        one = queue.pop()
        if id(one) not in seen and not isinstance(one, type):
            seen[id(one)] = one
            queue += getattr(one, "__dict__", {}).values()
            queue += one.values() if isinstance(one, dict) else []
            queue += one if isinstance(one, (tuple, list)) else []
    return seen.values()


@pytest.mark.parametrize(
    "settings",
    [
        {"imperfections": "splitter_error=0.05,loss_imbalance_db=0.1"},
        {"imperfections": "phase_offset=0.1,write_noise=0.01", "method": "bp-dd"},
        {"device": SimulatedChip(N, imperfections=IMPERFECTIONS)},
    ],
    ids=["chip", "bp", "device"],
)
def test_a_twin_holds_nothing_of_the_chip(settings):
    model = trained(epochs=0, directions=0, **settings)
    block = model.blocks[-1]
    if model.config.local:
        block = block.with_front(model.blocks[0], model.params[0])
    twin = twin_of(model, len(model.blocks) - 1, block)
    hidden = (Chip, Imperfections, SimulatedChip, Device)
    assert any(isinstance(one, hidden) for one in reachable(block))
    assert not any(isinstance(one, hidden) for one in reachable(twin))


def on_device(nonlinearity, meshes=2, **nominal):
    """The last block of a device, its parameters and its twin with nominal elements in front."""
    chip = SimulatedChip(N, meshes, nonlinearity=nonlinearity, amplifier=Amplifier(gain=2.0))
    model = trained(device=chip, meshes=meshes, epochs=0, **nominal)
    block = model.blocks[-1]
    for number in range(len(model.blocks) - 1):
        block = block.with_front(model.blocks[number], model.params[number])
    known = ChipEstimate.of_chips(Imperfections().fabricate(N) for _ in range(meshes)).meshes
    model.known = list(known)
    return block, model.params[-1], twin_of(model, len(model.blocks) - 1, block)


@pytest.mark.parametrize(
    ("spec", "counts"),
    [("electro-optic:g=0.3,phi_b=2", [3, 1]), ("kerr:phi_nl=0.8", [1, 1]), ("crelu", [0, 1])],
    ids=["electro-optic", "kerr", "crelu"],
)
@pytest.mark.parametrize("method", ["ff-dd", "bp-dd"])
def test_elements_between_the_meshes_of_a_device_have_their_slopes(method, spec, counts):
    """Each slope of the misfit equals that of differences."""
    chosen = {"twin_nonlinearity": spec, "twin_amplifier": "gain=1.5", "method": method}
    block, params, twin = on_device(ElectroOptic(phi_b=1.0), **chosen)
    assert [sum(map(len, each.values())) for each in twin.elements] == counts
    objective = objective_of(block, params, twin)
    points = tuple(Phases(*(w[np.newaxis] for w in part)) for part in params)
    readings = objective.measure(points)
    state, flatten = twin.init(), tf.nest.flatten
    (_, comparison), step = objective.twin.compare(objective, points, readings), 1e-2

    def misfit(elements):
        predicted = twin.measure((state.values, elements), points, objective.twin.x)
        return float(_misfit(predicted, readings)[0])

    here = flatten(state.elements)
    for place, slope in enumerate(flatten(comparison.slopes[1])):
        plus, minus = (
            misfit(tf.nest.pack_sequence_as(state.elements, [*here[:place], here[place] + h,
                                                             *here[place + 1:]]))
            for h in (step, -step)
        )  # fmt: skip
        np.testing.assert_allclose(slope, (plus - minus) / (2 * step), atol=5e-3)


@pytest.mark.long
def test_a_wrong_assumption_about_the_modulators_is_put_right():
    """The twin's error behind a mesh that is known falls, and so does that of the bias."""
    true = ElectroOptic(g=0.3, phi_b=1.8)
    block, params, twin = on_device(true, twin_nonlinearity="electro-optic:g=0.3,phi_b=1.5")
    objective, state, errors = objective_of(block, params, twin), twin.init(), []
    for _ in range(60):
        bound = objective._replace(twin=objective.twin._replace(state=state))
        points = tuple(Phases(*(w[np.newaxis] for w in part)) for part in params)
        _, comparison = bound.twin.compare(bound, points, bound.measure(points))
        errors.append(float(comparison.error))
        state = twin.fitted(state, comparison, 0.1)
    assert errors[-1] < 0.3 * errors[0]
    assert abs(twin.elements_of(state)[0]["nonlinearity"]["phi_b"].value - 1.8) < 0.15


# --- the correction -------------------------------------------------------------------------------

D, K, DRAWS = 30, 4, 600


def linear_case(coefficient, weight):
    """Estimates [DRAWS, D] of a linear loss's gradient, that gradient, and the model's."""
    rng = np.random.default_rng(0)
    exact, model = rng.normal(size=(2, D))
    how = control.Weighting(coefficient, weight, 0.5)

    @tf.function(autograph=False)
    def one(v, step):
        measured = step * tf.linalg.matvec(v, exact)
        return control.corrected(tf.constant(model), measured, Directions(v, step), how)

    drawn = [draw("rademacher", 0.01, K, np.ones(D, bool), rng) for _ in range(DRAWS)]
    found = [one(np.float64(each.v), np.float64(each.step)) for each in drawn]
    return np.stack(found), exact, model


@pytest.mark.compiled
@pytest.mark.parametrize(("coefficient", "weight"), [(0.0, 1.0), (0.7, 1.0), (2.0, 0.3)])
def test_the_bias_is_what_the_weight_leaves_of_the_models_error(coefficient, weight):
    """With w = 1 none, for any model; with w < 1 it is (1 - w)(c g_t - gradient)."""
    found, exact, model = linear_case(coefficient, weight)
    expected = exact + (1 - weight) * (coefficient * model - exact)
    errors = (found.mean(axis=0) - expected) / (found.std(axis=0) / np.sqrt(DRAWS))
    assert np.abs(errors).max() < 4.5
    np.testing.assert_allclose(np.mean(errors**2), 1, atol=0.8)


@pytest.mark.parametrize("epsilon", [0.02, 0.04])
def test_along_all_axes_any_twin_gives_the_gradient_of_the_chip(monkeypatch, epsilon):
    """Along a complete set of directions the mean is exact: what is left is O(epsilon^2)."""
    monkeypatch.setattr(estimators, "least_weight", lambda directions: 1.0)
    block, params, _ = fabricated_block()
    twin = nominal_twin(block, unknown())
    state = twin.init(np.random.default_rng(3))._replace(slopes=tf.constant([99.0, 2.0, 1.0, 1.0]))
    objective = objective_of(block, params, twin, state)
    exact = estimate(Autodiff(), objective_of(block, params), None)
    along = axes(block, epsilon / np.sqrt(flat(params).size))
    along = Directions(
        tf.nest.map_structure(np.float32, along.v), tf.nest.map_structure(np.float32, along.step)
    )
    result = estimate(TwinEstimator(), objective, along)
    assert (float(result.facts.weight), round(float(result.facts.coefficient), 1)) == (1.0, 1.0)
    biased = estimate(TwinEstimator(), objective, None)
    assert np.abs(flat(biased.gradient) - flat(exact.gradient)).max() > 0.1
    np.testing.assert_allclose(flat(result.gradient), flat(exact.gradient), atol=2e-2)


def test_slopes_and_readings_of_a_step_come_after_its_gradient():
    block, params, _ = fabricated_block()
    twin = nominal_twin(block, unknown())
    before = twin.init()._replace(slopes=tf.constant([50.0, 2.0, 1.5, 1.5]))
    objective = objective_of(block, params, twin, before)
    directions = draw("rademacher", 0.01, K, block.trainable, np.random.default_rng(0))
    result = estimate(TwinEstimator(), objective, directions)
    losses = objective.losses(objective.measure(TwinEstimator().points(objective, directions)))
    plus, minus = np.split(np.sum(losses, axis=1), 2)
    model = estimate(TwinEstimator(), objective, None).gradient
    how = control.weighting(before.slopes, control.least_weight(directions))
    expected = control.corrected(model, tf.constant((plus - minus) / 2), directions, how)
    np.testing.assert_allclose(flat(result.gradient), flat(expected), rtol=1e-3, atol=1e-3)
    assert not np.allclose(result.state.slopes, before.slopes)
    assert not np.allclose(flat(result.state.values), flat(before.values))


@pytest.mark.parametrize(
    ("law", "count", "expected"),
    [
        ("rademacher", 1, lambda k, d: 1 / d),
        ("rademacher", 12, lambda k, d: k / (k + d - 1)),
        ("gaussian", 12, lambda k, d: k / (k + d + 1)),
        ("orthonormal", 6, lambda k, d: k / d),
        ("orthonormal", 12, lambda k, d: 1.0),  # then the estimate is the gradient
    ],
)
def test_the_least_weight_is_that_of_least_squares(law, count, expected):
    rng, mask = np.random.default_rng(0), np.ones(12, bool)
    drawn = [draw(law, 0.01, count, mask, rng) for _ in range(400)]
    found = np.mean([float(control.least_weight(directions)) for directions in drawn])
    gradients = rng.normal(size=(400, 12))
    plain = np.einsum("nkd,nke,ne->nd", *[[d.v for d in drawn]] * 2, gradients) / count
    best = np.sum(plain * gradients) / np.sum(plain**2)
    assert found == pytest.approx(best, rel=0.06)
    assert found == pytest.approx(expected(count, 12), rel=0.06)


def test_slopes_that_disagree_leave_plain_differences():
    assert [float(x) for x in control.weighting(tf.zeros(4), 0.01)] == [0.0, 1.0, 1.0]
    rng = np.random.default_rng(0)
    for count, most in ((20, 0.3), (2000, 0.05)):
        d, p = rng.normal(size=(2, count))
        sums = tf.constant([count, d @ d, d @ p, p @ p], tf.float32)
        c, w, unexplained = control.weighting(sums, 0.01)
        assert abs(float(c)) < most
        assert float(unexplained) > 1 - most
        assert float(w) > 0.01**most


@pytest.mark.long
@pytest.mark.compiled
def test_a_useless_twin_costs_a_tenth_at_most():
    """With offsets at random in every step, against plain differences along the same lines."""
    block, params, _ = fabricated_block()
    twin, rng = nominal_twin(block, unknown()), np.random.default_rng(0)
    exact = flat(estimate(Autodiff(), objective_of(block, params), None).gradient)
    objective = objective_of(block, params, twin)

    @tf.function(autograph=False)
    def both(state, v, step):
        directions = Directions(v, step)
        bound = objective._replace(twin=objective.twin._replace(state=state))
        ours = estimate(TwinEstimator(), bound, directions)
        return ours, estimate(CentralDifference(), objective, directions).gradient

    squares, slopes = np.zeros(2), twin.init().slopes
    for _ in range(200):
        (values,) = twin.init().values
        offsets = {name: tf.constant(rng.uniform(0, 2 * np.pi, getattr(values, name).shape),
                   tf.float32) for name in Phases._fields}  # fmt: skip
        state = twin.init()._replace(values=(values._replace(**offsets),), slopes=slopes)
        drawn = draw("rademacher", 0.01, K, block.trainable, rng)
        ours, plain = both(state, drawn.v, drawn.step)
        slopes = ours.state.slopes
        squares += [np.sum((flat(g) - exact) ** 2) for g in (ours.gradient, plain)]
    assert squares[0] < 1.1 * squares[1]


# --- calibration ----------------------------------------------------------------------------------


def test_stages_of_a_calibration_end_with_all_columns():
    assert stages(64) == [2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64]
    assert stages(1) == [1]
    assert stages(10) == [2, 4, 8, 10]


@pytest.mark.long
@pytest.mark.parametrize(
    "imperfections",
    [IMPERFECTIONS, Imperfections(splitter_error=0.05, phase_offset=0.3, read_noise=0.05)],
    ids=["lossy", "noisy"],
)
def test_calibration_learns_offsets_and_couplers_and_knows_how_well(imperfections):
    """The errors are below the uncertainties, and not far below."""
    block, params, (truth,) = fabricated_block(imperfections=imperfections)
    rng = np.random.default_rng(0)
    (known,) = calibrated(
        block,
        nominal_twin(block, unknown()),
        params,
        lambda rng: rng.standard_normal((32, N), np.float32),
        600,
        [rng],
    ).start
    off = difference(known, truth)
    for name in ("theta", "phi", "gamma", "coupler1", "coupler2"):
        errors, std = getattr(off, name), getattr(known.std, name)
        seen = np.isfinite(errors) & np.isfinite(std)
        assert seen.any()
        assert np.sqrt(np.mean(errors[seen] ** 2)) < 0.03
        ratio = np.sqrt(np.mean((errors[seen] / std[seen]) ** 2))
        assert 0.15 < ratio < 1.5, name
    assert np.isinf(known.std.phi[-2:]).all()
    assert np.isinf(known.std.loss).all()
    np.testing.assert_allclose(
        known.values.loss.sum(axis=0), truth.values.loss.sum(axis=0), atol=0.1
    )


def test_a_training_keeps_its_uncertainties_or_enlarges_them():
    """Phases that hardly move do not tell the parameters apart."""
    block, _, _ = fabricated_block()
    start = ChipEstimate.known(N, mesh1_theta=0.1, mesh1_theta_std=0.01).meshes
    twin = nominal_twin(block, start)
    state = twin.init()
    (values,) = state.values
    (after,) = learned(twin, state._replace(values=(values._replace(theta=values.theta + 0.02),)))
    mask = start[0].mesh.mask
    np.testing.assert_allclose(after.std.theta[mask], np.hypot(0.01, 0.02), rtol=1e-4)
    assert np.isinf(after.std.phi).all()


# --- in training ----------------------------------------------------------------------------------


def test_the_history_tells_of_the_twin():
    chip = {"imperfections": "splitter_error=0.05,phase_offset=0.2"}
    alone = trained(directions=0, nonlinearity="electro-optic:phi_b=1.57", **chip)
    for record in alone.history:
        assert (record.twin_weight, record.twin_coefficient) == (0.0, 1.0)
        assert record.twin_unexplained is None
        assert 0 < record.twin_error < 2
    corrected = trained(directions=2, meshes=1, **chip)
    assert 0 < corrected.history[-1].twin_weight <= 1
    assert 0 <= corrected.history[-1].twin_unexplained <= 1
    plain = trained(estimator="central", directions=2, meshes=1)
    assert plain.history[-1].twin_weight is None
    assert plain.chip_estimate is None
    assert corrected.chip_estimate.units == N


def test_a_chip_estimate_is_where_the_twin_starts(tmp_path):
    """A perfect one predicts the readings from the first step on."""
    chip = SimulatedChip(N, imperfections=IMPERFECTIONS, seed=3)
    truth = ChipEstimate.of_chips([layer.chip for layer in chip._layers])
    truth.save(tmp_path / "chip.npz")
    model = trained(device=chip, directions=0, epochs=1, chip_estimate=tmp_path / "chip.npz")
    assert max(record.twin_error for record in model.history) < 1e-2


@pytest.mark.parametrize(
    ("chosen", "settings", "message"),
    [
        (ChipEstimate.known(N + 1, meshes=2), {}, "chip_estimate must be of 6 ports.* found 7"),
        (ChipEstimate.known(N), {}, "chip_estimate must be of .* 2 meshes, found .* 1 meshes"),
        (ChipEstimate.known(N, 3, 2), {}, "6 columns .* found 6 ports, 3 columns"),
        (ChipEstimate.known(N, meshes=2), {"estimator": "central"}, "chip_estimate .* got central"),
    ],
    ids=["ports", "meshes", "columns", "estimator"],
)
def test_an_estimate_that_does_not_fit_is_refused(chosen, settings, message):
    with pytest.raises(ValueError, match=message):
        trained(chip_estimate=chosen, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "mlp", "estimator": "twin"}, "estimator twin .* got mlp"),
        ({"method": "ff-ad"}, "estimator twin does not fit method ff-ad"),
        ({"method": "bp-ad"}, "estimator twin does not fit method bp-ad"),
        ({"method": "bp-dd", "nonlinearity": np.tanh}, "nonlinearity is a black box.* bp-dd"),
        ({"estimator": "central", "directions": 0}, "directions must be at least 1.* central"),
        ({"estimator": "central", "calibration": 5}, "calibration does not apply.* central"),
        ({"twin_nonlinearity": "kerr"}, "twin_nonlinearity does not apply"),
        ({"directions": 0, "epsilon": "auto"}, "directions must be at least 1 for epsilon auto"),
        ({"calibration": -1}, "calibration must be at least 0, got -1"),
    ],
    ids=str,
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        configure(**({"estimator": "twin"} | settings))


@pytest.mark.parametrize("method", ["ff-dd", "bp-dd"])
def test_nothing_stands_between_the_meshes_of_one(method):
    run = configure(estimator="twin", device="simulated", meshes=1, method=method)
    assert {"twin_nonlinearity", "twin_amplifier"} <= run.idle.keys()


@pytest.mark.parametrize("where", ["process", pytest.param("tcp", marks=pytest.mark.long)])
def test_a_device_is_learned_while_it_is_trained(where):
    """In this process or in another: the twin of mesh 2 stands behind that of mesh 1."""
    chip = SimulatedChip(N, nonlinearity=BRIGHT, imperfections=IMPERFECTIONS, seed=3)
    chosen = {"directions": 0, "epochs": 3, "twin_nonlinearity": f"electro-optic:phi_b={np.pi / 2}"}
    if where == "process":
        model = trained(device=chip, calibration=5, **chosen)
    else:
        with DeviceServer(chip, port=0) as server:
            thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            model = trained(device=server.address, calibration=5, **chosen)
            server.shutdown()
            thread.join()
    first, *_, last = model.history
    assert last.loss < first.loss
    assert model.history[-1].twin_error < 0.5
    assert all(np.isfinite(mesh.std.theta[mesh.mesh.mask]).all() for mesh in model.known)
    assert all(np.isinf(mesh.std.phi[-2:]).all() for mesh in model.known)


# --- without a training ---------------------------------------------------------------------------


def test_a_device_is_calibrated_mesh_after_mesh():
    device = SimulatedChip(4, nonlinearity=BRIGHT, imperfections=IMPERFECTIONS, seed=3)
    heard, chosen = [], {"batch_size": 8, "nonlinearity": BRIGHT, "seed": 1}
    known = calibrate(device, 5, progress=lambda *done: heard.append(done), **chosen)
    assert (known.units, known.columns, len(known.meshes)) == (4, 4, 2)
    assert heard == [(done, 5) for done in range(6)] * 2
    again = calibrate(device, 5, **chosen)
    for one, other in zip(known.arrays().values(), again.arrays().values(), strict=True):
        np.testing.assert_array_equal(one, other)
    (mesh,) = calibrate(device.chips[0], 4, batch_size=8).meshes
    assert np.isinf(mesh.std.phi[-2:]).all()
    assert np.isfinite(mesh.std.theta[mesh.mesh.mask]).all()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"settings": 0}, "settings must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"start": ChipEstimate.known(5)}, "chip_estimate must be of 4 ports.* found 5"),
        ({"nonlinearity": "keer"}, "nonlinearity must be one of .*'keer'"),
        ({"nonlinearity": np.tanh}, "nonlinearity must be a named element or a table"),
        ({"amplifier": "level"}, "amplifier is written key=value"),
        ({"amplifier": 3}, "amplifier must be written key=value.* 3"),
        ({"drive_step": -3.0}, r"drive_step must be at least 0, got -3\.0"),
        ({"drive_step": "x"}, "drive_step must be a number, got 'x'"),
        ({"port_losses": "no"}, "port_losses must be True or False, got 'no'"),
        ({"reads": 0}, "reads must be at least 1, got 0"),
        ({"start": 5}, "start must be of class ChipEstimate .* 5"),
        ({"start": "none such.npz"}, "none such.npz: No such file"),
        ({"progress": 5}, "progress must be a function, got 5"),
        ({"chip": 5}, "chip must be of class Device or Chip, got 5"),
    ],
    ids=range(15),
)
def test_a_calibration_that_cannot_be(chosen, message):
    with pytest.raises((TypeError, ValueError), match=message):
        calibrate(**({"chip": SimulatedChip(4)} | chosen))


class TestCalibrationOfOneSimulatedMesh:
    chip = Imperfections(read_noise=0.3, phase_offset=0.05).fabricate(4, seed=1, reads=2)

    @pytest.mark.parametrize("name", ["nonlinearity", "amplifier"])
    def test_has_nothing_between_meshes(self, name):
        with pytest.raises(ValueError, match=f"{name} does not apply to one simulated mesh"):
            calibrate(self.chip, 1, **{name: "bogus"})

    def test_averages_as_many_readings_as_it_is_told(self):
        def theta(**chosen):
            return calibrate(self.chip, 2, batch_size=4, **chosen).meshes[0].values.theta

        np.testing.assert_array_equal(theta(), theta(reads=2))
        assert not np.array_equal(theta(), theta(reads=9))


def test_a_calibration_starts_from_a_file_too(tmp_path):
    known = ChipEstimate.known(4, meshes=2, mesh1_theta=0.1, mesh1_theta_std=0.01)
    known.save(tmp_path / "known.npz")
    starts = known, tmp_path / "known.npz", str(tmp_path / "known.npz")
    device = SimulatedChip(4, nonlinearity=BRIGHT)
    learned = [calibrate(device, 1, batch_size=4, start=start).arrays() for start in starts]
    for name, array in learned[0].items():
        assert all(np.array_equal(other[name], array) for other in learned[1:])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_calibration_without_losses_of_ports_finds_the_same_loss_everywhere(seed):
    """Also where the twin that fits best has started at random, as it has with seed 1."""
    device = SimulatedChip(4, 1, imperfections="phase_offset=0.2,read_noise=0.01", seed=seed)
    (mesh,) = calibrate(device, 2, batch_size=8, seed=seed).meshes
    assert np.ptp(mesh.values.loss) == 0


class Detectors(SimulatedChip):
    """A chip whose detectors have a gain behind each mesh."""

    gains = (1.0, 1.0)

    def measure(self, mesh, fields):
        return super().measure(mesh, fields) * np.float32(self.gains[mesh - 1])


class TestDetectors:
    def calibrated(self, *gains, **chosen):
        chip = Detectors(4, meshes=len(gains), nonlinearity=BRIGHT)
        chip.gains = gains
        return calibrate(chip, 12, **({"batch_size": 8, "nonlinearity": BRIGHT} | chosen))

    @pytest.mark.parametrize(("gains", "number"), [((0.0,), 1), ((1.0, 0.0), 2)])
    def test_without_light_end_a_calibration(self, gains, number):
        with pytest.raises(DeviceError, match=f"no light after mesh {number}: all readings are 0"):
            self.calibrated(*gains)

    def test_without_light_end_the_calibration_of_a_training(self):
        chip = Detectors(N, nonlinearity=BRIGHT)
        chip.gains = (1.0, 0.0)
        with pytest.raises(DeviceError, match="no light after mesh 2: all readings are 0"):
            trained(device=chip, calibration=4, epochs=1)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("gain", [1e-3, 1e-30])
    def test_with_little_light_mean_a_loss(self, gain):
        assert self.calibrated(gain).meshes[0].values.loss.sum(axis=0).mean() > 1

    @pytest.mark.parametrize(
        ("sent", "read", "excess"),
        [(1, 1e-4, 30), (1, 1e-42, 30), (1, 0, 30), (0, 0, 0), (0, 1, -30), (2, 1, 3.0103)],
    )
    def test_show_by_how_much_the_chip_is_weaker(self, sent, read, excess):
        sent, read = (tf.fill([1, 2, 3], np.float32(light)) for light in (sent, read))
        assert float(_misfit(sent, read)[2]) == pytest.approx(excess, rel=1e-4)

    def test_with_a_gain_are_told_from_an_amplifying_chip(self):
        with pytest.warns(ResultWarning, match=r"mesh 1 seems to amplify by .* \|E\|\^2") as caught:
            self.calibrated(1e4, 1e4)
        assert {warning.filename for warning in caught} == {__file__}

    def test_with_a_gain_are_named_by_the_command(self, capsys, tmp_path, monkeypatch):
        monkeypatch.setattr(SimulatedChip, "measure", brightened(SimulatedChip.measure))
        words = ["--units", "4", "--meshes", "1", "--settings", "12", "--batch-size", "4"]
        assert command_line([*words, "--output", str(tmp_path / "chip"), "--quiet"]) == 0
        assert "warning: mesh 1 seems to amplify by" in capsys.readouterr().err

    def test_without_light_end_the_command(self, capsys, tmp_path, monkeypatch):
        monkeypatch.setattr(SimulatedChip, "measure", brightened(SimulatedChip.measure, 0))
        words = ["--units", "4", "--meshes", "1", "--settings", "12", "--batch-size", "4"]
        assert command_line([*words, "--output", str(tmp_path / "chip"), "--quiet"]) == 1
        assert "no light after mesh 1: all readings are 0; nothing" in capsys.readouterr().err
        assert not (tmp_path / "chip").exists()


def brightened(measure, gain=1e4):
    return lambda chip, mesh, fields: measure(chip, mesh, fields) * np.float32(gain)


class TestTheDirectoryOfACalibration:
    WORDS = ("--units", "4", "--meshes", "1", "--settings", "8", "--quiet")

    @pytest.fixture(autouse=True)
    def readings(self, tmp_path, monkeypatch):
        """A calibration that notes which directory it finds, and is interrupted."""
        seen = []

        def read(*arguments, **named):
            seen.extend(path.parent for path in tmp_path.glob("**/.claim-*"))
            raise KeyboardInterrupt

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("photonic_ffzero.cli.calibrate.calibrate", read)
        return seen

    @pytest.mark.parametrize("where", [[], ["--output", "new/chip"]], ids=["default", "named"])
    def test_is_claimed_before_any_reading_and_gone_after_ctrl_c(self, where, readings, tmp_path):
        assert command_line([*self.WORDS, *where]) == 130
        assert len(readings) == 1
        assert not readings[0].exists()
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_that_another_process_has_is_refused_before_any_reading(self, readings, capsys):
        with claim_new(Path("chip")), pytest.raises(SystemExit) as stop:
            command_line([*self.WORDS, "--output", "chip"])
        assert stop.value.code == 2
        assert "chip: another process" in capsys.readouterr().err
        assert not readings

    def test_cannot_be_where_results_is_a_file(self, readings, capsys):
        Path("results").touch()
        with pytest.raises(SystemExit) as stop:
            command_line([*self.WORDS])
        assert stop.value.code == 2
        assert "results" in capsys.readouterr().err
        assert not readings

    def test_that_got_a_file_meanwhile_still_gets_what_was_measured(self, monkeypatch):
        def read(*arguments, **named):
            Path("chip/notes.txt").touch()
            return ChipEstimate.known(4)

        monkeypatch.setattr("photonic_ffzero.cli.calibrate.calibrate", read)
        command_line([*self.WORDS, "--output", "chip"])
        assert Path("chip/chip_estimate.npz").exists()


def test_the_command_writes_what_is_known_and_how_it_looks(tmp_path, capsys):
    out = tmp_path / "chip"
    words = ["--device", "simulated:phase_offset=0.1", "--units", "4", "--meshes", "1"]
    words += ["--settings", "8", "--batch-size", "4", "--output", str(out), "--quiet"]
    assert command_line(words) == 0
    names = ["chip_estimate.csv", "chip_estimate.npz", "chip_mesh1.png", "known_against_true.png"]
    assert sorted(path.name for path in out.glob("[a-z]*")) == names
    npz, csv = (ChipEstimate.load(out / f"chip_estimate.{kind}") for kind in ("npz", "csv"))
    for one, other in zip(npz.arrays().values(), csv.arrays().values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert "32 mesh passes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command_line([*words, "--chip-estimate", str(out / "chip_estimate.txt")])
    assert "--output" in capsys.readouterr().err  # which is checked first
