-- What a request moved stands in its usage event: the accounts beside the amounts, instead of a row for each. The view
-- `transfer` has all transfers as before. Rows of their own are for what is no usage event's, and for answers that were
-- booked the careful way (`settle_carefully_v2`), where a part may be written off; what was booked before this stays rows.

-- In the order in which groups take them, or this and a group in flight would wait in a circle.
lock table hold in exclusive mode;
lock table account, transfer, usage_event in access exclusive mode;

-- Null where the event's transfers are rows.
alter table usage_event add column cost_account bigint, add column earnings_account bigint,
    add column revenue_account bigint;

-- The name goes to the view, which reads like the table. Who writes rows is in this file; `settle_locked_v2`, which
-- writes none any more, is in the next, in the same tx.
-- squawk-ignore renaming-table
alter table transfer rename to transfer_row;

create view transfer as
select t.event_id, t.code, t.debit_id, t.credit_id, t.amount_e8, t.created_at, t.key, t.memo from transfer_row t
union all
select u.id, 1::smallint, u.wallet_id, u.cost_account, u.cost_e8, u.created_at, null::text, null::text
from usage_event u where u.cost_account is not null and u.payer in (0, 1) and u.cost_e8 > 0
union all
select u.id, 2::smallint, u.wallet_id, u.earnings_account, u.channel_e8, u.created_at, null::text, null::text
from usage_event u where u.earnings_account is not null and u.channel_e8 > 0
union all
select u.id, 3::smallint, u.wallet_id, u.revenue_account, u.platform_e8, u.created_at, null::text, null::text
from usage_event u where u.revenue_account is not null and u.platform_e8 > 0;

-- Both sides of each. One look at an event gives all of its own: this is read whole.
create or replace view posting as
select t.event_id, t.code, t.debit_id as account_id, -t.amount_e8 as amount_e8, t.created_at from transfer_row t
union all
select t.event_id, t.code, t.credit_id, t.amount_e8, t.created_at from transfer_row t
union all
select u.id, p.code, p.account_id, p.amount_e8, u.created_at
from usage_event u
cross join lateral (values
    (1::smallint, u.wallet_id, case when u.payer in (0, 1) then -u.cost_e8 else 0 end),
    (1::smallint, u.cost_account, case when u.payer in (0, 1) then u.cost_e8 else 0 end),
    (2::smallint, u.wallet_id, -u.channel_e8), (2::smallint, u.earnings_account, u.channel_e8),
    (3::smallint, u.wallet_id, -u.platform_e8), (3::smallint, u.revenue_account, u.platform_e8)
) p (code, account_id, amount_e8)
where u.cost_account is not null and p.amount_e8 <> 0;

grant select on transfer to faucet_api, faucet_jobs;

-- What moved on each account since a moment. Reconciliation asks it of everything there is: events are added up by their
-- accounts before their transfers are told apart.
create function account_moved_v1(p_since timestamptz) returns table (account_id bigint, total numeric)
language sql stable security definer set search_path = pg_catalog, public as $$
    select s.account_id, sum(s.amount)
    from (
        select t.debit_id as account_id, -t.amount_e8 as amount from transfer_row t where t.created_at >= p_since
        union all
        select t.credit_id, t.amount_e8 from transfer_row t where t.created_at >= p_since
        union all
        select p.account_id, p.amount
        from (
            select u.wallet_id, u.cost_account, u.earnings_account, u.revenue_account,
                sum(case when u.payer in (0, 1) then u.cost_e8 else 0 end) as cost, sum(u.channel_e8) as channel,
                sum(u.platform_e8) as platform
            from usage_event u where u.cost_account is not null and u.created_at >= p_since
            group by u.wallet_id, u.cost_account, u.earnings_account, u.revenue_account
        ) e
        cross join lateral (values (e.wallet_id, -e.cost - e.channel - e.platform), (e.cost_account, e.cost),
            (e.earnings_account, e.channel), (e.revenue_account, e.platform)) p (account_id, amount)
    ) s group by s.account_id
