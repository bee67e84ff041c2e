from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from store import lance_io
from support.training_tables import EPSG, PROFILE, Chips, training_table, write_store
from training import keys as key_columns
from training.dataset import TableRef
from training.inputs import input_spec
from utils.errors import ConfigError, SplitError, SplitLeakError

VHR = input_spec(PROFILE, "vhr")
MSI = input_spec(PROFILE, "msi")


def keys_of(store: str, where: str | None = None) -> pa.Table:
    return key_columns.scan_keys(reference(store), MSI, where)


def reference(store: str) -> TableRef:
    return TableRef(store=store, table="training_data", version=lance_io.open_table(store, "training_data").version)


def placed(places: list[tuple[str, float, float]], epsg: int = EPSG) -> pa.Table:
    """Keys of chips at ``(split, x, y)``."""
    half = np.array([PROFILE.width * PROFILE.gsd_m, PROFILE.msi_width * PROFILE.msi_gsd_m]) / 2
    rows = [
        {
            "uuid": f"chip-{number}",
            "split": split,
            "vhr_epsg": epsg,
            "vhr_transform": [0.3, 0, x - half[0], 0, -0.3, y + half[0]],
            "msi_epsg": epsg,
            "msi_transform": [10.0, 0, x - half[1], 0, -10.0, y + half[1]],
        }
        for number, (split, x, y) in enumerate(places)
    ]
    six = pa.list_(pa.float64(), 6)
    grids = [
        (f"{kind}_{what}", type_)
        for kind in ("vhr", "msi")
        for what, type_ in (("epsg", pa.int32()), ("transform", six))
    ]
    schema = pa.schema([("uuid", pa.string()), ("split", pa.string()), *grids])
    return pa.Table.from_pylist(rows, schema=schema)


def test_keys_are_sorted_by_uuid_whatever_the_table_order(tmp_path: Path, store: str) -> None:
    keys = keys_of(store)
    assert keys["uuid"].to_pylist() == sorted(keys["uuid"].to_pylist())
    other = str(tmp_path / "reversed")
    table = training_table(Chips(splits={"train": 22, "val": 6, "test": 5, "guard": 2}))
    backwards = table.take(np.arange(len(table))[::-1])
    lance_io.write(other, "training_data", backwards, profile=PROFILE)
    assert key_columns.split_rows(keys_of(other), "val").uuids == key_columns.split_rows(keys, "val").uuids


def test_offsets_point_at_the_chips_after_rows_were_rewritten(tmp_path: Path) -> None:
    chips = Chips(splits={"train": 9, "val": 3})
    store = write_store(tmp_path, chips)
    lance_io.write(store, "training_data", training_table(chips).slice(2, 4), profile=PROFILE)
    rows = key_columns.split_rows(keys_of(store, "split = 'train'"), "train")
    found = reference(store).open().take(rows.offsets, columns=["uuid"])["uuid"].to_pylist()
    assert found == list(rows.uuids)
    assert len(rows) == 9


def test_rows_without_known_pixels_are_left_out(tmp_path: Path) -> None:
    table = training_table(Chips(splits={"train": 3}))
    nothing = pa.array([None, 0.1, 0.0], pa.float32())
    at = table.column_names.index("pv_fraction")
    lance_io.write(tmp_path, "training_data", table.set_column(at, table.schema.field(at), nothing), profile=PROFILE)
    keys = keys_of(str(tmp_path))
    assert len(key_columns.split_rows(keys, "train")) == 2
    assert len(key_columns.split_rows(keys, "train", known_only=False)) == 3


def test_filter_narrows_and_nonsense_is_refused(store: str) -> None:
    wanted = keys_of(store)["uuid"][0].as_py()
    assert len(keys_of(store, f"uuid = '{wanted}'")) == 1
    with pytest.raises(ConfigError, match="no_such_column"):
        keys_of(store, "no_such_column > 1")


def test_empty_split_says_what_there_is_and_what_to_do(store: str) -> None:
    keys = keys_of(store, "split <> 'val'")
    with pytest.raises(SplitError, match=r"'val' holds no chip.*guard 2, test 5, train 22.*label a larger area"):
        key_columns.require_rows(keys, "val", "split <> 'val'")
    with pytest.raises(SplitError, match="no rows"):
        key_columns.require_rows(keys.slice(0, 0), "train", None)


def test_a_split_without_pv_is_refused(store: str) -> None:
    keys = keys_of(store)
    key_columns.require_pv(keys, "val", None)
    bare = keys.set_column(keys.column_names.index("pv_fraction"), "pv_fraction", pa.array([0.0] * len(keys)))
    with pytest.raises(SplitError, match="none of the 6 chips of split 'val' holds PV"):
        key_columns.require_pv(bare, "val", None)


def test_chips_nearer_than_the_guard_distance_are_a_leak() -> None:
    # chips are 19.2 m wide: centres 60 m apart leave a gap of 40.8 m
    keys = placed([("train", 0, 0), ("train", 1000, 0), ("val", 1060, 0), ("test", 5000, 0)])
    key_columns.check_split_leaks(keys, VHR, guard_m=40.7)
    with pytest.raises(SplitLeakError, match=r"chip-1 \(train\) and chip-2 \(val\), centres 60\.0 m apart"):
        key_columns.check_split_leaks(keys, VHR, guard_m=40.9)


def test_guard_chips_may_stand_anywhere() -> None:
    keys = placed([("train", 0, 0), ("guard", 10, 0), ("val", 500, 0)])
    key_columns.check_split_leaks(keys, VHR, guard_m=100)


def test_multispectral_windows_must_not_overlap_even_where_chips_keep_their_distance() -> None:
    keys = placed([("train", 0, 0), ("val", 110, 0)])
    key_columns.check_split_leaks(keys, VHR, guard_m=50)
    with pytest.raises(SplitLeakError, match=r"multispectral windows \(120 m, data.msi_window_px\)"):
        key_columns.check_split_leaks(keys, MSI, guard_m=50)
    key_columns.check_split_leaks(keys, input_spec(PROFILE, "msi", msi_window_px=11), guard_m=50)


def test_split_rule_is_the_newest_and_plain(store: str, tmp_path: Path) -> None:
    rule = key_columns.split_rule(store)
    assert rule is not None
    assert rule["guard_m"] == 50.0
    assert rule["fractions"] == {"train": 0.7, "val": 0.15, "test": 0.15}
    assert key_columns.split_rule(str(tmp_path / "none")) is None
