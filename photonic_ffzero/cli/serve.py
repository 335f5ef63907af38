"""Serve a device: ``python -m photonic_ffzero.cli.serve --units 64 --port 5025``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from photonic_ffzero.cli.arguments import LineParser, add_device, as_flag, count, opened_device
from photonic_ffzero.command import command, signals
from photonic_ffzero.config import configure
from photonic_ffzero.devices import DeviceServer
from photonic_ffzero.devices.server import Limits
from photonic_ffzero.devices.session import read_secret


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the address, then serve a device until Ctrl-C (status 130) or SIGTERM (143).

    Bad input ends with status 2.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        server = _server(arguments)
    except (ValueError, TypeError, OSError) as error:
        parser.error(as_flag(str(error), parser))
    # Before the device is closed, so that clients lose a connection and not a device.
    signals().cleanups.append(server.server_close)
    with server:
        print(server.address, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:  # called from Python
            return 130
    return 0


def _server(arguments: argparse.Namespace) -> DeviceServer:
    settings = ("meshes", "columns", "nonlinearity", "chip", "device")
    config = configure(**{name: getattr(arguments, name) for name in settings})
    device, secret = opened_device(arguments, config), read_secret(arguments.token_file)
    limits = Limits(clients=arguments.max_clients)
    try:
        return DeviceServer(device, arguments.host, arguments.port, secret=secret, limits=limits)
    except OSError as error:  # whose message names no address
        raise ValueError(
            f"port must be one that can be had at {arguments.host}, got {arguments.port} "
            f"({error.strerror or error})"
        ) from None


def build_parser() -> LineParser:
    """The parser of the command."""
    parser = LineParser(
        "python -m photonic_ffzero.cli.serve",
        "serve",
        description="Serve a device to other processes. They train on it with --device "
        "tcp://host:port, the address that is printed, and see intensities and nothing else. "
        "Nothing is encrypted. Other machines are let in only if they share a secret.",
    )
    add_device(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="name or number to listen at (default: 127.0.0.1)")
    add("--port", type=count(0, 65535), default=0, metavar="N", help="port (default: any free one)")
    places = "clients at a time; the one that is idle longest makes room (default: 8)"
    add("--max-clients", type=count(1), default=Limits.clients, metavar="N", help=places)
    return parser


if __name__ == "__main__":
    sys.exit(main())
