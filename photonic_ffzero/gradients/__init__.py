"""From losses to gradients: directions, objectives, estimators and the step to take."""

from photonic_ffzero.gradients.directions import LAWS, Directions, Sampler, draw
from photonic_ffzero.gradients.estimators import (
    ESTIMATORS,
    Autodiff,
    CentralDifference,
    Estimate,
    Estimator,
    ForwardDifference,
    ForwardGradient,
    LightCones,
    estimate,
)
from photonic_ffzero.gradients.objectives import (
    PERTURBATIONS,
    Activations,
    Objective,
    Perturbation,
    Weights,
)

__all__ = [
    "ESTIMATORS",
    "LAWS",
    "PERTURBATIONS",
    "Activations",
    "Autodiff",
    "CentralDifference",
    "Directions",
    "Estimate",
    "Estimator",
    "ForwardDifference",
    "ForwardGradient",
    "LightCones",
    "Objective",
    "Perturbation",
    "Sampler",
    "Weights",
    "draw",
    "estimate",
]
