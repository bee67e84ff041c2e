"""Discovery on real imagery, through the command line: roofs of Geneva at 0.25 m, and Sentinel-2 scenes."""

import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
import yaml
from rasterio.features import rasterize
from rasterio.warp import transform_bounds
from shapely.geometry import mapping, shape

from dataflows.__main__ import main
from dataflows.validation_evidence import RULES, SPECTRAL_RULES, VISUAL_RULES
from store import lance_io
from store.schemas import DETECTIONS
from support.search_region import printed
from utils.geo import reproject
from utils.scl import scl_valid
from utils.search_blocks import PROBABILITY_NODATA, PROBABILITY_SCALE
from utils.types import S2_L2A_BANDS

LV03 = 21781
WITHHELD = 3
"""Number of the polygon that no label tells of."""
LARGE_M2 = 400.0
"""Area of four multispectral pixels: larger objects must be seen by both kinds of imagery."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A search and its validation, as the command line left them."""

    settings: Path
    summary: dict[str, Any]
    validation: dict[str, Any]
    detections: list[dict[str, Any]]
    evidence: dict[str, dict[str, dict[str, Any]]]
    """Detection id → rule → its finding."""

    def outlines(self, epsg: int) -> np.ndarray:
        return reproject(shapely.from_wkb([row["outline"] for row in self.detections]), 4326, epsg)


def searched(root: Path, flow: dict[str, Any], discover: dict[str, Any]) -> Searched:
    (root / "flow.yaml").write_text(yaml.safe_dump({"flow": "build", "store": str(root / "store"), **flow}))
    settings = root / "discover.yaml"
    told = {"flow": "discover", "build": "flow.yaml", "out": "out", "device": "cpu", "overlap_px": 16, **discover}
    settings.write_text(yaml.safe_dump(told))
    summaries = []
    for command in ("discover", "validate"):
        output = io.StringIO()
        with redirect_stdout(output):
            code = main([command, "--config", str(settings), "--json"])
        assert code == 0, output.getvalue()
        summaries.append(printed(output.getvalue()))
    columns = ["detection_id", "rule", "verdict", "value", "scene_ids", "details"]
    evidence: dict[str, dict[str, dict[str, Any]]] = {}
    for row in lance_io.scan(root / "store", "evidence", columns).to_pylist():
        evidence.setdefault(row["detection_id"], {})[row["rule"]] = row
    detections = lance_io.scan(root / "store", "detections", DETECTIONS.names).to_pylist()
    return Searched(
        settings=settings, summary=summaries[0], validation=summaries[1], detections=detections, evidence=evidence
    )


@pytest.fixture(scope="module")
def folder(real_data: Path) -> Path:
    return real_data / "geneva_swissimage_pv"


@pytest.fixture(scope="module")
def arrays(folder: Path) -> list[shapely.Geometry]:
    """Arrays that were drawn by hand, EPSG:21781."""
    collection = json.loads((folder / "pv_polygons_epsg21781.geojson").read_text())
    return [shape(feature["geometry"]) for feature in collection["features"]]


@pytest.fixture(scope="module")
def tiles(folder: Path) -> dict[str, shapely.Geometry]:
    """Scene → its ground, EPSG:21781."""
    found = {}
    for path in folder.glob("images_geotiff/*.tif"):
        with rasterio.open(path) as raster:
            found[path.stem] = shapely.box(*raster.bounds)
    return found


