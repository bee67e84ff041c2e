"""What ``explain`` shows in the terminal: the chain behind a chip or mask, and why two masks differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.tree import Tree

from dataflows.stage_recipes import STAGES
from store.chain_differences import Comparison, Difference

_WIDE = 140
"""Columns a chain is given at least: it is piped to files as often as it is read."""

_MOST = 12
"""Differences of one kind that are listed; the rest is counted."""


def dataset_text(name: str, manifest: dict[str, Any] | None) -> str:
    """A dataset and where it comes from, in one line."""
    if manifest is None or manifest["origin"] == "unknown":
        return f"dataset {name}: DOI, licence and citation unknown"
    told = [f"doi:{manifest['doi']}" if manifest["doi"] else "DOI unknown", manifest["licence"] or "licence unknown"]
    told += [str(manifest[key]) for key in ("title", "version", "citation", "url") if manifest[key]]
    return f"dataset {name}: {'; '.join(told)}"


def print_chain(chain: Mapping[str, Any]) -> None:
    """Show the chain behind one chip or mask: label → image → code → mask."""
    tree = Tree(title(chain))
    _add_labels(tree, chain)
    chip, mask = chain["chip"], chain.get("mask")
    images = tree.add(f"images: recipe {chip['image_recipe']}" if chip else "images: the chip has no row any more")
    for scene in chain["scenes"]:
        images.add(
            f"{scene['scene_id']}, {scene['sensor']}, {scene['acquired_at']:%Y-%m-%d} ({scene['source']}), "
            f"checksum {scene['checksum']}"
        )
    _add_masks(tree, chip, mask, chain["masks"])
    _add_run(tree, chain)
    _add_stale(tree, chain.get("stale"))
    Console(markup=False, emoji=False, width=max(Console().width, _WIDE)).print(tree)


def title(chain: Mapping[str, Any]) -> str:
    """The chip or mask in one line."""
    chip, mask = chain["chip"], chain.get("mask")
    version = f" at version {chain['version']}" if chain.get("version") is not None else ""
    if mask is not None:
        return f"mask {mask['mask_id']}{version}  on chip {mask['uuid']}"
    return f"chip {chip['uuid']}{version}  {chip['chip_role']}, split {chip['split']}, S2 cell {chip['s2_cell']:x}"


def print_comparison(comparison: Comparison) -> None:
    """Show why two masks differ: pixels first, then causes, then outcomes."""
    console = Console(markup=False, emoji=False)

    def line(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False)

    line(f"first   {title(comparison.first)}")
    line(f"second  {title(comparison.second)}")
    line(pixels_text(comparison))
    for what in dict.fromkeys(found.what for found in comparison.differences):
        line(f"{what}")
        of_kind = [found for found in comparison.differences if found.what == what]
        for found in of_kind[:_MOST]:
            line(f"  {difference_text(found)}")
        if len(of_kind) > _MOST:
            line(f"  … and {len(of_kind) - _MOST} more (--format json lists all)")
    if not comparison.differences:
        line("nothing recorded differs")
    for text in comparison.unknown:
        line(f"not known: {text}")


def pixels_text(comparison: Comparison) -> str:
    """Whether the pixels are equal, in one line."""
    differ, pixels = comparison.pixels_differ, comparison.pixels
    if differ is None:
        return "pixels: on different grids, not compared"
    return (
        f"pixels: {differ} of {pixels} differ ({differ / pixels:.1%})" if differ else f"pixels: all {pixels} are equal"
    )


def difference_text(found: Difference) -> str:
    """One difference in one line."""
    if isinstance(found.first, Mapping) and isinstance(found.second, Mapping):
        parts = [
            f"{name} {_short(found.first.get(name))} → {_short(found.second.get(name))}"
            for name in sorted(found.first.keys() | found.second.keys())
            if str(found.first.get(name)) != str(found.second.get(name))
        ]
        return f"{found.name}: {'; '.join(parts)}"
    if found.what in ("labels", "scenes", "code", "masks") and None in (found.first, found.second):
        return f"{found.name}: only behind the {'second' if found.first is None else 'first'}"
    if found.what == "code":
        return f"{found.name}: changed"
    return f"{found.name}: {_short(found.first)} → {_short(found.second)}"


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "–" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _label_notes(prompt: Mapping[str, Any]) -> list[str]:
    """What happened to a label on its way, a line each."""
    merged = dict(prompt.get("merged") or {})
    notes = [f"installed on {prompt['installed_on']}"] if prompt.get("installed_on") else []
    notes += [f"merged into it: {name} (overlap {overlap:.2f})" for name, overlap in merged.items()]
    notes += [f"repaired: {', '.join(prompt['repairs'])}"] if prompt.get("repairs") else []
    return notes + ([f"retired at {prompt['retired_at']:%Y-%m-%d %H:%M}"] if prompt.get("retired_at") else [])


def _add_labels(tree: Tree, chain: Mapping[str, Any]) -> None:
    labels = tree.add(f"labels: {len(chain['prompts'])} prompts")
    for prompt in chain["prompts"]:
        version = f" at snapshot {prompt['label_snapshot']}" if prompt["label_snapshot"] is not None else ""
        label = labels.add(
            f"{prompt['kind']} {prompt['label_id']} from {prompt['label_table']}{version} of {prompt['label_catalog']}"
        )
        for told in _label_notes(prompt):
            label.add(told)
    for name, manifest in chain.get("datasets", {}).items():
        labels.add(dataset_text(name, manifest))


def _add_masks(
    tree: Tree, chip: Mapping[str, Any] | None, mask: Mapping[str, Any] | None, found: Sequence[Mapping[str, Any]]
) -> None:
    if mask is not None:
        masks = tree.add(f"mask: generation {mask['generation']}, recipe {mask['mask_recipe']}")
    elif chip is not None:
        masks = tree.add(
            f"mask: generation {chip['generation']}, {chip['mask_source']}, recipe {chip['mask_recipe']}, "
            f"{chip['n_accepted']} accepted, {chip['n_review']} for review, {chip['n_rejected']} rejected"
        )
    else:
        return
    for row in found:
        flags = f" ({', '.join(row['flags'])})" if row["flags"] else ""
        masks.add(
            f"{row['verdict']} {row['backend']} score {row['score']:.2f}, {row['area_m2']:.0f} m²{flags}, "
            f"prompt {row['prompt_id'][:8]}"
        )


def _add_run(tree: Tree, chain: Mapping[str, Any]) -> None:
    run = chain["run"]
    if run is None:
        row = chain.get("mask") or chain["chip"]
        tree.add(
            f"code: the run {row.get('run_id', '')} has no row in `runs` any more; its code and settings are unknown"
        )
        return
    ended = " (or killed: no end is recorded)" if run["status"] == "running" else ""
    code = tree.add(
        f"code: run {run['run_id']} of {run['flow']}, {run['started_at']:%Y-%m-%d %H:%M}, {run['status']}{ended}"
    )
    for stage, recipe in run["recipes"].items():
        code.add(f"{stage} recipe {recipe}: {code_size(run['code'].get(stage, {}))}")
    inputs = run.get("inputs") or {}
    if "weights" in inputs:
        weights = inputs["weights"] or {}
        code.add("weights: " + (", ".join(f"{name} sha256 {sha[:16]}" for name, sha in weights.items()) or "none"))
    if inputs.get("tables"):
        code.add("tables as it found them: " + ", ".join(f"{name} {at}" for name, at in inputs["tables"].items()))
    code.add(", ".join(f"{name} {version}" for name, version in run["packages"].items()))


def code_size(code: Mapping[str, Any]) -> str:
    """How much code a recorded stage has."""
    definitions = sum(len(found) for found in code.values() if isinstance(found, Mapping))
    counted = f"{definitions} definitions in " if definitions else ""
    return f"{counted}{len(code)} modules"


def _add_stale(tree: Tree, stale: Mapping[str, Any] | None) -> None:
    if stale is None:
        return
    if stale["unknown"]:
        tree.add(f"stale today: unknown, {stale['unknown']}")
        return
    found = tree.add(f"stale today, under the settings of {stale['settings_of']}:")
    for stage in [stage for stage in STAGES if stage in stale["stages"]]:
        entry = found.add(f"{stage}: {'stale' if stale['stages'][stage] else 'no'}")
        for why in stale["why"].get(stage, []):
            entry.add(why)
