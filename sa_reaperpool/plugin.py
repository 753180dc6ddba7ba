"""``?plugin=reaperpool``: the pool and its options by name, from the URL."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from sqlalchemy.engine import URL
from sqlalchemy.engine import CreateEnginePlugin
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import Pool

from . import redact
from .options import OPTIONS
from .options import Option
from .pool import ReaperPool

# What the URL's query says to this plugin, and to SQLAlchemy itself.
_NAMES = {option.name for option in OPTIONS}
_ALIASES = {option.alias for option in OPTIONS if option.alias is not None}
_RESERVED = {"plugin", "plugins"}


class ReaperPoolPlugin(CreateEnginePlugin):
    """Give an engine a :class:`.ReaperPool` without touching its code::

        create_engine(
            "postgresql+psycopg2://app@db/app"
            "?plugin=reaperpool&pool_size=5&max_age=1800"
        )

    Options may also be keywords of ``create_engine()``, with
    ``plugins=["reaperpool"]``, or keys of ``engine_from_config()``, which
    gives strings.  Whatever is wrong with them is an ``ArgumentError`` of
    ``create_engine()``, before any connection is made.

    No message here shows the URL, whose password is nobody's business, nor
    any value in it but those of the pool's own options.

    """

    def __init__(self, url: URL, kwargs: dict[str, Any]) -> None:
        super().__init__(url, kwargs)
        _refuse_misspelt(url, kwargs)
        kwargs["poolclass"] = _pool_class(kwargs)
        self._options = {
            option.keyword: value
            for option in OPTIONS
            for value in _given(option, url, kwargs)
        }

    def update_url(self, url: URL) -> URL:
        return url.difference_update_query(_NAMES | _ALIASES)

    def handle_pool_kwargs(
        self, pool_cls: type[Pool], pool_args: dict[str, Any]
    ) -> None:
        # Here and not through create_engine()'s keywords, because
        # engine_from_config() would round them: pool_timeout=0.5 to 0.
        # Only what was given, so that a subclass keeps its own defaults.
        # The pool's constructor checks how the values fit together.
        pool_args.update(self._options)


def _pool_class(kwargs: dict[str, Any]) -> type[Pool]:
    if kwargs.get("_is_async"):
        raise ArgumentError(
            "plugin 'reaperpool' cannot be used with an asyncio engine: "
            "its pool is for threads"
        )
    if kwargs.get("pool") is not None:
        raise ArgumentError(
            "plugin 'reaperpool' makes the engine's pool, so that it cannot "
            "be used with an explicit pool= (a number of connections is "
            "pool_size=)"
        )
    given = kwargs.get("poolclass")
    if given is None:
        return ReaperPool
    if isinstance(given, type) and issubclass(given, ReaperPool):
        return given
    raise ArgumentError(
        "plugin 'reaperpool' cannot be used with "
        f"poolclass={getattr(given, '__name__', given)}, which is not a "
        "ReaperPool"
    )


def _given(option: Option, url: URL, kwargs: dict[str, Any]) -> Iterable[Any]:
    """Give the option's converted value, or nothing if it has none.

    Takes the option out of ``kwargs``; :meth:`ReaperPoolPlugin.update_url`
    takes it out of the URL.

    """
    if option.name in url.query and option.alias in url.query:
        raise ArgumentError(
            f"{option.alias!r} and {option.name!r} are two names for one "
            "option: give only one of them in the URL"
        )

    # what was given, with the place where
    given: list[tuple[object, str]] = []
    for name in (option.name, option.alias):
        if name is not None and name in url.query:
            texts = url.query[name]
            if isinstance(texts, str):
                texts = (texts,)
            given.extend((text, f"{name!r} in the URL") for text in texts)
    if option.name in kwargs:
        value = kwargs.pop(option.name)
        given.append((value, f"{option.name!r} as a keyword"))

    values = [option.convert(value) for value, _ in given]
    for value, (raw, where) in zip(values, given):
        if value != values[0]:
            first, first_where = given[0]
            raise ArgumentError(
                f"Option {option.name!r} is given twice, with different "
                f"values: {redact.value(first)} for {first_where}, "
                f"{redact.value(raw)} for {where}"
            )
    return values[:1]


def _refuse_misspelt(url: URL, kwargs: dict[str, Any]) -> None:
    for name in sorted(url.query.keys() - _NAMES - _ALIASES - _RESERVED):
        meant = [
            known
            for known in sorted(_NAMES | _ALIASES)
            if _one_letter_apart(name, known)
        ]
        # The driver is asked only about the rare look-alike.
        if meant and not _driver_knows(url, kwargs, name):
            raise ArgumentError(
                f"Unknown parameter {name!r} in the URL: did you mean "
                + " or ".join(map(repr, meant))
                + "?"
            )


def _one_letter_apart(name: str, other: str) -> bool:
    """Whether one letter was added, left out, replaced or, with the next
    one, swapped."""

    if len(name) == len(other):
        wrong = [i for i in range(len(name)) if name[i] != other[i]]
        if len(wrong) == 2:
            i, j = wrong
            return name[i : j + 1] == other[j] + other[i]
        return len(wrong) == 1
    short, long = sorted((name, other), key=len)
    return any(short == long[:i] + long[i + 1 :] for i in range(len(long)))


def _driver_knows(url: URL, kwargs: dict[str, Any], name: str) -> bool:
    """Whether the driver's ``connect()`` has a parameter of that name.

    It is asked without connecting.  Where nothing can be learned the answer
    is no: ``sqlite3`` is written in C, ``mysqlclient`` takes ``**kwargs``,
    and a dialect's own parameters (``ssl_ca`` of MySQL) are listed nowhere.
    None that these have is one letter from an option.

    """
    try:
        dialect = url.get_dialect()
        dbapi: Any = kwargs.get("module") or dialect.import_dbapi()
    except (ImportError, NotImplementedError, AttributeError):
        # create_engine() will say it better in a moment
        return False
    return name in _signature(dbapi) or _libpq_knows(dbapi, name)


def _signature(dbapi: Any) -> set[str]:
    try:
        parameters = inspect.signature(dbapi.connect).parameters.values()
    except (TypeError, ValueError, AttributeError):
        # written in C
        return set()
    return {
        parameter.name
        for parameter in parameters
        if parameter.kind
        in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }


def _libpq_knows(dbapi: Any, name: str) -> bool:
    """Ask libpq, whose parameters a PostgreSQL driver's signature leaves
    to ``**kwargs``."""

    driver = getattr(dbapi, "__name__", None)
    if driver == "psycopg":
        defaults = dbapi.pq.Conninfo.get_defaults()
        return name.encode() in {option.keyword for option in defaults}
    if driver == "psycopg2":
        try:
            dbapi.extensions.make_dsn(**{name: ""})
        except dbapi.ProgrammingError:
            return False
        return True
    return False
