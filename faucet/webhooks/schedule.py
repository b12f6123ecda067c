"""When an event that was not accepted is tried again. Pure; times in seconds.

Exponential: each pause is six times the one before, at most a day; eight tries over about three days. Each pause is
made up to a fifth shorter or longer by chance, so that endpoints that failed together don't come back together.
"""

from __future__ import annotations

TRIES_MAX = 8
FIRST_PAUSE_SECONDS = 60
FACTOR = 6
PAUSE_SECONDS_MAX = 86_400
JITTER_PERCENT = 20
FAILING_DAYS = 5
"""An endpoint that has accepted nothing for so long is switched off."""


def pause_seconds(tries: int, chance: int) -> int | None:
    """How long to wait after so many tries; None where there is no next one.

    `chance` is 0 to 1000: the shortest pause to the longest. Raises ValueError for others, and for less than one try.
    """
    if tries < 1 or not 0 <= chance <= 1000:
        raise ValueError("a pause follows at least one try, and chance is 0 to 1000")
    if tries >= TRIES_MAX:
        return None
    pause: int = min(FIRST_PAUSE_SECONDS * FACTOR ** (tries - 1), PAUSE_SECONDS_MAX)
    percent_thousandths = (100 - JITTER_PERCENT) * 1000 + 2 * JITTER_PERCENT * chance
    return pause * percent_thousandths // 100_000
