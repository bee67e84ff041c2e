"""Where labels fall on the chip lattice: whole arrays at a time, so that a country's labels fit in memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from dataflows._chips import Position, lattice_of
from utils.errors import AegirError, CRSError, GeometryError
from utils.failures import Failure
from utils.geo import reproject, utm_epsgs
from utils.lattice import ChipLattice
from utils.prompts import prompt_geometries
from utils.ragged import ragged
from utils.types import ChipProfile

LABEL_CHIPS = pa.schema(
    [
        pa.field("epsg", pa.int32(), nullable=False),
        pa.field("ix", pa.int64(), nullable=False),
        pa.field("iy", pa.int64(), nullable=False),
        pa.field("label", pa.int64(), nullable=False),
        pa.field("makes_chip", pa.bool_(), nullable=False),
        pa.field("clipped", pa.bool_(), nullable=False),
    ]
)
"""One row per label and lattice position it touches; ``label`` is the row of the label."""

LABEL_PROMPTS = pa.schema(
    [
        pa.field("label", pa.int64(), nullable=False),
        pa.field("utm_geometry", pa.binary(), nullable=False, metadata={"crs": "UTM zone of the label's centre"}),
        pa.field("geometry", pa.binary(), nullable=False, metadata={"crs": "EPSG:4326"}),
    ]
)
"""One row per placed label: the prompt it becomes, in its zone and in longitude and latitude."""

_LABELS_PER_BLOCK = 1 << 16
_CANDIDATES_PER_BLOCK = 1 << 18
_BITS = 28
_MIDDLE = 1 << (_BITS - 1)

Shapes = NDArray[np.object_]
Rows = NDArray[np.int64]
_Keys = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class PlacementRule:
    """How labels become prompts and make chips."""

    margin_share: float
    """Margin added to a label's box on each side, as a share of that side."""
    point_box_m: float
    """Side of the search box around a point label, metres."""
    min_overlap: float
    """Least share of the label, or of the chip, that makes a chip labelled."""
    max_label_m: float
    """Labels larger than this are failures, metres."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledGround:
    """Lattice positions that labels touch."""

    chips: pa.Table
    """Schema :data:`LABEL_CHIPS`, sorted by position, then label."""

    @cached_property
    def _keys(self) -> _Keys:
        return _packed(*(self.chips[name].to_numpy() for name in ("epsg", "ix", "iy")))

    def touches(self, epsg: int, ix: Rows, iy: Rows) -> NDArray[np.bool_]:
        """Whether a label touches each position of one zone, shape (n,)."""
        wanted = _packed(np.full(len(ix), epsg), ix, iy)
        first, last = (np.searchsorted(self._keys, wanted, side) for side in ("left", "right"))
        found: NDArray[np.bool_] = first < last
        return found

    def rows_at(self, epsg: Rows, ix: Rows, iy: Rows) -> tuple[Rows, Rows]:
        """Pairs of (position given, row of :attr:`chips`) for every label on every position given."""
        wanted = _packed(epsg, ix, iy)
        first, last = (np.searchsorted(self._keys, wanted, side) for side in ("left", "right"))
        asked, nth = ragged(last - first)
        return asked, first[asked] + nth

    @property
    def positions(self) -> list[Position]:
        """Positions that labels touch, sorted."""
        return _unpacked(np.unique(self._keys))

    @property
    def made(self) -> list[Position]:
        """Positions that at least one label makes a chip, sorted."""
        return _unpacked(np.unique(self._keys[self.chips["makes_chip"].to_numpy(zero_copy_only=False)]))

    def among(self, positions: list[Position]) -> list[Position]:
        """Those of the positions that a label touches."""
        if not positions:
            return []
        keep = np.isin(_packed(*np.array(positions, np.int64).T), self._keys)
        return [position for position, is_kept in zip(positions, keep.tolist(), strict=True) if is_kept]

    def elsewhere(self, epsg: int) -> tuple[list[Position], Rows]:
        """Positions of other zones that labels touch, and the labels on them."""
        foreign = self.chips["epsg"].to_numpy() != epsg
        return _unpacked(np.unique(self._keys[foreign])), np.unique(self.chips["label"].to_numpy()[foreign])


def _packed(epsg: Rows, ix: Rows, iy: Rows) -> _Keys:
    """Positions as one number each, in the order of zone, column and row.

    Raises:
        GeometryError: a position is too far from its zone's origin for any chip of a few centimetres or more.
    """
    parts = (np.asarray(epsg, np.int64) - 32600, *(np.asarray(values, np.int64) + _MIDDLE for values in (ix, iy)))
    if any(len(part) and not 0 <= part.min() <= part.max() < 2 * _MIDDLE for part in parts):
        raise GeometryError("lattice positions are out of range; chips must be at least 10 cm across")
    zone, column, row = (part.astype(np.uint64) for part in parts)
    keys: _Keys = (zone << np.uint64(2 * _BITS)) | (column << np.uint64(_BITS)) | row
    return keys


def _unpacked(keys: _Keys) -> list[Position]:
    one = np.uint64(2 * _MIDDLE - 1)
    zone, column, row = keys >> np.uint64(2 * _BITS), (keys >> np.uint64(_BITS)) & one, keys & one
    parts = (part.astype(np.int64) + shift for part, shift in ((zone, 32600), (column, -_MIDDLE), (row, -_MIDDLE)))
    return list(zip(*(part.tolist() for part in parts), strict=True))


def placed_labels(
    labels: pa.Table, profile: ChipProfile, rule: PlacementRule
) -> tuple[LabelledGround, pa.Table, list[Failure]]:
    """Labels on the lattice of the UTM zone of their centre.

    Args:
        labels: schema ``dataflows.ingest_ducklake_labels.LABELS``.
        profile: size and GSD of the chips.
        rule: margins and thresholds.

    Returns:
        The ground they touch, their prompts (:data:`LABEL_PROMPTS`) and the labels that have no place: outside
        UTM, too large, or without area in their zone.
    """
    chips: list[pa.Table] = []
    prompts: list[pa.Table] = []
    failures: list[Failure] = []
    for start in range(0, len(labels), _LABELS_PER_BLOCK):
        block = _Block.of(labels.slice(start, _LABELS_PER_BLOCK))
        for epsg, rows in block.zones():
            utm, usable = block.placed(epsg, rows, rule.max_label_m)
            asked = prompt_geometries(
                utm, block.kinds[usable], margin_share=rule.margin_share, point_box_m=rule.point_box_m
            )
            lattice = lattice_of(epsg, profile)
            for part in _on_lattice(lattice, utm, asked, rule.min_overlap):
                part["label"] = usable[part["label"]] + start
                part["epsg"] = np.full(len(part["label"]), epsg)
                chips.append(pa.table(part).select(LABEL_CHIPS.names).cast(LABEL_CHIPS))
            columns = {
                "label": usable + start,
                "utm_geometry": shapely.to_wkb(asked),
                "geometry": shapely.to_wkb(reproject(asked, epsg, 4326)) if len(asked) else [],
            }
            prompts.append(pa.table(columns).cast(LABEL_PROMPTS))
        failures += block.failures
    ground = pa.concat_tables([LABEL_CHIPS.empty_table(), *chips])
    ordered = ground.sort_by([(name, "ascending") for name in ("epsg", "ix", "iy", "label")]).combine_chunks()
    asked_for = pa.concat_tables([LABEL_PROMPTS.empty_table(), *prompts]).sort_by("label").combine_chunks()
    return LabelledGround(chips=ordered), asked_for, failures


@dataclass(kw_only=True, eq=False)
class _Block:
    """Some labels at once."""

    names: pa.Table
    lonlat: Shapes
    kinds: NDArray[np.object_]
    failures: list[Failure]

    @classmethod
    def of(cls, labels: pa.Table) -> "_Block":
        return cls(
            names=labels.select([name for name in ("label_id", "merged") if name in labels.column_names]),
            lonlat=shapely.from_wkb(labels["geometry"].to_numpy()),
            kinds=labels["kind"].to_numpy(),
            failures=[],
        )

    def zones(self) -> Iterator[tuple[int, Rows]]:
        """UTM zones and the labels whose envelope's centre lies in each."""
        bounds = shapely.bounds(self.lonlat)
        lon, lat = (bounds[:, 0] + bounds[:, 2]) / 2, (bounds[:, 1] + bounds[:, 3]) / 2
        inside = (lat <= 84) & (lat >= -80)
        self._fail(
            np.flatnonzero(~inside),
            lambda row: CRSError(
                f"the label lies at latitude {lat[row]:.4f}, outside 80° S to 84° N, where UTM ends; "
                "the poles need a polar stereographic grid, which is not supported"
            ),
        )
        rows = np.flatnonzero(inside)
        epsgs = utm_epsgs(lon[rows], lat[rows])
        for epsg in np.unique(epsgs).tolist():
            yield epsg, rows[epsgs == epsg]

    def placed(self, epsg: int, rows: Rows, max_label_m: float) -> tuple[Shapes, Rows]:
        """The labels ``rows`` in the CRS of a zone, without those that fail there."""
        utm = reproject(self.lonlat[rows], 4326, epsg)
        west, south, east, north = shapely.bounds(utm).T
        size = np.maximum(east - west, north - south)
        points = shapely.get_dimensions(utm) == 0
        usable = points | (shapely.is_valid(utm) & (shapely.area(utm) > 0))
        small = size <= max_label_m
        self._fail(
            rows[~small],
            lambda row: GeometryError(
                f"the label is {size[rows.searchsorted(row)]:.0f} m across, `max_label_m` is {max_label_m:.0f} m; "
                "split it in the lake, or raise the setting"
            ),
        )
        self._fail(
            rows[small & ~usable],
            lambda row: GeometryError(
                f"cannot lay chips over it: {shapely.is_valid_reason(utm[rows.searchsorted(row)])} in EPSG:{epsg}, or "
                "no area there; repair it with shapely.make_valid or give a point"
            ),
        )
        good = small & usable
        return utm[good], rows[good]

    def _fail(self, rows: Rows, error_of: Callable[[int], AegirError]) -> None:
        named = self.names.take(pa.array(rows)).to_pylist()
        self.failures += [
            Failure.of(
                "label_placement",
                error_of(int(row)),
                input_ids=(label["label_id"], *(name for name, _ in label.get("merged") or ())),
            )
            for row, label in zip(rows, named, strict=True)
        ]


