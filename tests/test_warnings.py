"""What makes figures meaningless is said, and nothing else is."""

import math
from dataclasses import replace

import numpy as np
import pytest

from photonic_ffzero import configure, fit
from photonic_ffzero.model import EpochRecord
from photonic_ffzero.training.warnings import Facts, ResultWarning, warnings_of

TENS = np.full(10, 50)
CHANCE = {"cross-entropy:scale=10": math.log(10), "margin:margin=0.3": 2.7, "cosine": 1.0}


def records(losses, accuracy=0.5, mesh="1"):
    return [
        EpochRecord(mesh, epoch, loss, accuracy, None, 0, 0, None, 0.0)
        for epoch, loss in enumerate(losses, 1)
    ]


SOUND = Facts(
    configure(meshes=3),
    10,
    history=[*records([2.2, 1.5, 1.2]), *records([2.2], 0.12, "2"), *records([2.1], 0.3, "3")],
    power=[0.1, 1e-4, 1e-30],
    zeros=[0.2, 0.5, 0.9],
    finite=[True, True, True],
    counts={"training": TENS, "validation": TENS, "test": TENS},
    scores=np.random.default_rng(0).normal(size=(3, 100, 10)),
    decided=np.arange(100) % 10,
)


def test_a_sound_run_has_no_warning():
    assert warnings_of(SOUND) == []
    assert warnings_of(Facts(configure(), 10)) == []  # nothing is known
    assert warnings_of(Facts(configure("digital", task="regression"), None)) == []
    untrained = replace(SOUND, config=configure(epochs=0), history=[])
    assert warnings_of(untrained) == []


@pytest.mark.parametrize("recipe", ["paper", "published"])
def test_a_short_run_at_a_small_rate_has_no_warning(recipe):
    """Such recipes need a hundred epochs; after one or two there is nothing to say yet."""
    config = configure(recipe)
    assert warnings_of(replace(SOUND, config=config, history=records([2.9, 2.9], 0.1))) == []


@pytest.mark.parametrize("accuracy", [0.1, 0.132])
def test_dim_ports_have_nearly_the_loss_of_chance_and_no_warning(accuracy):
    """As the published recipe reads out BP: intensities of a few per cent are the logits."""
    ports = configure("paper", "bp-dd")
    history = records([2.3029, 2.3027], accuracy, "1-2")
    assert warnings_of(replace(SOUND, config=ports, history=history, power=[0.01, 0.001])) == []
    learned = records([2.303] * 50, 0.3, "1-2")
    assert warnings_of(replace(SOUND, config=ports, history=learned)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"power": [1.0, 0.0]}, ["no light reaches mesh 2: use --amplifier or another bias"]),
        ({"power": [1.0, 1e-39, 0.0, 0.0]}, ["no light reaches mesh 2", "meshes 2 to 4"]),
        ({"power": [0.0, 0.0]}, ["no light reaches mesh 1", "inputs"]),
        ({"zeros": [0.1, 0.99]}, ["99 %", "mesh 2", "adc_bits"]),
        ({"finite": [True, False, False]}, ["mesh 2, 3", "not finite"]),
        ({"history": records([2.31, 2.3026], 0.1)}, ["mesh 1", "chance", "2.303"]),
        ({"history": [*records([2.0]), *records([2.3026], 0.1, "2")]}, ["mesh 2", "chance"]),
        ({"history": records([2.3035] * 10, 0.1)}, ["mesh 1", "chance"]),
        ({"history": records([2.5] * 10, 0.11)}, ["nothing was learned"]),
        ({"scores": np.full((2, 50, 10), 1e-5)}, ["goodness of mesh 1, 2"]),
        ({"decided": np.zeros(100, int)}, ["100 %", "same class"]),
        ({"decided": np.r_[np.zeros(199, int), 3]}, ["same class"]),
        ({"counts": {"training": np.r_[TENS, 0]}}, ["class 10", "0 training"]),
        ({"counts": {"training": TENS, "test": np.r_[TENS, 3, 2]}}, ["class 11", "2 test", "2 cl"]),
    ],
)
def test_what_means_nothing_is_one_line(change, words):
    (text,) = warnings_of(replace(SOUND, **change))
    assert all(word in text for word in words), text
    assert "\n" not in text
    assert len(text) < 160


@pytest.mark.parametrize(("loss", "chance"), CHANCE.items())
def test_the_loss_of_chance_is_that_of_scores_that_are_all_zero(loss, chance):
    facts = replace(SOUND, config=configure(loss=loss), history=records([3.0, chance], 0.1))
    assert any("chance" in text for text in warnings_of(facts))


def test_the_loss_of_chance_is_that_of_all_groups():
    facts = replace(SOUND, config=configure(groups=2), history=records([5.0, 2 * np.log(10)], 0.1))
    assert any("chance" in text for text in warnings_of(facts))


def test_darkness_explains_the_rest():
    dark = replace(
        SOUND,
        power=[1.0, 0.0],
        history=records([math.log(10)] * 3, 0.1, "1-2"),
        scores=np.zeros((1, 100, 10)),
        decided=np.zeros(100, int),
    )
    assert len(warnings_of(dark)) == 1


def test_fit_warns_in_the_same_words():
    x, y = np.eye(8, dtype=np.float32)[np.arange(60) % 8], np.arange(60) % 4
    with pytest.warns(ResultWarning, match="no light reaches mesh [4-7]: use --amplifier") as seen:
        fit(x, y, meshes=8, epochs=0)
    assert seen[0].filename == __file__
