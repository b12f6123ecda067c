"""The demo: a stack is started, one question is answered, and the terminal shows where its money went.

Every figure comes from the running processes or from the books; nothing here is worked out for show. Not here: how
a stack is run (`stack`), what it is filled with (`stack.seed`, `tenants.demo`).
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from faucet.cli.client import Client, Message, Note, Refused, Session, WalletView, usd
from faucet.cli.terminal import Progress, Writer, console, progress
from faucet.kit.errors import FaucetError
from faucet.stack.database import office
from faucet.stack.receipt import Receipt, receipt_of
from faucet.stack.settings import data_dir
from faucet.stack.supervisor import Stack, Wish, run_stack
from faucet.tenants.demo import EXTERNAL_USER_ID, FEATURE_KEY, PUBLIC_APP_ID

QUESTION = (
    "Hello, I ordered a walnut desk on the 3rd (order 48210). It was promised for last Friday and has still not"
    " arrived. My new office opens on Monday. Can you tell me where it is, and what you can do?"
)
MESSAGES: list[Message] = [
    {
        "role": "system",
        "content": "You answer customers of a furniture maker: warm, concrete, at most 90 words, no placeholders.",
    },
    {"role": "user", "content": QUESTION},
]
MODEL = f"auto:{FEATURE_KEY}"
MAX_TOKENS = 400
MARGIN = "   "
MOCK_PACE = {"tokens": 72, "chunk_delay_ms": 60}
"""The mock's own field: how long its answer is, and a pace at which a person can read it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What one question gave."""

    session: Session
    before: WalletView
    after: WalletView
    note: Note
    seconds: float
    first_text_seconds: float


def run_demo(wish: Wish, *, once: bool) -> int:
    """Run the demo and give back its exit code. Raises what a stack's start raises."""
    out = console()
    began = time.monotonic()
    with progress() as shown:

        async def work(stack: Stack) -> int:
            shown.done()
            _head(out, stack, time.monotonic() - began)
            is_exact = await _show(out, stack, shown)
            if not is_exact or once:
                return 0 if is_exact else 1
            _invite(out, stack)
            await asyncio.Event().wait()
            return 0

        return asyncio.run(run_stack(Stack(wish, shown), work))


async def _show(out: Console, stack: Stack, shown: Progress) -> bool:
    """The show; whether all of it added up. What a server refuses ends it with the reason."""
    addresses = stack.addresses
    with Client(addresses.api, addresses.gateway) as client:
        try:
            answered = await asyncio.to_thread(_ask, out, client, stack)
        except Refused as refused:
            if stack.real is None or refused.code != "provider_error":
                raise
            raise FaucetError(f"{refused}: check the key, the address and the models of {stack.real.name}") from None
        async with office(stack.dsn) as tx:
            receipt = await receipt_of(tx, answered.note.request_id)
        is_exact = _split(out, receipt) & _wallet(out, answered, receipt)
        operator = stack.config.admin_token.reveal()
        shown.step("Comparing the books")
        books = await asyncio.to_thread(client.call, "GET", f"{addresses.api}/v1/admin/reconciliation/ledger", operator)
        shown.done()
        return _books(out, books) & is_exact


def _head(out: Console, stack: Stack, seconds: float) -> None:
    out.print()
    out.print(Text("ModelFaucet", style="bold"))
    out.print(Text(f"Database, API, gateway, jobs and mock provider are up after {seconds:.1f} s.", style="dim"))
    if stack.real is not None:
        out.print(f"Answers come from your own provider: {stack.real.name} at {stack.real.address}.")
    else:
        out.print(
            Text("Answers come from the mock provider; set OPENAI_API_KEY to use a real one.", style="dim"),
        )


def _title(out: Console, number: int, title: str, aside: str = "") -> None:
    out.print()
    out.print(Text.assemble((f"{number}  {title}", "bold"), (f"   {aside}" if aside else "", "dim")))


def _ask(out: Console, client: Client, stack: Stack) -> Answered:
    """Mint a session, ask, and write the answer as it arrives. Raises Unreachable, Refused, FaucetError."""
    _title(out, 1, "A session", "POST /v1/sessions")
    session = client.session(PUBLIC_APP_ID, EXTERNAL_USER_ID, FEATURE_KEY)
    before = client.wallet(session.token)
    out.print(f"{MARGIN}{EXTERNAL_USER_ID}, an end user of {PUBLIC_APP_ID}, has {usd(before.balance_e8)} of credits")
    out.print(f"{MARGIN}and a token for {session.expires_in // 60} minutes: {session.token[:14]}…")

    model = stack.real.model if stack.real is not None and stack.real.model != "auto" else MODEL
    _title(out, 2, "A question, and an answer as it is written", f"POST /v1/chat/completions, model {model}")
    question = Writer(out, f"{MARGIN}> ")
    question.write(QUESTION)
    question.end()
    out.print()
    more: dict[str, Any] = {"max_tokens": MAX_TOKENS}
    if stack.real is None:
        more["mock"] = MOCK_PACE
    answer = Writer(out, MARGIN)
    began = time.monotonic()
    first = 0.0
    with client.stream(session.token, MESSAGES, model, **more) as streaming:
        for text in streaming:
            first = first or time.monotonic() - began
            answer.write(text)
    answer.end()
    if streaming.note is None:
        raise FaucetError("the stream ended without saying what it cost")
    after = client.wallet(session.token)
    return Answered(session, before, after, streaming.note, time.monotonic() - began, first)


