"""Digitised truth for test chips: what models and generations are judged by, and no machine replaces."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from dataflows import drivers
from dataflows.chip_statistics import MSI_COLUMNS, PLACE_COLUMNS, grid_of, mask_statistics, written_columns
from dataflows.config import BuildConfig
from dataflows.discovery_config import DiscoveryConfig
from dataflows.truth import Truth, rasterised
from store import imagery, lance_io
from store.column_rewrites import rewrite_columns
from store.commit_buffer import CommitBuffer
from store.fingerprint import digest, file_sha256
from store.lineage import Run, table_versions
from store.schemas import SCHEMA_VERSION, profile_of, training_data
from store.sql import literal, literals
from utils.errors import ConfigError, ImageryError
from utils.failures import Failure
from utils.types import IGNORE, RGB_BANDS, ChipGrid, ChipProfile, ImagerySource

FLOW = "gold"
GOLD = "gold"
_CHIPS_AT_ONCE = 64
_WHOLE = 1.0


@dataclass(kw_only=True)
class GoldSummary:
    """What supplying truth did."""

    run_id: str
    """Id in the table ``runs``."""
    status: str = "done"
    """done, or failed where a chip could not be read."""
    chips: int = 0
    """Chips of the splits."""
    written: int = 0
    """Chips that got truth, or other truth than before."""
    kept: int = 0
    """Chips that had this truth already, or a mask that a person reviewed."""
    with_pv: int = 0
    """Chips of the splits that hold true PV."""
    failed: int = 0
    """Chips whose imagery could not be read."""
    bytes_written: int = 0
    """Size of the files that ``training_data`` gained."""
    seconds: float = 0.0
    """Wall time."""

    @property
    def exit_code(self) -> int:
        """0 when all chips have truth, 3 when some failed."""
        return 3 if self.failed else 0

    def counts(self) -> dict[str, Any]:
        """The summary as plain values."""
        return asdict(self)


def supply_gold(config: DiscoveryConfig | BuildConfig, truth: str | Path, *, val: bool = False) -> GoldSummary:
    """Give the chips of the split ``test`` the pixels of true polygons as mask, ``mask_source`` gold.

    The truth must be complete: ground of a test chip without a polygon is taught as free of PV. Polygons built after
    the day of a chip's image (property ``built``, ISO day) do not count on it. Pixels without data stay 255. Only the
    columns that change with a mask are written; the generation stays. A second call changes nothing.

    Args:
        config: settings; the store and the imagery are those of the build.
        truth: GeoJSON of polygons, EPSG:4326.
        val: whether chips of the split ``val`` get truth too.

    Raises:
        ConfigError: the truth cannot be read, or holds no polygon.
        TableNotFoundError: the store holds no chips.
        SchemaError: its table is of another profile or schema version.
    """
    start, build = time.monotonic(), config.build if isinstance(config, DiscoveryConfig) else config
    known = Truth.read(truth)
    if not len(known):
        raise ConfigError(f"{truth} holds no polygon; a region without any PV cannot judge a model")
    dataset = lance_io.open_table(build.store, "training_data")
    lance_io.check_schema(build.store, "training_data", dataset.schema, training_data(build.profile))
    recipe = digest([GOLD, file_sha256(truth), SCHEMA_VERSION])
    run = _run(build, truth, recipe, val=val)
    summary = GoldSummary(run_id=run.run_id)
    left = _left(build.store, recipe, summary, val=val)
    supply = _Supply(build, known, recipe, summary)
    failures: list[Failure] = []
    for first in range(0, len(left), _CHIPS_AT_ONCE):
        failures += supply.block(left[first : first + _CHIPS_AT_ONCE])
    summary.with_pv = _with_pv(build.store, val=val)
    summary.seconds, summary.failed = time.monotonic() - start, len(failures)
    summary.status = "failed" if failures else "done"
    if left:
        lance_io.refresh_indexes(build.store, "training_data")
        _record(build, run, summary, failures)
    return summary


class _Supply:
    """Truth on its way to the store, some chips at a time."""

    def __init__(self, build: BuildConfig, known: Truth, recipe: str, summary: GoldSummary) -> None:
        self.build, self.known, self.recipe, self.summary = build, known, recipe, summary
        self.profile: ChipProfile = profile_of(lance_io.open_table(build.store, "training_data").schema)
        self._source: ImagerySource | None = None

    def block(self, uuids: list[str]) -> list[Failure]:
        """Write the truth of some chips; returns those that failed."""
        columns = [
            *("uuid", "footprint", "vhr_acquired_at", "vhr_valid_fraction", "vhr_scene_ids", *PLACE_COLUMNS),
            *("input_set", "partition"),
            *(MSI_COLUMNS if self.profile.has_msi else ()),
        ]
        rows = lance_io.scan(self.build.store, "training_data", columns, f"uuid IN ({literals(uuids)})")
        masks, keep, failures = list[NDArray[np.uint8]](), list[bool](), list[Failure]()
        light = rows.drop_columns([name for name in ("msi_image_chip", "msi_scl") if name in rows.column_names])
        for row in light.to_pylist():
            try:
                masks.append(self._mask(row))
                keep.append(True)
            except ImageryError as error:
                where = {name: row[name] for name in ("uuid", "partition", "input_set")}
                failures.append(Failure.of("supply_gold", error, input_ids=tuple(row["vhr_scene_ids"]), **where))
                keep.append(False)
        rows = rows.filter(pa.array(keep, pa.bool_()))
        if len(rows):
            self._write(rows, masks)
        return failures

    def _mask(self, row: dict[str, Any]) -> NDArray[np.uint8]:
        grid = grid_of(row, self.profile)
        objects = self.known.on(grid, shapely.from_wkb(row["footprint"]), row["vhr_acquired_at"].date())
        mask = rasterised(objects, grid).astype(np.uint8)
        if row["vhr_valid_fraction"] < _WHOLE:
            mask[~self._valid(grid, row["vhr_scene_ids"])] = IGNORE
        return mask

    def _valid(self, grid: ChipGrid, scene_ids: list[str]) -> NDArray[np.bool_]:
        if self._source is None:
            options = {name: value for name, value in self.build.vhr.items() if name != "source"}
            self._source = imagery.get(self.build.vhr["source"], kind="vhr", **options)
        return self._source.read(grid, RGB_BANDS, scene_ids=scene_ids).valid

    def _write(self, rows: pa.Table, masks: list[NDArray[np.uint8]]) -> None:
        schema = lance_io.open_table(self.build.store, "training_data").schema
        told = [
            {"uuid": uuid, "mask_source": GOLD, "mask_recipe": self.recipe} | values
            for uuid, values in zip(rows["uuid"].to_pylist(), mask_statistics(rows, masks, self.profile), strict=True)
        ]
        names = ["uuid", *written_columns(schema, told[0])]
        fields = pa.schema([schema.field(name) for name in names])
        table = pa.Table.from_pylist([{name: row[name] for name in names} for row in told], schema=fields)
        done, _ = rewrite_columns(self.build.store, "training_data", lambda _: table)
        self.summary.written += done.rows
        self.summary.bytes_written += done.bytes_written


def _splits(*, val: bool) -> str:
    return "split IN ('test', 'val')" if val else "split = 'test'"


def _left(store: str, recipe: str, summary: GoldSummary, *, val: bool) -> list[str]:
    """Chips without this truth; what a person reviewed on the chip itself stays."""
    rows = lance_io.scan(store, "training_data", ["uuid", "mask_source", "mask_recipe"], _splits(val=val))
    left = [
        row["uuid"]
        for row in rows.to_pylist()
        if row["mask_source"] != "reviewed" and (row["mask_source"], row["mask_recipe"]) != (GOLD, recipe)
    ]
    summary.chips, summary.kept = len(rows), len(rows) - len(left)
    return sorted(left)


def _with_pv(store: str, *, val: bool) -> int:
    where = f"{_splits(val=val)} AND mask_source = {literal(GOLD)} AND pv_fraction > 0"
    return int(lance_io.open_table(store, "training_data").count_rows(where))


def _run(build: BuildConfig, truth: str | Path, recipe: str, *, val: bool) -> Run:
    today = drivers.recipes_today(asdict(build))
    return Run(
        flow=FLOW,
        build_config=build.build_config,
        config=asdict(build) | {"truth": str(truth), "val": val},
        recipes=today.recipes | {"mask": recipe},
        code=today.code,
        inputs={
            "truth": file_sha256(truth),
            "tables": table_versions(build.store),
            "schema_version": SCHEMA_VERSION,
        },
    )


def _record(build: BuildConfig, run: Run, summary: GoldSummary, failures: list[Failure]) -> None:
    buffer = CommitBuffer(
        build.store, build.profile, run_id=run.run_id, build_config=build.build_config, commit_every=1
    )
    buffer.fail(failures)
    buffer.flush()
    run.record(build.store, summary.status, summary.counts())
