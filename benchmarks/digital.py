"""Time the digital networks' training steps against plain ways to take them.

    python benchmarks/digital.py    MLP and convolution, two minutes

MLP 784-100-100-100-10, batch 256, K = 8: a training step of one layer against
2 K + 1 full forwards, one after another, in a compiled TensorFlow function.
Convolution of 16 channels (the second of the CNN), batch 128, K = 1: a training
step, one pair of passes for all channels, against a compiled pair of passes for
each channel.
"""

from __future__ import annotations

import argparse
from typing import Any

import timing

from meshes._tensorflow import tf
from photonic_ffzero import Config, Samples, configure

PIXELS, STEPS = 784, 16
MLP = configure("digital", "ff-dd", directions=8, batch_size=256)
CNN = configure("digital", "ff-dd", network="cnn", channels=16, directions=1, batch_size=128)


def one_after_another(config: Config, images: Samples) -> timing.Task:
    """A DD step of the whole MLP by 2 K + 1 full forwards with their losses."""
    model = timing.new_model(config, PIXELS)
    weights = [tf.Variable(array[0]) for (layer,) in model.params for array in layer]
    x, y = (tf.constant(array[: config.batch_size]) for array in images)

    def loss(shifts: list[Any]) -> Any:
        moved = [weight + shift for weight, shift in zip(weights, shifts, strict=True)]
        z = x
        for number, (kernel, bias) in enumerate(zip(moved[::2], moved[1::2], strict=True)):
            z = (tf.nn.relu(z) if number else z) @ kernel + bias
        return _cross_entropy(y, z)

    def step() -> Any:
        gradient = [tf.zeros_like(weight) for weight in weights]
        value = loss(gradient)
        for _ in range(config.directions or 0):
            shifts = [1e-3 * _signs(weight.shape) for weight in weights]
            with tf.control_dependencies([value]):  # else TensorFlow runs them side by side
                value = loss(shifts)
            slope = value - loss([-shift for shift in shifts])
            gradient = [g + slope * shift for g, shift in zip(gradient, shifts, strict=True)]
        for weight, g in zip(weights, gradient, strict=True):
            weight.assign_sub(g)
        return value

    compiled = tf.function(step, autograph=False)
    return lambda: compiled().numpy()


def channel_by_channel(config: Config, images: Samples) -> timing.Task:
    """A DD step of the second convolution by a pair of passes for each channel."""
    model = timing.new_model(config, PIXELS)
    first, block = model.blocks[:2]
    layer, params = block.layers[0], tf.nest.map_structure(tf.constant, model.params[1][0])
    x = tf.constant(first.all_outputs(model.params[0], images.x[: config.batch_size]))
    y = tf.constant(images.y[: config.batch_size])

    def loss(kernel: Any, channel: int) -> Any:
        stacked = tf.nest.map_structure(lambda w: w[tf.newaxis], params._replace(kernel=kernel))
        scores = block.readout(block.readout.split(layer.measure(stacked, x)))[0, :, channel]
        return _cross_entropy(y, 10 * scores)

    def step() -> Any:
        gradients = []
        for channel in range(layer.channels):
            mask = tf.one_hot(channel, layer.channels)[:, tf.newaxis, tf.newaxis, tf.newaxis]
            shift = 1e-3 * mask * _signs(params.kernel.shape)
            slope = loss(params.kernel + shift, channel) - loss(params.kernel - shift, channel)
            gradients.append(slope * shift[channel])
        return tf.stack(gradients)

    compiled = tf.function(step, autograph=False, jit_compile=True)
    return lambda: compiled().numpy()


def _cross_entropy(labels: Any, logits: Any) -> Any:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return tf.reduce_mean(losses)


def _signs(shape: Any) -> Any:
    return tf.sign(tf.random.uniform(shape, -1.0, 1.0))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure both networks; print times and ratios."""
    images = timing.random_images(PIXELS, STEPS * MLP.batch_size)
    mlp = {f"MLP layer {i + 1}": timing.training_steps(MLP, images, i) for i in range(MLP.layers)}
    cnn = {"convolution, all channels": timing.training_steps(CNN, images, 1)}
    mlp["MLP, 17 forwards"] = one_after_another(MLP, images)
    cnn["convolution, channel by channel"] = channel_by_channel(CNN, images)
    seconds = timing.median_seconds(mlp, arguments.seconds)
    *layers, forwards = seconds.values()
    seconds |= timing.median_seconds(cnn, arguments.seconds)
    *_, together, one_by_one = seconds.values()
    ratios = {
        "MLP step, mean of the layers": forwards * len(layers) / sum(layers),
        "MLP steps, one of every layer": forwards / sum(layers),
        "convolution step": one_by_one / together,
    }
    for name, value in seconds.items():
        print(f"{name:34} {1e3 * value:8.3f} ms")
    for name, ratio in ratios.items():
        print(f"{name:34} {ratio:8.1f}x faster")
    return {"seconds": seconds, "ratios": ratios}


if __name__ == "__main__":
    timing.run(timing.command_line(__doc__, seconds=10), measure)
