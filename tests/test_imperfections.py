"""Chips: the statistics, limits and order of imperfections."""

import functools
import math
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshes import ElectroOptic, Imperfections, Phases, RectangularMesh, shot_noise
from meshes.imperfections import Noise, normals
from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.gradients.epsilon import LADDER, best_step, probe_step
from photonic_ffzero.layers.blocks import NoiseSource
from photonic_ffzero.layers.photonic import Photonic
from photonic_ffzero.model import Model
from photonic_ffzero.training.trainer import fit

N, B = 8, 16
QUIET = Noise()
TELLING = {
    "splitter_error": 0.1,
    "phase_offset": 0.1,
    "insertion_loss_db": 0.5,
    "loss_imbalance_db": 0.5,
    "drive_bits": 5,
    "write_noise": 0.1,
    "crosstalk": 0.05,
    "drift": 0.1,
    "source_noise": 0.1,
    "shot_noise": 0.1,
    "thermal_noise": 0.1,
    "read_noise": 0.1,
    "adc_bits": 3,
}


def light(seed=0, *lead):
    rng = np.random.default_rng(seed)
    return rng.random((*lead, B, N), np.float32)


def one_set(phases):
    return Phases(*(w[np.newaxis] for w in phases))


def layer(seed=1, engine="native", reads=1, **strengths):
    chip = Imperfections(**strengths).fabricate(N, seed=seed, reads=reads)
    return Photonic(chip.mesh, ElectroOptic(phi_b=1.0), engine, chip)


def with_noise(layer, rng_seed, sets=1, epochs=3):
    """The layer as a function of parameters and inputs, with noise of that seed."""
    drawn = layer.draw_noise(np.random.default_rng(rng_seed), 1, sets, B, epochs)
    arrays = [
        Phases(*(x[0] for x in leaf)) if isinstance(leaf, Phases) else leaf[0] if len(leaf) else ()
        for leaf in drawn
    ]
    return SimpleNamespace(
        mesh=layer.mesh,
        measure=lambda params, x: layer.measure(params, x, Noise(*arrays)),
        transmit=lambda params, x: layer.transmit(params, x, Noise(*arrays)),
    )


def test_every_imperfection_is_tested_here():
    names = {field.name for field in fields(Imperfections)}
    assert names == TELLING.keys() | {"epoch_hours"}  # which has a meaning with drift alone


class TestStrength:
    @pytest.mark.parametrize("engine", ["native", "xla"])
    def test_none_is_an_ideal_mesh_to_the_bit(self, engine):
        ideal = Photonic(RectangularMesh(N), ElectroOptic(phi_b=1.0), engine)
        params, x = one_set(ideal.mesh.initial_phases(3)), light()
        made = with_noise(layer(engine=engine), 0)
        for what in ("measure", "transmit"):
            expected = np.asarray(getattr(ideal, what)(params, x))
            np.testing.assert_array_equal(getattr(made, what)(params, x), expected)

    @pytest.mark.parametrize("name", TELLING)
    def test_each_changes_what_is_read(self, name):
        ideal, made = layer(), with_noise(layer(**{name: TELLING[name]}), 0)
        params, x = one_set(ideal.mesh.initial_phases(3)), light()
        difference = np.abs(made.measure(params, x) - ideal.measure(params, x)).max()
        assert 1e-4 < difference < 1.5

    @pytest.mark.parametrize("name", TELLING)
    def test_engines_agree_under_the_same_noise(self, name):
        params, x = one_set(RectangularMesh(N).initial_phases(3)), light()
        native, xla = (
            with_noise(layer(engine=engine, **{name: TELLING[name]}), 0)
            for engine in ("native", "xla")
        )
        if name == "adc_bits":  # rounding may fall to either side
            tolerance = 1.01 * np.max(native.measure(params, x)) / 2**3
        else:
            tolerance = 2e-6
        np.testing.assert_allclose(
            native.measure(params, x), xla.measure(params, x), rtol=1e-5, atol=tolerance
        )

    @settings(max_examples=20)
    @given(st.integers(0, 2**31), st.sampled_from(["write_noise", "drift", "crosstalk"]))
    def test_phases_change_no_energy(self, seed, name):
        made = with_noise(layer(seed, **{name: 0.3}), seed)
        x = light(seed)
        total = np.sum(made.measure(one_set(made.mesh.initial_phases(seed)), x), axis=-1)
        np.testing.assert_allclose(total[0], np.sum(x**2, axis=-1), rtol=1e-5)

    @settings(max_examples=20)
    @given(st.integers(0, 2**31), st.floats(0, 3), st.floats(0, 3))
    def test_energy_never_grows(self, seed, loss, imbalance):
        made = layer(seed, insertion_loss_db=loss, loss_imbalance_db=imbalance, splitter_error=0.1)
        x = light(seed)
        total = np.sum(made.measure(one_set(made.mesh.initial_phases(seed)), x), axis=-1)
        assert (total[0] <= np.sum(x**2, axis=-1) * 10 ** (-N * loss / 10) * (1 + 1e-5)).all()


