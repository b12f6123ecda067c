"""The smoke test's part about routes: each of the four, as JSON and as a stream, and who paid what for it.

The mock provider takes keys of end users and developers too, so every route is tried without a real one. What it makes
it takes away again: keys are deleted at the end. Not here: what one answer must look like (`smoke`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from faucet.cli.client import Client, Message, Note, signed_e8, usd
from faucet.kit.errors import FaucetError
from faucet.tenants.demo import EXTERNAL_USER_ID, FEATURE_KEY, PUBLIC_APP_ID

MESSAGES: list[Message] = [{"role": "user", "content": "Where is my parcel? Answer in 20 words."}]
MODEL = "mock-small"
WHO_PAID = {
    "platform": "the platform",
    "developer_key": "the developer",
    "byok": "the end user",
    "local": "nobody: their own machine",
}


class WrongRoute(FaucetError):
    """An answer went another way than it was asked for, or somebody paid something else than they had to."""


@dataclass(frozen=True, slots=True)
class Line:
    """One answer: who paid the provider, and what moved here, in e8."""

    mode: str
    how: str
    user_e8: int
    developer_e8: int
    platform_e8: int


@dataclass(slots=True)
class Routes:
    """One run over all routes."""

    client: Client
    operator: str
    earned_e8: Callable[[], int]
    """All that developers have ever earned."""
    expected: Callable[[Note], tuple[int, int, int]]
    """Cost, margin and share of an answer, by the list of prices."""
    lines: list[Line] = field(default_factory=list)
    _keys: list[tuple[str, str]] = field(default_factory=list)

    def run(self) -> str:
        """Try every route. Raises WrongRoute, and what the calls raise."""
        token = self.client.session(PUBLIC_APP_ID, EXTERNAL_USER_ID, FEATURE_KEY).token
        name = f"smoke-{secrets.token_hex(6)}"
        own = self.client.session(PUBLIC_APP_ID, name, FEATURE_KEY).token
        try:
            self._answers(token, "platform")
            self._add_key(
                f"{self.client.api}/v1/developer/provider-keys", self.operator, {"public_app_id": PUBLIC_APP_ID}
            )
            self._answers(token, "developer_key")
            self._add_key(f"{self.client.api}/v1/user/provider-keys", own, {})
            again = self.client.session(PUBLIC_APP_ID, name, FEATURE_KEY)
            if "byok" not in again.modes:
                raise WrongRoute(f"a session whose user has a key offers {again.modes}")
            self._answers(own, "byok")
            self._reports(own)
        finally:
            for address, bearer in self._keys:
                self.client.call("DELETE", address, bearer)
        return f"{len(self.lines)} answers, by {len({line.mode for line in self.lines})} routes"

    def _add_key(self, address: str, bearer: str, more: Mapping[str, Any]) -> None:
        body = {"provider": "mock", "api_key": f"sk-smoke{secrets.token_hex(12)}", **more}
        made = self.client.call("POST", address, bearer, body)
        self._keys.append((f"{address}/{made['id']}", bearer))

    def _answers(self, token: str, mode: str) -> None:
        """One answer as JSON and one as a stream, both by this route."""
        wish = {"route_mode": mode}
        for how in ("JSON", "stream"):
            before, earned = self.client.wallet(token).balance_e8, self.earned_e8()
            if how == "JSON":
                got, note = self.client.chat(token, MESSAGES, MODEL, metadata=wish)
                taken = got["modelfaucet"]["route_mode"]
            else:
                with self.client.stream(token, MESSAGES, MODEL, metadata=wish) as streaming:
                    "".join(streaming)
                if streaming.note is None:
                    raise WrongRoute(f"{mode}: no usage event came")
                note, taken = streaming.note, streaming.note.route_mode
            _must(taken == mode, f"asked for {mode}, {taken} answered")
            paid = before - self.client.wallet(token).balance_e8
            self._judge(mode, how, note, paid, self.earned_e8() - earned)

    def _judge(self, mode: str, how: str, note: Note, paid_e8: int, earned_e8: int) -> None:
        cost, margin, channel = self.expected(note)
        due = 0 if mode == "byok" else cost + margin
        share = {"platform": channel, "developer_key": cost + channel, "byok": 0}[mode]
        _must(paid_e8 == note.price_e8 == due, f"{mode} {how}: the wallet paid {paid_e8}, due were {due} (in e8)")
        _must(earned_e8 == share, f"{mode} {how}: the developer earned {earned_e8}, due were {share} (in e8)")
        line = self._newest()
        _must(line["route_mode"] == mode, f"usage says {line['route_mode']} instead of {mode}")
        self.lines.append(Line(mode, how, paid_e8, earned_e8, paid_e8 - earned_e8))

    def _reports(self, token: str) -> None:
        """Two answers of a local model, as a bridge reports them, one of them twice."""
        before = self.client.wallet(token).balance_e8
        for how in ("JSON", "stream"):
            report = {
                "request_id": f"smoke-{secrets.token_hex(8)}",
                "feature_key": FEATURE_KEY,
                "provider": "ollama",
                "model": "qwen2.5:7b",
                "input_tokens": 12,
                "output_tokens": 20,
                "created_at": datetime.now(UTC).isoformat(),
            }
            for wanted in ("noted", "known"):
                address = f"{self.client.api}/v1/local/usage-reports"
                got = self.client.call("POST", address, token, {"reports": [report]})["items"][0]["status"]
                _must(got == wanted, f"a report was {got} instead of {wanted}")
            line = self._newest()
            _must((line["route_mode"], line["request_id"]) == ("local", report["request_id"]), f"usage says {line}")
            paid = before - self.client.wallet(token).balance_e8
            _must(paid == 0 == signed_e8(line["retail_price_usd"]), f"a local answer cost {paid}")
            self.lines.append(Line("local", how, 0, 0, 0))

    def _newest(self) -> dict[str, Any]:
        address = f"{self.client.api}/v1/apps/{PUBLIC_APP_ID}/usage"
        newest: dict[str, Any] = self.client.call("GET", address, self.operator)["usage"][0]
        return newest

    def table(self) -> Table:
        """Who paid what."""
        table = Table(box=None, pad_edge=False)
        for heading in ("route", "", "the provider was paid by", "end user paid", "developer earned", "platform got"):
            table.add_column(
                heading, no_wrap=True, justify="right" if heading.endswith(("paid", "earned", "got")) else "left"
            )
        for line in self.lines:
            amounts = (usd(line.user_e8), usd(line.developer_e8), usd(line.platform_e8))
            table.add_row(line.mode, line.how, WHO_PAID[line.mode], *amounts)
        return table


def _must(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise WrongRoute(otherwise)
