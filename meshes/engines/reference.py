"""A mesh in NumPy and double precision, column by column: what every engine must reproduce."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshes.engines import FabricatedMesh, upper_port


def fields_by_column(mesh: FabricatedMesh, phases: tuple[Any, Any, Any], fields: Any) -> np.ndarray:
    """Complex fields [L + 1, B, N]: after the phase screen gamma, then after every column.

    The fields [B, N] at the input are real or complex, and there is one set of phases.
    """
    theta, phi, gamma = one_set("phases", phases, mesh)
    fields = np.asarray(fields)
    if fields.ndim != 2 or fields.shape[1] != mesh.units:
        raise ValueError(f"fields must be [B, {mesh.units}], got shape {fields.shape}")
    places = [fields * np.exp(1j * gamma)]
    for column in range(mesh.num_columns):
        places.append(_after_column(places[-1], mesh, theta[column], phi[column], column))
    return np.stack(places)


def one_set(name: str, phases: tuple[Any, Any, Any], mesh: FabricatedMesh) -> list[np.ndarray]:
    """Theta, phi [L, M] and gamma [N] in float64, if they are one set that fits the mesh."""
    arrays = [np.asarray(x, np.float64) for x in phases]
    expected = (mesh.mask.shape, mesh.mask.shape, (mesh.units,))
    shapes = tuple(x.shape for x in arrays)
    if shapes != expected:
        raise ValueError(f"{name} must be one set, of the shapes {expected} here, got {shapes}")
    return arrays


def _after_column(
    x: np.ndarray, mesh: FabricatedMesh, theta: np.ndarray, phi: np.ndarray, column: int
) -> np.ndarray:
    """Coupler, internal phases, coupler, external phase shifter: the parts in light's order."""
    theta, phi = (np.where(mesh.mask[column], angle, np.pi) for angle in (theta, phi))
    errors = mesh.splitter_errors
    first, second = (0.0, 0.0) if errors is None else errors[:, column].astype(np.float64)
    upper = upper_port(column, np.arange(mesh.num_interferometers))
    lower = (upper + 1) % mesh.units  # an idle pair is (N - 1, 0)
    u, v = _coupler(x[:, upper], x[:, lower], first)
    u, v = _coupler(u * np.exp(0.5j * theta), v * np.exp(-0.5j * theta), second)
    x = x.copy()
    x[:, upper], x[:, lower] = u * np.exp(1j * phi), v
    return x if mesh.transmission is None else x * mesh.transmission[column].astype(np.float64)


def _coupler(u: np.ndarray, v: np.ndarray, error: Any) -> tuple[np.ndarray, np.ndarray]:
    keep, cross = np.cos(np.pi / 4 - error), 1j * np.sin(np.pi / 4 - error)
    return keep * u + cross * v, cross * u + keep * v
