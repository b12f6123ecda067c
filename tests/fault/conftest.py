"""Fixtures of the gateway's tests."""

from __future__ import annotations

from gateway_world import gateway, mock, rich, start_gateway, world

__all__ = ["gateway", "mock", "rich", "start_gateway", "world"]
