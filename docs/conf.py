"""Settings of the documentation: ``make docs`` builds it from these pages and the docstrings.

Equations become MathML, which browsers draw by themselves: a page needs nothing from the network.
The tables of settings and of registries are made from the code when the pages are built.
"""

import inspect
import os
import re
import sys
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from meshes import NONLINEARITIES
from photonic_ffzero import data, goodness, gradients, layers, optimizers
from photonic_ffzero.config import Config
from photonic_ffzero.elements import listed
from photonic_ffzero.runs.plan import Plan
from photonic_ffzero.settings import markdown_table

project = "photonic_ffzero"
author = "the authors of photonic_ffzero"
version = release = installed("photonic_ffzero")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
myst_enable_extensions = ["dollarmath", "substitution"]
myst_heading_anchors = 3
default_role = "py:obj"
smartquotes_action = "qe"  # two dashes begin a flag

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Fields", "attributes"), ("Reference", "references")]

html_theme = "furo"
html_title = "photonic_ffzero"
html_math_renderer = "mathml"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False


def registry_table(registry: Mapping[str, Any]) -> str:
    """A registry as a Markdown table: each name and the first line of its docstring."""
    rows = ["| name | what it is |", "|---|---|"]
    for name, entry in registry.items():
        first_line = (inspect.getdoc(entry) or "").partition("\n")[0]
        first_line = re.sub(r":math:`([^`]*)`", r"$\1$", first_line)
        rows.append(f"| `{name}` | {first_line} |")
    return "\n".join(rows)


def nonlinearity_table() -> str:
    """Each nonlinearity with the defaults of its parameters, and what it is."""
    table = registry_table(NONLINEARITIES)
    for spec in listed(NONLINEARITIES).split(", "):
        table = table.replace(f"| `{spec.partition(':')[0]}` |", f"| `{spec}` |")
    return table


myst_substitutions = {
    "nonlinearity_table": nonlinearity_table(),
    "settings": markdown_table(Config),
    "plan": markdown_table(Plan),
    "nonlinearities": registry_table(NONLINEARITIES),
    "losses": registry_table(goodness.LOSSES),
    "estimators": registry_table(gradients.ESTIMATORS),
    "laws": registry_table(gradients.LAWS),
    "perturbations": registry_table(gradients.PERTURBATIONS),
    "optimizers": registry_table(optimizers.OPTIMIZERS),
    "schedules": registry_table(optimizers.SCHEDULES),
    "detections": registry_table(goodness.DETECTIONS),
    "readouts": registry_table(goodness.READOUTS),
    "prototypes": registry_table(goodness.PROTOTYPES),
    "rules": registry_table(goodness.RULES),
    "encodings": registry_table(data.ENCODINGS),
    "tasks": registry_table(data.TASKS),
    "activations": registry_table(layers.ACTIVATIONS),
}


def _inline(page: HTML5Translator, node: nodes.math) -> None:
    page.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(page: HTML5Translator, node: nodes.math_block) -> None:
    page.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def _typeset_intensities(app: Sphinx, what: str, name: str, obj: Any, *rest: Any) -> None:
    """Let docstrings say |E|^2 in running text, where bars would mean a substitution."""
    lines, equation = rest[-1], None  # an equation lasts as long as lines are indented deeper
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if equation is not None and line.strip() and indent <= equation:
            equation = None
        if line.lstrip().startswith(".. math::"):
            equation = indent
        if equation is None and ":math:" not in line:
            lines[number] = re.sub(r"(?<![\\`])\|E\|(\^2)?", r":math:`|E|\1`", line)


def setup(app: Sphinx) -> None:
    """Let equations become MathML."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("autodoc-process-docstring", _typeset_intensities)
