"""The stored provider keys that requests may be sent with: found, opened in memory, and forgotten again.

What is known of a caller's keys is at most five seconds old, and dropped at once when the database says that something
changed. Those of callers who keep asking are read anew in one question for all. Not here: which key a request takes
(`payers`), and how one is opened (`vault.reveal`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

import msgspec
import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from faucet.gateway.admit import REMEMBERED_SECONDS, Caller
from faucet.gateway.catalogue import Account, Catalogue, Stock
from faucet.kit.clock import Clock
from faucet.kit.config import Config
from faucet.kit.db import Tx, in_time, tx
from faucet.kit.errors import Refusal
from faucet.kit.log import logger
from faucet.providers.base import Provider
from faucet.providers.keyed import keyed_provider
from faucet.providers.platform import stored_provider
from faucet.routing.plan import Shelf
from faucet.terms import Payer
from faucet.vault.reveal import rows
from faucet.vault.reveal.kek import KekFailed, keks_of
from faucet.vault.reveal.ring import Ring, Unopenable
from faucet.vault.reveal.rows import Told, Usable

CALLERS_MAX = 50_000
OPENED_MAX = 20_000
ASKED_MAX = 500
"""So many callers' keys are looked up by one question."""


class Keys(msgspec.Struct):
    """What one end user's requests may be sent with besides the platform's own accounts."""

    known_until: float
    """On the monotonic clock."""
    caller: Caller
    accounts: tuple[Account, ...] = ()
    withheld: tuple[Payer, ...] = ()
    """Whose keys can't be used now although they are there, and keep others from paying."""
    stock: Stock | None = None
    catalogue: Catalogue | None = None
    """The snapshot that the stock was made with."""

    def stock_with(self, catalogue: Catalogue) -> Stock:
        """The caller's keys beside what the platform has."""
        if not self.accounts and not self.withheld:
            return catalogue
        if self.stock is None or self.catalogue is not catalogue:
            shelves, products = catalogue.shelve(self.accounts)
            for payer in self.withheld:
                shelf = shelves.get(payer, Shelf())
                shelves[payer] = Shelf(shelf.by_model, shelf.auto, keeps=True)
            platform = {Payer.PLATFORM: catalogue.shelves.get(Payer.PLATFORM, Shelf())}
            self.stock = Stock(shelves | platform, products | dict(catalogue.by_offer))
            self.catalogue = catalogue
        return self.stock


NO_KEYS = Keys(float("inf"), None)  # type: ignore[arg-type]
"""Of requests whose policy has no use for keys."""


