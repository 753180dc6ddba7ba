"""Wrapper: a pool in the place of one global object."""

from __future__ import annotations

import copy

import pytest
from clients import Client
from clients import Service
from clients import a_pool
from sqlalchemy.exc import ArgumentError
from stub import Gate
from stub import Task
from stub import switching_often

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import CreatorError
from sa_reaperpool import ReaperPool
from sa_reaperpool import Wrapper


class Store(Client):
    """A client with a bit of everything."""

    port = 6379
    handler = None
    during = staticmethod(lambda: None)

    class Error(Exception):
        """As DBAPI connections have theirs."""

    def __init__(self, service, number):
        super().__init__(service, number)
        self.values = {}

    def get(self, key):
        type(self).during()
        return self.values.get(key)

    def set(self, key, value):
        self.values[key] = value
        return self

    def fail(self):
        raise ZeroDivisionError

    def fail_itself(self):
        raise self.Error("that is why")

    def info(self):
        return f"about {self.number}"

    @property
    def numbered(self):
        return f"number {self.number}"

    def __getitem__(self, key):
        return self.values[key]

    def __setitem__(self, key, value):
        self.values[key] = value

    def __delitem__(self, key):
        del self.values[key]

    def __contains__(self, key):
        return key in self.values


@pytest.fixture
def service():
    return Service(Store)


@pytest.fixture
def pool(service):
    return a_pool(service.open)


@pytest.fixture
def one():
    """A wrapper of a pool that has one object."""
    return Wrapper(a_pool(Service(Store).open, pool_size=1))


def warm(pool):
    for handle in [pool.connect() for _ in range(pool.size())]:
        handle.close()


# calls


def test_each_call_checks_out_and_in(pool, service, monkeypatch):
    wrapper = Wrapper(pool)
    out = []
    monkeypatch.setattr(Store, "during", lambda: out.append(pool.checkedout()))
    assert wrapper.get("a") is None
    assert out == [1]
    assert pool.checkedout() == 0
    assert len(service.clients) == 1


def test_calls_in_a_row_may_meet_different_objects(pool):
    warm(pool)
    wrapper = Wrapper(pool)
    assert wrapper.echo()[0] != wrapper.echo()[0]


def test_arguments_of_any_name(one):
    names = {"self": 1, "name": 2, "function": 3, "timeout": 4, "pool": 5}
    number, args, kwargs = one.echo(1, 2, **{"client": 6})
    assert (number, args, kwargs) == (1, (1, 2), {"client": 6})
    del names["self"]
    assert one.echo(**names)[2] == names


def test_a_method_may_be_kept(one):
    echo = one.echo
    one.pool.refresh()
    assert echo("a") == (2, ("a",), {})


def test_a_known_method_takes_one_checkout(one):
    def checkouts(use):
        before = one.pool.stats().checkouts
        use()
        return one.pool.stats().checkouts - before

    one.get("a")
    assert checkouts(lambda: one.get("a")) == 1
    # what is no method of the class might be something else the next time
    assert checkouts(lambda: one.port) == 1
    assert checkouts(lambda: one.port) == 1


def test_a_call_that_fails_gives_the_object_back(one):
    with pytest.raises(ZeroDivisionError):
        one.fail()
    assert one.pool.checkedout() == 0
    assert one.get("a") is None


def test_a_method_that_returns_its_object(one):
    """It would be used while somebody else has it."""
    assert one.set("a", 1) is one
    assert one.set("b", 2).get("a") == 1


def test_names_that_handles_have_themselves(one):
    assert one.info() == "about 1"
    with pytest.raises(AttributeError, match="'Store' object has no"):
        one.invalidate()
    with one.with_connection():
        assert one.info() == "about 1"


def test_quit_closes_one_of_the_objects(pool, service):
    warm(pool)
    wrapper = Wrapper(pool)
    wrapper.quit()
    assert len(service.quits) == 1
    assert pool.stats().idle == 2


# attributes


def test_attributes_are_read(one):
    assert one.port == 6379
    assert one.numbered == "number 1"
    assert one.handler is None
    assert one.values == {}
    assert one.pool.checkedout() == 0


def test_attributes_that_are_not_there(one):
    with pytest.raises(AttributeError, match="'Store' object has no"):
        one.prot
    assert not hasattr(one, "prot")
    assert hasattr(one, "get") and hasattr(one, "port")
    assert one.pool.checkedout() == 0


def test_an_attribute_that_is_a_function_here_and_a_value_there(one):
    with one.with_connection() as client:
        client.driver_connection.handler = lambda: "called"
    assert one.handler() == "called"
    with one.with_connection() as client:
        client.driver_connection.handler = 5
    assert one.handler == 5


def test_a_class_is_one(one):
    assert one.Error is Store.Error
    # now known, as a method would be
    for _ in range(2):
        with pytest.raises(one.Error, match="that is why"):
            one.fail_itself()
    assert isinstance(one.Error("x"), one.Error)
    assert one.pool.checkedout() == 0


def test_another_creators_objects_are_looked_at_anew(one):
    class Other(Client):
        get = "a value"

    assert callable(one.get)
    one.pool.connect_with(Service(Other).open)
    assert one.get == "a value"


def test_attributes_cannot_be_set(one):
    with pytest.raises(AttributeError, match="in the pool's creator"):
        one.port = 5
    with pytest.raises(AttributeError, match="'pool' cannot be set"):
        one.pool = None
    assert one.port == 6379


@pytest.mark.parametrize("given", [Store, None, "redis://me:s3cret@host"])
def test_only_a_pool_is_wrapped(given):
    with pytest.raises(ArgumentError, match="takes a ReaperPool") as caught:
        Wrapper(given)
    assert "s3cret" not in str(caught.value)


