-- Secrets of providers, sealed. Whoever writes one can't read it: the API seals to a public key and may not select what
-- it sealed; the private keys are wrapped by a key that is not in this database, and only gateways may read them.
create table vault_key (
    id uuid primary key,
    public_key bytea not null check (length(public_key) = 32),
    wrapped bytea not null check (length(wrapped) between 32 and 16384),
    kek text not null check (length(kek) between 1 and 500),  -- which key-encryption key wrapped it
    created_at timestamptz not null default now()
);

-- A provider's secret of the platform, a developer or an end user. What is sealed opens only in this row, for this
-- owner, provider and address: a row that was copied, moved or pointed elsewhere is of no use.
create table credential (
    id uuid primary key,
    owner text not null check (owner in ('platform', 'developer', 'end_user')),
    developer_id uuid references developer (id),
    app_id uuid,
    end_user_id uuid references end_user (id),
    provider text not null check (provider ~ '^[a-z0-9_-]{1,64}$'),
    base_url text check (length(base_url) between 1 and 2048),
    sealed bytea check (length(sealed) between 49 and 8192),
    key_id uuid references vault_key (id),
    mask text not null check (length(mask) between 4 and 16),
    models_allowed text[] not null default '{}' check (cardinality(models_allowed) <= 100),
    priority integer not null default 100 check (priority between 1 and 1000),
    weight integer not null default 1 check (weight between 1 and 1000),
    budget_limit_e8 bigint check (budget_limit_e8 >= 0),
    fallback_to_platform boolean not null default false,
    status text not null default 'active' check (status in ('active', 'disabled')),
    last_used_at timestamptz,
    last_validated_at timestamptz,
    -- The API can't open what it is asked to try: it asks, a gateway answers.
    validation_asked_at timestamptz,
    validation_answer text check (validation_answer in ('accepted', 'refused', 'unknown', 'unsafe')),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    foreign key (app_id, developer_id) references app (id, developer_id),
    constraint owner_is_whole check (
        case owner
            when 'platform' then developer_id is null and app_id is null and end_user_id is null
            when 'developer' then developer_id is not null and end_user_id is null
            else developer_id is not null and app_id is not null and end_user_id is not null
        end
    ),
    -- A disabled credential is gone for good: its secret is erased with it.
    constraint active_is_sealed check (
        (status = 'active') = (sealed is not null) and (sealed is null) = (key_id is null)
    )
);
create index credential_end_user_idx on credential (end_user_id, created_at desc, id desc) where end_user_id is not null;
create index credential_developer_idx on credential (developer_id, created_at desc, id desc) where owner = 'developer';
create index credential_validation_idx on credential (validation_asked_at) where validation_asked_at is not null;
create index credential_key_idx on credential (key_id, id) where key_id is not null;

alter table credential enable row level security;
create policy tenant on credential for all to faucet_api
    using (current_setting('faucet.developer_id') in ('*', developer_id::text))
    with check (current_setting('faucet.developer_id') in ('*', developer_id::text));
create policy everybody on credential for all to faucet_gateway using (true) with check (true);

grant select (id, public_key, created_at) on vault_key to faucet_api;
grant select on vault_key, credential to faucet_gateway;
grant update (last_used_at, last_validated_at, validation_asked_at, validation_answer) on credential to faucet_gateway;
grant insert on credential to faucet_api;
grant select (
    id, owner, developer_id, app_id, end_user_id, provider, base_url, key_id, mask, models_allowed, priority, weight,
    budget_limit_e8, fallback_to_platform, status, last_used_at, last_validated_at,
    validation_asked_at, validation_answer, created_at, updated_at
) on credential to faucet_api;
grant update (
    sealed, key_id, mask, models_allowed, priority, weight, budget_limit_e8, fallback_to_platform, status,
    last_validated_at, validation_asked_at, validation_answer, updated_at
) on credential to faucet_api;
