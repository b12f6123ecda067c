-- Keys with which an app's backend vouches for its users' ids, several at a time so that they can be rotated, and
-- which of its words were taken already. Of an EdDSA key we have the public half only; an HS256 secret is sealed
-- under a key that the database doesn't have.
create table app_signing_key (
    id uuid primary key,
    developer_id uuid not null,
    app_id uuid not null,
    key_id text not null unique check (key_id ~ '^[a-zA-Z0-9_-]{8,64}$'),
    name text not null check (length(name) between 1 and 200),
    kind text not null check (kind in ('HS256', 'EdDSA')),
    public_key bytea check (length(public_key) = 32),
    sealed_secret bytea,
    created_by text not null,
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    constraint one_half check ((kind = 'EdDSA') = (public_key is not null) and (kind = 'HS256') = (sealed_secret is not null)),
    foreign key (app_id, developer_id) references app (id, developer_id)
);
create index app_signing_key_app_idx on app_signing_key (app_id, created_at desc, id desc);

create table end_user_token_seen (
    app_id uuid not null references app (id),
    jti_hash bytea not null check (length(jti_hash) = 32),
    developer_id uuid not null,
    expires_at timestamptz not null,
    primary key (app_id, jti_hash)
);
create index end_user_token_expiry_idx on end_user_token_seen (expires_at);

grant select, insert, update (revoked_at) on app_signing_key to faucet_api;
grant select, insert on end_user_token_seen to faucet_api;
grant select, delete on end_user_token_seen to faucet_jobs;

do $$
declare
    v_table text;
begin
    foreach v_table in array array['app_signing_key', 'end_user_token_seen'] loop
        execute format('alter table %I enable row level security', v_table);
        execute format('create policy tenant on %I for all to faucet_api
            using (current_setting(''faucet.developer_id'', true) in (''*'', developer_id::text))
            with check (current_setting(''faucet.developer_id'', true) in (''*'', developer_id::text))', v_table);
        execute format('create policy everybody on %I for all to faucet_jobs using (true) with check (true)', v_table);
    end loop;
end
$$;
