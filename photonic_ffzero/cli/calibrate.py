"""The command line of a calibration: a chip in, what is known of it out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import catch_warnings

import numpy as np

from meshes import ChipEstimate, MeshEstimate, MeshParameters
from meshes.plotting import plot_chip, plot_known_against_true
from meshes.validation import printable
from photonic_ffzero.cli.arguments import (
    PATH,
    LineParser,
    Reader,
    add_device,
    as_flag,
    count,
    opened_device,
)
from photonic_ffzero.cli.output import check_place, claim_place
from photonic_ffzero.command import command, say
from photonic_ffzero.config import Config, configure
from photonic_ffzero.devices.device import Device, DeviceError, driver_of
from photonic_ffzero.devices.simulated import SimulatedChip
from photonic_ffzero.plots import save_figure
from photonic_ffzero.runs.progress import CalibrationProgress
from photonic_ffzero.training.calibration import SETTINGS_A_STAGE, mesh_passes, usual_settings
from photonic_ffzero.training.chips import calibrate
from photonic_ffzero.training.progress import progress_console

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DESCRIPTION = """\
Learn a chip from the intensities behind its meshes, at random phases.

The chip must have the layout of rectangular meshes. What is learned of it,
offsets of the phases, angles of the couplers and losses, goes with its
uncertainties to chip_estimate.npz and chip_estimate.csv, from which a training
starts by --estimator twin --chip-estimate FILE; pictures show it. The new
directory is made before the first reading, and its files at the end: Ctrl-C
before then leaves nothing.
"""

EXAMPLES = """\
examples:
  calibrate.py --device simulated:phase_offset=0.1
  calibrate.py --device simulated:ntt-2025 --units 16 --meshes 1
  calibrate.py --device mylab:MyChip --output results/chip-7
"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate a device; return the exit code: 1 if the device fails, 2 for bad input."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    with ExitStack() as claims:
        try:
            check_place(arguments.output)
            config = _config(arguments)
            device = opened_device(arguments, config, arguments.token_file)
            start = ChipEstimate.load(arguments.chip_estimate) if arguments.chip_estimate else None
            if start is not None:
                start.check_fits(device.units, device.columns, device.meshes)
            name = f"chip-{time.strftime('%Y%m%d-%H%M%S')}"
            folder = claims.enter_context(claim_place(arguments.output, name)).folder
        except (ValueError, TypeError, OSError) as error:
            parser.error(as_flag(str(error), parser))
        return _run(arguments, parser.prog, config, device, start, folder)


def _run(
    arguments: argparse.Namespace,
    program: str,
    config: Config,
    device: Device,
    start: ChipEstimate | None,
    folder: Path,
) -> int:
    settings = arguments.settings or usual_settings(device.columns)
    passes = mesh_passes(device.meshes, settings * arguments.batch_size * arguments.reads)
    console = progress_console(arguments.quiet)
    name = driver_of(device).identity or config.device
    size = f"{device.meshes} x {device.units} ports, {device.columns} columns"
    console.print(printable(f"{name}: {size}"))
    console.print(f"{settings} settings a mesh, {arguments.batch_size} samples each")
    between, amplifier = config.twin_model
    drive = config.known_imperfections.drive_step
    try:
        with (
            _warnings_below(),
            CalibrationProgress(console, device.meshes) as progress,
        ):
            known = calibrate(
                device,
                settings,
                batch_size=arguments.batch_size,
                start=start,
                nonlinearity=between,
                amplifier=amplifier,
                port_losses=arguments.port_losses,
                drive_step=drive,
                reads=arguments.reads,
                seed=arguments.seed,
                progress=progress.update,
            )
    except KeyboardInterrupt:  # called from Python
        say("interrupted; nothing was written")
        return 130
    except (DeviceError, OSError) as error:
        say(f"{program}: {error}; nothing was written")
        return 1
    try:
        _write(folder, known, device)
    except OSError as error:
        say(f"{program}: {error}; what was written is in {folder}")
        return 1
    for number, mesh in enumerate(known.meshes, start=1):
        print(f"mesh {number}: {_in_words(mesh)}")
    print(printable(f"{passes:,} mesh passes; results in {folder}"))
    return 0


