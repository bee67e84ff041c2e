"""What one module of Python defines at its top level, and what each definition refers to; nothing is imported.

A module's source becomes named definitions (functions, classes, constants), bindings by import, and statements that run
when it is imported and bind nothing (effects). :mod:`store.code_hash` walks from definition to definition.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from store._code_names import Chain, Imported, bound_names, imported_names, names_in

EFFECTS = "<module>"
"""Name of the statements of a module that run on import and bind no name."""

WHOLE = "*"
"""Name of everything a module holds."""

_MUTATORS = frozenset(
    {"add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "register", "remove", "setdefault"}
    | {"update", "__setitem__", "appendleft"}
)
_Def = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_SKIPPED_FIELDS = {"ctx", "kind", "type_comment", "type_ignores"}


@dataclass(frozen=True, eq=False)
class Definition:
    """What one name stands for: every top-level statement that binds it."""

    module: str
    """Module it stands in."""
    is_package: bool
    """Whether the module is a package's ``__init__``."""
    statements: tuple[ast.stmt, ...]
    """The statements, in order."""

    @cached_property
    def canonical(self) -> str:
        """The syntax trees as text, without comments, docstrings and layout."""
        return "\n".join(_canonical(statement) for statement in self.statements)

    @cached_property
    def _found(self) -> tuple[frozenset[Chain], frozenset[tuple[Imported, Chain]], frozenset[str]]:
        return names_in(self.statements, self.module, is_package=self.is_package)

    @property
    def names(self) -> frozenset[Chain]:
        """Names looked up in the module's scope, each with the attributes taken from it: ``("geo", "s2_cells")``."""
        return self._found[0]

    @property
    def local_imports(self) -> frozenset[tuple[Imported, Chain]]:
        """What its own import statements bind, with the attributes taken from it."""
        return self._found[1]

    @property
    def texts(self) -> frozenset[str]:
        """String constants."""
        return self._found[2]

    @cached_property
    def mutated(self) -> frozenset[str]:
        """Names of the module's scope whose value its functions change in place or bind anew."""
        names: set[str] = set()
        for node in _walk(self.statements):
            if isinstance(node, ast.Global):
                names |= set(node.names)
            elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
                names |= _root(node)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
                names |= _root(node.func)
        return frozenset(names & {chain[0] for chain in self.names}) if names else frozenset()

    @cached_property
    def calls_on_import(self) -> frozenset[Chain]:
        """Names that are called while the statements run: decorators, base classes, and calls outside functions."""
        found: set[Chain] = set()
        for statement in self.statements:
            for node in _run_on_import(statement):
                chain = _chain(node)
                found |= {chain} if chain else set()
        return frozenset(found)


@dataclass(frozen=True, eq=False)
class ModuleCode:
    """One module, taken apart."""

    name: str
    """Dotted name."""
    is_package: bool
    """Whether it is a package's ``__init__``."""
    definitions: dict[str, Definition]
    """Top-level name → its definition; :data:`EFFECTS` where statements bind nothing."""
    imports: dict[str, tuple[Imported, ...]]
    """Name → what import statements bind it to, one or several (``try`` … ``except ImportError``)."""
    stars: tuple[str, ...]
    """Modules all of whose names are imported."""
    imported: tuple[Imported, ...] = field(default=())
    """Everything imported at the top level."""

    @cached_property
    def digest(self) -> str:
        """Hash of all its code."""
        every = sorted(definition.canonical for definition in self.definitions.values())
        return short_hash("\n".join([*every, repr(sorted(self.imports.items())), repr(self.stars)]))

    def symbol_digest(self, name: str) -> str:
        """Hash of one definition and of what the imported names in it are imported from."""
        definition = self.definitions[name]
        roots = sorted({chain[0] for chain in definition.names} & self.imports.keys())
        return short_hash(definition.canonical + repr([(root, self.imports[root]) for root in roots]))

    @cached_property
    def mutators(self) -> dict[str, frozenset[str]]:
        """Name → definitions that change its value in place or bind it anew."""
        found: dict[str, set[str]] = {}
        for by, definition in self.definitions.items():
            for name in definition.mutated - {by}:
                found.setdefault(name, set()).add(by)
        return {name: frozenset(by) for name, by in found.items()}


