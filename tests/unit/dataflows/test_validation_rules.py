"""Rules as nodes: each says where its formula comes from, abstains when it must, and has the sign it says."""

from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import shapely

from dataflows import outline_validation as outline
from dataflows import spectral_validation as spectral
from dataflows import visual_validation as visual
from dataflows._findings import NEUTRAL, finding, scaled
from dataflows.drivers import FLOWS, build_driver
from dataflows.validation_config import ValidationRules
from dataflows.validation_evidence import RULES, SPECTRAL_RULES
from dataflows.validation_imagery import surrounding
from dataflows.validation_supervision import supervision, truth_share
from store.vectors import write_features
from utils.cells import s2_parents
from utils.errors import ConfigError
from utils.reference_spectra import REFERENCE_SPECTRA
from utils.spectral_evidence import Observation
from utils.split_rule import SplitRule, split_of_cells
from utils.texture_evidence import Texture
from utils.types import S2_L2A_BANDS

JUNE = datetime(2023, 6, 10, tzinfo=UTC)
VIEW = SimpleNamespace(chip=SimpleNamespace(scene_ids=("v",), acquired_at=JUNE))
BOX = shapely.box(8, 47, 8.0002, 47.0001)
NAMED = {one.name: np.array(one.reflectance) for one in REFERENCE_SPECTRA}


def seen(
    name: str = "monocrystalline silicon", *, clear_px: float = 20.0, at: datetime = JUNE, **changes
) -> Observation:
    spectrum = NAMED[name]
    values = {
        "scene_ids": ("s",), "acquired_at": at, "effective_px": 20.0, "clear_px": clear_px, "ring_px": 100.0,
        "cloud_share": 1 - clear_px / 20, "water_share": 0.0, "bands": S2_L2A_BANDS, "inside": spectrum,
        "ring": NAMED["green vegetation"], "object": spectrum, "z": {"ndpvi": 4.0, "ndvi": -5.0},
    }  # fmt: skip
    return Observation(**(values | changes))


def textured(**changes) -> Texture:
    values = {
        "lightness": 30.0, "blueness": 5.0, "redness": 0.0, "contrast": 20.0, "darker": 5.0, "bluer": 10.0,
        "roughness": 2.5, "spread": 3.0, "bright_share": 0.0, "edge": 8.0, "regularity": 0.8, "order": 0.5,
        "pixels": 200,
    }  # fmt: skip
    return Texture(**(values | changes))


def row(area_m2: float = 2000.0) -> pa.Table:
    return pa.table({"detection_id": ["a"], "acquired_at": [JUNE], "area_m2": [area_m2]})


def clear(*dates: Observation, **settings) -> dict[str, Observation | None]:
    return spectral.clear_observations({"a": list(dates)}, row(), ValidationRules(**settings))


def test_every_rule_is_a_node_that_says_where_it_comes_from() -> None:
    nodes = build_driver("validate").graph.nodes
    modules = [import_module(name) for name in FLOWS["validate"].modules]
    for rule in (*RULES, "mask_agreement"):
        [function] = nodes[rule].originating_functions
        assert function.__module__ in {module.__name__ for module in modules}
        assert len(function.__doc__.split()) > 15


def test_few_clear_pixels_other_years_and_clouds_say_nothing() -> None:
    assert clear(seen())["a"] is not None
    assert clear(seen(clear_px=3.9))["a"] is None
    assert clear(seen(at=datetime(2021, 6, 1, tzinfo=UTC)))["a"] is None
    assert clear(seen(at=datetime(2021, 6, 1, tzinfo=UTC)), max_days=1000)["a"] is not None
    assert clear(seen(clear_px=2), seen())["a"].clear_px == 20
    nothing = {"a": None}
    for rule in ("water_surface", "vegetation_cover", "bright_cover", "pv_spectrum", "ring_contrast"):
        told = getattr(spectral, rule)(nothing)["a"]
        assert (told.verdict, told.log_odds, told.decisive) == ("abstain", 0.0, False)


def test_clouds_are_told_from_small_objects_and_from_missing_images() -> None:
    rules = ValidationRules()
    told = [
        spectral.cloud_cover({"a": dates}, {"a": None}, row(area), rules)["a"].reason
        for dates, area in (([seen(clear_px=0)], 2000.0), ([], 50.0), ([], 2000.0))
    ]
    assert "cloud" in told[0]
    assert "too few" in told[1]
    assert "no multispectral image" in told[2]


