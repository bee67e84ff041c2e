"""The sample region: an invented landscape, its weak labels, and the files other flows read.

Nodes run from a size and a seed to one folder: ``landscape`` → ``weak_labels`` → ``sample_region_files``.
"""

from dataclasses import asdict

from hamilton.function_modifiers import datasaver

from store import sample_files
from store.sample_files import SILENT, Progress
from utils import sample
from utils.sample import Landscape, SampleSize, WeakLabels


def sample_extent(size: str) -> SampleSize:
    """How large the region is and what stands on it.

    Args:
        size: ``test``, ``demo`` or ``flywheel``.
    """
    return sample.sample_size(size)


def landscape(sample_extent: SampleSize, seed: int) -> Landscape:
    """Everything that stands on the region on both dates, as geometry in UTM metres.

    Args:
        sample_extent: size of the region.
        seed: any non-negative integer; the same seed gives the same region.
    """
    return sample.make_landscape(sample_extent, seed)


def weak_labels(landscape: Landscape) -> WeakLabels:
    """What three imperfect datasets know about the region's photovoltaics, in two states."""
    return sample.weak_labels(landscape)


@datasaver()
def sample_region_files(
    root: str,
    landscape: Landscape,
    weak_labels: WeakLabels,
    progress: Progress = SILENT,
) -> dict:  # type: ignore[type-arg]  # Hamilton accepts no other annotation
    """COG tiles and scenes with STAC items, DuckLake catalogue, truth and settings under one folder.

    Args:
        root: folder of the sample; complete ones of the same size, seed and generator are left alone.
        landscape: what is rendered.
        weak_labels: what the catalogue holds.
        progress: told about every finished step.
    """
    return asdict(sample_files.write_sample(root, landscape, weak_labels, progress=progress))
