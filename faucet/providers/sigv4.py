"""AWS's request signatures, version 4, for a POST with a key pair.

Here: the arithmetic alone, as AWS documents it; the time is passed in. Not here: where a key pair comes from.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime
from urllib.parse import quote

from faucet.kit.upstream import Endpoint

_REGION = re.compile(r"(?:^|\.)bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.")


class KeyPairSigner:
    """Signs requests to one endpoint. The pair is `<access key id>:<secret access key>[:<session token>]`."""

    def __init__(self, pair: str, endpoint: Endpoint, *, service: str = "bedrock", region: str | None = None) -> None:
        self._id, _, rest = pair.partition(":")
        self._secret, _, self._session = rest.partition(":")
        if not self._id or not self._secret:
            raise ValueError("must be `<access key id>:<secret access key>` or one key")
        found = _REGION.search(endpoint.host)
        if region is None and found is None:
            raise ValueError("the address doesn't say the region that requests are signed for")
        self._region = region or (found[1] if found is not None else "")
        self._service = service
        self._host = endpoint.tail.partition(b"host: ")[2].partition(b"\r\n")[0].decode()
        self._prefix = endpoint.target.decode()

    def headers(self, path: bytes, body: bytes, now: datetime) -> bytes:
        """The header lines that authorise a POST of this body at this time."""
        stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        signed = {"host": self._host, "x-amz-date": stamp}
        if self._session:
            signed["x-amz-security-token"] = self._session
        names = ";".join(sorted(signed))
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        # The path is on the wire as it is signed here, but for a second encoding of its own escapes.
        target = quote(self._prefix + path.decode("ascii"), safe="/-._~")
        request = f"POST\n{target}\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = ("AWS4" + self._secret).encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
        head = (
            f"authorization: AWS4-HMAC-SHA256 Credential={self._id}/{scope}, SignedHeaders={names},"
            f" Signature={signature}\r\nx-amz-date: {stamp}\r\n"
        )
        if self._session:
            head += f"x-amz-security-token: {self._session}\r\n"
        return head.encode()
