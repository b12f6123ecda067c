"""The ledger's SQL functions for tests, as short Python calls; tenants with accounts to use them on.

Calls run in the role that makes them in production, so every test of a function also tests its grant.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import psycopg

from faucet.kit.ids import uuid7

E8 = 100_000_000
LEASE_SECONDS = 60
MANY = 1_000_000 * E8
_SETTLE_TYPES = ["uuid"] + ["bigint"] * 9 + ["int"] * 7 + ["smallint"] * 3 + ["text"] * 3 + ["int"]
_SETTLE = "select status from settle_v2(" + ", ".join(f"%s::{kind}[]" for kind in _SETTLE_TYPES) + ")"
_HOLD = (
    "select status, posted, held from hold_v1(%s::uuid[], %s::bigint[], %s::bigint[], %s::uuid[], %s::uuid[],"
    " %s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s)"
)
_GROUP_TYPES = ["uuid", "bigint", "bigint"] + ["uuid"] * 5 + ["text"]
_GROUP = (
    "select hold_status, settle_status, release_status from group_v2("
    + ", ".join(f"%s::{kind}[]" for kind in _GROUP_TYPES)
    + ", %s, "
    + ", ".join(f"%s::{kind}[]" for kind in _SETTLE_TYPES)
    + ", %s::uuid[], %s::text[], %s::text[], %s::uuid[], %s::bytea[], %s::uuid[])"
)


@dataclass(frozen=True)
class Tenant:
    """One end user's session in one app, with the accounts that its answers are booked to."""

    developer: UUID
    app: UUID
    feature: UUID
    end_user: UUID
    session: UUID
    wallet: int
    earnings: int
    revenue: int
    cost: int


@dataclass(frozen=True)
class Hold:
    """One hold to ask for."""

    tenant: Tenant
    amount: int
    id: UUID = field(default_factory=uuid7)
    request_id: str | None = None


@dataclass(frozen=True)
class Settlement:
    """One answer to book. Without `rated`, the parts add up."""

    tenant: Tenant
    id: UUID
    cost: int = 0
    channel: int = 0
    platform: int = 0
    payer: int = 0
    rated: int | None = None
    output: int = 7

    @property
    def due(self) -> int:
        cost = self.cost if self.payer in (0, 1) else 0
        return cost + self.channel + self.platform if self.rated is None else self.rated

    def row(self) -> tuple[Any, ...]:
        t = self.tenant
        cost_account = t.earnings if self.payer == 1 else t.cost
        return (
            self.id, t.wallet, self.cost, self.due, self.channel, self.platform, cost_account, t.earnings, t.revenue, 1,
            5, 0, 0, self.output, 0, 10, 20, self.payer, 0, 0, "mock", "mock-model", None, 1,
        )  # fmt: skip


