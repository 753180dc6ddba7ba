"""What failed connects said: all but the passwords."""

from __future__ import annotations

import functools
from urllib.parse import quote
from urllib.parse import quote_plus

import pytest
from sqlalchemy import create_engine
from sqlalchemy import make_url
from stub import Driver
from stub import StubError

from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ReaperPool
from sa_reaperpool.complaint import LONGEST
from sa_reaperpool.complaint import complaint
from sa_reaperpool.complaint import redact
from sa_reaperpool.complaint import secrets_of

SECRET = "hunter2"


@pytest.mark.parametrize(
    "text, redacted",
    [
        ("no server at db.example:5432", "no server at db.example:5432"),
        ("password authentication failed for user app", None),
        ("password=hunter2 host=a", "password=*** host=a"),
        ("password = 'hunter2 x' host=a", "password = *** host=a"),
        ('{"password": "hunter2", "host": "a"}', None),
        ("{'passwd': 'hunter2'}", "{'passwd': ***}"),
        ("PGPASSWORD=hunter2", "PGPASSWORD=***"),
        ("db_pwd:hunter2;", "db_pwd:***;"),
        ("at postgresql://app:hunter2@db/app", None),
        ("at app:hunter2@db", "at app:***@db"),
        ("at app:hunter2@hunter2@db/app", "at app:***@db/app"),
        ("at redis://:hunter2@[::1]:6379", "at redis://:***@[::1]:6379"),
        ("a token=hunter2, a secret: hunter2", None),
        ("could not connect to server at 10:30", None),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_what_looks_like_a_password(text, redacted):
    found = redact(text)
    assert SECRET not in found
    if redacted is not None:
        assert found == redacted
    elif SECRET not in text:
        assert found == text


def made_by_closure():
    arguments = {"host": "db", "password": SECRET}
    return lambda: arguments


def made_by_default(dsn=f"host=db password={SECRET}"):
    pass


def of_an_engine():
    url = f"postgresql+psycopg2://app:{SECRET}@db/app"
    return create_engine(url, poolclass=ReaperPool).pool.creator


CREATORS = {
    "closure": made_by_closure(),
    "default": made_by_default,
    "partial": functools.partial(dict, host="db", password=SECRET),
    "partial with a dsn": functools.partial(str, f"a://app:{SECRET}@db"),
    "partial with a URL": functools.partial(
        str, make_url(f"a://app:{SECRET}@db")
    ),
    "engine": of_an_engine(),
}


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u:{}@127.0.0.1:1/d",
        "host=127.0.0.1 port=1 connect_timeout=1 password={}",
        "postgresql://127.0.0.1:1/d?user=u&password={}",
    ],
)
@pytest.mark.parametrize(
    "secret", ["hunter22/zebra", "zebra hunter22", "hunter22&zebra", "a%zebra"]
)
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_what_libpq_makes_of_one_that_is_not_quoted(driver, address, secret):
    connect = pytest.importorskip(driver).connect
    with pytest.raises(Exception) as caught:
        connect(address.format(secret))
    told = complaint(caught.value)
    assert "zebra" not in told and "hunter22" not in told


@pytest.mark.parametrize("creator", CREATORS.values(), ids=CREATORS)
def test_what_the_creator_was_made_with(creator):
    assert SECRET in secrets_of(creator)
    found = complaint(ValueError(f"cannot use <{SECRET}>"), creator)
    assert found == "ValueError: cannot use <***>"


@pytest.mark.parametrize("secret", ["p@ss w%rd", "x'y\\z", "a b", "é&/"])
def test_however_it_is_written(secret):
    creator = functools.partial(dict, password=secret)
    for text in (secret, quote(secret), quote_plus(secret), repr(secret)):
        assert complaint(ValueError(f"<{text}>"), creator) in (
            "ValueError: <***>",
            "ValueError: <'***'>",
            'ValueError: <"***">',
        )


def test_a_short_one_does_not_garble_all():
    creator = functools.partial(dict, password="a")
    error = ValueError("a bad day, a=b")
    assert complaint(error, creator) == "ValueError: *** bad day, ***=b"


@pytest.mark.parametrize("creator", [None, print, 5, object()])
def test_any_creator(creator):
    assert complaint(ValueError("no"), creator) == "ValueError: no"


def test_one_short_line():
    text = complaint(ValueError("a\n\n  b\n" * 1000))
    assert text.startswith("ValueError: a b a b") and len(text) == LONGEST


@pytest.mark.parametrize(
    "text, told",
    [
        ("error near \"FRM\"\nLINE 1: SELECT 'sk_1' FRM\n   ^\n", None),
        ("error near \"FRM\"\n  LINE 12: ...'sk_1' FRM\nHINT: sk_1", None),
        ("error near \"FRM\"\nZEILE 1: SELECT 'sk_1' FRM\n      ^", None),
        ("error near \"FRM\"\nCONTEXT:  SQL statement 'sk_1'", None),
        ("error near \"FRM\"\n[SQL: SELECT 'sk_1' FRM]\n[para", None),
        ("error near \"FRM\"\n[parameters: ('sk_1',)]\n", None),
        ("LINE 1: SELECT 'sk_1'", ""),
        (
            "(1064, \"an error in your SQL syntax; to use near 'FRM "
            "\n'sk_1'' at line 1\")",
            '(1064, "an error in your SQL syntax; to use near *** at line 1")',
        ),
        ("a\nb, of LINE 1: too", "a b, of LINE 1: too"),
        ("a ^ b\nOFFLINE 1: c", "a ^ b OFFLINE 1: c"),
    ],
)
def test_no_statement_that_failed(text, told):
    told = 'error near "FRM"' if told is None else told
    assert complaint(ValueError(text)) == f"ValueError: {told}".strip()


@pytest.mark.parametrize("text", ["\n" * 200_000, " \n^" * 100_000])
def test_a_long_one_of_many_lines(text):
    assert complaint(ValueError(text)).startswith("ValueError:")


def test_an_error_that_cannot_be_shown():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError

    assert complaint(Broken()) == "Broken"


def test_the_pools_error_has_none():
    driver = Driver()

    def connect(password=SECRET):
        return driver.connect()

    pool = ReaperPool(connect, 1, 0, timeout=0, reaping_frequency=None)
    driver.then(StubError(f"bad {SECRET}"))
    with pytest.raises(StubError):
        pool.connect()
    driver.then(lambda: refusals.append(refused(pool)))
    refusals = []
    pool.connect().close()
    [error] = refusals
    assert error.connect_error == "StubError: bad ***"
    assert SECRET not in str(error) + repr(vars(error))


def refused(pool):
    """From within a connect, while nothing else is open."""
    with pytest.raises(CheckoutTimeout) as caught:
        pool.connect()
    return caught.value
