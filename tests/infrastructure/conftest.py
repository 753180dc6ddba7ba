"""What stands between programs and databases: PgBouncer, HAProxy."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import missing
from postgresql.conftest import Observer
from servers import HAProxy
from servers import PgBouncer
from servers import PostgreSQL
from servers import ServerError
from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import make_url

from sa_reaperpool import ReaperPool

Engines = Callable[..., Engine]

# to the server, in session and in transaction mode
SESSIONS = 12
BACKENDS = 2


@pytest.fixture(scope="package")
def pair() -> Iterator[tuple[PostgreSQL, PostgreSQL]]:
    """Two PostgreSQL servers with one password; tests may stop either."""

    password = secrets.token_hex(16)
    try:
        one = PostgreSQL(password=password)
    except ServerError as error:
        missing(f"no PostgreSQL to put something in front of: {error}")
    with one, PostgreSQL(password=password) as two:
        yield one, two


@pytest.fixture
def servers(
    pair: tuple[PostgreSQL, PostgreSQL],
) -> tuple[PostgreSQL, PostgreSQL]:
    """Both, running."""

    for server in pair:
        if not server.runs():
            server.start()
    return pair


@pytest.fixture(scope="package")
def one_pgbouncer(
    pair: tuple[PostgreSQL, PostgreSQL],
) -> Iterator[PgBouncer]:
    try:
        bouncer = PgBouncer(
            pair[0], {"session": SESSIONS, "transaction": BACKENDS}
        )
    except ServerError as error:
        missing(f"no PgBouncer for the tests: {error}", "pgbouncer")
    with bouncer:
        yield bouncer


@pytest.fixture
def pgbouncer(
    servers: tuple[PostgreSQL, PostgreSQL], one_pgbouncer: PgBouncer
) -> PgBouncer:
    """In front of the first of the two; tests may restart it."""

    return one_pgbouncer


@pytest.fixture(scope="package")
def one_haproxy(pair: tuple[PostgreSQL, PostgreSQL]) -> Iterator[HAProxy]:
    one, two = pair
    try:
        proxy = HAProxy({"one": one.port, "two": two.port})
    except ServerError as error:
        missing(f"no HAProxy for the tests: {error}", "haproxy")
    with proxy:
        yield proxy


@pytest.fixture
def haproxy(
    servers: tuple[PostgreSQL, PostgreSQL], one_haproxy: HAProxy
) -> HAProxy:
    """In front of both, and sending everybody to ``one``."""

    one_haproxy.enable("one")
    one_haproxy.disable("two")
    return one_haproxy


@pytest.fixture
def observer(servers: tuple[PostgreSQL, PostgreSQL]) -> Iterator[Observer]:
    """Of the first server, with nothing in between."""

    observer = Observer(servers[0].dsn)
    yield observer
    observer.close()


@pytest.fixture(params=["psycopg2", "psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engines() -> Iterator[Engines]:
    """Makes engines with a ReaperPool and a name of their own."""

    made = []

    def make(url: str, **options: Any) -> Engine:
        name = f"infrastructure-{uuid.uuid4().hex[:12]}"
        engine = create_engine(
            make_url(url).update_query_dict({"application_name": name}),
            **{
                "poolclass": ReaperPool,
                "max_overflow": 0,
                "pool_timeout": 20,
                "connect_args": connect_args(url),
                **options,
            },
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.dispose()


def connect_args(url: str) -> dict[str, Any]:
    """What the driver needs behind PgBouncer's transaction mode.

    There, the next statement may go to a backend that has never heard of
    what was prepared.
    """

    if make_url(url).get_driver_name() == "psycopg":
        return {"prepare_threshold": None}
    return {}
