"""HashiCorp Vault's transit engine as far as we use it, strict about everything that its documents say: the token, the
content type, the fields and no others, base64, associated data, and the form of a ciphertext.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "hvs.for-tests-only"


class Transit:
    """A server with one key while the block runs."""

    def __init__(self, *, mount: str = "transit", key: str = "modelfaucet") -> None:
        self.calls: list[str] = []
        self.sealed = False
        """Whether the whole server refuses to work, as it does after its restart."""
        self._paths = {f"/v1/{mount}/{verb}/{key}": verb for verb in ("encrypt", "decrypt")}
        self._aead = AESGCM(AESGCM.generate_key(256))

        def post(request: BaseHTTPRequestHandler) -> None:
            body = request.rfile.read(int(request.headers["content-length"]))
            status, reply = self._answer(request, body)
            content = json.dumps(reply).encode()
            request.send_response(status)
            request.send_header("content-type", "application/json")
            request.send_header("content-length", str(len(content)))
            request.end_headers()
            request.wfile.write(content)

        methods = {"protocol_version": "HTTP/1.1", "do_POST": post, "log_message": lambda *_: None}
        answer = type("Answer", (BaseHTTPRequestHandler,), methods)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), answer)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, Any]]:
        if request.headers.get("x-vault-token") != TOKEN:
            return 403, {"errors": ["permission denied"]}
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        verb = self._paths.get(request.path)
        if verb is None:
            return 404, {"errors": ["no handler for route"]}
        if request.headers.get("content-type") != "application/json":
            return 415, {"errors": ["unsupported media type"]}
        asked = json.loads(body)
        wanted = "plaintext" if verb == "encrypt" else "ciphertext"
        if set(asked) != {wanted, "associated_data"}:
            return 400, {"errors": [f"fields: {sorted(asked)}"]}
        self.calls.append(verb)
        try:
            bound = base64.b64decode(asked["associated_data"], validate=True)
            if verb == "encrypt":
                return 200, {"data": {"ciphertext": self._encrypted(asked[wanted], bound), "key_version": 1}}
            return 200, {"data": {"plaintext": self._decrypted(asked[wanted], bound)}}
        except (InvalidTag, binascii.Error, ValueError):
            return 400, {"errors": ["cipher: message authentication failed"]}

    def _encrypted(self, plaintext: str, bound: bytes) -> str:
        nonce = os.urandom(12)
        sealed = self._aead.encrypt(nonce, base64.b64decode(plaintext, validate=True), bound)
        return "vault:v1:" + base64.b64encode(nonce + sealed).decode()

    def _decrypted(self, ciphertext: str, bound: bytes) -> str:
        head, version, sealed = ciphertext.split(":")
        if (head, version) != ("vault", "v1"):
            raise ValueError
        raw = base64.b64decode(sealed, validate=True)
        return base64.b64encode(self._aead.decrypt(raw[:12], raw[12:], bound)).decode()

    def __enter__(self) -> Transit:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
