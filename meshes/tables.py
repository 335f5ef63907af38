"""Tables (CSV): a header that names each column once, and rows with a cell for every column."""

from __future__ import annotations

import csv
import io
import os
from typing import Any

from meshes.files import DataError, read_text, reading
from meshes.validation import integer, quoted


class Rows(csv.DictReader):
    """The rows of a table, as dictionaries from the header's names to cells.

    A decimal comma makes two cells of one. A row of more or fewer cells than the header has is
    therefore a `DataError`, which names its line.
    """

    def __init__(self, path: str | os.PathLike[str], text: str, **form: Any) -> None:
        super().__init__(io.StringIO(text, newline=""), **form)
        self.path = path

    def __next__(self) -> dict[str, str]:
        row: dict[Any, Any] = super().__next__()
        if None in row or None in row.values():
            more = row.pop(None, [])
            found = sum(cell is not None for cell in row.values()) + len(more)
            raise DataError(
                f"{self.path}, line {self.line_num}: must have {len(row)} cells, as the header "
                f"has, found {found}{'; decimals take a point' if more else ''}"
            )
        return row


def read_table(path: str | os.PathLike[str], kind: str, max_bytes: int, **form: Any) -> Rows:
    """Read a table of at most ``max_bytes``; ``kind`` is for errors, ``form`` for csv's reader."""
    rows = Rows(path, read_text(path, kind, max_bytes), **form)
    with reading(path, kind):
        header = [name.strip() for name in rows.fieldnames or () if name.strip()]
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: must have each column once, found {quoted(name)} twice")
    return rows


def whole(name: str, cell: str, minimum: int) -> int:
    """The whole number in a cell."""
    try:
        return integer(name, int(cell), minimum=minimum)
    except ValueError:
        raise ValueError(f"{name} must be a whole number from {minimum}, found {cell!r}") from None
