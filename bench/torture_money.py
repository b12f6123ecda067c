"""The cashier of a torture: everything that moves money across the border, over HTTP, whoever dies meanwhile.

Tellers are end users who pay in, are declined or leave the page, and who have standing orders; operators who refund,
thaw wallets, approve, cancel, fail and mark payouts, and close months; developers who ask to be paid; people at
Stripe's own pages, and banks that decide. A postman holds the double's webhooks back, sends them late, again and in
disorder, and lets calls to the double go wrong. What answers must not be given is noted here; what must be true of the
books afterwards is in `torture_money_checks`.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import uuid4

from bench.torture_stage import OPERATORS, STRIPE_KEY, Developer, EndUser, Stage

Json = dict[str, Any]
TELLERS = 4
PAUSE_SECONDS = 0.25
TRIES_MAX = 4
ANSWER_SECONDS = 20
GOOD_CARD, DECLINED_CARD, LATER_DECLINED_CARD = "4242424242424242", "4000000000000002", "4000000000000341"
URLS = {"success_url": "http://localhost:5174/paid", "cancel_url": "http://localhost:5174/left"}
STANDING_ORDER = {"amount_usd": "6.00", "monthly_cap_usd": "100000.00", "consent": True}
THRESHOLDS_USD = ("0.80", "3.00", "6.00")
CLOSING_MAX = 3
"""So many months may wait to be closed."""
BREAKABLE = (
    "/v1/checkout/sessions",
    "/v1/payment_intents",
    "/v1/refunds",
    "/v1/transfers",
    "/v1/transfers/{id}/reversals",
    "/v1/payouts",
)
HOW = ("refuse", "drop_before", "drop_after")


class Wrong:
    """Answers that must not have been given."""

    def __init__(self) -> None:
        self.answers: list[str] = []

    def unless(self, holds: bool, text: str) -> None:
        if not holds:
            self.answers.append(text)


def call(
    url: str,
    method: str,
    path: str,
    token: str | None = None,
    ask: Json | None = None,
    *,
    headers: dict[str, str] | None = None,
) -> tuple[int, Json]:
    """A call and its answer; the status is 0 where there was none."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)
    sent = dict(headers or {})
    if token is not None:
        sent["authorization"] = f"Bearer {token}"
    body = None
    if ask is not None and "content-type" not in sent:
        body, sent["content-type"] = json.dumps(ask), "application/json"
    elif ask is not None:
        body = urlencode(ask)
    try:
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        said = answer.read()
        return answer.status, json.loads(said) if said.startswith(b"{") else {}
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}
    finally:
        connection.close()


def usd(cents: int) -> str:
    """An amount as the API is asked for it."""
    return f"{cents // 100}.{cents % 100:02d}"


def cents_of(amount_usd: str) -> int:
    """An amount as the API tells it: with eight places."""
    return int(amount_usd.replace(".", "")) // 1_000_000


class Double:
    """The Stripe double, from the outside."""

    def __init__(self, url: str) -> None:
        self.url = url

    def control(self, knob: str, **ask: Any) -> tuple[int, Json]:
        """Turn a knob; whether it would turn is the status."""
        return call(self.url, "POST", f"/_control/{knob}", None, ask)

    def form(self, path: str, **ask: Any) -> int:
        """Send a form to a page or to the API; the status."""
        kind = {"content-type": "application/x-www-form-urlencoded"}
        return call(self.url, "POST", path, STRIPE_KEY, ask, headers=kind)[0]

    def listed(self, kind: str, *, account: str | None = None, most: int = 1 << 30) -> list[Json]:
        """The objects that Stripe lists, newest first. Raises ConnectionError where it doesn't answer."""
        found: list[Json] = []
        after = ""
        headers = {} if account is None else {"stripe-account": account}
        while len(found) < most:
            status, page = call(self.url, "GET", f"/v1/{kind}?limit=100{after}", STRIPE_KEY, headers=headers)
            if status != 200:
                raise ConnectionError(f"{kind}: {status} {page}")
            found += page["data"]
            if not page["has_more"]:
                break
            after = f"&starting_after={found[-1]['id']}"
        return found


