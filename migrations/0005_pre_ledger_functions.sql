-- How money moves. Every function takes arrays, so that a group of requests is one call and one commit; an item
-- that is refused gets a status and leaves its neighbours alone. Names carry a version so that old and new servers
-- coexist. All lock in one order, or two groups would deadlock: the table of holds (shared, but for a limit that is
-- being set), accounts by id, resolutions by id, holds by id, counters by id, and the write-off account after all.
-- Whoever ends a hold has locked its wallet first, so a hold that is seen after that stays.
--
-- Status: 0 done · 1 insufficient balance · 2 budget exceeded · 3 wallet frozen · 4 id already resolved
--         5 same id or key, other content · 6 unknown or unfit account · 7 no such hold · 8 parts do not add up

-- Find the spend limits that bear on these holds and make sure that this period's counters exist.
create function spend_counters_v1(p_app uuid[], p_feature uuid[], p_end_user uuid[], p_session uuid[])
returns table (item integer, counter_id bigint) language plpgsql as $$
begin
    if not exists (select from spend_limit where scope_id = any (p_app || p_feature || p_end_user || p_session)) then
        return;
    end if;
    insert into spend_counter (limit_id, period_start)
    select l.id, case l.period when 'month' then date_trunc('month', now() at time zone 'UTC')::date else 'epoch' end
    from spend_limit l where l.scope_id = any (p_app || p_feature || p_end_user || p_session)
    order by l.id
    on conflict do nothing;
    return query
    select i.ord::integer, c.id
    from unnest(p_app, p_feature, p_end_user, p_session) with ordinality as i (app, feature, end_user, session, ord)
    join spend_limit l on (l.scope, l.scope_id) in
        (('app', i.app), ('feature', i.feature), ('end_user', i.end_user), ('session', i.session))
    join spend_counter c on c.limit_id = l.id and c.period_start =
        case l.period when 'month' then date_trunc('month', now() at time zone 'UTC')::date else 'epoch' end
    order by 1, 2;
end
$$;

-- Take every lock that a group needs, in the one order; its parts below take none but the write-off account's.
-- `p_other` are holds to be released or renewed, `p_account` all accounts that are known beforehand, wallets of
-- settlements among them. Says whether there are spend limits: without any there are no counters to think of.
-- Functions without `security definer` are parts: no door may execute them.
create function ledger_lock_v1(p_account bigint[], p_other uuid[], p_settle uuid[],
    p_app uuid[], p_feature uuid[], p_end_user uuid[], p_session uuid[]) returns boolean
language plpgsql as $$
declare
    v_limited boolean;
begin
    -- Before limits are looked up: one that is being set either sees this group's holds or is seen by them.
    lock table hold in row exclusive mode;
    if cardinality(p_other) > 0 then
        p_account := p_account || (select array_agg(h.wallet_id) from hold h where h.id = any (p_other));
    end if;
    perform from account where id = any (p_account) order by id for update;
    v_limited := exists (select from spend_limit);
    -- Holds and resolutions are guarded by their wallets. Only who renews has no wallet's lock, and must not be
    -- waited for with counters in hand.
    if v_limited or cardinality(p_other) > 0 then
        perform from hold_resolution where id = any (p_settle) order by id for update;
        perform from hold where id = any (p_other || p_settle) order by id for update;
    end if;
    if v_limited then
        perform from spend_counter where id in (
            select unnest(h.counters) from hold h where h.id = any (p_other || p_settle)
            union select c.counter_id from spend_counters_v1(p_app, p_feature, p_end_user, p_session) c
            union select c.counter_id from hold_resolution r cross join lateral
                spend_counters_v1(array[r.app_id], array[r.feature_id], array[r.end_user_id], array[r.session_id]) c
            where r.id = any (p_settle) and r.state = 'expired' and r.settled_late_at is null
        ) order by id for update;
    end if;
    return v_limited;
end
$$;

-- Reserve what each request can cost where all locks are taken.
create function hold_locked_v1(
    p_id uuid[], p_wallet bigint[], p_amount bigint[], p_developer uuid[], p_app uuid[], p_feature uuid[],
    p_end_user uuid[], p_session uuid[], p_request_id text[], p_lease_seconds integer,
    p_limited boolean, out status smallint[], out posted bigint[], out held bigint[]
) language plpgsql as $$
declare
    n integer := cardinality(p_id);
    v_lease timestamptz := now() + make_interval(secs => p_lease_seconds);
    v_item integer[];
    v_counter bigint[];
    v_simple bigint[];
    v_covered bigint := 0;
    v_counters bigint[];
    v_wallet account%rowtype;
    v_room bigint;
    v_busy bigint;
    i integer;
