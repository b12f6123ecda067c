"""Stop four: reserve the most that a request can cost, wait for others, or shrink the answer to what is there.

The first try uses a bound that costs nothing to compute (a token is at least a byte). Only when that doesn't fit
is the prompt counted; then the request waits its turn while others hold the wallet; and only when nobody else
does, the output limit is shrunk to what the wallet can pay.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from uuid import UUID

import msgspec

from faucet.gateway.admit import Caller, Feature
from faucet.gateway.allowances import Allowances
from faucet.gateway.catalogue import Product
from faucet.gateway.exchange import Exchange
from faucet.gateway.outbound import takes_thoughts
from faucet.gateway.payers import Chosen, over_budget
from faucet.gateway.refusals import LimitRefusals
from faucet.gateway.wire import ChatAsk
from faucet.kit.errors import Refusal, field_error
from faucet.kit.money import to_wire
from faucet.kit.tokens import TOKENIZERS, count_input, count_text
from faucet.ledger import lane as ledger_lane
from faucet.ledger import moves
from faucet.ledger.lane import HoldAnswer, HoldItem, Lane, LedgerUnavailable
from faucet.ledger.queue import Freed, WalletQueues
from faucet.providers.chat_words import thoughts_of
from faucet.rating.price import MODEL_TOKENS_MAX, PricePlan
from faucet.rating.rate import afford_output_tokens, ceiling_e8, input_bound_tokens
from faucet.routing.plan import PassedOver, Why
from faucet.terms import Payer

SMALLEST_ANSWER_TOKENS = 1
"""An answer is shrunk to fit a wallet, but not below this."""

EXACT_TOKENIZERS = frozenset({"words"})
"""Tokenizers whose count is the provider's own; for others templates differ a little, and a margin covers it."""


AT_COST = PricePlan()
"""What a provider asks its account's owner for: budgets of keys are kept in that."""


class Held(msgspec.Struct):
    """A durable hold: how much, and the output limit that it pays for."""

    amount_e8: int
    output_limit: int
    input_tokens: int | None
    """The prompt's counted tokens, where counting was needed."""
    products: Sequence[Product]
    """Those of the planned products whose answers it pays for, in their order."""
    wallet_id: int
    """The account that it is on: the end user's wallet, or what they have of the feature's free quota."""
    passed_over: Sequence[PassedOver]
    caps: dict[tuple[UUID | None, str], int]
    """Lower output limits, by credential and model, that budgets pay for."""
    has_budgets: bool
    """Whether it reserves on budgets of keys, too."""

    def limit_of(self, product: Product) -> int | None:
        """The output limit of one product; None where nobody has bounded it."""
        limit = min(self.output_limit, product.price.max_output_tokens)
        if self.caps:
            limit = min(limit, self.caps.get((product.account.credential, product.price.model), limit))
        return None if limit == MODEL_TOKENS_MAX else limit


