"""What the store holds that no label asks for any more: prompts to retire with their masks, and chips to take back."""

from dataclasses import dataclass, replace
from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from dataflows._chips import lattice_of
from dataflows._placement import LabelledGround
from dataflows._positions import footprints_lonlat
from store import lance_io
from store.catalogue_place import same_place
from store.sql import instant
from utils.types import ChipProfile

PROMPT_COLUMNS = (
    "prompt_id", "uuid", "input_set", "label_id", "label_geometry", "label_catalog", "label_table",
    "installed_on", "retired_at",
)  # fmt: skip
CHIP_COLUMNS = ("uuid", "input_set", "chip_role", "mask_source", "vhr_epsg", "vhr_transform")
_SAME_DEGREES = 1e-9


@dataclass(frozen=True, kw_only=True)
class Retirement:
    """Rows that rest on labels which were deleted, moved, merged away, or are no longer usable."""

    prompt_ids: tuple[str, ...] = ()
    """Rows of ``prompts`` to mark, with all their masks."""
    chips: tuple[str, ...] = ()
    """Rows of ``training_data`` to delete: their mask holds such a label, or a label touches a background chip."""

    def __bool__(self) -> bool:
        """Whether there is anything to retire."""
        return bool(self.prompt_ids or self.chips)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelScope:
    """Which stored rows a plan may judge, and what it asks for there."""

    sources: frozenset[tuple[str, str]]
    """(``label_catalog``, ``label_table``) pairs that were read."""
    installed: tuple[date | None, date | None] | None = None
    """First and last day of installation that was asked for, each open when None; None is all labels."""
    keep_undated: bool = True
    """Whether labels without a date were read although days of installation were asked for."""
    area_of_interest: shapely.Geometry | None
    """Ground whose labels were read, EPSG:4326; None is everywhere."""
    changed_ground: LabelledGround | None
    """Positions under judgement in an incremental plan; None is all of the area."""
    labels: pa.Table
    """Labels as they are now."""
    labelled_ground: LabelledGround
    """Lattice positions they touch."""
    prompts: pa.Table
    """Prompts of the plan."""
    chips: pa.Table
    """Chips of the plan."""
    profile: ChipProfile
    """Chip profile of the table."""


def retirement_of(stored_prompts: pa.Table, stored_chips: pa.Table, scope: LabelScope) -> Retirement:
    """What to retire.

    A prompt is gone when its chip is planned without it, or, on a chip that is not planned (another day, a chip without
    labels), when its label no longer exists or has another geometry. A chip row is taken back when its mask was made
    from such a prompt, or when it is background that a label touches now. Chips a person drew or reviewed stay, with
    their prompts.

    Args:
        stored_prompts: columns :data:`PROMPT_COLUMNS` of the store's ``prompts``.
        stored_chips: columns :data:`CHIP_COLUMNS` of its ``training_data``.
        scope: what may be judged.
    """
    epsg, ix, iy = lattice_positions(stored_chips, scope.profile)
    judged = _judged(epsg, ix, iy, scope)
    by_hand = pc.not_equal(stored_chips["mask_source"], "machine").to_numpy()
    uuids = stored_chips["uuid"].to_numpy()
    gone = _gone(stored_prompts, set(uuids[judged & ~by_hand].tolist()), set(uuids.tolist()), scope)
    retired = gone | stored_prompts["retired_at"].is_valid().to_numpy()
    spoilt = set(
        zip(*(stored_prompts[name].to_numpy()[retired].tolist() for name in ("uuid", "input_set")), strict=True)
    )
    made_from = np.array(
        [pair in spoilt for pair in zip(uuids.tolist(), stored_chips["input_set"].to_pylist(), strict=True)], np.bool_
    )
    touched = _touched(epsg, ix, iy, scope.labelled_ground)
    background = pc.not_equal(stored_chips["chip_role"], "labelled").to_numpy()
    planned = pc.is_in(stored_chips["uuid"], scope.chips["uuid"].combine_chunks()).to_numpy()
    taken_back = judged & ~by_hand & (made_from | (background & touched & ~planned))
    across = np.flatnonzero(background & ~by_hand & ~planned & ~taken_back)
    taken_back[across] = _touched_across_zones(epsg[across], ix[across], iy[across], scope)
    news = gone & stored_prompts["retired_at"].is_null().to_numpy()
    return Retirement(
        prompt_ids=tuple(sorted(stored_prompts["prompt_id"].to_numpy()[news].tolist())),
        chips=tuple(sorted(uuids[taken_back].tolist())),
    )