begin
    status := array_fill(0::smallint, array[n]);
    posted := array_fill(0::bigint, array[n]);
    held := posted;
    if p_limited then
        select array_agg(c.item), array_agg(c.counter_id) into v_item, v_counter
        from spend_counters_v1(p_app, p_feature, p_end_user, p_session) c;
    end if;

    -- The set-based way: wallets whose whole group fits are reserved in one statement. Not for ids that are known
    -- already (a retry), nor when a spend limit is too tight for all of the group together. Ids are made in the
    -- order of time, so as a rule nothing is known from the least of them on, and one look replaces many.
    if not (select exists (select from usage_event where id >= least.id)
                and exists (select from usage_event where id = any (p_id))
            or exists (select from hold_resolution where id >= least.id)
                and exists (select from hold_resolution where id = any (p_id))
            or exists (select from hold where id >= least.id)
                and exists (select from hold where id = any (p_id))
            from (select u.id from unnest(p_id) u (id) order by u.id limit 1) least)
        and (v_counter is null or not exists (
            select from (
                select g.counter, sum(p_amount[g.item]) as total from unnest(v_item, v_counter) g (item, counter)
                group by g.counter
            ) t join spend_counter c on c.id = t.counter join spend_limit l on l.id = c.limit_id
            where l.limit_e8 - c.spent_e8 - c.held_e8 < t.total
        ))
    then
        with fit as materialized (
            select g.* from (
                select u.*, sum(greatest(u.amount, 0)) over (partition by u.wallet) as total
                from unnest(p_id, p_wallet, p_amount, p_developer, p_app, p_feature, p_end_user, p_session,
                    p_request_id) with ordinality
                    as u (id, wallet, amount, developer, app, feature, end_user, session, request_id, ord)
            ) g
            -- `is true` keeps the planner to the primary key, whatever it believes of a young table.
            join account a on a.id = g.wallet and (a.developer_id = g.developer and a.owner_id = g.end_user
                and a.kind = 'wallet' and a.frozen_at is null) is true
            where g.amount >= 0 and a.posted_e8 - a.held_e8 >= g.total
        ), placed as (
            insert into hold (id, wallet_id, developer_id, app_id, feature_id, end_user_id, session_id, amount_e8,
                counters, request_id, lease_expires_at)
            select f.id, f.wallet, f.developer, f.app, f.feature, f.end_user, f.session, f.amount,
                case when v_counter is not null then (select array_agg(k.counter)
                    from unnest(v_item, v_counter) k (item, counter) where k.item = f.ord) end,
                f.request_id, v_lease
            from fit f
        ), reserved as (
            update account a set held_e8 = a.held_e8 + w.total
            from (select f.wallet, sum(f.amount)::bigint as total, count(*) as items from fit f group by f.wallet) w
            where a.id = w.wallet
            returning a.id, w.items
        )
        select array_agg(r.id), coalesce(sum(r.items), 0) into v_simple, v_covered from reserved r;
    end if;

    if v_covered < n then
        for i in 1..n loop
            select * into v_wallet from account where id = p_wallet[i];
            if v_wallet.id is null or v_wallet.kind <> 'wallet' or p_amount[i] is null or p_amount[i] < 0
                or v_wallet.developer_id is distinct from p_developer[i]
                or v_wallet.owner_id is distinct from p_end_user[i] then
                status[i] := 6;
                continue;
            elsif p_wallet[i] = any (v_simple) then
                continue;
            elsif exists (select from hold h where h.id = p_id[i]) then
                status[i] := case when exists (select from hold h where h.id = p_id[i] and h.wallet_id = p_wallet[i]
                    and h.amount_e8 = p_amount[i] and h.session_id = p_session[i]) then 0 else 5 end;
                continue;
            elsif exists (select from usage_event u where u.id = p_id[i])
                or exists (select from hold_resolution r where r.id = p_id[i]) then
                status[i] := 4;
                continue;
            elsif v_wallet.frozen_at is not null then
                status[i] := 3;
                continue;
            elsif v_wallet.posted_e8 - v_wallet.held_e8 < p_amount[i] then
                status[i] := 1;
                posted[i] := v_wallet.posted_e8;
                held[i] := v_wallet.held_e8;
                continue;
            end if;
            select array_agg(c) into v_counters from unnest(v_item, v_counter) as g (item, c) where item = i;
            if v_counters is not null then
                select l.limit_e8 - c.spent_e8, c.held_e8 into v_room, v_busy
                from spend_counter c join spend_limit l on l.id = c.limit_id
                where c.id = any (v_counters) order by l.limit_e8 - c.spent_e8 - c.held_e8 limit 1;
                if v_room - v_busy < p_amount[i] then
                    status[i] := 2;
                    posted[i] := v_room;
                    held[i] := v_busy;
                    continue;
                end if;
                update spend_counter c set held_e8 = c.held_e8 + p_amount[i] where c.id = any (v_counters);
            end if;
            update account a set held_e8 = a.held_e8 + p_amount[i] where a.id = p_wallet[i];
            insert into hold (id, wallet_id, developer_id, app_id, feature_id, end_user_id, session_id, amount_e8,
                counters, request_id, lease_expires_at)
            values (p_id[i], p_wallet[i], p_developer[i], p_app[i], p_feature[i], p_end_user[i], p_session[i],
                p_amount[i], v_counters, p_request_id[i], v_lease);
        end loop;
    end if;

    if v_simple is not null and v_counter is not null then
        update spend_counter c set held_e8 = c.held_e8 + t.total
        from (
            select g.counter, sum(p_amount[g.item]) as total from unnest(v_item, v_counter) g (item, counter)
            where status[g.item] = 0 and p_wallet[g.item] = any (v_simple) group by g.counter
        ) t where c.id = t.counter;
    end if;
