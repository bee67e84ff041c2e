"""Recipes against an independent oracle: what really runs while rows are made is edited, piece by piece.

A profile hook notes every function of ours that executes while the partitions of a small region run, and the node it
executes for; the byte code of those functions names the constants they load. Each is then edited in its source, and the
recipe of that node's stage has to change. Comments, docstrings, blank lines and functions nobody uses must not count.
"""

import ast
import dis
import sys
import threading
from collections import defaultdict
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType

import pytest

from dataflows import drivers
from dataflows.config import from_mapping
from dataflows.stage_recipes import STAGE_TAGS, STAGES, stage_functions, stage_recipes
from store import code_hash, imagery
from store.code_hash import OURS, WITHOUT_ALGORITHM, CodeBase
from support import mini_region

pytestmark = pytest.mark.slow

SRC = Path(__file__).parents[2] / "src"
REGISTRIES = ["store.imagery:_SOURCES", "dataflows.mask_backends:_BACKENDS"]
OUTSIDE = WITHOUT_ALGORITHM | {"store.record_schemas", "store.chip_schemas", "store.columns"}
"""Modules no recipe counts: schemas, and the door rows pass as they are."""


@cache
def module_of(path: str) -> str | None:
    place = Path(path)
    if not place.is_relative_to(SRC):
        return None
    parts = place.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Trace:
    """Stage → functions of ours (module, top-level name) that ran for it, and constants they load."""

    def __init__(self, nodes: dict[CodeType, str]) -> None:
        self.nodes = nodes
        self.functions: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self.codes: dict[str, set[tuple[CodeType, str]]] = defaultdict(set)

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or (module := module_of(frame.f_code.co_filename)) is None:
            return
        above: FrameType | None = frame
        while above is not None and above.f_code not in self.nodes:
            above = above.f_back
        if above is None:
            return
        stage = self.nodes[above.f_code]
        name = frame.f_code.co_qualname.split(".")[0]
        if not name.startswith("<"):
            self.functions[stage].add((module, name))
        self.codes[stage].add((frame.f_code, module))

    def constants(self, stage: str) -> set[tuple[str, str]]:
        """(module, name) of constants the executed functions load, where they are defined."""
        found = set()
        for code, module in self.codes[stage]:
            names = vars(sys.modules[module])
            for step in dis.get_instructions(code):
                value = names.get(step.argval) if step.opname == "LOAD_GLOBAL" else None
                if value is not None and not isinstance(value, ModuleType | FunctionType | type):
                    place = defined_in(module, step.argval)
                    found |= {place} if place else set()
        return found


