"""When an event that was not accepted is tried again, for every number of tries and every chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet.webhooks.schedule import (
    FAILING_DAYS,
    FIRST_PAUSE_SECONDS,
    JITTER_PERCENT,
    PAUSE_SECONDS_MAX,
    TRIES_MAX,
    pause_seconds,
)

DAY = 86_400
chances = st.integers(0, 1000)
tries = st.integers(1, TRIES_MAX - 1)


@given(tries, chances)
def test_a_pause_is_bounded_and_no_guess(number: int, chance: int) -> None:
    """Lost: a pause of nothing, which hammers a server that is down, or one of weeks."""
    pause = pause_seconds(number, chance)
    assert pause is not None and pause == pause_seconds(number, chance)
    low, high = 100 - JITTER_PERCENT, 100 + JITTER_PERCENT
    assert FIRST_PAUSE_SECONDS * low // 100 <= pause <= PAUSE_SECONDS_MAX * high // 100


@given(st.lists(chances, min_size=TRIES_MAX - 1, max_size=TRIES_MAX - 1))
def test_all_tries_are_within_about_three_days(luck: list[int]) -> None:
    """Lost: a weekend's outage loses events, or an event arrives when nobody expects it any more."""
    pauses = [pause_seconds(number, chance) for number, chance in enumerate(luck, start=1)]
    total = sum(pause or 0 for pause in pauses)
    assert 2 * DAY < total < 4 * DAY < FAILING_DAYS * DAY


@given(tries, chances, chances)
def test_later_pauses_are_longer_until_a_day(number: int, chance: int, later: int) -> None:
    """Lost: what has failed for hours is asked as often as what failed just now."""
    pause, after = pause_seconds(number, chance), pause_seconds(number + 1, later)
    if after is not None and pause is not None:
        assert after >= pause or pause > PAUSE_SECONDS_MAX * (100 - JITTER_PERCENT) // 100 - 1


@given(tries, chances, chances)
def test_more_chance_is_a_longer_pause(number: int, one: int, other: int) -> None:
    """Lost: endpoints that failed together come back together."""
    shorter, longer = pause_seconds(number, min(one, other)), pause_seconds(number, max(one, other))
    assert shorter is not None and longer is not None and shorter <= longer


@given(st.integers(TRIES_MAX, 1_000), chances)
def test_there_is_an_end(number: int, chance: int) -> None:
    """Lost: an event that is tried for ever."""
    assert pause_seconds(number, chance) is None


@given(st.one_of(st.tuples(st.integers(-5, 0), chances), st.tuples(tries, st.integers(1001) | st.integers(-9, -1))))
def test_nonsense_is_refused(asked: tuple[int, int]) -> None:
    """Lost: a slip of a caller becomes a pause in the past."""
    with pytest.raises(ValueError):
        pause_seconds(*asked)
