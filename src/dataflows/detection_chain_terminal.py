"""What ``explain`` shows in the terminal of a detection: evidence, verdict, model, training rows, scenes and lake."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.tree import Tree

_WIDE = 140


def print_detection(chain: Mapping[str, Any]) -> None:
    """Show the chain behind one detection."""
    tree = Tree(title(chain["detection"], chain["version"]))
    _add_label(tree, chain["detection"])
    _add_verdict(tree, chain)
    _add_model(tree, chain)
    _add_search(tree, chain)
    _add_chips(tree, chain)
    lake = tree.add("lake")
    for line in lake_lines(chain["lake"]):
        lake.add(line)
    Console(markup=False, emoji=False, width=max(Console().width, _WIDE)).print(tree)


def title(detection: Mapping[str, Any], version: int | str | None) -> str:
    """The detection in one line."""
    at = f" at version {version}" if version is not None else ""
    return (
        f"detection {detection['detection_id']}{at}  {detection['area_m2']:.0f} m² at "
        f"{detection['lat']:.6f}, {detection['lon']:.6f}, score {detection['score']:.2f}"
    )


def verdict_text(detection: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    if detection["verdict"] is None:
        return "not judged yet"
    sure = "" if detection["confidence"] is None else f", confidence {detection['confidence']:.2f}"
    return f"{detection['verdict']}{sure}, {detection['validated_at']:%Y-%m-%d %H:%M}"


def finding_text(finding: Mapping[str, Any]) -> str:
    """One rule's finding in one line."""
    value = "" if finding["value"] is None else f" {finding['value']:.4g} {finding['unit']}".rstrip()
    return f"{finding['verdict']}: {finding['rule']}{value}: {finding['reason']}"


def rows_text(rows: Mapping[str, Any]) -> str:
    """The rows a model was trained on in one line."""
    if rows["unknown"]:
        return f"its training rows cannot be read any more: {rows['unknown']}"
    by = "; ".join(
        f"{name} " + ", ".join(f"{value} {count}" for value, count in sorted(counts.items()))
        for name, counts in rows["by"].items()
    )
    place = f"{rows['table']} version {rows['version']}"
    return f"{rows['rows']} training rows of {place} ({by}), hash of their ids {rows['digest']}"


def lake_lines(lake: Mapping[str, Any]) -> list[str]:
    """Where the detection stands in the lake, a line each."""
    if lake["catalog"] is None:
        return ["not written back"]
    lines = [f"table {lake['table']} of {lake['catalog']}"]
    if lake["unknown"]:
        return [*lines, f"snapshot unknown: {lake['unknown']}"]
    if lake["row"] is None:
        return [*lines, "it has no row there"]
    row = lake["row"]
    again = f", found again as {row['superseded_by']} ({row['superseding_verdict']})" if row["superseded_by"] else ""
    return [*lines, f"snapshot {lake['snapshot']}: {row['verdict']}{again}, by run {lake['written_run_id']}"]


def model_lines(model: Mapping[str, Any]) -> list[str]:
    """What a model was trained on, a line each."""
    if model["unknown"]:
        return [f"its file cannot be read: {model['unknown']}"]
    checkpoint, record = model["checkpoint"], model["checkpoint"]["record"]
    network = f"{checkpoint['model'].get('arch')}, {checkpoint['model'].get('encoder_name')}"
    recipes = [f"{name} {', '.join(found)}" for name, found in (record.get("recipes") or {}).items()]
    where = f" where {record['where']}" if record.get("where") else ""
    return [
        f"sha256 {checkpoint['sha256']}",
        f"{network}, epoch {checkpoint['epoch']}, step {checkpoint['step']}",
        f"trained on {record['store']}/{record['table']} version {record['version']}{where}",
        f"recipes: {'; '.join(recipes)}",
        rows_text(model["rows"]),
    ]


def _add_label(tree: Tree, detection: Mapping[str, Any]) -> None:
    if detection["label_id"] is None:
        tree.add(f"label: {detection['match']}, no known label matches")
        return
    near = [
        f"IoU {detection['match_iou']:.2f}" if detection["match_iou"] is not None else "",
        f"{detection['match_distance_m']:.1f} m" if detection["match_distance_m"] is not None else "",
    ]
    tree.add(f"label: {detection['match']} {detection['label_id']} ({', '.join(filter(None, near))})")


def _add_verdict(tree: Tree, chain: Mapping[str, Any]) -> None:
    detection = chain["detection"]
    verdict = tree.add(f"verdict: {verdict_text(detection)}")
    for reason in detection["reasons"] or []:
        verdict.add(reason)
    if detection["validation_recipe"] is not None:
        verdict.add(f"recipe {detection['validation_recipe']}, {run_text(chain['validation_run'])}")
    evidence = tree.add(f"evidence: {len(chain['evidence'])} findings")
    for finding in chain["evidence"]:
        scenes = f" [{', '.join(finding['scene_ids'])}]" if finding["scene_ids"] else ""
        evidence.add(f"{finding_text(finding)}{scenes}")


def _add_model(tree: Tree, chain: Mapping[str, Any]) -> None:
    model = tree.add(f"model: {chain['detection']['model']}, id {chain['detection']['model_id']}")
    for line in model_lines(chain["model"]):
        model.add(line)


def _add_search(tree: Tree, chain: Mapping[str, Any]) -> None:
    detection = chain["detection"]
    search = tree.add(f"search: {detection['search_id']}, {run_text(chain['search_run'])}")
    known = {scene["scene_id"]: scene for scene in chain["scenes"]}
    for scene_id in detection["scene_ids"]:
        scene = known.get(scene_id)
        told = (
            f", {scene['sensor']}, {scene['acquired_at']:%Y-%m-%d} ({scene['source']}), checksum {scene['checksum']}"
            if scene
            else ", not in the table of scenes"
        )
        search.add(f"scene {scene_id}{told}")
    if chain["tables"]:
        search.add("tables as it found them: " + ", ".join(f"{name} {at}" for name, at in chain["tables"].items()))


def _add_chips(tree: Tree, chain: Mapping[str, Any]) -> None:
    chips = tree.add(f"chips: {len(chain['chips'])} prompts were made of it")
    for row in chain["chips"]:
        chip = row["chip"]
        told = f"{chip['chip_role']}, split {chip['split']}, generation {chip['generation']}" if chip else "not there"
        chips.add(f"{row['kind']} {row['prompt_id'][:8]} on chip {row['uuid']}: {told}")


def run_text(run: Mapping[str, Any] | None) -> str:
    """A run in a few words."""
    if run is None:
        return "run unknown"
    return f"run {run['run_id']} of {run['started_at']:%Y-%m-%d %H:%M}, {run['status']}"