class Keyring:
    """The keys of one process's callers."""

    def __init__(
        self,
        db: AsyncConnectionPool[Tx],
        config: Config,
        clock: Clock,
        on_new_secret: Callable[[UUID], None],
        switched_off: Callable[[], frozenset[str]],
    ) -> None:
        self._db = db
        self._config = config
        self._clock = clock
        self._on_new_secret = on_new_secret
        self._switched_off = switched_off
        self._ring: Ring | None = None
        self._known: dict[UUID, Keys] = {}
        self._seen: set[UUID] = set()
        self._opened: dict[UUID, tuple[bytes, Provider]] = {}
        self._asked: dict[UUID, tuple[Caller, asyncio.Future[Keys]]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._changes = 0
        """What was being read while something changed is not remembered."""
        self._told: dict[UUID, Told] = {}

    def forget(self) -> None:
        """Something changed in the database: remember nothing but opened secrets, which are compared when read."""
        self._changes += 1
        self._known.clear()

    def recall(self, caller: Caller) -> Keys | None:
        """The caller's keys, if they were read in the last seconds."""
        keys = self._known.get(caller.end_user_id)
        if keys is None or keys.known_until < time.monotonic():
            return None
        self._seen.add(caller.end_user_id)
        return keys

    async def find(self, caller: Caller) -> Keys:
        """Read the caller's keys. Raises Refusal `unavailable`.

        All that are asked for while one question is with the database go into the next.
        """
        asked = self._asked.get(caller.end_user_id)
        if asked is None:
            asked = self._asked[caller.end_user_id] = (caller, asyncio.get_running_loop().create_future())
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(), name="find-keys")
        # Others may wait for the same answer: this one's end must not cancel it.
        return await asyncio.shield(asked[1])

    async def _ask(self) -> None:
        try:
            while self._asked:
                crowd = list(self._asked.values())[:ASKED_MAX]
                found: dict[UUID, Keys] = {}
                failure: Exception | None = None
                try:
                    found = await self._read([caller for caller, _ in crowd])
                except Exception as error:  # whatever it is, each of them hears of it
                    failure = error
                for caller, answer in crowd:
                    del self._asked[caller.end_user_id]
                    if failure is None:
                        answer.set_result(found[caller.end_user_id])
                    else:
                        answer.set_exception(failure)
        finally:
            self._asking = None
            for _, answer in self._asked.values():  # only where the process ends
                answer.cancel()
            self._asked.clear()

    async def refresh(self) -> None:
        """Read at once the keys of callers who keep asking. Raises Refusal `unavailable`: then nothing is extended."""
        seen, self._seen = self._seen, set()
        callers = [keys.caller for end_user in seen if (keys := self._known.get(end_user)) is not None]
        if callers:
            await self._read(callers)

    async def platform(self, connection: Tx) -> list[Account]:
        """The operator's stored accounts. Those that can't be opened are left out, and logged."""
        accounts = []
        for usable in await rows.usable_of_platform(connection):
            account = await self._account(usable, Payer.PLATFORM)
            if account is not None:
                accounts.append(account)
        return accounts

    async def _read(self, callers: Sequence[Caller]) -> dict[UUID, Keys]:
        changes = self._changes
        until = time.monotonic() + REMEMBERED_SECONDS
        found = await self._usable(callers)
        of_end_user: dict[UUID, list[Usable]] = {}
        of_developer: dict[UUID, list[Usable]] = {}
        for usable in found:
            place = usable.sealed.place
            if place.owner == "end_user" and place.end_user_id is not None:
                of_end_user.setdefault(place.end_user_id, []).append(usable)
            elif place.owner == "developer" and place.developer_id is not None:
                of_developer.setdefault(place.developer_id, []).append(usable)
        if len(self._known) + len(callers) > CALLERS_MAX:
            self._known.clear()
        read = {}
        for caller in callers:
            own = [u for u in of_end_user.get(caller.end_user_id, ()) if u.sealed.place.app_id == caller.app_id]
            apps = [
                u
                for u in of_developer.get(caller.developer_id, ())
                if u.sealed.place.app_id is None or u.sealed.place.app_id == caller.app_id
            ]
            keys = await self._keys(caller, until, own, apps)
            before = self._known.get(caller.end_user_id)
            if before is not None and (before.accounts, before.withheld) == (keys.accounts, keys.withheld):
                before.known_until, keys = until, before  # what was worked out with these stays good
            if changes == self._changes:
                self._known[caller.end_user_id] = keys
            read[caller.end_user_id] = keys
        return read

    async def _keys(self, caller: Caller, until: float, own: Iterable[Usable], apps: Iterable[Usable]) -> Keys:
        accounts, withheld = [], []
        for payer, usables in ((Payer.BYOK, own), (Payer.DEVELOPER, apps)):
            for usable in usables:
                account = await self._account(usable, payer)
                if account is not None:
                    accounts.append(account)
                elif not usable.fallback_to_platform:
                    withheld.append(payer)
        return Keys(until, caller, tuple(accounts), tuple(withheld))

    async def _usable(self, callers: Sequence[Caller]) -> list[Usable]:
        async def read() -> list[Usable]:
            async with self._db.connection() as connection:
                return await rows.usable_of(
                    connection,
                    end_user_ids={caller.end_user_id for caller in callers},
                    developer_ids={caller.developer_id for caller in callers},
                )

        try:
            return await in_time(read())
        except (psycopg.OperationalError, PoolTimeout, TimeoutError) as error:
            raise Refusal(
                "unavailable", "the service can't reach its database; try again", retry_after_seconds=1
            ) from error

    async def _account(self, usable: Usable, payer: Payer) -> Account | None:
        """The account that a stored key opens; None where it can't be used now."""
        place = usable.sealed.place
        provider = await self._provider(usable)
        if provider is None or provider.name in self._switched_off():
            return None
        budget = usable.budget_e8
        return Account(
            provider=provider,
            payer=payer,
            credential=place.row_id,
            models_allowed=usable.models_allowed,
            priority=usable.priority,
            weight=usable.weight,
            budget_left_e8=None if budget is None else budget - usable.budget_taken_e8,
            lets_go=usable.fallback_to_platform or payer is Payer.PLATFORM,
        )

    async def _provider(self, usable: Usable) -> Provider | None:
        """The provider with the key in its headers, opened once as long as what is sealed stays the same."""
        sealed = usable.sealed
        place = sealed.place
        opened = self._opened.get(place.row_id)
        if opened is not None and opened[0] == sealed.sealed:
            return opened[1]
        try:
            if self._ring is None:
                self._ring = Ring(keks_of(self._config))
            secret = await self._ring.reveal(sealed)
            if place.owner == "platform":
                provider = stored_provider(self._config, place.provider, place.base_url, secret)
            else:
                provider = keyed_provider(self._config, place.provider, place.base_url, secret)
        except (Unopenable, KekFailed, ValueError, KeyError) as error:
            # The text of none of these holds a secret; another address rule or provider list makes the last two.
            logger.error("key.unusable", credential=str(place.row_id), error=f"{type(error).__name__}: {error}")
            return None
        if opened is not None:
            self._on_new_secret(place.row_id)  # what the old one did says nothing of this one
        while len(self._opened) >= OPENED_MAX:
            del self._opened[next(iter(self._opened))]
        self._opened[place.row_id] = (sealed.sealed, provider)
        return provider

    # ── what is told of keys ──

    def used(self, credential: UUID) -> None:
        """A provider began to answer a request with this key."""
        told = self._told.get(credential)
        uses = 1 if told is None else told.uses + 1
        self._told[credential] = Told(credential, uses, self._clock.now(), None)

    def refused(self, credential: UUID, code: str) -> None:
        """A provider refused this key."""
        told = self._told.get(credential)
        uses, used_at = (0, None) if told is None else (told.uses, told.last_used_at)
        self._told[credential] = Told(credential, uses, used_at, code)

    async def tell(self) -> None:
        """Write down what was seen of keys since the last time, in one statement; kept where that fails."""
        told, self._told = self._told, {}
        if not told:
            return
        try:
            async with tx(self._db) as t:
                await rows.tell_uses(t, list(told.values()), now=self._clock.now())
        except (psycopg.Error, PoolTimeout, OSError) as error:
            logger.warning("keys.not_told", error=type(error).__name__)
            for credential, before in told.items():
                later = self._told.get(credential)
                if later is not None:
                    before = Told(credential, before.uses + later.uses, later.last_used_at, later.error_code)
                self._told[credential] = before
