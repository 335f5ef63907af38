"""A trained network's phases and voltages as tables, for the chip that is to make them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meshes.calibration import (
    ARMS,
    Calibration,
    HeaterLaw,
    Shifter,
    lowest_phases,
    read_calibration,
    shifters,
    values,
    voltages,
    within_a_turn,
)
from meshes.mesh import Phases
from photonic_ffzero.cli.arguments import LineParser, as_flag
from photonic_ffzero.layers.photonic import Modulated, PhaseLayer
from photonic_ffzero.model import Model
from photonic_ffzero.runs.directory import check_new_directory
from photonic_ffzero.storage import load_model, model_file, write_csv, write_json

DESCRIPTION = """\
Write the phases of a trained photonic network, and the voltages that make
them, as phases.csv and phases.json: a row for every phase shifter. Idle
interferometers have none. Phases lie within a turn of the lowest that a
shifter reaches, and make the network's own matrices; voltages are the lowest.

A calibration file has a header. Columns voltage_V, phase_rad: a measured
curve; v_pi_V, phase_0_rad: a heater's law, phase_0 + pi (V / V_pi)^2. With the
columns mesh, column, interferometer, shifter and ports of phases.csv besides,
every shifter has its own.
"""

EXAMPLES = """\
examples:
  export_phases.py results/run --v-pi 5 --output phases
  export_phases.py results/run/seed-0/model.npz --calibration heaters.csv --output phases
"""

_MODULATORS = ("tap", "g", "phi_b")  # trained settings in front of a mesh, one a port


@dataclass(frozen=True)
class Setting:
    """What one phase shifter is set to.

    Attributes:
        name: Which one.
        phase_rad: Its phase, within a turn of its lowest.
        voltage_v: The lowest voltage that makes it.
    """

    name: Shifter
    phase_rad: float
    voltage_v: float

    def as_row(self) -> dict[str, Any]:
        """As a row of a table."""
        own = {"phase_rad": self.phase_rad, "voltage_V": self.voltage_v}
        return self.name._asdict() | own


def settings(model: Model, calibration: Calibration, arms: str = "both") -> list[Setting]:
    """Set every phase shifter of a trained photonic network.

    Args:
        model: The network.
        calibration: A curve for all shifters, or one for each.
        arms: Where theta shifters stand, see `meshes.shifters.within_a_turn`.

    Raises:
        ValueError: the network has no meshes, or a phase is out of a shifter's reach.
    """
    rows: list[Setting] = []
    for number, (layer, phases) in enumerate(model.layers, start=1):
        if not isinstance(layer, PhaseLayer):
            raise ValueError(f"model must consist of meshes, got {model.config.network}")
        names = shifters(layer.mesh, number)
        lowest = lowest_phases(calibration, names)
        own = values(layer.mesh, within_a_turn(layer.mesh, Phases(*phases[:3]), lowest, arms))
        volts = voltages(calibration, names, own)
        rows += map(Setting, names, own.tolist(), volts.tolist())
    return rows


def write_settings(rows: Sequence[Setting], directory: Path, about: dict[str, Any]) -> None:
    """Write ``phases.csv`` and ``phases.json``, whose ``shifters`` are the same rows.

    Args:
        rows: One a phase shifter.
        directory: Where to; made with its parents.
        about: What else the JSON file is to say.

    Raises:
        OSError: a file cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    table = [row.as_row() for row in rows]
    write_csv(directory / "phases.csv", table)
    write_json(directory / "phases.json", about | {"shifters": table})


def main(argv: Sequence[str] | None = None) -> int:
    """Export what the command line names; errors end it with status 2 and write nothing."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        check_new_directory(arguments.output)
        calibration = _calibration(arguments)
        model = _model(arguments.run)
        rows = settings(model, calibration, arguments.arms)
        write_settings(rows, arguments.output, _about(model, calibration, arguments))
    except (ValueError, TypeError, OSError) as error:
        parser.error(as_flag(str(error), parser))
    print(f"{len(rows)} phase shifters in {arguments.output}")
    return 0


def _model(run: Path) -> Model:
    """The model of a run directory or file; a black box between its meshes does not matter."""
    return load_model(model_file(run), nonlinearity=np.copy)


def _calibration(arguments: argparse.Namespace) -> Calibration:
    law = {name: getattr(arguments, name) for name in ("phase_0", "max_voltage")}
    given = {name: value for name, value in law.items() if value is not None}
    if arguments.calibration is None:
        return HeaterLaw(arguments.v_pi, **given)
    for name in given:
        raise ValueError(f"{name} belongs to v_pi, got a calibration file")
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


def _parser() -> LineParser:
    parser = LineParser(
        prog="export_phases.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory or model.npz")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--calibration", type=Path, metavar="CSV", help="calibration file, see above")
    how.add_argument(
        "--v-pi", type=float, metavar="V", help="heater's voltage for a phase of pi, volts"
    )
    parser.add_argument(
        "--phase-0", type=float, metavar="RAD", help="phase without a voltage (default: 0)"
    )
    parser.add_argument(
        "--max-voltage", type=float, metavar="V", help="the drive's highest (default: any)"
    )
    parser.add_argument(
        "--arms",
        choices=ARMS,
        default="both",
        help="where theta shifters stand: theta / 2 and -theta / 2 in both arms, or theta in the "
        "upper one alone, for which phi and gamma make up (default: both)",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="new directory for the tables"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
