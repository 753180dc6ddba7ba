"""Runs the examples as a person would, and imports what is in them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import sa_reaperpool

FOLDER = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example, as a process of its own."""

    # the package that is tested, wherever it is
    package = Path(sa_reaperpool.__file__).parents[1]
    return subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", *arguments],
        env={**os.environ, "PYTHONPATH": str(package)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def load(name: str) -> Any:
    """The module of an example."""

    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)
