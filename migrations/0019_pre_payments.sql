-- Money in: the inbox of the processor's events, top-ups, what of them went back, saved cards, automatic top-ups; the
-- moves that bring money back; and sessions that may not spend what was paid in.

-- Every verified event of Stripe's, once, as it came. What it tells is applied once, in any order.
create table stripe_event (
    id text primary key check (length(id) between 1 and 255),
    row_id uuid not null unique default gen_random_uuid(),  -- its place in a list
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
create index stripe_event_list_idx on stripe_event (received_at desc, row_id desc);

grant insert on stripe_event to faucet_api;
grant delete on stripe_event to faucet_jobs;
grant select, update (outcome, reason, attempts, next_at, settled_at) on stripe_event to faucet_api, faucet_jobs;

-- Money that comes back: a dispute that was won, a refund that its bank sent back. What had been written off is made
-- good first, the rest is the wallet's again.
alter table move disable trigger move_is_fixed;
insert into move (code, name, debit_kind, credit_kind) values
    (24, 'charge_back_returned', 'stripe_clearing', 'wallet'),
    (24, 'charge_back_returned', 'stripe_clearing', 'write_off'),
    (25, 'refund_returned', 'stripe_clearing', 'wallet'),
    (25, 'refund_returned', 'stripe_clearing', 'write_off');
alter table move enable trigger move_is_fixed;

-- Money that a person pays into a wallet. `pending` until the processor says that it was paid; then, once, credited.
create table top_up (
    id uuid primary key,
    developer_id uuid not null,
    app_id uuid not null,
    end_user_id uuid not null references end_user (id),
    wallet_id bigint not null references account (id),
    kind text not null check (kind in ('checkout', 'auto')),
    amount_e8 bigint not null check (amount_e8 > 0 and amount_e8 % 1000000 = 0),  -- whole cents
    status text not null default 'pending' check (status in ('pending', 'credited', 'expired', 'failed', 'refused')),
    reason text,  -- why it failed or was refused
    attempt integer check (attempt > 0),  -- which one of the wallet's automatic top-ups
    checkout_session_id text unique,
    checkout_url text,
    payment_intent_id text unique,
    saves_card boolean not null default false,
    fee_e8 bigint check (fee_e8 >= 0),  -- what the processor kept, once it is known
    receipt_number text,
    receipt_url text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    expires_at timestamptz,
    credited_at timestamptz,
    constraint credited_has_a_time check ((status = 'credited') = (credited_at is not null)),
    constraint auto_has_an_attempt check ((kind = 'auto') = (attempt is not null)),
    constraint checkout_has_a_session check (kind <> 'checkout' or checkout_session_id is not null),
    unique (wallet_id, attempt),
    foreign key (app_id, developer_id) references app (id, developer_id)
);
create unique index top_up_one_auto_at_a_time on top_up (wallet_id) where kind = 'auto' and status = 'pending';
create index top_up_list_idx on top_up (end_user_id, created_at desc, id desc);
create index top_up_developer_idx on top_up (developer_id, created_at desc, id desc);
create index top_up_pending_idx on top_up (updated_at) where status = 'pending';
create index top_up_fee_idx on top_up (credited_at) where status = 'credited' and fee_e8 is null;

-- What of a top-up went back to its card, by a refund or a dispute, by the processor's id; and what of that came back.
create table top_up_reversal (
    id text primary key check (length(id) between 1 and 255),
    developer_id uuid not null,
    top_up_id uuid not null references top_up (id),
    wallet_id bigint not null references account (id),
    kind text not null check (kind in ('refund', 'dispute')),
    amount_e8 bigint not null check (amount_e8 > 0),
    taken_e8 bigint not null check (taken_e8 >= 0),  -- from the wallet
    written_off_e8 bigint not null check (written_off_e8 >= 0),  -- the platform's loss, because the wallet had less
    healed_e8 bigint not null default 0 check (healed_e8 >= 0),  -- of any loss of the wallet, when this came back
    state text not null check (state in ('gone', 'lost', 'returned')),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint taken_or_written_off check (taken_e8 + written_off_e8 = amount_e8),
    constraint heals_by_returning check (healed_e8 = 0 or state = 'returned'),
    constraint heals_at_most_itself check (healed_e8 <= amount_e8)
);
create index top_up_reversal_top_up_idx on top_up_reversal (top_up_id);
create index top_up_reversal_wallet_idx on top_up_reversal (wallet_id);

-- A refund that an operator wants; the processor may not know of it yet.
create table top_up_refund (
    id uuid primary key,
    developer_id uuid not null,
    top_up_id uuid not null references top_up (id),
    amount_e8 bigint not null check (amount_e8 > 0 and amount_e8 % 1000000 = 0),
    status text not null default 'requested' check (status in ('requested', 'sent', 'failed')),
    reason text not null check (length(reason) between 1 and 500),
    asked_by text not null,
    reversal_id text unique,  -- the processor's id, once it has one
    failure text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint sent_has_an_id check (status <> 'sent' or reversal_id is not null)
);
create index top_up_refund_top_up_idx on top_up_refund (top_up_id);
create index top_up_refund_due_idx on top_up_refund (created_at) where status = 'requested';

-- Whom the processor knows an end user as, and the card that it keeps for them. No card number ever comes here.
create table payment_customer (
    end_user_id uuid primary key references end_user (id),
    developer_id uuid not null,
    customer_id text not null unique,
    payment_method_id text,
    card_brand text,
    card_last4 text check (card_last4 ~ '^[0-9]{4}$'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- An end user's wish that their wallet be topped up by itself.
create table auto_top_up (
    wallet_id bigint primary key references account (id),
    developer_id uuid not null,
    app_id uuid not null,
    end_user_id uuid not null unique references end_user (id),
    status text not null check (status in ('on', 'paused', 'off')),
    threshold_e8 bigint not null check (threshold_e8 > 0),
    amount_e8 bigint not null check (amount_e8 > 0 and amount_e8 % 1000000 = 0),
    monthly_cap_e8 bigint not null,
    failures integer not null default 0 check (failures >= 0),  -- in a row
    pause_reason text,
    consented_at timestamptz not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint cap_fits_one check (monthly_cap_e8 >= amount_e8),
    foreign key (app_id, developer_id) references app (id, developer_id)
);
create index auto_top_up_on_idx on auto_top_up (wallet_id) where status = 'on';

-- Whose a row is and how much it is about never changes.
grant select on top_up, top_up_reversal, top_up_refund, payment_customer, auto_top_up to faucet_api, faucet_jobs;
grant insert, update (status, reason, checkout_url, payment_intent_id, fee_e8, receipt_number, receipt_url, updated_at,
    credited_at) on top_up to faucet_api, faucet_jobs;
grant insert, update (state, healed_e8, updated_at) on top_up_reversal to faucet_api, faucet_jobs;
grant insert on top_up_refund, payment_customer, auto_top_up to faucet_api;
grant update (status, reversal_id, failure, updated_at) on top_up_refund to faucet_api, faucet_jobs;
grant update (payment_method_id, card_brand, card_last4, updated_at) on payment_customer to faucet_api, faucet_jobs;
grant update (status, threshold_e8, amount_e8, monthly_cap_e8, failures, pause_reason, consented_at, updated_at)
    on auto_top_up to faucet_api;
grant update (status, failures, pause_reason, updated_at) on auto_top_up to faucet_jobs;

do $$
declare
    v_table text;
begin
    foreach v_table in array array['top_up', 'top_up_reversal', 'top_up_refund', 'payment_customer', 'auto_top_up'] loop
        execute format('alter table %I enable row level security', v_table);
        execute format('create policy tenant on %I for all to faucet_api
            using (current_setting(''faucet.developer_id'', true) in (''*'', developer_id::text))
            with check (current_setting(''faucet.developer_id'', true) in (''*'', developer_id::text))', v_table);
        execute format('create policy everybody on %I for all to faucet_jobs using (true) with check (true)', v_table);
    end loop;
end
$$;

-- Take money back from a wallet for the processor: what is there beyond holds; the rest is written off, and the wallet
-- is frozen until an operator decides. Status as transfer_v1's; a repeat of the key gives what was done then.
create function take_back_v1(
    p_event uuid, p_code smallint, p_wallet bigint, p_amount bigint, p_key text, p_memo text,
    out status smallint, out taken bigint, out written_off bigint
) language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_clearing bigint;
    v_write_off bigint;
    v_wallet account%rowtype;
    v_done smallint[];
begin
    select a.id into v_clearing from account a where a.kind = 'stripe_clearing' and a.currency = 'USD';
    select a.id into v_write_off from account a where a.kind = 'write_off' and a.currency = 'USD';
    perform from account where id in (p_wallet, v_clearing, v_write_off) order by kind = 'write_off', id for update;
    select coalesce(sum(t.amount_e8) filter (where t.key = p_key), 0),
        coalesce(sum(t.amount_e8) filter (where t.key <> p_key), 0)
    into taken, written_off from transfer t where t.key in (p_key, p_key || ':write_off');
    if taken + written_off > 0 then
        status := case when taken + written_off = p_amount then 4 else 5 end;
        return;
    end if;
    select * into v_wallet from account where id = p_wallet;
    if v_wallet.kind is distinct from 'wallet' or p_code not in (20, 22) or p_amount is null or p_amount <= 0 then
        status := 6;
        return;
    end if;
    taken := least(p_amount, v_wallet.posted_e8 - v_wallet.held_e8);
    written_off := p_amount - taken;
    status := 0;
    if taken > 0 then
        v_done := transfer_v1(array[p_event], array[p_code], array[p_wallet], array[v_clearing], array[taken],
            array[p_key], array[p_memo]);
        status := v_done[1];
    end if;
    if status = 0 and written_off > 0 then
        v_done := transfer_v1(array[p_event], array[p_code + 1]::smallint[], array[v_write_off], array[v_clearing],
            array[written_off], array[p_key || ':write_off'], array[p_memo]);
        status := v_done[1];
        update account set frozen_at = coalesce(frozen_at, now()) where id = p_wallet;
    end if;
end
$$;

-- Freeze a wallet, or let it go again; whether that changed anything.
create function wallet_freeze_v1(p_wallet bigint, p_frozen boolean) returns boolean
language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    update account set frozen_at = case when p_frozen then now() end, updated_at = now()
    where id = p_wallet and kind = 'wallet' and (frozen_at is not null) <> p_frozen;
    return found;
end
$$;

-- Whether a session may spend what a person paid in. Where an app's backend vouches for nobody it may not, unless the
-- settings say otherwise: such a session ends when money is paid into its wallet.
alter table session add column may_spend_paid boolean not null default false;
update session s set may_spend_paid = true from app a where a.id = s.app_id and a.identity_mode = 'signed';
-- squawk-ignore require-concurrent-index-creation
create index session_unvouched_idx on session (end_user_id) where not may_spend_paid and revoked_at is null;

-- End an end user's sessions that may not spend paid money; gateways forget them at once.
create function sessions_end_unvouched_v1(p_end_user uuid) returns integer
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_ended integer;
begin
    update session set revoked_at = now() where end_user_id = p_end_user and not may_spend_paid and revoked_at is null;
    get diagnostics v_ended = row_count;
    if v_ended > 0 then
        perform pg_notify('faucet_changed', '');
    end if;
    return v_ended;
end
$$;
revoke execute on function take_back_v1, wallet_freeze_v1, sessions_end_unvouched_v1 from public;
grant execute on function take_back_v1, sessions_end_unvouched_v1 to faucet_api, faucet_jobs;
grant execute on function wallet_freeze_v1 to faucet_api;
