-- What a feature's manifest says besides policy and pricing: schemas of input and output, a prompt, limits, a fixed
-- price and a free quota. Usage events name the version of the feature that they were served by.

-- `json` keeps the order of a schema's properties, which is the order in which a model fills them.
alter table feature
    add column parts json not null default '{}',
    add column free_quota_e8 bigint not null default 0 check (free_quota_e8 >= 0);
alter table feature_version add column parts json not null default '{}';

alter table usage_event add column feature_version integer;

-- Sessions are forgotten a week after their end, so there are never many to index.
-- squawk-ignore require-concurrent-index-creation
create index session_list_idx on session (app_id, created_at desc, id desc);

-- ── spend limits ──

-- A limit of scope `feature_end_user` has the feature's id and holds for each of its end users by themselves: it has
-- a counter for each of them, in `end_user_id`.
-- Both tables are as small as the number of limits.
-- squawk-ignore ban-drop-constraint
alter table spend_limit drop constraint spend_limit_scope_check;
-- squawk-ignore constraint-missing-not-valid
alter table spend_limit add constraint spend_limit_scope_check
    check (scope in ('app', 'feature', 'end_user', 'session', 'feature_end_user'));
alter table spend_counter add column end_user_id uuid;
-- squawk-ignore ban-drop-constraint
alter table spend_counter drop constraint spend_counter_limit_id_period_start_key;
-- squawk-ignore constraint-missing-not-valid, disallowed-unique-constraint
alter table spend_counter add constraint spend_counter_place unique nulls not distinct
    (limit_id, period_start, end_user_id);

create or replace function spend_counters_v1(p_app uuid[], p_feature uuid[], p_end_user uuid[], p_session uuid[])
returns table (item integer, counter_id bigint) language plpgsql as $$
begin
    if not exists (select from spend_limit where scope_id = any (p_app || p_feature || p_end_user || p_session)) then
        return;
    end if;
    insert into spend_counter (limit_id, period_start, end_user_id)
    select l.id, case l.period when 'month' then date_trunc('month', now() at time zone 'UTC')::date else 'epoch' end,
        e.end_user
    from spend_limit l cross join lateral (
        select distinct u.end_user from unnest(p_feature, p_end_user) u (feature, end_user)
        where l.scope = 'feature_end_user' and u.feature = l.scope_id
        union all select null where l.scope <> 'feature_end_user') e
    where l.scope_id = any (p_app || p_feature || p_end_user || p_session)
    order by l.id, e.end_user
    on conflict do nothing;
    return query
    select i.ord::integer, c.id
    from unnest(p_app, p_feature, p_end_user, p_session) with ordinality as i (app, feature, end_user, session, ord)
    join spend_limit l on (l.scope, l.scope_id) in (('app', i.app), ('feature', i.feature), ('end_user', i.end_user),
        ('session', i.session), ('feature_end_user', i.feature))
    join spend_counter c on c.limit_id = l.id and c.period_start =
        case l.period when 'month' then date_trunc('month', now() at time zone 'UTC')::date else 'epoch' end
        and c.end_user_id is not distinct from case when l.scope = 'feature_end_user' then i.end_user end
    order by 1, 2;
end
$$;

create or replace function spend_limit_set_v1(p_scope text, p_scope_id uuid, p_period text, p_limit bigint)
returns void language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_limit bigint;
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
    with spent as (
        select case p_scope when 'feature_end_user' then u.end_user_id end as whose, sum(u.retail_e8) as amount
        from usage_event u where u.created_at >= v_start
            and p_scope_id = case p_scope when 'app' then u.app_id when 'end_user' then u.end_user_id
                when 'session' then u.session_id else u.feature_id end
        group by 1
    ), held as (
        select case p_scope when 'feature_end_user' then h.end_user_id end as whose, sum(h.amount_e8) as amount
        from hold h where p_scope_id = case p_scope when 'app' then h.app_id when 'end_user' then h.end_user_id
            when 'session' then h.session_id else h.feature_id end
        group by 1
    )
    insert into spend_counter (limit_id, period_start, end_user_id, spent_e8, held_e8)
    select v_limit, v_start, w.whose, coalesce(s.amount, 0), coalesce(h.amount, 0)
    from (select spent.whose from spent union select held.whose from held
        union select null where p_scope <> 'feature_end_user') w
    left join spent s on s.whose is not distinct from w.whose
    left join held h on h.whose is not distinct from w.whose;
    update hold h set counters = coalesce(h.counters, '{}') || c.id
    from spend_counter c
    where c.limit_id = v_limit and c.period_start = v_start
        and c.end_user_id is not distinct from case p_scope when 'feature_end_user' then h.end_user_id end
        and p_scope_id = case p_scope when 'app' then h.app_id when 'end_user' then h.end_user_id
            when 'session' then h.session_id else h.feature_id end;
end
$$;

-- ── allowances ──