@contextmanager
def _warnings_below() -> Iterator[None]:
    """Say each warning once, in a line below the progress bar."""
    with catch_warnings(record=True, action="default", category=UserWarning) as caught:
        try:
            yield
        finally:
            for text in dict.fromkeys(str(warning.message) for warning in caught):
                say(f"warning: {text}")


def _in_words(mesh: MeshEstimate) -> str:
    """Typical uncertainties of a mesh, and its total loss."""

    def typical(*names: str) -> str:
        every = np.concatenate([getattr(mesh.std, name).ravel() for name in names])
        seen = every[np.isfinite(every)]
        return f"{np.sqrt(np.mean(seen**2)):.2g} rad" if seen.size else "unknown"

    loss = mesh.values.loss.sum(axis=0).mean()
    return (
        f"uncertainty of theta {typical('theta')}, phi and gamma {typical('phi', 'gamma')}, "
        f"couplers {typical('coupler1', 'coupler2')}; loss {loss:.2g} dB"
    )


def _write(folder: Path, known: ChipEstimate, device: Device) -> None:
    """Write the estimate and its pictures."""
    for suffix in ("npz", "csv"):
        known.save(folder / f"chip_estimate.{suffix}")
    for number, mesh in enumerate(known.meshes, start=1):
        title = f"what is known of mesh {number}"
        save_figure(folder / f"chip_mesh{number}.png", partial(_draw, mesh), 6, title)
    if isinstance(device, SimulatedChip):
        draw = partial(_compare, known, ChipEstimate.of_chips(device.chips))
        count = len(known.meshes)
        save_figure(folder / "known_against_true.png", draw, count, "known against true")


def _draw(mesh: MeshEstimate, *axes: Axes) -> None:
    for panel, name in zip(axes, MeshParameters._fields, strict=True):
        plot_chip(panel, mesh, name)


def _compare(known: ChipEstimate, truth: ChipEstimate, *axes: Axes) -> None:
    for panel, *pair in zip(axes, known.meshes, truth.meshes, strict=True):
        plot_known_against_true(panel, *pair)


def _config(arguments: argparse.Namespace) -> Config:
    names = ("device", "meshes", "columns", "chip", "nonlinearity", "twin_nonlinearity")
    chosen = {name: getattr(arguments, name) for name in (*names, "twin_amplifier")}
    return configure(estimator="twin", **chosen)


def build_parser() -> LineParser:
    """The parser of the command."""
    parser = LineParser("calibrate.py", "calibrate", description=DESCRIPTION, epilog=EXAMPLES)
    add = parser.add_argument
    add_device(parser)
    assumed = "what the host takes the {} of the device for (default: {})"
    add(
        "--twin-nonlinearity",
        metavar="NAME:key=value,...",
        help=assumed.format("nonlinearity", "electro-optic"),
    )
    add("--twin-amplifier", metavar="gain=G|level=P", help=assumed.format("amplifiers", "none"))
    add("--port-losses", action="store_true", help="fit a loss for each port of each column")
    stage = f"settings of the phases for each mesh (default: {SETTINGS_A_STAGE} for each stage)"
    add("--settings", type=count(1), metavar="N", help=stage)
    add("--batch-size", type=count(1), default=128, metavar="B", help="samples a setting (128)")
    add("--reads", type=count(1), default=1, metavar="N", help="readings averaged into one (1)")
    add("--seed", type=count(0), default=0, metavar="N", help="of phases and light (default: 0)")
    known = "what is known before: a chip_estimate.npz, or a table (CSV)"
    add("--chip-estimate", type=Reader(PATH), metavar="FILE", help=known)
    new = "new directory for the results (default: one in results/, named by date)"
    add("--output", type=Reader(PATH), metavar="DIR", help=new)
    add("--quiet", action="store_true", help="print the result only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
