"""The four methods on the photonic network, over data sets and depths (the paper's figure 7b).

Compare the four methods on the photonic network, depth by depth: every mesh has its
own loss (ff) or all share the last one's (bp), and gradients come from directional
derivatives, that is from forward passes alone (dd), or from automatic differentiation
(ad). ff-dd is FFzero. The paper shows this in figure 7b.
"""

import sys
from functools import partial

from photonic_ffzero import METHODS
from photonic_ffzero.cli.experiment import run_experiment, sweep

methods = partial(
    sweep,
    figure={
        "x": "meshes",
        "curves": ("method",),
        "panels": "dataset",
        "x_label": "meshes in a row",
        "title": "Four methods on the photonic network",
    },
)
PRESETS = {
    "small": partial(
        methods,
        axes={"dataset": ("digits",), "meshes": (1, 2), "method": METHODS},
        seeds=2,
        epochs=20,
        batch_size=32,
        by_method={"ff-dd": {"directions": 16}, "bp-dd": {"directions": 16}},
    ),
    "paper": partial(
        methods,
        axes={"dataset": ("mnist", "fashion-mnist"), "meshes": (1, 2, 3, 4), "method": METHODS},
        seeds=3,
    ),
}

if __name__ == "__main__":
    sys.exit(run_experiment("photonic_methods", __doc__, PRESETS))
