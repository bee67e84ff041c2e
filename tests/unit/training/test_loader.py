from typing import Any

import numpy as np
import pytest
import torch

from training.augment import Augmentation
from training.datamodule import LanceDataModule
from training.dataset import ChipDataset
from training.loader import ChipLoader
from training.sampling import BatchPlan


@pytest.fixture(scope="module")
def dataset(store: str) -> ChipDataset:
    data = LanceDataModule(store=store, seed=3)
    data.setup("fit")
    loader = data.train_dataloader()
    return loader.dataset


def loader(dataset: ChipDataset, **settings: int) -> ChipLoader:
    return ChipLoader(dataset, BatchPlan(n_rows=len(dataset), batch_size=4, seed=3), **settings)


def epoch(loader: ChipLoader, number: int) -> list[dict[str, Any]]:
    loader.sampler.set_epoch(number)
    return list(loader)


def same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> bool:
    return len(ours) == len(theirs) and all(
        a["uuid"] == b["uuid"] and torch.equal(a["image"], b["image"]) and torch.equal(a["target"], b["target"])
        for a, b in zip(ours, theirs, strict=True)
    )


def test_threads_change_neither_order_nor_pixels(dataset: ChipDataset) -> None:
    plain = epoch(loader(dataset, threads=0), 2)
    assert len(plain) == 6
    assert same(plain, epoch(loader(dataset, threads=3), 2))
    assert not same(plain, epoch(loader(dataset, threads=3), 1))


def test_worker_processes_change_neither_order_nor_pixels(dataset: ChipDataset) -> None:
    with_workers = loader(dataset, workers=2)
    for number in (0, 1):
        assert same(epoch(loader(dataset, threads=0), number), epoch(with_workers, number))


@pytest.mark.parametrize("taken", [0, 1, 4, 6])
def test_position_is_restored_within_its_epoch_only(dataset: ChipDataset, taken: int) -> None:
    first = loader(dataset)
    first.sampler.set_epoch(1)
    batches = iter(first)
    for _ in range(taken):
        next(batches)
    second = loader(dataset)
    second.load_state_dict(first.state_dict())
    assert len(second) == 6
    assert same(epoch(second, 1), epoch(loader(dataset), 1)[taken:])
    assert same(epoch(second, 2), epoch(loader(dataset), 2))


def test_rows_come_back_in_the_order_asked_and_writable(dataset: ChipDataset) -> None:
    plain = ChipDataset(dataset.ref, dataset.spec, dataset.uuids, dataset.offsets)
    rows = np.array([7, 2, 19, 3])
    images, targets = plain.arrays(rows)
    for row, image, target in zip(rows, images, targets, strict=True):
        stored = dataset.ref.open().take([int(dataset.offsets[row])])
        np.testing.assert_array_equal(image, stored["vhr_image_chip"].combine_chunks().to_numpy_ndarray()[0])
        assert target.tobytes() == stored["generated_mask"][0].as_py()
    images += 1


def test_errors_of_reader_threads_reach_the_caller(dataset: ChipDataset) -> None:
    beyond = ChipDataset(dataset.ref, dataset.spec, ["x"] * 4, np.arange(4) + 10_000, Augmentation(seed=0))
    with pytest.raises(Exception, match="fragment"):
        epoch(loader(beyond, threads=2), 0)
