"""How Sphinx builds the documentation; see README.rst for the command."""

from __future__ import annotations

import sys
from pathlib import Path

import sa_reaperpool

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "sa-reaperpool"
author = "the sa-reaperpool authors"
copyright = "the sa-reaperpool authors"
version = release = sa_reaperpool.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "pool_options",
]

# A link that leads nowhere is a warning, and a warning ends the build.  What
# is SQLAlchemy's or Python's is not looked up: no build needs the network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"sqlalchemy\..*"),
    (r"py:exc", r"ValueError|PendingRollbackError"),
]

# quotes are code's, also in a heading
smartquotes = False

# names as the reader knows them, not with all that is in front of them
add_module_names = False
autodoc_typehints = "none"
# what SQLAlchemy says of a method in its own roles is not repeated here
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
toc_object_entries = False

# The examples run one after the other, page by page, each page with an
# SQLite file of its own.
doctest_global_setup = """
import logging
import os
import tempfile
import threading
import time

from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy import text

import sa_reaperpool
from sa_reaperpool import ReaperPool

_folder = tempfile.TemporaryDirectory()
url = f"sqlite:///{_folder.name}/shop.db"

logging.getLogger("sqlalchemy").addHandler(logging.NullHandler())


def until(condition, patience=20.0):
    '''What the reaper does comes a moment later.'''
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


def in_a_thread(function, name=None):
    thread = threading.Thread(target=function, name=name)
    thread.start()
    thread.join()
"""
doctest_global_cleanup = """
for _pool in sa_reaperpool.fork.pools():
    _pool.dispose()
_folder.cleanup()
"""

html_theme = "alabaster"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
html_title = f"sa-reaperpool {release}"
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_sidebars = {
    "**": ["about.html", "searchfield.html", "navigation.html"],
}
html_theme_options = {
    "description": "A connection pool for SQLAlchemy that looks after its "
    "connections.",
    "page_width": "72rem",
    "sidebar_width": "15rem",
    "fixed_sidebar": True,
    "show_powered_by": False,
}
