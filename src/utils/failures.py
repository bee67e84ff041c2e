"""What failed, as a value that travels between nodes and ends in the table ``errors``."""

import hashlib
import traceback
from dataclasses import dataclass

from utils.redaction import redacted


def interrupted(error: BaseException) -> bool:
    """Whether ``error`` is an interrupt, or another exception a library made of one.

    DuckDB raises ``RuntimeError("Query interrupted")`` from the ``KeyboardInterrupt`` that stopped its query, Lance an
    ``ArrowInvalid`` that only names it.
    """
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        if isinstance(found, KeyboardInterrupt) or "KeyboardInterrupt" in str(found):
            return True
        seen.add(id(found))
        found = found.__cause__
    return False


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One thing that failed while the rest went on."""

    node: str
    """Node that met it."""
    error_type: str
    """Exception class."""
    message: str
    """Exception text, without secrets."""
    traceback_hash: str
    """Hash of the frames the exception passed through: equal for equal causes."""
    input_ids: tuple[str, ...] = ()
    """Ids of what went in: labels, scenes, prompts."""
    uuid: str | None = None
    """Chip, where a single one failed."""
    partition: int | None = None
    """S2 cell of the unit of work, once there is one."""
    input_set: str | None = None
    """Hash of the chip's prompts and scenes, where a single chip failed."""

    def __post_init__(self) -> None:
        """Take secrets out of the message."""
        object.__setattr__(self, "message", redacted(self.message))

    @classmethod
    def of(
        cls,
        node: str,
        error: Exception,
        *,
        input_ids: tuple[str, ...] = (),
        uuid: str | None = None,
        partition: int | None = None,
        input_set: str | None = None,
    ) -> "Failure":
        """The failure that ``error`` tells of."""
        frames = [f"{frame.name}:{frame.line}" for frame in traceback.extract_tb(error.__traceback__)]
        return cls(
            node=node,
            error_type=type(error).__name__,
            message=str(error),
            traceback_hash=hashlib.sha256("\n".join([type(error).__name__, *frames]).encode()).hexdigest()[:16],
            input_ids=input_ids,
            uuid=uuid,
            partition=partition,
            input_set=input_set,
        )
