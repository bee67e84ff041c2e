"""Automatic masks over one chip: a grid of points, what is kept, how it is ranked and marked."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from dataflows.__main__ import main
from dataflows.exploration import NOTICE, ExplorationRule, grid_prompts, regions
from dataflows.exploration_terminal import feature_collection, picture
from support import mini_region
from support.node_inputs import vhr_chip
from utils.errors import ConfigError
from utils.pv_likeness import pv_likeness
from utils.types import ChipGrid, Mask

GRID = ChipGrid.around(500_000, 5_200_000, epsg=32632, gsd_m=0.3, height=80, width=60)


class Rows:
    """Answers every point with the ten-row stripe it lies in; the lowest stripes are rated low."""

    name = "rows"

    def segment(self, chip, prompts):
        masks = []
        for prompt in prompts:
            _, row = ~chip.grid.affine @ (prompt.bounds[0], prompt.bounds[1])
            stripe = int(row // 10)
            data = np.zeros((chip.grid.height, chip.grid.width), bool)
            data[stripe * 10 : stripe * 10 + 10] = True
            scores = {"predicted_iou": 1 - 0.04 * stripe, "logit_stability": 0.99 if stripe != 1 else 0.5}
            masks.append(Mask(data=data, grid=chip.grid, prompt_id=prompt.prompt_id, scores=scores))
        return masks


def test_points_are_the_middles_of_equal_cells_row_by_row():
    prompts = grid_prompts(GRID, 4)
    places = np.array([~GRID.affine @ prompt.bounds[:2] for prompt in prompts])
    assert places[:4].round(6).tolist() == [[7.5, 10], [22.5, 10], [37.5, 10], [52.5, 10]]
    assert len({prompt.prompt_id for prompt in prompts}) == 16


def test_repeated_low_and_unstable_masks_are_dropped():
    chip = vhr_chip(halo=0)
    found = regions(chip, Rows(), ExplorationRule(points_per_side=4))
    # stripes 0 to 3; 1 is unstable, 3 is rated .88
    assert sorted(int(region.mask.data.nonzero()[0].min()) for region in found) == [0, 20, 30]
    likeness = [region.signs["likeness"] for region in found]
    assert likeness == sorted(likeness, reverse=True)


def test_a_mask_that_is_the_chip_is_background():
    class Everything:
        name = "everything"

        def segment(self, chip, prompts):
            full = np.ones((chip.grid.height, chip.grid.width), bool)
            return [Mask(data=full, grid=chip.grid, prompt_id=one.prompt_id) for one in prompts]

    assert regions(vhr_chip(halo=0), Everything(), ExplorationRule(points_per_side=2)) == []


@pytest.mark.parametrize("wrong", [{"points_per_side": 0}, {"points_per_side": 500}, {"max_overlap": 1.5}])
def test_rules_that_show_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        ExplorationRule(**wrong)


def painted(colour, shape=(slice(20, 40), slice(10, 40)), ground=(165, 155, 150)):
    rgb = np.empty((3, 80, 60), np.uint8)
    rgb[:] = np.array(ground, np.uint8)[:, None, None]
    mask = np.zeros((80, 60), bool)
    mask[shape] = True
    rgb[:, mask] = np.array(colour, np.uint8)[:, None]
    return rgb, mask


def test_dark_blue_rectangles_rank_above_red_roofs_lawns_and_noise():
    panel = pv_likeness(*painted((30, 40, 80)), GRID)
    others = [pv_likeness(*painted(colour), GRID) for colour in ((190, 90, 70), (90, 140, 70), (230, 230, 230))]
    assert all(panel["likeness"] > other["likeness"] for other in others)
    assert all(0 <= value <= 1 for signs in [panel, *others] for value in signs.values())
    rgb, mask = painted((30, 40, 80))
    rgb[:, mask] = np.random.default_rng(0).integers(0, 255, (3, mask.sum()))
    assert pv_likeness(rgb, mask, GRID)["evenness"] < panel["evenness"]


@pytest.mark.parametrize("size", [1, 80 * 60])
def test_one_pixel_and_the_whole_chip_are_judged(size):
    mask = np.zeros(80 * 60, bool)
    mask[:size] = True
    signs = pv_likeness(painted((0, 0, 0))[0], mask.reshape(80, 60), GRID)
    assert all(np.isfinite(value) for value in signs.values())


def test_everything_put_out_says_what_it_is(tmp_path: Path):
    chip = vhr_chip(halo=0)
    found = regions(chip, Rows(), ExplorationRule(points_per_side=4))
    collection = feature_collection(found, "rows")
    assert collection["notice"] == NOTICE
    assert all(feature["properties"]["exploration"] is True for feature in collection["features"])
    shapes = [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in collection["features"]]
    assert all(shape.is_valid and abs(shape.bounds[0] - 9) < 1 for shape in shapes)
    image = np.asarray(Image.open(picture(chip, found, tmp_path / "deep" / "seen.png")))
    assert (image[2, 2] == (120, 20, 20)).all()


def test_explore_reads_one_chip_and_leaves_the_store_alone(tmp_path, capsys):
    from dataflows import drivers
    from store import lance_io

    region = mini_region.make(tmp_path / "region")
    drivers.run("build", region.settings)
    store = region.settings["store"]
    before = lance_io.open_table(store, "training_data").version
    uuid = lance_io.scan(store, "training_data", ["uuid"])["uuid"][0].as_py()
    capsys.readouterr()
    out, shapes = tmp_path / "seen.png", tmp_path / "seen.geojson"
    options = ["--store", store, "--backend", "classical", "--points-per-side", "3", "--min-stability", "0"]
    assert main(["explore", uuid[:13], *options, "--out", str(out), "--geojson", str(shapes)]) == 0
    printed = capsys.readouterr().out
    assert NOTICE[:11] in printed
    assert out.is_file()
    assert json.loads(shapes.read_text())["notice"] == NOTICE
    assert lance_io.open_table(store, "training_data").version == before
    assert main(["explore", "no-such-chip", *options]) == 2
    assert main(["explore", uuid, "--store", store, "--backend", "nobody"]) == 2
    assert "known:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--out", "seen.xyz"), "ends in .png"),
        (("--out", "."), "ends in .png"),
        (("--out", "/proc/none/seen.png"), "cannot be written"),
        (("--geojson", "/proc/none/seen.json"), "cannot be written"),
        (("--geojson", "."), "cannot be written"),
        (("--options", "{5: 6}"), "YAML mapping"),
        ((), "no table 'training_data'"),
    ],
    ids=str,
)
def test_what_cannot_come_out_is_refused_before_work(tmp_path, capsys, monkeypatch, more, words):
    monkeypatch.chdir(tmp_path)
    assert main(["explore", "a", "--store", str(tmp_path / "none"), "--backend", "classical", *more]) == 2
    assert words in capsys.readouterr().err
