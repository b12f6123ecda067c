-- What is final: the horizon before which nothing is booked any more, months that were closed behind it with their
-- signed statements, and hours of usage that were added up behind it. Invoices of providers, to compare with.

-- The horizon. Who books reads it and keeps it locked, shared, to the end of its tx; who moves it locks it alone. So
-- when it has moved, every tx that was allowed to book before it has ended, and none that began before it may book.
create table ledger_horizon (
    is_only boolean primary key default true check (is_only),
    final_until timestamptz not null
);
insert into ledger_horizon (final_until) values ('2000-01-01 00:00:00+00');

-- Transfers and usage events are dated by the beginning of their tx; no door may say otherwise. The statement that is
-- refused is repeated by who sent it, in a new tx of a later date.
create function ledger_final_v1() returns trigger language plpgsql as $$
declare
    v_until timestamptz;
begin
    lock table ledger_horizon in access share mode;
    select h.final_until into v_until from ledger_horizon h;
    if now() < v_until then
        raise exception 'what happened before % is final, and this tx began at %', v_until, now()
            using errcode = 'serialization_failure';
    end if;
    return null;
end
$$;
create trigger transfer_is_not_late before insert on transfer
    for each statement execute function ledger_final_v1();
create trigger usage_event_is_not_late before insert on usage_event
    for each statement execute function ledger_final_v1();

-- Make everything before a moment final. In a tx of its own: the lock is taken last of all. Waits only briefly, since
-- who books waits behind it; the caller tries again.
create function ledger_finalize_v1(p_until timestamptz) returns timestamptz
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_until timestamptz;
begin
    if p_until > now() - interval '1 hour' then
        raise exception 'less than an hour ago is not final yet' using errcode = 'restrict_violation';
    end if;
    perform set_config('lock_timeout', '250ms', true);
    lock table ledger_horizon in access exclusive mode;
    update ledger_horizon set final_until = p_until where final_until < p_until;
    select h.final_until into v_until from ledger_horizon h;
    return v_until;
end
$$;

-- Rows come in the order of time, so the smallest index there is finds a month of them.
-- squawk-ignore require-concurrent-index-creation
create index usage_event_time_idx on usage_event using brin (created_at) with (pages_per_range = 32, autosummarize = on);
-- squawk-ignore require-concurrent-index-creation
create index transfer_time_idx on transfer using brin (created_at) with (pages_per_range = 32, autosummarize = on);

-- Usage by the hour, of whole hours before `rolled_until`, all of which are final.
create table usage_hour (
    hour timestamptz not null,
    developer_id uuid not null,
    app_id uuid not null,
    feature_id uuid,
    feature_version integer,
    provider text not null,
    model text not null,
    payer smallint not null,
    calls bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cost_e8 bigint not null,
    retail_e8 bigint not null,
    channel_e8 bigint not null,
    platform_e8 bigint not null,
    constraint usage_hour_place unique nulls not distinct
        (app_id, hour, feature_id, feature_version, provider, model, payer)
);
create index usage_hour_time_idx on usage_hour (hour);
create table usage_rolled (
    is_only boolean primary key default true check (is_only),
    rolled_until timestamptz not null
);
insert into usage_rolled (rolled_until) values ('2000-01-01 00:00:00+00');

-- Add up the next hours, a day of them at most, that end before `p_final`, which is a horizon that was reached. Gives
-- how far it came, and nothing where there is nothing to do.
create function usage_roll_up_v1(p_final timestamptz) returns timestamptz
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_from timestamptz;
    v_until timestamptz;
begin
    select r.rolled_until into v_from from usage_rolled r for update;
    if v_from = '2000-01-01 00:00:00+00' then
        select coalesce(date_trunc('day', min(u.created_at), 'UTC'), v_from) into v_from from usage_event u;
    end if;
    v_until := least(v_from + interval '1 day', date_trunc('hour', p_final, 'UTC'));
    if v_until <= v_from or not exists (select from usage_event) then
        return null;
    end if;
    insert into usage_hour (hour, developer_id, app_id, feature_id, feature_version, provider, model, payer, calls,
        input_tokens, output_tokens, cost_e8, retail_e8, channel_e8, platform_e8)
    select date_trunc('hour', u.created_at, 'UTC'), u.developer_id, u.app_id, u.feature_id, u.feature_version,
        u.provider, u.model, u.payer, count(*), sum(u.input_tokens::bigint + u.cached_read_tokens + u.cached_write_tokens),
        sum(u.output_tokens), sum(u.cost_e8), sum(u.retail_e8), sum(u.channel_e8), sum(u.platform_e8)
    from usage_event u where u.created_at >= v_from and u.created_at < v_until
    group by 1, 2, 3, 4, 5, 6, 7, 8;
    update usage_rolled set rolled_until = v_until;
    return v_until;
end
$$;

-- Months. One is asked to be closed, then its sums and statements are written, then it is closed.
create table period (
    month date primary key check (month = date_trunc('month', month::timestamp)::date),
    asked_by text not null,
    asked_at timestamptz not null default now(),
    summed_at timestamptz,
    closed_at timestamptz,
    statements integer not null default 0
);

