"""The only file that builds a Hamilton driver: which modules a flow has, what it is told, what is asked of it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, overload

from hamilton import driver

from dataflows import context_config, discovery_config
from dataflows.build_plan import BuildPlan, plan
from dataflows.change_config import change_inputs
from dataflows.config import BuildConfig, from_mapping
from dataflows.context_config import ContextConfig
from dataflows.context_loop import run_context
from dataflows.discovery_config import DiscoveryConfig
from dataflows.drawing import enable_notebook_display
from dataflows.flow_inputs import build_inputs, context_inputs, discovery_inputs, mask_inputs
from dataflows.generation_loop import AskedMasks, run_generation
from dataflows.partition_loop import run_build
from dataflows.run_summary import ContextSummary, DiscoverySummary, GenerationSummary, RunSummary
from dataflows.stage_recipes import NEW_SETTINGS, STAGE_SETTINGS, StageRecipes, stage_recipes
from store import sample_files
from utils.errors import ConfigError, UnknownNameError

LOADERS = {"local": "dataflows.vhr_local_loader"}
"""Imagery source → loader module; modules of this family have the same node names."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """One dataflow: modules and what is asked of them."""

    modules: tuple[str, ...]
    """Stage modules in the order data passes them."""
    outputs: tuple[str, ...]
    """Nodes a run asks for."""


_AFTER_LOADER = (
    "dataflows.chip_plan",
    "dataflows.sam_mask_factory",
    "dataflows.s2_indexing",
    "dataflows.spectral_indices",
    "dataflows.training_sample_builder",
    "dataflows.lance_writer",
)
_BUILD = (
    "dataflows.ingest_ducklake_labels",
    "dataflows.label_deduplication",
    "dataflows.label_changes",
    LOADERS["local"],
    *_AFTER_LOADER,
)
FLOWS: dict[str, Flow] = {
    "sample": Flow(modules=("dataflows.sample_region",), outputs=("sample_region_files",)),
    "build": Flow(
        modules=_BUILD,
        outputs=("sample_write",),
    ),
    "masks": Flow(
        modules=(LOADERS["local"], "dataflows.sam_mask_factory", "dataflows.mask_generations"),
        outputs=("generation_write",),
    ),
    "backfill": Flow(
        modules=(*_BUILD, "dataflows.mask_generations", "dataflows.backfill_candidates"),
        outputs=("backfill_write",),
    ),
    "context": Flow(modules=("dataflows.ingest_context",), outputs=("chip_context", "context_write")),
    "validate": Flow(
        modules=(
            "dataflows.validation_imagery",
            "dataflows.spectral_validation",
            "dataflows.visual_validation",
            "dataflows.outline_validation",
            "dataflows.validation_evidence",
            "dataflows.mask_agreement",
        ),
        outputs=("detection_findings", "imagery_failures", "mask_agreement"),
    ),
    "discover": Flow(
        modules=(
            "dataflows.ingest_context",
            "dataflows.search_grid",
            "dataflows.search_rules",
            "dataflows.search_plan",
            "dataflows.large_area_inference",
            "dataflows.detections",
        ),
        outputs=("probability_raster", "detections_write"),
    ),
    "change": Flow(
        modules=("dataflows.spectral_change",),
        outputs=("change_statistics", "skipped_indices", "unreadable_imagery", "change_raster"),
    ),
}
"""Flow name → flow, with the default loader."""


def flow(name: str) -> Flow:
    """The flow ``name``.

    Raises:
        UnknownNameError: no such flow; the message lists those that exist.
    """
    if name not in FLOWS:
        raise UnknownNameError("flow", name, list(FLOWS))
    return FLOWS[name]


def build_driver(
    name: str, config: BuildConfig | ContextConfig | DiscoveryConfig | Mapping[str, Any] | None = None
) -> driver.Driver:
    """A driver of the flow, told its settings; in a notebook it shows its picture.

    Args:
        name: flow name, a key of :data:`FLOWS`.
        config: settings; None gives a driver to look at, not to run.

    Raises:
        UnknownNameError: no such flow, imagery source or mask backend.
        ConfigError: a setting is refused.
    """
    chosen = flow(name)
    modules, settings = list(chosen.modules), dict(config) if isinstance(config, Mapping) else {}
    if name in ("build", "masks", "backfill") and config is not None:
        checked = config if isinstance(config, BuildConfig) else from_mapping(_plain(name, config))
        modules[modules.index(LOADERS["local"])] = _loader_of(checked.vhr, checked.msi)
        settings = mask_inputs(checked) if name == "masks" else build_inputs(checked)
    elif name == "context" and config is not None:
        settings = context_inputs(_context_config(config))
    elif name == "discover" and config is not None:
        settings = discovery_inputs(_discovery_config(config))
    elif name == "change" and config is not None:
        settings = change_inputs(_plain(name, config))
    enable_notebook_display()
    return driver.Builder().with_modules(*map(import_module, modules)).with_config(settings).build()


def run_change(config: Mapping[str, Any]) -> dict[str, Any]:
    """Compare two dates; see ``dataflows.spectral_change``.

    Args:
        config: ``msi`` (imagery source and its options), ``before`` and ``after`` (scene id or day), and optionally
            ``aoi_bbox_lonlat``, ``gsd_m`` (10), ``change_threshold`` (0.2) and ``raster_path`` (no raster without it).

    Returns:
        ``statistics`` per index, ``skipped`` indices with the reason, ``unreadable`` files with the reason, ``raster``
        (path and bands) or None.

    Raises:
        AegirError: the settings or the imagery cannot be used.
    """
    settings = change_inputs(config)
    wanted = [name for name in FLOWS["change"].outputs if name != "change_raster" or settings["raster_path"]]
    found = build_driver("change", settings).execute(wanted)
    return {
        "statistics": found["change_statistics"],
        "skipped": found["skipped_indices"],
        "unreadable": found["unreadable_imagery"],
        "raster": found.get("change_raster"),
    }


def plan_build(
    config: BuildConfig, *, retry_errors: bool = False, since_snapshot: int | None = None, only_stale: bool = False
) -> BuildPlan:
    """What the build flow would do under ``config``; see :func:`dataflows.build_plan.plan`."""
    driver = build_driver("build", config)
    return plan(config, driver, retry_errors=retry_errors, since_snapshot=since_snapshot, only_stale=only_stale)


def run_masks(
    config: BuildConfig,
    *,
    where: str | None = None,
    retry_errors: bool = False,
    progress: Callable[[GenerationSummary], None] | None = None,
) -> GenerationSummary:
    """Answer the prompts of chips that are in the store again, under other settings of masks, as a new generation.

    Args:
        config: settings of the build, with the backend, options, refinement and thresholds of the generation.
        where: Lance SQL over ``training_data``: only these chips.
        retry_errors: take in chips that failed before with these settings.
        progress: called with the summary whenever it changes.

    Raises:
        AegirError: the settings, the imagery or the store cannot be used; nothing was started.
    """
    asked = AskedMasks(where=where, retry_errors=retry_errors)
    today = recipes_today(asdict(config))
    return run_generation(config, build_driver("masks", config), today, asked, progress=progress)


def recipes_today(settings: Mapping[str, Any]) -> StageRecipes:
    """Recipes that rows made now would have under these settings of a build, which may be those of an earlier run.

    Args:
        settings: by name, as ``dataclasses.asdict`` gives them or as the table ``runs`` holds them.

    Raises:
        ConfigError: a setting that shapes rows is missing, or a file of weights cannot be read.
        UnknownNameError: the imagery source or mask backend does not exist any more.
    """
    needed = {"vhr", "msi", *(name for names in STAGE_SETTINGS.values() for name in names)}
    missing = sorted(needed - settings.keys() - NEW_SETTINGS.keys())
    if missing:
        raise ConfigError(f"the settings do not say {', '.join(missing)}; give all with --config")
    modules = list(flow("build").modules)
    modules[modules.index(LOADERS["local"])] = _loader_of(settings["vhr"], settings["msi"])
    bare = driver.Builder().with_modules(*map(import_module, modules)).build()
    return stage_recipes(settings, bare)


@overload
def run(
    name: Literal["build", "sample", "change"],
    config: BuildConfig | Mapping[str, Any],
    *,
    retry_errors: bool = ...,
    since_snapshot: int | None = ...,
    fail_fast: bool = ...,
    only_stale: bool = ...,
    progress: Callable[[Any], None] | None = ...,
) -> RunSummary: ...


@overload
def run(
    name: Literal["context"],
    config: ContextConfig | Mapping[str, Any],
    *,
    retry_errors: bool = ...,
    since_snapshot: int | None = ...,
    fail_fast: bool = ...,
    only_stale: bool = ...,
    progress: Callable[[Any], None] | None = ...,
) -> ContextSummary: ...


@overload
def run(
    name: Literal["discover"],
    config: DiscoveryConfig | Mapping[str, Any],
    *,
    retry_errors: bool = ...,
    since_snapshot: int | None = ...,
    fail_fast: bool = ...,
    only_stale: bool = ...,
    progress: Callable[[Any], None] | None = ...,
) -> DiscoverySummary: ...


@overload
def run(
    name: str,
    config: BuildConfig | ContextConfig | DiscoveryConfig | Mapping[str, Any],
    *,
    retry_errors: bool = ...,
    since_snapshot: int | None = ...,
    fail_fast: bool = ...,
    only_stale: bool = ...,
    progress: Callable[[Any], None] | None = ...,
) -> RunSummary | ContextSummary | DiscoverySummary: ...


def run(
    name: str,
    config: BuildConfig | ContextConfig | DiscoveryConfig | Mapping[str, Any],
    *,
    retry_errors: bool = False,
    since_snapshot: int | None = None,
    fail_fast: bool = False,
    only_stale: bool = False,
    progress: Callable[[Any], None] | None = None,
) -> RunSummary | ContextSummary | DiscoverySummary:
    """Run a flow to its end.

    Args:
        name: flow name.
        config: its settings; the flow ``sample`` takes ``root``, ``size`` and ``seed``, ``change`` those of
            :func:`run_change`.
        retry_errors: take in chips that failed before with these settings (flow ``build``).
        since_snapshot: only chips that labels changed on since this snapshot of the lake (flow ``build``).
        fail_fast: stop at the first failure, with what is done committed (flow ``build``).
        only_stale: make existing rows again whose recipe is not today's, and nothing else (flow ``build``).
        progress: called with the summary whenever it changes.

    Raises:
        UnknownNameError: no such flow.
        AegirError: the inputs or the store cannot be used; nothing was started.
    """
    flow(name)
    if name == "build":
        checked = config if isinstance(config, BuildConfig) else from_mapping(_plain(name, config))
        return run_build(
            checked,
            build_driver(name, checked),
            retry_errors=retry_errors,
            since_snapshot=since_snapshot,
            fail_fast=fail_fast,
            only_stale=only_stale,
            progress=progress,
        )
    if name == "context":
        told = _context_config(config)
        return run_context(told, build_driver(name, told), progress=progress)
    if name == "discover":
        # it builds its driver here
        from dataflows.discovery import run_discovery  # noqa: PLC0415

        return run_discovery(_discovery_config(config), progress=progress)
    if name == "change":
        settings = change_inputs(_plain(name, config))
        run_change(settings)
        return RunSummary(flow=name, status="done", store=settings["raster_path"] or "")
    if isinstance(config, BuildConfig | ContextConfig | DiscoveryConfig) or set(config) != {"root", "size", "seed"}:
        raise ConfigError(f"the flow {name!r} takes root, size and seed")
    run_sample(**config)
    return RunSummary(flow=name, status="done", store=str(config["root"]))


def run_sample(
    *, root: str | Path, size: str, seed: int, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Generate the sample region, unless the folder already holds it; returns the receipt's fields.

    Args:
        root: folder of the region.
        size: ``demo``, ``flywheel`` or ``test``.
        seed: everything follows from it.
        progress: called with the step's name, steps done and steps in all.

    Raises:
        AegirError: there is no such size, or the folder cannot be written.
    """
    # laying out the landscape takes seconds; a finished folder does not need it
    found = sample_files.finished(Path(root), size=size, seed=seed)
    if found is not None:
        return asdict(found)
    inputs: dict[str, Any] = {"root": str(root), "size": size, "seed": seed}
    if progress is not None:
        inputs["progress"] = sample_files.Progress(report=progress)
    outputs = list(FLOWS["sample"].outputs)
    receipt: dict[str, Any] = build_driver("sample").execute(outputs, inputs=inputs)[outputs[0]]
    return receipt


_AnyConfig = BuildConfig | ContextConfig | DiscoveryConfig | Mapping[str, Any]


def _plain(name: str, config: _AnyConfig) -> Mapping[str, Any]:
    if isinstance(config, BuildConfig | ContextConfig | DiscoveryConfig):
        raise ConfigError(f"the flow {name!r} does not take a {type(config).__name__}")
    return config


def _context_config(config: _AnyConfig) -> ContextConfig:
    return config if isinstance(config, ContextConfig) else context_config.from_mapping(_plain("context", config))


def _discovery_config(config: _AnyConfig) -> DiscoveryConfig:
    return config if isinstance(config, DiscoveryConfig) else discovery_config.from_mapping(_plain("discover", config))


def _loader_of(vhr: Mapping[str, Any], msi: Mapping[str, Any] | None) -> str:
    sources = {section["source"] for section in (vhr, msi) if section}
    for source in sorted(sources):
        if source not in LOADERS:
            raise UnknownNameError("imagery source", str(source), list(LOADERS))
    if len(sources) > 1:
        raise ConfigError(f"vhr and msi come from one loader; got {', '.join(sorted(sources))}")
    return LOADERS[sources.pop()]
