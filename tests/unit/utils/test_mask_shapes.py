import cv2
import numpy as np
import rasterio.features
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from utils.mask_shapes import filled, largest_pieces, morphed, piece_at
from utils.types import ChipGrid

images = arrays(np.bool_, (9, 11))


@given(images)
def test_filling_leaves_what_the_outer_rings_enclose(data: NDArray[np.bool_]) -> None:
    found = rasterio.features.shapes(data.astype(np.uint8), mask=data, connectivity=8)
    shells = [shapely.Polygon(shape["coordinates"][0]) for shape, _ in found]
    burnt_shells = rasterio.features.rasterize(shells, out_shape=data.shape) if shells else np.zeros(data.shape)
    assert (filled(data.astype(np.uint8)) == (burnt_shells > 0)).all()


@given(images, st.floats(0, 1))
def test_pieces_are_kept_whole_by_size(data: NDArray[np.bool_], share: float) -> None:
    kept = largest_pieces(data, share)
    found = rasterio.features.shapes(data.astype(np.uint8), mask=data, connectivity=8)
    pieces = [rasterio.features.rasterize([shape], out_shape=data.shape) > 0 for shape, _ in found]
    largest = max((piece.sum() for piece in pieces), default=0)
    for piece in pieces:
        assert (kept[piece] == (piece.sum() >= share * largest)).all()
    assert not (kept & ~data).any()


def test_piece_at_takes_the_one_under_the_core() -> None:
    data = np.zeros((6, 12), dtype=np.bool_)
    data[:, :5] = data[2:4, 8:10] = True
    core = np.zeros_like(data)
    core[3, 7:10] = True
    assert (piece_at(data, core) == (data & (np.arange(12) >= 8))).all()
    assert not piece_at(data, np.zeros_like(data)).any()


def test_radius_is_ground_size_per_axis() -> None:
    grid = ChipGrid(epsg=32632, transform=(0.5, 0.0, 5e5, 0.0, -1.0, 5.2e6), height=21, width=21)
    dot = np.zeros((21, 21), dtype=np.uint8)
    dot[10, 10] = 1
    grown = morphed(dot, cv2.MORPH_DILATE, 2.0, grid)
    assert grown.any(axis=0).sum() == 9
    assert grown.any(axis=1).sum() == 5
