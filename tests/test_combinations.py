"""Every combination of choices either shows in the history of a run or is refused with a reason.

No flag parses and does nothing. What is refused is refused by the configuration, before any
training; the rest is trained for a few steps, without compiling, and must differ from all others.
"""

import functools
import itertools
from dataclasses import asdict, fields

import numpy as np
import pytest

from meshes import Imperfections
from photonic_ffzero import configure, fit, predict
from photonic_ffzero.cli.train import main
from photonic_ffzero.config import METHODS, Config
from photonic_ffzero.gradients.estimators import ESTIMATORS
from photonic_ffzero.gradients.objectives import PERTURBATIONS
from photonic_ffzero.networks import NETWORKS

# A strength at which each imperfection tells. A drive of 6 bits has steps of 0.098 rad.
STRENGTHS = {
    "splitter_error": "splitter_error=0.2",
    "phase_offset": "phase_offset=0.3",
    "phase_law": "phase_offset=0.3,phase_law=uniform",
    "insertion_loss_db": "insertion_loss_db=1",
    "loss_imbalance_db": "loss_imbalance_db=1",
    "shifter_loss": "shifter_loss=0.3",
    "drive_bits": "drive_bits=6",
    "write_noise": "write_noise=0.1",
    "crosstalk": "crosstalk=0.1",
    "drift": "drift=0.3",
    "epoch_hours": "drift=0.3,epoch_hours=4",
    "source_noise": "source_noise=0.2",
    "shot_noise": "shot_noise=0.2",
    "thermal_noise": "thermal_noise=0.2",
    "read_noise": "read_noise=0.2",
    "adc_bits": "adc_bits=4",
}
SIMULATED, REMOTE, FACTORY = "simulated", "tcp://localhost:5025", "lab:chip"
AXES = {
    "method": METHODS,
    "network": tuple(NETWORKS),
    "perturb": (None, *PERTURBATIONS),
    "estimator": (None, *ESTIMATORS),
    "imperfections": (None, *(STRENGTHS[n] for n in ("phase_offset", "drive_bits", "adc_bits"))),
    "device": (None, REMOTE, FACTORY, f"{SIMULATED}:drift=0.3", f"{SIMULATED}:drive_bits=6"),
}


def test_every_imperfection_has_a_strength_here():
    assert tuple(STRENGTHS) == tuple(field.name for field in fields(Imperfections))


def configured(**settings):
    """The configuration, or why there is none."""
    settings = {name: value for name, value in settings.items() if value is not None}
    try:
        # With a step that the drive can make, where there is one.
        steps = {"epsilon": 0.2} if "drive_bits" in f"{settings}" else {}
        return configure(**steps, **settings)
    except ValueError as error:
        return str(error)


def reason(method, network, perturb, estimator, imperfections, device):
    """The settings that may be blamed for a combination that is none; empty if it is one."""
    blamed = set()
    differentiated = method.endswith("-ad") or estimator in ("jvp", "autodiff")
    if (estimator == "autodiff") != method.endswith("-ad") and estimator is not None:
        blamed |= {"estimator", "perturb"}
    if estimator in ("cones", "twin") and network != "photonic":
        blamed |= {"estimator"}
    if perturb is not None and method.endswith("-ad"):
        blamed |= {"perturb", "estimator"}
    reached = network == "mixer" or not method.startswith("bp")
    if perturb == "activations" and (network == "photonic" or not reached):
        blamed |= {"perturb"}
    if network != "photonic":
        blamed |= {"imperfections"} if imperfections else set()
        blamed |= {"device"} if device else set()
    if imperfections and device:
        blamed |= {"imperfections"}
    if differentiated and imperfections and "_bits" in imperfections:
        blamed |= {"imperfections", "epsilon"}
    if device and (differentiated or "drift" in device):
        blamed |= {"device"}
    if "drive_bits" in f"{imperfections}{device}" and (differentiated or network != "photonic"):
        blamed |= {"epsilon"}
    return blamed


def test_every_combination_is_one_or_is_refused_with_a_reason():
    """What is accepted is kept as it was set; what is not, names what is wrong."""
    accepted = 0
    for values in itertools.product(*AXES.values()):
        settings = dict(zip(AXES, values, strict=True))
        config, blamed = configured(**settings), reason(**settings)
        if isinstance(config, Config):
            assert not blamed, settings
            assert all(getattr(config, name) == value for name, value in settings.items() if value)
            accepted += 1
        else:
            assert config.split()[0] in blamed, (settings, config)
    assert accepted > 50


UNITS, CLASSES = 9, 3


@functools.cache
def samples():
    rng = np.random.default_rng(0)
    y = np.arange(20) % CLASSES
    x = rng.random((20, UNITS), np.float32) + 2 * np.eye(UNITS, dtype=np.float32)[3 * y]
    return x, y


