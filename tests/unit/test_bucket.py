"""The rate limit of a key: how many may pass at once, how many over time, and when to come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faucet.limits import bucket
from faucet.limits.bucket import Bucket


def test_as_many_as_allowed_pass_at_once_and_then_one_at_a_time() -> None:
    """A burst would pass the limit, or a steady client below it be refused."""
    limit = Bucket(3, 60)
    verdicts = [limit.take(b"a", 100.0) for _ in range(4)]
    assert [verdict.allowed for verdict in verdicts] == [True, True, True, False]
    assert [verdict.remaining for verdict in verdicts] == [2, 1, 0, 0]
    assert [verdict.reset_seconds for verdict in verdicts] == pytest.approx([20, 40, 60, 60])
    assert verdicts[3].retry_after_seconds == pytest.approx(20)
    assert not limit.take(b"a", 119.9).allowed
    assert limit.take(b"a", 120.0).allowed and not limit.take(b"a", 120.1).allowed
    assert [limit.take(b"a", 1000.0).allowed for _ in range(4)] == [True, True, True, False]


def test_keys_do_not_share_a_limit() -> None:
    """One session would use up another's."""
    limit = Bucket(1, 60)
    assert limit.take(b"a", 0.0).allowed and not limit.take(b"a", 0.0).allowed
    assert limit.take(b"b", 0.0).allowed


@given(
    st.integers(1, 50),
    st.sampled_from([0.5, 1.0, 60.0, 3600.0]),
    st.lists(st.floats(0, 200, allow_nan=False), min_size=1, max_size=120),
)
def test_over_time_no_more_pass_than_the_rate_allows(most: int, window: float, gaps: list[float]) -> None:
    """Over a day a client could send more than its limit adds up to; or who waits as told would be refused."""
    limit = Bucket(most, window)
    now = 0.0
    passed = refused = 0
    for gap in gaps:
        now += gap * window / 1000
        verdict = limit.take(b"a", now)
        passed += verdict.allowed
        refused += not verdict.allowed
        assert passed <= most + now * most / window + 1e-6
        assert 0 <= verdict.remaining < most and 0 <= verdict.reset_seconds <= window + 1e-6
        if verdict.allowed:
            assert verdict.retry_after_seconds == 0
        else:
            assert 0 < verdict.retry_after_seconds <= window + 1e-6
            now += verdict.retry_after_seconds + 1e-6
            passed += limit.take(b"a", now).allowed
            refused -= 1
    assert refused == 0 or passed > 0


@given(st.integers(1, 20), st.lists(st.floats(0, 5, allow_nan=False), max_size=60))
def test_what_is_said_to_remain_does_remain(most: int, gaps: list[float]) -> None:
    """A client that plans by the header would be refused."""
    limit = Bucket(most, 60.0)
    now = 0.0
    for gap in gaps:
        now += gap
        verdict = limit.take(b"a", now)
        if verdict.allowed:
            copied = Bucket(most, 60.0)
            copied._due = dict(limit._due)
            assert [copied.take(b"a", now).allowed for _ in range(verdict.remaining + 1)] == [
                True
            ] * verdict.remaining + [False]


def test_memory_is_bounded_and_idle_keys_go_first() -> None:
    """Made-up keys would fill the memory, or push out a client that is being limited."""
    limit = Bucket(1, 10)
    for number in range(bucket.KEYS_MAX - 1):
        limit.take(b"%d" % number, 0.0)
    assert limit.take(b"busy", 15.0).allowed
    assert limit.take(b"one more", 16.0).allowed and len(limit._due) == 2
    assert not limit.take(b"busy", 17.0).allowed
    for number in range(2 * bucket.KEYS_MAX):
        limit.take(b"%d" % number, 18.0)
    assert len(limit._due) <= bucket.KEYS_MAX


@pytest.mark.parametrize(("most", "window"), [(0, 60), (-1, 60), (1, 0), (1, -1)])
def test_a_limit_that_is_none_is_refused(most: int, window: float) -> None:
    """A wrong setting would divide by zero in every request, or let everything pass."""
    with pytest.raises(ValueError, match="at least one request"):
        Bucket(most, window)
