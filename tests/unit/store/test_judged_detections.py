"""Which search is the newest."""

from datetime import UTC, datetime, timedelta

import shapely

from store import lance_io
from store.judged_detections import newest_search
from store.lineage import Run
from support.detection_rows import detection_rows


def found(place, search_id, made):
    outline = shapely.box(7.0, 47.0, 7.0001, 47.0001)
    rows = detection_rows([outline], acquired_at=made, search_id=search_id, created_at=[made])
    lance_io.write(place, "detections", rows.set_column(0, rows.schema.field(0), [[search_id]]))


def searched(place, search_id, status):
    run = Run(flow="discover", build_config=search_id, config={}, recipes={}, code={}, inputs={"search_id": search_id})
    run.record(place, status, {})


def test_the_newest_search_is_the_last_that_ended_even_where_it_found_nothing(tmp_path):
    assert newest_search(tmp_path) is None
    before = datetime.now(UTC) - timedelta(days=1)
    found(tmp_path, "older", before - timedelta(days=1))
    found(tmp_path, "old", before)
    assert newest_search(tmp_path) == "old"
    searched(tmp_path, "killed", "running")
    assert newest_search(tmp_path) == "old"
    searched(tmp_path, "empty", "done")
    assert newest_search(tmp_path) == "empty"
    searched(tmp_path, "older", "done")
    assert newest_search(tmp_path) == "older"
