"""Under gevent's monkey patching the unit is the greenlet.

Each test is a program of its own: patching is for a whole process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("gevent", reason="gevent is not installed")

BEGINNING = """
    from gevent import monkey; monkey.patch_all()
    import gc
    import sys
    import gevent
    from gevent.event import Event
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session
    from sa_reaperpool import JoinOrder, ReaperPool

    engine = create_engine(
        "sqlite:///" + sys.argv[1],
        poolclass=ReaperPool,
        pool_size=4,
        max_overflow=0,
        pool_timeout=5,
        reaping_frequency=60,
        reservation="thread",
    )
    pool = engine.pool
"""


def run(tmp_path, program):
    program = textwrap.dedent(BEGINNING) + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.db")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip()


def test_each_greenlet_has_its_own(tmp_path):
    assert run(
        tmp_path,
        """
        all_in = Event()
        connections = []

        def work():
            with pool.with_connection() as handle:
                with pool.with_connection() as again:
                    assert again is handle
                with Session(engine) as session:
                    session.execute(text("select 1"))
                    of_session = session.connection().connection
                    assert (
                        of_session.dbapi_connection
                        is handle.dbapi_connection
                    )
                connections.append(id(handle.dbapi_connection))
                if len(connections) == 4:
                    all_in.set()
                assert all_in.wait(20)

        gevent.joinall([gevent.spawn(work) for _ in range(4)], raise_error=1)
        print(len(set(connections)), pool.checkedout())
        """,
    ) == ("4 0")


def test_they_are_told_by_their_names(tmp_path):
    assert run(
        tmp_path,
        """
        def work(name):
            if name:
                gevent.getcurrent().name = name
            with pool.connect():
                [lease] = pool.leases()
                print(lease.holders[0].name.rstrip("0123456789"))

        for name in ("web-7", None):
            gevent.spawn(work, name).join()
        """,
    ).split() == ["web-", "Greenlet-"]


def test_one_that_died_is_reaped(tmp_path):
    assert run(
        tmp_path,
        """
        from sqlalchemy import event

        reaped = Event()
        event.listen(pool, "reap", lambda lease, reason: reaped.set())
        greenlet = gevent.spawn(pool.connection)
        greenlet.join()
        # its result is the handle, which would keep nothing alive but that
        del greenlet
        gc.collect()
        assert reaped.wait(20)
        print(pool.checkedout(), dict(pool.stats().closed))
        """,
    ) == ("0 {'reaped': 1}")


def test_a_raw_one_that_died_and_is_kept_is_reaped(tmp_path):
    assert run(
        tmp_path,
        """
        from greenlet import greenlet
        from sa_reaperpool import holder

        found = []

        def work():
            found.append((holder.current(), pool.connection()))
            assert holder.current().alive

        raw = greenlet(work)
        raw.switch()
        assert raw.dead and not found[0][0].alive
        assert holder.current().alive
        print(pool.reap(), dict(pool.stats().closed))
        """,
    ) == ("1 {'reaped': 1}")


def test_waiting_does_not_block_the_hub(tmp_path):
    assert run(
        tmp_path,
        """
        handles = []
        leave = Event()

        def hold():
            with pool.with_connection():
                handles.append(1)
                assert leave.wait(20)

        def wait():
            with pool.with_connection():
                handles.append(2)

        holding = [gevent.spawn(hold) for _ in range(4)]
        gevent.sleep(0)
        waiting = gevent.spawn(wait)
        while not pool.stats().waiting:
            gevent.sleep(0.001)
        leave.set()
        gevent.joinall([*holding, waiting], raise_error=True)
        print(handles)
        """,
    ) == ("[1, 1, 1, 1, 2]")


def test_a_circle_of_greenlets(tmp_path):
    assert run(
        tmp_path,
        """
        from sa_reaperpool import CheckoutTimeout, PoolDeadlock

        pool = ReaperPool(
            pool.creator, 4, 0, timeout=20, on_deadlock="raise"
        )
        all_have_one = Event()
        told = []

        def work():
            with pool.connect():
                told.append(None)
                if len(told) == 4:
                    all_have_one.set()
                assert all_have_one.wait(20)
                try:
                    pool.connect().close()
                except CheckoutTimeout as error:
                    told.append(error)

        gevent.joinall([gevent.spawn(work) for _ in range(4)], raise_error=1)
        [error] = [each for each in told if each is not None]
        print(type(error) is PoolDeadlock, error.reason, len(error.leases))
        """,
    ) == ("True deadlock 4")


# gevent carries the parent's greenlets into a child, its reaper among them


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@needs_fork
def test_a_childs_log_has_nothing_of_the_reaper_it_inherits(tmp_path):
    assert run(
        tmp_path,
        """
        import os
        from sa_reaperpool.reaper import reaper

        pool.connect().close()
        gevent.idle()
        assert reaper._thread is not None
        mailbox = reaper._mailbox
        child = os.fork()
        if not child:
            pool.connect().close()
            # the inherited one wakes up, and does what it does then
            mailbox.put(None)
            gevent.idle()
            # and there is one that is the child's
            reaper.wake(pool)
            gevent.idle()
            print(reaper._mailbox is mailbox, reaper._mailbox.qsize())
            # through the interpreter's own end, as gunicorn's workers do
            sys.exit()
        print(os.waitpid(child, 0)[1])
        """,
    ) == ("False 0\n0")


@needs_fork
def test_the_inherited_reaper_closes_nothing_where_c_code_forked(tmp_path):
    """No hook has told the child that it is one."""
    pytest.importorskip("ctypes")
    assert run(
        tmp_path,
        """
        import ctypes
        import os
        import sqlite3
        from sa_reaperpool.reaper import reaper

        class Connection(sqlite3.Connection):
            def close(self):
                print("closed by a child:", os.getpid() != parent, flush=True)
                super().close()

        parent = os.getpid()
        pool = ReaperPool(
            lambda: sqlite3.connect(sys.argv[1], factory=Connection),
            idle_timeout=60,
            reaping_frequency=600,
        )
        pool.connect().close()
        gevent.idle()
        [entry] = pool.queue.queue
        child = ctypes.PyDLL(None).fork()
        if not child:
            # as who forks so under gevent has to
            gevent.reinit()
        entry.idle_since -= 100
        reaper.wake(pool)
        gevent.idle()
        if not child:
            os._exit(0)
        print(os.waitpid(child, 0)[1], pool.stats().idle)
        """,
    ) == ("closed by a child: False\n0 0")


def test_in_turn(tmp_path):
    """However short each holds it: another is woken in no time."""
    assert (
        run(
            tmp_path,
            """
            class Connection:
                def rollback(self):
                    pass

                close = rollback

            pool = ReaperPool(Connection, 4, 0, timeout=5)
            served = [0] * 20
            spread = []

            def work(number):
                for _ in range(100):
                    with pool.connect():
                        served[number] += 1
                        spread.append(max(served) - min(served))
                        gevent.sleep(0)

            workers = [gevent.spawn(work, number) for number in range(20)]
            gevent.joinall(workers, raise_error=True, timeout=30)
            print(max(spread) <= 2, set(served))
            """,
        )
        == "True {100}"
    )
