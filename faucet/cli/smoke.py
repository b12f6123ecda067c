"""A smoke test over HTTP: whole requests, and every figure that they leave behind, compared to the last unit.

It knows the demo's data and the mock provider's prices, and nothing of the inside. It only adds: it can be run any
number of times, on the same data and on a stack that is in use by nobody else. Not here: what a stack is (`stack`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from faucet.cli.client import Client, Message, Note, Refused, Session, signed_e8, usd
from faucet.cli.smoke_routes import Routes
from faucet.cli.terminal import console, progress
from faucet.kit.errors import FaucetError
from faucet.kit.money import E8_PER_USD, bps, div_half_even
from faucet.stack.settings import data_dir, operator_token
from faucet.stack.supervisor import Stack, Wish, read_record, run_stack
from faucet.tenants.demo import EXTERNAL_USER_ID, FEATURE_KEY, PUBLIC_APP_ID

MODEL = "mock-small"
MARKUP_BPS, SHARE_BPS = 3000, 4000
LOW_E8 = E8_PER_USD
TOP_UP_USD = "10.00"
MESSAGES: list[Message] = [{"role": "user", "content": "Where is my parcel? Answer in 60 words."}]
SESSION_KEYS = {"session_token", "expires_in", "gateway_base_url", "available_modes", "wallet_balance_usd"}


class Wrong(FaucetError):
    """A check found something that must not be."""


def must(is_so: bool, otherwise: str) -> None:
    """Raises Wrong unless it is so."""
    if not is_so:
        raise Wrong(otherwise)


@dataclass(slots=True)
class Smoke:
    """One run: what was found so far, and what later checks need of earlier ones."""

    client: Client
    operator: str
    step: Callable[[str], None]
    results: list[tuple[str, bool, str, float]] = field(default_factory=list)
    session: Session = field(init=False)
    routes: Routes | None = None
    paid_e8: int = 0
    channel_e8: int = 0
    revenue_before_e8: int = 0

    def run(self) -> bool:
        """Make all checks in order; whether each one held. The first ones are what the others stand on."""
        self._check("The API and the gateway are ready", self._ready, needed=True)
        self._check("A session is minted, with exactly the contract's keys", self._session, needed=True)
        self._check("The demo's wallet can pay", self._wallet, needed=True)
        self._check("Models are listed with their prices", self._models)
        self._check("A JSON answer costs what the price says", self._json)
        self._check("A stream without usage is charged all the same", self._stream_silent)
        self._check("A stream with usage says what it cost", self._stream_told)
        self._check("An Idempotency-Key is answered twice and charged once", self._twice)
        self._check("What is refused costs nothing", self._refusals)
        self._check("The developer's revenue rose by their share", self._revenue)
        self._check("Each of the four routes answers, and those pay who should", self._routes)
        self._check("The books add up", self._books)
        return all(held for _, held, _, _ in self.results)

    def _check(self, name: str, look: Callable[[], str], *, needed: bool = False) -> None:
        if any(not held for _, held, told, _ in self.results if told.startswith("needed: ")):
            return
        self.step(name)
        began = time.monotonic()
        try:
            told, held = look(), True
        except (FaucetError, KeyError, TypeError, ValueError) as error:
            told = str(error) if isinstance(error, FaucetError) else f"{type(error).__name__}: {error}"
            told, held = (f"needed: {told}" if needed else told), False
        self.results.append((name, held, told, time.monotonic() - began))

    # ── the checks: each says in a few words what it saw ──

    def _ready(self) -> str:
        for base in (self.client.api, self.client.gateway):
            ready = self.client.call("GET", f"{base}/ready")
            must(ready["ok"] is True, f"{base}/ready says {ready}")
        return f"{self.client.api}, {self.client.gateway}"

    def _session(self) -> str:
        body = {"public_app_id": PUBLIC_APP_ID, "external_user_id": EXTERNAL_USER_ID, "feature_key": FEATURE_KEY}
        got = self.client.call("POST", f"{self.client.api}/v1/sessions", body=body)
        must(set(got) == SESSION_KEYS, f"the reply has the keys {sorted(got)}")
        must(str(got["session_token"]).startswith("mf_sess_"), "the token does not begin with mf_sess_")
        self.session = self.client.session(PUBLIC_APP_ID, EXTERNAL_USER_ID, FEATURE_KEY)
        return f"modes: {', '.join(self.session.modes)}"

    def _wallet(self) -> str:
        wallet = self.client.wallet(self.session.token)
        credited = ""
        if wallet.available_e8 < LOW_E8:
            topped = self.client.credit(wallet.id, TOP_UP_USD, self.operator)
            must(topped.balance_e8 == wallet.balance_e8 + 10 * E8_PER_USD, "a credit of 10.00 did not add 10.00")
            wallet, credited = topped, f", {TOP_UP_USD} of them just credited"
        self.revenue_before_e8 = self._lifetime_e8()
        return f"{usd(wallet.balance_e8)}{credited}"

    def _models(self) -> str:
        listed = self.client.models(self.session.token)
        names = [one["id"] for one in listed]
        must(MODEL in names, f"{MODEL} is not among {names}")
        for one in listed:
            must(Decimal(one["pricing"]["prompt"]) > 0, f"{one['id']} has no price")
        return f"{len(names)} models"

    def _json(self) -> str:
        before = self._balance_e8()
        got, note = self.client.chat(self.session.token, MESSAGES, MODEL)
        must(got["id"] == f"chatcmpl_mf_{note.request_id}", f"the reply's id is {got['id']}")
        must(bool(got["choices"][0]["message"]["content"]), "the answer has no text")
        self._charged(note, before)
        return f"{usd(note.price_e8)} for {note.input_tokens} and {note.output_tokens} tokens"

    def _stream_silent(self) -> str:
        before = self._balance_e8()
        with self.client.stream(self.session.token, MESSAGES, MODEL, stream_options=None) as streaming:
            text = "".join(streaming)
        must(bool(text) and streaming.finish_reason == "stop", f"the stream ended with {streaming.finish_reason!r}")
        must(streaming.note is None, "a usage event came that nobody asked for")
        line = self._newest_usage()
        paid = before - self._balance_e8()
        must(paid == signed_e8(line["retail_price_usd"]) > 0, f"the wallet paid {paid}, usage says {line}")
        self._remember(paid, signed_e8(line["channel_revenue_usd"]))
        return f"{usd(paid)}, {streaming.chunks} events"

    def _stream_told(self) -> str:
        before = self._balance_e8()
        with self.client.stream(self.session.token, MESSAGES, MODEL) as streaming:
            text = "".join(streaming)
        must(bool(text) and streaming.note is not None, "no usage event came")
        assert streaming.note is not None
        self._charged(streaming.note, before)
        return f"{usd(streaming.note.price_e8)}, {streaming.chunks} events"

    def _twice(self) -> str:
        before = self._balance_e8()
        key = f"smoke-{secrets.token_hex(8)}"
        first, note = self.client.chat(self.session.token, MESSAGES, MODEL, idempotency_key=key)
        again, _ = self.client.chat(self.session.token, MESSAGES, MODEL, idempotency_key=key)
        must(first["id"] == again["id"], "the second answer is another one")
        self._charged(note, before)
        return note.request_id

    def _refusals(self) -> str:
        before = self._balance_e8()
        for wanted, token, model in (
            (404, self.session.token, "no-such-model"),
            (401, "mf_sess_nobody", MODEL),
        ):
            try:
                self.client.chat(token, MESSAGES, model)
            except Refused as refused:
                must(refused.status == wanted, f"{refused} instead of a {wanted}")
            else:
                raise Wrong(f"{model} was answered instead of refused with {wanted}")
        must(self._balance_e8() == before, "the wallet changed")
        return "404 for an unknown model, 401 for an unknown session"

    def _revenue(self) -> str:
        rose = self._lifetime_e8() - self.revenue_before_e8
        must(rose == self.channel_e8 > 0, f"it rose by {rose}, the shares are {self.channel_e8} together (in e8)")
        return f"{usd(self.channel_e8)} of {usd(self.paid_e8)} that were paid"

    def _routes(self) -> str:
        self.routes = Routes(self.client, self.operator, self._lifetime_e8, self._expected)
        return self.routes.run()

    def _books(self) -> str:
        books = self._ledger()
        summary, findings = books["summary"], books.get("findings", [])
        must(summary["mismatch_count"] == 0 and not findings, f"{summary}, {findings[:3]}")
        return f"{summary['balanced_count']} of {summary['wallet_count']} balances, no differences"

    # ── what they share ──

    def _charged(self, note: Note, before: int) -> None:
        """One answer: the reply, the wallet and the usage row agree, and with the price. Raises Wrong."""
        cost, margin, channel = self._expected(note)
        after = self._balance_e8()
        must(note.price_e8 == cost + margin, f"the price is {note.price_e8}, not {cost} + {margin} (in e8)")
        must(before - after == note.price_e8, f"the wallet paid {before - after}, the reply says {note.price_e8}")
        must(note.balance_e8 == after, f"the reply says {note.balance_e8} is left, the wallet {after}")
        line = self._newest_usage()
        must(line["request_id"] == note.request_id, f"the newest usage is of {line['request_id']}")
        tokens = (line["input_tokens"], line["output_tokens"])
        must(tokens == (note.input_tokens, note.output_tokens), f"usage has {tokens} tokens")
        must(signed_e8(line["retail_price_usd"]) == note.price_e8, f"usage says {line['retail_price_usd']}")
        must(signed_e8(line["channel_revenue_usd"]) == channel, f"the share is {line['channel_revenue_usd']}")
        self._remember(note.price_e8, channel)

    def _expected(self, note: Note) -> tuple[int, int, int]:
        """Cost, margin and the developer's share of it, worked out from the list of models alone."""
        pricing = next(one for one in self.client.models(self.session.token) if one["id"] == MODEL)["pricing"]
        input_e8, output_e8 = (
            int(Decimal(pricing[kind]) * 10**18) // (10_000 + MARKUP_BPS) for kind in ("prompt", "completion")
        )
        cost = div_half_even(note.input_tokens * input_e8 + note.output_tokens * output_e8, 1_000_000)
        margin = bps(cost, MARKUP_BPS)
        return cost, margin, bps(margin, SHARE_BPS)

    def _remember(self, paid_e8: int, channel_e8: int) -> None:
        self.paid_e8 += paid_e8
        self.channel_e8 += channel_e8

    def _balance_e8(self) -> int:
        return self.client.wallet(self.session.token).balance_e8

    def _newest_usage(self) -> dict[str, Any]:
        reply = self.client.call("GET", f"{self.client.api}/v1/apps/{PUBLIC_APP_ID}/usage", self.operator)
        newest: dict[str, Any] = reply["usage"][0]
        return newest

    def _ledger(self) -> dict[str, Any]:
        return self.client.call("GET", f"{self.client.api}/v1/admin/reconciliation/ledger", self.operator)

    def _lifetime_e8(self) -> int:
        """What all developers have ever earned; who owns the demo's app is not told over HTTP."""
        developers = {line["owner_id"] for line in self._ledger()["items"] if line["owner_scope"] == "developer"}
        return sum(
            signed_e8(
                self.client.call("GET", f"{self.client.api}/v1/developers/{one}/revenue", self.operator)[
                    "lifetime_revenue_usd"
                ]
            )
            for one in developers
        )


