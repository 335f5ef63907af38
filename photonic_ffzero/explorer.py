"""Look at what each mesh makes of images: an interactive view for notebooks."""

from __future__ import annotations

import io
import os
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from meshes.validation import choice, counted, instance
from photonic_ffzero.data.checks import CHECKS, check_inputs, scaled_images
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.goodness.decisions import decide
from photonic_ffzero.goodness.readouts import Goodness
from photonic_ffzero.layers.mixer import Pooled
from photonic_ffzero.model import Model
from photonic_ffzero.plots import class_colour, plot_embeddings
from photonic_ffzero.snapshots import Snapshots
from photonic_ffzero.storage import load_model

TRAINED = "trained"
MOST = 1000  # images in the view; more hide each other, and t-SNE takes long
_PIXELS = 112  # of a side of the image under the pointer, about


def explore(
    model: Model | str | os.PathLike[str],
    x: Any = None,
    y: Any = None,
    *,
    images: Any = None,
    nonlinearity: Any = None,
) -> Explorer:
    """Look at the embeddings of a classifier, mesh by mesh and epoch by epoch.

    In Jupyter with plotly and anywidget it is interactive: sliders for mesh and epoch; principal
    components, t-SNE, and UMAP where it is installed; prototypes as large circles; errors as
    crosses; and next to the picture the image under the pointer with its goodness of every class.
    Anywhere else it is one picture of all meshes, see `Explorer.draw`.

    Args:
        model: A trained model, or the directory of a run.
        x: Inputs [n, N] to look at, of which the first `MOST` are shown; None for those that the
            run kept.
        y: Their classes [n].
        images: What to show of them under the pointer, [n, H, W] or [n, H, W, 3] in [0, 1] or
            as bytes; None for the amplitudes at the ports.
        nonlinearity: The function of a run whose nonlinearity was one, see `load_model`.

    Epochs before the last one show the images that `fit(..., embeddings=True)` or a run kept.
    """
    instance("model", model, Model, str, os.PathLike)
    if not isinstance(model, Model):
        folder = Path(model)
        model = load_model(folder, nonlinearity=nonlinearity)
        kept = folder / "embeddings.npz"
        model.snapshots = Snapshots.load(kept, model.units) if kept.exists() else None
    if not isinstance(model.task, Classification):
        raise ValueError(f"model must be one of classes, found one of a {model.task.name}")
    if x is None and model.snapshots is not None:
        x, y = model.snapshots.x, model.snapshots.y
    if x is None or y is None:
        raise ValueError("x and y must be given: the model kept no embeddings of its training")
    x, y, _ = CHECKS[model.task.name](x, y, model.task.classes)
    x = check_inputs("x", x, model.units, model.config.network)
    if len(x) < 2:
        raise ValueError(f"x must be two inputs or more, to be placed apart, got {len(x)}")
    return Explorer(model, x[:MOST], y[:MOST], _pictures(images, len(x)))


def _pictures(images: Any, count: int) -> np.ndarray | None:
    """Images to show, [n, H, W] or [n, H, W, 3] in [0, 1]."""
    if images is None:
        return None
    pictures = scaled_images("images", images)
    if len(pictures) != count:
        raise ValueError(f"images must be one for each of {count} inputs, got {pictures.shape}")
    return pictures[:MOST]


@dataclass(frozen=True, eq=False)
class State:
    """What a mesh makes of some images at some time.

    Attributes:
        points: Embeddings [n, T].
        goodness: Of every class [n, C]; None without prototypes after the mesh.
        predicted: Classes [n].
        labels: True classes [n].
        pictures: Function from the number of an image to the image [H, W] or [H, W, 3] in [0, 1].
    """

    points: np.ndarray
    goodness: np.ndarray | None
    predicted: np.ndarray
    labels: np.ndarray
    pictures: Callable[[int], np.ndarray]


