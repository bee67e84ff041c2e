"""Settings of the sections ``backfill`` and ``gate``."""

from dataclasses import dataclass

from utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BackfillSettings:
    """How judged detections become prompts, chips and hard negatives."""

    prompt_kind: str = "polygon"
    """What an accepted detection is asked as: ``polygon``, its outline, or ``box``, the rectangle around it."""
    hard_negative_weight: float = 2.0
    """Weight in the training loss of chips with a rejected detection; 1 is that of all others."""
    replace_confirmed: bool = True
    """Whether a detection that confirms a label asks for that label's mask again, by its own outline."""
    replace_iou: float = 0.5
    """IoU with the label from which a detection asks for its mask again; points, which have no extent, always may."""
    same_object_iou: float = 0.3
    """IoU of two detections' outlines from which they are one object, found by two searches."""
    val: bool = False
    """Whether chips of the split ``val`` get machine masks too; those of ``test`` never do."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.prompt_kind not in ("polygon", "box"):
            raise ConfigError(f"backfill.prompt_kind is {self.prompt_kind!r}; known: polygon, box")
        if self.hard_negative_weight < 1:
            raise ConfigError(f"backfill.hard_negative_weight is {self.hard_negative_weight}; 1 or more")
        for name in ("same_object_iou", "replace_iou"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"backfill.{name} is {getattr(self, name)}; above 0, up to 1")


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """When a generation is promoted, and how its model is trained."""

    draws: int = 2000
    """Bootstrap draws of split cells."""
    level: float = 0.9
    """Share of the draws between the two ends of an interval."""
    tolerance: float = 0.02
    """A fall of IoU or F1 by more than this keeps a generation back, whatever the noise."""
    least_iou: float = 0.05
    """A model below this IoU has learned nothing that could speak for its generation."""
    seed: int = 42
    """Seed of the bootstrap and of the fit."""
    epochs: int = 30
    """Epochs of a fit."""
    fit_arguments: tuple[str, ...] = ()
    """Further arguments of ``python -m training fit``, such as ``--model.lr=0.001``."""
    batch_chips: int = 32
    """Chips a model takes at a time."""
    out: str = "runs/gate"
    """Folder of fits and reports."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if min(self.draws, self.epochs, self.batch_chips) < 1:
            raise ConfigError("gate.draws, gate.epochs and gate.batch_chips are whole numbers from 1 on")
        if not 0 < self.level < 1:
            raise ConfigError(f"gate.level is {self.level}; between 0 and 1")
        if min(self.tolerance, self.least_iou) < 0:
            raise ConfigError(f"gate.tolerance is {self.tolerance}, gate.least_iou {self.least_iou}; 0 or more")
