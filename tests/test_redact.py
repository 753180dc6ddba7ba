"""No password in any message, whatever slipped into which place."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import unquote

import pytest
from sqlalchemy import create_engine
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from sa_reaperpool import ReaperPool
from sa_reaperpool import redact
from sa_reaperpool.__main__ import main
from sa_reaperpool.demo_database import Database
from sa_reaperpool.demo_url import Unusable

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


SECRET = "tiger wolf\t'lynx\"bear\\boar\u20ac"
ANIMALS = ["tiger", "wolf", "lynx", "bear", "boar"]


@pytest.mark.parametrize(
    "command",
    [
        ["me:{}@h"],
        ["demo", "--seed", "me:{}@h"],
        ["demo", "--seed=me:{}"],
        ["demo", "--threads", "me:{}%40h"],
        ["watch", "sqlite:///x.db", "postgresql://me:{}@h"],
        ["watch", "sqlite:///x.db", "--password={}"],
        ["watch", "sqlite:///x.db", "--s=me:{}@h"],
        ["--version=me:{}@h"],
    ],
)
def test_a_password_with_blanks_and_quotes(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([word.format(SECRET) for word in command])
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert "error: " in shown
    assert "***" in shown
    assert [animal for animal in ANIMALS if animal in shown] == []


@pytest.mark.parametrize("out", ["me:tiger wolf@h", "x password=tiger wolf"])
def test_a_password_as_the_picture(out, tmp_path, capsys):
    out = f"{tmp_path}/no folder/{out}"
    assert main(["compare", f"sqlite:///{tmp_path}/x.db", "--out", out]) == 2
    shown = capsys.readouterr().err
    assert "cannot write " in shown
    assert "tiger" not in shown and "wolf" not in shown


def test_a_picture_is_shown_where_it_has_no_password():
    assert redact.whole("/home/my pictures/a:b.html").endswith("a:b.html")
    assert redact.whole("/home/me@work/my x.html") == "***"


# The sign before a word for the driver, and those in a password, are wrong.
TYPOS = {
    "cannot reach ": [
        "postgresql+psycopg2://me@127.0.0.1:1/db&password=tigerwolf",
        "postgresql+psycopg2://me@127.0.0.1:1/db;password=tigerwolf&x=1",
        "postgresql+psycopg2://me;password=tigerwolf@127.0.0.1:1/db",
        "postgresql+psycopg2://me@127.0.0.1;password=tigerwolf/db",
        "sqlite:////no/such/x.db&password=tigerwolf",
    ],
    "that is no database URL": [
        "postgresql+psycopg2://me:pa@tiger/wolf@127.0.0.1:1/db",
        "postgresql+psycopg2://me:x@/tigerwolf@127.0.0.1:1/db",
        "postgresql+psycopg2://me:x@/x@tigerwolf@127.0.0.1:1/db",
        "postgresql+psycopg2:///me:tigerwolf@127.0.0.1:1/db",
        "postgresql+psycopg2://me%3Atigerwolf%40127.0.0.1:1/db",
    ],
}


@pytest.mark.parametrize("command", ["demo", "watch", "compare"])
@pytest.mark.parametrize(
    "message, url", [(key, url) for key in TYPOS for url in TYPOS[key]]
)
def test_typos(command, message, url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([command, url]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"python -m sa_reaperpool {command}: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "tiger" not in err and "wolf" not in err


@pytest.mark.parametrize(
    "url, shown",
    [
        ("p://me:x@h:1/db?password=x", "p://me:***@h:1/db"),
        ("p://me@h/db&password=x", "p://me@h/db%26password%3D***"),
        ("p://me@h;pwd=x/db", "p://me@h;pwd=***"),
        ("sqlite:////home/me@work/x.db", "sqlite:////home/me%40work/x.db"),
    ],
)
def test_an_address(url, shown):
    # SQLAlchemy 2.0 quotes less of it
    assert unquote(redact.address(make_url(url))) == unquote(shown)


def test_what_a_server_quotes_of_a_typo():
    found = redact.secrets(make_url("p://me@h/db&password=tiger&x=1"))
    words = 'no database "tiger", no "db&password=tiger&x=1"'
    shown = redact.without(words, found)
    assert shown == 'no database "***", no "db&password=***"'


def test_at_signs_in_their_place(tmp_path, capsys):
    name = tmp_path / "me@work"
    name.mkdir()
    with Database.opened(f"sqlite:///{name}/x.db") as database:
        assert unquote(database.name).endswith("me@work/x.db")
    shown = "me%40here:.*@127.0.0.1:1/d(%40|@)b"
    with pytest.raises(Unusable, match=shown):
        with Database.opened(
            "postgresql+psycopg2://me%40here:pw%40@127.0.0.1:1/d%40b"
        ):
            pass


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