class Cashier:
    """Moves money until told to leave off."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self._stage, self._seed = stage, seed
        self.double = Double(stage.stripe)
        self.counts: Counter[str] = Counter()
        self.wrong = Wrong()
        self.accounts: list[str] = []
        """Of developers at Stripe."""
        self.tokens: dict[str, str] = {}
        """Of developers, by id."""
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Set the developers up, and begin. Before anything is killed."""
        hook = f"{self._stage.api_url}/v1/stripe/webhook"
        assert self.double.control("webhook", url=hook, secret=self._stage.webhook_secret)[0] == 200
        for number, developer in enumerate(self._stage.developers):
            self._onboard(developer, at_stripe=number != 1)
        for number in range(TELLERS):
            teller = Teller(self._stage, self, random.Random(f"teller-{self._seed}-{number}"))
            self._threads.append(threading.Thread(target=self._live, args=(teller,), name=f"teller-{number}"))
        postman = Postman(self, random.Random(f"postman-{self._seed}"))
        self._threads.append(threading.Thread(target=postman.work, args=(self._over,), name="postman"))
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Leave off; from now on, all post comes at once and nothing that is asked of the double goes wrong."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self.double.control("delivery", hold=False, copies=1, delay_seconds=0)
        for path in BREAKABLE:  # failures that are left are used up by what is no request
            for _ in range(self.counts[f"failures of {path}"]):
                self.double.form(path.replace("{id}", "none"))

    def _live(self, teller: Teller) -> None:
        while not self._over.wait(teller.chance.random() * 2 * PAUSE_SECONDS):
            try:
                teller.act()
            except ConnectionError:
                self.counts["no answer of the double"] += 1

    def _onboard(self, developer: Developer, *, at_stripe: bool) -> None:
        url, token = self._stage.api_url, self._stage.operators["alice"]
        ask = {
            "developer_id": str(developer.id), "name": "T",
            "scopes": ["developer:payouts:write", "developer:operations:read"],
        }  # fmt: skip
        status, made = call(url, "POST", "/v1/developer/tokens", token, ask)
        if status != 201:
            raise RuntimeError(f"the API refuses a token: {status} {made}")
        self.tokens[str(developer.id)] = made["token"]
        if at_stripe:
            pages = {"return_url": URLS["success_url"], "refresh_url": URLS["cancel_url"]}
            status, link = call(url, "POST", "/v1/developer/payouts/onboarding", made["token"], pages)
            assert status == 201, link
            self.accounts.append(link["provider_account_id"])
            assert self.double.control("accounts", account=self.accounts[-1], ready=True)[0] == 200
            self.double.control("idle")


