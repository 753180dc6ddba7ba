"""python -m benchmarks: what it says of its figures, and that it runs."""

from __future__ import annotations

import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from benches import ROOT
from docutils import nodes
from docutils.core import publish_doctree
from pyperf import BenchmarkSuite
from sqlalchemy import make_url

from benchmarks import picture
from benchmarks import table
from benchmarks.rows import Bar
from benchmarks.rows import Row
from benchmarks.rows import number
from benchmarks.rows import row_of

SVG = "{http://www.w3.org/2000/svg}"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks", *arguments]


# rows


@pytest.mark.parametrize(
    "how, figure, met",
    [
        ("at most", 0.35, True),
        ("at most", 0.3504, True),
        ("at most", 0.351, False),
        ("at least", 0.98, True),
        ("at least", 0.979, False),
        ("below", 0.999, True),
        ("below", 1.0, False),
    ],
)
def test_a_bar_judges_the_figure_as_it_is_printed(how, figure, met):
    limit = {"at most": 0.35, "at least": 0.98, "below": 1}[how]
    row = Row("measured", "ReaperPool", figure, bar=Bar(how, limit))
    assert row.met is met
    assert row.cells()[5] == ("yes" if met else "no")


def test_nothing_to_judge():
    assert Row("measured", "QueuePool", 1.0).met is None
    row = Row("measured", "ReaperPool", None, bar=Bar("at most", 1))
    assert row.met is None
    assert "not measured" in row.cells()


def test_a_row_has_the_median_and_the_outer_tenths():
    row = row_of("measured", "ReaperPool", [*range(1, 100), 1000])
    assert row.figure == 50.5
    assert row.spread == (10, 90)


def test_a_single_figure_has_no_spread():
    assert row_of("measured", "ReaperPool", [3.0]).spread is None


@pytest.mark.parametrize(
    "value, text",
    [
        (0.03456, "0.0346"),
        (0.9996, "1.00"),
        (1.2345, "1.23"),
        (51.2, "51.2"),
        (106321.0, "106000"),
        (-2.1, "-2.10"),
        (0, "0"),
    ],
)
def test_three_digits(value, text):
    assert number(value) == text


# the table


ROWS = [
    Row("a *measure*_", "ReaperPool", 0.5, bar=Bar("at most", 0.35)),
    Row("a *measure*_", "QueuePool", 7.0, "µs"),
    Row("a *measure*_", "psycopg_pool", None, note="`psycopg_pool` lacks"),
    Row("another", "ReaperPool", 1.5, "ms", (1.0, 2.0), Bar("below", 2)),
]


def parsed(text: str) -> nodes.document:
    settings = {"halt_level": 1, "report_level": 1, "_disable_config": True}
    return publish_doctree(text, settings_overrides=settings)


def test_rest_shows_names_as_they_are():
    document = parsed(table.in_rest(ROWS))
    rows = [
        [entry.astext() for entry in row.findall(nodes.entry)]
        for row in document.findall(nodes.row)
    ]
    assert rows[1:] == [
        [
            "a *measure*_",
            "0.500 × QueuePool",
            "at most 0.350",
            "no",
            "QueuePool 7.00 µs; psycopg_pool: `psycopg_pool` lacks",
        ],
        ["another", "1.50 ms (1.00 to 2.00)", "below 2.00", "yes", ""],
    ]


def test_the_screen_shows_every_row():
    text = table.on_screen(ROWS)
    for row in ROWS:
        assert row.what in text and row.who in text and row.note in text
    assert table.summary(ROWS) == "1 of 2 bars met"


def test_a_marked_file_keeps_what_is_around(tmp_path):
    path = tmp_path / "README.rst"
    path.write_text(f"before\n\n{table.BEGIN}\nold\n{table.END}\n\nafter\n")
    for _ in range(2):
        table.write(path, ROWS)
        text = path.read_text("utf-8")
        assert text.startswith(f"before\n\n{table.BEGIN}\n")
        assert text.endswith(f"\n{table.END}\n\nafter\n")
        assert "old" not in text
        assert text.count("list-table") == 1
        parsed(text)


def test_readme_has_the_marks():
    readme = (ROOT / "README.rst").read_text("utf-8")
    assert readme.index(table.BEGIN) < readme.index(table.END)