end
$$;

-- Reserve the most that each request can cost, on its wallet and on every spend limit over it. For status 1
-- `posted` and `held` say what the wallet has and what others hold of it; for status 2 they are the tightest
-- counter's limit - spent and held; else they are 0.
create function hold_v1(
    p_id uuid[], p_wallet bigint[], p_amount bigint[], p_developer uuid[], p_app uuid[], p_feature uuid[],
    p_end_user uuid[], p_session uuid[], p_request_id text[], p_lease_seconds integer,
    out status smallint[], out posted bigint[], out held bigint[]
) language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    if cardinality(p_id) = 0 then
        status := '{}';
        posted := '{}';
        held := '{}';
        return;
    end if;
    select h.status, h.posted, h.held into status, posted, held
    from hold_locked_v1(p_id, p_wallet, p_amount, p_developer, p_app, p_feature, p_end_user, p_session, p_request_id,
        p_lease_seconds, ledger_lock_v1(p_wallet, '{}', '{}', p_app, p_feature, p_end_user, p_session)) h;
end
$$;

-- Resolve holds with what their answers cost: usage event, transfers, balances and counters together. An answer
-- rated above its hold takes the hold from the wallet and the rest, `write_off`, from the write-off account.
-- Settling a hold that already ran out is still booked, once, from what the wallet has left.
create function settle_carefully_v1(
    p_id uuid[], p_wallet bigint[], p_cost bigint[], p_rated bigint[], p_channel bigint[], p_platform bigint[],
    p_cost_account bigint[], p_earnings_account bigint[], p_revenue_account bigint[], p_price bigint[],
    p_input integer[], p_cached_read integer[], p_cached_write integer[], p_output integer[], p_reasoning integer[],
    p_first_byte_ms integer[], p_duration_ms integer[], p_payer smallint[], p_source smallint[],
    p_outcome smallint[], p_provider text[], p_model text[], p_raw_usage text[],
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
                status)
            as i (id, cost, rated, channel, platform, cost_account, earnings_account, revenue_account, price,
                input, cached_read, cached_write, output, reasoning, first_byte_ms, duration_ms, payer, source,
                outcome, provider, model, raw_usage, st)
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
            outcome, provider, model, request_id, raw_usage)
        select id, developer_id, app_id, feature_id, end_user_id, session_id, wallet_id, greatest(held, paid), cost,
            paid, channel, platform, rated - paid, price, input, cached_read, cached_write, output, reasoning,
            first_byte_ms, duration_ms, payer, source, outcome, provider, model, request_id, raw_usage
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
        insert into transfer (event_id, code, debit_id, credit_id, amount_e8)
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

-- Book answers where all locks are taken. Ordinary ones (the hold is open, covers the charge, and all adds up) are
-- booked by one statement, which passes over others. If it left any, the careful way looks at the whole group: it
-- finds what is booked done already, and changes that no more.
create function settle_locked_v1(
    p_id uuid[], p_wallet bigint[], p_cost bigint[], p_rated bigint[], p_channel bigint[], p_platform bigint[],
    p_cost_account bigint[], p_earnings_account bigint[], p_revenue_account bigint[], p_price bigint[],
    p_input integer[], p_cached_read integer[], p_cached_write integer[], p_output integer[], p_reasoning integer[],
    p_first_byte_ms integer[], p_duration_ms integer[], p_payer smallint[], p_source smallint[],
    p_outcome smallint[], p_provider text[], p_model text[], p_raw_usage text[],
    p_limited boolean, out status smallint[], out posted bigint[]
) language plpgsql as $$
declare
    n integer := cardinality(p_id);
    v_done uuid[];
