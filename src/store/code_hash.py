"""Which of our code a stage runs, and its hashes: from definition to definition by the names each one uses.

The walk starts at roots (functions of nodes, classes of sources and backends). It follows every name a definition looks
up (module-level functions, classes, constants, imported names, attributes of imported modules, annotations as evidence
of what is passed in) into modules of ours, and hashes each definition it reaches. What a module runs when imported
counts as well, for every module that is imported on the way.

Where names cannot be followed, the whole module counts: modules passed around as values (``getattr(module, name)``),
star imports, ``globals()``, ``eval`` and the like; and for ``import_module`` what the module's texts name.
"""

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from store._code_names import Chain, Imported
from store.module_code import EFFECTS, WHOLE, Definition, ModuleCode, module_code
from utils.errors import ConfigError

OURS = ("utils", "store", "training", "dataflows")
"""Packages whose code is followed."""

WITHOUT_ALGORITHM = frozenset(
    {"store.schemas", "store.lance_io", "store.conflicts", "store.places", "store.storage_options"}
    | {"store.remote_errors", "store.object_store", "utils.redaction"}
)
"""Modules that are not followed: the schemas, for which ``SCHEMA_VERSION`` stands, and the doors that rows and
files pass as they are."""

_OWN_NAMES = {"globals", "locals", "vars", "eval", "exec", "dir"}
"""Built-ins by which code reaches names of its module that it does not spell out."""
_IMPORTERS = {("importlib", "import_module"), ("importlib", "__import__"), ("sys", "modules")}

StageCode = Mapping[str, Mapping[str, str]]
"""Module → definition → hash of its code; ``*`` stands for all of the module, ``<module>`` for what runs on import."""


