"""The nouns every stage speaks in, and the Protocols of the two families (imagery sources, mask backends)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from affine import Affine
from numpy.typing import NDArray
from shapely import Geometry, Polygon, box

from utils.errors import AegirError

Transform = tuple[float, float, float, float, float, float]
"""Affine coefficients ``(a, b, c, d, e, f)``: ``x = a·col + b·row + c``, ``y = d·col + e·row + f``
with ``(col, row)`` counted from the upper-left corner of the upper-left pixel (rasterio's and STAC's order)."""

PromptKind = Literal["point", "box", "polygon"]
Verdict = Literal["accept", "review", "reject", "not_in_chip"]

S2_L2A_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""The 12 Sentinel-2 bands of a Level-2A product, in the order they are stored."""

RGB_BANDS = ("red", "green", "blue")
"""Bands of VHR imagery, in stored order."""

IGNORE = 255
"""Mask value of pixels that teach nothing: nodata, rejected or under review."""


@dataclass(frozen=True, kw_only=True)
class ChipProfile:
    """What every row of one ``training_data`` table has in common."""

    height: int = 256
    """VHR chip rows, pixels."""
    width: int = 256
    """VHR chip columns, pixels."""
    gsd_m: float = 0.3
    """VHR ground sample distance, metres per pixel."""
    msi_bands: tuple[str, ...] = S2_L2A_BANDS
    """Multispectral band names in stored order; empty for a table without multispectral chips."""
    msi_height: int = 64
    """Multispectral chip rows, pixels."""
    msi_width: int = 64
    """Multispectral chip columns, pixels."""
    msi_gsd_m: float = 10.0
    """Multispectral ground sample distance, metres per pixel."""

    @property
    def has_msi(self) -> bool:
        """Whether rows carry a multispectral chip."""
        return bool(self.msi_bands)


@dataclass(frozen=True, kw_only=True)
class ChipGrid:
    """A pixel grid on the ground: shape, affine transform and CRS in one value."""

    epsg: int
    """EPSG code of the CRS of ``transform``; chips use UTM zones (metres)."""
    transform: Transform
    """Affine coefficients ``(a, b, c, d, e, f)``, pixel corner to CRS units."""
    height: int
    """Rows."""
    width: int
    """Columns."""

    @property
    def affine(self) -> Affine:
        """The transform as an ``affine.Affine``."""
        return Affine(*self.transform)

    @property
    def gsd_m(self) -> float:
        """Ground sample distance along a column, CRS units (metres in UTM)."""
        a, _, _, d, _, _ = self.transform
        return float(np.hypot(a, d))

    @property
    def centre(self) -> tuple[float, float]:
        """``(x, y)`` of the grid's centre in CRS units."""
        x, y = self.affine @ (self.width / 2, self.height / 2)
        return float(x), float(y)

    @property
    def footprint(self) -> Polygon:
        """The outline of all pixels, in CRS units."""
        corners = ((0, 0), (self.width, 0), (self.width, self.height), (0, self.height))
        return Polygon([self.affine @ corner for corner in corners])

    def padded(self, pixels: int) -> "ChipGrid":
        """The grid grown by ``pixels`` on all four sides (shrunk when negative)."""
        moved = self.affine @ Affine.translation(-pixels, -pixels)
        coefficients = (moved.a, moved.b, moved.c, moved.d, moved.e, moved.f)
        return ChipGrid(
            epsg=self.epsg, transform=coefficients, height=self.height + 2 * pixels, width=self.width + 2 * pixels
        )

    @staticmethod
    def around(x: float, y: float, *, epsg: int, gsd_m: float, height: int, width: int) -> "ChipGrid":
        """The north-up grid of ``height`` × ``width`` pixels centred on ``(x, y)``, in CRS units."""
        left, top = x - width * gsd_m / 2, y + height * gsd_m / 2
        return ChipGrid(epsg=epsg, transform=(gsd_m, 0.0, left, 0.0, -gsd_m, top), height=height, width=width)


