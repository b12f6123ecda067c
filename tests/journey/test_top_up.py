"""A person's money, from the browser into a wallet and back: the story that `make story-topup` tells."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from browser import NoBrowser, find_browser
from top_up_story import tell

CHECKS = 27


@pytest.mark.timeout(240)
def test_paid_in_a_browser_refunded_and_disputed() -> None:
    """Lost: what a person who pays sees and has, on the whole stack at once."""
    told: list[str] = []
    with tempfile.TemporaryDirectory(prefix="faucet-story-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)
        checks = tell(Path(folder) / "data", told.append)
    assert checks >= CHECKS, "\n".join(told)


def test_without_a_browser_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost: a puzzle instead of a package's name."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(NoBrowser, match="apt-get install chromium"):
        find_browser()
    monkeypatch.setenv("CHROMIUM", "/nonexistent/chrome")
    with pytest.raises(NoBrowser, match="CHROMIUM=/nonexistent/chrome"):
        find_browser()