class Teller:
    """One who does one thing after another."""

    def __init__(self, stage: Stage, cashier: Cashier, chance: random.Random) -> None:
        self._stage, self._cashier, self.chance = stage, cashier, chance
        self._double, self._counts, self._wrong = cashier.double, cashier.counts, cashier.wrong
        self._acts: dict[Callable[[], None], int] = {
            self.pay_in: 14,
            self.standing_order: 3,
            self.refund: 6,
            self.refund_is_sent_back: 1,
            self.dispute: 4,
            self.dispute_ends: 4,
            self.thaw: 6,
            self.spend_much: 4,
            self.bonus: 4,
            self.ask_payout: 7,
            self.decide_payout: 12,
            self.bank_decides: 8,
            self.transfer_is_reversed: 1,
        }
        if stage.has_months:
            self._acts[self.close_month] = 2

    def act(self) -> None:
        """Do something."""
        self.chance.choices(list(self._acts), list(self._acts.values()))[0]()

    # ── calls ──

    def _api(self, method: str, path: str, token: str, ask: Json | None = None) -> tuple[int, Json]:
        """A call of the API; what moves something is repeated under its key where there was no answer."""
        headers = {"idempotency-key": str(uuid4())} if method == "POST" else {}
        status, told = 0, Json()
        for _ in range(TRIES_MAX):
            status, told = call(self._stage.api_url, method, path, token, ask, headers=headers)
            if status not in (0, 409, 503) or (status == 409 and told.get("error", {}).get("code") == "conflict"):
                break
            self._counts["calls asked again"] += 1
            time.sleep(self.chance.random())
        self._counts["calls without an answer"] += status == 0
        return status, told

    def _operator(self, method: str, path: str, ask: Json | None = None, *, by: str = "alice") -> tuple[int, Json]:
        return self._api(method, path, self._stage.operators[by], ask)

    def _one_of(self, path: str, **fields: str) -> Json | None:
        """Something that operators see in a list, with these values."""
        _, page = self._operator("GET", path)
        found = [row for row in page.get("items", ()) if all(row.get(key) == wish for key, wish in fields.items())]
        return self.chance.choice(found) if found else None

    def _payer(self) -> EndUser:
        return self.chance.choice(self._stage.payers)

    # ── money in ──

    def pay_in(self) -> None:
        """Somebody asks for a page, and pays, is declined, or leaves."""
        payer, chance = self._payer(), self.chance
        ask = {"amount_usd": usd(chance.randint(50, 400)), "save_card": chance.random() < 0.5, **URLS}
        status, page = self._api("POST", "/v1/user/stripe/checkout-sessions", payer.bearer, ask)
        if status != 201:
            self._counts[f"page refused: {page.get('error', {}).get('code', status)}"] += 1
            return
        self._counts["pages"] += 1
        path, dice = urlsplit(page["checkout_url"]).path, chance.random()
        card = {"email": "p@x.example", "expiry": "12 / 34", "cvc": "123"}
        if dice < 0.25:
            self._double.form(path, number=DECLINED_CARD, **card)
            self._counts["cards declined"] += 1
        if dice < 0.8 and not 0.1 < dice < 0.25:
            number = LATER_DECLINED_CARD if chance.random() < 0.2 else GOOD_CARD
            self._counts["pages paid"] += self._double.form(path, number=number, **card) == 303
            return
        self._counts["pages left"] += 1
        if chance.random() < 0.7:
            self._double.form(f"/v1/checkout/sessions/{page['checkout_session_id']}/expire")

    def standing_order(self) -> None:
        """An end user wants to be topped up automatically, or no more."""
        if self.chance.random() < 0.15:
            forgets = self.chance.choice(("true", "false"))
            self._api("DELETE", f"/v1/user/auto-top-up?forget_card={forgets}", self._payer().bearer)
            return
        wish = STANDING_ORDER | {"threshold_usd": self.chance.choice(THRESHOLDS_USD)}
        status, _ = self._api("PUT", "/v1/user/auto-top-up", self._payer().bearer, wish)
        self._counts["standing orders"] += status == 200

    def _top_up(self) -> Json | None:
        return self._one_of("/v1/admin/top-ups?limit=60", status="credited")

    def refund(self) -> None:
        """An operator gives a payment back: in part, what is left of it, or more than there was."""
        if (top_up := self._top_up()) is None:
            return
        rest, whole = (cents_of(top_up[name]) for name in ("refundable_usd", "amount_usd"))
        cents = self.chance.choice((None, None, max(1, rest // 2), max(1, rest // 3), rest + 1, whole + 1))
        ask: Json = {"reason": "told to"} | ({} if cents is None else {"amount_usd": usd(cents)})
        status, told = self._operator("POST", f"/v1/admin/top-ups/{top_up['id']}/refunds", ask)
        self._counts[f"refunds: {told['status'] if status == 201 else f'answered {status}'}"] += 1
        if cents is not None and cents > whole:
            self._wrong.unless(status != 201, f"a refund of {cents} cents of {whole}: {told}")
            self._counts["refunds of more than was paid"] += 1

    def refund_is_sent_back(self) -> None:
        """A card's bank doesn't take it."""
        found = [row["id"] for row in self._double.listed("refunds", most=100) if row["status"] == "succeeded"]
        if found:
            self._double.control("refunds/fail", refund=self.chance.choice(found))

    def dispute(self) -> None:
        """A card's owner denies a payment, all of it or a part."""
        if (top_up := self._top_up()) is None or "payment_intent_id" not in top_up:
            return
        ask: Json = {"payment_intent": top_up["payment_intent_id"]}
        if self.chance.random() < 0.25:
            ask["amount"] = 20
        self._double.control("disputes", **ask)

    def dispute_ends(self) -> None:
        """The bank decides."""
        rows = self._double.listed("disputes", most=100)
        if found := [row["id"] for row in rows if row["status"] not in ("won", "lost")]:
            end = self.chance.choice(("won", "lost"))
            self._double.control("disputes/close", dispute=self.chance.choice(found), status=end)

    def thaw(self) -> None:
        """An operator has looked at a wallet."""
        path = f"/v1/admin/wallets/{self._payer().public_id}/unfreeze"
        self._operator("POST", path, {"reason": "looked at"}, by=self.chance.choice(OPERATORS))

    def spend_much(self) -> None:
        """An operator takes what an answer of the crowd's never costs, so that little is left for what goes back."""
        payer = self._payer()
        status, wallet = self._api("GET", "/v1/user/wallet", payer.bearer)
        cents = cents_of(wallet["balance_usd"]) * self.chance.randint(30, 100) // 100 if status == 200 else 0
        if cents > 0:
            ask = {"kind": "adjustment", "direction": "debit", "amount_usd": usd(cents), "reason": "a dear answer"}
            status, _ = self._operator("POST", f"/v1/admin/wallets/{payer.public_id}/adjustments", ask)
            self._counts["wallets emptied"] += status == 201

    # ── money out ──

    def bonus(self) -> None:
        """An operator adds to somebody's earnings, so that there is something to pay out."""
        earnings, cents = self.chance.choice(self._stage.developers).earnings, self.chance.randint(1, 2_000)
        ask = {"kind": "adjustment", "direction": "credit", "amount_usd": usd(cents), "reason": "well done"}
        status, _ = self._operator("POST", f"/v1/admin/wallets/{earnings}/adjustments", ask)
        self._counts["bonuses"] += status == 201

    def ask_payout(self) -> None:
        """A developer asks, or an operator for them, or for everybody."""
        chance, developer = self.chance, str(self.chance.choice(self._stage.developers).id)
        ask: Json = {} if chance.random() < 0.3 else {"amount_usd": usd(chance.randint(1, 600))}
        dice = chance.random()
        if dice < 0.1:
            self._operator("POST", "/v1/admin/payouts/run", by=chance.choice(OPERATORS))
        elif dice < 0.3:
            ask["developer_id"] = developer
            self._operator("POST", "/v1/developer/payouts", ask, by=chance.choice(OPERATORS))
        else:
            self._api("POST", "/v1/developer/payouts", self._cashier.tokens[developer], ask)

    def decide_payout(self) -> None:
        """An operator approves, calls off, fails, or has paid by hand; not always rightly."""
        chance, by = self.chance, self.chance.choice(OPERATORS)
        status = chance.choice(("requested", "requested", "approved", "approved", "sent"))
        row = self._one_of(f"/v1/admin/payouts?limit=100&status={status}")
        if row is None:
            return
        what = chance.choice(
            ("approve", "approve", "approve", "cancel") if status == "requested" else ("fail", "cancel")
        )
        if status == "approved" and row.get("provider") == "manual":
            what = chance.choice(("mark-paid", "mark-paid", "mark-paid", "fail", "cancel"))
        elif status != "requested" and chance.random() < 0.7:
            return  # most are let go
        path = f"/v1/admin/payouts/{row['id']}"
        told, answer = self._operator("POST", f"{path}/{what}", {"reason": "no"} if what == "fail" else {}, by=by)
        self._counts[f"{what}: {told}"] += 1
        if what == "approve" and told == 200:
            _, seen = self._operator("GET", path)
            self._wrong.unless(
                not seen or seen["requested_by"] != seen.get("approved_by"), f"asked for and approved: {seen}"
            )
        if what == "mark-paid" and row.get("provider") == "stripe":
            self._wrong.unless(told != 200, f"paid by hand and by Stripe: {answer}")

    def bank_decides(self) -> None:
        """A payout arrives at a bank, or doesn't, or comes back later; or an account is looked into for a while."""
        account = self.chance.choice(self._cashier.accounts)
        if self.chance.random() < 0.04:
            self._double.control("accounts", account=account, ready=False)
            time.sleep(1)
            self._double.control("accounts", account=account, ready=True)
            return
        rows = self._double.listed("payouts", account=account, most=100)
        open_ones = [row["id"] for row in rows if row["status"] in ("pending", "in_transit")]
        paid = [row["id"] for row in rows if row["status"] == "paid"]
        if open_ones:
            end = self.chance.choices(("in_transit", "paid", "failed"), (2, 6, 2))[0]
            self._double.control("payouts", payout=self.chance.choice(open_ones), status=end)
        elif paid and self.chance.random() < 0.1:
            self._double.control("payouts", payout=self.chance.choice(paid), status="failed")

    def transfer_is_reversed(self) -> None:
        """Somebody takes one back on Stripe's own pages, whose bank has sent it back.

        Of one whose bank has it, they would take back with another's money.
        """
        account = self.chance.choice(self._cashier.accounts)
        banks = self._double.listed("payouts", account=account, most=100)
        returned = {row["metadata"].get("payout_id") for row in banks if row["status"] == "failed"}
        rows = self._double.listed("transfers", most=100)
        if found := [row["id"] for row in rows if not row["reversed"] and row["transfer_group"] in returned]:
            self._double.control("transfers", transfer=self.chance.choice(found))

    def close_month(self) -> None:
        """An operator asks for the next month that is over."""
        _, page = self._operator("GET", "/v1/admin/periods")
        closing = sum(row["status"] == "closing" for row in page.get("items", ()))
        if closing < CLOSING_MAX and (month := page.get("next_period")) is not None:
            status, _ = self._operator("POST", f"/v1/admin/periods/{month}/close")
            self._counts["months asked for"] += status == 202


class Postman:
    """Brings the double's post late, again and in disorder, and lets calls to the double go wrong."""

    def __init__(self, cashier: Cashier, chance: random.Random) -> None:
        self._double, self._counts, self._chance = cashier.double, cashier.counts, chance

    def work(self, over: threading.Event) -> None:
        """One turn after the other, until it is over."""
        while not over.wait(self._chance.random()):
            try:
                self._chance.choice((self._in_disorder, self._hurry, self._again, self._break))(over)
            except ConnectionError:
                self._counts["no answer of the double"] += 1

    def _in_disorder(self, over: threading.Event) -> None:
        """Hold everything back for a while; then bring it, shuffled, some of it twice."""
        known = {event["id"] for event in self._double.listed("events", most=100)}
        self._double.control("delivery", hold=True)
        over.wait(self._chance.uniform(0.5, 3))
        self._double.control("delivery", hold=False)
        held = [row["id"] for row in self._double.listed("events", most=300) if row["id"] not in known]
        self._chance.shuffle(held)
        for name in held:
            self._double.control("deliveries", events=[name], copies=self._chance.choice((1, 1, 2, 3)))
        self._counts["webhooks in disorder"] += len(held)

    def _hurry(self, over: threading.Event) -> None:
        """Everything comes at once and twice, or late."""
        delay, copies = self._chance.choice((0.0, 0.0, 0.3, 2.0)), self._chance.choice((1, 2))
        self._double.control("delivery", copies=copies, delay_seconds=delay)

    def _again(self, over: threading.Event) -> None:
        """Something that came before comes once more."""
        told = self._double.listed("events", most=100)
        names = [row["id"] for row in self._chance.sample(told, min(len(told), 4))]
        self._double.control("deliveries", events=names)
        self._counts["webhooks again"] += len(names)

    def _break(self, over: threading.Event) -> None:
        """One of the next calls to Stripe is refused, gets lost, or is done without an answer."""
        path = self._chance.choice(BREAKABLE)
        self._counts[f"failures of {path}"] += 1
        self._double.control("failures", method="POST", path=path, how=self._chance.choice(HOW))