class Reserver:
    """Places holds for the requests of one process."""

    def __init__(self, lane: Lane, allowances: Allowances, *, wait_seconds: float) -> None:
        self._lane = lane
        self._allowances = allowances
        self._wait_seconds = wait_seconds
        self._queues = WalletQueues()
        self.freed = Freed()
        self.refusals = LimitRefusals()

    async def reserve(self, exchange: Exchange, caller: Caller, feature: Feature, chosen: Chosen, ask: ChatAsk) -> Held:
        """Hold the ceiling of whichever product answers; of a short wallet only that of the first choice.

        It is held on what there is of a free quota where all of it fits there, else on the wallet. A free quota never
        pays where a developer's key may answer: whoever runs that upstream could write bills for the platform's gift.
        Raises Refusal `insufficient_balance`, `budget_exceeded`, `disabled`, `unavailable`, and `invalid_request`
        where a fixed price does not pay for the request.
        """
        bid = _Bid(exchange, caller, feature, chosen, ask)
        if feature.plan.fixed_price_e8 is not None:
            await bid.fit_to_price(feature.plan.fixed_price_e8)
        if feature.plan.free_quota_e8 and all([p.payer is not Payer.DEVELOPER for p in bid.products]):
            allowance = await self._allowances.find(feature, caller)
            if allowance is not None:
                bid.wallet_id = allowance
                answer = await self._try(bid)
                if answer.status == ledger_lane.DONE:
                    return self._granted(bid, answer)
                bid.wallet_id = caller.wallet_id
        if not self._queues.is_busy(caller.wallet_id):
            answer = await self._try(bid)
            if answer.status == ledger_lane.DONE:
                return self._granted(bid, answer)
            _refuse_unless_short(answer)
        bid.drop_dearer()
        return await self._wait_in_line(bid)

    async def _wait_in_line(self, bid: _Bid) -> Held:
        wallet_id = bid.caller.wallet_id
        deadline = time.monotonic() + self._wait_seconds
        await bid.count_input()
        place = self._queues.join(wallet_id)
        if place is None:
            raise Refusal("insufficient_balance", "too many requests wait for this wallet")
        try:
            try:
                async with asyncio.timeout(self._wait_seconds):
                    await place
            except TimeoutError:
                pass  # one last try below, out of turn: waiting longer helps nobody
            return await self._first_in_line(bid, deadline)
        finally:
            self._queues.leave(wallet_id, place)

    async def _first_in_line(self, bid: _Bid, deadline: float) -> Held:
        while True:
            answer = await self._try(bid)
            if answer.status == ledger_lane.DONE:
                return self._granted(bid, answer)
            _refuse_unless_short(answer)
            left = deadline - time.monotonic()
            if answer.busy_e8 > 0 and left > 0 and not bid.exchange.gone:
                await self.freed.wait(bid.caller.wallet_id, left)
                continue
            room_e8 = answer.room_e8 - answer.busy_e8
            if bid.shrink_to(room_e8) or bid.keep_within(room_e8):
                continue
            if answer.status == ledger_lane.BUDGET:
                self.refusals.note(bid.caller, bid.feature, bid.amount_e8)
            raise _short(answer, bid)

    def _granted(self, bid: _Bid, answer: HoldAnswer) -> Held:
        """The hold, without the products whose keys' budgets had no room. Raises Refusal `budget_exceeded`."""
        held = bid.held(answer.spent)
        if not held.products:
            moves.release(self._lane, bid.exchange.hold_id, "budget_exceeded")
            raise _spent()
        return held

    async def _try(self, bid: _Bid) -> HoldAnswer:
        try:
            return await moves.hold(self._lane, bid.item())
        except LedgerUnavailable as error:
            raise Refusal(
                "unavailable", "the ledger can't be reached; nothing was charged", retry_after_seconds=1
            ) from error