@lru_cache(maxsize=1024)
def module_code(name: str, source: str, *, is_package: bool) -> ModuleCode:
    """Take a module's source apart.

    Raises:
        SyntaxError: it is no Python.
    """
    statements: dict[str, list[ast.stmt]] = {}
    imports: dict[str, list[Imported]] = {}
    for statement in ast.parse(source).body:
        if _is_text(statement) or _is_main_guard(statement):
            continue
        for bound, target in _top_imports(statement, name, is_package=is_package):
            imports.setdefault(bound, []).append(target)
        for bound in _names_of(statement):
            statements.setdefault(bound, []).append(statement)
    stars = imports.pop("*", [])
    return ModuleCode(
        name=name,
        is_package=is_package,
        definitions={bound: Definition(name, is_package, tuple(found)) for bound, found in statements.items()},
        imports={bound: tuple(found) for bound, found in imports.items()},
        stars=tuple(target.module for target in stars),
        imported=(*stars, *(target for found in imports.values() for target in found)),
    )


def _top_imports(statement: ast.stmt, module: str, *, is_package: bool) -> Iterator[tuple[str, Imported]]:
    """What a top-level statement imports, also in its branches; imports inside functions belong to those."""
    for node in () if isinstance(statement, _Def) else ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported_names(node, module, is_package=is_package)


def _names_of(statement: ast.stmt) -> set[str]:
    """Names a top-level statement binds; :data:`EFFECTS` where it does more, or nothing else."""
    if isinstance(statement, ast.Import | ast.ImportFrom) or _is_type_checking(statement):
        return set()
    names = bound_names([statement])
    assigns = isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign)
    plain = isinstance(statement, _Def) or (assigns and not _changes_another(statement))
    return names if names and plain else names | {EFFECTS}


def short_hash(text: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(node: object) -> str:
    """A syntax tree as text that is the same for every layout and, as far as trees allow, version of Python."""
    if isinstance(node, ast.AST):
        parts = []
        for name in node._fields:
            value = getattr(node, name, None)
            if name == "body" and isinstance(value, list) and isinstance(node, _Def):
                value = [statement for statement in value if not _is_text(statement)] or [ast.Pass()]
            if value is not None and value != [] and name not in _SKIPPED_FIELDS:
                parts.append(f"{name}={_canonical(value)}")
        return f"{type(node).__name__}({','.join(parts)})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _is_main_guard(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in {
        node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)
    }


def _is_type_checking(statement: ast.stmt) -> bool:
    test = statement.test if isinstance(statement, ast.If) and not statement.orelse else None
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _changes_another(statement: ast.stmt) -> bool:
    """Whether an assignment goes to an item or attribute of something."""
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", statement)]
    return any(isinstance(node, ast.Subscript | ast.Attribute) for target in targets for node in ast.walk(target))


def _walk(statements: tuple[ast.stmt, ...]) -> Iterator[ast.AST]:
    for statement in statements:
        yield from ast.walk(statement)


def _root(node: ast.expr) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


def _chain(node: ast.expr) -> Chain | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else None


def _run_on_import(statement: ast.stmt) -> Iterator[ast.expr]:
    """Expressions that are called when the statement runs, as far as they are written out."""
    if isinstance(statement, _Def):
        for decorator in statement.decorator_list:
            yield decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(statement, ast.ClassDef):
            yield from statement.bases
            yield from (keyword.value for keyword in statement.keywords)
            for inner in statement.body:
                yield from _run_on_import(inner)
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Call):
            yield node.func
