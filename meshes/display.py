"""How objects show themselves in a notebook: a name and a few facts."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


def facts_html(title: str, facts: Mapping[str, Any], more: str = "") -> str:
    """A small table of facts with a title; facts that are None or empty are left out.

    ``more`` is HTML that stands below.
    """
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value not in (None, "")
    )
    return f"<div><b>{escape(title)}</b><table>{rows}</table>{more}</div>"
