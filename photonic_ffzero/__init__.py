"""Train photonic neural networks from forward passes alone."""

from photonic_ffzero.data import DataError, Dataset, load_dataset
from photonic_ffzero.devices import Device, DeviceError, SimulatedChip
from photonic_ffzero.encoding import encode
from photonic_ffzero.inference import Evaluation, evaluate, predict
from photonic_ffzero.model import EpochRecord, Model, Usage
from photonic_ffzero.recipes import Config, configure
from photonic_ffzero.steps import Samples
from photonic_ffzero.storage import load_model, save_model
from photonic_ffzero.training import NonFiniteLossError, Observer, Trainer, fit

__all__ = [
    "Config",
    "DataError",
    "Dataset",
    "Device",
    "DeviceError",
    "EpochRecord",
    "Evaluation",
    "Model",
    "NonFiniteLossError",
    "Observer",
    "Samples",
    "SimulatedChip",
    "Trainer",
    "Usage",
    "configure",
    "encode",
    "evaluate",
    "fit",
    "load_dataset",
    "load_model",
    "predict",
    "save_model",
]
