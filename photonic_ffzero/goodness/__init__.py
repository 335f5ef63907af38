"""From tapped values to scores, and from scores to losses and decisions."""

from photonic_ffzero.goodness.decisions import RULES, decide
from photonic_ffzero.goodness.losses import LOSSES, Cosine, CrossEntropy, Margin, Squared
from photonic_ffzero.goodness.prototypes import PROTOTYPES, independent, simplex
from photonic_ffzero.goodness.readouts import (
    DETECTIONS,
    READOUTS,
    CentralPorts,
    Goodness,
    Ports,
    Readout,
    balanced,
    cosine,
    raw,
)

__all__ = [
    "DETECTIONS",
    "LOSSES",
    "PROTOTYPES",
    "READOUTS",
    "RULES",
    "CentralPorts",
    "Cosine",
    "CrossEntropy",
    "Goodness",
    "Margin",
    "Ports",
    "Readout",
    "Squared",
    "balanced",
    "cosine",
    "decide",
    "independent",
    "raw",
    "simplex",
]
