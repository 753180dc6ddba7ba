"""The demo's database: its tables, its engines and its server processes."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path
from typing import Any
from typing import TypeVar

from sqlalchemy import URL
from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import func
from sqlalchemy import insert
from sqlalchemy import select
from sqlalchemy import text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import NoSuchModuleError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import Session
from sqlalchemy.orm import mapped_column
from sqlalchemy.pool import NullPool
from sqlalchemy.pool import QueuePool

from . import redact
from .demo_url import Unusable
from .demo_url import parsed

ACCOUNTS = 20
OPENING_BALANCE = 1000

# Marks what belongs to this process, in the names of its tables and of its
# connections.
_TOKEN = secrets.token_hex(4)

# What a statement may wait for a lock that a dead thread holds, and what
# dropping the tables may wait: the databases' own defaults are up to for
# ever.
_LOCK_LIMITS = {
    "postgresql": ["SET lock_timeout TO '2s'"],
    "mysql": [
        "SET SESSION innodb_lock_wait_timeout = 2",
        "SET SESSION lock_wait_timeout = 5",
    ],
    "sqlite": ["PRAGMA busy_timeout = 2000"],
}

# Drivers that have this parameter.
_CONNECT_TIMEOUT = {"psycopg2", "psycopg", "pymysql", "mysqldb"}


_D = TypeVar("_D", bound="Database")


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = f"reaperpool_demo_{_TOKEN}_account"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int]


class Transfer(Base):
    """One line of the journal."""

    __tablename__ = f"reaperpool_demo_{_TOKEN}_journal"

    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[int]
    target: Mapped[int]
    amount: Mapped[int]


class Database:
    """The database that the demo runs on.

    Use :meth:`opened`.

    """

    def __init__(self, url: URL, name: str | None = None) -> None:
        self._secrets = redact.secrets(url)
        shown = redact.address(url)
        self.name = name or shown
        self.backend = url.get_backend_name()
        if self.backend == "mariadb":
            self.backend = "mysql"
        with self._explained(f"cannot use {shown}"):
            if url.get_dialect().is_async:
                raise Unusable(
                    f"{url.drivername} is for asyncio: name a driver for "
                    "threads"
                )
            # An address where nobody answers keeps a driver for minutes.
            if url.get_driver_name() in _CONNECT_TIMEOUT:
                if "connect_timeout" not in url.query:
                    url = url.update_query_dict({"connect_timeout": "5"})
            self._url = url
            self._own = self._engine(url, "own", poolclass=NullPool)

    @classmethod
    @contextmanager
    def opened(cls: type[_D], given: str | None) -> Iterator[_D]:
        """Open the database of this URL, or a temporary one.

        :raises Unusable: it cannot be reached.

        """
        if given is not None:
            database = cls(parsed(given))
            _interruptibly(database._try)
            yield database
            return
        with tempfile.TemporaryDirectory(prefix="reaperpool-demo-") as folder:
            path = str(Path(folder, "demo.db"))
            url = URL.create("sqlite", database=path)
            database = cls(url, f"{path} (SQLite, temporary)")
            database._try()
            # readers and the one writer do not block each other
            database._execute("PRAGMA journal_mode = WAL")
            yield database

    def _try(self) -> None:
        with self._explained(f"cannot reach {self.name}"):
            self._own.connect().close()

    def _execute(self, statement: str) -> None:
        with self._own.connect() as connection:
            connection.exec_driver_sql(statement)

    def shown(self, words: str) -> str:
        """Words of the database's, without a password."""

        return redact.named(redact.without(words, self._secrets))

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Make any error one line for the user, without a password."""

        try:
            yield
        except Unusable:
            raise
        except (ImportError, NoSuchModuleError) as err:
            raise Unusable(f"{what}: {err} (is it installed?)") from err
        except Exception as err:
            cause = getattr(err, "orig", None) or err
            words = str(cause).strip() or type(cause).__name__
            words = " ".join(words.split())
            words = self.shown(words)
            raise Unusable(f"{what}: {words}") from err

    # engines

    def _engine(self, url: URL, name: str, **options: Any) -> Engine:
        engine = create_engine(url, **options)
        statements = self._settings(name)

        @event.listens_for(engine, "connect")
        def prepare(connection: DBAPIConnection, record: object) -> None:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            cursor.close()
            connection.commit()

        return engine

    def _settings(self, name: str) -> list[str]:
        """What each connection of this engine does first."""

        statements = list(_LOCK_LIMITS.get(self.backend, ()))
        if self.backend == "postgresql":
            statements.append(
                f"SET application_name TO '{_application_name(name)}'"
            )
        return statements

    def queue_pool(self, connections: int, timeout: float) -> Engine:
        return self._engine(
            self._url,
            "QueuePool",
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=timeout,
        )

    def reaper_pool(self, options: dict[str, str]) -> Engine:
        """Make an engine as a user would: by its URL alone."""

        url = self._url.update_query_pairs(
            [("plugin", "reaperpool")], append=True
        )
        with self._explained("cannot use ReaperPool by its name"):
            return self._engine(url.update_query_dict(options), "ReaperPool")

    # tables

    def create_tables(self) -> None:
        with self._explained(f"cannot make tables in {self.name}"):
            Base.metadata.create_all(self._own)
            with self._own.begin() as connection:
                connection.execute(
                    insert(Account),
                    [
                        {"id": number, "balance": OPENING_BALANCE}
                        for number in range(1, ACCOUNTS + 1)
                    ],
                )

    def drop_tables(self) -> None:
        by_hand = (
            f"drop these tables by hand: {', '.join(Base.metadata.tables)}"
        )
        try:
            with self._explained(by_hand):
                Base.metadata.drop_all(self._own)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(by_hand) from None

    @contextmanager
    def tables(self) -> Iterator[None]:
        """Make them, and drop them again."""

        try:
            self.create_tables()
        except BaseException:
            # some of it may be there; and why is what there is to say
            with suppress(Unusable):
                self.drop_tables()
            raise
        try:
            yield
        finally:
            self.drop_tables()

    def audit(self, transfers: int) -> list[str]:
        """Say what is wrong with the ledger; nothing if it balances.

        :param transfers: how many were committed, as the threads were told.

        """
        with (
            self._explained("the ledger cannot be read"),
            Session(self._own) as session,
        ):
            found = {
                number: balance
                for number, balance in session.execute(
                    select(Account.id, Account.balance)
                )
            }
            journal = session.execute(
                select(
                    Transfer.source,
                    Transfer.target,
                    func.sum(Transfer.amount),
                    func.count(),
                ).group_by(Transfer.source, Transfer.target)
            ).all()

        wrong = []
        total = ACCOUNTS * OPENING_BALANCE
        if sum(found.values()) != total:
            wrong.append(f"{sum(found.values())} in all, which was {total}")
        # More lines than that are possible: a connection may break after
        # the server committed, and before it could say so.
        lines = sum(count for *_, count in journal)
        if lines < transfers:
            wrong.append(f"{transfers} transfers, {lines} in the journal")

        expected = dict.fromkeys(range(1, ACCOUNTS + 1), OPENING_BALANCE)
        for source, target, amount, _ in journal:
            # int(): MySQL adds up to a Decimal
            expected[source] -= int(amount)
            expected[target] += int(amount)
        wrong.extend(
            f"account {number} has {found.get(number, 'gone')}, "
            f"by the journal {balance}"
            for number, balance in expected.items()
            if found.get(number) != balance
        )
        return wrong

    # server processes

    def end_backends(self, pool: str) -> int:
        """Have the server end all connections of the pool of that name.

        It takes a moment after it said that it will, and is given it: who
        borrows one meanwhile cannot know.

        """
        ours = "FROM pg_stat_activity WHERE application_name = :name"
        name = {"name": _application_name(pool)}
        with (
            self._explained("backends cannot be terminated"),
            self._own.connect() as connection,
        ):
            connection.execution_options(isolation_level="AUTOCOMMIT")
            ended = connection.execute(
                text(f"SELECT pg_terminate_backend(pid) {ours}"), name
            ).all()
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:
                if not connection.scalar(
                    text(f"SELECT count(*) {ours}"), name
                ):
                    break
                time.sleep(0.02)
        # the process closes its sockets last
        time.sleep(0.1)
        return len(ended)


def _application_name(name: str) -> str:
    return f"reaperpool-demo-{_TOKEN}-{name}"


def _interruptibly(work: Callable[[], None]) -> None:
    """Do it in a thread: Ctrl-C is not heard in the midst of a C function.

    After that the thread is left to itself, and ends with the process.

    """
    errors: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as err:
            errors.append(err)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    while thread.is_alive():
        # Windows does not interrupt one that has no limit
        thread.join(0.1)
    if errors:
        raise errors.pop()
