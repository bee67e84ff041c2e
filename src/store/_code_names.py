"""Names a piece of Python looks up outside itself, by the scoping rules of the language."""

import ast
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import resolve_name
from typing import NamedTuple

Chain = tuple[str, ...]
"""A name and the attributes taken from it: ``("geo", "s2_cells")``."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_Named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Imported(NamedTuple):
    """What an import statement binds a name to."""

    module: str
    """Absolute name of the module."""
    name: str | None
    """Name in it; None is the module itself."""


def names_in(
    statements: Sequence[ast.stmt], module: str, *, is_package: bool
) -> tuple[frozenset[Chain], frozenset[tuple[Imported, Chain]], frozenset[str]]:
    """Names looked up in the module's scope; what inner imports bind, with attributes; and string constants."""
    visitor = _Lookups(module, is_package=is_package)
    for statement in statements:
        visitor.visit(statement)
    return frozenset(visitor.names), frozenset(visitor.imports), frozenset(visitor.texts)


def imported_names(
    node: ast.Import | ast.ImportFrom, module: str, *, is_package: bool
) -> Iterator[tuple[str, Imported]]:
    """Name → target of an import statement in ``module``; the name is ``*`` for all names."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.asname:
                yield alias.asname, Imported(alias.name, None)
            else:
                # the whole dotted module is loaded, its first part is bound
                yield alias.name.split(".")[0], Imported(alias.name.split(".")[0], None)
                if "." in alias.name:
                    yield f"import {alias.name}", Imported(alias.name, None)
        return
    inside = module if is_package else module.rpartition(".")[0]
    origin = resolve_name("." * node.level + (node.module or ""), inside) if node.level else str(node.module)
    for alias in node.names:
        yield alias.asname or alias.name, Imported(origin, alias.name)


def bound_names(statements: Iterable[ast.AST]) -> set[str]:
    """Names that statements bind in the scope they stand in, imports apart."""
    names: set[str] = set()
    for statement in statements:
        names |= set(_bound(statement))
    return names


def _bound(node: ast.AST) -> Iterator[str]:
    if isinstance(node, _Named):
        yield node.name
    elif isinstance(node, ast.Lambda):
        return
    elif isinstance(node, _Comprehension):
        yield from (inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
    elif isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Store | ast.Del):
            yield node.id
    else:
        if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name
        if isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest
        for child in ast.iter_child_nodes(node):
            yield from _bound(child)


class _Lookups(ast.NodeVisitor):
    """Walks code and notes each name that no scope inside it binds."""

    def __init__(self, module: str, *, is_package: bool) -> None:
        self.names: set[Chain] = set()
        self.imports: set[tuple[Imported, Chain]] = set()
        self.texts: set[str] = set()
        self._module, self._is_package = module, is_package
        self._scopes: list[dict[str, list[Imported]]] = []

    def _note(self, chain: Chain) -> None:
        for scope in reversed(self._scopes):
            if chain[0] in scope:
                self.imports |= {(target, chain[1:]) for target in scope[chain[0]]}
                return
        self.names.add(chain)

    def visit_Name(self, node: ast.Name) -> None:
        self._note((node.id,))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        parts: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self._note((inner.id, *reversed(parts)))
        else:
            self.visit(inner)

    def visit_Call(self, node: ast.Call) -> None:
        """Calls; ``vars(value)`` and ``dir(value)`` look into a value, not into the module."""
        looks_inside = isinstance(node.func, ast.Name) and node.func.id in {"vars", "dir"} and node.args
        for part in (*(() if looks_inside else (node.func,)), *node.args, *node.keywords):
            self.visit(part)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.texts.add(node.value)

    def visit_Global(self, node: ast.Global) -> None:
        self.names |= {(name,) for name in node.names}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Names of a class body do not hide those of the module from its methods; imports in it are followed."""
        found: dict[str, list[Imported]] = {}
        for inner in _own(node.body):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                for bound, target in imported_names(inner, self._module, is_package=self._is_package):
                    found.setdefault(bound, []).append(target)
        self._scopes.append(found)
        self.generic_visit(node)
        self._scopes.pop()

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node)

    def visit_Import(self, node: ast.Import) -> None:
        self._import(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._import(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._annotation(node.annotation)
        self.generic_visit(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        """An import runs the module and makes the name usable, so that it counts even where nobody looks it up."""
        for bound, target in imported_names(node, self._module, is_package=self._is_package):
            star = Imported(target.module, "*") if bound == "*" else target
            self.imports.add((star, ("",)))

    def _annotation(self, node: ast.expr | None) -> None:
        """Names inside the quotes of a quoted annotation."""
        for part in ast.walk(node) if node else ():
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                try:
                    self.visit(ast.parse(part.value, mode="eval").body)
                except SyntaxError:
                    continue

    def _function(self, node: _Function) -> None:
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [found for found in (arguments.vararg, arguments.kwarg) if found]
        outside: list[ast.AST] = [*arguments.defaults, *(value for value in arguments.kw_defaults if value)]
        annotations = [argument.annotation for argument in every if argument.annotation]
        body: list[ast.AST]
        if isinstance(node, ast.Lambda):
            body = [node.body]
        else:
            body = list(node.body)
            outside += [*node.decorator_list, *getattr(node, "type_params", [])]
            annotations += [node.returns] if node.returns else []
        for expression in (*outside, *annotations):
            self.visit(expression)
        for annotation in annotations:
            self._annotation(annotation)
        self._scopes.append(self._scope(body, [argument.arg for argument in every]))
        for statement in body:
            self.visit(statement)
        self._scopes.pop()

    def _scope(self, body: list[ast.AST], arguments: list[str]) -> dict[str, list[Imported]]:
        """Name → what imports bind it to, nothing for variables, for every name that is local to a function."""
        found: dict[str, list[Imported]] = {name: [] for name in (*arguments, *bound_names(body))}
        outer: set[str] = set()
        for node in _own(body):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for bound, target in imported_names(node, self._module, is_package=self._is_package):
                    found.setdefault(bound, []).append(target)
            elif isinstance(node, ast.Global | ast.Nonlocal):
                outer |= set(node.names)
        return {name: targets for name, targets in found.items() if name not in outer}

    def _comprehension(self, node: _Comprehension) -> None:
        # the first iterable is evaluated outside
        self.visit(node.generators[0].iter)
        targets = bound_names([generator.target for generator in node.generators])
        self._scopes.append({name: [] for name in targets})
        for number, generator in enumerate(node.generators):
            for part in ([generator.iter] if number else []) + generator.ifs:
                self.visit(part)
        for part in [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]:
            self.visit(part)
        self._scopes.pop()


def _own(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Nodes of a function's own scope: not those of functions and classes inside it."""
    for node in body:
        yield node
        if not isinstance(node, _Named | ast.Lambda):
            yield from _own(ast.iter_child_nodes(node))