begin
    -- Of an id that comes twice, one must not be chosen by chance. And one that comes late takes what its wallet had
    -- before the group's other holds were freed, so a group with late ones is not parted.
    if n = 1 or n = (select count(distinct h.id) from unnest(p_id) u (id) join hold h on h.id = u.id) then
        with booked as materialized (
            delete from hold h
            using unnest(p_id, p_wallet, p_cost, p_rated, p_channel, p_platform, p_cost_account, p_earnings_account,
                    p_revenue_account, p_price, p_input, p_cached_read, p_cached_write, p_output, p_reasoning,
                    p_first_byte_ms, p_duration_ms, p_payer, p_source, p_outcome, p_provider, p_model, p_raw_usage)
                with ordinality
                as i (i_id, wallet, cost, rated, channel, platform, cost_account, earnings_account, revenue_account,
                    price, input, cached_read, cached_write, output, reasoning, first_byte_ms, duration_ms, payer,
                    source, outcome, provider, model, raw_usage, ord), account a, account b, account c
            where h.id = i.i_id and (h.wallet_id = i.wallet and i.rated between 0 and h.amount_e8
                    and least(i.cost, i.channel, i.platform) >= 0
                    and i.rated = i.channel + i.platform + case when i.payer in (0, 1) then i.cost else 0 end) is true
                and a.id = i.cost_account and (a.developer_id = h.developer_id
                    and a.kind = case i.payer when 1 then 'earnings'::account_kind else 'provider_cost' end) is true
                and b.id = i.earnings_account and (b.developer_id = h.developer_id and b.kind = 'earnings') is true
                and c.id = i.revenue_account
                and (c.developer_id = h.developer_id and c.kind = 'platform_revenue') is true
            returning h.id, h.developer_id, h.app_id, h.feature_id, h.end_user_id, h.session_id, h.amount_e8,
                h.request_id, h.counters, case when i.payer in (0, 1) then i.cost else 0 end as due, i.*
        ), event as (
            insert into usage_event (id, developer_id, app_id, feature_id, end_user_id, session_id, wallet_id, held_e8,
                cost_e8, retail_e8, channel_e8, platform_e8, write_off_e8, price_id, input_tokens, cached_read_tokens,
                cached_write_tokens, output_tokens, reasoning_tokens, first_byte_ms, duration_ms, payer, usage_source,
                outcome, provider, model, request_id, raw_usage)
            select id, developer_id, app_id, feature_id, end_user_id, session_id, wallet, amount_e8, cost, rated,
                channel, platform, 0, price, input, cached_read, cached_write, output, reasoning, first_byte_ms,
                duration_ms, payer, source, outcome, provider, model, request_id, raw_usage
            from booked
        ), moved as (
            insert into transfer (event_id, code, debit_id, credit_id, amount_e8)
            select b.id, p.code, b.wallet, p.credit, p.amount
            from booked b cross join lateral (values
                (1, b.cost_account, b.due), (2, b.earnings_account, b.channel), (3, b.revenue_account, b.platform)
            ) p (code, credit, amount) where p.amount > 0
        ), counted as (
            update spend_counter c set held_e8 = c.held_e8 - d.held, spent_e8 = c.spent_e8 + d.spent
            from (
                select u.counter, sum(b.amount_e8) as held, sum(b.rated) as spent
                from booked b cross join lateral unnest(b.counters) as u (counter)
                where p_limited group by u.counter
            ) d
            where c.id = d.counter
        ), balanced as (
            update account a set posted_e8 = a.posted_e8 + d.posted, held_e8 = a.held_e8 - d.held, updated_at = now()
            from (
                select s.account, sum(s.posted)::bigint as posted, sum(s.held)::bigint as held,
                    array_agg(s.ord) filter (where s.ord > 0) as items
                from booked b cross join lateral (values
                    (b.wallet, -b.rated, b.amount_e8, b.ord), (b.cost_account, b.due, 0, 0),
                    (b.earnings_account, b.channel, 0, 0), (b.revenue_account, b.platform, 0, 0)
                ) s (account, posted, held, ord) group by s.account
            ) d
            where a.id = d.account
            returning a.posted_e8, d.items
        )
        select array_agg(w.posted_e8 order by u.ord), array_agg(p_id[u.ord]) into posted, v_done
        from balanced w cross join lateral unnest(w.items) u (ord);
    end if;

    if cardinality(v_done) = n then
        status := array_fill(0::smallint, array[n]);
    else
        select s.status, s.posted into status, posted
        from settle_carefully_v1(p_id, p_wallet, p_cost, p_rated, p_channel, p_platform, p_cost_account,
            p_earnings_account, p_revenue_account, p_price, p_input, p_cached_read, p_cached_write, p_output, p_reasoning,
            p_first_byte_ms, p_duration_ms, p_payer, p_source, p_outcome, p_provider, p_model, p_raw_usage) s;
        for i in 1..n loop
            -- Done, but by this very call.
            if status[i] = 4 and p_id[i] = any (v_done) then
                status[i] := 0;
            end if;
        end loop;
    end if;
