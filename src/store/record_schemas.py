"""Tables that say where rows come from and what stands around them: scenes, runs, errors, splits, datasets, context."""

import pyarrow as pa

from store.columns import LONLAT, TIME, column, table_schema

SCENES = table_schema(
    "scenes",
    "Catalogue of imagery: what can be read, where and when.",
    [
        column("scene_key", pa.string(), "Hash of kind, id and checksum: other files, another row.", key=True),
        column("scene_id", pa.string(), "Id of the scene, unique within its source and kind."),
        column("source", pa.string(), "Imagery source (registry name)."),
        column("kind", pa.string(), "vhr or msi."),
        column("sensor", pa.string(), "Platform or camera."),
        column("acquired_at", TIME, "Acquisition time."),
        column("epsg", pa.int32(), "EPSG code of the raster."),
        column("gsd_m", pa.float64(), "Ground sample distance of the finest band.", unit="m"),
        column("bands", pa.list_(pa.string()), "Band names in file order."),
        column("assets", pa.string(), "JSON: band → {href, band number, nodata, scale, offset, resampling, stretch}."),
        column("nodata", pa.float64(), "Nodata value; null when the raster declares none.", null=True),
        column("cloud_fraction", pa.float32(), "Cloud cover stated by the producer.", unit="fraction 0-1", null=True),
        column("footprint", pa.binary(), "WKB outline.", axes="lon, lat", crs=LONLAT),
        column(
            "checksum",
            pa.string(),
            "Fingerprint of the scene's files (size, first and last 64 KiB) and of how they are read.",
        ),
    ],
)

RUNS = table_schema(
    "runs",
    "What ran: settings, code, inputs and outcome of each run.",
    [
        column("run_id", pa.string(), "Id of the run.", key=True),
        column("flow", pa.string(), "Flow that ran."),
        column(
            "status",
            pa.string(),
            "running, done, failed (rows in errors), interrupted, overtaken (another run took over, this one planned "
            "anew), or killed (said by a later run).",
        ),
        column("started_at", TIME, "Start."),
        column("finished_at", TIME, "End; null while running or after a kill.", null=True),
        column("build_config", pa.string(), "Hash of the settings."),
        column("config", pa.string(), "JSON: the settings."),
        column("recipes", pa.string(), "JSON: stage → recipe hash."),
        column(
            "code",
            pa.string(),
            "JSON: stage → {module → {definition → hash of its code}}; `*` is all of a module, "
            "`<module>` what runs on import. Runs before that: stage → {module → hash}.",
        ),
        column(
            "inputs",
            pa.string(),
            "JSON: catalogue, snapshot, label tables and files, datasets (name → key), scenes (kind → scene id → "
            "checksum), tables (table → version the run found), weights (name → SHA-256 of the mask backend's files; "
            "null without any), schema_version.",
        ),
        column("packages", pa.string(), "JSON: package → version, `python` among them."),
        column("counts", pa.string(), "JSON: the run's summary; null while running.", null=True),
    ],
)

ERRORS = table_schema(
    "errors",
    "What failed, where and why. One row per failing thing and run settings.",
    [
        column("error_id", pa.string(), "uuid5 of settings, thing and error.", key=True),
        column("run_id", pa.string(), "Latest run that met it."),
        column("build_config", pa.string(), "Hash of the settings of that run."),
        column(
            "partition", pa.uint64(), "S2 cell of the unit of work; null when it failed before partitioning.", null=True
        ),
        column("uuid", pa.string(), "Chip; null when no single chip failed.", null=True),
        column("input_set", pa.string(), "Inputs of that chip (training_data.input_set).", null=True),
        column("node", pa.string(), "Node that failed."),
        column("error_type", pa.string(), "Exception class."),
        column("message", pa.string(), "Exception text."),
        column("traceback_hash", pa.string(), "Hash of the traceback's frames: equal for equal causes."),
        column("input_ids", pa.list_(pa.string()), "Ids of what went in: labels, scenes, prompts."),
        column("attempt", pa.int32(), "How many runs have met it."),
        column("occurred_at", TIME, "Last time it was met."),
    ],
)

LEASES = table_schema(
    "leases",
    "Who works on what right now. A lease shares work between runs; nothing rests on it.",
    [
        column("lease_id", pa.string(), "Flow and partition; or run/ and a run id.", key=True),
        column("run_id", pa.string(), "Run that holds it."),
        column("host", pa.string(), "Where the run is: host, and on Linux the boot and the PID namespace."),
        column("pid", pa.int64(), "Process id of the run there."),
        column("epoch", pa.int64(), "How often it was taken over from another run."),
        column("expires_at", TIME, "When others may take it, unless it is renewed."),
    ],
)

