{#
    Which constraints stop working, or work otherwise, once their tables live apart?

    Delete and update rules across services; keys that were never validated; constraints that are
    checked at commit; exclusion constraints.
#}
{{ config(enabled=pgsplit.is_monolith() or var('everything', false)) }}

with

owners as (
    select
        table_name,
        nullif(owner, '') as owner
    from ({{ pgsplit.expected_tables() }}) as rows (table_name, owner)
),

known as (
    select
        table_name,
        column_name,
        target_table,
        condition
    from ({{ pgsplit.known_references() }})
        as rows (
            table_name, column_name, target_table, target_column, value, condition
        )
    where condition <> 'true'
),

constraints as (
    select
        held.*,
        class.relname,
        target.relname as target_name,
        owners.owner,
        target_owners.owner as target_owner,
        held.conrelid::regclass::text as table_name,
        format('%s on %s', quote_ident(held.conname), held.conrelid::regclass) as object,
        pg_get_constraintdef(held.oid) as definition
    from pg_catalog.pg_constraint as held
    inner join pg_catalog.pg_class as class on held.conrelid = class.oid
    left join pg_catalog.pg_class as target on held.confrelid = target.oid
    left join owners on class.relname = owners.table_name
    left join owners as target_owners on target.relname = target_owners.table_name
    where
        class.relnamespace = to_regnamespace('{{ pgsplit.monolith_schema() }}')
        and held.conparentid = 0
),

crossing as (
    select
        *,
        substring(definition from 'FOREIGN KEY (\(.*\)) REFERENCES') as column_names,
        case confdeltype
            when 'c' then 'CASCADE'
            when 'n' then 'SET NULL'
            when 'd' then 'SET DEFAULT'
            when 'r' then 'RESTRICT'
            else 'NO ACTION'
        end as delete_rule
    from constraints
    where contype = 'f' and owner <> target_owner
),

found as (
    select
        'changes behaviour' as severity,
        'ON DELETE ' || delete_rule || ' across services' as hazard,
        table_name || ' ' || column_names as object,
        format('to %s of %s', target_name, target_owner) as found,
        case confdeltype
            when 'c' then 'A delete there no longer deletes the rows here'
            when 'n' then 'A delete there no longer empties the column here'
            when 'd' then 'A delete there no longer resets the column here'
            else 'A delete there is no longer refused while rows here need it'
        end
        || case
            when confupdtype in ('a', 'r') then '.'
            else '; ON UPDATE stops as well: a changed id does not arrive.'
        end as means,
        'Let the service that refers act on deletes in the other;'
        ' dbt build --target SERVICE --select tag:parity finds what was missed.' as mend
    from crossing

    union all

    select
        'note' as severity,
        'key was never validated' as hazard,
        constraints.object,
        'NOT VALID' as found,
        'It binds new rows only: older ones may refer to nothing.' as means,
        case
            when known.condition is null
                then format(
                    'When no row breaks it: ALTER TABLE %s VALIDATE CONSTRAINT %I;',
                    constraints.table_name, constraints.conname
                )
            else 'Leave it: it is meant for rows where ' || known.condition || ', which is tested.'
        end as mend
    from constraints
    left join known
        on
            constraints.relname = known.table_name
            and constraints.target_name = known.target_table
            and constraints.definition like format('FOREIGN KEY (%I) %%', known.column_name)
    where constraints.contype = 'f' and not constraints.convalidated

    union all

    select
        'changes behaviour' as severity,
        'deferrable constraint' as hazard,
        object,
        definition as found,
        'The service''s own keys are checked with every statement, not at commit.' as means,
        format(
            'If the application can do without: ALTER TABLE %s DROP CONSTRAINT %I, ADD %s;',
            table_name, conname, regexp_replace(definition, ' DEFERRABLE.*', '')
        ) as mend
    from constraints
    where condeferrable and contype in ('f', 'p', 'u', 'x')

    union all

    select
        'changes behaviour' as severity,
        'exclusion constraint' as hazard,
        object,
        definition as found,
        'The service''s table is made without it.' as means,
        format(
            'Add it to the table in %s once its rows are there: ADD CONSTRAINT %I %s;',
            coalesce(owner, 'its service'), conname, definition
        ) as mend
    from constraints
    where contype = 'x'
)

select * from found
order by severity, hazard, object
