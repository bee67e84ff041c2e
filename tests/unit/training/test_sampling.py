from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.sampling import Batch, BatchPlan

plans = st.builds(
    BatchPlan,
    n_rows=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 5),
    shuffle=st.booleans(),
)


def rows_of(batches: list[Batch]) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches]


@given(plans, st.integers(0, 9))
def test_one_rank_sees_every_row_once(plan: BatchPlan, epoch: int) -> None:
    batches = rows_of(plan.batches(epoch))
    assert len(batches) == len(plan)
    assert sorted(chain.from_iterable(batches)) == list(range(plan.n_rows))
    assert batches == rows_of(plan.batches(epoch))


@given(plans, st.integers(0, 9), st.integers(2, 5))
def test_ranks_share_the_batches_of_one_process(plan: BatchPlan, epoch: int, ranks: int) -> None:
    alone = rows_of(plan.batches(epoch))
    ours = [
        rows_of(
            BatchPlan(
                n_rows=plan.n_rows,
                batch_size=plan.batch_size,
                seed=plan.seed,
                shuffle=plan.shuffle,
                rank=rank,
                world_size=ranks,
            ).batches(epoch)
        )
        for rank in range(ranks)
    ]
    longest = max(len(batches) for batches in ours)
    together = [batches[i] for i in range(longest) for batches in ours if i < len(batches)]
    assert together[: len(alone)] == alone
    if plan.shuffle:
        assert len({len(batches) for batches in ours}) == 1
    else:
        assert len(together) == len(alone)


@given(st.integers(2, 200), st.integers(2, 40))
def test_training_has_no_batch_of_one(n_rows: int, batch_size: int) -> None:
    plan = BatchPlan(n_rows=n_rows, batch_size=batch_size)
    assert all(2 <= len(batch.rows) <= batch_size + 1 for batch in plan.batches(0))


def test_order_changes_with_epoch_and_seed_only() -> None:
    plan = BatchPlan(n_rows=64, batch_size=8)
    assert rows_of(plan.batches(0)) != rows_of(plan.batches(1))
    assert rows_of(plan.batches(0)) != rows_of(BatchPlan(n_rows=64, batch_size=8, seed=1).batches(0))


@pytest.mark.parametrize("epoch", [0, 3])
def test_evaluation_keeps_key_order(epoch: int) -> None:
    batches = BatchPlan(n_rows=5, batch_size=2, shuffle=False).batches(epoch)
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in batches]), np.arange(5))
