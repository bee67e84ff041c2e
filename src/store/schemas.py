"""Every Arrow schema of the store, declared once.

Field metadata carries ``doc`` and, where they apply, ``unit``, ``axes`` and ``crs``. A table whose schema carries
an ``unenforced primary key`` is written by ``merge_insert`` on it (``store.lance_io.write``). Tensor columns depend
on the table's :class:`~utils.types.ChipProfile`, so ``training_data`` and ``masks`` come from functions; the
constants are those of the default profile.
"""

import json
from dataclasses import asdict

import pyarrow as pa

from utils.errors import SchemaError, UnknownNameError
from utils.indices import INDICES
from utils.types import ChipProfile

SCHEMA_VERSION = 1
"""Raised by every change of a column's name, type or meaning."""

LONLAT = "EPSG:4326"
_TIME = pa.timestamp("us", tz="UTC")
_AFFINE = pa.list_(pa.float64(), 6)
_KEY = {
    "lance-schema:unenforced-primary-key": "true",
    "lance-schema:unenforced-primary-key:position": "1",
}


def _column(
    name: str,
    kind: pa.DataType,
    doc: str,
    *,
    unit: str | None = None,
    axes: str | None = None,
    crs: str | None = None,
    null: bool = False,
    key: bool = False,
) -> pa.Field:
    metadata = {"doc": doc} | {k: v for k, v in (("unit", unit), ("axes", axes), ("crs", crs)) if v is not None}
    return pa.field(name, kind, nullable=null, metadata=metadata | (_KEY if key else {}))


def _schema(table: str, doc: str, fields: list[pa.Field], profile: ChipProfile | None = None) -> pa.Schema:
    metadata = {"table": table, "doc": doc, "schema_version": str(SCHEMA_VERSION)}
    if profile is not None:
        metadata["profile"] = json.dumps(asdict(profile), sort_keys=True)
    return pa.schema(fields, metadata=metadata)


def _imagery_columns(prefix: str) -> list[pa.Field]:
    what = {"vhr": "VHR", "msi": "multispectral"}[prefix]
    return [
        _column(f"{prefix}_source", pa.string(), f"Imagery source of the {what} chip (registry name)."),
        _column(f"{prefix}_scene_ids", pa.list_(pa.string()), f"Scenes in the {what} chip, most used first."),
        _column(f"{prefix}_sensor", pa.string(), f"Platform or camera of the {what} chip."),
        _column(f"{prefix}_acquired_at", _TIME, f"Acquisition time of the first {what} scene."),
        _column(f"{prefix}_gsd_m", pa.float64(), f"Ground sample distance of the {what} chip.", unit="m"),
        _column(f"{prefix}_epsg", pa.int32(), f"EPSG code of the {what} chip's own grid."),
        _column(
            f"{prefix}_transform",
            _AFFINE,
            f"Affine coefficients of the {what} chip: x = a·col + b·row + c, y = d·col + e·row + f.",
            axes="a, b, c, d, e, f",
            crs=f"{prefix}_epsg",
        ),
        _column(
            f"{prefix}_valid_fraction", pa.float32(), f"Share of {what} pixels that hold data.", unit="fraction 0-1"
        ),
    ]


def _index_columns() -> list[pa.Field]:
    places = {
        "chip": "over valid pixels of the multispectral chip",
        "inside": "inside the PV mask, weighted by area fraction; null below 4 effective pixels",
        "ring": "over the other known pixels under the VHR chip, where PV covers under 5 %; null below 4 pixels",
    }
    return [
        _column(f"{name}_{place}", pa.float32(), f"Mean {spec.title} {where}.", unit=spec.unit, null=True)
        for name, spec in INDICES.items()
        for place, where in places.items()
    ]