class TestPhases:
    def test_offsets_have_the_stated_deviation_and_belong_to_the_chip(self):
        one, same, other = (
            Imperfections(phase_offset=0.2).fabricate(64, seed=seed).offsets for seed in (1, 1, 2)
        )
        drawn = np.concatenate([w.ravel() for w in one])
        assert np.std(drawn) == pytest.approx(0.2, rel=0.03)  # 6 deviations of 4,160 numbers
        np.testing.assert_array_equal(one.theta, same.theta)
        assert np.abs(one.theta - other.theta).max() > 0.1

    @settings(max_examples=20)
    @given(st.integers(1, 12), st.integers(0, 1000))
    def test_the_drive_knows_multiples_of_its_step_alone(self, bits, seed):
        chip = Imperfections(drive_bits=bits).fabricate(N)
        phases = chip.mesh.initial_phases(seed)
        step = 2 * math.pi / 2**bits
        for written, asked in zip(chip.drive(phases, QUIET), phases, strict=True):
            written = np.asarray(written)
            np.testing.assert_allclose(written / step, np.round(written / step), atol=1e-3)
            assert np.abs(written - asked).max() <= step / 2 + 1e-5

    def test_a_whole_step_apart_stays_a_whole_step_apart(self):
        """Why epsilon should be a multiple of the drive's step: differences are then exact."""
        chip = Imperfections(drive_bits=6).fabricate(N)
        phases, step = chip.mesh.initial_phases(0), chip.imperfections.drive_step
        up, down = (
            chip.drive(Phases(*(w + sign * step for w in phases)), QUIET) for sign in (1, -1)
        )
        np.testing.assert_allclose(up.theta - down.theta, 2 * step, atol=1e-5)

    def test_crosstalk_reaches_the_neighbours_in_the_column(self):
        chip = Imperfections(crosstalk=0.1).fabricate(N)
        still = Phases(*(np.zeros_like(w) for w in chip.offsets))
        still.theta[2, 1] = 1.0
        got = np.asarray(chip.drive(still, QUIET).theta)
        assert got[2].tolist() == pytest.approx([0.1, 1.0, 0.1, 0.0])
        assert not np.delete(got, 2, axis=0).any()

    def test_idle_interferometers_heat_nobody(self):
        chip = Imperfections(crosstalk=0.1).fabricate(N)
        phases = Phases(*(np.zeros_like(w) for w in chip.offsets))
        phases.theta[1, -1] = np.pi  # idle for even N
        assert np.asarray(chip.drive(phases, QUIET).theta)[1, -2] == 0

    def test_rounding_comes_before_noise_and_heat_and_these_before_offsets(self):
        strengths = {"drive_bits": 4, "write_noise": 0.05, "crosstalk": 0.1, "phase_offset": 0.2}
        chip = Imperfections(**strengths).fabricate(N, seed=5)
        noise = chip.draw(np.random.default_rng(0), 1, 1, B)
        noise = noise._replace(writes=Phases(*(w[0] for w in noise.writes)))
        gamma = chip.mesh.initial_phases(1).gamma
        step = 2 * np.pi / 16
        noisy = step * np.round(gamma / step) + 0.05 * noise.writes.gamma[0]
        heat = np.pad(noisy[1:], (0, 1)) + np.pad(noisy[:-1], (1, 0))
        got = chip.drive(one_set(chip.mesh.initial_phases(1)), noise).gamma[0]
        np.testing.assert_allclose(got, noisy + 0.1 * heat + chip.offsets.gamma, atol=1e-5)

    def test_the_walk_grows_as_the_root_of_time(self):
        chip = Imperfections(drift=0.1, epoch_hours=4.0).fabricate(64, seed=1)
        for epochs in (1, 9):
            place = np.concatenate([w.ravel() for w in chip.walk(epochs)])
            assert np.std(place) == pytest.approx(0.1 * math.sqrt(4 * epochs), rel=0.04)
        assert not np.any(chip.walk(0).theta)

    def test_the_walk_goes_on_from_where_it_was(self):
        chip = Imperfections(drift=0.1).fabricate(16, seed=1)
        steps = chip.walk(5).gamma - chip.walk(4).gamma
        assert 0 < np.abs(steps).max() < 0.5


