"""Tables of chips: what models train on, the masks on it, and the labels it rests on.

Tensor columns depend on the table's :class:`~utils.types.ChipProfile`, so ``training_data`` and ``masks`` come from
functions; the constants are those of the default profile.
"""

import pyarrow as pa

from store.columns import AFFINE, LONLAT, TIME, column, table_schema
from utils.indices import INDICES
from utils.types import ChipProfile


def _imagery_columns(prefix: str) -> list[pa.Field]:
    what = {"vhr": "VHR", "msi": "multispectral"}[prefix]
    return [
        column(f"{prefix}_source", pa.string(), f"Imagery source of the {what} chip (registry name)."),
        column(f"{prefix}_scene_ids", pa.list_(pa.string()), f"Scenes in the {what} chip, most used first."),
        column(f"{prefix}_sensor", pa.string(), f"Platform or camera of the {what} chip."),
        column(f"{prefix}_acquired_at", TIME, f"Acquisition time of the first {what} scene."),
        column(f"{prefix}_gsd_m", pa.float64(), f"Ground sample distance of the {what} chip.", unit="m"),
        column(f"{prefix}_epsg", pa.int32(), f"EPSG code of the {what} chip's own grid."),
        column(
            f"{prefix}_transform",
            AFFINE,
            f"Affine coefficients of the {what} chip: x = a·col + b·row + c, y = d·col + e·row + f.",
            axes="a, b, c, d, e, f",
            crs=f"{prefix}_epsg",
        ),
        column(
            f"{prefix}_valid_fraction", pa.float32(), f"Share of {what} pixels that hold data.", unit="fraction 0-1"
        ),
    ]


def _index_columns() -> list[pa.Field]:
    places = {
        "chip": "over clear pixels of the multispectral chip",
        "inside": "over clear pixels inside the PV mask, weighted by area fraction; null below 4 effective pixels",
        "ring": "over the other clear, known pixels under the VHR chip, where PV covers under 5 %; null below 4 pixels",
    }
    counts = {
        "index_inside_px": "Effective pixels inside the PV mask: sum of the area fractions of clear pixels.",
        "index_ring_px": "Effective pixels of the ring: sum of what PV leaves free of its clear pixels.",
    }
    return [column(name, pa.float32(), doc, unit="10 m pixels", null=True) for name, doc in counts.items()] + [
        column(f"{name}_{place}", pa.float32(), f"Mean {spec.title} {where}.", unit=spec.unit, null=True)
        for name, spec in INDICES.items()
        for place, where in places.items()
    ]


def _msi_columns(profile: ChipProfile) -> list[pa.Field]:
    bands, h, w = len(profile.msi_bands), profile.msi_height, profile.msi_width
    tensor = pa.fixed_shape_tensor
    return [
        column(
            "msi_image_chip",
            tensor(pa.uint16(), [bands, h, w]),
            f"Multispectral chip, bands {', '.join(profile.msi_bands)}; offset harmonised; 0 is nodata.",
            unit="reflectance × 10000",
            axes="band, row, column",
            crs="msi_epsg",
        ),
        column(
            "msi_scl",
            tensor(pa.uint8(), [h, w]),
            "Sentinel-2 scene classification on the multispectral grid, nearest neighbour; 0 is nodata.",
            axes="row, column",
            crs="msi_epsg",
        ),
        column(
            "msi_mask",
            pa.large_binary(),
            f"PV area fraction per multispectral pixel, raw uint8 of shape ({h}, {w}): 0-254 is 0-100 %; "
            "255 where the VHR mask does not cover the whole pixel or is 255 there.",
            unit="fraction × 254",
            axes="row, column",
            crs="msi_epsg",
            null=True,
            compressed=True,
        ),
        *_imagery_columns("msi"),
        column(
            "cloud_fraction",
            pa.float32(),
            "Share of cloud (SCL 8, 9, 10) among the classified pixels; null without SCL.",
            unit="fraction 0-1",
            null=True,
        ),
        column(
            "shadow_fraction",
            pa.float32(),
            "Share of cloud shadow (SCL 3) among the classified pixels; null without SCL.",
            unit="fraction 0-1",
            null=True,
        ),
        *_index_columns(),
    ]