end
$$;

-- Resolve holds with what their answers cost.
create function settle_v1(
    p_id uuid[], p_wallet bigint[], p_cost bigint[], p_rated bigint[], p_channel bigint[], p_platform bigint[],
    p_cost_account bigint[], p_earnings_account bigint[], p_revenue_account bigint[], p_price bigint[],
    p_input integer[], p_cached_read integer[], p_cached_write integer[], p_output integer[], p_reasoning integer[],
    p_first_byte_ms integer[], p_duration_ms integer[], p_payer smallint[], p_source smallint[],
    p_outcome smallint[], p_provider text[], p_model text[], p_raw_usage text[],
    out status smallint[], out posted bigint[]
) language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    if cardinality(p_id) = 0 then
        status := '{}';
        posted := '{}';
        return;
    end if;
    select s.status, s.posted into status, posted
    from settle_locked_v1(p_id, p_wallet, p_cost, p_rated, p_channel, p_platform, p_cost_account, p_earnings_account,
        p_revenue_account, p_price, p_input, p_cached_read, p_cached_write, p_output, p_reasoning, p_first_byte_ms,
        p_duration_ms, p_payer, p_source, p_outcome, p_provider, p_model, p_raw_usage,
        ledger_lock_v1(p_wallet || p_cost_account || p_earnings_account || p_revenue_account, '{}', p_id,
            '{}', '{}', '{}', '{}')) s;
end
$$;

-- Give holds back. `p_state` is 'released' (nothing was answered) or 'expired' (the lease ran out).
create function release_v1(p_id uuid[], p_state text[], p_reason text[], out status smallint[])
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_wallet bigint[];
    v_open uuid[];
begin
    status := array_fill(0::smallint, array[cardinality(p_id)]);
    if cardinality(p_id) = 0 then
        return;
    end if;
    lock table hold in row exclusive mode;
    select array_agg(h.wallet_id) into v_wallet from hold h where h.id = any (p_id);
    perform from account where id = any (v_wallet) order by id for update;
    select array_agg(o.id) into v_open from (
        select h.id from hold h where h.id = any (p_id) and h.wallet_id = any (v_wallet) order by h.id for update) o;
    perform from spend_counter where id in (select unnest(counters) from hold where id = any (v_open))
        order by id for update;
    with gone as (
        delete from hold h where h.id = any (v_open) returning h.*
    ), kept as (
        insert into hold_resolution (id, state, reason, wallet_id, developer_id, app_id, feature_id, end_user_id,
            session_id, amount_e8, request_id, held_at)
        select g.id, i.state, i.reason, g.wallet_id, g.developer_id, g.app_id, g.feature_id, g.end_user_id,
            g.session_id, g.amount_e8, g.request_id, g.created_at
        from gone g join (select distinct on (id) * from unnest(p_id, p_state, p_reason) as u (id, state, reason))
            i on i.id = g.id
        returning hold_resolution.id, hold_resolution.state
    ), counted as (
        update spend_counter c set held_e8 = c.held_e8 - d.held
        from (select u.counter, sum(g.amount_e8) as held from gone g cross join lateral unnest(g.counters) u (counter)
            group by u.counter) d
        where c.id = d.counter
    ), unclaimed as (  -- the claim of one that ran out stays: until the key is used again, its answer may turn up
        delete from idempotent_reply r using kept k
        where r.hold_id = k.id and k.state = 'released' and r.sealed is null
    )
    update account a set held_e8 = a.held_e8 - d.held, updated_at = now()
    from (select wallet_id, sum(amount_e8) as held from gone group by wallet_id) d
    where a.id = d.wallet_id;
    select array_agg(case when i.id = any (v_open) then 0 when r.id is not null then 4
        when exists (select from usage_event u where u.id = i.id) then 4 else 7 end::smallint
        order by i.ord) into status
    from unnest(p_id) with ordinality as i (id, ord) left join hold_resolution r on r.id = i.id;
end
$$;

