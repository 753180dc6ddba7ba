"""docs/: nothing is missing there.

That it can be built, that its links lead somewhere and that its examples
run, is for Sphinx to say: see .ci/run.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from sqlalchemy.pool import QueuePool

import sa_reaperpool
from sa_reaperpool import ReaperPool
from sa_reaperpool import diagnosis
from sa_reaperpool.options import OPTIONS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {page.stem: page.read_text() for page in sorted(DOCS.glob("*.rst"))}
OPTION = re.compile(r"^\.\. pool-option:: (\w+)\n\n   (\S.*)$", re.MULTILINE)


def on_the_api_page() -> set[str]:
    """What it has, without the modules that these are in."""

    names = re.findall(
        r"^\.\. auto(?:class|exception|function|method):: ([\w.]+)",
        PAGES["api"],
        re.MULTILINE,
    )
    return {name.removeprefix("sa_reaperpool.") for name in names}


def test_every_public_name_is_on_the_api_page() -> None:
    public = set(sa_reaperpool.__all__) - {"__version__"}
    assert public - on_the_api_page() == set()


@pytest.mark.parametrize("page", sorted(PAGES))
def test_methods_in_the_text_are_on_the_api_page(page: str) -> None:
    """Those of pools; what is QueuePool's is for SQLAlchemy to document."""

    names = set(re.findall(r"\bpool\.([a-z_]+)\(", PAGES[page]))
    for name in names - set(dir(QueuePool)):
        assert callable(getattr(ReaperPool, name))
        assert f"ReaperPool.{name}" in on_the_api_page()


def test_every_option_is_told_of_once() -> None:
    told = [name for name, _ in OPTION.findall(PAGES["options"])]
    assert sorted(told) == sorted(option.name for option in OPTIONS)
    for option in OPTIONS:
        assert option.meaning and option.kind.allowed


def test_every_verdict_has_a_section() -> None:
    """With a message that begins as the code's does."""

    code = inspect.getsource(diagnosis)
    reasons = set(re.findall(r'\bVerdict\("(\w+)"', code))
    assert len(reasons) == 5
    sections = re.findall(
        r"^\.\. _(\w+):\n\n(.+)\n-+\n\n.. code-block:: text\n\n +(.+)$",
        PAGES["dry"],
        re.MULTILINE,
    )
    assert {reason for reason, _, _ in sections} == reasons
    for _, title, message in sections:
        assert message.startswith(f"{title}: ")
        assert f'"{title}: ' in code


def test_every_page_has_examples_that_run() -> None:
    for name, text in PAGES.items():
        if name not in ("index", "api"):
            assert ".. testcode::" in text or ".. doctest::" in text, name
