"""``python -m photonic_ffzero.cli.worker``: one run of a grid, in a child process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress

from photonic_ffzero.cli.train import main
from photonic_ffzero.command import signals
from photonic_ffzero.runs.claim import EXPIRY


def stop_with_parent() -> None:
    """Send SIGTERM to this process when its parent ends, which closes the pipe at stdin."""
    with suppress(OSError):
        os.read(0, 1)
    if not signals().received:  # a second signal would not let the run save
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=stop_with_parent, daemon=True).start()
    sys.exit(main(wait=2 * EXPIRY))  # another worker may have lost the cell just now
