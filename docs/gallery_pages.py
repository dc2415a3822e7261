"""The gallery: runs each script of ``gallery/`` and writes a page with its picture, code and downloads."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from small_pictures import THEME

__all__ = ["gallery"]

FOLDER = Path(__file__).with_name("gallery")
ORDER = (
    "error_against_calls",
    "schedules_compared",
    "particles",
    "few_calls",
    "guidance_scale",
    "inpainting",
    "inversion",
    "policy_step",
)


def gallery(out: Path) -> dict[Path, str]:
    """Return the pages by path, and write pictures and notebooks into a folder."""
    scripts = {path.stem: path for path in FOLDER.glob("*.py")}
    if set(scripts) != set(ORDER):
        raise ValueError(
            f"docs/gallery_pages.py must list every script once; wrong: {sorted(set(scripts) ^ set(ORDER))}"
        )
    out.mkdir(parents=True, exist_ok=True)
    pages, cards = {}, []
    for name in ORDER:
        text = scripts[name].read_text(encoding="utf-8")
        title, _, about = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")
        code = text.split('"""', 2)[2].strip()
        draw(code, out / f"gallery_{name}.png")
        (out / f"{name}.ipynb").write_text(notebook(title, about, code), encoding="utf-8")
        title = title.rstrip(".")
        pages[Path("gallery", f"{name}.md")] = (
            f"# {title}\n\n{about}\n\n![{title}](gallery_{name}.png)\n\n```python\n{code}\n```\n\n"
            f"Download {{download}}`{name}.py <../../gallery/{name}.py>` or "
            f"{{download}}`{name}.ipynb <{name}.ipynb>`.\n"
        )
        cards.append(
            f":::{{grid-item-card}} {title}\n:link: generated/gallery/{name}\n:link-type: doc\n"
            f":img-top: gallery_{name}.png\n:img-alt: {title}\n:::"
        )
    grid = "::::{grid} 1 2 2 2\n:gutter: 3\n\n" + "\n\n".join(cards).replace("img-top: ", "img-top: gallery/")
    pages[Path("gallery.md")] = (
        "# Gallery\n\nShort programs that end in a picture. Each runs in a few seconds on a CPU and can be downloaded "
        "as a script or a notebook.\n\n" + grid.replace("link: generated/", "link: ") + "\n::::\n\n"
        "```{toctree}\n:hidden:\n\n" + "\n".join(f"gallery/{name}" for name in ORDER) + "\n```\n"
    )
    return pages


def draw(code: str, path: Path) -> None:
    """Run a script and save its picture, unless an existing picture is newer than everything it depends on."""
    torch.set_num_threads(1)
    with mpl.rc_context({**THEME, "figure.figsize": (5.8, 3.5), "figure.constrained_layout.use": True}):
        plt.close("all")
        exec(compile(code, str(path), "exec"), {"__name__": "__main__"})
        plt.gcf().savefig(path, dpi=140)
        plt.close("all")


def notebook(title: str, about: str, code: str) -> str:
    """Convert a script to a notebook."""
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": f"# {title.rstrip('.')}\n\n{about}"},
        {"cell_type": "code", "metadata": {}, "source": code, "outputs": [], "execution_count": None},
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return json.dumps(
        {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4}, indent=1
    )
