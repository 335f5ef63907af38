"""Numbers, switches and texts of NumPy are taken wherever Python's are, and kept as Python's."""

import json
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from meshes import Amplifier, ElectroOptic, Imperfections
from meshes._tensorflow import tf
from meshes.validation import choice, integer, number, switch, text
from photonic_ffzero import Model, SimulatedChip, configure, fit, load_model, save_model
from photonic_ffzero.data.encoding import Encoder
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.goodness import LOSSES
from photonic_ffzero.power import ChipRates
from photonic_ffzero.runs import Cell, plan_for

WHOLE = [np.int8(8), np.uint64(8), np.array(8), np.array(8, np.int16), tf.constant(8)]
REAL = [np.float32(0.5), np.float16(0.5), np.array(0.5), Fraction(1, 2), Decimal("0.5")]
REAL += [tf.constant(0.5)]
NO_NUMBER = [np.bool_(1), np.array(True), tf.constant(True), np.array([8]), np.timedelta64(8, "s")]
NO_NUMBER += [np.complex64(8), bytearray(b"8"), np.str_("8"), memoryview(b"8"), np.array("8")]


def plain(value):
    """Whether a value is built of nothing but Python's own types."""
    if isinstance(value, dict):
        return all(map(plain, [*value, *value.values()]))
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return value is None or type(value) in (int, float, bool, str)


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_whole_numbers(value):
    assert type(integer("n", value)) is int
    assert integer("n", value) == 8
    assert type(number("n", value)) is float


@pytest.mark.parametrize("value", REAL, ids=repr)
def test_real_numbers(value):
    assert type(number("x", value)) is float
    assert number("x", value) == 0.5
    with pytest.raises(TypeError, match="n must be a whole number"):
        integer("n", value)


@pytest.mark.parametrize("value", NO_NUMBER, ids=lambda value: type(value).__name__)
def test_what_is_no_number_is_named(value):
    for check in (integer, number):
        with pytest.raises(TypeError, match=r"n must be a .*number, got "):
            check("n", value)


@pytest.mark.parametrize(
    "value",
    [10**400, -(Fraction(10) ** 400), Decimal("sNaN"), np.inf],
    ids=["int", "Fraction", "Decimal", "inf"],
)
def test_what_no_float_can_hold_is_not_finite(value):
    with pytest.raises(ValueError, match="x must be finite"):
        number("x", value)


def test_switches_and_texts():
    assert switch("s", np.bool_(0)) is switch("s", np.array(False)) is False
    for word in (np.str_("a"), np.array("a")):
        assert type(text("t", word)) is type(choice("t", word, ["a"])) is str
    for value in (1, "yes", np.array([True])):
        with pytest.raises(TypeError, match="s must be True or False"):
            switch("s", value)
    with pytest.raises(ValueError, match="t must be one of a; got"):
        choice("t", np.array(["a", "b"]), ["a"])


SETTINGS = {
    "recipe": np.str_("balanced"),
    "method": np.array("ff-dd"),
    "network": np.str_("photonic"),
    "meshes": np.int8(2),
    "nonlinearity": np.str_("kerr:phi_nl=1"),
    "train_nonlinearity": np.bool_(False),
    "imperfections": np.str_("read_noise=0.1"),
    "chip": np.uint8(3),
    "reads": np.int8(127),
    "norm_size": np.int16(0),
    "loss": np.str_("margin"),
    "directions": np.int8(127),
    "epsilon": np.float32(0.25),
    "learning_rate": Fraction(1, 8),
    "batch_size": np.int8(100),
    "epochs": np.array(1),
    "seed": np.int64(0),
}


def test_every_setting_is_kept_as_python_s():
    config = configure(**SETTINGS)
    assert plain(config.as_json())
    assert json.dumps(config.as_json())
    plain_settings = {k: v.item() for k, v in SETTINGS.items() if hasattr(v, "item")}
    assert config == configure(**SETTINGS | plain_settings)
    assert config.learning_rate == 0.125


def test_a_run_counts_and_is_saved_as_with_python_s_numbers(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((130, 4), np.float32), np.arange(130) % 2
    model = fit(x, y, validation=np.int8(10), **SETTINGS)
    assert model.usage.forward_passes > 127 * 127 * 100
    assert plain(asdict(model.usage))
    assert plain([asdict(record) for record in model.history])
    save_model(model, tmp_path / "m.npz")
    assert load_model(tmp_path / "m.npz").config == model.config


def test_objects_that_keep_numbers(tmp_path):
    config, n = configure(), np.int8
    kept = [
        asdict(Classification(n(3), tuple(np.array(["a", "b", "c"])))),
        asdict(Encoder(np.str_("average"), n(12), (n(28), np.int64(28)))),
        asdict(ElectroOptic(np.float32(0.5), g=np.array(1.0))),
        asdict(Amplifier(gain=np.float32(2))),
        asdict(Imperfections(drive_bits=np.float32(8), read_noise=np.float64(0.1))),
        asdict(LOSSES["margin"](np.float32(0.5))),
        asdict(ChipRates(symbol_rate=np.float32(1e6), write_time=np.int8(1))),
        plan_for("digits", config, limit=n(100), unit_power=np.float32(1)).as_json(),
        dict(Cell({np.str_("a"): n(3), "b": np.str_("x")}, plan_for("digits", config)).labels),
        vars(Model(config, n(16), Classification(10)))["units"],
    ]
    assert all(map(plain, kept))
    chip = SimulatedChip(n(12), meshes=n(2), seed=np.int64(3))
    assert plain([chip.units, chip.meshes, chip.columns])
    assert Encoder("average", n(12), (28, 28)).values == 144  # n(12)**2 would be -112
