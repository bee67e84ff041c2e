"""Imagery from local folders: catalogue of scenes, VHR chips and multispectral chips on their own grids."""

from typing import Any

import pyarrow as pa
from hamilton.function_modifiers import dataloader, tag

from dataflows._chips import ChipReads, planned_grid, read_each
from store import imagery
from utils.errors import BandError, ConfigError
from utils.failures import Failure
from utils.types import RGB_BANDS, ChipProfile, ImagerySource, RasterChip


@tag(stage="imagery")
@dataloader()
def vhr_imagery(vhr: dict[str, Any]) -> tuple[ImagerySource, dict[str, Any]]:
    """The source of VHR imagery, catalogued.

    Raises:
        ConfigError: its options are wrong or its folder is missing.
    """
    source = _source(vhr, "vhr")
    return source, {"source": source.name, "scenes": len(source.scenes())}


@tag(stage="imagery")
@dataloader()
def msi_imagery(msi: dict[str, Any] | None) -> tuple[ImagerySource | None, dict[str, Any]]:
    """The source of multispectral imagery, catalogued; None when the build has none.

    Raises:
        ConfigError: its options are wrong or its folder is missing.
    """
    source = _source(msi, "msi") if msi else None
    return source, {"source": source.name if source else None}


@tag(stage="imagery")
def vhr_scenes(vhr_imagery: ImagerySource) -> pa.Table:
    """VHR scenes with red, green and blue, the one on top first (schema ``store.schemas.SCENES``).

    Raises:
        BandError: there is no such scene.
    """
    return _with_bands(vhr_imagery, RGB_BANDS)


@tag(stage="imagery")
def msi_scenes(msi_imagery: ImagerySource | None, chip_profile: ChipProfile) -> pa.Table | None:
    """Multispectral scenes with all bands of the profile, the one on top first; None when the build has none.

    Raises:
        BandError: there is no such scene.
    """
    return _with_bands(msi_imagery, chip_profile.msi_bands) if msi_imagery else None


@tag(stage="imagery")
def scene_failures(
    vhr_imagery: ImagerySource,
    vhr_scenes: pa.Table,
    msi_imagery: ImagerySource | None,
    msi_scenes: pa.Table | None,
) -> list[Failure]:
    """Files that look like imagery and cannot be catalogued, and scenes without the bands the profile needs."""
    failures = []
    for source, usable in ((vhr_imagery, vhr_scenes), (msi_imagery, msi_scenes)):
        if source is None or usable is None:
            continue
        for place, reason in source.unreadable().items():
            error_type, _, message = reason.partition(": ")
            failures.append(_failure(error_type, f"{place}: {message}", place))
        kept = set(usable["scene_id"].to_pylist())
        for scene in source.scenes().select(["scene_id", "bands"]).to_pylist():
            if scene["scene_id"] not in kept:
                message = f"scene {scene['scene_id']} has only bands {', '.join(scene['bands'])}; it is not used"
                failures.append(_failure("BandError", message, scene["scene_id"]))
    return failures


@tag(stage="imagery")
@dataloader()
def vhr_reads(
    chip_plan: pa.Table,
    vhr_imagery: ImagerySource,
    chip_profile: ChipProfile,
    halo_px: int,
    min_valid_fraction: float,
) -> tuple[ChipReads, dict[str, Any]]:
    """VHR pixels of the planned chips with ``halo_px`` around each, and the chips that could not be read."""
    reads = read_each(
        chip_plan,
        "vhr_reads",
        vhr_imagery,
        RGB_BANDS,
        grid_of=lambda row: planned_grid(row, chip_profile).padded(halo_px),
        scene_ids_of=lambda row: row["vhr_scene_ids"],
        core_px=halo_px,
        min_valid_fraction=min_valid_fraction,
    )
    return reads, {"chips": len(reads.chips), "failed": len(reads.failures)}


@tag(stage="imagery")
@dataloader()
def msi_reads(
    chip_plan: pa.Table,
    msi_imagery: ImagerySource | None,
    chip_profile: ChipProfile,
    min_valid_fraction: float,
) -> tuple[ChipReads, dict[str, Any]]:
    """Multispectral pixels around the planned chips, each on its own 10 m grid, and those that could not be read."""
    if msi_imagery is None:
        return ChipReads(chips={}, failures=[]), {"chips": 0, "failed": 0}
    reads = read_each(
        chip_plan,
        "msi_reads",
        msi_imagery,
        chip_profile.msi_bands,
        grid_of=lambda row: planned_grid(row, chip_profile, msi=True),
        scene_ids_of=lambda row: row["msi_scene_ids"],
        core_px=0,
        min_valid_fraction=min_valid_fraction,
    )
    return reads, {"chips": len(reads.chips), "failed": len(reads.failures)}


@tag(stage="imagery")
def vhr_chips(vhr_reads: ChipReads, msi_reads: ChipReads, chip_profile: ChipProfile) -> dict[str, RasterChip]:
    """VHR chips with halo by chip id, for chips whose imagery is complete."""
    complete = vhr_reads.chips.keys() & msi_reads.chips.keys() if chip_profile.has_msi else vhr_reads.chips.keys()
    return {uuid: chip for uuid, chip in vhr_reads.chips.items() if uuid in complete}


@tag(stage="imagery")
def msi_chips(vhr_chips: dict[str, RasterChip], msi_reads: ChipReads) -> dict[str, RasterChip]:
    """Multispectral chips by chip id, for chips whose imagery is complete; empty when the build has none."""
    return {uuid: msi_reads.chips[uuid] for uuid in vhr_chips if uuid in msi_reads.chips}


@tag(stage="imagery")
def chip_failures(vhr_reads: ChipReads, msi_reads: ChipReads) -> list[Failure]:
    """Chips that could not be read, with the reason."""
    return [*vhr_reads.failures, *msi_reads.failures]


def _source(settings: dict[str, Any], kind: str) -> ImagerySource:
    options = {key: value for key, value in settings.items() if key != "source"}
    try:
        return imagery.get(settings["source"], kind=kind, **options)
    except TypeError as error:
        raise ConfigError(f"{kind}: imagery source {settings['source']!r} refuses its options: {error}") from error


def _with_bands(source: ImagerySource, bands: tuple[str, ...]) -> pa.Table:
    scenes = source.scenes()
    usable = scenes.filter(pa.array([set(bands) <= set(held) for held in scenes["bands"].to_pylist()], pa.bool_()))
    if not len(usable):
        raise BandError(f"no scene of {source.name} has the bands {', '.join(bands)}: {_what_there_is(source, scenes)}")
    return usable


def _what_there_is(source: ImagerySource, scenes: pa.Table) -> str:
    """Bands of the scenes, and each reason why files are in none, with the first file that has it."""
    held = sorted({", ".join(held) for held in scenes["bands"].to_pylist()})
    found = [f"{len(scenes)} scenes hold {' / '.join(held)}"] if held else ["it has no scene"]
    reasons: dict[str, list[str]] = {}
    for place, why in source.unreadable().items():
        reasons.setdefault(why.replace(f"{place}: ", ""), []).append(place)
    for why, places in list(reasons.items())[:3]:
        found.append(f"{len(places)} unreadable, such as {places[0]} ({why})")
    return "; ".join(found)


def _failure(error_type: str, message: str, place: str) -> Failure:
    return Failure(node="scene_failures", error_type=error_type, message=message, traceback_hash="", input_ids=(place,))
