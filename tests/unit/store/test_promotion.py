"""Promotion on a table of plain chips: one commit of columns, tags around it, races and refusals."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from store import lance_io, promotion, tags
from store.column_rewrites import files_of, gained, rewrite_columns
from support.candidate_rows import candidates, rows_of
from support.training_tables import Chips, write_store
from utils.errors import PromotionError, SchemaError, TagError


@pytest.fixture
def store(tmp_path):
    """Chips of three splits, with candidates of generation 3 for the train chips."""
    place = write_store(tmp_path, Chips(splits={"train": 12, "val": 4, "test": 4}))
    candidates(place, 3)
    return place


def test_all_chips_of_the_generation_and_no_others(store):
    before = {row["uuid"]: row for row in rows_of(store)}
    receipt = promotion.promote(store, 3, "round")
    assert (receipt.rows, receipt.chips, receipt.tag_before) == (12, 12, "before-round")
    for row in rows_of(store):
        if row["split"] == "train":
            assert (row["generation"], row["mask_recipe"], row["weight"]) == (3, "recipe-3", 2.0)
        else:
            assert row == before[row["uuid"]]
    assert rows_of(store, version="before-round") == sorted(before.values(), key=lambda row: row["uuid"])
    assert rows_of(store, version="round") == rows_of(store)


def test_bytes_are_those_of_new_files(store):
    before = files_of(lance_io.open_table(store, "training_data"))
    receipt = promotion.promote(store, 3, "round")
    after = files_of(lance_io.open_table(store, "training_data"))
    # the second tag is written after the look
    assert 0 < receipt.bytes_written <= gained(before, after)
    pixels = [path for path in after.keys() - before.keys() if after[path] > 64 * 64 * 3 * 12]
    assert not pixels


def test_two_promotions_at_once_end_as_one(store):
    with ThreadPoolExecutor(4) as pool:
        receipts = list(pool.map(lambda _: promotion.promote(store, 3, "round"), range(4)))
    assert sorted(receipt.rows for receipt in receipts) == [0, 0, 0, 12]
    known = {found.tag: found.version for found in tags.list_tags(store, "training_data")}
    assert {row["generation"] for row in rows_of(store, version=known["before-round"])} == {0}
    assert {row["generation"] for row in rows_of(store, version=known["round"])} == {0, 3}


def test_beside_a_writer_of_other_columns_nothing_is_lost(store):
    uuids = [row["uuid"] for row in rows_of(store)]

    def mark(uuid):
        return lance_io.mark(store, "training_data", [uuid], {"h3_cell": "CAST(9 AS BIGINT UNSIGNED)"})

    with ThreadPoolExecutor(3) as pool:
        promoted = pool.submit(promotion.promote, store, 3, "round")
        list(pool.map(mark, uuids[:6]))
        promoted.result()
    rows = {row["uuid"]: row for row in rows_of(store)}
    assert sum(row["generation"] == 3 for row in rows.values()) == 12
    assert all(rows[uuid]["h3_cell"] == 9 for uuid in uuids[:6])
    assert len(rows) == 20


@pytest.mark.parametrize("killed_at", ["tag before", "rewrite", "indexes"])
def test_a_killed_promotion_is_finished_by_the_next(store, monkeypatch, killed_at):
    class KilledError(BaseException):
        pass

    def kill(*_, **__):
        raise KilledError

    place = {"tag before": "rewrite_columns", "rewrite": "_pin", "indexes": "lance_io.refresh_indexes"}[killed_at]
    calls = []
    with monkeypatch.context() as patch:
        if killed_at == "rewrite":
            pin = promotion._pin

            def second_call(*arguments):
                calls.append(arguments)
                return pin(*arguments) if len(calls) == 1 else kill()

            patch.setattr(promotion, "_pin", second_call)
        else:
            patch.setattr(f"store.promotion.{place}", kill)
        with pytest.raises(KilledError):
            promotion.promote(store, 3, "round")
    lance_io.mark(store, "training_data", [rows_of(store)[0]["uuid"]], {"h3_cell": "CAST(9 AS BIGINT UNSIGNED)"})
    receipt = promotion.promote(store, 3, "round")
    assert receipt.rows == (12 if killed_at == "tag before" else 0)
    assert {row["generation"] for row in rows_of(store, version="before-round")} == {0}
    assert {row["generation"] for row in rows_of(store, version="round")} == {0, 3}
    promotion.rollback(store, "round")
    assert {row["generation"] for row in rows_of(store)} == {0}


def test_generations_build_on_one_another(store):
    candidates(store, 4)
    promotion.promote(store, 3, "three")
    with pytest.raises(PromotionError, match="masks of another generation"):
        promotion.promote(store, 4, "four")
    candidates(store, 5, base_generation=3)
    assert promotion.promote(store, 5, "five").rows == 12
    assert promotion.rollback(store, "five").rows == 12
    assert {row["generation"] for row in rows_of(store)} == {0, 3}
    # the first promotion can be taken back as well, by columns: versions lie between
    assert promotion.rollback(store, "three").rows == 12
    assert {row["generation"] for row in rows_of(store)} == {0}


def test_names_and_numbers_that_are_not_there(store):
    with pytest.raises(PromotionError, match="backfills made: 3"):
        promotion.promote(store, 8, "eight")
    with pytest.raises(TagError):
        promotion.promote(store, 3, "7")
    tags.create_tag(store, "training_data", "taken")
    with pytest.raises(TagError, match="stands for something else"):
        promotion.promote(store, 3, "taken")
    with pytest.raises(PromotionError, match="no tags 'before-round' and 'round'"):
        promotion.rollback(store, "round")
    assert {row["generation"] for row in rows_of(store)} == {0}


def test_a_candidate_table_follows_the_table_it_stands_beside(store):
    name = promotion.candidate_table(store, 3)
    first = lance_io.open_table(store, name).version
    assert promotion.candidate_table(store, 3) == name
    assert lance_io.open_table(store, name).version == first
    lance_io.mark(store, "training_data", [rows_of(store)[0]["uuid"]], {"h3_cell": "CAST(9 AS BIGINT UNSIGNED)"})
    promotion.candidate_table(store, 3)
    assert {row["h3_cell"] for row in rows_of(store, name)} == {1, 9}
    assert sum(row["generation"] == 3 for row in rows_of(store, name)) == 12
    assert {row["generation"] for row in rows_of(store)} == {0}
    promotion.drop_candidate_table(store, 3)
    assert lance_io.open_table(store, "training_data").to_table(columns=["vhr_image_chip"]).num_rows == 20


def test_a_generation_whose_chips_are_gone_leaves_no_table_and_no_tag(store):
    lance_io.delete(store, "training_data", [row["uuid"] for row in rows_of(store) if row["split"] == "train"][:3])
    for attempt in (lambda: promotion.candidate_table(store, 3), lambda: promotion.promote(store, 3, "round")):
        with pytest.raises(PromotionError, match="3 chips are not in the table any more"):
            attempt()
    assert promotion.candidate_name(3) not in lance_io.table_names(store)
    assert tags.list_tags(store, "training_data") == []


def test_a_rollback_takes_back_what_its_promotion_wrote_alone(store, monkeypatch):
    """Another promotion commits while the first one brings its indexes up to date."""
    refresh, others = lance_io.refresh_indexes, iter([4])
    rows = lance_io.scan(store, "candidates", ["candidate_id", "uuid"], "generation = 3").to_pylist()
    candidates(store, 4)
    for number, first in ((3, 0), (4, 6)):
        uuids = {row["uuid"] for row in sorted(rows, key=lambda row: row["uuid"])[first : first + 6]}
        gone = [f"{row['uuid']}|{number}" for row in rows if row["uuid"] not in uuids]
        lance_io.delete(store, "candidates", gone)

    def beside(uri, table):
        for number in others:
            promotion.promote(uri, number, "four")
        refresh(uri, table)

    monkeypatch.setattr(lance_io, "refresh_indexes", beside)
    assert promotion.promote(store, 3, "three").rows == 6
    assert {row["generation"] for row in rows_of(store)} == {0, 3, 4}
    assert promotion.rollback(store, "three").rows == 6
    assert {row["generation"] for row in rows_of(store)} == {0, 4}
    assert promotion.rollback(store, "three").rows == 0
    assert promotion.promote(store, 3, "three").rows == 6
    assert promotion.rollback(store, "three").rows == 6
    assert promotion.rollback(store, "four").rows == 6
    assert {row["generation"] for row in rows_of(store)} == {0}


def test_a_second_name_for_a_promotion_says_what_it_restores(store):
    first = promotion.promote(store, 3, "round")
    again = promotion.promote(store, 3, "again")
    assert (again.rows, again.chips) == (0, 12)
    assert again.version >= first.version
    assert promotion.rollback(store, "again").rows == 0


def test_columns_that_do_not_fit_are_refused(store):
    uuid = rows_of(store)[0]["uuid"]
    with pytest.raises(SchemaError, match="no column nothing"):
        rewrite_columns(store, "training_data", lambda _: pa.table({"uuid": [uuid], "nothing": [1]}))
    with pytest.raises(SchemaError, match="do not fit"):
        rewrite_columns(store, "training_data", lambda _: pa.table({"uuid": [uuid], "weight": ["heavy"]}))
    version = lance_io.open_table(store, "training_data").version
    done, seen = rewrite_columns(store, "training_data", lambda _: pa.table({"uuid": pa.array([], pa.string())}))
    assert (done.rows, done.version, seen) == (0, version, version)
