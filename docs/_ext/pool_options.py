"""The options of the pool, as the page about them shows them.

What an option is called, takes and does is in the one table in options.py;
the page adds advice to each, and no more::

    .. pool-option:: max_age

       When to set it, and to what.

``.. pool-options::`` is all of them at a glance.  An option that the page
forgets is a warning, and one that is none an error.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from sa_reaperpool.options import OPTIONS
from sa_reaperpool.options import Option

log = logging.getLogger(__name__)

BY_NAME = {option.name: option for option in OPTIONS}


def default(option: Option) -> str:
    """As a URL has it, which Python accepts as well."""
    return str(option.default).lower()


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def entry(option: Option) -> list[str]:
    """One option, as reStructuredText."""
    names = [option.name] + [option.alias] * (option.alias is not None)
    facts = {
        "Default": f"``{default(option)}``",
        "Allowed": option.kind.allowed,
        "In a URL": " or ".join(f"``{n}={default(option)}``" for n in names),
        "In Python": f"``create_engine(..., {option.name}=)``, "
        f"``ReaperPool(..., {option.keyword}=)``",
        "While in use": f"``pool.configure({option.keyword}=)``"
        if option.changes
        else "does not change",
    }
    lines = [f".. confval:: {option.name}", ""]
    lines += [f"   {sentence(option.meaning)}", ""]
    lines += [f"   :{name}: {fact}" for name, fact in facts.items()]
    return lines + [""]


def overview() -> list[str]:
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: auto",
        "",
        "   * - option",
        "     - default",
        "     - meaning",
    ]
    for option in OPTIONS:
        lines += [
            f"   * - :confval:`{option.name}`",
            f"     - ``{default(option)}``",
            f"     - {option.meaning}",
        ]
    return lines


class PoolOption(SphinxDirective):
    """One option, and the page's own words on it."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        option = BY_NAME.get(self.arguments[0])
        if option is None:
            raise self.error(f"no option of the pool: {self.arguments[0]}")
        told(self.env).setdefault(option.name, self.env.docname)
        lines = entry(option) + [f"   {line}" for line in self.content]
        return parsed(self, lines)


class PoolOptions(SphinxDirective):
    """All options at a glance."""

    option_spec = {"class": directives.class_option}

    def run(self) -> list[nodes.Node]:
        return parsed(self, overview())


def parsed(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    source, line = directive.get_source_info()
    content = StringList()
    for each in lines:
        content.append(each, source, line - 1)
    found = nodes.Element()
    directive.state.nested_parse(content, directive.content_offset, found)
    return found.children


def told(env: BuildEnvironment) -> dict[str, str]:
    """The options that a page tells of, and which page that is."""
    if not hasattr(env, "pool_options_told"):
        env.pool_options_told = {}
    return env.pool_options_told


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """A page is about to be read anew."""
    for name in [n for n, page in told(env).items() if page == docname]:
        del told(env)[name]


def check(app: Sphinx, env: BuildEnvironment) -> None:
    for name in BY_NAME.keys() - told(env).keys():
        log.warning("no page tells of the option %s", name)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("pool-option", PoolOption)
    app.add_directive("pool-options", PoolOptions)
    app.connect("env-purge-doc", forget)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
