"""Chips: the statistics, limits and order of imperfections, and training on imperfect chips."""

import math
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from meshes import PRESETS, Imperfections, Phases, RectangularMesh, shot_noise
from meshes._tensorflow import tf
from meshes.imperfections import Noise, normals
from meshes.mesh import OFFSETS, PATHS, SHIFTERS, WALK
from photonic_ffzero.config import configure
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.gradients.epsilon import (
    LADDER,
    SHORTEST,
    best_forward_step,
    best_step,
    probe_step,
)
from photonic_ffzero.model import Model, Position
from photonic_ffzero.storage import load_checkpoint, save_checkpoint
from photonic_ffzero.training.trainer import fit

N, B = 8, 16
QUIET = Noise()
STRENGTHS = {
    "splitter_error": 0.1,
    "phase_offset": 0.1,
    "insertion_loss_db": 0.5,
    "loss_imbalance_db": 0.5,
    "shifter_loss": 0.1,
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
few = settings(max_examples=20)


def light(seed=0):
    return np.random.default_rng(seed).random((B, N), np.float32)


def one_set(phases):
    return Phases(*(w[np.newaxis] for w in phases))


def all_phases(phases):
    return np.concatenate([np.ravel(w) for w in phases])


def one_step(chip, seed=0, epochs=3):
    """The noise of one step with one set of phases."""
    drawn = chip.draw(np.random.default_rng(seed), 1, 1, B, epochs)
    return tf.nest.map_structure(lambda leaf: leaf[0], drawn)


def readings(chip, engine="native", seed=0, phase_seed=3):
    """What the detectors of a chip say of light that meets random phases."""
    noise, phases = one_step(chip, seed), one_set(chip.mesh.initial_phases(phase_seed))
    driven, emitted = chip.drive(phases, noise), chip.emit(light(seed), noise)
    return np.asarray(chip.read(chip.mesh.intensities(emitted, driven, engine), noise))


class TestStrength:
    @pytest.mark.parametrize("engine", ["native", "xla"])
    def test_none_is_an_ideal_mesh_to_the_bit(self, engine):
        mesh = RectangularMesh(N)
        ideal = mesh.intensities(light(), one_set(mesh.initial_phases(3)), engine)
        np.testing.assert_array_equal(readings(Imperfections().fabricate(N), engine), ideal)

    @pytest.mark.parametrize("name", STRENGTHS)
    def test_each_changes_what_is_read_alike_on_both_engines(self, name):
        chip = Imperfections(**{name: STRENGTHS[name]}).fabricate(N, seed=1)
        native, xla = readings(chip), readings(chip, "xla")
        assert 1e-4 < np.abs(native - readings(Imperfections().fabricate(N))).max() < 1.5
        # A converter may round to either side.
        tolerance = 1.01 * np.max(native) / 2**3 if name == "adc_bits" else 2e-6
        np.testing.assert_allclose(native, xla, rtol=1e-5, atol=tolerance)

    @few
    @given(st.integers(0, 2**31), st.floats(0, 3), st.just(0.0) | st.floats(0, 3))
    def test_energy_never_grows(self, seed, loss, imbalance):
        losses = {"insertion_loss_db": loss, "loss_imbalance_db": imbalance}
        made = Imperfections(splitter_error=0.1, write_noise=0.3, crosstalk=0.3, **losses)
        total = np.sum(readings(made.fabricate(N, seed=seed), seed=seed), axis=-1)[0]
        limit = np.sum(light(seed) ** 2, axis=-1) * 10 ** (-N * loss / 10)
        assert (total <= limit * (1 + 1e-5)).all()
        if imbalance == 0:
            np.testing.assert_allclose(total, limit, rtol=1e-5)


class TestPhases:
    def test_offsets_have_the_stated_deviation_and_belong_to_the_chip(self):
        one, same, other = (
            Imperfections(phase_offset=0.2).fabricate(64, seed=seed).offsets for seed in (1, 1, 2)
        )
        assert np.std(all_phases(one)) == pytest.approx(0.2, rel=0.03)  # 6 deviations of 4,160
        np.testing.assert_array_equal(one.theta, same.theta)
        assert np.abs(one.theta - other.theta).max() > 0.1

    def test_a_uniform_law_has_the_stated_limits(self):
        strengths = {"phase_offset": 0.2, "phase_law": "uniform"}
        offsets = all_phases(Imperfections(**strengths).fabricate(64, seed=1).offsets)
        assert kstest(offsets, "uniform", (-0.2, 0.4)).pvalue > 0.01
        assert np.abs(offsets).max() <= 0.2

    @few
    @given(st.integers(1, 12), st.integers(0, 1000))
    def test_the_drive_rounds_to_multiples_of_its_step(self, bits, seed):
        chip = Imperfections(drive_bits=bits).fabricate(N)
        phases = chip.mesh.initial_phases(seed)
        step = 2 * math.pi / 2**bits
        for written, target in zip(chip.drive(phases, QUIET), phases, strict=True):
            np.testing.assert_allclose(written / step, np.round(written / step), atol=1e-3)
            assert np.abs(written - target).max() <= step / 2 + 1e-5

    def test_crosstalk_reaches_the_neighbours_in_the_column_but_not_from_idle_ones(self):
        chip = Imperfections(crosstalk=0.1).fabricate(N)
        phases = Phases(*(np.zeros_like(w) for w in chip.offsets))
        phases.theta[2, 1], phases.theta[1, -1] = 1.0, np.pi  # the last one is idle for even N
        driven = np.asarray(chip.drive(phases, QUIET).theta)
        assert driven[2].tolist() == pytest.approx([0.1, 1.0, 0.1, 0.0])
        assert driven[1].tolist() == pytest.approx([0.0, 0.0, 0.0, np.pi])
        assert not np.delete(driven, [1, 2], axis=0).any()

    def test_rounding_comes_before_noise_and_heat_and_these_before_offsets(self):
        strengths = {"drive_bits": 4, "write_noise": 0.05, "crosstalk": 0.1, "phase_offset": 0.2}
        chip = Imperfections(**strengths).fabricate(N, seed=5)
        phases, noise = chip.mesh.initial_phases(1), one_step(chip)
        step = 2 * np.pi / 16
        noisy = step * np.round(phases.gamma / step) + 0.05 * noise.writes.gamma[0]
        heat = np.pad(noisy[1:], (0, 1)) + np.pad(noisy[:-1], (1, 0))
        driven = chip.drive(one_set(phases), noise).gamma[0]
        np.testing.assert_allclose(driven, noisy + 0.1 * heat + chip.offsets.gamma, atol=1e-5)

    def test_the_walk_grows_as_the_root_of_time_and_goes_on_from_where_it_was(self):
        chip = Imperfections(drift=0.1, epoch_hours=4.0).fabricate(64, seed=1)
        for epochs in (1, 9):
            deviation = np.std(all_phases(chip.walk(epochs)))
            assert deviation == pytest.approx(0.1 * math.sqrt(4 * epochs), rel=0.04)
        step = all_phases(chip.walk(9)) - all_phases(chip.walk(8))
        assert np.std(step) == pytest.approx(0.1 * math.sqrt(4), rel=0.04)
        assert not np.any(chip.walk(0).theta)


class TestReadings:
    def read(self, intensities, count=4000, reads=1, **strengths):
        """Many readings of the same light."""
        chip = Imperfections(**strengths).fabricate(N, reads=reads)
        bright = np.broadcast_to(np.float32(intensities), (1, count, N))
        noise = Noise(readings=normals(np.random.default_rng(0), (reads, *bright.shape)))
        return np.asarray(chip.read(bright, noise))[0]

    @pytest.mark.parametrize(
        ("strength", "law"),
        [
            ({"shot_noise": 0.1}, lambda bright: 0.1 * np.sqrt(bright)),
            ({"thermal_noise": 0.1}, lambda bright: 0.1 + 0 * bright),
            ({"read_noise": 0.1}, lambda bright: 0.1 * np.sqrt(np.mean(bright**2)) + 0 * bright),
            ({"thermal_noise": 0.1, "reads": 4}, lambda bright: 0.05 + 0 * bright),
        ],
    )
    def test_noise_follows_its_law(self, strength, law):
        """Shot noise grows as the root, read noise is 20 dB below the ports' root mean square."""
        bright = np.linspace(0, 4, N)
        deviation = np.std(self.read(bright, **strength), axis=0)
        np.testing.assert_allclose(deviation, law(bright), rtol=0.06)

    @few
    @given(st.integers(1, 10))
    def test_a_converter_has_so_many_levels(self, bits):
        bright = np.linspace(0, 3, N, dtype=np.float32)
        levels = self.read(bright, count=1, adc_bits=bits)[0] / 3 * (2**bits - 1)
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
        assert levels.max() == pytest.approx(2**bits - 1)
        assert not self.read(np.zeros(N), adc_bits=bits, shot_noise=0.1, read_noise=0.1).any()

    def test_photons_counted(self):
        """A microwatt at 1550 nm is 7,803 photons a nanosecond."""
        strength = shot_noise(unit_power_w=1e-6, integration_s=1e-9, wavelength_m=1550e-9)
        assert strength**-2 == pytest.approx(7803, rel=1e-3)


class TestDraws:
    def test_normals_are_normal(self):
        drawn = normals(np.random.default_rng(0), (200_000,))
        assert drawn.dtype == np.float32
        assert np.var(drawn) == pytest.approx(1, abs=0.015)
        assert kstest(drawn, "norm").pvalue > 1e-3

    def test_the_two_evaluations_of_a_pair_share_no_noise(self):
        chip = Imperfections(write_noise=0.1, source_noise=0.1, read_noise=0.1).fabricate(N)
        drawn = chip.draw(np.random.default_rng(0), 1, 2, B)
        for array in (drawn.writes.theta, drawn.source, drawn.readings[:, 0]):
            first, second = np.ravel(array[0, 0]), np.ravel(array[0, 1])
            assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(first.size)

    def test_light_is_steady_unless_something_fresh_acts_on_it(self):
        names = {field.name for field in fields(Imperfections)}
        assert names == STRENGTHS.keys() | {"epoch_hours", "phase_law"}  # of drift, of offsets
        unsteady = {
            name for name in STRENGTHS if not Imperfections(**{name: STRENGTHS[name]}).steady
        }
        assert unsteady == {"write_noise", "source_noise", "drift"}
        chip = Imperfections(splitter_error=0.1, drive_bits=8).fabricate(N)
        assert chip.draw(np.random.default_rng(0), 1, 2, B) == QUIET


@pytest.mark.parametrize(
    ("name", "value"),
    [("drive_bits", 2.5), ("adc_bits", 25), ("crosstalk", 0.6), ("epoch_hours", 3)],
)
def test_refuses_impossible_strengths(name, value):
    with pytest.raises((ValueError, TypeError), match=f"{name} must .*got {value}"):
        Imperfections(**{name: value})


def samples(count=200):
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    return rng.random((count, N), np.float32) + np.eye(N, dtype=np.float32)[y], y


def trained(**options):
    return fit(
        *samples(), **{"epochs": 2, "batch_size": 20, "directions": 2, "epsilon": 0.2} | options
    )


class TestTraining:
    def test_the_chip_can_be_another_than_the_run(self):
        one, other = (
            Model(configure(imperfections="phase_offset=0.1", chip=chip), N, Classification(2))
            for chip in (1, 2)
        )
        np.testing.assert_array_equal(one.params[0][0].theta, other.params[0][0].theta)
        offsets = [model.blocks[0].layers[0].chip.offsets.theta for model in (one, other)]
        assert np.abs(offsets[0] - offsets[1]).max() > 0.01

    def test_a_source_stands_in_front_of_the_first_mesh_alone(self):
        model = Model(configure(imperfections="source_noise=0.1"), N, Classification(2))
        first, second = (block.layers[0].chip for block in model.blocks)
        assert first.imperfections.source_noise == 0.1
        assert second is None

    def test_light_crosses_noisy_meshes_again_at_every_evaluation(self):
        """Two meshes before the second reading: twice the passes, the same writes."""
        once, again = trained(), trained(imperfections="write_noise=0.01")
        passes = 2 * 2 * 2 * 200  # pairs, directions, epochs, samples
        monitored = 2 * 200
        assert once.usage.forward_passes == 2 * (passes + monitored) + 200
        assert again.usage.forward_passes == 3 * (passes + monitored)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"imperfections": "drive_bits=8"}, r"epsilon must be at least .* 0\.0245437"),
            ({"imperfections": "drive_bits=8", "law": "gaussian-unit", "epsilon": 1.0}, "law"),
            ({"imperfections": "bits=8"}, "imperfections's parameter must be one of"),
            ({"reads": 0}, "reads must be at least 1"),
            ({"chip": -1}, "chip must be at least 0"),
            ({"network": "mlp", "epsilon": "auto"}, "epsilon auto"),
            ({"recipe": "paper", "epsilon": "auto"}, "epsilon auto"),
            ({"method": "ff-ad", "epsilon": "auto"}, "epsilon does not apply"),
            ({"epsilon": "big"}, "epsilon must be a number"),
        ],
    )
    def test_refuses_what_a_chip_cannot_do(self, options, message):
        with pytest.raises((ValueError, TypeError), match=message):
            configure(**options)


