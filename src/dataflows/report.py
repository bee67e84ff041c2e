"""How good the masks of a store are against known truth, and a picture of some chips."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dataflows.truth import Truth, rasterised
from store import lance_io
from store.schemas import profile_of
from store.sql import literals
from utils.errors import ConfigError, StoreError
from utils.geo import reproject
from utils.quality import iou
from utils.types import IGNORE, ChipGrid

_KEY = ("uuid", "input_set", "mask_recipe", "generation")
_TILE_PX = 224
_GAP_PX = 10
_MOSTLY = 0.9
_CAPTION_PX = 20
_PV_COLOUR = (255, 196, 0)
_IGNORE_COLOUR = (220, 60, 160)


@dataclass(frozen=True, kw_only=True)
class TruthScores:
    """Masks against truth polygons."""

    masks: int
    """Accepted masks compared."""
    mask_iou: float
    """Mean IoU of accepted masks, each with the truth its prompt touches, on its chip."""
    box_iou: float
    """Mean IoU of those prompts' boxes with the same truth: what no segmentation at all would give."""
    pixel_iou: float
    """IoU of PV pixels of all chips' masks with all truth, ignored pixels left out."""
    false_accepts: int
    """Accepted masks whose prompt touches no truth."""


def truth_scores(store: str, truth: str | Path, *, table: str = "training_data") -> TruthScores:
    """Score the store's masks against truth polygons (GeoJSON, property ``built`` an ISO day, optional).

    Truth built after a chip's VHR image does not count on that chip.

    Raises:
        TableNotFoundError: the store has no such table.
        ConfigError: the truth file cannot be read.
    """
    known = Truth.read(truth)
    dataset = lance_io.open_table(store, table)
    shape = profile_of(dataset.schema)
    columns = ["generated_mask", "footprint", "vhr_epsg", "vhr_transform", "vhr_acquired_at", *_KEY]
    masks = _masks_by_chip(store)
    hits = union = 0
    ious: list[tuple[float, float] | None] = []
    for batch in dataset.to_batches(columns=columns, batch_size=64):
        for row in batch.to_pylist():
            if row["generated_mask"] is None:
                continue
            grid = ChipGrid(
                epsg=row["vhr_epsg"], transform=tuple(row["vhr_transform"]), height=shape.height, width=shape.width
            )
            objects = known.on(grid, shapely.from_wkb(row["footprint"]), row["vhr_acquired_at"].date())
            wanted = rasterised(objects, grid)
            mask = np.frombuffer(row["generated_mask"], np.uint8).reshape(wanted.shape)
            hits += int(((mask == 1) & wanted & (mask != IGNORE)).sum())
            union += int((((mask == 1) | wanted) & (mask != IGNORE)).sum())
            ious += [_mask_and_box_iou(*found, objects, grid) for found in masks.get(tuple(row[k] for k in _KEY), [])]
    met = np.array([pair for pair in ious if pair is not None]).reshape(-1, 2)
    return TruthScores(
        masks=len(ious),
        mask_iou=float(met[:, 0].mean()) if len(met) else 0.0,
        box_iou=float(met[:, 1].mean()) if len(met) else 0.0,
        pixel_iou=hits / union if union else 0.0,
        false_accepts=sum(pair is None for pair in ious),
    )


def _mask_and_box_iou(
    pixels: bytes, prompt: shapely.Geometry, objects: list[shapely.Geometry], grid: ChipGrid
) -> tuple[float, float] | None:
    """IoU of a mask, and of its prompt's box, with the objects the prompt touches; None where it touches none."""
    asked = reproject(prompt, 4326, grid.epsg)
    wanted = [pv for pv in objects if pv.intersects(asked)]
    if not wanted:
        return None
    truth = rasterised(wanted, grid)
    mask = np.frombuffer(pixels, np.uint8).reshape(truth.shape) > 0
    return iou(mask, truth), iou(rasterised([asked.envelope], grid), truth)


def _masks_by_chip(store: str) -> dict[tuple[Any, ...], list[tuple[bytes, shapely.Geometry]]]:
    """(Chip id, input set, mask recipe, generation) → accepted masks and the geometry of their prompts."""
    columns = ["uuid", "mask_recipe", "generation", "prompt_id", "mask"]
    accepted = lance_io.scan(store, "masks", columns, "verdict = 'accept'")
    prompts = lance_io.scan(store, "prompts", ["prompt_id", "geometry", "input_set"]).to_pylist()
    asked = {row["prompt_id"]: (shapely.from_wkb(row["geometry"]), row["input_set"]) for row in prompts}
    found: dict[tuple[Any, ...], list[tuple[bytes, shapely.Geometry]]] = {}
    for row in accepted.to_pylist():
        geometry, inputs = asked[row["prompt_id"]]
        key = (row["uuid"], inputs, row["mask_recipe"], row["generation"])
        found.setdefault(key, []).append((row["mask"], geometry))
    return found


