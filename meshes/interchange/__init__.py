"""Meshes and measured components in the formats of other tools: netlists and S-parameters."""

from meshes.interchange.netlists import (
    Netlist,
    from_netlist,
    netlist,
    read_netlist,
    write_netlist,
)
from meshes.interchange.sparameters import (
    SParameters,
    TwoByTwo,
    linear_layer,
    read_sparameters,
    two_by_two,
    write_touchstone,
)

__all__ = [
    "Netlist",
    "SParameters",
    "TwoByTwo",
    "from_netlist",
    "linear_layer",
    "netlist",
    "read_netlist",
    "read_sparameters",
    "two_by_two",
    "write_netlist",
    "write_touchstone",
]
