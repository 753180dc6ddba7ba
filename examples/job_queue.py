"""A job queue in the database, and an ORM: one connection, one transaction.

A shop writes its orders with sessions.  Its queue of jobs knows nothing of
those: it takes the connection that its thread has, from the pool, and
speaks SQL.  With ``reservation="thread"`` both have the same one, so that

* an order, and the job to confirm it, are committed together, or neither
  is;
* what a job does, and that it is done, are committed together as well.

Run it; nothing else has to be there::

    python examples/job_queue.py

It uses a temporary SQLite file or, if it is given an address, that database,
where it makes two tables and drops them at the end::

    python examples/job_queue.py postgresql+psycopg2://me@localhost/test

If something is not as promised it says so, and exits with 1.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import threading
import time
from contextlib import closing
from contextlib import contextmanager

from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import func
from sqlalchemy import make_url
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import Session
from sqlalchemy.orm import mapped_column

from sa_reaperpool import ReaperPool

ORDERS = "reaperpool_example_orders"
JOBS = "reaperpool_example_jobs"
PATIENCE = 60.0

log = logging.getLogger("job_queue")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = ORDERS

    id: Mapped[int] = mapped_column(primary_key=True)
    confirmations: Mapped[int] = mapped_column(default=0)


class Job(Base):
    """For the table to be made; the queue itself has no use for it."""

    __tablename__ = JOBS

    id: Mapped[int] = mapped_column(primary_key=True)
    subject: Mapped[int]
    attempts: Mapped[int]


# the queue: no ORM, just the pool and its DBAPI connections


class Queue:
    def __init__(self, pool, dialect):
        self.pool = pool
        self._mark = "?" if dialect.paramstyle == "qmark" else "%s"
        self._locks_rows = dialect.name != "sqlite"

    def _execute(self, cursor, statement, *values):
        cursor.execute(statement.replace("?", self._mark), values)
        if cursor.description:
            return (cursor.fetchall() or [None])[0]

    @contextmanager
    def _connection(self):
        """This thread's connection, whoever else uses it, and a cursor."""
        with self.pool.with_connection() as connection:
            with closing(connection.cursor()) as cursor:
                yield connection, cursor

    def enqueue(self, subject):
        """Commits with whatever transaction this thread is in, if any."""
        with self._connection() as (connection, cursor):
            self._execute(
                cursor,
                f"INSERT INTO {JOBS} (subject, attempts) VALUES (?, 0)",
                subject,
            )
            connection.commit()

    def waiting(self):
        with self._connection() as (_, cursor):
            return self._execute(cursor, f"SELECT count(*) FROM {JOBS}")[0]

    def take(self, cursor):
        """Take a job; it is nobody else's until the transaction's end.

        It is deleted already: a commit makes that final, and whatever else
        happens brings the job back.
        """
        if self._locks_rows:
            others = "FOR UPDATE SKIP LOCKED"
        else:
            # SQLite has one writer at a time, and that is to be this one
            others = ""
            self._execute(cursor, "BEGIN IMMEDIATE")
        job = self._execute(
            cursor,
            f"SELECT id, subject FROM {JOBS} ORDER BY attempts, id LIMIT 1 "
            + others,
        )
        if job is not None:
            self._execute(cursor, f"DELETE FROM {JOBS} WHERE id = ?", job[0])
        return job

    def work(self, perform):
        """Do a job.

        :param perform: is given the job's subject; what it commits counts
         once it returns, together with the end of the job.

        :return: False if there was none.

        """
        with self._connection() as (connection, cursor):
            job = self.take(cursor)
            if job is None:
                connection.rollback()
                return False
            number, subject = job
            try:
                perform(subject)
                connection.commit()
            except Exception as error:
                log.info("Job %s failed: %r", number, error)
                connection.rollback()
                self._execute(
                    cursor,
                    f"UPDATE {JOBS} SET attempts = attempts + 1 WHERE id = ?",
                    number,
                )
                connection.commit()
            return True


# the shop: sessions, as anywhere


class Declined(Exception):
    """The customer's card was."""


class Shop:
    def __init__(self, engine):
        self.engine = engine
        self.queue = Queue(engine.pool, engine.dialect)
        self.unreachable = set()
        self.failed = []

    def place_order(self, pay):
        with Session(self.engine) as session:
            order = Order()
            session.add(order)
            # From here on the order has an id, and the session a connection
            # and a transaction.  With add() alone it has none so far, and
            # the queue would begin, and commit, one of its own.
            session.flush()
            self.queue.enqueue(order.id)
            pay()
            session.commit()

    def confirm(self, number):
        """A job."""
        with Session(self.engine) as session:
            session.get_one(Order, number).confirmations += 1
            session.commit()
        self.send_mail(number)

    def send_mail(self, number):
        if number in self.unreachable:
            self.unreachable.discard(number)
            self.failed.append(number)
            raise ConnectionError("the mail server is down")

    def orders(self):
        """How many there are, and how many of those are confirmed once."""
        once = Order.confirmations == 1
        with Session(self.engine) as session:
            count = select(func.count()).select_from(Order)
            return session.scalar(count), session.scalar(count.where(once))


# what is shown


def promise(kept, what):
    if not kept:
        sys.exit(f"Not as promised: {what}")


