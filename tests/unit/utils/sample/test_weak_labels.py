import numpy as np
import pytest
import shapely

from utils.sample import (
    LabelState,
    Landscape,
    WeakLabels,
    confuser_truth,
    label_truth,
    make_landscape,
    park_truth,
    pv_label_table,
    pv_truth,
    registry_table,
    to_lonlat,
    to_utm,
    unlabelled_arrays,
    weak_labels,
)


@pytest.fixture(scope="module")
def demo() -> Landscape:
    return make_landscape("demo", 0)


@pytest.fixture(scope="module")
def labels(demo: Landscape) -> WeakLabels:
    return weak_labels(demo)


def test_labels_follow_from_the_seed(demo: Landscape, labels: WeakLabels) -> None:
    again = weak_labels(demo)
    assert pv_label_table(again.second).equals(pv_label_table(labels.second))
    assert registry_table(again.first).equals(registry_table(labels.first))
    assert not pv_label_table(weak_labels(make_landscape("demo", 1)).first).equals(pv_label_table(labels.first))


@pytest.mark.parametrize("name", ["first", "second"])
def test_labels_are_valid_unique_and_inside_the_imagery(demo: Landscape, labels: WeakLabels, name: str) -> None:
    state: LabelState = getattr(labels, name)
    area = shapely.box(*demo.size.vhr_bounds)
    assert all(label.geometry.is_valid and not label.geometry.is_empty for label in state.labels)
    assert all(to_utm(label.geometry).within(area) for label in state.labels)
    assert all(to_utm(shapely.Point(point.lonlat)).within(area) for point in state.points)
    assert len({label.unified_id for label in state.labels}) == len(state.labels)
    assert len({point.registry_id for point in state.points}) == len(state.points)


def test_kinds_datasets_duplicates_and_errors_are_as_promised(demo: Landscape, labels: WeakLabels) -> None:
    first = labels.first
    assert {(r.dataset, r.label_type) for r in first.labels} == {
        ("detector_boxes", "box"),
        ("volunteer_map", "polygon"),
        ("volunteer_map", "point"),
    }
    assert 0.03 <= first.wrong_share <= 0.07
    assert labels.second.wrong_share < first.wrong_share
    shown = [label.arrays[0] for label in first.labels if len(label.arrays) == 1]
    assert len(shown) - len(set(shown)) > 20
    assert len(demo.arrays) > len(unlabelled_arrays(demo, first)) > len(unlabelled_arrays(demo, labels.second)) > 0


def test_wrong_labels_touch_no_array(demo: Landscape, labels: WeakLabels) -> None:
    modules = shapely.union_all([array.outline for array in demo.arrays])
    wrong = [label for label in labels.first.labels if not label.arrays]
    assert wrong
    assert all(to_utm(label.geometry).disjoint(modules) for label in wrong)
    assert all(label.wrong is not None for label in wrong)


def test_boxes_are_off_by_up_to_8_percent_of_their_side(demo: Landscape, labels: WeakLabels) -> None:
    offsets = []
    for label in labels.first.labels:
        if label.label_type == "box" and label.arrays:
            true = np.array(to_lonlat(demo.arrays[label.arrays[0]].outline).bounds)
            sides = np.tile(true[2:] - true[:2], 2)
            offsets.append((np.array(label.geometry.bounds) - true) / sides)
    assert np.abs(offsets).max() <= 0.08 + 1e-6
    assert np.abs(offsets).mean() > 0.03


def test_registered_points_lie_beside_their_array(demo: Landscape, labels: WeakLabels) -> None:
    distances = [
        to_utm(shapely.Point(point.lonlat)).distance(demo.arrays[point.arrays[0]].outline.centroid)
        for point in labels.first.points
        if point.arrays
    ]
    assert min(distances) > 3
    assert max(distances) < 19


def test_the_second_state_adds_changes_and_deletes(labels: WeakLabels) -> None:
    first, second = ({r.unified_id: r for r in state.labels} for state in (labels.first, labels.second))
    assert second.keys() - first.keys()
    assert first.keys() - second.keys()
    assert any(first[key].geometry != second[key].geometry for key in first.keys() & second.keys())


def test_truth_is_exact_in_longitude_and_latitude(demo: Landscape, labels: WeakLabels) -> None:
    features = pv_truth(demo)["features"]
    for feature, array in zip(features, demo.arrays, strict=True):
        back = to_utm(shapely.geometry.shape(feature["geometry"]))
        assert back.symmetric_difference(array.outline).area < 1e-3
        assert set(feature["properties"]) == {"id", "kind", "site", "cell", "built", "area_m2"}
        assert feature["properties"]["area_m2"] == pytest.approx(array.outline.area, abs=0.01)
    ids = {feature["id"] for feature in features}
    answers = label_truth(labels.first, labels.second)
    assert {name for answer in answers.values() for name in answer["arrays"]} <= ids
    assert len(park_truth(demo)["features"]) == 2
    kinds = {feature["properties"]["kind"] for feature in confuser_truth(demo)["features"]}
    assert kinds == {"dark_roof", "greenhouse", "car_park", "plastic_cover", "water", "shadow"}
