"""No password in any message, whatever slipped into which place."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import create_engine
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from sa_reaperpool import ReaperPool
from sa_reaperpool import redact

PASSWORDS = ["s3cr-et/pw", "s3cr%40et%2Fpw", "s3cr@et-pw", "s3cr:et?pw"]
PARTS = ["s3cr", "et/pw", "et%2Fpw", "et-pw", "et?pw", "pw@"]


def shows_nothing(message):
    assert [part for part in PARTS if part in message] == [], message


SLIPS = [
    "postgresql://me:{}@host/x",
    "//me:{}@host",
    "5/me:{}@host",
    "{}@host",
    "10?password={}",
    "10;passwd={}",
    "10&sslpassword={}",
    "me:{}",
]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("slip", SLIPS)
def test_options(slip, password):
    given = slip.format(password)
    with pytest.raises(ArgumentError, match="'max_age'") as caught:
        ReaperPool(lambda: None, max_age=given)
    shows_nothing(str(caught.value))
    for other in ([given], {"url": given}, make_url("sqlite://"), object()):
        shows_nothing(redact.value(other))


@pytest.mark.parametrize("password", PASSWORDS[:2])
@pytest.mark.parametrize("slip", SLIPS)
def test_plugin(slip, password):
    url = make_url(f"sqlite://?plugin=reaperpool&max_age={'1' * 90}")
    for values in ([slip], [slip, "10"], ["10", "20"]):
        values = [value.format(password) for value in values]
        with pytest.raises(ArgumentError) as caught:
            create_engine(url.update_query_dict({"max_age": values}))
        shows_nothing(str(caught.value))


@pytest.mark.parametrize(
    "value, shown",
    [
        ("ten", "'ten'"),
        ("10 s", "'10 s'"),
        ("1_0.5e+x", "'1_0.5e+x'"),
        (-1, "-1"),
        (b"x", "b'x'"),
        ("5/me", "'5***'"),
        ("me/host", "'***'"),
        ("5@host", "'***'"),
    ],
)
def test_what_is_shown(value, shown):
    assert redact.value(value) == shown


def test_secrets_in_all_forms():
    url = make_url("x://me:a%2Fb%20c@h/d?password=p%26q&ssl_token=t&app=n")
    found = redact.secrets(url)
    assert found == {"a/b c", "a%2Fb%20c", "a%2Fb+c", "p&q", "p%26q", "t"}
    words = "no a/b c, no a%2Fb+c, no p%26q, but n"
    assert redact.without(words, found) == "no ***, no ***, no ***, bu*** n"


# URLs of which no part is a place to connect to, or a password by itself
COMMANDS = [
    ["demo", "nosuch://me:{}@host/x"],
    ["demo", "postgresql://me:{}@host:port/x"],
    ["demo", "postgresql+nosuch://me:{}@host/x"],
    ["demo", "{}"],
    ["demo", "me:{}@host/x"],
    ["demo", "sqlite://", "postgresql://me:{}@host/x"],
    ["demo", "--threads", "postgresql://me:{}@host/x"],
    ["postgresql://me:{}@host/x"],
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command_line(command):
    for password in PASSWORDS:
        done = subprocess.run(
            [sys.executable, "-m", "sa_reaperpool"]
            + [word.format(password) for word in command],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 2
        assert "error: " in done.stderr
        shows_nothing(done.stdout + done.stderr)
