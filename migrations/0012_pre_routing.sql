-- Stored provider keys in use: what gateways tell of them, and budgets, reserved in the commit that reserves on the
-- wallet. What models on end users' own machines answered, as their bridges report it.

-- Told in sums every few seconds, not by a row for each request.
alter table credential
    add column use_count bigint not null default 0,
    add column failing_since timestamptz,  -- the provider refuses it; the next answer, or another secret, clears it
    add column last_error_code text;
grant select (use_count, failing_since, last_error_code) on credential to faucet_api;
grant update (failing_since, last_error_code) on credential to faucet_api;
grant update (use_count, failing_since, last_error_code) on credential to faucet_gateway;

-- How much of a credential's budget is gone: what answers cost its owner at the provider, by our price book.
create table credential_budget (
    credential_id uuid primary key references credential (id),
    spent_e8 bigint not null default 0 check (spent_e8 >= 0),
    held_e8 bigint not null default 0 check (held_e8 >= 0)
) with (fillfactor = 25);

-- What open holds reserve on budgets: the most that each attempt could cost.
create table budget_hold (
    hold_id uuid not null,
    credential_id uuid not null,
    held_e8 bigint not null check (held_e8 >= 0),
    primary key (hold_id, credential_id)
);

-- What each answer took of a budget.
create table budget_charge (
    event_id uuid primary key,
    credential_id uuid not null,
    cost_e8 bigint not null check (cost_e8 >= 0),
    created_at timestamptz not null default now()
);
create index budget_charge_credential_idx on budget_charge (credential_id);
create trigger budget_charge_is_immutable before update or delete on budget_charge
    for each row execute function ledger_refuse_v1();
create trigger budget_charge_is_kept before truncate on budget_charge
    for each statement execute function ledger_refuse_v1();

-- The budgets' part of a group, in the same commit, after everything else: their rows are locked last of all, by id.
-- Frees what these holds reserve, adds what answers cost, and reserves for new holds where there is room. A hold
-- without room on one of its credentials stands; the gateway does without that credential. Harmless to repeat.
create function budget_group_v1(
    p_freed uuid[], p_charged uuid[], p_charged_credential uuid[], p_cost bigint[],
    p_hold uuid[], p_credential uuid[], p_amount bigint[], out granted boolean[]
) language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_limit bigint;
    v_taken bigint;
    i integer;
begin
    granted := array_fill(false, array[cardinality(p_hold)]);
    insert into credential_budget (credential_id)
    select c.id from credential c where c.id = any (p_charged_credential || p_credential) order by c.id
    on conflict do nothing;
    perform from credential_budget where credential_id in (
        select unnest(p_charged_credential || p_credential)
        union select b.credential_id from budget_hold b where b.hold_id = any (p_freed)
    ) order by credential_id for update;
    with gone as (
        delete from budget_hold b where b.hold_id = any (p_freed) returning b.credential_id, b.held_e8
    ), charged as (
        insert into budget_charge (event_id, credential_id, cost_e8)
        select u.id, u.credential, u.cost from unnest(p_charged, p_charged_credential, p_cost) u (id, credential, cost)
        order by u.id
        on conflict (event_id) do nothing returning credential_id, cost_e8
    )
    update credential_budget c set held_e8 = c.held_e8 - d.held, spent_e8 = c.spent_e8 + d.spent
    from (
        select s.credential_id, sum(s.held)::bigint as held, sum(s.spent)::bigint as spent from (
            select g.credential_id, g.held_e8 as held, 0 as spent from gone g
            union all select h.credential_id, 0, h.cost_e8 from charged h
        ) s group by s.credential_id
    ) d
    where c.credential_id = d.credential_id;
    for i in 1..cardinality(p_hold) loop
        select c.budget_limit_e8, b.spent_e8 + b.held_e8 into v_limit, v_taken
        from credential c join credential_budget b on b.credential_id = c.id
        where c.id = p_credential[i] and c.status = 'active';
        continue when not found or p_amount[i] < 0 or v_taken + p_amount[i] > v_limit;
        granted[i] := true;
        insert into budget_hold (hold_id, credential_id, held_e8) values (p_hold[i], p_credential[i], p_amount[i])
        on conflict do nothing;
        if found then
            update credential_budget set held_e8 = held_e8 + p_amount[i] where credential_id = p_credential[i];
        end if;
    end loop;
end
$$;

