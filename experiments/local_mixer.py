"""Forward gradients that scale: LocalMixer on MNIST and CIFAR-10 (Ren et al. 2022).

Train mixers by backpropagation, by exact local gradients, and from loss values alone:
with noise in the weights, or in the activations, judged by one loss of the whole network,
by one of each block, or by one of each block, patch and group. Do local losses and groups
make up for the noise of random directions? Preset small is CIFAR-10 for 12 epochs, where
it shows within an hour or two a seed; prototypes is the same with fixed prototypes instead
of linear heads, medium the best of it for 60 epochs. mnist has the networks S/1/1 and
M/1/16 of the paper arXiv 2210.03310, and preset paper is its network M/8/16, which takes
days. Preset methods trains an MLP and a CNN on CIFAR-10 with the four methods of FFzero, whose
directions lie among the weights, and FF+DD with perturbed activations.
"""

import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from photonic_ffzero.cli.experiment import Options, grid_of, run_experiment
from photonic_ffzero.runs import Grid

# What the rows of the paper's tables 3 and 4 set. With a linear head the exact gradient of the
# grouped losses is that of a block's.
ROWS: Mapping[str, dict[str, Any]] = {
    "backpropagation": {"method": "bp-ad"},
    "local, exact": {"method": "ff-ad", "losses": "block"},
    "weights, local": {"perturb": "weights", "losses": "block", "directions": 1},
    "activations, global": {"method": "bp-dd"},
    "activations, local": {"losses": "block"},
    "activations, local and grouped": {},
}
GROUPED = {"local and grouped, exact": {"method": "ff-ad"}}  # of prototypes, a set for each group
# Learning rates by head, chosen on held-out images of CIFAR-10 with the network small; those of
# prototypes also on held-out images of MNIST with M/1/16.
RATES: Mapping[str, Mapping[str, float]] = {
    "linear": {
        "backpropagation": 0.3,
        "local, exact": 1.0,
        "weights, local": 0.3,
        "activations, global": 0.3,
        "activations, local": 0.3,
        "activations, local and grouped": 0.25,
    },
    "prototypes": {
        "backpropagation": 0.5,
        "local, exact": 2.0,
        "weights, local": 0.1,
        "activations, global": 0.1,
        "activations, local": 0.1,
        "activations, local and grouped": 0.5,
        "local and grouped, exact": 2.0,
    },
}
SMALL = {"channels": 256, "groups": 16, "patches": 4, "depth": 3}
NETWORKS: Mapping[str, dict[str, Any]] = {
    "S/1/1": {"channels": 256, "groups": 1, "patches": 1, "depth": 1},
    "M/1/16": {"channels": 512, "groups": 16, "patches": 1, "depth": 1},
    "small": SMALL,
    "M/8/16": {"channels": 512, "groups": 16, "patches": 8, "depth": 4},
}


def mixers(
    options: Options,
    *,
    dataset: str,
    networks: Iterable[str],
    seeds: int,
    heads: Iterable[str] = ("linear",),
    rows: Iterable[str] = tuple(ROWS),
    **settings: Any,
) -> Grid:
    """Every network with every head and row."""
    (dataset,) = options.datasets_or(dataset)
    points = []
    for network in networks:
        for head in heads:
            known = ROWS | (GROUPED if head == "prototypes" else {})
            for row in (*rows, *(known.keys() - ROWS.keys())):
                labels = {"network": network, "head": head, "trained": row}
                shape = NETWORKS[network] | {"network": "mixer", "head": head, "dataset": dataset}
                trained = known[row] | {"learning_rate": RATES[head][row]}
                points.append((labels, {"recipe": "digital"} | settings | shape | trained))
    return grid_of(
        options,
        points,
        seeds=seeds,
        x="trained",
        curves=("head",),
        panels=("network",),
        title=f"LocalMixer, {dataset}",
    )


# What each method sets on CIFAR-10; rates were chosen on held-out images.
METHODS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "mlp": {
        "bp-ad": {"method": "bp-ad"},
        "ff-ad": {"method": "ff-ad", "learning_rate": 0.003},
        "bp-dd": {"method": "bp-dd"},
        "ff-dd": {"learning_rate": 0.1},
        "ff-dd, activations": {"perturb": "activations"},
    },
    "cnn": {
        "bp-ad": {"method": "bp-ad", "learning_rate": 0.003},
        "ff-ad": {"method": "ff-ad"},
        "bp-dd": {"method": "bp-dd", "directions": 8},
        "ff-dd": {"directions": 8, "learning_rate": 0.005},
        "ff-dd, activations": {"perturb": "activations"},
    },
}
# What all methods of a network share.
SHARED = {"mlp": {"width": 100, "epochs": 20}, "cnn": {"channels": 8, "epochs": 10}}


def methods(options: Options, *, seeds: int) -> Grid:
    """An MLP and a CNN on images in colour, by the four methods."""
    (dataset,) = options.datasets_or("cifar-10")
    colours = {"colour": "rgb", "normalisation": "standard", "dataset": dataset}
    points = [
        (
            {"network": network, "trained": method},
            {"recipe": "digital", "network": network} | SHARED[network] | colours | settings,
        )
        for network, ways in METHODS.items()
        for method, settings in ways.items()
    ]
    return grid_of(
        options, points, seeds=seeds, x="trained", curves=("network",), title=f"Methods, {dataset}"
    )


cifar = partial(mixers, dataset="cifar-10", networks=("small",))
PRESETS = {
    "small": partial(cifar, seeds=3, epochs=12),
    "prototypes": partial(cifar, seeds=3, epochs=12, heads=("prototypes",)),
    "medium": partial(
        cifar, seeds=1, epochs=60, rows=("local, exact", "activations, local and grouped")
    ),
    "mnist": partial(
        mixers,
        dataset="mnist",
        networks=("S/1/1", "M/1/16"),
        seeds=3,
        epochs=60,
        heads=("linear", "prototypes"),
    ),
    "methods": partial(methods, seeds=3),
    "paper": partial(
        mixers,
        dataset="cifar-10",
        networks=("M/8/16",),
        seeds=1,
        epochs=200,
        heads=("linear", "prototypes"),
    ),
}

if __name__ == "__main__":
    names = ("cifar-10", "mnist", "fashion-mnist", "digits")
    sys.exit(run_experiment("local_mixer", __doc__, PRESETS, datasets=names))
