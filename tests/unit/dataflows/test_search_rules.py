"""Rules that prune blocks: sure or not at all, alone and in sequence."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows import search_rules
from store.ducklake_context import ContextTable
from utils.errors import ConfigError, UnknownNameError

BUILDINGS = ContextTable(name="buildings", table="buildings", search_m=500.0)
COVER = ContextTable(name="land_cover", table="landcover", kind="classes", class_column="class")
SHARES = st.dictionaries(st.sampled_from(["forest", "water", "cropland", "built_up"]), st.floats(0, 1), max_size=4)


def context(distances, covers):
    """Blocks with a distance to buildings (None is none near) and shares of land cover that do not overlap."""
    known = [min(sum(cover.values()), 1.0) for cover in covers]
    return pa.table(
        {
            "block_id": [f"b{k}" for k in range(len(distances))],
            "buildings_distance_m": pa.array(distances, pa.float64()),
            "land_cover_area_fraction": pa.array(known, pa.float64()),
            "land_cover_class_fractions": pa.array(
                [list(cover.items()) for cover in covers], pa.map_(pa.string(), pa.float64())
            ),
        }
    )


def told(name, **options):
    return search_rules.rule_options({name: options}, [BUILDINGS, COVER])


def findings(table, prune):
    options = search_rules.rule_options(prune, [BUILDINGS, COVER])
    names = list(search_rules.RULES)
    nodes = {name: getattr(search_rules, name)(table, options) for name in names}
    return search_rules.rule_findings(
        rule_options=options, plugged_rules=search_rules.plugged_rules(table, options), **nodes
    )


def roomy(cover):
    """The shares, scaled to at most the whole block."""
    total = sum(cover.values())
    return cover if total <= 1 else {name: share / total for name, share in cover.items()}


@given(st.lists(st.tuples(st.none() | st.floats(0, 500), SHARES.map(roomy)), min_size=1, max_size=20))
def test_far_from_buildings_is_pruned_where_the_table_knows_the_ground(blocks):
    table = context(*zip(*blocks, strict=True))
    alone = search_rules.near_buildings(table, told("near_buildings", within_m=100))
    wanted = [distance is not None and distance > 100 for distance, _ in blocks]
    assert alone.pruned.tolist() == wanted
    assert alone.judged.tolist() == [distance is not None for distance, _ in blocks]
    farms = told("near_buildings", within_m=100, or_classes=["cropland"], least_share=0.2)
    kept = search_rules.near_buildings(table, farms).pruned
    unknown = [1 - min(sum(cover.values()), 1) for _, cover in blocks]
    expected = [
        far and cover.get("cropland", 0) + hole < 0.2
        for far, (_, cover), hole in zip(wanted, blocks, unknown, strict=True)
    ]
    assert kept.tolist() == expected


@given(st.lists(SHARES.map(roomy), min_size=1, max_size=20))
def test_unknown_ground_never_speaks_against_a_block(covers):
    table = context([None] * len(covers), covers)
    allowed = search_rules.land_cover_allowed(table, told("land_cover_allowed", classes=["cropland"], least_share=0.1))
    excluded = search_rules.land_cover_excluded(table, told("land_cover_excluded", classes=["forest"], share=0.9))
    for k, cover in enumerate(covers):
        hole = 1 - min(sum(cover.values()), 1)
        if hole >= 0.1:
            assert not allowed.pruned[k]
        assert excluded.pruned[k] == (cover.get("forest", 0) >= 0.9)


def test_without_context_nothing_is_pruned_and_nothing_judged():
    table = context([None, None], [{}, {}])
    prune = {
        "near_buildings": {"or_classes": ["cropland"]},
        "land_cover_allowed": {"classes": ["cropland"]},
        "land_cover_excluded": {"classes": ["forest"]},
        "not_water": {},
    }
    for finding in findings(table, prune).values():
        assert not finding.pruned.any()
        assert not finding.judged.any()


def test_water_is_pruned_and_rules_come_in_the_settings_order():
    table = context([400.0, 10.0, 400.0], [{"water": 1.0}, {"water": 0.995}, {"forest": 1.0}])
    found = findings(table, {"not_water": {}, "near_buildings": {}})
    assert list(found) == ["not_water", "near_buildings"]
    assert found["not_water"].pruned.tolist() == [True, True, False]
    assert found["near_buildings"].pruned.tolist() == [True, False, True]


def far_from_water(block_context, options):
    distance = block_context["buildings_distance_m"].to_numpy()
    return np.nan_to_num(distance) > options["metres"]


def broken(block_context, options):
    del block_context, options
    return np.zeros(1, np.bool_)


def test_a_rule_of_ones_own_is_named_by_its_place():
    table = context([400.0, 10.0], [{}, {}])
    name = f"{__name__}:far_from_water"
    assert findings(table, {name: {"metres": 50}})[name].pruned.tolist() == [True, False]
    with pytest.raises(ConfigError, match="one truth value per block"):
        findings(table, {f"{__name__}:broken": {}})
    with pytest.raises(ConfigError, match="no such function"):
        findings(table, {f"{__name__}:absent": {}})


REFUSED = {
    "no such rule": ({"near_rivers": {}}, UnknownNameError, "near_buildings"),
    "no options": ({"not_water": 3}, ConfigError, "mapping"),
    "no such option": ({"not_water": {"colour": 1}}, ConfigError, "unknown colour"),
    "no such table": ({"not_water": {"context": "cover"}}, ConfigError, "buildings, land_cover"),
    "a table of features": ({"not_water": {"context": "buildings"}}, ConfigError, "needs classes"),
    "no classes": ({"land_cover_excluded": {}}, ConfigError, "classes"),
    "a share above 1": ({"not_water": {"share": 2}}, ConfigError, "0 to 1"),
    "a reach beyond the table's": ({"near_buildings": {"within_m": 500}}, ConfigError, "below search_m"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_no_rule_could_follow_are_refused(case):
    prune, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        search_rules.rule_options(prune, [BUILDINGS, COVER])
