"""A conversation with the running stack: as an end user of an app, with the cost of every answer.

Not here: the wire (`client`), how texts are written (`terminal`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from faucet.cli.client import Client, Message, Note, Refused, Session, Unreachable, usd
from faucet.cli.terminal import Writer, console
from faucet.kit.errors import FaucetError
from faucet.stack.settings import data_dir, operator_token
from faucet.stack.supervisor import API_PORT, read_record

COMMANDS = """\
/model [NAME]   which model answers; without a name, which there are
/balance        what is left in the wallet
/topup USD      give the wallet test credits
/new            forget what was said
/quit           end (Ctrl-D does, too); Ctrl-C cuts an answer short"""
_AGAIN = ("expired_session", "invalid_session")
_OUT_OF_MONEY = ("insufficient_balance", "budget_exceeded")


@dataclass(slots=True)
class Talk:
    """One conversation."""

    client: Client
    data: Path | None
    app_id: str
    external_user_id: str
    model: str
    session: Session
    follow_gateway: bool
    """The gateway is the one that a session names."""
    history: list[Message] = field(default_factory=list)

    def mint(self) -> None:
        """Get a new session. Raises Unreachable, Refused."""
        self.session = self.client.session(self.app_id, self.external_user_id)
        if self.follow_gateway:
            self.client.gateway = self.session.gateway_base_url.removesuffix("/v1")

    def ask(self, text: str, writer: Writer) -> Note | None:
        """Ask, and write the answer as it comes; None where it was cut short. Raises Unreachable, Refused."""
        self.history.append({"role": "user", "content": text})
        said: list[str] = []
        note = None
        try:
            with self.client.stream(self.session.token, self.history, self.model) as streaming:
                for part in streaming:
                    said.append(part)
                    writer.write(part)
            note = streaming.note
        except KeyboardInterrupt:
            pass
        except FaucetError:
            if not said:
                self.history.pop()
                raise
            writer.end()
            self.history.append({"role": "assistant", "content": "".join(said)})
            raise
        writer.end()
        self.history.append({"role": "assistant", "content": "".join(said) or "…"})
        return note


def run_chat(
    message: str | None,
    data: Path | None,
    api: str | None,
    gateway: str | None,
    app_id: str,
    external_user_id: str,
    model: str,
) -> int:
    """Hold a conversation, or answer one message, and give back the exit code."""
    record = (read_record(data_dir(data)) or {}) if api is None else {}
    api = (api or str(record.get("api", f"http://127.0.0.1:{API_PORT}"))).rstrip("/")
    address = (gateway or "").rstrip("/").removesuffix("/v1")
    with Client(api, address) as client:
        try:
            session = client.session(app_id, external_user_id)
        except Unreachable as error:
            raise FaucetError(f"{error}: is the stack up? `faucet up` or `faucet demo` starts one") from None
        if not address:
            client.gateway = session.gateway_base_url.removesuffix("/v1")
        talk = Talk(client, data, app_id, external_user_id, model, session, follow_gateway=not address)
        if message is not None or not sys.stdin.isatty():
            return _answer_once(talk, sys.stdin.read() if message is None else message)
        return _converse(talk)


def _answer_once(talk: Talk, text: str) -> int:
    """One message, one answer on standard output; what it cost on standard error."""
    if not text.strip():
        raise FaucetError("there is nothing to ask: standard input is empty")
    out = console()
    # Where nobody looks, the text is for a program: as it is, in one piece.
    writer = Writer(out) if out.is_terminal else Writer(out, width=1 << 30)
    try:
        note = talk.ask(text.strip(), writer)
    except Refused as error:
        raise FaucetError(_explain(talk, error)) from None
    if note is None:
        return 130
    console(stderr=True).print(_cost(note))
    return 0


def _converse(talk: Talk) -> int:
    import readline  # noqa: F401 - gives input() its line editing and history

    out = console()
    out.print(Text(f"You are {talk.external_user_id} of {talk.app_id}; {usd(talk.session.balance_e8)} left."))
    out.print(Text("/help shows what you can do here.", style="dim"))
    while True:
        out.print()
        try:
            text = input("› ").strip()
        except EOFError:
            return 0
        except KeyboardInterrupt:
            out.print()
            out.print(Text("/quit or Ctrl-D ends.", style="dim"))
            continue
        if text in ("/quit", "/exit", "/q"):
            return 0
        try:
            if text.startswith("/"):
                _obey(talk, out, text)
            elif text:
                _answer(talk, out, text)
        except Refused as error:
            out.print(Text(_explain(talk, error), style="red"))
        except Unreachable as error:
            out.print(Text(f"{error}. Is the stack still up?", style="red"))


def _answer(talk: Talk, out: Console, text: str) -> None:
    out.print()
    try:
        note = talk.ask(text, Writer(out, "  "))
    except Refused as error:
        if error.code not in _AGAIN:
            raise
        talk.mint()
        note = talk.ask(text, Writer(out, "  "))
    if note is not None:
        out.print(_cost(note))
        return
    left = talk.client.wallet(talk.session.token)
    out.print(Text(f"  Cut short; what was written is charged. {usd(left.balance_e8)} left.", style="dim"))


def _obey(talk: Talk, out: Console, text: str) -> None:
    """Do what a line that begins with a slash says. Raises Unreachable, Refused."""
    command, _, rest = text.partition(" ")
    rest = rest.strip()
    if command == "/balance":
        left = talk.client.wallet(talk.session.token)
        held = f", {usd(left.held_e8)} of it held for answers in flight" if left.held_e8 else ""
        out.print(f"{usd(left.balance_e8)}{held}")
    elif command == "/model" and rest:
        talk.model = rest
        out.print(f"{rest} answers from now on.")
    elif command in ("/model", "/models"):
        out.print(f"{talk.model} answers. There are auto, and at prices per million tokens, in and out:")
        for one in talk.client.models(talk.session.token):
            prices = " / ".join(_per_million(one["pricing"][kind]) for kind in ("prompt", "completion"))
            out.print(f"  {one['id']:<28} {prices}")
    elif command == "/topup":
        operator = operator_token(talk.data)
        if operator is None:
            out.print("That needs the operator's token: set ADMIN_TOKEN, or name the stack's data dir with --data.")
            return
        wallet = talk.client.wallet(talk.session.token)
        out.print(f"{usd(talk.client.credit(wallet.id, rest or '5.00', operator).balance_e8)} now.")
    elif command == "/new":
        talk.history.clear()
        out.print("Forgotten.")
    else:
        out.print(COMMANDS)


def _per_million(per_token: str) -> str:
    from decimal import Decimal

    return f"${(Decimal(per_token) * 1_000_000).normalize():f}"


def _cost(note: Note) -> Text:
    left = "" if note.balance_e8 is None else f" · {usd(note.balance_e8)} left"
    counted = " (counted)" if note.is_counted else ""
    return Text(
        f"  {usd(note.price_e8)} · {note.model} · {note.input_tokens} in, {note.output_tokens} out{counted}{left}",
        style="dim",
    )


def _explain(talk: Talk, error: Refused) -> str:
    if error.code not in _OUT_OF_MONEY:
        return str(error)
    try:
        left = f" ({usd(talk.client.wallet(talk.session.token).available_e8)} left)"
    except FaucetError:
        left = ""
    if error.code == "budget_exceeded":
        return f"A spend limit is used up{left.replace(' left', ' in the wallet')}; `faucet limits` changes it."
    return f"The wallet is empty{left}. `/topup 5` in `faucet chat` gives it test credits."
