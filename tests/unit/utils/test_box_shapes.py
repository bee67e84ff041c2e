import cv2
import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely import affinity

from utils.box_shapes import CELLS, box_shapes, directions
from utils.types import ChipGrid

X, Y = 500_000.0, 5_200_000.0
JITTER = 0.1


def grid_of(side: int = 120, degrees: float = 0.0) -> ChipGrid:
    centre = Affine.translation(X, Y) @ Affine.rotation(degrees) @ Affine.scale(0.25, -0.25)
    turned = centre @ Affine.translation(-side / 2, -side / 2)
    return ChipGrid(epsg=32632, transform=tuple(turned)[:6], height=side, width=side)


def burnt(shape: shapely.Geometry, grid: ChipGrid) -> NDArray[np.bool_]:
    image = rasterio.features.rasterize(
        [shape], out_shape=(grid.height, grid.width), transform=grid.affine, dtype="uint8"
    )
    return image > 0


@pytest.mark.parametrize("grid_degrees", [0.0, 35.0, -80.0])
@pytest.mark.parametrize("degrees", [5.0, 30.0, 44.0, 75.0])
def test_the_direction_of_edges_is_found_in_the_crs(grid_degrees: float, degrees: float) -> None:
    grid = grid_of(degrees=grid_degrees)
    panel = affinity.rotate(shapely.box(X - 8, Y - 4, X + 8, Y + 4), degrees)
    fine = ChipGrid(
        epsg=grid.epsg, transform=tuple(grid.affine @ Affine.scale(1 / 8))[:6], height=8 * 120, width=8 * 120
    )
    shares = cv2.resize(burnt(panel, fine).astype(np.float32), (120, 120), interpolation=cv2.INTER_AREA)
    lightness = 70 - 50 * shares
    found = directions(lightness, np.ones_like(lightness), grid, 2)
    assert sum(share for _, share in found) == pytest.approx(1.0)
    apart = abs(np.degrees(found[0][0]) - degrees)
    assert min(apart, 90 - apart) < 3


def test_a_flat_image_has_directions_all_the_same() -> None:
    grid = grid_of()
    found = directions(np.zeros((120, 120), np.float32), np.zeros((120, 120), np.float32), grid, 2)
    assert len(found) == 2
    assert np.isfinite(found).all()


@pytest.mark.parametrize("degrees", [0.0, 20.0, 60.0])
@pytest.mark.parametrize("grid_degrees", [0.0, 50.0])
def test_the_rectangle_behind_a_box_is_likely(degrees: float, grid_degrees: float) -> None:
    grid = grid_of(degrees=grid_degrees)
    panel = affinity.rotate(shapely.box(X - 8, Y - 4, X + 8, Y + 4), degrees)
    valid = np.ones((120, 120), dtype=np.bool_)
    shapes = box_shapes(panel.bounds, [(np.radians(degrees), 1.0)], valid, grid, JITTER)
    assert shapes is not None
    likely = shapes.on_window(shapes.likely(), valid.shape)
    truth = burnt(panel, grid)
    assert likely.min() >= 0
    assert likely.max() <= 1.0001
    found = likely > 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.8


def test_evidence_moves_the_weight() -> None:
    grid = grid_of()
    valid = np.ones((120, 120), dtype=np.bool_)
    shapes = box_shapes((X - 6, Y - 6, X + 6, Y + 6), [(0.6, 0.5), (0.0, 0.5)], valid, grid, JITTER)
    assert shapes is not None
    corners = np.zeros((CELLS, CELLS), np.float32)
    corners[6:12, 6:12] = corners[24:30, 24:30] = 1
    plain, pulled = shapes.likely(), shapes.likely(corners.ravel())
    assert pulled[corners.ravel() > 0].mean() > plain[corners.ravel() > 0].mean()


def test_a_box_at_the_corner_of_a_chip_may_be_a_triangle() -> None:
    grid = grid_of()
    west, south, _, _ = grid.footprint.bounds
    triangle = shapely.Polygon([(west, south), (west + 14, south), (west, south + 14)])
    valid = np.ones((120, 120), dtype=np.bool_)
    shapes = box_shapes(triangle.bounds, [(np.pi / 4, 1.0)], valid, grid, JITTER)
    assert shapes is not None
    likely = shapes.on_window(shapes.likely(), valid.shape)
    truth = burnt(triangle, grid)
    inner = burnt(triangle.buffer(-2), grid)
    beyond = burnt(triangle.envelope, grid) & ~burnt(triangle.buffer(2), grid)
    assert likely[inner].mean() > 0.7
    assert likely[beyond].mean() < 0.3
    assert truth.any()


def test_nothing_visible_is_no_shape() -> None:
    grid = grid_of()
    assert box_shapes((X, Y, X + 5, Y + 5), [(0.0, 1.0)], np.zeros((120, 120), np.bool_), grid, JITTER) is None
    far = (X + 500, Y, X + 505, Y + 5)
    assert box_shapes(far, [(0.0, 1.0)], np.ones((120, 120), np.bool_), grid, JITTER) is None


@pytest.mark.parametrize("size", [(0.02, 0.02), (0.3, 25.0), (40.0, 40.0)])
def test_any_size_of_box_gives_shapes(size: tuple[float, float]) -> None:
    width, height = size
    grid = grid_of()
    bounds = (X - width / 2 + 0.1, Y - height / 2 + 0.1, X + width / 2 + 0.1, Y + height / 2 + 0.1)
    shapes = box_shapes(bounds, [(0.3, 0.6), (0.8, 0.4)], np.ones((120, 120), np.bool_), grid, JITTER)
    assert shapes is not None
    assert np.isfinite(shapes.likely()).all()