@pytest.mark.parametrize(
    ("surface", "rule", "verdict", "decisive"),
    [
        ("monocrystalline silicon", "water_surface", "for", False),
        ("monocrystalline silicon", "vegetation_cover", "for", False),
        ("monocrystalline silicon", "bright_cover", "for", False),
        ("monocrystalline silicon", "pv_spectrum", "for", False),
        ("cadmium telluride", "pv_spectrum", "for", False),
        ("open water", "water_surface", "against", True),
        ("green vegetation", "vegetation_cover", "against", True),
        ("white plastic film or glass", "bright_cover", "against", True),
        ("bare soil", "pv_spectrum", "against", False),
        ("asphalt", "pv_spectrum", "against", False),
        ("slate or dark roofing", "pv_spectrum", "against", False),
    ],
)
def test_surfaces_speak_as_they_should(surface: str, rule: str, verdict: str, decisive: bool) -> None:
    told = getattr(spectral, rule)(clear(seen(surface)))["a"]
    assert (told.verdict, told.decisive) == (verdict, decisive)
    assert told.scene_ids == ("s",)


def test_the_ring_speaks_through_its_z_score() -> None:
    assert spectral.ring_contrast(clear(seen()))["a"].verdict == "for"
    assert spectral.ring_contrast(clear(seen(z={"ndpvi": -3.0})))["a"].verdict == "against"
    assert spectral.ring_contrast(clear(seen(z={})))["a"].verdict == "abstain"


def test_a_new_array_is_not_worse_than_an_old_one() -> None:
    before = seen("green vegetation", at=datetime(2021, 6, 1, tzinfo=UTC))
    rules = ValidationRules()
    changed = spectral.spectral_persistence({"a": [seen(), before]}, rules)["a"]
    stays = spectral.spectral_persistence({"a": [seen(), seen(at=datetime(2022, 6, 1, tzinfo=UTC))]}, rules)["a"]
    assert (changed.verdict, stays.verdict) == ("neutral", "for")
    assert spectral.spectral_persistence({"a": [seen()]}, rules)["a"].verdict == "abstain"


