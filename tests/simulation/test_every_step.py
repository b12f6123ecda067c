"""Whoever moves money across the border dies at each of their steps, one after the other, and the books are right."""

from __future__ import annotations

from collections import Counter

import pytest
from payout_kills import Fate

from simulation.border import Border
from simulation.economy import Economy
from simulation.runs import economy_of

ROUNDS, TRIES = 6, 3
STEPS_MAX = 45
"""Further no act gets but those that do many things, of which the later ones are like the earlier ones."""


@pytest.mark.parametrize("seed", [42, 43])
def test_dying_at_any_step_leaves_the_books_right(server_dsn: str, template: str, seed: int) -> None:
    """Lost: there is one statement, commit or call after which a death loses money, or moves it twice."""
    died: Counter[str] = Counter()
    with economy_of(server_dsn, template, seed) as (economy, border):
        for step in range(1, STEPS_MAX):
            for _ in range(ROUNDS):
                economy.step()
            _all_die_at(step, economy, border, died)
    assert {act.__name__ for act in border.mortal} == died.keys()
    assert sum(died.values()) > 100, died


def _all_die_at(step: int, economy: Economy, border: Border, died: Counter[str]) -> None:
    """Everybody does what they do, and dies at this step of it, if they get there."""
    for act in border.mortal:
        for _ in range(TRIES):  # what they do is a matter of chance, and some of it is soon done
            fate = Fate(step)
            border.live(act, fate)
            economy.check()
            if fate.died_at:
                died[act.__name__] += 1
                break
