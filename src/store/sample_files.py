"""Writes the sample region: COGs with STAC items, a DuckLake catalogue, truth, and the build flow's settings.

Everything is written into a folder beside the target, which takes the target's name when it is complete: a killed
run leaves no half sample behind, only a folder that the next run clears away.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from numpy.typing import NDArray

from store.sample_lake import CATALOG, write_lake
from store.sample_settings import discovery_settings, sample_settings
from utils import sample
from utils.errors import ConfigError
from utils.sample import ACQUISITIONS, EPSG, GENERATOR_VERSION, Acquisition, Landscape, SampleSize, VhrTile, WeakLabels
from utils.types import ChipGrid

MANIFEST = "manifest.json"
_SETTINGS = ("flow.yaml", "discover.yaml")
_OURS = frozenset({"vhr", "msi", "lake", "truth", *_SETTINGS, MANIFEST})


def _nobody(what: str, done: int, total: int) -> None:
    del what, done, total


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Who is told how far the writing is."""

    report: Callable[[str, int, int], None] = _nobody
    """Called with what has just been written, how many steps are over and how many there are."""


SILENT = Progress()
"""Nobody is told."""


@dataclass(frozen=True, kw_only=True)
class SampleReceipt:
    """What a sample folder holds."""

    root: str
    """The folder."""
    size: str
    """Name of its size."""
    seed: int
    """Its seed."""
    generator_version: int
    """Version of the generator that made it."""
    counts: dict[str, int]
    """How many of each thing it holds."""
    bytes: int
    """Bytes of all files."""
    seconds: float
    """How long it took to make."""
    fresh: bool
    """Whether this call made it; False when it was already there."""