@dataclass(frozen=True, kw_only=True, eq=False)
class RasterChip:
    """Pixels with everything needed to place and read them."""

    data: NDArray[np.generic]
    """Pixels, shape (bands, rows, columns)."""
    valid: NDArray[np.bool_]
    """True where a pixel holds data in every band, shape (rows, columns)."""
    grid: ChipGrid
    """Where the pixels lie."""
    bands: tuple[str, ...]
    """Band names, one per plane of ``data``."""
    source: str
    """Name of the imagery source that read it."""
    scene_ids: tuple[str, ...]
    """Ids of the scenes whose pixels are in it, most used first."""
    sensor: str
    """Platform or camera."""
    acquired_at: datetime
    """Acquisition time of the first of ``scene_ids``, timezone-aware."""
    scl: NDArray[np.uint8] | None = None
    """Sentinel-2 scene classification on the same grid, shape (rows, columns); None for imagery without one."""

    def __post_init__(self) -> None:
        """Refuse arrays that disagree with the grid or with the band names."""
        shape = (self.grid.height, self.grid.width)
        if self.data.shape != (len(self.bands), *shape):
            raise ValueError(f"data has shape {self.data.shape}, expected {(len(self.bands), *shape)}")
        if self.valid.shape != shape or self.valid.dtype != np.bool_:
            raise ValueError(f"valid has shape {self.valid.shape} and type {self.valid.dtype}, expected bool {shape}")
        if self.scl is not None and self.scl.shape != shape:
            raise ValueError(f"scl has shape {self.scl.shape}, expected {shape}")

    @property
    def valid_fraction(self) -> float:
        """Share of pixels that hold data, 0 to 1."""
        return float(self.valid.mean())


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One weak label as a segmentation prompt on one chip."""

    prompt_id: str
    """Deterministic id of (label, chip, kind)."""
    label_id: str
    """Id of the label it comes from."""
    kind: PromptKind
    """What the label is."""
    geometry: Geometry
    """Point, box or polygon in the CRS of the chip's grid."""
    dataset: str = ""
    """Dataset of the label."""
    positive: tuple[tuple[float, float], ...] = ()
    """Points on the object, ``(x, y)`` in the CRS of the chip's grid; a bare point prompt needs none."""
    negative: tuple[tuple[float, float], ...] = ()
    """Points off the object, likewise."""
    previous: "Mask | None" = None
    """An earlier mask of the object to start from, on any grid of the same CRS."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """``(min x, min y, max x, max y)`` in CRS units."""
        west, south, east, north = self.geometry.bounds
        return float(west), float(south), float(east), float(north)

    @property
    def box(self) -> Polygon:
        """The upright bounding rectangle in CRS units."""
        return box(*self.geometry.bounds)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mask:
    """One object outlined on a chip."""

    data: NDArray[np.bool_]
    """True inside the object, shape (rows, columns)."""
    grid: ChipGrid
    """Where the pixels lie."""
    prompt_id: str
    """The prompt it answers."""
    scores: dict[str, float] = field(default_factory=dict)
    """Named scores, each in [0, 1], higher is better: ``predicted_iou``, ``stability``, ``box_agreement``, …"""
    flags: tuple[str, ...] = ()
    """What is special about it: ``clipped``, ``point_only``, ``not_in_chip``, ``empty``."""

    def __post_init__(self) -> None:
        """Refuse an array that disagrees with the grid."""
        if self.data.shape != (self.grid.height, self.grid.width) or self.data.dtype != np.bool_:
            raise ValueError(f"mask is {self.data.dtype}{self.data.shape}, expected bool of the grid's shape")


@runtime_checkable
class ImagerySource(Protocol):
    """Scenes of one kind of imagery, catalogued once and read window by window."""

    name: str
    """Registry name."""

    def scenes(self) -> pa.Table:
        """Catalogue of what can be read, schema ``store.schemas.SCENES``, the scene on top first."""
        ...

    def unreadable(self) -> dict[str, str]:
        """Place → reason for everything that looks like imagery and cannot be catalogued."""
        ...

    def read(self, grid: ChipGrid, bands: Sequence[str], *, scene_ids: Sequence[str] | None = None) -> RasterChip:
        """Pixels on ``grid`` from every scene that touches it.

        The first scene is on top: in the order of ``scenes()``, or of ``scene_ids``.
        Sentinel-2 digital numbers come as reflectance × 10000 with the baseline offset removed.

        Raises:
            NoImageryError: no scene covers the grid.
            RasterReadError: a raster is missing, corrupt or truncated.
            BandError: a raster lacks one of ``bands``.
        """
        ...


@runtime_checkable
class MaskBackend(Protocol):
    """Turns prompts into masks, nothing else: no refinement, no weights download, no files, no plots."""

    name: str
    """Registry name."""

    def segment(self, chip: RasterChip, prompts: Sequence[Prompt]) -> list[Mask]:
        """One mask per prompt, in the prompts' order, on the chip's grid.

        ``chip`` holds uint8 R, G, B with shape (3, rows, columns); prompts are in the CRS of its grid.
        A prompt outside the chip gives an empty mask flagged ``not_in_chip``.
        """
        ...


@runtime_checkable
class BatchedBackend(Protocol):
    """A mask backend that answers many chips together faster than one by one."""

    def segment_many(
        self, chips: Sequence[RasterChip], prompts: Sequence[Sequence[Prompt]]
    ) -> list[list[Mask] | AegirError]:
        """Per chip what :meth:`MaskBackend.segment` gives, or the error it raises."""
        ...


@runtime_checkable
class WeightedBackend(Protocol):
    """A mask backend with trained weights in files; backends without weights do not have this method."""

    @classmethod
    def weights_files(cls, **options: object) -> Mapping[str, str]:
        """Name → local file of weights that a backend with these options loads; nothing is loaded to answer.

        Their hashes are part of the recipe of masks: other weights, other masks.
        """
        ...


@runtime_checkable
class LoadableBackend(Protocol):
    """A mask backend whose model is loaded when it is first used, or when it is asked to."""

    def load(self) -> object:
        """Load the model.

        Raises:
            AegirError: it cannot be loaded.
        """
        ...

    def unload(self) -> None:
        """Let go of the model's memory; the next use loads it again."""
        ...
