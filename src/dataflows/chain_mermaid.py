"""The chain behind a chip, mask or detection as a Mermaid flowchart, for pages and issues that draw it."""

from collections.abc import Iterator, Mapping
from typing import Any

from dataflows.chain_terminal import code_size
from dataflows.detection_chain_terminal import lake_lines, rows_text, run_text, verdict_text
from dataflows.stage_recipes import STAGES

_ESCAPES = {"&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "\\": "#92;"}
_CLASSES = (
    "classDef data fill:#d6e8fb,stroke:#2f6db5,color:#102a43",
    "classDef code fill:#eef1f4,stroke:#5f6c7b,color:#102a43",
    "classDef accept fill:#d9f0e3,stroke:#2a9d8f,color:#102a43",
    "classDef doubt fill:#fdf0d0,stroke:#b07d12,color:#102a43",
    "classDef chip fill:#ffffff,stroke:#102a43,stroke-width:2px,color:#102a43",
    "classDef stale fill:#fbdcd3,stroke:#c8553d,stroke-dasharray:4 3,color:#102a43",
)


def mermaid_chain(chain: Mapping[str, Any]) -> str:
    """A flowchart: labels and scenes as cylinders, prompts, masks, stages with their recipes, and the run.

    Stale stages are dashed and red, masks green where accepted.
    """
    return "\n".join(["flowchart LR", *(f"    {line}" for line in (*_lines(chain), *_CLASSES))]) + "\n"


def mermaid_detection(chain: Mapping[str, Any]) -> str:
    """A flowchart of one detection: training rows → model → search and scenes → detection → evidence → verdict → lake.

    Evidence is green where it speaks for the detection, yellow where it does not.
    """
    return "\n".join(["flowchart LR", *(f"    {line}" for line in (*_detection_lines(chain), *_CLASSES))]) + "\n"


def _detection_lines(chain: Mapping[str, Any]) -> Iterator[str]:
    found, model = chain["detection"], chain["model"]
    at = [f"version {chain['version']}"] if chain["version"] is not None else []
    told = [f"detection {found['detection_id']}", f"{found['area_m2']:.0f} m², score {found['score']:.2f}", *at]
    yield _node("detection", "([", told, "])", "chip")
    weights = [f"model {found['model']}", f"id {found['model_id'][:16]}"]
    if not model["unknown"]:
        record = model["checkpoint"]["record"]
        place = [f"{record['table']} version {record['version']}", rows_text(model["rows"])]
        yield _node("rows", "[(", place, ")]", "data")
        yield "rows --> model"
        weights.append(f"sha256 {model['checkpoint']['sha256'][:16]}")
    yield _node("model", "[[", weights, "]]", "code")
    yield _node("search", "[[", [f"search {found['search_id'][:16]}", run_text(chain["search_run"])], "]]", "code")
    yield "model --> search"
    yield "search --> detection"
    known = {scene["scene_id"]: scene for scene in chain["scenes"]}
    for number, scene_id in enumerate(found["scene_ids"]):
        day = [f"{known[scene_id]['sensor']}, {known[scene_id]['acquired_at']:%Y-%m-%d}"] if scene_id in known else []
        yield _node(f"scene{number}", "[(", [f"scene {scene_id}", *day], ")]", "data")
        yield f"scene{number} --> search"
    yield from _judgement(chain)


def _judgement(chain: Mapping[str, Any]) -> Iterator[str]:
    """Detection → findings → verdict → lake and chips."""
    found = chain["detection"]
    yield _node("verdict", "{{", [verdict_text(found)], "}}", "accept" if found["verdict"] == "accept" else "doubt")
    for number, finding in enumerate(chain["evidence"]):
        style = "accept" if finding["verdict"] == "for" else "doubt"
        yield _node(
            f"finding{number}", "[", [f"{finding['rule']}: {finding['verdict']}", finding["reason"]], "]", style
        )
        yield f"detection --> finding{number}"
        yield f"finding{number} --> verdict"
    if not chain["evidence"]:
        yield "detection --> verdict"
    if found["label_id"] is not None:
        yield _node("label", "[(", [f"label {found['label_id']}"], ")]", "data")
        yield "label --> detection"
    for number, row in enumerate(chain["chips"]):
        yield _node(f"chip{number}", "([", [f"chip {row['uuid']}"], "])", "chip")
        yield f"verdict --> chip{number}"
    yield _node("lake", "[(", ["lake", *lake_lines(chain["lake"])], ")]", "data")
    yield "verdict --> lake"


def _lines(chain: Mapping[str, Any]) -> Iterator[str]:
    yield _node("chip", "([", _chip_lines(chain), "])", "chip")
    yield from _prompts(chain)
    yield from _images(chain)
    yield from _stages(chain)


def _chip_lines(chain: Mapping[str, Any]) -> list[str]:
    chip, mask = chain["chip"], chain.get("mask")
    at = [f"version {chain['version']}"] if chain.get("version") is not None else []
    if mask is not None:
        return [f"mask {mask['mask_id']}", f"chip {mask['uuid']}", *at]
    return [f"chip {chip['uuid']}", f"{chip['chip_role']}, split {chip['split']}", *at]


def _prompts(chain: Mapping[str, Any]) -> Iterator[str]:
    """Label → prompt → mask → chip."""
    masks: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for number, mask in enumerate(chain["masks"]):
        masks.setdefault(mask["prompt_id"], []).append((number, mask))
    for number, prompt in enumerate(chain["prompts"]):
        snapshot = f", snapshot {prompt['label_snapshot']}" if prompt["label_snapshot"] is not None else ""
        label = [f"label {prompt['label_id']}", f"{prompt['label_table']}{snapshot}"]
        yield _node(f"label{number}", "[(", label, ")]", "data")
        yield _node(f"prompt{number}", "[", [f"prompt {prompt['prompt_id'][:8]}", prompt["kind"]], "]", "code")
        yield f"label{number} --> prompt{number}"
        answers = masks.get(prompt["prompt_id"], [])
        for at, mask in answers:
            told = [f"{mask['verdict']} {mask['score']:.2f}", f"{mask['backend']}, {mask['area_m2']:.0f} m²"]
            yield _node(f"mask{at}", "[", told, "]", "accept" if mask["verdict"] == "accept" else "doubt")
            yield f"prompt{number} --> mask{at}"
            yield f"mask{at} --> chip"
        if not answers:
            yield f"prompt{number} --> chip"


def _images(chain: Mapping[str, Any]) -> Iterator[str]:
    for number, scene in enumerate(chain["scenes"]):
        told = [f"{scene['kind']} {scene['scene_id']}", f"{scene['sensor']}, {scene['acquired_at']:%Y-%m-%d}"]
        yield _node(f"scene{number}", "[(", told, ")]", "data")
        yield f"scene{number} --> chip"


def _stages(chain: Mapping[str, Any]) -> Iterator[str]:
    """Run → stages, each building on the one before, → chip."""
    row, run = (chain.get("mask") or chain["chip"]), chain["run"]
    stale = (chain.get("stale") or {}).get("stages", {})
    before = None
    for stage in [stage for stage in STAGES if f"{stage}_recipe" in row]:
        told = [f"{stage} recipe", row[f"{stage}_recipe"]]
        told += [code_size(run["code"].get(stage, {}))] if run else []
        yield _node(stage, "[[", told, "]]", "stale" if stale.get(stage) else "code")
        yield f"{before or 'run'} --> {stage}"
        before = stage
    told = [f"run {run['run_id']}", f"{run['started_at']:%Y-%m-%d %H:%M}, {run['status']}"] if run else ["run unknown"]
    yield _node("run", "{{", told, "}}", "code")
    yield f"{before or 'run'} --> chip"


def _node(name: str, left: str, lines: list[str], right: str, style: str) -> str:
    return f'{name}{left}"{"<br/>".join(_text(line) for line in lines)}"{right}:::{style}'


def _text(text: str) -> str:
    """Text as Mermaid shows it inside quotes: entities for what it would read as markup."""
    plain = " ".join(str(text).split()).replace("#", "#35;")
    for sign, entity in _ESCAPES.items():
        plain = plain.replace(sign, entity)
    return plain
