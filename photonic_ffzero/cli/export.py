"""Write the phases and voltages of a trained network as tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from meshes.calibration import (
    ARMS,
    Calibration,
    Curve,
    HeaterLaw,
    check_shifters,
    lowest_phases,
    read_calibration,
    shifters,
    values,
    voltages,
    within_a_turn,
)
from meshes.mesh import Phases, RectangularMesh
from meshes.validation import counted
from photonic_ffzero.cli.arguments import PATH, LineParser, Reader, as_flag, takes
from photonic_ffzero.cli.output import writing
from photonic_ffzero.command import command
from photonic_ffzero.layers.photonic import Modulated, PhaseLayer, Photonic
from photonic_ffzero.model import Model
from photonic_ffzero.runs.claim import claim_new
from photonic_ffzero.runs.directory import check_new_directory, frozen_phases_of
from photonic_ffzero.runs.names import RUN, is_model, run_with
from photonic_ffzero.settings import one_of
from photonic_ffzero.storage import (
    ANY_FUNCTION,
    load_model,
    model_file,
    write_csv,
    write_json,
)

DESCRIPTION = """\
Write the phases of a trained photonic network, and the voltages that make
them, as phases.csv and phases.json: a row for every phase shifter. Idle
interferometers have none. Phases lie within a turn of the lowest that a
shifter reaches, and make the network's own matrices; voltages are the lowest.
Shifters that were frozen in training keep their phases. What then cannot be
within a turn is an error that names one of them.

A calibration file has a header. Columns voltage_V, phase_rad: a measured
curve; v_pi_V, phase_0_rad: a heater's law, phase_0 + pi (V / V_pi)^2. With the
columns mesh, column, interferometer, shifter and ports of phases.csv besides,
every shifter has its own.
"""

EXAMPLES = """\
examples:
  export_phases.py results/run --v-pi 5 --output phases
  export_phases.py run/seed-0 --calibration heaters.csv --output phases