-- As before, and frees what those holds reserve on budgets.
create or replace function expire_holds_v1(p_limit integer) returns table (id uuid, amount_e8 bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_wallet bigint[];
    v_id uuid[];
begin
    lock table hold in row exclusive mode;
    select array_agg(o.wallet_id) into v_wallet from (
        select h.wallet_id from hold h where h.lease_expires_at < now() order by h.id limit p_limit) o;
    perform from account a where a.id = any (v_wallet) order by a.id for update;
    select array_agg(o.id) into v_id from (
        select h.id from hold h where h.lease_expires_at < now() and h.wallet_id = any (v_wallet)
        order by h.id limit p_limit for update skip locked) o;
    if v_id is null then
        return;
    end if;
    perform release_v1(v_id, array_fill('expired'::text, array[cardinality(v_id)]),
        array_fill('lease ran out'::text, array[cardinality(v_id)]));
    if exists (select from budget_hold b where b.hold_id = any (v_id)) then
        perform budget_group_v1(v_id, '{}', '{}', '{}', '{}', '{}', '{}');
    end if;
    return query select r.id, r.amount_e8 from hold_resolution r where r.id = any (v_id);
end
$$;

-- What models on end users' own machines answered. Nobody but the end user can vouch for it, so it moves no money;
-- a report's id makes sending it again harmless.
-- The new one allows more than the old one did.
-- squawk-ignore ban-drop-constraint
alter table usage_event drop constraint known_codes;
alter table usage_event add constraint known_codes check (least(payer, usage_source, outcome) >= 0 and payer <= 3
    and usage_source <= 2 and outcome <= 2) not valid;
-- squawk-ignore constraint-missing-not-valid
alter table usage_event validate constraint known_codes;
create table local_usage_report (
    end_user_id uuid not null references end_user (id),
    request_id text not null check (length(request_id) between 1 and 128),
    developer_id uuid not null,
    event_id uuid not null unique,
    fingerprint bytea not null check (length(fingerprint) = 32),
    happened_at timestamptz not null,
    created_at timestamptz not null default now(),
    primary key (end_user_id, request_id)
);
create index local_usage_report_developer_idx on local_usage_report (developer_id, created_at desc);
alter table local_usage_report enable row level security;
create policy tenant on local_usage_report for all to faucet_api
    using (current_setting('faucet.developer_id', true) in ('*', developer_id::text))
    with check (current_setting('faucet.developer_id', true) in ('*', developer_id::text));

-- Note reports of a session's end user. Status: 0 noted · 4 noted before · 5 the id was used for another report.
create function local_usage_v1(
    p_session uuid, p_event uuid[], p_request_id text[], p_fingerprint bytea[], p_feature uuid[], p_provider text[],
    p_model text[], p_input integer[], p_output integer[], p_duration_ms integer[], p_happened timestamptz[],
    out status smallint[]
) language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_session session%rowtype;
    v_wallet bigint;
    i integer;
begin
    status := array_fill(0::smallint, array[cardinality(p_event)]);
    select * into strict v_session from session where id = p_session;
    select a.id into strict v_wallet from account a where a.kind = 'wallet' and a.developer_id = v_session.developer_id
        and a.owner_id = v_session.end_user_id and a.label = '' and a.currency = 'USD';
    for i in 1..cardinality(p_event) loop
        insert into local_usage_report (end_user_id, request_id, developer_id, event_id, fingerprint, happened_at)
        values (v_session.end_user_id, p_request_id[i], v_session.developer_id, p_event[i], p_fingerprint[i],
            p_happened[i])
        on conflict (end_user_id, request_id) do nothing;
        if not found then
            status[i] := case when exists (select from local_usage_report r
                where r.end_user_id = v_session.end_user_id and r.request_id = p_request_id[i]
                    and r.fingerprint = p_fingerprint[i]) then 4 else 5 end;
            continue;
        end if;
        insert into usage_event (id, developer_id, app_id, feature_id, end_user_id, session_id, wallet_id, held_e8,
            cost_e8, retail_e8, channel_e8, platform_e8, write_off_e8, price_id, input_tokens, cached_read_tokens,
            cached_write_tokens, output_tokens, reasoning_tokens, duration_ms, payer, usage_source, outcome, provider,
            model, request_id)
        values (p_event[i], v_session.developer_id, v_session.app_id, p_feature[i], v_session.end_user_id, p_session,
            v_wallet, 0, 0, 0, 0, 0, 0, 0, p_input[i], 0, 0, p_output[i], 0, p_duration_ms[i], 3, 2, 0, p_provider[i],
            p_model[i], p_request_id[i]);
    end loop;
end
$$;

-- Whose developer token this is, if it may do that now: a gateway shows the reasons for a route to its holder.
create function developer_token_holder_v1(p_hash bytea, p_scope text) returns uuid
language sql stable security definer set search_path = pg_catalog, public as $$
    select t.developer_id from developer_token t join developer d on d.id = t.developer_id and d.status = 'active'
    where t.token_hash = p_hash and t.revoked_at is null and (t.expires_at is null or t.expires_at > now())
        and p_scope = any (t.scopes)
$$;

revoke execute on function budget_group_v1, local_usage_v1, developer_token_holder_v1 from public;
grant execute on function budget_group_v1, developer_token_holder_v1 to faucet_gateway;
grant execute on function local_usage_v1 to faucet_api;
grant select on credential_budget to faucet_gateway, faucet_api, faucet_jobs;
grant select on budget_hold, budget_charge to faucet_jobs, faucet_api;
grant select on local_usage_report to faucet_api;
