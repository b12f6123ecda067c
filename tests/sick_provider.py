"""What end users notice of a provider that falls sick and recovers: nothing.

    python -m tests.sick_provider [--seconds 20] [--percent 50]

Two providers sell the same model. The first, which is asked first, begins to fail a share of its requests and later
stops. Clients ask all the time. It is measured how soon traffic moves to the healthy one, how much still goes to the
sick one, how soon it returns, and how many clients saw an error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from gateway_world import Gateway, Mock, World, add_prices, ask, chat, wait_for

from faucet.kit.embedded_postgres import EmbeddedPostgres
from faucet.kit.migrate import migrate

CLIENTS = 6
MOVED_SECONDS = 2.0
FIRST, SECOND = "openai", "mock"
"""What the two mock providers are called."""


@dataclass(frozen=True)
class Answered:
    """One request: when it was answered, by whom, and with which status."""

    at: float
    provider: str
    status: int


@dataclass
class Report:
    """What was seen, in seconds and requests."""

    requests: int = 0
    errors: int = 0
    moved_seconds: float = 0.0
    sick_share: float = 0.0
    """Of the tries from two seconds after it fell sick, until it recovered: those that the sick one got."""
    returned_seconds: float = 0.0
    statuses: set[int] = field(default_factory=set)


class Crowd:
    """Clients that ask one after the other until they are told to stop."""

    def __init__(self, gateway: Gateway, bearers: list[str]) -> None:
        self.seen: list[Answered] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(gateway, bearer)) for bearer in bearers]

    def _ask(self, gateway: Gateway, bearer: str) -> None:
        body = chat(mock={"tokens": 3, "delay_ms": 5})
        while not self._over.is_set():
            reply = ask(gateway, bearer, body)
            provider = reply.json["modelfaucet"]["provider"] if reply.status == 200 else ""
            self.seen.append(Answered(time.monotonic(), provider, reply.status))

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def share(self, provider: str, since: float) -> float:
        """A provider's share of the answers since then; 0 where there are few."""
        recent = [one for one in self.seen if one.at >= since]
        return sum(one.provider == provider for one in recent) / len(recent) if len(recent) >= 20 else 0.0


def fall_sick(mock: Mock, percent: int) -> None:
    """Have a provider fail this share of its requests."""
    address = f"{mock.url.removesuffix('/v1')}/sick?percent={percent}"
    with urllib.request.urlopen(urllib.request.Request(address, method="POST"), timeout=10) as reply:
        assert reply.status == 200


def sell_twice(world: World) -> None:
    """The model has a price at the first provider, too."""
    world.books.rows(
        "insert into price (provider, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
        " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from, source,"
        " status) select %s, model, tokenizer, context_window, max_output_tokens, input_e8_per_m,"
        " cached_read_e8_per_m, cached_write_e8_per_m, output_e8_per_m, image_tokens_max, effective_from, source,"
        " status from price where provider = 'mock' and model = 'mock-small' on conflict do nothing",
        FIRST,
    )


def observe(world: World, folder: Path, *, percent: int, sick_seconds: float) -> Report:
    """Let a provider fall sick and recover under load."""
    sell_twice(world)
    first, second = Mock(folder), Mock(folder)
    gateway = Gateway(
        world.dsn,
        second.url,
        folder,
        OPENAI_API_KEY="sk-of-the-operator",
        OPENAI_BASE_URL=first.url,
        OPENAI_MODELS="mock-small",
    )
    report = Report()
    try:
        with Crowd(gateway, [world.end_user().bearer for _ in range(CLIENTS)]) as crowd:
            wait_for(lambda: crowd.share(FIRST, 0) == 1.0 and len(crowd.seen) >= 50)
            fell = time.monotonic()
            fall_sick(first, percent)
            wait_for(lambda: crowd.share(SECOND, time.monotonic() - 0.25) > 0.9, 10)
            report.moved_seconds = time.monotonic() - 0.25 - fell
            wait_for(lambda: time.monotonic() - fell >= MOVED_SECONDS, 10)
            asked, tries = len(crowd.seen), first.calls()
            wait_for(lambda: time.monotonic() - fell >= MOVED_SECONDS + sick_seconds, sick_seconds + 10)
            report.sick_share = (first.calls() - tries) / max(1, len(crowd.seen) - asked)
            recovered = time.monotonic()
            fall_sick(first, 0)
            wait_for(lambda: crowd.share(FIRST, time.monotonic() - 0.5) > 0.9, 60)
            report.returned_seconds = time.monotonic() - 0.5 - recovered
        report.requests = len(crowd.seen)
        report.statuses = {one.status for one in crowd.seen}
        report.errors = sum(one.status != 200 for one in crowd.seen)
    finally:
        for running in (gateway, first, second):
            running.stop()
    return report


def say(report: Report, percent: int, out: Callable[[str], None] = print) -> None:
    """The figures, for people."""
    out(f"requests                                     {report.requests}")
    out(f"errors that a client saw                     {report.errors}")
    out(f"seconds until 90 % went to the healthy one   {report.moved_seconds:.2f}")
    out(f"tries of the sick one ({percent} % errors) after 2 s  {report.sick_share:.2%} of requests")
    out(f"seconds until 90 % came back after recovery  {report.returned_seconds:.1f}")


def main() -> int:
    """Run it on a database of its own. The exit status says whether the promise held."""
    parser = argparse.ArgumentParser(prog="sick_provider", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long it is sick")
    parser.add_argument("--percent", type=int, default=50, help="the share of its requests that fail")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root, PostgreSQL's account has to pass through
        with EmbeddedPostgres(folder / "database") as database:
            migrate(database.dsn)
            add_prices(database.dsn)
            world = World(database.dsn)
            try:
                report = observe(world, folder, percent=options.percent, sick_seconds=options.seconds)
                world.books.assert_sound()
            finally:
                world.close()
    say(report, options.percent)
    return 0 if report.errors == 0 and report.moved_seconds <= MOVED_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
