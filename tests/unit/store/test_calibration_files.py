"""Calibrations as files: what is written comes back, and what is none is refused by name."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from store.calibration_files import DEFAULT, calibration_at, calibration_version, write_calibration
from utils.calibration import MeasuredMask, fitted
from utils.errors import CalibrationError


@pytest.fixture
def calibration():
    masks = [
        MeasuredMask(backend="b", settings_recipe="r", kind="box", scores={"stability": k / 40}, iou=(k / 40) ** 2)
        for k in range(41)
    ]
    return fitted(masks, data=["made"], protocol="made")


def test_what_is_written_comes_back(tmp_path, calibration):
    place = write_calibration(calibration, tmp_path / "new folder" / "calibration.json")
    assert calibration_at(str(place)) == calibration
    assert calibration_version(str(place)) == calibration.version
    assert [file.name for file in place.parent.iterdir()] == ["calibration.json"]


def test_many_who_write_one_place_leave_one_whole_file(tmp_path, calibration):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write_calibration(calibration, tmp_path / "calibration.json"), range(200)))
    assert calibration_at(str(tmp_path / "calibration.json")) == calibration
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]


def test_no_place_is_no_calibration():
    assert calibration_at(None) is None
    assert calibration_version(None) is None


def test_the_package_has_one_for_the_sample_region():
    found = calibration_at(DEFAULT)
    assert {"box", "polygon", "point", "any"} == {entry.kind for entry in found.entries}
    assert {entry.backend for entry in found.entries} == {"classical"}
    assert found.seeds
    assert found.data


@pytest.mark.parametrize("text", [b"", b"{}", b"\xff\xfe", b'{"format": 1}'])
def test_what_is_none_is_refused_with_its_place(tmp_path, text):
    place = tmp_path / "calibration.json"
    place.write_bytes(text)
    with pytest.raises(CalibrationError, match=str(place)):
        calibration_at(str(place))


def test_a_place_without_a_file_says_what_to_do(tmp_path):
    with pytest.raises(CalibrationError, match="python -m dataflows calibrate"):
        calibration_at(str(tmp_path / "nothing"))
    with pytest.raises(CalibrationError):
        calibration_at(str(tmp_path))


def test_a_place_that_cannot_be_written_is_refused(tmp_path, calibration):
    (tmp_path / "file").write_text("")
    with pytest.raises(CalibrationError, match="cannot be written"):
        write_calibration(calibration, tmp_path / "file" / "calibration.json")
