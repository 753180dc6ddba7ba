"""Threads of a request that are still there when it ends, or come later."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
from functools import partial

import pytest
from asgi import Step
from asgi import Workers
from asgi import answer
from asgi import serve
from sqlalchemy import create_engine
from sqlalchemy import text
from stub import PATIENCE
from stub import Driver
from stub import execute
from stub import switching_often
from stub import until
from waiting import Worker

import sa_reaperpool
from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ProvisionalCommitLost
from sa_reaperpool import ReaperPool
from sa_reaperpool.request import REQUEST


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def pool(driver):
    return ReaperPool(
        driver.connect, 2, 0, timeout=PATIENCE, reaping_frequency=None
    )


@pytest.fixture
def worker():
    with Workers() as worker:
        yield worker


def insert(pool):
    handle = pool.connection()
    handle.cursor().execute("INSERT")
    return handle


# blocks that begin and end in different threads


def test_block_that_is_left_in_another_thread(pool):
    """As FastAPI does with a dependency that yields."""

    async def app(scope, receive, send):
        def dependency():
            with pool.with_connection() as handle:
                yield handle

        with Workers() as one, Workers() as other:
            generator = dependency()
            await one.run(next, generator)
            assert pool.stats().in_use == 1
            await other.run(next, generator, None)
            assert pool.stats().in_use == 0
            assert not await one.run(pool.active_connection)

    answer(app)


def test_connection_of_an_engine_left_in_another_thread(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/file.db", poolclass=ReaperPool, pool_size=1
    )

    async def app(scope, receive, send):
        def dependency():
            with sa_reaperpool.with_connection(engine) as connection:
                connection.execute(text("SELECT 1"))
                yield

        with Workers() as one, Workers() as other:
            generator = dependency()
            await one.run(next, generator)
            await other.run(next, generator, None)
            assert engine.pool.stats().in_use == 0
            # and one that is never left
            kept.append(dependency())
            await one.run(next, kept[0])

    kept = []
    answer(app)
    assert engine.pool.stats().in_use == 0
    with pytest.raises(StopIteration):
        next(kept[0])
    engine.dispose()


# threads that outlive their request


def outliving(pool, worker, work):
    """Serve a request that is cancelled while a thread of it works."""
    step = Step()
    outcome = []

    def part():
        try:
            outcome.append(work(step))
        except BaseException as error:
            outcome.append(error)

    async def app(scope, receive, send):
        await worker.run(part)

    async def run():
        request = serve(app)
        await step.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(request, PATIENCE)
        await asyncio.to_thread(until, lambda: pool.stats().in_use == 0)
        seen.append(pool.stats())
        step.open()

    seen = []
    asyncio.run(run())
    worker.result(int)
    return outcome[0], seen[0]


def test_its_next_use_is_refused(pool, worker):
    def work(step):
        handle = insert(pool)
        step()
        assert pool.connection() is handle
        return handle.cursor()

    error, stats = outliving(pool, worker, work)
    assert isinstance(error, ConnectionReclaimed)
    assert error.reason == "released"
    assert "the request that had reserved it ended" in str(error)
    assert "in work" in str(error) or "in insert" in str(error)
    assert (stats.idle, stats.closed) == (1, {})


def test_who_had_nothing_to_lose_gets_another(pool, worker):
    def work(step):
        handle = insert(pool)
        handle.commit()
        step()
        with pool.with_connection() as another:
            another.cursor()
            return another is not handle

    another, stats = outliving(pool, worker, work)
    assert another is True
    assert stats.idle == 1


def test_connection_in_use_is_closed(pool, driver, worker, caplog):
    """A cursor that it keeps must never reach the next one's data."""

    def work(step):
        cursor = pool.connection().cursor()
        step()
        return cursor

    with caplog.at_level(logging.WARNING):
        _, stats = outliving(pool, worker, work)
    assert (stats.idle, stats.closed) == (0, {"reclaimed": 1})
    assert driver.connections[0].closed
    assert driver.connections[0].calls == ["cursor"]
    assert "the request that had reserved it ended" in caplog.text


@pytest.mark.parametrize("joined", [False, True])
def test_cursor_that_comes_too_late_is_not_given_out(
    pool, worker, driver, joined
):
    step = None
    if joined:
        pool = ReaperPool(driver.connect, 2, 0, reservation="thread")

    def cursor(make=driver.make):
        connection = make(1)
        original = connection.cursor

        def slow():
            step()
            return original()

        connection.cursor = slow
        return connection

    driver.make = lambda number: cursor()

    def work(the_step):
        nonlocal step
        step = the_step
        handle = pool.connection()
        if joined:
            handle = pool.connect()
            assert hasattr(handle, "base")
        return handle.cursor()

    error, stats = outliving(pool, worker, work)
    assert isinstance(error, ConnectionReclaimed)
    # so it was returned: nobody could use it
    assert (stats.idle, stats.closed) == (1, {})


