-- Tenancy: what a developer's token may see is decided by the database too. A door sets `faucet.developer_id` for
-- its tx, to one developer or to '*'; without it, no row is there. The ledger's functions run as the owner, whom no
-- policy binds, and so are as fast as before; the gateway and the jobs serve all developers.

create table developer_token (
    id uuid primary key,
    developer_id uuid not null references developer (id),
    name text not null check (length(name) between 1 and 200),
    token_hash bytea not null unique check (length(token_hash) = 32),
    token_prefix text not null,
    scopes text[] not null check (cardinality(scopes) between 1 and 50),
    created_by text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    last_used_at timestamptz,  -- within a minute
    expires_at timestamptz,
    revoked_at timestamptz
);
create index developer_token_list_idx on developer_token (developer_id, created_at desc, id desc);

-- What each version of a feature said. The row of `feature` is the version in force, copied, so that requests
-- read one row and an activation is one update.
alter table feature add column version integer not null default 1 check (version >= 1);
create table feature_version (
    feature_id uuid not null references feature (id),
    version integer not null check (version >= 1),
    developer_id uuid not null,
    display_name text not null,
    policy jsonb not null,
    pricing jsonb not null,
    created_by text not null,
    created_at timestamptz not null default now(),
    primary key (feature_id, version)
);
insert into feature_version (feature_id, version, developer_id, display_name, policy, pricing, created_by, created_at)
select id, version, developer_id, display_name, policy, pricing, 'migration', created_at from feature;
create trigger feature_version_is_history before update or delete on feature_version
    for each row execute function ledger_refuse_v1();
create trigger feature_version_is_kept before truncate on feature_version
    for each statement execute function ledger_refuse_v1();

-- What each session of an app may spend in all. The limit of a month is a spend_limit of the app itself.
alter table app add column session_spend_limit_e8 bigint check (session_spend_limit_e8 >= 0);

-- The limit of a session that its tx is just making. It has no holds and no usage yet, so nothing needs a lock.
create function session_limit_open_v1(p_session uuid, p_limit bigint) returns void
language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    if not exists (select from session where id = p_session and xmin = pg_current_xact_id()::xid) then
        raise exception 'the session % was not made just now', p_session using errcode = 'restrict_violation';
    end if;
    insert into spend_limit (scope, scope_id, period, limit_e8) values ('session', p_session, 'total', p_limit);
end
$$;
revoke execute on function session_limit_open_v1 from public;
grant execute on function session_limit_open_v1 to faucet_api;

-- Replies of the control API, sealed, for repeated Idempotency-Keys. A row is made by the tx that does the work.
create table api_idempotency (
    principal text not null,
    key_hash bytea not null check (length(key_hash) = 32),
    fingerprint bytea not null check (length(fingerprint) = 32),
    status integer,
    sealed bytea,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    primary key (principal, key_hash)
);
create index api_idempotency_expiry_idx on api_idempotency (expires_at);

-- Who changed what. Rows are added by the tx that makes the change, and never change themselves.
create table audit_log (
    id uuid primary key,
    created_at timestamptz not null default now(),
    developer_id uuid,  -- whose resource; none where it is the platform's
    actor_scope text not null,
    actor_id text,
    action text not null,
    resource_type text not null,
    resource_id text,
    request_id text,
    before jsonb,
    after jsonb
);
create index audit_log_list_idx on audit_log (created_at desc, id desc);
create index audit_log_developer_idx on audit_log (developer_id, created_at desc, id desc);
create index audit_log_resource_idx on audit_log (resource_type, resource_id, created_at desc);
create trigger audit_log_is_immutable before update or delete on audit_log
    for each row execute function ledger_refuse_v1();
create trigger audit_log_is_kept before truncate on audit_log
    for each statement execute function ledger_refuse_v1();

-- What an operator has switched off: one app, one provider, or everything. Gateways look every few seconds and
-- when they are told to.
create table kill_switch (
    target text not null check (target in ('app', 'provider', 'everything')),
    target_id text not null default '',  -- the app's id, the provider's name
    reason text not null check (length(reason) between 1 and 500),
    thrown_by text not null,
    thrown_at timestamptz not null default now(),
    primary key (target, target_id),
    constraint everything_has_no_id check ((target = 'everything') = (target_id = ''))
);

grant select, insert on developer_token, feature_version, audit_log to faucet_api;
grant update (last_used_at, revoked_at, updated_at) on developer_token to faucet_api;
grant select, insert, update, delete on api_idempotency, kill_switch to faucet_api;
grant select (principal, key_hash, expires_at), delete on api_idempotency to faucet_jobs;
grant select, insert on audit_log to faucet_jobs;
grant select on kill_switch to faucet_gateway, faucet_jobs;

do $$
declare
    v_table text;
    v_owner text;
begin
    foreach v_table in array array['developer', 'app', 'feature', 'feature_version', 'end_user', 'session', 'account', 'hold',
        'hold_resolution', 'usage_event', 'developer_token', 'audit_log'] loop
        v_owner := case v_table when 'developer' then 'id' else 'developer_id' end;
        execute format('alter table %I enable row level security', v_table);
        execute format('create policy tenant on %I for all to faucet_api
            using (current_setting(''faucet.developer_id'', true) in (''*'', %I::text))
            with check (current_setting(''faucet.developer_id'', true) in (''*'', %I::text))', v_table, v_owner, v_owner);
        execute format('create policy everybody on %I for all to faucet_gateway, faucet_jobs
            using (true) with check (true)', v_table);
    end loop;
end
$$;
