"""Rasters kept open between reads, the least recently used closed first."""

from collections import OrderedDict

import rasterio


class OpenRasters:
    """At most ``limit`` open rasters."""

    def __init__(self, limit: int = 64) -> None:
        """Nothing is open yet."""
        self._limit = limit
        self._handles: OrderedDict[str, rasterio.DatasetReader] = OrderedDict()

    def __getitem__(self, href: str) -> rasterio.DatasetReader:
        """The raster at ``href``, opened if need be.

        Raises:
            RasterioError: it cannot be opened.
        """
        if href in self._handles:
            self._handles.move_to_end(href)
            return self._handles[href]
        while len(self._handles) >= self._limit:
            self._handles.popitem(last=False)[1].close()
        self._handles[href] = rasterio.open(href)
        return self._handles[href]

    def __len__(self) -> int:
        """How many are open."""
        return len(self._handles)

    def forget(self, href: str) -> None:
        """Close one raster, whose file may have changed."""
        if href in self._handles:
            self._handles.pop(href).close()

    def close(self) -> None:
        """Close them all."""
        while self._handles:
            self._handles.popitem()[1].close()