def test_part_that_is_just_giving_back(pool, driver):
    """Its request's end waits for that."""
    reset = Step()
    driver.when_reset = lambda connection: reset()

    def part():
        insert(pool)

    def run_in(contexts):
        # which is gone after this, in this thread
        contexts.pop().run(part)

    async def app(scope, receive, send):
        threads.append(Worker(partial(run_in, [contextvars.copy_context()])))
        await reset.wait()

    async def run():
        request = serve(app)
        await reset.wait()
        done, _ = await asyncio.wait([request], timeout=0.1)
        assert not done
        reset.open()
        await asyncio.wait_for(request, PATIENCE)
        assert pool.stats().idle == 1

    threads = []
    asyncio.run(run())
    threads[0].result()


def test_provisional_commit_that_is_lost(driver, worker):
    pool = ReaperPool(driver.connect, 1, 0, reservation="thread")

    def part():
        execute(pool.connection())
        join = pool.connect()
        execute(join)
        join.commit()
        # this keeps both
        kept.append(pool.connection())

    async def app(scope, receive, send):
        await worker.run(part)

    kept = []
    with pytest.warns(ProvisionalCommitLost, match="in part is undone"):
        answer(app)
    assert pool.stats().idle == 1


def test_reserved_after_the_end(pool, worker):
    """Held until the thread is done with the request's part."""

    def work(step):
        step()
        insert(pool)
        return pool.stats().in_use

    held, _ = outliving(pool, worker, work)
    assert held == 1
    gc.collect()
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_reserved_after_the_end_by_a_task(pool, worker):
    async def later(ended):
        await ended.wait()
        insert(pool)
        assert pool.stats().in_use == 1

    async def run():
        ended = asyncio.Event()
        tasks = []

        async def app(scope, receive, send):
            tasks.append(asyncio.create_task(later(ended)))

        await serve(app)
        ended.set()
        await asyncio.wait_for(tasks[0], PATIENCE)

    asyncio.run(run())
    gc.collect()
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_long_request_forgets_its_parts(pool, worker):
    """A web socket may be open for days."""

    async def app(scope, receive, send):
        for _ in range(20):
            await worker.run(use)
        sizes.append(len(REQUEST.get()._owns))

    def use():
        with pool.with_connection():
            pass

    sizes = []
    answer(app, {"type": "websocket"})
    assert sizes[0] <= 2


# all of it at once


class Marked:
    """A connection that knows whose work is on it."""

    def __init__(self, number):
        self.number = number
        self.whose = None
        self.wrong = []

    def cursor(self):
        return MarkedCursor(self)

    def commit(self):
        self.whose = None

    rollback = close = commit


class MarkedCursor:
    closed = False

    def __init__(self, connection):
        self.connection = connection

    def execute(self, whose):
        if isinstance(whose, str):
            # a savepoint's: of a join by a part whose request ends at this
            # moment, on what that had reserved, and so nobody else's
            return
        connection = self.connection
        before, connection.whose = connection.whose, whose
        if before not in (None, whose):
            connection.wrong.append((before, whose))

    def close(self):
        self.closed = True


class MarkingDriver(Driver):
    def make(self, number):
        return Marked(number)


@pytest.mark.parametrize("reservation", ["explicit", "thread"])
def test_no_request_meets_the_work_of_another(reservation):
    """Few threads serve many requests, some of which are cancelled."""
    driver = MarkingDriver()
    pool = ReaperPool(
        driver.connect,
        3,
        0,
        timeout=PATIENCE,
        reservation=reservation,
        reaping_frequency=None,
    )
    done, refused = [], []

    def part(request):
        try:
            for _ in range(5):
                cursor = pool.connection().cursor()
                cursor.execute(request)
                cursor.execute(request)
                cursor.close()
            done.append(request)
        except ConnectionReclaimed:
            refused.append(request)

    async def run():
        with Workers(3) as workers:
            requests = []
            for number in range(400):

                async def app(scope, receive, send, request=object()):
                    await workers.run(part, request)
                    await workers.run(part, request)

                requests.append(serve(app))
                if number % 3 == 0:
                    for _ in range(number % 7):
                        await asyncio.sleep(0)
                    requests[number // 2].cancel()
                if number % 5 == 0:
                    await asyncio.wait(requests[-10:], timeout=PATIENCE)
            await asyncio.wait(requests, timeout=PATIENCE)
            assert all(request.done() for request in requests)

    with switching_often():
        asyncio.run(run())
    gc.collect()
    assert [each.wrong for each in driver.connections if each.wrong] == []
    assert pool.stats().in_use == 0
    assert len(done) > 200
