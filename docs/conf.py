"""Settings of the documentation: ``make docs`` builds it from these pages and the docstrings.

Equations become MathML, which browsers draw by themselves: a page needs nothing from the network.
"""

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

project = "photonic_ffzero"
author = "the authors of photonic_ffzero"
version = release = installed("photonic_ffzero")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
default_role = "py:obj"

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
html_show_sourcelink = False
html_copy_source = False


def _inline(page: HTML5Translator, node: nodes.math) -> None:
    page.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(page: HTML5Translator, node: nodes.math_block) -> None:
    page.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Let equations become MathML."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
