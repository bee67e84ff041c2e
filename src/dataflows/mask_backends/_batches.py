"""Batches that shrink where a device runs out of memory."""

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from utils.errors import DeviceMemoryError

T = TypeVar("T")
R = TypeVar("R")

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class Batches:
    """Work on many things a batch at a time; a size that does not fit into memory is halved from then on."""

    def __init__(self, what: str, size: int) -> None:
        """Start with batches of ``size``; ``what`` names the things in warnings and errors."""
        self.what, self.size = what, size

    def run(self, items: list[T], call: Callable[[list[T]], Sequence[R]], device: str) -> list[R]:
        """Results of all ``items``, in order. A halved batch is a ``RuntimeWarning``.

        Raises:
            DeviceMemoryError: there is no memory for one item alone.
        """
        results: list[R] = []
        while len(results) < len(items):
            some = items[len(results) : len(results) + self.size]
            try:
                results += call(some)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                message = str(error).split("\n", 1)[0]
            else:
                continue
            # outside the handler: its traceback holds the tensors that filled the memory
            self._halve(len(some), device, message)
        return results

    def _halve(self, tried: int, device: str, message: str) -> None:
        if tried <= 1:
            raise DeviceMemoryError(
                f"{self.what}: no memory on {device} for a single one ({message}); take smaller chips or tiles, a "
                "smaller model, precision bfloat16, or another device"
            )
        self.size = tried // 2
        warnings.warn(
            f"{self.what}: out of memory on {device} with {tried} at once; going on with {self.size}",
            RuntimeWarning,
            stacklevel=3,
        )
        if device.startswith("cuda"):
            import torch  # noqa: PLC0415 - heavy

            torch.cuda.empty_cache()


def _out_of_memory(error: RuntimeError) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or any(words in str(error).lower() for words in _NO_MEMORY)
