-- The queue of jobs lives in a schema of its own: Procrastinate's tables and functions, made by the migration from
-- the installed package's own schema right after this file. Only the jobs' role may use what is made there.
create schema procrastinate;
grant usage on schema procrastinate to faucet_jobs;
alter default privileges in schema procrastinate grant select, insert, update, delete on tables to faucet_jobs;
alter default privileges in schema procrastinate grant usage on sequences to faucet_jobs;
alter default privileges in schema procrastinate grant execute on functions to faucet_jobs;
