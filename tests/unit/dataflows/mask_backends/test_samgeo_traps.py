"""What segment-geospatial 1.4.2 and segment-anything-hq 0.3 do with prompts, CRSs and weights, and what we do instead.

Each test shows that our backend is not affected, and then the behaviour of the library on the tiny model. A library may
mend itself: a test whose second part no longer holds is skipped with a reason that says which part can go.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from shapely import Geometry

from dataflows import mask_backends
from support import tiny_sam
from utils.errors import MaskError
from utils.geo import reproject
from utils.pixel_prompts import pixel_prompt
from utils.types import ChipGrid, Mask, MaskBackend, Prompt, RasterChip

SIZE, GSD_M = 64, 0.3
LEFT, TOP = 560_000.0, 5_300_000.0


@contextmanager
def until_mended(what: str) -> Iterator[None]:
    """Skip, with a reason, where the library does not do ``what`` any more."""
    try:
        yield
    except (AssertionError, pytest.fail.Exception) as error:
        pytest.skip(f"segment-geospatial {version('segment-geospatial')} no longer {what}: this part can go ({error})")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def ours(weights: Path) -> MaskBackend:
    return mask_backends.get("sam", **tiny_sam.options(weights))


@pytest.fixture
def theirs(weights: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    path = tiny_sam.checkpoint(weights)
    from samgeo.samgeo import SamGeo

    return SamGeo(model_type=tiny_sam.MODEL_TYPE, checkpoint=str(path), automatic=False, device="cpu")


def pixels(seed: int = 0) -> np.ndarray:
    data = np.random.default_rng(seed).integers(80, 200, (3, SIZE, SIZE), dtype=np.uint8)
    data[:, 20:40, 10:30] = np.array([30, 40, 90], np.uint8)[:, None, None]
    return data


def grid_of(degrees: float = 0.0, epsg: int = 32632) -> ChipGrid:
    placed = Affine.translation(LEFT, TOP) @ Affine.rotation(degrees) @ Affine.scale(GSD_M, -GSD_M)
    return ChipGrid(epsg=epsg, transform=tuple(placed)[:6], height=SIZE, width=SIZE)


def raster(path: Path, data: np.ndarray, grid: ChipGrid) -> str:
    profile = {"driver": "GTiff", "count": len(data), "height": SIZE, "width": SIZE, "dtype": data.dtype}
    with rasterio.open(path, "w", **profile, crs=f"EPSG:{grid.epsg}", transform=grid.affine) as file:
        file.write(data)
    return str(path)


def chip_of(data: np.ndarray, grid: ChipGrid) -> RasterChip:
    return RasterChip(
        data=data,
        valid=np.ones(data.shape[1:], np.bool_),
        grid=grid,
        bands=("red", "green", "blue"),
        source="test",
        scene_ids=("scene",),
        sensor="camera",
        acquired_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def ground(grid: ChipGrid, col0: float, row0: float, col1: float, row1: float) -> shapely.Polygon:
    """The box of these pixels on the ground, as it lies there."""
    return shapely.Polygon(
        [grid.affine @ corner for corner in ((col0, row0), (col1, row0), (col1, row1), (col0, row1))]
    )


def ask(backend: MaskBackend, chip: RasterChip, *geometries: Geometry, kind: str = "box") -> list[Mask]:
    prompts = [
        Prompt(prompt_id=str(number), label_id=str(number), kind=kind, geometry=geometry)
        for number, geometry in enumerate(geometries)
    ]
    masks = backend.segment(chip, prompts)
    assert [mask.prompt_id for mask in masks] == [prompt.prompt_id for prompt in prompts]
    return masks


def test_boxes_in_an_array_are_dropped_there(theirs: Any, ours: MaskBackend, tmp_path: Path) -> None:
    grid = grid_of()
    boxes = [[10, 20, 30, 40], [40, 5, 60, 25]]
    asked = [ground(grid, *box) for box in boxes]
    one, other = ask(ours, chip_of(pixels(), grid), *asked)
    assert (one.data != other.data).any()
    with until_mended("drops boxes given as an array"):
        theirs.set_image(raster(tmp_path / "a.tif", pixels(), grid))
        theirs.predict(boxes=np.array(boxes[:1]))
        assert theirs.boxes is None


def test_a_single_box_of_whole_numbers_fails_there(theirs: Any, ours: MaskBackend, tmp_path: Path) -> None:
    grid = grid_of()
    (mask,) = ask(ours, chip_of(pixels(), grid), ground(grid, 10, 20, 30, 40))
    assert mask.data.shape == (SIZE, SIZE)
    with until_mended("fails on one list of whole numbers"):
        theirs.set_image(raster(tmp_path / "a.tif", pixels(), grid))
        with pytest.raises((AttributeError, TypeError, AssertionError, RuntimeError, IndexError)):
            theirs.predict(boxes=[10, 20, 30, 40])


def test_a_single_lonlat_box_fails_there(theirs: Any, ours: MaskBackend, tmp_path: Path) -> None:
    grid = grid_of()
    lonlat = reproject(ground(grid, 10, 20, 30, 40), grid.epsg, 4326)
    (mask,) = ask(ours, chip_of(pixels(), grid), reproject(lonlat, 4326, grid.epsg))
    told = pixel_prompt(prompt_of(reproject(lonlat, 4326, grid.epsg)), grid)
    assert told.box == pytest.approx((10, 20, 30, 40), abs=0.02)
    assert not mask.flags
    with until_mended("fails on one lon/lat box"):
        theirs.set_image(raster(tmp_path / "a.tif", pixels(), grid))
        # any error will do: the first is about the type of a coordinate, and depends on numpy
        with pytest.raises(Exception):  # noqa: B017, PT011
            theirs.predict(boxes=[list(lonlat.bounds)], point_crs="EPSG:4326")


def test_boxes_in_the_rasters_own_crs_are_lost_there(ours: MaskBackend, tmp_path: Path) -> None:
    from samgeo.common import bbox_to_xy

    grid = grid_of()
    box = ground(grid, 10, 20, 30, 40)
    told = pixel_prompt(prompt_of(box), grid)
    assert told.box == pytest.approx((10, 20, 30, 40), abs=1e-6)
    with until_mended("loses boxes in the raster's own CRS"):
        assert bbox_to_xy(raster(tmp_path / "a.tif", pixels(), grid), [list(box.bounds)], "EPSG:32632") is None


def test_boxes_off_the_image_are_dropped_there(theirs: Any, ours: MaskBackend, tmp_path: Path) -> None:
    grid = grid_of()
    places = [(10, 20, 30, 40), (-30, 5, -10, 25), (40, 5, 60, 25), (50, 50, 80, 80)]
    asked = [ground(grid, *place) for place in places]
    masks = ask(ours, chip_of(pixels(), grid), *asked)
    assert [mask.flags for mask in masks] == [(), ("not_in_chip",), (), ("clipped",)]
    alone = [ask(ours, chip_of(pixels(), grid), geometry)[0] for geometry in asked]
    assert all((one.data == other.data).all() for one, other in zip(masks, alone, strict=True))
    with until_mended("drops boxes off the image"):
        theirs.set_image(raster(tmp_path / "a.tif", pixels(), grid))
        lonlat = [list(reproject(geometry, grid.epsg, 4326).bounds) for geometry in asked]
        theirs.predict(boxes=lonlat, point_crs="EPSG:4326")
        assert len(theirs.masks) == 2


@pytest.mark.parametrize("degrees", [0.0, 30.0])
def test_two_corners_do_not_hold_a_box_on_a_turned_grid(degrees: float, tmp_path: Path) -> None:
    """An upright lon/lat box on a turned grid: its envelope in pixels needs all four corners."""
    from samgeo.common import bbox_to_xy

    grid = grid_of(degrees)
    middle = grid.affine @ (SIZE / 2, SIZE / 2)
    lonlat = reproject(shapely.Point(middle).buffer(4).envelope, grid.epsg, 4326).envelope
    shape = reproject(lonlat, 4326, grid.epsg)
    corners = np.array([~grid.affine @ corner for corner in shape.exterior.coords])
    told = pixel_prompt(prompt_of(shape), grid)
    assert told.box == pytest.approx((*corners.min(axis=0), *corners.max(axis=0)), abs=1e-6)
    with until_mended("turns two corners only"):
        found = bbox_to_xy(raster(tmp_path / "a.tif", pixels(), grid), [list(lonlat.bounds)], "EPSG:4326")
        far = np.abs(np.array(found) - np.array(told.box)).max()
        assert far < 1.5 if degrees == 0 else far > 5


def test_an_array_keeps_the_crs_of_the_file_before_there(theirs: Any, ours: MaskBackend, tmp_path: Path) -> None:
    here, there = grid_of(), ChipGrid(epsg=32633, transform=(1.0, 0, 1e5, 0, -1.0, 5e6), height=SIZE, width=SIZE)
    for grid in (here, there):
        (mask,) = ask(ours, chip_of(pixels(), grid), ground(grid, 10, 20, 30, 40))
        assert mask.grid == grid
    with until_mended("keeps the CRS of the file before"):
        theirs.set_image(raster(tmp_path / "a.tif", pixels(), here))
        theirs.set_image(np.moveaxis(pixels(1), 0, -1))
        assert theirs.source == str(tmp_path / "a.tif")


def test_values_are_stretched_by_each_image_there(theirs: Any, weights: Path) -> None:
    """The same ground beside one bright pixel: another picture there, the same here, where the range is stated."""
    plain = pixels().astype(np.uint16) * 10
    bright = plain.copy()
    bright[:, 0, 0] = 60_000
    with pytest.raises(MaskError, match="stretch"):
        ask(
            mask_backends.get("sam", **tiny_sam.options(weights)),
            chip_of(plain, grid_of()),
            ground(grid_of(), 5, 5, 9, 9),
        )
    stated = mask_backends.get("sam", **tiny_sam.options(weights), stretch=[0, 2550])
    shown: list[np.ndarray] = []
    encode = stated.load().encode  # type: ignore[attr-defined]
    stated.load().encode = lambda images: shown.extend(images) or encode(images)  # type: ignore[attr-defined]
    for data in (plain, bright):
        ask(stated, chip_of(data, grid_of()), ground(grid_of(), 10, 20, 30, 40))
    assert (shown[0][1:] == shown[1][1:]).all()
    with until_mended("stretches each image by its own extremes"):
        seen = []
        for data in (plain, bright):
            theirs.set_image(np.ascontiguousarray(np.moveaxis(data, 0, -1)))
            seen.append(theirs.image)
        assert np.abs(seen[0][1:].astype(int) - seen[1][1:].astype(int)).max() > 50


def test_bands_first_are_taken_for_columns_there(theirs: Any, ours: MaskBackend) -> None:
    data = pixels()
    (mask,) = ask(ours, chip_of(data, grid_of()), ground(grid_of(), 10, 20, 30, 40))
    assert mask.data.shape == (SIZE, SIZE)
    with until_mended("takes (bands, rows, columns) for (rows, columns, bands)"):
        theirs.set_image(data)
        assert theirs.image.shape == (3, SIZE, 3)


def test_no_masks_are_an_index_error_there(weights: Path, ours: MaskBackend, tmp_path: Path) -> None:
    from samgeo.samgeo import SamGeo

    assert ours.segment(chip_of(pixels(), grid_of()), []) == []
    path = str(tiny_sam.checkpoint(weights))
    automatic = {"points_per_side": 2, "pred_iou_thresh": 99.0}
    sg = SamGeo(model_type=tiny_sam.MODEL_TYPE, checkpoint=path, automatic=True, device="cpu", sam_kwargs=automatic)
    with until_mended("raises IndexError without masks"):
        try:
            sg.generate(raster(tmp_path / "a.tif", pixels(), grid_of()), str(tmp_path / "out.tif"))
        except IndexError:
            return
        raise AssertionError("generate() went through")


def test_predicted_iou_leaves_0_to_1_there(theirs: Any, weights: Path, tmp_path: Path) -> None:
    """The IoU head of SAM has no sigmoid."""
    grid = grid_of()
    boxes = [(x, y, x + 20, y + 15) for x in range(0, 40, 8) for y in range(0, 40, 8)]
    least = []
    for seed in range(3):
        backend = mask_backends.get("sam", **tiny_sam.options(weights, seed=seed))
        masks = ask(backend, chip_of(pixels(), grid), *(ground(grid, *box) for box in boxes))
        scores = [mask.scores["predicted_iou"] for mask in masks if mask.data.any()]
        assert scores
        assert all(0 <= score <= 1 for score in scores)
    with until_mended("rates masks outside of 0 to 1"):
        theirs.set_image(raster(tmp_path / "a.tif", pixels(), grid))
        for box in boxes:
            theirs.predict(boxes=[list(map(float, box))])
            least.append(theirs.scores.min())
        assert min(least) < 0


def test_a_missing_checkpoint_is_downloaded_there(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import samgeo.samgeo as library

    asked: list[str] = []

    def fetch(model_type: str, *_: object) -> str:
        asked.append(model_type)
        return str(tiny_sam.checkpoint(weights))

    monkeypatch.setattr(library, "download_checkpoint", fetch)
    missing = str(tmp_path / "missing.pth")
    with until_mended("downloads weights in place of a path that is not there"):
        library.SamGeo(model_type=tiny_sam.MODEL_TYPE, checkpoint=missing, automatic=False, device="cpu")
        assert asked == [tiny_sam.MODEL_TYPE]


def test_published_hq_weights_are_not_what_answers_there(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Weights of plain SAM pass for HQ-SAM: what is missing stays random. Ours refuse them (test_sam.py)."""
    tiny_sam.register()
    from segment_anything_hq import build_sam

    state = torch.load(tiny_sam.checkpoint(weights, "sam"), weights_only=True)
    network = tiny_sam.build_hq()
    found = network.load_state_dict(state, strict=False)
    assert found.missing_keys
    source = Path(build_sam.__code__.co_filename).read_text()
    with until_mended("loads what fits and drops the rest"):
        assert "strict=False" in source