def _msi_columns(profile: ChipProfile) -> list[pa.Field]:
    bands, h, w = len(profile.msi_bands), profile.msi_height, profile.msi_width
    tensor = pa.fixed_shape_tensor
    return [
        _column(
            "msi_image_chip",
            tensor(pa.uint16(), [bands, h, w]),
            f"Multispectral chip, bands {', '.join(profile.msi_bands)}; offset harmonised; 0 is nodata.",
            unit="reflectance × 10000",
            axes="band, row, column",
            crs="msi_epsg",
        ),
        _column(
            "msi_scl",
            tensor(pa.uint8(), [h, w]),
            "Sentinel-2 scene classification on the multispectral grid, nearest neighbour; 0 is nodata.",
            axes="row, column",
            crs="msi_epsg",
        ),
        _column(
            "msi_mask",
            pa.large_binary(),
            f"PV area fraction per multispectral pixel, raw uint8 of shape ({h}, {w}): 0-254 is 0-100 %; "
            "255 where the VHR mask does not cover the whole pixel or is 255 there.",
            unit="fraction × 254",
            axes="row, column",
            crs="msi_epsg",
            null=True,
        ),
        *_imagery_columns("msi"),
        _column(
            "cloud_fraction",
            pa.float32(),
            "Share of cloud and shadow (SCL 3, 8, 9, 10) among the classified pixels; null without SCL.",
            unit="fraction 0-1",
            null=True,
        ),
        *_index_columns(),
    ]


def training_data(profile: ChipProfile | None = None) -> pa.Schema:
    """Schema of a ``training_data`` table of one profile: one row is one chip, a place at a time."""
    profile = profile or ChipProfile()
    size = f"{profile.height} × {profile.width}"
    fields = [
        _column("uuid", pa.string(), "Chip id: uuid5 of grid, lattice position and VHR acquisition day.", key=True),
        _column(
            "prompt_geometry",
            pa.binary(),
            "WKB geometry collection of all prompts on the chip; null on background chips.",
            axes="lon, lat",
            crs=LONLAT,
            null=True,
        ),
        _column(
            "vhr_image_chip",
            pa.fixed_shape_tensor(pa.uint8(), [3, profile.height, profile.width]),
            "VHR chip: red, green, blue.",
            axes="band, row, column",
            crs="vhr_epsg",
        ),
        _column(
            "generated_mask",
            pa.large_binary(),
            f"Mask of the VHR chip, raw uint8 of {size}: 0 background, 1 PV, 255 ignore: nodata, and masks "
            "and prompts that were not accepted.",
            axes="row, column",
            crs="vhr_epsg",
            null=True,
        ),
        *_imagery_columns("vhr"),
        *(_msi_columns(profile) if profile.has_msi else []),
        _column("footprint", pa.binary(), "WKB outline of the VHR chip.", axes="lon, lat", crs=LONLAT),
        _column("s2_cell", pa.uint64(), "S2 leaf cell (level 30) of the chip's centre."),
        _column("s2_l10", pa.uint64(), "S2 parent of s2_cell at level 10."),
        _column("s2_l13", pa.uint64(), "S2 parent of s2_cell at level 13."),
        _column("h3_cell", pa.uint64(), "H3 cell of the chip's centre at the configured resolution."),
        _column("split_cell", pa.uint64(), "S2 parent whose hash decides the split."),
        _column("split", pa.string(), "train, val, test, or guard (too near another split to be used)."),
        _column("partition", pa.uint64(), "S2 cell of the unit of work that wrote the row."),
        _column("chip_role", pa.string(), "labelled, background_near or background_far."),
        _column(
            "input_set", pa.string(), "Hash of the chip's prompts and scenes; the row is made again when it changes."
        ),
        _column("n_prompts", pa.int32(), "Prompts on the chip."),
        _column("n_accepted", pa.int32(), "Prompts whose mask was accepted."),
        _column("n_review", pa.int32(), "Prompts whose mask awaits review (255 in the mask)."),
        _column("n_rejected", pa.int32(), "Prompts whose mask was rejected (255 in the mask)."),
        _column("pv_fraction", pa.float32(), "Share of known mask pixels that are PV.", unit="fraction 0-1", null=True),
        _column("quality_score", pa.float32(), "Mean score of accepted masks; null without one.", null=True),
        _column("quality_flags", pa.list_(pa.string()), "Flags of the chip and of the masks on it, sorted."),
        _column(
            "mask_source", pa.string(), "gold (digitised truth), machine, or reviewed (machine, seen by a person)."
        ),
        _column("generation", pa.int32(), "Generation in masks that generated_mask was made from."),
        _column("image_recipe", pa.string(), "Hash of code and settings that made the image chips."),
        _column("mask_recipe", pa.string(), "Hash of code and settings that made generated_mask."),
        _column("index_recipe", pa.string(), "Hash of code and settings that made cells and index statistics."),
        _column("build_config", pa.string(), "Hash of the settings of the build; rows are skipped when it matches."),
        _column("run_id", pa.string(), "Run that wrote the row (table runs)."),
        _column("created_at", _TIME, "When the row was made."),
    ]
    return _schema("training_data", "Chips with masks: what models train on. One row is one chip.", fields, profile)