def stored_retirement(store: str, scope: LabelScope) -> Retirement:
    """:func:`retirement_of` what a store holds."""
    prompts = lance_io.scan(store, "prompts", list(PROMPT_COLUMNS))
    chips = lance_io.scan(store, "training_data", list(CHIP_COLUMNS))
    places = dict(zip(*reversed(list(zip(*scope.sources, strict=True))), strict=True)) if scope.sources else {}
    recorded = set(zip(prompts["label_catalog"].to_pylist(), prompts["label_table"].to_pylist(), strict=True))
    same = {(place, table) for place, table in recorded if table in places and same_place(place, places[table])}
    return retirement_of(prompts, chips, replace(scope, sources=frozenset(same)))


def retire(store: str, retirement: Retirement, snapshot: int | None, planned_at: datetime) -> int:
    """Mark prompts and masks, then delete the chips; returns the number of masks marked. Safe to run again.

    Where a run that planned after ``planned_at`` is known, the judgement is its own, and nothing is done; rows made
    after ``planned_at`` are newer than this judgement and stay.

    Raises:
        StoreNotWritableError: the store cannot be written.
    """
    if len(lance_io.scan(store, "runs", ["run_id"], f"flow = 'build' AND started_at > {instant(planned_at)}")):
        return 0
    at = {"retired_at": "now()", "retired_snapshot": "CAST(NULL AS BIGINT)" if snapshot is None else str(int(snapshot))}
    masks = lance_io.scan(store, "masks", ["mask_id", "prompt_id"], "retired_at IS NULL")
    asked = masks.filter(pc.is_in(masks["prompt_id"], pa.array(retirement.prompt_ids, pa.string())))
    judged = f"created_at <= {instant(planned_at)}"
    marked = lance_io.mark(store, "masks", asked["mask_id"].to_pylist(), at, where=judged) if len(asked) else 0
    if retirement.prompt_ids:
        lance_io.mark(store, "prompts", retirement.prompt_ids, at, where=judged)
    if retirement.chips:
        lance_io.delete(store, "training_data", retirement.chips, where=judged)
    return marked


def _gone(prompts: pa.Table, judged: set[str], stored: set[str], scope: LabelScope) -> NDArray[np.bool_]:
    uuids = prompts["uuid"].to_pylist()
    sources = zip(prompts["label_catalog"].to_pylist(), prompts["label_table"].to_pylist(), strict=True)
    # a prompt whose chip was taken back has no place of its own any more
    homeless = np.array([uuid not in stored for uuid in uuids], np.bool_)
    homeless[homeless] = _in_scope(prompts["label_geometry"].filter(pa.array(homeless)), scope)
    here = homeless | np.array([uuid in judged for uuid in uuids], np.bool_)
    may = here & np.array([source in scope.sources for source in sources], np.bool_)
    may &= _asked_for(prompts["installed_on"], scope)
    planned = pc.is_in(prompts["uuid"], scope.chips["uuid"].combine_chunks()).to_numpy()
    asked = pc.is_in(prompts["prompt_id"], scope.prompts["prompt_id"].combine_chunks()).to_numpy()
    return may & np.where(planned, ~asked, ~_unchanged(prompts, scope.labels))


def _in_scope(label_geometry: pa.ChunkedArray, scope: LabelScope) -> NDArray[np.bool_]:
    """Whether labels (WKB, EPSG:4326) lie on ground under judgement, all of whose labels were read."""
    shapes = shapely.from_wkb(label_geometry.to_numpy())
    inside = np.ones(len(shapes), np.bool_)
    if scope.area_of_interest is not None:
        inside &= shapely.intersects(scope.area_of_interest, shapes)
    if scope.changed_ground is not None:
        changed = shapely.STRtree(footprints_lonlat(scope.changed_ground.positions, scope.profile))
        inside &= np.isin(np.arange(len(shapes)), changed.query(shapes, predicate="intersects")[0])
    return inside


