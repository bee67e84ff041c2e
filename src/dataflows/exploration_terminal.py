"""What the command ``explore`` shows and writes: a picture, a table, GeoJSON, each marked as exploration."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from dataflows import mask_backends
from dataflows.exploration import NOTICE, ExplorationRule, Region, regions, stored_chip
from dataflows.mask_backends._options import PromptedOptions
from dataflows.terminal import store_place
from utils.errors import ConfigError, UnknownNameError
from utils.geo import reproject
from utils.refinement import area_m2, outline
from utils.types import MaskBackend, RasterChip

_SHOWN_SIDE_PX = 768
_BANNER_PX = 28


def picture(chip: RasterChip, found: Sequence[Region], path: Path) -> Path:
    """A PNG of the chip with numbered outlines, warmest for the most PV-like, under a banner that says what it is."""
    scale = max(1, round(_SHOWN_SIDE_PX / max(chip.grid.height, chip.grid.width)))
    size = (chip.grid.width * scale, chip.grid.height * scale)
    shown = Image.fromarray(np.moveaxis(chip.data, 0, -1)).resize(size, Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (size[0], size[1] + _BANNER_PX), (120, 20, 20))
    sheet.paste(shown, (0, _BANNER_PX))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.text((8, 6), NOTICE, fill=(255, 255, 255), font=font)
    # the best is drawn last, on top
    for number, region in reversed(list(enumerate(found, 1))):
        colour = _colour(region.signs["likeness"])
        edges = _edge(np.kron(region.mask.data, np.ones((scale, scale), np.bool_)))
        sheet.paste(colour, (0, _BANNER_PX), Image.fromarray((edges * 255).astype(np.uint8)))
        rows, cols = np.nonzero(region.mask.data)
        pen.text(
            (float(cols.mean()) * scale, float(rows.mean()) * scale + _BANNER_PX - 8),
            str(number),
            fill=colour,
            font=font,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def feature_collection(found: Sequence[Region], backend: str) -> dict[str, Any]:
    """GeoJSON of the regions (RFC 7946: longitude, latitude), each marked as exploration."""
    features = []
    for number, region in enumerate(found, 1):
        grid = region.mask.grid
        shape = reproject(outline(region.mask, simplify_px=0.5), grid.epsg, 4326)
        told = {"rank": number, "exploration": True, "notice": NOTICE, "backend": backend}
        told |= {"area_m2": area_m2(region.mask), **region.signs, **region.mask.scores}
        features.append({"type": "Feature", "properties": told, "geometry": json.loads(shapely.to_geojson(shape))})
    return {"type": "FeatureCollection", "notice": NOTICE, "features": features}


def run_explore(arguments: argparse.Namespace) -> int:
    """Show automatic masks of one chip; returns the exit code.

    Raises:
        AegirError: the chip, the backend or its weights cannot be used, or there is no place for what comes out.
    """
    if arguments.out.suffix.lower() not in Image.registered_extensions():
        raise ConfigError(f"--out is {arguments.out}; a picture ends in .png or .jpg")
    for place in (arguments.out, arguments.geojson):
        _require_place(place)
    rule = ExplorationRule(
        points_per_side=arguments.points_per_side,
        min_predicted_iou=arguments.min_predicted_iou,
        min_stability=arguments.min_stability,
    )
    backend = _backend(arguments.backend, arguments.options)
    chip = stored_chip(store_place(arguments.store), arguments.uuid)
    found = regions(chip, backend, rule)
    picture(chip, found, arguments.out)
    collection = feature_collection(found, arguments.backend)
    if arguments.geojson:
        arguments.geojson.write_text(json.dumps(collection))
    if arguments.json:
        print(json.dumps(collection))  # noqa: T201
    else:
        _print(found, rule, arguments.out)
    return 0


def _require_place(path: Path | None) -> None:
    """Make the folder of a file, so that what was computed has somewhere to go.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{path} cannot be written: give a file in a folder you may write to")


def _backend(name: str, text: str) -> MaskBackend:
    try:
        options = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--options is no YAML: {error}") from error
    if not isinstance(options, dict) or not all(isinstance(option, str) for option in options):
        raise ConfigError(f"--options is a YAML mapping, such as {{checkpoint: sam_vit_b_01ec64.pth}}; got {text!r}")
    if name not in mask_backends.names():
        raise UnknownNameError("mask backend", name, mask_backends.names())
    backend = mask_backends.get(name, **options)
    if isinstance(getattr(backend, "options", None), PromptedOptions) and "prompt_stability" not in options:
        # a grid of points is answered once; the model's own signs are enough to choose by
        backend = mask_backends.get(name, **options, prompt_stability=False)
    return backend


def _print(found: Sequence[Region], rule: ExplorationRule, path: Path) -> None:
    console = Console(markup=False, emoji=False)
    console.print(NOTICE, style="bold red")
    table = Table("rank", "likeness", "area m²", "predicted IoU", "stability", "darkness", "blueness", "rectangularity")
    for number, region in enumerate(found[:20], 1):
        scores, signs = region.mask.scores, region.signs
        stability = scores.get("logit_stability", scores.get("stability"))
        values = (scores.get("predicted_iou"), stability, signs["darkness"], signs["blueness"], signs["rectangularity"])
        row = ["–" if value is None else f"{value:.2f}" for value in values]
        table.add_row(str(number), f"{signs['likeness']:.2f}", f"{area_m2(region.mask):.0f}", *row)
    console.print(table)
    asked = rule.points_per_side**2
    console.print(f"{len(found)} regions from {asked} points; picture: {path}")


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(mask & ~inner)


def _colour(likeness: float) -> tuple[int, int, int]:
    """Blue at 0 through yellow to red at 1."""
    share = float(np.clip((likeness - 0.3) / 0.5, 0, 1))
    return (int(60 + 195 * share), int(120 + 60 * (1 - abs(2 * share - 1))), int(230 * (1 - share)))