BRIEF = {"epochs": 2, "batch_size": 20, "nonlinearity": "modrelu"}
OF_NETWORK = {
    "photonic": {"columns": 2},
    "mlp": {"depth": 2, "width": 6, "nonlinearity": "relu"},
    "cnn": {"depth": 2, "channels": 2, "kernel_size": 2, "nonlinearity": "relu"},
    "mixer": {"depth": 2, "channels": 6, "groups": 2, "patches": 3, "nonlinearity": "relu"}
    | {"epochs": 3},  # the final head starts at zero, and all slopes with it
}


@functools.cache
def history(network="photonic", method="ff-dd", **given):
    """What a run records of its losses and accuracies; and what its network then says."""
    x, y = samples()
    settings = BRIEF | OF_NETWORK[network] | {"network": network} | given
    if given.get("colour") == "rgb":
        x = np.repeat(x, 3, axis=1)
    if method.endswith("-dd"):
        settings = {"directions": 2, "epsilon": 0.2} | settings
    if settings.get("estimator") == "jvp":
        del settings["epsilon"]
    settings = {name: value for name, value in settings.items() if value is not None}
    if settings.pop("task", None) == "regression":
        settings, y = settings | {"task": "regression"}, np.float64(y)
    model = fit(x, y, method=method, **settings)
    rows = [(record.mesh, record.loss, record.train_accuracy) for record in model.history]
    return *rows, *predict(model, x).tolist()


def assert_all_differ(histories):
    for (one, first), (other, second) in itertools.combinations(histories.items(), 2):
        assert first != second, f"{one} and {other} have one history"


LONG = pytest.mark.long
PHOTONIC = [
    ("ff-dd", "central"),
    *(pytest.param("ff-dd", estimator, marks=LONG) for estimator in ("forward", "jvp")),
    *(pytest.param("bp-dd", estimator, marks=LONG) for estimator in ("central", "forward", "jvp")),
    *(pytest.param(method, None, marks=LONG) for method in ("ff-ad", "bp-ad")),
]
ON_DEVICE = [*PHOTONIC[:2], *PHOTONIC[3:5]]


@pytest.mark.parametrize(
    "network",
    [pytest.param(name, marks=[LONG] * (name in ("cnn", "mixer"))) for name in NETWORKS],
)
def test_method_estimator_and_perturbed_space_each_change_the_history(network):
    """Defaults are left out, as they would give the same history as if they were named."""
    histories = {}
    for method, perturb, estimator in itertools.product(
        METHODS, (None, "activations"), (None, "forward", "jvp")
    ):
        choice = {"method": method, "perturb": perturb, "estimator": estimator}
        if isinstance(configured(network=network, **choice), Config):
            histories[method, perturb, estimator] = history(network, **choice)
    assert len(histories) == {"photonic": 8, "mixer": 14}.get(network, 11)
    assert_all_differ(histories)


@pytest.mark.parametrize(("method", "estimator"), PHOTONIC)
def test_every_imperfection_changes_every_history_that_may_have_it(method, estimator):
    found = {None: history(method=method, estimator=estimator)}
    for made in STRENGTHS.values():
        if isinstance(configured(method=method, estimator=estimator, imperfections=made), Config):
            found[made] = history(method=method, estimator=estimator, imperfections=made)
    differentiated = estimator in (None, "jvp")
    assert len(found) == 1 + len(STRENGTHS) - (2 if differentiated else 0)
    assert_all_differ(found)


@pytest.mark.parametrize(("method", "estimator"), ON_DEVICE)
def test_so_does_every_one_that_a_device_hides(method, estimator):
    found = {}
    for made in ("", *STRENGTHS.values()):
        if "drift" not in made:
            found[made] = history(
                method=method, estimator=estimator, device=f"simulated:{made}".rstrip(":")
            )
    assert_all_differ(found)


