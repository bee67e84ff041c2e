"""Random edits of the lake: an incremental plan asks for what a whole plan asks for, whatever was changed."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import rasterio
import shapely
from rasterio.transform import from_bounds

from dataflows import drivers
from dataflows.config import from_mapping
from store import ducklake, lance_io
from utils.geo import reproject

WHERE = {"zone edge": (12.0, 47.0), "antimeridian": (180.0, -16.5), "equator": (6.0, 0.0)}
STEP = 0.0001
"""Degrees; about 10 m."""


@dataclass
class RecordedStore:
    """What a run would leave of a plan, without pixels; stands in for the tables a plan reads."""

    build_config: str
    chips: dict[str, dict[str, Any]] = field(default_factory=dict)
    prompts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def scan(self, _uri, table, columns=None, where=None, **_):
        if table == "training_data":
            no_machine = where is not None and where.startswith("mask_source !=")
            rows = [] if no_machine else list(self.chips.values())
        else:
            rows = list(self.prompts.values()) if table == "prompts" else []
        kinds = {
            "vhr_transform": pa.list_(pa.float64(), 6),
            "vhr_epsg": pa.int32(),
            "installed_on": pa.date32(),
            "retired_at": pa.timestamp("us"),
            "label_geometry": pa.binary(),
        }
        return pa.table(
            {name: pa.array([row.get(name) for row in rows], kinds.get(name, pa.string())) for name in columns}
        )

    def after(self, plan, config):
        """The store once a run has carried the plan out."""
        chips, prompts = dict(self.chips), {key: dict(row) for key, row in self.prompts.items()}
        for key in plan.retirement.prompt_ids:
            prompts[key]["retired_at"] = 0
        for uuid in plan.retirement.chips:
            del chips[uuid]
        pending = {row["uuid"]: row for row in plan.pending.to_pylist()}
        for uuid, row in pending.items():
            grid = drivers.import_module("dataflows._chips").planned_grid(row, config.profile)
            chips[uuid] = {
                **{name: row[name] for name in ("uuid", "input_set", "chip_role")},
                "mask_source": "machine",
                "vhr_epsg": row["epsg"],
                "vhr_transform": list(grid.transform)[:6],
            }
        for row in plan.prompts.to_pylist():
            if row["uuid"] in pending:
                prompts[row["prompt_id"]] = {
                    **{name: row[name] for name in ("prompt_id", "uuid", "label_id", "label_geometry", "label_table")},
                    "input_set": pending[row["uuid"]]["input_set"],
                    "label_catalog": config.catalog,
                    "retired_at": None,
                }
        return RecordedStore(self.build_config, chips, prompts)

    def seen(self):
        """Chips and prompts as they compare."""
        return (
            {uuid: (row["chip_role"], row["input_set"]) for uuid, row in self.chips.items()},
            {
                key: (row["uuid"], row["input_set"], row["label_geometry"].hex(), row["retired_at"])
                for key, row in self.prompts.items()
            },
        )


class Lake:
    """Two label tables around a place, edited at random."""

    def __init__(self, root, centre, seed):
        self.catalog, self.data = root / "lake.ducklake", root / "lake"
        self.centre, self.random, self.next_id = centre, random.Random(seed), 0  # noqa: S311 - reproducible
        self.run("CREATE TABLE lake.a (id VARCHAR, wkt VARCHAR)", "CREATE TABLE lake.b (id VARCHAR, wkt VARCHAR)")
        self.run(*(self.insert() for _ in range(30)))

    def run(self, *statements):
        """Run SQL; returns the newest snapshot before."""
        connection = ducklake.connect(self.catalog, data_path=self.data, create=True)
        before = connection.execute("SELECT max(snapshot_id) FROM ducklake_snapshots('lake')").fetchone()[0]
        for statement in statements:
            connection.execute(statement)
        connection.close()
        return before

    def ids(self, table):
        connection = ducklake.connect(self.catalog)
        found = [row[0] for row in connection.execute(f"SELECT id FROM lake.{table} ORDER BY id").fetchall()]
        connection.close()
        return found

    def shape(self):
        """A point, a small, a wide or a long label, on a grid that makes many overlap."""
        draw = self.random
        x, y = (draw.randrange(-30, 30) for _ in range(2))
        width, height = draw.choice([(0, 0), (2, 2), (2, 2), (3, 2), (2, 3), (4, 4), (14, 2), (25, 3)])
        (left, bottom), turn = self.centre, STEP
        west, east = left + x * turn, left + (x + width) * turn
        if west < 180 < east:
            west, east = 180 - width * turn, 180.0
        if west >= 180:
            west, east = west - 360, east - 360
        south, north = bottom + y * turn, bottom + (y + height) * turn
        if not width:
            return f"POINT ({west} {south})"
        return f"POLYGON (({west} {south}, {east} {south}, {east} {north}, {west} {north}, {west} {south}))"

    def insert(self):
        self.next_id += 1
        return f"INSERT INTO lake.{self.random.choice('ab')} VALUES ('{self.next_id}', '{self.shape()}')"

    def edit(self):
        """One random edit as SQL."""
        table, other = self.random.choice([("a", "b"), ("b", "a")])
        ids = self.ids(table)
        kind = self.random.choice(["insert", "delete", "move", "rename", "copy", "broken", "twice"])
        if kind == "insert" or not ids:
            return self.insert()
        name = self.random.choice(ids)
        self.next_id += 1
        return {
            "delete": f"DELETE FROM lake.{table} WHERE id = '{name}'",
            "move": f"UPDATE lake.{table} SET wkt = '{self.shape()}' WHERE id = '{name}'",
            "rename": f"UPDATE lake.{table} SET id = '{self.next_id}' WHERE id = '{name}'",
            "copy": f"INSERT INTO lake.{other} SELECT '{self.next_id}', wkt FROM lake.{table} WHERE id = '{name}'",
            "broken": f"UPDATE lake.{table} SET wkt = 'POLYGON EMPTY' WHERE id = '{name}'",
            "twice": f"INSERT INTO lake.{table} VALUES ('{name}', '{self.shape()}')",
        }[kind]


def imagery(root, centre):
    root.mkdir()
    options = {"driver": "GTiff", "count": 3, "height": 4, "width": 4, "dtype": "uint8", "crs": "EPSG:4326"}
    lon, lat = centre
    for name, at in (("one", lon), ("two", lon - 360)):
        west, east = max(at - 0.1, -180), min(at + 0.1, 180)
        if west < east:
            transform = from_bounds(west, lat - 0.1, east, lat + 0.1, 4, 4)
            with rasterio.open(root / f"{name}.tif", "w", transform=transform, **options) as raster:
                raster.write(np.full((3, 4, 4), 90, np.uint8))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("where", WHERE)
def test_an_incremental_plan_leaves_what_a_whole_plan_leaves(tmp_path, monkeypatch, where, seed):
    lake = Lake(tmp_path, WHERE[where], f"{where} {seed}")
    imagery(tmp_path / "vhr", WHERE[where])
    mapping = {"id": "id", "geometry": "wkt"}
    settings = {
        "catalog": str(lake.catalog),
        "labels": [{"table": "a", **mapping}, {"table": "b", **mapping}],
        "deduplication": {"min_overlap": 0.3, "point_distance_m": 5.0, "overlap": ("iou", "smaller")[seed % 2]},
        "vhr": {"source": "local", "root": str(tmp_path / "vhr"), "acquired_at": "2021-03-01"},
        "store": str(tmp_path / "store"),
        "background_near_ratio": 0.3,
        "background_far_ratio": 0.3,
        "partition_level": 13,
        "split_level": 17,
        "guard_m": 0.0,
    }
    config = from_mapping(settings)
    stored = RecordedStore(config.build_config)
    monkeypatch.setattr(lance_io, "scan", stored.scan)
    whole = drivers.plan_build(config)
    stored = stored.after(whole, config)
    rule = whole.made_once["split_rule"]
    monkeypatch.setattr(lance_io, "scan", lambda *args, **options: _with_rule(stored, rule, *args, **options))
    config = from_mapping(settings | {"background_near_ratio": 0.0, "background_far_ratio": 0.0})
    for _ in range(4):
        edits = [lake.edit() for _ in range(lake.random.randint(1, 4))]
        since = lake.run(*edits)
        expected = stored.after(drivers.plan_build(config), config)
        found = stored.after(drivers.plan_build(config, since_snapshot=since), config)
        assert not differences(found.seen(), expected.seen()), edits
        stored = expected
        assert under_labels(stored, config.profile) == [], edits


def under_labels(stored, profile):
    """Background chips that a label of a prompt in force lies on, whatever its zone."""
    labels = [row["label_geometry"] for row in stored.prompts.values() if row["retired_at"] is None]
    tree = shapely.STRtree(shapely.from_wkb(labels))
    found = []
    for uuid, row in stored.chips.items():
        left, top = row["vhr_transform"][2], row["vhr_transform"][5]
        side = profile.gsd_m * profile.width
        inner = shapely.box(left + 0.1, top - side + 0.1, left + side - 0.1, top - 0.1)
        if row["chip_role"] != "labelled" and len(tree.query(reproject(inner, row["vhr_epsg"], 4326), "intersects")):
            found.append(uuid)
    return found


def differences(found, expected):
    """Chips and prompts that differ, as (key, found, expected)."""
    return [
        (key, one.get(key), other.get(key))
        for one, other in zip(found, expected, strict=True)
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]


def _with_rule(stored, rule, uri, table, columns=None, where=None, **options):
    if table != "splits":
        return stored.scan(uri, table, columns, where, **options)
    row = {"level": rule.level, "salt": rule.salt, "guard_m": rule.guard_m, "created_at": 0}
    shares = pa.array([list(rule.shares.items())], pa.map_(pa.string(), pa.float64()))
    return pa.Table.from_pylist([row]).append_column("fractions", shares)