def defined_in(module: str, name: str) -> tuple[str, str] | None:
    """Follow imports of ours to the module that assigns the name."""
    tree = ast.parse((CodeBase().source(module)) or "")
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in {
            inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)
        }:
            return module, name
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return defined_in(node.module, alias.name)
    return None


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The trace of every node of a build, plan and partitions, on the region."""
    region = mini_region.make(tmp_path_factory.mktemp("soundness") / "region")
    config = from_mapping(region.settings)
    driver = drivers.build_driver("build", config)
    stage_of = {tag: stage for stage, tags in STAGE_TAGS.items() for tag in tags}
    upstream = {node.name for node in driver.what_is_upstream_of("sample_table", "mask_table", "prompt_table")}
    nodes = {}
    for name, node in driver.graph.nodes.items():
        stage = stage_of.get(node.tags.get("stage"))
        for function in (node.originating_functions or ()) if stage and name in upstream else ():
            nodes[function.__code__] = stage
    trace = Trace(nodes)
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        summary = drivers.run("build", config)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert summary.chips_written > 0
    return trace, driver, config


@pytest.fixture(scope="module")
def roots(traced):
    _, driver, _ = traced
    besides = {"image": {imagery.place("local")}, "mask": {"dataflows.mask_backends.classical:ClassicalBackend"}}
    return {stage: sorted(stage_functions(driver, stage) | besides.get(stage, set())) for stage in STAGES}


@pytest.fixture(scope="module")
def codes(roots):
    """The code base, and what each stage reaches in it."""
    code = CodeBase()
    return code, {stage: code.reached(roots[stage], apart=REGISTRIES) for stage in STAGES}


def edited(source: str, names: set[str]) -> str:
    """The source with the definitions of ``names`` changed: another statement, or another value."""
    tree, done = ast.parse(source), set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            node.body.append(ast.parse("_edited = 1").body[0])
            done.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound = {inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)}
            if bound & names:
                node.value = ast.Tuple(elts=[node.value, ast.Constant("edited")], ctx=ast.Load())
                done |= bound & names
    assert done == names
    return ast.unparse(ast.fix_missing_locations(tree))


def unseen(used: set[tuple[str, str]], root: list[str], code: CodeBase, before) -> list[tuple[str, str]]:
    """Definitions whose hash in a stage's code stays when they are edited: the recipe is a hash of those hashes."""
    by_module: dict[str, set[str]] = defaultdict(set)
    for module, name in used:
        by_module[module].add(name)
    missed = []
    for module, names in by_module.items():
        again = code.with_source(module, edited(code.source(module), names)).reached(root, apart=REGISTRIES)
        found, then = again.get(module, {}), before.get(module, {})
        seen = {name for name in (*names, "*") if found.get(name) != then.get(name)}
        missed += [] if "*" in seen else [(module, name) for name in names - seen]
    return sorted(missed)


def test_every_function_that_ran_counts_in_the_stage_it_ran_for(traced, roots, codes):
    trace, _, _ = traced
    code, before = codes
    compared = 0
    for stage in STAGES:
        used = {(module, name) for module, name in trace.functions[stage] if module not in OUTSIDE}
        compared += len(used)
        assert unseen(used, roots[stage], code, before[stage]) == [], stage
    print(f"{compared} functions edited, all seen")
    assert compared > 300


def test_every_constant_that_was_loaded_counts(traced, roots, codes):
    """Registries stand apart: which of their entries is used is a root of its own."""
    trace, _, _ = traced
    code, before = codes
    compared = 0
    for stage in STAGES:
        used = {(module, name) for module, name in trace.constants(stage) if module not in OUTSIDE}
        used -= {(module, name) for module, _, name in (entry.partition(":") for entry in REGISTRIES)}
        compared += len(used)
        assert unseen(used, roots[stage], code, before[stage]) == [], stage
    print(f"{compared} constants edited, all seen")
    assert compared > 100


def test_compiled_kernels_count(roots, codes):
    """A profile hook does not see compiled code, so their functions are edited all the same."""
    code, before = codes
    for module, names in (("utils._s2_kernel", {"fill_cells", "_index", "_st"}), ("utils.index_kernels", set())):
        tree = ast.parse(code.source(module))
        wanted = names or {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert unseen({(module, name) for name in wanted}, roots["index"], code, before["index"]) == []


def test_text_layout_and_unused_code_do_not_count(roots, codes):
    code, before = codes
    modules = sorted({module for stage in STAGES for module in before[stage]})
    for module in modules:
        source = code.source(module)
        whole = any("*" in before[stage].get(module, {}) for stage in STAGES)
        rewritten = ast.unparse(ast.parse(source)) + "\n\n\n# a comment\n"
        tree = ast.parse(rewritten)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                node.body.insert(0, ast.parse('"""Another docstring."""').body[0])
        texts = ast.unparse(tree) + ("" if whole else "\n\ndef _nobody_uses_this():\n    return 1\n")
        again = code.with_source(module, texts)
        for stage in STAGES:
            assert again.reached(roots[stage], apart=REGISTRIES) == before[stage], module
    print(f"{len(modules)} modules rewritten, none of {len(STAGES)} recipes changed")


def test_recipes_are_made_from_what_was_tested(traced, codes):
    _, driver, config = traced
    code_hash.forget()
    assert stage_recipes(asdict(config), driver).code == codes[1]