class TestReadings:
    def read(self, intensities, count=4000, **strengths):
        """Many readings of the same light."""
        own = Imperfections(**strengths).fabricate(N)
        bright = np.broadcast_to(np.float32(intensities), (1, count, N))
        noise = Noise(readings=normals(np.random.default_rng(0), (own.reads, *bright.shape)))
        return np.asarray(own.read(bright, noise))[0]

    def test_shot_noise_grows_as_the_root_of_the_intensity(self):
        bright = np.linspace(0.5, 4, N)
        found = np.std(self.read(bright, shot_noise=0.1), axis=0)
        np.testing.assert_allclose(found, 0.1 * np.sqrt(bright), rtol=0.06)

    def test_thermal_noise_is_there_in_the_dark(self):
        np.testing.assert_allclose(
            np.std(self.read(np.zeros(N), thermal_noise=0.1), axis=0), 0.1, rtol=0.06
        )

    def test_read_noise_is_a_share_of_the_root_mean_square(self):
        """20 dB below it."""
        bright = np.arange(N)
        expected = 10 ** (-20 / 20) * np.sqrt(np.mean(bright**2))
        found = np.std(self.read(bright, read_noise=0.1), axis=0)
        np.testing.assert_allclose(found, expected, rtol=0.06)

    def test_reading_four_times_halves_the_noise(self):
        deviations = []
        for reads in (1, 4):
            own = Imperfections(thermal_noise=0.1).fabricate(N, reads=reads)
            noise = Noise(readings=normals(np.random.default_rng(0), (reads, 1, 4000, N)))
            deviations.append(np.std(own.read(np.ones((1, 4000, N), np.float32), noise)))
        assert deviations[0] / deviations[1] == pytest.approx(2, rel=0.03)

    @settings(max_examples=20)
    @given(st.integers(1, 10))
    def test_a_converter_has_so_many_levels(self, bits):
        bright = np.linspace(0, 3, N, dtype=np.float32)
        got = self.read(bright, count=1, adc_bits=bits)[0] / 3 * (2**bits - 1)
        np.testing.assert_allclose(got, np.round(got), atol=1e-3)
        assert got.max() == pytest.approx(2**bits - 1)

    def test_the_dark_is_read_as_dark(self):
        assert not self.read(np.zeros(N), adc_bits=4, shot_noise=0.1, read_noise=0.1).any()

    def test_photons_counted(self):
        """A microwatt at 1550 nm is 7,803 photons a nanosecond."""
        found = shot_noise(unit_power_w=1e-6, integration_s=1e-9, wavelength_m=1550e-9)
        assert found**-2 == pytest.approx(7803, rel=1e-3)


class TestDraws:
    def test_normals_are_normal(self):
        from scipy.stats import kstest

        drawn = normals(np.random.default_rng(0), (200_000,))
        assert drawn.dtype == np.float32
        assert np.mean(drawn) == pytest.approx(0, abs=0.01)
        assert np.var(drawn) == pytest.approx(1, abs=0.015)
        assert kstest(drawn, "norm").pvalue > 1e-3

    def test_the_two_evaluations_of_a_pair_share_no_noise(self):
        own = layer(write_noise=0.1, source_noise=0.1, read_noise=0.1)
        drawn = own.draw_noise(np.random.default_rng(0), 1, 2, B, 0)
        for array in (drawn.writes.theta, drawn.source, drawn.readings[:, 0]):
            first, second = np.ravel(array[0, 0]), np.ravel(array[0, 1])
            assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(first.size)

    def test_only_what_is_needed_is_drawn(self):
        drawn = layer(splitter_error=0.1, drive_bits=8).draw_noise(
            np.random.default_rng(0), 1, 2, B, 0
        )
        assert drawn == QUIET

    def test_noise_in_front_is_fresh_behind_and_readings_are_not(self):
        assert layer(read_noise=0.1, phase_offset=0.1).cacheable
        for name in ("write_noise", "source_noise", "drift"):
            assert not layer(**{name: 0.1}).cacheable