-- An allowance is what one end user may use of one feature's free quota in one month: a wallet with a label, funded
-- from `grants` at its first use, which only requests of that feature draw on. What is left goes back afterwards.
alter table developer add column free_quota_month_max_e8 bigint not null default 0
    check (free_quota_month_max_e8 >= 0);  -- what the platform gives away for a developer's features in a month
create table free_quota_month (
    developer_id uuid not null references developer (id),
    month date not null,
    granted_e8 bigint not null default 0 check (granted_e8 >= 0),
    primary key (developer_id, month)
);
grant select on free_quota_month to faucet_api, faucet_jobs;
alter table free_quota_month enable row level security;
create policy everybody on free_quota_month for all to faucet_jobs using (true) with check (true);
create policy tenant on free_quota_month for all to faucet_api
    using (current_setting('faucet.developer_id', true) in ('*', developer_id::text))
    with check (current_setting('faucet.developer_id', true) in ('*', developer_id::text));

-- Nothing has such a label yet.
-- squawk-ignore require-concurrent-index-creation
create index account_allowance_idx on account (label) where label like 'free:%';
alter table move disable trigger move_is_fixed;
insert into move (code, name, debit_kind, credit_kind) values (13, 'grant_return', 'wallet', 'grants');
alter table move enable trigger move_is_fixed;

-- The account of this month's allowance, opened and funded if it is not there yet. Null where the feature has no
-- quota, or where what the platform gives away for this developer's features has been given this month. The ids are
-- those of an account and of a transfer that may be made.
create function allowance_open_v1(p_feature uuid, p_end_user uuid, p_account uuid, p_event uuid) returns bigint
language plpgsql security definer set search_path = pg_catalog, public as $$
declare
    v_month date := date_trunc('month', now() at time zone 'UTC')::date;
    v_label text := 'free:' || p_feature || ':' || to_char(v_month, 'YYYY-MM');
    v_developer uuid;
    v_quota bigint;
    v_id bigint;
    v_grants bigint;
    v_status smallint[];
begin
    select a.id into v_id from account a where a.kind = 'wallet' and a.owner_id = p_end_user and a.label = v_label;
    if v_id is not null then
        return v_id;
    end if;
    select f.developer_id, f.free_quota_e8 into v_developer, v_quota
    from feature f join end_user e on e.id = p_end_user and e.app_id = f.app_id
    where f.id = p_feature and f.status = 'active' and f.free_quota_e8 > 0;
    if v_developer is null then
        return null;
    end if;
    insert into free_quota_month (developer_id, month) values (v_developer, v_month) on conflict do nothing;
    perform from free_quota_month q where q.developer_id = v_developer and q.month = v_month for update;
    select a.id into v_id from account a where a.kind = 'wallet' and a.owner_id = p_end_user and a.label = v_label;
    if v_id is not null then
        return v_id;  -- somebody else's first request of the month was faster
    end if;
    update free_quota_month q set granted_e8 = q.granted_e8 + v_quota
    where q.developer_id = v_developer and q.month = v_month and q.granted_e8 + v_quota
        <= (select d.free_quota_month_max_e8 from developer d where d.id = v_developer);
    if not found then
        return null;
    end if;
    v_id := account_open_v1(p_account, 'wallet', v_developer, p_end_user, v_label);
    v_grants := account_open_v1(gen_random_uuid(), 'grants', null, null, '');
    v_status := transfer_v1(array[p_event], array[12::smallint], array[v_grants], array[v_id], array[v_quota],
        array['allowance ' || p_account], array['free quota of ' || to_char(v_month, 'YYYY-MM')]);
    if v_status[1] <> 0 then
        raise exception 'the allowance of % was refused with status %', p_end_user, v_status[1];
    end if;
    return v_id;
end
$$;

-- ── settlements that name the feature's version ──

