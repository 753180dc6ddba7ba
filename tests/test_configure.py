"""configure(): options change while the pool is in use, all or none."""

from __future__ import annotations

import random
import threading
from time import monotonic

import pytest
from rounds import Clock
from rounds import closed
from rounds import open_numbers
from rounds import returned
from rounds import work
from sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.exc import ArgumentError
from stub import Driver
from stub import Gate
from stub import Task
from stub import switching_often
from stub import until
from test_interruption import Interrupter

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import PoolShutdown
from sa_reaperpool import ReaperPool
from sa_reaperpool.options import OPTIONS
from sa_reaperpool.reaper import reaper

# another value than the default, for each that can change
OTHERS = {
    "pool_size": 7,
    "max_overflow": 3,
    "timeout": 0.25,
    "reaping_frequency": 7,
    "dead_connection_timeout": 8,
    "max_age": 100,
    "idle_timeout": 50,
    "min_idle": 2,
    "keepalive": 30,
    "jitter": 0.1,
    "max_waiting": 9,
    "max_connecting": 3,
    "leak_timeout": 60,
    "reclaim_timeout": 70,
    "on_deadlock": "off",
}


@pytest.fixture
def driver():
    return Driver()


def a_pool(driver, **options):
    options = {
        "pool_size": 3,
        "max_overflow": 0,
        "timeout": None,
        "reaping_frequency": None,
        "dead_connection_timeout": 3600,
        **options,
    }
    return ReaperPool(driver.connect, **options)


def waiting(pool, count):
    """Threads that wait for a connection, in this order."""
    tasks = []
    for _ in range(count):
        before = pool.stats().waiting
        tasks.append(Task(pool.connect))
        until(lambda: pool.stats().waiting == before + 1)
    return tasks


def options_of(pool):
    """What it goes by, from all the places where that is kept."""
    return {
        **vars(pool.settings),
        "pool_size": pool.size(),
        "max_overflow": pool.max_overflow,
        "timeout": pool.timeout(),
        "limit": pool.stats().limit,
        "use_lifo": pool.queue.use_lifo,
    }


# what it takes


def test_the_options_that_can_change():
    can = {option.keyword for option in OPTIONS if option.changes}
    assert OTHERS.keys() <= can
    fixed = {option.keyword for option in OPTIONS} - can
    assert fixed >= {"use_lifo", "recycle", "pre_ping", "reset_on_return"}
    assert "liveness" in fixed


@pytest.mark.parametrize("keyword", OTHERS)
def test_one_changes_and_no_other(driver, keyword):
    pool = a_pool(driver)
    before = options_of(pool)
    pool.configure(**{keyword: str(OTHERS[keyword])})
    after = options_of(pool)
    assert after[keyword] == OTHERS[keyword]
    changed = {name for name in after if after[name] != before[name]}
    assert changed - {"limit"} == {keyword}
    assert after["limit"] == after["pool_size"] + after["max_overflow"]


@pytest.mark.parametrize("make", [ReaperPool.recreate, None])
def test_all_at_once_and_recreate_hands_them_on(driver, make):
    pool = a_pool(driver)
    pool.configure(**OTHERS)
    told = options_of(make(pool) if make else pool)
    assert {name: told[name] for name in OTHERS} == OTHERS
    assert told["limit"] == 10
    pool = a_pool(driver, **OTHERS)
    assert options_of(pool) == told


@pytest.mark.parametrize("liveness", ["passive", "ping", "off"])
def test_the_others_stay_as_they_are(driver, liveness):
    pool = a_pool(
        driver, liveness=liveness, use_lifo=True, reset_on_return=None
    )
    before = vars(pool.recreate()), options_of(pool)
    pool.configure(max_age=100)
    pool.configure(max_age=None)
    pool.configure()
    after = vars(pool.recreate()), options_of(pool)
    assert after[1] == before[1]
    for name in ("_recycle", "_pre_ping", "_reset_on_return"):
        assert after[0][name] == before[0][name]


