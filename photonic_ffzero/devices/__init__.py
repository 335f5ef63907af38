"""Devices: chips in a laboratory, or programs that behave like one, in place of simulated meshes.

A device holds all meshes of a network with their nonlinearities. It can do two things: set phases,
and send light into the first mesh and read its intensity after any mesh. It gives no complex fields
and no derivatives. To train mesh l, the encoded images therefore cross meshes 1 .. l - 1 again at
every evaluation. ``docs/extending.md`` has a whole device.
"""

from photonic_ffzero.devices.device import Device, DeviceError, Driver, OnDevice, driver_of
from photonic_ffzero.devices.remote import RemoteDevice
from photonic_ffzero.devices.server import DeviceServer
from photonic_ffzero.devices.simulated import SimulatedChip

__all__ = [
    "Device",
    "DeviceError",
    "DeviceServer",
    "Driver",
    "OnDevice",
    "RemoteDevice",
    "SimulatedChip",
    "driver_of",
]
