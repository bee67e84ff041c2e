"""S2 leaf cells by one fused, compiled loop: the arithmetic of ``utils.cells`` point by point, without temporaries.

Importing this module imports numba (about a second), so ``utils.cells`` does it only for arrays that repay it.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

_SIDE = 1 << 30


@numba.njit("float64(float64)", inline="always", error_model="numpy")
def _st(uv: float) -> float:
    root = 0.5 * math.sqrt(1.0 + 3.0 * abs(uv))
    return root if uv >= 0 else 1.0 - root


@numba.njit("int64(float64)", inline="always")
def _index(place: float) -> int:
    return min(max(math.floor(place * _SIDE), 0), _SIDE - 1)


# No fastmath: fused or reordered operations would move points on cell edges. No cache: numba refuses to compile where
# neither this folder nor the home can be written, and compiling takes about as long as importing numba.
@numba.njit("void(float64[::1], float64[::1], int64[::1], uint64, uint64[::1])", nogil=True, error_model="numpy")
def fill_cells(
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
    table: NDArray[np.int64],
    marker: np.uint64,
    cells: NDArray[np.uint64],
) -> None:
    """Write the S2 cell of each position (degrees, checked) into ``cells``; it holds the interpreter lock nowhere.

    Args:
        lon: longitudes, degrees, shape (n,).
        lat: latitudes, degrees, shape (n,).
        table: four steps of the Hilbert curve at once, shape (1024,), as ``utils.cells`` makes it.
        marker: lowest set bit of the ids of the wanted level.
        cells: ids, shape (n,), overwritten.
    """
    radians = math.pi / 180
    mask = ~((marker << np.uint64(1)) - np.uint64(1))
    for k in range(len(lon)):
        phi, theta = lat[k] * radians, lon[k] * radians
        cos_phi = math.cos(phi)
        x, y, z = math.cos(theta) * cos_phi, math.sin(theta) * cos_phi, math.sin(phi)
        ax, ay, az = abs(x), abs(y), abs(z)
        # s2coords.h, GetFace and ValidFaceXYZtoUV; ties go to the later axis
        if ax > ay and ax > az:
            face, u, v = (0, y / x, z / x) if x >= 0 else (3, z / x, y / x)
        elif ay >= ax and ay > az:
            face, u, v = (1, -x / y, z / y) if y >= 0 else (4, z / y, -x / y)
        else:
            face, u, v = (2, -x / z, -y / z) if z >= 0 else (5, -y / z, -x / z)
        i, j = _index(_st(u)), _index(_st(v))
        position, turned = np.uint64(0), face & 1
        for step in range(7, -1, -1):
            offset = 4 * step
            found = table[(((i >> offset) & 15) << 6) | (((j >> offset) & 15) << 2) | turned]
            position = (position << np.uint64(8)) | np.uint64(found >> 2)
            turned = found & 3
        leaf = (np.uint64(face) << np.uint64(61)) | (position << np.uint64(1)) | np.uint64(1)
        cells[k] = (leaf & mask) | marker
