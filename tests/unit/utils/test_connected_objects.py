"""Objects over blocks: closed as soon as they can be, joined however they meet."""

import numpy as np
import shapely
from scipy import ndimage

from dataflows._polygonisation import label_polygons
from utils.connected_objects import ConnectedObject, ObjectStream, joined


def stream(width: int, least_pixels: float = 0) -> ObjectStream:
    return ObjectStream(width, least_value=127, least_pixels=least_pixels, outliner=label_polygons)


def test_an_object_is_given_back_when_the_next_row_of_blocks_starts() -> None:
    data = np.zeros((10, 20), np.uint8)
    data[2:5, 2:5] = 200
    data[8:10, 10:14] = 200
    taken = stream(20)
    assert not list(taken.take(data, 0, 0, "a"))
    [first] = taken.take(np.zeros((10, 20), np.uint8), 10, 0, "b")
    assert (first.row, first.column, first.pixels, first.block_id) == (2, 2, 9, "a")
    [second] = taken.rest()
    assert (second.row, second.column, second.pixels) == (8, 10, 8)


def test_what_stays_open_does_not_grow_with_the_raster() -> None:
    taken, strip = stream(64), np.zeros((16, 64), np.uint8)
    strip[4:8, ::8] = 200
    strip[:, 60] = 200
    most = 0
    for top in range(0, 16 * 50, 16):
        for left in (0, 32):
            list(taken.take(strip[:, left : left + 32], top, left, f"{top}/{left}"))
        most = max(most, len(taken._parts), len(taken._parent))
    # those of one row and the long one
    assert most <= 2 * 9
    [longest] = [one for one in taken.rest() if one.column == 60]
    assert longest.outline.equals(shapely.box(60, 0, 61, 800))


def test_a_spiral_of_single_pixel_blocks_is_one_object() -> None:
    spiral = np.zeros((9, 9), np.uint8)
    spiral[0, :] = spiral[:, 8] = spiral[8, :] = spiral[2:, 0] = spiral[2, :7] = spiral[2:7, 6] = spiral[6, 2:7] = 200
    assert ndimage.label(spiral, np.ones((3, 3)))[1] == 1
    taken = stream(9)
    found = [
        one
        for (row, column), value in np.ndenumerate(spiral)
        for one in taken.take(np.array([[value]]), row, column, "x")
    ]
    [whole] = [*found, *taken.rest()]
    assert whole.pixels == (spiral > 0).sum() == whole.outline.area
    assert (whole.row, whole.column) == (0, 0)


def test_least_pixels_counts_the_whole_object_and_not_its_parts() -> None:
    data = np.zeros((4, 8), np.uint8)
    data[1, 2:6] = 200
    taken = stream(8, least_pixels=4)
    assert not [*taken.take(data[:, :4], 0, 0, "a"), *taken.take(data[:, 4:], 0, 4, "b")]
    assert [one.pixels for one in taken.rest()] == [4]


def test_statistics_of_a_histogram_are_those_of_the_values() -> None:
    values = np.random.default_rng(0).integers(127, 255, 101)
    one = ConnectedObject(
        row=0, column=0, block_id="a", histogram=np.bincount(values, minlength=256), pieces=(shapely.box(0, 0, 1, 1),)
    )
    assert one.mean() == values.mean()
    assert one.highest == values.max()
    for share in (0.1, 0.5, 0.9, 1.0):
        assert one.quantile(share) == np.percentile(values, 100 * share, method="inverted_cdf")
    assert joined([one, one]).pixels == 202
