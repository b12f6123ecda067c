"""The story of a top-up: on a fresh stack a person pays in a real browser, asks, is refunded, and denies the payment.

`make story-topup` tells it; the same is a test (`tests/journey/test_top_up.py`). Every figure is compared with what the
money rules say: what is there is taken, the rest is written off, the wallet is frozen until an operator decides, and a
dispute that is won brings everything back.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from browser import Browser, NoBrowser, PageFailed, find_browser

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 40
"""How long anything that comes by itself may take."""
E8 = 100_000_000
CARD, DECLINED = "4242 4242 4242 4242", "4000 0000 0000 0002"
Json = dict[str, Any]
Say = Callable[[str], None]


class StoryBroke(Exception):
    """A step did not give what it must."""


def e8(usd: str) -> int:
    """An amount of the wire."""
    whole, _, part = usd.partition(".")
    return int(whole) * E8 + int(part.ljust(8, "0"))


def usd(amount_e8: int) -> str:
    return f"{amount_e8 // E8}.{amount_e8 % E8:08d}"


@contextmanager
def shop() -> Iterator[str]:
    """A shop's page to come back to, on a port of its own; its address."""

    class Page(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *words: object) -> None:
            return

    with tempfile.TemporaryDirectory(prefix="faucet-shop-") as folder:
        for name, text in (("paid.html", "Thank you"), ("left.html", "Come back")):
            (Path(folder) / name).write_text(f"<title>Shop</title><h1>{text}</h1>")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Page, directory=folder))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        server.server_close()