def masks(profile: ChipProfile | None = None) -> pa.Schema:
    """Schema of a ``masks`` table of one profile: one row is one prompt's mask on one chip, append-only."""
    profile = profile or ChipProfile()
    fields = [
        _column("mask_id", pa.string(), "uuid5 of prompt, chip, generation and mask recipe.", key=True),
        _column("uuid", pa.string(), "Chip the mask lies on (training_data.uuid)."),
        _column("prompt_id", pa.string(), "Prompt it answers (prompts.prompt_id)."),
        _column("generation", pa.int32(), "0 for the first build; each backfill round adds one."),
        _column("backend", pa.string(), "Mask backend (registry name)."),
        _column("mask_recipe", pa.string(), "Hash of code and settings that made it."),
        _column("verdict", pa.string(), "accept, review, reject or not_in_chip."),
        _column("flags", pa.list_(pa.string()), "Reasons and remarks: clipped, point_only, empty, below_score, …"),
        _column("score", pa.float32(), "Score the verdict rests on; uncalibrated.", unit="0-1"),
        _column("scores", pa.map_(pa.string(), pa.float32()), "Named scores behind it.", unit="0-1"),
        _column("area_m2", pa.float32(), "Area of the refined mask, its part beyond the chip included.", unit="m²"),
        _column(
            "mask",
            pa.large_binary(),
            f"Refined mask, raw uint8 of {profile.height} × {profile.width}: 1 inside; null when empty.",
            axes="row, column",
            crs="epsg",
            null=True,
        ),
        _column(
            "outline", pa.binary(), "WKB outline of the mask; null when empty.", axes="lon, lat", crs=LONLAT, null=True
        ),
        _column("epsg", pa.int32(), "EPSG code of the mask's grid."),
        _column("transform", _AFFINE, "Affine coefficients of the mask's grid.", axes="a, b, c, d, e, f", crs="epsg"),
        _column("run_id", pa.string(), "Run that wrote the row (table runs)."),
        _column("created_at", _TIME, "When the row was made."),
    ]
    return _schema("masks", "Masks per prompt and generation, accepted or not. Append-only.", fields, profile)


TRAINING_DATA = training_data()
MASKS = masks()