$$;
revoke execute on function account_moved_v1(timestamptz) from public;
grant execute on function account_moved_v1(timestamptz) to faucet_api, faucet_jobs;

-- The day of the first transfer there is, in UTC.
create function ledger_begins_v1() returns date
language sql stable security definer set search_path = pg_catalog, public as $$
    select (least((select min(t.created_at) from transfer_row t), (select min(u.created_at) from usage_event u))
        at time zone 'UTC')::date
$$;
revoke execute on function ledger_begins_v1() from public;
grant execute on function ledger_begins_v1() to faucet_api, faucet_jobs;

create or replace function settle_carefully_v2(
    p_id uuid[], p_wallet bigint[], p_cost bigint[], p_rated bigint[], p_channel bigint[], p_platform bigint[],
    p_cost_account bigint[], p_earnings_account bigint[], p_revenue_account bigint[], p_price bigint[],
    p_input integer[], p_cached_read integer[], p_cached_write integer[], p_output integer[], p_reasoning integer[],
    p_first_byte_ms integer[], p_duration_ms integer[], p_payer smallint[], p_source smallint[],
    p_outcome smallint[], p_provider text[], p_model text[], p_raw_usage text[], p_version integer[],
    out status smallint[], out posted bigint[]
) language plpgsql as $$
declare
    n integer := cardinality(p_id);
    v_counted boolean;
    v_write_off bigint;
    v_late uuid[];
    v_late_id uuid[];
    v_late_counter bigint[];
