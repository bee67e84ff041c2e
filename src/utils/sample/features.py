"""What a landscape consists of, and the sketch that collects it while it is laid out."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from utils.sample.geometry import Ring
from utils.sample.spec import ACQUISITIONS, SampleSize
from utils.sample.spectra import MATERIALS, Spectrum
from utils.sample.texture import Grain, ModuleGrid, Stripes

Epochs = tuple[bool, bool]
"""Whether a thing is there at each acquisition."""
ALWAYS: Epochs = (True, True)

PvKind = Literal["roof", "ground"]
ConfuserKind = Literal["dark_roof", "greenhouse", "car_park", "plastic_cover", "water", "shadow"]


class Layer(IntEnum):
    """Painting order, lowest first. Surfaces above ``SHADOW`` are raised: cast shadows do not fall on them."""

    LAND = 0
    FIELD = 1
    GROUND = 2
    WATER = 3
    PAVED = 4
    MARKING = 5
    LOW = 6
    SHADOW = 7
    ROOF = 8
    ROOF_DETAIL = 9
    ROOF_SHADOW = 10
    ROOF_OBJECT = 11
    MODULES = 12
    CANOPY = 13
    CANOPY_LIT = 14


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """One painted polygon with one spectrum."""

    outline: Polygon
    """Ground-plane outline, UTM metres, no holes."""
    spectrum: Spectrum
    """Reflectance of a flat, sunlit piece of it, shape (12,)."""
    layer: Layer
    """When it is painted."""
    grain: Grain = field(default_factory=Grain)
    """Noise of its texture."""
    stripes: tuple[Stripes, ...] = ()
    """Stripe patterns on it."""
    modules: ModuleGrid | None = None
    """Photovoltaic modules on it."""
    normal: tuple[float, float, float] = (0.0, 0.0, 1.0)
    """Unit normal, east, north, up."""
    height_m: float = 0.0
    """Height of what casts its shadow; 0 casts none."""
    water: bool = False
    """Whether scene classification calls it water."""
    epochs: Epochs = ALWAYS
    """Whether it is there at each acquisition."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Building:
    """One building of the context table."""

    footprint: Polygon
    """Outline, UTM metres."""
    kind: str
    """``house``, ``apartments``, ``barn``, ``hall``, ``greenhouse``, ``shed`` or ``station``."""
    height_m: float
    """Height of the ridge above ground, metres."""
    dark: bool
    """Whether its roof is dark: slate, bitumen or anthracite."""
    epochs: Epochs = ALWAYS
    """Whether it stands at each acquisition."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PvArray:
    """One contiguous photovoltaic surface: an array on a roof, or one table of a ground-mounted park."""

    outline: Polygon
    """Exact outline on the ground plane, UTM metres."""
    kind: PvKind
    """On a roof or on the ground."""
    site: str
    """Id shared by the arrays of one roof or one park."""
    cell: Literal["poly", "mono"]
    """Poly- or monocrystalline."""
    built: date
    """Day it was commissioned."""

    @property
    def epochs(self) -> Epochs:
        """Whether it is there at each acquisition."""
        return epochs_since(self.built)


@dataclass(frozen=True, kw_only=True, eq=False)
class Park:
    """A ground-mounted photovoltaic park."""

    site: str
    """Id its tables carry."""
    fence: Polygon
    """What its fence encloses, UTM metres."""
    built: date
    """Day it was commissioned."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Confuser:
    """Something that looks like photovoltaics from above and is none."""

    outline: Polygon
    """Outline, UTM metres."""
    kind: ConfuserKind
    """What it really is."""
    epochs: Epochs = ALWAYS
    """Whether it is there at each acquisition."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """One land-cover patch of the context table."""

    outline: Polygon
    """Outline, UTM metres."""
    landcover: str
    """``cropland``, ``grassland``, ``forest``, ``water``, ``built_up`` or ``road``."""


TREE = np.dtype([("x", "f8"), ("y", "f8"), ("radius_m", "f4"), ("height_m", "f4"), ("conifer", "?")])
"""One tree: centre in UTM metres, crown radius, height, whether it is a conifer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Landscape:
    """Everything that stands on the sample region, on both dates."""

    size: SampleSize
    """Its size."""
    seed: int
    """Its seed."""
    surfaces: tuple[Surface, ...]
    """What the painter paints, in no order."""
    trees: NDArray[np.void]
    """Trees, dtype :data:`TREE`."""
    buildings: tuple[Building, ...]
    """Buildings."""
    arrays: tuple[PvArray, ...]
    """Photovoltaic arrays, all inside the VHR area."""
    parks: tuple[Park, ...]
    """Photovoltaic parks."""
    confusers: tuple[Confuser, ...]
    """Confusers that touch the VHR area."""
    patches: tuple[Patch, ...]
    """Land cover, without gaps."""


