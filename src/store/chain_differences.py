"""Why two masks differ: what two chains record, side by side."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store.chains import explain, mask_pixels
from store.code_changes import by_module, code_changes

_NO_CAUSE = {"store", "commit_every", "truth"}
"""Settings that neither choose nor shape rows."""
_LABEL = (
    "kind", "geometry_digest", "label_geometry_digest", "positive_points_digest", "negative_points_digest",
    "margin_share", "installed_on", "repairs", "merged",
)  # fmt: skip
_OUTCOME = ("verdict", "score", "area_m2", "flags")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not the same behind both masks."""

    what: str
    """Kind: chip, labels, snapshot, scenes, settings, weights, code, packages, schema, backend, generation, recipe,
    masks."""
    name: str
    """Which of its kind: a label, a scene, a setting, a definition, a package."""
    first: Any
    """How it is behind the first mask; None where there is none."""
    second: Any
    """Likewise behind the second."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two masks and what is known of why they differ."""

    first: Mapping[str, Any]
    """Chain of the first (:func:`store.chains.explain`)."""
    second: Mapping[str, Any]
    """Chain of the second."""
    pixels_differ: int | None
    """Pixels that differ; None where the masks lie on different grids and have no pixel in common to compare."""
    pixels: int
    """Pixels of the first mask."""
    differences: Sequence[Difference]
    """What differs, causes before outcomes."""
    unknown: Sequence[str]
    """What could not be compared, and why."""


def compare(first: tuple[str | Path, str], second: tuple[str | Path, str]) -> Comparison:
    """What is recorded behind two masks, compared.

    Args:
        first: store, and ``ID`` or ``ID@VERSION`` of a chip or mask in it.
        second: likewise.

    Raises:
        AegirError: one of them is not there (see :func:`store.chains.explain`).
    """
    one, two = explain(*first), explain(*second)
    differ, pixels = _pixels(mask_pixels(first[0], one), mask_pixels(second[0], two))
    unknown: list[str] = []
    return Comparison(
        first=one,
        second=two,
        pixels_differ=differ,
        pixels=pixels,
        differences=[*_causes(one, two, unknown), *_outcomes(one, two)],
        unknown=unknown,
    )


def _pixels(
    one: tuple[bytes | None, tuple[int, ...]], two: tuple[bytes | None, tuple[int, ...]]
) -> tuple[int | None, int]:
    """Pixels that differ, None on different grids; and pixels of the first."""
    size = max(len(one[0] or b""), len(two[0] or b""))
    # a mask without pixels is stored as null
    first, second = (np.frombuffer(data or bytes(size), np.uint8) for data, _ in (one, two))
    if one[1] != two[1] or len(first) != len(second):
        return None, len(first)
    return int((first != second).sum()), len(first)


def _causes(one: Mapping[str, Any], two: Mapping[str, Any], unknown: list[str]) -> Iterator[Difference]:
    chips = [(chain["chip"] or {}) for chain in (one, two)]
    yield from _each("chip", *({"uuid": _uuid(chain)} for chain in (one, two)))
    yield from _each("labels", *(_labels(chain) for chain in (one, two)))
    yield from _each("snapshot", *(_snapshots(chain) for chain in (one, two)))
    yield from _each("scenes", *(_scenes(chain) for chain in (one, two)))
    runs = [chain["run"] for chain in (one, two)]
    for chain, name in ((one, "first"), (two, "second")):
        if chain["run"] is None:
            run_id = (chain["mask"] or chain["chip"])["run_id"]
            unknown.append(f"settings, code, packages and weights of the {name}: its run {run_id} has no row in `runs`")
    if all(runs):
        yield from _of_runs(runs[0], runs[1], unknown)
    yield from _each("backend", *({"mask backend": _backends(chain)} for chain in (one, two)))
    for name in ("generation", "mask_source"):
        yield from _each("generation", *({name: _of(chain, name)} for chain in (one, two)))
    if all(chips) and not (one["mask"] or two["mask"]):
        stages = [f"{stage}_recipe" for stage in ("image", "mask", "index")]
        yield from _each("recipe", *({name: chip[name] for name in stages} for chip in chips))


def _of_runs(one: Mapping[str, Any], two: Mapping[str, Any], unknown: list[str]) -> Iterator[Difference]:
    settings = [{k: v for k, v in (run["config"] or {}).items() if k not in _NO_CAUSE} for run in (one, two)]
    yield from _each("settings", *settings)
    inputs = [run["inputs"] or {} for run in (one, two)]
    if all("weights" in found for found in inputs):
        yield from _each("weights", *((found["weights"] or {}) for found in inputs))
    else:
        unknown.append("weights: a run that is compared did not record them")
    yield from _each("schema", *({"schema_version": found.get("schema_version")} for found in inputs))
    codes = [run["code"] or {} for run in (one, two)]
    for stage in [stage for stage in ("image", "mask", "index") if all(stage in code for code in codes)]:
        before, after = (code[stage] for code in codes)
        if by_module(before) != by_module(after):
            unknown.append(f"code of the stage {stage}: one run recorded it by module, the other by definition")
            continue
        for change in code_changes(before, after):
            sides = {"added": (None, "there"), "gone": ("there", None)}.get(change.how, ("one", "another"))
            yield Difference(what="code", name=f"{stage}: {change.where}", first=sides[0], second=sides[1])
    yield from _each("packages", *((run["packages"] or {}) for run in (one, two)))


def _outcomes(one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[Difference]:
    """Verdicts and scores, label by label."""
    labels = [{prompt["prompt_id"]: prompt["label_id"] for prompt in chain["prompts"]} for chain in (one, two)]
    found = [
        {
            str(names.get(mask["prompt_id"], mask["prompt_id"])): {name: mask[name] for name in _OUTCOME}
            for mask in chain["masks"]
        }
        for chain, names in zip((one, two), labels, strict=True)
    ]
    yield from _each("masks", *found)


def _each(what: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    for name in sorted(first.keys() | second.keys()):
        before, after = first.get(name), second.get(name)
        if _plain(before) != _plain(after):
            yield Difference(what=what, name=name, first=before, second=after)


def _plain(value: object) -> str:
    """A value in one spelling: JSON knows no tuples."""
    return json.dumps(value, sort_keys=True, default=str)


def _uuid(chain: Mapping[str, Any]) -> str:
    return str((chain["mask"] or chain["chip"])["uuid"])


def _of(chain: Mapping[str, Any], name: str) -> Any:
    row = chain["mask"] or chain["chip"]
    return row.get(name, (chain["chip"] or {}).get(name))


def _backends(chain: Mapping[str, Any]) -> list[str]:
    return sorted({mask["backend"] for mask in chain["masks"]})


def _labels(chain: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        prompt["label_id"]: {name: prompt[name] for name in _LABEL if name in prompt} for prompt in chain["prompts"]
    }


def _snapshots(chain: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Label table → snapshots its labels were read at."""
    found: dict[str, set[Any]] = {}
    for prompt in chain["prompts"]:
        found.setdefault(f"{prompt['label_table']} of {prompt['label_catalog']}", set()).add(prompt["label_snapshot"])
    return {name: sorted(versions, key=str) for name, versions in found.items()}


def _scenes(chain: Mapping[str, Any]) -> dict[str, str]:
    """Scene → checksum of its files, as the run found them."""
    return {f"{scene['kind']} {scene['scene_id']}": scene["checksum"] for scene in chain["scenes"]}
