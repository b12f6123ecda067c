"""Who is asking: a bearer becomes a Caller, or a refusal (unknown, expired, revoked, disabled, too fast).

Callers and features are remembered for at most five seconds and dropped at once when the database says that
something changed, so a revoked session or a disabled app is refused everywhere within that time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from faucet.gateway.switches import Switches
from faucet.gateway.wire import quoted
from faucet.kit.db import Tx, in_time
from faucet.kit.errors import Refusal
from faucet.kit.ids import fast_uuid
from faucet.kit.log import logger
from faucet.limits.bucket import Bucket, Verdict
from faucet.rating.price import PricePlan
from faucet.routing.policy import RoutePolicy
from faucet.tenants.manifest import parse_policy
from faucet.tenants.parts import Parts, parse_parts
from faucet.terms import Payer

REMEMBERED_SECONDS = 5.0
REFRESH_SECONDS = 2.0
REMEMBERED_MAX = 50_000
PARTS_MAX = 10_000
ASKED_MAX = 500
"""So many sessions are looked up by one question."""

_SESSIONS = "select b.hash, s.* from unnest(%s::bytea[]) as b (hash) cross join lateral session_resolve_v1(b.hash) s"

_FEATURES = """
select f.id, f.feature_key, f.version, f.policy, f.pricing, f.parts::text as parts_json, a.default_revenue_share_bps
from feature f join app a on a.id = f.app_id
where f.app_id = %s and f.status = 'active'
"""


class Feature(msgspec.Struct, frozen=True):
    """A feature's manifest, compiled."""

    id: UUID
    key: str
    key_json: bytes
    policy: RoutePolicy
    plan: PricePlan
    fit_to_wallet: bool
    max_output_tokens: int | None
    version: int
    parts_json: str
    privacy: str = "none"
    """The policy's word: what may leave for a provider in the cloud (`redaction`)."""
    uses_keys: bool = False
    """Whether a stored key may pay for its answers."""
    is_plain: bool = False
    """Whether it has none of `parts`, so that nobody needs to look."""

    @property
    def parts(self) -> Parts:
        """Its schemas, prompt and limits."""
        return _parts_of(self.parts_json)


@lru_cache(maxsize=PARTS_MAX)
def _parts_of(parts_json: str) -> Parts:
    return parse_parts(json.loads(parts_json), is_stored=True)


class Caller(msgspec.Struct):
    """A session that may ask, with all that serving it needs."""

    session_id: UUID
    developer_id: UUID
    app_id: UUID
    feature_id: UUID | None
    end_user_id: UUID
    wallet_id: int
    earnings_account: int
    revenue_account: int
    expires_at: float
    """On the monotonic clock."""
    known_until: float
    """On the monotonic clock, and never after `expires_at`."""


