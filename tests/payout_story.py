"""The story of a payout: a developer earns with real answers, waits, asks, and is paid; and what else may become of it.

`make story-payout` tells it; the same is a test (`tests/journey/test_payout.py`). A database, the API, a gateway, the
mock provider and the Stripe double are real servers on this machine; only the clock of the API and of the sweeps is put
forward, for nobody waits two weeks for a story. Events come by Stripe's own way: signed, over the webhook.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # as in pytest: tests share modules

import httpx2  # noqa: E402
import psycopg  # noqa: E402
from books import Books  # noqa: E402
from conftest import serve  # noqa: E402
from gateway_world import Gateway, Mock, add_prices, ask, chat  # noqa: E402
from payout_kills import Died, Fate, FatedProcessor  # noqa: E402
from payout_world import ALICE, BOB, DAY, WEBHOOK_SECRET, Stripe, jobs_pool, problems  # noqa: E402

from faucet.jobs.drain_inbox import drain_inbox  # noqa: E402
from faucet.jobs.send_payouts import send_payouts  # noqa: E402
from faucet.kit.clock import ManualClock  # noqa: E402
from faucet.kit.config import Config, load_config  # noqa: E402
from faucet.kit.embedded_postgres import EmbeddedPostgres  # noqa: E402
from faucet.kit.migrate import migrate  # noqa: E402
from faucet.payments.connect import connect_of  # noqa: E402
from faucet.payments.payout_events import appliers  # noqa: E402

Json = dict[str, Any]
Say = Callable[[str], None]
ANSWERS, WORDS = 6, 10_000
PRICING = {"mode": "usage_markup", "markup_percent": 1000, "channel_share_bps": 10_000}
ASK, DESK = "/v1/developer/payouts", "/v1/admin/payouts"


class StoryBroke(Exception):
    """A step did not give what it must."""


class Story:
    """One telling."""

    def __init__(
        self, dsn: str, config: Config, api: str, gateway: Gateway, stripe: Stripe, clock: ManualClock, say: Say
    ) -> None:
        self.dsn, self.config, self.gateway, self.stripe, self.clock, self._say = (
            dsn,
            config,
            gateway,
            stripe,
            clock,
            say,
        )
        self.http = httpx2.Client(base_url=api, trust_env=False, timeout=30)
        self.operator = config.admin_token.reveal()
        self.chapter = 0
        self.checks = 0
        self.developer: Json = {}
        self.token = ""

    # ── what is shown ──

    def _chapter(self, title: str) -> None:
        self.chapter += 1
        self._say(f"\n{self.chapter}. {title}\n")

    def _agree(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            raise StoryBroke(f"{what}: {found!r}, and not {wanted!r}")
        self.checks += 1
        self._say(f"   ✓ {what}: {found}")

    def _call(self, who: str, token: str, method: str, path: str, body: Json | None = None, status: int = 200) -> Json:
        """A call that must end so; what it gave."""
        said = "" if body is None else " " + " ".join(f"{name}={value}" for name, value in body.items())[:90]
        reply = self.http.request(
            method, path, json=body, headers={"authorization": f"Bearer {token}"} if token else {}
        )
        got: Json = reply.json()
        words = got.get("error", {}).get("message") or got.get("status", "")
        self._say(f"   {who}: {method} {path}{said} → {reply.status_code} {words}")
        if reply.status_code != status:
            raise StoryBroke(f"{reply.status_code} {reply.text[:300]}")
        return got

    def _dev(self, method: str, path: str, body: Json | None = None, status: int = 200) -> Json:
        return self._call("developer", self.token, method, path, body, status)

    def _alice(self, method: str, path: str, body: Json | None = None, status: int = 200) -> Json:
        return self._call("alice", ALICE, method, path, body, status)

    def _bob(self, method: str, path: str, body: Json | None = None, status: int = 200) -> Json:
        return self._call("bob", BOB, method, path, body, status)

    # ── what happens by itself ──

    def _sweep(self, fate: Fate | None = None) -> None:
        """The jobs: apply what Stripe told, send what is approved. Under a fate, they may die on the way."""

        async def both() -> None:
            processor: Any = connect_of(self.config)
            async with jobs_pool(self.dsn) as pool:
                if fate is not None:
                    processor = FatedProcessor(processor, fate)
                for _ in range(2):
                    await asyncio.to_thread(self.stripe.control, "idle")
                    async with pool.connection() as connection:
                        await drain_inbox(connection, appliers(self.clock), self.clock)
                    await send_payouts(pool, processor, self.clock)

        asyncio.run(both())

    def _later(self, words: str, seconds: int) -> None:
        self._say(f"   … {words}")
        self.clock.advance(seconds)
        self.stripe.control("clock", advance_seconds=seconds)
        self.stripe.control("idle")

    def _payout(self, payout: Json) -> Json:
        """A payout as it stands now."""
        reply = self.http.get(f"{DESK}/{payout['id']}", headers={"authorization": f"Bearer {self.operator}"})
        got: Json = reply.json()
        return got

    def _transfers(self, payout: Json) -> int:
        return sum(transfer["transfer_group"] == payout["id"] for transfer in self.stripe.of("transfer"))

    def _let_go(self, usd: str) -> Json:
        """A payout that was asked for and approved."""
        made = self._dev("POST", ASK, {"amount_usd": usd}, 201)
        self._bob("POST", f"{DESK}/{made['id']}/approve", {})
        return made

    # ── the chapters ──

    def tell(self) -> int:
        """All of it, in order; how many things were checked. Raises StoryBroke."""
        try:
            self._earns()
            self._waits()
            self._connects()
            self._is_paid()
            self._fails()
            self._is_cancelled()
            self._is_paid_once_whoever_dies()
            self._adds_up()
        finally:
            self.http.close()
        return self.checks

    def _earns(self) -> None:
        self._chapter("A developer's app answers, and earns")
        person = {"name": "Lindqvist Furniture", "email": "dev@lindqvist.example"}
        self.developer = self._call("operator", self.operator, "POST", "/v1/developers", person, 201)
        scopes = ["developer:apps:write", "developer:features:write", "developer:payouts:write", "developer:usage:read"]
        wish = {"developer_id": self.developer["id"], "name": "payouts", "scopes": scopes}
        made = self._call("operator", self.operator, "POST", "/v1/developer/tokens", wish, 201)
        self.token = made["token"]
        self._dev("POST", "/v1/developer/apps", {"public_app_id": "app_desk", "name": "Support desk"}, 201)
        feature = {"feature_key": "reply", "display_name": "Reply", "policy": {}, "pricing": PRICING}
        self._dev("POST", "/v1/developer/apps/app_desk/features", feature, 201)
        wish = {"public_app_id": "app_desk", "external_user_id": "ingrid", "feature_key": "reply"}
        session = self._call("app's backend", "", "POST", "/v1/sessions", wish)["session_token"]
        wallet = self._call("end user", session, "GET", "/v1/user/wallet")["id"]
        self._call(
            "operator", self.operator, "POST", f"/v1/admin/wallets/{wallet}/credit-test-balance", {"amount_usd": "50"}
        )
        for _ in range(ANSWERS):
            body = chat(f"Tell me about walnut desks in {WORDS} words.", model="mock-large", max_tokens=WORDS)
            reply = ask(self.gateway, session, body)
            if reply.status != 200:
                raise StoryBroke(f"the gateway: {reply.status} {reply.body[:300]!r}")
        self._say(f"   end user: {ANSWERS} answers of {WORDS} tokens through the gateway, {self.gateway.openai_url}")
        revenue = self._dev("GET", f"/v1/developers/{self.developer['id']}/revenue")
        self.earned = int(revenue["lifetime_revenue_usd"].replace(".", ""))
        self._agree("more than five dollars were earned", self.earned > 5 * 10**8, True)

    def _waits(self) -> None:
        self._chapter("It is too early, and then it isn't")
        error = self._dev("POST", ASK, {"amount_usd": "5.00"}, 402)["error"]
        self._agree("old enough to be paid out", error["details"]["mature_usd"], "0.00000000")
        self._later("two weeks pass, in which a card's owner could have taken the money back", 14 * DAY + 60)

    def _connects(self) -> None:
        self._chapter("The developer tells Stripe who they are")
        pages = {"return_url": "https://lindqvist.example/done", "refresh_url": "https://lindqvist.example/again"}
        link = self._dev("POST", f"{ASK}/onboarding", pages, 201)
        with httpx2.Client(trust_env=False) as browser:
            page = browser.get(link["url"])
            self._agree("the page asks for a bank", "Connect your bank" in page.text, True)
            done = browser.post(link["url"], data={"account_number": "000123456789"})
        self._agree("the browser is sent back to", done.headers["location"], pages["return_url"])
        self._sweep()
        again = self._dev("POST", f"{ASK}/onboarding", pages, 201)
        self._agree("Stripe would pay the account", again["is_ready"], True)

    def _is_paid(self) -> None:
        self._chapter("A payout: asked for, approved by somebody else, sent, paid")
        wish = {"developer_id": self.developer["id"], "amount_usd": "1.00"}
        own = self._alice("POST", ASK, wish, 201)
        self._alice("POST", f"{DESK}/{own['id']}/approve", {}, 403)
        self._bob("POST", f"{DESK}/{own['id']}/approve", {"operator_note": "the books are in order"})
        self._alice("POST", f"{DESK}/{own['id']}/approve", {}, 409)
        self._sweep()
        sent = self._payout(own)
        self._agree("after the sweep it is", sent["status"], "sent")
        self._say(
            f"   Stripe has {sent['provider_transfer_id']} to the account, {sent['provider_payout_id']} to the bank"
        )
        self._later("the bank takes two days", 2 * DAY + 60)
        self._sweep()
        self._agree("Stripe's webhook told that it is", self._payout(own)["status"], "paid")
        self._agree("transfers at Stripe", self._transfers(own), 1)

    def _fails(self) -> None:
        self._chapter("A payout that the bank sends back")
        made = self._let_go("1.00")
        self._sweep()
        bank = self._payout(made)["provider_payout_id"]
        self.stripe.control("payouts", payout=bank, status="failed", failure_code="account_closed")
        self._say("   bank: the account has been closed")
        self._sweep()
        failed = self._payout(made)
        self._agree(
            "it is",
            (failed["status"], failed["reason"]),
            ("failed", "the bank refused it: The bank account has been closed."),
        )
        self._agree("the transfer was reversed", failed["provider_reversal_id"][:4], "trr_")

    def _is_cancelled(self) -> None:
        self._chapter("A payout that an operator calls off")
        made = self._let_go("1.00")
        self._alice("POST", f"{DESK}/{made['id']}/cancel", {"reason": "the invoice is missing"})
        self._sweep()
        self._agree("it is", self._payout(made)["status"], "cancelled")
        self._agree("transfers at Stripe", self._transfers(made), 0)

    def _is_paid_once_whoever_dies(self) -> None:
        self._chapter("A payout whose sender dies right after Stripe made the transfer")
        made = self._let_go("1.00")
        try:
            self._sweep(Fate(2, of="stripe"))
            raise StoryBroke("the sender lived")
        except Died:
            self._say("   jobs: dead; nobody wrote down that the transfer is made")
        torn = self._payout(made)
        self._agree("our books know of a transfer", "provider_transfer_id" in torn, False)
        self._agree("transfers at Stripe", self._transfers(made), 1)
        self._sweep()
        self._later("the claim of the dead runs out", 700)
        self._sweep()
        self._later("the bank takes two days", 2 * DAY + 60)
        self._sweep()
        self._agree("it is", self._payout(made)["status"], "paid")
        self._agree("transfers at Stripe", self._transfers(made), 1)

    def _adds_up(self) -> None:
        self._chapter("What is left")
        revenue = self._dev("GET", f"/v1/developers/{self.developer['id']}/revenue")
        left = int(revenue["wallet_balance_usd"].replace(".", ""))
        self._agree("earned, less what was paid, is what is left", self.earned - 2 * 10**8, left)
        self._agree("on its way", revenue["pending_payout_usd"], "0.00000000")
        books = self._call("operator", self.operator, "GET", "/v1/admin/reconciliation/ledger")
        self._agree("differences in the books", books["findings"], [])
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            self._agree("differences to Stripe's", problems(Books(connection), self.stripe), [])
        self._say("\nWho did what, by the audit log:\n")
        log = self.http.get(
            "/v1/admin/audit",
            params={"resource_type": "payout", "limit": 100},
            headers={"authorization": f"Bearer {self.operator}"},
        ).json()["items"]
        for row in log[::-1]:
            who = row["actor_scope"] + (f":{row['actor_id'][:14]}" if row.get("actor_id") else "")
            self._say(f"   {row['created_at'][:19]}  {row['resource_id'][-6:]}  {row['action']:<18} {who}")


@contextmanager
def _stage(folder: Path) -> Iterator[tuple[str, Config, str, Gateway, Stripe, ManualClock]]:
    """Everything that runs while the story is told."""
    with EmbeddedPostgres(folder / "postgres") as postgres, Stripe() as stripe:
        migrate(postgres.dsn)
        add_prices(postgres.dsn)
        env = {
            "FAUCET_DATA": str(folder / "data"),
            "STRIPE_SECRET_KEY": "sk_test_of_the_story",
            "STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "STRIPE_API_BASE": stripe.url,
            "OPERATOR_TOKENS": f"alice:{ALICE},bob:{BOB}",
            "PAYOUT_THRESHOLD_USD": "1.00",
        }
        config, clock = load_config(env), ManualClock(datetime.now(UTC))
        mock = Mock(folder)
        gateway = Gateway(postgres.dsn, mock.url, folder)
        try:
            with serve(config, postgres.dsn, clock=clock) as api:
                stripe.control("webhook", url=f"{api}/v1/stripe/webhook", secret=WEBHOOK_SECRET)
                yield postgres.dsn, config, api, gateway, stripe, clock
        finally:
            gateway.stop()
            mock.stop()


def tell(folder: Path, say: Say) -> int:
    """The whole story; how many things were as they must. Raises StoryBroke."""
    with _stage(folder) as stage:
        return Story(*stage, say).tell()


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="faucet-story-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)  # as root, PostgreSQL's account has to pass through
        try:
            checks = tell(Path(folder), print)
        except StoryBroke as error:
            print(f"story-payout: {error}", file=sys.stderr)
            return 1
    print(f"\nAll {checks} are as they must be.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
