"""``python -m sa_reaperpool watch``, as a process in a terminal or a pipe."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import missing
from terminals import ENTERED
from terminals import HIDDEN
from terminals import LEFT
from terminals import SHOWN
from terminals import environment
from terminals import terminal

from sa_reaperpool.__main__ import main

pytestmark = pytest.mark.slow

WATCH = ["-m", "sa_reaperpool", "watch"]
REAP = r"^ +[\d.]+ s  abandoned +teller-\d+ \(ended\) +[\d.]+ m?s  "
LINE = r"demo\.py:\d+ in "
SGR = r"\x1b\[[\d;]*m"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "demo.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def rich() -> None:
    try:
        import rich  # noqa: F401
    except ImportError:
        missing("rich is not installed")


@pytest.fixture
def hidden(tmp_path: Path) -> str:
    """A folder for PYTHONPATH, with which there is no rich."""

    folder = tmp_path / "hidden"
    folder.mkdir()
    text = "import sys\nsys.modules['rich'] = None\n"
    (folder / "sitecustomize.py").write_text(text)
    return str(folder)


def tables(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name FROM sqlite_master")
        return [name for (name,) in found]


def has(pattern: str, frame: list[str]) -> bool:
    return any(re.search(pattern, line) for line in frame)


def rows(frame: list[str], title: str) -> list[str]:
    """What stands below this header, up to an empty line."""

    [place] = [n for n, line in enumerate(frame) if line.startswith(title)]
    below = [line.rstrip() for line in frame[place + 1 :]]
    return below[: below.index("")] if "" in below else below


@pytest.mark.usefixtures("rich")
class TestLive:
    def test_connections_who_waits_and_reaps(self, url: str) -> None:
        with terminal(*WATCH, url, "--seconds", "6", columns=80) as shown:
            kept = shown.until(
                lambda frame: has("^kept .* events +.* in listen", frame)
            )
            # the time and the line of who died are there before the reap
            dead = shown.until(
                lambda frame: has(
                    r"^in use .* teller-\d+ \(ended\) .* in die_", frame
                )
            )
            reap = shown.until(lambda frame: has(f"{REAP}{LINE}die_", frame))
            assert shown.end() == 0

        for frame in (kept, dead, reap):
            assert f"on {url.partition('?')[0][:12]}" in frame[0]
            assert re.match(r"\d of 6 in use, \d idle", frame[1])
            held = rows(frame, "state ")
            assert 1 <= len(held) <= 6
            for row in held:
                assert re.match(
                    "(in use|kept) +[0-9.]+ m?s +[0-9.]+ m?s  "
                    rf"teller-\d+[\w() ]+{LINE}\w+$|transit|opening|idle|and ",
                    row,
                ), row
            for row in rows(frame, "waiting "):
                assert re.match(
                    rf"waits .* teller-\d+ +transfer +{LINE}transfer$"
                    r"|waits .* teller-\d+ +\w+ +demo\.py:\d+ in "
                    "|and [0-9]+ more wait; of all:",
                    row,
                ), row
        assert has(r"^ +[\d.]+ s  teller-\d+ dies", reap)
        after = shown.written.partition(LEFT)[2]
        assert re.search(r"connections reaped +[1-9]", after)
        assert re.search(r"ledger balances +yes", after)
        # lines are folded where a path is long
        words = " ".join(after.split())
        assert re.search(rf"\d /.*/{LINE}die_", words)
        assert re.search(rf"{LINE}listen, kept on purpose", words)
        assert re.search(rf"{LINE}forget\b", words)

    def test_states_have_colours(self, url: str) -> None:
        states = ("kept", "in use", "waits")
        with terminal(*WATCH, url, "--seconds", "30") as shown:
            for state in states:
                shown.until(lambda frame: has(f"^{state} ", frame))
            colours = {
                state: set(re.findall(rf"({SGR}){state}\x1b", shown.written))
                for state in states
            }
        assert all(colours.values()), colours
        assert not set.intersection(*colours.values()), colours

    def test_is_resized(self, url: str) -> None:
        with terminal(*WATCH, url, "--seconds", "30") as shown:
            small = shown.until(lambda frame: has("^waits", frame))
            # also for a checkout in folders with long names
            shown.resize(250, 50)
            large = shown.until(lambda frame: has("^waits", frame))
            shown.resize(60, 12)
            tiny = shown.until(lambda frame: has("^in use", frame))
        assert not has("/demo.py:", small)
        # where there is room, there are folders
        assert has(rf" /\S+/sa_reaperpool/{LINE}transfer", large)
        assert len(rows(large, "waiting ")) > len(rows(small, "waiting "))
        assert has(f"  {LINE}", tiny)

    def test_without_colours(self, url: str) -> None:
        with terminal(*WATCH, url, "--seconds", "2", NO_COLOR="1") as shown:
            assert shown.end() == 0
        assert ENTERED in shown.written and shown.frames()
        used = "".join(re.findall(SGR, shown.written))
        # bold, dim and reversed are none
        assert set(re.findall(r"\d+", used)) <= {"0", "1", "2", "7"}

    def test_many_threads(self, url: str) -> None:
        with terminal(
            *WATCH, url, "--threads", "200", "--seconds", "30"
        ) as shown:
            frame = shown.until(
                lambda frame: has("^and 1[0-9][0-9] more wait", frame)
            )
            shown.type(b"\x03")
            assert shown.end() == 130
        assert len(rows(frame, "waiting ")) == 4


@pytest.mark.usefixtures("rich")
class TestEnd:
    def test_control_c(self, url: str, path: Path) -> None:
        with terminal(*WATCH, url, "--seconds", "60") as shown:
            before = shown.modes()
            shown.until(lambda frame: has("^waits", frame))
            shown.type(b"\x03")
            assert shown.end() == 130
            assert shown.modes() == before
        for on, off in ((ENTERED, LEFT), (HIDDEN, SHOWN)):
            assert shown.written.count(on) == shown.written.count(off) == 1
            assert shown.written.index(on) < shown.written.index(off)
        after = shown.written.partition(LEFT)[2]
        assert "Ended early." in after
        assert re.search(r"ledger balances +yes", after)
        assert "Traceback" not in shown.written
        assert tables(path) == []

    def test_killed_politely(self, url: str, path: Path) -> None:
        with terminal(*WATCH, url, "--seconds", "60") as shown:
            shown.until(lambda frame: has("^waits", frame))
            shown.program.send_signal(signal.SIGTERM)
            assert shown.end() == 128 + signal.SIGTERM
        assert shown.written.index(LEFT) < shown.written.index("Ended early.")
        assert tables(path) == []

    def test_terminal_is_closed(self, url: str, path: Path) -> None:
        with terminal(*WATCH, url, "--seconds", "60") as shown:
            shown.until(lambda frame: has("^waits", frame))
            shown.hang_up()
            status = shown.program.wait(30)
        assert status in (128 + signal.SIGHUP, 128 + signal.SIGPIPE)
        assert tables(path) == []


class TestPlain:
    def check(self, out: str) -> None:
        """It has all that matters, and nothing for terminals."""

        assert "\x1b" not in out
        text = " ".join(out.split())
        assert re.search(r" s  \d of 6 in use, \d idle; \d+ threads wait", out)
        assert re.search(
            r"taken back \(abandoned\) from teller-\d+ \(ended\), held [\d.]+ "
            r"m?s, last used [\d.]+ m?s ago, label '\w+', taken at "
            rf"/\S+/{LINE}die_",
            text,
        )
        held = re.findall(rf"still held by teller-\d+, .*?/{LINE}(\w+)", text)
        assert held.count("forget") == 1 and "listen" not in held
        assert re.search(r"ledger balances +yes", out)

    def test_in_a_pipe(self, url: str, path: Path) -> None:
        done = subprocess.run(
            [sys.executable, *WATCH, url, "--seconds", "5"],
            capture_output=True,
            text=True,
            timeout=60,
            # who asks for colours in a pipe still gets no other screen
            env=environment(FORCE_COLOR="1"),
        )
        assert (done.returncode, done.stderr) == (0, "")
        self.check(done.stdout)
        assert "pip install" not in done.stdout
        assert tables(path) == []

    def test_without_rich(self, url: str, hidden: str) -> None:
        with terminal(
            *WATCH, url, "--seconds", "5", PYTHONPATH=hidden
        ) as shown:
            assert shown.end() == 0
        self.check(shown.written)
        assert "pip install 'sa-reaperpool[watch]'" in shown.written

    @pytest.mark.parametrize("term", ["dumb", "unknown"])
    def test_simple_terminal(self, url: str, term: str) -> None:
        with terminal(*WATCH, url, "--seconds", "5", TERM=term) as shown:
            assert shown.end() == 0
        self.check(shown.written)

    def test_interrupted(self, url: str, path: Path, hidden: str) -> None:
        with terminal(
            *WATCH, url, "--seconds", "60", PYTHONPATH=hidden
        ) as shown:
            shown.wait_for(lambda: " in use, " in shown.written)
            shown.type(b"\x03")
            assert shown.end() == 130
        assert "Ended early." in shown.written
        assert tables(path) == []

    def test_nobody_reads(self, url: str, path: Path) -> None:
        with subprocess.Popen(
            [sys.executable, *WATCH, url, "--seconds", "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == ""
            assert process.wait(30) == 128 + 13
        assert tables(path) == []


class TestUsage:
    def test_refuses(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["watch", "--threads", "0"])
        assert ended.value.code == 2
        assert "--threads: '0' (allowed: a whole number" in (
            capsys.readouterr().err
        )

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["watch", "--help"])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        for words in (
            "sa-reaperpool[watch]",
            "NO_COLOR",
            "130",
            "(default: 30",
        ):
            assert words in out

    def test_no_secret(self, capsys: pytest.CaptureFixture[str]) -> None:
        url = "postgresql+psycopg2://me:s3cret@127.0.0.1:1/x?password=s3cret"
        assert main(["watch", url]) == 2
        out, err = capsys.readouterr()
        assert err.startswith(
            "python -m sa_reaperpool watch: error: cannot reach "
            "postgresql+psycopg2://me:***@127.0.0.1:1/x: "
        )
        assert err.count("\n") == 1
        assert "s3cret" not in out + err