def stage_code(roots: Sequence[str], *, apart: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """Code that runs when the roots do: module → definition → hash.

    Args:
        roots: ``module:definition``, or ``module`` for all that it defines.
        apart: ``module:definition`` that does not count, such as a registry of which one entry is a root.

    Raises:
        ConfigError: a root does not exist.
    """
    found = _stage_code(tuple(sorted(set(roots))), frozenset(apart))
    return {module: dict(symbols) for module, symbols in found.items()}


@cache
def _stage_code(roots: tuple[str, ...], apart: frozenset[str]) -> dict[str, dict[str, str]]:
    # syntax trees are many small objects that all stay: collecting among them takes a third of the time
    collecting = gc.isenabled()
    gc.disable()
    try:
        return CodeBase(packages=OURS).reached(roots, apart=apart)
    finally:
        if collecting:
            gc.enable()


def forget() -> None:
    """Read all code again the next time it is asked for."""
    _stage_code.cache_clear()
    _folder.cache_clear()


@dataclass(eq=False)
class CodeBase:
    """Source of our packages as it lies on disk."""

    packages: tuple[str, ...] = OURS
    """Packages whose code is followed, those of the roots besides."""
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Module → source that stands for the file's."""
    _modules: dict[str, ModuleCode | None] = field(default_factory=dict)

    def module(self, name: str) -> ModuleCode | None:
        """The module taken apart; None when there is none of that name.

        Raises:
            ConfigError: its source is no Python.
        """
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def reached(self, roots: Iterable[str], *, apart: Iterable[str] = ()) -> dict[str, dict[str, str]]:
        """See :func:`stage_code`."""
        roots = list(roots)
        own = {root.partition(":")[0].split(".")[0] for root in roots}
        walk = _Walk(self, {*self.packages, *own}, frozenset(apart))
        for root in roots:
            walk.root(root)
        walk.run()
        return walk.hashes()

    def with_source(self, name: str, source: str) -> "CodeBase":
        """The same code with another source of one module; what was taken apart already is kept."""
        kept = {module: code for module, code in self._modules.items() if module != name}
        return CodeBase(self.packages, {**self.replaced, name: source}, kept)

    def source(self, name: str) -> str | None:
        """Source of a module; None when there is none."""
        path = _path(name)
        return self.replaced.get(name) or (path.read_text(encoding="utf-8") if path else None)

    def _read(self, name: str) -> ModuleCode | None:
        source, path = self.source(name), _path(name)
        if source is None:
            return None
        try:
            return module_code(name, source, is_package=path is not None and path.name == "__init__.py")
        except SyntaxError as error:
            raise ConfigError(f"the code of {name} cannot be read: {error}") from error


class _Walk:
    """One walk through the code."""

    def __init__(self, code: CodeBase, packages: set[str], apart: frozenset[str]) -> None:
        self._code, self._packages, self._apart = code, packages, apart
        self._waiting: list[tuple[str, str]] = []
        self._seen: set[tuple[str, str]] = set()
        self._loaded: set[str] = set()
        self._changing: dict[tuple[str, str], bool] = {}

    def root(self, root: str) -> None:
        module, _, name = root.partition(":")
        found = self._code.module(module)
        if found is None:
            raise ConfigError(f"no module {module!r}")
        if name and name not in found.definitions and name not in found.imports:
            raise ConfigError(f"no {name!r} in module {module!r}")
        for wanted in [name] if name else [*found.definitions, *found.imports]:
            self._reach(module, wanted)

    def run(self) -> None:
        while self._waiting:
            module, name = self._waiting.pop()
            code = self._code.module(module)
            if code is None:
                continue
            for target in code.imports.get(name, ()):
                self._target(target, ())
            for wanted in code.definitions if name == WHOLE else [name]:
                if wanted in code.definitions:
                    self._follow(code, wanted)

    def hashes(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for module, name in sorted(self._seen):
            code = self._code.module(module)
            if code is None or f"{module}:{name}" in self._apart:
                continue
            if name == WHOLE:
                found.setdefault(module, {})[name] = code.digest
            elif name in code.definitions:
                found.setdefault(module, {})[name] = code.symbol_digest(name)
        return found

    def _ours(self, module: str) -> bool:
        return module.partition(".")[0] in self._packages and module not in WITHOUT_ALGORITHM

    def _reach(self, module: str, name: str) -> None:
        """Queue a definition, unless it was met; its module is loaded for it."""
        if not self._ours(module) or (module, name) in self._seen or f"{module}:{name}" in self._apart:
            return
        self._seen.add((module, name))
        self._load(module)
        self._waiting.append((module, name))

    def _load(self, module: str) -> None:
        """Count what runs when a module is imported, the packages it lies in and what it imports included."""
        waiting = [module]
        while waiting:
            name = waiting.pop()
            parts = name.split(".")
            for loaded in (".".join(parts[: end + 1]) for end in range(len(parts))):
                code = self._code.module(loaded) if self._ours(loaded) else None
                if code is None or loaded in self._loaded:
                    continue
                self._loaded.add(loaded)
                for effect in self._effects(code):
                    self._reach(loaded, effect)
                for target in code.imported:
                    waiting += [target.module, f"{target.module}.{target.name}"] if target.name else [target.module]

    def _effects(self, code: ModuleCode) -> Iterator[str]:
        """Definitions whose making changes something else: plain statements, and calls of ours that change state."""
        for name, definition in code.definitions.items():
            if name == EFFECTS or any(self._changes_state(code, chain) for chain in definition.calls_on_import):
                yield name

    def _changes_state(self, code: ModuleCode, chain: Chain) -> bool:
        """Whether what a name stands for, or anything of ours it uses, changes a module's state when called."""
        for module, name in self._resolved(code, chain):
            key = (module, name)
            if key in self._changing:
                if self._changing[key]:
                    return True
                continue
            self._changing[key] = False
            held = self._code.module(module)
            definition = held.definitions.get(name) if held else None
            if held is None or definition is None:
                continue
            hooks = "__init_subclass__" in definition.canonical or "'metaclass'" in definition.canonical
            self._changing[key] = (
                hooks or bool(definition.mutated) or any(self._changes_state(held, used) for used in definition.names)
            )
            if self._changing[key]:
                return True
        return False

    def _follow(self, code: ModuleCode, name: str) -> None:
        definition = code.definitions[name]
        for chain in definition.names:
            self._chain(code, chain)
        for target, attributes in definition.local_imports:
            if attributes == ("",):
                self._imported(target)
            else:
                self._target(target, attributes)
        for mutator in code.mutators.get(name, ()):
            self._reach(code.name, mutator)
        if ("__name__",) in definition.names and any("modules" in chain for chain in definition.names):
            # sys.modules[__name__]
            self._reach(code.name, WHOLE)
        if self._imports_by_name(code, definition):
            self._named_in_texts(code)

    def _chain(self, code: ModuleCode, chain: Chain) -> None:
        if chain[0] in code.definitions:
            self._reach(code.name, chain[0])
        for target in code.imports.get(chain[0], ()):
            self._target(target, chain[1:])
        if chain[0] in code.definitions or chain[0] in code.imports:
            return
        if chain[0] in _OWN_NAMES:
            self._reach(code.name, WHOLE)
        for star in code.stars:
            self._reach(star, WHOLE)

    def _target(self, target: Imported, attributes: Chain) -> None:
        """Follow an imported name and the attributes taken from it to the definition they stand for."""
        if not self._ours(target.module):
            return
        for module, name in self._meant(target, attributes):
            self._reach(module, name)

    def _meant(self, target: Imported, attributes: Chain) -> list[tuple[str, str]]:
        module, rest = target.module, ((target.name,) if target.name else ()) + attributes
        if not self._ours(module):
            return []
        while rest:
            code = self._code.module(module)
            first, rest = rest[0], rest[1:]
            if code is None:
                return []
            if first in code.definitions or (first in code.imports and f"import {module}.{first}" not in code.imports):
                again = [found for to in code.imports.get(first, ()) for found in self._meant(to, rest)]
                return again + ([(module, first)] if first in code.definitions else [])
            if self._code.module(f"{module}.{first}") is not None:
                module = f"{module}.{first}"
                continue
            # a name that is made when it is asked for, or comes by a star
            lazily = [(module, "__getattr__")] if "__getattr__" in code.definitions else []
            return lazily + [(star, WHOLE) for star in code.stars] or [(module, WHOLE)]
        return [(module, WHOLE)]

    def _resolved(self, code: ModuleCode, chain: Chain) -> list[tuple[str, str]]:
        own = [(code.name, chain[0])] if chain[0] in code.definitions else []
        return own + [found for to in code.imports.get(chain[0], ()) for found in self._meant(to, chain[1:])]

    def _imported(self, target: Imported) -> None:
        """An import statement inside a function: the module, or the submodule, is loaded."""
        if target.name == "*":
            self._reach(target.module, WHOLE)
        self._load(target.module)
        if target.name:
            self._load(f"{target.module}.{target.name}")

    def _imports_by_name(self, code: ModuleCode, definition: Definition) -> bool:
        called = {(to.module, to.name) for chain in definition.names for to in code.imports.get(chain[0], ())}
        called |= {
            (to.module, attribute)
            for chain in definition.names
            for to in code.imports.get(chain[0], ())
            for attribute in chain[1:2]
        }
        called |= {(target.module, target.name) for target, _ in definition.local_imports}
        return bool(called & _IMPORTERS) or ("__import__",) in definition.names

    def _named_in_texts(self, code: ModuleCode) -> None:
        """What texts of the module name: ``package.module`` or ``package.module:definition``."""
        for name, definition in code.definitions.items():
            if f"{code.name}:{name}" in self._apart:
                continue
            for text in definition.texts:
                module, _, attribute = text.partition(":")
                if not module.replace(".", "").isidentifier() or not self._ours(module):
                    continue
                held = self._code.module(module)
                if held is not None:
                    self._reach(module, attribute if attribute in held.definitions else WHOLE)


@lru_cache(maxsize=64)
def _folder(package: str) -> Path | None:
    """Where a top-level package, or the file of a top-level module, lies."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _path(module: str) -> Path | None:
    """The module's file, found without importing anything; None when there is none."""
    first, *rest = module.split(".")
    place = _folder(first) if first else None
    if place is None or (place.is_file() and rest):
        return None
    if place.is_file():
        return place
    inner = place.joinpath(*rest)
    for path in (inner / "__init__.py", inner.with_suffix(".py") if rest else inner / "__init__.py"):
        if path.is_file():
            return path
    return None
