"""Tables of discovery: what a model found, the evidence for and against it, and the rounds of the flywheel."""

import pyarrow as pa

from store.columns import LONLAT, TIME, column, table_schema

DETECTIONS = table_schema(
    "detections",
    "Photovoltaic arrays a model found. One row is one object of one search; the same search gives the same rows.",
    [
        column("detection_id", pa.string(), "uuid5 of the search and the object's first pixel.", key=True),
        column("search_id", pa.string(), "Hash of imagery, model, grid and inference settings."),
        column("model_id", pa.string(), "Hash of the model's weights, class and options."),
        column("model", pa.string(), "Checkpoint or class path the search was told."),
        column("scene_ids", pa.list_(pa.string()), "VHR scenes under the object, most used first."),
        column("acquired_at", TIME, "Acquisition time of the first of them."),
        column("outline", pa.binary(), "WKB outline, regularised.", axes="lon, lat", crs=LONLAT),
        column("lon", pa.float64(), "Longitude of a point inside the outline.", unit="degree", crs=LONLAT),
        column("lat", pa.float64(), "Latitude of that point.", unit="degree", crs=LONLAT),
        column("epsg", pa.int32(), "EPSG code of the raster it was found on."),
        column("gsd_m", pa.float64(), "Ground sample distance of that raster.", unit="m"),
        column("area_m2", pa.float64(), "Area of the outline in an equal-area projection.", unit="m²"),
        column("pixels", pa.int64(), "Pixels above the threshold."),
        column("score", pa.float32(), "Mean probability of its pixels.", unit="0-1"),
        column("score_p90", pa.float32(), "90th percentile of their probability.", unit="0-1"),
        column("s2_cell", pa.uint64(), "S2 leaf cell (level 30) of lon, lat."),
        column("s2_l10", pa.uint64(), "S2 parent of s2_cell at level 10."),
        column("s2_l13", pa.uint64(), "S2 parent of s2_cell at level 13."),
        column("h3_cell", pa.uint64(), "H3 cell of lon, lat at the configured resolution."),
        column("match", pa.string(), "new, or confirmed where a known label matches."),
        column("label_id", pa.string(), "Label that matches; null for new ones.", null=True),
        column("match_iou", pa.float32(), "IoU with that label; null for new ones and points.", unit="0-1", null=True),
        column("match_distance_m", pa.float32(), "Distance of the centroids; null for new ones.", unit="m", null=True),
        column(
            "verdict",
            pa.string(),
            "accept, review, reject or unverifiable; null before validation.",
            null=True,
        ),
        column(
            "confidence",
            pa.float32(),
            "Probability that it is photovoltaics, by the validation's model; null before validation.",
            unit="0-1",
            null=True,
        ),
        column("reasons", pa.list_(pa.string()), "What the verdict rests on, in words a person reads.", null=True),
        column("validation_recipe", pa.string(), "Hash of code and settings that judged it.", null=True),
        column("validated_at", TIME, "When it was judged.", null=True),
        column("run_id", pa.string(), "Run that found it (table runs)."),
        column("created_at", TIME, "When the row was made."),
    ],
)

EVIDENCE = table_schema(
    "evidence",
    "What speaks for and against each detection. One row is one rule's finding on one detection.",
    [
        column("evidence_id", pa.string(), "uuid5 of detection and rule.", key=True),
        column("detection_id", pa.string(), "The detection (detections.detection_id)."),
        column("rule", pa.string(), "Rule, the name of its node in the flow `validate`."),
        column("verdict", pa.string(), "for, against, neutral, or abstain where the rule cannot say."),
        column("value", pa.float64(), "What was measured; null where nothing could be.", null=True),
        column("unit", pa.string(), "Unit of the value."),
        column("reason", pa.string(), "The finding in words a person reads."),
        column("details", pa.map_(pa.string(), pa.float64()), "Further figures behind the finding, by name."),
        column("scene_ids", pa.list_(pa.string()), "Scenes it rests on."),
        column("acquired_at", TIME, "Acquisition time of the first of them; null without any.", null=True),
        column("validation_recipe", pa.string(), "Hash of code and settings that made it."),
        column("run_id", pa.string(), "Run that made it (table runs)."),
        column("created_at", TIME, "When the row was made."),
    ],
)

ROUNDS = table_schema(
    "rounds",
    "The flywheel's ledger. One row is one round of one flywheel.",
    [
        column("round_id", pa.string(), "uuid5 of flywheel and number.", key=True),
        column("flywheel_id", pa.string(), "Hash of the flywheel's settings."),
        column("round", pa.int32(), "Number of the round; 0 is the model before any discovery."),
        column("status", pa.string(), "running, done, or refused where the gate kept the generation back."),
        column("stages", pa.map_(pa.string(), pa.string()), "Stage → run id or other receipt; finished stages only."),
        column("model", pa.string(), "Checkpoint the round searched with."),
        column("table_version", pa.int64(), "Version of training_data that model was trained on."),
        column("generation", pa.int32(), "Generation of masks the round made; null before.", null=True),
        column("promoted", pa.bool_(), "Whether that generation was promoted; null before the gate.", null=True),
        column("tag", pa.string(), "Tag of training_data after the promotion; null without one.", null=True),
        column("counts", pa.map_(pa.string(), pa.float64()), "Counted things, by name: rows, masks replaced, km² …"),
        column("metrics", pa.map_(pa.string(), pa.float64()), "Measures on frozen test ground, by name."),
        column("seconds", pa.map_(pa.string(), pa.float64()), "Stage → time it took.", unit="s"),
        column("bytes", pa.map_(pa.string(), pa.int64()), "Stage → bytes written.", unit="byte"),
        column("started_at", TIME, "Start of the round."),
        column("updated_at", TIME, "Last change of the row."),
    ],
)
