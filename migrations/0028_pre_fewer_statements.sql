-- A group of requests pays for the beginning and end of each statement that it runs, and of each expression with a
-- query in it: as much as for four requests. The same with fewer of them; what they do has not changed, but that
-- settlements name their accounts in the usage event (0027).

create or replace function ledger_lock_v1(p_account bigint[], p_other uuid[], p_settle uuid[],
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
    select count(*) >= 0 and exists (select from spend_limit) into v_limited
    from (select from account where id = any (p_account) order by id for update) locked;
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

create or replace function hold_locked_v1(
    p_id uuid[], p_wallet bigint[], p_amount bigint[], p_developer uuid[], p_app uuid[], p_feature uuid[],
    p_end_user uuid[], p_session uuid[], p_request_id text[], p_lease_seconds integer,
    p_limited boolean, out status smallint[], out posted bigint[], out held bigint[]
) language plpgsql as $$
declare
    n integer := cardinality(p_id);
    v_lease timestamptz := now() + make_interval(secs => p_lease_seconds);
    v_item integer[];
    v_counter bigint[];
    v_tight boolean := false;
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
    if v_counter is not null then
        v_tight := exists (
            select from (
                select g.counter, sum(p_amount[g.item]) as total from unnest(v_item, v_counter) g (item, counter)
                group by g.counter
            ) t join spend_counter c on c.id = t.counter join spend_limit l on l.id = c.limit_id
            where l.limit_e8 - c.spent_e8 - c.held_e8 < t.total
        );
    end if;

    -- The set-based way: wallets whose whole group fits are reserved in one statement. Not for ids that are known
    -- already (a retry), nor when a spend limit is too tight for all of the group together. Ids are made in the
    -- order of time, so as a rule nothing is known from the least of them on, and one look replaces many. It is the
    -- order that names the index: while a table is young any index with the id somewhere looks as good.
    if not v_tight then
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
            where g.amount >= 0 and a.posted_e8 - a.held_e8 >= g.total and not (
                select (select x.id from usage_event x where x.id >= least.id order by x.id limit 1) is not null
                        and (select x.id from usage_event x where x.id = any (p_id) order by x.id limit 1) is not null
                    or (select x.id from hold_resolution x where x.id >= least.id order by x.id limit 1) is not null
                        and (select x.id from hold_resolution x where x.id = any (p_id) order by x.id limit 1) is not null
                    or (select x.id from hold x where x.id >= least.id order by x.id limit 1) is not null
                        and (select x.id from hold x where x.id = any (p_id) order by x.id limit 1) is not null
                from (select u.id from unnest(p_id) u (id) order by u.id limit 1) least)
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

create or replace function settle_locked_v2(
    p_id uuid[], p_wallet bigint[], p_cost bigint[], p_rated bigint[], p_channel bigint[], p_platform bigint[],
    p_cost_account bigint[], p_earnings_account bigint[], p_revenue_account bigint[], p_price bigint[],
    p_input integer[], p_cached_read integer[], p_cached_write integer[], p_output integer[], p_reasoning integer[],
    p_first_byte_ms integer[], p_duration_ms integer[], p_payer smallint[], p_source smallint[],
    p_outcome smallint[], p_provider text[], p_model text[], p_raw_usage text[], p_version integer[],
    p_limited boolean, out status smallint[], out posted bigint[]
) language plpgsql as $$
declare
    n integer := cardinality(p_id);
    v_done uuid[];
    v_counter bigint[];
    v_counted uuid[];
    v_reserved bigint[];
    v_spent bigint[];
begin
    if p_limited then
        -- While the holds are there. Most groups have to do with no limit, and don't pay for an update of counters.
        select array_agg(k.counter), array_agg(h.id), array_agg(h.amount_e8), array_agg(u.rated)
        into v_counter, v_counted, v_reserved, v_spent
        from unnest(p_id, p_rated) u (id, rated) join hold h on h.id = u.id
        cross join lateral unnest(h.counters) k (counter);
    end if;
    with booked as materialized (
        delete from hold h
        using unnest(p_id, p_wallet, p_cost, p_rated, p_channel, p_platform, p_cost_account, p_earnings_account,
                p_revenue_account, p_price, p_input, p_cached_read, p_cached_write, p_output, p_reasoning,
                p_first_byte_ms, p_duration_ms, p_payer, p_source, p_outcome, p_provider, p_model, p_raw_usage, p_version)
            with ordinality
            as i (i_id, wallet, cost, rated, channel, platform, cost_account, earnings_account, revenue_account,
                price, input, cached_read, cached_write, output, reasoning, first_byte_ms, duration_ms, payer,
                source, outcome, provider, model, raw_usage, version, ord), account a, account b, account c
        -- Of an id that comes twice, one must not be chosen by chance. And one that comes late takes what its wallet
        -- had before the group's other holds were freed, so a group with late ones is not parted.
        where (n = 1 or n = (select count(distinct o.id) from unnest(p_id) u (id) join hold o on o.id = u.id))
            and h.id = i.i_id and (h.wallet_id = i.wallet and i.rated between 0 and h.amount_e8
                and least(i.cost, i.channel, i.platform) >= 0
                and i.rated = i.channel + i.platform + case when i.payer in (0, 1) then i.cost else 0 end) is true
            and a.id = i.cost_account and (a.developer_id = h.developer_id
                and a.kind = case i.payer when 1 then 'earnings'::account_kind else 'provider_cost' end) is true
            and b.id = i.earnings_account and (b.developer_id = h.developer_id and b.kind = 'earnings') is true
            and c.id = i.revenue_account
            and (c.developer_id = h.developer_id and c.kind = 'platform_revenue') is true
        returning h.id, h.developer_id, h.app_id, h.feature_id, h.end_user_id, h.session_id, h.amount_e8,
            h.request_id, case when i.payer in (0, 1) then i.cost else 0 end as due, i.*
    ), event as (
        insert into usage_event (id, developer_id, app_id, feature_id, end_user_id, session_id, wallet_id, held_e8,
            cost_e8, retail_e8, channel_e8, platform_e8, write_off_e8, price_id, input_tokens, cached_read_tokens,
            cached_write_tokens, output_tokens, reasoning_tokens, first_byte_ms, duration_ms, payer, usage_source,
            outcome, provider, model, request_id, raw_usage, feature_version, cost_account, earnings_account,
            revenue_account)
        select id, developer_id, app_id, feature_id, end_user_id, session_id, wallet, amount_e8, cost, rated,
            channel, platform, 0, price, input, cached_read, cached_write, output, reasoning, first_byte_ms,
            duration_ms, payer, source, outcome, provider, model, request_id, raw_usage, version, cost_account,
            earnings_account, revenue_account
        from booked
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
    if v_counter is not null then
        update spend_counter c set held_e8 = c.held_e8 - d.held, spent_e8 = c.spent_e8 + d.spent
        from (
            select g.counter, sum(g.held) as held, sum(g.spent) as spent
            from unnest(v_counter, v_counted, v_reserved, v_spent) g (counter, id, held, spent)
            where g.id = any (v_done) group by g.counter
        ) d
        where c.id = d.counter;
    end if;

    if cardinality(v_done) = n then
        status := array_fill(0::smallint, array[n]);
    else
        select s.status, s.posted into status, posted
        from settle_carefully_v2(p_id, p_wallet, p_cost, p_rated, p_channel, p_platform, p_cost_account,
            p_earnings_account, p_revenue_account, p_price, p_input, p_cached_read, p_cached_write, p_output, p_reasoning,
            p_first_byte_ms, p_duration_ms, p_payer, p_source, p_outcome, p_provider, p_model, p_raw_usage, p_version) s;
        for i in 1..n loop
            -- Done, but by this very call.
            if status[i] = 4 and p_id[i] = any (v_done) then
                status[i] := 0;
            end if;
        end loop;
    end if;
end
$$;

create or replace function group_v2(
    h_id uuid[], h_wallet bigint[], h_amount bigint[], h_developer uuid[], h_app uuid[], h_feature uuid[],
    h_end_user uuid[], h_session uuid[], h_request_id text[], p_lease_seconds integer,
    s_id uuid[], s_wallet bigint[], s_cost bigint[], s_rated bigint[], s_channel bigint[], s_platform bigint[],
    s_cost_account bigint[], s_earnings_account bigint[], s_revenue_account bigint[], s_price bigint[],
    s_input integer[], s_cached_read integer[], s_cached_write integer[], s_output integer[], s_reasoning integer[],
    s_first_byte_ms integer[], s_duration_ms integer[], s_payer smallint[], s_source smallint[],
    s_outcome smallint[], s_provider text[], s_model text[], s_raw_usage text[], s_version integer[],
    r_id uuid[], r_state text[], r_reason text[], k_hold uuid[], k_sealed bytea[], n_id uuid[],
    out hold_status smallint[], out hold_posted bigint[], out hold_held bigint[],
    out settle_status smallint[], out settle_posted bigint[], out release_status smallint[]
) language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_limited boolean;
    v_settled record;
    v_held record;
begin
    v_limited := ledger_lock_v1(h_wallet || s_wallet || s_cost_account || s_earnings_account || s_revenue_account,
        r_id || n_id, s_id, h_app, h_feature, h_end_user, h_session);
    if cardinality(s_id) > 0 then
        v_settled := settle_locked_v2(s_id, s_wallet, s_cost, s_rated, s_channel, s_platform, s_cost_account,
            s_earnings_account, s_revenue_account, s_price, s_input, s_cached_read, s_cached_write, s_output, s_reasoning,
            s_first_byte_ms, s_duration_ms, s_payer, s_source, s_outcome, s_provider, s_model, s_raw_usage, s_version,
            v_limited);
        settle_status := v_settled.status;
        settle_posted := v_settled.posted;
        if cardinality(k_hold) > 0 then
            perform reply_keep_v1(k_hold, k_sealed);
        end if;
    end if;
    if cardinality(r_id) > 0 then
        release_status := release_v1(r_id, r_state, r_reason);
    end if;
    if cardinality(h_id) > 0 then
        v_held := hold_locked_v1(h_id, h_wallet, h_amount, h_developer, h_app, h_feature, h_end_user, h_session,
            h_request_id, p_lease_seconds, v_limited);
        hold_status := v_held.status;
        hold_posted := v_held.posted;
        hold_held := v_held.held;
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

-- PostgreSQL reads the expression of a check anew for each statement that writes the table, so four are one: only wallets
-- hold and have an owner, and are never below their holds; earnings and payouts under way are never below zero.
-- squawk-ignore ban-drop-constraint
alter table account drop constraint only_wallets_hold, drop constraint no_overdraft, drop constraint no_debt,
    -- squawk-ignore ban-drop-constraint
    drop constraint owned;
-- squawk-ignore constraint-missing-not-valid
alter table account add constraint no_overdraft check (
    case kind
        when 'wallet' then owner_id is not null and held_e8 >= 0 and posted_e8 >= held_e8
        else owner_id is null and held_e8 = 0 and (posted_e8 >= 0 or kind not in ('earnings', 'payout_clearing'))
    end);