-- Renew the leases of holds whose requests still run; a hold that is gone is left gone.
create function renew_v1(p_id uuid[], p_lease_seconds integer) returns integer
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_count integer := 0;
begin
    if cardinality(p_id) > 0 then
        perform from hold where id = any (p_id) order by id for update;
        update hold set lease_expires_at = now() + make_interval(secs => p_lease_seconds) where id = any (p_id);
        get diagnostics v_count = row_count;
        update idempotent_reply set claimed_until = now() + make_interval(secs => p_lease_seconds)
        where hold_id = any (p_id);
    end if;
    return v_count;
end
$$;

-- Give back what nobody settled. Passes over holds that are being renewed.
create function expire_holds_v1(p_limit integer) returns table (id uuid, amount_e8 bigint)
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
    return query select r.id, r.amount_e8 from hold_resolution r where r.id = any (v_id);
end
$$;

-- Every move but a request's. Same key (or event and code) with the same content is done once; with other content
-- it is refused.
create function transfer_v1(
    p_event uuid[], p_code smallint[], p_debit bigint[], p_credit bigint[], p_amount bigint[], p_key text[],
    p_memo text[], out status smallint[]
) language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    n integer := cardinality(p_event);
    v_debit account%rowtype;
    v_credit account%rowtype;
    v_old transfer%rowtype;
    i integer;
begin
    status := array_fill(0::smallint, array[n]);
    perform from account where id = any (p_debit || p_credit) order by kind = 'write_off', id for update;
    for i in 1..n loop
        select * into v_old from transfer t
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
            insert into transfer (event_id, code, debit_id, credit_id, amount_e8, key, memo)
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

-- The account of this kind and owner, opened if it is not there yet.
create function account_open_v1(p_public_id uuid, p_kind account_kind, p_developer uuid, p_owner uuid, p_label text)
returns bigint language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_id bigint;
begin
    select a.id into v_id from account a where a.kind = p_kind and a.developer_id is not distinct from p_developer
        and a.owner_id is not distinct from p_owner and a.label = p_label and a.currency = 'USD';
    if v_id is null then
        insert into account (public_id, kind, developer_id, owner_id, label)
        values (p_public_id, p_kind, p_developer, p_owner, p_label)
        on conflict (kind, developer_id, owner_id, label, currency) do nothing returning account.id into v_id;
        if v_id is null then
            select a.id into v_id from account a where a.kind = p_kind and a.developer_id is not distinct from p_developer
                and a.owner_id is not distinct from p_owner and a.label = p_label and a.currency = 'USD';
        end if;
    end if;
    return v_id;
end
$$;

-- The account that collects what a developer's traffic costs at one provider.
create function provider_cost_account_v1(p_developer uuid, p_provider text) returns bigint
language sql security definer set search_path = pg_catalog, public as $$
    select account_open_v1(gen_random_uuid(), 'provider_cost', p_developer, null, p_provider)
$$;

-- Set, change or (with null) lift a spend limit. A counter that begins in mid-period starts with what the period
-- has already spent and with the holds in flight; the lock keeps holds from coming or going meanwhile. All
-- others take it first, shared.
create function spend_limit_set_v1(p_scope text, p_scope_id uuid, p_period text, p_limit bigint) returns void
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_limit bigint;
    v_counter bigint;
    v_start date := case p_period when 'month' then date_trunc('month', now() at time zone 'UTC')::date else 'epoch' end;
begin
    lock table hold in exclusive mode;
    if p_limit is null then
        -- The counters of open holds must stay until those resolve; a limit nobody can reach lifts the limit.
        update spend_limit set limit_e8 = 9000000000000000000
        where scope = p_scope and scope_id = p_scope_id and period = p_period;
        return;
    end if;
    insert into spend_limit (scope, scope_id, period, limit_e8) values (p_scope, p_scope_id, p_period, p_limit)
    on conflict (scope_id, scope, period) do update set limit_e8 = excluded.limit_e8
    returning id into v_limit;
    if exists (select from spend_counter where limit_id = v_limit) then
        return;
    end if;
    insert into spend_counter (limit_id, period_start, spent_e8, held_e8)
    select v_limit, v_start,
        coalesce((select sum(u.retail_e8) from usage_event u where u.created_at >= v_start
            and p_scope_id = case p_scope when 'app' then u.app_id when 'feature' then u.feature_id
                when 'end_user' then u.end_user_id else u.session_id end), 0),
        coalesce((select sum(h.amount_e8) from hold h where p_scope_id = case p_scope when 'app' then h.app_id
            when 'feature' then h.feature_id when 'end_user' then h.end_user_id else h.session_id end), 0)
    returning id into v_counter;
    update hold h set counters = coalesce(h.counters, '{}') || v_counter
    where p_scope_id = case p_scope when 'app' then h.app_id when 'feature' then h.feature_id
        when 'end_user' then h.end_user_id else h.session_id end;
