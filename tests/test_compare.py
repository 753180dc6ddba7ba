from __future__ import annotations

import re
import signal
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest
from demos import Ended
from demos import demo
from demos import running
from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import inspect
from sqlalchemy import text
from waiting import eventually

from sa_reaperpool.__main__ import main
from sa_reaperpool.compare_database import Database
from sa_reaperpool.demo_url import Unusable

pytestmark = pytest.mark.slow

SVG = "{http://www.w3.org/1999/xhtml}"
EVENT = r"^ +\d+\.\d s  "
WAYS = [
    "sqlite:///{}",
    "sqlite:///file:{}?uri=true",
    "sqlite:///file://{}?uri=True&mode=rwc",
    "sqlite:///file://localhost{}?uri=1",
]
"""To write the address of a file."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "theirs.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "picture.html"


def compare(url: str, out: Path, *arguments: str) -> Ended:
    return demo(url, "--out", f"{out}", *arguments, command="compare")


def page(out: Path) -> ElementTree.Element:
    """The picture, which loads nothing and does nothing."""

    words = out.read_text("utf-8")
    assert len(words) < 1_000_000
    assert "<script" not in words
    assert "@import" not in words
    assert set(re.findall(r"url\((.)", words)) == {"#"}
    root = ElementTree.fromstring(words)
    names = {name for each in root.iter() for name in each.keys()}
    assert not names & {"href", "src", "srcset", "data", "action", "onload"}
    assert re.findall(r"\w+://[^\"' ]*", words) == [
        "http://www.w3.org/1999/xhtml"
    ]
    return root


def timelines(root: ElementTree.Element) -> list[list[ElementTree.Element]]:
    """The lanes of each."""

    return [
        list(each.iterfind(f"{SVG}g[@class='connection']"))
        for each in root.iter(f"{SVG}svg")
        if each.get("class") == "plot timeline"
    ]


def bars(lane: ElementTree.Element) -> list[tuple[float, float, str]]:
    """Begin, end and look of each hold, in percent."""

    return [
        (
            float(each.get("x", "").rstrip("%")),
            float(each.get("x", "").rstrip("%"))
            + float(each.get("width", "").rstrip("%")),
            each.get("class", ""),
        )
        for each in lane.iterfind(f"{SVG}rect")
        if each.get("class", "").startswith("hold")
    ]


def check_picture(out: Path, connections: int) -> None:
    found = timelines(page(out))
    # of each pool, for each part of the work
    assert len(found) == 4
    for lanes in found:
        assert len(lanes) == connections
        for lane in lanes:
            ends = 0.0
            for begin, end, _ in bars(lane):
                # they are written with three digits
                assert ends <= begin + 0.002
                assert begin <= end <= 100.002
                ends = end
    for lanes in found[:2]:
        looks = {look for lane in lanes for *_, look in bars(lane)}
        assert len(looks) > 1


class TestWhole:
    def test_on_sqlite(self, url: str, path: Path, out: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE theirs (id INTEGER)")
        before = path.read_bytes()

        # options of the pool in the URL are the command's own to choose
        ended = compare(
            f"{url}?plugin=reaperpool&pool_size=9&timeout=3",
            out,
            "--seconds=2",
            "--threads=6",
            "--connections=3",
        )

        assert (ended.status, ended.err) == (0, "")
        assert re.search(r"^ +QueuePool   ReaperPool$", ended.out, re.M)
        rows = ended.table()
        for rate in rows["transactions/s"] + rows["checkouts/s"]:
            assert int(rate.replace(",", "")) > 0
        assert rows["failed checkouts"] == ["0", "0"]
        assert rows["failed transactions"] == ["0", "0"]
        order = re.findall(rf"{EVENT}(\w+): ", ended.out, re.M)
        assert order == ["QueuePool", "ReaperPool", "ReaperPool", "QueuePool"]
        assert path.read_bytes() == before
        check_picture(out, 3)

    def test_says_beforehand_what_it_does(self, url: str, out: Path) -> None:
        with running(
            url, f"--out={out}", "--seconds=2", command="compare"
        ) as process:
            process.read_until("^16 threads share 4 connections")
            process.read_until("temporary table")
            process.read_until("nothing else is read or changed")
            process.read_until(EVENT)

    def test_leaves_no_file_that_was_not_there(
        self, url: str, path: Path, out: Path
    ) -> None:
        assert compare(url, out, "--seconds=2").status == 0
        assert not path.exists()

    @pytest.mark.parametrize(
        "address",
        [
            "new.db",
            "file:new.db?uri=true",
            "file:n%2565w.db?uri=on&mode=rwc",
            # without uri=, a part of the name
            "file:new.db",
        ],
    )
    def test_leaves_no_file_of_any_address(
        self, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with Database.opened(f"sqlite:///{address}") as database:
            # made by the connections, and empty still
            assert len(list(tmp_path.iterdir())) == 1
            database.leave()
        assert list(tmp_path.iterdir()) == []

    def test_leaves_an_empty_file_that_was_there(
        self, url: str, path: Path, out: Path
    ) -> None:
        path.touch()
        assert compare(url, out, "--seconds=2").status == 0
        assert path.read_bytes() == b""

    def test_writes_the_picture_anew(self, url: str, out: Path) -> None:
        out.write_text("an older one" * 100_000)
        assert compare(url, out, "--seconds=2").status == 0
        assert "an older one" not in page(out).itertext()
        assert "older" not in out.read_text("utf-8")


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
class TestOnPostgreSQL:
    @pytest.fixture
    def admin(self, postgres_url: str) -> Iterator[Engine]:
        engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
        yield engine
        engine.dispose()

    @pytest.fixture
    def database(
        self, admin: Engine, driver: str
    ) -> Iterator[tuple[str, str]]:
        """A database, and a role that may do little; its URL."""

        name = f"compare_{uuid.uuid4().hex[:12]}"
        with admin.connect() as connection:
            for statement in (
                f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 3 "
                "PASSWORD 's3cret'",
                f"CREATE DATABASE {name}",
            ):
                connection.execute(text(statement))
        url = admin.url.set(
            drivername=f"postgresql+{driver}",
            username=name,
            password="s3cret",
            database=name,
        )
        yield name, url.render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
            connection.execute(text(f"DROP ROLE {name}"))

    def test_never_more_connections_than_said(
        self, database: tuple[str, str], out: Path
    ) -> None:
        """The server lets that role have no more."""

        ended = compare(
            database[1], out, "--seconds=4", "--connections=3", "--threads=8"
        )

        assert (ended.status, ended.err) == (0, "")
        rows = ended.table()
        assert rows["failed checkouts"] == ["0", "0"]
        assert rows["failed transactions"] == ["0", "0"]
        check_picture(out, 3)
        for words in (ended.out, out.read_text("utf-8")):
            assert "s3cret" not in words
        assert database[0] not in out.read_text("utf-8")

    def test_more_than_the_server_allows(
        self, database: tuple[str, str], out: Path
    ) -> None:
        ended = compare(database[1], out, "--seconds=4")

        assert ended.status == 2
        assert "error: cannot open 4 connections to " in ended.err
        assert "too many connections" in ended.err
        assert ended.err.count("\n") == 1
        assert "s3cret" not in ended.err

    def test_without_the_right_to_make_a_table(
        self, admin: Engine, database: tuple[str, str], out: Path
    ) -> None:
        name, url = database
        with admin.connect() as connection:
            connection.execute(
                text(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")
            )

        ended = compare(url, out, "--connections=3")

        assert (ended.status, ended.out) == (2, "")
        assert "error: cannot make a temporary table in " in ended.err
        assert "permission denied" in ended.err
        assert ended.err.count("\n") == 1
        assert not out.exists()

    def test_interrupted(
        self, admin: Engine, database: tuple[str, str], out: Path
    ) -> None:
        name, url = database
        table = "FROM pg_class WHERE relname LIKE 'reaperpool_compare_%'"
        theirs = f"FROM pg_stat_activity WHERE usename = '{name}'"
        inside = create_engine(
            admin.url.set(database=name), isolation_level="AUTOCOMMIT"
        )
        with (
            inside.connect() as observer,
            running(
                url,
                f"--out={out}",
                "--seconds=20",
                "--connections=3",
                command="compare",
            ) as process,
        ):
            table_there = text(f"SELECT count(*) {table}")
            process.read_until("^picture ")
            eventually(lambda: observer.scalar(table_there))
            process.process.send_signal(signal.SIGINT)
            ended = process.end()

            assert (ended.status, ended.err) == (130, "")
            assert "Ended early" in ended.out
            eventually(
                lambda: not observer.scalar(text(f"SELECT count(*) {theirs}"))
            )
            assert observer.scalar(table_there) == 0
        inside.dispose()
        assert not out.exists()


def test_on_mariadb(mariadb_url: str, out: Path) -> None:
    ended = compare(mariadb_url, out, "--seconds=2")

    assert (ended.status, ended.err) == (0, "")
    assert ended.table()["failed transactions"] == ["0", "0"]
    check_picture(out, 4)
    engine = create_engine(mariadb_url)
    names = inspect(engine).get_table_names()
    engine.dispose()
    assert not [name for name in names if name.startswith("reaperpool")]


class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted(
        self, url: str, path: Path, out: Path, number: signal.Signals
    ) -> None:
        with running(
            url, f"--out={out}", "--seconds=10", command="compare"
        ) as process:
            process.read_until(f"{EVENT}QueuePool")
            process.process.send_signal(number)
            ended = process.end()

        assert (ended.status, ended.err) == (128 + number, "")
        assert "Ended early" in ended.out
        # one round, and at most the one that had begun
        assert len(re.findall(EVENT, ended.out, re.M)) <= 2
        assert not path.exists()
        assert not out.exists()

    def test_nobody_reads(self, url: str, out: Path) -> None:
        with running(
            url, f"--out={out}", "--seconds=4", command="compare"
        ) as process:
            process.read_until(EVENT)
            assert process.process.stdout is not None
            process.process.stdout.close()
            assert process.process.stderr is not None
            assert process.process.stderr.read() == ""
            assert process.process.wait(20) == 128 + 13
        assert not out.exists()


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--seconds", "1"], "--seconds: '1' (allowed: a number from 2"),
            (["--seconds", "nan"], "--seconds: 'nan' (allowed"),
            (["--seconds", "601"], "--seconds: '601' (allowed"),
            (["--threads", "1"], "--threads: '1' (allowed: a whole number"),
            (["--threads", "2.5"], "--threads: '2.5' (allowed"),
            (["--connections", "0"], "--connections: '0' (allowed: a whole"),
            (["--connections", "51"], "--connections: '51' (allowed"),
            (["--seed", "x"], "--seed: 'x' (allowed: a whole number)"),
        ],
    )
    def test_refuses(
        self,
        arguments: list[str],
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["compare", "sqlite:///x.db", *arguments])

        assert ended.value.code == 2
        assert f"error: argument {message}" in capsys.readouterr().err

    def test_needs_a_database(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["compare"])

        assert ended.value.code == 2
        assert "required: URL" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            (
                "postgresql+psycopg2://me:s3cret@127.0.0.1:1/x",
                "cannot reach postgresql+psycopg2://me:***@127.0.0.1:1/x: ",
            ),
            ("sqlite:////no/such/x.db", "cannot reach sqlite:////no/such/x"),
            ("sqlite://", "SQLite in memory is a database for each"),
            ("sqlite:///file::memory:?uri=true", "SQLite in memory is a"),
            ("sqlite+aiosqlite:///x.db", "sqlite+aiosqlite is for asyncio"),
            ("nosuch://me:s3cret@host/x", "cannot use nosuch://me:***@host/x"),
            (
                "mysql+oursql_nosuch://me:s3cret@host/x",
                "cannot use mysql+oursql_nosuch://me:***@host/x",
            ),
            ("postgresql://me:s3cret@host:port/x", "that is no database URL"),
            ("s3cret", "that is no database URL"),
        ],
    )
    def test_unusable_database(
        self,
        url: str,
        message: str,
        out: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(["compare", url, "--out", f"{out}"]) == 2

        printed, err = capsys.readouterr()
        assert printed == ""
        program = "python -m sa_reaperpool compare"
        assert err.startswith(f"{program}: error: {message}")
        assert err.count("\n") == 1
        assert "s3cret" not in err
        assert not out.exists()

    def test_a_kind_of_database_without_such_tables(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "sa_reaperpool.compare_database._BACKENDS", ("postgresql",)
        )
        with pytest.raises(Unusable, match="there is a temporary table to"):
            with Database.opened(url):
                pass

    @pytest.mark.parametrize("where", ["no/such/folder.html", "."])
    def test_picture_that_cannot_be_written(
        self,
        url: str,
        path: Path,
        tmp_path: Path,
        where: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(["compare", url, "--out", f"{tmp_path / where}"]) == 2

        printed, err = capsys.readouterr()
        assert printed == ""
        assert "error: cannot write " in err
        assert err.count("\n") == 1
        # that was found before anything else
        assert not path.exists()

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize(
        "name", ["theirs.db", "linked.html", "hard.html", "other.html"]
    )
    def test_picture_over_a_database(
        self,
        path: Path,
        tmp_path: Path,
        way: str,
        name: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for each in (path, tmp_path / "other.html"):
            with closing(sqlite3.connect(each)) as connection:
                connection.execute("CREATE TABLE precious (id INTEGER)")
        (tmp_path / "linked.html").symlink_to(path)
        (tmp_path / "hard.html").hardlink_to(path)
        before = {each: each.read_bytes() for each in tmp_path.iterdir()}
        # as seen from another folder
        out = tmp_path / ".." / tmp_path.name / name

        assert main(["compare", way.format(path), "--out", f"{out}"]) == 2

        printed, err = capsys.readouterr()
        assert printed == ""
        assert err.startswith(
            "python -m sa_reaperpool compare: error: cannot write "
        )
        assert err.endswith(f"{name}: it is a database\n")
        assert err.count("\n") == 1
        after = {each: each.read_bytes() for each in tmp_path.iterdir()}
        assert after == before

    @pytest.mark.parametrize("name", ["", "-wal", "-shm", "-journal"])
    @pytest.mark.parametrize("content", [None, b"", b"anything"])
    def test_picture_over_a_file_of_the_database(
        self,
        url: str,
        path: Path,
        name: str,
        content: bytes | None,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = Path(f"{path}{name}")
        if content is not None:
            out.write_bytes(content)

        assert main(["compare", url, "--out", f"{out}"]) == 2

        assert f"{out.name}: it is a database\n" in capsys.readouterr().err
        if content is None:
            assert not out.exists()
        else:
            assert out.read_bytes() == content

    def test_an_address_in_the_wrong_place(
        self, url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        address = "postgresql://me:s3cret@host/x"
        assert main(["compare", url, "--out", address]) == 2
        assert "s3cret" not in capsys.readouterr().err
