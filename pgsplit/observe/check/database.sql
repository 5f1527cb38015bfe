-- What is in a database beside this project's own, and what it sets for all its sessions.
with

here as (
    select oid, datname, datconnlimit from pg_database where datname = current_database()
),

me as (
    select oid, rolname from pg_roles where rolname = current_user
),

-- What is set for this login or this database; the most special one counts.
given as (
    select distinct on (split_part(entry, '=', 1))
        split_part(entry, '=', 1) as name,
        substr(entry, strpos(entry, '=') + 1) as setting
    from pg_db_role_setting as stored
    cross join lateral unnest(stored.setconfig) as entry
    where
        stored.setdatabase in (0, (select oid from here))
        and stored.setrole in (0, (select oid from me))
    order by split_part(entry, '=', 1), stored.setrole <> 0 desc, stored.setdatabase <> 0 desc
)

select
    jsonb_build_object(
        'name', (select format('"%s"', replace(datname, '"', '""')) from here),
        'limit', (select datconnlimit from here),
        'encoding', pg_encoding_to_char(database.encoding),
        'publications', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'name', pubname, 'all', puballtables
            ) order by pubname), '[]')
            from pg_publication
        ),
        -- Replication's own workers obey these, and no session of the runner's can undo them there.
        'obeyed', (
            select coalesce(jsonb_agg(jsonb_build_object(
                'name', name, 'setting', setting
            ) order by name), '[]')
            from given
            where
                name in ('lock_timeout', 'transaction_timeout') and setting !~ '^0+[a-z]*$'
                or name = 'default_transaction_read_only' and lower(setting) in ('on', 'true', 'yes', '1')
        ),
        'undone', (
            select coalesce(jsonb_agg(distinct name), '[]') from given
            where name ~ '_timeout$' and name not in ('lock_timeout', 'transaction_timeout')
        )
    )
from pg_database as database
where database.datname = current_database()