begin
    status := array_fill(0::smallint, array[n]);
    posted := array_fill(0::bigint, array[n]);
    select w.id into v_write_off from account w where w.kind = 'write_off';
    perform from hold_resolution where id = any (p_id) order by id for update;
    perform from hold where id = any (p_id) order by id for update;

    -- A late one has no counters of its own left: it counts in those that bear on it now.
    select array_agg(r.id order by r.id) into v_late from hold_resolution r
    where r.id = any (p_id) and r.state = 'expired' and r.settled_late_at is null;
    if v_late is not null then
        select array_agg(v_late[c.item]), array_agg(c.counter_id) into v_late_id, v_late_counter
        from (select array_agg(r.app_id order by r.id) as app, array_agg(r.feature_id order by r.id) as feature,
                array_agg(r.end_user_id order by r.id) as end_user, array_agg(r.session_id order by r.id) as session
            from hold_resolution r where r.id = any (v_late)) l
        cross join lateral spend_counters_v1(l.app, l.feature, l.end_user, l.session) c;
    end if;
    select coalesce(bool_or(h.counters is not null), false) or v_late_counter is not null into v_counted
    from hold h where h.id = any (p_id);
    if exists (select from unnest(p_id, p_rated) g (id, rated) left join hold h using (id)
            where g.rated > coalesce(h.amount_e8, 0)) then
        perform from account a where a.id = v_write_off for update;
    end if;

    select array_agg(g.st order by g.ord) into status from (
        select i.ord, (case
            when exists (select from unnest(p_id) with ordinality d (id, o) where d.id = i.id and d.o < i.ord) then 5
            when h.id is null and u.id is not null then case
                when u.cost_e8 = i.cost and u.channel_e8 = i.channel and u.platform_e8 = i.platform
                    and u.wallet_id = i.wallet and u.output_tokens = i.output then 4 else 5 end
            when h.id is null and (r.state = 'expired' and r.settled_late_at is null) is not true then 7
            when i.rated <> i.channel + i.platform + case when i.payer in (0, 1) then i.cost else 0 end
                or least(i.cost, i.rated, i.channel, i.platform) < 0 then 8
            when owner.wallet_id is distinct from i.wallet then 6
            when not exists (select from account a, account b, account c
                where a.id = i.cost_account and a.kind = case i.payer when 1 then 'earnings' else 'provider_cost' end::account_kind
                    and b.id = i.earnings_account and b.kind = 'earnings'
                    and c.id = i.revenue_account and c.kind = 'platform_revenue'
                    and a.developer_id = owner.developer_id and b.developer_id = owner.developer_id
                    and c.developer_id = owner.developer_id) then 6
            else 0 end)::smallint as st
        from unnest(p_id, p_wallet, p_cost, p_rated, p_channel, p_platform, p_cost_account, p_earnings_account,
                p_revenue_account, p_payer, p_output)
            with ordinality as i (id, wallet, cost, rated, channel, platform, cost_account, earnings_account,
                revenue_account, payer, output, ord)
        left join hold h on h.id = i.id
        left join usage_event u on h.id is null and u.id = i.id
        left join hold_resolution r on h.id is null and r.id = i.id
        cross join lateral (select coalesce(h.developer_id, r.developer_id) as developer_id,
            coalesce(h.wallet_id, r.wallet_id) as wallet_id) owner
    ) g;

    with item as materialized (
        select i.* from unnest(p_id, p_cost, p_rated, p_channel, p_platform, p_cost_account, p_earnings_account,
                p_revenue_account, p_price, p_input, p_cached_read, p_cached_write, p_output, p_reasoning,
                p_first_byte_ms, p_duration_ms, p_payer, p_source, p_outcome, p_provider, p_model, p_raw_usage,
                p_version, status)
            as i (id, cost, rated, channel, platform, cost_account, earnings_account, revenue_account, price,
                input, cached_read, cached_write, output, reasoning, first_byte_ms, duration_ms, payer, source,
                outcome, provider, model, raw_usage, version, st)
        where i.st = 0
    ), gone as (
        delete from hold h where h.id in (select item.id from item) returning h.*
    ), late as (
        update hold_resolution r set settled_late_at = now()
        from item where r.id = item.id and not exists (select from hold h where h.id = r.id)
        returning r.*
    ), taken as (  -- a late one has no reserve left: it takes what the wallet can give beyond its holds
        select g.id, g.wallet_id, g.developer_id, g.app_id, g.feature_id, g.end_user_id, g.session_id,
            g.request_id, g.amount_e8 as held, g.amount_e8 as room, g.counters from gone g
        union all
        select l.id, l.wallet_id, l.developer_id, l.app_id, l.feature_id, l.end_user_id, l.session_id, l.request_id,
            0, greatest(0, least(l.amount_e8, (a.posted_e8 - a.held_e8
                - (sum(least(i.rated, l.amount_e8)) over (partition by l.wallet_id order by l.id)
                    - least(i.rated, l.amount_e8)))::bigint)),
            (select array_agg(k.counter) from unnest(v_late_id, v_late_counter) as k (id, counter) where k.id = l.id)
        from late l join account a on a.id = l.wallet_id join item i on i.id = l.id
    ), booked as materialized (
        select i.*, t.wallet_id, t.developer_id, t.app_id, t.feature_id, t.end_user_id, t.session_id, t.request_id,
            t.held, t.counters, least(i.rated, t.room) as paid,
            case when i.payer in (0, 1) then i.cost else 0 end as due_cost
        from item i join taken t on t.id = i.id
    ), event as (
        insert into usage_event (id, developer_id, app_id, feature_id, end_user_id, session_id, wallet_id, held_e8,
            cost_e8, retail_e8, channel_e8, platform_e8, write_off_e8, price_id, input_tokens, cached_read_tokens,
            cached_write_tokens, output_tokens, reasoning_tokens, first_byte_ms, duration_ms, payer, usage_source,
            outcome, provider, model, request_id, raw_usage, feature_version)
        select id, developer_id, app_id, feature_id, end_user_id, session_id, wallet_id, greatest(held, paid), cost,
            paid, channel, platform, rated - paid, price, input, cached_read, cached_write, output, reasoning,
            first_byte_ms, duration_ms, payer, source, outcome, provider, model, request_id, raw_usage, version
        from booked order by id
    ), part as materialized (
        select b.id, p.code, p.debit, p.credit, p.amount
        from booked b cross join lateral (values
            (1, b.wallet_id, b.cost_account, least(b.due_cost, b.paid)),
            (2, b.wallet_id, b.earnings_account, least(b.channel, greatest(0, b.paid - b.due_cost))),
            (3, b.wallet_id, b.revenue_account, greatest(0, b.paid - b.due_cost - b.channel)),
            (4, v_write_off, b.cost_account, b.due_cost - least(b.due_cost, b.paid)),
            (5, v_write_off, b.earnings_account, b.channel - least(b.channel, greatest(0, b.paid - b.due_cost))),
            (6, v_write_off, b.revenue_account,
                b.platform - greatest(0, b.paid - b.due_cost - b.channel))
        ) p (code, debit, credit, amount) where p.amount > 0
    ), moved as (
        insert into transfer_row (event_id, code, debit_id, credit_id, amount_e8)
        select id, code, debit, credit, amount from part order by id, code
    ), counted as (
        update spend_counter c set held_e8 = c.held_e8 - d.held, spent_e8 = c.spent_e8 + d.paid
        from (select u.counter, sum(b.held) as held, sum(b.paid) as paid
            from booked b cross join lateral unnest(b.counters) as u (counter)
            where v_counted group by u.counter) d
        where c.id = d.counter
    )
    update account a set posted_e8 = a.posted_e8 + d.posted, held_e8 = a.held_e8 - d.held, updated_at = now()
    from (
        select s.account, sum(s.posted) as posted, sum(s.held) as held from (
            select debit as account, -amount as posted, 0 as held from part
            union all select credit, amount, 0 from part
            union all select wallet_id, 0, booked.held from booked
        ) s group by s.account
    ) d
    where a.id = d.account;

    select array_agg(a.posted_e8 order by i.ord) into posted
    from unnest(p_id) with ordinality as i (id, ord)
    left join usage_event u on u.id = i.id left join account a on a.id = u.wallet_id;
