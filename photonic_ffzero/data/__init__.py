"""Data sets, readers of their files, encodings of images as fields, and tasks."""

from meshes.files import DataError
from photonic_ffzero.data.centering import center
from photonic_ffzero.data.checks import check_arrays, check_numbers, require_finite
from photonic_ffzero.data.datasets import DATASETS, IMAGE_SIZE, Dataset, load_dataset, split
from photonic_ffzero.data.encoding import ENCODINGS, Encoder, encode, resize
from photonic_ffzero.data.functions import FUNCTIONS, sample
from photonic_ffzero.data.published import DATA_VARIABLE
from photonic_ffzero.data.tasks import TASKS, Classification, Regression, Task, task_of

__all__ = [
    "DATASETS",
    "DATA_VARIABLE",
    "ENCODINGS",
    "FUNCTIONS",
    "IMAGE_SIZE",
    "TASKS",
    "Classification",
    "DataError",
    "Dataset",
    "Encoder",
    "Regression",
    "Task",
    "center",
    "check_arrays",
    "check_numbers",
    "encode",
    "load_dataset",
    "require_finite",
    "resize",
    "sample",
    "split",
    "task_of",
]
