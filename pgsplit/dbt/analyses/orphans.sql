{#
    Which rows refer to something that is not there?

    Counts them for each reference that no valid key guarantees: those of models/_sources.yml, and
    foreign keys that are NOT VALID. Only this part of the analysis reads the tables. `ts_stat` runs a
    query that is made from the catalogue as text inside a plain SELECT; its only word is the count.
#}
{{ config(enabled=pgsplit.is_monolith() or var('everything', false)) }}

with

known as (
    select
        format('%I.%I', '{{ pgsplit.monolith_schema() }}', table_name) as table_name,
        column_name,
        format('%I.%I', '{{ pgsplit.monolith_schema() }}', target_table) as target_table,
        target_column,
        value,
        nullif(condition, 'true') as condition,
        -- with a name of its own: the other table may have a column of the same name
        case value
            when '"' || column_name || '"' then format('referring.%I', column_name)
            else 'named.key'
        end as key
    from ({{ pgsplit.known_references() }}) as rows (
        table_name, column_name, target_table, target_column, value, condition
    )
),

invalid as (
    select
        constraints.conrelid,
        constraints.confrelid,
        constraints.conname,
        array_agg(referring.attname order by part.position) as columns,
        array_agg(target.attname order by part.position) as target_columns
    from pg_catalog.pg_constraint as constraints
    inner join pg_catalog.pg_class as class
        on
            constraints.conrelid = class.oid
            and class.relnamespace = to_regnamespace('{{ pgsplit.monolith_schema() }}')
    cross join
        unnest(constraints.conkey, constraints.confkey)
        with ordinality as part (attnum, target_attnum, position)
    inner join pg_catalog.pg_attribute as referring
        on constraints.conrelid = referring.attrelid and part.attnum = referring.attnum
    inner join pg_catalog.pg_attribute as target
        on constraints.confrelid = target.attrelid and part.target_attnum = target.attnum
    where constraints.contype = 'f' and not constraints.convalidated
    group by constraints.oid, constraints.conrelid, constraints.confrelid, constraints.conname
),

declared as (
    select
        invalid.conrelid,
        invalid.confrelid,
        'FOREIGN KEY ' || quote_ident(invalid.conname) || ' NOT VALID' as declared_by,
        array_to_string(invalid.columns, ', ') as column_names,
        (
            select
                string_agg(
                    format('target.%I = referring.%I', part.target_column, part.column_name),
                    ' and '
                )
            from unnest(invalid.columns, invalid.target_columns)
                as part (column_name, target_column)
        ) as matching,
        (
            select string_agg(format('referring.%I is not null', part.column_name), ' and ')
            from unnest(invalid.columns) as part (column_name)
        )
        || coalesce(' and ' || known.condition, '') as referring,
        '' as naming
    from invalid
    left join known
        on
            invalid.conrelid = to_regclass(known.table_name)
            and invalid.confrelid = to_regclass(known.target_table)
            and invalid.columns = array[known.column_name]::name[]
),

undeclared as (
    select
        to_regclass(known.table_name)::oid as conrelid,
        to_regclass(known.target_table)::oid as confrelid,
        'no key' as declared_by,
        known.column_name as column_names,
        format('target.%I = %s', known.target_column, known.key) as matching,
        known.key || ' is not null' || coalesce(' and ' || known.condition, '') as referring,
        case known.key
            when 'named.key'
                then format(', lateral (select %s as key) as named', known.value)
            else ''
        end as naming
    from known
    left join pg_catalog.pg_constraint as constraints
        on
            constraints.contype = 'f'
            and to_regclass(known.table_name) = constraints.conrelid
            and to_regclass(known.target_table) = constraints.confrelid
            and known.column_name = (
                select string_agg(attribute.attname, ', ')
                from pg_catalog.pg_attribute as attribute
                where
                    constraints.conrelid = attribute.attrelid
                    and attribute.attnum = any(constraints.conkey)
            )
    where
        constraints.oid is null
        and exists (
            select 1 from pg_catalog.pg_attribute as attribute
            where
                to_regclass(known.table_name) = attribute.attrelid
                and known.column_name = attribute.attname
        )
        and exists (
            select 1 from pg_catalog.pg_attribute as attribute
            where
                to_regclass(known.target_table) = attribute.attrelid
                and known.target_column = attribute.attname
        )
),

doubtful as (
    select * from declared
    union all
    select * from undeclared
),

questions as (
    select
        *,
        format(
            'from %s as referring%s where %s'
            ' and not exists (select from %s as target where %s)',
            conrelid::regclass,
            naming,
            referring,
            confrelid::regclass,
            matching
        ) as question
    from doubtful
    where
        has_schema_privilege(to_regnamespace('{{ pgsplit.monolith_schema() }}'), 'usage')
        and has_table_privilege(conrelid, 'select')
        and has_table_privilege(confrelid, 'select')
        -- another server is not to be troubled
        and not exists (
            select 1 from pg_catalog.pg_foreign_table as elsewhere
            where elsewhere.ftrelid in (doubtful.conrelid, doubtful.confrelid)
        )
),

counted as (
    select
        questions.*,
        stat.word::bigint as orphans
    from questions
    cross join lateral ts_stat(
        'select array_to_tsvector(array[count(*)::text]) ' || questions.question
    ) as stat
)

select
    'rows that refer to nothing' as hazard,
    conrelid::regclass || ' (' || column_names || ')' as object,
    case when declared_by = 'no key' then 'note' else 'blocks' end as severity,
    format(
        '%s to %s, %s',
        case orphans when 1 then '1 row' else orphans || ' rows' end,
        confrelid::regclass,
        declared_by
    ) as found,
    case
        when declared_by = 'no key'
            then 'They are copied too, and listed in the schema audit as a warning.'
        else 'The test of this reference fails, and with it the build.'
    end as means,
    'select referring.* ' || question || ';' as mend
from counted
where orphans > 0
order by severity, object, found
