"""Options: what each takes, what it becomes, and what is refused."""

from __future__ import annotations

import dataclasses
import inspect
from decimal import Decimal
from fractions import Fraction

import pytest
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import Pool
from sqlalchemy.pool import QueuePool
from sqlalchemy.pool import reset_commit
from sqlalchemy.pool import reset_none
from sqlalchemy.pool import reset_rollback

from sa_reaperpool import ReaperPool
from sa_reaperpool.options import LIVENESS_DEFAULT
from sa_reaperpool.options import OPTIONS
from sa_reaperpool.options import Settings
from sa_reaperpool.options import options_table
from sa_reaperpool.options import validate

BY_KEYWORD = {option.keyword: option for option in OPTIONS}

QUEUEPOOLS = {
    "pool_size",
    "max_overflow",
    "timeout",
    "use_lifo",
    "recycle",
    "pre_ping",
    "reset_on_return",
}
WHOLE = [
    "pool_size",
    "max_overflow",
    "min_idle",
    "max_waiting",
    "max_connecting",
]
SECONDS = [
    "timeout",
    "recycle",
    "reaping_frequency",
    "dead_connection_timeout",
    "max_age",
    "idle_timeout",
    "keepalive",
    "leak_timeout",
    "reclaim_timeout",
]
ABOVE_ZERO = [
    "max_age",
    "idle_timeout",
    "keepalive",
    "leak_timeout",
    "reclaim_timeout",
]
FLAGS = ["use_lifo", "pre_ping"]


def converted(keyword, value):
    return validate({keyword: value})[keyword]


def refusal(**values):
    with pytest.raises(ArgumentError) as caught:
        validate(values)
    # nobody wants to read of int()'s trouble first
    assert caught.value.__suppress_context__ or not caught.value.__context__
    return str(caught.value)


# the table, and those who must agree with it


def test_names_and_keywords_are_unique():
    for column in ("name", "keyword"):
        names = [getattr(option, column) for option in OPTIONS]
        assert len(set(names)) == len(names)


def test_constructor_and_table_agree():
    parameters = inspect.signature(ReaperPool.__init__).parameters
    not_options = {"self", "creator", "echo", "logging_name", "events"}
    not_options |= {"dialect", "_dispatch"}
    # a function, which neither a URL nor an ini file can name
    not_options.add("disconnect_with")
    assert parameters.keys() - not_options == BY_KEYWORD.keys()
    for keyword, option in BY_KEYWORD.items():
        assert parameters[keyword].default == option.default
        assert type(parameters[keyword].default) is type(option.default)


def test_shared_options_have_queuepools_defaults():
    theirs = {
        **inspect.signature(Pool.__init__).parameters,
        **inspect.signature(QueuePool.__init__).parameters,
    }
    shared = theirs.keys() & BY_KEYWORD.keys()
    assert shared == QUEUEPOOLS
    for keyword in shared:
        assert BY_KEYWORD[keyword].default == theirs[keyword].default


def test_settings_are_the_options_that_queuepool_lacks():
    assert [field.name for field in dataclasses.fields(Settings)] == [
        keyword for keyword in BY_KEYWORD if keyword not in QUEUEPOOLS
    ]


def test_settings_are_picked_from_what_was_validated():
    settings = Settings.of(validate({"max_age": "1800", "min_idle": 2}))
    assert settings.max_age == 1800
    assert settings.min_idle == 2
    assert settings.liveness == "passive"
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.max_age = 1


def test_nothing_given_gives_the_defaults():
    expected = {option.keyword: option.default for option in OPTIONS}
    expected["reset_on_return"] = reset_rollback
    assert validate({}) == expected


def test_unknown_keyword_is_the_callers_mistake():
    with pytest.raises(TypeError, match="max_agee"):
        validate({"max_agee": 5})


# conversions


@pytest.mark.parametrize("keyword", WHOLE)
@pytest.mark.parametrize("value", [3, "3", " 3 "])
def test_whole_numbers(keyword, value):
    result = converted(keyword, value)
    assert result == 3
    assert type(result) is int


@pytest.mark.parametrize("keyword", SECONDS)
@pytest.mark.parametrize(
    "value, seconds",
    [
        (5, 5),
        ("5", 5),
        (1.5, 1.5),
        ("1.5", 1.5),
        (" 1.5 ", 1.5),
        ("1e3", 1000.0),
        (Decimal("2.5"), 2.5),
        (Fraction(5, 2), 2.5),
    ],
)
def test_seconds(keyword, value, seconds):
    result = converted(keyword, value)
    assert result == seconds
    assert type(result) is type(seconds)


@pytest.mark.parametrize(
    "keyword",
    [
        "timeout",
        "reaping_frequency",
        "max_waiting",
        "max_connecting",
        *ABOVE_ZERO,
    ],
)
@pytest.mark.parametrize("value", [None, "none", "None", " NONE "])
def test_none_switches_off(keyword, value):
    assert converted(keyword, value) is None


@pytest.mark.parametrize("value", [None, "none", -1, "-1", -1.0])
def test_recycle_off_is_minus_one(value):
    assert converted("recycle", value) == -1


