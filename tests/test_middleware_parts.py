"""Who finds which connection, in the parts of requests served by threads."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading

import pytest
from asgi import SCOPE
from asgi import Workers
from asgi import answer
from asgi import serve
from stub import PATIENCE
from stub import Driver
from stub import switching_often
from stub import until

import sa_reaperpool
from sa_reaperpool import ReaperPool
from sa_reaperpool import ReleaseConnections
from sa_reaperpool import holder
from sa_reaperpool.request import REQUEST
from sa_reaperpool.request import Part


@pytest.fixture
def driver():
    return Driver()


@pytest.fixture
def pool(driver):
    return ReaperPool(
        driver.connect, 2, 0, timeout=PATIENCE, reaping_frequency=None
    )


@pytest.fixture
def thread_pool(driver):
    return ReaperPool(
        driver.connect,
        2,
        0,
        timeout=PATIENCE,
        reservation="thread",
        reaping_frequency=None,
    )


@pytest.fixture
def worker():
    with Workers() as worker:
        yield worker


def insert(pool):
    handle = pool.connection()
    handle.cursor().execute("INSERT")
    return handle


# the parts of a request


def insert_and_forget(pool):
    insert(pool)


@pytest.fixture
def only_one(driver):
    return ReaperPool(
        driver.connect, 1, 0, timeout=PATIENCE, reaping_frequency=None
    )


def test_within_a_part_it_is_the_same(pool, worker):
    def part():
        assert insert(pool) is insert(pool)
        assert contextvars.copy_context().run(insert, pool) is insert(pool)

    async def app(scope, receive, send):
        await worker.run(part)

    answer(app)


def test_thread_that_inherits_a_parts_context(pool, worker):
    """It is another thread all the same."""

    def part():
        context = contextvars.copy_context()
        assert insert(pool) is not other.result(context.run, insert, pool)
        context = contextvars.copy_context()
        assert insert(pool) is not other.result(context.run, insert, pool)

    async def app(scope, receive, send):
        await worker.run(part)

    with Workers() as other:
        answer(app)
    assert pool.stats().in_use == 0


def test_request_that_inherits_a_parts_context(pool, worker):
    """One that is made from within a part of another."""
    contexts = []

    def part():
        insert(pool)
        contexts.append(contextvars.copy_context())

    def inner_part(context):
        assert not context.run(pool.active_connection)

    async def outer(scope, receive, send):
        await worker.run(part)
        # begun by that part, and ended when it was over
        loop = asyncio.get_running_loop()
        await loop.create_task(ReleaseConnections(inner)(SCOPE, None, None))

    async def inner(scope, receive, send):
        request = REQUEST.get()
        contexts[0].run(REQUEST.set, request)
        await worker.run(inner_part, contexts[0])

    answer(outer)
    contexts.clear()
    assert pool.stats().in_use == 0


def test_parts_have_nothing_of_each_other(pool, worker):
    """Even if by chance they run in the same thread."""

    async def app(scope, receive, send):
        await worker.run(insert_and_forget, pool)
        assert not await worker.run(pool.active_connection)
        await worker.run(commit)

    def commit():
        connection = pool.connection().dbapi_connection
        # what the other left was undone
        assert connection.calls == ["cursor", "rollback"]

    answer(app)
    assert pool.stats().opened == 1


@pytest.mark.parametrize("number", range(20))
def test_request_that_waits_has_nothing_from_earlier_parts(only_one, number):
    """Else it would wait for itself."""

    async def app(scope, receive, send):
        for worker in workers:
            await worker.run(insert_and_forget, only_one)

    with Workers() as one, Workers() as two, Workers() as three:
        workers = [one, two, three, one]
        with switching_often():
            answer(app)
    assert only_one.stats().in_use == 0
    assert only_one.stats().opened == 1


def test_reset_is_never_the_loops_work(pool, driver):
    threads = []
    driver.when_reset = lambda connection: threads.append(
        threading.current_thread()
    )

    async def app(scope, receive, send):
        insert(pool)
        for worker in workers:
            await worker.run(insert_and_forget, pool)

    async def run():
        for _ in range(20):
            await serve(app)

    with Workers() as one, Workers() as other:
        workers = [one, other, other, one]
        asyncio.run(run())
    assert len(threads) == 100
    assert threading.current_thread() not in threads


async def run_in_kept_context(worker, function, *args):
    """Run a part whose context ends in the loop's thread."""
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    call = (context.run, function, *args)
    await loop.run_in_executor(worker._executor, *call)
    # by the next thing that it does, it has dropped the one before
    await worker.run(int)


def test_loop_that_waits_has_nothing_from_parts(only_one, worker):
    """There is no reaper to have it returned."""

    async def app(scope, receive, send):
        await run_in_kept_context(worker, insert_and_forget, only_one)
        insert(only_one)

    answer(app)
    assert (only_one.stats().in_use, only_one.stats().opened) == (0, 1)


