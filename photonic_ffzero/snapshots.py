"""Small embeddings of some images after every epoch, to look at later."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from meshes.files import DataError, open_npz
from meshes.validation import integer
from photonic_ffzero.data.datasets import some_of
from photonic_ffzero.model import Model, Position
from photonic_ffzero.seeds import generator

IMAGES, LEAST = 256, 32
BYTES = 2**20
"""Most bytes of all embeddings of a run, about."""
MOST, MOST_ARRAYS = 2**26, 10_000  # bytes of all arrays in a file, and arrays


@dataclass(eq=False)
class Snapshots:
    """Keeps what each mesh makes of the same images after every epoch in which it is trained.

    There are up to `IMAGES` images. Their embeddings, in half precision, take about `BYTES` at
    most: of wide or deep networks there are fewer images, at least `LEAST`, and then epochs are
    left out. A device is not asked for them, as every image costs it light.

    Attributes:
        x: Inputs of the images [n, N].
        y: Their classes [n].
        every: How many epochs apart they are kept; the last one always is.
        points: Embeddings [n, T] by mesh and epoch, both counted from 1.
    """

    x: np.ndarray
    y: np.ndarray
    every: int = 1
    points: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, x: np.ndarray, y: np.ndarray) -> Snapshots:
        """For a model in training, of as many of the samples as there is room for."""
        taps = sum(layer.taps for layer, _ in model.layers)
        size = 2 * taps * max(model.config.epochs, 1)  # bytes of an image, if all epochs are kept
        count = min(max(BYTES // size, LEAST), IMAGES)
        every = math.ceil(count * size / BYTES)
        places = some_of(len(x), count, generator(model.config.seed, "snapshots"))
        return cls(x[places], y[places], every)

    def take(self, model: Model, position: Position) -> None:
        """Embed the images if an epoch has just ended."""
        if not position.epoch or position.losses or model.config.device:
            return
        stage = next(s for s in model.stages if s.index == position.block)
        first = sum(len(block.layers) for block in model.blocks[: stage.index])
        if position.epoch % self.every and position.epoch != model.config.epochs:
            return
        for number in range(first + 1, first + len(stage.layers) + 1):
            self.points[number, position.epoch] = model.embed(self.x, number).astype("f2")

    def epochs(self, mesh: int) -> list[int]:
        """The epochs of a mesh that were kept."""
        return sorted(epoch for number, epoch in self.points if number == mesh)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, as a ``.npz`` file holds it."""
        points = {f"mesh_{mesh}_epoch_{epoch}": p for (mesh, epoch), p in self.points.items()}
        every = np.array([self.every])
        return {"inputs": self.x, "labels": self.y, "every": every, **points}

    @classmethod
    def load(cls, path: Path, units: int) -> Snapshots:
        """Read a file of such `arrays`, of a network with inputs of ``units`` values."""
        points: dict[tuple[int, int], np.ndarray] = {}
        with open_npz(path, MOST) as archive:
            read = archive.read_all(archive.names[:MOST_ARRAYS])
        try:
            x, y = read.pop("inputs"), read.pop("labels")
            if x.shape != (len(y), units) or y.ndim != 1:
                raise ValueError(f"inputs {x.shape} and labels {y.shape} for {units} ports")
            (every,) = read.pop("every").tolist()
            integer("every", every, minimum=1)
            for name, array in read.items():
                _, mesh, _, epoch = name.split("_")
                if array.ndim != 2 or len(array) != len(x):
                    raise ValueError(f"{name} has shape {array.shape}")
                points[int(mesh), int(epoch)] = array
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: must hold the embeddings of a run, found {error}") from None
        return cls(x, y, every, points)
