"""README.rst: it renders, and what it says is so."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.core import publish_doctree
from sqlalchemy import create_engine
from sqlalchemy import text

import sa_reaperpool
from sa_reaperpool.options import OPTIONS
from sa_reaperpool.options import options_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.rst").read_text()

# what two commands a user needs, by what they end with
COMMANDS = ["-m sa_reaperpool demo", ".venv/bin/pytest"]


@pytest.fixture(scope="module")
def document() -> nodes.document:
    # any complaint of the parser's is an error
    settings = {"halt_level": 1, "report_level": 1, "_disable_config": True}
    return publish_doctree(README, settings_overrides=settings)


def test_renders(document: nodes.document) -> None:
    assert document["title"] == "sa-reaperpool"
    assert len(list(document.findall(nodes.section))) > 5


def commands(document: nodes.document) -> list[str]:
    """The literal blocks of the first screen."""

    before = []
    for node in document.children:
        if isinstance(node, nodes.section):
            break
        before += node.findall(nodes.literal_block)
    return [block.astext() for block in before]


def test_two_commands_on_the_first_screen(document: nodes.document) -> None:
    found = commands(document)
    assert len(found) == len(COMMANDS)
    for command, end in zip(found, COMMANDS):
        assert "\n" not in command
        assert command.endswith(end)


def test_ci_runs_the_commands_word_for_word(document: nodes.document) -> None:
    script = (ROOT / ".ci" / "run").read_text()
    lines = [line.strip() for line in script.splitlines()]
    for command in commands(document):
        assert command in lines


def test_options_table_is_the_codes() -> None:
    assert options_table() in README


def test_every_option_is_in_the_rendered_table(
    document: nodes.document,
) -> None:
    text = document.astext()
    for option in OPTIONS:
        assert option.name in text


def test_names_in_the_text_exist() -> None:
    """The pool's methods and the package's names that it speaks of."""

    methods = set(re.findall(r"\bpool\.([a-z_]+)\(", README))
    assert methods >= {"keep", "leases", "stats", "reap"}
    for name in methods:
        assert callable(getattr(sa_reaperpool.ReaperPool, name))
    names = set(re.findall(r"sa_reaperpool\.([A-Z]\w+)", README))
    assert names >= {"ConnectionReclaimed", "CheckoutTimeout"}
    for name in names:
        assert hasattr(sa_reaperpool, name)


class Client:
    """Any client, as the text has it."""

    def get(self, key: str) -> None:
        pass

    def quit(self) -> None:
        pass


def test_code_runs(document: nodes.document, tmp_path: Path) -> None:
    """Each piece of Python, in order, with the names that it speaks of."""

    url = f"sqlite:///{tmp_path}/file.db"
    engine = create_engine(url, poolclass=sa_reaperpool.ReaperPool)
    names = {
        "create_engine": create_engine,
        "sa_reaperpool": sa_reaperpool,
        "url": url,
        "engine": engine,
        "pool": engine.pool,
        "signal": signal,
        "statement": text("SELECT 1"),
        "deeply": SimpleNamespace(nested=SimpleNamespace(code=int)),
        "app": SimpleNamespace(
            wsgi_app=print, add_middleware=print, mount=print
        ),
        "Client": Client,
    }
    pieces = [
        block.astext()
        for block in document.findall(nodes.literal_block)
        if "python" in block["classes"]
    ]
    before = signal.getsignal(signal.SIGUSR1)
    for piece in pieces:
        exec(piece, names)
    signal.signal(signal.SIGUSR1, before)
    assert len(pieces) > 4
    assert type(names["engine"].pool) is sa_reaperpool.ReaperPool
    assert engine.pool.checkedout() == names["pool"].checkedout() == 0
    names["pool"].dispose()
    engine.dispose()
