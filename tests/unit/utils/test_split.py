"""Splits: a function of the cell, balanced by the salt, without leaks after the guard."""

from itertools import combinations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from utils.errors import GeometryError, SplitError, SplitLeakError
from utils.geo import ChipLattice, reproject_points, s2_cells, s2_parents
from utils.split import SPLITS, SplitRule, check_leaks, choose_salt, guarded_splits, split_of_cells

LATTICE = ChipLattice(epsg=32632, gsd_m=0.3, height=256, width=256)
FRACTIONS = st.sampled_from([(0.7, 0.15, 0.15), (0.5, 0.25, 0.25), (0.8, 0.0, 0.2), (1 / 3, 1 / 3, 1 / 3)])
RULES = st.builds(
    SplitRule,
    level=st.integers(12, 18),
    salt=st.integers(0, (1 << 63) - 1),
    fractions=FRACTIONS,
    guard_m=st.sampled_from([0.0, 1.0, 50.0, 76.8, 80.0, 200.0]),
)


def block(columns: int = 14, rows: int = 14, ix: int = 6000, iy: int = 67_000) -> tuple[NDArray[np.int64], ...]:
    y, x = np.mgrid[iy : iy + rows, ix : ix + columns]
    return x.ravel(), y.ravel()


def cells_of(ix: NDArray[np.int64], iy: NDArray[np.int64], level: int) -> NDArray[np.uint64]:
    lonlat = reproject_points(LATTICE.centres(ix, iy), LATTICE.epsg, 4326)
    return s2_cells(lonlat[:, 0], lonlat[:, 1], level)


def many_cells(count: int, level: int = 15) -> NDArray[np.uint64]:
    random = np.random.default_rng(5)
    return np.unique(s2_cells(random.uniform(5, 15, count), random.uniform(40, 50, count), level))


def splitmix64(state: int) -> int:
    """The published generator, one step, in Python integers."""
    mask = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_oracle_is_splitmix64() -> None:
    """First outputs of splitmix64 for seed 1234567, as published with the reference code."""
    step = 0x9E3779B97F4A7C15
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [splitmix64((1234567 + k * step) % (1 << 64)) for k in range(3)] == published


@given(st.integers(0, (1 << 63) - 1), FRACTIONS)
def test_split_is_the_hash_of_the_cell(salt: int, fractions: tuple[float, float, float]) -> None:
    rule = SplitRule(level=15, salt=salt, fractions=fractions)
    cells = many_cells(40)
    for cell, split in zip(cells.tolist(), split_of_cells(cells, rule).tolist(), strict=True):
        draw = (splitmix64(cell ^ splitmix64(salt)) >> 11) / 2**53
        expected = "train" if draw < fractions[0] else "val" if draw < fractions[0] + fractions[1] else "test"
        assert split == expected


def test_split_never_changes() -> None:
    """Stored tables rest on these values."""
    rule = SplitRule(level=15, salt=7, guard_m=50.0)
    cells = s2_cells(np.linspace(6, 9, 12), np.linspace(45, 47, 12), 30)
    expected = ["train", "train", "train", "val", "val", "train", "train", "train", "train", "val", "train", "train"]
    assert split_of_cells(cells, rule).tolist() == expected
    assert rule.rule_id == "0ad37d1d2cfffe38"


@given(RULES)
def test_leaf_and_split_cell_agree_and_order_does_not_matter(rule: SplitRule) -> None:
    ix, iy = block()
    leaves = cells_of(ix, iy, 30)
    splits = split_of_cells(leaves, rule)
    assert np.array_equal(splits, split_of_cells(s2_parents(leaves, rule.level), rule))
    assert np.array_equal(splits[::-1], split_of_cells(leaves[::-1], rule))


def test_shares_approach_the_fractions_for_any_salt() -> None:
    cells = many_cells(20_000)
    for salt in (0, 1, 2, 12345, 1 << 62):
        splits = split_of_cells(cells, SplitRule(level=15, salt=salt))
        shares = [np.mean(splits == name) for name in SPLITS]
        # four standard deviations of a binomial share
        assert shares == pytest.approx([0.7, 0.15, 0.15], abs=4 * 0.46 / np.sqrt(len(cells)))


