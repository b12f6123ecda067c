"""Whether a folder of data that an older commit made comes up on this tree, with all that was in it.

    python -m tests.upgrade COMMIT

Runs the stack of that commit on a folder of its own, gives it sessions, answers, corrections and, if it knows them, a
payout by hand; stops it; runs this tree's stack on the same folder. Migrations run then; balances, usage and revenue
must be the same, old sessions and tokens still answer, a repeated Idempotency-Key isn't charged, and the books add up.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

HERE = Path(__file__).resolve().parents[1]
UP_SECONDS = 120
USERS = ("crm-demo-user", "second", "third")
ANSWERS = 6
Json = dict[str, Any]


@contextmanager
def stack(tree: Path, data: Path) -> Iterator[Json]:
    """The stack of a tree on this folder, while the block runs: what it says of itself."""
    env = os.environ | {"PYTHONPATH": str(tree), "FAUCET_DATA": str(data), "PAYOUT_HOLD_BACK_DAYS": "0"}
    ports = [word for name in ("api", "gateway", "mock") for word in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "faucet", "up", *ports]
    with (data.parent / "up.log").open("ab") as log:
        running = subprocess.Popen(command, cwd=tree, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    assert running.stdout is not None
    try:
        line = running.stdout.readline()
        assert line.startswith("{"), f"the stack of {tree} did not come up:\n{(data.parent / 'up.log').read_text()}"
        yield json.loads(line)
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(UP_SECONDS)
        running.stdout.close()


class Caller:
    """Somebody who calls a stack, as its operator or with a session."""

    def __init__(self, told: Json) -> None:
        self._api, self._gateway, self._operator = told["api"], told["gateway"], told["admin_token"]
        self._http = httpx2.Client(timeout=60)

    def call(self, method: str, path: str, body: Json | None = None, *, bearer: str | None = None) -> Any:
        """What the API answers. A refusal ends the program."""
        reply = self.try_call(method, path, body, bearer=bearer)
        assert reply.status_code in (200, 201), (path, reply.status_code, reply.text)
        return reply.json()

    def try_call(
        self, method: str, path: str, body: Json | None = None, *, bearer: str | None = None
    ) -> httpx2.Response:
        headers = {"authorization": f"Bearer {bearer or self._operator}"}
        return self._http.request(method, self._api + path, json=body, headers=headers)

    def ask(self, session: str, text: str, key: str) -> httpx2.Response:
        """An answer of the demo's feature."""
        headers = {"authorization": f"Bearer {session}", "idempotency-key": key}
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        return self._http.post(f"{self._gateway}/v1/chat/completions", json=body, headers=headers)

    def figures(self, developer: str, sessions: dict[str, str]) -> Json:
        """What must not change: each wallet, what the app used, what its developer has."""
        usage = self.call("GET", "/v1/apps/app_pub_demo/usage")
        wallets = {name: self.call("GET", "/v1/user/wallet", bearer=text) for name, text in sessions.items()}
        return {
            "wallets": {name: (wallet["id"], wallet["balance_usd"]) for name, wallet in wallets.items()},
            "usage": {name: value for name, value in usage.items() if name != "usage"},
            "revenue": self.call("GET", f"/v1/developers/{developer}/revenue"),
        }


def live(caller: Caller) -> tuple[str, dict[str, str], str]:
    """Use a stack: the demo's developer, a session of each user, and a developer's token."""
    sessions = {}
    for name in USERS:
        ask = {"public_app_id": "app_pub_demo", "external_user_id": name, "feature_key": "customer_reply"}
        session = sessions[name] = caller.call("POST", "/v1/sessions", ask)["session_token"]
        wallet = caller.call("GET", "/v1/user/wallet", bearer=session)["id"]
        caller.call("POST", f"/v1/admin/wallets/{wallet}/credit-test-balance", {"amount_usd": "3.00"})
        for number in range(ANSWERS):
            assert caller.ask(session, f"question {number}", f"{name}-{number}").status_code == 200
        debit = {"kind": "adjustment", "direction": "debit", "amount_usd": "0.25", "reason": "a correction"}
        caller.call("POST", f"/v1/admin/wallets/{wallet}/adjustments", debit)
    developer = caller.call("GET", "/v1/developer/apps")["items"][0]["developer_id"]
    mint = {"developer_id": developer, "name": "T", "scopes": ["developer:apps:read"]}
    return developer, sessions, caller.call("POST", "/v1/developer/tokens", mint)["token"]


def pay_by_hand(caller: Caller) -> str:
    """A payout of the developer's earnings that somebody has paid; nothing where there are none of it yet."""
    wallets = caller.call("GET", "/v1/developer/operations")["wallets"]
    earnings = next((wallet["id"] for wallet in wallets if wallet["owner_scope"] == "developer"), None)
    credit = {"kind": "adjustment", "direction": "credit", "amount_usd": "25.00", "reason": "a bonus"}
    if earnings is None or caller.try_call("GET", "/v1/admin/payouts").status_code != 200:
        return "no payout: it knows none"
    caller.call("POST", f"/v1/admin/wallets/{earnings}/adjustments", credit)
    (payout,) = caller.call("POST", "/v1/admin/payouts/run", {})["items"]
    for step in ("approve", "mark-paid"):
        payout = caller.call("POST", f"/v1/admin/payouts/{payout['id']}/{step}", {})
    return f"a payout of {payout['amount_usd']}, {payout['status']} by hand"


def check(caller: Caller, sessions: dict[str, str], token: str) -> None:
    """What the older stack gave out still opens."""
    assert caller.call("GET", "/v1/developer/apps", bearer=token)["items"]
    for name, session in sessions.items():
        before = caller.call("GET", "/v1/user/wallet", bearer=session)["balance_usd"]
        again = caller.ask(session, "question 0", f"{name}-0")
        after = caller.call("GET", "/v1/user/wallet", bearer=session)["balance_usd"]
        assert again.status_code == 200 and before == after, f"a repeat was charged: {before}, {after}"
        assert caller.ask(session, "one more question", f"{name}-more").status_code == 200
    found = caller.call("GET", "/v1/admin/reconciliation/ledger")
    assert found["summary"]["mismatch_count"] == 0 and not found.get("findings"), found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the older tree, as git names it")
    commit = parser.parse_args().commit
    with tempfile.TemporaryDirectory(prefix="faucet-upgrade-") as name:
        os.chmod(name, 0o755)
        older, data = Path(name) / "tree", Path(name) / "data"
        data.mkdir()
        subprocess.run(["git", "worktree", "add", "--detach", str(older), commit], cwd=HERE, check=True)
        try:
            with stack(older, data) as told:
                caller = Caller(told)
                developer, sessions, token = live(caller)
                print(pay_by_hand(caller), flush=True)
                before = caller.figures(developer, sessions)
            began = time.monotonic()
            with stack(HERE, data) as told:
                print(f"up again after {time.monotonic() - began:.0f} s", flush=True)
                caller = Caller(told)
                after = caller.figures(developer, sessions)
                assert before == after, f"{before}\n{after}"
                check(caller, sessions, token)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(older)], cwd=HERE, check=True)
    answered = after["usage"]["total_calls"]
    print(f"✓ {answered} answers, {len(sessions)} wallets and their sessions are as they were; the books add up")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
