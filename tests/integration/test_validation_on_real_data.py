"""Rules on real imagery: Geneva's roofs at 0.25 m, and Sentinel-2 scenes of a desert and of the Punjab."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rasterio
import shapely
from rasterio.warp import transform_bounds
from shapely import affinity
from shapely.geometry import box, mapping

from dataflows._search_imagery import Pixels
from dataflows.drivers import build_driver
from dataflows.validation_config import ValidationRules
from dataflows.validation_evidence import SPECTRAL_RULES, VISUAL_RULES
from dataflows.validation_imagery import Reads
from store.imagery.local import LocalImagery
from support.detection_rows import detection_rows
from utils.evidence import Finding
from utils.geo import reproject
from utils.types import RGB_BANDS, S2_L2A_BANDS

LV03 = 21781
SIZES = {"s2_l2a_cog_stac/S2A_29RKH_20200219_0_L2A": ("{0}.tif", "2020-02-19T11:31:00Z", True)} | {
    f"s2_rico_hdl/SSL4EO-S12/s2a/0000200/{name}": ("{1}.tif", day, False)
    for name, day in {
        "20200604T054639_20200604T054831_T43RCP": "2020-06-04T05:46:39Z",
        "20200813T054639_20200813T054952_T43RCP": "2020-08-13T05:46:39Z",
    }.items()
}


def msi_pixels(folders: list[Path], root: Path) -> tuple[Pixels, list[dict]]:
    """Scenes named where they are, through items."""
    items = []
    for folder in folders:
        pattern, day, classified = next(facts for name, facts in SIZES.items() if str(folder).endswith(name))
        names = {band: folder / pattern.format(band, band.replace("B0", "B")) for band in S2_L2A_BANDS}
        names |= {"SCL": folder / "SCL.tif"} if classified else {}
        with rasterio.open(names["B04"]) as raster:
            bounds, epsg = transform_bounds(raster.crs, "EPSG:4326", *raster.bounds), raster.crs.to_epsg()
        stated = [{"nodata": 0, "scale": 1e-4, "offset": 0.0}]
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": folder.name,
            "geometry": mapping(box(*bounds)),
            "properties": {"datetime": day, "proj:epsg": epsg, "gsd": 10},
            "assets": {name: {"href": str(path), "raster:bands": stated} for name, path in names.items()},
        }
        (root / f"{folder.name}.json").write_text(json.dumps(item))
        items.append(item)
    return Pixels(source=LocalImagery(root=root, kind="msi", index=None), bands=S2_L2A_BANDS), items


def told(rows: pa.Table, **inputs: Any) -> dict[str, Any]:
    """Inputs of the flow, where the detections are all that the search found."""
    outlines = shapely.from_wkb(rows["outline"].to_numpy(zero_copy_only=False))
    return {"detections": rows, "search_outlines": shapely.STRtree(outlines)} | inputs


def spectral_findings(rows: pa.Table, pixels: Pixels, **settings) -> dict[str, dict[str, Finding]]:
    inputs = told(rows, msi_pixels=pixels, rules=ValidationRules(**settings))
    return build_driver("validate").execute(list(SPECTRAL_RULES), inputs=inputs, overrides={"vhr_reads": Reads()})


def squares(item: dict, count: int, side_m: float, seed: int = 0) -> list[shapely.Geometry]:
    """Squares scattered over the middle of a scene, EPSG:4326."""
    rng, epsg = np.random.default_rng(seed), item["properties"]["proj:epsg"]
    west, south, east, north = reproject(shapely.geometry.shape(item["geometry"]), 4326, epsg).bounds
    x, y = west + (east - west) * rng.uniform(0.2, 0.8, count), south + (north - south) * rng.uniform(0.2, 0.8, count)
    return list(reproject(shapely.box(x, y, x + side_m, y + side_m), epsg, 4326))


def test_a_desert_holds_neither_plants_nor_water_nor_modules(real_data: Path, tmp_path: Path) -> None:
    pixels, [item] = msi_pixels([real_data / "s2_l2a_cog_stac" / "S2A_29RKH_20200219_0_L2A"], tmp_path)
    rows = detection_rows(squares(item, 60, 400.0), acquired_at=datetime(2020, 3, 1, tzinfo=UTC))
    found = spectral_findings(rows, pixels)
    clear = [one for one, finding in found["cloud_cover"].items() if finding.verdict == "neutral"]
    clouded = [one for one in found["cloud_cover"] if one not in clear]
    print(f"{len(clear)} of {len(rows)} clear")
    assert len(clear) >= 10
    for one in clear:
        assert found["vegetation_cover"][one].value < 0.3
        assert found["water_surface"][one].value < 0
        assert not found["water_surface"][one].decisive
    modules = [found["pv_spectrum"][one].verdict for one in clear]
    assert modules.count("for") <= 0.1 * len(clear)
    assert all(found[rule][one].verdict == "abstain" for rule in SPECTRAL_RULES for one in clouded)


def test_two_dates_of_the_punjab(real_data: Path, tmp_path: Path) -> None:
    """Scenes in degrees, without scene classes: NDVI near that of the raster, and what the season changed."""
    folders = [real_data / name for name in SIZES if "SSL4EO" in name]
    pixels, _ = msi_pixels(folders, tmp_path)
    with rasterio.open(folders[0] / "B4.tif") as red, rasterio.open(folders[0] / "B8.tif") as infrared:
        bands = {"B04": red.read(1), "B08": infrared.read(1)}
        transform = red.transform
    corners = [(60, 60), (100, 140), (180, 90)]
    shapes = [box(*(transform @ (col, row + 20)), *(transform @ (col + 20, row))) for row, col in corners]
    rows = detection_rows(shapes, acquired_at=datetime(2020, 6, 10, tzinfo=UTC))
    inputs = told(rows, msi_pixels=pixels, rules=ValidationRules())
    seen = build_driver("validate").execute(["msi_observations"], inputs=inputs, overrides={"vhr_reads": Reads()})
    for number, (row, col) in enumerate(corners):
        dates = seen["msi_observations"][f"d{number}"]
        assert [one.acquired_at.month for one in dates] == [6, 8]
        # pixels of 1e-4 degrees are about 9.7 m by 11.3 m here
        assert dates[0].clear_px == pytest.approx(rows["area_m2"][number].as_py() / 100, rel=0.02)
        means = {band: plane[row : row + 20, col : col + 20].mean(dtype=np.float64) for band, plane in bands.items()}
        ndvi = (means["B08"] - means["B04"]) / (means["B08"] + means["B04"])
        inside = dict(zip(dates[0].bands, dates[0].inside, strict=True))
        found = (inside["B08"] - inside["B04"]) / (inside["B08"] + inside["B04"])
        assert found == pytest.approx(ndvi, abs=0.02)
    found = spectral_findings(rows, pixels)
    print({rule: [round(one.value or 0, 2) for one in by_id.values()] for rule, by_id in found.items()})
    assert all(one.verdict != "abstain" for one in found["spectral_persistence"].values())


def rank_auc(values: list[float], is_pv: list[bool]) -> float:
    on = [v for v, pv in zip(values, is_pv, strict=True) if pv]
    off = [v for v, pv in zip(values, is_pv, strict=True) if not pv]
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in on for b in off]))


def test_roofs_of_geneva(real_data: Path) -> None:
    """Rules tell arrays from other parts of the same tiles; polygons moved off every array are the others."""
    folder = real_data / "geneva_swissimage_pv"
    source = LocalImagery(root=folder / "images_geotiff", kind="vhr", index=None, acquired_at="2015-06-01", crs=LV03)
    tiles = reproject(shapely.from_wkb(source.scenes()["footprint"].to_numpy(zero_copy_only=False)), 4326, LV03)
    polygons = shapely.from_geojson((folder / "pv_polygons_epsg21781.geojson").read_text())
    arrays = [shapely.make_valid(shape) for shape in polygons.geoms if shape.area > 8]
    known, others = shapely.union_all(arrays).buffer(1), []
    for shape in arrays:
        moved = (affinity.translate(shape, dx, dy) for dx in range(-30, 31, 10) for dy in range(-30, 31, 10))
        fine = [m for m in moved if not m.intersects(known) and any(tile.contains(m) for tile in tiles)]
        others += fine[:2]
    inside = [shape for shape in arrays if any(tile.contains(shape.centroid) for tile in tiles)]
    shapes = [shapely.make_valid(shape) for shape in reproject(np.array(inside + others, object), LV03, 4326)]
    rows = detection_rows(shapes, acquired_at=datetime(2015, 6, 1, tzinfo=UTC), gsd_m=0.25)
    pixels = Pixels(source=source, bands=RGB_BANDS)
    inputs = told(rows, vhr_pixels=pixels, msi_pixels=None, rules=ValidationRules())
    found = build_driver("validate").execute([*VISUAL_RULES, "readable"], inputs=inputs)
    ids = [one for one in rows["detection_id"].to_pylist() if one in set(found["readable"])]
    is_pv = [int(one[1:]) < len(inside) for one in ids]
    print(f"{sum(is_pv)} arrays, {len(is_pv) - sum(is_pv)} others")
    for rule in VISUAL_RULES:
        print(rule, round(rank_auc([found[rule][one].log_odds for one in ids], is_pv), 3))
    total = [sum(found[rule][one].log_odds for rule in VISUAL_RULES) for one in ids]
    auc = rank_auc(total, is_pv)
    print("all visual rules", round(auc, 3))
    assert sum(is_pv) >= 14
    assert len(ids) - sum(is_pv) >= 12
    assert auc > 0.7
