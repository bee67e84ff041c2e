"""A Hamilton driver's graph as it should be drawn: settings and loader halves folded into the nodes they belong to."""

import inspect
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
from hamilton.driver import Driver

Kind = Literal["loader", "transform", "saver"]


@dataclass(frozen=True, kw_only=True)
class Box:
    """One node of a drawing, or several that one function makes from and for the same nodes."""

    key: str
    """Unique in a drawing: ``module.name`` of the first node."""
    names: tuple[str, ...]
    """Hamilton nodes in it."""
    module: str
    """Module that defines them."""
    kind: Kind
    """Whether they read from outside, compute, or write."""
    type_text: str
    """What they return, in short."""
    inputs: tuple[str, ...]
    """Inputs from outside the flow they take: settings, and what the run hands in."""
    doc: str
    """First line of the docstring."""


@dataclass(frozen=True, kw_only=True)
class FlowGraph:
    """What there is to draw."""

    boxes: tuple[Box, ...]
    """In order of definition, module by module."""
    edges: tuple[tuple[str, str], ...]
    """Pairs of box keys, from producer to consumer."""
    modules: dict[str, str]
    """Module → first line of its docstring, in the order data passes them."""

    def of(self, module: str) -> list[Box]:
        """The boxes of one module."""
        return [box for box in self.boxes if box.module == module]


@dataclass(frozen=True, kw_only=True)
class _Node:
    box: Box
    function: object
    sources: tuple[str, ...]


def flow_graph(driver: Driver) -> FlowGraph:
    """The graph of one driver."""
    variables = driver.list_available_variables()
    outside = {variable.name for variable in variables if variable.is_external_input}
    # a @dataloader is two nodes, `x.loader` and `x`; it reads as one
    halves = {v.name: _owner(v) for v in variables if _owner(v) != v.name}
    needs = {v.name: {*v.required_dependencies, *v.optional_dependencies} for v in variables}
    rank = {variable.name: position for position, variable in enumerate(sorted(variables, key=_position))}
    nodes: dict[str, _Node] = {}
    for variable in sorted(variables, key=lambda v: rank[v.name]):
        if variable.name in outside or variable.name in halves:
            continue
        wanted = set(needs[variable.name])
        for half in sorted(wanted & halves.keys()):
            if halves[half] == variable.name:
                wanted = (wanted - {half}) | needs[half]
        inner = {halves.get(name, name) for name in wanted - outside} - {variable.name}
        nodes[variable.name] = _node(variable, sorted(wanted & outside), sorted(inner, key=rank.__getitem__))
    modules = [module.__name__ for module in driver.graph_modules]
    return _assembled(nodes, modules)


def united(graphs: Iterable[FlowGraph]) -> FlowGraph:
    """Several graphs as one; a module that several flows share is there once."""
    boxes: dict[str, Box] = {}
    edges: dict[tuple[str, str], None] = {}
    modules: dict[str, str] = {}
    for graph in graphs:
        boxes |= {box.key: box for box in graph.boxes if box.key not in boxes}
        edges |= dict.fromkeys(graph.edges)
        modules |= graph.modules
    return FlowGraph(boxes=tuple(boxes.values()), edges=tuple(edges), modules=modules)


def type_text(kind: Any) -> str:
    """A type as a reader wants it: no module paths, arrays by their element type."""
    if isinstance(kind, list):
        return f"[{', '.join(type_text(argument) for argument in kind)}]"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is np.ndarray or kind is np.ndarray:
        element = get_args(arguments[1]) if len(arguments) > 1 else ()
        return f"{type_text(element[0])} array" if element and element[0] is not Any else "array"
    if origin in {Union, types.UnionType}:
        return " | ".join(type_text(argument) for argument in arguments)
    if origin is Literal:
        return " | ".join(repr(argument) for argument in arguments)
    if origin is not None and arguments:
        inner = ", ".join(type_text(argument) for argument in arguments if argument is not Ellipsis)
        return f"{type_text(origin)}[{inner}]"
    return "None" if kind in {None, types.NoneType} else str(getattr(kind, "__name__", kind))


def first_line(text: str | None) -> str:
    """First line of a docstring; empty without one."""
    return inspect.cleandoc(text).splitlines()[0] if text and text.strip() else ""


def _owner(variable: Any) -> str:
    """Name of the node a variable is drawn as."""
    return str(variable.tags.get("hamilton.data_loader.node", variable.name))


def _position(variable: Any) -> tuple[str, int, str]:
    """Module, line of the defining function, name: the order of a source file."""
    if not variable.originating_functions:
        return "", 0, variable.name
    function = inspect.unwrap(variable.originating_functions[0])
    return function.__module__, function.__code__.co_firstlineno, variable.name


def _node(variable: Any, inputs: list[str], sources: list[str]) -> _Node:
    function = variable.originating_functions[0]
    kind: Kind = "transform"
    if variable.tags.get("hamilton.data_loader"):
        kind = "loader"
    elif variable.tags.get("hamilton.data_saver"):
        kind = "saver"
    box = Box(
        key=f"{function.__module__}.{variable.name}",
        names=(variable.name,),
        module=function.__module__,
        kind=kind,
        type_text=type_text(variable.type),
        inputs=tuple(inputs),
        doc=first_line(variable.documentation or function.__doc__),
    )
    return _Node(box=box, function=function, sources=tuple(sources))


def _assembled(nodes: dict[str, _Node], modules: list[str]) -> FlowGraph:
    used_by: dict[str, list[str]] = {name: [] for name in nodes}
    for name, node in nodes.items():
        for source in node.sources:
            used_by[source].append(name)
    alike: dict[tuple[object, ...], list[str]] = {}
    for name, node in nodes.items():
        alike.setdefault((node.function, node.box.type_text, node.sources, tuple(used_by[name])), []).append(name)
    drawn: dict[str, Box] = {}
    for names in alike.values():
        # several outputs of one function that go the same way are drawn as one
        box = replace(nodes[names[0]].box, names=tuple(names))
        drawn |= dict.fromkeys(names, box)
    edges = {(drawn[source].key, drawn[name].key): None for name, node in nodes.items() for source in node.sources}
    order = {module: position for position, module in enumerate(modules)}
    unique = {box.key: box for box in drawn.values()}
    boxes = sorted(unique.values(), key=lambda box: order.get(box.module, len(order)))
    present = {box.module for box in boxes}
    ordered = [module for module in modules if module in present] + sorted(present - set(modules))
    documented = {module: first_line(sys.modules[module].__doc__) for module in ordered}
    return FlowGraph(boxes=tuple(boxes), edges=tuple(edges), modules=documented)