def test_the_tiny_encoder_forgets_its_position_biases_there(tmp_path: Path) -> None:
    """Built, set to evaluate, then filled: the biases that were cached before are those of an empty model."""
    from segment_anything_hq import sam_model_registry

    saved = sam_model_registry["vit_tiny"]()
    biases = {name: each for name, each in saved.named_parameters() if name.endswith("attention_biases")}
    with torch.no_grad():
        for each in biases.values():
            each.uniform_(-1, 1)
    path = tmp_path / "vit_tiny.pth"
    torch.save(saved.state_dict(), path)

    def cached(network: Any) -> list[bool]:
        parts = [part for part in network.image_encoder.modules() if hasattr(part, "attention_bias_idxs")]
        assert len(parts) == len(biases)
        return [bool((part.ab == part.attention_biases[:, part.attention_bias_idxs]).all()) for part in parts]

    backend = mask_backends.get("sam_hq", checkpoint=str(path), device="cpu", threads=1)
    assert all(cached(backend.load()._network))  # type: ignore[attr-defined]
    with until_mended("forgets the biases"):
        assert not any(cached(sam_model_registry["vit_tiny"](checkpoint=str(path))))


def prompt_of(geometry: Geometry) -> Prompt:
    return Prompt(prompt_id="p", label_id="p", kind="box", geometry=geometry)
