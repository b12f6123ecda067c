"""A whole ModelFaucet on this machine: database, mock provider, API, gateways and jobs, started in order, watched,
started again when they die, and stopped in order. For development; in production each is run by itself.

    async with Stack(Wish(…), voice) as stack:
        print(stack.card())

Nothing of it outlives the process that holds the `Stack`. Not here: the processes themselves (`child`), ports
(`ports`), what the demo sells (`seed`), the terminal (`cli`).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx2

from faucet.kit.config import Config, ConfigRefused, load_config, make_data_dir
from faucet.kit.embedded_host import write_atomically
from faucet.kit.embedded_postgres import DatabaseUnavailable, EmbeddedPostgres, Running, default_data_dir
from faucet.kit.errors import FaucetError
from faucet.stack.child import Child, ChildFailed, last_lines
from faucet.stack.database import bring_up_to_date, checked
from faucet.stack.ports import KeptPort, keep_port
from faucet.stack.seed import RealProvider, seed_stack
from faucet.tenants.demo import EXTERNAL_USER_ID, FEATURE_KEY, PUBLIC_APP_ID

API_PORT, GATEWAY_PORT, MOCK_PORT, STRIPE_PORT = 3001, 3002, 4010, 4242
READY_SECONDS = 30.0
WATCH_SECONDS = 5.0
GRACE_SECONDS = 10.0
INTERRUPTED = 130
"""The exit code of a program that was interrupted before it had done its work."""
RECORD = "stack.json"
"""In the data dir: addresses and processes of the stack that runs there; no secrets."""
_LOCK = "stack.lock"
_MOCK_HOST = "127.0.0.1"
DOUBLE_KEY = "sk_test_double"
"""Any key of the test mode opens the Stripe double."""
DOUBLE_STATE = "stripe-double.json"
_FIRST = ("mock", "stripe")
"""What the others need to find."""
_GATEWAY_SECRETS = (
    "OPENAI_API_KEY",
    "LITELLM_MASTER_KEY",
    "KEK_LOCAL_KEY",
    "KEK_LOCAL_KEY_PREVIOUS",
    "KEK_TRANSIT_TOKEN",
)
_GATEWAY_ONLY = frozenset(f"{name}{end}" for name in _GATEWAY_SECRETS for end in ("", "_FILE"))
"""Only the process that calls providers gets their keys."""


class StackRefused(FaucetError):
    """The stack can't be started as wished; the text says why and what to do."""


class Voice(Protocol):
    """Who is told what goes on."""

    def step(self, text: str) -> None:
        """What is being done now."""

    def note(self, text: str) -> None:
        """What a person should know, for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked of a stack; what is not said comes from the environment, then from the defaults."""

    data: Path | None = None
    api_port: int | None = None
    gateway_port: int | None = None
    mock_port: int | None = None
    stripe_port: int | None = None
    gateway_workers: int = 1
    database_url: str | None = None


@dataclass(frozen=True, slots=True)
class Addresses:
    """Base addresses, without a slash at the end."""

    api: str
    gateway: str
    mock: str
    stripe: str | None
    """The Stripe double's; none where a key for Stripe itself is configured."""