def test_both_names_of_the_timeout(driver):
    pool = a_pool(driver, pool_size=1)
    pool.configure(pool_timeout="0")
    handle = pool.connect()
    with pytest.raises(CheckoutTimeout):
        pool.connect()
    pool.configure(timeout=3600)
    [task] = waiting(pool, 1)
    handle.close()
    task.result().close()
    with pytest.raises(ArgumentError, match="two names"):
        pool.configure(timeout=1, pool_timeout=1)
    assert pool.timeout() == 3600


WRONG = [
    ({"pool_size": -1}, "'pool_size'"),
    ({"pool_size": "many"}, "'pool_size'.*'many'"),
    ({"max_overflow": -2}, "'max_overflow'"),
    ({"timeout": -1}, "'pool_timeout'"),
    ({"max_age": 0}, "'max_age'"),
    ({"max_age": object()}, "'max_age'"),
    ({"jitter": 1}, "'jitter'"),
    ({"max_connecting": 0}, "'max_connecting'"),
    # beside the others
    ({"min_idle": 4}, "'min_idle': 4 .*pool_size, which is 3"),
    ({"pool_size": 1}, "'min_idle': 2 .*pool_size, which is 1"),
    ({"pool_size": 9, "min_idle": 10}, "'min_idle': 10"),
    # not now
    ({"use_lifo": True}, "'use_lifo' cannot change"),
    ({"pool_use_lifo": True}, "'pool_use_lifo' cannot change"),
    ({"liveness": "off"}, "'liveness' cannot change"),
    ({"pre_ping": True}, "'pre_ping' cannot change"),
    ({"recycle": 9}, "'recycle' cannot change"),
    # none
    ({"max_agee": 9}, "Unknown option 'max_agee': did you mean 'max_age'"),
    ({"xyz": 9}, "Unknown option 'xyz'$"),
    ({"echo": True}, "Unknown option 'echo'"),
]


@pytest.mark.parametrize("wrong, message", WRONG)
def test_all_or_none(driver, wrong, message):
    pool = a_pool(driver, min_idle=2)
    before = options_of(pool)
    with pytest.raises(ArgumentError, match=message):
        # wherever it stands among them
        pool.configure(keepalive=5, **wrong, leak_timeout=6)
    with pytest.raises(ArgumentError, match=message):
        pool.configure(**wrong)
    assert options_of(pool) == before


def test_together_what_would_not_do_one_by_one(driver):
    pool = a_pool(driver, min_idle=2)
    pool.configure(pool_size=1, min_idle=1)
    pool.configure(pool_size=8, min_idle=8)
    pool.configure(pool_size=4, min_idle=3)
    assert (pool.size(), pool.settings.min_idle) == (4, 3)


def test_through_an_engine(tmp_path):
    engine = create_engine(
        f"sqlite:///{tmp_path}/a.db", poolclass=ReaperPool, pool_size=2
    )
    engine.pool.configure(pool_size=4, max_age=100)
    with engine.connect() as connection:
        assert connection.scalar(text("select 1")) == 1
    engine.dispose()
    assert engine.pool.size() == 4
    assert engine.pool.settings.max_age == 100


# larger and smaller


def test_growing_serves_at_once_as_many_as_there_is_room_for(driver):
    pool = a_pool(driver, pool_size=1)
    handle = pool.connect()
    tasks = waiting(pool, 5)
    pool.configure(pool_size=2, max_overflow=2)
    served = [task.result() for task in tasks[:3]]
    assert pool.stats().waiting == 2
    assert len(driver.open_ones) == 4
    pool.configure(max_overflow=-1)
    served += [task.result() for task in tasks[3:]]
    assert len({each.dbapi_connection.number for each in served}) == 5
    assert handle.dbapi_connection.number == 1


def numbers(pool):
    return pool.size(), pool.checkedin(), pool.overflow(), pool.checkedout()