def samples(count=200):
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    x = rng.random((count, N), np.float32) + np.eye(N, dtype=np.float32)[y]
    return x, y


BRIEF = {"epochs": 2, "batch_size": 20, "directions": 2, "epsilon": 0.2}


def trained(**given_settings):
    return fit(*samples(), **(BRIEF | given_settings))


OF_METHOD = {
    "ff-dd": {"meshes": 1},
    "bp-dd": {"meshes": 2, "method": "bp-dd"},
    "ff-ad": {"meshes": 1, "method": "ff-ad", "epsilon": None, "directions": None},
}


@functools.cache
def baseline(method):
    return trained(**OF_METHOD[method])


class TestTraining:
    @pytest.mark.parametrize(
        ("name", "method"),
        [*((name, "ff-dd") for name in TELLING), ("write_noise", "bp-dd"), ("drift", "ff-ad")],
    )
    def test_each_changes_the_history(self, name, method):
        ideal = baseline(method)
        made = trained(imperfections=f"{name}={TELLING[name]}", **OF_METHOD[method])
        assert [r.loss for r in ideal.history] != [r.loss for r in made.history]

    @pytest.mark.parametrize("estimator", ["autodiff", "jvp"])
    @pytest.mark.parametrize("name", ["drive_bits", "adc_bits"])
    def test_rounding_is_not_differentiated(self, name, estimator):
        method = "ff-ad" if estimator == "autodiff" else "ff-dd"
        given = {"estimator": estimator} if method == "ff-dd" else {}
        with pytest.raises(ValueError, match="cannot be differentiated"):
            configure("balanced", method, imperfections=f"{name}=8", **given)

    def test_the_same_seed_makes_the_same_chip_and_the_same_noise(self):
        noisy = "phase_offset=0.1,write_noise=0.05,read_noise=0.1,drift=0.01"
        one, two = (trained(imperfections=noisy) for _ in range(2))
        assert [r.loss for r in one.history] == [r.loss for r in two.history]
        x, _ = samples()
        np.testing.assert_array_equal(one.scores(x), two.scores(x))

    def test_the_chip_can_be_another_than_the_run(self):
        one, other = (
            Model(configure(imperfections="phase_offset=0.1", chip=chip), N, Classification(2))
            for chip in (1, 2)
        )
        np.testing.assert_array_equal(one.params[0][0].theta, other.params[0][0].theta)
        offsets = [model.blocks[0].layers[0].chip.offsets.theta for model in (one, other)]
        assert np.abs(offsets[0] - offsets[1]).max() > 0.01

    def test_light_crosses_noisy_meshes_again_at_every_evaluation(self):
        """Two meshes in front of the second reading: twice the passes, the same writes."""
        once, again = trained(), trained(imperfections="write_noise=0.01")
        passes = 2 * 2 * 2 * 200  # pairs, directions, epochs, samples
        monitored = 2 * 200
        assert once.usage.forward_passes == 2 * (passes + monitored) + 200
        assert again.usage.forward_passes == 3 * (passes + monitored)

    def test_readings_count_as_passes(self):
        once, often = (
            trained(imperfections="read_noise=0.1", reads=reads, meshes=1) for reads in (1, 4)
        )
        assert often.usage.forward_passes == 4 * once.usage.forward_passes

    def test_scores_of_a_noisy_chip_differ_from_time_to_time(self):
        block = trained(imperfections="read_noise=0.3", meshes=1).blocks[0]
        params = trained(meshes=1).params[0]
        x, _ = samples()
        one, two = (
            block.all_scores(params, x, NoiseSource(np.random.default_rng(seed))) for seed in (0, 1)
        )
        assert np.abs(one - two).max() > 0.01


