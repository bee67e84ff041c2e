"""Pictures of flows: everything in them, readable, the same every time, without a system Graphviz."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import graphviz
import numpy as np
import pyarrow as pa
import pytest
from hamilton import driver
from hamilton.driver import Driver
from numpy.typing import NDArray

from dataflows import drawing, drivers
from dataflows._flow_graph import FlowGraph, first_line, flow_graph, type_text, united
from support import toy_results, toy_sources
from utils.errors import ConfigError
from utils.types import RasterChip

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def toy() -> Driver:
    return driver.Builder().with_modules(toy_sources, toy_results).build()


@pytest.fixture(scope="module")
def graph(toy: Driver) -> FlowGraph:
    return flow_graph(toy)


def texts(drawn: bytes) -> list[str]:
    return ["".join(element.itertext()).strip() for element in ET.fromstring(drawn).iter(f"{SVG}text")]  # noqa: S314 - our own


def test_settings_and_loader_halves_fold_into_their_nodes(graph: FlowGraph) -> None:
    boxes = {box.names: box for box in graph.boxes}
    assert list(boxes) == [("measurements",), ("scaled",), ("high", "low"), ("spread",), ("report",)]
    assert [box.kind for box in graph.boxes] == ["loader", "transform", "transform", "transform", "saver"]
    assert boxes["measurements",].inputs == ("path", "unit")
    assert boxes["measurements",].type_text == "list[float]"
    assert boxes["scaled",].inputs == ("factor",)
    assert boxes["high", "low"].type_text == "float32 array"
    assert boxes["report",].doc == "The written spread."
    assert list(graph.modules.values()) == [
        "Where the toy flow's numbers come from.",
        "What the toy flow makes of its numbers.",
    ]


def test_edges_run_from_producer_to_consumer_once(graph: FlowGraph) -> None:
    short = [tuple(key.rpartition(".")[2] for key in edge) for edge in graph.edges]
    assert sorted(short) == [
        ("high", "spread"),
        ("measurements", "scaled"),
        ("measurements", "spread"),
        ("scaled", "high"),
        ("spread", "report"),
    ]


def test_shared_modules_are_there_once(toy: Driver, graph: FlowGraph) -> None:
    alone = flow_graph(driver.Builder().with_modules(toy_sources).build())
    both = united([alone, graph])
    assert [box.key for box in both.boxes] == [box.key for box in graph.boxes]
    assert set(both.edges) == set(graph.edges)
    assert list(both.modules) == [toy_sources.__name__, toy_results.__name__]
    assert flow_graph(toy) == graph


def test_dot_has_clusters_shapes_and_tooltips(toy: Driver) -> None:
    source = drawing.dot(toy, 'numbers "in brief"')
    assert source.count("subgraph cluster_") == 3
    assert 'label="toy_sources"' in source
    assert 'label="numbers \\"in brief\\""' in source
    assert 'tooltip="Numbers times a \\"factor\\"."' in source
    (loader,) = [line for line in source.splitlines() if 'support.toy_sources.measurements" [' in line]
    assert "shape=cylinder" in loader
    assert "▸ path, unit" in loader
    (saver,) = [line for line in source.splitlines() if 'support.toy_results.report" [' in line]
    assert "shape=folder" in saver


def test_svg_shows_every_name_without_a_system_graphviz(toy: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    shown = texts(drawing.svg(drawing.dot(toy, "numbers")))
    for line in ("numbers", "toy_sources", "toy_results", "measurements", "high, low", "→ float32 array", "▸ factor"):
        assert line in shown
    # a node whose label Graphviz could not read shows its key instead
    assert not [line for line in shown if "support." in line]


def test_svg_tells_lines_apart(toy: Driver) -> None:
    root = ET.fromstring(drawing.svg(drawing.dot(toy, "numbers")))  # noqa: S314 - our own
    looks = {"".join(e.itertext()).strip(): e.attrib for e in root.iter(f"{SVG}text")}
    assert looks["scaled"]["font-weight"] == "bold"
    assert looks["▸ factor"]["fill"] != looks["→ list[float]"]["fill"]
    assert float(looks["▸ factor"]["font-size"]) < float(looks["scaled"]["font-size"])


def test_other_peoples_graphs_are_drawn_as_they_are() -> None:
    drawn = drawing.svg("digraph { a -> b }").decode()
    assert "font-weight" not in drawn
    assert texts(drawn.encode()) == ["a", "b"]


def test_stages_picture_has_a_table_per_stage(toy: Driver) -> None:
    source = drawing.stages_dot({"toy": toy}, "stages")
    assert source.count("shape=record") == 3
    assert '"support.toy_sources":"scaled":e -> "support.toy_results":"stage":w' in source
    assert '"support.toy_sources":"measurements":e -> "support.toy_results":"stage":w' in source
    assert source.count("->") == 2
    shown = texts(drawing.svg(source))
    for line in ("▼ measurements", "• scaled", "▲ report", "• high, low", "▸ factor, path", "▸ unit"):
        assert line in shown


def test_mermaid_draws_subgraphs_shapes_and_edges(toy: Driver) -> None:
    lines = [line.strip() for line in drawing.mermaid(toy).splitlines()]
    assert lines[0] == "flowchart TB"
    assert 'subgraph s0["toy_sources"]' in lines
    assert 'n0[("measurements<br/>list[float]")]:::loader' in lines
    assert 'n4[["report<br/>dict"]]:::saver' in lines
    assert 'i0(["factor, path<br/>unit"]):::input' in lines
    declared = {line.split("[")[0].split("(")[0] for line in lines if ":::" in line}
    ends = {
        end for line in lines if "-->" in line or "-.->" in line for end in line.replace("-.->", "-->").split(" --> ")
    }
    assert ends <= declared
    assert sum("-->" in line for line in lines) == 5
    assert lines.count("end") == sum(line.startswith("subgraph") for line in lines)


def test_drawings_are_written_and_stay_the_same(toy: Driver, tmp_path: Path) -> None:
    written = drawing.write_drawings({"numbers": toy}, tmp_path / "new" / "dags")
    assert [path.name for path in written] == [
        f"{name}{suffix}" for name in ("numbers", "whole") for suffix in (".svg", ".dot", ".mmd")
    ]
    before = [path.read_bytes() for path in written]
    assert all(before)
    assert [path.read_bytes() for path in drawing.write_drawings({"numbers": toy}, tmp_path / "new" / "dags")] == before


def test_another_process_draws_the_same(toy: Driver) -> None:
    code = (
        "from hamilton import driver\nfrom support import toy_results, toy_sources\nfrom dataflows import drawing\n"
        "d = driver.Builder().with_modules(toy_sources, toy_results).build()\n"
        "print(drawing.dot(d, 'n') + drawing.mermaid(d) + drawing.stages_dot({'n': d}, 's'), end='')"
    )
    expected = drawing.dot(toy, "n") + drawing.mermaid(toy) + drawing.stages_dot({"n": toy}, "s")
    tests = str(Path(toy_sources.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": tests, "PYTHONHASHSEED": "7", "HAMILTON_AUTOLOAD_EXTENSIONS": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == expected


@pytest.mark.parametrize("names", [[], ["whole"], ["build", "whole"]])
def test_nothing_to_draw_or_a_taken_name(toy: Driver, tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ConfigError, match="whole"):
        drawing.write_drawings(dict.fromkeys(names, toy), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("flow", list(drivers.FLOWS))
def test_every_node_and_input_of_a_real_flow_is_in_its_picture(flow: str) -> None:
    built = drivers.build_driver(flow)
    source, chart = drawing.dot(built, flow), drawing.mermaid(built)
    for variable in built.list_available_variables():
        name = variable.name.removesuffix(".loader")
        assert name in source
        assert name in chart
    shown = texts(drawing.svg(source))
    assert not [line for line in shown if line.startswith("dataflows.")]


def unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put Hamilton's and Graphviz's own methods back after the test."""
    monkeypatch.setattr(Driver, "_repr_mimebundle_", Driver._repr_mimebundle_)
    for kind in (graphviz.Digraph, graphviz.Graph, graphviz.Source):
        monkeypatch.setattr(kind, "_repr_image_svg_xml", kind._repr_image_svg_xml)


