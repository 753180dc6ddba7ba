"""One connection per thread: the calls of a pool that reserve one."""

from __future__ import annotations

import pytest
from sqlalchemy import event
from stub import PATIENCE
from stub import Driver
from stub import Gate
from stub import StubError
from stub import Task
from stub import in_ended_thread
from stub import until

import sa_reaperpool
from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import NotCheckedOut
from sa_reaperpool import ReaperPool


@pytest.fixture
def driver():
    return Driver()


def a_pool(driver, **options):
    options = {
        "pool_size": 2,
        "max_overflow": 0,
        "timeout": 0,
        "reaping_frequency": None,
        **options,
    }
    return ReaperPool(driver.connect, **options)


@pytest.fixture
def pool(driver):
    pool = a_pool(driver)
    yield pool
    pool.release_connection()
    # no test leaves anything behind
    assert pool.leases() == ()
    handles = [pool.connect() for _ in range(pool.size())]
    for handle in handles:
        handle.close()


def number_of(handle):
    return handle.dbapi_connection.number


def holding(pool):
    """A thread that is inside of a block, until its gate is opened."""
    gate = Gate()

    def hold():
        with pool.with_connection():
            gate()

    task = Task(hold)
    gate.wait()
    return task, gate


# connection(), release_connection()


def test_the_first_call_reserves_and_the_next_return_the_same(pool, driver):
    handle = pool.connection()
    assert pool.connection() is handle
    assert pool.connection(timeout=0) is handle
    assert (driver.connects, pool.checkedout()) == (1, 1)


def test_is_one_active(pool):
    assert not pool.active_connection()
    pool.connection()
    assert pool.active_connection()
    assert not Task(pool.active_connection).result()
    assert pool.release_connection() is True
    assert not pool.active_connection()
    assert pool.release_connection() is False


@pytest.mark.parametrize("end", ["close", "invalidate", "detach"])
def test_its_end_ends_the_reservation(pool, end):
    handle = pool.connection()
    getattr(handle, end)()
    assert not pool.active_connection()
    assert pool.checkedout() == 0
    again = pool.connection()
    assert again is not handle
    assert pool.active_connection()
    handle.close()
    assert pool.active_connection() and pool.connection() is again


def test_what_one_thread_released_the_next_one_gets(pool):
    def use():
        with pool.with_connection() as handle:
            return number_of(handle)

    assert [Task(use).result() for _ in range(3)] == [1, 1, 1]


def test_each_thread_has_its_own(driver):
    pool = a_pool(driver, pool_size=5)
    mine = pool.connection()
    gates = [Gate() for _ in range(4)]

    def use(gate):
        handle = pool.connection()
        gate()
        assert pool.connection() is handle
        handle.close()

    tasks = [Task(use, gate) for gate in gates]
    for gate in gates:
        gate.wait()
    assert len({id(lease.holders[0]) for lease in pool.leases()}) == 5
    assert pool.checkedout() == driver.connects == 5
    for gate in gates:
        gate.open()
    for task in tasks:
        task.result()
    assert pool.connection() is mine
    assert pool.checkedout() == 1
    assert Task(lambda: number_of(pool.connection())).result() != 1
    pool.release_connection()


def test_a_pools_reservation_is_none_of_another(driver):
    one, other = a_pool(driver), a_pool(driver)
    with one.with_connection() as mine, other.with_connection() as others:
        assert number_of(mine) != number_of(others)
        assert one.connection() is mine
        assert other.connection() is others
    assert one.checkedout() == other.checkedout() == 0


def test_no_statement_of_the_pools_own(pool, driver):
    """Neither for a new connection nor for the one that is lent again."""
    for _ in range(2):
        with pool.with_connection():
            pass
    assert driver.connects == 1
    assert driver.connections[0].calls == ["rollback", "rollback"]


def test_a_listener_that_refuses_leaves_nothing_reserved(pool, driver):
    refuse = [StubError("not you")]

    @event.listens_for(pool, "checkout")
    def checkout(*args):
        if refuse:
            raise refuse.pop()

    with pytest.raises(StubError):
        pool.connection()
    assert not pool.active_connection()
    assert pool.leases() == ()
    assert pool.connection() is pool.connection()


def test_the_end_of_its_thread_needs_no_grace(driver):
    pool = a_pool(driver, pool_size=1, dead_connection_timeout=3600)
    in_ended_thread(pool.connection)
    assert pool.checkedout() == 1
    # a checkout looks before it waits
    pool.connection()
    assert dict(pool.stats().closed) == {"reaped": 1}
    assert driver.connects == 2
    pool.release_connection()


# with_connection()