def test_neighbouring_salts_are_independent() -> None:
    cells = many_cells(20_000)
    one, two = (split_of_cells(cells, SplitRule(level=15, salt=salt)) == "test" for salt in (1, 2))
    assert np.mean(one & two) == pytest.approx(0.15 * 0.15, abs=0.01)


def test_cells_coarser_than_the_rule_are_refused() -> None:
    with pytest.raises(GeometryError, match="coarser"):
        split_of_cells(many_cells(5, level=12), SplitRule(level=15, salt=0))


@pytest.mark.parametrize(
    "change",
    [
        {"fractions": (0.7, 0.2, 0.2)},
        {"fractions": (1.2, -0.1, -0.1)},
        {"fractions": (0.5, 0.5)},
        {"level": 31},
        {"level": -1},
        {"salt": -1},
        {"salt": 1 << 63},
        {"guard_m": -1.0},
        {"guard_m": float("nan")},
    ],
)
def test_rules_that_cannot_be_followed(change: dict[str, object]) -> None:
    with pytest.raises(SplitError):
        SplitRule(**{"level": 15, "salt": 0, **change})  # type: ignore[arg-type]


def shares_of(cells: NDArray[np.uint64], weights: NDArray[np.float64], rule: SplitRule) -> list[float]:
    splits = split_of_cells(cells, rule)
    return [float(weights[splits == name].sum() / weights.sum()) for name in SPLITS]


@given(st.integers(3, 80), st.integers(0, 1000), FRACTIONS)
@settings(max_examples=40, deadline=None)
def test_chosen_salt_fills_every_split_and_is_the_best(count: int, seed: int, fractions: tuple[float, ...]) -> None:
    random = np.random.default_rng(seed)
    cells = random.choice(many_cells(500), count, replace=False)
    weights = random.integers(1, 50, count).astype(float)
    wanted = (fractions[0], fractions[1], fractions[2])
    salt = choose_salt(cells, weights, wanted, tries=256)
    deviation = {}
    for candidate in range(256):
        shares = shares_of(cells, weights, SplitRule(level=15, salt=candidate, fractions=wanted))
        if all(share > 0 for share, want in zip(shares, wanted, strict=True) if want):
            deviation[candidate] = max(abs(share - want) for share, want in zip(shares, wanted, strict=True))
    assert deviation[salt] == pytest.approx(min(deviation.values()), abs=1e-9)
    order = random.permutation(count)
    assert choose_salt(cells[order], weights[order], wanted, tries=256) == salt


def test_balance_of_sixty_cells_is_within_two_percent() -> None:
    random = np.random.default_rng(3)
    cells = many_cells(60)
    weights = random.integers(1, 30, len(cells)).astype(float)
    salt = choose_salt(cells, weights)
    assert shares_of(cells, weights, SplitRule(level=15, salt=salt)) == pytest.approx([0.7, 0.15, 0.15], abs=0.02)


def test_repeated_cells_add_their_weights_and_weightless_cells_do_not_count() -> None:
    cells = many_cells(30)
    weights = np.arange(1.0, len(cells) + 1)
    twice = np.concatenate([cells, cells])
    assert choose_salt(twice, np.concatenate([weights, weights])) == choose_salt(cells, weights)
    with pytest.raises(SplitError, match="2 split cells"):
        choose_salt(cells[:4], [1, 0, 0, 1])


def test_too_few_cells_for_the_splits() -> None:
    with pytest.raises(SplitError, match="finer `split_level`"):
        choose_salt(many_cells(50)[:2], [1, 1])
    with pytest.raises(SplitError, match="0 split cells"):
        choose_salt([], [])
    assert choose_salt(many_cells(50)[:2], [1, 1], (0.5, 0.0, 0.5)) >= 0


def test_no_salt_fills_a_split_that_is_hardly_wanted() -> None:
    with pytest.raises(SplitError, match="none of 16 salts"):
        choose_salt(many_cells(50)[:3], [1, 1, 1], (0.999998, 0.000001, 0.000001), tries=16)


