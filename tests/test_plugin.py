"""The plugin: options by URL, by keyword and from a configuration file."""

from __future__ import annotations

import sqlite3
import types
from importlib.metadata import entry_points

import pytest
from sqlalchemy import create_engine
from sqlalchemy import engine_from_config
from sqlalchemy import text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool
from sqlalchemy.pool import QueuePool
from sqlalchemy.pool import reset_commit
from sqlalchemy.pool import reset_none

from sa_reaperpool import ReaperPool
from sa_reaperpool.options import OPTIONS
from sa_reaperpool.options import validate
from sa_reaperpool.plugin import ReaperPoolPlugin

PASSWORD = "hunter2"

# every option, with a value as a URL has it, and what the pool gets
FROM_URL = {
    "pool_size": ("3", 3),
    "max_overflow": ("-1", -1),
    "pool_timeout": ("0.5", 0.5),
    "pool_recycle": ("3600.5", 3600.5),
    "pool_pre_ping": ("true", True),
    "pool_use_lifo": ("1", True),
    "pool_reset_on_return": ("none", reset_none),
    "reaping_frequency": ("0", None),
    "dead_connection_timeout": ("2", 2),
    "max_age": ("1800", 1800),
    "idle_timeout": ("600.5", 600.5),
    "min_idle": ("2", 2),
    "keepalive": ("none", None),
    "jitter": ("0.1", 0.1),
    "liveness": ("ping", "ping"),
    "reservation": ("thread", "thread"),
    "max_waiting": ("0", 0),
    "max_connecting": ("4", 4),
    "leak_timeout": ("60", 60),
    "reclaim_timeout": ("90.5", 90.5),
    "on_deadlock": ("Raise", "raise"),
}
KEYWORDS = {option.name: option.keyword for option in OPTIONS}


class GivenPool(ReaperPool):
    """Remembers what create_engine() gave it."""

    def __init__(self, creator, **kw):
        self.given = {k: kw[k] for k in KEYWORDS.values() if k in kw}
        super().__init__(creator, **kw)


def given(query, url="sqlite:///nowhere.db", **kw):
    kw.setdefault("poolclass", GivenPool)
    engine = create_engine(f"{url}?plugin=reaperpool&{query}", **kw)
    return engine.pool.given


def refusal(query, url="sqlite:///nowhere.db", **kw):
    # the error says enough, but not the password
    with pytest.raises(ArgumentError) as caught:
        create_engine(f"{url}?plugin=reaperpool&{query}", **kw)
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file_url(tmp_path):
    return f"sqlite:///{tmp_path}/test.db"


def test_entry_point_is_installed():
    (found,) = entry_points(group="sqlalchemy.plugins", name="reaperpool")
    assert found.load() is ReaperPoolPlugin


# a real engine


def test_engine_by_url(file_url):
    engine = create_engine(
        f"{file_url}?plugin=reaperpool&pool_size=2&max_age=1800"
    )
    assert type(engine.pool) is ReaperPool
    assert engine.pool.size() == 2
    with engine.connect() as connection:
        assert connection.scalar(text("select 1")) == 1
        assert engine.pool.checkedout() == 1
    assert engine.pool.checkedin() == 1
    assert not engine.url.query
    engine.dispose()
    assert engine.pool.size() == 2


def test_engine_by_keywords(file_url):
    engine = create_engine(
        file_url, plugins=["reaperpool"], pool_size="2", max_age=1800
    )
    assert type(engine.pool) is ReaperPool
    assert engine.pool.size() == 2
    with engine.connect() as connection:
        assert connection.scalar(text("select 1")) == 1
    engine.dispose()


def test_engine_from_config(file_url):
    engine = engine_from_config(
        {
            "sqlalchemy.url": f"{file_url}?plugin=reaperpool&min_idle=1",
            "sqlalchemy.echo": "false",
            "sqlalchemy.pool_size": "2",
            "sqlalchemy.pool_timeout": "0.5",
            "sqlalchemy.pool_recycle": "none",
            "sqlalchemy.pool_pre_ping": "false",
            "sqlalchemy.pool_reset_on_return": "commit",
            "sqlalchemy.max_age": "1800",
            "sqlalchemy.liveness": "off",
        },
        poolclass=GivenPool,
    )
    assert engine.pool.given == {
        "min_idle": 1,
        "pool_size": 2,
        # SQLAlchemy by itself takes whole seconds only
        "timeout": 0.5,
        "recycle": -1,
        "pre_ping": False,
        "reset_on_return": reset_commit,
        "max_age": 1800,
        "liveness": "off",
    }
    with engine.connect() as connection:
        assert connection.scalar(text("select 1")) == 1
    engine.dispose()


