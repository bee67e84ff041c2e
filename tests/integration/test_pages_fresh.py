"""The drawings in docs are those of the flows as they are now."""

from pathlib import Path

import pytest

from dataflows.drawing import write_drawings
from dataflows.drivers import FLOWS, build_driver

DAGS = Path(__file__).parents[2] / "docs" / "dags"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dags")
    write_drawings({name: build_driver(name) for name in FLOWS}, folder)
    return folder


def test_every_flow_is_drawn_and_nothing_else(fresh):
    names = {f"{flow}{suffix}" for flow in (*FLOWS, "whole") for suffix in (".svg", ".dot", ".mmd")}
    assert {path.name for path in fresh.iterdir()} == names
    assert {path.name for path in DAGS.iterdir()} == names, "run `python -m dataflows draw`"


@pytest.mark.parametrize("flow", [*FLOWS, "whole"])
@pytest.mark.parametrize("suffix", [".dot", ".mmd"])
def test_drawings_are_fresh(fresh, flow, suffix):
    name = f"{flow}{suffix}"
    stale = (DAGS / name).read_text() != (fresh / name).read_text()
    assert not stale, f"docs/dags/{name} is not what the flow is now; run `python -m dataflows draw`"