PROMPTS = _schema(
    "prompts",
    "Weak labels as prompts on chips. A label that touches two chips is two prompts.",
    [
        _column("prompt_id", pa.string(), "uuid5 of label, chip and kind.", key=True),
        _column("uuid", pa.string(), "Chip it lies on (training_data.uuid)."),
        _column("label_id", pa.string(), "Id of the label, unique over datasets: dataset/id."),
        _column("dataset", pa.string(), "Dataset the label comes from."),
        _column("kind", pa.string(), "point, box or polygon."),
        _column("geometry", pa.binary(), "WKB prompt, margin applied.", axes="lon, lat", crs=LONLAT),
        _column("label_geometry", pa.binary(), "WKB label as the lake holds it.", axes="lon, lat", crs=LONLAT),
        _column("margin_share", pa.float32(), "Margin added on each side of a label's box.", unit="share of that side"),
        _column("clipped", pa.bool_(), "Whether the prompt reaches beyond the chip."),
        _column("input_set", pa.string(), "Inputs of the chip it was a prompt of (training_data.input_set)."),
        _column(
            "label_catalog", pa.string(), "DuckLake catalogue, without passwords, or file the label was read from."
        ),
        _column("label_table", pa.string(), "Table in the catalogue, or file: and the place of the file."),
        _column("label_snapshot", pa.int64(), "Snapshot of the catalogue; null for files.", null=True),
        _column("run_id", pa.string(), "Run that wrote the row (table runs)."),
        _column("created_at", _TIME, "When the row was made."),
    ],
)

SCENES = _schema(
    "scenes",
    "Catalogue of imagery: what can be read, where and when.",
    [
        _column("scene_key", pa.string(), "Hash of kind, id and checksum: other files, another row.", key=True),
        _column("scene_id", pa.string(), "Id of the scene, unique within its source and kind."),
        _column("source", pa.string(), "Imagery source (registry name)."),
        _column("kind", pa.string(), "vhr or msi."),
        _column("sensor", pa.string(), "Platform or camera."),
        _column("acquired_at", _TIME, "Acquisition time."),
        _column("epsg", pa.int32(), "EPSG code of the raster."),
        _column("gsd_m", pa.float64(), "Ground sample distance of the finest band.", unit="m"),
        _column("bands", pa.list_(pa.string()), "Band names in file order."),
        _column("assets", pa.string(), "JSON: band or role → {href, band number, scale, offset}."),
        _column("nodata", pa.float64(), "Nodata value; null when the raster declares none.", null=True),
        _column("cloud_fraction", pa.float32(), "Cloud cover stated by the producer.", unit="fraction 0-1", null=True),
        _column("footprint", pa.binary(), "WKB outline.", axes="lon, lat", crs=LONLAT),
        _column("checksum", pa.string(), "Fingerprint of the scene's files: sizes, first and last 64 KiB."),
    ],
)

RUNS = _schema(
    "runs",
    "What ran: settings, code, inputs and outcome of each run.",
    [
        _column("run_id", pa.string(), "Id of the run.", key=True),
        _column("flow", pa.string(), "Flow that ran."),
        _column("status", pa.string(), "running, done, failed (rows in errors) or interrupted."),
        _column("started_at", _TIME, "Start."),
        _column("finished_at", _TIME, "End; null while running or after a kill.", null=True),
        _column("build_config", pa.string(), "Hash of the settings."),
        _column("config", pa.string(), "JSON: the settings."),
        _column("recipes", pa.string(), "JSON: stage → recipe hash."),
        _column("code", pa.string(), "JSON: stage → {module → hash of its code}."),
        _column(
            "inputs",
            pa.string(),
            "JSON: catalogue, snapshot, label tables and files, dataset → key; kind → scene id → checksum.",
        ),
        _column("packages", pa.string(), "JSON: package → version."),
        _column("counts", pa.string(), "JSON: the run's summary; null while running.", null=True),
    ],
)

ERRORS = _schema(
    "errors",
    "What failed, where and why. One row per failing thing and run settings.",
    [
        _column("error_id", pa.string(), "uuid5 of settings, thing and error.", key=True),
        _column("run_id", pa.string(), "Latest run that met it."),
        _column("build_config", pa.string(), "Hash of the settings of that run."),
        _column(
            "partition", pa.uint64(), "S2 cell of the unit of work; null when it failed before partitioning.", null=True
        ),
        _column("uuid", pa.string(), "Chip; null when no single chip failed.", null=True),
        _column("input_set", pa.string(), "Inputs of that chip (training_data.input_set).", null=True),
        _column("node", pa.string(), "Node that failed."),
        _column("error_type", pa.string(), "Exception class."),
        _column("message", pa.string(), "Exception text."),
        _column("traceback_hash", pa.string(), "Hash of the traceback's frames: equal for equal causes."),
        _column("input_ids", pa.list_(pa.string()), "Ids of what went in: labels, scenes, prompts."),
        _column("attempt", pa.int32(), "How many runs have met it."),
        _column("occurred_at", _TIME, "Last time it was met."),
    ],
)