# what Python looks for on the class


def test_items(one):
    one["a"] = 1
    assert one["a"] == 1
    assert "a" in one and "b" not in one
    del one["a"]
    with pytest.raises(KeyError):
        one["a"]
    assert one.pool.checkedout() == 0


def test_items_of_an_object_that_has_none():
    wrapper = Wrapper(a_pool(Service().open))
    with pytest.raises(TypeError, match="'Client' object is not subscr"):
        wrapper["a"]
    assert wrapper.pool.checkedout() == 0


def test_nobody_iterates(one):
    with pytest.raises(TypeError, match="not iterable"):
        iter(one)


def test_some_questions_need_no_object(service):
    pool = a_pool(service.open, logging_name="stores")
    wrapper = Wrapper(pool)
    assert wrapper
    assert "Wrapper of <sa_reaperpool.pool.ReaperPool" in repr(wrapper)
    assert not hasattr(wrapper, "__deepcopy__")
    assert copy.copy(wrapper).pool is pool
    assert wrapper == wrapper and hash(wrapper)
    assert service.clients == []


# with_connection()


def test_a_block_keeps_one_object(pool):
    warm(pool)
    wrapper = Wrapper(pool)
    with wrapper.with_connection() as client:
        numbers = {wrapper.echo()[0] for _ in range(5)}
        assert numbers == {client.number} == {wrapper.number}
        assert pool.checkedout() == 1
    assert pool.checkedout() == 0


def test_blocks_in_blocks_keep_the_same(pool):
    wrapper = Wrapper(pool)
    with wrapper.with_connection() as outer:
        with wrapper.with_connection() as inner:
            assert inner is outer
            # another that stands for the same pool
            with Wrapper(pool).with_connection() as third:
                assert third is outer
        assert pool.checkedout() == 1
        assert wrapper.echo()[0] == outer.number
    assert pool.checkedout() == 0


def test_a_plain_checkout_in_a_block_differs(pool):
    with Wrapper(pool).with_connection() as client:
        with pool.connect() as other:
            assert other.number != client.number


def test_a_block_of_one_pool_is_none_of_another(pool):
    others = Wrapper(a_pool(Service(Store).open))
    with Wrapper(pool).with_connection():
        others.set("a", 1)
        assert others.pool.checkedout() == 0
        assert pool.checkedout() == 1


def test_a_block_is_its_threads_own(pool):
    wrapper = Wrapper(pool)
    with wrapper.with_connection() as client:
        assert Task(wrapper.echo).result()[0] != client.number
        assert Task(wrapper.echo).result()[0] != client.number
        assert wrapper.echo()[0] == client.number


def test_a_block_gives_back_whatever_happens(one):
    with pytest.raises(ZeroDivisionError):
        with one.with_connection():
            with one.with_connection():
                one.fail()
    assert one.pool.checkedout() == 0
    assert one.set("a", 1).get("a") == 1


@pytest.mark.parametrize("end", ["invalidate", "close"])
def test_the_object_of_a_block_is_gone(one, end):
    with one.with_connection() as client:
        one.set("a", 1)
        getattr(client, end)()
        # as after a release inside of a block: another one is reserved
        assert one.get("a") == (None if end == "invalidate" else 1)
        assert one.pool.checkedout() == 0


def test_time_limits(one):
    gate = Gate()

    def hold():
        with one.with_connection():
            gate()

    task = Task(hold)
    gate.wait()
    with pytest.raises(CheckoutTimeout) as caught:
        one.with_connection(timeout=0.01).__enter__()
    assert caught.value.limit == 0.01
    with pytest.raises(CheckoutTimeout) as caught:
        one.get("a")
    assert caught.value.limit == 0
    with one.pool.checkout_timeout(0.02):
        with pytest.raises(CheckoutTimeout) as caught:
            one.get("a")
    assert caught.value.limit == 0.02
    gate.open()
    task.result()
    with one.with_connection(timeout=None) as client:
        assert client.number == 1


def test_it_is_the_pool_that_keeps_one_per_thread(service):
    """What is reserved by other ways is used by the wrapper too."""
    pool = ReaperPool(service.open, reset_on_return=None)
    wrapper = Wrapper(pool)
    pool.connection().set("a", 1)
    other = pool.connect()
    assert wrapper.get("a") == 1
    with wrapper.with_connection() as handle:
        assert handle is pool.connection()
    assert pool.release_connection() and pool.checkedout() == 1
    other.close()


# the pool behind it


def test_before_connect_with(service):
    wrapper = Wrapper(a_pool(logging_name="stores"))
    for use in (
        lambda: wrapper.get("a"),
        lambda: wrapper["a"],
        lambda: hasattr(wrapper, "get"),
    ):
        with pytest.raises(CreatorError, match="'stores'"):
            use()
    wrapper.pool.connect_with(service.open)
    assert wrapper.get("a") is None


def test_a_broken_object_is_replaced(one):
    with one.with_connection() as client:
        client.invalidate()
    assert one.echo()[0] == 2


def test_two_threads_never_meet_in_one_object():
    class Exclusive(Client):
        busy = False

        def work(self):
            assert not self.busy
            self.busy = True
            for _ in range(20):
                assert self.busy
            self.busy = False
            return self.number

    service = Service(Exclusive)
    wrapper = Wrapper(a_pool(service.open, pool_size=3, timeout=None))

    def work():
        for _ in range(40):
            wrapper.work()
            with wrapper.with_connection() as client:
                assert {wrapper.work(), wrapper.work()} == {client.number}

    with switching_often():
        for task in [Task(work) for _ in range(6)]:
            task.result()
    assert len(service.clients) <= 3
    assert wrapper.pool.checkedout() == 0