def test_a_block_counts_while_it_lasts(pool):
    mine = pool.connection()

    def use():
        with pool.with_connection() as handle:
            inside = pool.checkedout()
            # an end of its own is none of those that it is asked for inside
            assert pool.connection() is handle
        return inside, pool.checkedout(), pool.active_connection()

    assert Task(use).result() == (2, 1, False)
    assert Task(use).result() == (2, 1, False)
    mine.close()
    assert pool.checkedout() == 0


def test_what_was_reserved_before_a_block_is_so_after_it(pool):
    handle = pool.connection()
    with pool.with_connection() as inside:
        assert inside is handle
    assert pool.connection() is handle
    assert pool.checkedout() == 1


def test_blocks_in_blocks(pool, driver):
    with pool.with_connection() as outer:
        for _ in range(2):
            with pool.with_connection() as inner:
                assert inner is outer
                with pool.with_connection() as third:
                    assert third is outer
            assert pool.active_connection()
        outer.cursor()
    assert not pool.active_connection()
    assert (driver.connects, pool.checkedout()) == (1, 0)


def test_a_pool_of_one_does_not_block_its_own_thread(driver):
    pool = a_pool(driver, pool_size=1)
    done = []
    with pool.with_connection():
        other = Task(with_one, pool, lambda: done.append("other"))
        until(lambda: pool.stats().waiting == 1)
        with_one(pool, lambda: done.append("inner"))
        done.append("outer")
    other.result()
    assert done == ["inner", "outer", "other"]


def with_one(pool, work):
    with pool.with_connection(timeout=PATIENCE):
        work()