def finished(root: str | Path, *, size: str, seed: int) -> SampleReceipt | None:
    """The receipt of a complete sample of this size, seed and generator in ``root``, or None."""
    place = Path(root)
    try:
        manifest = json.loads((place / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    wanted = (size, seed, GENERATOR_VERSION)
    if tuple(manifest.get(key) for key in ("size", "seed", "generator_version")) != wanted:
        return None
    if not set(_SETTINGS) <= set(manifest["files"]):
        return None
    for name, length in manifest["files"].items():
        path = place / name
        # the lake may have grown since
        if not path.is_file() or (not name.startswith("lake/") and path.stat().st_size != length):
            return None
    return SampleReceipt(
        root=str(place),
        size=size,
        seed=seed,
        generator_version=GENERATOR_VERSION,
        counts=manifest["counts"],
        bytes=manifest["bytes"],
        seconds=manifest["seconds"],
        fresh=False,
    )


def write_sample(
    root: str | Path,
    landscape: Landscape,
    labels: WeakLabels,
    *,
    progress: Progress = SILENT,
    workers: int = 2,
) -> SampleReceipt:
    """Write the sample region of a landscape into ``root``, or leave it when it is there and complete.

    Args:
        root: folder of the sample; replaced when it holds another or an incomplete sample.
        landscape: what to render.
        labels: both states of the weak labels.
        progress: told about every finished step.
        workers: VHR tiles rendered at a time.

    Raises:
        ConfigError: ``root`` holds files that are no sample.
    """
    target = Path(root).absolute()
    done = finished(target, size=landscape.size.name, seed=landscape.seed)
    if done is not None:
        return done
    _refuse_foreign(target)
    staging = _staging(target)
    start = time.perf_counter()
    steps = _Steps(total=len(ACQUISITIONS) * (landscape.size.tiles**2 + 1) + 2, report=progress.report)
    try:
        _write_vhr(staging / "vhr", landscape, steps, workers)
        _write_msi(staging / "msi", landscape, steps)
        write_lake(staging / CATALOG, landscape, labels, final_folder=(target / CATALOG).parent / "files")
        steps.done("lake")
        _write_truth(staging / "truth", landscape, labels)
        _write_settings(staging, landscape.size)
        steps.done("truth")
        receipt = _write_manifest(staging, target, landscape, labels, time.perf_counter() - start)
        _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return receipt


def _write_settings(folder: Path, size: SampleSize) -> None:
    for name, settings in zip(_SETTINGS, (sample_settings(size), discovery_settings()), strict=True):
        (folder / name).write_text(yaml.safe_dump(settings, sort_keys=False, default_flow_style=None))


@dataclass(kw_only=True)
class _Steps:
    total: int
    report: Callable[[str, int, int], None]
    finished: int = 0

    def done(self, what: str) -> None:
        self.finished += 1
        self.report(what, self.finished, self.total)


def _refuse_foreign(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target} is a file; the sample region needs a folder of its own")
    strangers = sorted(p.name for p in target.iterdir() if p.name not in _OURS) if target.exists() else []
    if strangers:
        raise ConfigError(
            f"{target} holds files that are no sample region ({', '.join(strangers[:5])}); "
            "choose an empty or new folder"
        )


def _staging(target: Path) -> Path:
    """An empty folder beside ``target``; those of dead processes are removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.partial-*"):
        owner = left.name.rpartition("-")[2]
        if not _alive(owner):
            shutil.rmtree(left, ignore_errors=True)
    staging = target.parent / f".{target.name}.partial-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    return staging


def _alive(process_id: str) -> bool:
    if not process_id.isdigit() or int(process_id) == os.getpid():
        return False
    try:
        os.kill(int(process_id), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _publish(staging: Path, target: Path) -> None:
    if target.exists():
        old = target.parent / f".{target.name}.partial-old{os.getpid()}"
        target.rename(old)
        staging.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        staging.rename(target)


def write_cog(path: Path, data: NDArray[np.generic], grid: ChipGrid) -> None:
    """Write bands, shape (bands, rows, columns), as a cloud-optimised GeoTIFF with nodata 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="COG",
        count=data.shape[0],
        height=grid.height,
        width=grid.width,
        dtype=data.dtype,
        crs=f"EPSG:{grid.epsg}",
        transform=grid.affine,
        nodata=0,
        compress="DEFLATE",
        level=6,
        predictor="YES",
        blocksize=256,
        overview_resampling="AVERAGE" if data.dtype != np.uint8 or data.shape[0] > 1 else "NEAREST",
    ) as raster:
        raster.write(data)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _write_vhr(folder: Path, landscape: Landscape, steps: _Steps, workers: int) -> None:
    for acquisition in ACQUISITIONS:
        scene = sample.compile_scene(landscape, acquisition, acquisition.vhr_sun_deg)

        def one(tile: VhrTile, acquisition: Acquisition = acquisition, scene: sample.Scene = scene) -> str:
            place = folder / sample.vhr_scene_day(acquisition) / tile.name
            write_cog(place.with_suffix(".tif"), sample.render_vhr_tile(landscape, scene, tile), tile.grid)
            item = sample.vhr_item(landscape.size, landscape.seed, acquisition, tile)
            _write_json(place.with_suffix(".json"), item)
            return f"vhr {place.parent.name}/{tile.name}"

        with ThreadPoolExecutor(max_workers=workers) as pool:
            tiles: list[Future[str]] = [pool.submit(one, tile) for tile in sample.vhr_tiles(landscape.size, EPSG)]
            for tile in as_completed(tiles):
                steps.done(tile.result())


def _write_msi(folder: Path, landscape: Landscape, steps: _Steps) -> None:
    for acquisition in ACQUISITIONS:
        scene = sample.compile_scene(landscape, acquisition, acquisition.msi_sun_deg)
        rendered = sample.render_msi(landscape, scene)
        name = sample.msi_scene_id(acquisition)
        for band, gsd_m in sample.BAND_GSD_M.items():
            grid = sample.msi_grid(landscape.size, gsd_m, EPSG)
            write_cog(folder / name / f"{band}.tif", rendered.bands[band][None], grid)
        grid = sample.msi_grid(landscape.size, sample.SCL_GSD_M, EPSG)
        write_cog(folder / name / "SCL.tif", rendered.scl[None], grid)
        _write_json(folder / name / f"{name}.json", sample.msi_item(landscape.size, acquisition, rendered))
        steps.done(f"msi {name}")


def _write_truth(folder: Path, landscape: Landscape, labels: WeakLabels) -> None:
    _write_json(folder / "pv.geojson", sample.pv_truth(landscape))
    _write_json(folder / "parks.geojson", sample.park_truth(landscape))
    _write_json(folder / "confusers.geojson", sample.confuser_truth(landscape))
    _write_json(folder / "labels.json", sample.label_truth(labels.first, labels.second))


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.stat().st_size


def _write_manifest(
    staging: Path, target: Path, landscape: Landscape, labels: WeakLabels, seconds: float
) -> SampleReceipt:
    files = dict(_files(staging))
    receipt = SampleReceipt(
        root=str(target),
        size=landscape.size.name,
        seed=landscape.seed,
        generator_version=GENERATOR_VERSION,
        counts={
            "vhr_tiles": len(ACQUISITIONS) * landscape.size.tiles**2,
            "msi_scenes": len(ACQUISITIONS),
            "arrays": len(landscape.arrays),
            "confusers": len(landscape.confusers),
            "buildings": len(landscape.buildings),
            "labels_first": len(labels.first.labels) + len(labels.first.points),
            "labels_second": len(labels.second.labels) + len(labels.second.points),
            "labelled_chips": len(sample.labelled_chips(labels.second)),
        },
        bytes=sum(files.values()),
        seconds=round(seconds, 2),
        fresh=True,
    )
    content = asdict(receipt) | {"files": files}
    del content["root"], content["fresh"]
    _write_json(staging / MANIFEST, content)
    return receipt
