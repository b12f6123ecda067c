"""A developer's money, from answers to the bank: the story that `make story-payout` tells."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from payout_story import tell

CHECKS = 20


@pytest.mark.timeout(240)
def test_earned_approved_sent_and_paid() -> None:
    """Lost: what a developer who is paid goes through, on real servers at once."""
    told: list[str] = []
    with tempfile.TemporaryDirectory(prefix="faucet-story-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)
        checks = tell(Path(folder), told.append)
    assert checks >= CHECKS, "\n".join(told)
