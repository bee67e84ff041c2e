"""Databases of the PostgreSQL server that tests may use."""

from uuid import uuid4

import duckdb
from duckdb_extensions import import_extension


def new_database(server: str) -> str:
    """A new, empty database; its connection text."""
    name = f"lake_{uuid4().hex[:12]}"
    with duckdb.connect() as connection:
        import_extension("postgres_scanner", con=connection)
        connection.load_extension("postgres_scanner")
        connection.execute(f"ATTACH '{server}' AS pg (TYPE postgres)")
        connection.execute(f"CALL postgres_execute('pg', 'CREATE DATABASE {name}', use_transaction = false)")
    return server.replace("dbname=postgres", f"dbname={name}")