class Books:
    """The functions over one connection that commits each statement."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def one(self, query: str, *values: Any, role: str | None = None) -> Any:
        """The first column of the only row."""
        row = self.row(query, *values, role=role)
        assert row is not None
        return row[0]

    def row(self, query: str, *values: Any, role: str | None = None) -> tuple[Any, ...] | None:
        """The first row."""
        rows = self.rows(query, *values, role=role)
        return rows[0] if rows else None

    def rows(self, query: str, *values: Any, role: str | None = None) -> list[tuple[Any, ...]]:
        """All rows, asked for in a role."""
        if role is None:
            cursor = self.connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []
        self.connection.execute(f"set role {role}".encode())
        try:
            cursor = self.connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []
        finally:
            self.connection.execute("reset role")

    # ── tenants ──

    def tenant(self, credit: int = 0) -> Tenant:
        """A developer with an app, a feature and one end user, who has credit."""
        developer, app, feature = uuid7(), uuid7(), uuid7()
        name = f"app_{app.hex}"
        self.rows("insert into developer (id, name, email) values (%s, 'D', %s)", developer, f"{name}@d.example")
        self.rows(
            "insert into app (id, developer_id, public_app_id, name) values (%s, %s, %s, 'A')", app, developer, name
        )
        self.rows(
            "insert into feature (id, developer_id, app_id, feature_key, display_name) values (%s, %s, %s, 'f', 'F')",
            feature,
            developer,
            app,
        )
        accounts = [
            self.open_account(kind, developer, label=label)
            for kind, label in (("earnings", ""), ("platform_revenue", ""), ("provider_cost", "mock"))
        ]
        nobody = Tenant(developer, app, feature, uuid7(), uuid7(), 0, *accounts)
        return self.end_user(nobody, credit)

    def end_user(self, like: Tenant, credit: int = 0) -> Tenant:
        """Another end user of the same app."""
        end_user, session = uuid7(), uuid7()
        self.rows(
            "insert into end_user (id, developer_id, app_id, external_id_hash) values (%s, %s, %s, %s)",
            end_user,
            like.developer,
            like.app,
            os.urandom(32),
        )
        wallet = self.open_account("wallet", like.developer, owner=end_user)
        tenant = replace(like, end_user=end_user, session=session, wallet=wallet)
        if credit:
            self.credit(wallet, credit)
        return tenant

    def open_account(self, kind: str, developer: UUID | None, *, owner: UUID | None = None, label: str = "") -> int:
        """An account's row id."""
        account: int = self.one(
            "select account_open_v1(%s, %s::account_kind, %s, %s, %s)",
            uuid7(),
            kind,
            developer,
            owner,
            label,
            role="faucet_api",
        )
        return account

    def account(self, kind: str) -> int:
        """A platform account's row id."""
        found: int = self.one("select id from account where kind = %s::account_kind and developer_id is null", kind)
        return found

    def credit(self, wallet: int, amount: int) -> None:
        """Grant credit to a wallet."""
        assert self.transfer(12, self.account("grants"), wallet, amount) == 0

    # ── a request ──

    def hold(self, *holds: Hold, lease: int = LEASE_SECONDS) -> list[tuple[int, int, int]]:
        """The status of each, with the two figures that come with a refusal."""
        t = [h.tenant for h in holds]
        row = self.row(
            _HOLD,
            [h.id for h in holds],
            [x.wallet for x in t],
            [h.amount for h in holds],
            [x.developer for x in t],
            [x.app for x in t],
            [x.feature for x in t],
            [x.end_user for x in t],
            [x.session for x in t],
            [h.request_id for h in holds],
            lease,
            role="faucet_gateway",
        )
        assert row is not None
        return list(zip(*row, strict=True))

    def held(self, tenant: Tenant, amount: int, *, lease: int = LEASE_SECONDS) -> UUID:
        """A hold that was accepted."""
        hold = Hold(tenant, amount)
        assert self.hold(hold, lease=lease)[0][0] == 0
        return hold.id

    def settle(self, *settlements: Settlement) -> list[int]:
        """The status of each."""
        columns = list(zip(*[s.row() for s in settlements], strict=True))
        status: list[int] = self.one(_SETTLE, *[list(column) for column in columns], role="faucet_gateway")
        return status

    def release(self, *ids: UUID, state: str = "released") -> list[int]:
        """The status of each."""
        count = len(ids)
        status: list[int] = self.one(
            "select release_v1(%s::uuid[], %s::text[], %s::text[])",
            list(ids),
            [state] * count,
            ["test"] * count,
            role="faucet_gateway",
        )
        return status

    def renew(self, *ids: UUID, lease: int = LEASE_SECONDS) -> int:
        """How many there were."""
        count: int = self.one("select renew_v1(%s::uuid[], %s)", list(ids), lease, role="faucet_gateway")
        return count

    def expire(self, limit: int = 100) -> list[UUID]:
        """Those that were given back."""
        return [row[0] for row in self.rows("select * from expire_holds_v1(%s)", limit, role="faucet_jobs")]

    def group(
        self,
        holds: Sequence[Hold],
        settlements: Sequence[Settlement],
        releases: Sequence[UUID],
        renewals: Sequence[UUID],
    ) -> tuple[list[int], list[int], list[int]]:
        """The statuses of holds, settlements and releases that share one commit."""
        h = [
            (x.id, x.tenant.wallet, x.amount, x.tenant.developer, x.tenant.app, x.tenant.feature, x.tenant.end_user,
             x.tenant.session, x.request_id)
            for x in holds
        ]  # fmt: skip
        h_columns = [list(column) for column in zip(*h, strict=True)] or [[]] * 9
        rows = [x.row() for x in settlements]
        s_columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(_SETTLE_TYPES)
        row = self.row(
            _GROUP,
            *h_columns,
            LEASE_SECONDS,
            *s_columns,
            list(releases),
            ["released"] * len(releases),
            ["test"] * len(releases),
            [],
            [],
            list(renewals),
            role="faucet_gateway",
        )
        assert row is not None
        return row[0], row[1], row[2]

    def run_out(self, hold: UUID) -> None:
        """Let a hold's lease be over."""
        self.rows("update hold set lease_expires_at = now() - interval '1 hour' where id = %s", hold)

    # ── other moves ──

    def transfer(
        self, code: int, debit: int, credit: int, amount: int, *, event: UUID | None = None, key: str | None = None
    ) -> int:
        """The status of one transfer."""
        return self.transfers([(event or uuid7(), code, debit, credit, amount, key)])[0]

    def transfers(self, items: Sequence[tuple[UUID, int, int, int, int, str | None]]) -> list[int]:
        """The status of each."""
        columns = [list(column) for column in zip(*items, strict=True)]
        status: list[int] = self.one(
            "select transfer_v1(%s::uuid[], %s::smallint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[],"
            " %s::text[])",
            *columns,
            [None] * len(items),
            role="faucet_api",
        )
        return status

    def limit(self, scope: str, scope_id: UUID, period: str, amount: int | None) -> None:
        """Set or lift a spend limit."""
        self.rows("select spend_limit_set_v1(%s, %s, %s, %s)", scope, scope_id, period, amount, role="faucet_api")

    # ── what there is ──

    def balance(self, account: int) -> tuple[int, int]:
        """Posted and held."""
        posted, held = self.row("select posted_e8, held_e8 from account where id = %s", account) or (0, 0)
        return posted, held

    def posted(self, account: int) -> int:
        return self.balance(account)[0]

    def event(self, hold: UUID) -> dict[str, int]:
        """The money of a usage event."""
        names = ("cost_e8", "retail_e8", "channel_e8", "platform_e8", "write_off_e8", "held_e8")
        row = self.row(f"select {', '.join(names)} from usage_event where id = %s", hold)
        assert row is not None
        return dict(zip(names, row, strict=True))

    def counter(self, scope_id: UUID) -> tuple[int, int]:
        """Spent and held of the only counter of a limit."""
        row = self.row(
            "select c.spent_e8, c.held_e8 from spend_counter c join spend_limit l on l.id = c.limit_id"
            " where l.scope_id = %s",
            scope_id,
        )
        assert row is not None
        return row[0], row[1]

    def assert_sound(self) -> None:
        """The books add up (the full check is the reconciliation report)."""
        assert self.one("select coalesce(sum(posted_e8), 0) from account") == 0
        wrong = self.rows(
            "select a.id from account a left join (select account_id, sum(amount_e8) s from posting group by 1) p"
            " on p.account_id = a.id where a.posted_e8 <> coalesce(p.s, 0)"
        )
        assert wrong == []
        wrong = self.rows(
            "select a.id from account a left join (select wallet_id, sum(amount_e8) s from hold group by 1) h"
            " on h.wallet_id = a.id where a.held_e8 <> coalesce(h.s, 0)"
        )
        assert wrong == []
