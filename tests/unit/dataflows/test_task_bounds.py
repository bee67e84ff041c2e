"""Chips with many prompts take more of a task, and no chip is lost between tasks."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.env import get_gdal_config

from dataflows import outcome_loop
from dataflows.config import from_mapping
from dataflows.drivers import run
from dataflows.memory import chip_shares, raster_cache_bytes
from dataflows.partition_task import _bounds
from store import lance_io, rasters
from support import mini_region


@given(prompts=st.lists(st.integers(0, 200), max_size=60), most=st.integers(1, 20))
def test_every_chip_is_in_one_task_and_no_task_is_over_its_share(prompts, most):
    shares = chip_shares(np.array(prompts, np.int64))
    bounds = _bounds(shares, most)
    assert (bounds[0], bounds[-1]) == (0, len(prompts))
    for start, end in pairwise(bounds):
        assert end > start or not prompts
        assert shares[start:end].sum() <= most or end - start == 1
        # as many as fit
        assert end == len(prompts) or shares[start : end + 1].sum() > most


def test_two_prompts_cost_nothing_more_and_further_ones_a_quarter_each():
    np.testing.assert_array_equal(chip_shares(np.array([0, 1, 2, 3, 10])), [1, 1, 1, 1.25, 3])


@pytest.mark.parametrize(("budget", "workers", "megabytes"), [("100MB", 1, 10), ("100MB", 4, 2.5)])
def test_the_raster_cache_is_a_tenth_of_the_budget(budget, workers, megabytes):
    settings = {"labels": [{"file": "x.geojson"}], "vhr": {"source": "local"}, "memory_budget": budget}
    assert raster_cache_bytes(from_mapping(settings), workers=workers) == megabytes * 1e6


def test_the_raster_cache_has_a_ceiling_and_gdal_hears_of_it():
    settings = {"labels": [{"file": "x.geojson"}], "vhr": {"source": "local"}, "memory_budget": "64GB"}
    size = raster_cache_bytes(from_mapping(settings), workers=1)
    assert size == 64 << 20
    rasters.limit_cache(size)
    assert get_gdal_config("GDAL_CACHEMAX") == size


def test_a_long_run_brings_indexes_up_on_its_way(tmp_path, monkeypatch):
    region = mini_region.make(tmp_path / "region", partition_level=18, commit_every=1)
    refreshed, refresh = [], lance_io.refresh_indexes
    monkeypatch.setattr(outcome_loop, "INDEX_EVERY", 2)
    monkeypatch.setattr(lance_io, "refresh_indexes", lambda uri, name: refreshed.append(name) or refresh(uri, name))
    summary = run("build", region.settings)
    assert summary.partitions >= 4
    assert refreshed.count("training_data") == summary.partitions // 2 + 1
    dataset = lance_io.open_table(region.settings["store"], "training_data")
    assert {column for index in dataset.describe_indices() for column in index.field_names} == {"uuid", "s2_cell"}
    assert dataset.count_rows() == summary.chips_written == summary.chips_pending
