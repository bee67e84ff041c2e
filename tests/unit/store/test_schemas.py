"""Schemas: documented, stable, and bound to their profile."""

from dataclasses import asdict, replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import schemas
from store.conformity import conform
from store.schemas import TABLES, primary_key, profile_of, schema_for
from support.store_rows import SMALL, rows_for
from utils.errors import SchemaError, UnknownNameError
from utils.indices import INDICES
from utils.types import ChipGrid, ChipProfile

COLUMNS = [(table, field) for table, schema in TABLES.items() for field in schema]
EVERY_COLUMN = pytest.mark.parametrize(("table", "field"), COLUMNS, ids=[f"{t}.{f.name}" for t, f in COLUMNS])
PROFILES = st.builds(
    ChipProfile,
    height=st.integers(1, 64),
    width=st.integers(1, 64),
    gsd_m=st.sampled_from([0.1, 0.25, 0.3, 0.5, 1 / 3]),
    msi_bands=st.lists(st.sampled_from(["B02", "B03", "B04", "B08", "B11"]), unique=True, max_size=5).map(tuple),
    msi_height=st.integers(1, 32),
    msi_width=st.integers(1, 32),
    msi_gsd_m=st.sampled_from([10.0, 20.0]),
)


def test_the_tables_of_the_design_are_there() -> None:
    assert {"training_data", "masks", "prompts", "scenes", "runs", "errors", "splits"} <= set(TABLES)
    assert TABLES["training_data"] is schemas.TRAINING_DATA
    for name, schema in TABLES.items():
        assert schema.metadata[b"table"].decode() == name
        assert schema.metadata[b"schema_version"].decode() == str(schemas.SCHEMA_VERSION)
        assert schema.metadata[b"doc"]
        assert schema_for(name).equals(schema, check_metadata=True)


@EVERY_COLUMN
def test_every_column_is_documented(table: str, field: pa.Field) -> None:
    assert field.metadata[b"doc"].decode().strip().endswith((".", "…")), table
    assert {key.decode() for key in field.metadata if not key.startswith(b"lance")} <= {"doc", "unit", "axes", "crs"}


@EVERY_COLUMN
def test_pixels_places_and_lengths_say_unit_axes_and_crs(table: str, field: pa.Field) -> None:
    is_tensor = isinstance(field.type, pa.FixedShapeTensorType)
    if is_tensor or pa.types.is_large_binary(field.type) or pa.types.is_binary(field.type):
        assert field.metadata[b"axes"], table
        crs = field.metadata[b"crs"].decode()
        # what waits to be copied is on the grid that the chip's own row tells
        assert crs == schemas.LONLAT or crs in TABLES["training_data" if table == "candidates" else table].names
    if is_tensor:
        assert field.metadata[b"axes"].decode().count(",") == len(field.type.shape) - 1
    if field.name.endswith("_m"):
        assert field.metadata[b"unit"].decode() == "m"


@EVERY_COLUMN
def test_tensors_and_keys_are_never_null(table: str, field: pa.Field) -> None:
    if isinstance(field.type, pa.FixedShapeTensorType) or field.name == primary_key(TABLES[table]):
        assert not field.nullable
    if pa.types.is_timestamp(field.type):
        assert field.type.tz == "UTC"


@pytest.mark.parametrize("table", list(TABLES))
def test_one_key_per_table_in_lances_own_words(table: str) -> None:
    marked = [f for f in TABLES[table] if (f.metadata or {}).get(b"lance-schema:unenforced-primary-key") == b"true"]
    assert [field.name for field in marked] == [primary_key(TABLES[table])]
    assert marked[0].metadata[b"lance-schema:unenforced-primary-key:position"] == b"1"
    assert marked[0].type == pa.string()


@given(PROFILES)
def test_profile_decides_the_shapes_and_is_written_down(profile: ChipProfile) -> None:
    for table in ("training_data", "masks"):
        assert profile_of(schema_for(table, profile)) == profile
    schema = schema_for("training_data", profile)
    assert schema.field("vhr_image_chip").type.shape == [3, profile.height, profile.width]
    assert ("msi_image_chip" in schema.names) == profile.has_msi
    if profile.has_msi:
        assert schema.field("msi_image_chip").type.shape == [
            len(profile.msi_bands),
            profile.msi_height,
            profile.msi_width,
        ]
        assert schema.field("msi_scl").type.shape == [profile.msi_height, profile.msi_width]
        for band in profile.msi_bands:
            assert band in schema.field("msi_image_chip").metadata[b"doc"].decode()
        assert {f"{index}_{place}" for index in INDICES for place in ("chip", "inside", "ring")} <= set(schema.names)


@given(PROFILES, st.sampled_from(list(TABLES)), st.integers(0, 4))
def test_valid_rows_pass_and_come_out_as_they_were(profile: ChipProfile, table: str, count: int) -> None:
    data = rows_for(table, count, profile=profile)
    schema = schema_for(table, profile)
    shuffled = data.select(sorted(data.column_names))
    assert conform(shuffled, schema).equals(data)
    assert conform(data, schema).schema.equals(schema, check_metadata=True)


@pytest.mark.parametrize("column", [f.name for f in schema_for("training_data", SMALL) if not f.nullable])
def test_nulls_are_refused_column_by_column(column: str) -> None:
    schema = schema_for("training_data", SMALL)
    data = rows_for("training_data", 2)
    field = schema.field(column)
    holes = data.set_column(schema.names.index(column), pa.field(column, field.type), pa.nulls(2, field.type))
    with pytest.raises(SchemaError, match=rf"training_data\.{column} holds 2 nulls"):
        conform(holes, schema)


def test_tables_without_a_profile_say_so() -> None:
    with pytest.raises(SchemaError, match="no profile"):
        profile_of(TABLES["runs"])
    with pytest.raises(SchemaError, match="no primary key"):
        primary_key(pa.schema([("a", pa.int32())]))


def test_unknown_tables_list_the_known() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown table 'chips'; known: candidates, context, datasets, detections, errors"
    ):
        schema_for("chips")


def test_profile_metadata_does_not_depend_on_dict_order() -> None:
    profile = replace(SMALL, gsd_m=0.25)
    first, second = (schema_for("masks", ChipProfile(**asdict(profile))) for _ in range(2))
    assert first.metadata[b"profile"] == second.metadata[b"profile"]


def test_default_chip_and_msi_pixel_sizes_are_those_of_the_design() -> None:
    profile = ChipProfile()
    grid = ChipGrid.around(
        500_000, 5_000_000, epsg=32632, gsd_m=profile.gsd_m, height=profile.height, width=profile.width
    )
    assert grid.footprint.area == pytest.approx(76.8**2)
    assert (profile.msi_height, profile.msi_width, profile.msi_gsd_m, len(profile.msi_bands)) == (64, 64, 10.0, 12)
