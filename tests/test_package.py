"""The package as installed: what pip and type checkers are told."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from importlib import metadata
from importlib import resources
from pathlib import Path

import pytest
from conftest import missing

import sa_reaperpool

ROOT = Path(__file__).parents[1]

# these are imported by who has their libraries
OPTIONAL = ["exporters/opentelemetry", "exporters/prometheus", "watch_view"]


@pytest.fixture(scope="module")
def installed() -> metadata.Distribution:
    try:
        return metadata.distribution("sa-reaperpool")
    except metadata.PackageNotFoundError:
        missing("sa-reaperpool is imported from a folder, not installed")


def test_version(installed: metadata.Distribution) -> None:
    assert installed.version == sa_reaperpool.__version__


def test_entry_point(installed: metadata.Distribution) -> None:
    [entry_point] = [
        each
        for each in installed.entry_points
        if each.group == "sqlalchemy.plugins"
    ]
    assert entry_point.name == "reaperpool"
    assert entry_point.load().__name__ == "ReaperPoolPlugin"


def test_needs_sqlalchemy_alone(installed: metadata.Distribution) -> None:
    needed = [each for each in installed.requires or () if "extra" not in each]
    assert [re.split(r"\W", each)[0] for each in needed] == ["SQLAlchemy"]


def test_all_its_packages(installed: metadata.Distribution) -> None:
    """Each folder is named in setup.cfg."""

    folder = ROOT / "sa_reaperpool"
    folders = {path.parent for path in folder.rglob("*.py")}
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    named = config["options"]["packages"].split()
    assert {
        str(each.relative_to(ROOT)).replace("/", ".") for each in folders
    } == set(named)


def test_extras(installed: metadata.Distribution) -> None:
    extras = installed.metadata.get_all("Provides-Extra")
    assert {"prometheus", "opentelemetry", "watch"} <= set(extras or ())


def test_is_typed() -> None:
    assert (resources.files(sa_reaperpool) / "py.typed").is_file()


def test_imports_nothing_but_sqlalchemy() -> None:
    """Drivers, among others, are the user's choice, and so are extras."""

    folder = Path(sa_reaperpool.__file__).parent
    found = set()
    for path in folder.rglob("*.py"):
        if path.parent / path.stem in [folder / name for name in OPTIONAL]:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module or "")
    foreign = {name.partition(".")[0] for name in found}
    foreign -= sys.stdlib_module_names
    assert foreign <= {"sqlalchemy", "sa_reaperpool"}


def test_tox_covers_what_setup_cfg_names() -> None:
    named = re.findall(r"Python :: 3\.(\d+)", (ROOT / "setup.cfg").read_text())
    tox = (ROOT / "tox.ini").read_text()
    [rest] = re.findall(r"py\{([\d,]+)\}", tox)
    listed = {"310"} if "py310" in tox else set()
    assert {f"3{minor}" for minor in named} == listed | set(rest.split(","))
