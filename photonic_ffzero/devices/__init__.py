r"""Devices: chips in a laboratory, or programs that behave like one, in place of simulated meshes.

A device holds all meshes of a network with their nonlinearities. It can do two things: set phases,
and send light into the first mesh and read its intensity after any mesh. It gives no complex fields
and no derivatives. To train mesh l, the encoded images therefore cross meshes 1 .. l - 1 again at
every evaluation.

A device is a class with three numbers and two methods. Here simulated meshes stand for the
instruments::

    import numpy as np

    from meshes import Phases, RectangularMesh
    from photonic_ffzero import encode, evaluate, fit, load_dataset


    class MyChip:
        units, columns, meshes = 16, 16, 2  # ports, columns of a mesh, meshes

        def __init__(self):
            self.mesh, self.phases = RectangularMesh(16, splitter_error=0.05), {}

        def write(self, mesh, theta, phi, gamma):  # meshes count from 1; phases in rad
            self.phases[mesh] = Phases(theta, phi, gamma)  # in the laboratory: set the heaters

        def measure(self, mesh, fields):  # fields [B, 16], complex
            for number in range(1, mesh + 1):  # in the laboratory: light, detectors
                fields = self.mesh.propagate(fields, self.phases[number])
            return np.abs(fields) ** 2  # intensities [B, 16]


    digits = load_dataset("digits")
    x, y = encode(digits.train_images, "average", size=4), digits.train_labels
    model = fit(x[:400], y[:400], device=MyChip(), epochs=1, directions=4)
    print(evaluate(model, x[:400], y[:400]).accuracy)

On the command line this device is ``--device module:MyChip``, with the module in the working
directory, or ``--device tcp://host:port`` from another process, see `DeviceServer`.
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