end
$$;

create or replace function transfer_v1(
    p_event uuid[], p_code smallint[], p_debit bigint[], p_credit bigint[], p_amount bigint[], p_key text[],
    p_memo text[], out status smallint[]
) language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    n integer := cardinality(p_event);
    v_debit account%rowtype;
    v_credit account%rowtype;
    v_old transfer_row%rowtype;
    i integer;
begin
    status := array_fill(0::smallint, array[n]);
    perform from account where id = any (p_debit || p_credit) order by kind = 'write_off', id for update;
    for i in 1..n loop
        select * into v_old from transfer_row t
        where (t.event_id = p_event[i] and t.code = p_code[i]) or t.key = p_key[i] limit 1;
        if v_old.event_id is not null then
            status[i] := case when v_old.code = p_code[i] and v_old.debit_id = p_debit[i]
                and v_old.credit_id = p_credit[i] and v_old.amount_e8 = p_amount[i] then 4 else 5 end;
            continue;
        end if;
        select * into v_debit from account where id = p_debit[i];
        select * into v_credit from account where id = p_credit[i];
        if p_code[i] < 10 or p_amount[i] is null or p_amount[i] <= 0 or v_debit.currency <> v_credit.currency
            or not exists (select from move m where m.code = p_code[i] and m.debit_kind = v_debit.kind
                and m.credit_kind = v_credit.kind)
            or (v_debit.developer_id is not null and v_credit.developer_id is not null
                and v_debit.developer_id <> v_credit.developer_id) then
            status[i] := 6;
        elsif (v_debit.kind = 'wallet' and v_debit.posted_e8 - v_debit.held_e8 < p_amount[i])
            or (v_debit.kind in ('earnings', 'payout_clearing') and v_debit.posted_e8 < p_amount[i]) then
            status[i] := 1;
        else
            insert into transfer_row (event_id, code, debit_id, credit_id, amount_e8, key, memo)
            values (p_event[i], p_code[i], p_debit[i], p_credit[i], p_amount[i], p_key[i], p_memo[i])
            on conflict do nothing;
            if not found then
                status[i] := 5;  -- the same key, used between other accounts while we looked
                continue;
            end if;
            update account set posted_e8 = posted_e8 - p_amount[i], updated_at = now() where account.id = p_debit[i];
            update account set posted_e8 = posted_e8 + p_amount[i], updated_at = now() where account.id = p_credit[i];
        end if;
    end loop;
end
$$;
