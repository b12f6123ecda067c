-- Who may do what. One role per door, none may log in, own a table or bypass row security; a door's process
-- takes its role at connection start. `faucet_owner` owns everything and is used by migrations alone.
-- Roles belong to the cluster, so another database of the same cluster may have made them already.
do $$
declare
    role_name text;
begin
    foreach role_name in array array['faucet_owner', 'faucet_gateway', 'faucet_api', 'faucet_jobs'] loop
        begin
            if not exists (select from pg_roles where rolname = role_name) then
                execute format('create role %I nologin', role_name);
            end if;
        exception when duplicate_object or unique_violation then
            null;  -- another process migrating another database was first
        end;
        if not pg_has_role(current_user, role_name, 'member') then
            execute format('grant %I to current_user', role_name);
        end if;
    end loop;
    execute format('grant create, temporary on database %I to faucet_owner', current_database());
end
$$;
grant create, usage on schema public to faucet_owner;
grant usage on schema public to faucet_gateway, faucet_api, faucet_jobs;
revoke create on schema public from public;
