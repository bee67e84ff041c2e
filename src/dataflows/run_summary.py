"""What runs did, in numbers, and the exit code that says so."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(kw_only=True)
class FlowSummary(ABC):
    """What a run of any flow did, as it stands now."""

    flow: str
    """Flow that ran."""
    run_id: str = ""
    """Id in the table ``runs``."""
    status: str = "running"
    """running, done, failed (rows in ``errors``), interrupted or overtaken."""
    partitions: int = 0
    """Partitions this run set out to do."""
    partitions_done: int = 0
    """Partitions done."""
    partitions_failed: int = 0
    """Partitions that failed as a whole."""
    partitions_elsewhere: int = 0
    """Partitions of this plan that another run made meanwhile."""
    partitions_waiting: int = 0
    """Partitions that another run holds, and this one waits for."""
    retried: int = 0
    """Times something was tried again because the network failed."""
    seconds: float = 0.0
    """Wall time."""
    store: str = ""
    """Where the tables are."""

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """Whether all that was asked for is there."""

    @property
    def exit_code(self) -> int:
        """0 when all that was asked for is there, 3 when something is in ``errors`` instead, 130 interrupted."""
        if self.status == "interrupted":
            return 130
        return 0 if self.is_complete else 3

    def counts(self) -> dict[str, Any]:
        """The summary as plain values."""
        return asdict(self)


@dataclass(kw_only=True)
class RunSummary(FlowSummary):
    """What a run of the build flow, or of one without partitions, did."""

    chips_planned: int = 0
    """Chips of the configuration."""
    chips_skipped: int = 0
    """Chips already there."""
    chips_failed_before: int = 0
    """Chips left out because an earlier run failed on the same inputs; ``--retry-errors`` takes them in."""
    chips_not_taken: int = 0
    """Background chips that turned out to hold no data, in this run or before."""
    chips_not_taken_before: int = 0
    """Those of them known from an earlier run."""
    chips_no_longer_planned: int = 0
    """Rows of the table that this plan does not ask for and that stay: other days, earlier background draws, imagery
    that is gone."""
    prompts_retired: int = 0
    """Prompts whose label was deleted, moved or merged away; they and their masks are marked."""
    masks_retired: int = 0
    """Masks marked with them."""
    chips_retired: int = 0
    """Rows deleted because their mask rested on such a label; those still planned are made again."""
    chips_pending: int = 0
    """Chips this run set out to make."""
    chips_made: int = 0
    """Chips made, committed or waiting to be."""
    chips_made_elsewhere: int = 0
    """Chips that another run made since the plan."""
    chips_written: int = 0
    """Rows committed to ``training_data``."""
    chips_failed: int = 0
    """Chips that failed in this run, those of failed partitions among them."""
    inputs_failed: int = 0
    """Labels, scenes and places refused while planning, for the first time with these settings."""
    inputs_failed_before: int = 0
    """Labels, scenes and places refused while planning, known from an earlier run."""
    masks: dict[str, int] = field(default_factory=lambda: {"accept": 0, "review": 0, "reject": 0, "not_in_chip": 0})
    """Masks per verdict."""

    @property
    def chips_settled(self) -> int:
        """Chips of this run's that are made, failed, not taken or made by another run: done, of ``chips_pending``."""
        not_taken = self.chips_not_taken - self.chips_not_taken_before
        return self.chips_made + self.chips_failed + not_taken + self.chips_made_elsewhere

    @property
    def failed(self) -> int:
        """Chips and inputs that failed in this run."""
        return self.chips_failed + self.inputs_failed

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for is there."""
        return not (self.failed or self.chips_failed_before or self.inputs_failed_before)


@dataclass(kw_only=True)
class GenerationSummary(FlowSummary):
    """What a run of the flow ``masks`` did."""

    flow: str = "masks"
    generation: int = 0
    """Generation the masks belong to."""
    backend: str = ""
    """Mask backend."""
    mask_recipe: str = ""
    """Recipe of the masks."""
    chips: int = 0
    """Chips with prompts that were asked for."""
    chips_skipped: int = 0
    """Chips whose prompts this generation, or a build under the same recipe, has answered already."""
    chips_failed_before: int = 0
    """Chips left out because an earlier run failed on the same inputs; ``--retry-errors`` takes them in."""
    chips_pending: int = 0
    """Chips this run set out to do."""
    chips_made: int = 0
    """Chips done, committed or waiting to be."""
    chips_made_elsewhere: int = 0
    """Chips that another run did since the plan."""
    chips_failed: int = 0
    """Chips that failed in this run, those of failed partitions among them."""
    masks_written: int = 0
    """Rows committed to ``masks``."""
    masks_retired: int = 0
    """Masks whose label went while they were made; they are marked."""
    masks: dict[str, int] = field(default_factory=lambda: {"accept": 0, "review": 0, "reject": 0, "not_in_chip": 0})
    """Masks per verdict."""

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for is there."""
        return not (self.chips_failed or self.chips_failed_before)


