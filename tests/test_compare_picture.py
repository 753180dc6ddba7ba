"""The comparison's figures, sentences and picture, of records made up here."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest

from sa_reaperpool.compare_figures import POOLS
from sa_reaperpool.compare_figures import figures
from sa_reaperpool.compare_figures import quantile
from sa_reaperpool.compare_figures import sections
from sa_reaperpool.compare_figures import short
from sa_reaperpool.compare_figures import verdict
from sa_reaperpool.compare_figures import windows
from sa_reaperpool.compare_picture import MOST_HOLDS
from sa_reaperpool.compare_picture import MOST_THREADS
from sa_reaperpool.compare_picture import page
from sa_reaperpool.compare_work import BARE
from sa_reaperpool.compare_work import MIXED
from sa_reaperpool.compare_work import Log

XHTML = "{http://www.w3.org/1999/xhtml}"

Visit = tuple[float, float, float, int]


def a_log(
    pool: str = "QueuePool",
    part: str = MIXED,
    visits: Sequence[Sequence[Visit]] = (),
    seconds: float = 1,
    **reasons: Counter[str],
) -> Log:
    """One that began at 100 s; visits in seconds from then."""

    return Log(
        pool,
        part,
        seconds,
        began=100.0,
        visits=[
            array(
                "d",
                [
                    number
                    for asked, got, done, lane in own
                    for number in (100 + asked, 100 + got, 100 + done, lane)
                ],
            )
            for own in visits
        ],
        **reasons,
    )


def in_turns(
    threads: int, lanes: int, hold: float, wait: float = 0.001
) -> list[list[Visit]]:
    """One second of all lanes in use, each thread after the other."""

    visits: list[list[Visit]] = [[] for _ in range(threads)]
    for number in range(int(1 / hold)):
        for lane in range(lanes):
            thread = (number * lanes + lane) % threads
            begin = number * hold
            visits[thread].append(
                (begin - wait, begin, begin + hold * 0.9, lane + 1)
            )
    return visits


def logs(
    queue: list[list[Visit]], reaper: list[list[Visit]], rounds: int = 2
) -> list[Log]:
    return [
        a_log(pool, part, visits)
        for _ in range(rounds)
        for pool, visits in zip(POOLS, (queue, reaper))
        for part in (MIXED, BARE)
    ]


class TestFigures:
    def test_of_a_round(self) -> None:
        log = a_log(
            visits=[
                [(0, 0.1, 0.2, 1), (0.3, 0.5, 0.6, 2)],
                [(0, 0.4, 0.5, 1)],
                # not in the time; a checkout that failed
                [(0.7, 0.9, 1.1, 1), (0.2, 1, 1, 0)],
            ],
            seconds=1,
            refused=Counter({"none free": 1}),
            failed=Counter({"a": 2, "b": 1}),
        )
        found = figures([log])
        assert found.rate == 3
        assert found.median == pytest.approx(0.2)
        assert found.longest == pytest.approx(0.8)
        assert found.shares == 0
        assert (found.refused, found.failed) == (1, 3)

    def test_of_several_rounds(self) -> None:
        found = figures(
            [
                a_log(visits=[[(0, 0, 0.1, 1)] * 4, [(0, 0, 0.1, 1)] * 2]),
                a_log(visits=[[(0, 0, 0.1, 1)] * 2, [(0, 0, 0.1, 1)] * 2]),
            ]
        )
        assert found.rates == (6, 4)
        assert found.rate == 5
        assert found.shares == 0.75

    def test_of_nothing(self) -> None:
        found = figures([a_log(visits=[[], []])])
        assert (found.rate, found.median, found.longest) == (0, 0, 0)
        assert found.shares == 0

    @pytest.mark.parametrize(
        ("part", "value"), [(0, 1), (0.5, 50), (0.99, 99), (1, 100)]
    )
    def test_quantile(self, part: float, value: float) -> None:
        assert quantile(range(1, 101), part) == value

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            (0, "0.00 \u00b5s"),
            (1.5e-5, "15.0 \u00b5s"),
            (9.999e-4, "1.00 ms"),
            (0.1234, "123 ms"),
            (0.9999, "1.00 s"),
            (12.34, "12.3 s"),
        ],
    )
    def test_short(self, seconds: float, words: str) -> None:
        assert short(seconds) == words


class TestVerdict:
    def says(self, queue: list[list[Visit]], reaper: list[list[Visit]]) -> str:
        return next(iter(verdict(logs(queue, reaper))))

    def test_slower(self) -> None:
        words = self.says(in_turns(4, 2, 0.01), in_turns(4, 2, 0.02))
        assert (
            "ReaperPool did 50 % fewer transactions than QueuePool, " in words
        )

    def test_quicker(self) -> None:
        words = self.says(in_turns(4, 2, 0.02), in_turns(4, 2, 0.01))
        assert "ReaperPool did 100 % more transactions" in words

    def test_alike(self) -> None:
        words = self.says(in_turns(4, 2, 0.01), in_turns(4, 2, 0.0101))
        assert "ReaperPool and QueuePool did as many transactions, " in words

    def of_rounds(
        self, queue: Sequence[float], reaper: Sequence[float]
    ) -> str:
        return next(
            iter(
                verdict(
                    [
                        a_log(pool, MIXED, in_turns(4, 2, hold))
                        for pool, holds in zip(POOLS, (queue, reaper))
                        for hold in holds
                    ]
                )
            )
        )

    def test_no_more_than_noise(self) -> None:
        words = self.of_rounds([0.01] * 4, [0.01, 0.015, 0.012, 0.011])
        assert re.search("fewer transactions than QueuePool, give or", words)
        assert "that says little" in words

    def test_too_few_rounds(self) -> None:
        words = self.of_rounds((0.01, 0.02), (0.015, 0.02))
        assert "too few, or differed too much, to tell" in words
        words = self.of_rounds([0.01], [0.0101])
        assert "too few, or differed too much, to tell" in words
        # but for a difference beyond any doubt
        words = self.of_rounds((0.01, 0.01), (0.02, 0.02))
        assert "50 % fewer" in words

    def test_more_than_noise(self) -> None:
        words = self.of_rounds([0.01, 0.0102] * 3, [0.0125, 0.0128] * 3)
        assert re.search("20 % fewer transactions .* take [0-3] %[.]", words)

    def test_rounds_are_compared_one_by_one(self) -> None:
        """What befell both at the same time is no difference of theirs."""

        words = self.of_rounds([0.01, 0.04] * 3, [0.0125, 0.05] * 3)
        assert re.search("20 % fewer transactions .* take [0-3] %[.]", words)

    def test_who_waited_all_the_time(self) -> None:
        starved: list[list[Visit]] = [
            [(0, 0.95, 0.96, 1)],
            [(0, 0.001, 0.002, 2)] * 4,
        ]
        words = self.says(starved, in_turns(2, 2, 0.25, wait=0.01))
        assert "QueuePool's 950 ms (all the time that there was)" in words
        assert words.count("all the time") == 1

    def test_nothing_came_through(self) -> None:
        words = self.says(in_turns(4, 2, 0.01), [[], [], [], []])
        assert words.endswith("nothing came through with ReaperPool.")

    def test_waits_and_shares(self) -> None:
        uneven: list[list[Visit]] = [
            [(0, 0.5, 0.6, 1)],
            [(0, 0.001, 0.002, 2)] * 4,
        ]
        words = self.says(uneven, in_turns(2, 2, 0.25, wait=0.01))
        assert "Its longest wait was 10.0 ms, QueuePool's 500 ms" in words
        assert "its least served thread got 100 %" in words
        assert "QueuePool's 25 %" in words

    def test_why_it_failed(self) -> None:
        found = logs(in_turns(4, 2, 0.01), in_turns(4, 2, 0.01))
        found[0].failed["no such row"] += 2
        found[4].refused["no such row"] += 1
        found[2].refused["too small"] += 1
        lines = list(verdict(found))
        assert "QueuePool failed 3 times: no such row" in lines
        assert "ReaperPool failed once: too small" in lines


class TestWindows:
    def test_a_slice_of_the_midst(self) -> None:
        found = windows(
            logs(in_turns(4, 2, 0.01), in_turns(4, 3, 0.02)), MIXED, 0.2, 999
        )
        assert [each.pool for each in found] == [*POOLS]
        assert [each.lanes for each in found] == [[1, 2], [1, 2, 3]]
        for each in found:
            assert each.seconds == 0.2
            assert all(
                0 <= hold.begin < hold.end <= 0.2 for hold in each.holds
            )
        # from 0.4 to 0.6 s; the first one's end, 0.399, is before
        assert len(found[0].holds) in (40, 42)

    def test_shorter_where_there_is_too_much(self) -> None:
        found = windows(
            logs(in_turns(4, 2, 0.0001), in_turns(4, 2, 0.1)), MIXED, 0.4, 100
        )
        assert {each.seconds for each in found} == {0.003125}
        assert 50 < len(found[0].holds) <= 100

    def test_no_longer_than_a_round(self) -> None:
        found = windows(
            logs(in_turns(4, 2, 0.1), in_turns(4, 2, 0.1)), MIXED, 5, 999
        )
        assert found[0].seconds == 1


def drawn(
    found: list[Log], *, fact: str = "postgresql", words: str = "A sentence."
) -> str:
    return page([("database", fact)], sections(found), [words], found)


class TestPicture:
    def test_nothing_said_is_markup(self) -> None:
        hostile = "</title></style><script>x</script>\"'&<b>\x1b[31m\u202e"
        found = logs(in_turns(4, 2, 0.01), in_turns(4, 2, 0.01))
        words = drawn(found, fact=hostile, words=hostile)

        assert "<script" not in words
        assert "\x1b" not in words and "\u202e" not in words
        root = ElementTree.fromstring(words)
        said = "".join(root.itertext())
        assert said.count("</title></style><script>x</script>\"'&<b>") == 2

    def test_the_same_record_is_the_same_picture(self) -> None:
        found = logs(in_turns(4, 2, 0.01), in_turns(4, 2, 0.01))
        assert drawn(found) == drawn(found)

    def test_bounded_whatever_there_was(self) -> None:
        crowd = in_turns(200, 50, 0.0005)
        words = drawn(logs(crowd, crowd, rounds=1))

        assert len(words) < 1_000_000
        root = ElementTree.fromstring(words)
        for each in root.iter(f"{XHTML}svg"):
            assert len(list(each)) < MOST_HOLDS + 100
        bars = re.findall('<rect class="hold ', words)
        assert 0 < len(bars) <= 4 * MOST_HOLDS
        rows = re.findall(r'scope="row">thread-(\d+)<', words)
        assert len(rows) <= 2 * MOST_THREADS
        assert "Every 7th thread is shown." in words

    def test_each_thread_that_there_was(self) -> None:
        found = logs(in_turns(5, 2, 0.01), in_turns(5, 2, 0.01))
        words = drawn(found)
        rows = re.findall(r'scope="row">thread-(\d+)<', words)
        assert rows == [*"12345"] * 2
        assert "is shown." not in words

    def test_looks_of_threads_differ(self) -> None:
        found = logs(in_turns(24, 4, 0.01), in_turns(24, 4, 0.01))
        words = drawn(found)
        looks = set(re.findall(r'class="hold (t\d+)"', words))
        assert len(looks) == 24
        for look in looks:
            (fill,) = re.findall(rf"\.{look} {{ fill: ([^;]+);", words)
            if fill.startswith("url"):
                assert f'id="{fill[5:-1]}"' in words

    def test_is_told_to_who_does_not_see_it(self) -> None:
        found = logs(in_turns(4, 2, 0.01), in_turns(4, 2, 0.01))
        root = ElementTree.fromstring(drawn(found))
        for each in root.iter(f"{XHTML}svg"):
            if each.get("aria-hidden") != "true":
                assert each.get("role") == "img"
                assert each.get("aria-label")
        labels = [
            each.get("aria-label", "") for each in root.iter(f"{XHTML}svg")
        ]
        assert any(
            label.startswith("thread-1: QueuePool: median 1.00 ms, longest")
            for label in labels
        )
        assert any(
            label.startswith("ReaperPool: 2 connections, ") for label in labels
        )

    def test_a_pool_that_did_nothing(self) -> None:
        found = logs(in_turns(4, 2, 0.01), [[], [], [], []])
        root = ElementTree.fromstring(drawn(found))
        assert "0 holds of 0 threads" in "".join(root.itertext())
