-- Developers publish apps with features; an app's end users are known by a keyed hash only; a session is a
-- short-lived grant for one end user, found by the hash of its bearer.
create table developer (
    id uuid primary key,
    name text not null check (length(name) between 1 and 200),
    email text not null check (length(email) between 3 and 320),
    status text not null default 'active' check (status in ('active', 'disabled')),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create unique index developer_email_key on developer (lower(email));

create table app (
    id uuid primary key,
    developer_id uuid not null references developer (id),
    public_app_id text not null unique check (public_app_id ~ '^[a-zA-Z0-9_:-]{1,128}$'),
    name text not null check (length(name) between 1 and 200),
    vertical text,
    default_revenue_share_bps integer not null default 4000 check (default_revenue_share_bps between 0 and 10000),
    status text not null default 'active' check (status in ('active', 'disabled', 'archived')),
    identity_mode text not null default 'open' check (identity_mode in ('open', 'signed')),
    allowed_origins text[] not null default '{}',
    is_public_demo boolean not null default false,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (id, developer_id)
);
create index app_developer_idx on app (developer_id);

create table feature (
    id uuid primary key,
    developer_id uuid not null,
    app_id uuid not null,
    feature_key text not null check (feature_key ~ '^[a-zA-Z0-9_:-]{1,128}$'),
    display_name text not null check (length(display_name) between 1 and 200),
    policy jsonb not null default '{}',
    pricing jsonb not null default '{}',
    status text not null default 'active' check (status in ('active', 'archived')),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (app_id, feature_key),
    foreign key (app_id, developer_id) references app (id, developer_id)
);

create table end_user (
    id uuid primary key,
    developer_id uuid not null,
    app_id uuid not null,
    external_id_hash bytea not null check (length(external_id_hash) = 32),
    created_at timestamptz not null default now(),
    unique (app_id, external_id_hash),
    foreign key (app_id, developer_id) references app (id, developer_id)
);

create table session (
    id uuid primary key,
    developer_id uuid not null,
    app_id uuid not null references app (id),
    feature_id uuid references feature (id),
    end_user_id uuid not null references end_user (id),
    bearer_hash bytea not null unique check (length(bearer_hash) = 32),
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    revoked_at timestamptz
);
create index session_expiry_brin on session using brin (expires_at);

grant select, insert, update on developer, app, feature to faucet_api;
grant select, insert on end_user to faucet_api;
grant select, insert, update (revoked_at) on session to faucet_api;
grant select on developer, app, feature to faucet_gateway, faucet_jobs;
grant select on end_user, session to faucet_jobs;
grant delete on session to faucet_jobs;
