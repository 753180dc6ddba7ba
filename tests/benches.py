"""Lets tests import ``benchmarks``, which is not installed.

At the end of the path: the package itself is found where it is installed,
and not in the checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

sys.path.append(str(ROOT))