def contact_sheet(store: str, path: str | Path, *, chips: int = 8, table: str = "training_data") -> Path:
    """A PNG of some chips, two to a row: VHR chip, mask over it, multispectral chip (B08, B04, B03).

    Chips are those with most PV among differently sized ones, then one for review, then background.

    Raises:
        TableNotFoundError: the store has no such table.
        StoreError: the table is empty.
        ConfigError: no chip is asked for.
    """
    if chips < 1:
        raise ConfigError(f"a contact sheet shows at least one chip, asked for {chips}")
    dataset = lance_io.open_table(store, table)
    uuids = _chosen(
        lance_io.scan(store, table, ["uuid", "pv_fraction", "chip_role", "n_review", "vhr_valid_fraction"]), chips
    )
    if not uuids:
        raise StoreError(f"{table} in {store} holds no chip to show; run the build flow first")
    wanted = ["uuid", "vhr_image_chip", "generated_mask", "split", "chip_role", "vhr_acquired_at"]
    has_msi = "msi_image_chip" in dataset.schema.names
    rows = dataset.to_table(
        columns=[*wanted, *(["msi_image_chip"] if has_msi else [])], filter=f"uuid IN ({literals(uuids)})"
    )
    order = {uuid: i for i, uuid in enumerate(uuids)}
    panels = [_panels(rows, i, profile_of(dataset.schema).msi_bands) for i in range(len(rows))]
    ranked = sorted(range(len(rows)), key=lambda i: order[rows["uuid"][i].as_py()])
    sheet = _laid_out([(_caption(rows, i), panels[i]) for i in ranked])
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target)
    return target


def _chosen(keys: pa.Table, count: int) -> list[str]:
    everything = sorted(keys.to_pylist(), key=lambda row: (-(row["pv_fraction"] or 0.0), row["uuid"]))
    # chips on the imagery's rim show little; they come last
    rows = [row for row in everything if row["vhr_valid_fraction"] > _MOSTLY]
    positive = [row["uuid"] for row in rows if row["pv_fraction"]]
    review = [row["uuid"] for row in rows if row["n_review"] and not row["pv_fraction"]]
    background = sorted(row["uuid"] for row in rows if row["chip_role"] != "labelled")
    spread = positive[:: max(1, len(positive) // max(1, count - 2))][: count - 2]
    chosen = [*spread, *review[:1], *background[:1]]
    rest = [row["uuid"] for row in [*rows, *everything] if row["uuid"] not in chosen]
    return list(dict.fromkeys(chosen + rest))[:count]


def _caption(rows: pa.Table, i: int) -> str:
    row = rows.select(["uuid", "split", "chip_role", "vhr_acquired_at"]).slice(i, 1).to_pylist()[0]
    return f"{row['uuid'][:8]}  {row['chip_role']}  {row['split']}  {row['vhr_acquired_at']:%Y-%m-%d}"


def _panels(rows: pa.Table, i: int, bands: tuple[str, ...]) -> list[Image.Image]:
    vhr = np.moveaxis(_tensor(rows, "vhr_image_chip", i), 0, -1)
    stored = rows["generated_mask"][i].as_py()
    mask = (
        np.zeros(vhr.shape[:2], np.uint8) if stored is None else np.frombuffer(stored, np.uint8).reshape(vhr.shape[:2])
    )
    panels = [vhr, _overlaid(vhr, mask)]
    if "msi_image_chip" in rows.column_names and {"B08", "B04", "B03"} <= set(bands):
        chip = _tensor(rows, "msi_image_chip", i)
        false_colour = np.stack([chip[bands.index(band)] for band in ("B08", "B04", "B03")], -1)
        panels.append(np.clip(false_colour / 4000 * 255, 0, 255).astype(np.uint8))
    return [Image.fromarray(panel).resize((_TILE_PX, _TILE_PX), Image.Resampling.NEAREST) for panel in panels]


def _tensor(rows: pa.Table, name: str, i: int) -> NDArray[Any]:
    column = rows[name].combine_chunks()
    shape = column.type.shape
    pixels: NDArray[Any] = column.slice(i, 1).storage.flatten().to_numpy(zero_copy_only=False).reshape(shape)
    return pixels


def _overlaid(vhr: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    shown = vhr.astype(np.float32)
    for value, colour in ((1, _PV_COLOUR), (IGNORE, _IGNORE_COLOUR)):
        shown[mask == value] = 0.45 * shown[mask == value] + 0.55 * np.array(colour, np.float32)
    return shown.astype(np.uint8)


def _laid_out(entries: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    across = max(len(panels) for _, panels in entries)
    block_w, block_h = across * _TILE_PX + (across - 1) * 4, _TILE_PX + _CAPTION_PX
    rows = -(-len(entries) // 2)
    size = (2 * block_w + 3 * _GAP_PX, rows * (block_h + _GAP_PX) + _GAP_PX + _CAPTION_PX)
    sheet = Image.new("RGB", size, (250, 250, 248))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for k, (caption, panels) in enumerate(entries):
        left = _GAP_PX + (k % 2) * (block_w + _GAP_PX)
        top = _GAP_PX + (k // 2) * (block_h + _GAP_PX)
        pen.text((left, top), caption, fill=(60, 60, 60), font=font)
        for j, panel in enumerate(panels):
            sheet.paste(panel, (left + j * (_TILE_PX + 4), top + _CAPTION_PX - 2))
    legend = (
        "VHR chip  |  mask: yellow = PV, pink = ignored (review, rejected, nodata)  |  Sentinel-2 B08 B04 B03, 640 m"
    )
    pen.text((_GAP_PX, size[1] - _CAPTION_PX - 2), legend, fill=(60, 60, 60), font=font)
    return sheet
