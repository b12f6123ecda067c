-- The ledger: accounts, holds, transfers and usage events. Amounts are e8 (1e-8 USD). Tables are written only by
-- the functions of 0005; no door may write a row or a balance. Triggers here refuse; they never compute.

create type account_kind as enum (
    'wallet', 'earnings', 'payout_clearing', 'provider_cost', 'platform_revenue', 'stripe_clearing', 'bank',
    'grants', 'adjustments', 'processor_fees', 'write_off'
);

create table account (
    id bigint generated always as identity primary key,
    public_id uuid not null unique,
    kind account_kind not null,
    developer_id uuid references developer (id),
    owner_id uuid,  -- the end user of a wallet
    label text not null default '',  -- the provider of a provider_cost account
    currency char(3) not null default 'USD',
    posted_e8 bigint not null default 0,
    held_e8 bigint not null default 0,
    frozen_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique nulls not distinct (kind, developer_id, owner_id, label, currency),
    constraint only_wallets_hold check (kind = 'wallet' or held_e8 = 0),
    constraint no_overdraft check (kind <> 'wallet' or (held_e8 >= 0 and posted_e8 >= held_e8)),
    constraint no_debt check (kind not in ('earnings', 'payout_clearing') or posted_e8 >= 0),
    constraint owned check ((kind = 'wallet') = (owner_id is not null))
) with (fillfactor = 25, autovacuum_vacuum_scale_factor = 0.05);
create index account_owner_idx on account (owner_id) where owner_id is not null;

insert into account (public_id, kind)
select gen_random_uuid(), unnest(array['stripe_clearing', 'bank', 'grants', 'adjustments', 'processor_fees', 'write_off']::account_kind[]);

-- Every way money can move: a transfer's code with the kinds of account that it may debit and credit.
create table move (
    code smallint not null,
    name text not null,
    debit_kind account_kind not null,
    credit_kind account_kind not null,
    primary key (code, debit_kind, credit_kind)
);
insert into move (code, name, debit_kind, credit_kind) values
    (1, 'settle_cost', 'wallet', 'provider_cost'),
    (1, 'settle_cost', 'wallet', 'earnings'),
    (2, 'settle_channel', 'wallet', 'earnings'),
    (3, 'settle_platform', 'wallet', 'platform_revenue'),
    (4, 'write_off_cost', 'write_off', 'provider_cost'),
    (4, 'write_off_cost', 'write_off', 'earnings'),
    (5, 'write_off_channel', 'write_off', 'earnings'),
    (6, 'write_off_platform', 'write_off', 'platform_revenue'),
    (10, 'top_up', 'stripe_clearing', 'wallet'),
    (11, 'processor_fee', 'processor_fees', 'stripe_clearing'),
    (12, 'grant', 'grants', 'wallet'),
    (20, 'refund', 'wallet', 'stripe_clearing'),
    (21, 'refund_write_off', 'write_off', 'stripe_clearing'),
    (22, 'charge_back', 'wallet', 'stripe_clearing'),
    (23, 'charge_back_write_off', 'write_off', 'stripe_clearing'),
    (30, 'adjust_credit', 'adjustments', 'wallet'),
    (30, 'adjust_credit', 'adjustments', 'earnings'),
    (31, 'adjust_debit', 'wallet', 'adjustments'),
    (31, 'adjust_debit', 'earnings', 'adjustments'),
    (40, 'payout_open', 'earnings', 'payout_clearing'),
    (41, 'payout_paid', 'payout_clearing', 'stripe_clearing'),
    (42, 'payout_failed', 'payout_clearing', 'earnings'),
    (50, 'collect', 'bank', 'stripe_clearing'),
    (51, 'pay_provider', 'provider_cost', 'bank');

-- Open holds only, so the table stays as small as the traffic in flight. A settled hold lives on as its usage
-- event, one that was released or ran out as its hold_resolution; the view `request` shows all three.
create table hold (
    id uuid primary key,
    wallet_id bigint not null,
    developer_id uuid not null,
    app_id uuid not null,
    feature_id uuid,
    end_user_id uuid not null,
    session_id uuid not null,
    amount_e8 bigint not null check (amount_e8 >= 0),
    counters bigint[],
    request_id text,
    lease_expires_at timestamptz not null,
    created_at timestamptz not null default now()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0);

create table hold_resolution (
    id uuid primary key,
    state text not null check (state in ('released', 'expired')),
    reason text not null,
    wallet_id bigint not null,
    developer_id uuid not null,
    app_id uuid not null,
    feature_id uuid,
    end_user_id uuid not null,
    session_id uuid not null,
    amount_e8 bigint not null,
    request_id text,
    held_at timestamptz not null,
    resolved_at timestamptz not null default now(),
    settled_late_at timestamptz  -- an expired hold whose answer turned out to be complete
);

