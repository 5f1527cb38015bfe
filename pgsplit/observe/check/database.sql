-- What is in a database beside this project's own, and what it sets for all its sessions.
with

here as (
    select
        oid,
        datname,
        datconnlimit,
        encoding
    from pg_database
    where datname = current_database()
),

entries as (
    select
        split_part(entry.line, '=', 1) as name,
        substr(entry.line, strpos(entry.line, '=') + 1) as setting,
        stored.setrole <> 0 as is_of_login,
        stored.setdatabase <> 0 as is_of_database
    from pg_db_role_setting as stored
    cross join unnest(stored.setconfig) as entry (line)
    where
        stored.setdatabase in (
            select 0
            union all
            select here.oid from here
        )
        and stored.setrole in (
            select 0
            union all
            select role.oid from pg_roles as role
            where role.rolname = current_user
        )
),

-- What is set for this login or this database; the most special one counts.
given as (
    select distinct on (name)
        name,
        setting
    from entries
    order by name asc, is_of_login desc, is_of_database desc
),

-- Replication's own workers obey these, and no session of the runner's can undo them there.
obeyed as (
    select
        name,
        setting
    from given
    where
        (name in ('lock_timeout', 'transaction_timeout') and setting !~ '^0+[a-z]*$')
        or (
            name = 'default_transaction_read_only'
            and lower(setting) in ('on', 'true', 'yes', '1')
        )
),

undone as (
    select name from given
    where name ~ '_timeout$' and name not in ('lock_timeout', 'transaction_timeout')
)

select
    jsonb_build_object(
        'name', format('"%s"', replace(here.datname, '"', '""')),
        'limit', here.datconnlimit,
        'encoding', pg_encoding_to_char(here.encoding),
        'makes_restore_points',
        has_function_privilege('pg_create_restore_point(text)', 'execute'),
        'publications', (
            select
                coalesce(
                    jsonb_agg(
                        jsonb_build_object(
                            'name', publications.pubname, 'all', publications.puballtables
                        )
                        order by publications.pubname
                    ),
                    '[]'
                )
            from pg_publication as publications
        ),
        'obeyed', (
            select
                coalesce(
                    jsonb_agg(
                        jsonb_build_object('name', obeyed.name, 'setting', obeyed.setting)
                        order by obeyed.name
                    ),
                    '[]'
                )
            from obeyed
        ),
        'undone', (select coalesce(jsonb_agg(undone.name order by undone.name), '[]') from undone)
    )
from here
