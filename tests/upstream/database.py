"""A database on PostgreSQL, as SQLAlchemy's tests expect it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import NullPool
from sqlalchemy import create_engine
from sqlalchemy.engine import URL
from sqlalchemy.engine import make_url


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """Make a database for a run, and drop it afterwards.

    :param server: the address of one where this may be done.
    :return: the new database's address.
    """

    name = f"reaperpool_orm_{secrets.token_hex(8)}"
    # a connection that a pool has lost would block DROP TABLE for ever
    options = {"options": "-c lock_timeout=20s"}
    new = make_url(server).set(database=name).update_query_dict(options)
    _run(make_url(server), f"CREATE DATABASE {name}")
    try:
        _run(new, "CREATE SCHEMA test_schema", "CREATE SCHEMA test_schema_2")
        yield new.render_as_string(hide_password=False)
    finally:
        _run(make_url(server), f"DROP DATABASE {name} WITH (FORCE)")


def _run(url: URL, *statements: str) -> None:
    engine = create_engine(
        url, poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
