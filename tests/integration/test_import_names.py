"""Our package names are generic: no other installed distribution may ship one of them, or ours must come first."""

import os
import subprocess
import sys
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path

import pytest

import dataflows
import store
import training
import utils

OURS = "aegir-lightning-lance"
PACKAGES = ("utils", "store", "training", "dataflows")
SHADOWED = {"training": {"sam2"}}
"""Package → distributions that ship it too; the install puts ours first on the path (``hatch_build.py``)."""


def normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def top_level_names(distribution: Distribution) -> set[str]:
    """Importable names a distribution puts at the top of site-packages: packages and single modules."""
    names = set((distribution.read_text("top_level.txt") or "").split())
    for file in distribution.files or []:
        first, *below = file.parts
        if first.endswith((".dist-info", ".data", ".egg-info")) or first in {"..", "/"}:
            continue
        names.add(first if below else first.partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_no_dependency_ships_our_names(package: str) -> None:
    shipping = {
        normalised(distribution.metadata["Name"])
        for distribution in distributions()
        if package in top_level_names(distribution)
    }
    expected = {OURS} | SHADOWED.get(package, set())
    assert shipping <= expected
    assert {normalised(name) for name in packages_distributions().get(package, [])} <= expected


@pytest.mark.parametrize("package", PACKAGES)
def test_a_fresh_interpreter_finds_ours(package: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = f"import importlib.util; print(importlib.util.find_spec({package!r}).origin)"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).parent.name == package
    assert Path(found.stdout.strip()).parents[1] == Path(__file__).parents[2] / "src"


def test_the_search_finds_what_is_installed() -> None:
    """The test above must be able to fail: it sees ordinary packages and single modules."""
    found: dict[str, set[str]] = {}
    for distribution in distributions():
        for name in top_level_names(distribution):
            found.setdefault(name, set()).add(normalised(distribution.metadata["Name"]))
    assert found["numpy"] == {"numpy"}
    assert found["hamilton"] == {"apache-hamilton"}
    assert found["typing_extensions"] == {"typing-extensions"}


@pytest.mark.parametrize("module", [utils, store, training, dataflows])
def test_our_names_are_ours(module: object) -> None:
    source = Path(__file__).parents[2] / "src"
    assert Path(str(module.__file__)).is_relative_to(source)  # type: ignore[attr-defined]
