-- The models on end users' own machines, as notes: no process of ours ever connects to one.

create table local_endpoint (
    id uuid primary key,
    developer_id uuid not null,
    app_id uuid not null,
    end_user_id uuid not null references end_user (id),
    name text not null check (length(name) between 1 and 100),
    kind text not null check (kind in ('ollama', 'lm_studio', 'vllm', 'llama_cpp', 'openai_compatible')),
    base_url text not null check (length(base_url) between 8 and 300),
    models text[] not null default '{}' check (cardinality(models) <= 200),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (end_user_id, name),
    foreign key (app_id, developer_id) references app (id, developer_id)
);
create index local_endpoint_list_idx on local_endpoint (end_user_id, created_at desc, id desc);

grant select, insert, delete on local_endpoint to faucet_api;
alter table local_endpoint enable row level security;
create policy tenant on local_endpoint for all to faucet_api
    using (current_setting('faucet.developer_id', true) in ('*', developer_id::text))
    with check (current_setting('faucet.developer_id', true) in ('*', developer_id::text));
