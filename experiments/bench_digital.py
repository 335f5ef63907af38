"""Time the digital networks' training steps against plain ways of taking them, in
one run.

    python experiments/bench_digital.py    MLP and convolution, two minutes

An MLP 784-100-100-100-10, batch 256, K = 8: a training step of ours against 2
K + 1 full forwards evaluated one after another in a compiled TensorFlow
function. A step trains one layer, as FFzero does: the mean over the four
layers, and what one of each together take. A convolution of 16 channels (the
CNN's second), batch 128, K = 1: a step of ours, one pair of passes for all
channels, against one pair of passes for each channel, compiled.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_engine import endless, interleaved

from meshes._tensorflow import tf
from photonic_ffzero.config import Config, configure
from photonic_ffzero.data.tasks import Classification
from photonic_ffzero.model import Model
from photonic_ffzero.runs.directory import check_new_directory, versions
from photonic_ffzero.storage import write_json
from photonic_ffzero.training.step import BlockTraining, Samples

PIXELS, CLASSES, STEPS = 784, 10, 16


def trained(config: Config, index: int, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """The trainer's own steps of one block; a call returns how many it took."""
    model = Model(config, PIXELS, Classification(CLASSES))
    inputs = x
    for block, params in zip(model.blocks[:index], model.params, strict=False):
        inputs = block.all_outputs(params, inputs)
    samples = Samples(inputs, model.task.targets(y))
    losses = endless(
        BlockTraining(config, model.blocks[index], index, model.params[index], samples)
    )
    return lambda: len(next(losses))


def one_after_another(config: Config, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """2 K + 1 full forwards of the MLP, each with its loss, in one compiled function."""
    model = Model(config, PIXELS, Classification(CLASSES))
    layers = [(tf.Variable(p.kernel[0]), tf.Variable(p.bias[0])) for (p,) in model.params]
    images, labels = tf.constant(x[: config.batch_size]), tf.constant(y[: config.batch_size])

    def loss(shift: list[Any]) -> Any:
        z = images
        for number, ((w, b), (dw, db)) in enumerate(zip(layers, shift, strict=True)):
            z = (tf.nn.relu(z) if number else z) @ (w + dw) + (b + db)
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=z)
        return tf.reduce_mean(entropy)

    def step() -> Any:
        value = loss([(tf.zeros_like(w), tf.zeros_like(b)) for w, b in layers])
        total = [(tf.zeros_like(w), tf.zeros_like(b)) for w, b in layers]
        for _ in range(config.directions or 0):
            v = [(1e-3 * _signs(w.shape), 1e-3 * _signs(b.shape)) for w, b in layers]
            with tf.control_dependencies([value]):  # one after another
                value = loss(v)
            slope = value - loss([(-dw, -db) for dw, db in v])
            total = [
                (g + slope * dw, h + slope * db) for (g, h), (dw, db) in zip(total, v, strict=True)
            ]
        for (w, b), (g, h) in zip(layers, total, strict=True):
            w.assign_sub(g)
            b.assign_sub(h)
        return value

    compiled = tf.function(step, autograph=False)
    return lambda: compiled().numpy()


def _signs(shape: Any) -> Any:
    return tf.sign(tf.random.uniform(shape, -1.0, 1.0))


def channel_by_channel(config: Config, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    """A pair of passes of the second convolution for each channel, in one compiled function."""
    model = Model(config, PIXELS, Classification(CLASSES))
    first, block = model.blocks[:2]
    inputs = first.all_outputs(model.params[0], x[: config.batch_size])
    layer, params = block.layers[0], tf.nest.map_structure(tf.constant, model.params[1][0])
    images, labels = tf.constant(inputs), tf.constant(y[: config.batch_size])

    def loss(own: Any, channel: int) -> Any:
        stacked = tf.nest.map_structure(lambda w: w[tf.newaxis], own)
        scores = block.readout(block.readout.split(layer.measure(stacked, images)))[0, :, channel]
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=10 * scores)
        return tf.reduce_mean(entropy)

    def step() -> Any:
        kernels, slopes = [], []
        for channel in range(layer.channels):
            at = tf.one_hot(channel, layer.channels)[:, tf.newaxis, tf.newaxis, tf.newaxis]
            v = 1e-3 * at * _signs(params.kernel.shape)
            plus = loss(params._replace(kernel=params.kernel + v), channel)
            slopes.append(plus - loss(params._replace(kernel=params.kernel - v), channel))
            kernels.append(v[channel])
        return tf.stack(slopes)[:, tf.newaxis, tf.newaxis, tf.newaxis] * tf.stack(kernels)

    compiled = tf.function(step, autograph=False, jit_compile=True)
    return lambda: compiled().numpy()


def measure(budget: float) -> dict[str, float]:
    """Seconds of every contender, taking turns."""
    rng = np.random.default_rng(0)
    x = rng.random((STEPS * 256, PIXELS), dtype=np.float32)
    y = np.arange(len(x)) % CLASSES
    mlp = configure("digital", "ff-dd", directions=8, batch_size=256, epochs=10**6)
    functions = {f"MLP layer {i + 1}": trained(mlp, i, x, y) for i in range(mlp.layers)}
    functions["MLP, 17 forwards"] = one_after_another(mlp, x, y)
    seconds = interleaved(functions, budget)
    cnn = configure(
        "digital", "ff-dd", network="cnn", channels=16, directions=1, batch_size=128,
        epochs=10**6,
    )  # fmt: skip
    seconds |= interleaved(
        {
            "convolution, all channels": trained(cnn, 1, x, y),
            "convolution, channel by channel": channel_by_channel(cnn, x, y),
        },
        budget,
    )
    return seconds


def main() -> int:
    """Measure, print the ratios, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="time a contest")
    parser.add_argument("--output", type=Path, metavar="DIR", help="new directory")
    arguments = parser.parse_args()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    output = arguments.output or Path("results") / f"bench-digital-{stamp}"
    check_new_directory(output)
    seconds = measure(arguments.seconds)
    layers = [value for name, value in seconds.items() if name.startswith("MLP layer")]
    ratios = {
        "MLP step, mean of the layers": seconds["MLP, 17 forwards"] / float(np.mean(layers)),
        "MLP steps, one of every layer": seconds["MLP, 17 forwards"] / float(np.sum(layers)),
        "convolution step": seconds["convolution, channel by channel"]
        / seconds["convolution, all channels"],
    }
    for name, value in seconds.items():
        print(f"{name:34} {1e3 * value:8.3f} ms")
    for name, ratio in ratios.items():
        print(f"{name:34} {ratio:8.1f}x faster")
    output.mkdir(parents=True, exist_ok=True)
    content = {"seconds": seconds, "ratios": ratios, "versions": versions()}
    write_json(output / "bench.json", content)
    print(f"results in {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
