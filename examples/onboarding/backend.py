"""An app's backend asks for a session of its signed-in user, and gives the token to the user's browser."""

from __future__ import annotations

import json
import os
import urllib.request

body = {"public_app_id": "app_support", "external_user_id": "customer-7", "feature_key": "reply_to_customer"}
address = os.environ.get("FAUCET_API", "http://127.0.0.1:3001") + "/v1/sessions"
ask = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
with urllib.request.urlopen(ask, timeout=10) as reply:
    print(reply.read().decode())