class Admission:
    """Finds and remembers callers and their features."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Tx],
        bucket: Bucket | None,
        switches: Callable[[], Switches] = Switches,
    ) -> None:
        self._pool = pool
        self._switches = switches
        self._bucket = bucket
        self._callers: dict[bytes, Caller] = {}
        self._seen: set[bytes] = set()
        self._features: dict[UUID, tuple[float, dict[str, Feature]]] = {}
        self._asked: dict[bytes, asyncio.Future[Caller]] = {}
        """Bearers that are waited for."""
        self._changes = 0
        """What was being read while something changed is not remembered."""
        self._asking: asyncio.Task[None] | None = None

    def forget(self) -> None:
        """Something changed in the database: remember nothing."""
        self._changes += 1
        self._callers.clear()
        self._features.clear()

    def recall(self, bearer: bytes) -> Caller | None:
        """The caller if it was seen in the last seconds and its session still runs."""
        caller = self._callers.get(bearer)
        if caller is None or caller.known_until < time.monotonic():
            return None
        self._seen.add(bearer)
        return caller

    async def refresh(self) -> None:
        """Ask in one go whether the sessions that are in use are still good; forget those that aren't.

        Where the database can't be asked nothing is extended, and each is looked up again when its time is over.
        """
        seen, self._seen = self._seen, set()
        asked = {bearer: caller for bearer in seen if (caller := self._callers.get(bearer)) is not None}
        if not asked:
            return
        began = time.monotonic()
        sessions = list({caller.session_id for caller in asked.values()})
        rows = await self._query("select session_alive_v1(%s) as id", (sessions,))
        alive = {row["id"] for row in rows}
        for bearer, caller in asked.items():
            if self._callers.get(bearer) is not caller:
                continue  # something changed meanwhile; what is known now is newer
            if caller.session_id in alive:
                caller.known_until = min(began + REMEMBERED_SECONDS, caller.expires_at)
            else:
                del self._callers[bearer]

    async def find(self, bearer: bytes) -> Caller:
        """Look the session up. Raises Refusal `invalid_session`, `expired_session`, `disabled`, `unavailable`.

        All that are asked for while one question is with the database go into the next: after a restart, a crowd
        is let in by a few questions.
        """
        answer = self._asked.get(bearer)
        if answer is None:
            answer = self._asked[bearer] = asyncio.get_running_loop().create_future()
            if self._asking is None:
                self._asking = asyncio.create_task(self._ask(), name="find-callers")
        # Others may wait for the same answer: this one's end must not cancel it.
        return await asyncio.shield(answer)

    async def _ask(self) -> None:
        """Answer everyone who asked, a bounded crowd at a time."""
        try:
            while self._asked:
                crowd = list(self._asked)[:ASKED_MAX]
                found: dict[bytes, Caller | Refusal] = {}
                failure: Exception | None = None
                try:
                    found = await self._look_up(crowd)
                except Exception as error:  # whatever it is, each of them hears of it
                    failure = error
                for bearer in crowd:
                    answer = self._asked.pop(bearer)
                    known = failure or found[bearer]
                    if isinstance(known, Caller):
                        answer.set_result(known)
                    else:
                        answer.set_exception(known)
        finally:
            self._asking = None
            for answer in self._asked.values():  # only where the process ends
                answer.cancel()
            self._asked.clear()

    async def _look_up(self, bearers: Sequence[bytes]) -> dict[bytes, Caller | Refusal]:
        hashes = [hashlib.sha256(bearer).digest() for bearer in bearers]
        changes = self._changes
        rows = await self._query(_SESSIONS, (hashes,))
        by_hash = {bytes(row["hash"]): row for row in rows}
        found: dict[bytes, Caller | Refusal] = {}
        if len(self._callers) + len(bearers) > REMEMBERED_MAX:
            self._callers.clear()
        for bearer, digest in zip(bearers, hashes, strict=True):
            self._callers.pop(bearer, None)
            known = found[bearer] = _judged(by_hash.get(digest))
            if isinstance(known, Caller) and changes == self._changes:
                self._callers[bearer] = known
                self._seen.add(bearer)
        return found

    def count(self, caller: Caller) -> Verdict | None:
        """Count the request against the session's rate; None where there is no limit."""
        if self._bucket is None:
            return None
        return self._bucket.take(caller.session_id.bytes, time.monotonic())

    async def features(self, caller: Caller) -> Mapping[str, Feature]:
        """All features of the app, by key. Raises Refusal `disabled` where the operator has switched the app off."""
        features = self._recall_features(caller)
        if features is None:
            rows = await self._query(_FEATURES, (caller.app_id,))
            features = _compiled(rows)
            if len(self._features) >= REMEMBERED_MAX:
                self._features.clear()
            self._features[caller.app_id] = (time.monotonic() + REMEMBERED_SECONDS, features)
        return features

    def _recall_features(self, caller: Caller) -> Mapping[str, Feature] | None:
        """The app's features if they were read in the last seconds. Raises Refusal `disabled`."""
        if self._switches().stop(caller.app_id):
            raise Refusal("disabled", "this app is switched off")
        known = self._features.get(caller.app_id)
        return None if known is None or known[0] < time.monotonic() else known[1]

    async def feature(self, caller: Caller, key: str | None) -> Feature:
        """The named feature, else the session's own, else the app's only one.

        Raises Refusal `feature_not_found`, `disabled` where the operator has switched the app off, or
        `invalid_request` where none is named and there are several.
        """
        features = self._recall_features(caller)
        if features is None:
            features = await self.features(caller)
        if key is not None:
            found = features.get(key)
            if found is None:
                raise Refusal("feature_not_found", f"this app has no feature {key[:128]!r}", param="model")
            return found
        if caller.feature_id is not None:
            for feature in features.values():
                if feature.id == caller.feature_id:
                    return feature
            raise Refusal("feature_not_found", "the session's feature is no longer there")
        if len(features) == 1:
            return next(iter(features.values()))
        if not features:
            raise Refusal("feature_not_found", "this app has no feature yet")
        raise Refusal(
            "invalid_request",
            "name a feature: `model: auto:<feature>` or `metadata.feature_key`",
            param="metadata",
        )

    async def _query(self, query: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
        async def rows() -> list[dict[str, Any]]:
            async with (
                self._pool.connection() as connection,
                connection.cursor(row_factory=dict_row) as cursor,
            ):
                await cursor.execute(query.encode(), values)
                return await cursor.fetchall()

        try:
            return await in_time(rows())
        except (psycopg.OperationalError, PoolTimeout, TimeoutError) as error:
            raise Refusal(
                "unavailable", "the service can't reach its database; try again", retry_after_seconds=1
            ) from error


@lru_cache(maxsize=10_000)
def _one_of_its_kind(policy: RoutePolicy) -> RoutePolicy:
    """The same object for policies that say the same, so that routes are worked out once however often it is read."""
    return policy


def _compiled(rows: Sequence[dict[str, Any]]) -> dict[str, Feature]:
    """An app's features by key, without those whose stored manifest this process can't read."""
    features = {}
    for row in rows:
        try:
            features[row["feature_key"]] = _compile(row)
        except ValueError as error:  # written by a newer server: one such must not stop its neighbours
            logger.error("feature.unreadable", feature_id=str(row["id"]), error=str(error))
    return features


def _compile(row: dict[str, Any]) -> Feature:
    """Raises ValueError for a manifest that this process can't read."""
    is_plain = row["parts_json"] == "{}"
    if not is_plain:
        _parts_of(row["parts_json"])  # a word of a newer server's is found here, not by whoever asks first
    policy = parse_policy(row["policy"] or {})
    routing = _one_of_its_kind(policy.routing)
    return Feature(
        id=fast_uuid(row["id"]),
        key=row["feature_key"],
        key_json=quoted(row["feature_key"]),
        policy=routing,
        uses_keys=Payer.BYOK in routing.payers or Payer.DEVELOPER in routing.payers,
        plan=PricePlan.parse_pricing(row["pricing"] or {}, default_share_bps=row["default_revenue_share_bps"]),
        fit_to_wallet=policy.fit_to_wallet,
        max_output_tokens=policy.max_output_tokens,
        version=row["version"],
        parts_json=row["parts_json"],
        is_plain=is_plain,
        privacy=policy.privacy,
    )


def _judged(row: dict[str, Any] | None) -> Caller | Refusal:
    """What the database knows of a session: who asks, or why not."""
    if row is None:
        return Refusal("invalid_session", "the session token is not known")
    if row["revoked_at"] is not None:
        return Refusal("invalid_session", "the session was revoked")
    left = (row["expires_at"] - datetime.now(UTC)).total_seconds()
    if left <= 0:
        return Refusal("expired_session", "the session has expired; mint a new one")
    if row["app_status"] != "active" or row["developer_status"] != "active":
        return Refusal("disabled", "this app is switched off")
    now = time.monotonic()
    return Caller(
        session_id=fast_uuid(row["session_id"]),
        developer_id=fast_uuid(row["developer_id"]),
        app_id=fast_uuid(row["app_id"]),
        feature_id=None if row["feature_id"] is None else fast_uuid(row["feature_id"]),
        end_user_id=fast_uuid(row["end_user_id"]),
        wallet_id=row["wallet_id"],
        earnings_account=row["earnings_account_id"],
        revenue_account=row["revenue_account_id"],
        expires_at=now + left,
        known_until=min(now + REMEMBERED_SECONDS, now + left),
    )
