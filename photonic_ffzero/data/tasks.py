"""Tasks: what labels mean to a network, either one of C classes or T numbers.

A task has ``labels`` label dimensions (1 or T) and ``classes`` scores for each (C or 1). Losses
draw ``corners`` prototypes for each dimension and use the first ``classes``; a digital network
ends in ``outputs`` values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from meshes.validation import integer, keep, number

NO_LIGHT = -1
"""What is predicted for a sample without light, instead of a class."""


@dataclass(frozen=True)
class Classification:
    """One of ``classes`` classes; ``names`` is empty where they are called by their numbers."""

    classes: int
    names: tuple[str, ...] = ()
    name: ClassVar[str] = "classification"
    labels: ClassVar[int] = 1

    def __post_init__(self) -> None:
        keep(self, classes=integer("classes", self.classes, minimum=2), names=_plain(self.names))
        if not self.names:
            return
        printable = all(isinstance(name, str) and name.isprintable() for name in self.names)
        if not printable or not len(set(self.names)) == len(self.names) == self.classes:
            raise ValueError(
                f"names must be {self.classes} different printable texts, got {self.names}"
            )

    @classmethod
    def of(cls, y: np.ndarray, names: tuple[str, ...] = ()) -> Classification:
        """As many classes as names, or else one more than the highest label."""
        return cls(len(names) or int(y.max()) + 1, names)

    @property
    def corners(self) -> int:
        return self.classes

    @property
    def outputs(self) -> int:
        return self.classes

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Classes [n, 1], int32."""
        return y.astype(np.int32)[:, np.newaxis]

    def predictions(self, scores: np.ndarray) -> np.ndarray:
        """The class [n] with the best score; `NO_LIGHT` where all are 0, as without light."""
        return np.where(scores.any(axis=-1), scores.argmax(axis=-1), NO_LIGHT)

    def quality(self, scores: np.ndarray, y: np.ndarray) -> float:
        """The accuracy; samples without light count as wrong."""
        return float(np.mean(self.predictions(scores) == y))


@dataclass(frozen=True)
class Regression:
    """T numbers, each scaled to [-1, 1] by its range in the training data, ``low`` to ``high``."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    name: ClassVar[str] = "regression"
    classes: ClassVar[int] = 1
    corners: ClassVar[int] = 2  # p+ and p- = -p+, whose goodness carries no more information

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            keep(self, **{name: tuple(number("labels", value) for value in getattr(self, name))})
        if len(self.low) != len(self.high) or not self.low:
            raise ValueError(f"low and high must be equally long, got {self.low} and {self.high}")
        for index, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if not np.isfinite(high - low):
                raise ValueError(f"labels must have a finite range, found {low} to {high}")
            if not low < high:
                raise ValueError(
                    f"labels of dimension {index} must not be constant, found only {low}"
                )

    @classmethod
    def of(cls, y: np.ndarray, names: tuple[str, ...] = ()) -> Regression:
        """The range of training labels [n] or [n, T]; ``names`` does not apply."""
        columns = y.reshape(len(y), -1)
        return cls(tuple(columns.min(axis=0).tolist()), tuple(columns.max(axis=0).tolist()))

    @property
    def labels(self) -> int:
        return len(self.low)

    @property
    def outputs(self) -> int:
        """Ten for every label dimension, as the cosine similarity compares vectors."""
        return 10 * self.labels

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Scaled labels [n, T]; those outside the training data's range lie outside [-1, 1]."""
        low, high = np.array(self.low), np.array(self.high)
        return (2 * (y.reshape(len(y), -1) - low) / (high - low) - 1).astype(np.float32)

    def predictions(self, scores: np.ndarray) -> np.ndarray:
        """Scores in the label's unit: [n] for one label dimension, [n, T] for several."""
        low, high = np.array(self.low), np.array(self.high)
        values = low + (scores + 1) / 2 * (high - low)
        return values[:, 0] if self.labels == 1 else values

    def quality(self, scores: np.ndarray, y: np.ndarray) -> float:
        """The coefficient of determination R^2, averaged over the label dimensions."""
        from sklearn.metrics import r2_score  # takes a second to import

        return float(r2_score(y, self.predictions(scores)))


def quality_in_words(quality: float, regression: bool) -> str:
    """An accuracy in per cent; of a regression R^2."""
    return f"{quality:.4f}" if regression else f"{100 * quality:.2f} %"


def _plain(names: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(str(name) if isinstance(name, str) else name for name in names)


Task = Classification | Regression

TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Regression)}


def task_of(
    name: str, y: np.ndarray, trained: np.ndarray | slice, names: tuple[str, ...] = ()
) -> Task:
    """Return the task that labels [n] or [n, T] define, all but those for testing.

    All of them say which classes there are; the scale of a regression comes from ``y[trained]``.
    """
    return TASKS[name].of(y if name == Classification.name else y[trained], names)
