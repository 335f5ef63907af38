"""Chips in a laboratory, or what stands in for them: the protocol, a simulation, TCP."""

from photonic_ffzero.devices.device import (
    Device,
    DeviceError,
    Driver,
    OnDevice,
    Sent,
    driver_of,
    readings,
)
from photonic_ffzero.devices.remote import DeviceServer, RemoteDevice
from photonic_ffzero.devices.simulated import SimulatedChip

__all__ = [
    "Device",
    "DeviceError",
    "DeviceServer",
    "Driver",
    "OnDevice",
    "RemoteDevice",
    "Sent",
    "SimulatedChip",
    "driver_of",
    "readings",
]