def run_smoke(data: Path | None, api: str | None, gateway: str | None, database_url: str | None) -> int:
    """Run the smoke test and give back its exit code. Raises what a stack's start raises."""
    record = read_record(data_dir(data)) if api is None else None
    if record is not None and _answers(record):
        api, gateway = record["api"], record["gateway"]
    with progress() as shown:
        if api is not None:
            operator = operator_token(data)
            if operator is None:
                raise FaucetError(
                    "who is the operator of that stack? Set ADMIN_TOKEN, or name its data dir with --data"
                )
            return _report(*_run(api, gateway, operator, shown.step), shown.done)

        async def work(stack: Stack) -> int:
            addresses, operator = stack.addresses, stack.config.admin_token.reveal()
            found = await asyncio.to_thread(_run, addresses.api, addresses.gateway, operator, shown.step)
            return _report(*found, shown.done)

        wish = Wish(data=data, api_port=0, gateway_port=0, mock_port=0, database_url=database_url)
        return asyncio.run(run_stack(Stack(wish, shown), work))


def _answers(record: dict[str, Any]) -> bool:
    """Whether the stack that wrote this still runs."""
    try:
        with Client(record["api"], record["gateway"]) as client:
            return bool(client.call("GET", f"{record['api']}/health")["ok"])
    except (FaucetError, KeyError):
        return False