@dataclass(slots=True)
class Stack:
    """One stack. Enter it to start it; when left, nothing of it runs any more."""

    wish: Wish
    voice: Voice
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    real: RealProvider | None = None
    config: Config = field(init=False)
    dsn: str = field(init=False)
    addresses: Addresses = field(init=False)
    was_ready: bool = False
    is_stopping: bool = False
    _running: Running | None = None
    _lock: int | None = None
    _ports: list[KeptPort] = field(default_factory=list)
    _children: dict[str, Child] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Stack:
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ── start ──

    async def _start(self) -> None:
        data = self._data_dir()
        self._claim(data)
        environment = self._settle_ports(data)
        self.voice.step("Starting the database")
        environment["DATABASE_URL"] = self.dsn = await self._start_database(data)
        self.config = load_config(environment)
        self.voice.step("Bringing the database up to date")
        await asyncio.to_thread(bring_up_to_date, self.dsn)
        self.voice.step("Making the demo's app, wallet and prices")
        self.real = await seed_stack(self.dsn, self.config, self.voice.note)
        logs = data / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        self._plan(environment, logs)
        for group in self._groups():
            self.voice.step(f"Starting {', '.join(child.name for child in group)}")
            await asyncio.gather(*(child.start() for child in group))
            self._tasks += [asyncio.create_task(child.keep(), name=f"keep-{child.name}") for child in group]
        self.voice.step("Waiting until all answer")
        await self._wait_until_ready()
        self._write_record()
        self.was_ready = True
        self._tasks.append(asyncio.create_task(self._watch(), name="watch"))

    def _data_dir(self) -> Path:
        if self.env.get("MODELFAUCET_ENV", "").strip() == "production":
            raise StackRefused(
                "a stack like this one is for development: in production run `faucet migrate`, then"
                " `faucet serve api`, `faucet serve gateway` and `faucet jobs` each by itself"
            )
        if self.wish.gateway_workers < 1:
            raise StackRefused("there must be at least one gateway")
        data = self.wish.data or Path(self.env.get("FAUCET_DATA") or default_data_dir())
        return Path(os.path.abspath(data.expanduser()))

    def _claim(self, data: Path) -> None:
        """Make this data dir ours alone. Raises StackRefused where another stack has it."""
        try:
            make_data_dir(data)
            self._lock = os.open(data / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StackRefused(
                f"the data dir {data} can't be used: {error.strerror}; name another with --data"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            record = read_record(data) or {}
            where = f" (process {record['pids']['supervisor']}, API at {record['api']})" if record else ""
            raise StackRefused(
                f"a stack already runs with the data in {data}{where}: stop it, or name another data dir with --data"
            ) from None
        (data / RECORD).unlink(missing_ok=True)

    def _settle_ports(self, data: Path) -> dict[str, str]:
        """Keep the ports and give back the environment that the processes get."""
        host = self.env.get("BIND_ADDRESS", "").strip() or "127.0.0.1"
        api = self._keep(host, self.wish.api_port, "PORT_API", API_PORT, "the API", "--api-port")
        gateway = self._keep(
            host, self.wish.gateway_port, "PORT_GATEWAY", GATEWAY_PORT, "the gateway", "--gateway-port"
        )
        mock = self._keep(_MOCK_HOST, self.wish.mock_port, "", MOCK_PORT, "the mock provider", "--mock-port")
        stripe = None
        if not any(self.env.get(f"STRIPE_SECRET_KEY{end}", "").strip() for end in ("", "_FILE")):
            wished = self.wish.stripe_port
            if wished is None and self.wish.mock_port == 0:
                wished = 0  # who wants free ports wants this one free too
            number = self._keep(_MOCK_HOST, wished, "", STRIPE_PORT, "the Stripe double", "--stripe-port")
            stripe = f"http://{_MOCK_HOST}:{number}"
        reached_at = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        self.addresses = Addresses(
            f"http://{reached_at}:{api}", f"http://{reached_at}:{gateway}", f"http://{_MOCK_HOST}:{mock}", stripe
        )
        environment = {name: value for name, value in self.env.items() if value.strip()}
        environment.setdefault("GATEWAY_BASE_URL", f"{self.addresses.gateway}/v1")
        environment.setdefault("WEBHOOK_LOOPBACK", "true")  # who tries webhooks here receives them here
        environment |= {
            "FAUCET_DATA": str(data),
            "PORT_API": str(api),
            "PORT_GATEWAY": str(gateway),
            "MOCK_PROVIDER_URL": f"{self.addresses.mock}/v1",
        }
        environment.pop("MOCK_PROVIDER_API_KEY", None)
        if stripe is not None:
            environment.pop("STRIPE_WEBHOOK_SECRET_FILE", None)
            environment |= {
                "STRIPE_SECRET_KEY": DOUBLE_KEY,
                "STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_urlsafe(24)}",
                "STRIPE_API_BASE": stripe,
            }
        if self.wish.database_url is not None:
            environment.pop("DATABASE_URL_FILE", None)
            environment["DATABASE_URL"] = self.wish.database_url
        return environment

    def _keep(self, host: str, wished: int | None, variable: str, default: int, what: str, option: str) -> int:
        number = wished
        if number is None:
            text = self.env.get(variable, "").strip() if variable else ""
            if text and not text.isdigit():
                raise ConfigRefused([f"{variable}: must be a port's number"])
            number = int(text) if text else default
        port = keep_port(host, number, what=what, option=option)
        self._ports.append(port)
        return port.number

    async def _start_database(self, data: Path) -> str:
        given = self.wish.database_url or self.env.get("DATABASE_URL", "").strip()
        if given or self.env.get("DATABASE_URL_FILE", "").strip():
            configured = load_config(dict(self.env) | ({"DATABASE_URL": given} if given else {})).database_url
            assert configured is not None
            return checked(configured.reveal())
        start = asyncio.ensure_future(asyncio.to_thread(EmbeddedPostgres.start, data, progress=self.voice.step))
        try:
            self._running = await asyncio.shield(start)
        except asyncio.CancelledError:
            self._running = await start  # or nobody would let it go again
            raise
        return self._running.dsn

    def _plan(self, environment: Mapping[str, str], logs: Path) -> None:
        """Describe every process, in the order of their start."""
        without_keys = {name: value for name, value in environment.items() if name not in _GATEWAY_ONLY}
        bare = {
            name: environment[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH") if name in environment
        }
        drain = self.config.drain_seconds + GRACE_SECONDS

        def add(name: str, arguments: tuple[str, ...], env: Mapping[str, str], grace: float) -> None:
            log = logs / f"{name}.log"
            self._children[name] = Child(name, arguments, env, log, self.voice.note, self._write_record, grace)

        mock = ("mock-provider", "--host", _MOCK_HOST, "--port", self.addresses.mock.rpartition(":")[2])
        add("mock", mock, bare, GRACE_SECONDS)
        if self.addresses.stripe is not None:
            words = {
                "--host": _MOCK_HOST,
                "--port": self.addresses.stripe.rpartition(":")[2],
                "--webhook-url": f"{self.addresses.api}/v1/stripe/webhook",
                "--state": str(self.config.faucet_data / DOUBLE_STATE),
            }
            secret = {"STRIPE_WEBHOOK_SECRET": environment["STRIPE_WEBHOOK_SECRET"]}
            double = ("mock-stripe", *(word for pair in words.items() for word in pair))
            add("stripe", double, bare | secret, GRACE_SECONDS)
        add("api", ("serve", "api"), without_keys, drain)
        for number in range(1, self.wish.gateway_workers + 1):
            add(f"gateway-{number}", ("serve", "gateway"), environment, drain)
        add("jobs", ("jobs",), without_keys, drain)

    def _groups(self) -> list[list[Child]]:
        """What starts together, in order: a gateway finds its provider, and all the rest comes with it."""
        first = [self._children[name] for name in _FIRST if name in self._children]
        return [first, [child for name, child in self._children.items() if name not in _FIRST]]

    async def _wait_until_ready(self) -> None:
        places = {
            "mock": f"{self.addresses.mock}/health",
            "api": f"{self.addresses.api}/ready",
            "gateway-1": f"{self.addresses.gateway}/ready",
        }
        if self.addresses.stripe is not None:
            places["stripe"] = f"{self.addresses.stripe}/health"
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
            await asyncio.gather(*(self._ask(client, name, place) for name, place in places.items()))

    async def _ask(self, client: httpx2.AsyncClient, name: str, place: str) -> None:
        said = "no answer"
        try:
            async with asyncio.timeout(READY_SECONDS):
                while True:
                    try:
                        reply = await client.get(place)
                        if reply.status_code == 200:
                            return
                        said = f"{reply.status_code} {reply.text[:300]}"
                    except httpx2.HTTPError as error:
                        said = type(error).__name__
                    await asyncio.sleep(0.1)
        except TimeoutError:
            log = self._children[name].log
            lines = "\n".join(f"  {line[:240]}" for line in last_lines(log))
            raise ChildFailed(
                f"{place} is not ready after {READY_SECONDS:.0f} seconds: {said}. The log, {log}, ends so:\n{lines}"
            ) from None

    # ── while it runs ──

    async def _watch(self) -> None:
        """Keep the database up and the logs small."""
        worried = False
        postmaster = None if self._running is None else self._running.pid
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for child in self._children.values():
                child.shorten_log()
            if self._running is None:
                continue
            try:
                await asyncio.to_thread(self._running.ensure)
                worried = False
                if self._running.pid != postmaster:
                    postmaster = self._running.pid
                    self.voice.note("The database was started again.")
                    self._write_record()
            except DatabaseUnavailable as error:
                if not worried:
                    self.voice.note(f"The database is down: {error}")
                worried = True

    def pids(self) -> dict[str, int]:
        """The processes that run, by name."""
        pids = {"supervisor": os.getpid()}
        pids |= {name: child.pid for name, child in self._children.items() if child.pid is not None}
        if self._running is not None:
            pids |= {"postgres": self._running.pid, "postgres-watcher": self._running.watcher_pid}
        return pids

    def card(self) -> dict[str, Any]:
        """Everything that a program needs to use the stack, tokens included."""
        return {
            "api": self.addresses.api,
            "gateway": self.addresses.gateway,
            "mock": self.addresses.mock,
            "stripe": self.addresses.stripe,
            "admin_token": self.config.admin_token.reveal(),
            "developer_admin_token": self.config.developer_admin_token.reveal(),
            "demo": {
                "public_app_id": PUBLIC_APP_ID,
                "feature_key": FEATURE_KEY,
                "external_user_id": EXTERNAL_USER_ID,
            },
            "pids": self.pids(),
        }

    def _write_record(self) -> None:
        addresses = self.addresses
        record = {
            "api": addresses.api,
            "gateway": addresses.gateway,
            "mock": addresses.mock,
            "stripe": addresses.stripe,
            "pids": self.pids(),
        }
        write_atomically(self.config.faucet_data / RECORD, json.dumps(record))

    # ── stop ──

    def kill(self) -> None:
        """Don't wait any longer for what still runs."""
        for child in self._children.values():
            child.stopping()
            child.signal(signal.SIGKILL)

    async def stop(self) -> None:
        """Gateways end what they are answering, then the rest goes, the database last. Harmless to repeat."""
        self.is_stopping = True
        for child in self._children.values():
            child.stopping()
        watch = [task for task in self._tasks if task.get_name() == "watch"]
        for task in watch:
            task.cancel()
        gateways = [child for name, child in self._children.items() if name.startswith("gateway")]
        rest = [self._children[name] for name in ("api", "jobs", *_FIRST) if name in self._children]
        for group in (gateways, *([child] for child in rest)):
            await asyncio.gather(*(child.stop() for child in group))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._running is not None:
            await asyncio.to_thread(self._running.close)
            self._running = None
        for port in self._ports:
            port.give_back()
        if self._lock is not None:
            if self.was_ready:
                (self.config.faucet_data / RECORD).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def read_record(data: Path) -> dict[str, Any] | None:
    """What the stack of a data dir wrote about itself, if one did."""
    try:
        record: dict[str, Any] = json.loads((data / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return record


async def run_stack(stack: Stack, work: Callable[[Stack], Awaitable[int]]) -> int:
    """Start a stack, do `work` with it, stop it, and give back the work's exit code.

    SIGINT, SIGTERM and SIGHUP end the work; one more while the stack is being stopped kills what still runs.
    """
    loop = asyncio.get_running_loop()
    main = asyncio.create_task(_start_and_work(stack, work))
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def told() -> None:
        if stack.is_stopping:
            stack.kill()
        else:
            main.cancel()

    for number in signals:
        loop.add_signal_handler(number, told)
    try:
        return await main
    except asyncio.CancelledError:
        return 0 if stack.was_ready else INTERRUPTED
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _start_and_work(stack: Stack, work: Callable[[Stack], Awaitable[int]]) -> int:
    async with stack:
        return await work(stack)