end
$$;

-- Claim an Idempotency-Key for a request that is about to run. Outcome: 'claimed' · 'running' (another request
-- holds the claim) · 'stored' (`sealed` is the reply) · 'booked' (charged, but its reply was not kept) · 'mismatch'
-- (the key was used with another body).
create function reply_claim_v1(p_end_user uuid, p_key_hash bytea, p_fingerprint bytea, p_hold uuid, p_lease_seconds integer,
    out outcome text, out hold_id uuid, out sealed bytea)
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_row idempotent_reply%rowtype;
    v_hold uuid;
begin
    insert into idempotent_reply (end_user_id, key_hash, fingerprint, hold_id, claimed_until, expires_at)
    values (p_end_user, p_key_hash, p_fingerprint, p_hold, now() + make_interval(secs => p_lease_seconds),
        now() + interval '24 hours')
    on conflict (end_user_id, key_hash) do nothing;
    if found then
        outcome := 'claimed';
        return;
    end if;
    -- First what a late settlement locks first, then the claim: of the two that meet, one sees what the other did.
    select r.hold_id into v_hold from idempotent_reply r where r.end_user_id = p_end_user and r.key_hash = p_key_hash;
    perform from hold_resolution r where r.id = v_hold for update;
    select * into v_row from idempotent_reply r where r.end_user_id = p_end_user and r.key_hash = p_key_hash for update;
    if v_row.hold_id = p_hold then
        outcome := 'claimed';
    elsif v_row.hold_id is distinct from v_hold or v_hold is null then
        outcome := 'running';  -- freed or taken between our statements: the caller tries again
    elsif v_row.expires_at < now()
        or (v_row.sealed is null and v_row.claimed_until < now()
            and not exists (select from hold h where h.id = v_row.hold_id)
            and not exists (select from usage_event u where u.id = v_row.hold_id)) then
        -- Its request died before it was settled, or a day has passed: the key is free again. An answer of that
        -- request that turns up later, in a spool, is not charged any more.
        update hold_resolution r set state = 'released', reason = 'its Idempotency-Key was used again'
        where r.id = v_row.hold_id and r.state = 'expired' and r.settled_late_at is null;
        if v_row.sealed is null and v_row.expires_at >= now()
            and exists (select from usage_event u where u.id = v_row.hold_id) then
            outcome := 'running';  -- it was settled late while we waited for its resolution
            return;
        end if;
        update idempotent_reply r set fingerprint = p_fingerprint, hold_id = p_hold, sealed = null,
            claimed_until = now() + make_interval(secs => p_lease_seconds), created_at = now(),
            expires_at = now() + interval '24 hours'
        where r.end_user_id = p_end_user and r.key_hash = p_key_hash;
        outcome := 'claimed';
    elsif v_row.fingerprint <> p_fingerprint then
        outcome := 'mismatch';
    elsif v_row.sealed is not null then
        outcome := 'stored';
        hold_id := v_row.hold_id;
        sealed := v_row.sealed;
    elsif exists (select from usage_event u where u.id = v_row.hold_id) then
        outcome := 'booked';  -- its gateway died with the reply; what it gave was charged once
    else
        outcome := 'running';
    end if;
end
$$;

-- Keep the sealed replies of requests that are being settled in this very call.
create function reply_keep_v1(p_hold uuid[], p_sealed bytea[]) returns void
language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    if cardinality(p_hold) > 0 then
        update idempotent_reply r set sealed = k.sealed from unnest(p_hold, p_sealed) as k (hold_id, sealed)
        where r.hold_id = k.hold_id;
    end if;
end
$$;

-- Free the claim of a request that was refused before it was held.
create function reply_unclaim_v1(p_hold uuid) returns void
language sql security definer set search_path = pg_catalog, public as $$
    delete from idempotent_reply r where r.hold_id = p_hold and r.sealed is null
        and not exists (select from hold h where h.id = p_hold)
        and not exists (select from usage_event u where u.id = p_hold)
$$;

-- One session by the hash of its bearer, with all that a gateway needs to serve it.
create function session_resolve_v1(p_bearer_hash bytea)
returns table (
    session_id uuid, developer_id uuid, app_id uuid, public_app_id text, feature_id uuid, end_user_id uuid,
    expires_at timestamptz, revoked_at timestamptz, app_status text, developer_status text, allowed_origins text[],
    wallet_id bigint, earnings_account_id bigint, revenue_account_id bigint
) language sql stable security definer set search_path = pg_catalog, public as $$
    select s.id, s.developer_id, s.app_id, a.public_app_id, s.feature_id, s.end_user_id, s.expires_at, s.revoked_at,
        a.status, d.status, a.allowed_origins, w.id, e.id, r.id
    from session s
    join app a on a.id = s.app_id
    join developer d on d.id = s.developer_id
    join account w on w.kind = 'wallet' and w.developer_id = s.developer_id and w.owner_id = s.end_user_id
        and w.label = '' and w.currency = 'USD'
    join account e on e.kind = 'earnings' and e.developer_id = s.developer_id and e.owner_id is null and e.label = ''
        and e.currency = 'USD'
    join account r on r.kind = 'platform_revenue' and r.developer_id = s.developer_id and r.owner_id is null
        and r.label = '' and r.currency = 'USD'
    where s.bearer_hash = p_bearer_hash
