"""Accuracy of MLPs over depth and width with the four methods (the paper's figure 4).

Train multilayer perceptrons of growing depth with the four methods. With directional
derivatives (dd) one global loss (bp) perturbs all layers at once, a local one (ff) each
layer alone, which is what the paper's figure 4 is about: does accuracy survive depth?
Preset deep is that question alone: ff-dd and bp-dd, 2 to 10 layers of width 100, MNIST.
Preset script asks it with the settings of the published script: the paper's recipe, PyTorch's
first weights, no scaling and no nonlinearity between the layers. Preset collapse asks why bp-dd
fails there: it has those settings, and the scaling or the first weights that are usual here.
"""

import sys
from functools import partial

from photonic_ffzero import METHODS
from photonic_ffzero.cli.experiment import run_experiment, sweep

FIGURE = {
    "x": "depth",
    "curves": ("method",),
    "panels": ("dataset", "width"),
    "x_label": "layers",
    "title": "MLPs over depth",
}
depths = partial(sweep, recipe="digital", figure=FIGURE)
# A quarter of the recipe's directions, with rates for that; one cosine a layer, as in the paper.
EIGHT_DIRECTIONS = {
    "ff-dd": {
        "directions": 8,
        "learning_rate": 0.05,
        "norm_size": 0,
        "loss": "cross-entropy:scale=15",
    },
    "bp-dd": {"directions": 8, "learning_rate": 0.01},
}
SCRIPT = {
    "recipe": "paper",
    "network": "mlp",
    "encoding": "crop",
    "size": 28,  # all pixels
    "batch_size": 256,
    "nonlinearity": "identity",
}
PRESETS = {
    "small": partial(  # higher rates than the recipe's, which are too low for so few steps
        depths,
        axes={"dataset": ("digits",), "width": (50,), "depth": (1, 4), "method": METHODS},
        seeds=2,
        batch_size=64,
        by_method={"bp-ad": {"learning_rate": 0.01}, "bp-dd": {"learning_rate": 0.1}},
    ),
    "deep": partial(
        depths,
        axes={
            "dataset": ("mnist",),
            "width": (100,),
            "depth": (2, 4, 6, 8, 10),
            "method": ("ff-dd", "bp-dd"),
        },
        seeds=3,
        epochs=20,
        by_method=EIGHT_DIRECTIONS,
    ),
    "script": partial(
        depths,
        axes={
            "dataset": ("mnist",),
            "width": (100,),
            "depth": (2, 6, 10),
            "method": METHODS,
        },
        seeds=2,
        scaling="none",
        initialization="uniform",
        **SCRIPT,
    ),
    "collapse": partial(
        depths,
        axes={
            "depth": (2, 6, 10),
            "scaling": ("none", "unit"),
            "initialization": ("uniform", "he"),
        },
        figure=FIGURE | {"curves": ("scaling", "initialization"), "panels": ()},
        dataset="mnist",
        seeds=2,
        method="bp-dd",
        width=100,
        **SCRIPT,
    ),
    "medium": partial(
        depths,
        axes={
            "dataset": ("mnist", "fashion-mnist"),
            "width": (10, 50, 100),
            "depth": (1, 2, 4, 6, 8, 10),
            "method": METHODS,
        },
        seeds=2,
        epochs=10,
        by_method=EIGHT_DIRECTIONS,
    ),
    "paper": partial(
        depths,
        axes={
            "dataset": ("mnist", "fashion-mnist"),
            "width": (10, 50, 100),
            "depth": range(1, 11),
            "method": METHODS,
        },
        seeds=3,
    ),
}

if __name__ == "__main__":
    sys.exit(run_experiment("mlp_depth", __doc__, PRESETS))