create function settle_carefully_v2(
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

create function settle_locked_v2(
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
begin
    -- Of an id that comes twice, one must not be chosen by chance. And one that comes late takes what its wallet had
    -- before the group's other holds were freed, so a group with late ones is not parted.
    if n = 1 or n = (select count(distinct h.id) from unnest(p_id) u (id) join hold h on h.id = u.id) then
        with booked as materialized (
            delete from hold h
            using unnest(p_id, p_wallet, p_cost, p_rated, p_channel, p_platform, p_cost_account, p_earnings_account,
                    p_revenue_account, p_price, p_input, p_cached_read, p_cached_write, p_output, p_reasoning,
                    p_first_byte_ms, p_duration_ms, p_payer, p_source, p_outcome, p_provider, p_model, p_raw_usage, p_version)
                with ordinality
                as i (i_id, wallet, cost, rated, channel, platform, cost_account, earnings_account, revenue_account,
                    price, input, cached_read, cached_write, output, reasoning, first_byte_ms, duration_ms, payer,
                    source, outcome, provider, model, raw_usage, version, ord), account a, account b, account c
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
                outcome, provider, model, request_id, raw_usage, feature_version)
            select id, developer_id, app_id, feature_id, end_user_id, session_id, wallet, amount_e8, cost, rated,
                channel, platform, 0, price, input, cached_read, cached_write, output, reasoning, first_byte_ms,
                duration_ms, payer, source, outcome, provider, model, request_id, raw_usage, version
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

create function settle_v2(
    p_id uuid[], p_wallet bigint[], p_cost bigint[], p_rated bigint[], p_channel bigint[], p_platform bigint[],
    p_cost_account bigint[], p_earnings_account bigint[], p_revenue_account bigint[], p_price bigint[],
    p_input integer[], p_cached_read integer[], p_cached_write integer[], p_output integer[], p_reasoning integer[],
    p_first_byte_ms integer[], p_duration_ms integer[], p_payer smallint[], p_source smallint[],
    p_outcome smallint[], p_provider text[], p_model text[], p_raw_usage text[], p_version integer[],
    out status smallint[], out posted bigint[]
) language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    if cardinality(p_id) = 0 then
        status := '{}';
        posted := '{}';
        return;
    end if;
    select s.status, s.posted into status, posted
    from settle_locked_v2(p_id, p_wallet, p_cost, p_rated, p_channel, p_platform, p_cost_account, p_earnings_account,
        p_revenue_account, p_price, p_input, p_cached_read, p_cached_write, p_output, p_reasoning, p_first_byte_ms,
        p_duration_ms, p_payer, p_source, p_outcome, p_provider, p_model, p_raw_usage, p_version,
        ledger_lock_v1(p_wallet || p_cost_account || p_earnings_account || p_revenue_account, '{}', p_id,
            '{}', '{}', '{}', '{}')) s;
end
$$;

create function group_v2(
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
begin
    v_limited := ledger_lock_v1(h_wallet || s_wallet || s_cost_account || s_earnings_account || s_revenue_account,
        r_id || n_id, s_id, h_app, h_feature, h_end_user, h_session);
    if cardinality(s_id) > 0 then
        select s.status, s.posted into settle_status, settle_posted
        from settle_locked_v2(s_id, s_wallet, s_cost, s_rated, s_channel, s_platform, s_cost_account,
            s_earnings_account, s_revenue_account, s_price, s_input, s_cached_read, s_cached_write, s_output, s_reasoning,
            s_first_byte_ms, s_duration_ms, s_payer, s_source, s_outcome, s_provider, s_model, s_raw_usage, s_version, v_limited) s;
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

-- Gateways of the version before this one name no version of a feature.
create or replace function settle_v1(
    p_id uuid[], p_wallet bigint[], p_cost bigint[], p_rated bigint[], p_channel bigint[], p_platform bigint[],
    p_cost_account bigint[], p_earnings_account bigint[], p_revenue_account bigint[], p_price bigint[],
    p_input integer[], p_cached_read integer[], p_cached_write integer[], p_output integer[], p_reasoning integer[],
    p_first_byte_ms integer[], p_duration_ms integer[], p_payer smallint[], p_source smallint[],
    p_outcome smallint[], p_provider text[], p_model text[], p_raw_usage text[],
    out status smallint[], out posted bigint[]
) language plpgsql security definer set search_path = pg_catalog, public as $$
begin
    select s.status, s.posted into status, posted
    from settle_v2(p_id, p_wallet, p_cost, p_rated, p_channel, p_platform, p_cost_account, p_earnings_account,
        p_revenue_account, p_price, p_input, p_cached_read, p_cached_write, p_output, p_reasoning, p_first_byte_ms,
        p_duration_ms, p_payer, p_source, p_outcome, p_provider, p_model, p_raw_usage,
        array_fill(null::integer, array[cardinality(p_id)])) s;
end
$$;
create or replace function group_v1(
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
begin
    select g.* into hold_status, hold_posted, hold_held, settle_status, settle_posted, release_status
    from group_v2(h_id, h_wallet, h_amount, h_developer, h_app, h_feature, h_end_user, h_session, h_request_id,
        p_lease_seconds, s_id, s_wallet, s_cost, s_rated, s_channel, s_platform, s_cost_account, s_earnings_account,
        s_revenue_account, s_price, s_input, s_cached_read, s_cached_write, s_output, s_reasoning, s_first_byte_ms,
        s_duration_ms, s_payer, s_source, s_outcome, s_provider, s_model, s_raw_usage,
        array_fill(null::integer, array[cardinality(s_id)]), r_id, r_state, r_reason, k_hold, k_sealed, n_id) g;
end
$$;
-- Parts that no door could execute; who is in the middle of one repeats its call.
-- squawk-ignore ban-drop-function
drop function settle_locked_v1;
-- squawk-ignore ban-drop-function
drop function settle_carefully_v1;

revoke execute on function settle_v2, group_v2, settle_locked_v2, settle_carefully_v2, allowance_open_v1 from public;
grant execute on function settle_v2, group_v2, allowance_open_v1 to faucet_gateway;
