# Executed examples: ```{doctest} (>>> lines) or ```{testcode} with ```{testoutput}, one namespace per page. `.. plot::`
# inside ```{eval-rst} runs its code in a separate namespace and shows code and figure. `nox -s docs` fails if an
# example raises or prints other output; >>> lines in docstrings run too. Each example imports what it uses.
"""Sphinx configuration."""

import doctest
import gc
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import ksched

sys.path.insert(0, str(Path(__file__).parent))
import explorer_page
import generate

gc.set_threshold(200_000, 20, 50)  # documents are large trees without cycles that matter

project = "ksched"
author = project_copyright = "the ksched contributors"
release = ksched.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "api",
    "code_links",
    "code_width",
    "docstrings",
    "links",
    "mathml",
    "signatures",
    "matplotlib.sphinxext.plot_directive",
]
exclude_patterns = ["_build", "gallery"]
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"ksched {release}"

myst_enable_extensions = ["attrs_block", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # single backticks in docstrings are links
autosummary_generate = False  # `api` writes the pages
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
maximum_signature_line_length = 70
python_use_unqualified_type_names = True

doctest_global_setup = """
import importlib.util
import torch

torch.set_num_threads(1)  # matrices this small are slower on several cores


def missing(*packages):  # for :skipif:
    return any(importlib.util.find_spec(package) is None for package in packages)
"""
doctest_default_flags = doctest.ELLIPSIS  # and not IGNORE_EXCEPTION_DETAIL: error texts are part of the interface
plot_include_source = True
plot_pre_code = ""
plot_formats = [("png", 120)]
plot_html_show_formats = False
plot_html_show_source_link = False

html_static_path = ["static"]
html_js_files = ["sort_tables.js"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False

nitpicky = True
# The build needs no network: these inventories, written by hand, have the names that our pages refer to.
intersphinx_mapping = {
    name: (url, f"inventories/{name}.txt")
    for name, url in {
        "python": "https://docs.python.org/3",
        "numpy": "https://numpy.org/doc/stable",
        "scipy": "https://docs.scipy.org/doc/scipy",
        "torch": "https://docs.pytorch.org/docs/stable",
        "matplotlib": "https://matplotlib.org/stable",
        "pillow": "https://pillow.readthedocs.io/en/stable",
        "jax": "https://docs.jax.dev/en/latest",
        "hypothesis": "https://hypothesis.readthedocs.io/en/latest",
    }.items()
}

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
copybutton_exclude = ".linenos, .gp, .go"  # copy the input, without prompts and output


def finish(_: Sphinx, page: str, source: list[str]) -> None:
    """Add the site's own parts to the catalogue."""
    if page == "catalogue":
        source[0] = generate.on_site(source[0])


def groups_alone(_: Sphinx, page: str, template: str, context: dict[str, Any], document: Any) -> None:
    """Show the four groups in every sidebar, without the hundreds of object pages below them."""
    whole = context["toctree"]
    context["toctree"] = lambda **options: whole(**{**options, "collapse": True, "maxdepth": 1})


def setup(app: Sphinx) -> None:
    """Write the generated pages before sources are read."""
    generate.write(Path(app.srcdir, "generated"))
    app.connect("source-read", finish)
    explorer_page.setup(app)
    app.connect("html-page-context", groups_alone, priority=100)  # before the theme makes the sidebar