@dataclass(kw_only=True)
class Sketch:
    """A landscape in the making; ``landscape`` modules add to it."""

    vhr_area: Polygon
    """Photovoltaics may only stand inside."""
    river: Polygon = field(default_factory=Polygon)
    """Where nothing is built."""
    surfaces: list[Surface] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)
    arrays: list[PvArray] = field(default_factory=list)
    parks: list[Park] = field(default_factory=list)
    confusers: list[Confuser] = field(default_factory=list)
    patches: list[Patch] = field(default_factory=list)
    trees: list[NDArray[np.void]] = field(default_factory=list)

    def paint(
        self,
        outline: Polygon,
        what: str | Spectrum,
        layer: Layer,
        *,
        grain: Grain | None = None,
        stripes: tuple[Stripes, ...] = (),
        modules: ModuleGrid | None = None,
        normal: tuple[float, float, float] = (0.0, 0.0, 1.0),
        height_m: float = 0.0,
        water: bool = False,
        epochs: Epochs = ALWAYS,
    ) -> None:
        """Add one surface; ``what`` is a spectrum or the name of a material."""
        if outline.is_empty:
            return
        self.surfaces.append(
            Surface(
                outline=outline,
                spectrum=MATERIALS[what] if isinstance(what, str) else what,
                layer=layer,
                grain=grain or Grain(),
                stripes=stripes,
                modules=modules,
                normal=normal,
                height_m=height_m,
                water=water,
                epochs=epochs,
            )
        )

    def plant(self, points: Ring, rng: np.random.Generator, *, radius: tuple[float, float], conifers: float) -> None:
        """Add a tree at every point, shape (n, 2).

        Args:
            points: centres.
            rng: random stream.
            radius: smallest and largest crown radius, metres.
            conifers: share of conifers.
        """
        trees = np.zeros(len(points), TREE)
        trees["x"], trees["y"] = points[:, 0], points[:, 1]
        trees["radius_m"] = rng.uniform(*radius, len(points))
        trees["conifer"] = rng.random(len(points)) < conifers
        slender = np.where(trees["conifer"], 5.0, 2.6)
        trees["height_m"] = np.clip(trees["radius_m"] * slender * rng.uniform(0.8, 1.2, len(points)), 1.5, 26.0)
        self.trees.append(trees)


def epochs_since(built: date) -> Epochs:
    """Whether something built on a day stands at each acquisition."""
    first, second = (acquisition.day >= built for acquisition in ACQUISITIONS)
    return first, second


def commissioning_day(rng: np.random.Generator, *, new_share: float = 0.22) -> date:
    """A day of commissioning: between the two acquisitions with probability ``new_share``, else in the years before."""
    if rng.random() < new_share:
        start, end = date(2021, 8, 1), date(2023, 4, 30)
    else:
        start, end = date(2007, 3, 1), date(2021, 4, 30)
    return start + timedelta(days=int(rng.integers((end - start).days)))
