"""What the metadata of the package takes from the address of the repository: its links, and those of its README.

A package index shows the README without the files around it, so a relative link leads nowhere there. With an address,
links and pictures become absolute and lead to the tag of the version. Without one, a link is replaced by its text and
a picture is left out. ``repository`` in ``pyproject.toml``, under ``tool.hatch.metadata.hooks.custom``, is the one
place where the address is written.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

__all__ = ["RepositoryLinks", "readme_for_index"]

#: ``[text](target)`` or ``![text](target)`` whose target is a file of the repository
_RELATIVE = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def readme_for_index(text: str, repository: str, version: str) -> str:
    """The README as a package index can show it."""

    def replaced(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        if not repository:
            return "" if picture else words
        view = "raw" if picture else "blob"
        return f"{picture}[{words}]({repository}/{view}/v{version}/{target})"

    text = _RELATIVE.sub(replaced, text)
    return re.sub(r"\n{3,}", "\n\n", text)


class RepositoryLinks(MetadataHookInterface):
    """Sets the project's README and URLs."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling with the table ``project``."""
        repository = self.config.get("repository", "").rstrip("/")
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = readme_for_index(readme, repository, metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        metadata["urls"] = {}
        if repository:
            metadata["urls"] = {
                "Repository": repository,
                "Issues": f"{repository}/issues",
                "Changelog": f"{repository}/blob/main/CHANGELOG.md",
            }
