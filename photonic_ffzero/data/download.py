"""One file from the network: checked, complete, or not there at all."""

from __future__ import annotations

import http.client
import os
import tempfile
import threading
import urllib.request
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from photonic_ffzero.data.readers import MAX_BYTES, DataError, content_sha256

_TIMEOUT = 5.0  # seconds to reach the server, and between two pieces of its answer
_PIECE = 2**16


def download(url: str, path: Path, sha256: str) -> None:
    """Download a file; it appears under its name only when complete and checked.

    Args:
        url: its address.
        path: where to keep it; the folder is made.
        sha256: of its content, decompressed first if it is a gzip file.

    Raises:
        DataError: the server cannot be reached in 5 s, breaks off, or sends another content; or
            the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            partial = Path(scratch) / path.name
            _save(url, partial)
            found = content_sha256(partial)
            if found != sha256:
                raise DataError(f"the content's SHA-256 must be {sha256}, found {found}")
            os.replace(partial, path)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(str(error) or type(error).__name__) from error


def open_url(url: str) -> Any:
    """Open a URL within the time-out, all told.

    urlopen's own time-out holds for each address of a server and not at all for the look-up of
    its name: behind a firewall the sum is minutes. Hence a thread that can be left behind.

    Raises:
        OSError: there was no answer, or it was a refusal.
    """
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(urllib.request.urlopen(url, timeout=_TIMEOUT))
        except BaseException as error:  # handed to the thread that waits
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(_TIMEOUT)
    except TimeoutError:
        raise TimeoutError(f"no answer within {_TIMEOUT:g} s") from None


def _save(url: str, path: Path) -> None:
    remaining = MAX_BYTES
    with open_url(url) as response, path.open("wb") as file:
        while piece := response.read(min(_PIECE, remaining)):
            remaining -= file.write(piece)