@pytest.mark.parametrize("value", [0, "0", 0.0, "0.0"])
def test_reaping_frequency_zero_means_none(value):
    assert converted("reaping_frequency", value) is None


@pytest.mark.parametrize(
    "keyword", ["timeout", "recycle", "dead_connection_timeout", "jitter"]
)
def test_zero_is_a_number_where_it_has_a_meaning(keyword):
    assert converted(keyword, "0") == 0
    assert converted(keyword, 0) is not None


@pytest.mark.parametrize("keyword", FLAGS)
@pytest.mark.parametrize(
    "value, flag",
    [
        (True, True),
        (1, True),
        ("true", True),
        ("True", True),
        ("yes", True),
        ("on", True),
        ("1", True),
        (False, False),
        (0, False),
        (None, False),
        ("false", False),
        ("no", False),
        ("off", False),
        ("0", False),
        ("none", False),
    ],
)
def test_flags(keyword, value, flag):
    assert converted(keyword, value) is flag


@pytest.mark.parametrize(
    "value, style",
    [
        ("rollback", reset_rollback),
        ("Rollback", reset_rollback),
        (True, reset_rollback),
        ("true", reset_rollback),
        (reset_rollback, reset_rollback),
        ("commit", reset_commit),
        (reset_commit, reset_commit),
        ("none", reset_none),
        (None, reset_none),
        (False, reset_none),
        ("false", reset_none),
        (reset_none, reset_none),
    ],
)
def test_reset_on_return(value, style):
    assert converted("reset_on_return", value) is style
    # and the same as SQLAlchemy makes of it
    if value not in ("true", "false", "Rollback"):
        pool = QueuePool(lambda: None, reset_on_return=value)
        assert pool._reset_on_return is style


@pytest.mark.parametrize("value", [0, 0.0, 0.5, "0.5", "0", 0.999])
def test_jitter(value):
    assert converted("jitter", value) == float(value)


@pytest.mark.parametrize("value", ["passive", "ping", "off", "Ping"])
def test_liveness(value):
    assert converted("liveness", value) == value.lower()


# two options together


def test_no_pool_size_lifts_the_limits_of_others():
    valid = validate({"pool_size": 0, "max_overflow": -5, "min_idle": 50})
    assert valid["max_overflow"] == -5
    assert valid["min_idle"] == 50


def test_max_overflow_below_minus_one_needs_pool_size_zero():
    assert refusal(max_overflow=-2) == (
        "Invalid value for option 'max_overflow': -2 "
        "(allowed: a whole number of -1 or more, -1 for no limit)"
    )
    assert converted("max_overflow", -1) == -1


def test_min_idle_is_at_most_pool_size():
    assert validate({"pool_size": 3, "min_idle": 3})["min_idle"] == 3
    assert refusal(pool_size=3, min_idle="4") == (
        "Invalid value for option 'min_idle': 4 "
        "(allowed: a whole number from 0 to pool_size, which is 3)"
    )


@pytest.mark.parametrize(
    "given", [{"pre_ping": True}, {"liveness": "ping"}], ids=str
)
def test_pre_ping_and_liveness_ping_are_one(given):
    valid = validate(given)
    assert valid["pre_ping"] is True
    assert valid["liveness"] == "ping"


@pytest.mark.parametrize("liveness", ["passive", "off"])
def test_another_liveness_beside_pre_ping(liveness):
    assert refusal(pre_ping="true", liveness=liveness) == (
        f"Invalid value for option 'liveness': '{liveness}' "
        "(allowed: ping, since pool_pre_ping is true)"
    )


def test_liveness_by_default_is_not_liveness_given():
    valid = validate({"pre_ping": True, "liveness": LIVENESS_DEFAULT})
    assert valid["liveness"] == "ping"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"pre_ping": True},
        {"pre_ping": True, "liveness": "ping"},
        {"liveness": "off"},
        {"reset_on_return": "none"},
        {"recycle": None},
        {"reaping_frequency": 0},
        {"pool_size": 0, "max_overflow": -5},
        {"timeout": "none", "max_age": "1.5", "max_connecting": "2"},
    ],
    ids=str,
)
def test_validated_options_are_valid(given):
    """recreate() hands back what the constructor made of its arguments."""

    once = validate(given)
    twice = validate(once)
    assert twice == once
    # a liveness that was never given may still meet a pre_ping
    assert type(twice["liveness"]) is type(once["liveness"])


# bad input: the option by its public name, the value, what is allowed


@pytest.mark.parametrize("keyword", WHOLE + SECONDS + ["jitter"])
@pytest.mark.parametrize("value", [True, False], ids=str)
def test_bool_is_no_number(keyword, value):
    name = BY_KEYWORD[keyword].name
    allowed = BY_KEYWORD[keyword].kind.allowed
    assert refusal(**{keyword: value}) == (
        f"Invalid value for option '{name}': {value} (allowed: {allowed})"
    )


