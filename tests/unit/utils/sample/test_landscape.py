from collections import Counter

import numpy as np
import pytest
import s2cell
import shapely

from utils.errors import UnknownNameError
from utils.sample import ACQUISITIONS, Landscape, labelled_chips, make_landscape, sample_size, to_lonlat, weak_labels
from utils.sample.spec import ORIGIN


@pytest.fixture(scope="module")
def demo() -> Landscape:
    return make_landscape("demo", 0)


def _geometry(land: Landscape) -> list[bytes]:
    things = [*land.arrays, *land.confusers, *land.patches, *land.surfaces]
    return [shapely.to_wkb(thing.outline) for thing in things]


def test_the_same_seed_gives_the_same_landscape_and_another_seed_another() -> None:
    first, again, other = (make_landscape("test", seed) for seed in (3, 3, 4))
    assert _geometry(first) == _geometry(again)
    assert first.trees.tobytes() == again.trees.tobytes()
    assert _geometry(first) != _geometry(other)


def test_an_unknown_size_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="demo, flywheel, test"):
        make_landscape("huge", 0)


@pytest.mark.parametrize("name", ["test", "demo", "flywheel"])
def test_grids_of_10_20_and_60_m_nest_and_the_scene_reaches_400_m_further(name: str) -> None:
    size = sample_size(name)
    tile_starts = [ORIGIN[0] + size.tile_m * column for column in range(size.tiles)]
    assert np.allclose(np.mod([*tile_starts, *size.msi_bounds, *size.vhr_bounds], 60), 0)
    margins = np.abs(np.subtract(size.msi_bounds, size.vhr_bounds))
    assert margins.min() >= 400


def test_arrays_are_valid_disjoint_large_enough_and_inside_the_imagery(demo: Landscape) -> None:
    outlines = [array.outline for array in demo.arrays]
    assert all(outline.is_valid and outline.within(shapely.box(*demo.size.vhr_bounds)) for outline in outlines)
    left, right = shapely.STRtree(outlines).query(outlines, predicate="overlaps")
    assert len(left) == len(right) == 0
    roofs = [array.outline.area for array in demo.arrays if array.kind == "roof"]
    assert min(roofs) >= 15
    assert max(roofs) <= 1500
    parks = Counter[str]()
    for array in demo.arrays:
        if array.kind == "ground":
            parks[array.site] += array.outline.area
    assert all(2_000 <= area <= 12_000 for area in parks.values())
    assert len(parks) == len(demo.parks) == 2


def test_roof_arrays_lie_on_one_building_each(demo: Landscape) -> None:
    roofs = shapely.STRtree([building.footprint for building in demo.buildings])
    for array in demo.arrays:
        holders = roofs.query(array.outline, predicate="covered_by")
        assert len(holders) == (1 if array.kind == "roof" else 0)


def test_arrays_have_more_than_one_shape(demo: Landscape) -> None:
    corners = Counter(len(array.outline.exterior.coords) - 1 for array in demo.arrays)
    assert corners[4] > corners[6] > 5
    assert max(Counter(array.site for array in demo.arrays if array.kind == "roof").values()) > 2


def test_every_kind_of_confuser_is_there_and_holds_no_photovoltaics(demo: Landscape) -> None:
    kinds = {confuser.kind for confuser in demo.confusers}
    assert kinds == {"dark_roof", "greenhouse", "car_park", "plastic_cover", "water"}
    modules = shapely.union_all([array.outline for array in demo.arrays])
    assert max(shapely.area(shapely.intersection(modules, [c.outline for c in demo.confusers]))) < 1e-6


def test_things_change_between_the_dates(demo: Landscape) -> None:
    new = sum(not array.epochs[0] for array in demo.arrays)
    assert 0.1 < new / len(demo.arrays) < 0.6
    assert all(array.epochs[1] for array in demo.arrays)
    assert any(not building.epochs[0] for building in demo.buildings)
    assert ACQUISITIONS[0].day < ACQUISITIONS[1].day


def test_the_demo_has_70_to_110_labelled_chips(demo: Landscape) -> None:
    assert 70 <= len(labelled_chips(weak_labels(demo).second)) <= 110


def test_the_flywheel_has_labels_in_at_least_60_split_cells_and_no_empty_split() -> None:
    land = make_landscape("flywheel", 0)
    state = weak_labels(land).first
    centres = [to_lonlat(land.arrays[row.arrays[0]].outline.centroid) for row in state.labels if row.arrays]
    cells = Counter(s2cell.lat_lon_to_cell_id(point.y, point.x, 15) for point in centres)
    assert len(cells) >= 60
    # any split by a hash of the cell: no salt leaves a fifth of the cells with few labels
    shares = []
    for salt in range(50):
        draw = np.random.default_rng(salt).permutation(sorted(cells))
        fifth = draw[: len(draw) // 5]
        shares.append(sum(cells[cell] for cell in fifth) / sum(cells.values()))
    assert min(shares) > 0.05
