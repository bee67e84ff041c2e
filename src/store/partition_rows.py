"""Rows of one finished unit of work, on their way to the commit."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from store import fragments
from store.fragments import StagedRows
from utils.failures import Failure
from utils.types import ChipProfile


@dataclass(kw_only=True)
class PartitionRows:
    """Rows in memory; pixels may already be staged as files of their table."""

    samples: list[pa.Table] = field(default_factory=list)
    """Rows of ``training_data``."""
    staged: list[StagedRows] = field(default_factory=list)
    """Rows of ``training_data`` that are in files and not in the table."""
    masks: list[pa.Table] = field(default_factory=list)
    """Rows of ``masks``."""
    prompts: list[pa.Table] = field(default_factory=list)
    """Rows of ``prompts``."""
    candidates: list[pa.Table] = field(default_factory=list)
    """Rows of ``candidates``."""
    failures: list[Failure] = field(default_factory=list)
    """What failed, with its partition."""

    def add(
        self,
        *,
        partition: int,
        samples: pa.Table,
        masks: pa.Table,
        prompts: pa.Table,
        failures: Sequence[Failure],
    ) -> None:
        """Take over rows of ``training_data``, ``masks`` and ``prompts``, and what failed."""
        self.samples.append(samples)
        self.masks.append(masks)
        self.prompts.append(prompts)
        self.fail(failures, partition=partition)

    def fail(self, failures: Sequence[Failure], *, partition: int) -> None:
        """Take over failures; those without a partition get this one."""
        self.failures += [f if f.partition is not None else replace(f, partition=partition) for f in failures]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in memory."""
        return sum(
            table.nbytes for tables in (self.samples, self.masks, self.prompts, self.candidates) for table in tables
        )

    def stage(self, uri: str | Path, profile: ChipProfile) -> None:
        """Write rows of ``training_data`` as files of their table, so that metadata is all that travels on.

        Raises:
            SchemaError: the rows do not fit.
        """
        if self.samples:
            self.staged.append(fragments.stage(uri, "training_data", pa.concat_tables(self.samples), profile=profile))
            self.samples = []