def until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        promise(time.monotonic() < deadline, what)
        time.sleep(0.01)


def in_another_thread(function, *arguments):
    results = []
    thread = threading.Thread(
        target=lambda: results.append(function(*arguments)), name="another"
    )
    thread.start()
    thread.join()
    return results[0]


def commit(shop):
    seen = []

    def pay():
        seen.append(shop.engine.pool.checkedout())
        seen.append(in_another_thread(shop.queue.waiting))

    shop.place_order(pay)
    print(f"1. An order and its job, in {seen[0]} connection;", end=" ")
    print(f"before the commit others see {seen[1]} jobs")
    promise(seen == [1, 0], "the job is the transaction's")
    print_counts("   Committed, both", shop, 1)


def roll_back(shop):
    def pay():
        raise Declined

    try:
        shop.place_order(pay)
    except Declined:
        print_counts("2. Another is declined, and rolled back, both", shop, 1)


def print_counts(what, shop, expected):
    orders, _ = shop.orders()
    jobs = shop.queue.waiting()
    print(f"{what}; in the tables: orders {orders}, jobs {jobs}")
    promise(orders == jobs == expected, "both or neither")


def die(shop):
    """A worker that ends with a job in its hands, and gives nothing back."""
    pool = shop.engine.pool
    queue = shop.queue
    print("3. A worker takes the job, and dies with it")
    reaped = threading.Event()
    event.listen(pool, "reap", lambda lease, reason: reaped.set())
    taken = in_another_thread(lambda: queue.take(pool.connection().cursor()))
    promise(reaped.wait(PATIENCE), "the pool notices")
    with pool.with_connection() as connection:
        again = queue.take(connection.cursor())
        connection.rollback()
    print("   The job can be taken again" if again else "   The job is lost")
    promise(taken and again == taken, "the job is there again")


def be_busy(shop, customers=6, each=10, workers=3):
    closed = threading.Event()
    declined = []

    def customer(number):
        def decline():
            declined.append(number)
            raise Declined

        for turn in range(each):
            try:
                shop.place_order(decline if turn % 4 == 3 else int)
            except Declined:
                pass

    def worker():
        while not closed.is_set():
            if not shop.queue.work(shop.confirm):
                closed.wait(0.01)

    # mail to these fails at the first attempt, after the session's commit
    shop.unreachable.update(range(1, customers * each, 7))
    buying = [
        threading.Thread(target=customer, args=(number,))
        for number in range(customers)
    ]
    working = [
        threading.Thread(target=worker, name=f"worker {number}")
        for number in range(workers)
    ]
    try:
        for thread in buying + working:
            thread.start()
        for thread in buying:
            thread.join()
        until(lambda: shop.queue.waiting() == 0, "all jobs are done")
    finally:
        closed.set()
        for thread in working:
            thread.join()

    orders, once = shop.orders()
    print(f"4. {customers} customers, {workers} workers, all at a time:")
    print(f"   {orders} orders, {len(declined)} more declined;", end=" ")
    print(f"{len(shop.failed)} jobs failed once, after they had committed")
    print(f"   Orders confirmed exactly once: {once};", end=" ")
    print(f"connections still held: {shop.engine.pool.checkedout()}")
    placed = 1 + customers * each - len(declined)
    promise(orders == once == placed, "each order is confirmed once")
    promise(declined and shop.failed, "some failed")
    promise(shop.engine.pool.checkedout() == 0, "all is given back")


# where


def make_engine(url):
    url = make_url(url)
    sqlite = url.get_backend_name() == "sqlite"
    return create_engine(
        url,
        poolclass=ReaperPool,
        # this is what makes it one transaction
        reservation="thread",
        pool_size=4,
        max_overflow=0,
        logging_name="shop",
        # seconds that a writer waits for the one before
        connect_args={"timeout": PATIENCE} if sqlite else {},
    )


@contextmanager
def tables(engine):
    # an earlier run may have been killed
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    try:
        yield
    finally:
        Base.metadata.drop_all(engine)


@contextmanager
def database(arguments):
    """An engine for the address that was given, or for a temporary file."""
    if not arguments:
        with tempfile.TemporaryDirectory() as folder:
            engine = make_engine(f"sqlite:///{folder}/shop.db")
            yield engine
            engine.dispose()
        return
    try:
        (url,) = arguments
        engine = make_engine(url)
        if "@" in (engine.url.host or ""):
            raise ValueError("the password has one, which was to be %40")
    except Exception as error:
        # no more of it: the address may have a password
        sys.exit(f"Cannot use that as an address: {type(error).__name__}")
    if engine.url.database in (None, "", ":memory:"):
        sys.exit("Name a database; of SQLite a file, as in sqlite:///shop.db")
    try:
        engine.connect().close()
    except OperationalError as error:
        sys.exit(f"Cannot reach it: {error.orig}".rstrip())
    yield engine
    engine.dispose()


def main(arguments):
    # the pool's warnings, between the other lines
    logging.basicConfig(stream=sys.stdout, format="   the log: %(message)s")
    with database(arguments) as engine, tables(engine):
        shop = Shop(engine)
        commit(shop)
        roll_back(shop)
        die(shop)
        be_busy(shop)


if __name__ == "__main__":
    main(sys.argv[1:])
