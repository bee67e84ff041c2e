"""Scores on a store with known truth, and a contact sheet with pictures in it."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
import shapely
from PIL import Image
from shapely.geometry import mapping

from dataflows import report
from store import lance_io
from support.store_rows import replaced, rows_for
from utils.errors import AegirError, ConfigError, StoreError, TableNotFoundError
from utils.geo import reproject
from utils.types import ChipGrid, ChipProfile

EPSG = 32632
PX = 32
PROFILE = ChipProfile(height=PX, width=PX, gsd_m=0.5, msi_bands=("B02", "B03", "B04", "B08"), msi_height=8, msi_width=8)
GRIDS = [
    ChipGrid(epsg=EPSG, transform=(0.5, 0.0, 500_000.0 + 100 * k, 0.0, -0.5, 5_000_000.0), height=PX, width=PX)
    for k in range(3)
]


def area(chip, rows, columns):
    """Pixels of a chip as a polygon in longitude and latitude."""
    left, top = GRIDS[chip].affine @ (columns[0], rows[0])
    right, bottom = GRIDS[chip].affine @ (columns[1], rows[1])
    return reproject(shapely.box(left, bottom, right, top), EPSG, 4326)


def pixels(*rectangles, value=1):
    mask = np.zeros((PX, PX), np.uint8)
    for rows, columns in rectangles:
        mask[slice(*rows), slice(*columns)] = value
    return mask


def write_store(place, generated, masks, prompts, *, profile=PROFILE):
    """Chips with these masks; ``masks`` are (chip, prompt, verdict, pixels), ``prompts`` their geometry."""
    chips = replaced(
        rows_for("training_data", len(generated), profile=profile),
        uuid=[f"chip{k}" for k in range(len(generated))],
        generated_mask=[mask.tobytes() for mask in generated],
        footprint=[shapely.to_wkb(area(k, (0, PX), (0, PX))) for k in range(len(generated))],
        vhr_epsg=[EPSG] * len(generated),
        vhr_transform=[list(grid.transform) for grid in GRIDS[: len(generated)]],
        vhr_acquired_at=[datetime(2023, 6, 14, tzinfo=UTC)] * len(generated),
        run_id=["run"] * len(generated),
        mask_recipe=["recipe"] * len(generated),
        generation=[0] * len(generated),
        input_set=[f"inputs{k}" for k in range(len(generated))],
    )
    lance_io.write(place, "training_data", chips, profile=profile)
    rows = replaced(
        rows_for("masks", len(masks), profile=profile),
        uuid=[f"chip{chip}" for chip, *_ in masks],
        prompt_id=[f"prompt{prompt}" for _, prompt, *_ in masks],
        verdict=[verdict for *_, verdict, _ in masks],
        mask=[mask.tobytes() for *_, mask in masks],
        run_id=["run"] * len(masks),
        mask_recipe=["recipe"] * len(masks),
        generation=[0] * len(masks),
    )
    lance_io.write(place, "masks", rows, profile=profile)
    chip_of = {prompt: chip for chip, prompt, *_ in masks}
    asked = replaced(
        rows_for("prompts", len(prompts)),
        prompt_id=[f"prompt{k}" for k in range(len(prompts))],
        uuid=[f"chip{chip_of[k]}" for k in range(len(prompts))],
        geometry=[shapely.to_wkb(shape) for shape in prompts],
        input_set=[f"inputs{chip_of[k]}" for k in range(len(prompts))],
        run_id=["run"] * len(prompts),
    )
    lance_io.write(place, "prompts", asked)
    return str(place)


def write_truth(path, *entries):
    features = [
        {"type": "Feature", "properties": {"built": built} if built else {}, "geometry": mapping(shape)}
        for shape, built in entries
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture
def scored(tmp_path):
    """Chip 0: a mask two columns beside the truth; chip 1: truth half ignored, no mask; chip 2: a mask on nothing."""
    beside, speck = pixels(((4, 12), (6, 16))), pixels(((0, 4), (0, 4)))
    half_known = pixels(((10, 15), (10, 20)), value=255)
    store = write_store(
        tmp_path / "store",
        [beside, half_known, speck],
        [
            (0, 0, "accept", beside),
            (1, 1, "review", pixels(((10, 15), (10, 20)))),
            (2, 2, "accept", speck),
        ],
        [area(0, (2, 14), (2, 16)), area(1, (10, 20), (10, 20)), area(2, (0, 4), (0, 4))],
    )
    truth = write_truth(
        tmp_path / "truth.geojson",
        (area(0, (4, 12), (4, 14)), "2020-05-01"),
        (area(1, (10, 20), (10, 20)), None),
        (area(0, (20, 30), (20, 30)), "2023-06-15"),
    )
    return store, truth


def test_scores_are_those_counted_by_hand(scored):
    found = report.truth_scores(*scored)
    assert (found.masks, found.false_accepts) == (2, 1)
    assert found.mask_iou == pytest.approx(64 / 96)
    assert found.box_iou == pytest.approx(80 / (12 * 14))
    assert found.pixel_iou == pytest.approx(64 / (96 + 50 + 16))


def test_truth_built_on_the_day_of_the_image_counts(scored, tmp_path):
    store, _ = scored
    later, same = (
        write_truth(tmp_path / f"{day}.geojson", (area(0, (4, 12), (4, 14)), day))
        for day in ("2023-06-15", "2023-06-14")
    )
    assert report.truth_scores(store, later).pixel_iou == 0
    assert report.truth_scores(store, later).false_accepts == 2
    assert report.truth_scores(store, same).false_accepts == 1
    assert report.truth_scores(store, same).mask_iou == pytest.approx(64 / 96)


def test_perfect_masks_score_one(tmp_path):
    mask = pixels(((4, 12), (4, 14)), ((20, 24), (20, 30)))
    parts = pixels(((4, 12), (4, 14))), pixels(((20, 24), (20, 30)))
    shapes = area(0, (4, 12), (4, 14)), area(0, (20, 24), (20, 30))
    store = write_store(tmp_path / "s", [mask], [(0, k, "accept", part) for k, part in enumerate(parts)], shapes)
    found = report.truth_scores(store, write_truth(tmp_path / "t", *[(shape, None) for shape in shapes]))
    assert (found.masks, found.mask_iou, found.box_iou, found.pixel_iou, found.false_accepts) == (2, 1, 1, 1, 0)


def test_a_mask_is_compared_with_all_the_truth_its_prompt_touches(tmp_path):
    both = pixels(((4, 12), (4, 14)), ((4, 12), (18, 28)))
    shapes = area(0, (4, 12), (4, 14)), area(0, (4, 12), (18, 28))
    store = write_store(tmp_path / "s", [both], [(0, 0, "accept", both)], [area(0, (4, 12), (4, 28))])
    found = report.truth_scores(store, write_truth(tmp_path / "t", *[(shape, None) for shape in shapes]))
    assert found.mask_iou == 1
    assert found.box_iou == pytest.approx(160 / (8 * 24))


def test_a_region_without_truth_has_nothing_but_false_accepts(scored, tmp_path):
    found = report.truth_scores(scored[0], write_truth(tmp_path / "none.geojson"))
    assert (found.masks, found.false_accepts, found.pixel_iou, found.mask_iou) == (2, 2, 0.0, 0.0)


def test_chips_without_a_mask_are_left_out(scored):
    """``generated_mask`` may be null."""
    store, truth = scored
    rows = lance_io.open_table(store, "training_data").to_table()
    rows = rows.cast(rows.schema)
    before = report.truth_scores(store, truth)
    field = rows.schema.field("generated_mask")
    values = [rows["generated_mask"][k].as_py() if rows["uuid"][k].as_py() != "chip1" else None for k in range(3)]
    at = rows.column_names.index("generated_mask")
    lance_io.write(
        store, "training_data", rows.set_column(at, field, pa.array(values, pa.large_binary())), profile=PROFILE
    )
    found = report.truth_scores(store, truth)
    assert found.masks == before.masks
    assert found.pixel_iou == pytest.approx(64 / (96 + 16))


def test_unreadable_truth_and_missing_stores(scored, tmp_path):
    store, truth = scored
    with pytest.raises(ConfigError, match="no readable GeoJSON"):
        report.truth_scores(store, tmp_path / "no.geojson")
    with pytest.raises(TableNotFoundError):
        report.truth_scores(str(tmp_path / "nowhere"), truth)
    with pytest.raises(ConfigError, match="last year"):
        report.truth_scores(store, write_truth(tmp_path / "t", (area(0, (4, 12), (4, 14)), "last year")))


TILE, GAP, CAPTION = report._TILE_PX, report._GAP_PX, report._CAPTION_PX


def panels_of(image, chip, count):
    """Panels of the chip-th entry of a sheet, as arrays."""
    wide = count * TILE + (count - 1) * 4
    left = GAP + (chip % 2) * (wide + GAP)
    top = GAP + (chip // 2) * (TILE + CAPTION + GAP) + CAPTION - 2
    return [
        np.asarray(image.crop((left + j * (TILE + 4), top, left + j * (TILE + 4) + TILE, top + TILE)))
        for j in range(count)
    ]


@pytest.mark.parametrize("chips", [1, 2, 3, 8])
def test_the_sheet_shows_every_chip_and_its_mask(scored, tmp_path, chips):
    store, _ = scored
    target = report.contact_sheet(store, tmp_path / "new" / "sheet.png", chips=chips)
    shown = min(chips, 3)
    image = Image.open(target).convert("RGB")
    lines = -(-shown // 2)
    assert image.size == (2 * (3 * TILE + 8) + 3 * GAP, lines * (TILE + CAPTION + GAP) + GAP + CAPTION)
    for k in range(shown):
        vhr, overlay, msi = panels_of(image, k, 3)
        assert min(panel.std() for panel in (vhr, overlay, msi)) > 10
        assert (overlay != vhr).any(axis=-1).mean() > 0.005
    captions = np.asarray(image)[: GAP + CAPTION - 4]
    assert (captions < 128).any()


def test_the_overlay_marks_exactly_the_mask(scored, tmp_path):
    store, _ = scored
    image = Image.open(report.contact_sheet(store, tmp_path / "sheet.png", chips=3)).convert("RGB")
    by_marked = {}
    for k in range(3):
        vhr, overlay, _ = panels_of(image, k, 3)
        # a changed pixel is drawn TILE / PX wide
        changed = (vhr != overlay).any(axis=-1)[TILE // PX // 2 :: TILE // PX, TILE // PX // 2 :: TILE // PX]
        by_marked[int(changed.sum())] = changed
    assert set(by_marked) == {80, 50, 16}
    np.testing.assert_array_equal(by_marked[80], pixels(((4, 12), (6, 16))) == 1)
    np.testing.assert_array_equal(by_marked[50], pixels(((10, 15), (10, 20))) == 1)


def test_a_store_without_multispectral_chips_has_two_panels(tmp_path):
    plain = replace(PROFILE, msi_bands=())
    mask = pixels(((4, 12), (4, 14)))
    store = write_store(tmp_path / "s", [mask], [(0, 0, "accept", mask)], [area(0, (4, 12), (4, 14))], profile=plain)
    image = Image.open(report.contact_sheet(store, tmp_path / "a.png")).convert("RGB")
    assert image.width == 2 * (2 * TILE + 4) + 3 * GAP
    assert all(panel.std() > 10 for panel in panels_of(image, 0, 2))


def test_chips_for_review_and_background_are_among_the_chosen(tmp_path):
    keys = pa.table(
        {
            "uuid": [f"c{k:02}" for k in range(20)],
            "pv_fraction": [0.5 - k / 50 if k < 15 else 0.0 if k < 19 else None for k in range(20)],
            "chip_role": ["labelled"] * 17 + ["background_far"] * 3,
            "n_review": [0] * 15 + [1, 1, 0, 0, 0],
            "vhr_valid_fraction": [1.0] * 20,
        }
    )
    chosen = report._chosen(keys, 6)
    assert chosen[:4] == ["c00", "c03", "c06", "c09"]
    assert chosen[4:] == ["c15", "c17"]
    for count in range(1, 25):
        some = report._chosen(keys, count)
        assert len(some) == len(set(some)) == min(count, 20)


def test_chips_on_the_rim_are_shown_last(tmp_path):
    keys = pa.table(
        {
            "uuid": ["rim", "whole"],
            "pv_fraction": [0.9, 0.1],
            "chip_role": ["labelled"] * 2,
            "n_review": [0, 0],
            "vhr_valid_fraction": [0.2, 1.0],
        }
    )
    assert report._chosen(keys, 2) == ["whole", "rim"]


def test_an_empty_table_is_refused(tmp_path):
    lance_io.write(tmp_path, "training_data", rows_for("training_data", 0, profile=PROFILE), profile=PROFILE)
    with pytest.raises(StoreError, match="no chip"):
        report.contact_sheet(str(tmp_path), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("chips", [0, -1])
def test_a_sheet_of_nothing_is_refused(scored, tmp_path, chips):
    with pytest.raises(AegirError):
        report.contact_sheet(scored[0], tmp_path / "a.png", chips=chips)
