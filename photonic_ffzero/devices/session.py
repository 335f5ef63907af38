"""The secret that a client and a server of a device share, and what follows from it.

Both sides prove that they know the secret without sending it. From the secret s and two nonces,
fresh in every connection, follow the proofs and the key of the session, by the extract and expand
steps of RFC 5869 (HKDF):

.. math::

    k = \\mathrm{HMAC}(n_{server} \\| n_{client}, s), \\qquad
    \\mathrm{key}_{label} = \\mathrm{HMAC}(k, label \\| 1)

A message's code is the HMAC-SHA256 under the session's key of the sender's role, a counter and the
content. It refuses messages that were changed, cut, repeated, reordered, sent back, or taken from
another connection. Nothing is encrypted: whoever sees the wire can read phases and light.
"""

from __future__ import annotations

import hmac
import os
import stat
from pathlib import Path

TOKEN_VARIABLE = "PHOTONIC_FFZERO_TOKEN"

_SHORTEST, _LONGEST = 16, 1024  # bytes of a secret; a short one can be guessed from a proof


def read_secret(file: Path | None = None) -> bytes | None:
    """The secret in a file, else in PHOTONIC_FFZERO_TOKEN, else None.

    A file that other users can read is refused, and so is a secret of less than 16 bytes.
    """
    if file is not None:
        return _checked("token_file", _read(file))
    text = os.environ.get(TOKEN_VARIABLE)
    return None if text is None else _checked(TOKEN_VARIABLE, os.fsencode(text))


def derived(secret: bytes, nonces: bytes, label: str) -> bytes:
    """A proof or key, 32 bytes, from the secret and both nonces."""
    return hmac.digest(hmac.digest(nonces, secret, "sha256"), label.encode() + b"\1", "sha256")


def _read(file: Path) -> bytes:
    def at_once(path: str, flags: int) -> int:
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a FIFO would wait for a writer

    with open(file, "rb", opener=at_once) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"token_file must be a regular file, got {file}")
        if os.name == "posix" and status.st_mode & 0o077:
            raise ValueError(
                f"token_file must not be readable by other users, found mode "
                f"{status.st_mode & 0o777:o}; use chmod 600 {file}"
            )
        return stream.read(_LONGEST + 2)


def _checked(name: str, content: bytes) -> bytes:
    secret = content.strip()
    if not _SHORTEST <= len(secret) <= _LONGEST:
        raise ValueError(
            f"{name} must hold {_SHORTEST} to {_LONGEST} bytes, found {len(secret)}; make one with "
            'python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    return secret