def test_no_option_is_needed(file_url):
    engine = create_engine(f"{file_url}?plugin=reaperpool")
    assert type(engine.pool) is ReaperPool
    assert engine.pool.size() == 5
    with engine.connect() as connection:
        assert connection.scalar(text("select 1")) == 1
    engine.dispose()


# every option, from wherever


def test_every_option_has_an_example():
    assert FROM_URL.keys() == KEYWORDS.keys()


@pytest.mark.parametrize("name", FROM_URL)
def test_option_in_url(name):
    value, result = FROM_URL[name]
    assert given(f"{name}={value}") == {KEYWORDS[name]: result}


@pytest.mark.parametrize("name", FROM_URL)
def test_option_by_keyword(name):
    value, result = FROM_URL[name]
    for form in (value, result):
        assert given("", **{name: form}) == {KEYWORDS[name]: result}


@pytest.mark.parametrize("name", FROM_URL)
def test_same_value_in_url_and_keyword(name):
    value, result = FROM_URL[name]
    assert given(f"{name}={value}", **{name: result}) == {
        KEYWORDS[name]: result
    }


def test_all_options_at_once():
    query = "&".join(
        f"{name}={value}" for name, (value, _) in FROM_URL.items()
    )
    assert given(query) == {
        KEYWORDS[name]: result for name, (_, result) in FROM_URL.items()
    }


def test_options_outlive_a_dispose():
    query = "&".join(
        f"{name}={value}" for name, (value, _) in FROM_URL.items()
    )
    engine = create_engine(
        f"sqlite:///nowhere.db?plugin=reaperpool&{query}", poolclass=GivenPool
    )
    first = engine.pool
    engine.dispose()
    assert engine.pool is not first
    # that liveness=ping may be said by pre_ping is the pool's business
    assert validate(engine.pool.given) == validate(first.given)


@pytest.mark.parametrize(
    "alias, name",
    [("pool", "pool_size"), ("checkout_timeout", "pool_timeout")],
)
def test_activerecords_names(alias, name):
    assert given(f"{alias}=7") == {KEYWORDS[name]: 7}
    assert given(f"{alias}=7", **{name: 7}) == {KEYWORDS[name]: 7}


def test_twice_in_url_with_one_meaning():
    assert given("max_age=10&max_age=10.0") == {"max_age": 10}


def test_plugin_named_in_both_places():
    assert given("max_age=10", plugins=["reaperpool"], min_idle=1) == {
        "max_age": 10,
        "min_idle": 1,
    }


def test_options_are_gone_from_the_url():
    engine = create_engine(
        "postgresql+psycopg2://h/d?plugin=reaperpool&pool=5&keepalive=60"
        "&checkout_timeout=2&max_age=1800&keepalives=1&connect_timeout=3"
    )
    assert dict(engine.url.query) == {
        "keepalives": "1",
        "connect_timeout": "3",
    }


# bad input


@pytest.mark.parametrize("name", FROM_URL)
def test_bad_value_in_url_or_keyword(name):
    assert refusal(f"{name}=wrong").startswith(
        f"Invalid value for option '{name}': 'wrong' (allowed: "
    )
    assert refusal("", **{name: [1]}).startswith(
        f"Invalid value for option '{name}': [1] (allowed: "
    )


def test_options_that_do_not_fit_together():
    assert refusal("pool_size=2&min_idle=3") == (
        "Invalid value for option 'min_idle': 3 "
        "(allowed: a whole number from 0 to pool_size, which is 2)"
    )
    assert refusal("pool_pre_ping=true", liveness="off") == (
        "Invalid value for option 'liveness': 'off' "
        "(allowed: ping, since pool_pre_ping is true)"
    )


def test_bad_input_is_found_before_any_connection(file_url, tmp_path):
    refusal("max_age=-1", url=file_url)
    refusal("pool_size=2&min_idle=3", url=file_url)
    assert not list(tmp_path.iterdir())


def test_different_values_in_url_and_keyword():
    assert refusal("max_age=1800", max_age=900) == (
        "Option 'max_age' is given twice, with different values: "
        "'1800' for 'max_age' in the URL, 900 for 'max_age' as a keyword"
    )
    assert refusal("pool=5", pool_size=6) == (
        "Option 'pool_size' is given twice, with different values: "
        "'5' for 'pool' in the URL, 6 for 'pool_size' as a keyword"
    )
    # None is a value, too
    assert "'max_age'" in refusal("max_age=1800", max_age=None)


def test_different_values_in_url_twice():
    assert refusal("max_age=1800&max_age=900") == (
        "Option 'max_age' is given twice, with different values: "
        "'1800' for 'max_age' in the URL, '900' for 'max_age' in the URL"
    )


