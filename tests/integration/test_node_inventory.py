"""Every Hamilton node: documented, fully typed, and named for what it is."""

import inspect
from importlib import import_module
from types import FunctionType
from typing import Any, get_type_hints

import pytest
from hamilton import driver
from hamilton.graph_utils import find_functions

from dataflows import drivers

MODULES = sorted({module for flow in drivers.FLOWS.values() for module in flow.modules} | {*drivers.LOADERS.values()})
VERBS = frozenset(
    """
    add append apply assign attach build calc calculate check clean clip collect combine compute convert copy create
    crop delete derive detect do download drop ensure evaluate execute export extract fetch find fit generate get handle
    harmonise import ingest init insert is join load make merge normalise open parse plot predict prepare process
    produce promote pull push put read refine remove render reproject resample resolve run save scan segment select send
    shuffle sort transform update upload upsert use validate verify warp write
    """.split()  # noqa: SIM905 - a list of words reads best as text
)
"""Words a node name may not start with: ``get_labels`` is an order, ``labels`` is a thing.

Words that stand for things here (mask, sample, split, index, plan, store, commit, score, train) are not among them.
"""


def nodes_of(module: str) -> list[tuple[str, FunctionType]]:
    return [
        (name, function) for name, function in find_functions(import_module(module)) if inspect.isfunction(function)
    ]


NODES = [(module, name, function) for module in MODULES for name, function in nodes_of(module)]
EVERY_NODE = pytest.mark.parametrize(("module", "name", "function"), NODES, ids=[f"{m}.{n}" for m, n, _ in NODES])


def verb_of(name: str) -> str | None:
    first = name.partition("_")[0]
    return first if first in VERBS else None


def test_modules_are_found_and_hold_nodes() -> None:
    assert len(MODULES) >= 8
    assert all(nodes_of(module) for module in MODULES)


@EVERY_NODE
def test_node_is_documented(module: str, name: str, function: FunctionType) -> None:
    doc = inspect.getdoc(function)
    assert doc, f"{module}.{name} has no docstring"
    assert doc.splitlines()[0].endswith("."), f"{module}.{name}: {doc.splitlines()[0]!r} is no sentence"


@EVERY_NODE
def test_node_is_fully_typed(module: str, name: str, function: FunctionType) -> None:
    hints = get_type_hints(inspect.unwrap(function))
    parameters = inspect.signature(inspect.unwrap(function)).parameters
    missing = [parameter for parameter in [*parameters, "return"] if parameter not in hints]
    assert not missing, f"{module}.{name} lacks hints for {missing}"
    bare = [parameter for parameter, hint in hints.items() if hint is Any]
    assert not bare, f"{module}.{name} hides {bare} behind Any"
    kinds = {parameter.kind for parameter in parameters.values()}
    assert kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


@EVERY_NODE
def test_node_has_the_name_of_a_thing(module: str, name: str, function: FunctionType) -> None:
    assert function.__module__ == module
    node = name.partition("__")[0]
    assert verb_of(node) is None, f"{module}.{name} starts with the verb {verb_of(node)!r}; name what it is"
    assert node == node.lower()


@pytest.mark.parametrize("flow", list(drivers.FLOWS))
def test_every_variable_of_a_flow_has_a_noun_and_a_type(flow: str) -> None:
    built = drivers.build_driver(flow)
    for variable in built.list_available_variables():
        node = variable.name.partition(".")[0]
        assert verb_of(node) is None, f"{flow}: {node}"
        assert variable.type is not Any
        if not variable.is_external_input:
            assert variable.documentation or variable.originating_functions[0].__doc__, f"{flow}: {variable.name}"


@pytest.mark.parametrize("flow", list(drivers.FLOWS))
def test_outputs_of_a_flow_exist(flow: str) -> None:
    built: driver.Driver = drivers.build_driver(flow)
    names = {variable.name for variable in built.list_available_variables() if not variable.is_external_input}
    assert drivers.FLOWS[flow].outputs
    assert set(drivers.FLOWS[flow].outputs) <= names


@pytest.mark.parametrize(
    "name", ["get_labels", "make_masks", "load", "compute_indices", "write_rows", "read_chips", "run"]
)
def test_orders_are_told_from_things(name: str) -> None:
    assert verb_of(name)
    assert verb_of("labels") is None
    assert verb_of("mask_table") is None
    assert verb_of("reads") is None
