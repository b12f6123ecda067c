-- Money on its way to developers. A payout's amount waits in payout_clearing from its opening to its end; its id is
-- the event of the transfers that open and end it, so that none of them can be booked twice.

-- Where a developer's payouts go at the processor; a developer without one is paid by hand.
create table payout_account (
    developer_id uuid primary key references developer (id),
    provider_account_id text not null unique check (length(provider_account_id) between 1 and 255),
    is_ready boolean not null default false,  -- the processor would pay it
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table payout (
    id uuid primary key,
    developer_id uuid not null references developer (id),
    amount_e8 bigint not null,
    status text not null default 'requested'
        check (status in ('requested', 'approved', 'sent', 'paid', 'failed', 'cancelled')),
    provider text not null check (provider in ('manual', 'stripe')),
    provider_account_id text,
    run text,  -- the scheduled run that opened it
    requested_by text not null check (length(requested_by) between 1 and 200),
    approved_by text check (length(approved_by) between 1 and 200),
    operator_note text,
    reason text,  -- why it was cancelled, failed or is to be taken back
    -- What is known of the calls to the processor. `attempts` counts those of the present step, the one that may be
    -- running included; `key_number` goes up when the processor has refused what was asked under the key before.
    attempts integer not null default 0 check (attempts >= 0),
    key_number integer not null default 1 check (key_number >= 1),
    next_attempt_at timestamptz,
    last_error text,
    provider_transfer_id text unique,
    provider_payout_id text,
    provider_reversal_id text unique,
    created_at timestamptz not null default now(),
    approved_at timestamptz,
    sent_at timestamptz,  -- before the first call: from here on the money may have left
    paid_at timestamptz,
    stop_asked_at timestamptz,  -- take it back, if it has left
    ended_at timestamptz,
    updated_at timestamptz not null default now(),
    unique (developer_id, run),
    constraint whole_cents check (amount_e8 > 0 and amount_e8 % 1000000 = 0),
    constraint four_eyes check (approved_by <> requested_by),
    constraint approved_before_paid check (approved_by is not null or status in ('requested', 'cancelled')),
    constraint account_of_stripe check ((provider = 'stripe') = (provider_account_id is not null)),
    constraint sent_before_called check (sent_at is not null or (attempts = 0 and provider_transfer_id is null)),
    constraint paid_has_a_time check (status <> 'paid' or paid_at is not null),
    constraint ended_has_a_time check ((status in ('paid', 'failed', 'cancelled')) = (ended_at is not null))
);
create unique index payout_stripe_payout_key on payout (provider_payout_id) where provider = 'stripe';
create index payout_list_idx on payout (created_at desc, id desc);
create index payout_developer_idx on payout (developer_id, created_at desc, id desc);
create index payout_due_idx on payout (next_attempt_at) where next_attempt_at is not null;

-- What may become of a payout. Whose it is, how much and where to are settled when it is opened.
create function payout_refuse_change_v1() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE'
        and (new.id, new.developer_id, new.amount_e8, new.provider, new.provider_account_id, new.run, new.requested_by,
            new.created_at) is not distinct from (old.id, old.developer_id, old.amount_e8, old.provider,
            old.provider_account_id, old.run, old.requested_by, old.created_at)
        and (old.approved_by is null or new.approved_by is not distinct from old.approved_by)
        and (old.provider_transfer_id is null or new.provider_transfer_id is not distinct from old.provider_transfer_id)
        and (old.provider_reversal_id is null or new.provider_reversal_id is not distinct from old.provider_reversal_id)
        and new.key_number >= old.key_number
        and (old.status in ('requested', 'approved', 'sent', 'paid') and new.status = old.status
            or (old.status, new.status) in (('requested', 'approved'), ('requested', 'cancelled'),
                ('approved', 'cancelled'), ('approved', 'failed'), ('sent', 'paid'), ('sent', 'failed'),
                ('paid', 'failed'))
            or old.provider = 'stripe' and (old.status, new.status) = ('approved', 'sent')
            or old.provider = 'manual' and (old.status, new.status) = ('approved', 'paid')) then
        return new;
    end if;
    raise exception 'a payout that is % may not become %', old.status, coalesce(new.status, 'deleted')
        using errcode = 'restrict_violation';
end
$$;
create trigger payout_goes_forward before update or delete on payout
    for each row execute function payout_refuse_change_v1();
create trigger payout_is_kept before truncate on payout
    for each statement execute function ledger_refuse_v1();

drop trigger move_is_fixed on move;
insert into move (code, name, debit_kind, credit_kind) values (43, 'payout_returned', 'stripe_clearing', 'earnings');
create trigger move_is_fixed before insert or update or delete on move
    for each row execute function ledger_refuse_v1();

-- What left a developer's earnings so far other than to come back: payouts that were not returned, corrections.
create function earnings_spent_v1(p_earnings bigint) returns bigint language sql stable as $$
    select coalesce((select sum(t.amount_e8) from transfer t where t.debit_id = p_earnings and t.code >= 10), 0)::bigint
        - coalesce((select sum(t.amount_e8) from transfer t
            where t.credit_id = p_earnings and t.code >= 10 and t.code in (42, 43)), 0)::bigint
$$;

-- What came in after a moment: shares of answers, the cost of answers through the developer's own keys, corrections.
-- What came back of payouts had been there before.
create function earnings_young_v1(p_developer uuid, p_earnings bigint, p_since timestamptz) returns bigint
language sql stable as $$
    select coalesce((select sum(u.channel_e8 + case u.payer when 1 then u.cost_e8 else 0 end)
            from app a join usage_event u on u.app_id = a.id and u.created_at > p_since
            where a.developer_id = p_developer), 0)::bigint
        + coalesce((select sum(t.amount_e8) from transfer t
            where t.credit_id = p_earnings and t.code >= 10 and t.code not in (42, 43) and t.created_at > p_since), 0)::bigint
$$;

-- What of a developer's earnings is old enough to be paid out. Whatever left them is taken from the oldest.
create function earnings_mature_v1(p_developer uuid, p_since timestamptz) returns bigint
language sql stable security definer set search_path = pg_catalog, public as $$
    select greatest(a.posted_e8 - earnings_young_v1(p_developer, a.id, p_since), 0)
    from account a where a.kind = 'earnings' and a.developer_id = p_developer and a.label = '' and a.currency = 'USD'
$$;

-- Open a payout: move `p_amount`, or all whole cents between `p_least` and `p_most`, of what is old enough from
-- earnings to payout_clearing. Status as in 0005: 1 is less than wanted, 4 the same payout or key again.
--
-- Every settlement of the developer's apps needs the row of earnings, so what takes long, adding up the young ones,
-- is done before it is locked. What is credited meanwhile is young, and adds as much to the balance as to the young;
-- what is debited meanwhile is seen under the lock.
create function payout_open_v1(p_payout uuid, p_developer uuid, p_amount bigint, p_least bigint, p_most bigint,
    p_since timestamptz, p_key text, p_memo text, out status smallint, out amount bigint, out mature bigint)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_earnings bigint;
    v_clearing bigint;
    v_spent bigint;
begin
    select a.id into v_earnings from account a where a.kind = 'earnings' and a.developer_id = p_developer
        and a.label = '' and a.currency = 'USD';
    select a.id into v_clearing from account a where a.kind = 'payout_clearing' and a.developer_id = p_developer
        and a.label = '' and a.currency = 'USD';
    if v_earnings is null or v_clearing is null or p_since is null then
        status := 6;
        return;
    end if;
    -- One statement is one snapshot: the three figures are of the same moment.
    select a.posted_e8 - earnings_young_v1(p_developer, v_earnings, p_since), earnings_spent_v1(v_earnings)
        into mature, v_spent from account a where a.id = v_earnings;
    perform from account a where a.id in (v_earnings, v_clearing) order by a.id for update;
    mature := greatest(mature - (earnings_spent_v1(v_earnings) - v_spent), 0);
    amount := coalesce(p_amount, least(mature, p_most) / 1000000 * 1000000);
    if amount > mature or amount < p_least or amount <= 0 then
        status := 1;
        return;
    end if;
    select s.status[1] into status from transfer_v1(array[p_payout], array[40::smallint], array[v_earnings],
        array[v_clearing], array[amount], array[p_key], array[p_memo]) s;
end
$$;
revoke execute on function earnings_spent_v1, earnings_young_v1, earnings_mature_v1, payout_open_v1,
    payout_refuse_change_v1 from public;
grant execute on function earnings_mature_v1, payout_open_v1 to faucet_api, faucet_jobs;

grant select, insert on payout, payout_account to faucet_api, faucet_jobs;
grant update (status, approved_by, operator_note, reason, provider_payout_id, next_attempt_at, approved_at, sent_at, paid_at,
    stop_asked_at, ended_at, updated_at) on payout to faucet_api;
grant update (status, reason, attempts, key_number, next_attempt_at, last_error, provider_transfer_id, provider_payout_id,
    provider_reversal_id, sent_at, paid_at, stop_asked_at, ended_at, updated_at) on payout to faucet_jobs;
grant update (is_ready, updated_at) on payout_account to faucet_api, faucet_jobs;

do $$
declare
    v_table text;
begin
    foreach v_table in array array['payout', 'payout_account'] loop
        execute format('alter table %I enable row level security', v_table);
        execute format('create policy tenant on %I for all to faucet_api
            using (current_setting(''faucet.developer_id'', true) in (''*'', developer_id::text))
            with check (current_setting(''faucet.developer_id'', true) in (''*'', developer_id::text))', v_table);
        execute format('create policy everybody on %I for all to faucet_jobs using (true) with check (true)', v_table);
    end loop;
end
$$;
