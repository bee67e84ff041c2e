"""Spectral angles, and that every reference is nearest to its own side."""

import ast
from pathlib import Path

import numpy as np
import pytest

import utils.reference_spectra as module
from utils.reference_spectra import REFERENCE_SPECTRA, resemblance, spectral_angle
from utils.types import S2_L2A_BANDS


def test_the_angle_is_blind_to_brightness() -> None:
    a = np.array([0.1, 0.2, 0.3])
    assert spectral_angle(a, 5 * a) == pytest.approx(0, abs=1e-7)
    assert spectral_angle(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(np.pi / 2)
    assert spectral_angle(np.zeros(3), a) == pytest.approx(np.pi / 2)


@pytest.mark.parametrize("reference", REFERENCE_SPECTRA, ids=lambda one: one.name)
def test_each_reference_is_of_its_own_kind(reference) -> None:
    near = resemblance(np.array(reference.reflectance) * 0.8, S2_L2A_BANDS)
    assert (near.pv_angle < near.other_angle) == reference.is_pv
    assert (near.pv_name if reference.is_pv else near.other_name) == reference.name


def test_bands_may_be_fewer() -> None:
    bands = ("B02", "B04", "B08", "B11", "XX")
    pv = REFERENCE_SPECTRA[0].reflectance
    values = np.array([*(pv[S2_L2A_BANDS.index(band)] for band in bands[:-1]), 9.0])
    assert resemblance(values, bands).pv_angle == pytest.approx(0, abs=1e-7)


def test_references_do_not_come_from_the_generator() -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any("sample" in str(name) for name in imported)