def test_returned_when_the_part_is_over(driver, worker):
    """And not only at the request's end, which may be far."""
    pool = ReaperPool(driver.connect, 2, 0)
    threads = []
    driver.when_reset = lambda connection: threads.append(
        threading.current_thread()
    )

    async def app(scope, receive, send):
        await run_in_kept_context(worker, insert_and_forget, pool)
        await asyncio.to_thread(until, lambda: pool.stats().idle == 1)

    answer(app)
    assert threading.current_thread() not in threads


def test_block_that_spans_parts_is_left_alone(pool):
    """As FastAPI does with a dependency that yields."""

    def dependency():
        with pool.with_connection() as handle:
            yield handle

    async def app(scope, receive, send):
        generator = dependency()
        handle = await one.run(next, generator)
        await one.run(insert_and_forget, pool)
        assert handle.is_valid
        # in its thread it can still be used
        await one.run(handle.cursor)
        del handle
        assert await other.run(next, generator, None) is None
        assert pool.stats().in_use <= 1

    with Workers() as one, Workers() as other:
        answer(app)
    assert (pool.stats().in_use, pool.stats().closed) == (0, {})


# two requests in one thread


def interleaved(first, second):
    """Serve two requests; the second begins and ends within the first."""

    async def run():
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def app(scope, receive, send):
            await first(begun, go_on)

        one = serve(app)
        await asyncio.wait_for(begun.wait(), PATIENCE)
        await asyncio.wait_for(serve(second), PATIENCE)
        go_on.set()
        await asyncio.wait_for(one, PATIENCE)

    asyncio.run(run())


async def called(function, *args):
    return function(*args)


def test_requests_in_the_loop_have_connections_of_their_own(pool):
    async def first(begun, go_on):
        handle = insert(pool)
        begun.set()
        await go_on.wait()
        # still its own, and as it was
        assert pool.connection() is handle
        handle.cursor()
        assert pool.stats().in_use == 1

    async def second(scope, receive, send):
        assert not pool.active_connection()
        assert not pool.release_connection()
        assert sa_reaperpool.release_connections() == 0
        insert(pool)
        assert pool.stats().in_use == 2

    interleaved(first, second)
    assert (pool.stats().in_use, pool.stats().idle) == (0, 2)


def test_requests_in_one_worker(pool, worker):
    async def first(begun, go_on):
        handles.append(await worker.run(insert, pool))
        begun.set()
        await go_on.wait()

    async def second(scope, receive, send):
        assert not await worker.run(pool.active_connection)
        assert not await worker.run(pool.release_connection)
        assert await worker.run(sa_reaperpool.release_connections) == 0
        assert await worker.run(insert, pool) is not handles[0]
        # who refers to it still has it
        assert handles[0].is_valid

    handles = []
    interleaved(first, second)
    assert (pool.stats().in_use, pool.stats().idle) == (0, 2)


def test_worker_keeps_no_connection_from_the_next_request(only_one, worker):
    """Else requests would wait for workers, and these for connections."""

    async def first(begun, go_on):
        await worker.run(insert_and_forget, only_one)
        begun.set()
        await go_on.wait()
        await worker.run(insert_and_forget, only_one)

    async def second(scope, receive, send):
        await worker.run(insert_and_forget, only_one)

    interleaved(first, second)
    assert (only_one.stats().in_use, only_one.stats().opened) == (0, 1)
    assert only_one.stats().closed == {}


def test_requests_do_not_join_each_other(driver, thread_pool, worker):
    async def first(begun, go_on):
        session = await worker.run(thread_pool.connect)
        await worker.run(lambda: session.cursor().execute("INSERT"))
        begun.set()
        await go_on.wait()
        assert (await worker.run(thread_pool.connect)).base is session
        await worker.run(session.close)

    async def second(scope, receive, send):
        def use():
            own = thread_pool.connect()
            own.cursor().execute("INSERT")
            assert not hasattr(own, "base")
            assert thread_pool.connection().base is own
            own.commit()
            own.close()

        await worker.run(use)

    interleaved(first, second)
    assert thread_pool.stats().in_use == 0
    one, other = driver.connections
    assert (one.calls.count("commit"), other.calls.count("commit")) == (0, 1)


def test_join_that_is_reserved(thread_pool, worker):
    """It ends with the request; what it joined has an end of its own."""

    async def app(scope, receive, send):
        plain = await worker.run(thread_pool.connect)
        handles.append(plain)
        handles.append(await worker.run(insert, thread_pool))

    handles = []
    answer(app)
    plain, join = handles
    assert not join.is_valid
    assert plain.is_valid
    worker.result(plain.cursor)
    plain.close()
    assert thread_pool.stats().in_use == 0


def test_one_that_is_interrupted_as_it_begins_ends_silently(monkeypatch):
    """Its finaliser runs all the same, with what there is of it."""
    noise = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)

    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(holder, "current", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Part(None, object())
    gc.collect()
    assert not noise
