-- Money in: the inbox of the processor's events.

-- Every verified event of Stripe's, once, as it came. What it tells is applied once, in any order.
create table stripe_event (
    id text primary key check (length(id) between 1 and 255),
    type text not null check (length(type) between 1 and 255),
    account text,  -- the connected account that it is about; none is the platform
    created_at timestamptz not null,  -- by the processor's clock
    is_live boolean not null,
    body bytea not null,
    received_at timestamptz not null default now(),
    outcome text not null default 'waiting' check (outcome in ('waiting', 'applied', 'ignored', 'refused')),
    reason text not null default '',
    attempts integer not null default 0 check (attempts >= 0),
    next_at timestamptz not null default now(),
    settled_at timestamptz,
    constraint settled_has_an_outcome check ((settled_at is null) = (outcome = 'waiting'))
);
create index stripe_event_due_idx on stripe_event (next_at) where settled_at is null;
create index stripe_event_list_idx on stripe_event (received_at desc, id desc);

grant select, insert, update (outcome, reason, attempts, next_at, settled_at) on stripe_event to faucet_api, faucet_jobs;