def test_shrinking_closes_idle_ones_now_and_held_ones_at_return(driver):
    pool = a_pool(driver, pool_size=5)
    handles = [pool.connect() for _ in range(5)]
    for _ in range(2):
        handles.pop(0).close()
    assert numbers(pool) == (5, 2, 0, 3)
    pool.configure(pool_size=2)
    assert open_numbers(driver) == [3, 4, 5]
    assert numbers(pool) == (2, 0, 1, 3)
    assert closed(pool) == {"idle": 2}
    assert pool.stats().limit == 2
    with pytest.raises(CheckoutTimeout):
        pool.connect(timeout=0)
    handles.pop(0).close()
    assert numbers(pool) == (2, 0, 0, 2)
    with pytest.raises(CheckoutTimeout):
        pool.connect(timeout=0)
    handles.pop(0).close()
    handles.pop(0).close()
    assert numbers(pool) == (2, 2, 0, 0)
    assert open_numbers(driver) == [4, 5]
    assert closed(pool) == {"idle": 3}
    assert "Pool size: 2  Connections in pool: 2" in pool.status()


def test_a_smaller_size_beside_a_larger_overflow(driver):
    pool = a_pool(driver, pool_size=4)
    handles = [pool.connect() for _ in range(4)]
    pool.configure(pool_size=1, max_overflow=3)
    for handle in handles:
        handle.close()
    assert open_numbers(driver) == [1]
    assert numbers(pool) == (1, 1, 0, 0)


def test_who_waits_while_it_shrinks(driver):
    pool = a_pool(driver, pool_size=3)
    handles = [pool.connect() for _ in range(3)]
    tasks = waiting(pool, 2)
    pool.configure(pool_size=1)
    handles.pop().close()
    handles.pop().invalidate()
    assert pool.stats().waiting == 2
    handles.pop().close()
    for task in tasks:
        task.result().close()
    assert len(driver.open_ones) == 1


def test_no_limit_and_back(driver):
    pool = a_pool(driver, pool_size=1)
    handles = [pool.connect()]
    tasks = waiting(pool, 2)
    pool.configure(pool_size=0)
    handles += [task.result() for task in tasks]
    handles += [pool.connect() for _ in range(3)]
    # as in any QueuePool of that size
    assert pool.max_overflow == -1
    assert numbers(pool) == (0, 0, 0, 6)
    assert pool.stats().limit is None
    pool.configure(pool_size=2, max_overflow=1)
    assert pool.stats().limit == 3
    assert numbers(pool) == (2, 0, 4, 6)
    for handle in handles:
        handle.close()
    assert numbers(pool) == (2, 2, 0, 0)
    assert len(driver.open_ones) == 2


def test_no_overflow_limit_and_back(driver):
    pool = a_pool(driver, pool_size=1)
    pool.configure(max_overflow=-1)
    handles = [pool.connect() for _ in range(4)]
    assert pool.stats().limit is None
    pool.configure(max_overflow=0)
    with pytest.raises(CheckoutTimeout):
        pool.connect(timeout=0)
    for handle in handles:
        handle.close()
    assert numbers(pool) == (1, 1, 0, 0)
    assert len(driver.open_ones) == 1


def test_a_slow_close_delays_nobody(driver):
    gate = Gate()
    pool = a_pool(driver, pool_size=2)
    returned(pool, 2)
    driver.when_closed = lambda connection: gate()
    task = Task(pool.configure, pool_size=1)
    gate.wait()
    # another change, a checkout, a look
    Task(pool.configure, max_age=9).result()
    Task(lambda: pool.connect(timeout=0).close()).result()
    assert Task(pool.stats).result().limit == 1
    gate.open()
    task.result()
    assert len(driver.open_ones) == 1


