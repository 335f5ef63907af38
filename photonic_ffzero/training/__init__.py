"""The training loop: one block after another, step by step."""

from photonic_ffzero.training.step import Samples
from photonic_ffzero.training.trainer import (
    NonFiniteLossError,
    Observer,
    StoppedError,
    Trainer,
    fit,
)
from photonic_ffzero.training.warnings import ResultWarning

__all__ = [
    "NonFiniteLossError",
    "Observer",
    "ResultWarning",
    "Samples",
    "StoppedError",
    "Trainer",
    "fit",
]
