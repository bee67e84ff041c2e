"""Label arrays as polygons along pixel edges."""

import warnings
from collections import defaultdict
from collections.abc import Mapping

from affine import Affine
from rasterio.features import shapes
from shapely import Geometry, Polygon

from utils.connected_objects import Labels


def label_polygons(labels: Labels, top: int, left: int) -> Mapping[int, list[Geometry]]:
    """Label → its polygons, x the column and y the row in the search raster, holes kept.

    Every polygon is valid: the pixels of one are connected by their edges, and those of a label that touch at corners
    alone come as several (eight-connected tracing gives rings that touch themselves).

    Args:
        labels: 0 for background, shape (rows, columns).
        top: row of the first pixel in the search raster.
        left: column of the first pixel.
    """
    found: defaultdict[int, list[Geometry]] = defaultdict(list)
    with warnings.catch_warnings():
        # rasterio 1.4 multiplies matrices of affine 3 by *
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        traced = shapes(labels, mask=labels > 0, connectivity=4, transform=Affine.translation(left, top))
        for shape, value in traced:
            shell, *holes = shape["coordinates"]
            found[int(value)].append(Polygon(shell, holes))
    return found
