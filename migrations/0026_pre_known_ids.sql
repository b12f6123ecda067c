-- A look for ids that are known reads the index that begins with them. Planned while usage events were few, it read all
-- of another index, for every group, until their number was known.

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
    -- order of time, so as a rule nothing is known from the least of them on, and one look replaces many. It is the
    -- order that names the index: while a table is young any index with the id somewhere looks as good.
    if not (select (select x.id from usage_event x where x.id >= least.id order by x.id limit 1) is not null
                and (select x.id from usage_event x where x.id = any (p_id) order by x.id limit 1) is not null
            or (select x.id from hold_resolution x where x.id >= least.id order by x.id limit 1) is not null
                and (select x.id from hold_resolution x where x.id = any (p_id) order by x.id limit 1) is not null
            or (select x.id from hold x where x.id >= least.id order by x.id limit 1) is not null
                and (select x.id from hold x where x.id = any (p_id) order by x.id limit 1) is not null
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
