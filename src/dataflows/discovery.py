"""The flow ``discover``: blocks to probabilities, probabilities to detections, detections beside known labels."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray
from rasterio.features import geometry_mask

from dataflows._search import FLOW, Search, prepared_search
from dataflows._search_shares import SearchShares
from dataflows.discovery_config import DiscoveryConfig
from dataflows.discovery_plan import DiscoveryPlan, discovery_plan
from dataflows.large_area_inference import infer_blocks, written_blocks
from dataflows.run_summary import DiscoverySummary
from dataflows.work_shares import kept_up, run_lease_id
from store import lance_io
from store.catalogue_place import redacted
from store.commit_buffer import CommitBuffer
from store.lineage import Run, recipe, table_versions
from store.mask_runs import mark_killed
from store.probability_rasters import BlockProbabilities, check_writable
from store.schemas import SCHEMA_VERSION
from store.vectors import write_features
from utils.errors import AegirError
from utils.failures import Failure, interrupted
from utils.search_blocks import PROBABILITY_NODATA, SearchBlock

Progress = Callable[[DiscoverySummary], None]
BlockResult = tuple[SearchBlock, BlockProbabilities | Failure]
BlockResults = Generator[BlockResult, None, None]


def plan_discovery(config: DiscoveryConfig) -> DiscoveryPlan:
    """What a search would do and cost, before anything is spent; see :class:`DiscoveryPlan`.

    Raises:
        AegirError: the settings, the model, the imagery, the lake or the area cannot be used.
    """
    return discovery_plan(prepared_search(config))


def run_discovery(config: DiscoveryConfig, *, progress: Progress | None = None) -> DiscoverySummary:
    """Search the area of interest and store what is found; goes on where an earlier run stopped.

    A block that fails becomes a row in ``errors``, and the rest goes on; what the other blocks hold is stored.

    Args:
        config: the settings.
        progress: called with the summary whenever it changes.

    Raises:
        AegirError: the settings, the model, the imagery, the lake, the area or the store cannot be used (nothing was
            started), or a raster cannot be written any more (finished blocks stay).
    """
    start, report = time.monotonic(), progress or (lambda _: None)
    store = config.build.store
    search = prepared_search(config)
    lance_io.check_writable(store)
    check_writable(search.folder)
    mark_killed(store, FLOW, run_lease_id)
    run = _described(search)
    summary = _started(search, run)
    report(summary)
    run.record(store, "running")
    shares = SearchShares(config.build, run.run_id, search.search_id, search.parts)
    work = _Work(search, run, shares, _buffer(search, run), summary, report)
    try:
        with kept_up(shares.renew, config.build.lease_s):
            _search_blocks(work)
            _store_detections(work)
            summary.status = "failed" if summary.failed else "done"
    except BaseException as error:
        if not interrupted(error):
            # what cannot be stored ends the run; the record of it may fail for the same reason
            with suppress(AegirError):
                run.record(store, "failed", summary.counts())
            raise
        summary.status = "interrupted"
        # what cannot be committed any more is met again by the next run
        with suppress(AegirError):
            work.buffer.flush()
    finally:
        with suppress(AegirError):
            shares.release()
    summary.seconds = time.monotonic() - start
    report(summary)
    run.settle(store, summary.status, summary.counts())
    return summary


@dataclass(frozen=True)
class _Work:
    """One run at work."""

    search: Search
    run: Run
    shares: SearchShares
    buffer: CommitBuffer
    summary: DiscoverySummary
    report: Progress


def _search_blocks(work: _Work) -> None:
    """Every pending block: read, model, part; blocks that another run holds are waited for."""
    search, summary = work.search, work.summary
    work.buffer.fail(search.failures)
    work.buffer.flush()
    start, pending = time.monotonic(), search.plan.pending
    km2 = {block.block_id: size for block, size in zip(search.plan.blocks, search.plan.km2.tolist(), strict=True)}
    while pending:
        found = infer_blocks(
            search.source,
            search.model,
            search.raster,
            work.shares.blocks(pending),
            search.scene_ids,
            window_px=search.window_px,
            overlap_px=search.config.overlap_px,
            batch_size=search.config.batch_size,
        )
        written = cast("BlockResults", written_blocks(search.parts, _inside(found, search.outline)))
        # threads that read ahead and write behind end with the iterator
        with closing(written):
            for block, result in written:
                _take(work, block, result, km2[block.block_id])
                summary.seconds_searching = time.monotonic() - start
                summary.blocks_made_elsewhere = len(work.shares.done_elsewhere)
                work.report(summary)
        pending = work.shares.taken_elsewhere()
        summary.partitions_waiting = len(pending)
        summary.blocks_made_elsewhere = len(work.shares.done_elsewhere)
        work.report(summary)
    work.buffer.flush()


def _take(work: _Work, block: SearchBlock, result: BlockProbabilities | Failure, km2: float) -> None:
    search, summary = work.search, work.summary
    if isinstance(result, Failure):
        work.buffer.fail([_of_block(result, search.search_id, block)])
        summary.blocks_failed += 1
        if summary.blocks_failed == 1:
            # the first is stored at once, so that one who looks sees what is wrong
            work.buffer.flush()
    else:
        summary.bytes_written += search.parts.path(block).stat().st_size
        summary.blocks_made += 1
        summary.km2_made += km2
        summary.km2_searched += km2
    work.shares.finished(block)


def _inside(results: Iterator[BlockResult], outline: shapely.Geometry | None) -> Iterator[BlockResult]:
    """Results with nodata where a pixel's centre lies outside the area of interest."""
    if outline is not None:
        shapely.prepare(outline)
    for block, found in results:
        footprint = block.grid.footprint
        if isinstance(found, Failure) or outline is None or outline.covers(footprint):
            yield block, found
            continue
        near = shapely.intersection(outline, footprint)
        shape = (block.grid.height, block.grid.width)
        outside = geometry_mask([near], out_shape=shape, transform=block.grid.affine)
        yield block, replace(found, data=np.where(outside, np.uint8(PROBABILITY_NODATA), found.data))


