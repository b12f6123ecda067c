"""A key-encryption key that stays in HashiCorp Vault's transit engine (or OpenBao's), spoken to over HTTP."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from faucet.kit.secret import Secret
from faucet.kit.upstream import Deadlines, Endpoint, Pool, UpstreamError
from faucet.vault.reveal.kek import KekFailed

DEADLINES = Deadlines(connect=5, first_byte=5, idle=5, total=10)
REPLY_BYTES_MAX = 64 << 10


class TransitKek:
    """One key of a transit engine. `derived` or `aes256-gcm96`: it must take associated data."""

    def __init__(self, url: str, token: Secret, *, mount: str, key: str) -> None:
        try:
            # The operator names it, so it may be inside the operator's network.
            self._endpoint = Endpoint.parse(url, trusted=True)
        except ValueError as problem:
            raise KekFailed(f"KEK_TRANSIT_URL: {problem}") from None
        self._token = token
        self._mount = mount
        self._key = key

    @property
    def name(self) -> str:
        return f"transit:{self._mount}/{self._key}"

    async def wrap(self, plain: bytes, context: bytes) -> bytes:
        reply = await self._ask("encrypt", plaintext=_encoded(plain), associated_data=_encoded(context))
        return _text(reply, "ciphertext").encode()

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        reply = await self._ask("decrypt", ciphertext=wrapped.decode(), associated_data=_encoded(context))
        try:
            return base64.b64decode(_text(reply, "plaintext"), validate=True)
        except binascii.Error:
            raise KekFailed("the transit engine's answer is not one") from None

    async def _ask(self, verb: str, **fields: str) -> dict[str, Any]:
        headers = f"content-type: application/json\r\nx-vault-token: {self._token.reveal()}\r\n".encode()
        path = f"/v1/{self._mount}/{verb}/{self._key}".encode()
        # A pool per call: there is one per private key and process, and a pool belongs to one event loop.
        pool = Pool(max_connections_per_endpoint=1, max_json_bytes=REPLY_BYTES_MAX)
        try:
            response = await pool.request(
                self._endpoint, b"POST", path, headers, json.dumps(fields).encode(), DEADLINES
            )
            body = await response.read()
        except UpstreamError as problem:
            raise KekFailed(f"the transit engine can't be reached ({problem.kind})") from None
        finally:
            await pool.close()
        if response.status != 200:
            raise KekFailed(f"the transit engine did not {verb}: status {response.status}")
        try:
            reply = json.loads(body)["data"]
        except (ValueError, KeyError, TypeError):
            reply = None
        if not isinstance(reply, dict):
            raise KekFailed("the transit engine's answer is not one")
        return reply


def _encoded(plain: bytes) -> str:
    return base64.b64encode(plain).decode()


def _text(reply: dict[str, Any], field: str) -> str:
    value = reply.get(field)
    if not isinstance(value, str):
        raise KekFailed("the transit engine's answer is not one")
    return value