@pytest.mark.parametrize("seed", range(4))
def test_while_checkouts_storm(driver, seed):
    """Never beyond the larger limit, and at the new one in the end."""
    pool = a_pool(driver, pool_size=2, max_overflow=2, max_connecting=2)
    sizes = [(2, 2), (1, 0), (5, 1), (3, 0), (1, 3)]
    over = threading.Event()
    begun = threading.Barrier(9)
    served = []

    def storm(seed):
        chance = random.Random(seed)
        begun.wait()
        count = 0
        while not over.is_set():
            handle = pool.connect()
            count += 1
            way = chance.random()
            if way < 0.1:
                handle.invalidate()
            elif way < 0.2:
                handle.dbapi_connection.close()
                handle.detach()
            elif way < 0.9:
                handle.close()
            del handle
        served.append(count)

    with switching_often():
        tasks = [Task(storm, 8 * seed + number) for number in range(8)]
        begun.wait()
        chance = random.Random(seed)
        for _ in range(60):
            size, overflow = chance.choice(sizes)
            pool.configure(
                pool_size=size,
                max_overflow=overflow,
                max_connecting=chance.choice([None, 1, 3]),
            )
            before = pool.stats().checkouts
            # in between they get on: nobody sleeps beside a free slot
            until(lambda: pool.stats().checkouts > before + 5)
            if chance.random() < 0.5:
                assert pool.stats().limit == size + overflow
        pool.configure(pool_size=2, max_overflow=1)
        over.set()
        for task in tasks:
            task.result()
    assert len(served) == 8
    assert driver.most_open <= 6
    assert pool.stats().waiting == pool.queue.making() == 0
    # a place whose connection was invalidated is kept as well
    assert len(driver.open_ones) <= pool.checkedin() <= 2
    handles = [pool.connect(timeout=0) for _ in range(3)]
    with pytest.raises(CheckoutTimeout):
        pool.connect(timeout=0)
    assert len(driver.open_ones) == len(handles) == 3


def test_many_who_configure_at_once(driver):
    """What is there in the end belongs together."""
    pool = a_pool(driver)
    whole = [
        {"pool_size": n, "min_idle": n, "max_overflow": n, "timeout": n}
        for n in (1, 4, 9)
    ]
    begun = threading.Barrier(3)

    def change(options):
        begun.wait()
        for _ in range(40):
            pool.configure(**options)
            # recreate() would refuse what does not belong together
            pool.recreate()

    with switching_often():
        for task in [Task(change, options) for options in whole]:
            task.result()
    told = options_of(pool)
    assert {name: told[name] for name in whole[0]} in whole
    assert told["limit"] == 2 * told["pool_size"]


def test_an_interrupted_one_can_be_repeated(driver):
    nth = 0
    while True:
        nth += 1
        pool = a_pool(driver, pool_size=4, min_idle=3)
        handles = [pool.connect() for _ in range(4)]
        handles.pop().close()
        interrupter = Interrupter(nth)
        interrupter.run(lambda: pool.configure(pool_size=2, min_idle=1))
        where = interrupter.where
        # it is the old, or the new, or something between that is allowed
        pool.recreate()
        pool.configure(pool_size=2, min_idle=1)
        for handle in handles:
            handle.close()
        assert numbers(pool) == (2, 2, 0, 0), where
        assert len(driver.open_ones) == 2, where
        assert pool.shutdown() == ()
        if where is None:
            break
    assert nth > 100


# max_connecting


def connecting(driver, pool, count):
    """Threads whose connects are under way, each with its gate."""
    gates = [Gate() for _ in range(count)]
    driver.then(*gates)
    tasks = [Task(pool.connect) for _ in gates]
    return gates, tasks


def test_max_connecting_for_those_under_way(driver):
    pool = a_pool(driver, pool_size=9)
    pool.connect().close()
    pool.flush()
    gates, tasks = connecting(driver, pool, 4)
    for gate in gates[:4]:
        gate.wait()
    # they count from now on
    pool.configure(max_connecting=2)
    more, others = connecting(driver, pool, 2)
    until(lambda: pool.queue.waiting() == 2)
    for place in range(2):
        gates[place].open()
        tasks[place].result()
        assert pool.queue.waiting() == 2
    gates[2].open()
    tasks[2].result()
    until(lambda: pool.queue.waiting() == 1)
    assert sum(gate.reached.is_set() for gate in more) <= 1
    # and no more limit: the last one need not wait
    pool.configure(max_connecting=None)
    for gate in more:
        gate.wait()
    for gate in gates[3:] + more:
        gate.open()
    for task in tasks[3:] + others:
        task.result()
    assert pool.queue.making() == 0