class TestStepSize:
    def test_the_best_step_is_where_noise_and_curvature_are_balanced(self):
        """On a cubic with known noise: the closed form, the minimum of the squared error."""
        rng = np.random.default_rng(0)
        count, noise = 20_000, 1e-6
        a, b = rng.normal(2, 1, count), rng.normal(0, 10, count)
        halves = a * LADDER[:, None] + b * LADDER[:, None] ** 3
        halves += rng.normal(0, math.sqrt(noise / 2), halves.shape)
        expected = (noise / (4 * 100)) ** (1 / 6)
        assert best_step(LADDER, halves, noise) == pytest.approx(expected, rel=0.02)
        straight = 2.0 * LADDER[:, None] * np.ones(64)
        assert best_step(LADDER, straight, 1e-4) == pytest.approx(LADDER.max())

    def test_the_best_forward_step_is_where_noise_and_bend_are_balanced(self):
        """On a parabola with known noise: the closed form, the minimum of the squared error."""
        rng = np.random.default_rng(0)
        count, noise = 20_000, 1e-6
        c, steps = rng.normal(0, 10, count), LADDER[:, None]
        sides = rng.normal(0, math.sqrt(noise / 2), (len(LADDER), count))  # half of two losses
        origin = rng.normal(0, math.sqrt(noise / 2), count)  # the mean of two losses
        bends = c * steps**2 + sides - origin
        expected = (2 * noise / 100) ** (1 / 4)
        assert best_forward_step(LADDER, bends, noise) == pytest.approx(expected, rel=0.02)
        assert best_forward_step(LADDER, 0 * bends, 1e-4) == pytest.approx(LADDER.max())

    def test_forward_differences_get_a_shorter_step_than_central_ones(self):
        settings = {"epsilon": "auto", "meshes": 1, "epochs": 1, "batch_size": 50}
        noisy = settings | {"imperfections": "read_noise=0.03", "directions": 2}
        x, y = np.random.default_rng(0).random((100, 16), np.float32), np.arange(100) % 4
        steps = {
            name: fit(x, y, estimator=name, **noisy).history[0].epsilon
            for name in ("central", "forward")
        }
        assert SHORTEST < steps["forward"] < steps["central"]

    def test_the_steps_of_a_simulated_device_s_drive_are_kept(self):
        x, y = np.random.default_rng(0).random((100, 16), np.float32), np.arange(100) % 4
        settings = {"epsilon": "auto", "meshes": 1, "epochs": 1, "directions": 2}
        model = fit(x, y, device="simulated:drive_bits=6", **settings)
        assert model.history[0].epsilon >= 2 * math.pi / 2**6

    @pytest.mark.parametrize("one_sided", [False, True])
    @pytest.mark.parametrize("bits", [6, 8])
    def test_a_drive_of_which_nobody_tells_gets_a_step_that_it_can_make(self, bits, one_sided):
        """Light that depends on rounded phases repeats to the bit, but jumps."""
        quantum, rng = 2 * math.pi / 2**bits, np.random.default_rng(0)
        weights, phases = rng.normal(size=(2, 64, 50))
        v = rng.choice([-1, 1], (64, 50))

        def losses(step, sign):
            rounded = np.round((phases + sign * step * v) / quantum) * quantum
            return np.sum(weights * np.sin(rounded), axis=1)

        assert probe_step(losses, one_sided=one_sided) > quantum / 3

    def test_a_digital_drive_gets_a_multiple_of_its_step(self):
        quantum = 2 * math.pi / 2**6
        step = probe_step(lambda step, sign: np.full(64, 1.0 + sign * step), quantum)
        assert step == pytest.approx(quantum)

    def test_more_noise_makes_a_longer_step_which_survives_a_checkpoint(self, tmp_path):
        """Four readings, averaged, are four passes."""
        settings = {"epsilon": "auto", "meshes": 1, "epochs": 1}
        models = [
            trained(imperfections=f"read_noise={noise}", reads=reads, **settings)
            for noise, reads in ((0.02, 4), (0.3, 1))
        ]
        often, once = (model.usage.forward_passes for model in models)
        assert often == 4 * once
        steps = [model.history[0].epsilon for model in models]
        assert 1e-3 <= steps[0] < steps[1] <= LADDER.max()
        position = Position(block=0, epoch=1, epsilon=steps[1])
        save_checkpoint(models[1], position, tmp_path / "c.npz")
        assert load_checkpoint(tmp_path / "c.npz")[1].epsilon == position.epsilon