@pytest.mark.parametrize(
    "alias, name",
    [("pool", "pool_size"), ("checkout_timeout", "pool_timeout")],
)
def test_option_and_its_other_name(alias, name):
    assert refusal(f"{alias}=5&{name}=5") == (
        f"'{alias}' and '{name}' are two names for one option: "
        "give only one of them in the URL"
    )


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("max_agee", "max_age"),
        ("max_ge", "max_age"),
        ("max-age", "max_age"),
        ("mxa_age", "max_age"),
        ("Max_age", "max_age"),
        ("jitters", "jitter"),
        ("pool_sise", "pool_size"),
        ("pools", "pool"),
        ("checkout_timeouts", "checkout_timeout"),
        ("keepaliv", "keepalive"),
    ],
)
@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///nowhere.db",
        f"postgresql+psycopg2://app:{PASSWORD}@nowhere/db",
        f"postgresql+psycopg://app:{PASSWORD}@nowhere/db",
        f"mysql+pymysql://app:{PASSWORD}@nowhere/db",
    ],
)
def test_one_letter_away(url, wrong, right):
    assert refusal(f"{wrong}={PASSWORD}", url=url) == (
        f"Unknown parameter '{wrong}' in the URL: did you mean '{right}'?"
    )


@pytest.mark.parametrize(
    "url, name",
    [
        # libpq's, and one letter from our keepalive
        ("postgresql+psycopg2://nowhere/db", "keepalives"),
        ("postgresql+psycopg://nowhere/db", "keepalives"),
        ("postgresql+psycopg2://nowhere/db", "connect_timeout"),
        ("mysql+pymysql://nowhere/db", "charset"),
        # two letters are no slip: the driver shall say what it thinks
        ("postgresql+psycopg2://nowhere/db", "max_ageee"),
        ("postgresql+psycopg2://nowhere/db", "pool_sizes_"),
        ("postgresql+psycopg2://nowhere/db", "amx_gae"),
        ("postgresql+psycopg2://nowhere/db", "mzz_age"),
        ("postgresql+psycopg2://nowhere/db", "mgx_aae"),
    ],
)
def test_what_goes_to_the_driver(url, name):
    engine = create_engine(f"{url}?plugin=reaperpool&{name}=1")
    assert dict(engine.url.query) == {name: "1"}
    _, connect_parameters = engine.dialect.create_connect_args(engine.url)
    assert connect_parameters[name] == "1"


def test_sqlites_own_parameters(file_url):
    engine = create_engine(f"{file_url}?plugin=reaperpool&timeout=1.5")
    _, connect_parameters = engine.dialect.create_connect_args(engine.url)
    assert connect_parameters["timeout"] == 1.5


def test_drivers_signature_is_asked():
    driver = types.ModuleType("driver")
    driver.paramstyle = "format"
    driver.connect = lambda host, jitters, **kw: None
    url = "mysql+pymysql://nowhere/db"
    assert given("jitters=1", url=url, module=driver) == {}
    driver.connect = lambda host, **jitters: None
    assert "'jitter'" in refusal("jitters=1", url=url, module=driver)
    # written in C
    driver.connect = sqlite3.connect
    assert "'jitter'" in refusal("jitters=1", url=url, module=driver)


def test_slip_is_found_without_the_driver(monkeypatch):
    from sqlalchemy.dialects.mysql import pymysql

    def import_dbapi(cls):
        raise ModuleNotFoundError("No module named 'pymysql'")

    monkeypatch.setattr(
        pymysql.dialect, "import_dbapi", classmethod(import_dbapi)
    )
    assert "'max_age'" in refusal("max_agee=1", url="mysql+pymysql://h/db")


def test_explicit_pool():
    pool = QueuePool(lambda: None)
    for number_or_pool in (pool, 5):
        assert refusal("", pool=number_or_pool) == (
            "plugin 'reaperpool' makes the engine's pool, so that it cannot "
            "be used with an explicit pool= (a number of connections is "
            "pool_size=)"
        )


ASYNCIO = (
    "plugin 'reaperpool' cannot be used with an asyncio engine: "
    "its pool is for threads"
)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_asyncio_engine(driver):
    url = f"postgresql+{driver}://app:{PASSWORD}@nowhere/db"
    # what create_async_engine() adds, which itself needs greenlet
    assert refusal("", url=url, _is_async=True) == ASYNCIO


def test_create_async_engine():
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import create_async_engine

    with pytest.raises(ArgumentError) as caught:
        create_async_engine("postgresql+psycopg://h/d?plugin=reaperpool")
    assert str(caught.value) == ASYNCIO


def test_another_pool_class():
    assert refusal("", poolclass=NullPool) == (
        "plugin 'reaperpool' cannot be used with poolclass=NullPool, "
        "which is not a ReaperPool"
    )


def test_explicit_reaperpool_class_is_kept():
    engine = create_engine(
        "sqlite:///nowhere.db?plugin=reaperpool", poolclass=GivenPool
    )
    assert type(engine.pool) is GivenPool
