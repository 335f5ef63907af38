"""All nonlinearities between meshes, and a measured one: accuracy, power and curves.

Train the same photonic network with each element between its meshes: every model of
this package, none at all, and the measured element of measured.csv, an example of such
a table. curves.png shows what each does to the power and to the phase of light,
plane.png what it does to other input phases, and power.csv how much light the
median image has left after each mesh.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from meshes import NONLINEARITIES, Table
from meshes.plotting import plot_plane, plot_transfer
from meshes.validation import from_spec
from photonic_ffzero.cli.experiment import run_experiment, sweep
from photonic_ffzero.plots import save_figure
from photonic_ffzero.runs import GridDirectory
from photonic_ffzero.runs.records import read_results
from photonic_ffzero.storage import write_csv

MEASURED = Path(__file__).with_name("measured.csv")
DARK = 1e-9  # intensities below are not drawn
QUADRATURE = "electro-optic:phi_b=1.5707963"  # half of the light passes at low power


def elements() -> dict[str, Any]:
    """The setting of each element by its label."""
    return {name: name for name in (*NONLINEARITIES, QUADRATURE)} | {
        MEASURED.name: f"table:{MEASURED}"
    }


def element_of(label: str) -> Callable[[Any], Any]:
    if label == MEASURED.name:
        return Table.read(MEASURED)
    return from_spec("nonlinearity", label, NONLINEARITIES)


def compare(options: Any, **settings: Any) -> Any:
    specs = elements()
    return sweep(
        options,
        axes={"nonlinearity": specs},
        settings_of=lambda labels: {"nonlinearity": specs[labels["nonlinearity"]]},
        figure={"x": "nonlinearity", "title": "Nonlinearities between meshes"},
        **settings,
    )


def write_curves(directory: GridDirectory, data_dir: Path | None) -> None:
    """Draw every element; write the power of the median image after each mesh."""
    cells = directory.done
    labels = list(dict.fromkeys(str(cell.labels["nonlinearity"]) for cell in cells))
    for file, draw in (("curves.png", plot_transfer), ("plane.png", plot_plane)):
        picture = partial(_draw_each, labels=labels, draw=draw)
        save_figure(directory.path / file, picture, panels=len(labels))
    rows = []
    for cell in cells:
        results = read_results(directory.cell_path(cell) / "results.json") or {}
        stages = {s["stage"]: s["median"] for s in results["power"]["stages"]}
        powers = {name: f"{p:.4g}" for name, p in stages.items() if "non" not in name}
        accuracy = f"{results['test_accuracy']:.4f}"
        rows.append({**cell.labels, "seed": cell.seed, "test_accuracy": accuracy, **powers})
    write_csv(directory.path / "power.csv", rows)


def _draw_each(*axes: Any, labels: list[str], draw: Callable[..., Any]) -> None:
    panels = np.ravel(axes)
    for panel, label in zip(panels, labels, strict=True):
        draw(panel, element_of(label), label)
    ends = np.array([[panel.get_xlim(), panel.get_ylim()] for panel in panels])
    low, high = ends[..., 0].min(axis=0), ends[..., 1].max(axis=0)
    if panels[0].get_yscale() == "log":
        low[1] = max(low[1], DARK)  # a null has no end
    for panel in panels:  # one scale for all
        panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))


PRESETS = {
    "small": partial(
        compare, dataset="digits", seeds=2, meshes=3, epochs=12, batch_size=32, directions=16
    ),
    "paper": partial(compare, dataset="mnist", seeds=3, meshes=3),
}

if __name__ == "__main__":
    sys.exit(run_experiment("nonlinearities", __doc__, PRESETS, finish=write_curves))
