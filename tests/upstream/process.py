"""A run of SQLAlchemy's tests in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sa_reaperpool

HERE = Path(__file__).parent


class Process:
    """pytest, under way where SQLAlchemy's tests are unpacked.

    :param source: where they are, and where the process runs.
    :param plugin: the module of this folder that puts the pool in place; it
     leaves its report in the file that ``REAPERPOOL_UPSTREAM_REPORT`` names.
    :param arguments: pytest's, after those that all runs need.
    :param variables: what the plugin reads of the environment.
    :param timeout: seconds that the run may take.
    """

    def __init__(
        self,
        source: Path,
        plugin: str,
        arguments: Iterable[str],
        variables: Mapping[str, str],
        timeout: float,
    ) -> None:
        descriptor, name = tempfile.mkstemp(suffix=".json", dir=source)
        os.close(descriptor)
        self._report = Path(name)
        self._output = self._report.with_suffix(".log")
        self._timeout = timeout
        # the package may be imported from a checkout, without installation
        roots = [str(Path(sa_reaperpool.__file__).parents[1]), str(HERE)]
        environment = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join(roots),
            REAPERPOOL_UPSTREAM_REPORT=name,
            **variables,
        )
        environment.pop("PYTEST_ADDOPTS", None)
        # -s: SQLAlchemy's conftest.py then leaves the installed package be
        argv = [sys.executable, "-s", "-m", "pytest", "-p", plugin]
        argv += ["-p", "no:cacheprovider", "-o", "faulthandler_timeout=120"]
        argv += arguments
        with open(self._output, "wb") as output:
            self._process = subprocess.Popen(
                argv,
                cwd=source,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> tuple[Any, str]:
        """Wait for the end of the run.

        :return: the plugin's report, and all that was printed.
        :raises AssertionError: not all tests ran.
        """

        try:
            self._process.wait(self._timeout)
        finally:
            self.end()
        output = self._output.read_text(errors="replace")
        report = self._report.read_text()
        # pytest's statuses 0 and 1: all tests ran
        if self._process.returncode not in (0, 1) or not report:
            raise AssertionError(f"the run broke off:\n{output[-8000:]}")
        return json.loads(report), output

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
