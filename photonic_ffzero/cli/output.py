"""Where commands write: new directories that they claim, files, and standard output.

Each checks its input first, and whether it can write, which ends it with status 2. Then it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from photonic_ffzero.cli.arguments import LineParser
from photonic_ffzero.command import printed, say
from photonic_ffzero.runs.claim import Claim, claim_new, claim_unique
from photonic_ffzero.runs.directory import check_new_directory, obstacle_to
from photonic_ffzero.runs.names import RESULTS


def check_place(output: Path | None) -> None:
    """Check that the output directory can be made; without ``output``, a new one in RESULTS."""
    if output is not None:
        check_new_directory(output)
    elif obstacle := obstacle_to(RESULTS):
        raise ValueError(
            f"{RESULTS}/ must be a folder that can be written, found {obstacle} read-only or a "
            "file; --output names another place"
        )


def claim_place(output: Path | None, name: str) -> Claim:
    """Make and claim the output directory; without ``output``, one of this name in RESULTS."""
    return claim_unique(RESULTS / name) if output is None else claim_new(output)


def check_file(argument: str, path: Path) -> None:
    """Check that a file, which an argument names, can be written; its folder need not exist."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{argument} must be a file or new, found something else: {path}")
    if obstacle := obstacle_to(path.parent):
        raise ValueError(
            f"{argument} must be in a folder that can be written, found {obstacle} read-only or "
            f"a file: {path}"
        )


@contextmanager
def writing(parser: LineParser, folder: Path | None = None) -> Iterator[None]:
    """End a command with status 1 and one line where it cannot write what it has.

    Nothing then stays in a new ``folder``, so that the command can be tried again.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        for file in folder.glob("[!.]*") if folder else ():
            file.unlink()
        parser.fail(str(error))


def end_of_output(parser: LineParser) -> int:
    """The exit code of a command that prints: 0, or 1 after a line if that could not be written."""
    if printed():
        return 0
    say(f"{parser.prog}: the output could not be written")
    return 1
