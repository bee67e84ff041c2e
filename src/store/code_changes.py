"""What differs between the code of two recorded stages, or of one and today's."""

import ast
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from store.code_hash import CodeBase
from store.module_code import EFFECTS, WHOLE, short_hash


class CodeChange(NamedTuple):
    """One definition that is not what it was."""

    where: str
    """``module.definition``, or the module where all of it counts."""
    how: str
    """changed, added or gone."""


def code_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[CodeChange]:
    """Definitions that differ between two codes of a stage (module → definition → hash), sorted.

    Runs recorded before definitions were told apart hold one hash per module. Where only ``then`` does, ``now`` is
    taken to be today's code, and its modules are hashed the way those runs did.
    """
    found: list[CodeChange] = []
    for module in sorted(then.keys() | now.keys()):
        before, after = then.get(module), now.get(module)
        if isinstance(before, str):
            if after is None:
                # modules that were counted as a whole and of which no definition is used
                continue
            known = after if isinstance(after, str) else module_hash(module)
            found += [] if known == before else [CodeChange(module, "changed")]
            continue
        first, second = dict(before or {}), dict(after or {}) if not isinstance(after, str) else {}
        if by_module(then):
            # what had no hash of its own then cannot be said to have changed
            continue
        found += [
            CodeChange(_place(module, name), _how(first.get(name), second.get(name))) for name in _names(first, second)
        ]
    return found


def by_module(code: Mapping[str, Any]) -> bool:
    """Whether a recorded code has one hash per module."""
    return any(isinstance(found, str) for found in code.values())


@cache
def module_hash(module: str) -> str | None:
    """Hash of a module's syntax tree as runs recorded it before definitions were told apart; None without a module."""
    source = CodeBase().source(module)
    if source is None:
        return None
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            kept = [statement for statement in node.body if not _is_text(statement)]
            node.body = kept or [ast.Pass()]
    return short_hash(ast.dump(tree))


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _names(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    return [name for name in sorted(first.keys() | second.keys()) if first.get(name) != second.get(name)]


def _how(before: str | None, after: str | None) -> str:
    if before is None:
        return "added"
    return "gone" if after is None else "changed"


def _place(module: str, name: str) -> str:
    if name == WHOLE:
        return module
    return f"{module} (on import)" if name == EFFECTS else f"{module}.{name}"
