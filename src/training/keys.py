"""The cheap half of a row: keys, split and place of every chip of a pinned table."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from store.lance_io import scan
from store.schemas import SPLITS
from training.dataset import TableRef
from training.inputs import InputSpec
from utils.errors import ConfigError, SplitError, SplitLeakError
from utils.split import check_leaks

SPLIT_NAMES: Final = ("train", "val", "test")
RECIPES: Final = ("image_recipe", "mask_recipe", "index_recipe")
_REMEDY: Final = "label a larger area, choose a finer split level in the build settings, or relax data.where"
_COLUMNS: Final = ("uuid", "split", "pv_fraction", *RECIPES)
_WEIGHT: Final = "weight"


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """The chips of one split, sorted by uuid so that order depends on the chips and not on how they are stored."""

    uuids: tuple[str, ...]
    """Chip ids."""
    offsets: NDArray[np.int64]
    """Their positions in the pinned table."""
    weights: NDArray[np.float32]
    """Their weights in the training loss."""

    def __len__(self) -> int:
        """Chips."""
        return len(self.uuids)


def scan_keys(ref: TableRef, spec: InputSpec, where: str | None = None) -> pa.Table:
    """Keys of all rows that satisfy ``where``, sorted by uuid, with their ``_rowoffset`` in the pinned table.

    Raises:
        ConfigError: ``where`` is not a filter the table understands.
    """
    places = [f"{kind}_{what}" for kind in ("vhr", spec.mode) for what in ("epsg", "transform")]
    table = ref.open()
    # tables of schema version 2 and before have no weights: every chip counts once
    weight = [_WEIGHT] if _WEIGHT in table.schema.names else []
    columns = list(dict.fromkeys([*_COLUMNS, *weight, *places, "_rowoffset"]))
    try:
        keys = table.scanner(columns=columns, filter=where, batch_size=8192).to_table()
    except (ValueError, OSError) as error:
        raise ConfigError(f"data.where {where!r} is no filter for table {ref.table!r}: {error}") from error
    if not weight:
        keys = keys.append_column(_WEIGHT, pa.array(np.ones(len(keys), np.float32)))
    return keys.sort_by("uuid")


def split_rows(keys: pa.Table, split: str, *, known_only: bool = True) -> SplitRows:
    """The chips of ``split`` ("all" for every row); without those whose mask holds no known pixel, unless asked."""
    chosen = keys if split == "all" else keys.filter(pc.equal(keys["split"], split))
    if known_only:
        chosen = chosen.filter(pc.is_valid(chosen["pv_fraction"]))
    offsets = chosen["_rowoffset"].to_numpy().astype(np.int64)
    weights = chosen[_WEIGHT].to_numpy().astype(np.float32)
    return SplitRows(uuids=tuple(chosen["uuid"].to_pylist()), offsets=offsets, weights=weights)


def require_pv(keys: pa.Table, split: str, where: str | None) -> None:
    """Refuse a split that holds no chip, or none with PV.

    Raises:
        SplitError: nothing could be learnt from the split, or no IoU be computed on it.
    """
    rows = require_rows(keys, split, where)
    shares = keys.filter(pc.equal(keys["split"], split))["pv_fraction"].drop_null()
    if not pc.any(pc.greater(shares, 0)).as_py():
        raise SplitError(
            f"none of the {len(rows)} chips of split {split!r} holds PV (filter: {where or 'none'}): {_REMEDY}"
        )


def require_rows(keys: pa.Table, split: str, where: str | None, *, known_only: bool = True) -> SplitRows:
    """:func:`split_rows`, refusing an empty answer.

    Raises:
        SplitError: the split holds no usable chip.
    """
    rows = split_rows(keys, split, known_only=known_only)
    if len(rows):
        return rows
    counts = dict(sorted(zip(*np.unique(keys["split"].to_pylist() or [""], return_counts=True), strict=True)))
    found = ", ".join(f"{name or 'no rows'} {count}" for name, count in counts.items() if len(keys)) or "no rows"
    filtered = f"rows per split: {found}; filter: {where or 'none'}"
    raise SplitError(f"split {split!r} holds no chip with a known mask ({filtered}): {_REMEDY}")


def check_split_leaks(keys: pa.Table, spec: InputSpec, guard_m: float) -> None:
    """Refuse splits whose inputs overlap or whose VHR footprints stand closer than ``guard_m`` metres.

    Raises:
        SplitLeakError: naming chips that break the rule.
    """
    height, width = spec.profile.height, spec.profile.width
    vhr_size_m = (width * spec.profile.gsd_m, height * spec.profile.gsd_m)
    _check(keys, _centres(keys, "vhr", (height, width)), "vhr", vhr_size_m, guard_m)
    if spec.mode == "msi":
        shape = (spec.profile.msi_height, spec.profile.msi_width)
        _check(keys, _centres(keys, "msi", shape), "msi", spec.size_m, 0.0)


def _check(
    keys: pa.Table, centres: NDArray[np.float64], kind: str, size_m: tuple[float, float], guard_m: float
) -> None:
    epsg = keys[f"{kind}_epsg"].to_numpy().astype(np.int64)
    splits = keys["split"].to_numpy(zero_copy_only=False)
    try:
        check_leaks(centres, epsg, splits.tolist(), size_m=max(size_m), guard_m=guard_m)
    except SplitLeakError as error:
        what = "chips" if kind == "vhr" else f"multispectral windows ({size_m[0]:g} m, data.msi_window_px)"
        near = "; ".join(
            f"{keys['uuid'][a]} ({splits[a]}) and {keys['uuid'][b]} ({splits[b]}), centres {metres:.1f} m apart"
            for a, b, metres in _nearest_pairs(centres, epsg, splits)
        )
        raise SplitLeakError(
            f"{what} of different splits leak: {error}. Nearest in one CRS: {near or 'none'}"
        ) from error


def _nearest_pairs(
    centres: NDArray[np.float64], epsg: NDArray[np.int64], splits: NDArray[np.object_]
) -> list[tuple[int, int, float]]:
    """Per EPSG code and pair of splits the two nearest chips, as (row, row, metres), nearest pair first."""
    points = shapely.points(centres)
    pairs = []
    for code in np.unique(epsg):
        for one, other in combinations(SPLIT_NAMES, 2):
            ours, theirs = (np.flatnonzero((epsg == code) & (splits == name)) for name in (one, other))
            if len(ours) and len(theirs):
                (a, b), metres = shapely.STRtree(points[theirs]).query_nearest(points[ours], return_distance=True)
                at = int(np.argmin(metres))
                pairs.append((int(ours[a[at]]), int(theirs[b[at]]), float(metres[at])))
    return sorted(pairs, key=lambda pair: pair[2])


def _centres(keys: pa.Table, kind: str, shape: tuple[int, int]) -> NDArray[np.float64]:
    flat = keys[f"{kind}_transform"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    a, b, c, d, e, f = flat.reshape(-1, 6).T
    row, column = shape[0] / 2, shape[1] / 2
    return np.stack([a * column + b * row + c, d * column + e * row + f], axis=1)


def recipes(keys: pa.Table) -> dict[str, list[str]]:
    """Distinct recipes of the chips, per kind."""
    return {name: sorted(pc.unique(keys[name]).to_pylist()) for name in RECIPES}


def split_rule(store: str) -> Mapping[str, Any] | None:
    """The store's newest split rule in plain types; None when it records none."""
    rules = scan(store, "splits", SPLITS.names)
    if not len(rules):
        return None
    newest: dict[str, Any] = rules.sort_by([("created_at", "descending")]).slice(0, 1).to_pylist()[0]
    pairs = {name: dict(newest[name]) for name in ("fractions", "cells")}
    return newest | pairs | {"created_at": newest["created_at"].isoformat()}
