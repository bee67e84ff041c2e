"""S2 leaf cells by one fused, compiled loop: the arithmetic of ``utils.cells`` point by point, without temporaries.

Importing this module imports numba (about a second), so ``utils.cells`` does it only for arrays that repay it.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

_SIDE = 1 << 30
_ZERO, _TWO, _THREE, _SIX, _EIGHT, _LOW4 = (np.uint64(number) for number in (0, 2, 3, 6, 8, 15))
# columns of Arrow tables are read-only, and numba tells such arrays apart by type
_IN = numba.types.Array(numba.float64, 1, "C", readonly=True)
_TABLE = numba.types.Array(numba.uint64, 1, "C", readonly=True)


@numba.njit("float64(float64)", inline="always", error_model="numpy")
def _st(uv: float) -> float:
    root = 0.5 * math.sqrt(1.0 + 3.0 * abs(uv))
    return root if uv >= 0 else 1.0 - root


@numba.njit("uint64(float64)", inline="always")
def _index(place: float) -> np.uint64:
    # 0 ≤ place ≤ 1, where truncation is the floor
    return np.uint64(min(int(place * _SIDE), _SIDE - 1))


# No fastmath: fused or reordered operations would move points on cell edges. No cache: numba refuses to compile where
# neither this folder nor the home can be written, and compiling takes about as long as importing numba.
@numba.njit(numba.void(_IN, _IN, _TABLE, numba.uint64, numba.uint64[::1]), nogil=True, error_model="numpy")
def fill_cells(
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
    table: NDArray[np.uint64],
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
        # s2coords.h, GetFace and ValidFaceXYZtoUV, as selections instead of branches, which random positions would
        # mispredict; ties go to the later axis
        on_x = ax > ay and ax > az
        on_z = not on_x and az >= ay
        along = x if on_x else (z if on_z else y)
        p, q = (y if on_x else -x) / along, (-y if on_z else z) / along
        back = along < 0
        u, v = (q if back else p), (p if back else q)
        face = (0 if on_x else (2 if on_z else 1)) + (3 if back else 0)
        i, j = _index(_st(u)), _index(_st(v))
        # unsigned indices spare numba's test for negative ones
        position, turned = _ZERO, np.uint64(face & 1)
        for step in range(7, -1, -1):
            offset = np.uint64(4 * step)
            found = table[(((i >> offset) & _LOW4) << _SIX) | (((j >> offset) & _LOW4) << _TWO) | turned]
            position = (position << _EIGHT) | (found >> _TWO)
            turned = found & _THREE
        leaf = (np.uint64(face) << np.uint64(61)) | (position << np.uint64(1)) | np.uint64(1)
        cells[k] = (leaf & mask) | marker
