begin;

do $$
begin
    if not exists (select 1 from pg_extension where extname = 'citus') then
        raise exception using
            message = format(
                'The extension citus is not in the database %s. Nothing was changed.',
                current_database()
            ),
            hint = 'On a server that has Citus and names it in shared_preload_libraries:'
                ' create extension citus; then run this file again.';
    end if;
end
$$;

-- Tables that refer to each other are made in one transaction, one shard after the other.
select set_config('citus.multi_shard_modify_mode', 'sequential', true);