$$;

-- Which of these sessions may still ask: asked for all that a gateway serves, every few seconds, in one call.
create function session_alive_v1(p_session uuid[]) returns setof uuid
language sql stable security definer set search_path = pg_catalog, public as $$
    select s.id from unnest(p_session) k (id)
    join session s on s.id = k.id
    join app a on a.id = s.app_id and a.status = 'active'
    join developer d on d.id = s.developer_id and d.status = 'active'
    where s.revoked_at is null and s.expires_at > now()
$$;

-- A group of everything in one commit: locks first, then what frees money, then what takes it.
create function group_v1(
    h_id uuid[], h_wallet bigint[], h_amount bigint[], h_developer uuid[], h_app uuid[], h_feature uuid[],
    h_end_user uuid[], h_session uuid[], h_request_id text[], p_lease_seconds integer,
    s_id uuid[], s_wallet bigint[], s_cost bigint[], s_rated bigint[], s_channel bigint[], s_platform bigint[],
    s_cost_account bigint[], s_earnings_account bigint[], s_revenue_account bigint[], s_price bigint[],
    s_input integer[], s_cached_read integer[], s_cached_write integer[], s_output integer[], s_reasoning integer[],
    s_first_byte_ms integer[], s_duration_ms integer[], s_payer smallint[], s_source smallint[],
    s_outcome smallint[], s_provider text[], s_model text[], s_raw_usage text[],
    r_id uuid[], r_state text[], r_reason text[], k_hold uuid[], k_sealed bytea[], n_id uuid[],
    out hold_status smallint[], out hold_posted bigint[], out hold_held bigint[],
    out settle_status smallint[], out settle_posted bigint[], out release_status smallint[]
) language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_limited boolean;
begin
    v_limited := ledger_lock_v1(h_wallet || s_wallet || s_cost_account || s_earnings_account || s_revenue_account,
        r_id || n_id, s_id, h_app, h_feature, h_end_user, h_session);
    if cardinality(s_id) > 0 then
        select s.status, s.posted into settle_status, settle_posted
        from settle_locked_v1(s_id, s_wallet, s_cost, s_rated, s_channel, s_platform, s_cost_account,
            s_earnings_account, s_revenue_account, s_price, s_input, s_cached_read, s_cached_write, s_output, s_reasoning,
            s_first_byte_ms, s_duration_ms, s_payer, s_source, s_outcome, s_provider, s_model, s_raw_usage, v_limited) s;
        if cardinality(k_hold) > 0 then
            perform reply_keep_v1(k_hold, k_sealed);
        end if;
    end if;
    if cardinality(r_id) > 0 then
        release_status := release_v1(r_id, r_state, r_reason);
    end if;
    if cardinality(h_id) > 0 then
        select h.status, h.posted, h.held into hold_status, hold_posted, hold_held
        from hold_locked_v1(h_id, h_wallet, h_amount, h_developer, h_app, h_feature, h_end_user, h_session,
            h_request_id, p_lease_seconds, v_limited) h;
    end if;
    if cardinality(n_id) > 0 then
        perform renew_v1(n_id, p_lease_seconds);
    end if;
    settle_status := coalesce(settle_status, '{}');
    settle_posted := coalesce(settle_posted, '{}');
    release_status := coalesce(release_status, '{}');
    hold_status := coalesce(hold_status, '{}');
    hold_posted := coalesce(hold_posted, '{}');
    hold_held := coalesce(hold_held, '{}');
end
$$;

revoke execute on all functions in schema public from public;
alter default privileges revoke execute on functions from public;
grant execute on function group_v1, hold_v1, settle_v1, release_v1, renew_v1, reply_claim_v1, reply_keep_v1, reply_unclaim_v1,
    session_resolve_v1, session_alive_v1, provider_cost_account_v1 to faucet_gateway;
grant execute on function transfer_v1, account_open_v1, spend_limit_set_v1 to faucet_api;
grant execute on function transfer_v1, account_open_v1, expire_holds_v1, release_v1 to faucet_jobs;
