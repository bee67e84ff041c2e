"""Discovery on real imagery, through the command line: roofs of Geneva at 0.25 m, and Sentinel-2 scenes."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import yaml
from rasterio.features import rasterize
from shapely.geometry import mapping, shape

from dataflows.__main__ import main
from dataflows.validation_evidence import SPECTRAL_RULES, VISUAL_RULES
from store import lance_io
from support.search_region import printed
from utils.geo import reproject
from utils.search_blocks import PROBABILITY_NODATA

LV03 = 21781
GSD_M = 0.25
WITHHELD = 3
"""Number of the polygon that no label tells of."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A search and its validation, as the command line left them."""

    settings: Path
    summary: dict[str, Any]
    verdicts: dict[str, Any]

    @property
    def store(self) -> Path:
        return self.settings.parent / "store"

    def detections(self) -> list[dict[str, Any]]:
        rows = lance_io.scan(self.store, "detections").to_pylist()
        return sorted(rows, key=lambda row: row["detection_id"])

    def evidence(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Detection id → rule → its finding."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for row in lance_io.scan(self.store, "evidence").to_pylist():
            found.setdefault(row["detection_id"], {})[row["rule"]] = row
        return found


def searched(root: Path, flow: dict[str, Any], discover: dict[str, Any], capsys: Any) -> Searched:
    (root / "flow.yaml").write_text(yaml.safe_dump({"flow": "build", "store": "store", **flow}))
    settings = root / "discover.yaml"
    told = {"flow": "discover", "build": "flow.yaml", "out": "out", "device": "cpu", **discover}
    settings.write_text(yaml.safe_dump(told))
    found = []
    for command in ("discover", "validate"):
        code = main([command, "--config", str(settings), "--json"])
        output = capsys.readouterr()
        print(command, code, output.out, output.err)
        found.append(printed(output.out))
    return Searched(settings=settings, summary=found[0], verdicts=found[1])