@dataclass
class Explorer:
    """The embeddings of images, for a notebook; see `explore`."""

    model: Model
    x: np.ndarray
    y: np.ndarray
    images: np.ndarray | None = None
    _planes: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes."""
        task: Any = self.model.task
        return task.names or tuple(map(str, range(task.classes)))

    @property
    def meshes(self) -> list[int]:
        """The numbers of the meshes (layers)."""
        return [number for number, _ in enumerate(self.model.layers, start=1)]

    def epochs(self, mesh: int) -> list[int | str]:
        """What the epoch's slider stops at: the epochs that were kept, and ``trained``."""
        kept = self.model.snapshots.epochs(mesh) if self.model.snapshots else []
        return [*kept, TRAINED]

    @cached_property
    def projections(self) -> dict[str, Callable[..., Any]]:
        """Functions from points [n, T] to points [n, 2] by name: those that are installed."""
        known = {"PCA": None, "t-SNE": _tsne}
        return known | ({"UMAP": _umap} if find_spec("umap") else {})

    def prototypes(self, mesh: int) -> np.ndarray | None:
        """The prototypes [C, T] after a mesh, or None."""
        readout = self.model.readout_after(mesh)
        if not isinstance(readout, Goodness) or isinstance(readout, Pooled):
            return None
        groups, classes, size = readout.prototypes.shape
        return readout.prototypes.swapaxes(0, 1).reshape(classes, groups * size)

    def state(self, mesh: int, epoch: int | str = TRAINED) -> State:
        """What a mesh made of the images after an epoch, or makes of them now."""
        key = ("state", mesh, epoch)
        if key not in self._planes:
            self._planes[key] = self._state(mesh, epoch)
        return self._planes[key]

    def _state(self, mesh: int, epoch: int | str) -> State:
        if epoch == TRAINED:
            points, x, y = self.model.embed(self.x, mesh), self.x, self.y
            decided = decide(self.model.scores(x), self.model.config.rule)
            predicted = self.model.task.predictions(decided)
        else:
            kept = self.model.snapshots
            points, x, y = kept.points[mesh, epoch].astype("f4"), kept.x, kept.y
            predicted = y
        prototypes, goodness = self.prototypes(mesh), None
        if prototypes is not None:
            goodness = points @ prototypes.T / np.sum(prototypes[0] ** 2)  # a unit vector a group
            if epoch != TRAINED:
                predicted = goodness.argmax(axis=1)
        show = self._picture if epoch == TRAINED else lambda index: _amplitudes(x[index])
        return State(points, goodness, predicted, y, show)

    def _picture(self, index: int) -> np.ndarray:
        return _amplitudes(self.x[index]) if self.images is None else self.images[index]

    def plane(
        self, mesh: int, epoch: int | str = TRAINED, projection: str = "PCA"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Points [n, 2] of the images and [C, 2] of the prototypes in a plane.

        That of PCA is spanned by the components of the trained mesh, at all epochs, so that epochs
        can be compared. The others arrange each state anew, within [-1, 1].
        """
        choice("projection", projection, self.projections)
        key = (mesh, epoch, projection)
        if key not in self._planes:
            self._planes[key] = self._projected(*key)
        return self._planes[key]

    def _projected(self, mesh: int, epoch: int | str, projection: str) -> Any:
        points, prototypes = self.state(mesh, epoch).points, self.prototypes(mesh)
        every = points if prototypes is None else np.concatenate([points, prototypes])
        if projection == "PCA":
            placed = self._components(mesh).transform(every)
        else:
            placed = self.projections[projection](every)
            placed = (placed - placed.mean(axis=0)) / np.abs(placed - placed.mean(axis=0)).max()
        return placed[: len(points)], placed[len(points) :]

    def _components(self, mesh: int) -> Any:
        from sklearn.decomposition import PCA

        key = ("components", mesh)
        if key not in self._planes:
            self._planes[key] = PCA(2, random_state=0).fit(self.state(mesh).points)
        return self._planes[key]

    def limit(self, projection: str) -> float:
        """The end of both axes: one scale for all meshes and epochs."""
        if projection != "PCA":
            return 1.08
        key = ("limit", projection)
        if key not in self._planes:
            places = [self.plane(mesh, e) for mesh in self.meshes for e in self.epochs(mesh)]
            self._planes[key] = 1.08 * max(
                np.abs(p).max() for pair in places for p in pair if p.size
            )
        return self._planes[key]

    def title(self, mesh: int, epoch: int | str) -> str:
        """What is shown, and how much of it is right."""
        state, layer = self.state(mesh, epoch), self.model.config.layer_name
        when = "after training" if epoch == TRAINED else f"epoch {epoch}"
        right = np.mean(state.predicted == state.labels)
        images = counted(len(state.labels), "image")
        who = "all readouts" if epoch == TRAINED else f"this {layer}"
        if epoch != TRAINED and state.goodness is None:
            return f"{layer} {mesh}, {when}: {images} kept in training"
        return f"{layer} {mesh}, {when}: {images}, {right:.1%} right by {who}"

    def draw(self, figure: Any, projection: str = "PCA") -> None:
        """Draw all trained meshes into a Matplotlib figure, two panels a row."""
        columns = min(len(self.meshes), 2)
        rows = -(-len(self.meshes) // columns)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for mesh, panel in zip(self.meshes, panels, strict=False):
            points, prototypes = self.plane(mesh, projection=projection)
            shown = prototypes if len(prototypes) else None
            plot_embeddings(panel, points, self.y, shown)
            wrong = self.state(mesh).predicted != self.y
            ink = panel.xaxis.label.get_color()
            panel.scatter(*points[wrong].T, s=90, facecolors="none", edgecolors=ink, linewidths=0.8)
            end = self.limit(projection)
            panel.set(title=f"{self.model.config.layer_name} {mesh}", xlim=(-end, end))
            panel.set(ylim=(-end, end), aspect="equal", xticks=[], yticks=[])
        for unused in panels[len(self.meshes) :]:
            unused.remove()
        _, _, title = self.title(self.meshes[-1], TRAINED).partition(", ")  # all meshes are shown
        figure.suptitle(f"{title}; rings: errors", fontsize="medium")

    def picture(self) -> bytes:
        """That figure as PNG."""
        from matplotlib.figure import Figure

        columns = min(len(self.meshes), 2)
        size = (0.4 + 5.0 * columns, 0.5 + 5.0 * -(-len(self.meshes) // columns))
        figure, file = Figure(figsize=size, dpi=80, layout="constrained"), io.BytesIO()
        self.draw(figure)
        figure.savefig(file, format="png")
        return file.getvalue()

    def widget(self) -> Any:
        """The interactive view; needs ipywidgets, plotly and anywidget."""
        from photonic_ffzero.explorer_widget import build

        return build(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        still = {"image/png": b64encode(self.picture()).decode(), "text/plain": repr(self)}
        try:
            return self.widget()._repr_mimebundle_() | still
        except ImportError:
            return still

    def __repr__(self) -> str:
        return f"Explorer({self.title(self.meshes[-1], TRAINED)})"


def _amplitudes(x: np.ndarray) -> np.ndarray:
    """The amplitudes of one sample as a square of grey values, or as a row."""
    values = np.abs(x) / max(float(np.abs(x).max()), 1e-12)
    side = round(len(values) ** 0.5)
    return values.reshape(side, side) if side * side == len(values) else values[np.newaxis]


def _tsne(points: np.ndarray) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(points) - 1) / 3)
    with threadpool_limits(1):  # for so few points threads would only wait for each other
        return TSNE(init="pca", random_state=0, perplexity=perplexity).fit_transform(points)


def _umap(points: np.ndarray) -> np.ndarray:
    from umap import UMAP

    return UMAP(random_state=0, n_jobs=1).fit_transform(points)


def image_tag(picture: np.ndarray) -> str:
    """An image [H, W] or [H, W, 3] in [0, 1] as HTML, every pixel a square."""
    from PIL import Image

    pixels = np.uint8(np.clip(np.nan_to_num(picture), 0, 1) * 255)
    scale = max(_PIXELS // max(pixels.shape[:2]), 1)
    file, image = io.BytesIO(), Image.fromarray(pixels)
    width, height = scale * image.width, scale * image.height
    image.resize((width, height), Image.Resampling.NEAREST).save(file, "PNG")
    source = b64encode(file.getvalue()).decode()
    return f'<img width="{width}" height="{height}" src="data:image/png;base64,{source}">'


def details(state: State, index: int, names: tuple[str, ...]) -> str:
    """An image with its classes and its goodness of every class, as HTML."""
    from html import escape

    true, predicted = state.labels[index], state.predicted[index]
    wrong = "" if true == predicted else " <b>(wrong)</b>"
    head = f"true: <b>{escape(names[true])}</b><br>predicted: <b>"
    head += f"{escape(names[predicted]) if predicted >= 0 else 'no light'}</b>{wrong}"
    rows = ""
    for label, value in enumerate([] if state.goodness is None else state.goodness[index]):
        bar = (
            f'<div style="background:{class_colour(label)};height:9px;'
            f'width:{60 * min(abs(value), 1):.1f}px;opacity:{1 if value >= 0 else 0.35}"></div>'
        )
        weight = "bold" if label == true else "normal"
        rows += (
            f'<tr style="font-weight:{weight};line-height:14px"><td>{escape(names[label])}</td>'
            f'<td style="text-align:right;padding:0 6px">{value:+.2f}</td><td>{bar}</td></tr>'
        )
    table = f"<table>{rows}</table>" if rows else ""
    return f'{image_tag(state.pictures(index))}<div style="margin:4px 0">{head}</div>{table}'
