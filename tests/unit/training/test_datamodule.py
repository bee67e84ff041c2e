import inspect
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from store import lance_io
from support.training_tables import PROFILE, Chips, training_table, write_store
from training.datamodule import LanceDataModule
from training.litmodule import SegmentationModule
from utils.errors import ConfigError, SplitError, SplitLeakError, TableNotFoundError, UnknownNameError
from utils.types import S2_L2A_BANDS


def test_channels_follow_mode_bands_and_indices(store: str) -> None:
    assert LanceDataModule(store=store).n_channels == 3
    assert LanceDataModule(store=store, mode="msi").n_channels == len(S2_L2A_BANDS)
    assert LanceDataModule(store=store, mode="msi", bands=["B02", "B11"], indices=["ndvi"]).n_channels == 3


def test_newest_version_is_pinned_and_recorded(tmp_path: Path) -> None:
    store = write_store(tmp_path, Chips(splits={"train": 4, "val": 2}))
    data = LanceDataModule(store=store)
    data.setup("fit")
    pinned = data.record["version"]
    assert pinned == lance_io.open_table(store, "training_data").version
    lance_io.write(store, "training_data", training_table(Chips(splits={"train": 9, "val": 2})), profile=PROFILE)
    data.setup("fit")
    assert data.record["version"] == pinned
    assert data.state_dict()["settings"]["version"] == pinned
    assert len(data.train_dataloader().dataset) == 4
    newer, older = LanceDataModule(store=store), LanceDataModule(store=store, version=pinned)
    for each in (newer, older):
        each.setup("fit")
    assert newer.record["chips"] == {"train": 9, "val": 2, "test": 0}
    assert older.record["chips"] == {"train": 4, "val": 2, "test": 0}


def test_a_tag_pins_its_version(tmp_path: Path) -> None:
    store = write_store(tmp_path, Chips(splits={"train": 4, "val": 2}))
    table = lance_io.open_table(store, "training_data")
    table.tags.create("round-1", table.version)
    lance_io.write(store, "training_data", training_table(Chips(splits={"train": 6})), profile=PROFILE)
    data = LanceDataModule(store=store, version="round-1")
    data.setup("fit")
    assert data.record["version"] == table.version


def test_record_rebuilds_the_run(store: str) -> None:
    data = LanceDataModule(store=store, mode="msi", bands=["B04", "B08"], indices=["ndvi"], where="cloud_fraction < 1")
    data.setup("fit")
    record = data.record
    assert record["recipes"] == {"image_recipe": ["a1"], "mask_recipe": ["a1"], "index_recipe": ["a1"]}
    assert record["where"] == "cloud_fraction < 1"
    assert record["split_rule"]["level"] == 15
    assert record["guard_m"] == 50.0
    assert record["channels"] == ["B04", "B08", "ndvi"]
    assert record["chips"] == {"train": 22, "val": 6, "test": 5}
    assert len(record["mean"]) == len(record["std"]) == 3


@pytest.mark.parametrize("mode", ["vhr", "msi"])
def test_statistics_are_those_of_the_train_split(store: str, mode: str) -> None:
    data = LanceDataModule(store=store, mode=mode)
    data.setup("fit")
    dataset = data.train_dataloader().dataset
    pixels, _ = dataset.arrays(np.arange(len(dataset)))
    np.testing.assert_allclose(data.stats.mean, pixels.astype(np.float64).mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.stats.std, pixels.astype(np.float64).std(axis=(0, 2, 3)), rtol=1e-4)
    assert data.stats.n_chips == 22


def test_statistics_can_be_sampled_and_stay_the_same(store: str) -> None:
    ours = [LanceDataModule(store=store, stats_chips=5) for _ in range(2)]
    for data in ours:
        data.setup("fit")
    assert ours[0].stats == ours[1].stats
    assert ours[0].stats.n_chips == 5


def test_a_leak_stops_the_fit_before_it_starts(tmp_path: Path) -> None:
    store = write_store(tmp_path, Chips(splits={"train": 4, "val": 2}, step_m=60))
    with pytest.raises(SplitLeakError, match="chips of different splits leak"):
        LanceDataModule(store=store).setup("fit")
    LanceDataModule(store=store, guard_m=10).setup("fit")


def test_empty_splits_stop_the_stage_that_needs_them(tmp_path: Path) -> None:
    store = write_store(tmp_path, Chips(splits={"train": 3, "val": 2}))
    LanceDataModule(store=store).setup("fit")
    with pytest.raises(SplitError, match="'test' holds no chip"):
        LanceDataModule(store=store).setup("test")
    with pytest.raises(SplitError, match="'train' holds no chip"):
        LanceDataModule(store=store, where="split = 'val'").setup("fit")


def test_missing_things_are_named(store: str, tmp_path: Path) -> None:
    with pytest.raises(TableNotFoundError, match="no table 'training_data'"):
        LanceDataModule(store=str(tmp_path / "nowhere")).setup("fit")
    with pytest.raises(TableNotFoundError, match="version 99"):
        LanceDataModule(store=store, version=99).setup("fit")
    with pytest.raises(UnknownNameError, match="known: msi, vhr"):
        _ = LanceDataModule(store=store, mode="both").n_channels
    with pytest.raises(ConfigError, match="batch_size"):
        LanceDataModule(store=store, batch_size=0)
    with pytest.raises(ConfigError, match="setup"):
        LanceDataModule(store=store).train_dataloader()


def test_store_without_split_rule_asks_for_the_guard_distance(tmp_path: Path) -> None:
    store = write_store(tmp_path, Chips(splits={"train": 3, "val": 2}), guard_m=None)
    with pytest.raises(ConfigError, match=r"data\.guard_m"):
        LanceDataModule(store=store).setup("fit")
    LanceDataModule(store=store, guard_m=0).setup("fit")


def test_crop_and_augmentation_apply_to_training_only(store: str) -> None:
    data = LanceDataModule(store=store, train_crop_px=32, batch_size=4)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["image"].shape == (4, 3, 32, 32)
    assert next(iter(data.val_dataloader()))["image"].shape == (4, 3, 64, 64)
    assert data.val_dataloader().dataset.augmentation is None


def test_predict_split_may_be_every_row(store: str) -> None:
    data = LanceDataModule(store=store, predict_split="all")
    data.setup("predict")
    assert len(data.predict_dataloader().dataset) == 35


def test_every_chip_gives_its_crops_once_per_epoch(store: str) -> None:
    data = LanceDataModule(store=store, train_crop_px=32, batch_size=6, crops_per_chip=3)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = list(loader)
    drawn = Counter(uuid for batch in batches for uuid in batch["uuid"])
    assert len(batches) == len(loader) == 11
    assert set(drawn.values()) == {3}
    assert len(drawn) == 22
    whole = LanceDataModule(store=store, train_crop_px=None, batch_size=6, crops_per_chip=3)
    whole.setup("fit")
    assert len(whole.train_dataloader()) == 4


def test_store_may_come_from_the_environment(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIR_STORE", store)
    assert LanceDataModule().store == store
    assert LanceDataModule(store="other").store == "other"


@pytest.mark.parametrize("thing", [LanceDataModule, SegmentationModule])
def test_every_setting_is_in_the_guide(thing: type) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    settings = set(inspect.signature(thing).parameters) - {"in_channels"}
    assert not {name for name in settings if f"`{name}`" not in guide}
