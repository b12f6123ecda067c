"""Asking a provider whether it takes a key: one cheap request, to a checked address, without following anywhere.

Not here: what follows from the answer.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum

from faucet.kit.secret import Secret
from faucet.kit.upstream import Deadlines, Endpoint, Pool, UpstreamError
from faucet.providers.base import says_key_invalid
from faucet.providers.catalog import Entry

DEADLINES = Deadlines(connect=3, first_byte=5, idle=5, total=8)
AT_ONCE_MAX = 32
REPLY_BYTES_MAX = 64 << 10


class Verdict(StrEnum):
    """What a provider says of a key."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """It can't be reached, or its answer is not about the key."""
    UNSAFE = "unsafe"
    """Its address is not one that may be reached."""


class Prober:
    """Asks providers, a bounded number at once."""

    def __init__(self, pool: Pool | None = None) -> None:
        self._pool = pool or Pool(max_connections_per_endpoint=4, keepalive_seconds=5, max_json_bytes=REPLY_BYTES_MAX)
        self._turns = asyncio.Semaphore(AT_ONCE_MAX)

    async def ask(self, provider: Entry, endpoint: Endpoint, secret: Secret) -> Verdict:
        """What the provider says of this key."""
        if provider.question is None:
            return await self.judge(endpoint)
        try:
            async with self._turns:
                response = await self._pool.request(
                    endpoint, b"GET", provider.question.encode(), provider.header_block(secret), b"", DEADLINES
                )
                try:
                    says_invalid = response.status == 400 and says_key_invalid(await response.read())
                finally:
                    response.cancel()
        except UpstreamError as problem:
            return Verdict.UNSAFE if problem.kind == "refused_address" else Verdict.UNKNOWN
        if says_invalid or response.status in (401, 403):
            return Verdict.REFUSED
        return Verdict.ACCEPTED if 200 <= response.status < 300 else Verdict.UNKNOWN

    async def judge(self, endpoint: Endpoint) -> Verdict:
        """Whether the endpoint's address may be reached now: UNSAFE if not, else UNKNOWN, for nobody was asked."""
        try:
            async with self._turns, asyncio.timeout(DEADLINES.connect):
                await self._pool.check(endpoint)
        except UpstreamError as problem:
            if problem.kind == "refused_address":
                return Verdict.UNSAFE
        except TimeoutError:
            pass  # its name does not resolve now; it is judged again at every connection
        return Verdict.UNKNOWN

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()
