"""Sphinx settings."""

import fewsight

project = "fewsight"
author = "the fewsight contributors"
release = fewsight.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "fewsight"
html_static_path = ["_static"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]


def literal_bars(app, what, name, obj, options, lines):
    """Keep |x| of formulas as it is written: reStructuredText takes it for a substitution."""
    lines[:] = [line.replace("|", r"\|") for line in lines]


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", literal_bars)
