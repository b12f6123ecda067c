"""The story: a developer is onboarded on a fresh stack, from nothing to revenue, by commands that anybody can type.

Each step runs the real command as a process of its own and shows it; what one prints is what the next one needs. At
the end the wallet, the app's usage and the developer's revenue are compared with what the answer said it cost. Not
here: what the commands do, nor how a stack is run (`stack`).
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from faucet.cli.client import Client, Note, signed_e8, usd
from faucet.cli.terminal import console, progress
from faucet.kit.errors import FaucetError
from faucet.stack.supervisor import Stack, Wish, run_stack

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "onboarding"
MANIFEST, BACKEND = EXAMPLE / "reply.yaml", EXAMPLE / "backend.py"
EMAIL, APP, FEATURE = "dev@lindqvist.example", "app_support", "reply_to_customer"
CREDIT_USD = "5.00"
COMMAND_SECONDS = 60
SHOWN_CHARACTERS = 15
"""So much of a secret is shown, to tell one from another."""
INPUT = {"question": "I ordered a walnut desk three weeks ago. Where is it?", "order": "48210"}


class StoryBroke(FaucetError):
    """A step did not give what it must; the text says which, and what it said instead."""


@dataclass(slots=True)
class Story:
    """One telling."""

    api: str
    gateway: str
    data: Path
    out: Console
    secrets: list[str] = field(default_factory=list)
    """What is never shown in full."""
    chapter: int = 0

    def tell(self) -> bool:
        """All of it, in order; whether the figures agree. Raises StoryBroke, Unreachable, Refused."""
        self._chapter("The operator lets a developer in")
        self._faucet("developers", "create", "--name", "Lindqvist Furniture", "--email", EMAIL)
        made = self._faucet("tokens", "create", "--name", "onboarding", "--developer", EMAIL, hide="token")
        token = str(made["token"])

        self._chapter("The developer makes an app, and a feature from a manifest")
        self._faucet("apps", "create", APP, "--name", "Support desk", "--identity", "signed", token=token)
        self._show(MANIFEST)
        self._faucet("manifest", "validate", str(MANIFEST))
        self._faucet("manifest", "apply", str(MANIFEST), "--app", APP, token=token)

        self._chapter("The app's backend vouches for its user, and asks for a session")
        key = self._faucet("signing-keys", "create", APP, token=token, hide="secret")
        self._show(BACKEND)
        session = self._backend({"SIGNING_KEY_ID": str(key["item"]["key_id"]), "SIGNING_SECRET": str(key["secret"])})
        with Client(self.api, self.gateway) as client:
            wallet = client.wallet(session)
            self._say(f"The user's wallet has {usd(wallet.balance_e8)}; the operator gives it test credits.")
            self._faucet("wallets", "credit", wallet.id, CREDIT_USD)

            self._chapter("The user asks")
            note = self._ask(client, session)
            left = client.wallet(session)

        self._chapter("What it cost, and who earned")
        usage = self._faucet("apps", "usage", APP, token=token)
        owner = str(made["item"]["developer_id"])
        revenue = self._faucet("developers", "revenue", owner, token=token)
        books = self._faucet("reconcile")
        return self._agree(note, left.balance_e8, usage, revenue, books)

    def _agree(
        self, note: Note, left_e8: int, usage: Mapping[str, Any], revenue: Mapping[str, Any], books: Mapping[str, Any]
    ) -> bool:
        paid_e8 = signed_e8(CREDIT_USD) - left_e8
        earned_e8 = signed_e8(str(revenue["lifetime_revenue_usd"]))
        checks = {
            f"the user paid {usd(note.price_e8)}, which is what the answer said": paid_e8 == note.price_e8 > 0,
            f"the app's usage says {usage['total_retail_price_usd']}": (
                signed_e8(str(usage["total_retail_price_usd"])) == note.price_e8 and usage["total_calls"] == 1
            ),
            f"the developer earned {usd(earned_e8)} of it": (
                signed_e8(str(usage["total_developer_revenue_usd"])) == earned_e8 > 0
            ),
            "the books add up": not books["findings"],
        }
        self.out.print()
        for text, held in checks.items():
            self.out.print(Text("✓ ", style="green") if held else Text("✗ ", style="bold red"), Text(text), sep="")
        return all(checks.values())

    # ── steps ──

    def _faucet(self, *words: str, token: str | None = None, hide: str | None = None) -> dict[str, Any]:
        """What a command gives. `token` calls as the developer; what is under `hide` is shown in part."""
        env = {} if token is None else {"MODELFAUCET_TOKEN": token}
        shown = [each if each != str(MANIFEST) else MANIFEST.name for each in words]
        self._type(("MODELFAUCET_TOKEN=mf_dev_… " if token else "") + shlex.join(["faucet", *shown]))
        got = self._run([sys.executable, "-m", "faucet", *words, "--json"], env)
        if hide is not None:
            self.secrets.append(str(got[hide]))
        self._result(got)
        return got

    def _backend(self, key: Mapping[str, str]) -> str:
        self._type(f"SIGNING_KEY_ID=… SIGNING_SECRET=… python {BACKEND.name}")
        got = self._run([sys.executable, str(BACKEND)], {"FAUCET_API": self.api, **key})
        token = str(got["session_token"])
        self.secrets.append(token)
        self._result(got)
        return token

    def _run(self, command: list[str], more: Mapping[str, str]) -> dict[str, Any]:
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        env |= {"FAUCET_DATA": str(self.data), **more}
        done = subprocess.run(
            command, env=env, cwd=EXAMPLE.parents[1], capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
        try:
            got: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            got = {}
        if done.returncode != 0 or not got:
            raise StoryBroke(f"that step failed ({done.returncode}): {(done.stderr or done.stdout).strip()[:500]}")
        return got

    def _ask(self, client: Client, session: str) -> Note:
        self._type(f"POST {self.gateway}/v1/features/{FEATURE}/run  {json.dumps({'input': INPUT})}")
        got, note = client.run(session, FEATURE, INPUT)
        if "output" not in got:
            raise StoryBroke(f"the answer has not the shape that the manifest asks for: {got['text'][:200]}")
        self._result(got["output"])
        told = f"{usd(note.price_e8)} · {note.model} · {note.input_tokens} tokens in, {note.output_tokens} out"
        self.out.print(Text(f"  {told}", style="dim"))
        return note

    # ── what is shown ──

    def _chapter(self, title: str) -> None:
        self.chapter += 1
        self.out.print()
        self.out.print(Text(f"{self.chapter}. {title}", style="bold"))

    def _type(self, line: str) -> None:
        self.out.print()
        self.out.print(Text(f"$ {self._hidden(line)}", style="cyan"))

    def _say(self, text: str) -> None:
        self.out.print()
        self.out.print(Text(text))

    def _show(self, file: Path) -> None:
        self.out.print()
        self.out.print(Text(file.name, style="dim"))
        for line in file.read_text(encoding="utf-8").rstrip().splitlines():
            self.out.print(Text(f"  {line}", style="dim"))

    def _result(self, got: Mapping[str, Any]) -> None:
        for name, value in got.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            self.out.print(Text(f"  {name}: {self._hidden(text)[:160]}"))

    def _hidden(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, f"{secret[:SHOWN_CHARACTERS]}…")
        return text


def run_story(data: Path | None) -> int:
    """Tell the story on a stack of its own and give back the exit code. Raises what a stack's start raises."""
    if not EXAMPLE.is_dir():
        raise FaucetError("the story needs the folder `examples` of the project's checkout")
    if data is not None and data.exists() and any(data.iterdir()):
        raise FaucetError(f"the story begins with nothing, and {data} has something in it: name a new folder")
    if data is not None:
        return _tell(data)
    folder = Path(tempfile.mkdtemp(prefix="faucet-story-"))
    folder.chmod(0o711)  # as root, PostgreSQL's account has to pass through
    try:
        return _tell(folder / "data")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tell(data: Path) -> int:
    with progress() as shown:

        async def work(stack: Stack) -> int:
            shown.done()
            story = Story(stack.addresses.api, stack.addresses.gateway, data, console())
            return 0 if await asyncio.to_thread(story.tell) else 1

        wish = Wish(data=data, api_port=0, gateway_port=0, mock_port=0)
        return asyncio.run(run_stack(Stack(wish, shown), work))
