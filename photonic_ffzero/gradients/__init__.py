"""From losses to gradients: directions, objectives, estimators and the step to take."""

from photonic_ffzero.gradients.directions import (
    LAWS,
    SHARD,
    Directions,
    Sampler,
    draw,
    renewal_of,
)
from photonic_ffzero.gradients.estimators import (
    ESTIMATORS,
    Autodiff,
    CentralDifference,
    Directional,
    Estimate,
    Estimator,
    ForwardDifference,
    ForwardGradient,
    LightCones,
    TwinEstimator,
    TwinFacts,
    estimate,
    has_twin,
)
from photonic_ffzero.gradients.objectives import (
    PERTURBATIONS,
    Activations,
    Objective,
    Perturbation,
    Weights,
)
from photonic_ffzero.gradients.twin import Twin, TwinState

__all__ = [
    "ESTIMATORS",
    "LAWS",
    "PERTURBATIONS",
    "SHARD",
    "Activations",
    "Autodiff",
    "CentralDifference",
    "Directional",
    "Directions",
    "Estimate",
    "Estimator",
    "ForwardDifference",
    "ForwardGradient",
    "LightCones",
    "Objective",
    "Perturbation",
    "Sampler",
    "Twin",
    "TwinEstimator",
    "TwinFacts",
    "TwinState",
    "Weights",
    "draw",
    "estimate",
    "has_twin",
    "renewal_of",
]
