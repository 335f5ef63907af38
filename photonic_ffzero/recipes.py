"""Configurations: every choice of a training run, and the three recipes they start from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from meshes import NONLINEARITIES
from meshes.propagation import ENGINES
from meshes.validation import choice, from_spec, integer, number
from photonic_ffzero.directions import LAWS
from photonic_ffzero.estimators import ESTIMATORS
from photonic_ffzero.goodness import DETECTIONS, READOUTS
from photonic_ffzero.inference import RULES
from photonic_ffzero.losses import LOSSES
from photonic_ffzero.optimizers import OPTIMIZERS, SCHEDULES

__all__ = ["METHODS", "RECIPES", "Config", "configure"]

METHODS = ("ff-dd", "ff-ad", "bp-dd", "bp-ad")

# What a recipe sets: for the input; for every method; for local (ff) and global (bp) learning;
# for directional derivatives (dd) and automatic differentiation (ad); for the goodness readout.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "balanced": {
        "input": {"encoding": "average", "size": 8},
        "all": {"batch_size": 128, "epochs": 10, "schedule": "cosine"},
        "ff": {"readout": "goodness", "rule": "sum"},
        "bp": {"readout": "goodness"},
        "dd": {
            "estimator": "central",
            "law": "rademacher",
            "directions": 32,
            "epsilon": 1e-2,
            "optimizer": "sgd",
            "learning_rate": 0.1,
        },
        "ad": {"estimator": "autodiff", "optimizer": "adam", "learning_rate": 1e-2},
        "goodness": {"detection": "balanced", "loss": "cross-entropy:scale=10"},
    },
    "paper": {
        "input": {"encoding": "crop", "size": 8},
        "all": {"batch_size": 128, "epochs": 100, "schedule": "constant"},
        "ff": {"readout": "goodness", "rule": "vote"},
        "bp": {"readout": "ports"},
        "dd": {
            "estimator": "central",
            "law": "gaussian-unit",
            "directions": 1,
            "epsilon": 1e-3,
            "optimizer": "sgd",
            "learning_rate": 1e-3,
        },
        "ad": {"estimator": "autodiff", "optimizer": "adam", "learning_rate": 1e-3},
        "goodness": {"detection": "raw", "loss": "margin:margin=0.3"},
    },
}
RECIPES["published"] = RECIPES["paper"] | {
    "dd": RECIPES["paper"]["dd"] | {"law": "gaussian-unit-each"},
    "goodness": {"detection": "raw", "loss": "cosine"},
}

# Intensities are logits as they are, and no prototype needs a detection of its own.
_PORTS = {"loss": "cross-entropy:scale=1"}

_ALWAYS = {
    "meshes": 2,
    "columns": None,
    "nonlinearity": "electro-optic",
    "seed": 0,
    "engine": "auto",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every choice of a training run; None where a method has no such thing.

    Attributes:
        recipe: The recipe the values come from.
        method: ``ff-dd``, ``ff-ad``, ``bp-dd`` or ``bp-ad``.
        meshes: Number of meshes.
        columns: Columns of a mesh L; None means as many as ports.
        nonlinearity: ``NAME`` or ``NAME:key=value,...``, applied between meshes.
        readout: ``goodness`` (cosine with prototypes) or ``ports`` (the first C intensities).
        detection: ``balanced`` or ``raw``; None for the readout ``ports``.
        loss: ``NAME`` or ``NAME:key=value,...``.
        rule: How layers decide together, ``sum`` or ``vote``; None for BP.
        estimator: ``central``, ``forward`` or ``autodiff``.
        law: Law of the directions; None for AD.
        directions: Directions a step K; None for AD.
        epsilon: Step of the differences, rad; None for AD.
        optimizer: ``sgd``, ``momentum`` or ``adam``.
        learning_rate: First learning rate, for the mean loss over the batch.
        schedule: ``constant`` or ``cosine``.
        batch_size: Images a step B.
        epochs: Passes over the training images for each block.
        seed: Seed of everything random.
        engine: ``auto``, ``native`` or ``xla``.

    Raises:
        ValueError, TypeError: a value is unknown or out of range.
    """

    recipe: str
    method: str
    meshes: int
    columns: int | None
    nonlinearity: str
    readout: str
    detection: str | None
    loss: str
    rule: str | None
    estimator: str
    law: str | None
    directions: int | None
    epsilon: float | None
    optimizer: str
    learning_rate: float
    schedule: str
    batch_size: int
    epochs: int
    seed: int
    engine: str

    def __post_init__(self) -> None:
        for name, options in _CHOICES.items():
            if (value := getattr(self, name)) is not None:
                choice(name, value, options)
        for name in ("meshes", "columns", "directions", "batch_size", "epochs"):
            if (value := getattr(self, name)) is not None:
                integer(name, value, minimum=1)
        integer("seed", self.seed, minimum=0)
        for name in ("learning_rate", "epsilon"):
            if (value := getattr(self, name)) is not None:
                number(name, value, above=0)
        from_spec("loss", self.loss, LOSSES)
        from_spec("nonlinearity", self.nonlinearity, NONLINEARITIES)
        if (self.estimator == "autodiff") != self.method.endswith("-ad"):
            raise ValueError(
                f"estimator {self.estimator} does not fit method {self.method}: the estimators "
                "central and forward are for -dd methods, autodiff for -ad"
            )

        needed = ["law", "directions", "epsilon"] if self.method.endswith("-dd") else []
        needed += ["rule"] if self.local else []
        needed += ["detection"] if self.readout == "goodness" else []
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"{name} must be set for {self.method} with {self.readout}")

    @property
    def local(self) -> bool:
        """Whether every layer learns by its own loss (FF)."""
        return self.method.startswith("ff-")


_CHOICES = {
    "recipe": RECIPES,
    "method": METHODS,
    "readout": READOUTS,
    "detection": DETECTIONS,
    "rule": RULES,
    "estimator": ESTIMATORS,
    "law": LAWS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "engine": ENGINES,
}


def configure(recipe: str = "balanced", method: str = "ff-dd", **given: Any) -> Config:
    """Fill a configuration from a recipe; what is given takes precedence.

    Args:
        recipe: ``balanced``, ``paper`` or ``published``.
        method: ``ff-dd``, ``ff-ad``, ``bp-dd`` or ``bp-ad``.
        **given: Fields of `Config`; None means as the recipe has it.

    Raises:
        TypeError: a name is no field of `Config`.
        ValueError: a value is out of range, or does not apply to the method or readout.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if unknown := given.keys() - {field.name for field in fields(Config)}:
        raise TypeError(f"unknown setting {', '.join(sorted(unknown))}")
    parts = RECIPES[choice("recipe", recipe, RECIPES)]
    grouping, derivative = choice("method", method, METHODS).split("-")
    values = _ALWAYS | parts["all"] | parts[grouping] | parts[derivative]
    readout = choice("readout", given.get("readout", values["readout"]), READOUTS)
    values |= parts["goodness"] if readout == "goodness" else _PORTS
    for name in given:
        if name not in values:
            raise ValueError(f"{name} does not apply to method {method} with readout {readout}")
    blank: dict[str, Any] = dict.fromkeys(field.name for field in fields(Config))
    return Config(**(blank | values | given | {"recipe": recipe, "method": method}))