# the pictures


STRANGE = "<Pool> & \"others'\""


def test_waits_are_drawn():
    seconds = {STRANGE: [0.0, 2e-6, 0.7], "ReaperPool": [0.001, 99.0]}
    svg = ElementTree.fromstring(picture.waits(f"Waits: {STRANGE}", seconds))
    texts = [element.text for element in svg.iter(f"{SVG}text")]
    assert STRANGE in texts
    assert f"Waits: {STRANGE}" in texts
    assert "700 ms" in texts and "99 s" in texts
    bars = [path.get("d") for path in svg.iter(f"{SVG}path")]
    # one for each wait, as they are far apart
    assert [d.count("z") for d in bars] == [3, 2]


def test_checkouts_are_drawn():
    checkouts = {"QueuePool": [1, 900, 1], STRANGE: [300, 300, 301]}
    svg = ElementTree.fromstring(picture.served(STRANGE, checkouts))
    texts = [element.text for element in svg.iter(f"{SVG}text")]
    assert "1 to 900" in texts and "300 to 301" in texts
    bars = [path.get("d") for path in svg.iter(f"{SVG}path")]
    assert [d.count("z") for d in bars] == [3, 3]


def test_pictures_have_one_size_and_are_small():
    few = picture.waits("t", {"QueuePool": [0.001]})
    waits = [10 ** (-6 + n / 1000) for n in range(8000)]
    many = picture.waits("t", {"QueuePool": waits})
    sizes = {
        (svg.get("width"), svg.get("height"))
        for svg in map(ElementTree.fromstring, (few, many))
    }
    assert len(sizes) == 1
    assert len(many) < 60_000


@pytest.mark.parametrize("name", ["waits", "served"])
def test_readme_shows_the_pictures_that_are_there(name):
    path = f"docs/pictures/{name}.svg"
    assert f".. image:: {path}" in (ROOT / "README.rst").read_text("utf-8")
    ElementTree.parse(ROOT / path)
    assert (ROOT / path).stat().st_size < 60_000


# the command


def test_lists_what_it_measures():
    done = subprocess.run(
        command("--list"), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names[:2] == ["stub", "psycopg2"]


def test_runs_on_the_stub(tmp_path):
    done = subprocess.run(
        command("--quick", "--only", "stub")
        + ["--table", str(tmp_path / "table.rst")]
        + ["--json", str(tmp_path / "timings")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "connect() and close(), stub driver" in done.stdout
    assert "bars met" in done.stdout
    text = (tmp_path / "table.rst").read_text("utf-8")
    assert "ReaperPool" in parsed(text).astext()
    suite = BenchmarkSuite.load(str(tmp_path / "timings/stub-driver.json"))
    assert {"QueuePool", "ReaperPool"} <= set(suite.get_benchmark_names())


def test_what_the_applications_line_costs():
    """It puts itself in the place of the pool's own look for the line."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.application_line"]
        + ["--rounds", "1", "--count", "5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("%") == 3


@pytest.mark.slow
def test_runs_on_postgresql(postgres_url):
    done = subprocess.run(
        command("--quick", "--only", "psycopg2", "query", "sessions")
        + ["--url", postgres_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for measured in (
        "connect() and close(), psycopg2",
        "engine.connect() and SELECT 1, PostgreSQL",
        "64 threads of ORM sessions on 8: p99.9 wait",
    ):
        assert measured in done.stdout
    password = make_url(postgres_url).password
    assert str(password) not in done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number):
    interrupt("contended", "threads on", number)


@pytest.mark.slow
@pytest.mark.parametrize("room", ["psycopg2", "sessions"])
def test_interrupted_with_a_server_of_its_own(own_postgres, room):
    interrupt(room, "1 of ", signal.SIGINT)


def interrupt(room: str, when: str, number: int) -> None:
    """It says so, without a traceback, and leaves nobody behind.

    Whoever it has started has the same standard error, which ends with the
    last of them.
    """

    with subprocess.Popen(
        command("--only", room),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            line = ""
            while when not in line:
                line = process.stderr.readline()
                assert line
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    # to whoever runs it from a shell either is the same
    assert process.returncode in (130, -number), errors
    assert "Interrupted" in errors
    assert "Traceback" not in errors
