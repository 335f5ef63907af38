"""Train photonic neural networks from forward passes alone."""

import photonic_ffzero.command  # noqa: F401 - first: answers signals during a command's imports

# isort: split
from meshes._former_paths import redirect
from meshes.files import DataError
from photonic_ffzero.config import METHODS, Config, configure
from photonic_ffzero.data.datasets import Dataset, load_dataset
from photonic_ffzero.data.encoding import encode
from photonic_ffzero.devices.device import Device, DeviceError
from photonic_ffzero.devices.simulated import SimulatedChip
from photonic_ffzero.explorer import Explorer, explore
from photonic_ffzero.inference import Evaluation, evaluate, predict
from photonic_ffzero.model import EpochRecord, Model, Usage
from photonic_ffzero.storage import load_model, save_model
from photonic_ffzero.training.chips import calibrate
from photonic_ffzero.training.observer import Observer
from photonic_ffzero.training.step import Samples
from photonic_ffzero.training.trainer import NonFiniteLossError, Trainer, fit

__all__ = [
    "METHODS",
    "Config",
    "DataError",
    "Dataset",
    "Device",
    "DeviceError",
    "EpochRecord",
    "Evaluation",
    "Explorer",
    "Model",
    "NonFiniteLossError",
    "Observer",
    "Samples",
    "SimulatedChip",
    "Trainer",
    "Usage",
    "calibrate",
    "configure",
    "encode",
    "evaluate",
    "explore",
    "fit",
    "load_dataset",
    "load_model",
    "predict",
    "save_model",
]

redirect(
    "photonic_ffzero",
    {
        "accounting": "power",
        "activations": "layers.activations",
        "blocks": "layers.blocks",
        "classify": "cli.predict",
        "directions": "gradients.directions",
        "download": "data.published",
        "encoding": "data.encoding",
        "estimators": "gradients.estimators",
        "experiment": "cli.experiment",
        "export": "cli.export",
        "formats": "data.readers",
        "functions": "data.functions",
        "grid": "runs.grid",
        "image_folder": "data.readers",
        "jobs": "runs.job",
        "losses": "goodness.losses",
        "objectives": "gradients.objectives",
        "pool": "runs.runner",
        "progress": "runs.progress",
        "prototypes": "goodness.prototypes",
        "remote": "devices.remote",
        "report": "cli.report",
        "reporting": "plots",
        "serve": "cli.serve",
        "steps": "training.step",
        "stepsize": "gradients.epsilon",
        "tasks": "data.tasks",
    },
)
