"""Index formulas as text, compiled to one pass over the pixels: no temporary arrays, bands of any type and layout.

A formula is written with band names, numbers, ``+ - * /`` and parentheses. It is ours, never a user's: it comes from
the table in ``utils.indices`` and is checked when the table is made.
"""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import ConfigError

_BLOCK_PX = 65_536
"""Pixels per block where a band must be cast or copied to be contiguous."""


@dataclass(frozen=True, kw_only=True)
class Formula:
    """A checked formula."""

    bands: tuple[str, ...]
    """Band names in the order they first stand in the text."""
    numerator: str
    """What stands above the line; the whole formula when it is no ratio of bands."""
    denominator: str | None
    """What stands below the line; None when no band does."""


@cache
def parsed(text: str) -> Formula:
    """The formula in ``text``.

    Raises:
        ConfigError: it holds anything but bands, numbers, ``+ - * /`` and parentheses, or divides by a band anywhere
            but at the top: only there is a denominator of 0 made NaN.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ConfigError(f"index formula {text!r} cannot be read: {error.msg}") from error
    parts = (tree.left, tree.right) if isinstance(tree, ast.BinOp) and _divides_by_bands(tree) else (tree,)
    for part in parts:
        _check(part, text)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    names.sort(key=lambda node: node.col_offset)
    if not names:
        raise ConfigError(f"index formula {text!r} names no band")
    numerator, denominator = ast.unparse(parts[0]), ast.unparse(parts[1]) if len(parts) > 1 else None
    return Formula(bands=tuple(dict.fromkeys(node.id for node in names)), numerator=numerator, denominator=denominator)


def evaluated(text: str, planes: Sequence[NDArray[Any]], *, scale: float | None = None) -> NDArray[np.float32]:
    """The formula over ``planes``: float32 of their shape, NaN where a plane is NaN or the denominator 0.

    Besides the result, at most 256 kB per plane are held, and only for planes that are not contiguous float32.

    Args:
        text: the formula.
        planes: one array per band of :func:`parsed`, all of one shape.
        scale: None takes the values as they are; a number divides each by it in float32 and makes NaN of every pixel
            where a plane is 0 (nodata).
    """
    out = np.empty(planes[0].shape, np.float32)
    roles: Any = [["readonly", "contig"]] * len(planes) + [["writeonly", "contig"]]
    blocks = np.nditer(
        [*planes, out],
        flags=["external_loop", "buffered", "grow_inner", "zerosize_ok"],
        op_flags=roles,
        op_dtypes=[np.dtype(np.float32)] * (len(planes) + 1),
        casting="same_kind",
        buffersize=_BLOCK_PX,
    )
    kernel = _kernel(text, scale is not None)
    # a float64 beyond float32's range is infinite, and so NaN in a ratio
    with np.errstate(over="ignore"), blocks:
        for block in blocks:
            kernel(*block, np.float32(scale or 1))
    return out


@cache
def _kernel(text: str, digital: bool) -> Callable[..., None]:
    """A compiled loop ``(*planes, out, scale)`` over contiguous float32 of one dimension; it releases the GIL."""
    import numba  # noqa: PLC0415 - half a second, and only pixels need it

    names: dict[str, Any] = {"float32": np.float32, "nan": np.float32(np.nan)}
    exec(_source(parsed(text), digital=digital), names)  # noqa: S102 - the formula has passed `parsed`
    plane = numba.types.Array(numba.float32, 1, "C", readonly=True)
    signature = numba.void(*[plane] * len(parsed(text).bands), numba.float32[::1], numba.float32)
    # numpy's error model: no exception is raised, so the loop vectorises
    compiled: Callable[..., None] = numba.njit([signature], error_model="numpy", nogil=True)(names["kernel"])
    return compiled


def _source(formula: Formula, *, digital: bool) -> str:
    arrays = [f"{band}_plane" for band in formula.bands]
    divided = " / scale" if digital else ""
    bottom = _float32_text(formula.denominator or "1")
    # nodata is told by a product, as a chain of `or` keeps the loop from vectorising
    holds = [f"({array}[i] != 0)" for array in arrays] if digital else []
    if formula.denominator is not None:
        holds.append("(bottom != 0)")
    body = [
        *(f"{band} = {array}[i]{divided}" for band, array in zip(formula.bands, arrays, strict=True)),
        f"bottom = {bottom}",
        f"value = ({_float32_text(formula.numerator)}){' / bottom' if formula.denominator is not None else ''}",
        f"out[i] = value if {' & '.join(holds)} else nan" if holds else "out[i] = value",
    ]
    lines = "\n".join(f"        {line}" for line in body)
    return f"def kernel({', '.join(arrays)}, out, scale):\n    for i in range(out.size):\n{lines}\n"


class _Float32(ast.NodeTransformer):
    """Numbers as float32, so that no operation is carried out in float64."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Call(func=ast.Name(id="float32", ctx=ast.Load()), args=[node], keywords=[])


def _float32_text(expression: str) -> str:
    return ast.unparse(_Float32().visit(ast.parse(expression, mode="eval").body))


def _divides_by_bands(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and any(isinstance(inner, ast.Name) for inner in ast.walk(node.right))
    )


def _check(tree: ast.AST, text: str) -> None:
    allowed = (ast.BinOp, ast.UnaryOp, ast.Name, ast.Constant, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.USub, ast.Load)
    for node in ast.walk(tree):
        number = not isinstance(node, ast.Constant) or type(node.value) in (int, float)
        # names in lower case are the kernel's own
        band = not isinstance(node, ast.Name) or node.id.isupper()
        if not isinstance(node, allowed) or not number or not band:
            raise ConfigError(
                f"index formula {text!r} holds {ast.unparse(node)!r}; "
                "use band names (upper case), numbers, + - * / and parentheses"
            )
        if _divides_by_bands(node):
            raise ConfigError(f"index formula {text!r} divides by a band below the top; write it as one ratio")