def _of_block(failure: Failure, search_id: str, block: SearchBlock) -> Failure:
    told = {name: value for name, value in vars(failure).items() if name != "input_ids"}
    rest = [name for name in failure.input_ids if name not in (search_id, block.block_id)]
    return Failure(**told, input_ids=(search_id, block.block_id, *rest))


def _store_detections(work: _Work) -> None:
    """Raster, objects, rows of ``detections`` and missing labels, of all blocks that are done under this search."""
    search, summary = work.search, work.summary
    done = search.parts.done()
    finished = np.array([block.block_id in done for block in search.plan.blocks], np.bool_)
    summary.km2_searched = search.plan.km2_of(finished)
    summary.raster = str(_raster(work))
    told = search.driver.execute(
        ["label_matches", "detections_write"],
        inputs={"discovery_run_id": work.run.run_id},
        overrides={**search.nodes, "area_labels": search.labels, "searched_area": search.ground_lonlat},
    )
    found, missing = told["label_matches"].detections, told["label_matches"].missing
    summary.detections = len(found)
    summary.detections_new = int(pc.sum(pc.equal(found["match"], "new")).as_py() or 0)
    summary.detections_confirmed = summary.detections - summary.detections_new
    summary.missing = len(missing)
    summary.missing_file = str(_missing(work, missing, finished))


def _raster(work: _Work) -> Path:
    """The raster of all parts; one that is made of these already stays."""
    path = Path(work.search.driver.execute(["raster_path"], overrides=dict(work.search.nodes))["raster_path"])
    if not work.search.parts.is_assembled(path):
        work.search.parts.assemble(path)
        work.summary.bytes_written += path.stat().st_size
    return path


def _missing(work: _Work, missing: pa.Table, finished: NDArray[np.bool_]) -> Path:
    """Labels no detection matches, as GeoJSON, with why: pruned ground, a failed block, or not found."""
    search, path = work.search, work.search.folder / "missing.geojson"
    plan = search.plan
    boxes = [block.grid.footprint for block in plan.blocks]
    tree = shapely.STRtree(boxes)
    features = []
    for row in missing.select(["label_id", "dataset", "kind", "geometry"]).to_pylist():
        shape = shapely.from_wkb(row.pop("geometry"))
        under = tree.query(search.on_raster(shape), predicate="intersects")
        rules = sorted({str(plan.pruned_by[k]) for k in under if not finished[k] and plan.pruned_by[k] is not None})
        why = f"pruned by {', '.join(rules)}" if rules else "not found" if finished[under].all() else "a block failed"
        features.append((row | {"reason": why}, shape))
    work.summary.bytes_written += write_features(path, features)
    return path


def _buffer(search: Search, run: Run) -> CommitBuffer:
    build = search.config.build
    return CommitBuffer(
        build.store, build.profile, run_id=run.run_id, build_config=search.search_id, commit_every=build.commit_every
    )


def _described(search: Search) -> Run:
    config, scenes = search.config, search.scenes
    checksums = dict(zip(scenes["scene_id"].to_pylist(), scenes["checksum"].to_pylist(), strict=True))
    raster = search.raster
    inputs: dict[str, Any] = {
        "search_id": search.search_id,
        "model": config.model,
        "model_id": search.model.model_id,
        "scenes": {search.model.kind: checksums},
        "raster": {"epsg": raster.epsg, "transform": raster.transform, "shape": [raster.height, raster.width]},
        "catalog": None if config.build.catalog is None else redacted(config.build.catalog),
        "snapshot": config.build.snapshot,
        "context_snapshots": dict(search.context_snapshots),
        "tables": table_versions(config.build.store),
        "schema_version": SCHEMA_VERSION,
    }
    return Run(
        flow=FLOW,
        build_config=search.search_id,
        config=asdict(config),
        recipes={"discover": recipe(search.code, {"search_id": search.search_id, "prune": dict(config.prune)})},
        code={"discover": search.code},
        inputs=inputs,
    )


def _started(search: Search, run: Run) -> DiscoverySummary:
    plan = search.plan
    return DiscoverySummary(
        run_id=run.run_id,
        store=search.config.build.store,
        search_id=search.search_id,
        model=str(search.config.model),
        model_id=search.model.model_id,
        blocks=len(plan.blocks) + plan.without_imagery,
        blocks_without_imagery=plan.without_imagery,
        blocks_pruned=int(plan.pruned.sum()),
        blocks_done_before=int(plan.done.sum()),
        blocks_pending=len(plan.pending),
        inputs_failed=len(search.failures),
        km2=float(plan.km2.sum()),
        km2_searched=plan.km2_of(plan.done),
        km2_pruned=plan.km2_of(plan.pruned),
        labels=len(search.labels),
    )