class _Bid:
    """What one request asks the ledger for; gets smaller as more is known."""

    __slots__ = (
        "_input_counted",
        "amount_e8",
        "ask",
        "budgets",
        "caller",
        "caps",
        "exchange",
        "feature",
        "input_tokens",
        "output_limit",
        "passed_over",
        "products",
        "wallet_id",
    )

    def __init__(self, exchange: Exchange, caller: Caller, feature: Feature, chosen: Chosen, ask: ChatAsk) -> None:
        self.exchange = exchange
        self.caller = caller
        self.feature = feature
        self.products: Sequence[Product] = chosen.products
        self.passed_over: Sequence[PassedOver] = chosen.passed_over
        self.ask = ask
        self.wallet_id = caller.wallet_id
        price = self.products[0].price
        most = price.max_output_tokens
        if feature.max_output_tokens is not None:
            most = min(most, feature.max_output_tokens)
        if ask.max_tokens is not None:
            if ask.max_tokens > max(price.context_window, price.max_output_tokens):
                field = ask.max_tokens_field or "max_tokens"
                raise field_error(field, f"{price.model} answers with at most {price.max_output_tokens} tokens")
            most = min(most, ask.max_tokens)
        self.output_limit = most
        self.input_tokens: int | None = None
        self._input_counted: int | None = None
        self.caps: dict[tuple[UUID | None, str], int] = {}
        self.budgets: tuple[tuple[UUID, int], ...] = ()
        for product in self.products:
            if product.account.budget_left_e8 is not None:
                self._fit_budgets()
                break
        self.amount_e8 = self._ceiling()

    def held(self, spent: frozenset[UUID]) -> Held:
        """The hold that was granted."""
        products = self.products
        passed = self.passed_over
        if spent:
            products, more = over_budget(list(products), spent)
            passed = [*passed, *more]
        return Held(
            self.amount_e8,
            self.output_limit,
            self.input_tokens,
            products,
            self.wallet_id,
            passed,
            self.caps,
            bool(self.budgets),
        )

    def drop_dearer(self) -> None:
        """Do without the fallbacks that could cost more than the first choice."""
        if len(self.products) > 1:
            self._keep(self._ceiling_of(self.products[0]))

    def keep_within(self, room_e8: int) -> bool:
        """Do without what could cost more than there is; False where that leaves all or nothing."""
        if not any(self._ceiling_of(product) <= room_e8 for product in self.products):
            return False
        return self._keep(room_e8)

    def _keep(self, most_e8: int) -> bool:
        kept = [product for product in self.products if self._ceiling_of(product) <= most_e8]
        if len(kept) == len(self.products):
            return False
        self._keep_only(kept)
        return True

    def _keep_only(self, kept: list[Product]) -> None:
        self.passed_over = [
            *self.passed_over,
            *(
                PassedOver(product.payer, Why.TOO_DEAR, product.provider.name, product.price.model)
                for product in self.products
                if product not in kept
            ),
        ]
        self.products = kept
        self.amount_e8 = self._ceiling()

    def _fit_budgets(self) -> None:
        """Shorten answers to what keys' budgets pay for, or do without those keys. Raises Refusal `budget_exceeded`.

        What is left of a budget is as old as what is known of the key; the ledger has the last word.
        """
        most: dict[UUID, int] = {}
        spent = set()
        for product in self.products:
            left_e8, credential = product.account.budget_left_e8, product.account.credential
            if left_e8 is None or credential is None:
                continue
            price, ask = product.price, self.ask
            limit = min(self.output_limit, price.max_output_tokens)
            bound = self._input_bound(product)
            paid, least = limit, 0
            if self._cost_e8(product, bound, limit) > left_e8:
                paid, least = 0, SMALLEST_ANSWER_TOKENS
            if least and self.feature.fit_to_wallet and not ask.extra_output_bytes and left_e8 > 0:
                paid = afford_output_tokens(
                    price, AT_COST, Payer.PLATFORM, input_tokens=bound, n=ask.n, budget_e8=left_e8
                )
                paid = min(paid, limit)
            if paid < least:
                spent.add(credential)
                continue
            if paid < limit:
                self.caps[(credential, price.model)] = paid
            most[credential] = max(most.get(credential, 0), self._cost_e8(product, bound, paid))
        if spent:
            self.products, more = over_budget(list(self.products), frozenset(spent))
            self.passed_over = [*self.passed_over, *more]
            if not self.products:
                raise _spent()
        self.budgets = tuple((credential, e8) for credential, e8 in most.items() if credential not in spent)

    def _cost_e8(self, product: Product, input_tokens: int, output_tokens: int) -> int:
        """The most that an answer can cost whoever pays the provider."""
        return ceiling_e8(
            product.price,
            AT_COST,
            Payer.PLATFORM,
            input_tokens_max=input_tokens,
            output_tokens_max=output_tokens + self.ask.extra_output_bytes,
            n=self.ask.n,
        )

    def _ceiling(self) -> int:
        products = self.products
        if len(products) == 1:
            return self._ceiling_of(products[0])
        return max(self._ceiling_of(product) for product in products)

    def _ceiling_of(self, product: Product) -> int:
        return ceiling_e8(
            product.price,
            self.feature.plan,
            product.payer,
            input_tokens_max=self._input_bound(product),
            output_tokens_max=min(self.output_limit, product.price.max_output_tokens) + self.ask.extra_output_bytes,
            n=self.ask.n,
        )

    def _input_bound(self, product: Product) -> int:
        ask = self.ask
        bound = input_bound_tokens(ask.body_bytes, ask.images, ask.opaque_parts, product.price)
        # What was counted with the first choice's tokenizer bounds only those that share it.
        if self._input_counted is None or product.price.tokenizer != self.products[0].price.tokenizer:
            return bound
        return min(bound, self._input_counted)

    def item(self) -> HoldItem:
        caller = self.caller
        return HoldItem(
            self.exchange.hold_id,
            self.wallet_id,
            self.amount_e8,
            caller.developer_id,
            caller.app_id,
            self.feature.id,
            caller.end_user_id,
            caller.session_id,
            self.exchange.client_request_id,
            self.budgets,
        )

    async def count_input(self) -> None:
        """Replace the byte bound by a count, where everything in the prompt can be counted."""
        tokenizer = self.products[0].price.tokenizer
        if self.input_tokens is not None or self.ask.images or self.ask.opaque_parts or tokenizer not in TOKENIZERS:
            return
        counted, thought = await asyncio.to_thread(self._counts, tokenizer)
        self.input_tokens = counted
        if not any(takes_thoughts(product.provider) for product in self.products):
            thought = 0
        margin = 0 if tokenizer in EXACT_TOKENIZERS else (counted + thought) // 20 + 16
        self._input_counted = counted + thought + margin
        self.amount_e8 = self._ceiling()

    def _counts(self, tokenizer: str) -> tuple[int, int]:
        """The tokens of what everybody is sent, and of the thinking that only some get back."""
        asked = msgspec.json.decode(self.ask.body)
        thoughts = [block for message in asked.get("messages", ()) for block in thoughts_of(message)]
        text = msgspec.json.encode(thoughts).decode() if thoughts else ""
        return count_input(asked, tokenizer), count_text(text, tokenizer)

    async def fit_to_price(self, price_e8: int) -> None:
        """Shorten the answer to what a fixed price pays for, so that nobody sells below cost. Raises Refusal.

        Whose own key answers pays the fee instead, whatever the price is.
        """
        if not self._is_sold_above(price_e8):
            return
        self.drop_dearer()
        if not self._is_sold_above(price_e8) or self.shrink_to(price_e8):
            return
        await self.count_input()
        if self._is_sold_above(price_e8) and not self.shrink_to(price_e8):
            own = [product for product in self.products if product.payer is Payer.BYOK]
            if own:
                self._keep_only(own)
                return
            field = self.ask.max_tokens_field or "messages"
            raise field_error(field, "this feature's fixed price does not pay for a request of this size")

    def _is_sold_above(self, price_e8: int) -> bool:
        """Whether an answer that we or the developer pay for could cost more."""
        sold = [product for product in self.products if product.payer is not Payer.BYOK]
        return any(self._ceiling_of(product) > price_e8 for product in sold)

    def shrink_to(self, room_e8: int) -> bool:
        """Shrink the output limit to what `room_e8` pays for; False where that is too little or not allowed."""
        if not self.feature.fit_to_wallet or self.ask.extra_output_bytes or room_e8 <= 0:
            return False
        affordable = min(
            afford_output_tokens(
                product.price,
                self.feature.plan,
                product.payer,
                input_tokens=self._input_bound(product),
                n=self.ask.n,
                budget_e8=room_e8,
            )
            for product in self.products
        )
        if affordable >= self.output_limit or affordable < SMALLEST_ANSWER_TOKENS:
            return False
        self.output_limit = affordable
        self.amount_e8 = self._ceiling()
        return True


def _refuse_unless_short(answer: HoldAnswer) -> None:
    """Only a shortage can pass by waiting; everything else is final."""
    if answer.status in (ledger_lane.INSUFFICIENT, ledger_lane.BUDGET):
        return
    if answer.status == ledger_lane.FROZEN:
        raise Refusal("disabled", "this wallet is frozen until an operator has looked at it")
    if answer.status in (ledger_lane.RESOLVED, ledger_lane.CONFLICT):
        raise Refusal("conflict", "this request id was used before")
    raise Refusal("invalid_session", "the session's wallet can't be used")


def _spent() -> Refusal:
    return Refusal("budget_exceeded", "the budget of the provider key leaves too little for this request")


def _short(answer: HoldAnswer, bid: _Bid) -> Refusal:
    available = max(0, answer.room_e8 - answer.busy_e8)
    details = {"required_usd": to_wire(bid.amount_e8), "available_usd": to_wire(available)}
    if answer.status == ledger_lane.BUDGET:
        return Refusal("budget_exceeded", "a spend limit leaves too little for this request", details=details)
    return Refusal(
        "insufficient_balance",
        f"the wallet has {to_wire(available)} USD available; this request may cost {to_wire(bid.amount_e8)} USD",
        details=details,
    )