@dataclass(kw_only=True)
class ContextSummary(FlowSummary):
    """What a run of the context flow did. A row is one target and one context table."""

    flow: str = "context"
    targets: int = 0
    """Chips or detections in the area of interest."""
    rows_skipped: int = 0
    """Rows already there."""
    rows_pending: int = 0
    """Rows this run set out to make."""
    rows_made: int = 0
    """Rows made, committed or waiting to be."""
    rows_written: int = 0
    """Rows committed to ``context``."""
    rows_failed: int = 0
    """Rows of partitions that failed as a whole."""
    features: int = 0
    """Features looked at; those near the edge of partitions more than once."""
    failed: int = 0
    """Features, targets and partitions that failed for the first time under these settings."""
    failed_before: int = 0
    """Likewise, known from an earlier run."""

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for is there."""
        return not (self.failed or self.failed_before or self.rows_failed)


@dataclass(kw_only=True)
class DiscoverySummary(FlowSummary):
    """What a run of the flow ``discover`` did. Its units of work are blocks of the search raster."""

    flow: str = "discover"
    search_id: str = ""
    """Hash of imagery, model, grid and inference settings."""
    model: str = ""
    """Checkpoint or class path."""
    model_id: str = ""
    """Hash of the model's weights, class and options."""
    blocks: int = 0
    """Blocks of the area of interest."""
    blocks_without_imagery: int = 0
    """Those that no imagery touches."""
    blocks_pruned: int = 0
    """Those that rules took out."""
    blocks_done_before: int = 0
    """Those that were done when this run planned."""
    blocks_pending: int = 0
    """Those this run set out to do."""
    blocks_made: int = 0
    """Those it did."""
    blocks_made_elsewhere: int = 0
    """Those another run did meanwhile."""
    blocks_failed: int = 0
    """Those that failed in this run; the next run tries them again."""
    inputs_failed: int = 0
    """Files of imagery, features of context and labels that cannot be used."""
    km2: float = 0.0
    """Ground inside the area of interest and under imagery, km²."""
    km2_searched: float = 0.0
    """Ground of all blocks that are done, km²."""
    km2_made: float = 0.0
    """Ground of the blocks this run did, km²."""
    km2_pruned: float = 0.0
    """Ground of the blocks that rules took out, km²."""
    seconds_searching: float = 0.0
    """Time this run spent on blocks: reading, model, writing."""
    detections: int = 0
    """Objects found in all blocks that are done."""
    detections_new: int = 0
    """Those that no known label matches."""
    detections_confirmed: int = 0
    """Those that a known label matches."""
    labels: int = 0
    """Known labels on the ground that is searched."""
    missing: int = 0
    """Known labels that no detection matches."""
    raster: str = ""
    """Cloud-optimised GeoTIFF of probabilities; empty before there is one."""
    missing_file: str = ""
    """GeoJSON of the missing labels."""
    bytes_written: int = 0
    """Bytes of the parts this run wrote, of the raster and of the exports."""

    @property
    def blocks_settled(self) -> int:
        """Blocks of this run's that are done, by it or another run, or have failed."""
        return self.blocks_made + self.blocks_made_elsewhere + self.blocks_failed

    @property
    def failed(self) -> int:
        """Blocks and inputs that failed."""
        return self.blocks_failed + self.inputs_failed

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for is there."""
        return not self.failed
