"""What changed between schema versions and what older rows get: one :class:`Step` from each version to the next.

A new version adds one step, whose columns and types are written out so that it stays true when later versions change
them. A value that was not recorded is null; where null is not allowed it is derived from what was, or says that it was
not recorded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from utils.scl import DROPPED, cloud_fraction, shadow_fraction

NOT_RECORDED: Final = "not_recorded"
"""Stands in ``prompts.repairs`` where version 1 mended geometry without saying so."""
_STATISTICS = ("ndvi", "ndbi", "ndwi", "mndwi", "ui", "bi", "ndpvi", "nbd", "br")
_PLACES = ("chip", "inside", "ring")


@dataclass(frozen=True, kw_only=True)
class Added:
    """A column that older rows lack."""

    field: pa.Field
    """Name, type and nullability."""
    value: Any = None
    """What every older row gets."""
    beside: str | None = None
    """The column is added only to tables that have this one: chips without multispectral imagery lack it."""


@dataclass(frozen=True, kw_only=True)
class Recomputed:
    """Columns whose meaning changed, computed anew from what is stored."""

    reads: tuple[str, ...]
    """Columns that are read."""
    writes: tuple[str, ...]
    """Columns that are written."""
    values: Callable[[pa.Table], dict[str, pa.Array]]
    """Written column → values, from a table of what is read; the same again when applied to its own result."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """How every table of one version becomes the next; a table that is not named only changes its version."""

    nullable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Table → columns that may be null from here on."""
    added: Mapping[str, tuple[Added, ...]] = field(default_factory=dict)
    """Table → new columns."""
    recomputed: Mapping[str, Recomputed] = field(default_factory=dict)
    """Table → columns computed anew, in tables that have all that is read."""


def _clear_statistics(rows: pa.Table) -> dict[str, pa.Array]:
    """Cloud and shadow apart, and index means over clear pixels alone.

    Version 1 counted shadow as cloud, and took means over all valid pixels. Where the scene classification drops no
    pixel both means are the same; elsewhere they are null. The recipe says that it was changed.
    """
    scl = rows["msi_scl"].combine_chunks().to_numpy_ndarray()
    classified = scl.reshape(len(scl), -1).any(axis=1)
    hidden = np.isin(scl, DROPPED).reshape(len(scl), -1).any(axis=1) & classified
    values = {
        "cloud_fraction": pa.array([cloud_fraction(one) for one in scl], pa.float32()),
        "shadow_fraction": pa.array([shadow_fraction(one) for one in scl], pa.float32()),
        "index_recipe": pa.array([_upgraded(recipe) for recipe in rows["index_recipe"].to_pylist()], pa.string()),
    }
    for name in (f"{index}_{place}" for index in _STATISTICS for place in _PLACES):
        known = rows[name].combine_chunks().to_numpy(zero_copy_only=False)
        values[name] = pa.array(known, pa.float32(), mask=hidden | ~rows[name].is_valid().to_numpy())
    return values


def _upgraded(recipe: str) -> str:
    return recipe if recipe.endswith("+schema2") else f"{recipe}+schema2"


_RETIREMENT = (
    Added(field=pa.field("retired_at", pa.timestamp("us", tz="UTC"))),
    Added(field=pa.field("retired_snapshot", pa.int64())),
)

STEPS: Final[Mapping[int, Step]] = {
    1: Step(
        nullable={"prompts": ("label_snapshot",)},
        added={
            "prompts": (
                Added(field=pa.field("installed_on", pa.date32())),
                Added(field=pa.field("label_area_m2", pa.float64())),
                Added(field=pa.field("capacity_mw", pa.float64())),
                Added(field=pa.field("repairs", pa.list_(pa.string()), nullable=False), value=[NOT_RECORDED]),
                # version 1 merged no labels
                Added(field=pa.field("merged", pa.map_(pa.string(), pa.float32()), nullable=False), value=[]),
                *_RETIREMENT,
            ),
            "masks": _RETIREMENT,
            "training_data": tuple(
                Added(field=pa.field(name, pa.float32()), beside="msi_scl")
                for name in ("shadow_fraction", "index_inside_px", "index_ring_px")
            ),
        },
        recomputed={
            "training_data": Recomputed(
                reads=("msi_scl", "index_recipe", *(f"{index}_{p}" for index in _STATISTICS for p in _PLACES)),
                writes=(
                    "cloud_fraction",
                    "shadow_fraction",
                    "index_recipe",
                    *(f"{index}_{place}" for index in _STATISTICS for place in _PLACES),
                ),
                values=_clear_statistics,
            )
        },
    ),
    2: Step(
        added={
            "training_data": (Added(field=pa.field("weight", pa.float32(), nullable=False), value=1.0),),
            "masks": (
                Added(field=pa.field("quality", pa.float32())),
                Added(field=pa.field("calibration", pa.string())),
            ),
            "prompts": (
                Added(field=pa.field("positive_points", pa.binary())),
                Added(field=pa.field("negative_points", pa.binary())),
            ),
        },
    ),
}
"""Version → the step to the next one."""
