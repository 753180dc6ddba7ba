"""ReleaseConnections around an ASGI application, which a test serves."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest
from asgi import SCOPE
from asgi import Step
from asgi import Workers
from asgi import answer
from asgi import receive
from asgi import send
from asgi import serve
from sqlalchemy import event
from stub import PATIENCE
from stub import Driver
from stub import until

import sa_reaperpool
from sa_reaperpool import ReaperPool
from sa_reaperpool import ReleaseConnections
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


# the end of a request


def test_reserved_in_the_loops_thread(pool):
    async def app(scope, receive, send):
        insert(pool)
        assert pool.active_connection()

    answer(app)
    assert not pool.active_connection()
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_reserved_in_several_threads(pool, driver):
    meeting = threading.Barrier(2, timeout=PATIENCE)

    def part():
        insert(pool)
        meeting.wait()
        assert pool.active_connection()

    with Workers() as one, Workers() as other:

        async def app(scope, receive, send):
            await asyncio.gather(one.run(part), other.run(part))

        answer(app)
        # while the threads live
        assert (pool.stats().in_use, pool.stats().idle) == (0, 2)
        assert [each.calls[-1] for each in driver.connections] == [
            "rollback",
            "rollback",
        ]


def test_given_back_before_the_request_returns(pool, driver, worker):
    """And while that takes its time, the loop goes on."""
    reset = Step()
    driver.when_reset = lambda connection: reset()

    async def app(scope, receive, send):
        await worker.run(insert, pool)

    async def run():
        request = serve(app)
        await reset.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not request.done()
        reset.open()
        await asyncio.wait_for(request, PATIENCE)
        assert pool.stats().in_use == 0

    asyncio.run(run())


def test_given_back_though_the_loops_own_threads_all_wait(pool, worker):
    """Perhaps for the very connections that are to be given back."""
    step = Step()

    async def app(scope, receive, send):
        await worker.run(insert, pool)

    async def run():
        loop = asyncio.get_running_loop()
        with Workers() as only:
            loop.set_default_executor(only._executor)
            waiting = asyncio.create_task(asyncio.to_thread(step))
            while not step.reached.is_set():
                await asyncio.sleep(0)
            await asyncio.wait_for(serve(app), PATIENCE)
            assert pool.stats().in_use == 0
            step.open()
            await waiting

    asyncio.run(run())


def test_web_socket(pool, worker):
    async def app(scope, receive, send):
        assert scope["type"] == "websocket"
        await worker.run(insert, pool)

    answer(app, {"type": "websocket"})
    assert pool.stats().in_use == 0


def test_lifespan_is_no_request(pool):
    async def app(scope, receive, send):
        assert REQUEST.get() is None
        handles.append(pool.connection())

    handles = []
    answer(app, {"type": "lifespan"})
    # the loop's thread is this one
    assert pool.connection() is handles[0]
    assert pool.release_connection()


def test_what_is_outside_of_requests_stays(pool):
    async def app(scope, receive, send):
        assert not pool.active_connection()
        assert pool.connection() is not outside
        assert sa_reaperpool.release_connections() == 1

    outside = pool.connection()
    answer(app)
    assert pool.connection() is outside
    assert sa_reaperpool.release_connections() == 1


def test_application_that_only_returns_a_coroutine(pool, worker):
    """What it is shows only when it is called."""

    async def app():
        await worker.run(insert, pool)

    answer(lambda scope, receive, send: app())
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("error", [KeyError("why"), SystemExit(3)])
def test_an_exception_goes_on_unchanged(pool, worker, error):
    async def app(scope, receive, send):
        await worker.run(insert, pool)
        raise error

    async def run():
        # not as a task: asyncio treats a SystemExit in one differently
        await ReleaseConnections(app)(SCOPE, receive, send)

    with pytest.raises(type(error)) as caught:
        asyncio.run(run())
    assert caught.value is error
    assert pool.stats().in_use == 0


def test_error_while_releasing_is_logged(driver, pool, worker, caplog):
    other = ReaperPool(Driver().connect, 1, 0, reaping_frequency=None)
    event.listen(pool, "checkin", lambda *args: 1 / 0)

    async def app(scope, receive, send):
        await worker.run(insert, pool)
        await worker.run(insert, other)

    with caplog.at_level(logging.ERROR):
        answer(app)
    assert "ZeroDivisionError" in caplog.text
    assert pool.stats().in_use == other.stats().in_use == 0


def test_no_thread_where_nothing_is_reserved(pool, worker, monkeypatch):
    def use():
        with pool.with_connection() as handle:
            handle.cursor()

    async def app(scope, receive, send):
        await worker.run(use)
        monkeypatch.setattr(threading, "Thread", None)

    answer(app)


def test_no_more_threads(pool, worker, monkeypatch):
    """Then the loop has to wait."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    async def app(scope, receive, send):
        await worker.run(insert, pool)
        monkeypatch.setattr(threading.Thread, "start", refuse)

    answer(app)
    assert pool.stats().in_use == 0


def test_loop_of_another_library(pool):
    """There the end is in the background."""

    async def app(scope, receive, send):
        insert(pool)

    with pytest.raises(StopIteration):
        ReleaseConnections(app)(SCOPE, receive, send).send(None)
    until(lambda: pool.stats().in_use == 0)
    assert REQUEST.get() is None


def test_coroutine_that_is_never_finished(pool):
    """What is left when a loop has gone."""

    class Never:
        def __await__(self):
            yield

    async def app(scope, receive, send):
        insert(pool)
        await Never()

    coroutine = ReleaseConnections(app)(SCOPE, receive, send)
    coroutine.send(None)
    threading.Thread(target=coroutine.close).start()
    until(lambda: pool.stats().in_use == 0)
    REQUEST.set(None)