SPLITS = table_schema(
    "splits",
    "Split rules. A chip's split is a function of its split_cell and one of these rows.",
    [
        column("split_rule", pa.string(), "Hash of the rule.", key=True),
        column("level", pa.int32(), "S2 level of split_cell."),
        column("salt", pa.int64(), "Salt of the cell hash, chosen once for balance."),
        column("fractions", pa.map_(pa.string(), pa.float64()), "Wanted share of cells per split."),
        column("guard_m", pa.float64(), "Train footprints nearer than this to val or test are guard.", unit="m"),
        column("cells", pa.map_(pa.string(), pa.int32()), "Split cells per split when the salt was chosen."),
        column("created_at", TIME, "When the rule was chosen."),
    ],
)

DATASETS = table_schema(
    "datasets",
    "Where label datasets come from. One row per dataset and content of its manifest.",
    [
        column("dataset_key", pa.string(), "Hash of the dataset's name and manifest.", key=True),
        column("dataset", pa.string(), "Dataset (prompts.dataset)."),
        column("doi", pa.string(), "DOI, without the resolver; null when not known.", null=True),
        column("title", pa.string(), "Title; null when not known.", null=True),
        column("licence", pa.string(), "Licence; null when not known.", null=True),
        column("citation", pa.string(), "How to cite it; null when not known.", null=True),
        column("url", pa.string(), "Where it lives; null when not known.", null=True),
        column("version", pa.string(), "Version or release; null when not known.", null=True),
        column("retrieved", pa.date32(), "Day it was fetched; null when not known.", null=True),
        column("extra", pa.string(), "JSON: what else the manifest says; null without any.", null=True),
        column("origin", pa.string(), "Where the manifest was read: settings, file or table; or unknown."),
        column("run_id", pa.string(), "Latest run that used it (table runs)."),
        column("recorded_at", TIME, "When that run recorded it."),
    ],
)

CONTEXT = table_schema(
    "context",
    "What the lake's context tables (buildings, land cover …) are to each chip or detection. "
    "One row is one chip or detection and one context table.",
    [
        column("context_id", pa.string(), "uuid5 of target table, target and name.", key=True),
        column("target_table", pa.string(), "Table of the chip or detection: training_data, detections."),
        column("target_id", pa.string(), "Id of the chip or detection (training_data.uuid)."),
        column("name", pa.string(), "Name the settings give the context table: buildings, land_cover."),
        column("kind", pa.string(), "features or classes."),
        column("search_m", pa.float64(), "Features farther away were not looked at.", unit="m"),
        column(
            "distance_m",
            pa.float64(),
            "Distance to the nearest feature, 0 where one touches; null where none lies within search_m.",
            unit="m",
            null=True,
        ),
        column("count", pa.int32(), "Features that touch the target."),
        column(
            "area_fraction",
            pa.float64(),
            "Share of the target's area that features cover, overlaps once; null for targets without area.",
            unit="fraction 0-1",
            null=True,
        ),
        column(
            "class_name",
            pa.string(),
            "Class that covers most of the target; for targets without area the class at the centre.",
            null=True,
        ),
        column("class_fraction", pa.float64(), "Share that class_name covers.", unit="fraction 0-1", null=True),
        column("class_at_centre", pa.string(), "Class of the feature at the target's centre.", null=True),
        column(
            "class_fractions",
            pa.map_(pa.string(), pa.float64()),
            "Share that each class covers; null for kind features.",
            unit="fraction 0-1",
            null=True,
        ),
        column("nearest_id", pa.string(), "Id in the lake of the nearest feature.", null=True),
        column("attributes", pa.string(), "JSON: carried columns of the nearest feature; null without one.", null=True),
        column("lake_catalog", pa.string(), "DuckLake catalogue that was read."),
        column("lake_table", pa.string(), "Table in the catalogue."),
        column("lake_snapshot", pa.int64(), "Newest snapshot that had changed that table when it was read."),
        column("partition", pa.uint64(), "S2 cell of the unit of work that wrote the row."),
        column("context_config", pa.string(), "Hash of settings and data; rows are skipped when it matches."),
        column("context_recipe", pa.string(), "Hash of code and settings that made the row."),
        column("run_id", pa.string(), "Run that wrote the row (table runs)."),
        column("created_at", TIME, "When the row was made."),
    ],
)
