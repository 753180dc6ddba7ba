from __future__ import annotations

import io
import os
import re
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from contextlib import suppress
from pathlib import Path

import pytest
from demos import COMMAND
from demos import Ended
from demos import demo
from demos import running
from sqlalchemy import create_engine
from sqlalchemy import delete
from sqlalchemy import event
from sqlalchemy import insert
from sqlalchemy import inspect
from sqlalchemy import update

import sa_reaperpool
from sa_reaperpool.__main__ import main
from sa_reaperpool.demo import accidents
from sa_reaperpool.demo_database import Account
from sa_reaperpool.demo_database import Base
from sa_reaperpool.demo_database import Database
from sa_reaperpool.demo_database import Transfer
from sa_reaperpool.demo_screen import Screen
from sa_reaperpool.demo_screen import table
from sa_reaperpool.demo_show import Interrupt
from sa_reaperpool.demo_url import Unusable

pytestmark = pytest.mark.slow

EVENT = r"^ +\d+\.\d s  "


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "demo.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


def tables(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name FROM sqlite_master")
        return [name for (name,) in found]


class TestWhole:
    def test_says_what_happened_on_both_pools(self) -> None:
        ended = demo("--seconds", "4", "--seed", "7")

        assert (ended.status, ended.err) == (0, "")
        rows = ended.table()
        assert re.search(r"^ +QueuePool   ReaperPool$", ended.out, re.M)
        for done in rows["transfers done"]:
            assert int(done) > 0
        assert rows["ledger balances"] == ["yes", "yes"]
        # the dead threads' and the forgotten one (how many of those there
        # were in the time is the machine's matter), or just the forgotten one
        held, ours = rows["still held at the end"]
        assert held in ("2 of 4", "3 of 4", "4 of 4")
        assert ours == "1 of 4"
        assert rows["connections reaped"] == ["0", rows["threads died"][1]]
        assert int(rows["failed checkouts"][1]) == 0

    def test_shows_each_reap(self) -> None:
        ended = demo("--seconds", "4")

        deaths = int(ended.table()["threads died"][1])
        part = " ".join(ended.part("ReaperPool").split())
        for word in ("'teller-", "demo.py:", "in die_", "keep()"):
            assert part.count(word) >= deaths, (word, ended.out)
        assert len(re.findall(r"demo\.py:\d+ in forget\b", part)) == 1
        assert "demo.py:" not in ended.part("QueuePool")

    def test_removes_its_own_database(self) -> None:
        ended = demo("--seconds", "2")

        (line,) = [
            line
            for line in ended.out.splitlines()
            if line.startswith("database ")
        ]
        path = Path(line.split()[1])
        assert path.name == "demo.db"
        assert not path.parent.exists()

    def test_leaves_nothing_in_a_given_database(
        self, url: str, path: Path
    ) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE theirs (id INTEGER)")

        # options of the pool in the URL are the demo's own to choose
        ended = demo(
            f"{url}?plugin=reaperpool&pool_size=9&timeout=3",
            "--seconds=2",
            "--threads=5",
        )

        assert (ended.status, ended.err) == (0, "")
        assert "5 threads" in ended.out
        assert tables(path) == ["theirs"]


class TestEnd:
    @pytest.mark.parametrize(
        ("pool", "number"),
        [
            ("QueuePool", signal.SIGINT),
            ("ReaperPool", signal.SIGINT),
            ("ReaperPool", signal.SIGTERM),
        ],
    )
    def test_interrupted(
        self, url: str, path: Path, pool: str, number: signal.Signals
    ) -> None:
        with running(url, "--seconds", "4") as process:
            process.read_until(f"^{pool}$")
            process.read_until(EVENT + ".* dies")
            process.process.send_signal(number)
            ended = process.end()

        assert (ended.status, ended.err) == (128 + number, "")
        assert "Ended early" in ended.out
        rows = ended.table()
        columns = 1 if pool == "QueuePool" else 2
        assert len(rows["transfers done"]) == columns
        assert rows["ledger balances"] == ["yes"] * columns
        assert tables(path) == []

    def test_second_interrupt_raises(self) -> None:
        interrupt = Interrupt()
        interrupt.note(signal.SIGINT, None)
        assert interrupt.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            interrupt.note(signal.SIGINT, None)

    def test_impatient_with_the_clean_up(self) -> None:
        interrupt = Interrupt(5)
        interrupt.clock = lambda: now
        for now in (100, 101, 104.9):
            interrupt.note(signal.SIGINT, None)
        now = 105
        with pytest.raises(KeyboardInterrupt):
            interrupt.note(signal.SIGINT, None)
        # there is a clean-up after that one, too
        now = 109
        interrupt.note(signal.SIGTERM, None)
        now = 110
        with pytest.raises(KeyboardInterrupt):
            interrupt.note(signal.SIGINT, None)
        assert interrupt.received == signal.SIGINT

    @pytest.mark.parametrize("command", ["demo", "watch"])
    def test_interrupted_again_and_again(
        self, url: str, path: Path, command: str
    ) -> None:
        with running(url, "--seconds", "20", command=command) as process:
            process.read_until(EVENT + ".*(?: dies|in use)")
            ended = process.interrupt_until_it_ends()

        assert (ended.status, ended.err) == (130, "")
        assert re.search("ledger balances +yes", ended.out)
        assert tables(path) == []

    @pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
    @pytest.mark.parametrize("command", ["demo", "watch", "compare"])
    def test_interrupted_before_it_is_connected(
        self, command: str, driver: str
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            url = f"postgresql+{driver}://me@127.0.0.1:{port}/x"
            limit = "?connect_timeout=3600"
            with running(url + limit, command=command) as process:
                client, _ = server.accept()
                with client:
                    # it has come so far, and waits for an answer
                    assert client.recv(1)
                    process.process.send_signal(signal.SIGINT)
                    ended = process.end()

        assert ended == Ended(130, "", "")

    def test_tables_that_are_not_dropped_are_named(
        self,
        url: str,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """When the server does not answer, say."""

        def stop(*given: object, **more: object) -> None:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr("sa_reaperpool.demo_show.CLEAN_UP", 0)
        event.listen(Base.metadata, "before_drop", stop)
        try:
            assert main(["demo", url, "--seconds=2"]) == 130
        finally:
            event.remove(Base.metadata, "before_drop", stop)

        left = tables(path)
        assert len(left) == 2
        err = capsys.readouterr().err
        program = "python -m sa_reaperpool demo"
        words = f"{program}: error: drop these tables by hand: "
        assert err.startswith(words)
        assert sorted(err[len(words) :].strip().split(", ")) == sorted(left)

    def test_goes_on_without_its_terminal_under_nohup(self) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with Interrupt.caught() as interrupt:
                signal.raise_signal(signal.SIGHUP)
                assert not interrupt.received
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_nobody_reads(self, url: str, path: Path) -> None:
        with running(url, "--seconds", "4") as process:
            process.read_until(EVENT)
            assert process.process.stdout is not None
            process.process.stdout.close()
            assert process.process.stderr is not None
            assert process.process.stderr.read() == ""
            assert process.process.wait(20) == 128 + 13
        assert tables(path) == []

    def test_ledger_does_not_balance(self, url: str, path: Path) -> None:
        with running(url, "--seconds", "3") as process:
            process.read_until("^ReaperPool$")
            process.read_until(EVENT)
            (account,) = [n for n in tables(path) if n.endswith("_account")]
            with closing(sqlite3.connect(path, timeout=20)) as connection:
                connection.execute(
                    f"UPDATE {account} SET balance = balance + 5 WHERE id = 3"
                )
                connection.commit()
            ended = process.end()

        assert (ended.status, ended.err) == (1, "")
        assert ended.table()["ledger balances"] == ["yes", "NO"]
        assert "ReaperPool: THE LEDGER DOES NOT BALANCE" in ended.out
        assert "20005 in all, which was 20000" in ended.out
        assert "account 3 has " in ended.out
        assert tables(path) == []


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--seconds", "1"], "--seconds: '1' (allowed: a number from 2"),
            (["--seconds", "nan"], "--seconds: 'nan' (allowed"),
            (["--seconds", "inf"], "--seconds: 'inf' (allowed"),
            (["--seconds", "x"], "--seconds: 'x' (allowed"),
            (["--threads", "0"], "--threads: '0' (allowed: a whole number"),
            (["--threads", "2.5"], "--threads: '2.5' (allowed"),
            (["--threads", "201"], "--threads: '201' (allowed"),
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
            main(["demo", *arguments])

        assert ended.value.code == 2
        assert f"error: argument {message}" in capsys.readouterr().err

    def test_needs_a_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main([])

        assert ended.value.code == 2
        assert "required: COMMAND" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            (
                "postgresql+psycopg2://me:s3cret@127.0.0.1:1/x?password=s3cret",
                "cannot reach postgresql+psycopg2://me:***@127.0.0.1:1/x: ",
            ),
            (
                "postgresql+psycopg2://me:s3cret@127.0.0.1:1/x?s3cret=1",
                "cannot reach postgresql+psycopg2://me:***@127.0.0.1:1/x: ",
            ),
            (
                "postgresql+psycopg://me:s3cret@127.0.0.1:1/x",
                "cannot reach postgresql+psycopg://me:***@127.0.0.1:1/x: ",
            ),
            (
                "mysql+pymysql://me:s3cret@127.0.0.1:1/x",
                "cannot reach mysql+pymysql://me:***@127.0.0.1:1/x: ",
            ),
            (
                "sqlite:////no/such/folder/demo.db",
                "cannot reach sqlite:////no/such/folder/demo.db: unable to",
            ),
            ("sqlite://", "SQLite in memory is a database for each"),
            ("sqlite:///:memory:", "SQLite in memory is a database for each"),
            ("sqlite:///file::memory:?uri=true", "SQLite in memory is a"),
            ("sqlite:///file:?uri=true", "SQLite in memory is a"),
            ("sqlite:///file:x?mode=memory&uri=true", "SQLite in memory is"),
            ("sqlite+aiosqlite:///x.db", "sqlite+aiosqlite is for asyncio"),
            ("nosuch://me:s3cret@host/x", "cannot use nosuch://me:***@host/x"),
            ("postgresql://me:s3cret@host:port/x", "that is no database URL"),
            ("s3cret", "that is no database URL"),
            (
                "postgresql+psycopg2://me:p@s3cret@127.0.0.1:1/x",
                "that is no database URL",
            ),
        ],
    )
    def test_unusable_database(
        self, url: str, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["demo", url]) == 2

        out, err = capsys.readouterr()
        assert out == ""
        program = "python -m sa_reaperpool demo"
        assert err.startswith(f"{program}: error: {message}")
        assert err.count("\n") == 1
        assert "s3cret" not in err

    @pytest.mark.parametrize("command", ["demo", "watch", "compare"])
    def test_no_standard_output(self, url: str, command: str) -> None:
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, command, url],
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        program = f"python -m sa_reaperpool {command}"
        assert done.returncode == 2
        assert done.stderr == f"{program}: error: no standard output\n"

    @pytest.mark.parametrize("command", ["demo", "watch", "compare"])
    @pytest.mark.parametrize(
        ("name", "status", "shown"),
        [
            (b"sqlite:///caf\xc3\xa9.db", 0, "sqlite:///caf%C3%A9.db\n"),
            (
                b"postgresql+psycopg2://me:s3cr\xe9t@127.0.0.1:1/\xe9",
                2,
                "psycopg2://me:***@127.0.0.1:1/%EF%BF%BD: ",
            ),
        ],
    )
    def test_letters_that_the_locale_has_not(
        self,
        tmp_path: Path,
        command: str,
        name: bytes,
        status: int,
        shown: str,
    ) -> None:
        plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        here = str(Path(sa_reaperpool.__file__).parents[1])
        done = subprocess.run(
            [*COMMAND, command, name, "--seconds=2", "--threads=3"],
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, **plain, "PYTHONPATH": here},
            timeout=60,
        )
        out, err = done.stdout.decode("ascii"), done.stderr.decode("ascii")
        assert done.returncode == status
        assert shown in (err if status else out)
        assert err.count("\n") == (1 if status else 0)
        assert "s3cr" not in err