def _split(out: Console, receipt: Receipt) -> bool:
    """The four-way split of what the user paid, from the books; whether its parts are the whole."""
    _title(out, 3, "What it cost, and who got what", f"{receipt.transfers} transfers in the ledger")
    source = "counted here" if receipt.is_counted else "as the provider reported"
    prices = f"{usd(receipt.input_e8_per_m)} and {usd(receipt.output_e8_per_m)} per million tokens"
    out.print(f"{MARGIN}{receipt.input_tokens} tokens in, {receipt.output_tokens} out, {source}")
    out.print(f"{MARGIN}{receipt.model} of {receipt.provider}: {prices}")
    out.print()
    parts = (
        ("the provider's cost", receipt.cost_e8),
        ("the developer's share", receipt.channel_e8),
        ("the platform's share", receipt.platform_e8),
    )
    together = sum(amount for _, amount in parts)
    _amount(out, "the user paid", receipt.retail_e8, bold=True)
    for name, amount in parts:
        _amount(out, f"  {name}", amount)
    is_exact = together == receipt.retail_e8
    _amount(out, "  together", together, check=is_exact)
    return is_exact


def _amount(out: Console, name: str, e8: int, *, bold: bool = False, check: bool | None = None) -> None:
    line = Text(MARGIN)
    line.append(f"{name:<26}")
    line.append(f"{eight(e8):>16}", style="bold" if bold else "")
    if check is not None:
        line.append("  ✓ to the last digit" if check else "  ✗ differs", style="green" if check else "bold red")
    out.print(line)


def eight(e8: int) -> str:
    """An amount with all its eight places, so that columns line up."""
    whole, _, places = usd(e8).partition(".")
    return f"{whole}.{places.ljust(8, '0')}"


def _wallet(out: Console, answered: Answered, receipt: Receipt) -> bool:
    _title(out, 4, "The wallet", "GET /v1/user/wallet")
    paid = answered.before.balance_e8 - answered.after.balance_e8
    is_exact = paid == receipt.retail_e8 == answered.note.price_e8
    _amount(out, "before", answered.before.balance_e8)
    _amount(out, "after", answered.after.balance_e8)
    _amount(out, "difference", paid, check=is_exact)
    return is_exact


def _books(out: Console, books: dict[str, Any]) -> bool:
    _title(out, 5, "The books", "GET /v1/admin/reconciliation/ledger")
    summary, findings = books["summary"], books.get("findings", [])
    is_clean = summary["mismatch_count"] == 0 and not findings
    told = f"{summary['balanced_count']} of {summary['wallet_count']} balances equal the sum of their transfers"
    if is_clean:
        out.print(Text.assemble(MARGIN, ("✓ ", "green"), f"{told}; nothing is missing, nothing is left over"))
    else:
        out.print(Text.assemble(MARGIN, ("✗ ", "bold red"), f"{told}; {len(findings)} differences: {findings[:3]}"))
    return is_clean


def _invite(out: Console, stack: Stack) -> None:
    """Addresses, and lines to copy, with a session of their own."""
    addresses = stack.addresses
    with Client(addresses.api, addresses.gateway) as client:
        token = client.session(PUBLIC_APP_ID, EXTERNAL_USER_ID, FEATURE_KEY).token
    model = "auto" if stack.real is None else stack.real.model
    out.print()
    out.print(Text("Now you", style="bold"))
    for name, address in (("API", addresses.api), ("Gateway", f"{addresses.gateway}/v1"), ("Mock", addresses.mock)):
        out.print(Text.assemble(f"{MARGIN}{name:<9}", (address, "cyan")))
    _copy(out, "Talk to it, in another terminal:", _command(stack, "chat"))
    if addresses.stripe is not None:
        _copy(out, "Pay in, with a card of the Stripe double:", _command(stack, "top-ups open 10.00"))
    _copy(
        out,
        "With curl:",
        f"curl -N {addresses.gateway}/v1/chat/completions \\\n"
        f"  -H 'authorization: Bearer {token}' \\\n"
        "  -H 'content-type: application/json' \\\n"
        f'  -d \'{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"Where is my parcel?"}}]}}\'',
    )
    _copy(
        out,
        "With the official client of OpenAI (pip install openai), in Python:",
        "from openai import OpenAI\n"
        "client = OpenAI(\n"
        f'    base_url="{addresses.gateway}/v1",\n'
        f'    api_key="{token}",\n'
        ")\n"
        'ask = [{"role": "user", "content": "Where is my parcel?"}]\n'
        f'reply = client.chat.completions.create(model="{model}", messages=ask)\n'
        "print(reply.choices[0].message.content, reply.model_extra)",
    )
    out.print()
    out.print(Text("Ctrl-C stops everything.", style="dim"))


def _command(stack: Stack, name: str) -> str:
    """How a command is called about this stack, from the folder where the demo was."""
    program = Path(sys.executable).with_name("faucet")
    words = os.path.relpath(program) if program.exists() else f"{sys.executable} -m faucet"
    data = stack.config.faucet_data
    return f"{words} {name}" if data == data_dir(None) else f"{words} {name} --data {shlex.quote(str(data))}"


def _copy(out: Console, heading: str, lines: str) -> None:
    """Lines to copy: at the left edge, never wrapped."""
    out.print()
    out.print(Text(heading, style="dim"))
    for line in lines.splitlines():
        out.print(Text(line), soft_wrap=True)