# Settings of a run, and others of which each must show. The engine says how to compute, not what.
CHIP, NOISY = "phase_offset=0.3", "read_noise=0.3"
BRIEFLY_MEASURED = {"calibration": 2}  # sets of phases at which a twin is fitted before training
SHOWN = [
    ({}, {"recipe": "paper", "method": "bp-dd", "network": "mlp", "readout": "ports"}),
    ({}, {"meshes": 3, "columns": 3, "groups": 3, "nonlinearity": "kerr", "imperfections": CHIP}),
    ({}, {"device": f"{SIMULATED}:{CHIP}", "prototypes": "random", "detection": "raw"}),
    ({}, {"norm_size": 3, "loss": "margin", "estimator": "forward", "law": "gaussian"}),
    ({}, {"directions": 3, "epsilon": 0.1, "optimizer": "adam", "learning_rate": 0.2}),
    ({}, {"schedule": "constant", "batch_size": 5, "epochs": 1, "seed": 1}),
    ({}, {"loss": "cross-entropy:scale=3", "epsilon": "auto"}),
    ({"network": "mlp"}, {"task": "regression", "perturb": "activations", "norm_size": 2}),
    ({"network": "mlp"}, {"depth": 3, "width": 7, "groups": 2, "nonlinearity": "tanh"}),
    ({"network": "cnn"}, {"channels": 3, "kernel_size": 3, "colour": "rgb"}),
    (
        {"network": "mlp"},
        {"order": "together", "weight_decay": 0.1, "scaling": "none", "initialization": "uniform"},
    ),
    ({"network": "mixer"}, {"patches": 1, "head": "prototypes"}),
    ({"network": "mixer", "perturb": "activations"}, {"losses": "block"}),
    ({"nonlinearity": "electro-optic"}, {"train_nonlinearity": True}),
    # After the last mesh stands only a goodness, which does not depend on the power.
    ({"meshes": 3}, {"amplifier": "gain=2", "rule": "vote"}),
    ({"meshes": 3}, {"amplifier": "level=3", "rule": "last"}),
    ({"meshes": 3, "device": SIMULATED}, {"amplifier": "gain=2", "nonlinearity": "kerr"}),
    ({"imperfections": CHIP}, {"chip": 1}),
    ({"device": f"{SIMULATED}:{CHIP}"}, {"chip": 1}),
    ({"imperfections": NOISY}, {"reads": 2}),
    ({"device": f"{SIMULATED}:{NOISY}"}, {"chip": 1, "reads": 2}),
    ({"estimator": "twin", "imperfections": CHIP, "calibration": 2}, {"calibration": 5}),
    (
        {"estimator": "twin", "device": f"{SIMULATED}:{CHIP}", "directions": 0} | BRIEFLY_MEASURED,
        {"twin_nonlinearity": "kerr"},
    ),
    (
        {"estimator": "twin", "device": SIMULATED, "directions": 0, "meshes": 3} | BRIEFLY_MEASURED,
        {"twin_amplifier": "gain=2"},
    ),
]
CHANGES = [(run, {name: value}) for run, changes in SHOWN for name, value in changes.items()]


# Choices on which the defaults of other settings depend.
BRINGS_OTHERS = {"recipe", "method", "task", "network", "perturb", "readout", "device", "head"}


def test_every_setting_is_here():
    elsewhere = {"engine", "workers"}  # of test_engines and test_crew
    assert {*elsewhere, *(name for _, change in CHANGES for name in change)} == {
        field.name for field in fields(Config)
    }


@pytest.mark.parametrize(("settings", "change"), CHANGES, ids=str)
def test_every_setting_changes_the_history_and_no_other_setting(settings, change):
    before, after = (asdict(configure(**values)) for values in (settings, settings | change))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == change.keys() or (changed > change.keys() and change.keys() & BRINGS_OTHERS)
    assert history(**settings) != history(**(settings | change))


# What would do nothing, as a configuration says: settings of a run, and others that do not show.
IDLE = [
    ({}, {"chip": 1}),
    ({"imperfections": "drive_bits=6,read_noise=0.2"}, {"chip": 1}),
    ({"device": f"{SIMULATED}:crosstalk=0.1"}, {"chip": 1}),
    ({}, {"reads": 2}),
    ({"imperfections": "adc_bits=4"}, {"reads": 2}),
    ({"meshes": 1}, {"nonlinearity": "kerr"}),
    ({"meshes": 1}, {"rule": "vote"}),
    ({"network": "mlp", "depth": 1}, {"width": 9}),
    ({"network": "cnn", "depth": 1}, {"channels": 3}),
    ({"network": "cnn", "depth": 1}, {"kernel_size": 3}),
    ({"network": "mlp", "depth": 1}, {"order": "together"}),
    ({"network": "mixer", "depth": 1, "head": "prototypes"}, {"rule": "vote"}),
]


@pytest.mark.parametrize(("settings", "change"), IDLE, ids=str)
def test_what_does_nothing_is_refused_on_the_command_line(settings, change, capsys):
    assert history(**settings) == history(**(settings | change))
    words = ["--dataset", "digits", "--method", "ff-dd", "--epsilon", "0.2"]
    for name, value in (settings | change).items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    flag = next(iter(change)).replace("_", "-")
    assert f"argument --{flag} would do nothing: " in capsys.readouterr().err


def test_what_does_something_is_not_called_idle():
    for settings, change in CHANGES:
        names = {"epsilon": 0.2} | settings | change
        assert not configure(**names).idle.keys() & change.keys()
