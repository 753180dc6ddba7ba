"""The URL of the command line's database: what it may be, and its file."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy import URL
from sqlalchemy import make_url

from .options import OPTIONS

# what SQLAlchemy takes for a yes
_YES = {"true", "yes", "on", "y", "t", "1"}


class Unusable(Exception):
    """The database cannot be used; the message is for the user."""


def parsed(given: str) -> URL:
    """The URL, without what the command chooses itself.

    :raises Unusable: it is none, or one of which nothing can come.

    """
    address = given.partition("?")[0]
    try:
        url = make_url(given)
        broken = (
            # none of it is part of a password that is not encoded
            make_url(address).host != url.host
            or re.search("@|%40", url.host or "") is not None
            or _stray(url, address)
        )
    except Exception:
        broken = True
    if broken:
        # not what it says: that may quote the password
        raise Unusable(
            "that is no database URL; one looks like "
            "postgresql+psycopg2://user:password@host/database, where an @ "
            "in a password is written %40, and a ? %3F"
        ) from None

    # The command chooses pool and options itself, for both.
    plugins = url.query.get("plugin", ())
    if isinstance(plugins, str):
        plugins = (plugins,)
    others = [plugin for plugin in plugins if plugin != "reaperpool"]
    url = url.difference_update_query(
        ["plugin"]
        + [option.name for option in OPTIONS]
        + [option.alias for option in OPTIONS if option.alias]
    )
    if others:
        url = url.update_query_dict({"plugin": others})

    if url.get_backend_name() == "sqlite" and sqlite_file(url) is None:
        raise Unusable(
            "SQLite in memory is a database for each connection: "
            "name a file, as in sqlite:///demo.db"
        )
    return url


def _stray(url: URL, address: str) -> bool:
    """Whether an @ is where it should be encoded, as in the database."""

    # a path may have some
    if url.get_backend_name() == "sqlite" and not url.host:
        return False
    return address.count("@") > (url.username is not None)


def sqlite_file(url: URL) -> Path | None:
    """The file of a database of SQLite's, if it is one that has a file."""

    if url.get_backend_name() != "sqlite":
        return None
    name = url.database or ""
    uri = str(url.query.get("uri", "")).strip().lower() in _YES
    if uri and name.startswith("file:"):
        name = name.removeprefix("file:").partition("#")[0]
        if name.startswith("//"):
            # this machine's name may stand between
            name = "/" + name.removeprefix("//").partition("/")[2]
        name = unquote(name)
    if name in ("", ":memory:") or "memory" in url.query.get("mode", ()):
        return None
    return Path(name)
