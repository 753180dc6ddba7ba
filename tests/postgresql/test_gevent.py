"""Greenlets on PostgreSQL: with psycopg2's wait callback, and psycopg.

Each test is a program of its own, since patching is for a whole process.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("gevent", reason="gevent is not installed")

BEGINNING = """
    from gevent import monkey; monkey.patch_all()
    import gc
    import sys
    import threading
    import gevent
    from gevent.event import Event
    from gevent.socket import wait_read, wait_write
    from psycopg2 import extensions
    from sqlalchemy import create_engine, make_url, text
    from sqlalchemy.orm import Session
    from sa_reaperpool import CheckoutTimeout, ReaperPool, with_connection

    def wait(connection, timeout=None):
        # as psycogreen does
        while True:
            state = connection.poll()
            if state == extensions.POLL_OK:
                break
            if state == extensions.POLL_READ:
                wait_read(connection.fileno(), timeout=timeout)
            else:
                wait_write(connection.fileno(), timeout=timeout)

    extensions.set_wait_callback(wait)

    PATIENCE = 30

    def engine_with(**options):
        return create_engine(
            make_url(sys.argv[1]).set(drivername=sys.argv[2]),
            poolclass=ReaperPool,
            **{
                "pool_size": 5,
                "max_overflow": 0,
                "pool_timeout": PATIENCE,
                "dead_connection_timeout": 0.1,
                **options,
            },
        )

    def until(condition):
        with gevent.Timeout(PATIENCE):
            while not condition():
                gevent.sleep(0.002)

    def pid_of(connection):
        return connection.execute(text("select pg_backend_pid()")).scalar()

    def full(pool):
        handles = [pool.connect(timeout=PATIENCE) for _ in range(pool.size())]
        for handle in handles:
            handle.close()
        return len({id(handle) for handle in handles}), pool.checkedout()
