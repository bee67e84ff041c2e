"""Puts this clone's packages first on the path of an editable install: ``sam2`` ships a package ``training`` too."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE = "aegir_lightning_lance_first.pth"
"""Sorts after the path file that names ``src``."""


class OwnPackagesFirst(BuildHookInterface):
    """Adds a path file that moves the folder of our packages to the front of ``sys.path``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file to editable wheels."""
        if version == "editable":
            build_data["force_include_editable"][str(Path(self.root) / "packaging" / FILE)] = FILE
