"""Accuracy of CNNs over the channels of their convolutions (the paper's figure 5).

Train two convolutions and a dense layer with the four methods, for some numbers of
channels. Under a local loss (ff) every channel has prototypes and a loss of its own, so
that one pair of forward passes serves all of them; the paper shows this in figure 5.
The small preset takes ff-dd's directions among the activations: its images are too few
to find a way among the weights, where bp-dd and the other grids take them. Preset medium
has fewer epochs than the paper grid, and bp-dd fewer directions.
"""

import sys
from functools import partial

from photonic_ffzero import METHODS
from photonic_ffzero.cli.experiment import run_experiment, sweep

channels = partial(
    sweep,
    recipe="digital",
    network="cnn",
    figure={
        "x": "channels",
        "curves": ("method",),
        "panels": ("dataset",),
        "x_label": "channels a convolution",
        "log_x": True,
        "title": "CNNs over channels",
    },
)
IMAGES_AND_CHANNELS = {
    "dataset": ("mnist", "fashion-mnist"),
    "channels": (4, 8, 16),
    "method": METHODS,
}
PRESETS = {
    "small": partial(
        channels,
        axes={"dataset": ("digits",), "channels": (4, 16), "method": METHODS},
        seeds=1,
        kernel_size=3,
        batch_size=64,
        by_method={  # higher rates than the recipe's, which are too low for so few steps
            "ff-dd": {"perturb": "activations", "epochs": 20, "norm_size": 0},
            "ff-ad": {"norm_size": 0},
            "bp-dd": {"directions": 16, "learning_rate": 0.05},
            "bp-ad": {"learning_rate": 0.01},
        },
    ),
    "medium": partial(
        channels,
        axes=IMAGES_AND_CHANNELS,
        seeds=2,
        epochs=5,
        by_method={
            "ff-dd": {"epochs": 3},
            "bp-dd": {"epochs": 3, "directions": 8},
        },
    ),
    "paper": partial(channels, axes=IMAGES_AND_CHANNELS, seeds=3),
}

if __name__ == "__main__":
    sys.exit(run_experiment("cnn_channels", __doc__, PRESETS))