class TestRefusals:
    @pytest.mark.parametrize(
        ("given_settings", "message"),
        [
            ({"imperfections": "drive_bits=8"}, r"epsilon must be at least .* 0\.0245437"),
            ({"imperfections": "drive_bits=8", "law": "gaussian-unit", "epsilon": 1.0}, "law"),
            ({"imperfections": "bits=8"}, "imperfections's parameter must be one of"),
            ({"imperfections": "drive_bits=2.5"}, "drive_bits must be a whole number"),
            ({"imperfections": "drive_bits=25"}, "drive_bits must be at most 24"),
            ({"imperfections": "phase_offset=-1"}, "phase_offset must be at least 0"),
            ({"imperfections": "crosstalk=0.6"}, "crosstalk must be at most 0.5"),
            ({"imperfections": "phase_offset"}, "is written key=value"),
            ({"imperfections": "phase_offset=nan"}, "must be a finite number"),
            ({"reads": 0}, "reads must be at least 1"),
            ({"chip": -1}, "chip must be at least 0"),
            ({"network": "mlp", "imperfections": "drive_bits=8"}, "imperfections does not apply"),
            ({"network": "mlp", "reads": 2}, "reads does not apply"),
            ({"network": "mlp", "epsilon": "auto"}, "epsilon auto"),
            ({"recipe": "paper", "epsilon": "auto"}, "epsilon auto"),
            ({"method": "ff-ad", "epsilon": "auto"}, "epsilon does not apply"),
            ({"epsilon": "big"}, "epsilon must be a number"),
        ],
    )
    def test_bad_settings(self, given_settings, message):
        with pytest.raises((ValueError, TypeError), match=message):
            configure(**given_settings)


class TestStepSize:
    def test_the_best_step_is_where_noise_and_curvature_are_balanced(self):
        """On a cubic with known noise: the closed form, and no other step does better."""
        rng = np.random.default_rng(0)
        count, noise = 20_000, 1e-6
        a, b = rng.normal(2, 1, count), rng.normal(0, 10, count)
        halves = a * LADDER[:, None] + b * LADDER[:, None] ** 3
        halves += rng.normal(0, math.sqrt(noise / 2), halves.shape)
        expected = (noise / (4 * 100)) ** (1 / 6)
        assert best_step(LADDER, halves, noise) == pytest.approx(expected, rel=0.02)

        def error(step):
            return 100 * step**4 + noise / (2 * step**2)

        assert error(expected) <= min(error(0.9 * expected), error(1.1 * expected))

    def test_where_no_curvature_shows_the_longest_step_is_taken(self):
        halves = 2.0 * LADDER[:, None] * np.ones(64)
        assert best_step(LADDER, halves, 1e-4) == pytest.approx(LADDER.max())

    def test_a_digital_drive_gets_a_multiple_of_its_step(self):
        quantum = 2 * math.pi / 2**6

        def losses(step, sign):
            return np.full(64, 1.0 + sign * step)

        assert probe_step(losses, quantum) == pytest.approx(quantum)

    def test_more_noise_makes_a_longer_step(self):
        steps = [
            trained(imperfections=f"read_noise={noise}", epsilon="auto", meshes=1)
            .history[0]
            .epsilon
            for noise in (0.01, 0.3)
        ]
        assert 1e-3 <= steps[0] < steps[1] <= LADDER.max()

    def test_the_step_survives_a_checkpoint(self, tmp_path):
        from photonic_ffzero.model import Position
        from photonic_ffzero.storage import load_checkpoint, save_checkpoint

        model = trained(epsilon="auto", meshes=1, epochs=1)
        position = Position(block=0, epoch=1, epsilon=model.history[0].epsilon)
        save_checkpoint(model, position, tmp_path / "c.npz")
        assert load_checkpoint(tmp_path / "c.npz")[1].epsilon == position.epsilon


def test_a_source_stands_in_front_of_the_first_mesh_alone():
    model = Model(configure(imperfections="source_noise=0.1"), N, Classification(2))
    first, second = (block.layers[0].chip for block in model.blocks)
    assert first.imperfections.source_noise == 0.1
    assert second is None
