"""What the toy flow makes of its numbers."""

import numpy as np
from hamilton.function_modifiers import datasaver, parameterize, value
from numpy.typing import NDArray


@parameterize(low=dict(share=value(0.25)), high=dict(share=value(0.75)))
def level(scaled: list[float], share: float) -> NDArray[np.float32]:
    """A level of the scaled numbers."""
    return np.quantile(np.array(scaled, np.float32), share)


def spread(low: NDArray[np.float32], high: NDArray[np.float32], measurements: list[float]) -> dict[str, float | None]:
    """High minus low."""
    return {"spread": float(high - low), "count": float(len(measurements))}


@datasaver()
def report(spread: dict[str, float | None], folder: str) -> dict:
    """The written spread."""
    return {"folder": folder, **spread}