@contextmanager
def stack(data: Path) -> Iterator[Json]:
    """`faucet up` on free ports; its card."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    ports = ("--api-port", "0", "--gateway-port", "0", "--mock-port", "0", "--stripe-port", "0")
    with (data.parent / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "faucet", "up", "--data", str(data), *ports],
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            env=env,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise StoryBroke(f"the stack did not start: {(data.parent / 'up.log').read_text()[-2_000:]}")
        yield json.loads(line)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Story:
    """One telling, on a running stack."""

    def __init__(self, card: Json, browser: Browser, shop_url: str, say: Say) -> None:
        self.card, self.browser, self.shop_url, self.say = card, browser, shop_url, say
        self.http = httpx2.Client(trust_env=False, timeout=30)
        self.checks = 0

    # ── calls ──

    def call(self, method: str, url: str, token: str | None = None, *, expect: int = 200, **ask: Any) -> Json:
        """A call that must have this status; what it gave."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        reply = self.http.request(method, url, headers=headers, json=ask or None)
        if reply.status_code != expect:
            raise StoryBroke(f"{method} {url}: {reply.status_code} instead of {expect}: {reply.text[:400]}")
        got: Json = reply.json()
        return got

    def api(self, method: str, path: str, token: str | None = None, *, expect: int = 200, **ask: Any) -> Json:
        return self.call(method, self.card["api"] + path, token or self.card["admin_token"], expect=expect, **ask)

    def stripe(self, path: str, **ask: Any) -> Json:
        return self.call("POST", f"{self.card['stripe']}/_control/{path}", **ask)

    def session(self, name: str) -> str:
        ask = {"public_app_id": self.card["demo"]["public_app_id"], "external_user_id": name}
        token: str = self.call("POST", f"{self.card['api']}/v1/sessions", **ask)["session_token"]
        return token

    def balance(self, session: str) -> int:
        return e8(self.api("GET", "/v1/user/wallet", session)["balance_usd"])

    def ask(self, session: str, *, expect: int = 200) -> int:
        """Ask something; what it cost, in e8."""
        messages = [{"role": "user", "content": "Say something about walnut desks."}]
        model = f"auto:{self.card['demo']['feature_key']}"
        url = f"{self.card['gateway']}/v1/chat/completions"
        got = self.call("POST", url, session, expect=expect, model=model, messages=messages)
        return e8(got["modelfaucet"]["price_usd"]) if expect == 200 else 0

    def until(self, what: str, held: Callable[[], bool]) -> None:
        """Wait for what comes by itself."""
        end = time.monotonic() + SECONDS
        while not held():
            if time.monotonic() > end:
                raise StoryBroke(f"it did not come about: {what}")
            time.sleep(0.1)
        self.checks += 1
        self.say(f"  ✓ {what}")

    def agree(self, what: str, found: object, expected: object) -> None:
        """Compare a figure."""
        if found != expected:
            raise StoryBroke(f"{what}: {found} instead of {expected}")
        self.checks += 1
        self.say(f"  ✓ {what}")

    # ── chapters ──

    def tell(self) -> int:
        """All of it; how many things were as they must. Raises StoryBroke, PageFailed."""
        self._lost()
        self._won()
        books = self.api("GET", "/v1/admin/reconciliation/ledger")
        self.agree("the books add up", books["findings"], [])
        return self.checks

    def pay_in(self, session: str, amount: str) -> Json:
        """Pay in the browser, at the second try; the top-up."""
        urls = {"success_url": f"{self.shop_url}/paid.html", "cancel_url": f"{self.shop_url}/left.html"}
        path = "/v1/user/stripe/checkout-sessions"
        made = self.api("POST", path, session, expect=201, amount_usd=amount, **urls)
        page = self.browser
        page.open(made["checkout_url"])
        self.agree(f"the page asks for {amount}", page.text("#amount"), f"${amount}")
        self._type_card(DECLINED)
        page.wait("document.querySelector('#error') !== null")
        self.agree("a declined card is said to be", page.text("#error"), "Your card was declined.")
        self.agree("and nothing was credited", self.balance(session), 0)
        self._type_card(CARD)
        page.wait("location.pathname === '/paid.html'")
        self.agree("the browser is back in the shop", page.text("h1"), "Thank you")
        self.until(f"the wallet has {amount}", lambda: self.balance(session) == e8(amount))
        top_up: Json = self.api("GET", "/v1/user/top-ups", session)["items"][0]
        self.agree(
            "the top-up is credited, with a receipt", (top_up["status"], "receipt" in top_up), ("credited", True)
        )
        return top_up

    def _type_card(self, number: str) -> None:
        page = self.browser
        for place, text in (("#email", "p@x.example"), ("#number", number), ("#expiry", "12 / 34"), ("#cvc", "123")):
            page.type(place, text)
        page.click("#pay")

    def dispute(self, top_up: Json) -> Json:
        """The card's owner denies the payment."""
        found = self.api("GET", f"/v1/admin/top-ups/{top_up['id']}")
        return self.stripe("disputes", payment_intent=found["payment_intent_id"])

    def _note(self, action: str, top_up: Json) -> Json:
        rows = self.api("GET", f"/v1/admin/audit?action={action}&resource_id={top_up['id']}")["items"]
        after: Json = rows[0]["metadata"]["after"]
        return after

    def _lost(self) -> None:
        self.say("A person pays in, asks, is refunded in part, denies the payment, and the bank agrees")
        session = self.session("story-lost")
        top_up = self.pay_in(session, "10.00")
        spent = self.ask(session)
        self.agree(f"an answer costs {usd(spent)}", self.balance(session), 10 * E8 - spent)
        ask = {"amount_usd": "4.00", "reason": "told in the story"}
        path = f"/v1/admin/top-ups/{top_up['id']}/refunds"
        self.agree("the operator refunds 4.00", self.api("POST", path, expect=201, **ask)["status"], "sent")
        self.agree("the wallet gave it", self.balance(session), 6 * E8 - spent)
        self.api("POST", path, expect=400, amount_usd="6.01", reason="more than is left")
        self.say("  ✓ 6.01 more is refused: only 6.00 is left of the payment")
        dispute = self.dispute(top_up)
        self.agree("the dispute is of the rest", dispute["amount"], 600)
        self.until("the wallet is empty", lambda: self.balance(session) == 0)
        told = self._note("top_up.disputed", top_up)
        self.agree("what was spent is written off", e8(told["written_off_usd"]), spent)
        self.agree("the wallet is frozen", (told["frozen"], self.ask(session, expect=403)), (True, 0))
        self.stripe("disputes/close", dispute=dispute["id"], status="lost")
        self.until("the dispute is lost", lambda: self._has("top_up.dispute_lost", top_up))
        self.agree("and nothing moves any more", self.balance(session), 0)

    def _won(self) -> None:
        self.say("Another one denies a payment, and the bank disagrees")
        session = self.session("story-won")
        top_up = self.pay_in(session, "5.00")
        spent = self.ask(session)
        dispute = self.dispute(top_up)
        self.until("the wallet is empty", lambda: self.balance(session) == 0)
        self.agree("what was spent is written off", e8(self._note("top_up.disputed", top_up)["written_off_usd"]), spent)
        self.stripe("disputes/close", dispute=dispute["id"], status="won")
        self.until("what was left is back", lambda: self.balance(session) == 5 * E8 - spent)
        made_good = self._note("top_up.dispute_returned", top_up)["made_good_usd"]
        self.agree("and the write-off is made good", e8(made_good), spent)
        self.ask(session, expect=403)
        wallet = self.api("GET", "/v1/user/wallet", session)["id"]
        self.api("POST", f"/v1/admin/wallets/{wallet}/unfreeze", reason="the bank decided for us")
        again = self.ask(session)
        self.agree("an operator unfreezes the wallet", self.balance(session), 5 * E8 - spent - again)

    def _has(self, action: str, top_up: Json) -> bool:
        return bool(self.api("GET", f"/v1/admin/audit?action={action}&resource_id={top_up['id']}")["items"])


def tell(data: Path, say: Say) -> int:
    """The whole story on a stack of its own; how many things were as they must.

    Raises NoBrowser, StoryBroke, PageFailed.
    """
    find_browser()
    with stack(data) as card, shop() as shop_url, Browser() as browser:
        story = Story(card, browser, shop_url, say)
        with story.http:
            return story.tell()


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="faucet-story-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)  # as root, PostgreSQL's account has to pass through
        try:
            checks = tell(Path(folder) / "data", print)
        except (NoBrowser, StoryBroke, PageFailed) as error:
            print(f"story-topup: {error}", file=sys.stderr)
            return 1
    print(f"All {checks} are as they must be.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