def _on_lattice(
    lattice: ChipLattice, shapes: Shapes, prompts: Shapes, min_overlap: float
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Positions the shapes share ground with, block by block: label, ix, iy, makes_chip, clipped."""
    points = np.flatnonzero(shapely.get_dimensions(shapes) == 0)
    if len(points):
        yield _points_on_lattice(lattice, shapes, prompts, points)
    areas = np.flatnonzero(shapely.get_dimensions(shapes) == 2)
    bounds = shapely.bounds(shapes[areas])
    (first_x, first_y), (last_x, last_y) = (lattice.index_of(bounds[:, i], bounds[:, i + 1]) for i in (0, 2))
    columns = last_x - first_x + 1
    counts = columns * (last_y - first_y + 1)
    ends = np.searchsorted(
        np.cumsum(counts), np.arange(1, counts.sum() // _CANDIDATES_PER_BLOCK + 2) * _CANDIDATES_PER_BLOCK
    )
    for part in np.split(np.arange(len(areas)), np.unique(ends[ends < len(areas)])):
        row, step = ragged(counts[part])
        which = part[row]
        ix, iy = first_x[which] + step % columns[which], first_y[which] + step // columns[which]
        yield _areas_on_lattice(
            lattice, shapes, prompts, areas[which], ix, iy, alone=counts[which] == 1, least=min_overlap
        )


def _points_on_lattice(
    lattice: ChipLattice, shapes: Shapes, prompts: Shapes, rows: Rows
) -> dict[str, NDArray[np.generic]]:
    xy, which = shapely.get_coordinates(shapes[rows], return_index=True)
    found = np.unique(np.column_stack([rows[which], *lattice.index_of(xy[:, 0], xy[:, 1])]), axis=0)
    label, ix, iy = found.T
    clipped = ~shapely.covers(lattice.footprints(ix, iy), prompts[label])
    return {"label": label, "ix": ix, "iy": iy, "makes_chip": np.ones(len(label), np.bool_), "clipped": clipped}


def _areas_on_lattice(
    lattice: ChipLattice,
    shapes: Shapes,
    prompts: Shapes,
    label: Rows,
    ix: Rows,
    iy: Rows,
    *,
    alone: NDArray[np.bool_],
    least: float,
) -> dict[str, NDArray[np.generic]]:
    """Of candidate positions those that share area with their label; ``alone`` says that the label has no other."""
    chips = lattice.footprints(ix, iy)
    shapely.prepare(shapes)
    # interiors meet: for two areas, an intersection with positive area
    shared = alone.copy()
    shared[~alone] = shapely.relate_pattern(shapes[label[~alone]], chips[~alone], "T********")
    label, ix, iy, chips, alone = label[shared], ix[shared], iy[shared], chips[shared], alone[shared]
    area = shapely.area(shapes)[label]
    common = area.copy()
    common[~alone] = shapely.area(shapely.intersection(shapes[label[~alone]], chips[~alone]))
    makes = common >= least * np.minimum(area, lattice.width_m * lattice.height_m)
    clipped = ~shapely.covers(chips, prompts[label])
    return {"label": label, "ix": ix, "iy": iy, "makes_chip": makes, "clipped": clipped}
