"""Which ground labels changed on since a snapshot of the lake."""

from hamilton.function_modifiers import tag

from dataflows._placement import LabelledGround


@tag(stage="labels")
def changed_ground(since_snapshot: int | None) -> LabelledGround | None:
    """Positions that changed labels touch or touched; None for a whole plan."""
    del since_snapshot
    return None
