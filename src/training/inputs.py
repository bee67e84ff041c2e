"""What a model sees: rows of ``training_data`` as channels and targets, in one value a checkpoint can carry."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from utils.area import FRACTION_SCALE
from utils.errors import ConfigError, UnknownNameError
from utils.indices import INDICES, spectral_index
from utils.radiometry import REFLECTANCE_SCALE
from utils.types import IGNORE, RGB_BANDS, ChipProfile

Mode = Literal["vhr", "msi"]
MODES: Final = ("vhr", "msi")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Which pixels of a row are the input, which are the target, and how they are read."""

    mode: Mode
    """``vhr``: RGB chip and its mask; ``msi``: multispectral window and its area-fraction mask."""
    profile: ChipProfile
    """Profile of the table."""
    bands: tuple[str, ...]
    """Channels read from the chip, in order: red, green, blue in ``vhr``, Sentinel-2 names in ``msi``."""
    indices: tuple[str, ...] = ()
    """Spectral indices appended as channels, in order (``msi`` only)."""
    msi_window_px: int = 12
    """Side of the central multispectral window, pixels."""
    msi_positive_fraction: float = 0.25
    """Area fraction from which a multispectral pixel counts as PV, 0 to 1."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names in the order the model takes them."""
        return self.bands + self.indices

    @property
    def columns(self) -> list[str]:
        """Columns of ``training_data`` that hold image and target."""
        return ["vhr_image_chip", "generated_mask"] if self.mode == "vhr" else ["msi_image_chip", "msi_mask"]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the input and of the target, pixels."""
        if self.mode == "vhr":
            return self.profile.height, self.profile.width
        return self.msi_window_px, self.msi_window_px

    @property
    def size_m(self) -> tuple[float, float]:
        """Ground size of the input as (width, height), metres."""
        gsd_m = self.profile.gsd_m if self.mode == "vhr" else self.profile.msi_gsd_m
        height, width = self.shape
        return width * gsd_m, height * gsd_m

    @property
    def window(self) -> tuple[slice, slice]:
        """Row and column slices of the input within the stored chip."""
        if self.mode == "vhr":
            return slice(None), slice(None)
        top = (self.profile.msi_height - self.msi_window_px) // 2
        left = (self.profile.msi_width - self.msi_window_px) // 2
        return slice(top, top + self.msi_window_px), slice(left, left + self.msi_window_px)

    def as_dict(self) -> dict[str, Any]:
        """The spec in plain types, as checkpoints and loggers keep it."""
        plain = asdict(self)
        plain["profile"]["msi_bands"] = list(self.profile.msi_bands)
        return plain | {"bands": list(self.bands), "indices": list(self.indices)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "InputSpec":
        """The inverse of :meth:`as_dict`."""
        profile = ChipProfile(**{**values["profile"], "msi_bands": tuple(values["profile"]["msi_bands"])})
        names = {"bands": tuple(values["bands"]), "indices": tuple(values["indices"])}
        return InputSpec(**{**values, **names, "profile": profile})

    def images(self, rows: pa.Table) -> NDArray[np.generic]:
        """Channels of ``rows``, shape (rows, channels, height, width).

        ``vhr``: uint8, a view of the Arrow memory (read-only). ``msi``: float32 reflectance and indices; NaN is nodata.
        """
        if self.mode == "vhr":
            return _tensor(rows, "vhr_image_chip")
        return self._reflectance(_tensor(rows, "msi_image_chip"))

    def targets(self, rows: pa.Table) -> NDArray[np.uint8]:
        """Targets of ``rows``, uint8 of shape (rows, height, width): 0 background, 1 PV, 255 ignore."""
        if self.mode == "vhr":
            return _masks(rows, "generated_mask", self.shape)
        whole = _masks(rows, "msi_mask", (self.profile.msi_height, self.profile.msi_width))
        fraction = whole[(slice(None), *self.window)]
        positive = fraction >= np.ceil(self.msi_positive_fraction * FRACTION_SCALE)
        return np.where(fraction == IGNORE, np.uint8(IGNORE), positive.astype(np.uint8))

    def _reflectance(self, chips: NDArray[np.generic]) -> NDArray[np.float32]:
        digital = chips[(slice(None), slice(None), *self.window)]
        return reflectance_channels(digital, self.profile.msi_bands, self.bands, self.indices)


def reflectance_channels(
    digital: NDArray[np.generic], stored: Sequence[str], bands: Sequence[str], indices: Sequence[str]
) -> NDArray[np.float32]:
    """Channels of a multispectral model: reflectance of ``bands``, then spectral indices; NaN is nodata.

    Args:
        digital: reflectance × 10000, 0 is nodata, shape (n, stored bands, rows, columns).
        stored: names of its bands.
        bands: bands that are channels, in order.
        indices: spectral indices that are channels after them.

    Returns:
        float32 of shape (n, bands and indices, rows, columns).
    """
    planes = np.where(digital == 0, np.float32(np.nan), digital.astype(np.float32) / np.float32(REFLECTANCE_SCALE))
    named = {band: planes[:, position] for position, band in enumerate(stored)}
    extra = [spectral_index(name, named) for name in indices]
    return np.stack([named[band] for band in bands] + extra, axis=1).astype(np.float32, copy=False)


def input_spec(
    profile: ChipProfile,
    mode: str,
    *,
    bands: Sequence[str] | None = None,
    indices: Sequence[str] = (),
    msi_window_px: int = 12,
    msi_positive_fraction: float = 0.25,
) -> InputSpec:
    """A spec that fits ``profile``; ``bands`` None means all multispectral bands of the table.

    Raises:
        UnknownNameError: unknown mode, band or index; the message lists what exists.
        ConfigError: settings contradict each other or the profile.
    """
    if mode not in MODES:
        raise UnknownNameError("training mode", mode, list(MODES))
    if mode == "vhr":
        if bands or indices:
            raise ConfigError("data.bands and data.indices choose multispectral channels: set data.mode to msi")
        return InputSpec(mode="vhr", profile=profile, bands=RGB_BANDS)
    chosen = tuple(profile.msi_bands if bands is None else bands)
    spec = InputSpec(
        mode="msi",
        profile=profile,
        bands=chosen,
        indices=tuple(indices),
        msi_window_px=msi_window_px,
        msi_positive_fraction=msi_positive_fraction,
    )
    _check_msi(spec)
    return spec


def _check_msi(spec: InputSpec) -> None:
    profile = spec.profile
    if not profile.has_msi:
        raise ConfigError("the table holds no multispectral chips, so mode msi cannot run on it; use mode vhr")
    _check_names("band", spec.bands, profile.msi_bands)
    _check_names("spectral index", spec.indices, tuple(INDICES))
    for name in spec.indices:
        _check_names(f"band (needed by {name})", INDICES[name].bands, profile.msi_bands)
    if not spec.channels:
        raise ConfigError("mode msi needs at least one band or index; leave data.bands out to use every band")
    if not 0 < spec.msi_window_px <= min(profile.msi_height, profile.msi_width):
        shape = f"{profile.msi_height} × {profile.msi_width}"
        raise ConfigError(f"msi_window_px is {spec.msi_window_px}; multispectral chips have {shape} pixels")
    if not 0 < spec.msi_positive_fraction <= 1:
        raise ConfigError(f"msi_positive_fraction is {spec.msi_positive_fraction}; it is an area fraction in (0, 1]")


def _check_names(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, list(known))
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"{kind} named twice: {', '.join(repeated)}")


def _tensor(rows: pa.Table, column: str) -> NDArray[np.generic]:
    pixels: NDArray[np.generic] = rows[column].combine_chunks().to_numpy_ndarray()
    return pixels


def _masks(rows: pa.Table, column: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    masks = np.full((len(rows), *shape), IGNORE, dtype=np.uint8)
    for row, value in enumerate(rows[column]):
        buffer = value.as_buffer()
        if buffer is not None:
            masks[row] = np.frombuffer(buffer, dtype=np.uint8).reshape(shape)
    return masks
