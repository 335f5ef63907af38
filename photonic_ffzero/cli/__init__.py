"""The command lines."""

from photonic_ffzero.cli.train import build_parser, main

__all__ = ["build_parser", "main"]
