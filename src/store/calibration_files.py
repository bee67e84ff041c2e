"""Calibrations of mask quality in files, and the one that comes with the package."""

from importlib.resources import files
from pathlib import Path

from store._durable_files import whole_file
from store.fingerprint import text_of
from utils.calibration import Calibration, from_json, to_json
from utils.errors import AegirError, CalibrationError

DEFAULT = "default"
"""Names the calibration in the package."""

DEFAULT_FILE = "default_calibration.json"


def calibration_at(place: str | None) -> Calibration | None:
    """The calibration in a file, here or in an object store; None for no place.

    Args:
        place: path or URI of the file, or ``default`` for the one in the package.

    Raises:
        CalibrationError: there is no such file, or it holds no sound calibration.
    """
    if place is None:
        return None
    if place == DEFAULT:
        return from_json(files("store").joinpath(DEFAULT_FILE).read_text(encoding="utf-8"), "the default calibration")
    try:
        text = text_of(place)
    except (OSError, UnicodeDecodeError, AegirError) as error:
        raise CalibrationError(
            f"no calibration can be read at {place}: {error}; make one with `python -m dataflows calibrate`, or set "
            "`calibration` to default or null"
        ) from error
    return from_json(text, place)


def calibration_version(place: str | None) -> str | None:
    """Version of the calibration in a file; None for no place.

    Raises:
        CalibrationError: as :func:`calibration_at`.
    """
    found = calibration_at(place)
    return None if found is None else found.version


def write_calibration(calibration: Calibration, path: str | Path) -> Path:
    """Write a calibration to a file, whole or not at all; its folder is made.

    Raises:
        CalibrationError: the place cannot be written.
    """
    target = Path(path)
    try:
        with whole_file(target) as part:
            part.write_text(to_json(calibration), encoding="utf-8")
    except OSError as error:
        raise CalibrationError(f"the calibration cannot be written to {target}: {error}") from error
    return target
