"""What all tests share: real servers, started when the first test asks."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from typing import NoReturn

import pytest
from servers import MariaDB
from servers import PostgreSQL
from servers import ServerError
from sqlalchemy.engine import make_url


def _stay_up(signum: int, frame: object) -> None:
    pass


# Programs that the tests start would inherit that this is ignored, as it is
# under nohup, but not that there is a handler.
if hasattr(signal, "SIGHUP"):
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _stay_up)


# Threads of these tests connect while others fork, see benchmarks/forks.py.
os.environ.setdefault("PGGSSENCMODE", "disable")


class GivenServer:
    """A server of the user's: known by its address, never stopped."""

    def __init__(self, address: str, backend: str, driver: str) -> None:
        self._url = make_url(address)
        self._backend = backend
        self._driver = driver

    def url(self, driver: str | None = None) -> str:
        name = f"{self._backend}+{driver or self._driver}"
        url = self._url.set(drivername=name)
        return url.render_as_string(hide_password=False)

    @property
    def dsn(self) -> str:
        """What libpq takes."""

        url = self._url.set(drivername="postgresql")
        return url.render_as_string(hide_password=False)


def missing(reason: str, tool: str = "") -> NoReturn:
    """Skip for want of something that a user may lack, and CI may not.

    :param tool: CI may go without this one after all, where
     ``REAPERPOOL_TEST_WITHOUT`` names it: it cannot install it.
    """

    excused = os.environ.get("REAPERPOOL_TEST_WITHOUT", "").split()
    if os.environ.get("CI") == "true" and tool not in excused:
        pytest.fail(f"required where CI=true: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(autouse=True, scope="module")
def _nothing_to_collect_but_its_own() -> None:
    """Many tests collect garbage, some of them in thousands of children: not
    to look each time through all that was imported and is left."""

    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgreSQL | GivenServer]:
    """PostgreSQL: the user's, the machine's or the wheel's, in that order.

    Shared by all tests of a run, so none may stop it; see ``own_postgres``.
    """

    address = os.environ.get("REAPERPOOL_TEST_URL")
    if address:
        yield GivenServer(address, "postgresql", "psycopg2")
        return
    try:
        server = PostgreSQL()
    except ServerError as error:
        missing(f"no PostgreSQL for the tests: {error}")
    with server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgreSQL | GivenServer) -> str:
    """The address of PostgreSQL, for psycopg2."""

    return postgres_server.url("psycopg2")


@pytest.fixture
def own_postgres() -> Iterator[PostgreSQL]:
    """A PostgreSQL of this test alone, to stop, kill and start again."""

    try:
        server = PostgreSQL()
    except ServerError as error:
        missing(f"no PostgreSQL for the tests: {error}")
    with server:
        yield server


@pytest.fixture(scope="session")
def chromium() -> str:
    """The program, for what has to be seen in a browser."""

    for name in ("chromium", "chromium-browser"):
        program = shutil.which(name)
        if program is not None:
            return program
    missing("no Chromium to look at pages with", "chromium")


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDB | GivenServer]:
    """MariaDB: the user's or the machine's."""

    address = os.environ.get("REAPERPOOL_TEST_MYSQL_URL")
    if address:
        yield GivenServer(address, "mysql", "pymysql")
        return
    try:
        server = MariaDB()
    except ServerError as error:
        missing(f"no MariaDB for the tests: {error}", "mariadb")
    with server:
        yield server


@pytest.fixture(scope="session")
def mariadb_url(mariadb_server: MariaDB | GivenServer) -> str:
    """The address of MariaDB, for PyMySQL."""

    return mariadb_server.url("pymysql")
