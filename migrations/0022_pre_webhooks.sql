-- What developers are told of, and credit that operators give away. An event is written by the tx of what it reports,
-- with a delivery for each endpoint that wants it; jobs deliver, and write down every attempt.

create table webhook_endpoint (
    id uuid primary key,
    developer_id uuid not null references developer (id),
    url text not null check (length(url) between 8 and 2048),
    description text check (length(description) between 1 and 200),
    event_types text[] not null default '{}' check (cardinality(event_types) <= 50),  -- none: all
    status text not null default 'active' check (status in ('active', 'disabled')),
    disabled_reason text check (disabled_reason in ('developer', 'failing', 'gone')),
    failing_since timestamptz,
    created_by text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint disabled_for_a_reason check ((status = 'disabled') = (disabled_reason is not null))
);
create index webhook_endpoint_list_idx on webhook_endpoint (developer_id, created_at desc, id desc);

-- Who sets a secret can't read it: the API inserts, jobs sign. Of an endpoint's secrets one has no end, and while a
-- replaced one lives on, both sign.
create table webhook_secret (
    id uuid primary key,
    endpoint_id uuid not null references webhook_endpoint (id) on delete cascade,
    developer_id uuid not null,
    sealed bytea not null check (length(sealed) between 29 and 512),
    created_at timestamptz not null default now(),
    expires_at timestamptz
);
create unique index webhook_secret_current_key on webhook_secret (endpoint_id) where expires_at is null;
create index webhook_secret_endpoint_idx on webhook_secret (endpoint_id);

create table webhook_event (
    id uuid primary key,
    developer_id uuid not null references developer (id),
    type text not null check (type ~ '^[a-z_]{1,40}(\.[a-z_]{1,40})?$'),
    data text not null check (length(data) between 2 and 16384),  -- JSON, byte for byte as it is sent
    key text check (length(key) between 1 and 200),
    created_at timestamptz not null default now(),
    constraint webhook_event_key unique (developer_id, key)
);
create index webhook_event_list_idx on webhook_event (developer_id, created_at desc, id desc);
create index webhook_event_age_idx on webhook_event (created_at);

create table webhook_delivery (
    event_id uuid not null references webhook_event (id) on delete cascade,
    endpoint_id uuid not null references webhook_endpoint (id) on delete cascade,
    developer_id uuid not null,
    state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
    tries integer not null default 0 check (tries >= 0),
    due_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (event_id, endpoint_id)
);
create index webhook_delivery_due_idx on webhook_delivery (endpoint_id, due_at) where state = 'pending';
create index webhook_delivery_endpoint_idx on webhook_delivery (endpoint_id);

create table webhook_attempt (
    id uuid primary key,
    event_id uuid not null,
    endpoint_id uuid not null,
    developer_id uuid not null,
    number integer not null check (number >= 1),
    status_code integer check (status_code between 100 and 999),
    failure text check (length(failure) between 1 and 40),  -- why there was no answer
    duration_ms integer not null check (duration_ms >= 0),
    created_at timestamptz not null default now(),
    foreign key (event_id, endpoint_id) references webhook_delivery (event_id, endpoint_id) on delete cascade,
    constraint one_outcome check ((status_code is null) <> (failure is null))
);
create index webhook_attempt_list_idx on webhook_attempt (event_id, created_at desc, id desc);
create index webhook_attempt_delivery_idx on webhook_attempt (event_id, endpoint_id);

-- Below what a wallet of the app is low; without it, below what the settings say.
alter table app add column wallet_low_e8 bigint check (wallet_low_e8 >= 0);

-- Wallets that were reported low and have not been filled up since. No foreign key: its lock would make holds wait.
create table wallet_low (
    wallet_id bigint primary key,
    developer_id uuid not null,
    since timestamptz not null default now()
);

-- Requests that a spend limit turned away, for the jobs to look at once.
create table limit_refusal (
    id uuid primary key,
    developer_id uuid not null,
    app_id uuid not null,
    feature_id uuid,
    end_user_id uuid not null,
    required_e8 bigint not null check (required_e8 >= 0),
    refused_at timestamptz not null default now()
);