@pytest.fixture(scope="module")
def geneva(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    root = tmp_path_factory.mktemp("geneva")
    labels = json.loads((folder / "pv_polygons_epsg21781.geojson").read_text())
    for number, feature in enumerate(labels["features"]):
        feature["properties"]["id"] = number
    del labels["features"][WITHHELD]
    (root / "labels.geojson").write_text(json.dumps(labels))
    flow = {
        "labels": [{"file": "labels.geojson", "id": "id", "dataset_name": "geneva"}],
        "vhr": {"source": "local", "root": str(folder / "images_geotiff"), "acquired_at": "2015-06-15"},
    }
    discover = {
        "model": "support.tiny_networks:SmoothBlueness",
        "model_options": {"gsd_m": 0.25, "window_px": 128},
        "block_px": 512,
        "detections": {"min_area_m2": 12.0},
    }
    return searched(root, flow, discover)


def test_outlines_lie_on_the_scenes_they_name(geneva: Searched, tiles: dict[str, shapely.Geometry]) -> None:
    told = geneva.summary
    assert (told["status"], told["blocks_failed"], told["inputs_failed"]) == ("done", 0, 0)
    assert geneva.summary["km2_searched"] == pytest.approx(len(tiles) * 0.0625**2, rel=1e-6)
    assert len(geneva.detections) == geneva.summary["detections"] > 20
    ground = shapely.union_all(list(tiles.values())).buffer(0.3)
    for row, outline in zip(geneva.detections, geneva.outlines(LV03), strict=True):
        # an outline that became a rectangle may stick out a little where the tile cuts the object
        assert outline.difference(ground).area <= 0.1 * outline.area
        assert ground.covers(reproject(shapely.Point(row["lon"], row["lat"]), 4326, LV03))
        under = {name for name, tile in tiles.items() if tile.intersects(outline)}
        assert under & set(row["scene_ids"])
        assert row["area_m2"] == pytest.approx(outline.area, rel=2e-3)
        assert (row["epsg"], row["gsd_m"], row["acquired_at"].date().isoformat()) == (LV03, 0.25, "2015-06-15")


def test_ground_between_tiles_is_nodata(geneva: Searched, tiles: dict[str, shapely.Geometry]) -> None:
    with rasterio.open(geneva.settings.parent / geneva.summary["raster"]) as raster:
        assert raster.crs.to_epsg() == LV03
        data = raster.read(1)
        seen = rasterize(list(tiles.values()), out_shape=data.shape, transform=raster.transform) > 0
    assert seen.sum() == len(tiles) * 250**2
    assert (data[~seen] == PROBABILITY_NODATA).all()
    assert (data[seen] != PROBABILITY_NODATA).all()


def test_every_pixel_is_what_the_model_says_of_its_tile(geneva: Searched, folder: Path) -> None:
    """A tile by itself; next to its edges the model sees neighbours or nothing, so those pixels are left out."""
    import torch

    from support.tiny_networks import SmoothBlueness

    model = SmoothBlueness()
    with rasterio.open(geneva.settings.parent / geneva.summary["raster"]) as found:
        for path in sorted(folder.glob("images_geotiff/*.tif"))[:6]:
            with rasterio.open(path) as tile:
                window = found.window(*tile.bounds).round_offsets().round_lengths()
                pixels = torch.from_numpy(tile.read()[None].astype(np.float32))
            expected = torch.sigmoid(model(pixels))[0, 0].numpy() * PROBABILITY_SCALE
            difference = np.abs(found.read(1, window=window) - expected)[4:-4, 4:-4]
            assert difference.max() <= 1


def test_known_arrays_are_confirmed_and_the_withheld_one_is_new(
    geneva: Searched, arrays: list[shapely.Geometry]
) -> None:
    outlines = geneva.outlines(LV03)
    confirmed = {row["label_id"]: k for k, row in enumerate(geneva.detections) if row["match"] == "confirmed"}
    assert len(confirmed) == geneva.summary["detections_confirmed"] >= 8
    assert geneva.summary["labels"] == len(arrays) - 1 == len(confirmed) + geneva.summary["missing"]
    for label, k in confirmed.items():
        array, row = arrays[int(label.rsplit("/", 1)[1])], geneva.detections[k]
        both = outlines[k].intersection(array).area
        iou = both / (outlines[k].area + array.area - both)
        assert (row["match_iou"] or 0) == pytest.approx(iou, abs=0.01)
        assert iou >= 0.2 or row["match_distance_m"] <= 5
    on_it = [k for k, one in enumerate(outlines) if one.intersection(arrays[WITHHELD]).area > one.area / 2]
    assert on_it
    assert {geneva.detections[k]["match"] for k in on_it} == {"new"}


def test_roofs_are_judged_by_vhr_rules_and_nothing_unseen_is_accepted(geneva: Searched) -> None:
    assert (geneva.validation["status"], geneva.validation["failed"]) == ("done", 0)
    assert geneva.validation["judged"] == len(geneva.detections)
    speaking = 0
    for row in geneva.detections:
        told = geneva.evidence[row["detection_id"]]
        assert set(RULES) <= set(told)
        assert {told[rule]["verdict"] for rule in SPECTRAL_RULES} == {"abstain"}
        speaking += sum(told[rule]["verdict"] in ("for", "against") for rule in VISUAL_RULES) >= 2
        if told["panel_colour"]["value"] is not None:
            assert set(told["panel_colour"]["scene_ids"]) & set(row["scene_ids"])
        assert row["reasons"]
        # large ones must have been seen in multispectral imagery, of which there is none
        assert (
            (row["verdict"] in ("unverifiable", "reject"))
            if row["area_m2"] >= LARGE_M2
            else (row["verdict"] != "unverifiable")
        )
    assert speaking >= 0.9 * len(geneva.detections)
    assert geneva.validation["verdicts"]["accept"] > 0
    assert geneva.validation["verdicts"]["unverifiable"] > 0


def test_figures(geneva: Searched, arrays: list[shapely.Geometry], capsys: pytest.CaptureFixture[str]) -> None:
    """Object by object against hand-drawn polygons, which have edges of 2 to 3 pixels and are not complete."""
    known = shapely.union_all(arrays)
    outlines = geneva.outlines(LV03)
    verdicts = np.array([row["verdict"] for row in geneva.detections])
    hits = np.array([one.intersection(known).area >= one.area / 2 for one in outlines])
    lines = []
    for name, kept in {
        "all found": np.ones(len(outlines), bool),
        "not rejected": verdicts != "reject",
        "accepted": verdicts == "accept",
        "accepted or unverifiable": np.isin(verdicts, ["accept", "unverifiable"]),
    }.items():
        covered = shapely.union_all(outlines[kept])
        found = [array.intersection(covered).area >= array.area / 2 for array in arrays]
        shared = covered.intersection(known).area
        lines.append(
            f"{name}: {kept.sum()} objects, precision {hits[kept].mean():.2f}, recall {sum(found)}/{len(arrays)}; "
            f"by area precision {shared / covered.area:.2f}, recall {shared / known.area:.2f}"
        )
    with capsys.disabled():
        print("\nGeneva, blue surroundings against hand-drawn polygons", *lines, sep="\n  ")
    rejected = verdicts == "reject"
    assert hits[~rejected].mean() > hits.mean()
    assert hits[rejected].mean() < hits.mean()


@pytest.mark.parametrize("suffix", ["geojson", "parquet", "geojsonl"])
def test_exports_hold_every_detection(geneva: Searched, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"found.{suffix}"
    assert main(["detections", "export", "--config", str(geneva.settings), "--out", str(path)]) == 0
    wanted = {row["detection_id"]: row for row in geneva.detections}
    if suffix == "parquet":
        table = pq.read_table(path)
        assert json.loads(table.schema.metadata[b"geo"])["primary_column"] in table.column_names
        assert set(table["detection_id"].to_pylist()) == set(wanted)
        return
    text = path.read_text()
    features = json.loads(text)["features"] if suffix == "geojson" else list(map(json.loads, text.splitlines()))
    assert len(features) == len(wanted)
    boxes = np.array([shape(feature["geometry"]).bounds for feature in features])
    assert (boxes[:, :2].min(axis=0) > (6.1, 46.2)).all()
    assert (boxes[:, 2:].max(axis=0) < (6.15, 46.25)).all()
    if suffix == "geojson":
        assert {feature["properties"]["verdict"] for feature in features} == {row["verdict"] for row in wanted.values()}


@pytest.mark.parametrize("where", ["far away", "between two tiles"])
def test_an_area_without_imagery_is_refused(
    geneva: Searched,
    tiles: dict[str, shapely.Geometry],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    gap = shapely.box(497_760, 119_500, 497_800, 119_540)
    assert not any(tile.intersects(gap) for tile in tiles.values())
    area = (8.0, 47.0, 8.01, 47.01) if where == "far away" else reproject(gap, LV03, 4326).bounds
    told = yaml.safe_load(geneva.settings.read_text()) | {"aoi_bbox_lonlat": list(area), "out": str(tmp_path / "out")}
    told["build"] = str(geneva.settings.parent / "flow.yaml")
    (tmp_path / "discover.yaml").write_text(yaml.safe_dump(told))
    command = ["discover", "--config", str(tmp_path / "discover.yaml"), "--store", str(tmp_path / "store")]
    assert main(command) == 2
    assert "EmptyAreaError" in capsys.readouterr().err
    assert not (tmp_path / "store" / "detections.lance").exists()


def item_of(folder: Path, names: dict[str, Path], day: str, gsd_m: float, stated: dict[str, Any]) -> dict[str, Any]:
    """A STAC item of rasters where they are."""
    with rasterio.open(names["B04"]) as raster:
        bounds, epsg = transform_bounds(raster.crs, "EPSG:4326", *raster.bounds), raster.crs.to_epsg()
    band = {"nodata": 0, "scale": 1e-4, "offset": 0.0}
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": folder.name,
        "geometry": mapping(shapely.box(*bounds)),
        "properties": {"datetime": day, "proj:epsg": epsg, **stated, "gsd": gsd_m},
        "assets": {name: {"href": str(path), "raster:bands": [band]} for name, path in names.items()},
    }


def msi_search(root: Path, items: list[dict[str, Any]], **discover: Any) -> Searched:
    """A search without any VHR imagery and with one label, which lies in a corner of the first scene."""
    for name in ("vhr", "msi"):
        (root / name).mkdir()
    for item in items:
        (root / "msi" / f"{item['id']}.json").write_text(json.dumps(item))
    west, south, *_ = shape(items[0]["geometry"]).bounds
    corner = mapping(shapely.box(west + 0.005, south + 0.005, west + 0.007, south + 0.007))
    label = {"type": "Feature", "properties": {"id": 1}, "geometry": corner}
    (root / "labels.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [label]}))
    flow = {
        "labels": [{"file": "labels.geojson", "id": "id"}],
        "vhr": {"source": "local", "root": "vhr"},
        "msi": {"source": "local", "root": "msi"},
    }
    return searched(root, flow, {"model": "support.tiny_networks:IndexAbove", **discover})


def options(bands: list[str], threshold: float, gsd_m: float) -> dict[str, Any]:
    return {
        "kind": "msi",
        "bands": bands,
        "gsd_m": gsd_m,
        "window_px": 64,
        "scale": 1e-4,
        "arguments": {"threshold": threshold},
    }


@pytest.mark.slow
def test_clouds_over_a_desert_are_not_accepted(real_data: Path, tmp_path: Path) -> None:
    """Blue against near infrared finds clouds; scene classes say so, and nothing is verified under them."""
    folder = real_data / "s2_l2a_cog_stac" / "S2A_29RKH_20200219_0_L2A"
    published = json.loads((folder / f"{folder.name}.json").read_text())["properties"]
    names = {band: folder / f"{band}.tif" for band in (*S2_L2A_BANDS, "SCL")}
    # the rasters are decimated ten times, the published item is that of the whole ones
    item = item_of(folder, names, published["datetime"], 100.0, {"eo:cloud_cover": published["eo:cloud_cover"]})
    found = msi_search(
        tmp_path,
        [item],
        model_options=options(["B02", "B08"], -0.2, 100.0),
        block_px=256,
        detections={"min_area_m2": 300_000.0},
    )
    with rasterio.open(tmp_path / found.summary["raster"]) as raster, rasterio.open(folder / "B02.tif") as blue:
        assert (raster.crs.to_epsg(), raster.transform.a) == (32629, 100.0)
        holds, data = blue.read(1) > 0, raster.read(1, window=raster.window(*blue.bounds), boundless=True)
        with rasterio.open(folder / "B08.tif") as infrared:
            first, second = blue.read(1).astype(float), infrared.read(1).astype(float)
    over = (first - second) / np.maximum(first + second, 1) + 0.2
    # a probability is stored in 254 steps, each of about 3e-4 of the index
    sure = holds & (np.abs(over) > 1e-3)
    assert sure.sum() > 0.95 * data.size
    assert (data[sure] != PROBABILITY_NODATA).all()
    assert ((data[sure] > PROBABILITY_SCALE / 2) == (over[sure] > 0)).all()
    assert (found.summary["status"], found.summary["blocks_failed"]) == ("done", 0)
    assert found.summary["blocks"] >= 25
    assert len(found.detections) >= 5
    assert (found.validation["failed"], found.validation["judged"]) == (0, len(found.detections))
    assert {row["verdict"] for row in found.detections} <= {"unverifiable", "reject"}
    with rasterio.open(folder / "SCL.tif") as raster:
        classes, transform = raster.read(1), raster.transform
    clear, clouded = scl_valid(classes), 0
    for row, outline in zip(found.detections, found.outlines(32629), strict=True):
        told = found.evidence[row["detection_id"]]
        assert all(told[rule]["verdict"] == "abstain" for rule in VISUAL_RULES)
        under = rasterize([outline], out_shape=classes.shape, transform=transform, all_touched=True) > 0
        if not clear[under].any():
            clouded += 1
            assert told["cloud_cover"]["verdict"] == "abstain"
        assert (told["cloud_cover"]["verdict"] == "abstain") == (told["vegetation_cover"]["verdict"] == "abstain")
    assert clouded


def test_fields_of_the_punjab_are_rejected_for_their_spectrum(real_data: Path, tmp_path: Path) -> None:
    """A high NDVI is searched for over two dates in degrees: plants are found, and the spectral rules say so."""
    items = []
    for name in ("20200604T054639_20200604T054831_T43RCP", "20200813T054639_20200813T054952_T43RCP"):
        folder = real_data / "s2_rico_hdl" / "SSL4EO-S12" / "s2a" / "0000200" / name
        names = {band: folder / f"{band.replace('B0', 'B')}.tif" for band in S2_L2A_BANDS}
        day = f"{name[:4]}-{name[4:6]}-{name[6:8]}T05:46:39Z"
        items.append(item_of(folder, names, day, 10.0, {}))
    found = msi_search(
        tmp_path,
        items,
        model_options=options(["B08", "B04"], 0.6, 10.0),
        block_px=96,
        detections={"min_area_m2": 5000.0},
    )
    assert (found.summary["status"], found.summary["blocks_failed"], found.summary["blocks"]) == ("done", 0, 9)
    assert (found.summary["labels"], found.summary["missing"]) == (1, 1)
    assert {row["epsg"] for row in found.detections} == {32643}
    # the newest date lies on top
    assert {row["acquired_at"].date().isoformat() for row in found.detections} == {"2020-08-13"}
    assert len(found.detections) >= 20
    assert found.validation["verdicts"]["accept"] == 0
    values, shares, changed = [], [], 0
    for row in found.detections:
        told = found.evidence[row["detection_id"]]
        assert all(told[rule]["verdict"] == "abstain" for rule in VISUAL_RULES)
        # at the edge of the scene not every band holds data
        pixels = told["cloud_cover"]["value"]
        assert 4 <= pixels <= 1.1 * row["area_m2"] / 100 + 1.5
        shares.append(pixels * 100 / row["area_m2"])
        assert told["vegetation_cover"]["verdict"] == "against"
        assert told["vegetation_cover"]["scene_ids"] == [items[1]["id"]]
        values.append(told["vegetation_cover"]["value"])
        changed += told["spectral_persistence"]["verdict"] == "neutral"
    assert np.median(values) > 0.6
    assert np.median(shares) == pytest.approx(1, abs=0.05)
    assert changed >= len(values) / 2
    assert {row["verdict"] for row in found.detections} == {"reject"}
