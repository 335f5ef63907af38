"""The recipes that configurations start from."""

from __future__ import annotations

from typing import Any

from photonic_ffzero.settings import Conditions

METHODS = ("ff-dd", "ff-ad", "bp-dd", "bp-ad")

# Local (FF) or global (BP) losses; directional derivatives (DD) or automatic differentiation (AD).
FF = {"method": ("ff-dd", "ff-ad")}
_BP = {"method": ("bp-dd", "bp-ad")}
DD = {"method": ("ff-dd", "bp-dd")}
_AD = {"method": ("ff-ad", "bp-ad")}
_ACTIVATIONS = {"perturb": "activations"}
_REGRESSION = {"task": "regression"}
_PHOTONIC = {"network": "photonic"}
_MIXER = {"network": "mixer"}

# A recipe is a list of rows (conditions, values), applied from top to bottom: a row whose
# conditions the run meets replaces what the rows above it said. What a user sets counts as met.
Rows = list[tuple[Conditions, dict[str, Any]]]

_BALANCED: Rows = [
    ({}, {"network": "photonic", "batch_size": 128, "epochs": 10, "schedule": "cosine"}),
    ({}, {"readout": "goodness", "detection": "balanced", "loss": "cross-entropy:scale=10"}),
    ({}, {"rule": "sum", "epsilon": 1e-2}),
    (DD, {"estimator": "central", "perturb": "weights", "law": "rademacher", "directions": 32}),
    (DD, {"optimizer": "sgd", "learning_rate": 0.1}),
    ({"estimator": ("cones", "twin")}, {"optimizer": "adam", "learning_rate": 1e-2}),
    ({"estimator": "twin"}, {"directions": 0}),
    ({"law": "layered"}, {"optimizer": "adam", "learning_rate": 1e-2}),
    (_AD, {"estimator": "autodiff", "optimizer": "adam", "learning_rate": 1e-2}),
]

# Meshes of about 196 ports and more. Of a short mesh, each port's intensity depends on few phases:
# light cones then leave out most of the noise. Cosines of many ports are close to each other, so
# that the loss needs a larger scale.
_WIDE: Rows = [
    *_BALANCED,
    (_PHOTONIC, {"columns": 64, "loss": "cross-entropy:scale=40"}),
    (_PHOTONIC | DD, {"estimator": "cones", "directions": 16, "epochs": 8}),
    (_PHOTONIC | DD, {"optimizer": "adam", "learning_rate": 5e-3}),
    ({"estimator": "twin"}, {"directions": 0}),
]

_PAPER: Rows = [
    ({}, {"network": "photonic", "batch_size": 128, "epochs": 100, "schedule": "constant"}),
    ({}, {"detection": "raw", "loss": "margin:margin=0.3", "rule": "vote", "epsilon": 1e-3}),
    (FF, {"readout": "goodness"}),
    (_BP, {"readout": "ports"}),
    (DD, {"estimator": "central", "perturb": "weights", "law": "gaussian-unit", "directions": 1}),
    (DD, {"optimizer": "sgd", "learning_rate": 1e-3}),
    (_AD, {"estimator": "autodiff", "optimizer": "adam", "learning_rate": 1e-3}),
]

_PUBLISHED: Rows = [*_PAPER, ({}, {"loss": "cosine"}), (DD, {"law": "gaussian-unit-each"})]

_DIGITAL: Rows = [
    ({}, {"network": "mlp", "batch_size": 256, "epochs": 20, "schedule": "cosine"}),
    ({}, {"detection": "raw", "norm_size": 5, "loss": "cross-entropy:scale=20"}),
    ({}, {"rule": "sum", "epsilon": 1e-3}),
    (FF, {"readout": "goodness"}),
    (_BP, {"readout": "ports"}),
    (DD, {"estimator": "central", "perturb": "weights", "law": "rademacher", "directions": 32}),
    (DD, {"optimizer": "sgd", "learning_rate": 0.2}),
    (_AD, {"estimator": "autodiff", "optimizer": "adam", "learning_rate": 1e-3}),
    ({"method": "bp-dd"}, {"learning_rate": 0.02}),
    ({"method": "ff-ad"}, {"learning_rate": 0.01}),
    ({"method": "ff-dd", "network": "cnn"}, {"learning_rate": 0.02}),
    (_ACTIVATIONS, {"directions": 16, "optimizer": "adam", "learning_rate": 0.01}),
    (_REGRESSION | {"perturb": "weights"}, {"directions": 16, "learning_rate": 0.5}),
    (_REGRESSION | {"method": "bp-dd"}, {"directions": 32, "learning_rate": 0.003}),
    ({"network": "cnn"}, {"rule": "last"}),  # the goodness of a single channel says little
    (_ACTIVATIONS | {"network": "cnn"}, {"directions": 8, "batch_size": 128, "epochs": 3}),
    (_MIXER, {"detection": "balanced", "norm_size": 0, "loss": "cross-entropy:scale=10"}),
    (_MIXER, {"optimizer": "momentum", "learning_rate": 0.5, "batch_size": 128}),
    (_MIXER | DD, {"perturb": "activations", "estimator": "forward", "directions": 1}),
    (_MIXER | DD, {"epsilon": 1e-2}),
    (_MIXER | {"perturb": "weights"}, {"directions": 32, "epsilon": 1e-3, "learning_rate": 0.2}),
]

RECIPES: dict[str, Rows] = {
    "balanced": _BALANCED,
    "wide": _WIDE,
    "paper": _PAPER,
    "published": _PUBLISHED,
    "digital": _DIGITAL,
}

# Rows that follow every recipe: ports are logits as they are, the last layer of a regression is
# its prediction, intensities are no numbers of both signs, and the native engine has no forward
# mode.
COMMON: Rows = [
    (_PHOTONIC, {"nonlinearity": "electro-optic"}),
    (_PHOTONIC | _REGRESSION, {"readout": "goodness"}),
    ({"network": ("mlp", "cnn")}, {"nonlinearity": "gelu", "depth": 4}),
    (_MIXER, {"depth": 3}),
    ({"network": "cnn"}, {"depth": 3}),
    (_MIXER, {"nonlinearity": "relu", "channels": 256, "groups": 16, "order": "together"}),
    (_MIXER | {"head": "prototypes"}, {"readout": "goodness"}),
    (_MIXER | {"head": "linear"}, {"readout": "ports"}),
    (_MIXER | FF, {"losses": "grouped", "rule": "last"}),
    (_MIXER | FF | {"head": "linear", "perturb": (None, "weights")}, {"losses": "block"}),
    (_MIXER | _BP, {"losses": "global"}),
    ({"readout": ("ports", "central-ports")}, {"loss": "cross-entropy:scale=1"}),
    ({"slopes": "forward mode", "network": "photonic"}, {"engine": "xla"}),
    (_REGRESSION, {"loss": "squared", "rule": "last"}),
]

_INPUTS: dict[str, dict[str, Any]] = {
    "balanced": {"encoding": "average", "size": 8},
    "wide": {"encoding": "crop", "size": 28},
    "paper": {"encoding": "crop", "size": 8},
    "published": {"encoding": "crop", "size": 8},
    "digital": {"encoding": "average", "size": None},
}


def recipe_inputs(recipe: str, network: str) -> dict[str, Any]:
    """How a recipe encodes images: ``encoding``, and ``size`` (None for all pixels)."""
    return _INPUTS[recipe] | ({"normalisation": "standard"} if network == "mixer" else {})