create table usage_event (
    id uuid primary key,
    created_at timestamptz not null default now(),
    developer_id uuid not null,
    app_id uuid not null,
    feature_id uuid,
    end_user_id uuid not null,
    session_id uuid not null,
    wallet_id bigint not null,
    held_e8 bigint not null,
    cost_e8 bigint not null,
    retail_e8 bigint not null,  -- what the wallet paid
    channel_e8 bigint not null,
    platform_e8 bigint not null,
    write_off_e8 bigint not null,
    price_id bigint not null,
    input_tokens integer not null,
    cached_read_tokens integer not null,
    cached_write_tokens integer not null,
    output_tokens integer not null,
    reasoning_tokens integer not null,
    first_byte_ms integer,
    duration_ms integer not null,
    payer smallint not null,  -- platform, developer, byok, local
    usage_source smallint not null,  -- reported, counted
    outcome smallint not null,  -- complete, client hung up, provider failed
    provider text not null,
    model text not null,
    request_id text,  -- the caller's own x-request-id, where one was sent
    raw_usage text,  -- the provider's usage block, where it says more than the columns above
    -- Few and short: PostgreSQL reads every check's expression anew for each statement.
    constraint nothing_negative check (least(cost_e8, retail_e8, channel_e8, platform_e8, write_off_e8) >= 0),
    constraint no_negative_tokens check (least(input_tokens, cached_read_tokens, cached_write_tokens, output_tokens,
        reasoning_tokens) >= 0),
    constraint known_codes check (least(payer, usage_source, outcome) >= 0 and payer <= 3 and usage_source <= 1
        and outcome <= 2),
    constraint parts_make_the_whole check (retail_e8 + write_off_e8 = channel_e8 + platform_e8
        + case when payer in (0, 1) then cost_e8 else 0 end),
    constraint never_above_the_hold check (retail_e8 <= held_e8)
);
create index usage_event_app_idx on usage_event (app_id, created_at desc);

create table transfer (
    event_id uuid not null,
    code smallint not null,
    debit_id bigint not null,
    credit_id bigint not null,
    amount_e8 bigint not null check (amount_e8 > 0),
    created_at timestamptz not null default now(),
    key text,
    memo text,
    primary key (event_id, code),
    constraint two_sides check (debit_id <> credit_id)
);
create unique index transfer_key on transfer (key) where key is not null;

create table spend_limit (
    id bigint generated always as identity primary key,
    scope text not null check (scope in ('app', 'feature', 'end_user', 'session')),
    scope_id uuid not null,
    period text not null check (period in ('month', 'total')),
    limit_e8 bigint not null check (limit_e8 >= 0),
    created_at timestamptz not null default now(),
    unique (scope_id, scope, period)
);

create table spend_counter (
    id bigint generated always as identity primary key,
    limit_id bigint not null references spend_limit (id),
    period_start date not null,  -- the first of the month in UTC; 'epoch' where the period is total
    spent_e8 bigint not null default 0 check (spent_e8 >= 0),
    held_e8 bigint not null default 0 check (held_e8 >= 0),
    unique (limit_id, period_start)
) with (fillfactor = 25);

-- Replies kept, sealed, for repeated Idempotency-Keys.
create table idempotent_reply (
    end_user_id uuid not null,
    key_hash bytea not null check (length(key_hash) = 32),
    fingerprint bytea not null check (length(fingerprint) = 32),
    hold_id uuid not null unique,
    claimed_until timestamptz not null,
    sealed bytea,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    primary key (end_user_id, key_hash)
);
create index idempotent_reply_expiry_idx on idempotent_reply (expires_at);

create function ledger_refuse_v1() returns trigger language plpgsql as $$
begin
    raise exception '% is immutable: % refused', tg_table_name, lower(tg_op) using errcode = 'restrict_violation';
end
$$;
create trigger transfer_is_immutable before update or delete on transfer
    for each row execute function ledger_refuse_v1();
create trigger transfer_is_kept before truncate on transfer
    for each statement execute function ledger_refuse_v1();
create trigger usage_event_is_immutable before update or delete on usage_event
    for each row execute function ledger_refuse_v1();
create trigger usage_event_is_kept before truncate on usage_event
    for each statement execute function ledger_refuse_v1();
create trigger move_is_fixed before insert or update or delete on move
    for each row execute function ledger_refuse_v1();

-- One account's side of each transfer, signed: credits raise a balance, debits lower it.
create view posting as
select t.event_id, t.code, t.debit_id as account_id, -t.amount_e8 as amount_e8, t.created_at from transfer t
union all
select t.event_id, t.code, t.credit_id, t.amount_e8, t.created_at from transfer t;

-- Every request that was ever held, with the one state it is in.
create view request as
select h.id, 'held' as state, h.wallet_id, h.app_id, h.amount_e8 as held_e8, 0::bigint as retail_e8, h.created_at
from hold h
union all
select r.id, r.state, r.wallet_id, r.app_id, r.amount_e8, 0, r.resolved_at from hold_resolution r
where r.settled_late_at is null
union all
select u.id, 'settled', u.wallet_id, u.app_id, u.held_e8, u.retail_e8, u.created_at from usage_event u;

grant select on account, hold, hold_resolution, usage_event, transfer, posting, request, move, spend_limit,
    spend_counter to faucet_api, faucet_jobs;
grant select on account, spend_limit to faucet_gateway;
grant select (end_user_id, key_hash, expires_at), delete on idempotent_reply to faucet_jobs;
