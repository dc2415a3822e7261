# Executed examples: ```{doctest} (>>> lines) or ```{testcode} with ```{testoutput}, one namespace per page. `.. plot::`
# inside ```{eval-rst} runs its code in a namespace of its own and shows code and figure. `nox -s docs` fails when one
# raises or prints something else; >>> lines of docstrings on the reference page run too. Each example does its imports.
"""Sphinx configuration."""

import doctest
from pathlib import Path

from sphinx.application import Sphinx

import ksched
from ksched.plots import sigma_curves
from ksched.registry import samplers
from ksched.schedules import SCHEDULES, schedule_options

project = "ksched"
author = "the ksched contributors"
release = ksched.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "matplotlib.sphinxext.plot_directive",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"ksched {release}"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings say shapes and units; annotations are for type checkers
numpydoc_show_class_members = False  # autodoc lists them

doctest_default_flags = doctest.ELLIPSIS  # and not IGNORE_EXCEPTION_DETAIL: error texts are part of the interface
plot_include_source = True
plot_pre_code = ""
plot_formats = [("png", 120)]
plot_html_show_formats = False
plot_html_show_source_link = False

nitpicky = True
# The build needs no network, so it has no inventories of other projects: their names cannot be links.
nitpick_ignore_regex = [(r"py:.*", r"(collections|enum|np|npt|numpy|os|pathlib|scipy|torch|typing)\..*")]


def catalogue() -> str:
    """The page of everything that exists, from the registries."""
    lines = ["# What exists", "", "Any sampler with any schedule on any process.", "", "## Samplers", ""]
    lines += ["| name | order | weak order | model calls | noise | options | source |", "|---|---|---|---|---|---|---|"]
    for spec in samplers():
        calls = f"{spec.calls} a step" + (f", {spec.calls_to_zero} to 0" if spec.calls_to_zero != spec.calls else "")
        weak = "" if spec.weak_order is None else spec.weak_order
        options = ", ".join(f"`{option}`" for option in spec.options.values())
        row = [f"`{spec.name}`", spec.order, weak, calls, "yes" if spec.draws else "no", options, spec.source]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    lines += ["", "Order is that of the deterministic form; weak order that of the law where noise is drawn.", ""]
    lines += ["## Schedules", "", "| name | rule | options | source |", "|---|---|---|---|"]
    for schedule, entry in SCHEDULES.items():
        options = ", ".join(f"`{option}`" for option in schedule_options(schedule).values())
        lines.append(f"| `{schedule}` | {entry.formula} | {options} | {entry.source} |")
    lines += ["", "All take `sigma_min` and `sigma_max`.", "", "![Noise levels of every schedule](schedules.png)", ""]
    return "\n".join(lines)


def setup(app: Sphinx) -> None:
    """Write the generated page and its picture before sources are read."""
    folder = Path(app.srcdir, "generated")
    folder.mkdir(exist_ok=True)
    (folder / "catalogue.md").write_text(catalogue())
    sigma_curves(list(ksched.NoiseSchedule), 20, ksched.VP()).savefig(folder / "schedules.png", dpi=100)
