"""Names and text as SQL: DuckDB reads back what was written."""

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.sql import literal, literals, quoted, quoted_column

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("pv", '"pv"'), ("main.pv", '"main"."pv"'), ('a"b', '"a""b"'), ("x; DROP TABLE y", '"x; DROP TABLE y"')],
)
def test_quoted(name, wanted):
    assert quoted(name) == wanted


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as made:
        yield made


@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_text_comes_back(connection, texts):
    assert connection.execute(f"SELECT {literals(texts)}").fetchone() == tuple(texts)
    assert connection.execute(f"SELECT {literal(texts[0])}").fetchone() == (texts[0],)


@given(name=TEXT.filter(bool))
def test_a_column_keeps_its_name(connection, name):
    assert connection.sql(f"SELECT 1 AS {quoted_column(name)}").columns == [name]
