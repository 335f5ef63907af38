"""Serve a device to other processes: ``python -m photonic_ffzero.serve --units 64 --port 5025``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from meshes import NONLINEARITIES
from photonic_ffzero.cli.arguments import LineParser, as_flag, count
from photonic_ffzero.config import SIMULATED, configure
from photonic_ffzero.devices.remote import DeviceServer
from photonic_ffzero.networks import open_device


def main(argv: Sequence[str] | None = None) -> int:
    """Serve a device until Ctrl-C; print its address first. Bad input ends it with status 2."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        server = _server(arguments)
    except (ValueError, TypeError, OSError) as error:
        parser.error(as_flag(str(error), parser))
    with server:
        print(server.address, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def _server(arguments: argparse.Namespace) -> DeviceServer:
    settings = ("meshes", "columns", "nonlinearity", "chip", "device")
    config = configure(**{name: getattr(arguments, name) for name in settings})
    device = open_device(config, arguments.units)
    return DeviceServer(device, arguments.host, arguments.port)


def _parser() -> argparse.ArgumentParser:
    parser = LineParser(
        prog="python -m photonic_ffzero.serve",
        description="Serve a device to other processes. Who trains on it sees intensities and "
        "nothing else: --device tcp://host:port, as it is printed.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        default=SIMULATED,
        help=f"{SIMULATED}:key=value,... with imperfections, or module:factory for your own "
        f"(default: {SIMULATED})",
    )
    for name, what, default in (
        ("units", "ports of a simulated one", 64),
        ("meshes", "its meshes", 2),
        ("columns", "columns of a mesh (default: as many as ports)", None),
    ):
        shown = "" if default is None else f" (default: {default})"
        parser.add_argument(
            f"--{name}", type=count(1), default=default, metavar="N", help=what + shown
        )
    parser.add_argument(
        "--nonlinearity",
        metavar="NAME:key=value,...",
        help=f"behind its meshes: {', '.join(NONLINEARITIES)} (default: electro-optic)",
    )
    parser.add_argument(
        "--chip", type=count(0), metavar="N", help="its seed: which chip was made (default: 0)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="name or number to listen at (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--port", type=count(0), default=0, metavar="N", help="port (default: any that is free)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