def test_scales_end_at_their_anchors() -> None:
    assert scaled(5, 0, 10, against=1, speaks_for=3) == 1
    assert scaled(-5, 0, 10, against=1, speaks_for=3) == -1
    assert scaled(50, 0, 10, against=1, speaks_for=3) == 3
    assert scaled(0, 0, -10, against=2, speaks_for=1) == -2
    small = finding("r", 1.0, "m", NEUTRAL / 2, "words", details={"a": None, "b": float("nan"), "c": 1.0})
    assert (small.verdict, small.log_odds, dict(small.details)) == ("neutral", 0.0, {"c": 1.0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"accept": 0.2}, {"dates": 0}, {"mask_agreement": "off"}, {"cell_level": 31}, {"negative_m": -1.0},
        {"model": ""},
    ],
)  # fmt: skip
def test_settings_are_checked(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        ValidationRules(**wrong)


def test_nothing_is_learnt_from_test_ground() -> None:
    rng = np.random.default_rng(0)
    cells = rng.integers(1, 2**63, 400, dtype=np.uint64) | np.uint64(1)
    rows = pa.table({"match": ["confirmed", "new"] * 200, "s2_cell": cells})
    rule = SplitRule(level=13, salt=5)
    distance = np.where(np.arange(400) % 2 == 0, 0.0, 100.0)
    told = supervision(rows, distance, rule, ValidationRules())
    split = split_of_cells(s2_parents(cells, 13), rule)
    assert not told.known[split == "test"].any()
    assert told.known[split != "test"].all()
    assert told.is_pv.sum() == 200
    near = supervision(rows, np.full(400, 5.0), None, ValidationRules())
    assert near.known.sum() == 200
    assert len(SPECTRAL_RULES) == 7


def test_truth_counts_from_the_day_it_was_built(tmp_path: Path) -> None:
    rows = pa.table({"outline": shapely.to_wkb([BOX, BOX]), "acquired_at": [JUNE, datetime(2021, 1, 1, tzinfo=UTC)]})
    truth = tmp_path / "truth.geojson"
    write_features(truth, [({"built": "2022-05-01"}, shapely.box(8, 47, 8.0001, 47.0001))])
    assert truth_share(rows, str(truth)).tolist() == pytest.approx([0.5, 0])
    write_features(truth, [({"built": "spring 2022"}, BOX)])
    with pytest.raises(ConfigError, match="spring 2022"):
        truth_share(rows, str(truth))
    write_features(truth, [])
    with pytest.raises(ConfigError, match="no polygon"):
        truth_share(rows, str(truth))


def test_what_has_no_surroundings_is_not_compared_with_them() -> None:
    for rule in (visual.panel_colour, visual.sharp_outline, visual.cast_shadow):
        told = rule({"a": [textured(contrast=None, darker=None, bluer=None, edge=None)]}, {"a": [VIEW]})
        assert told["a"].verdict == "abstain"
    told = visual.smooth_surface({"a": [textured(contrast=None, roughness=0.5)]}, {"a": [VIEW]})
    assert told["a"].log_odds == -1.25


def test_words_agree_with_the_verdict() -> None:
    """Each measurement where the sign turns: what speaks against does not say that it looks like an array."""
    nir, swir = S2_L2A_BANDS.index("B08"), S2_L2A_BANDS.index("B11")
    for share in np.linspace(0, 1, 41).tolist():
        spectrum = NAMED["monocrystalline silicon"].copy()
        spectrum[nir], spectrum[swir] = 0.05 + 0.3 * share, 0.02 + 0.13 * share
        dates, view = clear(seen(object=spectrum, z={"ndpvi": 6 * share - 3})), {"a": [VIEW]}
        own = {"a": [textured(bluer=20 * share - 3, darker=20.0, roughness=3 * share)]}
        sizes = {"a": {"area_m2": 30 * share + 2, "length_m": 4.5, "width_m": 2.0, "rectangularity": share}}
        car = {"a": {"area_m2": 9.0, "length_m": 4.5, "width_m": 2.0}}
        shape = sizes["a"] | {"elongation": 1.0, "compactness": 0.5, "solidity": 0.9}
        scores = pa.table({"detection_id": ["a"], "score": [share], "score_p90": [0.9]})
        for told, objection in (
            (spectral.water_surface(dates), ("looks like water", "too little short-wave infrared for modules")),
            (spectral.vegetation_cover(dates), ("green", "partly green")),
            (spectral.ring_contrast(dates), ("does not stand out",)),
            (visual.panel_colour(own, view), ("hardly bluer", "not bluer")),
            (visual.smooth_surface(own, view), ("even surface",)),
            (outline.plausible_size({"a": shape}), ("small for an array",)),
            (outline.plausible_shape({"a": shape}), ("ragged",)),
            (outline.model_score(scores, ["a"]), ("weak",)),
        ):
            found = told["a"]
            objects = found.reason.startswith(objection)
            assert objects if found.verdict == "against" else not objects or found.verdict == "neutral", found
        shade = visual.cast_shadow(own, view)["a"]
        assert ("shade" in shade.reason) == (shade.verdict == "against"), shade
        parked = visual.parked_vehicle({"a": [textured(regularity=0.1)]}, view, car, {"a": share})["a"]
        assert ("also there" in parked.reason) == (parked.verdict == "neutral"), parked


def test_known_photovoltaics_near_by_speak_a_little_for() -> None:
    rows = pa.table({"detection_id": ["a"], "match": ["new"], "match_iou": pa.nulls(1, pa.float32())})
    told = {m: outline.known_pv(rows, ["a"], {"a": m}, ValidationRules(near_pv_m=100))["a"] for m in (0.0, 90.0, 110.0)}
    assert {m: one.verdict for m, one in told.items()} == {0.0: "for", 90.0: "for", 110.0: "neutral"}


def test_outlines_around_are_those_within_the_ring() -> None:
    steps = [0.0, 0.0005, 0.01]
    tree = shapely.STRtree([shapely.affinity.translate(BOX, step) for step in steps])
    rows, others = surrounding(np.array([BOX], object), tree, 60.0)
    assert (rows.tolist(), sorted(others.tolist())) == ([0, 0], [0, 1])
    assert surrounding(np.empty(0, object), tree, 60.0)[0].tolist() == []