"""

_MODULATORS = ("tap", "g", "phi_b")  # trained settings in front of a mesh, one a port


def settings(model: Model, calibration: Calibration, arms: str = "both") -> list[dict[str, Any]]:
    """A row for every phase shifter of a trained photonic network.

    Its keys are the fields of `meshes.calibration.Shifter`, ``phase_rad``, within a turn of the
    lowest phase that the shifter reaches, and ``voltage_V``, the lowest voltage for that phase.

    Args:
        model: The network. Its frozen phases stay, see `Model.freeze`.
        calibration: A curve for all shifters, or one for each.
        arms: The arms that hold theta shifters, see `meshes.calibration.within_a_turn`.
    """
    rows: list[dict[str, Any]] = []
    meshes = _meshes(model)
    every = [shifters(mesh, number) for number, mesh in enumerate(meshes, start=1)]
    if model.config.device:
        calibration = _of_first_meshes(calibration, len(meshes))
    check_shifters(calibration, chain.from_iterable(every))
    columns = zip(meshes, every, model.layers, _frozen(model), strict=True)
    for number, (mesh, names, (layer, params), frozen) in enumerate(columns, start=1):
        lowest = lowest_phases(calibration, names)
        trained = Phases(*params[:3])
        ideal = isinstance(layer, Photonic) and layer.chip is None
        phases = values(mesh, within_a_turn(mesh, trained, lowest, arms, frozen, number, ideal))
        volts = voltages(calibration, names, phases)
        rows += (
            {**name._asdict(), "phase_rad": phase, "voltage_V": volt}
            for name, phase, volt in zip(names, phases.tolist(), volts.tolist(), strict=True)
        )
    return rows


def _of_first_meshes(calibration: Calibration, count: int) -> Calibration:
    """A calibration without the curves of further meshes, which a device may have."""
    if isinstance(calibration, Curve):
        return calibration
    return {name: curve for name, curve in calibration.items() if name.mesh <= count}


def _meshes(model: Model) -> list[RectangularMesh]:
    meshes = [layer.mesh for layer, _ in model.layers if isinstance(layer, PhaseLayer)]
    if not meshes:
        raise ValueError(f"model must consist of meshes, got {model.config.network}")
    return meshes


def _frozen(model: Model) -> list[Phases | None]:
    """Which phases of each mesh do not move; None if all do."""
    frozen = [part for block in model.blocks for part in block.frozen or [None] * len(block.layers)]
    return [part and Phases(*part[:3]) for part in frozen]


def write_settings(rows: Sequence[dict[str, Any]], directory: Path, about: dict[str, Any]) -> None:
    """Write the rows as ``phases.csv`` and, with ``about``, as ``shifters`` of ``phases.json``."""
    directory.mkdir(parents=True, exist_ok=True)
    write_csv(directory / "phases.csv", rows)
    write_json(directory / "phases.json", about | {"shifters": rows})


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Export the run that the command line names; bad input ends it with status 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    with ExitStack() as claims:
        try:
            check_new_directory(arguments.output)
            calibration = _calibration(arguments)
            file = model_file(arguments.run)
            model = load_model(file, nonlinearity=ANY_FUNCTION)
            if frozen := frozen_phases_of(file, arguments.frozen_phases):
                model.freeze(frozen)
            rows = settings(model, calibration, arguments.arms)
            about = _about(model, calibration, arguments)
            claims.enter_context(claim_new(arguments.output))
        except (ValueError, TypeError, OSError) as error:
            parser.error(as_flag(str(error), parser))
        with writing(parser, arguments.output):
            write_settings(rows, arguments.output, about)
    print(f"{counted(len(rows), 'phase shifter')} in {arguments.output}")
    return 0


def _calibration(arguments: argparse.Namespace) -> Calibration:
    names = ("phase_0", "max_voltage")
    law = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.calibration is None:
        return HeaterLaw(arguments.v_pi, **law)
    if law:
        raise ValueError(f"{next(iter(law))} belongs to v_pi, got a calibration file")
    return read_calibration(arguments.calibration)


def _about(model: Model, calibration: Calibration, arguments: argparse.Namespace) -> dict[str, Any]:
    law = asdict(calibration) if isinstance(calibration, HeaterLaw) else None
    modulators = [
        {"mesh": number, **{f"{name}_rad": getattr(params, name).tolist() for name in _MODULATORS}}
        for number, (layer, params) in enumerate(model.layers, start=1)
        if isinstance(layer, Modulated)
    ]
    return {
        "modulators": modulators,
        "ports": model.units,
        "columns": model.config.columns or model.units,
        "meshes": model.config.meshes,
        "theta_arms": arguments.arms,
        "calibration": law or arguments.calibration.name,
    }


def build_parser() -> LineParser:
    """The parser of the command."""
    parser = LineParser(
        "export_phases.py",
        "export",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    add, how = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
    add("run", type=Reader(run_with(is_model)), metavar="RUN", help=RUN.rule)
    how.add_argument(
        "--calibration", type=Reader(PATH), metavar="CSV", help="calibration file, see above"
    )
    v_pi = "heater's voltage for a phase of pi, volts"
    how.add_argument("--v-pi", type=float, metavar="V", help=v_pi)
    add("--phase-0", type=float, metavar="RAD", help="phase without a voltage (default: 0)")
    add("--max-voltage", type=float, metavar="V", help="the drive's highest (default: any)")
    arms = (
        "where theta shifters stand: theta / 2 and -theta / 2 in both arms, or theta in the "
        "upper one alone, for which phi and gamma make up (default: both)"
    )
    add("--arms", **takes(one_of(ARMS)), default="both", help=arms)
    frozen = (
        "which phases do not move, as in training: a file that its --frozen-phases took "
        "(default: that of the run, none for a model of no run)"
    )
    add("--frozen-phases", type=Reader(PATH), metavar="FILE.npz", help=frozen)
    add(
        "--output",
        type=Reader(PATH),
        required=True,
        metavar="DIR",
        help="new directory for the tables",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
