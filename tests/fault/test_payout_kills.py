"""Whoever sends payouts dies at any moment, and nobody is paid twice. For longer: `python -m tests.payout_kills`."""

from __future__ import annotations

from pathlib import Path

import pytest
from payout_kills import kill


@pytest.mark.timeout(300)
def test_nobody_is_paid_twice_whoever_dies(dsn: str, tmp_path: Path) -> None:
    """Lost: there is a moment at which a crash pays a developer twice, or never, or loses their earnings."""
    figures = kill(dsn, tmp_path, kills=120, seed=14)
    assert figures.kills >= 120 and figures.by_sigkill >= 2
    assert figures.payouts["paid"] > 20 and figures.most_transfers == figures.most_bank_payouts == 1
    assert any(name.startswith("stripe") for name in figures.died_at), figures.died_at
    assert any(name.startswith("database: a commit") for name in figures.died_at), figures.died_at