def _run(api: str, gateway: str | None, operator: str, step: Callable[[str], None]) -> tuple[bool, Smoke]:
    base = (gateway or "").rstrip("/").removesuffix("/v1")
    with Client(api.rstrip("/"), base) as client:
        if not base:
            client.gateway = client.session(PUBLIC_APP_ID, EXTERNAL_USER_ID).gateway_base_url.removesuffix("/v1")
        smoke = Smoke(client, operator, step)
        return smoke.run(), smoke


def _report(is_well: bool, smoke: Smoke, done: Callable[[], None]) -> int:
    done()
    out = console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", style="dim")
    for name, held, told, _ in smoke.results:
        mark = Text("✓", style="green") if held else Text("✗", style="bold red")
        table.add_row(mark, name, Text(told.removeprefix("needed: "), style="" if held else "red"))
    out.print(table)
    if smoke.routes is not None and smoke.routes.lines:
        out.print()
        out.print(smoke.routes.table())
    failed = sum(1 for _, held, _, _ in smoke.results if not held)
    seconds = sum(seconds for _, _, _, seconds in smoke.results)
    out.print()
    told = f"{len(smoke.results) - failed} of {len(smoke.results)} checks hold ({seconds:.1f} s)."
    out.print(Text(told, style="green" if is_well else "bold red"))
    return 0 if is_well else 1
