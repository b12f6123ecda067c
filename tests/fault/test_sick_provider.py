"""A provider that falls sick and recovers, under load; the long run is `python -m tests.sick_provider`."""

from __future__ import annotations

from pathlib import Path

from gateway_world import World
from sick_provider import MOVED_SECONDS, observe


def test_nobody_notices_a_sick_provider(world: World, tmp_path: Path) -> None:
    """Lost: end users see errors that another provider could have spared them, or the recovered one stays unused."""
    report = observe(world, tmp_path, percent=50, sick_seconds=2.0)
    assert report.errors == 0 and report.statuses == {200}
    assert report.moved_seconds <= MOVED_SECONDS
    assert report.sick_share < 0.1
    assert report.returned_seconds < 20
    assert report.requests > 200
    world.books.assert_sound()