def _retirement() -> list[pa.Field]:
    return [
        column(
            "retired_at", TIME, "When its label was found deleted, moved or merged; null while it counts.", null=True
        ),
        column("retired_snapshot", pa.int64(), "Snapshot of the lake that no longer asks for it.", null=True),
    ]


def training_data(profile: ChipProfile | None = None) -> pa.Schema:
    """Schema of a ``training_data`` table of one profile: one row is one chip, a place at a time."""
    profile = profile or ChipProfile()
    size = f"{profile.height} × {profile.width}"
    fields = [
        column("uuid", pa.string(), "Chip id: uuid5 of grid, lattice position and VHR acquisition day.", key=True),
        column(
            "prompt_geometry",
            pa.binary(),
            "WKB geometry collection of all prompts on the chip; null on background chips.",
            axes="lon, lat",
            crs=LONLAT,
            null=True,
        ),
        column(
            "vhr_image_chip",
            pa.fixed_shape_tensor(pa.uint8(), [3, profile.height, profile.width]),
            "VHR chip: red, green, blue.",
            axes="band, row, column",
            crs="vhr_epsg",
        ),
        column(
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
        column("footprint", pa.binary(), "WKB outline of the VHR chip.", axes="lon, lat", crs=LONLAT),
        column("s2_cell", pa.uint64(), "S2 leaf cell (level 30) of the chip's centre."),
        column("s2_l10", pa.uint64(), "S2 parent of s2_cell at level 10."),
        column("s2_l13", pa.uint64(), "S2 parent of s2_cell at level 13."),
        column("h3_cell", pa.uint64(), "H3 cell of the chip's centre at the configured resolution."),
        column("split_cell", pa.uint64(), "S2 parent whose hash decides the split."),
        column("split", pa.string(), "train, val, test, or guard (too near another split to be used)."),
        column("partition", pa.uint64(), "S2 cell of the unit of work that wrote the row."),
        column(
            "chip_role",
            pa.string(),
            "labelled, background_near, background_far, discovered (made for a detection), or hard_negative (made for "
            "a rejected one).",
        ),
        column(
            "input_set", pa.string(), "Hash of the chip's prompts and scenes; the row is made again when it changes."
        ),
        column("n_prompts", pa.int32(), "Prompts on the chip."),
        column("n_accepted", pa.int32(), "Prompts whose mask was accepted."),
        column("n_review", pa.int32(), "Prompts whose mask awaits review (255 in the mask)."),
        column("n_rejected", pa.int32(), "Prompts whose mask was rejected (255 in the mask)."),
        column("pv_fraction", pa.float32(), "Share of known mask pixels that are PV.", unit="fraction 0-1", null=True),
        column("quality_score", pa.float32(), "Mean score of accepted masks; null without one.", null=True),
        column("quality_flags", pa.list_(pa.string()), "Flags of the chip and of the masks on it, sorted."),
        column("weight", pa.float32(), "Weight of the chip in the training loss; hard negatives weigh more than 1."),
        column("mask_source", pa.string(), "gold (digitised truth), machine, or reviewed (machine, seen by a person)."),
        column("generation", pa.int32(), "Generation in masks that generated_mask was made from."),
        column("image_recipe", pa.string(), "Hash of code and settings that made the image chips."),
        column("mask_recipe", pa.string(), "Hash of code and settings that made generated_mask."),
        column("index_recipe", pa.string(), "Hash of code and settings that made cells and index statistics."),
        column("build_config", pa.string(), "Hash of the settings of the build; rows are skipped when it matches."),
        column("run_id", pa.string(), "Run that wrote the row (table runs)."),
        column("created_at", TIME, "When the row was made."),
    ]
    return table_schema(
        "training_data", "Chips with masks: what models train on. One row is one chip.", fields, profile
    )


def masks(profile: ChipProfile | None = None) -> pa.Schema:
    """Schema of a ``masks`` table of one profile: one row is one prompt's mask on one chip, append-only."""
    profile = profile or ChipProfile()
    fields = [
        column("mask_id", pa.string(), "uuid5 of prompt, chip, generation and mask recipe.", key=True),
        column("uuid", pa.string(), "Chip the mask lies on (training_data.uuid)."),
        column("prompt_id", pa.string(), "Prompt it answers (prompts.prompt_id)."),
        column("generation", pa.int32(), "0 for the first build; each backfill round adds one."),
        column("backend", pa.string(), "Mask backend (registry name)."),
        column("mask_recipe", pa.string(), "Hash of code and settings that made it."),
        column("verdict", pa.string(), "accept, review, reject or not_in_chip."),
        column("flags", pa.list_(pa.string()), "Reasons and remarks: clipped, point_only, empty, below_score, …"),
        column("score", pa.float32(), "Score of the mask; uncalibrated.", unit="0-1"),
        column(
            "quality",
            pa.float32(),
            "Quality the verdict rests on; null where only the score is known.",
            unit="0-1",
            null=True,
        ),
        column(
            "calibration", pa.string(), "Version of the calibration behind quality; null is uncalibrated.", null=True
        ),
        column("scores", pa.map_(pa.string(), pa.float32()), "Named scores behind it.", unit="0-1"),
        column("area_m2", pa.float32(), "Area of the refined mask, its part beyond the chip included.", unit="m²"),
        column(
            "mask",
            pa.large_binary(),
            f"Refined mask, raw uint8 of {profile.height} × {profile.width}: 1 inside; null when empty.",
            axes="row, column",
            crs="epsg",
            null=True,
        ),
        column(
            "outline", pa.binary(), "WKB outline of the mask; null when empty.", axes="lon, lat", crs=LONLAT, null=True
        ),
        column("epsg", pa.int32(), "EPSG code of the mask's grid."),
        column("transform", AFFINE, "Affine coefficients of the mask's grid.", axes="a, b, c, d, e, f", crs="epsg"),
        *_retirement(),
        column("run_id", pa.string(), "Run that wrote the row (table runs)."),
        column("created_at", TIME, "When the row was made."),
    ]
    return table_schema("masks", "Masks per prompt and generation, accepted or not. Append-only.", fields, profile)


TRAINING_DATA = training_data()
MASKS = masks()

PROMPTS = table_schema(
    "prompts",
    "Weak labels as prompts on chips. A label that touches two chips is two prompts.",
    [
        column("prompt_id", pa.string(), "uuid5 of label, chip and kind.", key=True),
        column("uuid", pa.string(), "Chip it lies on (training_data.uuid)."),
        column("label_id", pa.string(), "Id of the label, unique over datasets: dataset/id."),
        column("dataset", pa.string(), "Dataset the label comes from."),
        column("kind", pa.string(), "point, box or polygon."),
        column("geometry", pa.binary(), "WKB prompt, margin applied.", axes="lon, lat", crs=LONLAT),
        column("label_geometry", pa.binary(), "WKB label as the lake holds it.", axes="lon, lat", crs=LONLAT),
        column(
            "positive_points",
            pa.binary(),
            "WKB multi-point on the object, beside the prompt's geometry; null without any.",
            axes="lon, lat",
            crs=LONLAT,
            null=True,
        ),
        column(
            "negative_points",
            pa.binary(),
            "WKB multi-point off the object; null without any.",
            axes="lon, lat",
            crs=LONLAT,
            null=True,
        ),
        column("margin_share", pa.float32(), "Margin added on each side of a label's box.", unit="share of that side"),
        column("clipped", pa.bool_(), "Whether the prompt reaches beyond the chip."),
        column("input_set", pa.string(), "Inputs of the chip it was a prompt of (training_data.input_set)."),
        column("label_catalog", pa.string(), "DuckLake catalogue, without passwords, or file the label was read from."),
        column("label_table", pa.string(), "Table in the catalogue, or file: and the place of the file."),
        column("label_snapshot", pa.int64(), "Snapshot of the catalogue; null for files.", null=True),
        column("installed_on", pa.date32(), "Day the dataset says it was installed.", null=True),
        column("label_area_m2", pa.float64(), "Area the dataset states.", unit="m²", null=True),
        column("capacity_mw", pa.float64(), "Capacity the dataset states.", unit="MW", null=True),
        column("repairs", pa.list_(pa.string()), "What was mended in the label's geometry, see docs/labels.md."),
        column("merged", pa.map_(pa.string(), pa.float32()), "Duplicates merged into the label → overlap.", unit="0-1"),
        *_retirement(),
        column("run_id", pa.string(), "Run that wrote the row (table runs)."),
        column("created_at", TIME, "When the row was made."),
    ],
)