@pytest.mark.parametrize("keyword", WHOLE + SECONDS + ["jitter"])
@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        "nan",
        "inf",
        "-Infinity",
        Decimal("NaN"),
        1j,
        b"5",
        [5],
        "",
        "five",
        "true",
        "5s",
    ],
    ids=repr,
)
def test_not_a_number(keyword, value):
    name = BY_KEYWORD[keyword].name
    assert refusal(**{keyword: value}).startswith(
        f"Invalid value for option '{name}': {value!r} (allowed: "
    )


@pytest.mark.parametrize("keyword", SECONDS)
@pytest.mark.parametrize(
    "value", [10**400, 10**5000, Fraction(10**400), "1e400"], ids=type
)
def test_more_seconds_than_can_be_reckoned_with(keyword, value):
    message = refusal(**{keyword: value})
    assert f"'{BY_KEYWORD[keyword].name}'" in message
    assert len(message) < 250


@pytest.mark.parametrize("keyword", WHOLE)
@pytest.mark.parametrize("value", [1.5, "1.5", 2.0, Decimal(2)], ids=repr)
def test_fraction_of_a_connection(keyword, value):
    assert refusal(**{keyword: value}).startswith(
        f"Invalid value for option '{keyword}': {value!r} "
        "(allowed: a whole number "
    )


@pytest.mark.parametrize(
    "keyword, value, allowed",
    [
        ("pool_size", -1, "a whole number of 0 or more, 0 for no limit"),
        ("pool_size", None, "a whole number of 0 or more, 0 for no limit"),
        (
            "max_overflow",
            None,
            "a whole number of -1 or more, -1 for no limit",
        ),
        (
            "timeout",
            -1,
            "a number of seconds of 0 or more, or none to wait for ever",
        ),
        ("recycle", -2, "a number of seconds of 0 or more, or -1 or none"),
        ("recycle", -0.5, "a number of seconds of 0 or more, or -1 or none"),
        ("use_lifo", "maybe", "true or false"),
        ("use_lifo", 2, "true or false"),
        ("pre_ping", 1.0, "true or false"),
        ("pre_ping", object, "true or false"),
        (
            "reset_on_return",
            "revert",
            "rollback, commit or none, or true or false",
        ),
        ("reset_on_return", 0, "rollback, commit or none, or true or false"),
        ("reset_on_return", [], "rollback, commit or none, or true or false"),
        (
            "reaping_frequency",
            -1,
            "a number of seconds above 0, or 0 or none for no background work",
        ),
        (
            "dead_connection_timeout",
            -1,
            "a number of seconds of 0 or more, or none",
        ),
        ("min_idle", -1, "a whole number of 0 or more"),
        ("min_idle", None, "a whole number of 0 or more"),
        ("jitter", 1, "a number from 0 to below 1"),
        ("jitter", -0.1, "a number from 0 to below 1"),
        ("jitter", None, "a number from 0 to below 1"),
        ("liveness", "pong", "passive, ping or off"),
        ("liveness", None, "passive, ping or off"),
        ("liveness", True, "passive, ping or off"),
        ("max_connecting", 0, "a whole number of 1 or more, or none"),
        ("max_waiting", -1, "a whole number of 0 or more, or none"),
        ("on_deadlock", "panic", "warn, raise or off"),
        ("on_deadlock", None, "warn, raise or off"),
        ("on_deadlock", False, "warn, raise or off"),
        *(
            (keyword, value, "a number of seconds above 0, or none")
            for keyword in ABOVE_ZERO
            for value in (0, -1, -0.5, "0", "-1")
        ),
    ],
)
def test_out_of_range(keyword, value, allowed):
    assert refusal(**{keyword: value}) == (
        f"Invalid value for option '{BY_KEYWORD[keyword].name}': {value!r} "
        f"(allowed: {allowed})"
    )


@pytest.mark.parametrize(
    "value", ["10?password=hunter2", "10;PASSWD=hunter2", "10 pwd=hunter2"]
)
def test_password_strayed_into_a_value(value):
    message = refusal(max_age=value)
    assert "'10" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("keyword", [*FLAGS, "reset_on_return"])
def test_only_text_is_read_as_text(keyword):
    class Text:
        def __str__(self):
            return "true"

    assert f"'{BY_KEYWORD[keyword].name}'" in refusal(**{keyword: Text()})


def test_value_that_cannot_be_shown():
    class Rude:
        def __repr__(self):
            raise RuntimeError

    assert "'max_age': a value of type Rude (" in refusal(max_age=Rude())


# the documentation's table


def test_table_shows_every_option_once():
    lines = options_table().splitlines()
    first_cells = [line for line in lines if line.startswith("   * - ``")]
    assert len(first_cells) == len(OPTIONS)
    for option, line in zip(OPTIONS, first_cells):
        assert f"``{option.name}``" in line
        assert option.alias is None or f"``{option.alias}``" in line
    assert all(len(line) <= 79 for line in lines)


def test_table_is_restructuredtext():
    core = pytest.importorskip("docutils.core")
    nodes = pytest.importorskip("docutils.nodes")
    document = core.publish_doctree(
        options_table(),
        settings_overrides={"halt_level": 2, "report_level": 2},
    )
    rows = list(document.findall(nodes.row))
    assert len(rows) == len(OPTIONS) + 1
    assert {len(row.children) for row in rows} == {4}
