"""The training loop: one block after another, step by step."""

from photonic_ffzero.training.step import Samples
from photonic_ffzero.training.trainer import (
    NonFiniteLossError,
    Observer,
    StoppedError,
    Trainer,
    fit,
)

__all__ = [
    "NonFiniteLossError",
    "Observer",
    "Samples",
    "StoppedError",
    "Trainer",
    "fit",
]
