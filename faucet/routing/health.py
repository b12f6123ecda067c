"""What recent answers of one upstream say about it: whether to ask it now, and how fast it is. A value, no service.

Closed: asked as usual. Open, after failures: asked last. When its time is over it gets one trial at a time in its
usual place; some that succeed close it, one that fails opens it again for twice as long. Time comes in as seconds of
a clock that only goes forward; nothing here reads one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

SAMPLES = 64
"""Times to the first byte that are remembered."""
OLD_SECONDS = 60.0
"""Where no answer came for so long, what was seen before says little of how fast the next one will be."""
AGAIN_SECONDS = 2.0
"""Then one request finds out, and if it doesn't, another so much later."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When an upstream counts as down, and for how long."""

    in_a_row: int = 4
    """So many failures without an answer between them."""
    share_percent: int = 30
    """Or this share of the answers of a window, once there are `calls_least`."""
    calls_least: int = 10
    window_seconds: float = 4.0
    open_seconds: float = 2.0
    open_seconds_max: float = 30.0
    trials: int = 3
    """So many trials must succeed in a row."""
    trial_seconds: float = 60.0
    """A trial that has not ended by then is forgotten."""


class State(Enum):
    """Whether an upstream is asked."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Circuit:
    """One upstream's recent past. Cheap to tell of an answer: every request does."""

    __slots__ = (
        "_answered",
        "_before",
        "_failed",
        "_in_a_row",
        "_open_for",
        "_rules",
        "_since",
        "_timed",
        "_times",
        "_trial_until",
        "_trials_left",
        "_until",
        "last_error",
        "state",
    )

    def __init__(self, rules: Rules = Rules()) -> None:
        self._rules = rules
        self.state = State.CLOSED
        """As it was left; whether it is asked now, `is_down` says."""
        self.last_error: str | None = None
        self._answered = self._failed = self._in_a_row = 0
        self._before = (0, 0)
        self._since = 0.0
        self._until = 0.0
        self._open_for = rules.open_seconds
        self._trials_left = 0
        self._trial_until = 0.0
        self._times: deque[int] = deque(maxlen=SAMPLES)
        self._timed = 0.0

    def is_down(self, now: float) -> bool:
        """Whether it should be asked last; where its time is over, whoever is told no has the trial."""
        if self.state is State.CLOSED:
            return False
        if self.state is State.OPEN:
            if now < self._until:
                return True
            self._begin_trials()
        if now < self._trial_until:
            return True
        self._trial_until = now + self._rules.trial_seconds
        return False

    def answered(self, now: float, first_byte_ms: int | None) -> None:
        """It began to answer; None where it only said what is wrong with the request, which says nothing of how fast
        its answers are."""
        if first_byte_ms is not None:
            if now - self._timed > OLD_SECONDS - AGAIN_SECONDS:
                self._times.clear()
            self._times.append(first_byte_ms)
            self._timed = now
        self._in_a_row = 0
        if self.state is State.CLOSED:
            if now - self._since > self._rules.window_seconds / 2:
                self._turn(now)
            self._answered += 1
            return
        if self.state is State.OPEN:
            if now < self._until:
                return  # asked all the same, because nobody else answered: that is no trial
            self._begin_trials()
        self._trial_until = 0.0
        self._trials_left -= 1
        if self._trials_left <= 0:
            self.state = State.CLOSED
            self.last_error = None
            self._open_for = self._rules.open_seconds
            self._answered = self._failed = 0
            self._before = (0, 0)
            self._since = now

    def failed(self, now: float, code: str, *, wait_seconds: float | None = None) -> None:
        """It did not begin to answer; `wait_seconds` is what it asked for itself."""
        self.last_error = code
        self._in_a_row += 1
        if now - self._since > self._rules.window_seconds / 2:
            self._turn(now)
        self._failed += 1
        if wait_seconds is not None:
            self._open(now, min(wait_seconds, self._rules.open_seconds_max))
        elif self.state is State.HALF_OPEN:
            self._open_for = min(self._open_for * 2, self._rules.open_seconds_max)
            self._open(now, self._open_for)
        elif self.state is State.CLOSED and self._is_sick():
            self._open(now, self._open_for)

    def left(self) -> None:
        """Who asked did not wait for the answer: if that was a trial, another may have it."""
        self._trial_until = 0.0

    def bar(self, now: float, seconds: float, code: str) -> None:
        """Ask it last for so long, whatever its past: its key was refused."""
        self.last_error = code
        self._open(now, seconds)

    def percentile_ms(self, percent: int) -> int:
        """The observed time to the first byte that so many percent of answers were not slower than; 0 if unknown."""
        times = sorted(self._times)
        return times[min(len(times) - 1, len(times) * percent // 100)] if times else 0

    def likely_ms(self, now: float) -> int:
        """What it is compared with others by: the median and the tail, for one answer in twenty that hangs is not fast.

        It is 0 where nobody knows, and once in a while where what is known is old: whoever asks then finds out, so that
        one which was slow once is not slow for ever.
        """
        if self._times and now - self._timed > OLD_SECONDS:
            self._timed = now - OLD_SECONDS + AGAIN_SECONDS
            return 0
        return self.percentile_ms(50) + self.percentile_ms(95)

    @property
    def samples(self) -> int:
        return len(self._times)

    def _is_sick(self) -> bool:
        rules = self._rules
        if self._in_a_row >= rules.in_a_row:
            return True
        failed = self._failed + self._before[1]
        calls = failed + self._answered + self._before[0]
        return calls >= rules.calls_least and failed * 100 >= calls * rules.share_percent

    def _open(self, now: float, seconds: float) -> None:
        self.state = State.OPEN
        self._until = now + seconds
        self._in_a_row = 0

    def _begin_trials(self) -> None:
        self.state = State.HALF_OPEN
        self._trials_left = self._rules.trials
        self._trial_until = 0.0

    def _turn(self, now: float) -> None:
        """Half a window is over: what was counted in it becomes the half before."""
        fresh = now - self._since <= self._rules.window_seconds
        self._before = (self._answered, self._failed) if fresh else (0, 0)
        self._answered = self._failed = 0
        self._since = now