def _asked_for(installed_on: pa.ChunkedArray, scope: LabelScope) -> NDArray[np.bool_]:
    """Whether labels of these dates are among those asked for."""
    inside = np.ones(len(installed_on), np.bool_)
    for day, beyond in zip(scope.installed or (None, None), (pc.less, pc.greater), strict=True):
        if day is not None:
            inside &= ~pc.fill_null(beyond(installed_on, pa.scalar(day, pa.date32())), False).to_numpy()
    if scope.installed is not None and not scope.keep_undated:
        inside &= installed_on.is_valid().to_numpy()
    return inside


def _unchanged(prompts: pa.Table, labels: pa.Table) -> NDArray[np.bool_]:
    """Whether the label of each prompt is still there with the same geometry."""
    at = pc.index_in(prompts["label_id"], labels["label_id"].combine_chunks())
    known = at.is_valid().to_numpy()
    now = labels["geometry"].take(at.drop_null())
    same = np.zeros(len(prompts), np.bool_)
    then = shapely.from_wkb(prompts["label_geometry"].to_numpy()[known])
    same[known] = shapely.equals_exact(then, shapely.from_wkb(now.to_numpy()), tolerance=_SAME_DEGREES)
    return same


def lattice_positions(
    chips: pa.Table, profile: ChipProfile
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """EPSG code, ix and iy of stored chips (columns ``vhr_epsg`` and ``vhr_transform``), each of shape (n,)."""
    transforms = pc.list_flatten(chips["vhr_transform"]).to_numpy().reshape(-1, 6)
    epsgs = chips["vhr_epsg"].to_numpy().astype(np.int64)
    ix, iy = np.zeros(len(chips), np.int64), np.zeros(len(chips), np.int64)
    for epsg in np.unique(epsgs).tolist():
        here, lattice = epsgs == epsg, lattice_of(epsg, profile)
        left, top = transforms[here, 2], transforms[here, 5]
        ix[here], iy[here] = lattice.index_of(left + lattice.width_m / 2, top - lattice.height_m / 2)
    return epsgs, ix, iy


def _judged(
    epsg: NDArray[np.int64], ix: NDArray[np.int64], iy: NDArray[np.int64], scope: LabelScope
) -> NDArray[np.bool_]:
    judged = np.ones(len(epsg), np.bool_)
    if scope.changed_ground is not None:
        judged &= _touched(epsg, ix, iy, scope.changed_ground)
    if scope.area_of_interest is not None and len(epsg):
        judged &= shapely.intersects(scope.area_of_interest, _outlines(epsg, ix, iy, scope))
    return judged


def _touched_across_zones(
    epsg: NDArray[np.int64], ix: NDArray[np.int64], iy: NDArray[np.int64], scope: LabelScope
) -> NDArray[np.bool_]:
    """Whether chips of the area lie under labels whose lattice is that of another zone."""
    touched = np.zeros(len(epsg), np.bool_)
    for zone in np.unique(epsg).tolist():
        foreign = scope.labelled_ground.elsewhere(zone)[1]
        here = np.flatnonzero(epsg == zone)
        if len(foreign):
            outlines = _outlines(epsg[here], ix[here], iy[here], scope)
            tree = shapely.STRtree(shapely.from_wkb(scope.labels["geometry"].take(pa.array(foreign)).to_numpy()))
            touched[here[tree.query(outlines, predicate="intersects")[0]]] = True
            if scope.area_of_interest is not None:
                touched[here] &= shapely.intersects(scope.area_of_interest, outlines)
    return touched


def _outlines(
    epsg: NDArray[np.int64], ix: NDArray[np.int64], iy: NDArray[np.int64], scope: LabelScope
) -> NDArray[np.object_]:
    positions = list(zip(epsg.tolist(), ix.tolist(), iy.tolist(), strict=True))
    return footprints_lonlat(positions, scope.profile)


def _touched(
    epsg: NDArray[np.int64], ix: NDArray[np.int64], iy: NDArray[np.int64], ground: LabelledGround
) -> NDArray[np.bool_]:
    touched = np.zeros(len(epsg), np.bool_)
    for zone in np.unique(epsg).tolist():
        here = epsg == zone
        touched[here] = ground.touches(zone, ix[here], iy[here])
    return touched
