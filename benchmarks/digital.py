"""Time the digital networks' training steps against plain ways to take them.

    python benchmarks/digital.py    MLP, convolution and mixer, four minutes

MLP 784-100-100-100-10, batch 256, K = 8: a training step of one layer against
2 K + 1 full forwards, one after another, in a compiled TensorFlow function.
Convolution of 16 channels (the second of the CNN), batch 128, K = 1: a training
step, one pair of passes for all channels, against a compiled pair of passes for
each channel.
Mixer of CIFAR-10's small preset, batch 128: a training step of the second block
against 2.5 of its forward passes (central differences: 3.5) and the products that
lead from its slopes to its weights; a step of all blocks against one of exact
backpropagation in the same network.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import timing

from meshes._tensorflow import tf
from photonic_ffzero import Config, Samples, configure

PIXELS, STEPS = 784, 16
MLP = configure("digital", "ff-dd", directions=8, batch_size=256)
MIXER = configure("digital", network="mixer", colour="rgb")
COLOURED = 3 * 32**2  # values of an image
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


def forward_and_products(config: Config, images: Samples) -> tuple[timing.Task, timing.Task]:
    """A forward pass of a mixer's second block; and from slopes to its weights' gradient."""
    model = timing.new_model(config, COLOURED)
    block, params = model.blocks[1], tf.nest.map_structure(tf.constant, model.params[1])
    x = tf.constant(model.blocks[0].all_outputs(model.params[0], images.x[: config.batch_size]))
    sites = [tf.ones(site.shape) for site in block.moved[0].sites(config.batch_size)]

    def forward() -> Any:
        return block.trace(params, x)[0]

    _, traces = block.trace(params, x)
    traces = tf.nest.map_structure(tf.constant, traces)

    def products() -> Any:
        return block.pull(params, traces, [sites])[0]

    ways = [tf.function(way, autograph=False, jit_compile=True) for way in (forward, products)]
    return (lambda: ways[0]().numpy(), lambda: ways[1]()[-1].numpy())


def _cross_entropy(labels: Any, logits: Any) -> Any:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return tf.reduce_mean(losses)


def _signs(shape: Any) -> Any:
    return tf.sign(tf.random.uniform(shape, -1.0, 1.0))


def measure(arguments: argparse.Namespace) -> Iterator[timing.Row]:
    """The times of both networks, and how many times faster than the plain way each is."""
    images = timing.random_images(PIXELS, STEPS * MLP.batch_size)
    steps = {f"MLP layer {i + 1}": timing.training_steps(MLP, images, i) for i in range(MLP.layers)}
    plain = "MLP, 17 forwards"
    seconds = timing.median_seconds(
        steps | {plain: one_after_another(MLP, images)}, arguments.seconds
    )
    layers = [seconds[name] for name in steps]
    seconds["MLP step, mean of the layers"] = sum(layers) / len(layers)
    seconds["MLP steps, one of every layer"] = sum(layers)
    yield from _rows(seconds, plain)
    together = {"convolution, all channels": timing.training_steps(CNN, images, 1)}
    plain = "convolution, channel by channel"
    tasks = together | {plain: channel_by_channel(CNN, images)}
    yield from _rows(timing.median_seconds(tasks, arguments.seconds), plain)
    yield from _mixer_rows(arguments.seconds)


def _mixer_rows(budget: float) -> Iterator[timing.Row]:
    images = timing.random_images(COLOURED, STEPS * MIXER.batch_size)
    kinds, exact = {"forward": 2.5, "central": 3.5}, "mixer, exact backpropagation"
    configs = {kind: replace(MIXER, estimator=kind) for kind in kinds}
    tasks = {kind: timing.training_steps(config, images, 1) for kind, config in configs.items()}
    tasks["pass"], tasks["products"] = forward_and_products(MIXER, images)
    seconds = timing.median_seconds(tasks, budget)
    for kind, passes in kinds.items():
        plain = f"mixer block, {passes} passes and weight products"
        allowed = passes * seconds["pass"] + seconds["products"]
        step = {f"mixer block, {kind} differences": seconds[kind], plain: allowed}
        yield from _rows(step, plain)
    backward = configure("digital", "bp-ad", network="mixer", colour="rgb")
    tasks = {
        "mixer, all blocks at once": timing.training_steps(MIXER, images, None),
        exact: timing.training_steps(backward, images, None),
    }
    yield from _rows(timing.median_seconds(tasks, budget), exact)


def _rows(seconds: dict[str, float], plain: str) -> Iterator[timing.Row]:
    for name, value in seconds.items():
        yield {"step": name, "ms": 1e3 * value, "ratio": seconds[plain] / value}


if __name__ == "__main__":
    parser = timing.command_line(__doc__, seconds=10)
    timing.run(parser, measure, {"step": 46}, ("ms", "ratio"))
