"""Settings of the change flow, checked before its driver is built."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from utils.errors import ConfigError

DEFAULTS: Final = {"aoi_bbox_lonlat": None, "gsd_m": 10.0, "change_threshold": 0.2, "raster_path": None}


def change_inputs(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the change flow under the names its nodes ask for, with defaults.

    Raises:
        ConfigError: a setting is missing, unknown or of another type.
    """
    needed, given = {"msi", "before", "after"}, dict(config)
    missing, unknown = needed - given.keys(), given.keys() - needed - DEFAULTS.keys()
    if missing or unknown:
        raise ConfigError(
            f"the flow 'change' takes {', '.join(sorted(needed))} and optionally {', '.join(DEFAULTS)}; "
            f"missing: {', '.join(sorted(missing)) or 'none'}; unknown: {', '.join(sorted(unknown)) or 'none'}"
        )
    settings = DEFAULTS | given | {name: str(given[name]) for name in ("before", "after")}
    if not isinstance(settings["msi"], Mapping):
        raise ConfigError(f"msi is {settings['msi']!r}; give a mapping with `source` and its options")
    raster = settings["raster_path"]
    if raster is not None and Path(raster).suffix.lower() not in {".tif", ".tiff"}:
        raise ConfigError(f"the differences are written as GeoTIFF and {raster} does not end in .tif; rename it")
    try:
        numbers = {name: float(settings[name]) for name in ("gsd_m", "change_threshold")}
        aoi = settings["aoi_bbox_lonlat"]
        aoi = None if aoi is None else [float(edge) for edge in aoi]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"gsd_m, change_threshold and aoi_bbox_lonlat are numbers: {error}") from error
    return settings | numbers | {"msi": dict(settings["msi"]), "aoi_bbox_lonlat": aoi}