SPLITS = _schema(
    "splits",
    "Split rules. A chip's split is a function of its split_cell and one of these rows.",
    [
        _column("split_rule", pa.string(), "Hash of the rule.", key=True),
        _column("level", pa.int32(), "S2 level of split_cell."),
        _column("salt", pa.int64(), "Salt of the cell hash, chosen once for balance."),
        _column("fractions", pa.map_(pa.string(), pa.float64()), "Wanted share of cells per split."),
        _column("guard_m", pa.float64(), "Train footprints nearer than this to val or test are guard.", unit="m"),
        _column("cells", pa.map_(pa.string(), pa.int32()), "Split cells per split when the salt was chosen."),
        _column("created_at", _TIME, "When the rule was chosen."),
    ],
)

DATASETS = _schema(
    "datasets",
    "Where label datasets come from. One row per dataset and content of its manifest.",
    [
        _column("dataset_key", pa.string(), "Hash of the dataset's name and manifest.", key=True),
        _column("dataset", pa.string(), "Dataset (prompts.dataset)."),
        _column("doi", pa.string(), "DOI, without the resolver; null when not known.", null=True),
        _column("title", pa.string(), "Title; null when not known.", null=True),
        _column("licence", pa.string(), "Licence; null when not known.", null=True),
        _column("citation", pa.string(), "How to cite it; null when not known.", null=True),
        _column("url", pa.string(), "Where it lives; null when not known.", null=True),
        _column("version", pa.string(), "Version or release; null when not known.", null=True),
        _column("retrieved", pa.date32(), "Day it was fetched; null when not known.", null=True),
        _column("extra", pa.string(), "JSON: what else the manifest says; null without any.", null=True),
        _column("origin", pa.string(), "Where the manifest was read: settings, file or table; or unknown."),
        _column("run_id", pa.string(), "Latest run that used it (table runs)."),
        _column("recorded_at", _TIME, "When that run recorded it."),
    ],
)

TABLES: dict[str, pa.Schema] = {
    schema.metadata[b"table"].decode(): schema
    for schema in (TRAINING_DATA, MASKS, PROMPTS, SCENES, RUNS, ERRORS, SPLITS, DATASETS)
}
"""Table name → schema (of the default profile where a table has one)."""


def schema_for(table: str, profile: ChipProfile | None = None) -> pa.Schema:
    """The schema of ``table``, for ``profile`` where the table depends on one.

    Raises:
        UnknownNameError: there is no such table.
    """
    if table not in TABLES:
        raise UnknownNameError("table", table, list(TABLES))
    return {"training_data": training_data, "masks": masks}.get(table, lambda _: TABLES[table])(profile)


def primary_key(schema: pa.Schema) -> str:
    """Name of the primary-key column.

    Raises:
        SchemaError: the schema has none.
    """
    for field in schema:
        if field.metadata and b"lance-schema:unenforced-primary-key" in field.metadata:
            return str(field.name)
    raise SchemaError("the schema has no primary key; mark one field as lance-schema:unenforced-primary-key")


def profile_of(schema: pa.Schema) -> ChipProfile:
    """The profile written in a table's schema metadata.

    Raises:
        SchemaError: the schema carries none.
    """
    raw = (schema.metadata or {}).get(b"profile")
    if raw is None:
        raise SchemaError("the table's schema carries no profile; it was not written by this project")
    values = json.loads(raw)
    return ChipProfile(**{**values, "msi_bands": tuple(values["msi_bands"])})
