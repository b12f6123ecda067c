"""A key-encryption key that stays in AWS KMS. Needs the extra `aws` (boto3), and AWS's own settings for who we are.

Calls are made in threads: the client is a blocking one, and they are few (one per private key and process).
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from faucet.vault.reveal.kek import KekFailed

SECONDS = 5
ATTEMPTS = 3


class AwsKek:
    """One symmetric key of AWS KMS, by its id, ARN or alias."""

    def __init__(self, key_id: str, *, endpoint_url: str | None = None) -> None:
        try:
            import boto3
            from botocore.config import Config as ClientConfig
        except ImportError:
            raise KekFailed("AWS KMS needs the package boto3: install modelfaucet-server[aws]") from None
        self._key_id = key_id
        settings = ClientConfig(
            connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": ATTEMPTS, "mode": "standard"}
        )
        try:
            self._client: Any = boto3.client("kms", endpoint_url=endpoint_url, config=settings)
        except Exception as problem:
            raise KekFailed(f"AWS KMS can't be used: {type(problem).__name__}") from None

    @property
    def name(self) -> str:
        return f"aws_kms:{self._key_id}"

    async def wrap(self, plain: bytes, context: bytes) -> bytes:
        reply = await self._ask("encrypt", Plaintext=plain, EncryptionContext=_context(context))
        return bytes(reply["CiphertextBlob"])

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        reply = await self._ask("decrypt", CiphertextBlob=wrapped, EncryptionContext=_context(context))
        return bytes(reply["Plaintext"])

    async def _ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            reply: dict[str, Any] = getattr(self._client, call)(KeyId=self._key_id, **arguments)
            return reply

        try:
            return await asyncio.to_thread(ask)
        except Exception as problem:
            # Only the kind: a client's error can hold what was sent.
            raise KekFailed(f"AWS KMS did not {call}: {type(problem).__name__}") from None


def _context(context: bytes) -> dict[str, str]:
    return {"modelfaucet": base64.b64encode(context).decode()}