def test_notebooks_show_drivers_and_graphs_without_dot(toy: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    unpatched(monkeypatch)
    monkeypatch.setenv("PATH", "")
    drawing.enable_notebook_display()
    drawing.enable_notebook_display()
    bundle: dict[str, str] = toy._repr_mimebundle_(include=None, exclude=None)
    assert "measurements" in texts(bundle["image/svg+xml"].encode())
    hamiltons_own = toy.display_all_functions()._repr_mimebundle_(include={"image/svg+xml"})
    ET.fromstring(hamiltons_own["image/svg+xml"])  # noqa: S314 - our own
    with pytest.raises(graphviz.ExecutableNotFound):
        graphviz.Digraph().pipe(format="png")


def test_a_system_graphviz_is_left_in_charge(monkeypatch: pytest.MonkeyPatch) -> None:
    unpatched(monkeypatch)
    own: Callable[..., Any] = graphviz.Digraph._repr_image_svg_xml
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/dot")
    drawing.enable_notebook_display()
    assert graphviz.Digraph._repr_image_svg_xml is own


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "int"),
        (None, "None"),
        (pa.Table, "Table"),
        (pa.Table | None, "Table | None"),
        (dict[str, list[RasterChip]], "dict[str, list[RasterChip]]"),
        (tuple[int, ...], "tuple[int]"),
        (NDArray[np.uint8], "uint8 array"),
        (np.ndarray, "array"),
        (dict[str, NDArray[np.float32]], "dict[str, float32 array]"),
        (Literal["vhr", "msi"], "'vhr' | 'msi'"),
        (Any, "Any"),
        (Callable[[int], str], "Callable[[int], str]"),
    ],
)
def test_types_are_short(kind: Any, text: str) -> None:
    assert type_text(kind) == text


def test_first_line_of_a_docstring() -> None:
    assert first_line(" One.\n\n Two.") == "One."
    assert first_line(None) == first_line("  \n ") == ""
