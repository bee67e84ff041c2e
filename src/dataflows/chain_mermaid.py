"""The chain behind a chip or mask as a Mermaid flowchart, for pages and issues that draw it."""

from collections.abc import Iterator, Mapping
from typing import Any

from dataflows.chain_terminal import code_size
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
