"""Settings of the documentation: ``make docs`` builds it from these pages and the docstrings.

Equations become MathML, which browsers draw by themselves: a page needs nothing from the network.
"""

import os
import re
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

project = "photonic_ffzero"
author = "the authors of photonic_ffzero"
version = release = installed("photonic_ffzero")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
myst_enable_extensions = ["dollarmath", "deflist"]
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