-- Up to where a sweep that goes on from where it was has looked.
create table sweep_mark (
    sweep text primary key check (length(sweep) between 1 and 64),
    seen_until timestamptz not null
);

-- Codes that end users redeem for credit. `redemptions` is counted under the row's lock and can't pass the cap.
create table promo_code (
    id uuid primary key,
    code text not null unique check (code ~ '^[A-Z0-9-]{4,40}$'),
    amount_e8 bigint not null check (amount_e8 > 0),
    redemptions_max integer not null check (redemptions_max between 1 and 10000000),
    redemptions integer not null default 0 check (redemptions >= 0),
    app_id uuid,
    developer_id uuid,
    expires_at timestamptz,
    disabled_at timestamptz,
    created_by text not null,
    created_at timestamptz not null default now(),
    foreign key (app_id, developer_id) references app (id, developer_id),
    constraint never_above_the_cap check (redemptions <= redemptions_max),
    constraint of_one_app_or_all check ((app_id is null) = (developer_id is null))
);
create index promo_code_list_idx on promo_code (created_at desc, id desc);

create table promo_redemption (
    promo_code_id uuid not null references promo_code (id),
    end_user_id uuid not null references end_user (id),
    developer_id uuid not null,
    app_id uuid not null,
    wallet_id bigint not null,
    amount_e8 bigint not null check (amount_e8 > 0),
    created_at timestamptz not null default now(),
    primary key (promo_code_id, end_user_id)
);

grant select, insert, delete on webhook_endpoint to faucet_api;
grant update (url, description, event_types, status, disabled_reason, failing_since, updated_at) on webhook_endpoint
    to faucet_api;
grant select, update (status, disabled_reason, failing_since, updated_at) on webhook_endpoint to faucet_jobs;
grant select (id, endpoint_id, developer_id, created_at, expires_at), insert, update (expires_at), delete
    on webhook_secret to faucet_api;
grant select, delete on webhook_secret to faucet_jobs;
grant select, insert on webhook_event to faucet_api, faucet_jobs;
grant delete on webhook_event to faucet_jobs;
grant select, insert, update (state, tries, due_at, updated_at) on webhook_delivery to faucet_api, faucet_jobs;
grant select on webhook_attempt to faucet_api;
grant select, insert on webhook_attempt to faucet_jobs;
grant select, insert, delete on wallet_low to faucet_jobs;
grant insert on limit_refusal to faucet_gateway;
grant select, delete on limit_refusal to faucet_jobs;
grant select, insert, update (seen_until) on sweep_mark to faucet_jobs;
grant select, insert, update (redemptions, disabled_at) on promo_code to faucet_api;
grant select, insert on promo_redemption to faucet_api;
grant select on promo_code, promo_redemption to faucet_jobs;  -- to reconcile

do $$
declare
    v_table text;
begin
    foreach v_table in array array['webhook_endpoint', 'webhook_secret', 'webhook_event', 'webhook_delivery',
        'webhook_attempt', 'wallet_low', 'limit_refusal', 'promo_redemption'] loop
        execute format('alter table %I enable row level security', v_table);
        execute format('create policy tenant on %I for all to faucet_api
            using (current_setting(''faucet.developer_id'', true) in (''*'', developer_id::text))
            with check (current_setting(''faucet.developer_id'', true) in (''*'', developer_id::text))', v_table);
        execute format('create policy everybody on %I for all to faucet_jobs using (true) with check (true)', v_table);
    end loop;
end
$$;
create policy everybody on promo_code for all to faucet_jobs using (true) with check (true);
create policy everybody_of_gateways on limit_refusal for insert to faucet_gateway with check (true);

-- A code of all apps is everybody's to redeem; one of an app is its developer's.
alter table promo_code enable row level security;
create policy tenant on promo_code for all to faucet_api
    using (current_setting('faucet.developer_id', true) = '*'
        or (nullif(current_setting('faucet.developer_id', true), '') is not null
            and (developer_id is null or current_setting('faucet.developer_id', true) = developer_id::text)))
    with check (current_setting('faucet.developer_id', true) = '*'
        or (nullif(current_setting('faucet.developer_id', true), '') is not null
            and (developer_id is null or current_setting('faucet.developer_id', true) = developer_id::text)));