def test_a_larger_max_connecting_lets_more_in_at_once(driver):
    pool = a_pool(driver, pool_size=9, max_connecting=1)
    pool.connect().close()
    pool.flush()
    gates, tasks = connecting(driver, pool, 4)
    gates[0].wait()
    until(lambda: pool.queue.waiting() == 3)
    pool.configure(max_connecting=3)
    for gate in gates[:3]:
        gate.wait()
    assert pool.queue.waiting() == 1
    for gate in gates:
        gate.open()
    for task in tasks:
        task.result()


# the reaper's


def test_what_the_rounds_go_by(driver, monkeypatch):
    clock = Clock(monkeypatch)
    pool = a_pool(driver, jitter=0, pool_size=5)
    returned(pool, 3)
    work(pool, clock, 1000)
    assert len(driver.open_ones) == 3
    pool.configure(idle_timeout=500, min_idle=1)
    work(pool, clock)
    assert open_numbers(driver) == [3]
    pool.configure(max_age=100, min_idle=2)
    work(pool, clock)
    assert open_numbers(driver) == [4, 5]
    assert closed(pool) == {"idle": 2, "age": 1}
    pool.configure(idle_timeout=None, max_age=None, min_idle=0)
    work(pool, clock, 5000)
    assert open_numbers(driver) == [4, 5]


def looked_after(pool):
    return any(ref() is pool for ref in list(reaper._rounds))


def round_due(pool):
    [at] = [at for ref, at in list(reaper._rounds.items()) if ref() is pool]
    return at


def test_it_takes_effect_without_waiting_for_a_round(driver):
    pool = a_pool(driver, pool_size=5, reaping_frequency=3600)
    pool.connect().close()
    pool.configure(min_idle=4)
    until(lambda: pool.stats().idle == 4)
    pool.configure(min_idle=0, max_age=1e-9)
    until(lambda: closed(pool).get("age") == 4)


def test_another_frequency(driver):
    pool = a_pool(driver, reaping_frequency=3600)
    rounds = threading.Semaphore(0)
    tend = pool._care.tend
    pool._care.tend = lambda *args: (tend(*args), rounds.release())[0]
    pool.connect().close()
    assert rounds.acquire(timeout=20)
    pool.configure(reaping_frequency=0.001)
    for _ in range(5):
        assert rounds.acquire(timeout=20)
    pool.configure(reaping_frequency=3000)
    until(lambda: round_due(pool) > monotonic() + 2000)


def test_no_background_work_any_more_and_again(driver):
    pool = a_pool(driver, reaping_frequency=3600)
    pool.connect().close()
    until(lambda: looked_after(pool))
    pool.configure(reaping_frequency=None, min_idle=2)
    until(lambda: not looked_after(pool))
    assert driver.connects == 1
    pool.configure(reaping_frequency="3600")
    until(lambda: looked_after(pool))
    until(lambda: pool.stats().idle == 2)


def test_the_first_background_work(driver):
    pool = a_pool(driver, reaping_frequency=None)
    # not before its first checkout
    pool.configure(reaping_frequency=3600)
    assert not looked_after(pool)
    pool.configure(reaping_frequency=None)
    handle = pool.connect()
    assert not looked_after(pool)
    pool.configure(reaping_frequency=3600)
    until(lambda: looked_after(pool))
    handle.close()


def test_during_the_first_connect(driver):
    gate = Gate()
    driver.then(gate)
    pool = a_pool(driver, reaping_frequency=None, min_idle=2)
    task = Task(pool.connect)
    gate.wait()
    pool.configure(reaping_frequency=3600)
    gate.open()
    task.result()
    until(lambda: looked_after(pool))
    until(lambda: pool.stats().idle == 2)


def test_a_pool_that_is_shut_down(driver):
    """What is set is for what recreate() gives."""
    pool = a_pool(driver, reaping_frequency=3600)
    handle = pool.connect()
    pool.shutdown(0)
    pool.configure(pool_size=6, min_idle=2, max_age=100, max_connecting=1)
    with pytest.raises(PoolShutdown):
        pool.connect()
    handle.close()
    assert driver.open_ones == []
    assert driver.connects == 1
    new = pool.recreate()
    assert (new.size(), new.settings.min_idle) == (6, 2)