-- What a month moved on each account that statements are about, by code; credits are positive. The sums of all closed
-- months are the balance at the end of the last.
create table period_sum (
    month date not null references period (month),
    account_id bigint not null references account (id),
    code smallint not null,
    amount_e8 bigint not null,
    developer_id uuid not null,
    primary key (account_id, month, code)
);
create index period_sum_month_idx on period_sum (month, developer_id);
create trigger period_sum_is_immutable before update or delete on period_sum
    for each row execute function ledger_refuse_v1();
create trigger period_sum_is_kept before truncate on period_sum
    for each statement execute function ledger_refuse_v1();

create function period_sum_v1(p_month date) returns void
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_from timestamptz := p_month::timestamp at time zone 'UTC';
    v_until timestamptz := (p_month + interval '1 month') at time zone 'UTC';
begin
    perform from period p where p.month = p_month and p.summed_at is null for update;
    if not found then
        return;
    end if;
    insert into period_sum (month, account_id, code, amount_e8, developer_id)
    select p_month, s.account_id, s.code, sum(s.amount), a.developer_id
    from (
        select t.debit_id as account_id, t.code, -sum(t.amount_e8) as amount from transfer t
        where t.created_at >= v_from and t.created_at < v_until group by 1, 2
        union all
        select t.credit_id, t.code, sum(t.amount_e8) from transfer t
        where t.created_at >= v_from and t.created_at < v_until group by 1, 2
    ) s
    join account a on a.id = s.account_id and a.kind in ('wallet', 'earnings', 'payout_clearing')
    group by s.account_id, s.code, a.developer_id;
    update period set summed_at = now() where month = p_month;
end
$$;

-- A statement is the text that was signed. Each names the hash of the one before it, of the same developer or end
-- user, so that none can be changed or left out alone.
create table statement_key (
    key_id text primary key,
    public_key bytea not null check (length(public_key) = 32),
    created_at timestamptz not null default now()
);
create table statement (
    id uuid primary key,
    month date not null references period (month),
    developer_id uuid not null,
    end_user_id uuid,  -- none where the statement is the developer's own
    body text not null,
    hash bytea not null check (length(hash) = 32),
    signature bytea not null check (length(signature) = 64),
    key_id text not null references statement_key (key_id),
    created_at timestamptz not null default now(),
    unique nulls not distinct (developer_id, end_user_id, month)
);
create index statement_list_idx on statement (developer_id, month desc) where end_user_id is null;
create index statement_end_user_idx on statement (end_user_id, month desc) where end_user_id is not null;
create trigger statement_is_immutable before update or delete on statement
    for each row execute function ledger_refuse_v1();
create trigger statement_is_kept before truncate on statement
    for each statement execute function ledger_refuse_v1();

-- What providers say that we used, as an operator imported it. One that was wrong is withdrawn and stays.
create table provider_invoice (
    id uuid primary key,
    provider text not null check (length(provider) between 1 and 100),
    reference text not null check (length(reference) between 1 and 200),
    first_day date not null,
    last_day date not null,
    imported_by text not null,
    imported_at timestamptz not null default now(),
    withdrawn_at timestamptz,
    constraint days_in_order check (first_day <= last_day)
);
create unique index provider_invoice_reference_idx on provider_invoice (provider, reference) where withdrawn_at is null;
create index provider_invoice_list_idx on provider_invoice (imported_at desc, id desc);
create table provider_invoice_line (
    invoice_id uuid not null references provider_invoice (id),
    day date not null,
    model text not null check (length(model) between 1 and 200),
    amount_e8 bigint not null check (amount_e8 >= 0),
    primary key (invoice_id, day, model)
);

grant select on usage_hour, usage_rolled, period, statement, statement_key, provider_invoice, provider_invoice_line,
    period_sum, ledger_horizon to faucet_api, faucet_jobs;
grant insert on period to faucet_api, faucet_jobs;
grant insert on provider_invoice, provider_invoice_line to faucet_api;
grant update (withdrawn_at) on provider_invoice to faucet_api;
grant insert on statement, statement_key to faucet_jobs;
grant update (closed_at, statements) on period to faucet_jobs;

revoke execute on function ledger_final_v1, ledger_finalize_v1, usage_roll_up_v1, period_sum_v1 from public;
grant execute on function ledger_finalize_v1, usage_roll_up_v1, period_sum_v1 to faucet_jobs;

do $$
declare
    v_table text;
begin
    foreach v_table in array array['usage_hour', 'period_sum', 'statement'] loop
        execute format('alter table %I enable row level security', v_table);
        execute format('create policy tenant on %I for all to faucet_api
            using (current_setting(''faucet.developer_id'', true) in (''*'', developer_id::text))
            with check (current_setting(''faucet.developer_id'', true) in (''*'', developer_id::text))', v_table);
        execute format('create policy everybody on %I for all to faucet_jobs using (true) with check (true)', v_table);
    end loop;
end
$$;