"""

DRIVERS = ["postgresql+psycopg2", "postgresql+psycopg"]


both_drivers = pytest.mark.parametrize("run", DRIVERS, indirect=True)


@pytest.fixture(params=DRIVERS[:1])
def run(request, postgres_url):
    """Run a program; what it printed."""

    def run(program):
        program = textwrap.dedent(BEGINNING) + textwrap.dedent(program)
        done = subprocess.run(
            [sys.executable, "-c", program, postgres_url, request.param],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@both_drivers
def test_two_hundred_on_five_are_served_evenly(run):
    """By counts: whoever is served stands behind all others again."""
    assert (
        run(
            """
            engine = engine_with()
            served = [0] * 200
            all_wait = Event()
            spread = []

            def work(number):
                all_wait.wait()
                while min(served) < 3:
                    with engine.connect() as connection:
                        connection.execute(text("select 1"))
                    served[number] += 1
                    spread.append(max(served) - min(served))

            # all of them wait before the first is served
            held = [engine.connect() for _ in range(5)]
            workers = [gevent.spawn(work, number) for number in range(200)]
            all_wait.set()
            until(lambda: engine.pool.stats().waiting == 200)
            for connection in held:
                connection.close()
            gevent.joinall(workers, raise_error=True, timeout=60)
            print(min(served) >= 3, max(spread) <= 2, full(engine.pool))
            """
        )
        == "True True (5, 0)"
    )


def test_a_killed_greenlets_connection_is_reaped(run):
    """Though something still refers to it; its backend ends."""
    assert (
        run(
            """
            engine = engine_with(pool_size=1)
            kept = []

            def leak():
                kept.append(engine.connect())
                kept.append(pid_of(kept[0]))
                Event().wait()

            greenlet = gevent.spawn(leak)
            until(lambda: len(kept) == 2)
            assert engine.pool.leases()[0].holders[0].alive
            greenlet.kill()
            # who waits gets its place
            with engine.connect() as connection:
                count = text(
                    "select count(*) from pg_stat_activity where pid = :pid"
                )
                until(
                    lambda: not connection.execute(count, {"pid": kept[1]})
                    .scalar()
                )
            print(engine.pool.stats().closed["reaped"], full(engine.pool))
            """
        )
        == "1 (1, 0)"
    )


@pytest.mark.parametrize("how", ["kill", "timeout"])
def test_one_that_leaves_the_queue_loses_no_place(run, how):
    assert (
        run(
            f"""
            how = {how!r}
            engine = engine_with(pool_size=2)
            held = [engine.connect() for _ in range(2)]
            served = []

            def work(number):
                if how == "timeout" and number % 2 == 0:
                    with gevent.Timeout(0.01, False):
                        with engine.connect():
                            served.append(number)
                else:
                    with engine.connect():
                        served.append(number)

            workers = []
            for number in range(10):
                workers.append(gevent.spawn(work, number))
                until(lambda: engine.pool.stats().waiting or number % 2 == 0)
                gevent.sleep(0)
            if how == "kill":
                for worker in workers[::2]:
                    worker.kill()
            until(lambda: engine.pool.stats().waiting == 5)
            for connection in held:
                connection.close()
            gevent.joinall(workers, raise_error=True, timeout=PATIENCE)
            print(sorted(served), full(engine.pool))
            """
        )
        == "[1, 3, 5, 7, 9] (2, 0)"
    )


def test_one_that_is_killed_when_it_is_just_served(run):
    """The connection is in its hands already, and it has not run yet."""
    assert (
        run(
            """
            engine = engine_with(pool_size=1)
            held = engine.connect()

            def work():
                with engine.connect():
                    Event().wait()

            worker = gevent.spawn(work)
            until(lambda: engine.pool.stats().waiting)
            held.close()
            worker.kill()
            print(full(engine.pool))
            """
        )
        == "(1, 0)"
    )


@both_drivers
@pytest.mark.parametrize("how", ["kill", "timeout"])
def test_one_that_ends_within_a_query(run, how):
    """Its connection is in the middle of something: nobody gets that."""
    assert (
        run(
            f"""
            how = {how!r}
            engine = engine_with(pool_size=1)
            inside = Event()

            def work():
                with engine.connect() as connection:
                    connection.execute(text("select 1"))
                    inside.set()
                    with gevent.Timeout(
                        0.1 if how == "timeout" else None, False
                    ):
                        connection.execute(text("select pg_sleep(60)"))

            worker = gevent.spawn(work)
            inside.wait()
            if how == "kill":
                gevent.sleep(0.05)
                worker.kill()
            worker.join()
            with engine.connect() as connection:
                print(connection.execute(text("select 42")).scalar())
            print(full(engine.pool))
            """
        )
        == "42\n(1, 0)"
    )


def test_each_greenlet_reserves_its_own(run):
    assert (
        run(
            """
            engine = engine_with(pool_size=2, reservation="thread")
            both = []
            all_in = Event()

            def work():
                with engine.pool.with_connection():
                    with Session(engine) as session:
                        pids = {pid_of(session)}
                        with with_connection(engine) as connection:
                            pids.add(pid_of(connection))
                        both.append(pids)
                        if len(both) == 2:
                            all_in.set()
                        assert all_in.wait(PATIENCE)

            workers = [gevent.spawn(work) for _ in range(2)]
            gevent.joinall(workers, raise_error=True)
            first, second = both
            out = engine.pool.checkedout()
            print(len(first), len(second), first != second, out)
            """
        )
        == "1 1 True 0"
    )


def test_nothing_of_it_blocks_the_hub(run):
    """All that the pool waits for, others run meanwhile.

    It waits for a place, for the reaper, for a shutdown and for the lock
    that one greenlet has while another wants it.
    """
    assert (
        run(
            """
            engine = engine_with(pool_size=1, min_idle=1)
            ticks = []

            def tick():
                while True:
                    gevent.sleep(0)
                    ticks.append(1)

            ticker = gevent.spawn(tick)

            def meanwhile(call):
                before = len(ticks)
                try:
                    call()
                except CheckoutTimeout:
                    pass
                return len(ticks) > before

            held = engine.connect()
            done = [meanwhile(lambda: engine.pool.connect(timeout=0.05))]
            done.append(meanwhile(lambda: engine.pool.shutdown(timeout=0.05)))
            lock = engine.pool.queue._lock
            lock.acquire()
            assert engine.pool.queue.locked_here()
            here = gevent.spawn(engine.pool.queue.locked_here).get()
            assert here is False
            other = gevent.spawn(engine.pool.queue.idle)
            done.append(meanwhile(lambda: gevent.sleep(0.01)))
            assert not other.ready()
            lock.release()
            other.join()
            held.close()
            ticker.kill()
            print(done)
            """
        )
        == "[True, True, True]"
    )
