"""Which blocks this run does: those of groups whose lease it gets; others are done by another run meanwhile."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from dataflows.config import BuildConfig
from dataflows.outcome_loop import retry_policy
from dataflows.work_shares import run_lease_id
from store import leases
from store.leases import Holder
from store.probability_rasters import ProbabilityParts
from utils.errors import StoreError
from utils.search_blocks import SearchBlock

GROUP: Final = 8
"""Neighbouring blocks of a row that one lease stands for."""
_RENEWALS_PER_LEASE = 3


class SearchShares:
    """Leases of one run. Nothing rests on them: two runs that do the same block write the same part."""

    def __init__(self, build: BuildConfig, run_id: str, search_id: str, parts: ProbabilityParts) -> None:
        """Take the lease of the run itself, which says that it lives."""
        self._store, self._search_id, self._parts = build.store, search_id, parts
        self._holder = Holder(run_id=run_id, lease_s=build.lease_s)
        self._policy = retry_policy(build)
        self._lock = threading.Lock()
        self._left: dict[str, set[str]] = {}
        self.held_elsewhere: list[SearchBlock] = []
        """Blocks another run holds, or held when they were asked for."""
        self.done_elsewhere: list[SearchBlock] = []
        """Blocks another run did since the plan."""
        self._claim([])

    def blocks(self, pending: Sequence[SearchBlock]) -> Iterator[SearchBlock]:
        """Blocks whose lease is free and that nobody did since the plan; a lease is taken as they are drawn."""
        groups: defaultdict[str, list[SearchBlock]] = defaultdict(list)
        for block in pending:
            groups[self._lease_id(block)].append(block)
        for lease_id, blocks in groups.items():
            granted, _ = self._policy.call(partial(self._claim, [lease_id]))
            if lease_id not in granted:
                self.held_elsewhere += blocks
                continue
            left = [block for block in blocks if not self._parts.path(block).exists()]
            if len(left) < len(blocks):
                done = self._parts.done()
                left = [block for block in blocks if block.block_id not in done]
                self.done_elsewhere += [block for block in blocks if block.block_id in done]
            with self._lock:
                self._left[lease_id] = {block.block_id for block in left}
            yield from left

    def finished(self, block: SearchBlock) -> None:
        """Say that a block is done or has failed; the lease of its group goes back with the next claim."""
        with self._lock:
            self._left.get(self._lease_id(block), set()).discard(block.block_id)

    def taken_elsewhere(self) -> list[SearchBlock]:
        """Blocks that another run held, after a moment's wait; they are asked for again."""
        blocks, self.held_elsewhere = self.held_elsewhere, []
        if not blocks:
            return []
        time.sleep(min(1.0, self._holder.lease_s / _RENEWALS_PER_LEASE))
        done = self._parts.done()
        self.done_elsewhere += [block for block in blocks if block.block_id in done]
        return [block for block in blocks if block.block_id not in done]

    def renew(self) -> None:
        """Say that the run lives and keeps what it holds; what fails is left to the next time."""
        # nothing rests on a lease, and whoever cannot write will hear it from a commit
        with suppress(StoreError):
            self._claim([])

    def release(self) -> None:
        """Give everything back."""
        leases.release(self._store, self._holder)

    def _claim(self, wanted: Sequence[str]) -> set[str]:
        with self._lock:
            over = [lease_id for lease_id, left in self._left.items() if not left]
            granted = leases.claim(
                self._store,
                self._holder,
                [run_lease_id(self._holder.run_id), *wanted],
                renew=[lease_id for lease_id, left in self._left.items() if left],
                give_back=over,
            )
            for lease_id in over:
                del self._left[lease_id]
            return granted & set(wanted)

    def _lease_id(self, block: SearchBlock) -> str:
        return f"discover/{self._search_id}/{block.row}/{block.column // GROUP}"
