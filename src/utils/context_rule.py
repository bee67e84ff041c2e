"""How a table of features is joined to chips or detections, and the columns that go in and come out."""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from utils.errors import ConfigError

ContextKind = Literal["features", "classes"]

GEOMETRY = pa.field("geometry", pa.binary(), nullable=False, metadata={"crs": "EPSG:4326", "axes": "lon, lat"})
MEASURES = ("distance_m", "count", "area_fraction", "nearest_id")
"""What every rule adds, each under the rule's name: ``buildings_distance_m``."""
CLASS_MEASURES = ("class", "class_fraction", "class_at_centre", "class_fractions")
"""What a rule of classes adds besides."""
OWN_COLUMNS = ("feature_id", "geometry", "feature_class", "s2_cells")
"""Columns of a feature table that are not carried along."""


@dataclass(frozen=True, kw_only=True)
class ContextRule:
    """How one table of features is joined to chips or detections."""

    name: str
    """Prefix of the columns it adds."""
    kind: ContextKind = "features"
    """``features`` are measured to; ``classes`` are also told apart by their column ``feature_class``."""
    search_m: float = 100.0
    """Features farther from a target than this are not looked at, metres."""

    def __post_init__(self) -> None:
        """Refuse a rule that measures nothing."""
        if self.kind not in ("features", "classes"):
            raise ConfigError(f"context {self.name}: kind is `features` or `classes`, got {self.kind!r}")
        if not 0 <= self.search_m <= 100_000:
            raise ConfigError(f"context {self.name}: search_m lies in 0 to 100,000 metres, got {self.search_m}")
