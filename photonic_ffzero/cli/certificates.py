"""Certificates for a lab's cluster: ``python -m photonic_ffzero.cli.certificates lab-tls``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from photonic_ffzero.cli.arguments import PATH, LineParser, Reader, as_flag, count
from photonic_ffzero.cli.output import writing
from photonic_ffzero.command import command
from photonic_ffzero.runs.claim import claim_new
from photonic_ffzero.runs.cluster import TLS_FILES

_DESCRIPTION = """\
Make a set of TLS files with which the scheduler, the workers and the clients of
a cluster know each other: ca.pem, cert.pem and key.pem. All of them use the same
set, and so does --tls-dir of a grid. Whoever holds it can run code on every one
of these machines. A set cannot be taken back: to shut somebody out, make a new
one and start the cluster with that.
"""
_DAYS, _MOST_DAYS = 365, 3650


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the files into a new folder; return 0. Bad input ends with status 2."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    with ExitStack() as claims:
        try:
            claims.enter_context(claim_new(arguments.output))
        except (ValueError, OSError) as error:
            parser.error(as_flag(str(error), parser))
        with writing(parser, arguments.output):
            write_certificates(arguments.output, arguments.days)
    print(arguments.output)
    return 0


def build_parser() -> LineParser:
    """The parser of the command."""
    parser = LineParser("certificates", "certificates", description=_DESCRIPTION)
    parser.add_argument("output", type=Reader(PATH), metavar="DIR", help="new folder for the files")
    parser.add_argument(
        "--days",
        type=count(1, _MOST_DAYS),
        default=_DAYS,
        metavar="N",
        help=f"how long they are valid (default: {_DAYS})",
    )
    return parser


def write_certificates(folder: Path, days: int = _DAYS) -> None:
    """Write a certificate, its key, and the certificate of the authority that signed it.

    The authority's key is not kept, so that it signs no other one.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    authority = _certificate("authority", authority_key, "authority", authority_key, days, [])
    certificate = _certificate(
        "cluster", key, "authority", authority_key, days, [x509.ExtendedKeyUsage(uses)]
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    contents = (*(c.public_bytes(Encoding.PEM) for c in (authority, certificate)), secret)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(TLS_FILES, contents, strict=True):
        with open(folder / name, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as f:
            f.write(content)


def _certificate(
    name: str, key: Any, signer: str, signing_key: Any, days: int, extensions: Sequence[Any]
) -> Any:
    """A certificate of a key; one without extensions is that of an authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    def full(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"photonic_ffzero {text}")])

    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(full(name))
        .issuer_name(full(signer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=not extensions, path_length=None), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signing_key, hashes.SHA256())


if __name__ == "__main__":
    sys.exit(main())
