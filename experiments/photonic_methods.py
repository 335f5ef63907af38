"""The four methods on the photonic network (the paper's figure 7b), and over its depth.

Compare the four methods on the photonic network: every mesh has its own loss (ff) or all
share the last one's (bp), and gradients come from directional derivatives, that is from
forward passes alone (dd), or from automatic differentiation (ad). ff-dd is FFzero. Preset
paper is figure 7b at its own size, 784 ports and two meshes, with the hyper-parameters of
the paper and with those of its published code: three seeds of the methods that use
derivatives from forward passes, one of the others, whose runs take an hour and more. Preset
depth is ours: 64 ports, the default recipe, one to four meshes, two data sets.
"""

import sys
from functools import partial

from photonic_ffzero import METHODS
from photonic_ffzero.cli.experiment import run_experiment, sweep

depths = partial(
    sweep,
    figure={
        "x": "meshes",
        "curves": ("method",),
        "panels": ("dataset",),
        "x_label": "meshes in a row",
        "title": "Four methods on the photonic network",
    },
)
PRESETS = {
    "small": partial(
        depths,
        axes={"dataset": ("digits",), "meshes": (1, 2), "method": METHODS},
        seeds=2,
        epochs=20,
        batch_size=32,
        by_method={"ff-dd": {"directions": 16}, "bp-dd": {"directions": 16}},
    ),
    "depth": partial(
        depths,
        axes={"dataset": ("mnist", "fashion-mnist"), "meshes": (1, 2, 3, 4), "method": METHODS},
        seeds=3,
    ),
    "paper": partial(
        sweep,
        figure={"x": "method", "curves": ("recipe",), "title": "Four methods at 784 ports"},
        axes={"recipe": ("paper", "published"), "method": METHODS},
        dataset="mnist",
        encoding="crop",
        size=28,
        meshes=2,
        seeds=3,
        by_method={"ff-ad": {"seeds": 1}, "bp-ad": {"seeds": 1}},
    ),
}

if __name__ == "__main__":
    sys.exit(run_experiment("photonic_methods", __doc__, PRESETS))
