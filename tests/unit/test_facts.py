"""What is known of models beyond their prices."""

from __future__ import annotations

import pytest

from faucet.providers.facts import MODELS, TIER_MAX, Facts, facts_of, read_models
from faucet.routing.policy import QUALITY_TIER_MAX


@pytest.mark.parametrize(
    ("model", "tier"),
    [
        ("gpt-4o-mini", 2),
        ("gpt-4o-mini-2024-07-18", 2),
        ("gpt-4o-2024-05-13", 3),
        ("openai/gpt-4.1-nano", 1),
        ("global/anthropic/Claude-Opus-4-8", 5),
        ("mock-small", 1),
        ("nobody-knows-this", 0),
        ("", 0),
    ],
)
def test_the_longest_name_that_fits_counts(model: str, tier: int) -> None:
    """Lost: a small model passes for its big namesake, or a dated one is of no tier."""
    assert facts_of(model).tier == tier


def test_what_is_not_known_is_believed_to_be_able() -> None:
    """Lost: a model that nobody has described is never chosen, or is taken to have no abilities."""
    assert facts_of("nobody-knows-this") == Facts(0, None)
    assert facts_of("gpt-3.5-turbo").can == frozenset({"tools"})


def test_the_packaged_facts_are_sound() -> None:
    """Lost: a tier that no policy can name."""
    assert TIER_MAX == QUALITY_TIER_MAX
    assert len(MODELS) > 30 and all(name == name.lower() for name in MODELS)


@pytest.mark.parametrize(
    "text", ["[m]\ntier = 9\ncan = []", "[m]\ntier = 1", '[m]\ntier = 1\ncan = ["flies"]', "[m]\ntier = true\ncan = []"]
)
def test_a_slip_in_the_file_is_told(text: str) -> None:
    """Lost: a misspelt word that is silently ignored."""
    with pytest.raises(ValueError, match="^m: "):
        read_models(text)