class TestAccidents:
    def test_repeat_with_the_seed(self) -> None:
        assert accidents(3, 10, 4, "sqlite") == accidents(3, 10, 4, "sqlite")
        assert accidents(3, 10, 4, "sqlite") != accidents(4, 10, 4, "sqlite")

    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("seconds", [1, 10, 100])
    @pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
    def test_use_up_a_pool_that_gets_nothing_back(
        self, seed: int, seconds: float, backend: str
    ) -> None:
        plan = accidents(seed, seconds, 4, backend)

        assert len(plan) >= 4
        assert plan == sorted(plan)
        assert plan[0].what == "forget"
        assert all(0 < accident.when < 0.9 * seconds for accident in plan)
        if backend == "sqlite":
            # who would block all others does not come first
            first = [accident.what for accident in plan[:4]]
            assert "die_writing" not in first


class TestAudit:
    @pytest.fixture
    def database(self, url: str) -> Iterator[Database]:
        with Database.opened(url) as database:
            database.create_tables()
            with create_engine(url).begin() as connection:
                connection.execute(
                    insert(Transfer),
                    [
                        {"source": 1, "target": 2, "amount": 10},
                        {"source": 2, "target": 1, "amount": 3},
                        {"source": 1, "target": 2, "amount": 5},
                    ],
                )
                for number, change in ((1, -12), (2, 12)):
                    connection.execute(
                        update(Account)
                        .where(Account.id == number)
                        .values(balance=Account.balance + change)
                    )
            yield database

    def test_balances(self, database: Database) -> None:
        assert database.audit(3) == []
        # the server may have committed what a teller never heard of
        assert database.audit(2) == []

    def test_lost_transfer(self, database: Database) -> None:
        assert database.audit(4) == ["4 transfers, 3 in the journal"]

    @pytest.mark.parametrize(
        ("damage", "complaints"),
        [
            (
                update(Account).where(Account.id == 7).values(balance=999),
                [
                    "19999 in all, which was 20000",
                    "account 7 has 999, by the journal 1000",
                ],
            ),
            (
                delete(Account).where(Account.id == 2),
                [
                    "18988 in all, which was 20000",
                    "account 2 has gone, by the journal 1012",
                ],
            ),
            (
                delete(Transfer).where(Transfer.amount == 5),
                [
                    "3 transfers, 2 in the journal",
                    "account 1 has 988, by the journal 993",
                    "account 2 has 1012, by the journal 1007",
                ],
            ),
        ],
    )
    def test_damage(
        self,
        database: Database,
        url: str,
        damage: object,
        complaints: list[str],
    ) -> None:
        with create_engine(url).begin() as connection:
            connection.execute(damage)  # type: ignore[call-overload]

        assert database.audit(3) == complaints

    def test_half_made_tables_are_dropped(self, url: str, path: Path) -> None:
        with Database.opened(url) as database:
            database.create_tables()
            # there already
            with pytest.raises(Unusable, match="cannot make tables in"):
                with database.tables():
                    pass
        assert tables(path) == []

    def test_tables_are_dropped(self, database: Database, url: str) -> None:
        database.drop_tables()
        assert inspect(create_engine(url)).get_table_names() == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestScreen:
    def test_status_is_replaced(self) -> None:
        stream = Terminal()
        screen = Screen(stream)

        screen.status("long words")
        screen.status("short")
        screen.line("a line")

        shown = [part.rstrip() for part in stream.getvalue().split("\r")]
        assert shown[-1] == "a line"
        # nothing of the longer one is left beside the shorter
        blank = max(len(part) for part in stream.getvalue().split("\r"))
        assert blank >= len("    0.0 s  long words")
        assert "    0.0 s  short" in shown

    def test_no_status_in_a_pipe(self) -> None:
        stream = io.StringIO()
        Screen(stream).status("words")
        assert stream.getvalue() == ""

    def test_event_with_its_time(self) -> None:
        stream = io.StringIO()
        screen = Screen(stream)
        screen.clock = lambda: 12.34
        screen.event("some " * 20)
        lines = stream.getvalue().splitlines()
        assert lines[0].startswith("   12.3 s  some some")
        assert lines[1].startswith("           some")
        assert max(map(len, lines)) <= 79

    def test_stream_of_ascii(self) -> None:
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
        Screen(stream).line("gr\u00fcn")
        assert raw.getvalue() == b"gr\\xfcn\n"

    def test_reader_gone(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        # closing tries to write again
        with suppress(BrokenPipeError), open(writer, "w") as stream:
            screen = Screen(stream)
            screen.line("lost")
            assert screen.gone
            screen.line("not even tried")

    def test_table(self) -> None:
        assert table([["", "one", "twenty"], ["titles", "1", "20"]]) == [
            "         one   twenty",
            "titles     1       20",
        ]


def test_mariadb(mariadb_url: str) -> None:
    ended = demo(mariadb_url, "--seconds", "4")

    assert (ended.status, ended.err) == (0, "")
    assert ended.table()["ledger balances"] == ["yes", "yes"]
    names = inspect(create_engine(mariadb_url)).get_table_names()
    assert not [name for name in names if name.startswith("reaperpool_demo")]