class TestPresets:
    @pytest.mark.parametrize("name", PRESETS)
    def test_a_name_stands_for_its_imperfections_and_may_be_changed(self, name):
        preset = PRESETS[name]
        assert re.search(r"\b(19|20)\d\d\b", preset.reference)
        assert configure(imperfections=name).chip_imperfections == preset.imperfections
        device = configure(device=f"simulated:{name}:adc_bits=8,splitter_error=0")
        changed = replace(preset.imperfections, adc_bits=8, splitter_error=0)
        assert device.device_imperfections == changed

    def test_the_published_shifters_take_up_to_a_thousandth(self):
        passed = PRESETS["ntt-2025"].imperfections.fabricate(64, seed=2).mesh.transmission
        assert kstest(1 - passed.ravel(), "uniform", (0, 1e-3)).pvalue > 0.01

    def test_the_published_couplers_and_offsets(self):
        """Angles of 0.01 rad are 0.005 rad in our measure; shifters are off by up to 0.1 rad."""
        chip = PRESETS["ntt-2025"].imperfections.fabricate(64, seed=3)
        errors = chip.mesh.splitter_errors[:, chip.mesh.mask]
        assert kstest(errors.ravel() / 0.005, "norm").pvalue > 0.01
        for offsets in chip.offsets:
            assert kstest(offsets.ravel(), "uniform", (-0.1, 0.2)).pvalue > 0.01


def test_every_error_of_a_chip_has_a_random_stream_of_its_own():
    """NumPy leaves out zeros at the end: [5, 2, 0] is the stream [5, 2]."""
    streams = [[5], *([5, s] for s in (OFFSETS, SHIFTERS, PATHS)), *([5, WALK, e] for e in (0, 1))]
    first = [np.random.default_rng(stream).random() for stream in streams]
    assert len(set(first)) == len(streams)
    strength = Imperfections(shifter_loss=0.1, drift=0.1, phase_offset=0.1, loss_imbalance_db=1.0)
    chip = strength.fabricate(8, seed=5)
    lost = -np.log(chip.mesh.transmission).ravel()[:8]
    for phases in (chip.walk(1), chip.offsets):
        values = np.concatenate([x.ravel() for x in phases])[3::4][:8]
        assert list(np.argsort(values)) != list(np.argsort(lost))


@pytest.mark.parametrize(("name", "value"), [("reads", 0), ("reads", 2.5), ("seed", -1)])
def test_a_chip_checks_its_numbers(name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be .*, got {value}"):
        Imperfections(read_noise=0.1).fabricate(4, **{name: value})