@pytest.mark.parametrize("weights", [[1, 2], [1, 2, -1], [1, 2, float("nan")]])
def test_unusable_weights(weights: list[float]) -> None:
    with pytest.raises(SplitError, match="weight"):
        choose_salt(many_cells(50)[:3], weights)


def brute_force_guard(ix: NDArray[np.int64], iy: NDArray[np.int64], rule: SplitRule) -> NDArray[np.str_]:
    """Every chip against every lattice position around the block, distances by shapely."""
    reach = int(rule.guard_m // LATTICE.width_m) + 2
    y, x = np.mgrid[iy.min() - reach : iy.max() + reach + 1, ix.min() - reach : ix.max() + reach + 1]
    around = split_of_cells(cells_of(x.ravel(), y.ravel(), 30), rule)
    result = split_of_cells(cells_of(ix, iy, 30), rule).astype("<U5")
    chips = LATTICE.footprints(ix, iy)
    grounds = {name: LATTICE.footprints(x.ravel()[around == name], y.ravel()[around == name]) for name in SPLITS}
    for name, stronger in (("train", ("val", "test")), ("val", ("test",))):
        mine = np.flatnonzero(result == name)
        if rule.guard_m == 0:
            continue
        for other in stronger:
            if len(grounds[other]):
                gap = shapely.distance(chips[mine][:, None], grounds[other][None, :]).min(axis=1)
                result[mine[gap < rule.guard_m - 1e-6]] = "guard"
    return result


@given(RULES)
@settings(max_examples=40, deadline=None)
def test_guard_equals_brute_force_and_leaves_no_leak(rule: SplitRule) -> None:
    ix, iy = block()
    splits = guarded_splits(ix, iy, LATTICE, rule)
    assert np.array_equal(splits, brute_force_guard(ix, iy, rule))
    check_leaks(LATTICE.centres(ix, iy), 32632, splits, size_m=LATTICE.width_m, guard_m=rule.guard_m)
    raw = split_of_cells(cells_of(ix, iy, 30), rule)
    assert np.array_equal(splits == "test", raw == "test")
    assert (splits[splits != "guard"] == raw[splits != "guard"]).all()


@given(RULES, st.integers(1, 195), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_chips_split_does_not_depend_on_the_other_chips(rule: SplitRule, keep: int, seed: int) -> None:
    ix, iy = block()
    some = np.random.default_rng(seed).permutation(len(ix))[:keep]
    assert np.array_equal(
        guarded_splits(ix, iy, LATTICE, rule)[some], guarded_splits(ix[some], iy[some], LATTICE, rule)
    )


def test_guard_on_a_lattice_of_oblong_chips() -> None:
    lattice = ChipLattice(epsg=32632, gsd_m=0.5, height=100, width=400)
    y, x = np.mgrid[103_000:103_060, 2400:2416]
    rule = SplitRule(level=14, salt=3, fractions=(0.5, 0.25, 0.25), guard_m=120.0)
    splits = guarded_splits(x.ravel(), y.ravel(), lattice, rule)
    boxes = lattice.footprints(x.ravel(), y.ravel())
    for one, other in combinations(SPLITS, 2):
        a, b = boxes[splits == one], boxes[splits == other]
        if len(a) and len(b):
            assert shapely.distance(a[:, None], b[None, :]).min() >= 120.0 - 1e-6
    assert set(splits.tolist()) == {"guard", *SPLITS}


def test_no_chips_no_splits() -> None:
    assert guarded_splits([], [], LATTICE, SplitRule(level=15, salt=0)).shape == (0,)
    check_leaks(np.empty((0, 2)), 32632, [], size_m=76.8, guard_m=50.0)


@given(
    st.lists(
        st.tuples(st.floats(0, 600), st.floats(0, 600), st.sampled_from([*SPLITS, "guard"])), min_size=2, max_size=40
    ),
    st.sampled_from([0.0, 20.0, 120.0]),
)
@settings(deadline=None)
def test_leaks_equal_all_pairs(chips: list[tuple[float, float, str]], guard_m: float) -> None:
    xy = np.add([chip[:2] for chip in chips], (500_000, 5_200_000))
    splits = [chip[2] for chip in chips]
    leaks, doubtful = [], False
    for a, b in combinations(range(len(chips)), 2):
        if "guard" in {splits[a], splits[b]} or splits[a] == splits[b]:
            continue
        dx, dy = np.abs(xy[a] - xy[b])
        gap = np.hypot(max(dx - 80, 0), max(dy - 80, 0))
        overlap = max(80 - dx, 0) * max(80 - dy, 0)
        doubtful |= abs(gap - guard_m) < 1e-4 and not overlap > 1e-3
        doubtful |= 0 < overlap < 1e-3
        if overlap > 0 or gap < guard_m:
            leaks.append((a, b))
    if doubtful:
        return
    if not leaks:
        check_leaks(xy, 32632, splits, size_m=80.0, guard_m=guard_m)
        return
    with pytest.raises(SplitLeakError, match=rf"^{len(leaks)} pairs"):
        check_leaks(xy, 32632, splits, size_m=80.0, guard_m=guard_m)


def test_message_counts_leaks_and_shows_five() -> None:
    xy = [(500_000.0 + 80 * k, 5_200_000.0) for k in range(8)]
    with pytest.raises(SplitLeakError) as caught:
        check_leaks(xy, 32632, ["train", "test"] * 4, size_m=80.0, guard_m=10.0)
    assert str(caught.value).startswith("7 pairs")
    assert "0 (train) and 1 (test)" in str(caught.value)
    assert str(caught.value).count(") and ") == 5


def test_touching_chips_leak_only_with_a_guard() -> None:
    xy = [(500_000.0, 0.0), (500_080.0, 0.0)]
    check_leaks(xy, 32632, ["train", "test"], size_m=80.0)
    check_leaks(xy, 32632, ["train", "guard"], size_m=80.0, guard_m=50.0)
    with pytest.raises(SplitLeakError):
        check_leaks(xy, 32632, ["train", "test"], size_m=80.0, guard_m=0.01)
    with pytest.raises(SplitLeakError):
        check_leaks(xy, 32632, ["train", "test"], size_m=80.2)


@pytest.mark.parametrize(("lon", "zones"), [(12.0, (32632, 32633)), (180.0, (32660, 32601))])
def test_leaks_across_a_zone_edge(lon: float, zones: tuple[int, int]) -> None:
    """The same place seen from two zones, also where longitude wraps."""
    places = [(lon, 47.0), (lon, 47.0004), (lon - 4, 47.0)]
    west = reproject_points(places, 4326, zones[0])
    east = reproject_points([((a + 180) % 360 - 180, b) for a, b in places[:2]], 4326, zones[1])
    xy, codes = np.concatenate([west, east]), [zones[0]] * 3 + [zones[1]] * 2
    # chips 0 and 3 are one place, 1 and 4 too; 0.0004° is about 44 m
    with pytest.raises(SplitLeakError, match=r"^4 pairs"):
        check_leaks(xy, codes, ["train"] * 3 + ["test"] * 2, size_m=76.8)
    with pytest.raises(SplitLeakError, match=r"^2 pairs"):
        check_leaks(xy, codes, ["train"] * 3 + ["test"] * 2, size_m=10.0)
    check_leaks(xy, codes, ["train", "guard", "train", "guard", "test"], size_m=10.0, guard_m=30.0)
    with pytest.raises(SplitLeakError, match=r"0 \(train\) and 4 \(test\)"):
        check_leaks(xy, codes, ["train", "guard", "train", "guard", "test"], size_m=10.0, guard_m=37.0)


def test_far_chips_of_many_zones_do_not_leak() -> None:
    codes = np.repeat([32601, 32632, 32633, 32760], 2)
    xy = np.tile([(500_000.0, 5_000_000.0), (700_000.0, 5_000_000.0)], (4, 1))
    check_leaks(xy, codes, ["train", "test"] * 4, size_m=76.8, guard_m=50.0)


def test_unknown_split_names_and_lengths() -> None:
    xy = [(0.0, 0.0), (1.0, 1.0)]
    with pytest.raises(SplitError, match="holdout"):
        check_leaks(xy, 32632, ["train", "holdout"], size_m=1.0)
    with pytest.raises(SplitError, match="2 chips have 1 splits"):
        check_leaks(xy, 32632, ["train"], size_m=1.0)
