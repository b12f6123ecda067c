"""An app's backend vouches for its signed-in user, asks for a session, and gives the token to the user's browser."""

from __future__ import annotations

import json
import os
import time
import urllib.request
import uuid

import jwt  # PyJWT

now = int(time.time())
claims = {"sub": "customer-7", "aud": "app_support", "iat": now, "exp": now + 60, "jti": str(uuid.uuid4())}
signed = jwt.encode(claims, os.environ["SIGNING_SECRET"], "HS256", headers={"kid": os.environ["SIGNING_KEY_ID"]})
body = {"public_app_id": "app_support", "external_user_id": "customer-7", "user_token": signed}
address = os.environ.get("FAUCET_API", "http://127.0.0.1:3001") + "/v1/sessions"
ask = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
with urllib.request.urlopen(ask, timeout=10) as reply:
    print(reply.read().decode())
