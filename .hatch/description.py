"""The description that a package carries: README.md without its links to files, which lead nowhere outside of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK_TO_FILE = re.compile(r"\[([^]]+)\]\((?!\w+:)[^)]+\)")
COMMENT = re.compile(r"(?m)^<!--.*-->\n")


class DescriptionHook(MetadataHookInterface):
    """Adds the description; hatchling finds this class by its base."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Of a link to a file the text stays: it names what to ask, as `help(pgstore.Dict)`."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = COMMENT.sub("", LINK_TO_FILE.sub(r"\1", text))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
