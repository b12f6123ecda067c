"""Fixtures of the gateway's tests."""

from __future__ import annotations

from features_world import features
from gateway_world import gateway, mock, rich, start_gateway, world

__all__ = ["features", "gateway", "mock", "rich", "start_gateway", "world"]
