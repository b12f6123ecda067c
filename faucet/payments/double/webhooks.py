"""Webhooks: every event, signed, to who asked for them; again when it isn't taken; and, on demand, in disorder.

A delivery is taken when its answer is 2xx. Not here: what an event says (`state`), the knobs' routes (`control`).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from faucet.payments.double.state import Object, State

TIMEOUT_SECONDS = 20
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 15.0, 60.0)
"""After each try that failed; then the event is left alone."""
KEPT_DELIVERIES = 5_000


def body_of(event: Object) -> bytes:
    """An event as it travels."""
    shown = {name: value for name, value in event.items() if not name.startswith("_")}
    return json.dumps(shown, indent=2, ensure_ascii=False).encode()


def signature(body: bytes, secret: str, *, at: int) -> str:
    """The header Stripe-Signature: a time, and HMAC-SHA256 over that time, a dot and the body."""
    mac = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={mac}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Who gets events, and the secret that they are signed with."""

    url: str
    secret: str


@dataclass(slots=True)
class Webhooks:
    """Sends the events of one double."""

    state: State
    endpoints: list[Endpoint] = field(default_factory=list)
    holding: bool = False
    """Whether events wait until they are asked for."""
    copies: int = 1
    """How often each event is sent, whatever the answer."""
    delay_seconds: float = 0.0
    log: list[Object] = field(default_factory=list)
    _under_way: set[asyncio.Task[Any]] = field(default_factory=set)

    def on_event(self, event: Object) -> None:
        """Send an event, unless events are held back."""
        event["pending_webhooks"] = len(self.endpoints)
        if not self.holding:
            for endpoint in self.endpoints:
                for _ in range(self.copies):
                    self._begin(endpoint, event, self.delay_seconds)

    def _begin(self, endpoint: Endpoint, event: Object, delay_seconds: float) -> None:
        task = asyncio.get_running_loop().create_task(self._send_until_taken(endpoint, event, delay_seconds))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _send_until_taken(self, endpoint: Endpoint, event: Object, delay_seconds: float) -> None:
        if delay_seconds:
            await asyncio.sleep(delay_seconds)
        for attempt, pause in enumerate((*RETRY_SECONDS, None), start=1):
            if 200 <= await self.send(endpoint, event, attempt=attempt) < 300:
                event["pending_webhooks"] = max(0, event["pending_webhooks"] - 1)
                return
            if pause is not None:
                await asyncio.sleep(pause)

    async def send(self, endpoint: Endpoint, event: Object, *, attempt: int = 1) -> int:
        """Send an event once and give back the answer's status; 0 where there was none."""
        body = body_of(event)
        header = signature(body, endpoint.secret, at=int(time.time()))
        status, said = await asyncio.to_thread(_post, endpoint.url, body, header)
        if len(self.log) >= KEPT_DELIVERIES:
            del self.log[: KEPT_DELIVERIES // 2]
        self.log.append(
            {
                "event": event["id"],
                "type": event["type"],
                "url": endpoint.url,
                "attempt": attempt,
                "status": status,
                "answer": said[:2_000],
            }
        )
        return status

    async def deliver(self, ids: Sequence[str], *, copies: int = 1) -> list[int]:
        """Send these events now, in this order, each so often; the statuses of the answers."""
        found = {event["id"]: event for event in self.state.events}
        return [
            await self.send(endpoint, found[name])
            for name in ids
            if name in found
            for endpoint in self.endpoints
            for _ in range(copies)
        ]

    async def idle(self, *, seconds: float) -> bool:
        """Whether, within so long, nothing was under way any more."""
        try:
            async with asyncio.timeout(seconds):
                while self._under_way:
                    await asyncio.wait(tuple(self._under_way))
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Send nothing more."""
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)


def _post(url: str, body: bytes, header: str) -> tuple[int, str]:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    headers = {
        "content-type": "application/json; charset=utf-8",
        "stripe-signature": header,
        "user-agent": "Stripe/1.0 (double)",
    }
    try:
        connection.request("POST", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(10_000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, type(error).__name__
    finally:
        connection.close()
