"""The four recipes that configurations start from."""

from __future__ import annotations

from typing import Any

# The parts that make up a run's values, in this order: later ones take precedence. A name in braces
# is a choice, which earlier parts may make: local (ff) or global (bp) learning; directional
# derivatives (dd) or automatic differentiation (ad); what its estimator rests on; and the like.
PARTS = (
    *("all", "{network}", "{grouping}", "{derivative}", "{readout}", "{method}"),
    *("{network}-{method}", "{perturb}", "{slopes}", "{slopes}-{network}"),
    *("{task}", "{task}-{grouping}", "{task}-{perturb}", "{task}-{method}"),
    *("{network}-{grouping}", "{network}-{perturb}"),
)
SLOPES = {None: "differences", "forward": "forward-mode", "reverse": "reverse-mode"}

# What each recipe has in each part; "input" is for the images, apart from the run.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "balanced": {
        "input": {"encoding": "average", "size": 8},
        "all": {"network": "photonic", "batch_size": 128, "epochs": 10, "schedule": "cosine"},
        "ff": {"readout": "goodness", "rule": "sum"},
        "bp": {"readout": "goodness"},
        "dd": {
            "estimator": "central",
            "perturb": "weights",
            "law": "rademacher",
            "directions": 32,
            "optimizer": "sgd",
            "learning_rate": 0.1,
        },
        "differences": {"epsilon": 1e-2},
        "ad": {"estimator": "autodiff", "optimizer": "adam", "learning_rate": 1e-2},
        "goodness": {"detection": "balanced", "loss": "cross-entropy:scale=10"},
    },
    "paper": {
        "input": {"encoding": "crop", "size": 8},
        "all": {"network": "photonic", "batch_size": 128, "epochs": 100, "schedule": "constant"},
        "ff": {"readout": "goodness", "rule": "vote"},
        "bp": {"readout": "ports"},
        "dd": {
            "estimator": "central",
            "perturb": "weights",
            "law": "gaussian-unit",
            "directions": 1,
            "optimizer": "sgd",
            "learning_rate": 1e-3,
        },
        "differences": {"epsilon": 1e-3},
        "ad": {"estimator": "autodiff", "optimizer": "adam", "learning_rate": 1e-3},
        "goodness": {"detection": "raw", "loss": "margin:margin=0.3"},
    },
    "digital": {
        "input": {"encoding": "average", "size": None},
        "all": {"network": "mlp", "batch_size": 256, "epochs": 20, "schedule": "cosine"},
        "ff": {"readout": "goodness", "rule": "sum"},
        "bp": {"readout": "ports"},
        "dd": {
            "estimator": "central",
            "perturb": "weights",
            "law": "rademacher",
            "directions": 32,
            "optimizer": "sgd",
            "learning_rate": 0.2,
        },
        "differences": {"epsilon": 1e-3},
        "bp-dd": {"learning_rate": 0.02},
        "ad": {"estimator": "autodiff", "optimizer": "adam", "learning_rate": 1e-3},
        "goodness": {"detection": "raw", "norm_size": 5, "loss": "cross-entropy:scale=20"},
        "ff-ad": {"learning_rate": 0.01},
        "activations": {"directions": 16, "optimizer": "adam", "learning_rate": 0.01},
        "regression-weights": {"directions": 16, "learning_rate": 0.5},
        "regression-bp-dd": {"directions": 32, "learning_rate": 0.003},
        "cnn-ff-dd": {"learning_rate": 0.02},
        "cnn-ff": {"rule": "last"},  # a channel's own goodness is poor
        "cnn-activations": {"directions": 8, "batch_size": 128, "epochs": 3},
    },
}
RECIPES["published"] = RECIPES["paper"] | {
    "dd": RECIPES["paper"]["dd"] | {"law": "gaussian-unit-each"},
    "goodness": {"detection": "raw", "loss": "cosine"},
}

# What every recipe has in a part, unless it says otherwise. Ports read out are logits as they are,
# and need no detection; a regression's last layer is its prediction; the native engine has no
# forward mode.
COMMON: dict[str, dict[str, Any]] = {
    "all": {"task": "classification", "groups": 1, "seed": 0},
    "photonic": {
        "meshes": 2,
        "columns": None,
        "nonlinearity": "electro-optic",
        "train_nonlinearity": False,
        "amplifier": "",
        "imperfections": "",
        "chip": None,
        "reads": 1,
        "device": None,
        "engine": "auto",
    },
    "mlp": {"depth": 4, "width": 100, "nonlinearity": "gelu"},
    "cnn": {"depth": 3, "channels": 16, "kernel_size": 6, "nonlinearity": "gelu"},
    "ports": {"loss": "cross-entropy:scale=1"},
    "goodness": {"prototypes": "simplex", "norm_size": 0},
    "forward-mode-photonic": {"engine": "xla"},
    "regression": {"loss": "squared"},
    "regression-ff": {"rule": "last"},
}
