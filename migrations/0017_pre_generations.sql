-- What one request of an end user came to, for the gateway to tell its client: by our id, or by the id that the
-- caller gave it, which only what was charged keeps an index for.
create function generation_v1(p_end_user uuid, p_id uuid, p_request_id text)
returns table (
    id uuid, request_id text, state text, reason text, feature_key text, feature_version integer, payer smallint, provider text, model text,
    input_tokens integer, cached_read_tokens integer, cached_write_tokens integer, output_tokens integer,
    reasoning_tokens integer, usage_source smallint, outcome smallint, first_byte_ms integer, duration_ms integer,
    held_e8 bigint, retail_e8 bigint, created_at timestamptz
) language sql stable security definer set search_path = pg_catalog, public as $$
    select u.id, u.request_id, 'settled', null::text, f.feature_key, u.feature_version, u.payer, u.provider, u.model, u.input_tokens,
        u.cached_read_tokens, u.cached_write_tokens, u.output_tokens, u.reasoning_tokens, u.usage_source, u.outcome,
        u.first_byte_ms, u.duration_ms, u.held_e8, u.retail_e8, u.created_at
    from (
        select * from usage_event e where e.id = p_id and e.end_user_id = p_end_user
        union all
        (select * from usage_event e where e.end_user_id = p_end_user and e.request_id = p_request_id
            order by e.id desc limit 1)
    ) u left join feature f on f.id = u.feature_id
    union all
    select h.id, h.request_id, 'running', null, f.feature_key, null, null, null, null, null, null, null, null, null, null,
        null, null, null, h.amount_e8, null, h.created_at
    from hold h left join feature f on f.id = h.feature_id where h.id = p_id and h.end_user_id = p_end_user
    union all
    select r.id, r.request_id, r.state, r.reason, f.feature_key, null, null, null, null, null, null, null, null, null, null,
        null, null, null, r.amount_e8, 0, r.held_at
    from hold_resolution r left join feature f on f.id = r.feature_id
    where r.id = p_id and r.end_user_id = p_end_user and r.settled_late_at is null
$$;

revoke execute on function generation_v1 from public;
grant execute on function generation_v1 to faucet_gateway;
