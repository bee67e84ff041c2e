"""Leases of a search: a store that is out of reach for a moment ends no search."""

from dataclasses import dataclass

import pytest

from dataflows._search_shares import SearchShares
from store import leases
from store.probability_rasters import ProbabilityParts
from support.search_scenes import raster_grid
from utils.errors import StoreNotWritableError, StoreUnreachableError


@dataclass(frozen=True)
class Build:
    """What of a build's settings leases are taken by."""

    store: str
    lease_s: float = 60.0
    network_retries: int = 2
    network_wait_s: float = 0.01


@pytest.fixture
def shares(tmp_path):
    parts = ProbabilityParts(tmp_path / "parts", raster_grid(100, 1000), 50)
    return SearchShares(Build(str(tmp_path / "store")), "run", "search", parts), list(parts.blocks.values())


def failing(error, times, monkeypatch):
    claim, left = leases.claim, iter([error] * times)

    def sometimes(*arguments, **options):
        for one in left:
            raise one
        return claim(*arguments, **options)

    monkeypatch.setattr(leases, "claim", sometimes)


def test_blocks_come_once_the_store_answers_again(shares, monkeypatch):
    mine, blocks = shares
    failing(StoreUnreachableError("later"), 2, monkeypatch)
    assert list(mine.blocks(blocks)) == blocks


def test_a_store_that_stays_away_or_refuses_is_an_error(shares, monkeypatch):
    mine, blocks = shares
    failing(StoreUnreachableError("later"), 3, monkeypatch)
    with pytest.raises(StoreUnreachableError):
        list(mine.blocks(blocks))
    failing(StoreNotWritableError("never"), 1, monkeypatch)
    with pytest.raises(StoreNotWritableError):
        list(mine.blocks(blocks))
