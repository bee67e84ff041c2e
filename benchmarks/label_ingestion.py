"""Labels per second and peak memory of label ingestion from a lake, beside a check row by row.

Protocol: a DuckLake catalogue of n polygon labels (circles of 8 to 16 vertices, one in a hundred broken in one of six
ways) is made once per n. Each variant runs in a process of its own, in turns, ``--runs`` times: ``flow`` is what the
build flow does (read into a table, check in batches), ``check`` is ``labels check`` (a stream), ``rows`` is a Python
loop over ``to_pylist`` with one shapely call per label and step. Peak memory is the process's, less what it was once
libraries were loaded. Ratios are taken within a turn.

    python benchmarks/label_ingestion.py [--labels 100000 1000000] [--runs 3] [--rows-up-to 100000]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from dataflows.config import from_mapping
from dataflows.drivers import build_driver
from dataflows.label_report import label_report
from store import ducklake
from store.ducklake_labels import LabelTable, read_labels
from utils.prompts import label_kind

BROKEN = (
    "POLYGON((8 47,8.1 47.1,8.1 47,8 47.1,8 47))",
    "junk",
    None,
    "POINT(nan nan)",
    "LINESTRING(1 1,2 2)",
    "POINT(47 109)",
)


def make_lake(folder: Path, count: int) -> str:
    """A lake of ``count`` labels, WKT."""
    random = np.random.default_rng(42)
    catalog = folder / f"labels_{count}.ducklake"
    with ducklake.connect(catalog, data_path=folder / f"files_{count}", create=True) as connection:
        connection.execute("CREATE TABLE lake.pv (unified_id VARCHAR, dataset_name VARCHAR, geometry VARCHAR)")
        for start in range(0, count, 100_000):
            size = min(100_000, count - start)
            places = shapely.points(random.uniform((5, 40), (25, 60), (size, 2)))
            text = shapely.to_wkt(shapely.buffer(places, random.uniform(1e-5, 1e-3, size), quad_segs=3)).astype(object)
            text[::100] = [BROKEN[k % len(BROKEN)] for k in range(len(text[::100]))]
            ids = [f"id{start + k}" for k in range(size)]
            labels = pa.table({"i": ids, "d": ["bench"] * size, "g": pa.array(text, pa.string())})
            connection.register("labels", labels)
            connection.execute("INSERT INTO lake.pv SELECT * FROM labels")
    return str(catalog)


def by_rows(catalog: str) -> int:
    """Labels a loop over Python dicts finds usable."""
    mapping = LabelTable(table="pv", preset="ice_melt")
    with ducklake.connect(catalog) as connection:
        raw = read_labels(connection, [mapping], ducklake.latest_snapshot(connection))
    kept = []
    for row in raw.to_pylist():
        try:
            geometry = None if row["geometry_wkt"] is None else shapely.from_wkt(row["geometry_wkt"])
        except shapely.errors.ShapelyError:
            continue
        if geometry is None or geometry.is_empty or not np.isfinite(shapely.get_coordinates(geometry)).all():
            continue
        if geometry.geom_type not in ("Point", "Polygon", "MultiPolygon"):
            continue
        if not geometry.is_valid:
            geometry = shapely.make_valid(geometry)
        west, south, east, north = geometry.bounds
        if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
            continue
        kept.append({"label_id": row["label_id"], "kind": label_kind(geometry), "geometry": shapely.to_wkb(geometry)})
    return len(pa.Table.from_pylist(kept))


def high_water_kb() -> int:
    """Largest resident memory since the mark was reset, kB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def measured(variant: str, catalog: str) -> dict[str, Any]:
    """Seconds, peak memory above the start and labels kept of one variant, in this process."""
    config = from_mapping(
        {"catalog": catalog, "labels": [{"table": "pv", "preset": "ice_melt"}], "vhr": {"source": "local", "root": "."}}
    )
    driver = build_driver("build", config)
    # a child inherits ru_maxrss from its parent; the kernel's high-water mark can be reset
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water_kb()
    start = time.perf_counter()
    if variant == "flow":
        kept = len(driver.execute(["labels"])["labels"])
    elif variant == "check":
        kept = label_report(config).sources[0].kept
    else:
        kept = by_rows(catalog)
    seconds = time.perf_counter() - start
    peak = high_water_kb() - before
    return {"seconds": seconds, "peak_mb": peak / 1024, "kept": kept}


def spread(values: list[float], unit: str = "") -> str:
    return f"{min(values):.3g} / {statistics.median(values):.3g} / {max(values):.3g}{unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--labels", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows-up-to", type=int, default=100_000, help="largest n the loop is run on")
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "CATALOG"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(*arguments.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for count in arguments.labels:
            catalog = make_lake(Path(folder), count)
            variants = ["flow", "check"] + (["rows"] if count <= arguments.rows_up_to else [])
            found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
            for _ in range(arguments.runs):
                for variant in variants:
                    command = [sys.executable, __file__, "--one", variant, catalog]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
                    found[variant].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{count:,} labels, {arguments.runs} runs; min / median / max")
            for variant, results in found.items():
                speed = [count / result["seconds"] for result in results]
                memory = spread([result["peak_mb"] for result in results], " MB")
                print(f"  {variant:6} {spread(speed, ' labels/s'):36} peak +{memory:28} kept {results[0]['kept']:,}")
            if "rows" in found:
                pairs = zip(found["rows"], found["flow"], strict=True)
                print(f"  rows : flow, seconds: {spread([a['seconds'] / b['seconds'] for a, b in pairs], ' ×')}")


if __name__ == "__main__":
    main()
