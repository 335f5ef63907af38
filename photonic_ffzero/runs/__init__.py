"""Training runs: what they leave on the disk, grids of them, and reports about grids."""

from photonic_ffzero.runs.directory import RunDirectory, check_new_directory, versions
from photonic_ffzero.runs.grid import Cell, Grid, GridDirectory, Label, Outcome
from photonic_ffzero.runs.history import read_history
from photonic_ffzero.runs.plan import Plan, plan_for
from photonic_ffzero.runs.summary import add_legend, write_results
from photonic_ffzero.runs.tensorboard import TensorBoard

__all__ = [
    "Cell",
    "Grid",
    "GridDirectory",
    "Label",
    "Outcome",
    "Plan",
    "RunDirectory",
    "TensorBoard",
    "add_legend",
    "check_new_directory",
    "plan_for",
    "read_history",
    "versions",
    "write_results",
]
