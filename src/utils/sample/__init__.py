"""The sample region: an invented landscape with photovoltaics, rendered as VHR and Sentinel-2-like imagery.

``make_landscape`` lays out what stands where, ``compile_scene`` lights it on one date, ``render_vhr_tile`` and
``render_msi`` look at it from above, ``weak_labels`` draws what people know about it. Everything follows from a size
and a seed, and nothing here touches a file: ``store.sample_files`` writes the region.
"""

from utils.sample.context import (
    building_table,
    confuser_truth,
    label_truth,
    landcover_table,
    park_truth,
    pv_label_table,
    pv_truth,
    registry_table,
    to_lonlat,
    to_utm,
)
from utils.sample.features import Landscape
from utils.sample.labels import LabelState, WeakLabels, labelled_chips, unlabelled_arrays, weak_labels
from utils.sample.layout import make_landscape
from utils.sample.msi import BAND_GSD_M, SCL_GSD_M, MsiScene, msi_grid, render_msi
from utils.sample.scene import Scene, compile_scene
from utils.sample.spec import ACQUISITIONS, EPSG, GENERATOR_VERSION, Acquisition, SampleSize, sample_size
from utils.sample.stac import msi_item, msi_scene_id, vhr_item, vhr_scene_day
from utils.sample.vhr import VhrTile, render_vhr_tile, vhr_tiles

__all__ = [
    "ACQUISITIONS",
    "BAND_GSD_M",
    "EPSG",
    "GENERATOR_VERSION",
    "SCL_GSD_M",
    "Acquisition",
    "LabelState",
    "Landscape",
    "MsiScene",
    "SampleSize",
    "Scene",
    "VhrTile",
    "WeakLabels",
    "building_table",
    "compile_scene",
    "confuser_truth",
    "label_truth",
    "labelled_chips",
    "landcover_table",
    "make_landscape",
    "msi_grid",
    "msi_item",
    "msi_scene_id",
    "park_truth",
    "pv_label_table",
    "pv_truth",
    "registry_table",
    "render_msi",
    "render_vhr_tile",
    "sample_size",
    "to_lonlat",
    "to_utm",
    "unlabelled_arrays",
    "vhr_item",
    "vhr_scene_day",
    "vhr_tiles",
    "weak_labels",
]
