-- The price book: versions are added, never edited. Imports make drafts; a person confirms them; a usage event
-- keeps the id of the version it was rated with. Amounts are e8 (1e-8 USD) per million tokens.
create table price (
    id bigint generated always as identity primary key,
    provider text not null,
    model text not null,
    tokenizer text not null check (tokenizer in ('o200k', 'words', 'bytes')),
    context_window integer not null check (context_window > 0),
    max_output_tokens integer not null check (max_output_tokens > 0),
    input_e8_per_m bigint not null check (input_e8_per_m >= 0),
    cached_read_e8_per_m bigint not null check (cached_read_e8_per_m >= 0),
    cached_write_e8_per_m bigint not null check (cached_write_e8_per_m >= 0),
    output_e8_per_m bigint not null check (output_e8_per_m >= 0),
    reasoning_e8_per_m bigint check (reasoning_e8_per_m >= 0),
    request_e8 bigint not null default 0 check (request_e8 >= 0),
    image_tokens_max integer not null check (image_tokens_max >= 0),
    status text not null default 'draft' check (status in ('draft', 'confirmed', 'rejected')),
    effective_from timestamptz not null,
    source text not null,
    created_at timestamptz not null default now(),
    decided_at timestamptz,
    decided_by text,
    unique (provider, model, effective_from)
);

-- A version that was decided is history: its figures stay as they were.
create function price_refuse_change_v1() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and old.status = 'draft'
        and (to_jsonb(new) - array['status', 'decided_at', 'decided_by'])
          = (to_jsonb(old) - array['status', 'decided_at', 'decided_by']) then
        return new;
    end if;
    raise exception 'a price version is never changed; add a new one' using errcode = 'restrict_violation';
end
$$;
create trigger price_is_history before update or delete on price
    for each row execute function price_refuse_change_v1();
create trigger price_is_kept before truncate on price
    for each statement execute function price_refuse_change_v1();

grant select on price to faucet_gateway, faucet_api, faucet_jobs;
grant insert, update (status, decided_at, decided_by) on price to faucet_api, faucet_jobs;