def test_a_block_gives_back_whatever_happens(pool):
    def leave_early():
        with pool.with_connection() as handle:
            return number_of(handle)

    assert leave_early() == 1
    assert pool.checkedout() == 0
    for error in (StubError, KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(error):
            with pool.with_connection():
                with pool.with_connection():
                    raise error
        assert pool.checkedout() == 0
    # the same one, since nothing is wrong with it
    assert leave_early() == 1


def test_invalidated_in_an_inner_block(driver):
    pool = a_pool(driver, pool_size=1)
    with pool.with_connection() as outer:
        with pool.with_connection() as inner:
            inner.invalidate()
        assert not outer.is_valid
        with pool.with_connection() as another:
            assert number_of(another) == 2
        other, gate = holding(pool)
    gate.open()
    other.result()
    assert pool.checkedout() == 0
    assert [each.number for each in driver.open_ones] == [2]


def test_time_limits(driver):
    pool = a_pool(driver, pool_size=1, timeout=0.002)
    task, gate = holding(pool)
    for call in (
        lambda limit: pool.connection(timeout=limit),
        lambda limit: pool.checkout(timeout=limit),
        lambda limit: pool.with_connection(timeout=limit).__enter__(),
    ):
        for limit, expected in [(0, 0), (0.001, 0.001), (None, 0.002)]:
            with pytest.raises(CheckoutTimeout) as caught:
                call(limit)
            assert caught.value.limit == expected
    assert not pool.active_connection()
    waiter = Task(pool.checkout, timeout=PATIENCE)
    until(lambda: pool.stats().waiting == 1)
    gate.open()
    task.result()
    waiter.result().close()
    with pool.with_connection(timeout=0) as handle:
        assert number_of(handle) == 1


# checkout(), checkin()


def test_plain_checkouts_differ(pool, driver):
    reserved = pool.connection()
    handle = pool.checkout()
    assert number_of(handle) != number_of(reserved)
    with pytest.raises(CheckoutTimeout):
        Task(pool.checkout).result()
    pool.checkin(handle)
    assert Task(lambda: number_of(pool.checkout())).result() == 2
    pool.checkin(reserved)
    assert not pool.active_connection()
    assert pool.checkedout() == 0


def test_checkin_of_what_is_not_out(pool, driver):
    handle = pool.checkout()
    other = a_pool(driver)
    stranger = other.checkout()
    for wrong in (stranger, handle.dbapi_connection, object(), None):
        with pytest.raises(NotCheckedOut, match="checkin"):
            pool.checkin(wrong)
    assert stranger.is_valid
    assert pool.checkedout() == other.checkedout() == 1
    pool.checkin(handle)
    with pytest.raises(NotCheckedOut):
        pool.checkin(handle)
    other.checkin(stranger)


# remove()


def test_what_was_removed_works_on(pool, driver):
    handle, other = pool.checkout(), pool.checkout()
    pool.remove(handle)
    assert pool.checkedout() == 1
    assert len(pool.leases()) == 1
    handle.cursor().execute("select 1")
    # its place is free at once
    third = pool.checkout()
    assert number_of(third) == 3
    connection = handle.dbapi_connection
    handle.close()
    assert connection.closed
    other.close()
    third.close()
    with pytest.raises(NotCheckedOut):
        pool.remove(handle)


def test_the_reserved_one_is_removed(pool):
    handle = pool.connection()
    pool.remove(handle)
    assert not pool.active_connection()
    another = pool.connection()
    assert number_of(another) == 2
    assert number_of(handle) == 1
    handle.close()
    assert pool.connection() is another


def test_one_beside_the_reserved_one_is_removed(pool):
    reserved = pool.connection()
    extra = pool.checkout()
    pool.remove(extra)
    assert pool.connection() is reserved
    extra.close()


def test_removing_wakes_who_waits(driver):
    pool = a_pool(driver, pool_size=1)
    handle = pool.checkout()
    waiter = Task(pool.checkout, timeout=PATIENCE)
    until(lambda: pool.stats().waiting == 1)
    pool.remove(handle)
    assert number_of(waiter.result()) == 2
    handle.close()


# connected(), disconnect()


def test_is_any_open(pool):
    assert not pool.connected()
    with pool.with_connection():
        assert pool.connected()
    assert pool.connected()
    pool.disconnect()
    assert not pool.connected()
    pool.connection()
    assert pool.connected()


def test_disconnect_closes_all_and_new_ones_are_opened(pool, driver):
    held = pool.connection()
    pool.checkout().close()
    pool.disconnect()
    assert driver.open_ones == []
    assert not pool.active_connection()
    with pytest.raises(ConnectionReclaimed, match="disconnect"):
        held.cursor()
    held.close()
    again = pool.connection()
    again.cursor()
    assert number_of(again) == 3


def test_disconnect_in_another_thread_waits_for_nobody(pool, driver):
    with pool.with_connection() as held:
        Task(pool.disconnect).result()
        assert driver.open_ones == []
        assert not pool.active_connection()
        with pytest.raises(ConnectionReclaimed):
            held.cursor()
        assert number_of(pool.connection()) == 2
    # the block gives back what it has made, and that was taken back
    assert pool.checkedout() == 1
    pool.release_connection()


def test_who_waits_is_served_after_a_disconnect(driver):
    pool = a_pool(driver, pool_size=1)
    held = pool.connection()
    waiter = Task(lambda: number_of(pool.connection(timeout=PATIENCE)))
    until(lambda: pool.stats().waiting == 1)
    Task(pool.disconnect).result()
    assert waiter.result() == 2
    assert not held.is_valid


def test_disconnect_though_closes_fail(pool, driver, caplog):
    tried = []

    def fail(connection):
        tried.append(connection.number)
        raise StubError("gone already")

    handles = [pool.checkout(), pool.checkout()]
    driver.when_closed = fail
    pool.disconnect()
    assert sorted(tried) == [1, 2]
    assert pool.leases() == ()
    assert caplog.text.count("StubError: gone already") == 2
    driver.when_closed = lambda connection: None
    assert not any(handle.is_valid for handle in handles)


@pytest.mark.parametrize("name", ["checkin", "close", "invalidate", "reap"])
def test_disconnect_though_a_listener_fails(pool, driver, name, caplog):
    handles = [pool.checkout(), pool.checkout()]
    fail = [True]

    @event.listens_for(pool, name)
    def listener(*args):
        if fail:
            raise StubError("not now")

    pool.disconnect()
    fail.clear()
    assert "StubError: not now" in caplog.text
    assert driver.open_ones == []
    assert pool.leases() == ()
    assert not any(handle.is_valid for handle in handles)


# all pools


def test_release_in_all_pools(driver):
    sa_reaperpool.release_connections()
    pools = [a_pool(driver) for _ in range(3)]
    for pool in pools[:2]:
        pool.connection()
    plain = pools[2].connect()
    with pools[1].with_connection():
        pass
    theirs, gate = holding(pools[0])
    assert sa_reaperpool.release_connections() == 2
    assert [pool.checkedout() for pool in pools] == [1, 0, 1]
    assert sa_reaperpool.release_connections() == 0
    gate.open()
    theirs.result()
    plain.close()


def test_one_block_object_is_entered_again(pool):
    block = pool.with_connection()
    with block as outer:
        with block as inner:
            assert inner is outer
        assert pool.active_connection()
        assert number_of(outer) == 1
    assert not pool.active_connection()
    with block as again:
        assert again is pool.connection()
    assert not pool.active_connection()


@pytest.mark.parametrize("first_in_first_out", [False, True])
def test_one_block_object_in_several_threads(pool, first_in_first_out):
    block = pool.with_connection()
    with block as outer:
        gate = Gate()

        def other():
            with block as inner:
                assert inner is not outer
                gate()
                assert inner.is_valid
                return number_of(inner)

        task = Task(other)
        gate.wait()
        assert outer.is_valid
        if first_in_first_out:
            number = number_of(outer)
        else:
            gate.open()
            number = number_of(outer)
            assert task.result() != number
            assert outer.is_valid
            assert pool.connection() is outer
    gate.open()
    assert task.result() != number
    assert pool.stats().in_use == 0
